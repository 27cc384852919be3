//! Background jobs: what each does, as operators see it.

use std::collections::BTreeSet;

use serde_json::Value;

use crate::common::{CLUSTER_ID, Cluster, Node, until};

fn jobs(node: &Node) -> Vec<Value> {
    node.get("/jobs").json()["jobs"].as_array().unwrap().clone()
}

/// The job of this name, for this peer.
fn job(node: &Node, name: &str, peer: Option<&str>) -> Value {
    let is_it = |job: &&Value| job["job"] == name && job["peer"].as_str() == peer;
    jobs(node).iter().find(is_it).unwrap_or_else(|| panic!("no {name} for {peer:?}")).clone()
}

#[test]
fn every_job_is_listed_with_what_it_does() {
    let cluster = Cluster::start(3);
    let node = &cluster.nodes[0];
    assert_eq!(node.get("/jobs").json()["node"], "n1");
    let all = jobs(node);
    let names: BTreeSet<(&str, Option<&str>)> =
        all.iter().map(|job| (job["job"].as_str().unwrap(), job["peer"].as_str())).collect();
    assert_eq!(names.len(), all.len(), "each once");
    for name in ["hello", "handoff", "anti_entropy"] {
        assert!(names.contains(&(name, Some("n2"))) && names.contains(&(name, Some("n3"))));
        assert!(!names.contains(&(name, Some("n1"))) && !names.contains(&(name, None)));
    }
    for name in ["fill", "reap", "reopen", "reassign", "handover", "scrub", "gossip"] {
        assert!(names.contains(&(name, None)), "{name}");
    }
    for job in &all {
        let (state, runs) = (job["state"].as_str().unwrap(), job["runs"].as_u64().unwrap());
        assert!(["waiting", "working", "paused", "ended"].contains(&state), "{job}");
        assert_eq!(state == "paused", job["reason"].is_string(), "{job}");
        assert_eq!(runs > 0, job["worked_at"].is_string() && job["took_us"].is_u64(), "{job}");
        assert_eq!(job["last_error"], Value::Null, "{job}");
    }
    let hello = job(node, "hello", Some("n2"));
    until("greetings go on", || {
        job(node, "hello", Some("n2"))["runs"].as_u64() > hello["runs"].as_u64()
    });
    assert_eq!(job(node, "distrusted", None)["state"], "ended", "nothing is set aside");
    let scrub = job(node, "scrub", None);
    assert!(scrub["share_percent"].is_u64() && scrub["share_now_percent"].is_f64(), "{scrub}");
    assert_eq!(hello["share_percent"], Value::Null);
    node.get("/jobs?x=1").assert_problem(400, "bad_parameter");
}

#[test]
fn a_paused_job_says_why() {
    let mut unformed = Cluster::unformed(2, CLUSTER_ID, "");
    unformed.node("n1").wait_until_alive();
    let node = &unformed.nodes[0];
    until("it waits to be formed", || job(node, "fill", None)["reason"] == "not admitted");
    let mut cluster = Cluster::start(3);
    cluster.node("n3").kill();
    let node = &cluster.nodes[0];
    until("the peer is down", || job(node, "handoff", Some("n3"))["reason"] == "peer down");
    assert_ne!(job(node, "handoff", Some("n2"))["state"], "paused");
    cluster.node("n3").start();
    let node = &cluster.nodes[0];
    until("the peer is back", || job(node, "handoff", Some("n3"))["state"] == "waiting");
}
