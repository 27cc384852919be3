//! Values that merge by themselves.

use serde_json::{Value, json};

use crate::common::http::{Answer, Request};
use crate::common::{Cluster, Node, until};

fn give_type(node: &Node, bucket: &str, data_type: &str) {
    let wanted = json!({"type": data_type}).to_string();
    let put = node.send(&Request::json("PUT", &format!("/buckets/{bucket}"), &wanted));
    assert_eq!((put.status, &put.json()["type"]), (200, &json!(data_type)), "{}", put.text());
}

fn change(node: &Node, path: &str, operation: &Value) -> Answer {
    node.send(&Request::json("POST", path, &operation.to_string()))
}

fn done(node: &Node, path: &str, operation: &Value) {
    let answer = change(node, path, operation);
    assert_eq!(answer.status, 204, "{}", answer.text());
}

fn value(node: &Node, path: &str) -> Value {
    let answer = node.get(path);
    assert_eq!(answer.status, 200, "{}", answer.text());
    answer.json()["value"].clone()
}

/// A change that removes, by a client that has read the key here.
fn change_seen(node: &Node, path: &str, operation: &Value) -> Answer {
    let seen = node.get(path);
    let request = Request::json("POST", path, &operation.to_string());
    node.send(&request.context(seen.context()))
}

