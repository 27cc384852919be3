//! Ring, cluster, health, metrics; unknown routes and methods; request ids.

use serde_json::{Value, json};

use crate::common::http::Request;
use crate::common::{CLUSTER_ID, Cluster};

#[test]
fn the_ring_the_cluster_and_the_numbers() {
    let cluster = Cluster::start(5);
    let node = &cluster.nodes[0];
    let ring = node.get("/ring").json();
    assert_eq!((&ring["partitions"], &ring["version"]), (&json!(1024), &json!(1)));
    assert_eq!(ring["nodes"].as_array().unwrap().len(), 5);
    let placed: u64 =
        ring["nodes"].as_array().unwrap().iter().map(|n| n["partitions"].as_u64().unwrap()).sum();
    assert_eq!(placed, 3 * 1024);
    let key = node.get("/ring/carts/user%2F7").json();
    assert_eq!(key, cluster.nodes[4].get("/ring/carts/user/7").json());
    assert_eq!(key["preference_list"].as_array().unwrap().len(), 5);
    let partition = key["partition"].as_u64().unwrap() as usize;

    let all = node.get("/ring/partitions").json();
    assert_eq!((&all["version"], &all["n"]), (&json!(1), &json!(3)));
    let homes = all["homes"].as_array().unwrap();
    assert_eq!(homes.len(), 1024);
    let named = |place: &Value| all["nodes"][place.as_u64().unwrap() as usize].clone();
    let of_key: Vec<Value> = homes[partition].as_array().unwrap().iter().map(named).collect();
    assert_eq!(of_key, key["preference_list"].as_array().unwrap()[..3]);

    let view = node.get("/cluster").json();
    assert_eq!((&view["node"], &view["ready"]), (&json!("n1"), &json!(true)));
    let states: Vec<&str> =
        view["nodes"].as_array().unwrap().iter().map(|n| n["state"].as_str().unwrap()).collect();
    assert_eq!(states, ["self", "up", "up", "up", "up"], "{view}");
    let addr_of = |n: &Value| n["http_addr"].as_str().unwrap_or_default().to_owned();
    let told: Vec<String> = view["nodes"].as_array().unwrap().iter().map(addr_of).collect();
    let listening: Vec<String> = cluster.nodes.iter().map(|n| n.client_addr.to_string()).collect();
    assert_eq!(told, listening, "clients find every node from one");

    assert_eq!(node.get("/livez").status, 200);
    assert_eq!(node.get("/readyz").json()["ready"], true);
    node.send(&Request::put("/kv/b/k", "1"));
    node.get("/kv/b/never");
}

#[test]
fn unknown_routes_and_methods_are_problems_too() {
    let cluster = Cluster::start(1);
    let node = &cluster.nodes[0];
    for path in ["/nothing", "/kv", "/kvx/b/k", "//kv/b/k", "/peer", "/fault", "/livez/"] {
        node.get(path).assert_problem(404, "no_such_route");
    }
    for (method, path, allowed) in [
        ("POST", "/kv/b/k", "GET,HEAD,PUT,DELETE"),
        ("PATCH", "/kv/b/k", "GET,HEAD,PUT,DELETE"),
        ("DELETE", "/siblings/b/k", "GET,HEAD,POST"),
        ("POST", "/siblings", "GET,HEAD"),
        ("POST", "/buckets/b", "PUT,GET,HEAD,DELETE"),
        ("PUT", "/ring", "GET,HEAD"),
        ("BREW", "/livez", "GET,HEAD"),
    ] {
        let answer = node.send(&Request::new(method, path));
        answer.assert_problem(405, "method_not_allowed");
        assert_eq!(answer.header("allow"), Some(allowed), "{method} {path}");
    }
}

#[test]
fn a_request_has_a_name() {
    let cluster = Cluster::start(1);
    let node = &cluster.nodes[0];
    let named = node.send(&Request::get("/livez").header("X-Request-Id", "abc.DEF_1-2"));
    assert_eq!(named.header("x-request-id"), Some("abc.DEF_1-2"));
    for bad in ["", "a b", "a=\"b\"", &"x".repeat(65)] {
        let answer = node.send(&Request::get("/nothing").header("X-Request-Id", bad));
        let id = answer.header("x-request-id").unwrap();
        assert!(id.len() == 16 && id != bad, "{id}");
    }
}

#[test]
fn a_cluster_that_was_not_formed_takes_no_requests() {
    let mut cluster = Cluster::unformed(1, CLUSTER_ID, "");
    cluster.nodes[0].wait_until_alive();
    let node = &cluster.nodes[0];
    for request in [
        Request::get("/kv/b/k"),
        Request::put("/kv/b/k", "1"),
        Request::delete("/kv/b/k"),
        Request::get("/siblings"),
        Request::get("/siblings/b/k"),
        Request::get("/buckets"),
        Request::json("PUT", "/buckets/b", "{}"),
        Request::get("/readyz"),
    ] {
        let answer = node.send(&request);
        answer.assert_problem(503, "not_formed");
        assert_eq!(answer.header("retry-after"), Some("1"));
    }
    assert_eq!(node.get("/livez").status, 200);
    assert_eq!(node.get("/cluster").json()["ready"], false);
    cluster.form();
    cluster.wait_until_ready();
    cluster.nodes[0].get("/kv/b/k").assert_problem(404, "key_not_found");
}

#[test]
fn a_node_stops_gracefully_and_comes_back_with_its_data() {
    let mut cluster = Cluster::start(1);
    cluster.nodes[0].send(&Request::put("/kv/b/k", "1"));
    assert!(cluster.nodes[0].stop().success());
    cluster.nodes[0].start();
    cluster.nodes[0].wait_until_ready();
    assert_eq!(cluster.nodes[0].get("/kv/b/k").text(), "1");
    cluster.nodes[0].kill();
    cluster.nodes[0].start();
    cluster.nodes[0].wait_until_ready();
    assert_eq!(cluster.nodes[0].get("/kv/b/k").text(), "1");
}
