//! Listing keys: live ones, in order, page by page, and whether the list is complete.

use std::time::Duration;

use serde_json::{Value, json};

use crate::common::http::Request;
use crate::common::{Cluster, Node, until};

/// All pages of a listing, and whether all of them were complete.
fn list(node: &Node, query: &str) -> (Vec<String>, bool) {
    let (mut keys, mut complete, mut cursor) = (Vec::new(), true, String::new());
    loop {
        let answer = node.get(&format!("/keys/{query}{cursor}"));
        assert_eq!(answer.status, 200, "{}", answer.text());
        let page = answer.json();
        let listed: Vec<String> = serde_json::from_value(page["keys"].clone()).unwrap();
        assert_eq!(page["bucket"], query.split('?').next().unwrap());
        keys.extend(listed);
        complete &= page["complete"].as_bool().unwrap();
        match page["cursor"].as_str() {
            Some(next) => cursor = format!("&cursor={next}"),
            None => {
                assert_eq!(page["cursor"], Value::Null);
                return (keys, complete);
            }
        }
    }
}

#[test]
fn live_keys_are_listed_in_order_from_any_node_page_by_page() {
    let cluster = Cluster::start(5);
    let [a, b, c, ..] = &cluster.nodes[..] else { panic!("five nodes") };
    let mut expected: Vec<String> = (0..60).map(|i| format!("user/{i}")).collect();
    expected.extend(["ü".to_owned(), "a b&c=d?e".to_owned(), "zzz".to_owned()]);
    for key in &expected {
        let path: String = key.bytes().map(|byte| format!("%{byte:02X}")).collect();
        assert_eq!(a.send(&Request::put(&format!("/kv/list/{path}?w=all"), "v")).status, 204);
    }
    for other in ["lis", "list2", "LIST"] {
        a.send(&Request::put(&format!("/kv/{other}/user/1"), "v"));
    }
    expected.sort();
    for limit in [1, 7, 63, 1000] {
        let found = list(b, &format!("list?limit={limit}"));
        assert_eq!(found, (expected.clone(), true), "limit {limit}");
    }
    let page = c.get("/keys/list?limit=2").json();
    assert_eq!((&page["keys"], &page["complete"]), (&json!(expected[..2]), &json!(true)));
    let users: Vec<_> = expected.iter().filter(|key| key.starts_with("user/1")).cloned().collect();
    assert_eq!(list(c, "list?prefix=user%2F1&limit=4"), (users, true));
    assert_eq!(list(c, "list?prefix=x&limit=4"), (vec![], true));
    assert_eq!(c.get("/keys/nothing").json()["keys"], json!([]));

    // A deleted key is not listed; a conflict is, even one with a delete on one side.
    b.send(&Request::delete("/kv/list/user/0?w=all"));
    let seen = b.get("/kv/list/user/2").context().to_owned();
    b.send(&Request::put("/kv/list/user/1?w=all", "a conflict"));
    b.send(&Request::put("/kv/list/user/2?w=all", "not seen by the delete"));
    b.send(&Request::delete("/kv/list/user/2?w=all").context(&seen));
    expected.retain(|key| key != "user/0");
    assert_eq!(list(a, "list?limit=50"), (expected, true));
}

#[test]
fn a_listing_is_right_while_nodes_are_down_and_says_when_it_may_not_be() {
    let mut cluster = Cluster::start(5);
    let keys: Vec<String> = (0..80).map(|i| format!("k{i:02}")).collect();
    for key in &keys[..40] {
        let put = Request::put(&format!("/kv/b/{key}?w=all"), "v");
        assert_eq!(cluster.nodes[0].send(&put).status, 204);
    }
    cluster.nodes[1].kill();
    // Without n2 learning of it: new keys, and deletes of keys that it holds.
    for key in &keys[40..] {
        assert_eq!(cluster.nodes[0].send(&Request::put(&format!("/kv/b/{key}"), "v")).status, 204);
    }
    for key in &keys[..20] {
        assert_eq!(cluster.nodes[0].send(&Request::delete(&format!("/kv/b/{key}"))).status, 204);
    }
    assert_eq!(list(&cluster.nodes[2], "b?limit=9"), (keys[20..].to_vec(), true));
    // n2 comes back, and whatever it has received so far, the list is the same.
    cluster.nodes[1].start();
    cluster.nodes[1].wait_until_alive();
    until("n2 to be asked too", || {
        let found = list(&cluster.nodes[2], "b?limit=9");
        assert_eq!(found.0, keys[20..].to_vec());
        cluster.nodes[2].get("/cluster").json()["nodes"][1]["state"] == "up" && found.1
    });
    cluster.nodes[1].wait_until_ready();
    assert_eq!(list(&cluster.nodes[1], "b?limit=9"), (keys[20..].to_vec(), true));
    // With two of five down, some partitions have one home replica left.
    cluster.nodes[3].kill();
    cluster.nodes[4].kill();
    let (found, complete) = list(&cluster.nodes[0], "b?limit=30");
    assert!(!complete && found.iter().all(|key| keys[20..].contains(key)), "{found:?}");
    cluster.nodes[3].start();
    cluster.nodes[4].start();
    until("the list to be complete again", || {
        std::thread::sleep(Duration::from_millis(50));
        list(&cluster.nodes[0], "b?limit=30") == (keys[20..].to_vec(), true)
    });
}

#[test]
fn wrong_listings_are_refused_by_name() {
    let cluster = Cluster::start(1);
    let node = &cluster.nodes[0];
    for key in ["a", "b", "c"] {
        node.send(&Request::put(&format!("/kv/one/{key}"), "v"));
    }
    let cursor = node.get("/keys/one?limit=1").json()["cursor"].as_str().unwrap().to_owned();
    let next = node.get(&format!("/keys/one?limit=1&cursor={cursor}")).json();
    assert_eq!(next["keys"], json!(["b"]));
    let long = format!("one?prefix={}", "k".repeat(1025));
    for (query, name) in [
        ("one?limit=0", "limit"),
        ("one?limit=1001", "limit"),
        ("one?limit=x", "limit"),
        ("one?limit=1&limit=1", "limit"),
        ("one?r=1", "r"),
        ("one?prefix=%FF", "prefix"),
        ("one?prefix=%00", "prefix"),
        (long.as_str(), "prefix"),
        ("one?cursor=", "cursor"),
        ("one?cursor=%21", "cursor"),
        ("one?cursor=AAAA", "cursor"),
        (&format!("two?cursor={cursor}"), "cursor"),
        (&format!("one?prefix=a&cursor={cursor}"), "cursor"),
        (&format!("one?cursor={}", &cursor[1..]), "cursor"),
    ] {
        let detail = node.get(&format!("/keys/{query}")).assert_problem(400, "bad_parameter");
        assert!(detail.starts_with(name), "{query}: {detail}");
    }
    for bad in ["/keys/a%20b", "/keys/a/b", "/keys/..", "/keys/%zz"] {
        node.get(bad).assert_problem(400, "bad_path");
    }
    for bad in ["/keys", "/keys/"] {
        node.get(bad).assert_problem(404, "no_such_route");
    }
    node.send(&Request::delete("/keys/one")).assert_problem(405, "method_not_allowed");
}
