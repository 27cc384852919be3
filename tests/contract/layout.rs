//! The layout: shown, planned, and what is refused. Changes that are carried out are tried in
//! `tests/cluster`.

use serde_json::{Value, json};

use crate::cli::User;
use crate::common::http::{Answer, Request};
use crate::common::{Cluster, Node, until};

const NO_HASH: &str = "0123456789abcdef0123456789abcdef";

fn post(node: &Node, path: &str, body: &Value) -> Answer {
    node.send(&Request::json("POST", path, &body.to_string()))
}

fn plan(node: &Node, body: &Value) -> Value {
    let answer = post(node, "/layout/plan", body);
    assert_eq!(answer.status, 200, "{}", answer.text());
    answer.json()
}

fn names(list: &Value) -> Vec<&str> {
    list.as_array().unwrap().iter().map(|it| it["name"].as_str().unwrap()).collect()
}

fn problem(answer: &Answer, status: u16, name: &str) -> Value {
    answer.assert_problem(status, name);
    answer.json()
}

/// A change that moves data, and has no warning: what `commit` takes.
fn agreed(node: &Node, changes: &Value, accept: &Value) -> Value {
    let planned = plan(node, &json!({"changes": changes}));
    json!({"base": planned["base"], "result": planned["result"], "changes": changes, "accept": accept})
}

#[test]
fn every_node_shows_the_same_layout_and_its_first_record() {
    let cluster = Cluster::start(3);
    let layouts: Vec<Value> = cluster.nodes.iter().map(|it| it.get("/layout").json()).collect();
    let layout = &layouts[0];
    assert_eq!((&layout["epoch"], &layout["phase"]), (&json!("1"), &json!("stable")));
    for other in &layouts {
        assert_eq!(other["hash"], layout["hash"]);
    }
    assert_eq!(names(&layout["members"]), ["n1", "n2", "n3"]);
    let ring = cluster.nodes[0].get("/ring").json();
    for (member, of_ring) in layout["members"].as_array().unwrap().iter().zip(0..) {
        assert_eq!(member["load"], ring["nodes"][of_ring]["partitions"]);
        assert_eq!(member["fair"], member["load"], "three copies on three nodes");
        assert_eq!((&member["seat"], &member["weight"]), (&member["name"], &json!(1)));
        assert_eq!(member["disk"].as_str().unwrap().len(), 32);
        let state = if member["name"] == "n1" { "self" } else { "up" };
        assert_eq!(member["state"], state);
    }
    for (empty, of) in [("gone", json!([])), ("leaving", json!([])), ("waiting", json!([]))] {
        assert_eq!(layout[empty], of, "{empty}");
    }
    assert_eq!((&layout["next"], &layout["progress"]), (&Value::Null, &Value::Null));
    let history = cluster.nodes[1].get("/layout/history?limit=5").json();
    assert_eq!(history.as_array().unwrap().len(), 1);
    assert_eq!((&history[0]["epoch"], &history[0]["hash"]), (&json!("1"), &layout["hash"]));
    assert_eq!(history[0]["cause"]["op"], "form");
}

/// What clients follow a change by.
#[test]
fn every_answer_tells_the_epoch_of_the_layout() {
    let cluster = Cluster::start(3);
    let node = &cluster.nodes[0];
    let written = node.send(&Request::json("PUT", "/kv/b/k", "1"));
    assert_eq!((written.status, written.header("quorate-epoch")), (204, Some("1")));
    for path in ["/kv/b/k", "/kv/b/none", "/cluster", "/none", "/kv/b/k?r=0", "/readyz", "/ring <"]
    {
        let answer = node.get(path);
        assert_eq!(answer.header("quorate-epoch"), Some("1"), "{path}: {answer:?}");
    }
    let of_cluster = &node.get("/cluster").json()["layout"];
    for path in ["/ring", "/ring/partitions"] {
        let ring = node.get(path).json();
        for part in ["version", "hash"] {
            assert_eq!(ring[part], of_cluster[part], "{path}: {part}");
        }
    }
}

