//! Conditional requests and requests that may be repeated.

use crate::common::Cluster;
use crate::common::http::Request;

#[test]
fn a_condition_decides_whether_a_write_happens() {
    let cluster = Cluster::start(3);
    let [a, b, _] = &cluster.nodes[..] else { panic!("three nodes") };
    let if_absent = |value: &str| Request::put("/kv/b/k", value).header("If-None-Match", "*");
    a.send(&Request::put("/kv/b/k", "0").header("If-Match", "*"))
        .assert_problem(412, "condition_failed");
    assert_eq!(a.send(&if_absent("1")).status, 204);
    b.send(&if_absent("2")).assert_problem(412, "condition_failed");
    let read = b.get("/kv/b/k");
    assert_eq!(read.text(), "1");

    let etag = read.header("etag").unwrap();
    let if_match =
        |value: &str, etag: &str| Request::put("/kv/b/k", value).header("If-Match", etag);
    let changed = b.send(&if_match("3", etag));
    assert_eq!((changed.status, changed.header("quorate-siblings")), (204, Some("1")));
    a.send(&if_match("4", etag)).assert_problem(412, "condition_failed");
    a.send(&if_match("4", &format!("W/{etag}"))).assert_problem(412, "condition_failed");
    a.send(&if_match("4", "\"of another server\"")).assert_problem(412, "condition_failed");
    let listed = format!("\"x\", {}", changed.header("etag").unwrap());
    assert_eq!(a.send(&if_match("5", &listed)).status, 204);
    assert_eq!(b.get("/kv/b/k").text(), "5");

    let delete = Request::delete("/kv/b/k");
    b.send(&delete.clone().header("If-Match", etag)).assert_problem(412, "condition_failed");
    assert_eq!(b.send(&delete.header("If-Match", "*")).status, 204);
    assert_eq!(a.send(&if_absent("6")).status, 204, "a tombstone counts as absent");
    assert_eq!(b.get("/kv/b/k").text(), "6");

    // The tag of a conflict, in any representation, is accepted too.
    a.send(&Request::put("/kv/b/k", "7"));
    let both = b.get("/kv/b/k");
    assert_eq!(both.status, 300);
    let resolved = a.send(&if_match("8", both.header("etag").unwrap()));
    assert_eq!((resolved.status, resolved.header("quorate-siblings")), (204, Some("1")));
}

#[test]
fn a_reader_that_has_it_already_is_told_so() {
    let cluster = Cluster::start(1);
    let node = &cluster.nodes[0];
    let written = node.send(&Request::put("/kv/b/k", "1"));
    let etag = written.header("etag").unwrap().to_owned();
    let get = |tag: &str| node.send(&Request::get("/kv/b/k").header("If-None-Match", tag));
    for tag in [etag.clone(), format!("W/{etag}"), format!("\"x\", {etag}")] {
        let answer = get(&tag);
        assert_eq!((answer.status, answer.body.len()), (304, 0), "{tag}");
        assert_eq!(answer.header("etag"), Some(etag.as_str()));
        assert!(answer.header("quorate-context").is_some());
    }
    let any = get("*");
    assert_eq!((any.status, any.header("quorate-context")), (304, None), "* has seen nothing");
    assert_eq!(get("\"other\"").status, 200);
    node.send(&Request::put("/kv/b/k", "2").context(written.context()));
    assert_eq!(get(&etag).text(), "2");
}

#[test]
fn a_repeated_request_writes_once_and_a_reused_key_is_refused() {
    let cluster = Cluster::start(3);
    let [a, b, c] = &cluster.nodes[..] else { panic!("three nodes") };
    let put = |value: &str| Request::put("/kv/b/k", value).header("Idempotency-Key", "order-7");
    for node in [a, b, c, a] {
        let answer = node.send(&put("1"));
        assert_eq!((answer.status, answer.header("quorate-siblings")), (204, Some("1")));
    }
    for node in [a, b, c] {
        node.send(&put("2")).assert_problem(422, "idempotency_key_reused");
        let meta = put("1").header("Quorate-Meta-X", "1");
        node.send(&meta).assert_problem(422, "idempotency_key_reused");
    }
    let read = b.get("/kv/b/k");
    assert_eq!((read.status, read.text().as_str()), (200, "1"));
    // The same idempotency key on another object is another request.
    let other = Request::put("/kv/b/other", "2").header("Idempotency-Key", "order-7");
    assert_eq!(a.send(&other).status, 204);
}

#[test]
fn too_many_siblings_are_refused_at_the_writer() {
    let cluster = Cluster::start_with(1, "test", "[limits]\nsiblings_max = 3\n");
    let node = &cluster.nodes[0];
    for value in ["1", "2", "3"] {
        assert_eq!(node.send(&Request::put("/kv/b/k", value)).status, 204);
    }
    node.send(&Request::put("/kv/b/k", "4")).assert_problem(422, "too_many_siblings");
    let all = node.get("/kv/b/k");
    assert_eq!(all.json()["siblings"].as_array().unwrap().len(), 3);
    let merged = node.send(&Request::put("/kv/b/k", "all").context(all.context()));
    assert_eq!(merged.header("quorate-siblings"), Some("1"));
}
