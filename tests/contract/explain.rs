//! Explained requests: who did what when, as a trace that can be asked for, and the traces of slow and
//! failed requests, which a node keeps by itself.

use std::collections::BTreeSet;

use serde_json::{Value, json};

use crate::common::http::{Answer, Request};
use crate::common::{CLUSTER_ID, Cluster, Node, until};

const TRACE: &str = "application/vnd.quorate.explain+json";

/// The kept trace that an answer names.
fn trace_of(node: &Node, answer: &Answer) -> Value {
    let id = answer.header("quorate-explain").unwrap_or_else(|| panic!("no id: {answer:?}"));
    assert!(id.len() == 16 && id.bytes().all(|b| b.is_ascii_hexdigit()), "{id}");
    let trace = node.get(&format!("/explain/{id}"));
    assert_eq!((trace.status, trace.header("content-type")), (200, Some(TRACE)));
    assert_eq!(trace.json()["id"], id);
    trace.json()
}

/// The same, once the operation is over.
fn complete(node: &Node, answer: &Answer) -> Value {
    let mut trace = Value::Null;
    until("the operation to be over", || {
        trace = trace_of(node, answer);
        trace["done"] == true
    });
    trace
}

/// The events of a kind.
fn all<'a>(trace: &'a Value, what: &str) -> Vec<&'a Value> {
    trace["events"].as_array().unwrap().iter().filter(|event| event["what"] == what).collect()
}

/// The one event of a kind.
fn one<'a>(trace: &'a Value, what: &str) -> &'a Value {
    let found = all(trace, what);
    assert_eq!(found.len(), 1, "{what} in {trace:#}");
    found[0]
}

fn us(event: &Value) -> u64 {
    event["us"].as_u64().unwrap()
}

/// Asserts that the first of each kind is no earlier than that of the kind before it.
fn assert_in_order(trace: &Value, kinds: &[&str]) {
    let mut before = 0;
    for kind in kinds {
        let events = all(trace, kind);
        let at = us(events.first().unwrap_or_else(|| panic!("no {kind} in {trace:#}")));
        assert!(at >= before, "{kind} comes too early in {trace:#}");
        before = at;
    }
}

fn nodes_of(events: &[&Value]) -> BTreeSet<String> {
    events.iter().map(|event| event["node"].as_str().unwrap().to_owned()).collect()
}

#[test]
fn a_write_and_a_read_are_explained_from_arrival_to_end() {
    let mut cluster = Cluster::start(3);
    let list = cluster.preference_list("b", "k");
    let home = list[0].clone();
    let node = cluster.node(&home);
    let put = node.send(&Request::put("/kv/b/k?explain=true&w=2", "v"));
    assert_eq!(put.status, 204, "{}", put.text());
    let trace = complete(node, &put);
    let members: BTreeSet<&str> = trace.as_object().unwrap().keys().map(String::as_str).collect();
    let expected = "at bucket coordinator done entry events id key method n needed preference_list \
                    problem quorum_us sloppy status timeout_ms took_us truncated why";
    assert_eq!(members, expected.split(' ').collect());
    for (member, value) in [
        ("why", json!("asked")),
        ("method", json!("PUT")),
        ("bucket", json!("b")),
        ("key", json!("k")),
        ("entry", json!(home)),
        ("coordinator", json!({"node": home, "why": "home replica"})),
        ("n", json!(3)),
        ("needed", json!(2)),
        ("sloppy", json!(true)),
        ("timeout_ms", json!(5000)),
        ("preference_list", json!(list)),
        ("status", json!(204)),
        ("problem", Value::Null),
        ("truncated", json!(false)),
    ] {
        assert_eq!(trace[member], value, "{member} in {trace:#}");
    }
    assert!(trace["at"].as_str().unwrap().ends_with('Z'), "{trace}");
    let kinds = ["routed", "minted", "stored", "asked", "acked", "quorum", "answered", "done"];
    assert_in_order(&trace, &["routed", "minted", "stored", "asked", "quorum", "answered"]);
    for kind in kinds.iter().chain(&["synced"]) {
        assert!(!all(&trace, kind).is_empty(), "no {kind} in {trace:#}");
    }
    let others: BTreeSet<String> = list[1..].iter().cloned().collect();
    assert_eq!(nodes_of(&all(&trace, "asked")), others);
    assert_eq!(nodes_of(&all(&trace, "acked")), others, "also the one after the answer");
    assert_eq!(trace["quorum_us"], one(&trace, "quorum")["us"]);
    assert_eq!(trace["took_us"], one(&trace, "answered")["us"]);
    let times: Vec<u64> = trace["events"].as_array().unwrap().iter().map(us).collect();
    assert!(times.is_sorted(), "{trace:#}");

    let get = node.send(&Request::get("/kv/b/k?explain=true&r=3"));
    assert_eq!((get.status, get.text()), (200, "v".to_owned()));
    let trace = complete(node, &get);
    assert_eq!((&trace["method"], &trace["coordinator"]["node"]), (&json!("GET"), &json!(home)));
    let version = get.header("etag").unwrap().trim_matches('"');
    let replies = all(&trace, "replied");
    assert_eq!(nodes_of(&replies), list.iter().cloned().collect());
    for reply in replies {
        assert_eq!(reply["detail"], format!("version {version}"));
    }
    assert_in_order(&trace, &["asked", "replied", "quorum", "answered"]);
    assert!(all(&trace, "repaired").is_empty());

    let delete = node.send(&Request::delete("/kv/b/k?explain=true"));
    let trace = complete(node, &delete);
    assert_eq!((&trace["method"], &trace["status"]), (&json!("DELETE"), &json!(204)));
    assert!(!all(&trace, "replied").is_empty(), "it reads before it deletes: {trace:#}");
    one(&trace, "quorum");
    let quiet = node.send(&Request::put("/kv/b/k?explain=false", "v"));
    assert_eq!((quiet.status, quiet.header("quorate-explain")), (204, None));
}

