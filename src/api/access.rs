//! Who makes a request, and what that lets them do: what the gate asks before anything of a request is
//! parsed but its path and its `Authorization`.

use std::net::SocketAddr;
use std::sync::Arc;

use axum::http::header::{
    AUTHORIZATION, CONNECTION, HOST, ORIGIN, RETRY_AFTER, UPGRADE, WWW_AUTHENTICATE,
};
use axum::http::{HeaderMap, HeaderName, HeaderValue, Method, Uri};
use quorate_engine::cluster::token_change;
use quorate_engine::config::{AuthMode, Config};
use quorate_engine::limits::pace::Pace;
use quorate_engine::metrics::auth::Reason;
use quorate_engine::node::Node;
use quorate_protocol::access::{Action, Scope, Target};
use quorate_protocol::token::{Bearer, OperatorKeys};
use tokio::time::Instant;

use super::path;
use super::problem::{Kind, Problem};
use super::query::Params;
use super::request_id::RequestId;
use super::route::{Needs, Of, Route};
use super::who::{Who, forbidden};
use crate::audit::Audit;
use crate::jwt::{Jwt, Rejected};

const SEC_FETCH_SITE: HeaderName = HeaderName::from_static("sec-fetch-site");
/// The most refusals a second of which the audit log tells.
const REFUSALS_PER_S: u32 = 100;

/// What the gate needs to know of a node's configuration.
pub(crate) struct Access {
    is_on: bool,
    allows_plain: bool,
    anonymous: Arc<[Scope]>,
    operators: OperatorKeys,
    /// Verifies tokens of an issuer, if there is one.
    jwt: Option<Arc<Jwt>>,
    /// The audit log, if there is one.
    pub(super) audit: Option<Audit>,
    /// Of refusals in the audit log.
    pub(super) refusals: Pace,
}

/// When a request arrived, from whom, and what it is called.
#[derive(Clone, Debug)]
pub(super) struct Arrival {
    pub(super) at: Instant,
    pub(super) id: RequestId,
    pub(super) connection: Connection,
}

/// The connection of a request.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Connection {
    /// The other end, if the system tells it.
    pub(super) peer: Option<SocketAddr>,
    /// Whether it speaks TLS.
    pub(super) is_secure: bool,
}

impl Connection {
    /// Whether others than the two ends may have heard what it carries.
    fn is_overheard(self) -> bool {
        let is_local = |peer: SocketAddr| peer.ip().to_canonical().is_loopback();
        !self.is_secure && !self.peer.is_some_and(is_local)
    }
}

/// A request that is not let in.
pub(super) struct Refused {
    /// Who made it, as far as that is known.
    pub(super) who: Option<Who>,
    pub(super) problem: Problem,
}

impl Access {
    /// As configured.
    pub(crate) fn new(
        config: &Config,
        secrets: &[[u8; 32]],
        jwt: Option<Arc<Jwt>>,
        audit: Option<Audit>,
    ) -> Self {
        Self {
            is_on: config.auth.mode == AuthMode::On,
            allows_plain: config.auth.allow_plain,
            anonymous: config.auth.anonymous.clone().into(),
            operators: OperatorKeys::new(&config.cluster_id, secrets),
            jwt,
            audit,
            refusals: Pace::new(REFUSALS_PER_S),
        }
    }

    /// Whether tokens are checked.
    pub(super) fn is_on(&self) -> bool {
        self.is_on
    }

