//! Wrong paths, parameters and headers: the named error, and nothing changes.

use crate::common::Cluster;
use crate::common::http::Request;

#[test]
fn every_wrong_parameter_is_refused_by_name() {
    let cluster = Cluster::start(3);
    let node = &cluster.nodes[1];
    let wrong = |request: &Request, name: &str| {
        let answer = node.send(request);
        let detail = answer.assert_problem(400, "bad_parameter");
        assert_eq!(answer.json()["parameter"], name, "{detail}");
        assert!(detail.starts_with(name), "{detail}");
    };
    for bad in ["0", "-1", "4", "", "two", "1.5", "99999", "ALL", "+1", "%00"] {
        wrong(&Request::get(&format!("/kv/b/k?r={bad}")), "r");
        wrong(&Request::put(&format!("/kv/b/k?w={bad}"), "x"), "w");
        wrong(&Request::delete(&format!("/kv/b/k?w={bad}")), "w");
        wrong(&Request::get(&format!("/kv/b/k?n={bad}")), "n");
        wrong(&Request::put(&format!("/kv/b/k?n={bad}"), "x"), "n");
    }
    for bad in ["0", "-1", "", "1s", "60001"] {
        wrong(&Request::get(&format!("/kv/b/k?timeout_ms={bad}")), "timeout_ms");
        wrong(&Request::put(&format!("/kv/b/k?timeout_ms={bad}"), "x"), "timeout_ms");
    }
    for bad in ["", "1", "TRUE"] {
        wrong(&Request::put(&format!("/kv/b/k?sloppy={bad}"), "x"), "sloppy");
        wrong(&Request::put(&format!("/kv/b/k?return_body={bad}"), "x"), "return_body");
    }
    wrong(&Request::get("/kv/b/k?sibling=1"), "sibling");
    wrong(&Request::get("/kv/b/k?w=1"), "w");
    wrong(&Request::put("/kv/b/k?r=1", "x"), "r");
    wrong(&Request::get("/kv/b/k?x=1"), "x");
    wrong(&Request::get("/kv/b/k?r=1&r=1"), "r");
    wrong(&Request::put("/kv/b/k?w=2&n=1", "x"), "w");
    wrong(&Request::get("/siblings?limit=0"), "limit");
    wrong(&Request::get("/siblings?cursor=!"), "cursor");
    wrong(&Request::get("/siblings?bucket=a/b"), "bucket");
    wrong(&Request::get("/siblings/b/k?r=1"), "r");
    for path in [
        "/ring?x=1",
        "/ring/partitions?x=1",
        "/ring/b/k?x=1",
        "/cluster?x=1",
        "/buckets?x=1",
        "/buckets/b?x=1",
    ] {
        wrong(&Request::get(path), "x");
    }
    node.get("/kv/b/k").assert_problem(404, "key_not_found");
}

#[test]
fn quorum_words_and_numbers_are_accepted() {
    let cluster = Cluster::start(3);
    let node = &cluster.nodes[0];
    for (i, good) in [
        "w=one",
        "w=quorum",
        "w=all",
        "w=3",
        "n=1&w=1",
        "n=one&w=all",
        "sloppy=false",
        "w=all&timeout_ms=60000&sloppy=true&return_body=false",
    ]
    .iter()
    .enumerate()
    {
        let written = node.send(&Request::put(&format!("/kv/b/{i}?{good}"), "x"));
        assert_eq!(written.status, 204, "{good}: {}", written.text());
    }
    for good in ["r=one", "r=quorum", "r=all", "r=1&n=2", "sloppy=false", "timeout_ms=1000"] {
        assert_eq!(node.get(&format!("/kv/b/2?{good}")).status, 200, "{good}");
    }
}

#[test]
fn every_wrong_path_is_refused_and_strange_ones_are_kept_apart() {
    let cluster = Cluster::start(1);
    let node = &cluster.nodes[0];
    let long_bucket = format!("/kv/{}/k", "b".repeat(129));
    let long_key = format!("/kv/b/{}", "k".repeat(1025));
    for bad in [
        "/kv/b",
        "/kv/b/",
        "/kv//k",
        "/kv/a%20b/k",
        "/kv/a%2Fb/k",
        "/kv/../k",
        "/kv/%FF/k",
        "/kv/b/%",
        "/kv/b/%4",
        "/kv/b/%zz",
        "/kv/b/a%00b",
        "/kv/b/%FF%FE",
        "/kv/b/%C3",
        &long_bucket,
        &long_key,
    ] {
        node.get(bad).assert_problem(400, "bad_path");
        node.send(&Request::put(bad, "x")).assert_problem(400, "bad_path");
        let inspect = bad.replacen("/kv/", "/siblings/", 1);
        node.get(&inspect).assert_problem(400, "bad_path");
        let ring = bad.replacen("/kv/", "/ring/", 1);
        node.get(&ring).assert_problem(400, "bad_path");
    }
    let longest = format!("{}/{}", "b".repeat(128), "k".repeat(1024));
    let strange = [
        longest.as_str(),
        "b/a/b",
        "b//a/b",
        "b/a//b",
        "b/a/b/",
        "b/../a/b",
        "b/..",
        "b/.",
        "b/a%20b",
        "b/a+b",
        "b/100%25",
        "b/%C3%BC",
        "b/k%3Fr=1",
        "b/%23",
        "b/%0A",
        "B/a/b",
    ];
    for key in strange {
        let written = node.send(&Request::put(&format!("/kv/{key}"), key));
        assert_eq!(written.header("quorate-siblings"), Some("1"), "{key}: {}", written.text());
    }
    for key in strange {
        assert_eq!(node.get(&format!("/kv/{key}")).text(), key);
    }
    assert_eq!(node.get("/kv/b/a%2Fb").text(), "b/a/b", "an encoded slash is a slash");
}

#[test]
fn every_wrong_header_is_refused_by_name() {
    let cluster = Cluster::start(1);
    let node = &cluster.nodes[0];
    let wrong = |request: Request, name: &str| {
        let answer = node.send(&request);
        let detail = answer.assert_problem(400, "bad_header");
        assert_eq!(answer.json()["header"].as_str().unwrap().to_lowercase(), name, "{detail}");
    };
    let put = || Request::put("/kv/b/k", "x");
    for bad in ["", "a b", &"k".repeat(256), "schlüssel"] {
        wrong(put().header("Idempotency-Key", bad), "idempotency-key");
    }
    wrong(put().header("Idempotency-Key", "a").header("Idempotency-Key", "a"), "idempotency-key");
    wrong(put().header("Content-Type", ""), "content-type");
    wrong(put().header("Content-Type", "a/b").header("Content-Type", "a/b"), "content-type");
    wrong(put().header("Quorate-Meta-", "x"), "quorate-meta-");
    wrong(put().header("Quorate-Meta-A", &"x".repeat(5000)), "quorate-meta-a");
    wrong(put().header("If-None-Match", "\"abc\""), "if-none-match");
    wrong(put().header("If-Match", "abc"), "if-match");
    wrong(put().header("If-Match", "*").header("If-None-Match", "*"), "if-none-match");
    wrong(put().context("a").context("b"), "quorate-context");
    wrong(Request::get("/kv/b/k").header("If-None-Match", "abc"), "if-none-match");
    node.get("/kv/b/k").assert_problem(404, "key_not_found");
}
