//! Hints by target, and sync points: whether all hints of a moment have been delivered.

use serde_json::{Value, json};

use crate::common::http::{Answer, Request};
use crate::common::{CLUSTER_ID, Cluster, Node, TIMEOUT, until};

const POINTS: &str = "/hints/sync-points";

fn make_point(node: &Node) -> (String, Answer) {
    let made = node.send(&Request::new("POST", POINTS));
    assert_eq!(made.status, 201, "{}", made.text());
    let id = made.json()["id"].as_str().unwrap().to_owned();
    assert_eq!(made.header("location"), Some(format!("{POINTS}/{id}").as_str()));
    (id, made)
}

/// A cluster of five in which one node is down and another holds a hint for it. Returns the key's
/// path, the node that is down and the one that holds the hint, by name.
fn with_a_hint(more: &str) -> (Cluster, String, String, String) {
    let mut cluster = Cluster::start_with(5, CLUSTER_ID, more);
    let list = cluster.preference_list("b", "k");
    let (dead, fallback) = (list[1].clone(), list[3].clone());
    cluster.node(&dead).kill();
    let put = cluster.node(&list[0]).send(&Request::put("/kv/b/k?w=3", "v"));
    assert_eq!((put.status, put.header("quorate-hints")), (204, Some("1")), "{}", put.text());
    (cluster, "/kv/b/k".to_owned(), dead, fallback)
}

#[test]
fn hints_are_counted_by_target_and_a_sync_point_tells_when_they_have_arrived() {
    let (mut cluster, key, dead, fallback) = with_a_hint("");
    let kept = cluster.node(&fallback).get("/hints").json();
    let target = &kept["targets"][0];
    assert_eq!((&target["node"], &target["keys"]), (&json!(dead), &json!(1)), "{kept}");
    assert_eq!(target["bytes"], kept["bytes"]);
    assert!(kept["bytes"].as_u64().unwrap() > 0 && kept["bytes_max"].as_u64().unwrap() > 0);
    assert!(target["oldest_ms"].as_u64().unwrap() < 60_000, "{kept}");

    // The node that is down holds no relevant hints, but no node can know that: it blocks this
    // point for good.
    let (blocked, made) = make_point(cluster.node(&fallback));
    assert_eq!(made.json()["unreachable"], json!([dead]));
    let state = cluster.node(&fallback).get(&format!("{POINTS}/{blocked}")).json();
    let pending = json!([{"holder": fallback, "target": dead}]);
    let expected = json!({"delivered": false, "pending": pending, "unreachable": [dead]});
    assert_eq!(state, expected);

    cluster.node(&dead).start();
    cluster.node(&dead).wait_until_ready();
    let mut id = String::new();
    until("all nodes to see each other", || {
        let (made_id, made) = make_point(cluster.node(&dead));
        id = made_id;
        made.json()["unreachable"] == json!([])
    });
    // Any node can answer, including one that did not make the point.
    let path = format!("{POINTS}/{id}?timeout_ms={}", TIMEOUT.as_millis());
    let state = cluster.node(&fallback).get(&path).json();
    assert_eq!(state, json!({"delivered": true, "pending": [], "unreachable": []}));
    let read = cluster.node(&dead).get(&format!("{key}?r=1"));
    assert_eq!((read.status, read.text()), (200, "v".to_owned()));
    let nothing = json!([]);
    assert_eq!(cluster.node(&fallback).get("/hints").json()["targets"], nothing);
    let state = cluster.node(&fallback).get(&format!("{POINTS}/{blocked}")).json();
    assert_eq!((&state["delivered"], &state["pending"]), (&json!(false), &nothing));
}

#[test]
fn a_hint_that_waits_for_too_long_raises_an_alarm() {
    let (mut cluster, _, dead, fallback) = with_a_hint("[limits]\nhint_alarm_ms = 100");
    let holder = cluster.node(&fallback);
    until("the hint to be old enough", || {
        holder.get("/hints").json()["targets"][0]["oldest_ms"].as_u64().unwrap() > 100
    });
    // Ages are checked once a minute, and at the start.
    holder.kill();
    holder.start();
    let alarm = |line: &str| {
        line.contains("WARN")
            && line.contains("too long")
            && line.contains(&format!("target={dead}"))
    };
    until("the alarm", || holder.log_text().lines().any(alarm));
}