    /// Lets a request in, or not: who makes it, and whether they may.
    ///
    /// # Errors
    /// [`Refused`]: 401, 403, 426, 429 or 503.
    pub(super) fn admit(
        &self,
        node: &Node,
        route: &Route,
        (method, connection): (&Method, Connection),
        (uri, headers): (&Uri, &HeaderMap),
    ) -> Result<Who, Box<Refused>> {
        let refuse = |who: Option<Who>, (why, problem): (Reason, Problem)| {
            node.metrics.auth.refused(why);
            Box::new(Refused { who, problem })
        };
        if *method != Method::GET && *method != Method::HEAD && is_cross_site(headers) {
            let detail = "a page of another site made the browser send this request: it changes something, \
                          and is refused";
            let problem = Problem::new(Kind::CrossSite, detail);
            return Err(refuse(None, (Reason::CrossSite, problem)));
        }
        if !self.is_on && !route.needs.is_of_tokens() || route.needs == Needs::Nothing {
            return Ok(Who::Anyone);
        }
        let who =
            self.identify(node, connection, headers).map_err(|refused| refuse(None, refused))?;
        if let Some(pace) = who.pace()
            && let Err(wait_us) = pace.take(uptime_us(node))
        {
            let seconds = wait_us.div_ceil(1_000_000);
            let detail = "the token is used more often than its rate_per_s allows on this node";
            let problem = Problem::new(Kind::RateLimited, detail)
                .header(RETRY_AFTER, HeaderValue::from(seconds));
            return Err(refuse(Some(who), (Reason::Rate, problem)));
        }
        if is_allowed(&who, route, uri) {
            return Ok(who);
        }
        let refused = match (&who, route.needs) {
            (Who::Anonymous(_), _) => unauthenticated(
                Reason::Missing,
                "the request needs a token: Authorization: Bearer qk_…",
            ),
            (_, Needs::Right(action, _)) => (Reason::Forbidden, forbidden(action)),
            (_, Needs::Nothing | Needs::Token) => (Reason::Forbidden, forbidden(Action::Look)),
        };
        Err(refuse(Some(who), refused))
    }

    /// Who sends these headers.
    fn identify(
        &self,
        node: &Node,
        connection: Connection,
        headers: &HeaderMap,
    ) -> Result<Who, (Reason, Problem)> {
        let mut sent = headers.get_all(AUTHORIZATION).iter();
        let malformed = |detail| Err(unauthenticated(Reason::Malformed, detail));
        let Some(text) = sent.next() else { return Ok(Who::Anonymous(self.anonymous.clone())) };
        if connection.is_overheard() && !self.allows_plain {
            return Err((Reason::Plain, overheard())); // whether it is valid is nothing to tell here
        }
        if sent.next().is_some() {
            return malformed("there are two Authorization headers");
        }
        let Some((scheme, text)) = text.to_str().ok().and_then(|text| text.split_once(' ')) else {
            return malformed("Authorization must be: Bearer, a space, and a token");
        };
        if !scheme.eq_ignore_ascii_case("bearer") {
            return malformed("the only scheme of Authorization is Bearer");
        }
        let text = text.trim_matches(' ');
        if let Some(jwt) = self.jwt.as_ref().filter(|_| Jwt::is_one(text)) {
            let subject = jwt.verify(text, node.now());
            return subject.map(Who::Subject).map_err(|why| of_issuer(jwt, why));
        }
        match Bearer::parse(text) {
            None => malformed(
                "what Authorization has is no token: qk_, 16 characters, a dot, 43 characters",
            ),
            Some(Bearer::Operator(token)) => match self.operators.verify(&token, node.now()) {
                Ok(()) => Ok(Who::Operator),
                Err(error) => Err(unauthenticated(Reason::Forged, error.to_string())),
            },
            Some(Bearer::Token { id, secret }) => {
                if !token_change::is_fresh(node) {
                    let detail = "this node has not reached a majority of the nodes for a while \
                                  (auth.stale_ms): the token may have been revoked; ask another node, or \
                                  try again";
                    return Err((Reason::Stale, Problem::new(Kind::AuthStale, detail)));
                }
                let found = node.auth.find(id).filter(|found| found.token.hash.is_of(&secret));
                match found {
                    None => {
                        let detail = "there is no such token, or it was revoked";
                        Err(unauthenticated(Reason::Unknown, detail))
                    }
                    Some(found) if found.token.is_expired(node.now()) => {
                        Err(unauthenticated(Reason::Expired, "the token has expired"))
                    }
                    Some(found) => Ok(Who::Token(found)),
                }
            }
        }
    }
}

