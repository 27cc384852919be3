//! Which requests are let in, as far as that shows without a cluster.

use quorate_engine::config::AuthConfig;
use quorate_protocol::access;
use quorate_protocol::time::WallTime;
use tempfile::TempDir;

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
    assert!(!may(&whole, conflicts, "/siblings") && !may(&whole, conflicts, "/siblings?bucket=b"));
    assert!(may(&somebody(r#"[{"actions": ["list"], "buckets": ["*"]}]"#), conflicts, "/siblings"));
}

/// Every route, for nobody, for somebody with one right that is not the one, and with the right one.
#[test]
fn every_route_asks_for_its_right() {
    let nobody = somebody("[]");
    for route in TABLE {
        let path = route.path.replace("{bucket}", "b").replace("{key}", "k").replace("{id}", "i");
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

/// A node in this process that checks tokens, and who may do what on it.
fn checking(dir: &TempDir, allow_plain: bool) -> (Arc<Node>, Access) {
    let auth = AuthConfig { mode: AuthMode::On, allow_plain, ..AuthConfig::default() };
    let config = Config { auth, ..crate::tls::tests::config(dir.path()) };
    let access = Access::new(&config, &[[7; 32]], None, None);
    (crate::host::start(config, &crate::otlp::Traces::default()).unwrap(), access)
}

/// Lets a request of this connection in, or says with which status and in which words not.
fn asked(
    node: &Node,
    access: &Access,
    from: Connection,
    token: &str,
) -> Result<Who, (u16, String)> {
    let headers = [(AUTHORIZATION, HeaderValue::from_str(&format!("Bearer {token}")).unwrap())];
    let (uri, headers) = ("/cluster".parse().unwrap(), headers.into_iter().collect());
    let admitted = access.admit(node, &routes::CLUSTER, (&Method::GET, from), (&uri, &headers));
    admitted
        .map_err(|refused| (refused.problem.status().as_u16(), refused.problem.detail().to_owned()))
}

#[tokio::test]
async fn a_token_that_others_may_have_read_is_not_taken() {
    let dir = TempDir::new().unwrap();
    let (node, access) = checking(&dir, false);
    let until = WallTime(node.now().0 + 60_000);
    let good = OperatorKeys::new("test", &[[7; 32]]).token(until).unwrap();
    let from = |peer: &str, is_secure| Connection { peer: peer.parse().ok(), is_secure };
    for local in ["127.0.0.1:5", "127.9.9.9:5", "[::1]:5", "[::ffff:127.0.0.1]:5"] {
        assert!(asked(&node, &access, from(local, false), &good).is_ok(), "{local}");
    }
    for (peer, token) in [
        ("192.0.2.7:5", &*good),
        ("[2001:db8::1]:5", &good),
        ("unknown", &good),
        ("10.0.0.1:5", "x"),
    ] {
        let (status, detail) = asked(&node, &access, from(peer, false), token).unwrap_err();
        assert!(status == 426 && detail.contains("leaked"), "{peer}: {status} {detail}");
    }
    assert!(asked(&node, &access, from("192.0.2.7:5", true), &good).is_ok());
    // A request without a token has none to lose.
    let (uri, none) = ("/cluster".parse().unwrap(), HeaderMap::new());
    let far = (&Method::GET, from("192.0.2.7:5", false));
    let refused = access.admit(&node, &routes::CLUSTER, far, (&uri, &none)).err().unwrap();
    assert_eq!(refused.problem.status().as_u16(), 401);
    let other = TempDir::new().unwrap();
    let (node, access) = checking(&other, true);
    assert!(asked(&node, &access, from("192.0.2.7:5", false), &good).is_ok());
}
