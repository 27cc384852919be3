//! Values that expire.

use std::time::SystemTime;

use serde_json::{Value, json};

use crate::common::http::{Answer, Request};
use crate::common::{Cluster, Node, until};

/// What has expired is removed soon, and its tombstone reaped.
const SOON: &str =
    "[deletes]\ngrace_ms = 3000\nreap_ms = 200\nexpire_ms = 100\nexpired_age_ms = 300\n";

fn put(path: &str, value: &str, expires_in: &str) -> Request {
    Request::put(path, value).header("Quorate-Expires-In", expires_in)
}

fn is_over(answer: &Answer) -> bool {
    answer.status == 404 && answer.header("quorate-expired") == Some("true")
}

fn expired_total(cluster: &Cluster) -> u64 {
    let of = |node: &Node| {
        let text = node.get("/metrics").text();
        let line = text.lines().find_map(|line| line.strip_prefix("quorate_expired_total "));
        line.unwrap().parse::<u64>().unwrap()
    };
    cluster.nodes.iter().map(of).sum()
}

#[test]
fn a_value_expires_on_every_node_and_leaves_nothing_behind() {
    let cluster = Cluster::start_with(3, "expires", SOON);
    let [a, b, c] = &cluster.nodes[..] else { panic!("three nodes") };
    let before = SystemTime::now();
    let written = a.send(&put("/kv/b/k?w=3", "v", "1"));
    assert_eq!((written.status, written.header("quorate-siblings")), (204, Some("1")));
    let read = b.get("/kv/b/k");
    let end = humantime::parse_rfc3339(read.header("quorate-expires-at").unwrap()).unwrap();
    let lifetime = end.duration_since(before).unwrap().as_millis();
    assert!((999..9_000).contains(&lifetime), "{lifetime}");
    let same = c.get("/kv/b/k?r=3");
    assert_eq!(same.header("quorate-expires-at"), read.header("quorate-expires-at"));
    for node in [a, b, c] {
        until("the value to expire", || is_over(&node.get("/kv/b/k")));
    }
    let over = c.get("/kv/b/k");
    over.assert_problem(404, "key_deleted");
    let batch = json!({"operations": [{"op": "get", "bucket": "b", "key": "k"}]}).to_string();
    let told = a.send(&Request::json("POST", "/batch", &batch)).json()["results"][0].clone();
    assert_eq!((&told["status"], &told["expired"]), (&json!(404), &json!(true)), "{told}");
    let now = SystemTime::now();
    assert!(now >= end, "too early by {:?}", end.duration_since(now));
    let tagged = Request::put("/kv/b/k", "x").header("If-Match", read.header("etag").unwrap());
    b.send(&tagged).assert_problem(412, "condition_failed");
    assert_eq!(a.get("/keys/b").json()["keys"], json!([]));
    until("it to be removed", || {
        let siblings = b.get("/siblings/b/k").json()["siblings"].clone();
        siblings[0]["deleted"] == true || siblings == json!([])
    });
    until("its tombstone to be reaped", || {
        a.get("/kv/b/k").json()["type"] == "urn:quorate:problem:key_not_found"
    });
    assert_eq!(expired_total(&cluster), 1);
    assert_eq!(a.send(&put("/kv/b/k", "again", "never")).status, 204);
    assert_eq!(c.get("/kv/b/k?r=3").text(), "again");
}