#[test]
fn a_sync_point_ends_with_the_process_that_marked_it() {
    let mut cluster = Cluster::start(3);
    let (id, _) = make_point(&cluster.nodes[0]);
    let path = format!("{POINTS}/{id}");
    let delivered = json!({"delivered": true, "pending": [], "unreachable": []});
    assert_eq!(cluster.nodes[2].get(&path).json(), delivered);
    cluster.nodes[1].kill();
    let state = cluster.nodes[2].get(&path).json();
    assert_eq!((&state["delivered"], &state["unreachable"]), (&json!(false), &json!(["n2"])));
    cluster.nodes[1].start();
    cluster.nodes[1].wait_until_ready();
    let mut answer = None;
    until("the restarted node to be asked", || {
        let state = cluster.nodes[2].get(&path);
        answer = (state.status != 200).then_some(state);
        answer.is_some()
    });
    let gone = answer.unwrap();
    gone.assert_problem(410, "sync_point_gone");
    assert_eq!(gone.json()["restarted"], json!(["n2"]));
}

#[test]
fn wrong_sync_points_are_refused_by_name() {
    let cluster = Cluster::start(1);
    let node = &cluster.nodes[0];
    assert_eq!(node.get("/hints").json()["targets"], json!([]));
    let (id, made) = make_point(node);
    assert_eq!(made.json()["unreachable"], json!([]));
    let with_body = Request::json("POST", POINTS, "{\"not\": \"needed\"}");
    assert_eq!(node.send(&with_body).status, 201);
    assert_eq!(node.get(&format!("{POINTS}/{id}?timeout_ms=1")).json()["delivered"], true);
    let cut = &id[..id.len() - 2];
    for bad in [cut, &format!("B{}", &id[1..])] {
        let answer = node.get(&format!("{POINTS}/{bad}"));
        assert!([400, 404].contains(&answer.status), "{bad}: {}", answer.text());
    }
    let middle = if id.as_bytes()[10] == b'A' { "B" } else { "A" };
    let forged = [&id[..10], middle, &id[11..]].concat();
    node.get(&format!("{POINTS}/{forged}")).assert_problem(404, "no_such_sync_point");
    for bad in ["x", "!", "%00", "AAAA", &"A".repeat(40_000)] {
        node.get(&format!("{POINTS}/{bad}")).assert_problem(400, "bad_path");
    }
    for (path, name) in [
        ("/hints?x=1".to_owned(), "x"),
        (format!("{POINTS}/{id}?timeout=1"), "timeout"),
        (format!("{POINTS}/{id}?timeout_ms=0"), "timeout_ms"),
        (format!("{POINTS}/{id}?timeout_ms=-1"), "timeout_ms"),
        (format!("{POINTS}/{id}?timeout_ms=60001"), "timeout_ms"),
        (format!("{POINTS}/{id}?timeout_ms=1&timeout_ms=1"), "timeout_ms"),
    ] {
        let detail = node.get(&path).assert_problem(400, "bad_parameter");
        assert!(detail.starts_with(name), "{path}: {detail}");
    }
    let posted = node.send(&Request::new("POST", &format!("{POINTS}?w=1")));
    assert!(posted.assert_problem(400, "bad_parameter").starts_with('w'));
    for (method, path) in [("GET", POINTS), ("DELETE", "/hints"), ("PUT", &format!("{POINTS}/x"))] {
        let answer = node.send(&Request::new(method, path));
        answer.assert_problem(405, "method_not_allowed");
    }
    let unformed = Cluster::unformed(1, "other", "");
    let mut unformed = unformed;
    unformed.nodes[0].wait_until_alive();
    let node = &unformed.nodes[0];
    node.send(&Request::new("POST", POINTS)).assert_problem(503, "not_formed");
    node.get(&format!("{POINTS}/{id}")).assert_problem(503, "not_formed");
    let nothing: Value = json!([]);
    assert_eq!(node.get("/hints").json()["targets"], nothing);
}