#[test]
fn a_plan_says_what_would_move_and_writes_nothing() {
    let cluster = Cluster::start(3);
    let [a, b, _] = &cluster.nodes[..] else { panic!("three nodes") };
    let before = a.get("/layout").json();
    let heavier = json!({"changes": [{"op": "set", "name": "n1", "weight": 2}]});
    let (planned, again) = (plan(a, &heavier), plan(b, &heavier));
    assert_eq!(planned["base"], before["hash"]);
    assert_eq!(planned["result"], again["result"], "any node comes to the same");
    assert_eq!(names(&planned["load"]), ["n1", "n2", "n3"]);
    assert_eq!((&planned["moves"]["replicas"], &planned["joint"]), (&json!(0), &json!(true)));
    assert_eq!(planned["refusals"], json!([]));

    // A node that nobody has seen can be planned, and not be added.
    let added = plan(a, &json!({"base": before["hash"], "changes": [{"op": "add", "name": "n4"}]}));
    assert_eq!(names(&added["refusals"]), ["not_waiting"]);
    assert_eq!(added["refusals"][0]["node"], "n4");
    assert!(added["moves"]["replicas"].as_u64().unwrap() >= 40, "{added}");
    assert_eq!(added["moves"]["least"], added["load"][3]["after"]);
    let removed = plan(a, &json!({"changes": [{"op": "remove", "name": "n3"}], "gone": ["n3"]}));
    assert_eq!(names(&removed["refusals"]), ["node_up"]);
    assert_eq!(names(&removed["warnings"]), ["too_few_nodes", "writes_of_gone_lost"]);

    let address = json!({"changes": [{"op": "set", "name": "n2", "peer_addr": "other:1"}]});
    assert_eq!(plan(a, &address)["joint"], false);
    let stale = post(a, "/layout/plan", &json!({"base": NO_HASH, "changes": heavier["changes"]}));
    let stale = problem(&stale, 409, "layout_changed");
    assert_eq!((&stale["current"], &stale["epoch"]), (&before["hash"], &json!("1")));
    assert_eq!(a.get("/layout").json(), before, "nothing has changed");
    assert_eq!(a.get("/layout/history").json().as_array().unwrap().len(), 1);
}