/// Microseconds since the start of the node.
pub(super) fn uptime_us(node: &Node) -> u64 {
    let up = Instant::now().saturating_duration_since(node.instant(Default::default()));
    u64::try_from(up.as_micros()).unwrap_or(u64::MAX)
}

fn unauthenticated(why: Reason, detail: impl Into<String>) -> (Reason, Problem) {
    let problem = Problem::new(Kind::Unauthenticated, detail)
        .header(WWW_AUTHENTICATE, HeaderValue::from_static("Bearer"));
    (why, problem)
}

/// Why a token of the issuer is not accepted.
fn of_issuer(jwt: &Jwt, why: Rejected) -> (Reason, Problem) {
    if why == Rejected::NoKeysYet {
        return (Reason::Stale, Problem::new(Kind::AuthStale, why.to_string()));
    }
    let reason = if why == Rejected::Expired { Reason::Expired } else { Reason::Jwt };
    unauthenticated(reason, format!("{why}; tokens here are those of {}", jwt.issuer()))
}

/// 426 for a token that others may have read on its way.
fn overheard() -> Problem {
    let detail = "the token came in clear text from another machine: regard it as leaked, revoke it, and \
                  send the new one over https:// (auth.allow_plain takes it where something else encrypts)";
    Problem::new(Kind::TlsRequired, detail)
        .header(UPGRADE, HeaderValue::from_static("TLS/1.3"))
        .header(CONNECTION, HeaderValue::from_static("Upgrade"))
}

/// Whether somebody may do what a route does to what the path names. A path or a query that cannot be read
/// is left to the handler, which says so to those who may do this at all.
fn is_allowed(who: &Who, route: &Route, uri: &Uri) -> bool {
    let Needs::Right(action, of) = route.needs else {
        return !matches!((who, route.needs), (Who::Anonymous(_), Needs::Token));
    };
    let rest = uri.path().strip_prefix(route.prefix).unwrap_or_default();
    let at_all = || who.scopes().is_none_or(|scopes| scopes.iter().any(|it| it.names(action)));
    let params = || Params::parse(uri.query(), route.parameters).ok();
    match of {
        Of::Cluster => who.may(action, Target::Cluster),
        Of::EveryBucket => who.may(action, Target::EveryBucket),
        Of::Bucket => match path::place(rest) {
            Some((bucket, _)) => who.may(action, Target::bucket(&bucket)),
            None => at_all(),
        },
        Of::Key => match path::place(rest) {
            Some((bucket, key)) => who.may(action, Target::Keys { bucket: &bucket, start: &key }),
            None => at_all(),
        },
        Of::Listing => match path::place(rest) {
            Some((bucket, _)) if who.may(action, Target::bucket(&bucket)) => true,
            Some((bucket, _)) => params().map_or_else(at_all, |params| {
                let start = params.prefix.as_deref().unwrap_or_default().as_bytes();
                who.may(action, Target::Keys { bucket: &bucket, start })
            }),
            None => at_all(),
        },
        Of::BucketAsked if who.may(action, Target::EveryBucket) => true,
        Of::BucketAsked => params().map_or_else(at_all, |params| {
            params.bucket.is_some_and(|bucket| who.may(action, Target::bucket(bucket.as_str())))
        }),
    }
}

/// Whether a page of another site made a browser send a request. Browsers say so by `Sec-Fetch-Site`, older
/// ones by an `Origin` that is not the host that they ask; other clients send neither.
fn is_cross_site(headers: &HeaderMap) -> bool {
    if let Some(site) = headers.get(&SEC_FETCH_SITE) {
        return !matches!(site.as_bytes(), b"same-origin" | b"none");
    }
    let Some(origin) = headers.get(ORIGIN) else { return false };
    let host = |origin: &HeaderValue| {
        let (_, host) = origin.to_str().ok()?.split_once("://")?;
        Some(host.to_ascii_lowercase())
    };
    let asked = headers.get(HOST).and_then(|host| host.to_str().ok());
    asked.map(str::to_ascii_lowercase) != host(origin)
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests;
