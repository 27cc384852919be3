//! Tokens of a cluster: every node knows them, and every revocation.

use std::time::{Duration, Instant};

use serde_json::json;

use super::{ON, get, made, with};
use crate::common::http::{Raw, Request};
use crate::common::{CLUSTER_ID, Cluster, Node, operator, until};

/// How soon a revocation is in force everywhere.
const IN_FORCE: Duration = Duration::from_secs(5);

fn revoke(node: &Node, id: &str) -> crate::common::http::Answer {
    with(node, &operator(), Request::delete(&format!("/auth/tokens/{id}")))
}

/// A token that may look, made at the first node, once all take it.
fn known_to_all(cluster: &Cluster) -> (String, String) {
    let made = made(&cluster.nodes[0], "t", &json!([{"actions": ["look"]}]), &json!({}));
    let token = format!("Bearer {}", made["token"].as_str().unwrap());
    for node in &cluster.nodes {
        until("the node takes the token", || get(node, &token, "/cluster").status == 200);
    }
    (token, made["id"].as_str().unwrap().to_owned())
}

#[test]
fn a_revoked_token_is_refused_by_every_node_also_by_one_that_was_away() {
    let mut cluster = Cluster::start_with(3, CLUSTER_ID, ON);
    let (token, id) = known_to_all(&cluster);
    cluster.node("n3").kill();
    let begun = Instant::now();
    assert_eq!(revoke(&cluster.nodes[0], &id).status, 204);
    for node in &cluster.nodes[..2] {
        until("it is refused", || get(node, &token, "/cluster").status == 401);
    }
    assert!(begun.elapsed() < IN_FORCE, "{:?}", begun.elapsed());
    // From its first answer on: it does not trust what it knew before it has asked the others.
    let away = cluster.node("n3");
    away.launch();
    let asked = Request::get("/cluster").header("Authorization", &token);
    until("the node that was away refuses it", || {
        let status = asked.try_send(away.client_addr).map(|answer| answer.status);
        assert!(matches!(status, None | Some(401 | 503)), "{status:?}");
        status == Some(401)
    });
    // A restart of all brings it back nowhere.
    for node in &mut cluster.nodes {
        node.kill();
        node.launch();
    }
    cluster.wait_until_ready();
    for node in &cluster.nodes {
        until("it is refused", || get(node, &token, "/cluster").status == 401);
    }
}

#[test]
fn a_node_without_a_majority_says_so_and_stops_taking_tokens() {
    let settings = format!("{ON}stale_ms = 5000\n");
    let mut cluster = Cluster::start_with(3, CLUSTER_ID, &settings);
    let (token, id) = known_to_all(&cluster);
    let (_, other) = known_to_all(&cluster);
    cluster.node("n2").kill();
    cluster.node("n3").kill();
    let node = &cluster.nodes[0];
    assert_eq!(get(node, &token, "/cluster").status, 200, "it was compared a moment ago");
    let refused = revoke(node, &other);
    refused.assert_problem(503, "no_token_quorum");
    let told = refused.json();
    assert_eq!((&told["acks"], &told["required"]), (&json!(1), &json!(2)));
    let wanted = json!({"name": "x", "scopes": [{"actions": ["look"]}]}).to_string();
    let make = Request::json("POST", "/auth/tokens", &wanted);
    with(node, &operator(), make).assert_problem(503, "no_token_quorum");
    until("tokens are refused", || get(node, &token, "/cluster").status == 503);
    get(node, &token, "/cluster").assert_problem(503, "auth_stale");
    assert_eq!(get(node, &operator(), "/cluster").status, 200, "in an emergency");
    assert_eq!(revoke(node, &id).status, 503);
    // What it could not tell the others it tells them when they are back.
    for name in ["n2", "n3"] {
        cluster.node(name).launch();
    }
    for node in &cluster.nodes {
        until("it is refused", || {
            let asked = Request::get("/cluster").header("Authorization", &token);
            asked.try_send(node.client_addr).is_some_and(|answer| answer.status == 401)
        });
    }
    let listed = get(&cluster.nodes[1], &operator(), "/auth/tokens").json();
    assert_eq!(listed["tokens"], json!([]), "that one was not made is known too");
}

/// What was let in before is not let go on for ever.
#[test]
fn a_stream_of_events_ends_with_its_token() {
    let cluster = Cluster::start_with(1, CLUSTER_ID, ON);
    let node = &cluster.nodes[0];
    let (token, id) = known_to_all(&cluster);
    let mut socket = Raw::connect(node.client_addr);
    let head = format!("GET /events HTTP/1.1\r\nHost: x\r\nAuthorization: {token}\r\n\r\n");
    socket.send(head.as_bytes());
    assert_eq!(socket.answer().unwrap().status, 200);
    assert!(!socket.is_closed(), "it goes on");
    assert_eq!(revoke(node, &id).status, 204);
    let begun = Instant::now();
    until("the stream ends", || socket.ends());
    assert!(begun.elapsed() < IN_FORCE, "{:?}", begun.elapsed());
}

#[test]
fn nodes_that_check_tokens_and_nodes_that_do_not_are_one_cluster() {
    let mut cluster = Cluster::start(2);
    let made = made(&cluster.nodes[0], "early", &json!([{"actions": ["look"]}]), &json!({}));
    let token = format!("Bearer {}", made["token"].as_str().unwrap());
    let node = cluster.node("n2");
    node.stop();
    let config = std::fs::read_to_string(node.config()).unwrap();
    let config = config.replacen("\n[layout]", &format!("\n{ON}\n[layout]"), 1);
    std::fs::write(node.config(), config).unwrap();
    node.launch();
    node.wait_until_ready();
    until("it takes the token", || get(node, &token, "/cluster").status == 200);
    assert_eq!(node.get("/cluster").status, 401);
    assert_eq!(cluster.nodes[0].get("/cluster").status, 200);
}