#[test]
fn bad_input_is_named_and_nothing_changes() {
    let cluster = Cluster::start(3);
    let node = &cluster.nodes[0];
    let remove = r#"{"op":"remove","name":"n1"}"#;
    for (path, body, named) in [
        ("plan", String::new(), ""),
        ("plan", "[]".to_owned(), ""),
        ("plan", "{}".to_owned(), "missing field `changes`"),
        ("plan", r#"{"changes":[],"x":1}"#.to_owned(), "unknown field `x`"),
        ("plan", r#"{"changes":[]}"#.to_owned(), "these changes change nothing"),
        ("plan", r#"{"changes":[{"op":"add"}]}"#.to_owned(), "changes[0].name"),
        ("plan", r#"{"changes":[{"op":"grow"}]}"#.to_owned(), "unknown variant `grow`"),
        ("plan", r#"{"changes":[{"op":"remove","name":"n9"}]}"#.to_owned(), "node n9 is not a"),
        ("plan", format!(r#"{{"changes":[{remove},{remove}]}}"#), "node n1 is named twice"),
        ("plan", r#"{"changes":[{"op":"set","name":"n1","weight":101}]}"#.to_owned(), "node n1"),
        ("plan", r#"{"changes":[{"op":"set","name":"n1","zone":""}]}"#.to_owned(), "node n1"),
        ("plan", format!(r#"{{"changes":[{remove}],"gone":["n2"]}}"#), "node n2 is sworn gone"),
        ("plan", format!(r#"{{"changes":[{remove}],"base":"7"}}"#), "base: "),
        ("commit", format!(r#"{{"changes":[{remove}]}}"#), "missing field `base`"),
        ("abort", "{}".to_owned(), "missing field `base`"),
        ("abort", r#"{"base":"x"}"#.to_owned(), "base: "),
        ("abort", format!(r#"{{"base":"{NO_HASH}","lost":["N"]}}"#), "lost[0]"),
        ("release", "{}".to_owned(), "missing field `base`"),
        ("release", format!(r#"{{"base":"{NO_HASH}","node":"N","lost":true}}"#), "node: "),
        ("release", format!(r#"{{"base":"{NO_HASH}","node":"n2","lost":false}}"#), "lost: "),
        (
            "release",
            format!(r#"{{"base":"{NO_HASH}","node":"n9","lost":true}}"#),
            "node n9 is not l",
        ),
    ] {
        let answer = node.send(&Request::json("POST", &format!("/layout/{path}"), &body));
        let detail = answer.assert_problem(400, "bad_body");
        assert!(detail.starts_with(named), "{path} {body}: {detail}");
    }
    let taken = post(node, "/layout/plan", &json!({"changes": [{"op": "add", "name": "n2"}]}));
    assert!(taken.assert_problem(409, "name_taken").contains("n2"));
    let huge = format!("{{\"changes\": []{}}}", " ".repeat(200_000));
    node.send(&Request::json("POST", "/layout/plan", &huge)).assert_problem(413, "too_large");
    let form =
        Request::new("POST", "/layout/commit").header("Content-Type", "text/plain").body("{}");
    node.send(&form).assert_problem(415, "unsupported_media_type");
    for bad in
        ["history?limit=0", "wait?epoch=x", "wait?phase=done", "wait?timeout_ms=0", "wait?x=1"]
    {
        node.get(&format!("/layout/{bad}")).assert_problem(400, "bad_parameter");
    }
    assert_eq!(node.get("/layout").json()["epoch"], "1");
}

#[test]
fn what_is_not_safe_or_not_as_planned_is_not_begun() {
    let cluster = Cluster::start(3);
    let node = &cluster.nodes[0];
    let add = json!([{"op": "add", "name": "n4"}]);
    let refused = post(node, "/layout/commit", &agreed(node, &add, &json!([])));
    let refused = problem(&refused, 422, "layout_unsafe");
    assert_eq!(names(&refused["refusals"]), ["not_waiting"]);

    // All three in one zone: a warning, which only its name accepts.
    let zones = json!([
        {"op": "set", "name": "n1", "zone": "z"},
        {"op": "set", "name": "n2", "zone": "z"},
    ]);
    let wanted = agreed(node, &zones, &json!([]));
    let refused = problem(&post(node, "/layout/commit", &wanted), 422, "layout_unsafe");
    assert_eq!(
        (&refused["refusals"], names(&refused["warnings"])),
        (&json!([]), vec!["zone_shared"])
    );
    let other = json!([{"op": "set", "name": "n1", "weight": 2}]);
    let mut wrong = agreed(node, &other, &json!([]));
    wrong["result"] = json!(NO_HASH);
    problem(&post(node, "/layout/commit", &wrong), 409, "layout_changed");
    wrong["base"] = json!(NO_HASH);
    let stale = problem(&post(node, "/layout/commit", &wrong), 409, "layout_changed");
    assert_eq!(stale["current"], node.get("/layout").json()["hash"]);
    let base = json!({"base": stale["current"]});
    problem(&post(node, "/layout/abort", &base), 409, "layout_not_moving");
    let stale = post(node, "/layout/abort", &json!({"base": NO_HASH}));
    problem(&stale, 409, "layout_changed");
    assert_eq!(node.get("/layout").json()["epoch"], "1");
}

#[test]
fn a_change_is_begun_once_however_often_it_is_asked_for_and_ends() {
    let cluster = Cluster::start(3);
    let [a, b, _] = &cluster.nodes[..] else { panic!("three nodes") };
    let wanted = agreed(a, &json!([{"op": "set", "name": "n1", "weight": 2}]), &json!([]));
    let other = agreed(b, &json!([{"op": "set", "name": "n2", "weight": 2}]), &json!([]));
    let begun = post(a, "/layout/commit", &wanted);
    assert_eq!((begun.status, &begun.json()["epoch"]), (202, &json!("2")), "{}", begun.text());
    let again = post(b, "/layout/commit", &wanted);
    assert_eq!((again.status, again.json()), (202, begun.json()), "whoever is asked again");
    let lost = problem(&post(b, "/layout/commit", &other), 409, "layout_changed");
    assert_ne!(lost["current"], other["base"]);
    let ended = a.get("/layout/wait?epoch=3&phase=stable&timeout_ms=15000");
    assert_eq!((ended.status, &ended.json()["epoch"]), (200, &json!("3")), "{}", ended.text());
    assert_eq!(ended.json()["members"][0]["weight"], 2);
    let never = a.get("/layout/wait?epoch=99&timeout_ms=100");
    assert_eq!((never.status, never.text().as_str()), (204, ""));
    let history = a.get("/layout/history").json();
    let steps: Vec<&str> =
        history.as_array().unwrap().iter().map(|it| it["cause"]["op"].as_str().unwrap()).collect();
    assert_eq!(steps, ["finish", "begin", "form"]);
    until("all nodes to know it", || {
        cluster.nodes.iter().all(|node| node.get("/layout").json()["epoch"] == "3")
    });
}

#[test]
fn a_node_that_is_down_must_be_sworn_gone() {
    let mut cluster = Cluster::start(4);
    cluster.node("n4").kill();
    let node = &cluster.nodes[0];
    until("n4 is seen down", || node.get("/layout").json()["members"][3]["state"] == "down");
    let remove = json!([{"op": "remove", "name": "n4"}]);
    let kept = plan(node, &json!({"changes": remove}));
    assert_eq!(names(&kept["refusals"]), ["node_down"]);
    let gone = plan(node, &json!({"changes": remove, "gone": ["n4"]}));
    assert_eq!(gone["refusals"], json!([]));
    assert_eq!(names(&gone["warnings"]), ["writes_of_gone_lost"]);
    let mut wanted = json!({"base": gone["base"], "result": gone["result"], "changes": remove});
    wanted["gone"] = json!(["n4"]);
    wanted["accept"] = json!(["writes_of_gone_lost"]);
    let begun = post(node, "/layout/commit", &wanted);
    assert_eq!(begun.status, 202, "{}", begun.text());
    let ended = node.get("/layout/wait?epoch=3&phase=stable&timeout_ms=15000");
    assert_eq!(ended.status, 200, "{}", ended.text());
    assert_eq!(names(&ended.json()["members"]), ["n1", "n2", "n3"]);
}

#[test]
fn the_commands_plan_commit_and_wait() {
    let cluster = Cluster::start(3);
    let user = User::of(cluster.nodes[0].client_addr);
    let files = tempfile::TempDir::new().unwrap();
    let file = files.path().join("plan.json");
    let file = file.to_str().unwrap();
    let heavier = ["--set", "n1", "--weight", "2"];
    let with = |words: &[&'static str]| [words, &heavier].concat();
    let steps: &[(Vec<&str>, i32, &str, &str)] = &[
        (vec!["layout", "show"], 0, "epoch 1", ""),
        (vec!["layout", "history"], 0, "form", ""),
        (vec!["layout", "plan"], 2, "", "--add"),
        (vec!["layout", "plan", "--add", "n4"], 1, "not_waiting", ""),
        (vec!["layout", "plan", "--remove", "n9"], 2, "", "n9 is not a member"),
        (vec!["layout", "plan", "--add", "n2"], 4, "", "name_taken"),
        (with(&["layout", "commit"]), 2, "no data moves", "--yes"),
        (vec!["layout", "commit", "--set", "n1", "--zone", "n2"], 1, "zone_shared", "--accept"),
        (vec!["layout", "abort", "--yes"], 4, "", "no change"),
        (vec!["layout", "commit", "/no/such/file"], 2, "", "/no/such/file"),
        (vec!["layout", "wait", "--epoch", "9", "--timeout", "0"], 7, "", "epoch 1 is stable"),
        ([with(&["layout", "plan"]), vec!["-o", file]].concat(), 0, "nothing is changed", ""),
        (vec!["layout", "commit", file], 0, "epoch 2", ""),
        (vec!["layout", "commit", file], 0, "epoch 2", ""),
        (vec!["layout", "wait", "--epoch", "3", "--timeout", "30"], 0, "epoch 3 is stable", ""),
    ];
    for (args, code, out, err) in steps {
        user.run(args).check((args, *code, out, err));
    }
    let history = user.json(&["layout", "history"], 0);
    assert_eq!(history[0]["cause"]["op"], "finish");
    assert_eq!(user.json(&["layout", "show"], 0)["members"][0]["weight"], 2);
    let planned = user.run(&["layout", "plan", "--set", "n1", "--weight", "1", "--json"]);
    let begun = user.pipe(&["layout", "commit", "-", "--json"], planned.out.as_bytes());
    begun.check((&["commit", "-"], 0, "\"epoch\":\"4\"", ""));
}
