//! The client port: HTTP in, operations out (docs/design.md, "HTTP contract").
//!
//! Reading in order: `path`, `query`, `headers`, `conditions` and `body` parse a request once;
//! `kv`, `siblings`, `inspect`, `keys`, `buckets`, `ring`, `anti_entropy`, `hints`, `distrusted`,
//! `health`, `events` (with `rates`), `explain`, `console` and `description` are the routes; `write`
//! is shared by all that write; `represent` and `multipart` render an object, `pieces` streams large
//! responses and `permit_body` keeps them charged; `problem` and `refusal` are all the errors,
//! `counted` says how they are counted. `request_trace` and `unread` wrap every request.
//!
//! Nothing here decides anything about replicas: see `ops::entry`.

mod anti_entropy;
mod body;
mod buckets;
mod conditions;
mod console;
mod counted;
mod description;
mod distrusted;
mod events;
mod explain;
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
mod rates;
mod refusal;
mod represent;
mod request_trace;
mod ring;
mod siblings;
mod unread;
mod write;

use std::convert::Infallible;
use std::sync::Arc;
use std::time::Instant;

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

use self::explain::Arrival;
use self::headers::REQUEST_ID;
use self::problem::{Kind, Problem};
use self::request_trace::RequestTrace;
use self::unread::Unread;
use crate::http::framing::HeadError;
use crate::http::port::App;
use quorate_engine::metrics::requests::Outcome;
use quorate_engine::node::Node;

/// The client API of this node. Cheap to clone.
#[derive(Clone)]
pub(crate) struct Api(Arc<Ways>);

struct Ways {
    node: Arc<Node>,
    router: Router,
}

impl Api {
    /// The client API of `node`.
    pub(crate) fn new(node: Arc<Node>) -> Self {
        Self(Arc::new(Ways { router: router(node.clone()), node }))
    }

    /// Dispatches a request. The router knows all routes; GET, PUT and DELETE of a key, the most frequent
    /// ones, bypass it, because it allocates two dozen times and takes 10 % of the time of a GET
    /// (docs/decisions/0014-keys-pass-the-router-by.md).
    async fn route(&self, request: Request, arrived: Instant) -> Response {
        let Ways { node, router } = &*self.0;
        match *request.method() {
            Method::GET if kv::is_key(request.uri()) => {
                kv::get(State(node.clone()), Arrival(arrived), request).await.into_response()
            }
            Method::PUT if kv::is_key(request.uri()) => {
                kv::put(State(node.clone()), Arrival(arrived), request).await.into_response()
            }
            Method::DELETE if kv::is_key(request.uri()) => {
                let deletion = kv::delete(State(node.clone()), Arrival(arrived), request);
                Box::pin(deletion).await.into_response()
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
        let mut response = self.route(request, begun.arrived()).instrument(begun.span()).await;
        // hyper closes a connection whose body was not read; announce that to the client.
        if unread.is_some_and(|unread| unread.is_so()) || self.0.node.is_draining() {
            response.headers_mut().insert(CONNECTION, HeaderValue::from_static("close"));
        }
        Ok(begun.ended(&self.0.node.metrics, response))
    }

    fn refuse(&self, why: HeadError) -> Vec<u8> {
        let problem = Problem::from(why).header(REQUEST_ID, request_trace::new_id());
        self.0.node.metrics.requests.refused(Outcome::of_status(problem.status().as_u16()));
        problem.into_bytes()
    }
}

fn router(node: Arc<Node>) -> Router {
    let streams = events::Streams::default();
    Router::new()
        .route("/", get(console::page))
        .route("/console", get(console::page))
        .route("/console/{version}/{file}", get(console::file))
        .route("/events", get(async move |State(node), uri| streams.open(node, uri)))
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
        .route("/explain", get(explain::list))
        .route("/explain/{id}", get(explain::show))
        .route("/livez", get(health::livez))
        .route("/readyz", get(health::readyz))
        .route("/metrics", get(health::metrics))
        .route("/openapi.json", get(description::show))
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
         /hints/sync-points/{{id}}, /explain, /explain/{{id}}, /events, /livez, /readyz, /metrics, \
         /openapi.json, /, /console, /console/{{version}}/{{file}}; {} is none of them",
        problem::echo(request.uri().path())
    );
    Problem::new(Kind::NoSuchRoute, detail)
}

/// The router adds the `Allow` header.
async fn method_not_allowed(request: Request) -> Problem {
    let detail =
        format!("{} is not one of the methods in Allow", problem::echo(request.method().as_str()));
    Problem::new(Kind::MethodNotAllowed, detail)
}
