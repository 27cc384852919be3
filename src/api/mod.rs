//! The client port: HTTP in, operations out (docs/design.md, "HTTP contract").
//!
//! Reading in order: `routes` is the table of all routes (`route` is one) and `gate` what every request
//! passes, `access` who may (`who` they are), `audited` who did; `path`, `query`, `headers`, `conditions`
//! `index_entries` and `body` parse a request once; `kv`, `siblings`, `inspect`, `keys`, `index` (with
//! `cursor`), `auth`, `buckets`, `ring`,
//! `layout`, `anti_entropy`, `jobs`, `hints`, `distrusted`, `backups`, `health`, `events` (with `rates`),
//! `explain`, `console` and `description` answer; `write` is shared by all that write; `represent` and
//! `multipart` render an object, `pieces` streams large responses and `permit_body` keeps them charged;
//! `problem` and `refusal` are all the errors, `counted` says how they are counted. `request_trace` and
//! `unread` wrap every request.
//!
//! Nothing here decides anything about replicas: see `ops::entry`.

mod access;
mod anti_entropy;
mod audited;
mod auth;
mod backups;
mod batch;
mod body;
mod buckets;
mod conditions;
mod console;
mod counted;
mod cursor;
mod description;
mod distrusted;
mod events;
mod explain;
mod feed;
#[cfg(any(test, fuzzing))]
pub(crate) mod fuzzed;
mod gate;
mod headers;
mod health;
mod hints;
#[cfg(test)]
mod hostile;
mod index;
mod index_entries;
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
mod request_id;
mod request_trace;
mod ring;
mod route;
mod routes;
mod siblings;
mod types;
mod unread;
mod wait;
mod who;
mod write;

use std::convert::Infallible;
use std::net::SocketAddr;
use std::sync::Arc;

use axum::Router;
use axum::body::Body;
use axum::extract::Request;
use axum::http::header::CONNECTION;
use axum::http::{HeaderValue, Method};
use axum::response::{IntoResponse, Response};
use hyper::body::{Body as _, Incoming};
use tower::ServiceExt;
use tracing::Instrument;

pub(crate) use self::access::Access;
use self::access::{Arrival, Connection};
use self::headers::{EPOCH, REQUEST_ID};
use self::problem::Problem;
use self::request_id::RequestId;
use self::request_trace::RequestTrace;
use self::route::{Route, Shared};
use self::unread::Unread;
use crate::http::framing::HeadError;
use crate::http::port::App;
use quorate_engine::metrics::requests::Outcome;
use quorate_engine::node::Node;

/// The client API of this node. Cheap to clone.
#[derive(Clone)]
pub(crate) struct Api {
    ways: Arc<Ways>,
    connection: Connection,
}

struct Ways {
    shared: Shared,
    router: Router,
}

impl Api {
    /// The client API of `node`.
    pub(crate) fn new(node: Arc<Node>, access: Arc<Access>) -> Self {
        let shared = Shared { node, access };
        let ways = Ways { router: routes::router(shared.clone()), shared };
        Self { ways: Arc::new(ways), connection: Connection::default() }
    }

    fn node(&self) -> &Arc<Node> {
        &self.ways.shared.node
    }

    /// The epoch in force, as a header.
    fn epoch(&self) -> HeaderValue {
        self.node().epoch().number.into()
    }

    /// Dispatches a request; says also on which route, if there is one. The router knows all routes;
    /// GET, PUT and DELETE of a key, the most frequent ones, bypass it, because it allocates two dozen
    /// times and takes 10 % of the time of a GET (docs/decisions/0014-keys-pass-the-router-by.md).
    async fn route(
        &self,
        mut request: Request,
        arrival: Arrival,
    ) -> (Response, Option<&'static Route>) {
        let Ways { shared, router } = &*self.ways;
        if let Some(removed) = routes::turned_away(&shared.node, request.uri()) {
            return (removed.before_it_began(request.method()).into_response(), None);
        }
        let is_key = routes::is_key(request.uri());
        let (answer, route) = match *request.method() {
            Method::GET if is_key => {
                let route = &routes::GET_KEY;
                (route.answer(shared, &arrival, request, kv::get).await, route)
            }
            Method::PUT if is_key => {
                let route = &routes::PUT_KEY;
                (route.answer(shared, &arrival, request, kv::put).await, route)
            }
            Method::DELETE if is_key => {
                let route = &routes::DELETE_KEY;
                (Box::pin(route.answer(shared, &arrival, request, kv::delete)).await, route)
            }
            _ => {
                request.extensions_mut().insert(arrival);
                match Box::pin(router.clone().oneshot(request)).await {
                    Ok(response) => {
                        let route = response.extensions().get().copied();
                        return (response, route);
                    }
                    Err(never) => match never {},
                }
            }
        };
        (answer, Some(route))
    }

    /// A head that is rejected, as a problem, and counted.
    fn problem_of(&self, why: HeadError) -> Problem {
        let problem = Problem::from(why)
            .header(REQUEST_ID, RequestId::new().header())
            .header(EPOCH, self.epoch());
        self.node().metrics.requests.refused(Outcome::of_status(problem.status().as_u16()));
        problem
    }
}

impl App for Api {
    fn on_connection_from(self, peer: Option<SocketAddr>) -> Self {
        Self { connection: Connection { peer, ..self.connection }, ..self }
    }

    fn on_secure_connection(self) -> Self {
        Self { connection: Connection { is_secure: true, ..self.connection }, ..self }
    }

    async fn answer(self, request: hyper::Request<Incoming>) -> Result<Response, Infallible> {
        let begun = RequestTrace::new(&request);
        let mut unread = None;
        let request = request.map(|body| match body.is_end_stream() {
            true => Body::empty(),
            false => Body::new(unread.insert(Unread::default()).watch(body)),
        });
        let (mut response, route) =
            self.route(request, begun.arrival(self.connection)).instrument(begun.span()).await;
        // hyper closes a connection whose body was not read; announce that to the client.
        if unread.is_some_and(|unread| unread.is_so()) || self.node().is_draining() {
            response.headers_mut().insert(CONNECTION, HeaderValue::from_static("close"));
        }
        // As of the answer: the operation may have begun again in a later epoch than it arrived in.
        response.headers_mut().insert(EPOCH, self.epoch());
        Ok(begun.ended(&self.node().metrics, route, response))
    }

    fn refusal(&self, why: HeadError) -> Response {
        self.problem_of(why).into_response()
    }

    fn refuse(&self, why: HeadError) -> Vec<u8> {
        self.problem_of(why).into_bytes()
    }
}