#[test]
fn what_was_written_beside_it_stays() {
    let cluster = Cluster::start_with(3, "beside", SOON);
    let [a, b, c] = &cluster.nodes[..] else { panic!("three nodes") };
    assert_eq!(a.send(&put("/kv/b/k?w=3", "goes", "2")).status, 204);
    assert_eq!(b.send(&Request::put("/kv/b/k?w=3", "stays")).status, 204);
    let both = c.get("/kv/b/k");
    assert_eq!(both.status, 300, "{}", both.text());
    let siblings = both.json()["siblings"].clone();
    let ends = siblings.as_array().unwrap().iter().filter(|s| s["expires_at"].is_string());
    assert_eq!(ends.clone().count(), 1, "{siblings}");
    assert_eq!(ends.clone().next().unwrap()["value"], "goes");
    until("one to be left", || c.get("/kv/b/k?r=3").text() == "stays");
    let left = c.get("/kv/b/k?r=3");
    assert_eq!((left.status, left.header("quorate-expires-at")), (200, None));
    until("the other one to be removed", || {
        expired_total(&cluster) == 1 && a.get("/siblings").json()["keys"] == json!([])
    });
    assert_eq!((b.get("/kv/b/k?r=3").status, b.get("/kv/b/k?r=3").text()), (200, "stays".into()));
    let inspected = b.get("/siblings/b/k").json();
    assert_eq!(inspected["conflict"], false, "{inspected}");
    let seen = b.get("/kv/b/k");
    let next = a.send(&Request::put("/kv/b/k", "next").context(seen.context()));
    assert_eq!((next.status, next.header("quorate-siblings")), (204, Some("1")));
    assert_eq!(c.get("/siblings/b/k").json()["siblings"].as_array().unwrap().len(), 1);
}

