//! The gate: what every request passes before anything is done for it, in one order.
//!
//! 1. It reaches its route, if whoever makes it may do that ([`Gate::reach`]): else 401 or 403.
//! 2. Its handler parses it: what is wrong with the request itself is a 400, whatever the node's state.
//! 3. The node must be ready for the route (503), then the request must fit what the node knows, such as
//!    the properties of its bucket (400), and it must find room among the operations in flight (503):
//!    [`Gate::enter`].
//! 4. Its time begins ([`Pass::begin`]), for a write once its body is here.
//!
//! What each route asks for is in the table (`super::routes`).

use std::sync::Arc;
use std::time::Duration;

use axum::body::{Body, Bytes};
use axum::extract::Request;
use axum::http::request::Parts;
use axum::http::{HeaderMap, Uri};
use quorate_engine::limits::admission::Permit;
use quorate_engine::node::Node;
use quorate_protocol::access::Action;
use quorate_protocol::context::Context;
use quorate_protocol::name::{Bucket, Key};
use tokio::time::Instant;

use super::access::{Arrival, Refused};
use super::problem::Problem;
use super::query::Params;
use super::route::{Route, Shared};
use super::who::Who;
use super::{body, conditions, headers, path};

/// What a node must be ready for to answer on a route.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Ready {
    /// Nothing: an operator needs the answer exactly then.
    Always,
    /// Reads, which a node with a failed store still serves.
    Reads,
    /// Requests of all kinds.
    Requests,
}

/// How long an operation may take if its request does not say (`timeout_ms`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Time {
    /// `timeouts.request_ms`.
    OfRequest,
    /// `timeouts.request_ms_max`.
    Longest,
    /// No time: it answers with what it finds.
    AtOnce,
}

/// A request that has reached its route.
pub(super) struct Gate {
    /// This node.
    pub(super) node: Arc<Node>,
    route: &'static Route,
    /// When the request arrived.
    pub(super) arrived: Instant,
    /// Who makes it.
    pub(super) who: Who,
    /// Whether tokens are checked.
    pub(super) checks_tokens: bool,
}

impl Gate {
    /// A request has reached a route: whoever may not do what the route does (`Route::needs`) is turned
    /// away here, before anything of the request is parsed but its path and who makes it.
    ///
    /// # Errors
    /// 401, 403, 426, 429 or 503.
    pub(super) fn reach(
        shared: &Shared,
        route: &'static Route,
        arrival: &Arrival,
        request: &Request,
    ) -> Result<Self, Box<Refused>> {
        let Shared { node, access } = shared;
        let head = (request.uri(), request.headers());
        let who = access.admit(node, route, (request.method(), arrival.connection), head)?;
        let (node, checks_tokens) = (node.clone(), access.is_on());
        Ok(Self { node, route, arrived: arrival.at, who, checks_tokens })
    }

    /// The gate to another route within the same request; `None` if that needs anything else.
    pub(super) fn within(&self, route: &'static Route) -> Option<Self> {
        let Self { node, who, arrived, checks_tokens, .. } = self;
        let (node, who) = (node.clone(), who.clone());
        (route.needs == self.route.needs).then_some(Self {
            node,
            route,
            arrived: *arrived,
            who,
            checks_tokens: *checks_tokens,
        })
    }

    /// What a request does to a key beside what its route does.
    ///
    /// # Errors
    /// 403.
    pub(super) fn also(&self, action: Action, key: &Key) -> Result<(), Problem> {
        self.who.must(action, key.bucket(), key.key().as_bytes())
    }

    /// The query parameters.
    ///
    /// # Errors
    /// 400 `bad_parameter` that names the first that the route does not accept.
    pub(super) fn params(&self, uri: &Uri) -> Result<Params, Problem> {
        Params::parse(uri.query(), self.route.parameters)
    }

