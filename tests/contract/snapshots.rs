//! Settings that change while a request is in flight, and settings that differ between nodes.

use std::fs;

use serde_json::json;

use crate::common::http::{Raw, Request};
use crate::common::{Cluster, Node, until};

fn set_n(node: &Node, n: u16) {
    let put = node.send(&Request::json("PUT", "/buckets/b", &format!("{{\"n\": {n}}}")));
    assert_eq!(put.status, 200, "{}", put.text());
}

/// The bucket has three replicas when a request's head is read, and one when its body is.
#[test]
fn an_upload_outlives_a_lowered_n() {
    let mut cluster = Cluster::start(3);
    for (query, expected) in [("", 204), ("?w=3", 400)] {
        for at in 0..3 {
            let node = &cluster.nodes[at];
            set_n(node, 3);
            let mut upload = Raw::connect(node.client_addr);
            let head = format!(
                "PUT /kv/b/k{at}{query} HTTP/1.1\r\nHost: x\r\nExpect: 100-continue\r\n\
                 Content-Length: 1\r\n\r\n"
            );
            upload.send(head.as_bytes());
            // "Continue": the head has been read and accepted.
            assert_eq!(upload.answer().unwrap().status, 100);
            set_n(node, 1);
            upload.send(b"x");
            let answer = upload.answer().unwrap();
            assert_eq!(answer.status, expected, "{query}: {}", answer.text());
            if expected == 400 {
                let detail = answer.assert_problem(400, "bad_parameter");
                assert_eq!(detail, "w: must be from 1 to n (1), not 3");
            }
        }
    }
    cluster.nodes.iter_mut().for_each(Node::assert_alive);
}

/// Conditional writes meet at one home replica, through whichever node, however low their n.
#[test]
fn of_two_narrow_creations_through_two_homes_one_succeeds() {
    let cluster = Cluster::start(3);
    for at in 0..8 {
        let key = format!("k{at}");
        let create = |node: &Node| {
            let path = format!("/kv/b/{key}?n=1&w=1");
            node.send(&Request::put(&path, "x").header("If-None-Match", "*")).status
        };
        let [a, b, c] = &cluster.nodes[..] else { panic!("three nodes") };
        assert_eq!([create(a), create(b), create(c)], [204, 412, 412], "{key}");
    }
}

fn set_clock(node: &Node, ahead_ms: i64) {
    let fault = json!({"clock_ahead_ms": ahead_ms}).to_string();
    let answer = Request::json("PUT", "/fault", &fault).send(node.peer_addr);
    assert_eq!(answer.status, 204, "{}", answer.text());
}

const TWO_HOURS_MS: i64 = 7_200_000;

/// One clock is wrong: no writes fail, and what was written under it can be overwritten later.
#[test]
fn a_wrong_clock_does_no_harm_and_is_reported() {
    let cluster = Cluster::start(3);
    let wrong = &cluster.nodes[1];
    set_clock(wrong, TWO_HOURS_MS);
    for (at, node) in cluster.nodes.iter().cycle().take(60).enumerate() {
        let put = node.send(&Request::put(&format!("/kv/b/k{at}?w=3"), "1"));
        assert_eq!(put.status, 204, "{}", put.text());
    }
    until("the wrong clock to be noticed", || {
        wrong.get("/cluster").json()["clock_corrected"] == true
    });
    let ahead_ms = wrong.get("/cluster").json()["clock_ahead_ms"].as_i64().unwrap();
    assert!((TWO_HOURS_MS - 10_000..TWO_HOURS_MS + 10_000).contains(&ahead_ms), "{ahead_ms}");
    until("the log to say so", || wrong.log_text().contains("clock is over a minute off"));
    assert_eq!(cluster.nodes[0].get("/cluster").json()["clock_corrected"], false);
    // By now it stamps with the cluster's time: a later write elsewhere wins.
    let put = Request::json("PUT", "/buckets/last", "{\"conflicts\": \"lww\"}");
    assert_eq!(wrong.send(&put).status, 200);
    assert_eq!(wrong.send(&Request::put("/kv/last/k", "early")).status, 204);
    assert_eq!(cluster.nodes[0].send(&Request::put("/kv/last/k", "late")).status, 204);
    assert_eq!(cluster.nodes[2].get("/kv/last/k?r=3").text(), "late");
    set_clock(wrong, 0);
    for (at, node) in cluster.nodes.iter().cycle().take(60).enumerate() {
        let path = format!("/kv/b/k{at}");
        let read = node.get(&path);
        let put = node.send(&Request::put(&path, "2").context(read.context()));
        assert_eq!((put.status, put.header("quorate-siblings")), (204, Some("1")), "{path}");
        assert_eq!(node.send(&Request::delete(&path)).status, 204);
    }
    until("the clock to be right again", || {
        wrong.get("/cluster").json()["clock_corrected"] == false
    });
}

