//! Bucket properties.

use serde_json::json;

use crate::common::Cluster;
use crate::common::http::Request;

#[test]
fn properties_are_set_everywhere_and_reset() {
    let cluster = Cluster::start(3);
    let [a, b, c] = &cluster.nodes[..] else { panic!("three nodes") };
    let defaults =
        json!({"n": 3, "r": "quorum", "w": "quorum", "conflicts": "siblings", "sloppy": true});
    assert_eq!(a.get("/buckets/carts").json(), defaults);
    let wanted = json!({"n": 2, "r": "one", "w": 2, "conflicts": "lww", "sloppy": false});
    let put = a.send(&Request::json("PUT", "/buckets/carts", &wanted.to_string()));
    assert_eq!((put.status, put.json()), (200, wanted.clone()), "{}", put.text());
    for node in [a, b, c] {
        assert_eq!(node.get("/buckets/carts").json(), wanted, "known as soon as answered");
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
