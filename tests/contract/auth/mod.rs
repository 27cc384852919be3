//! Who may do what: tokens and their scopes, on real nodes.

mod audit;
mod backups;
mod cluster;
mod command_line;
mod jwt;

use serde_json::{Value, json};

use crate::common::http::{Answer, Request};
use crate::common::{CLUSTER_ID, Cluster, Node, operator, operator_for, until};

const DESCRIPTION: &str = include_str!("../../../docs/openapi.json");
const ON: &str = "[auth]\nmode = \"on\"\n";
/// What is open to all.
const OPEN: [&str; 6] =
    ["/livez", "/readyz", "/openapi.json", "/", "/console", "/console/{version}/{file}"];

/// Makes a token as the operator does, and returns the answer.
fn made(node: &Node, name: &str, scopes: &Value, more: &Value) -> Value {
    let mut wanted = json!({"name": name, "scopes": scopes});
    wanted.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
    let request = Request::json("POST", "/auth/tokens", &wanted.to_string());
    let answer = node.send(&request.header("Authorization", &operator()));
    assert_eq!(answer.status, 201, "{}", answer.text());
    assert_eq!(answer.header("cache-control"), Some("no-store"));
    answer.json()
}

/// The `Authorization` of a new token.
fn token(node: &Node, scopes: &Value) -> String {
    let made = made(node, "test", scopes, &json!({}));
    format!("Bearer {}", made["token"].as_str().unwrap())
}

fn with(node: &Node, authorization: &str, request: Request) -> Answer {
    node.send(&request.header("Authorization", authorization))
}

fn get(node: &Node, authorization: &str, path: &str) -> Answer {
    with(node, authorization, Request::get(path))
}

/// Each route with an unknown parameter: whoever is let in is told of that, and nothing is done.
fn routes() -> Vec<(String, String, String)> {
    let description: Value = serde_json::from_str(DESCRIPTION).unwrap();
    let mut routes = Vec::new();
    for (path, operations) in description["paths"].as_object().unwrap() {
        for method in operations.as_object().unwrap().keys() {
            let example =
                path.replace("{version}", "0").replace("{file}", "f").replace("{name}", "n");
            let example =
                example.replace("{bucket}", "b").replace("{key}", "k").replace("{id}", "0");
            routes.push((path.clone(), method.to_uppercase(), format!("{example}?zz=1")));
        }
    }
    assert!(routes.len() > 40, "{routes:?}");
    routes
}

#[test]
fn every_route_wants_a_token_that_allows_it() {
    let cluster = Cluster::start_with(1, CLUSTER_ID, ON);
    let node = &cluster.nodes[0];
    let wrong = token(node, &json!([{"actions": ["watch"], "buckets": ["other"]}]));
    let right = token(node, &json!([{"actions": ["admin"]}]));
    for (path, method, example) in routes() {
        let send = |authorization: Option<&str>| {
            let request = Request::new(&method, &example);
            match authorization {
                Some(it) => with(node, it, request),
                None => node.send(&request),
            }
        };
        let named = format!("{method} {path}");
        let statuses = [None, Some(&*wrong), Some(&*right)].map(|it| send(it).status);
        if OPEN.contains(&path.as_str()) {
            assert!(
                statuses.iter().all(|status| ![401, 403].contains(status)),
                "{named} {statuses:?}"
            );
            continue;
        }
        let of_any_token = ["/auth/whoami", "/batch"].contains(&path.as_str());
        let knows = if of_any_token { 400 } else { 403 };
        assert_eq!(statuses, [401, knows, 400], "{named}");
        if method == "HEAD" {
            continue;
        }
        let none = send(None);
        none.assert_problem(401, "unauthenticated");
        assert_eq!(none.header("www-authenticate"), Some("Bearer"), "{named}");
        if knows == 403 {
            let refused = send(Some(&wrong));
            refused.assert_problem(403, "forbidden");
            assert!(refused.json()["action"].is_string(), "{named}");
        }
    }
}