#[test]
fn every_type_is_changed_and_read_through_any_node() {
    let cluster = Cluster::start(3);
    let [a, b, c] = &cluster.nodes[..] else { panic!("three nodes") };
    for data_type in ["counter", "set", "flag", "map", "register_lww", "hll"] {
        give_type(a, data_type, data_type);
    }
    let nothing = b.get("/types/counter/k").json();
    assert_eq!(nothing, json!({"type": "counter", "value": 0, "exists": false}));
    done(a, "/types/counter/k", &json!({"increment": 5}));
    done(b, "/types/counter/k", &json!({"increment": -7}));
    assert_eq!(value(c, "/types/counter/k"), json!(-2));

    done(a, "/types/set/k", &json!({"add": ["b", "a"]}));
    change(b, "/types/set/k", &json!({"remove": ["a"]})).assert_problem(422, "context_needed");
    assert_eq!(change_seen(b, "/types/set/k", &json!({"remove": ["a"], "add": ["c"]})).status, 204);
    assert_eq!(value(c, "/types/set/k"), json!(["b", "c"]));

    done(c, "/types/flag/k", &json!({"enable": true}));
    assert_eq!(value(a, "/types/flag/k"), json!(true));
    assert_eq!(change_seen(a, "/types/flag/k", &json!({"enable": false})).status, 204);
    assert_eq!(value(b, "/types/flag/k"), json!(false));

    done(a, "/types/register_lww/k", &json!({"assign": "first"}));
    done(b, "/types/register_lww/k", &json!({"assign": "second"}));
    assert_eq!(value(c, "/types/register_lww/k"), json!("second"));

    let map = json!({"update": {"name": {"register_lww": "Ann"}, "tags": {"set": {"add": ["x"]}}}});
    done(a, "/types/map/k", &map);
    done(b, "/types/map/k", &json!({"update": {"tags": {"set": {"add": ["y"]}, "flag": true}}}));
    let shown = json!({"name": {"register_lww": "Ann"}, "tags": {"set": ["x", "y"], "flag": true}});
    assert_eq!(value(c, "/types/map/k"), shown);
    assert_eq!(change_seen(c, "/types/map/k", &json!({"remove": ["tags"]})).status, 204);
    assert_eq!(value(a, "/types/map/k"), json!({"name": {"register_lww": "Ann"}}));

    let many: Vec<String> = (0..500).map(|number| format!("visitor {number}")).collect();
    done(a, "/types/hll/k", &json!({"add": many[..300]}));
    done(b, "/types/hll/k", &json!({"add": many[200..]}));
    let estimate = value(c, "/types/hll/k").as_u64().unwrap();
    assert!((490..=510).contains(&estimate), "{estimate}");

    for (at, bucket, request) in [
        (a, "set", Request::get("/types/set/k?explain=true")),
        (b, "flag", Request::json("POST", "/types/flag/k?explain=true", r#"{"enable": true}"#)),
    ] {
        let explained = at.send(&request);
        let id = explained.header("quorate-explain").unwrap();
        let trace = at.get(&format!("/explain/{id}"));
        assert_eq!((trace.status, &trace.json()["bucket"]), (200, &json!(bucket)));
    }

    // One read says what is there, and what to send back.
    let read = b.get("/types/set/k");
    let again =
        b.send(&Request::get("/types/set/k").header("If-None-Match", read.header("etag").unwrap()));
    assert_eq!(again.status, 304);
    let shown = change_with_body(a, "/types/counter/k", &json!({"increment": 1}));
    assert_eq!(shown, json!({"type": "counter", "value": -1, "exists": true}));
    let inspected = a.get("/siblings/counter/k").json();
    assert_eq!((&inspected["type"], &inspected["conflict"]), (&json!("counter"), &json!(false)));
    assert_eq!(inspected["siblings"][0]["part"], "count");
    assert!(a.get("/siblings").json()["keys"].as_array().unwrap().is_empty(), "no conflict");
    assert_eq!(a.get("/keys/counter").json()["keys"].as_array().unwrap().len(), 1);
    assert_eq!(b.send(&Request::delete("/types/counter/k")).status, 204);
    assert_eq!(c.get("/types/counter/k").json()["exists"], false);
    assert!(a.get("/keys/counter").json()["keys"].as_array().unwrap().is_empty());
}

fn change_with_body(node: &Node, path: &str, operation: &Value) -> Value {
    let answer = change(node, &format!("{path}?return_body=true"), operation);
    assert_eq!(answer.status, 200, "{}", answer.text());
    assert!(answer.header("quorate-siblings").is_none());
    answer.json()
}

/// 100 in the account; +20 on one side, -30 on the other, while neither hears of the other.
#[test]
fn both_sides_of_a_partition_change_one_value_and_nothing_is_lost() {
    let cluster = Cluster::start(3);
    let [a, b, c] = &cluster.nodes[..] else { panic!("three nodes") };
    give_type(a, "accounts", "counter");
    give_type(a, "carts", "set");
    done(a, "/types/accounts/ann?w=3", &json!({"increment": 100}));
    done(a, "/types/carts/ann?w=3", &json!({"add": ["book", "pen"]}));
    let cut = |from: &Node, peers: &[&str]| {
        let cuts = json!({"cut_in": peers, "cut_out": peers}).to_string();
        let answer = Request::json("PUT", "/fault", &cuts).send(from.peer_addr);
        assert_eq!(answer.status, 204, "{}", answer.text());
    };
    cut(a, &["n2", "n3"]);
    done(a, "/types/accounts/ann?w=1", &json!({"increment": 20}));
    done(b, "/types/accounts/ann?w=1", &json!({"increment": -30}));
    // An add that a remove has not seen survives it.
    done(a, "/types/carts/ann?w=1", &json!({"add": ["pen"]}));
    let seen = b.get("/types/carts/ann");
    let remove = Request::json("POST", "/types/carts/ann?w=1", r#"{"remove":["book","pen"]}"#);
    assert_eq!(b.send(&remove.context(seen.context())).status, 204);
    assert_eq!(value(a, "/types/accounts/ann?r=1"), json!(120));
    assert_eq!(value(b, "/types/accounts/ann"), json!(70));
    cut(a, &[]);
    for node in [a, b, c] {
        until("the account shows all", || value(node, "/types/accounts/ann?r=1") == json!(90));
        until("the pen is there", || value(node, "/types/carts/ann?r=1") == json!(["pen"]));
    }
    assert!(a.get("/siblings").json()["keys"].as_array().unwrap().is_empty(), "no conflict");
}

#[test]
fn a_type_is_set_before_there_are_keys_and_stays() {
    let cluster = Cluster::start(3);
    let [a, b, _] = &cluster.nodes[..] else { panic!("three nodes") };
    assert_eq!(a.send(&Request::put("/kv/values/k", "v")).status, 204);
    let set = |bucket: &str, wanted: &str| {
        b.send(&Request::json("PUT", &format!("/buckets/{bucket}"), wanted))
    };
    set("values", r#"{"type": "set"}"#).assert_problem(409, "bucket_not_empty");
    b.get("/types/values/k").assert_problem(409, "wrong_type");
    change(a, "/types/values/k", &json!({"add": ["x"]})).assert_problem(409, "wrong_type");
    assert_eq!(a.get("/kv/values/k").text(), "v");

    give_type(a, "sets", "set");
    done(a, "/types/sets/k", &json!({"add": ["x"]}));
    set("sets", r#"{"type": "counter"}"#).assert_problem(409, "wrong_type");
    set("sets", r#"{"type": "value"}"#).assert_problem(409, "wrong_type");
    set("sets", r#"{"conflicts": "lww"}"#).assert_problem(409, "wrong_type");
    let changed = set("sets", r#"{"n": 2}"#).json();
    assert_eq!((&changed["type"], &changed["n"]), (&json!("set"), &json!(2)));
    assert_eq!(b.send(&Request::delete("/buckets/sets")).status, 204);
    let reset = b.get("/buckets/sets").json();
    assert_eq!((&reset["type"], &reset["n"]), (&json!("set"), &json!(3)));
    assert_eq!(value(b, "/types/sets/k"), json!(["x"]));

    b.send(&Request::put("/kv/sets/k", "v")).assert_problem(409, "wrong_type");
    b.get("/kv/sets/k").assert_problem(409, "wrong_type");
    let wrong =
        change(b, "/types/sets/k", &json!({"increment": 1})).assert_problem(400, "bad_body");
    assert!(wrong.contains("unknown field `increment`"), "{wrong}");
    let conditional = Request::json("POST", "/types/sets/k", r#"{"add":["y"]}"#);
    b.send(&conditional.header("If-Match", "*")).assert_problem(400, "bad_header");
    let stale = Request::json("POST", "/types/sets/k", r#"{"remove":["x"]}"#).context("garbage");
    b.send(&stale).assert_problem(400, "bad_context");
    let large = json!({"add": ["e".repeat(5_000)]});
    change(b, "/types/sets/k", &large).assert_problem(400, "bad_body");
    let many: Vec<String> = (0..10_000).map(|number| number.to_string()).collect();
    change(b, "/types/sets/k", &json!({"add": many})).assert_problem(422, "object_too_large");
    assert_eq!(value(a, "/types/sets/k"), json!(["x"]));
}

/// A repeated increment with the same key is done once, whatever came between.
#[test]
fn an_increment_that_is_repeated_with_its_key_counts_once() {
    let cluster = Cluster::start(3);
    let [a, b, c] = &cluster.nodes[..] else { panic!("three nodes") };
    give_type(a, "c", "counter");
    let increment = |by: i64, key: &str| {
        let increment = json!({"increment": by}).to_string();
        Request::json("POST", "/types/c/k", &increment).header("Idempotency-Key", key)
    };
    for (node, by, key) in
        [(a, 5, "order-17"), (b, 5, "order-17"), (c, 7, "order-18"), (a, 5, "order-17")]
    {
        assert_eq!(node.send(&increment(by, key)).status, 204);
        done(node, "/types/c/k", &json!({"increment": 100}));
    }
    assert_eq!(value(b, "/types/c/k"), json!(412));
    b.send(&increment(6, "order-17")).assert_problem(422, "idempotency_key_reused");
}