/// With the type of a trace in `Accept` the answer is the trace.
#[test]
fn the_trace_can_be_the_answer_and_shows_neither_value_nor_context() {
    let cluster = Cluster::start(1);
    let node = &cluster.nodes[0];
    let ask = |request: Request| node.send(&request.header("Accept", TRACE));
    let put = ask(Request::put("/kv/b/k?explain=true&return_body=true", "a secret"));
    assert_eq!((put.status, put.header("content-type")), (200, Some(TRACE)));
    assert_eq!((&put.json()["status"], &put.json()["method"]), (&json!(204), &json!("PUT")));
    let id = put.header("quorate-explain").unwrap();
    assert_eq!(put.json()["id"], id);
    assert_eq!(put.header("quorate-acks"), Some("1"));
    // Its own value is the only one, so that its writer has seen all.
    assert_eq!(node.send(&Request::put("/kv/b/k", "b").context(put.context())).status, 204);

    let get = ask(Request::get("/kv/b/k?explain=true"));
    assert_eq!((get.status, &get.json()["status"]), (200, &json!(200)));
    assert_eq!(get.header("quorate-context"), None, "the value was not shown");
    assert_eq!(get.header("etag"), None, "of another representation");
    assert!(!get.text().contains("secret"));
    let absent = ask(Request::get("/kv/b/absent?explain=true"));
    assert_eq!((absent.status, absent.header("content-type")), (404, Some(TRACE)));
    assert_eq!(absent.json()["problem"], "key_not_found");
    let etag = node.get("/kv/b/k").header("etag").unwrap().to_owned();
    let same = ask(Request::get("/kv/b/k?explain=true").header("If-None-Match", &etag));
    assert_eq!((same.status, &same.json()["status"]), (200, &json!(304)));
    let head = ask(Request::new("HEAD", "/kv/b/k?explain=true"));
    assert!(head.status == 200 && head.header("quorate-explain").is_some());

    let plain = ask(Request::get("/kv/b/k"));
    assert_eq!((plain.text(), plain.header("quorate-explain")), ("b".to_owned(), None));
    let any = node.send(&Request::get("/kv/b/k?explain=true").header("Accept", "*/*"));
    assert_eq!(any.text(), "b");
    let failed = ask(Request::put("/kv/b/k?explain=true", "c").header("If-None-Match", "*"));
    assert_eq!((failed.status, &failed.json()["problem"]), (412, &json!("condition_failed")));
}

