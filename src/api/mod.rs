//! The client port: HTTP in, operations out (design section 6 is the contract).
//!
//! Reading in order: `path`, `query`, `headers`, `conditions` and `body` parse a request once into
//! what it means; `kv`, `siblings`, `inspect`, `keys`, `buckets`, `ring`, `anti_entropy`, `hints`,
//! `distrusted` and `health` are the routes; `write` is what all that write share; `show` and
//! `multipart` are how an object looks to a client, `pieces` makes large answers piece by piece and
//! `held` keeps count of them; `problem` and `refusal` are everything that can go wrong. `observe` and
//! `unread` are what happens around every request.
//!
//! Nothing here decides anything about replicas: see `entry`.

mod anti_entropy;
mod body;
mod buckets;
mod conditions;
mod distrusted;
mod headers;
mod health;
mod hints;
mod inspect;
mod keys;
mod kv;
mod multipart;
mod path;
mod permit_body;
mod pieces;
mod problem;
mod query;
mod refusal;
mod represent;
mod request_trace;
mod ring;
mod siblings;
mod unread;
mod write;

use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::body::Body;
use axum::extract::{Request, State};
use axum::http::header::CONNECTION;
use axum::http::{HeaderValue, Method};
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post, put};
use hyper::body::{Body as _, Incoming};
use tower::ServiceExt;
use tracing::Instrument;

use self::headers::REQUEST_ID;
use self::problem::{Kind, Problem};
use self::request_trace::RequestTrace;
use self::unread::Unread;
use crate::http::framing::HeadError;
use crate::http::port::App;
use crate::metrics::requests::Route;
use crate::node::Node;

/// Everything a client can ask of this node. Cheap to clone.
#[derive(Clone)]
pub(crate) struct Api(Arc<Ways>);

struct Ways {
    node: Arc<Node>,
    router: Router,
}

impl Api {
    /// The client port of `node`.
    pub(crate) fn new(node: Arc<Node>) -> Self {
        Self(Arc::new(Ways { router: router(node.clone()), node }))
    }

    /// Finds who answers a request. The router knows all ways; GET and PUT of a key, which is what a store
    /// is asked most, do not take the one through it: it allocates two dozen times and takes a tenth of the
    /// time of a GET.
    async fn route(&self, request: Request) -> Response {
        let Ways { node, router } = &*self.0;
        match *request.method() {
            Method::GET if kv::is_key(request.uri()) => {
                kv::get(State(node.clone()), request).await.into_response()
            }
            Method::PUT if kv::is_key(request.uri()) => {
                kv::put(State(node.clone()), request).await.into_response()
            }
            _ => match Box::pin(router.clone().oneshot(request)).await {
                Ok(response) => response,
                Err(never) => match never {},
            },
        }
    }
}

impl App for Api {
    async fn answer(self, request: hyper::Request<Incoming>) -> Result<Response, Infallible> {
        let begun = RequestTrace::new(&request);
        let mut unread = None;
        let request = request.map(|body| match body.is_end_stream() {
            true => Body::empty(),
            false => Body::new(unread.insert(Unread::default()).watch(body)),
        });
        let mut response = self.route(request).instrument(begun.span()).await;
        // hyper closes a connection on a body that was not read; the client is told beforehand.
        if unread.is_some_and(|unread| unread.is_so()) || self.0.node.is_draining() {
            response.headers_mut().insert(CONNECTION, HeaderValue::from_static("close"));
        }
        Ok(begun.ended(&self.0.node.metrics, response))
    }

    fn refuse(&self, why: HeadError) -> Vec<u8> {
        let problem = Problem::from(why).header(REQUEST_ID, request_trace::new_id());
        self.0.node.metrics.answered(Route::Other, problem.status(), Duration::ZERO);
        problem.into_bytes()
    }
}

fn router(node: Arc<Node>) -> Router {
    Router::new()
        .route("/kv/{*path}", get(kv::get).put(kv::put).delete(kv::delete))
        .route("/siblings", get(siblings::list))
        .route("/siblings/{*path}", get(inspect::inspect).post(siblings::resolve))
        .route("/buckets", get(buckets::list))
        .route("/buckets/{*path}", put(buckets::put).get(buckets::get).delete(buckets::delete))
        .route("/keys/{*path}", get(keys::list))
        .route("/ring", get(ring::ring))
        .route("/ring/partitions", get(ring::partitions))
        .route("/ring/{*path}", get(ring::key))
        .route("/cluster", get(ring::cluster))
        .route("/anti-entropy", get(anti_entropy::show))
        .route("/anti-entropy/run", post(anti_entropy::run))
        .route("/anti-entropy/scrub", post(anti_entropy::scrub))
        .route("/distrusted", get(distrusted::list))
        .route("/distrusted/accept", post(distrusted::accept))
        .route("/distrusted/discard", post(distrusted::discard))
        .route("/hints", get(hints::list))
        .route("/hints/sync-points", post(hints::make))
        .route("/hints/sync-points/{id}", get(hints::look))
        .route("/livez", get(health::livez))
        .route("/readyz", get(health::readyz))
        .route("/metrics", get(health::metrics))
        .fallback(no_such_route)
        .method_not_allowed_fallback(method_not_allowed)
        .with_state(node)
}

async fn no_such_route(request: Request) -> Problem {
    let detail = format!(
        "the routes are /kv/{{bucket}}/{{key}}, /siblings, /siblings/{{bucket}}/{{key}}, \
         /keys/{{bucket}}, /buckets, /buckets/{{bucket}}, /ring, /ring/partitions, /ring/{{bucket}}/{{key}}, \
         /cluster, /anti-entropy, /anti-entropy/run, /anti-entropy/scrub, /distrusted, /distrusted/accept, \
         /distrusted/discard, /hints, /hints/sync-points, \
         /hints/sync-points/{{id}}, /livez, /readyz, /metrics; {} is none of them",
        problem::echo(request.uri().path())
    );
    Problem::new(Kind::NoSuchRoute, detail)
}

/// The router adds the `Allow` header.
async fn method_not_allowed(request: Request) -> Problem {
    let detail =
        format!("{} is not among those in Allow", problem::echo(request.method().as_str()));
    Problem::new(Kind::MethodNotAllowed, detail)
}
