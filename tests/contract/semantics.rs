//! Headers that change the meaning of a request are honoured, stored or refused, never ignored.

use serde_json::Value;

use crate::common::Cluster;
use crate::common::http::Request;

#[test]
fn a_part_of_a_value_is_not_taken_for_the_whole() {
    let cluster = Cluster::start(1);
    let node = &cluster.nodes[0];
    node.send(&Request::put("/kv/b/k", "0123456789"));
    let part = Request::put("/kv/b/k", "56789").header("Content-Range", "bytes 5-9/10");
    let refused = node.send(&part);
    refused.assert_problem(400, "bad_header");
    assert_eq!(refused.json()["header"], "Content-Range");
    for header in ["Content-MD5", "Content-Digest", "Content-Location"] {
        let refused = node.send(&Request::put("/kv/b/k", "x").header(header, "x"));
        refused.assert_problem(400, "bad_header");
    }
    let buckets = Request::json("PUT", "/buckets/b", "{}").header("Content-Range", "bytes 0-1/2");
    node.send(&buckets).assert_problem(400, "bad_header");
    assert_eq!(node.get("/kv/b/k").text(), "0123456789");
}

#[test]
fn the_encoding_of_a_value_comes_back_with_it() {
    let cluster = Cluster::start(3);
    let [a, b, _] = &cluster.nodes[..] else { panic!("three nodes") };
    let put = |value: &[u8], coding: &str| {
        Request::put("/kv/b/k", value)
            .header("Content-Type", "text/html")
            .header("Content-Encoding", coding)
            .header("Content-Language", "de, en")
            .header("Content-Disposition", "attachment; filename=\"x.html\"")
            .header("Quorate-Meta-A", "1")
    };
    assert_eq!(a.send(&put(b"\x1f\x8b\x08", "gzip")).status, 204);
    let read = b.get("/kv/b/k");
    assert_eq!(read.body, b"\x1f\x8b\x08");
    for (header, value) in [
        ("content-type", "text/html"),
        ("content-encoding", "gzip"),
        ("content-language", "de, en"),
        ("content-disposition", "attachment; filename=\"x.html\""),
        ("quorate-meta-a", "1"),
    ] {
        assert_eq!(read.header(header), Some(value), "{header}");
    }
    a.send(&put(b"other", "br"));
    let both = b.get("/kv/b/k");
    assert_eq!((both.status, both.header("content-encoding")), (300, None));
    let siblings = both.json()["siblings"].clone();
    let codings: Vec<&Value> =
        siblings.as_array().unwrap().iter().map(|sibling| &sibling["content_encoding"]).collect();
    assert!(codings.contains(&&"gzip".into()) && codings.contains(&&"br".into()), "{siblings}");
    assert_eq!(siblings[0]["meta"], serde_json::json!({"a": "1"}));
    let mixed = b.send(&Request::get("/kv/b/k").header("Accept", "multipart/mixed")).text();
    assert!(mixed.contains("content-encoding: gzip\r\n"), "{mixed}");
    let dot = siblings[0]["dot"].as_str().unwrap();
    let kept = Request::json("POST", "/siblings/b/k", &format!("{{\"keep\": \"{dot}\"}}"));
    assert_eq!(a.send(&kept.context(both.context())).status, 204);
    let coding = b.get("/kv/b/k").header("content-encoding").map(str::to_owned);
    assert_eq!(coding.as_deref(), siblings[0]["content_encoding"].as_str());
}

#[test]
fn an_encoded_body_is_not_read_as_json() {
    let cluster = Cluster::start(1);
    let node = &cluster.nodes[0];
    let put = Request::json("PUT", "/buckets/b", "{\"n\":1}");
    let refused = node.send(&put.clone().header("Content-Encoding", "gzip"));
    let detail = refused.assert_problem(415, "unsupported_media_type");
    assert!(detail.contains("Content-Encoding"), "{detail}");
    assert_eq!(node.send(&put.header("Content-Encoding", "identity")).status, 200);
}