#[test]
fn what_is_sent_as_a_token_is_read_strictly() {
    let cluster = Cluster::start_with(1, CLUSTER_ID, ON);
    let node = &cluster.nodes[0];
    let good = token(node, &json!([{"actions": ["look"]}]));
    assert_eq!(get(node, &good, "/cluster").status, 200);
    assert_eq!(get(node, &good.replace("Bearer", "bearer"), "/cluster").status, 200);
    let (id, secret) = good.strip_prefix("Bearer qk_").unwrap().split_once('.').unwrap();
    let (other_id, other_secret) = ("a".repeat(16), "A".repeat(43));
    for bad in [
        String::new(),
        "Bearer".to_owned(),
        "Bearer ".to_owned(),
        good.replace("Bearer ", ""),
        good.replace("Bearer", "Basic"),
        good.replace("Bearer ", "Bearer x "),
        good[..good.len() - 1].to_owned(),
        format!("{good}a"),
        format!("Bearer qk_{id}.{other_secret}"),
        format!("Bearer qk_{other_id}.{secret}"),
        format!("Bearer qk_{id}.{}", "x".repeat(10_000)),
        format!("Bearer qk_{}.{secret}", id.to_uppercase()),
        "Bearer qo_1.x".to_owned(),
        format!("Bearer qo_99999999999999.{other_secret}"),
        operator_for(CLUSTER_ID, -1_000),
        operator_for(CLUSTER_ID, 400_000),
        operator_for("another", 60_000),
    ] {
        let refused = get(node, &bad, "/cluster");
        let told = refused.assert_problem(401, "unauthenticated");
        assert!(!told.contains(secret), "{told}");
    }
    let two =
        Request::get("/cluster").header("Authorization", &good).header("Authorization", &good);
    let told = node.send(&two).assert_problem(401, "unauthenticated");
    assert!(told.contains("two Authorization headers"), "{told}");
    assert_eq!(get(node, &operator(), "/cluster").status, 200);
}

#[test]
fn a_scope_says_which_keys_and_nothing_tells_what_there_is() {
    let cluster = Cluster::start_with(1, CLUSTER_ID, ON);
    let node = &cluster.nodes[0];
    let put = |path: &str| {
        let stored = with(node, &operator(), Request::put(path, "secret value"));
        assert_eq!(stored.status, 204, "{path}: {}", stored.text());
    };
    ["/kv/carts/alice/1", "/kv/carts/bob/1", "/kv/user-7/alice/x"].into_iter().for_each(put);
    let actions = json!(["read", "write", "list"]);
    let alice = token(
        node,
        &json!([{"actions": actions, "buckets": ["carts", "user-*"], "prefix": "alice/"}]),
    );
    assert_eq!(get(node, &alice, "/kv/carts/alice/1").text(), "secret value");
    assert_eq!(get(node, &alice, "/kv/user-7/alice%2Fx").status, 200);
    assert_eq!(get(node, &alice, "/siblings/carts/alice/1").status, 200);
    let refused = get(node, &alice, "/kv/carts/bob/1");
    refused.assert_problem(403, "forbidden");
    let absent = get(node, &alice, "/kv/carts/bob/none");
    assert_eq!((refused.status, &refused.body), (absent.status, &absent.body));
    for path in
        ["/siblings/carts/bob/1", "/kv/other/alice/1", "/kv/_own/alice/1", "/kv/carts/alice"]
    {
        get(node, &alice, path).assert_problem(403, "forbidden");
    }
    assert_eq!(with(node, &alice, Request::put("/kv/carts/alice/2", "v")).status, 204);
    with(node, &alice, Request::put("/kv/carts/bob/1", "v")).assert_problem(403, "forbidden");
    with(node, &alice, Request::delete("/kv/carts/alice/1")).assert_problem(403, "forbidden");
    // The listing is narrowed, or refused.
    let keys = get(node, &alice, "/keys/carts?prefix=alice/").json();
    assert_eq!(keys["keys"], json!(["alice/1", "alice/2"]));
    for path in
        ["/keys/carts", "/keys/carts?prefix=", "/keys/carts?prefix=bob/", "/keys/carts?prefix=a"]
    {
        get(node, &alice, path).assert_problem(403, "forbidden");
    }
    for path in ["/siblings", "/siblings?bucket=carts", "/explain", "/cluster", "/metrics"] {
        get(node, &alice, path).assert_problem(403, "forbidden");
    }
    // Who may only write does not read by way of a write.
    let writer = token(node, &json!([{"actions": ["write", "delete"], "buckets": ["*"]}]));
    let returned = Request::put("/kv/carts/bob/1?return_body=true", "v");
    with(node, &writer, returned).assert_problem(403, "forbidden");
    assert_eq!(with(node, &writer, Request::put("/kv/carts/bob/1", "v")).status, 204);
    assert_eq!(with(node, &writer, Request::delete("/kv/carts/bob/1")).status, 204);
    with(node, &writer, Request::put("/kv/_own/k", "v")).assert_problem(403, "forbidden");
}