    /// What follows the fixed part of the route's path, as sent.
    pub(super) fn rest<'a>(&self, uri: &'a Uri) -> &'a str {
        uri.path().strip_prefix(self.route.prefix).unwrap_or_default()
    }

    /// The key in the path.
    ///
    /// # Errors
    /// 400 `bad_path` with the reason.
    pub(super) fn key(&self, uri: &Uri) -> Result<Key, Problem> {
        path::key(self.rest(uri))
    }

    /// What a client has seen of a key: its context, as sent and as verified.
    ///
    /// # Errors
    /// 400 if it is no context of this key.
    pub(super) fn seen<'a>(
        &self,
        headers: &'a HeaderMap,
        key: &Key,
    ) -> Result<Option<(&'a str, Context)>, Problem> {
        let Some(text) = headers::context(headers)? else { return Ok(None) };
        Ok(Some((text, self.node.contexts.verify(key, text)?)))
    }

    /// The bucket in the path.
    ///
    /// # Errors
    /// 400 `bad_path` with the reason.
    pub(super) fn bucket(&self, uri: &Uri) -> Result<Bucket, Problem> {
        path::bucket(self.rest(uri))
    }

    /// How long the operation may take, in milliseconds.
    ///
    /// # Errors
    /// 400 if the request asks for more than `timeouts.request_ms_max`.
    pub(super) fn timeout_ms(&self, params: &Params) -> Result<u64, Problem> {
        let timeouts = &self.node.config.timeouts;
        let default = match self.route.time {
            Time::OfRequest => timeouts.request_ms,
            Time::Longest => timeouts.request_ms_max,
            Time::AtOnce => 0,
        };
        params.timeout_ms(default, timeouts.request_ms_max)
    }

    /// Whether the node is ready for the route.
    ///
    /// # Errors
    /// 503 with the reason.
    pub(super) fn ready(&self) -> Result<(), Problem> {
        match self.route.ready {
            Ready::Always => Ok(()),
            Ready::Reads => Ok(self.node.accepts_reads()?),
            Ready::Requests => Ok(self.node.accepts_requests()?),
        }
    }

    /// Lets a request in whose body is a JSON document of at most so many bytes, and reads that.
    ///
    /// # Errors
    /// 400 for parameters and conditions that the route does not take, 415 for another type, those of
    /// [`Gate::enter`], and those of [`body::read`].
    pub(super) async fn document(
        &self,
        parts: &Parts,
        body: &mut Body,
        bytes_max: usize,
    ) -> Result<(Bytes, Pass), Problem> {
        let params = self.params(&parts.uri)?;
        body::check_json_type(parts)?;
        conditions::refuse_all(&parts.headers)?;
        let mut pass = self.enter(&params)?;
        let body_ms = self.node.config.timeouts.body_ms;
        let text = body::read(body, bytes_max, body_ms, &mut pass.permit).await?;
        Ok((text, pass))
    }

    /// Lets a parsed request in as one of the operations in flight.
    ///
    /// # Errors
    /// 503 if the node is not ready for it or has no room, 400 if it asks for too much time.
    pub(super) fn enter(&self, params: &Params) -> Result<Pass, Problem> {
        Ok(self.enter_if(params, |_| Ok(()))?.1)
    }

    /// The same for a request that must also fit what this node knows; returns what the check found.
    ///
    /// # Errors
    /// Those of [`Gate::enter`] and of the check.
    pub(super) fn enter_if<T>(
        &self,
        params: &Params,
        check: impl FnOnce(&Node) -> Result<T, Problem>,
    ) -> Result<(T, Pass), Problem> {
        self.ready()?;
        let found = check(&self.node)?;
        let timeout_ms = self.timeout_ms(params)?;
        Ok((found, Pass { permit: self.node.admission.operation()?, timeout_ms }))
    }
}

/// An operation in flight: the room that it has, and its time.
pub(super) struct Pass {
    /// Its place among the operations in flight, and the bytes that it holds.
    pub(super) permit: Permit,
    /// How long it may take from [`Pass::begin`] on, in milliseconds.
    pub(super) timeout_ms: u64,
}

impl Pass {
    /// How long it may take from [`Pass::begin`] on.
    pub(super) fn timeout(&self) -> Duration {
        Duration::from_millis(self.timeout_ms)
    }

    /// When it must be over if it begins now.
    pub(super) fn deadline(&self) -> Instant {
        Instant::now() + self.timeout()
    }

    /// It begins, and goes on until its time is over even if its client is gone: so long its place
    /// stays taken, unless it ends before.
    pub(super) fn begin(&mut self) {
        self.permit.started(self.timeout());
    }

    /// It is over; the bytes that it holds stay charged.
    pub(super) fn end(&mut self) {
        self.permit.finished();
    }

    /// Another operation that this one needs, with the same time.
    ///
    /// # Errors
    /// 503 if there is no room for it.
    pub(super) fn another(&self, node: &Node) -> Result<Self, Problem> {
        Ok(Self { permit: node.admission.operation()?, timeout_ms: self.timeout_ms })
    }
}
