//! Many operations in one request.

use serde_json::{Value, json};

use crate::common::http::Request;
use crate::common::{Cluster, Node};

fn batch(node: &Node, query: &str, operations: &Value) -> Vec<Value> {
    let body = json!({"operations": operations}).to_string();
    let answer = node.send(&Request::json("POST", &format!("/batch{query}"), &body));
    assert_eq!(answer.status, 200, "{}", answer.text());
    answer.json()["results"].as_array().unwrap().clone()
}

fn statuses(results: &[Value]) -> Vec<u64> {
    results.iter().map(|result| result["status"].as_u64().unwrap()).collect()
}

#[test]
fn each_operation_of_a_batch_has_the_result_that_it_has_alone() {
    let cluster = Cluster::start(3);
    let [a, b, _] = &cluster.nodes[..] else { panic!("three nodes") };
    let type_of = Request::json("PUT", "/buckets/counters", r#"{"type":"counter"}"#);
    assert_eq!(a.send(&type_of).status, 200);
    let puts: Vec<Value> = (0..1000)
        .map(|at| json!({"op": "put", "bucket": "b", "key": format!("k{at}"), "value": format!("v{at}")}))
        .collect();
    let put = batch(a, "?w=3", &json!(puts));
    assert!(put.iter().all(|result| result["status"] == 204 && result["acks"] == 3), "{put:?}");
    let gets: Vec<Value> =
        (0..1000).map(|at| json!({"op": "get", "bucket": "b", "key": format!("k{at}")})).collect();
    for (at, result) in batch(b, "", &json!(gets)).iter().enumerate() {
        assert_eq!((&result["status"], &result["value"]), (&json!(200), &json!(format!("v{at}"))));
    }

    let context = b.get("/kv/b/k1").context().to_owned();
    let mixed = json!([
        {"op": "put", "bucket": "b", "key": "k1", "value": "d\u{fc}ne", "content_type": "text/plain",
            "context": context},
        {"op": "delete", "bucket": "b", "key": "k2"},
        {"op": "get", "bucket": "b", "key": "never"},
        {"op": "put", "bucket": "b", "key": "k3", "value": "x", "if_none_match": "*"},
        {"op": "put", "bucket": "b", "key": "bin/\u{fc}?", "value": "/wA=", "encoding": "base64"},
        {"op": "change", "bucket": "counters", "key": "c", "operation": {"increment": 5}},
        {"op": "put", "bucket": "counters", "key": "c", "value": "x"},
        {"op": "put", "bucket": "a b", "key": "k", "value": "x"},
        {"op": "put", "bucket": "b", "key": "k"},
        {"op": "get", "bucket": "b", "key": "k4", "context": "garbage"},
        {"op": "put", "bucket": "b", "key": "k4", "value": "y", "context": "garbage"},
    ]);
    let results = batch(a, "", &mixed);
    assert_eq!(statuses(&results), [204, 204, 404, 412, 204, 204, 409, 400, 400, 200, 400]);
    let problem = |at: usize| results[at]["problem"]["type"].as_str().unwrap().to_owned();
    assert_eq!(problem(2), "urn:quorate:problem:key_not_found");
    assert_eq!(problem(3), "urn:quorate:problem:condition_failed");
    assert_eq!(problem(6), "urn:quorate:problem:wrong_type");
    assert_eq!(problem(7), "urn:quorate:problem:bad_path");
    assert_eq!(problem(8), "urn:quorate:problem:bad_body");
    assert_eq!(problem(10), "urn:quorate:problem:bad_context");
    assert_eq!(b.get("/kv/b/k1").text(), "d\u{fc}ne");
    assert_eq!(b.get("/kv/b/k2").status, 404);
    assert_eq!(b.get("/kv/b/bin%2F%C3%BC%3F").body, [0xff, 0]);
    assert_eq!(b.get("/types/counters/c").json()["value"], 5);

    // Two writers that have not seen each other, and what is not text.
    let twice = json!({"op": "put", "bucket": "b", "key": "both", "value": "x"});
    assert_eq!(statuses(&batch(a, "", &json!([twice]))), [204]);
    assert_eq!(statuses(&batch(a, "", &json!([twice]))), [204]);
    let read = json!([
        {"op": "get", "bucket": "b", "key": "both"},
        {"op": "get", "bucket": "b", "key": "bin/\u{fc}?"},
    ]);
    let read = batch(b, "?r=3", &read);
    assert_eq!(
        (statuses(&read), read[0]["siblings"].as_array().unwrap().len()),
        (vec![300, 200], 2)
    );
    assert!(read[0]["context"].is_string());
    assert_eq!((&read[1]["value"], &read[1]["encoding"]), (&json!("/wA="), &json!("base64")));
    assert!(batch(a, "", &json!([])).is_empty());
}

#[test]
fn a_batch_that_is_none_is_refused_and_nothing_is_done() {
    let cluster = Cluster::start(1);
    let node = &cluster.nodes[0];
    let put = json!({"op": "put", "bucket": "b", "key": "k", "value": "v"});
    let send = |body: &Value| node.send(&Request::json("POST", "/batch", &body.to_string()));
    let many = json!({"operations": vec![&put; 1001]});
    send(&many).assert_problem(413, "too_large");
    for bad in [
        json!({"operations": [put, {"op": "move", "bucket": "b", "key": "k"}]}),
        json!({}),
        json!({"operations": {}}),
        json!({"operations": [put], "atomic": true}),
    ] {
        send(&bad).assert_problem(400, "bad_body");
    }
    let large = json!({"op": "put", "bucket": "b", "key": "k", "value": "v".repeat(9 << 20)});
    send(&json!({"operations": [large]})).assert_problem(413, "too_large");
    let wrong = Request::json("POST", "/batch?explain=true", r#"{"operations":[]}"#);
    node.send(&wrong).assert_problem(400, "bad_parameter");
    let text = Request::new("POST", "/batch").header("Content-Type", "text/plain").body("{}");
    node.send(&text).assert_problem(415, "unsupported_media_type");
    assert_eq!(node.get("/kv/b/k").status, 404);

    // Reads that are too large together: those that have room are answered.
    for at in 0..3 {
        let large = Request::put(&format!("/kv/b/large{at}"), "v".repeat(4 << 20));
        assert_eq!(node.send(&large).status, 204);
    }
    let gets: Vec<Value> =
        (0..3).map(|at| json!({"op": "get", "bucket": "b", "key": format!("large{at}")})).collect();
    let answer = send(&json!({"operations": gets})).json();
    let results = answer["results"].as_array().unwrap();
    let answered = results.iter().filter(|result| result["status"] == 200).count();
    let refused = results.iter().filter(|result| result["status"] == 503).count();
    assert_eq!((answered, refused), (2, 1), "{:?}", statuses(results));
}