#[test]
fn an_expired_token_and_one_that_is_used_too_often_are_refused() {
    let cluster = Cluster::start_with(1, CLUSTER_ID, ON);
    let node = &cluster.nodes[0];
    let look = json!([{"actions": ["look"]}]);
    let of = |made: Value| format!("Bearer {}", made["token"].as_str().unwrap());
    let short = of(made(node, "short", &look, &json!({"expires_in_ms": 1_500})));
    let slow = of(made(node, "slow", &look, &json!({"rate_per_s": 2})));
    assert_eq!(get(node, &short, "/cluster").status, 200);
    assert_eq!(get(node, &short, "/auth/whoami").json()["who"], "token");
    until("the token expires", || get(node, &short, "/cluster").status == 401);
    let told = get(node, &short, "/cluster").assert_problem(401, "unauthenticated");
    assert!(told.contains("expired"), "{told}");
    let mut refused = None;
    until("the rate is reached", || {
        let answer = get(node, &slow, "/auth/whoami");
        refused = (answer.status != 200).then_some(answer);
        refused.is_some()
    });
    let refused = refused.unwrap();
    refused.assert_problem(429, "rate_limited");
    assert_eq!(refused.header("retry-after"), Some("1"));
    until("it is let in again", || get(node, &slow, "/auth/whoami").status == 200);
    let metrics = get(node, &operator(), "/metrics").text();
    for reason in ["expired", "rate"] {
        let zero = format!("quorate_auth_refused_total{{reason=\"{reason}\"}} 0\n");
        assert!(metrics.contains("quorate_tokens 2\n") && !metrics.contains(&zero), "{metrics}");
    }
}

