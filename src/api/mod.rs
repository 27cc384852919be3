//! The client port: HTTP in, operations out (docs/design.md, "HTTP contract").
//!
//! Reading in order: `routes` is the table of all routes (`route` is one) and `gate` what every request
//! passes; `path`, `query`, `headers`, `conditions` and `body` parse a request once; `kv`, `siblings`,
//! `inspect`, `keys`, `buckets`, `ring`, `layout`, `anti_entropy`, `jobs`, `hints`, `distrusted`, `backups`,
//! `health`, `events` (with `rates`), `explain`, `console` and `description` answer; `write` is shared by all
//! that write; `represent` and `multipart` render an object, `pieces` streams large responses and
//! `permit_body` keeps them charged; `problem` and `refusal` are all the errors, `counted` says how
//! they are counted. `request_trace` and `unread` wrap every request.
//!
//! Nothing here decides anything about replicas: see `ops::entry`.

mod anti_entropy;
mod backups;
mod body;
mod buckets;
mod conditions;
mod console;
mod counted;
mod description;
mod distrusted;
mod events;
mod explain;
mod gate;
mod headers;
mod health;
mod hints;
mod inspect;
mod jobs;
mod keys;
mod kv;
mod layout;
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
mod route;
mod routes;
mod siblings;
mod unread;
mod write;

use std::convert::Infallible;
use std::sync::Arc;

use axum::Router;
use axum::body::Body;
use axum::extract::Request;
use axum::http::header::CONNECTION;
use axum::http::{HeaderValue, Method};
use axum::response::{IntoResponse, Response};
use hyper::body::{Body as _, Incoming};
use tokio::time::Instant;
use tower::ServiceExt;
use tracing::Instrument;

use self::gate::Gate;
use self::headers::{EPOCH, REQUEST_ID};
use self::problem::Problem;
use self::request_trace::RequestTrace;
use self::route::Route;
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
        Self(Arc::new(Ways { router: routes::router(node.clone()), node }))
    }

    /// The epoch in force, as a header.
    fn epoch(&self) -> HeaderValue {
        self.0.node.epoch().number.into()
    }

    /// Dispatches a request; says also on which route, if there is one. The router knows all routes;
    /// GET, PUT and DELETE of a key, the most frequent ones, bypass it, because it allocates two dozen
    /// times and takes 10 % of the time of a GET (docs/decisions/0014-keys-pass-the-router-by.md).
    async fn route(
        &self,
        request: Request,
        arrived: Instant,
    ) -> (Response, Option<&'static Route>) {
        let Ways { node, router } = &*self.0;
        if let Some(removed) = routes::turned_away(node, request.uri()) {
            return (removed.into_response(), None);
        }
        let reach = |route| Gate::reach(node.clone(), route, arrived);
        let (answer, route) = match *request.method() {
            Method::GET if routes::is_key(request.uri()) => {
                let route = &routes::GET_KEY;
                (kv::get(reach(route), request).await, route)
            }
            Method::PUT if routes::is_key(request.uri()) => {
                let route = &routes::PUT_KEY;
                (kv::put(reach(route), request).await, route)
            }
            Method::DELETE if routes::is_key(request.uri()) => {
                let route = &routes::DELETE_KEY;
                (Box::pin(kv::delete(reach(route), request)).await, route)
            }
            _ => match Box::pin(router.clone().oneshot(request)).await {
                Ok(response) => {
                    let route = response.extensions().get().copied();
                    return (response, route);
                }
                Err(never) => match never {},
            },
        };
        (answer.into_response(), Some(route))
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
        let (mut response, route) =
            self.route(request, begun.arrived()).instrument(begun.span()).await;
        // hyper closes a connection whose body was not read; announce that to the client.
        if unread.is_some_and(|unread| unread.is_so()) || self.0.node.is_draining() {
            response.headers_mut().insert(CONNECTION, HeaderValue::from_static("close"));
        }
        // As of the answer: the operation may have begun again in a later epoch than it arrived in.
        response.headers_mut().insert(EPOCH, self.epoch());
        Ok(begun.ended(&self.0.node.metrics, route, response))
    }

    fn refuse(&self, why: HeadError) -> Vec<u8> {
        let problem = Problem::from(why)
            .header(REQUEST_ID, request_trace::new_id())
            .header(EPOCH, self.epoch());
        self.0.node.metrics.requests.refused(Outcome::of_status(problem.status().as_u16()));
        problem.into_bytes()
    }
}