#[test]
fn a_forwarded_write_shows_what_its_coordinator_saw() {
    let mut cluster = Cluster::start(5);
    let list = cluster.preference_list("b", "k");
    let homes: BTreeSet<String> = list[..3].iter().cloned().collect();
    let entry = cluster.node(&list[4]);
    let put = entry.send(&Request::put("/kv/b/k?explain=true", "v").header("Accept", TRACE));
    assert_eq!(put.status, 200, "{}", put.text());
    // The coordinator's events came with its answer.
    let trace = put.json();
    assert_eq!(trace["entry"], list[4].as_str());
    let coordinator = trace["coordinator"]["node"].as_str().unwrap().to_owned();
    assert!(homes.contains(&coordinator), "{trace:#}");
    assert_eq!(trace["coordinator"]["why"], "first healthy home replica");
    assert_in_order(&trace, &["routed", "forwarded", "minted", "asked", "quorum", "answered"]);
    assert_eq!(one(&trace, "minted")["node"], coordinator.as_str());
    assert_eq!(trace["quorum_us"], one(&trace, "quorum")["us"]);
    // Then the rest.
    let trace = complete(entry, &put);
    assert_eq!(one(&trace, "done")["node"], coordinator.as_str());
    let mut acked = nodes_of(&all(&trace, "acked"));
    acked.extend(nodes_of(&all(&trace, "synced")));
    assert_eq!(acked, homes, "{trace:#}");
    one(&trace, "minted");
    // No other node knows it.
    let id = put.header("quorate-explain").unwrap();
    let elsewhere = cluster.node(&coordinator).get(&format!("/explain/{id}"));
    elsewhere.assert_problem(404, "no_such_explanation");
    let meeting = cluster.node(&list[4]);
    let put = meeting.send(&Request::put("/kv/b/k?explain=true", "v").header("If-Match", "*"));
    let trace = complete(meeting, &put);
    assert_eq!(trace["status"], 204, "{trace:#}");
    assert!(trace["coordinator"]["why"].as_str().unwrap().contains("conditional"), "{trace:#}");
    assert!(!all(&trace, "replied").is_empty(), "the read before it: {trace:#}");
    one(&trace, "quorum");
}

#[test]
fn a_fallback_takes_the_place_of_a_dead_home() {
    let mut cluster = Cluster::start(5);
    let list = cluster.preference_list("b", "k");
    cluster.node(&list[1]).kill();
    let node = cluster.node(&list[0]);
    let put = node.send(&Request::put("/kv/b/k?explain=true&w=3", "v"));
    assert_eq!((put.status, put.header("quorate-hints")), (204, Some("1")), "{}", put.text());
    let trace = complete(node, &put);
    let fallback = one(&trace, "fallback");
    assert_eq!(fallback["detail"], format!("for {}", list[1]));
    assert_eq!(fallback["node"], list[3].as_str());
    let hinted = one(&trace, "hinted");
    assert_eq!((&hinted["node"], &hinted["detail"]), (&fallback["node"], &fallback["detail"]));
    assert!(us(hinted) >= us(fallback));
    // How it was found to be dead depends on what was known of it.
    let signs = ["avoided", "silent", "not_sent", "refused"];
    let dead = signs.iter().flat_map(|what| all(&trace, what)).map(|event| &event["node"]);
    assert_eq!(dead.collect::<Vec<_>>(), [list[1].as_str()], "{trace:#}");
}

fn cut_off(node: &Node, from: &[&String]) {
    let cuts = json!({"cut_in": from, "cut_out": from}).to_string();
    let answer = Request::json("PUT", "/fault", &cuts).send(node.peer_addr);
    assert!(answer.status < 300, "{}", answer.text());
}

