//! What a route is: [`Route`]. The table of all of them is `super::routes`.

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;

use axum::extract::Request;
use axum::http::{Method, Uri};
use axum::response::{IntoResponse, Response};
use axum::routing::MethodFilter;
use quorate_engine::metrics::requests::Operation;
use quorate_engine::node::Node;
use quorate_protocol::access::Action;

use super::access::{Access, Arrival};
use super::gate::{Gate, Ready, Time};
use super::problem::Problem;
use super::who::Who;

/// What somebody needs to make a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Needs {
    /// Nothing: what a load balancer or a browser fetches before anything else, whether the node works and
    /// what says nothing of this cluster.
    Nothing,
    /// A token, whatever it allows.
    Token,
    /// To be allowed an action.
    Right(Action, Of),
}

/// What a request does its action to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Of {
    /// No bucket.
    Cluster,
    /// The keys of every bucket: it shows some of them.
    EveryBucket,
    /// The bucket in the path, as a whole.
    Bucket,
    /// The key in the path.
    Key,
    /// The keys of the bucket in the path that begin with the parameter `prefix`.
    Listing,
    /// The bucket that the parameter `bucket` names; every bucket without it.
    BucketAsked,
}

impl Needs {
    /// Whether it is about tokens themselves: only who may make them is asked for one while tokens are not
    /// checked. Else whoever reaches a node then would keep a token for later.
    pub(super) fn is_of_tokens(self) -> bool {
        matches!(self, Self::Right(Action::AdminAuth, _))
    }

    /// What is done, if that takes a right.
    pub(super) fn action(self) -> Option<Action> {
        match self {
            Self::Nothing | Self::Token => None,
            Self::Right(action, _) => Some(action),
        }
    }
}

/// What every request finds: the node, and who may do what there.
#[derive(Clone)]
pub(super) struct Shared {
    pub(super) node: Arc<Node>,
    pub(super) access: Arc<Access>,
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
    /// What somebody needs to make a request.
    pub(super) needs: Needs,
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

/// A request that was answered, for the audit log (`super::audited`).
pub(super) struct Asked<'a> {
    pub(super) route: &'static Route,
    pub(super) method: Method,
    pub(super) uri: Uri,
    /// Who made it, as far as that is known.
    pub(super) who: Option<Who>,
    pub(super) arrival: &'a Arrival,
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

    /// Answers a request that has reached this route, if it may be made. Nothing else calls a handler.
    pub(super) async fn answer<F: Future<Output = Answer>>(
        &'static self,
        shared: &Shared,
        arrival: &Arrival,
        request: Request,
        handler: impl FnOnce(Gate, Request) -> F,
    ) -> Response {
        let Shared { node, access } = shared;
        let audited = access.audit.as_ref();
        let audited = audited.map(|audit| (audit, request.method().clone(), request.uri().clone()));
        let (who, answer) = match Gate::reach(shared, self, arrival, &request) {
            Ok(gate) => {
                let who = audited.is_some().then(|| gate.who.clone());
                (who, handler(gate, request).await)
            }
            Err(refused) => (refused.who, Err(refused.problem.before_it_began(request.method()))),
        };
        let problem = answer.as_ref().err().map(Problem::name);
        let response = answer.into_response();
        if let Some((audit, method, uri)) = audited {
            let ended = (response.status(), problem.unwrap_or("ok"));
            let asked = Asked { route: self, method, uri, who, arrival };
            access.tell(audit, node, &asked, ended);
        }
        response
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
