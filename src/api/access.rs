//! Who makes a request, and what that lets them do: what the gate asks before anything of a request is
//! parsed but its path and its `Authorization`.

use std::net::SocketAddr;
use std::sync::Arc;

use axum::http::header::{AUTHORIZATION, HOST, ORIGIN, RETRY_AFTER, WWW_AUTHENTICATE};
use axum::http::{HeaderMap, HeaderName, HeaderValue, Method, Uri};
use quorate_engine::cluster::token_change;
use quorate_engine::cluster::tokens::InUse;
use quorate_engine::config::{AuthMode, Config};
use quorate_engine::limits::pace::Pace;
use quorate_engine::metrics::auth::Reason;
use quorate_engine::node::Node;
use quorate_protocol::access::{self, Action, Scope, Target};
use quorate_protocol::token::{Bearer, OperatorKeys};
use tokio::time::Instant;

use super::path;
use super::problem::{Kind, Problem};
use super::query::Params;
use super::route::{Needs, Of, Route};
use crate::audit::Audit;

const SEC_FETCH_SITE: HeaderName = HeaderName::from_static("sec-fetch-site");
/// The most refusals a second of which the audit log tells.
const REFUSALS_PER_S: u32 = 100;

/// What the gate needs to know of a node's configuration.
pub(crate) struct Access {
    is_on: bool,
    anonymous: Arc<[Scope]>,
    operators: OperatorKeys,
    /// The audit log, if there is one.
    pub(super) audit: Option<Audit>,
    /// Of refusals in the audit log.
    pub(super) refusals: Pace,
}

/// When a request arrived, from whom, and what it is called.
#[derive(Clone, Debug)]
pub(super) struct Arrival {
    pub(super) at: Instant,
    pub(super) id: HeaderValue,
    /// The other end of the connection, if the system tells it.
    pub(super) peer: Option<SocketAddr>,
}

/// Who makes a request.
#[derive(Clone, Debug)]
pub(super) enum Who {
    /// Anyone: nothing is checked.
    Anyone,
    /// Somebody without a token, who may do this.
    Anonymous(Arc<[Scope]>),
    /// Whoever has a token.
    Token(Arc<InUse>),
    /// Whoever has the cluster's key.
    Operator,
}

/// A request that is not let in.
pub(super) struct Refused {
    /// Who made it, as far as that is known.
    pub(super) who: Option<Who>,
    pub(super) problem: Problem,
}

