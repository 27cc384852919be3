//! A request within a request: where a proxy in front of the node and the node disagree on where a request
//! ends, somebody's body would be carried out as a request of somebody else. Whatever could be understood in
//! two ways is refused, and nothing that follows it on the connection is read (RFC 9112, 11.2).

use std::net::SocketAddr;

use crate::common::Cluster;
use crate::common::http::{Raw, Request};

/// What must never be carried out.
const INNER: &str = "PUT /kv/b/smuggled HTTP/1.1\r\nHost: x\r\nContent-Length: 1\r\n\r\n1";

/// Sends bytes and returns the statuses that are answered until the connection ends.
fn statuses(to: SocketAddr, bytes: &[u8]) -> Vec<u16> {
    let mut raw = Raw::connect(to);
    raw.send(bytes);
    raw.finish();
    std::iter::from_fn(|| raw.answer()).map(|answer| answer.status).collect()
}

#[test]
fn what_two_readers_could_understand_differently_is_refused() {
    let mut cluster = Cluster::start(1);
    let to = cluster.nodes[0].client_addr;
    let len = INNER.len();
    let framings = [
        format!("Content-Length: {len}\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n{INNER}"),
        format!("Transfer-Encoding: chunked\r\nContent-Length: {len}\r\n\r\n0\r\n\r\n{INNER}"),
        format!("Content-Length: 0\r\nContent-Length: {len}\r\n\r\n{INNER}"),
        format!("Content-Length: {len}\r\nContent-Length: 0\r\n\r\n{INNER}"),
        format!("Content-Length: 0, {len}\r\n\r\n{INNER}"),
        format!("Content-Length: +0\r\n\r\n{INNER}"),
        format!("Content-Length: 0x0\r\n\r\n{INNER}"),
        format!("Content-Length: 0 0\r\n\r\n{INNER}"),
        format!("Content-Length:\r\n\r\n{INNER}"),
        format!("Content-Length : 0\r\n\r\n{INNER}"),
        format!("Content-Length\t: 0\r\n\r\n{INNER}"),
        format!(" Content-Length: 0\r\n\r\n{INNER}"),
        format!("X: y\r\n Content-Length: {len}\r\n\r\n{INNER}"), // a folded line
        format!("Transfer-Encoding:\r\n chunked\r\n\r\n0\r\n\r\n{INNER}"),
        format!("Transfer-Encoding : chunked\r\n\r\n0\r\n\r\n{INNER}"),
        format!("Transfer-Encoding: xchunked\r\n\r\n0\r\n\r\n{INNER}"),
        format!("Transfer-Encoding: chunked, identity\r\n\r\n0\r\n\r\n{INNER}"),
        format!("Transfer-Encoding: identity\r\n\r\n{INNER}"),
        format!("Transfer-Encoding: chunked\r\nTransfer-Encoding: x\r\n\r\n0\r\n\r\n{INNER}"),
        format!("Transfer-Encoding: \x0bchunked\r\n\r\n0\r\n\r\n{INNER}"),
        format!("Transfer-Encoding: chunked\r\n\r\n0x0\r\n\r\n{INNER}"),
        format!("Transfer-Encoding: chunked\r\n\r\n+0\r\n\r\n{INNER}"),
        format!("Transfer-Encoding: chunked\r\n\r\n-0\r\n\r\n{INNER}"),
        format!("Transfer-Encoding: chunked\r\n\r\n10000000000000000\r\n\r\n{INNER}"),
        format!("Transfer-Encoding: chunked\r\n\r\n1\r\nab\r\n0\r\n\r\n{INNER}"),
        format!("Transfer-Encoding: chunked\r\n\r\n1;\n{INNER}\r\n0\r\n\r\n"),
        format!("X: a\rContent-Length: {len}\r\n\r\n{INNER}"),
        format!("X: a\0b\r\n\r\n{INNER}"),
        format!("X\r\n\r\n{INNER}"),
    ];
    let mut wrong = Vec::new();
    for framing in framings {
        let request = format!("PUT /kv/b/outer HTTP/1.1\r\nHost: x\r\n{framing}");
        let statuses = statuses(to, request.as_bytes());
        if !matches!(statuses[..], [] | [400]) {
            wrong.push(format!("{statuses:?} to {framing:?}"));
        }
        for key in ["smuggled", "outer"] {
            let read = Request::get(&format!("/kv/b/{key}")).send(to);
            if read.status != 404 {
                wrong.push(format!("{key} was written by {framing:?}"));
                Request::new("DELETE", &format!("/kv/b/{key}")).send(to);
            }
        }
    }
    assert!(wrong.is_empty(), "{wrong:#?}");
    cluster.nodes[0].assert_alive();
}

/// A version of HTTP that has no chunks: a proxy that speaks it would end the request elsewhere.
#[test]
fn chunks_in_an_old_version_are_refused() {
    let cluster = Cluster::start(1);
    let to = cluster.nodes[0].client_addr;
    let head = "PUT /kv/b/outer HTTP/1.0\r\nHost: x\r\nConnection: keep-alive\r\n";
    let request = format!("{head}Transfer-Encoding: chunked\r\n\r\n0\r\n\r\n{INNER}");
    let statuses = statuses(to, request.as_bytes());
    assert!(matches!(statuses[..], [] | [400]), "{statuses:?}");
    assert_eq!(Request::get("/kv/b/smuggled").send(to).status, 404);
}

/// Lines that end with LF alone are one thing to every reader that takes them; a head of them is taken as a
/// whole or refused as a whole.
#[test]
fn bare_line_feeds_end_no_head_early() {
    let cluster = Cluster::start(1);
    let to = cluster.nodes[0].client_addr;
    let len = INNER.len();
    for head in [
        format!("PUT /kv/b/outer HTTP/1.1\nHost: x\nContent-Length: {len}\n\n"),
        format!("PUT /kv/b/outer HTTP/1.1\r\nHost: x\nContent-Length: {len}\r\n\r\n"),
        format!("PUT /kv/b/outer HTTP/1.1\r\nHost: x\r\nContent-Length: {len}\n\r\n"),
        format!("PUT /kv/b/outer HTTP/1.1\r\nHost: x\r\nContent-Length: {len}\r\n\n"),
    ] {
        let statuses = statuses(to, format!("{head}{INNER}").as_bytes());
        assert!(matches!(statuses[..], [] | [400] | [204]), "{statuses:?} to {head:?}");
        assert_eq!(Request::get("/kv/b/smuggled").send(to).status, 404, "{head:?}");
    }
}

/// A body where none is expected is not taken for the next request.
#[test]
fn the_body_of_a_read_is_no_request() {
    let cluster = Cluster::start(1);
    let to = cluster.nodes[0].client_addr;
    let len = INNER.len();
    for request in [
        format!("GET /kv/b/k HTTP/1.1\r\nHost: x\r\nContent-Length: {len}\r\n\r\n{INNER}"),
        format!("DELETE /kv/b/k HTTP/1.1\r\nHost: x\r\nContent-Length: {len}\r\n\r\n{INNER}"),
        format!("HEAD /kv/b/k HTTP/1.1\r\nHost: x\r\nContent-Length: {len}\r\n\r\n{INNER}"),
    ] {
        let statuses = statuses(to, request.as_bytes());
        assert!(statuses.len() <= 1, "{statuses:?} to {request:?}");
        assert_eq!(Request::get("/kv/b/smuggled").send(to).status, 404, "{request:?}");
    }
}
