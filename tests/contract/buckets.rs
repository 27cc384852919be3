//! Bucket properties.

use serde_json::json;

use crate::common::http::Request;
use crate::common::{Cluster, Node, until};

#[test]
fn properties_are_set_everywhere_and_reset() {
    let cluster = Cluster::start(3);
    let [a, b, c] = &cluster.nodes[..] else { panic!("three nodes") };
    let defaults = json!({"n": 3, "r": "quorum", "w": "quorum", "conflicts": "siblings",
            "type": "value", "sloppy": true, "expires_in_s": null,
            "feed_retention_s": null});
    assert_eq!(a.get("/buckets/carts").json(), defaults);
    let wanted = json!({"n": 2, "r": "one", "w": 2, "conflicts": "lww", "sloppy": false});
    let put = a.send(&Request::json("PUT", "/buckets/carts", &wanted.to_string()));
    let mut complete = wanted.clone();
    complete["type"] = json!("value");
    complete["expires_in_s"] = json!(null);
    complete["feed_retention_s"] = json!(null);
    assert_eq!((put.status, put.json()), (200, complete.clone()), "{}", put.text());
    for node in [a, b, c] {
        assert_eq!(node.get("/buckets/carts").json(), complete, "known as soon as answered");
    }
    let list = b.get("/buckets").json();
    assert_eq!(list["defaults"], defaults);
    assert_eq!(list["buckets"][0]["bucket"], "carts");
    assert_eq!(list["buckets"][0]["set"], wanted);

    // A PUT replaces all: what it does not say follows the defaults.
    let put = b.send(&Request::json("PUT", "/buckets/carts", r#"{"w": "all"}"#));
    assert_eq!(put.json()["w"], "all");
    assert_eq!((&put.json()["n"], &put.json()["sloppy"]), (&json!(3), &json!(true)));
    assert_eq!(c.send(&Request::delete("/buckets/carts")).status, 204);
    assert_eq!(a.get("/buckets/carts").json(), defaults);
    assert_eq!(a.get("/buckets").json()["buckets"], json!([]));
}

#[test]
fn impossible_and_unknown_properties_are_refused_by_name() {
    let cluster = Cluster::start(3);
    let node = &cluster.nodes[0];
    for (bad, name) in [
        (r#"{"n": 0}"#, "n"),
        (r#"{"n": 4}"#, "n"),
        (r#"{"n": -1}"#, "n"),
        (r#"{"n": "all"}"#, "n"),
        (r#"{"n": 70000}"#, "n"),
        (r#"{"r": 4}"#, "r"),
        (r#"{"r": 0}"#, "r"),
        (r#"{"n": 2, "w": 3}"#, "w"),
        (r#"{"w": "most"}"#, "w"),
        (r#"{"conflicts": "merge"}"#, "conflicts"),
        (r#"{"sloppy": "yes"}"#, "sloppy"),
        (r#"{"x": 1}"#, "x"),
        (r#"{"n": 2, "n": 2}"#, "n"),
        ("", ""),
        ("[]", ""),
        ("{", ""),
    ] {
        let answer = node.send(&Request::json("PUT", "/buckets/b", bad));
        let detail = answer.assert_problem(400, "bad_body");
        assert!(detail.starts_with(name), "{bad}: {detail}");
    }
    let form = Request::new("PUT", "/buckets/b").header("Content-Type", "text/plain").body("{}");
    node.send(&form).assert_problem(415, "unsupported_media_type");
    let huge = format!("{{\"n\": {}1}}", " ".repeat(20_000));
    node.send(&Request::json("PUT", "/buckets/b", &huge)).assert_problem(413, "too_large");
    for bad in ["/buckets/a%20b", "/buckets/a/b", "/buckets/..", "/buckets/%zz"] {
        node.get(bad).assert_problem(400, "bad_path");
        node.send(&Request::delete(bad)).assert_problem(400, "bad_path");
    }
    assert_eq!(node.get("/buckets").json()["buckets"], json!([]));
}

/// Both sides of a partition change one bucket, and afterwards all nodes agree on the later change.
#[test]
fn changes_on_both_sides_of_a_partition_are_reconciled() {
    let cluster = Cluster::start(3);
    let [a, b, c] = &cluster.nodes[..] else { panic!("three nodes") };
    let cut = |from: &Node, peers: &[&str]| {
        let cuts = json!({"cut_in": peers, "cut_out": peers}).to_string();
        let answer = Request::json("PUT", "/fault", &cuts).send(from.peer_addr);
        assert_eq!(answer.status, 204, "{}", answer.text());
    };
    cut(a, &["n2", "n3"]);
    let set = |node: &Node, properties: &str| {
        let put = node.send(&Request::json("PUT", "/buckets/carts", properties));
        assert_eq!(put.status, 200, "{}", put.text());
    };
    set(a, r#"{"n": 1}"#);
    set(b, r#"{"n": 2, "conflicts": "lww"}"#);
    set(a, r#"{"w": "all"}"#);
    assert_eq!(a.get("/buckets/carts").json()["w"], "all");
    assert_eq!(c.get("/buckets/carts").json()["conflicts"], "lww");
    cut(a, &[]);
    until("the later change to be known everywhere", || {
        [a, b, c].iter().all(|node| {
            let properties = node.get("/buckets/carts").json();
            (&properties["w"], &properties["n"]) == (&json!("all"), &json!(3))
        })
    });
}

/// A node that was down while a bucket was changed knows it when it is back, and does not consider
/// itself a home replica that was sent every write.
#[test]
fn a_node_that_was_down_learns_of_changes_and_is_no_old_home_replica() {
    let mut cluster = Cluster::start(3);
    let put = |cluster: &Cluster, properties: &str| {
        let put = cluster.nodes[0].send(&Request::json("PUT", "/buckets/b", properties));
        assert_eq!(put.status, 200, "{}", put.text());
    };
    // n3 is the last home replica of these keys: with n = 2 it is not one.
    let keys: Vec<String> = (0..200)
        .map(|i| format!("k{i}"))
        .filter(|key| cluster.preference_list("b", key)[2] == "n3")
        .take(20)
        .collect();
    put(&cluster, r#"{"r": 1}"#);
    cluster.nodes[2].kill();
    put(&cluster, r#"{"n": 2}"#);
    for key in &keys {
        let write = Request::put(&format!("/kv/b/{key}?w=all"), "v");
        assert_eq!(cluster.nodes[0].send(&write).status, 204, "n3 is not asked");
    }
    put(&cluster, r#"{"n": 3}"#);
    cluster.nodes[2].start();
    cluster.nodes[2].wait_until_alive();
    until("n3 to take requests", || cluster.nodes[2].get("/readyz").status == 200);
    let known = |node: &Node| node.get("/buckets").json()["buckets"].clone();
    assert_eq!(known(&cluster.nodes[2]), known(&cluster.nodes[0]), "it takes none before it knows");
    // Filled or not, it never reports a key as never written.
    until("n3 to be filled", || {
        for key in &keys {
            let read = cluster.nodes[2].get(&format!("/kv/b/{key}?r=1"));
            assert_eq!((read.status, read.text().as_str()), (200, "v"), "{key}");
        }
        let report = cluster.nodes[0].get(&format!("/siblings/b/{}", keys[0])).json();
        report["replicas"][2]["state"] == "ok"
    });
}
