//! What a route is: [`Route`]. The table of all of them is `super::routes`.

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;

use axum::extract::Request;
use axum::response::Response;
use axum::routing::MethodFilter;
use quorate_engine::metrics::requests::Operation;
use quorate_engine::node::Node;
use tokio::time::Instant;

use super::gate::{Gate, Ready, Time};
use super::problem::Problem;

/// What a request is about: what somebody has to be allowed to make it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Action {
    /// Reading keys and values.
    Read,
    /// Writing values.
    Write,
    /// Changing how the cluster keeps data, or having it do work.
    Administer,
    /// Looking at the state of the cluster.
    Look,
    /// What a load balancer or a browser fetches before anything else: whether the node works, and
    /// what says nothing of this cluster.
    Probe,
}

/// How a handler is called: with the gate that the request has reached.
pub(super) type Handler = fn(Gate, Request) -> Pin<Box<dyn Future<Output = Answer> + Send>>;
/// What a handler answers.
pub(super) type Answer = Result<Response, Problem>;

/// One method of one path.
#[derive(Debug)]
pub(super) struct Route {
    /// Its method; that of GET takes HEAD too.
    pub(super) filter: MethodFilter,
    /// The path as documented: the last of `{bucket}` and `{key}` stands for all that follows.
    pub(super) path: &'static str,
    /// The path up to its first variable part.
    pub(super) prefix: &'static str,
    /// What it is about.
    pub(super) action: Action,
    /// What the node must be ready for.
    pub(super) ready: Ready,
    /// How long a request may take.
    pub(super) time: Time,
    /// What it is counted as.
    pub(super) counted: Operation,
    /// The query parameters that it accepts.
    pub(super) parameters: &'static [&'static str],
    /// Answers its requests.
    pub(super) handler: Handler,
    /// Its method and its summary, as in `docs/openapi.json`.
    #[cfg(test)]
    pub(super) described: (&'static str, &'static str),
}

/// A path up to its first variable part.
pub(super) const fn fixed_part(path: &'static str) -> &'static str {
    let bytes = path.as_bytes();
    let mut at = 0;
    while at < bytes.len() && bytes[at] != b'{' {
        at += 1;
    }
    path.split_at(at).0
}

impl Route {
    /// The pattern of the router. A key may be anything, and a bucket is checked by its handler, which
    /// names what is wrong with it: both are left to `super::path`.
    pub(super) fn pattern(&self) -> String {
        match self.path.contains("{bucket}") {
            true => format!("{}{{*rest}}", self.prefix),
            false => self.path.to_owned(),
        }
    }

    /// Answers a request that has reached this route.
    pub(super) async fn answer(&'static self, node: Arc<Node>, request: Request) -> Answer {
        (self.handler)(Gate::reach(node, self, Instant::now()), request).await
    }
}

#[cfg(test)]
mod tests {
    use super::fixed_part;

    #[test]
    fn the_fixed_part_ends_where_a_variable_begins() {
        assert_eq!(fixed_part("/kv/{bucket}/{key}"), "/kv/");
        assert_eq!(fixed_part("/cluster"), "/cluster");
    }
}
