//! PUT, GET, HEAD and DELETE of values.

use crate::common::Cluster;
use crate::common::http::Request;

#[test]
fn a_value_comes_back_with_all_that_was_said_of_it() {
    let cluster = Cluster::start(3);
    let [a, b, _] = &cluster.nodes[..] else { panic!("three nodes") };
    let put = Request::put("/kv/carts/user%2F7", "2 apples")
        .header("Content-Type", "text/plain; charset=utf-8")
        .header("Quorate-Meta-Owner", "anna");
    let written = a.send(&put);
    assert_eq!(written.status, 204, "{}", written.text());
    assert_eq!(written.header("quorate-siblings"), Some("1"));
    assert_eq!(written.header("quorate-hints"), Some("0"));
    let acks: u16 = written.header("quorate-acks").unwrap().parse().unwrap();
    assert!((2..=3).contains(&acks), "{acks}");

    let read = b.get("/kv/carts/user/7");
    assert_eq!((read.status, read.text().as_str()), (200, "2 apples"));
    assert_eq!(read.header("content-type"), Some("text/plain; charset=utf-8"));
    assert_eq!(read.header("quorate-meta-owner"), Some("anna"));
    assert_eq!(read.header("etag"), written.header("etag"));
    assert!(read.header("last-modified").unwrap().ends_with(" GMT"));
    assert!(!read.context().is_empty());

    let head = b.send(&Request::new("HEAD", "/kv/carts/user/7"));
    assert_eq!((head.status, head.body.len()), (200, 0));
    assert_eq!(head.header("content-length"), Some("8"));
    assert_eq!(head.header("etag"), read.header("etag"));
    assert_eq!(head.header("quorate-context"), None, "a HEAD has not seen the value");
}

#[test]
fn a_write_with_a_context_supersedes_and_one_without_is_a_sibling() {
    let cluster = Cluster::start(1);
    let node = &cluster.nodes[0];
    let first = node.send(&Request::put("/kv/b/k", "1"));
    let second = node.send(&Request::put("/kv/b/k", "2").context(first.context()));
    assert_eq!(second.header("quorate-siblings"), Some("1"));
    assert_eq!(node.get("/kv/b/k").text(), "2");
    let blind = node.send(&Request::put("/kv/b/k", "3"));
    assert_eq!(blind.header("quorate-siblings"), Some("2"));
    assert_eq!(blind.header("quorate-context"), None, "it did not see the other sibling");
    assert_eq!(blind.header("etag"), None);
    let shown = node.send(&Request::put("/kv/b/k?return_body=true", "4"));
    assert_eq!((shown.status, shown.header("quorate-siblings")), (300, Some("3")));
    assert_eq!(shown.json()["siblings"].as_array().unwrap().len(), 3);
    let all = node.send(&Request::put("/kv/b/k?return_body=true", "5").context(shown.context()));
    assert_eq!((all.status, all.text().as_str()), (200, "5"));
    assert!(all.header("quorate-acks").is_some() && all.header("etag").is_some());
}

#[test]
fn deleted_and_never_written_are_different_404s() {
    let cluster = Cluster::start(3);
    let [a, b, _] = &cluster.nodes[..] else { panic!("three nodes") };
    let never = a.get("/kv/b/never");
    never.assert_problem(404, "key_not_found");
    assert_eq!(never.header("quorate-context"), None);

    a.send(&Request::put("/kv/b/k", "1"));
    let deleted = b.send(&Request::delete("/kv/b/k"));
    assert_eq!(deleted.status, 204, "{}", deleted.text());
    assert_eq!(deleted.header("quorate-siblings"), Some("1"));
    let gone = a.get("/kv/b/k");
    gone.assert_problem(404, "key_deleted");
    let again = a.send(&Request::put("/kv/b/k", "2").context(gone.context()));
    assert_eq!(again.header("quorate-siblings"), Some("1"));
    assert_eq!(b.get("/kv/b/k").text(), "2");

    // With a context that has not seen the newer value, a delete is a sibling of it.
    let stale = b.send(&Request::delete("/kv/b/k").context(gone.context()));
    assert_eq!((stale.status, stale.header("quorate-siblings")), (204, Some("2")));
    let both = a.get("/kv/b/k");
    assert_eq!(both.status, 300);
    let siblings = both.json()["siblings"].clone();
    assert!(siblings.as_array().unwrap().iter().any(|s| s["deleted"] == true), "{siblings}");
    assert_eq!(a.send(&Request::delete("/kv/b/nothing")).status, 204);
    a.get("/kv/b/nothing").assert_problem(404, "key_not_found");
}

#[test]
fn values_of_every_size_up_to_the_limit() {
    let cluster = Cluster::start_with(3, "test", "[limits]\nvalue_bytes_max = 300000\n");
    let [a, b, _] = &cluster.nodes[..] else { panic!("three nodes") };
    for size in [0, 1, 1000, 16 << 10, 100_000, 300_000] {
        let value: Vec<u8> = (0..size).map(|i| (i * 31 % 251) as u8).collect();
        let path = format!("/kv/sizes/{size}");
        let written = a.send(&Request::put(&path, value.clone()));
        assert_eq!(written.status, 204, "{size}: {}", written.text());
        let read = b.get(&path);
        assert_eq!(read.status, 200);
        assert!(read.body == value, "{size} bytes came back as {}", read.body.len());
        assert_eq!(read.header("content-type"), Some("application/octet-stream"));
    }
    let more = a.send(&Request::put("/kv/sizes/more", vec![0; 300_001]));
    more.assert_problem(413, "too_large");
    a.get("/kv/sizes/more").assert_problem(404, "key_not_found");
}