#[test]
fn a_stale_replica_is_seen_and_repaired() {
    let mut cluster = Cluster::start_with(3, CLUSTER_ID, "[anti_entropy]\ninterval_ms = 0");
    let list = cluster.preference_list("b", "k");
    let put = |cluster: &mut Cluster, value: &str| {
        let put = cluster.node(&list[0]).send(&Request::put("/kv/b/k", value));
        assert_eq!(put.status, 204, "{}", put.text());
        put
    };
    let old = put(&mut cluster, "1");
    let read_all = format!("/kv/b/k?r=3&explain=true&timeout_ms={}", 2000);
    until("all to hold it", || cluster.node(&list[0]).get(&read_all).status == 200);
    let others: Vec<&String> = list[..2].iter().collect();
    cut_off(cluster.node(&list[2]), &others);
    let context = old.context().to_owned();
    let change = Request::put("/kv/b/k?explain=true", "2").context(&context);
    let new = cluster.node(&list[0]).send(&change);
    assert_eq!(new.status, 204, "{}", new.text());
    // Once the write is over, nothing of it can reach the third replica any more.
    let trace = complete(cluster.node(&list[0]), &new);
    assert_eq!(one(&trace, "silent")["node"], list[2].as_str());
    cut_off(cluster.node(&list[2]), &[]);
    let mut repaired = Value::Null;
    until("the stale replica to be repaired", || {
        let get = cluster.node(&list[0]).get(&read_all);
        let trace = complete(cluster.node(&list[0]), &get);
        let is_repaired = !all(&trace, "repaired").is_empty();
        if is_repaired {
            repaired = trace;
        }
        is_repaired
    });
    let event = one(&repaired, "repaired");
    assert_eq!(event["node"], list[2].as_str());
    let version =
        |answer: &Answer| format!("version {}", answer.header("etag").unwrap().trim_matches('"'));
    assert_eq!(event["detail"], version(&new));
    let replies = all(&repaired, "replied");
    let stale = replies.iter().find(|reply| reply["node"] == list[2].as_str()).unwrap();
    assert_eq!(stale["detail"], version(&old), "{repaired:#}");
}

#[test]
fn slow_and_failed_requests_are_kept_unasked() {
    let mut cluster = Cluster::start_with(3, CLUSTER_ID, "[explain]\nslow_ms = 250");
    let list = cluster.preference_list("b", "k");
    let home = list[0].clone();
    for at in 0..20 {
        assert_eq!(cluster.node(&home).send(&Request::put("/kv/b/k", format!("{at}"))).status, 204);
    }
    // A replica is gone, and there is no fallback.
    cluster.node(&list[2]).kill();
    let key = "k/ü?".replace('?', "%3F");
    let put = cluster.node(&home).send(&Request::put(&format!("/kv/b/{key}?w=3"), "v"));
    assert_eq!((put.status, put.header("quorate-explain")), (503, None), "{}", put.text());
    cluster.node(&list[1]).kill();
    let failed = cluster.node(&home).send(&Request::get("/kv/b/k?timeout_ms=1500"));
    failed.assert_problem(503, "no_read_quorum");

    let node = cluster.node(&home);
    let listed = node.get("/explain?slow=true&limit=2").json();
    let traces = listed["traces"].as_array().unwrap();
    assert_eq!(traces.len(), 2, "{listed:#}");
    for (line, method, key, problem) in
        [(&traces[0], "GET", "k", "no_read_quorum"), (&traces[1], "PUT", "k/ü?", "no_quorum")]
    {
        let members: BTreeSet<&str> =
            line.as_object().unwrap().keys().map(String::as_str).collect();
        assert_eq!(members, "at bucket id key method status took_us why".split(' ').collect());
        assert_eq!((&line["method"], &line["key"]), (&json!(method), &json!(key)), "{line}");
        assert_eq!((&line["why"], &line["status"]), (&json!("failed"), &json!(503)));
        let path = format!("/explain/{}", line["id"].as_str().unwrap());
        let mut trace = node.get(&path).json();
        assert_eq!((&trace["problem"], &trace["quorum_us"]), (&json!(problem), &Value::Null));
        assert_eq!(trace["took_us"], line["took_us"]);
        let answered = one(&trace, "answered")["detail"].as_str().unwrap().to_owned();
        assert!(answered.starts_with(&format!("503 {problem}")), "{answered}");
        until("the operation to be over", || {
            trace = node.get(&path).json();
            trace["done"] == true
        });
        let gone = ["silent", "not_sent", "refused"];
        let gone = nodes_of(&gone.iter().flat_map(|what| all(&trace, what)).collect::<Vec<_>>());
        assert!(gone.contains(&list[2]), "{trace:#}");
    }
    let all = node.get("/explain?limit=1000").json();
    let whys = all["traces"].as_array().unwrap().iter().map(|trace| &trace["why"]);
    assert!(whys.clone().all(|why| why != "asked"), "{all:#}");
}