#[test]
fn dates_guard_no_write_and_spare_a_read() {
    let cluster = Cluster::start(1);
    let node = &cluster.nodes[0];
    node.send(&Request::put("/kv/b/k", "1"));
    let future = "Tue, 31 Dec 2999 23:59:59 GMT";
    let refused = |request: Request, name: &str| {
        let answer = node.send(&request.header(name, future));
        let detail = answer.assert_problem(400, "bad_header");
        assert!(detail.contains("ETag") || detail.contains("not honoured"), "{detail}");
    };
    for name in ["If-Unmodified-Since", "If-Modified-Since"] {
        refused(Request::put("/kv/b/k", "2"), name);
        refused(Request::delete("/kv/b/k"), name);
        refused(Request::json("PUT", "/buckets/b", "{}"), name);
        refused(Request::delete("/buckets/b"), name);
    }
    refused(Request::get("/kv/b/k"), "If-Unmodified-Since");
    let since = |date: &str| node.send(&Request::get("/kv/b/k").header("If-Modified-Since", date));
    assert_eq!(since(future).status, 304);
    assert_eq!(since("Thu, 01 Jan 1970 00:00:00 GMT").text(), "1");
    assert_eq!(since("yesterday").text(), "1");
    let tagged = Request::get("/kv/b/k").header("If-Modified-Since", future);
    let tagged = node.send(&tagged.header("If-None-Match", "\"other\""));
    assert_eq!(tagged.status, 200, "the tag goes first");
}

/// A date has room for more than one write: a reader with the date of the first must get the
/// second.
#[test]
fn a_date_never_hides_a_write() {
    let cluster = Cluster::start(1);
    let node = &cluster.nodes[0];
    let mut context: Option<String> = None;
    for round in 0..200 {
        let put = Request::put("/kv/b/k", format!("{round}"));
        let put = match &context {
            Some(context) => put.context(context),
            None => put,
        };
        let before = (round > 0).then(|| node.get("/kv/b/k"));
        context = Some(node.send(&put).context().to_owned());
        if let Some(before) = before {
            let date = before.header("last-modified").unwrap();
            let read = node.send(&Request::get("/kv/b/k").header("If-Modified-Since", date));
            assert_eq!((read.status, read.text()), (200, format!("{round}")));
        }
    }
}

#[test]
fn a_reader_can_insist_on_what_it_knows() {
    let cluster = Cluster::start(1);
    let node = &cluster.nodes[0];
    let get = |tag: &str| node.send(&Request::get("/kv/b/k").header("If-Match", tag));
    get("*").assert_problem(412, "condition_failed");
    let written = node.send(&Request::put("/kv/b/k", "1"));
    let etag = written.header("etag").unwrap();
    assert_eq!((get("*").text(), get(etag).text()), ("1".to_owned(), "1".to_owned()));
    get("\"other\"").assert_problem(412, "condition_failed");
    get(&format!("W/{etag}")).assert_problem(412, "condition_failed");
}

/// A client may have a tag from a HEAD, without having seen the values it stands for.
#[test]
fn a_tag_alone_brings_no_context_of_several_siblings() {
    let cluster = Cluster::start(1);
    let node = &cluster.nodes[0];
    node.send(&Request::put("/kv/b/k", "1"));
    node.send(&Request::put("/kv/b/k", "2"));
    let head = node.send(&Request::new("HEAD", "/kv/b/k"));
    assert_eq!((head.status, head.header("quorate-context")), (300, None));
    let etag = head.header("etag").unwrap();
    let same = node.send(&Request::get("/kv/b/k").header("If-None-Match", etag));
    assert_eq!((same.status, same.header("quorate-context")), (304, None));
    assert_eq!(same.header("etag"), Some(etag));
}

#[test]
fn a_plus_in_a_parameter_is_a_space_as_forms_have_it() {
    let cluster = Cluster::start(1);
    let node = &cluster.nodes[0];
    for key in ["user%201", "user%202", "user%2B1", "user+1x"] {
        assert_eq!(node.send(&Request::put(&format!("/kv/b/{key}"), "v")).status, 204);
    }
    let list = |prefix: &str| node.get(&format!("/keys/b?prefix={prefix}")).json()["keys"].clone();
    assert_eq!(list("user+1"), serde_json::json!(["user 1"]));
    assert_eq!(list("user%201"), serde_json::json!(["user 1"]));
    assert_eq!(list("user%2B1"), serde_json::json!(["user+1", "user+1x"]));
}
