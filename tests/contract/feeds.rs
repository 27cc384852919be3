//! The feed of a bucket's changes.

use std::collections::BTreeMap;
use std::thread;
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::common::http::{Answer, Raw, Request};
use crate::common::{Cluster, until};

const SOON: Duration = Duration::from_secs(5);

fn feed_on(cluster: &Cluster, bucket: &str) {
    let set = Request::json("PUT", &format!("/buckets/{bucket}"), r#"{"feed_retention_s": 3600}"#);
    let answer = cluster.nodes[0].send(&set);
    assert_eq!((answer.status, &answer.json()["feed_retention_s"]), (200, &json!(3600)));
}

fn put(cluster: &Cluster, at: usize, path: &str, value: &str) {
    assert_eq!(cluster.nodes[at].send(&Request::put(path, value)).status, 204);
}

fn cursor_of(answer: &Answer) -> String {
    answer.json()["cursor"].as_str().unwrap().to_owned()
}

/// Follows a feed through one node after another until a complete page has nothing; returns the last change
/// of each key, and the cursor.
fn follow(cluster: &Cluster, path: &str, mut cursor: String) -> (BTreeMap<String, Value>, String) {
    let mut changes = BTreeMap::new();
    for at in (0..cluster.nodes.len()).cycle().take(100) {
        let mark = if path.contains('?') { '&' } else { '?' };
        let answer = cluster.nodes[at].get(&format!("{path}{mark}cursor={cursor}"));
        assert_eq!(answer.status, 200, "{}", answer.text());
        cursor = cursor_of(&answer);
        let page = answer.json();
        let news = page["changes"].as_array().unwrap();
        for change in news {
            changes.insert(change["key"].as_str().unwrap().to_owned(), change.clone());
        }
        if news.is_empty() && page["complete"] == true {
            return (changes, cursor);
        }
    }
    panic!("the feed has no end");
}

#[test]
fn a_subscriber_gets_what_changes_and_goes_on_at_any_node() {
    let cluster = Cluster::start(4);
    put(&cluster, 0, "/kv/b/before", "the feed");
    cluster.nodes[1].get("/feed/b").assert_problem(409, "no_feed");
    feed_on(&cluster, "b");
    until("all nodes to have it", || {
        cluster.nodes.iter().all(|node| node.get("/feed/b?cursor=now").json()["complete"] == true)
    });
    let now = cursor_of(&cluster.nodes[0].get("/feed/b?cursor=now"));
    for i in 0..20 {
        put(&cluster, i % 4, &format!("/kv/b/k{i}"), &format!("v{i}"));
        put(&cluster, i % 4, &format!("/kv/other/k{i}"), "not this one");
    }
    assert_eq!(cluster.nodes[1].send(&Request::delete("/kv/b/k3")).status, 204);
    let typed = Request::put("/kv/b/k4?w=3", "{}").header("Content-Type", "application/json");
    assert_eq!(cluster.nodes[2].send(&typed.header("Quorate-Meta-By", "me")).status, 204);
    let (changes, cursor) = follow(&cluster, "/feed/b?limit=7", now);
    assert_eq!(changes.len(), 20, "{changes:?}");
    assert_eq!((&changes["k7"]["status"], &changes["k7"]["value"]), (&json!(200), &json!("v7")));
    assert_eq!((&changes["k3"]["status"], &changes["k3"]["deleted"]), (&json!(404), &json!(true)));
    assert!(changes["k3"]["context"].is_string());
    let both = &changes["k4"]; // written twice, without having been read
    assert_eq!((&both["status"], &both["siblings_count"]), (&json!(300), &json!(2)), "{both}");
    // What was written before the feed began is not in it.
    let (all, _) = follow(&cluster, "/feed/b", "oldest".to_owned());
    assert_eq!(all.len(), 20);
    // Nothing new; then one change, with the context that the feed gave.
    let (none, cursor) = follow(&cluster, "/feed/b", cursor);
    assert!(none.is_empty(), "{none:?}");
    let seen = both["context"].as_str().unwrap();
    let resolved = Request::put("/kv/b/k4", "one").context(seen);
    assert_eq!(cluster.nodes[3].send(&resolved).status, 204);
    let (one, _) = follow(&cluster, "/feed/b", cursor);
    assert_eq!((one.len(), &one["k4"]["value"]), (1, &json!("one")));
    // A prefix has cursors of its own.
    let (some, cursor) = follow(&cluster, "/feed/b?prefix=k1", "oldest".to_owned());
    assert_eq!(some.len(), 11);
    let other = format!("/feed/b?prefix=k2&cursor={cursor}");
    cluster.nodes[0].get(&other).assert_problem(400, "bad_parameter");
}

#[test]
fn a_waiting_request_is_answered_by_a_change_and_a_stream_has_it_too() {
    let cluster = Cluster::start(3);
    feed_on(&cluster, "b");
    let node = &cluster.nodes[2];
    let now = cursor_of(&node.get("/feed/b?cursor=now"));
    let begun = Instant::now();
    let wait = format!("/feed/b?cursor={now}&wait_ms=30000");
    let answer = thread::scope(|scope| {
        let waiting = scope.spawn(|| node.get(&wait));
        put(&cluster, 0, "/kv/b/k", "v");
        waiting.join().unwrap()
    });
    assert!(begun.elapsed() < SOON);
    assert_eq!(answer.json()["changes"][0]["value"], "v");
    // Nothing comes: the cursor is as good as before.
    let (_, cursor) = follow(&cluster, "/feed/b", cursor_of(&answer));
    let begun = Instant::now();
    let nothing = node.get(&format!("/feed/b?cursor={cursor}&wait_ms=300"));
    assert!(begun.elapsed() >= Duration::from_millis(300));
    assert_eq!((nothing.status, &nothing.json()["changes"]), (200, &json!([])));

    let mut stream = Raw::connect(node.client_addr);
    let head = format!(
        "GET /feed/b?cursor=now HTTP/1.1\r\nHost: q\r\nAccept: text/event-stream\r\n\
         Last-Event-ID: {cursor}\r\n\r\n"
    );
    stream.send(head.as_bytes());
    put(&cluster, 1, "/kv/b/l", "streamed");
    let text = stream.read_until("retry: 2000\n\n");
    assert!(text.contains("text/event-stream"), "{text}");
    // It may be told that there is no value yet: one replica had it before the write was acknowledged.
    let text = stream.read_until(r#""value":"streamed"}"#);
    assert!(text.contains(r#"event: change"#) && text.contains(r#""key":"l""#), "{text}");
    let page = stream.read_until("data: {\"complete\":");
    let id = page.lines().find_map(|line| line.strip_prefix("id: ")).unwrap();
    let (rest, _) = follow(&cluster, "/feed/b", id.to_owned());
    assert!(rest.is_empty(), "{rest:?}");
}

#[test]
fn a_node_that_is_down_takes_nothing_with_it() {
    let mut cluster = Cluster::start(3);
    feed_on(&cluster, "b");
    let cursor = cursor_of(&cluster.nodes[0].get("/feed/b?cursor=now"));
    for i in 0..10 {
        put(&cluster, i % 3, &format!("/kv/b/k{i}?w=2"), "v");
    }
    cluster.nodes[2].kill();
    let node = &cluster.nodes[0];
    let page = node.get(&format!("/feed/b?cursor={cursor}&limit=1000")).json();
    assert_eq!((&page["complete"], page["changes"].as_array().unwrap().len()), (&json!(true), 10));
    let alone = page["cursor"].as_str().unwrap().to_owned();
    cluster.nodes[1].kill();
    let page = cluster.nodes[0].get(&format!("/feed/b?cursor={alone}")).json();
    assert_eq!(page["complete"], false, "one of three says nothing of the others");
    for node in &mut cluster.nodes[1..] {
        node.start();
    }
    cluster.wait_until_ready();
    put(&cluster, 2, "/kv/b/later", "v");
    let (changes, _) = follow(&cluster, "/feed/b", alone);
    assert!(changes.contains_key("later"), "{changes:?}");
    let (all, _) = follow(&cluster, "/feed/b", cursor);
    assert_eq!(all.len(), 11, "the logs survive");
}

#[test]
fn typed_and_large_values_are_shown_as_they_are_read() {
    let cluster = Cluster::start(3);
    let set = Request::json("PUT", "/buckets/c", r#"{"type": "counter", "feed_retention_s": 60}"#);
    assert_eq!(cluster.nodes[0].send(&set).status, 200);
    feed_on(&cluster, "b");
    let add = Request::json("POST", "/types/c/n?w=3", r#"{"increment": 5}"#);
    assert_eq!(cluster.nodes[1].send(&add).status, 204);
    let (changes, _) = follow(&cluster, "/feed/c", "oldest".to_owned());
    let counter = &changes["n"];
    assert_eq!((&counter["type"], &counter["value"]), (&json!("counter"), &json!(5)), "{counter}");
    let large = "x".repeat(100_000);
    put(&cluster, 0, "/kv/b/large?w=3", &large);
    let octets = Request::put("/kv/b/octets?w=3", vec![0xff, 0]);
    assert_eq!(cluster.nodes[0].send(&octets).status, 204);
    let (changes, _) = follow(&cluster, "/feed/b", "oldest".to_owned());
    let large = &changes["large"];
    assert_eq!((&large["bytes"], &large["value"]), (&json!(100_000), &Value::Null), "{large}");
    let octets = &changes["octets"];
    assert_eq!((&octets["encoding"], &octets["value"]), (&json!("base64"), &json!("/wA=")));
}

#[test]
fn what_is_wrong_with_a_request_is_named() {
    let cluster = Cluster::start(3);
    feed_on(&cluster, "b");
    feed_on(&cluster, "c");
    let node = &cluster.nodes[0];
    let cursor = cursor_of(&node.get("/feed/b?cursor=now"));
    let other = if cursor.as_bytes()[30] == b'A' { "B" } else { "A" };
    let changed = format!("{}{other}{}", &cursor[..30], &cursor[31..]);
    for bad in [
        "cursor=x",
        "cursor=",
        "limit=0",
        "limit=1001",
        "wait_ms=0",
        "wait_ms=60001",
        "r=1",
        &format!("cursor={changed}"),
        &format!("cursor={}", "A".repeat(5_000)),
    ] {
        node.get(&format!("/feed/b?{bad}")).assert_problem(400, "bad_parameter");
    }
    node.get(&format!("/feed/c?cursor={cursor}")).assert_problem(400, "bad_parameter");
    node.get("/feed/b%2Fc").assert_problem(400, "bad_path");
    let waits = Request::get("/feed/b?wait_ms=9").header("Accept", "text/event-stream");
    node.send(&waits).assert_problem(400, "bad_parameter");
    for bad in ["59", "2592001", "\"1h\"", "-1"] {
        let set = Request::json("PUT", "/buckets/d", &format!(r#"{{"feed_retention_s": {bad}}}"#));
        node.send(&set).assert_problem(400, "bad_body");
    }
    // Without a feed, and with a new one, an earlier cursor is worth nothing.
    assert_eq!(node.send(&Request::delete("/buckets/b")).status, 204);
    node.get(&format!("/feed/b?cursor={cursor}")).assert_problem(409, "no_feed");
    put(&cluster, 1, "/kv/b/missed", "v");
    feed_on(&cluster, "b");
    let mut detail = String::new();
    until("all nodes to have it", || {
        let answer = node.get(&format!("/feed/b?cursor={cursor}"));
        detail = answer.text();
        answer.status == 410
    });
    let problem: Value = serde_json::from_str(&detail).unwrap();
    assert_eq!(problem["type"], "urn:quorate:problem:cursor_expired");
    assert_eq!(problem["resync"], "/keys/b");
    let renewed = problem["cursor"].as_str().unwrap();
    put(&cluster, 1, "/kv/b/heard", "v");
    let (changes, _) = follow(&cluster, "/feed/b", renewed.to_owned());
    assert_eq!(changes.keys().collect::<Vec<_>>(), ["heard"]);
}