#[test]
fn what_cannot_be_a_token_is_not_made() {
    let cluster = Cluster::start_with(1, CLUSTER_ID, "[auth]\nmode = \"off\"\n");
    let node = &cluster.nodes[0];
    assert_eq!(node.get("/auth/whoami").json(), json!({"auth": "off", "who": "anyone"}));
    assert_eq!(node.get("/cluster").status, 200, "nothing is checked");
    let post = |body: &str, authorization: &str| {
        let request = Request::json("POST", "/auth/tokens", body);
        node.send(&request.header("Authorization", authorization))
    };
    let good = r#"{"name": "a", "scopes": [{"actions": ["admin:auth", "look"]}]}"#;
    // Else whoever comes before tokens are checked would keep one for later.
    node.send(&Request::json("POST", "/auth/tokens", good)).assert_problem(401, "unauthenticated");
    node.get("/auth/tokens").assert_problem(401, "unauthenticated");
    let told = post(good, &operator()).json();
    let admin = format!("Bearer {}", told["token"].as_str().unwrap());
    for (body, names) in [
        ("", "JSON"),
        ("[]", "an object"),
        (r#"["a", [{"actions": ["look"]}], null, null]"#, "an object"),
        (r#"{"name": "a"}"#, "scopes"),
        (r#"{"name": "", "scopes": [{"actions": ["look"]}]}"#, "name"),
        (r#"{"name": "a\n", "scopes": [{"actions": ["look"]}]}"#, "name"),
        (r#"{"name": "a", "scopes": []}"#, "scopes"),
        (r#"{"name": "a", "scopes": [{"actions": []}]}"#, "actions"),
        (r#"{"name": "a", "scopes": [{"actions": ["reed"]}]}"#, "actions"),
        (r#"{"name": "a", "scopes": [{"actions": ["read"]}]}"#, "buckets"),
        (r#"{"name": "a", "scopes": [{"actions": ["read"], "buckets": ["a b"]}]}"#, "buckets"),
        (r#"{"name": "a", "scopes": [{"actions": ["read"], "buckets": ["_a"]}]}"#, "buckets"),
        (
            r#"{"name": "a", "scopes": [{"actions": ["look"]}], "expires_in_ms": 0}"#,
            "expires_in_ms",
        ),
        (r#"{"name": "a", "scopes": [{"actions": ["look"]}], "rate_per_s": 0}"#, "rate_per_s"),
        (r#"{"name": "a", "scopes": [{"actions": ["look"]}], "secret": "x"}"#, "secret"),
    ] {
        let told = post(body, &operator()).assert_problem(400, "bad_body");
        assert!(told.contains(names) || body.is_empty(), "{body}: {told}");
    }
    let more = r#"{"name": "b", "scopes": [{"actions": ["metrics"]}]}"#;
    post(more, &admin).assert_problem(403, "forbidden");
    let less = post(r#"{"name": "b", "scopes": [{"actions": ["look"]}]}"#, &admin).json();
    assert_eq!(less["created_by"], told["id"]);
    let listed = get(node, &admin, "/auth/tokens");
    let names: Vec<Value> =
        listed.json()["tokens"].as_array().unwrap().iter().map(|it| it["name"].clone()).collect();
    assert_eq!(names.len(), 2);
    assert!(!listed.text().contains("qk_") && !listed.text().contains("hash"), "{}", listed.text());
    let revoke = |id: &str| with(node, &operator(), Request::delete(&format!("/auth/tokens/{id}")));
    assert_eq!(revoke(told["id"].as_str().unwrap()).status, 204);
    assert_eq!(revoke(told["id"].as_str().unwrap()).status, 204, "it stays revoked");
    revoke(&"a".repeat(16)).assert_problem(404, "no_such_token");
    revoke("../x").assert_problem(404, "no_such_route");
    get(node, &admin, "/auth/tokens").assert_problem(401, "unauthenticated");
}

#[test]
fn nobody_needs_a_token_for_what_is_for_all() {
    let read = "{ actions = [\"read\"], buckets = [\"public\"] }";
    let anonymous = format!("anonymous = [{read}, {{ actions = [\"look\"] }}]\n");
    let cluster = Cluster::start_with(1, CLUSTER_ID, &format!("{ON}{anonymous}"));
    let node = &cluster.nodes[0];
    node.get("/kv/public/x").assert_problem(404, "key_not_found");
    assert_eq!(node.get("/cluster").status, 200);
    node.get("/kv/private/x").assert_problem(401, "unauthenticated");
    node.send(&Request::put("/kv/public/x", "v")).assert_problem(401, "unauthenticated");
    let other = token(node, &json!([{"actions": ["metrics"]}]));
    get(node, &other, "/kv/public/x").assert_problem(403, "forbidden");
    get(node, "Bearer x", "/kv/public/x").assert_problem(401, "unauthenticated");
}

#[test]
fn pages_of_other_sites_change_nothing() {
    let cluster = Cluster::start(1);
    let node = &cluster.nodes[0];
    let put = || Request::put("/kv/b/k", "v");
    for (name, value) in [
        ("Origin", "http://evil.example"),
        ("Origin", "null"),
        ("Sec-Fetch-Site", "cross-site"),
        ("Sec-Fetch-Site", "same-site"),
    ] {
        node.send(&put().header(name, value)).assert_problem(403, "cross_site");
        let post = Request::new("POST", "/distrusted/discard").header(name, value);
        node.send(&post).assert_problem(403, "cross_site");
        assert_eq!(node.send(&Request::get("/cluster").header(name, value)).status, 200);
    }
    let own = format!("http://{}", node.client_addr);
    assert_eq!(node.send(&put().header("Origin", &own)).status, 204);
    assert_eq!(node.send(&put().header("Sec-Fetch-Site", "same-origin")).status, 204);
}