/// A home replica is silent until it is given up after 500 ms, and a fallback takes its place.
#[test]
fn what_succeeds_late_is_kept_as_slow() {
    let mut cluster = Cluster::start_with(5, CLUSTER_ID, "[explain]\nslow_ms = 250");
    let list = cluster.preference_list("b", "k");
    cut_off(cluster.node(&list[1]), &[&list[0]]);
    let put = cluster.node(&list[0]).send(&Request::put("/kv/b/k?w=3", "v"));
    assert_eq!(put.status, 204, "{}", put.text());
    let node = cluster.node(&list[0]);
    let listed = node.get("/explain?slow=true").json();
    let line = &listed["traces"][0];
    assert_eq!((&line["why"], &line["status"]), (&json!("slow"), &json!(204)), "{listed:#}");
    assert!(line["took_us"].as_u64().unwrap() >= 250_000);
    let trace = node.get(&format!("/explain/{}", line["id"].as_str().unwrap())).json();
    assert_eq!(one(&trace, "fallback")["detail"], format!("for {}", list[1]));
    assert_in_order(&trace, &["asked", "silent", "fallback", "hinted", "quorum", "answered"]);
}

#[test]
fn wrong_questions_are_refused_by_name() {
    let cluster = Cluster::start(1);
    let node = &cluster.nodes[0];
    for bad in ["maybe", "", "1", "TRUE"] {
        for request in [
            Request::get(&format!("/kv/b/k?explain={bad}")),
            Request::put(&format!("/kv/b/k?explain={bad}"), "x"),
            Request::delete(&format!("/kv/b/k?explain={bad}")),
        ] {
            let detail = node.send(&request).assert_problem(400, "bad_parameter");
            assert_eq!(detail, "explain: must be true or false");
        }
    }
    let twice = node.get("/kv/b/k?explain=true&explain=true");
    assert_eq!(twice.assert_problem(400, "bad_parameter"), "explain: is given more than once");
    for request in [
        Request::get("/siblings/b/k?explain=true"),
        Request::json("POST", "/siblings/b/k?explain=true", "{}"),
        Request::get("/keys/b?explain=true"),
        Request::get("/ring/b/k?explain=true"),
        Request::get("/explain?explain=true"),
    ] {
        let detail = node.send(&request).assert_problem(400, "bad_parameter");
        assert!(detail.starts_with("explain: is not a parameter"), "{detail}");
    }
    for (path, name) in [
        ("/explain?slow=maybe", "slow"),
        ("/explain?limit=0", "limit"),
        ("/explain?limit=1001", "limit"),
        ("/explain?x=1", "x"),
        ("/explain/0123456789abcdef?slow=true", "slow"),
    ] {
        let detail = node.get(path).assert_problem(400, "bad_parameter");
        assert!(detail.starts_with(name), "{path}: {detail}");
    }
    node.get("/explain/0123456789abcdef").assert_problem(404, "no_such_explanation");
    for bad in ["x", "0", "0123456789abcdef0", "+123456789abcdef", "%00", "0123456789abcde%C3"] {
        node.get(&format!("/explain/{bad}")).assert_problem(400, "bad_path");
    }
    node.get("/explain/").assert_problem(404, "no_such_route");
    for path in ["/explain", "/explain/0123456789abcdef"] {
        let posted = node.send(&Request::new("POST", path));
        posted.assert_problem(405, "method_not_allowed");
    }
    // What is refused before any node is asked leaves nothing to explain.
    let refused = node.get("/kv/b/k?explain=true&r=9");
    refused.assert_problem(400, "bad_parameter");
    assert_eq!(refused.header("quorate-explain"), None);
    let traces = json!({"traces": []});
    assert_eq!(node.get("/explain").json(), traces);
}

#[test]
fn a_flood_of_explained_requests_keeps_a_bounded_number() {
    let cluster = Cluster::start(1);
    let node = &cluster.nodes[0];
    let key = "k".repeat(1024);
    let first = node.send(&Request::put(&format!("/kv/b/{key}?explain=true"), "x"));
    let first = first.header("quorate-explain").unwrap().to_owned();
    assert_eq!(node.get(&format!("/explain/{first}")).status, 200);
    for _ in 0..300 {
        assert_eq!(node.get(&format!("/kv/b/{key}?explain=true")).status, 200);
    }
    node.get(&format!("/explain/{first}")).assert_problem(404, "no_such_explanation");
    let listed = node.get("/explain?limit=1000").json();
    let asked = listed["traces"].as_array().unwrap().iter().filter(|line| line["why"] == "asked");
    assert_eq!(asked.count(), 256);
}