impl Access {
    /// As configured.
    pub(crate) fn new(config: &Config, secrets: &[[u8; 32]], audit: Option<Audit>) -> Self {
        Self {
            is_on: config.auth.mode == AuthMode::On,
            anonymous: config.auth.anonymous.clone().into(),
            operators: OperatorKeys::new(&config.cluster_id, secrets),
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
    /// [`Refused`]: 401, 403, 429 or 503.
    pub(super) fn admit(
        &self,
        node: &Node,
        route: &Route,
        method: &Method,
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
        let who = self.identify(node, headers).map_err(|refused| refuse(None, refused))?;
        if let Who::Token(token) = &who
            && let Some(pace) = &token.pace
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
    fn identify(&self, node: &Node, headers: &HeaderMap) -> Result<Who, (Reason, Problem)> {
        let mut sent = headers.get_all(AUTHORIZATION).iter();
        let malformed = |detail| Err(unauthenticated(Reason::Malformed, detail));
        let Some(text) = sent.next() else { return Ok(Who::Anonymous(self.anonymous.clone())) };
        if sent.next().is_some() {
            return malformed("there are two Authorization headers");
        }
        let Some((scheme, text)) = text.to_str().ok().and_then(|text| text.split_once(' ')) else {
            return malformed("Authorization must be: Bearer, a space, and a token");
        };
        if !scheme.eq_ignore_ascii_case("bearer") {
            return malformed("the only scheme of Authorization is Bearer");
        }
        match Bearer::parse(text.trim_matches(' ')) {
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

/// 403, which says nothing of what there is.
fn forbidden(action: Action) -> Problem {
    let detail = format!("no scope of the token allows {} there", action.name());
    Problem::new(Kind::Forbidden, detail).fact("action", action.name())
}

impl Who {
    /// Whether they may do something.
    fn may(&self, action: Action, target: Target<'_>) -> bool {
        match self {
            Self::Anyone | Self::Operator => true,
            Self::Anonymous(scopes) => access::allow(scopes, action, target),
            Self::Token(found) => access::allow(&found.token.scopes, action, target),
        }
    }

    /// What they may do; `None` for everything.
    pub(super) fn scopes(&self) -> Option<&[Scope]> {
        match self {
            Self::Anyone | Self::Operator => None,
            Self::Anonymous(scopes) => Some(scopes),
            Self::Token(found) => Some(&found.token.scopes),
        }
    }

    /// What else a request does to a key, that follows from its parameters.
    ///
    /// # Errors
    /// 403.
    pub(super) fn must(&self, action: Action, bucket: &str, key: &[u8]) -> Result<(), Problem> {
        match self.may(action, Target::Keys { bucket, start: key }) {
            true => Ok(()),
            false => Err(forbidden(action)),
        }
    }

    /// Whether they would still be let in, some time after they were.
    pub(super) fn is_still_known(&self, node: &Node) -> bool {
        match self {
            Self::Anyone | Self::Anonymous(_) | Self::Operator => true,
            Self::Token(found) => {
                token_change::is_fresh(node)
                    && node.auth.find(found.id).is_some()
                    && !found.token.is_expired(node.now())
            }
        }
    }

    /// In one word.
    pub(super) fn name(&self) -> &'static str {
        match self {
            Self::Anyone => "anyone",
            Self::Anonymous(_) => "anonymous",
            Self::Token(_) => "token",
            Self::Operator => "operator",
        }
    }
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
mod tests {
    use super::super::routes::{self, TABLE};
    use super::*;

    fn somebody(scopes: &str) -> Who {
        let scopes: Vec<Scope> = serde_json::from_str(scopes).unwrap();
        access::check(&scopes).unwrap();
        Who::Anonymous(scopes.into())
    }

    fn may(who: &Who, route: &Route, uri: &str) -> bool {
        is_allowed(who, route, &uri.parse().unwrap())
    }

    #[test]
    fn the_path_says_which_key_and_bucket_it_is_about() {
        let who = somebody(
            r#"[{"actions": ["read", "list"], "buckets": ["carts"], "prefix": "alice/"},
                {"actions": ["admin:buckets"], "buckets": ["user-*"]}]"#,
        );
        let key = &routes::GET_KEY;
        assert!(may(&who, key, "/kv/carts/alice/1") && may(&who, key, "/kv/%63arts/%61lice%2F1"));
        for no in [
            "/kv/carts/bob/1",
            "/kv/carts/alice",
            "/kv/cart/alice/1",
            "/kv/carts/%2Falice/1",
            "/kv/carts//alice/1",
            "/kv/carts%2Falice/1",
        ] {
            assert!(!may(&who, key, no), "{no}");
        }
        assert!(may(&who, key, "/kv/carts/%zz"), "the handler says what is wrong");
        assert!(!may(&who, &routes::PUT_KEY, "/kv/carts/alice/1"));
        assert!(may(&who, &routes::PUT_BUCKET, "/buckets/user-7"));
        assert!(!may(&who, &routes::PUT_BUCKET, "/buckets/carts"));
        assert!(!may(&who, &routes::CLUSTER, "/cluster"));
    }

    #[test]
    fn a_listing_stays_within_the_prefix() {
        let who = somebody(r#"[{"actions": ["list"], "buckets": ["carts"], "prefix": "alice/"}]"#);
        let keys = &routes::KEYS;
        assert!(may(&who, keys, "/keys/carts?prefix=alice/"));
        assert!(may(&who, keys, "/keys/carts?limit=5&prefix=alice%2F2"));
        for no in [
            "/keys/carts",
            "/keys/carts?limit=5",
            "/keys/carts?prefix=",
            "/keys/carts?prefix=alice",
            "/keys/carts?prefix=bob/",
            "/keys/other?prefix=alice/",
        ] {
            assert!(!may(&who, keys, no), "{no}");
        }
        // Both are refused by the handler, by the same parser.
        assert!(may(&who, keys, "/keys/carts?prefix=alice/&prefix=bob/"));
        assert!(may(&who, keys, "/keys/carts?Prefix=alice/"));
        let conflicts = &routes::CONFLICTS;
        assert!(!may(&who, conflicts, "/siblings?bucket=carts"), "it cannot be narrowed");
        let whole = somebody(r#"[{"actions": ["list"], "buckets": ["carts"]}]"#);
        assert!(may(&whole, conflicts, "/siblings?bucket=carts"));
        assert!(
            !may(&whole, conflicts, "/siblings") && !may(&whole, conflicts, "/siblings?bucket=b")
        );
        assert!(may(
            &somebody(r#"[{"actions": ["list"], "buckets": ["*"]}]"#),
            conflicts,
            "/siblings"
        ));
    }

    /// Every route, for nobody, for somebody with one right that is not the one, and with the right one.
    #[test]
    fn every_route_asks_for_its_right() {
        let nobody = somebody("[]");
        for route in TABLE {
            let path =
                route.path.replace("{bucket}", "b").replace("{key}", "k").replace("{id}", "i");
            let path = path.replace("{version}", "v").replace("{file}", "f").replace("{name}", "n");
            let is_open = route.needs == Needs::Nothing;
            assert_eq!(may(&nobody, route, &path), is_open, "{path}");
            let Needs::Right(action, _) = route.needs else { continue };
            for other in Action::ALL {
                let buckets = if *other == Action::Admin { "" } else { r#", "buckets": ["*"]"# };
                let scope = format!(r#"[{{"actions": ["{}"]{buckets}}}]"#, other.name());
                let fits = *other == action || *other == Action::Admin;
                assert_eq!(may(&somebody(&scope), route, &path), fits, "{} {path}", other.name());
            }
        }
    }

    #[test]
    fn a_browser_says_whose_page_sends_a_request() {
        let is = |pairs: &[(&'static str, &str)]| {
            let pair = |(name, value): &(&'static str, &str)| {
                (HeaderName::from_static(name), HeaderValue::from_str(value).unwrap())
            };
            is_cross_site(&pairs.iter().map(pair).collect())
        };
        let host = ("host", "n1:7401");
        assert!(!is(&[host]) && !is(&[host, ("origin", "http://N1:7401")]));
        assert!(!is(&[host, ("sec-fetch-site", "same-origin"), ("origin", "https://proxy")]));
        assert!(!is(&[host, ("sec-fetch-site", "none")]));
        for other in ["http://evil", "http://n1", "http://n1:7402", "null", "", "n1:7401"] {
            assert!(is(&[host, ("origin", other)]), "{other}");
        }
        assert!(is(&[host, ("sec-fetch-site", "cross-site")]));
        assert!(is(&[host, ("sec-fetch-site", "same-site"), ("origin", "http://n1:7401")]));
    }
}