#[test]
fn a_bucket_says_how_long_its_values_live() {
    let cluster = Cluster::start_with(3, "buckets", SOON);
    let [a, b, c] = &cluster.nodes[..] else { panic!("three nodes") };
    let set = |wanted: &str| a.send(&Request::json("PUT", "/buckets/sessions", wanted));
    let answer = set(r#"{"expires_in_s": 1}"#);
    assert_eq!((answer.status, &answer.json()["expires_in_s"]), (200, &json!(1)));
    assert_eq!(b.send(&Request::put("/kv/sessions/short", "v")).status, 204);
    assert_eq!(b.send(&put("/kv/sessions/kept", "v", "never")).status, 204);
    assert_eq!(b.send(&put("/kv/sessions/longer", "v", "3600")).status, 204);
    until("the short one to expire", || is_over(&c.get("/kv/sessions/short")));
    assert_eq!(c.get("/kv/sessions/kept").header("quorate-expires-at"), None);
    assert!(c.get("/kv/sessions/longer").header("quorate-expires-at").is_some());
    let listed = c.get("/keys/sessions").json()["keys"].clone();
    assert_eq!(listed, json!(["kept", "longer"]), "{listed}");
    assert_eq!(c.get("/buckets").json()["buckets"][0]["set"], json!({"expires_in_s": 1}));
    let back = a.get("/buckets/other").json();
    assert_eq!(back["expires_in_s"], Value::Null);
    for bad in ["0", "3162240001", "1.5", "\"1h\"", "-1"] {
        set(&format!("{{\"expires_in_s\": {bad}}}")).assert_problem(400, "bad_body");
    }
    set(r#"{"type": "counter", "expires_in_s": 1}"#).assert_problem(400, "bad_body");
    let typed = a.send(&Request::json("PUT", "/buckets/typed", r#"{"type": "counter"}"#));
    assert_eq!(typed.status, 200);
    let limited = Request::json("PUT", "/buckets/typed", r#"{"expires_in_s": 1}"#);
    b.send(&limited).assert_problem(400, "bad_body");
    assert_eq!(set(r#"{"expires_in_s": null}"#).status, 200);
    assert_eq!(a.get("/buckets").json()["buckets"].as_array().unwrap().len(), 1, "only typed");
}

#[test]
fn a_lifetime_that_is_none_is_refused_where_it_is_said() {
    let cluster = Cluster::start(1);
    let node = &cluster.nodes[0];
    for bad in ["", "0", "-1", "1.5", "1h", "Never", "3162240001", "99999999999999999999"] {
        let detail = node.send(&put("/kv/b/k", "v", bad)).assert_problem(400, "bad_header");
        assert!(detail.contains("Quorate-Expires-In"), "{bad}: {detail}");
    }
    let twice = put("/kv/b/k", "v", "1").header("Quorate-Expires-In", "1");
    node.send(&twice).assert_problem(400, "bad_header");
    let delete = Request::delete("/kv/b/k").header("Quorate-Expires-In", "1");
    node.send(&delete).assert_problem(400, "bad_header");
    let typed = Request::json("PUT", "/buckets/c", r#"{"type": "counter"}"#);
    assert_eq!(node.send(&typed).status, 200);
    let change = Request::json("POST", "/types/c/k", r#"{"increment": 1}"#);
    let change = change.header("Quorate-Expires-In", "1");
    node.send(&change).assert_problem(400, "bad_header");
    node.get("/kv/b/k").assert_problem(404, "key_not_found");
    // Another lifetime is another request.
    let once = |expires_in| put("/kv/b/k", "v", expires_in).header("Idempotency-Key", "i1");
    assert_eq!(node.send(&once("60")).status, 204);
    assert_eq!(node.send(&once("60")).status, 204);
    node.send(&once("61")).assert_problem(422, "idempotency_key_reused");
}

/// The node that takes the request is no home replica: the lifetime goes with the write.
#[test]
fn a_lifetime_goes_with_a_forwarded_write_and_with_a_batch() {
    let mut cluster = Cluster::start(4);
    let list = cluster.preference_list("b", "k");
    let entry = cluster.node(&list[3]);
    let written = entry.send(&put("/kv/b/k?w=3", "v", "3600").header("If-None-Match", "*"));
    assert_eq!(written.status, 204, "{}", written.text());
    assert!(entry.get("/kv/b/k").header("quorate-expires-at").is_some());
    let batch = json!({"operations": [
        {"op": "put", "bucket": "b", "key": "one", "value": "1", "expires_in": 3600},
        {"op": "put", "bucket": "b", "key": "two", "value": "2", "expires_in": "never"},
        {"op": "put", "bucket": "b", "key": "bad", "value": "3", "expires_in": "soon"},
        {"op": "get", "bucket": "b", "key": "k"},
    ]});
    let answer = entry.send(&Request::json("POST", "/batch", &batch.to_string())).json();
    let statuses: Vec<_> =
        answer["results"].as_array().unwrap().iter().map(|r| &r["status"]).collect();
    assert_eq!(statuses, [204, 204, 400, 200], "{answer}");
    assert!(answer["results"][3]["expires_at"].is_string(), "{answer}");
    assert!(entry.get("/kv/b/one").header("quorate-expires-at").is_some());
    assert!(entry.get("/kv/b/two").header("quorate-expires-at").is_none());
}

#[test]
fn a_sibling_that_is_kept_keeps_its_end() {
    let cluster = Cluster::start(3);
    let [a, b, c] = &cluster.nodes[..] else { panic!("three nodes") };
    assert_eq!(a.send(&put("/kv/b/k?w=3", "ends", "3600")).status, 204);
    assert_eq!(b.send(&Request::put("/kv/b/k?w=3", "stays")).status, 204);
    let both = c.get("/kv/b/k");
    let siblings = both.json()["siblings"].clone();
    let ends = siblings.as_array().unwrap().iter().find(|s| s["value"] == "ends").unwrap().clone();
    let keep = json!({"keep": ends["dot"]}).to_string();
    let kept = c.send(&Request::json("POST", "/siblings/b/k?w=3", &keep).context(both.context()));
    assert_eq!(kept.status, 204, "{}", kept.text());
    let read = a.get("/kv/b/k?r=3");
    let time = |text: &str| humantime::parse_rfc3339(text).unwrap();
    let was = time(ends["expires_at"].as_str().unwrap());
    let is = time(read.header("quorate-expires-at").unwrap());
    assert!(is >= was && is.duration_since(was).unwrap().as_millis() <= 1_000, "{was:?} {is:?}");
}