/// All clocks were an hour ahead while data was written, then corrected: everything stays writable,
/// and a node that lost its disk fills.
#[test]
fn data_from_the_future_is_updated_deleted_and_filled() {
    let mut cluster = Cluster::start(3);
    let all_ahead =
        |cluster: &Cluster, ms| cluster.nodes.iter().for_each(|node| set_clock(node, ms));
    all_ahead(&cluster, TWO_HOURS_MS / 2);
    let put = |node: &Node, path: &str, value: &str, context: Option<&str>| {
        let put = Request::put(path, value);
        node.send(&context.into_iter().fold(put, Request::context)).status
    };
    for at in 0..30 {
        assert_eq!(put(&cluster.nodes[0], &format!("/kv/b/k{at}?w=3"), "1", None), 204);
    }
    all_ahead(&cluster, 0);
    for at in 0..10 {
        let path = format!("/kv/b/k{at}");
        let read = cluster.nodes[1].get(&path);
        assert_eq!(put(&cluster.nodes[1], &path, "2", Some(read.context())), 204);
        assert_eq!(put(&cluster.nodes[2], &format!("/kv/b/k{}", at + 10), "2", None), 204);
        let path = format!("/kv/b/k{}", at + 20);
        assert_eq!(cluster.nodes[0].send(&Request::delete(&path)).status, 204);
        assert_eq!(cluster.nodes[1].get(&path).status, 404);
    }
    let third = &mut cluster.nodes[2];
    third.kill();
    third.wipe();
    third.start();
    third.wait_until_ready();
    for at in 0..10 {
        assert_eq!(third.get(&format!("/kv/b/k{at}?r=1&sloppy=false")).text(), "2");
    }
}

/// A node with a different default n takes no part; if it already has data, it does not even start.
#[test]
fn another_default_n_is_refused_by_peers_and_by_the_store() {
    let settings = "[timeouts]\nprobe_ms = 100\n";
    let mut cluster = Cluster::start_with(3, "test", settings);
    let node = &mut cluster.nodes[2];
    let written = node.send(&Request::put("/kv/b/k?w=3", "1"));
    assert_eq!(written.status, 204);
    node.stop();
    let config = fs::read_to_string(node.config()).unwrap();
    fs::write(node.config(), format!("{config}\n[defaults]\nn = 1\n")).unwrap();
    node.start();
    until("the node to refuse to start", || node.ended().is_some());
    node.forget();
    assert!(node.log_text().contains("defaults.n makes 1 replicas"), "{}", node.log_text());
    // With an empty disk it starts, and its peers tell it.
    node.wipe();
    node.start();
    node.wait_until_alive();
    until("the refusal to be logged", || node.log_text().contains("defaults.n = "));
    node.send(&Request::put("/kv/b/other?w=1", "2")).assert_problem(503, "not_formed");
    node.stop();
    fs::write(node.config(), config).unwrap();
    node.start();
    // Its peers notice that its disk was wiped: it starts over, at some moment, and fills.
    until("the node to hold the value again", || {
        node.wait_until_ready();
        let read = Request::get("/kv/b/k?r=3").try_send(node.client_addr);
        read.is_some_and(|read| read.status == 200 && read.text() == "1")
    });
}

/// Settings that decide what is promised, not where keys are: requests are served, and the mismatch
/// is reported.
#[test]
fn another_grace_is_told_by_every_node() {
    let mut cluster = Cluster::start(2);
    let node = &mut cluster.nodes[1];
    node.stop();
    let config = fs::read_to_string(node.config()).unwrap();
    fs::write(node.config(), format!("{config}\n[deletes]\ngrace_ms = 5000\n")).unwrap();
    node.start();
    node.wait_until_ready();
    until("both to tell of it", || {
        let tells = |node: &Node| {
            let cluster = node.get("/cluster").json();
            let disagrees = |peer: &serde_json::Value| {
                peer["disagrees"].to_string().contains("deletes.grace_ms")
            };
            cluster["nodes"].as_array().unwrap().iter().any(disagrees)
                && node.get("/metrics").text().contains("quorate_peers_disagreeing 1")
        };
        cluster.nodes.iter().all(tells)
    });
}
