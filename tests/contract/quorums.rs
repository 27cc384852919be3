//! What N, R and W promise when nodes are down or silent, and that the answers are accurate.

use serde_json::json;

use crate::common::Cluster;
use crate::common::http::Request;

#[test]
fn a_strict_write_that_misses_a_home_replica_says_so_and_a_sloppy_one_leaves_a_hint() {
    let mut cluster = Cluster::start(5);
    let list = cluster.preference_list("b", "k");
    cluster.node(&list[2]).kill();
    let home = cluster.node(&list[0]).client_addr;
    let strict = Request::put("/kv/b/k?w=3&sloppy=false&timeout_ms=3000", "1").send(home);
    strict.assert_problem(503, "no_quorum");
    let facts = strict.json();
    assert_eq!(facts["required"], 3, "{facts}");
    // It is answered as soon as W=3 is impossible: the second may not have answered yet.
    assert!(facts["acks"] == 1 || facts["acks"] == 2, "{facts}");
    assert_eq!((&facts["outcome"], &facts["replicas"]), (&json!("partial"), &json!(3)), "{facts}");
    assert_eq!(strict.header("retry-after"), Some("1"));
    let context = Request::get("/kv/b/k").send(home).context().to_owned();

    let sloppy = Request::put("/kv/b/k?w=3", "2").context(&context).send(home);
    assert_eq!(sloppy.status, 204, "{}", sloppy.text());
    assert_eq!(
        (sloppy.header("quorate-acks"), sloppy.header("quorate-hints")),
        (Some("3"), Some("1"))
    );
    let report = Request::get("/siblings/b/k").send(home).json();
    let dead = &report["replicas"][2];
    assert_eq!((&dead["node"], &dead["state"]), (&json!(list[2]), &json!("unreachable")));
    assert_eq!(dead["hints"].as_array().unwrap().len(), 1, "{report}");
    let fallback = cluster.node(&list[3]).client_addr;
    for node in [home, fallback] {
        let read = Request::get("/kv/b/k?r=3").send(node);
        assert_eq!((read.status, read.text().as_str()), (200, "2"), "the hint holder counts");
        let strict = Request::get("/kv/b/k?r=3&sloppy=false&timeout_ms=3000").send(node);
        strict.assert_problem(503, "no_read_quorum");
        assert_eq!(strict.json()["required"], 3);
    }
}

#[test]
fn a_silent_node_delays_no_client_for_long() {
    let mut cluster = Cluster::start(3);
    let list = cluster.preference_list("b", "k");
    let home = cluster.node(&list[0]).client_addr;
    cluster.node(&list[1]).pause();
    for i in 0..5 {
        let path = format!("/kv/b/k{i}?timeout_ms=5000");
        let written = Request::put(&path, "1").send(home);
        assert_eq!(written.status, 204, "{}", written.text());
        assert_eq!(Request::get(&path).send(home).text(), "1");
    }
    cluster.node(&list[1]).resume();
    cluster.node(&list[1]).wait_until_ready();
}

#[test]
fn a_read_of_all_repairs_a_replica_that_missed_a_write() {
    let mut cluster = Cluster::start(3);
    let list = cluster.preference_list("b", "k");
    let home = cluster.node(&list[0]).client_addr;
    cluster.node(&list[2]).kill();
    let written = Request::put("/kv/b/k", "1").send(home);
    assert_eq!(written.status, 204, "{}", written.text());
    cluster.node(&list[2]).start();
    cluster.node(&list[2]).wait_until_ready();
    let state = || {
        let report = Request::get("/siblings/b/k").send(home).json();
        report["replicas"][2]["state"].as_str().unwrap().to_owned()
    };
    crate::common::until("a read of all to repair the replica", || {
        let read = Request::get("/kv/b/k?r=all&timeout_ms=2000").send(home);
        read.status == 200 && state() == "ok"
    });
}
