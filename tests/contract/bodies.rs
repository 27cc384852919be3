//! Malformed and hostile bodies. Each request gets an answer or a closed connection within its
//! bound, nothing is written, and the node keeps working.

use std::net::SocketAddr;

use crate::common::http::{Answer, Raw, Request};
use crate::common::{Cluster, until};

const QUICK: &str = "[timeouts]\nheader_ms = 500\nbody_ms = 500\n\
    [limits]\nvalue_bytes_max = 100000\n";

/// Sends bytes on a separate connection; `None` if it was closed without an answer.
fn send(to: SocketAddr, bytes: &[u8], then_finish: bool) -> Option<Answer> {
    let mut raw = Raw::connect(to);
    raw.send(bytes);
    if then_finish {
        raw.finish();
    }
    raw.answer()
}

fn assert_untouched(to: SocketAddr) {
    Request::get("/kv/b/k").send(to).assert_problem(404, "key_not_found");
}

#[test]
fn a_body_that_is_not_what_was_announced_writes_nothing() {
    let mut cluster = Cluster::start_with(1, "test", QUICK);
    let to = cluster.nodes[0].client_addr;
    let put = |rest: &str| format!("PUT /kv/b/k HTTP/1.1\r\nHost: x\r\n{rest}").into_bytes();

    let cut_off = send(to, &put("Content-Length: 10\r\n\r\n12345"), true);
    let detail = cut_off.unwrap().assert_problem(400, "bad_body");
    assert!(detail.starts_with("body cut off"), "{detail}");
    assert_untouched(to);
    let slow = send(to, &put("Content-Length: 10\r\n\r\n12345"), false);
    slow.unwrap().assert_problem(408, "body_too_slow");
    assert_untouched(to);
    let huge = send(to, &put("Content-Length: 99999999999\r\n\r\n123"), false);
    huge.unwrap().assert_problem(413, "too_large");
    let chunked_cut = send(to, &put("Transfer-Encoding: chunked\r\n\r\n5\r\n12"), true);
    chunked_cut.unwrap().assert_problem(400, "bad_body");
    assert_untouched(to);
    let bad_chunk =
        send(to, &put("Transfer-Encoding: chunked\r\n\r\nxyz\r\n12\r\n0\r\n\r\n"), true);
    assert!(bad_chunk.is_none_or(|answer| answer.status == 400));
    assert_untouched(to);
    for rest in [
        "Content-Length: -1\r\n\r\n",
        "Content-Length: x\r\n\r\n",
        "Content-Length: 1\r\nContent-Length: 2\r\n\r\n12",
        "Content-Length: 99999999999999999999999\r\n\r\n",
        "Transfer-Encoding: gzip\r\n\r\nx",
    ] {
        let answer = send(to, &put(rest), true);
        assert!(answer.is_none_or(|answer| answer.status == 400), "{rest}");
        assert_untouched(to);
    }
    cluster.nodes[0].assert_alive();
}

#[test]
fn chunked_bodies_are_values_like_others_up_to_the_limit() {
    let cluster = Cluster::start_with(1, "test", QUICK);
    let to = cluster.nodes[0].client_addr;
    let chunked = |key: &str, chunks: &[Vec<u8>]| {
        let mut bytes =
            format!("PUT /kv/b/{key} HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n")
                .into_bytes();
        for chunk in chunks {
            bytes.extend_from_slice(format!("{:x}\r\n", chunk.len()).as_bytes());
            bytes.extend_from_slice(chunk);
            bytes.extend_from_slice(b"\r\n");
        }
        bytes.extend_from_slice(b"0\r\n\r\n");
        bytes
    };
    let good = send(to, &chunked("good", &[b"ab".to_vec(), b"cde".to_vec()]), false).unwrap();
    assert_eq!(good.status, 204);
    assert_eq!(Request::get("/kv/b/good").send(to).text(), "abcde");
    assert_eq!(send(to, &chunked("empty", &[]), false).unwrap().status, 204);
    assert_eq!(Request::get("/kv/b/empty").send(to).body.len(), 0);
    let exact = vec![vec![1; 50_000], vec![2; 50_000]];
    assert_eq!(send(to, &chunked("exact", &exact), false).unwrap().status, 204);
    let more = vec![vec![1; 50_000], vec![2; 50_001]];
    send(to, &chunked("k", &more), false).unwrap().assert_problem(413, "too_large");
    assert_untouched(to);
}

#[test]
fn a_refused_body_is_read_so_that_the_answer_arrives() {
    let cluster = Cluster::start_with(1, "test", QUICK);
    let to = cluster.nodes[0].client_addr;
    let large = vec![7; 4 << 20];
    Request::put("/kv/b/k", large.clone()).send(to).assert_problem(413, "too_large");
    Request::put("/kv/b/k?w=0", large.clone()).send(to).assert_problem(400, "bad_parameter");
    Request::put("/kv/a%20b/k", large).send(to).assert_problem(400, "bad_path");
    assert_untouched(to);
}

#[test]
fn heads_that_are_slow_huge_or_garbage_end_the_connection() {
    let mut cluster = Cluster::start_with(1, "test", QUICK);
    let to = cluster.nodes[0].client_addr;
    let mut idle = Raw::connect(to);
    let mut slow = Raw::connect(to);
    slow.send(b"GET /livez HTTP/1.1\r\nHos");
    assert!(idle.is_closed());
    assert!(slow.answer().is_none_or(|answer| answer.status == 408));

    let many: String = (0..200).map(|i| format!("X-{i}: y\r\n")).collect();
    let many = format!("GET /livez HTTP/1.1\r\n{many}\r\n");
    let large = format!("GET /livez HTTP/1.1\r\nX: {}\r\n\r\n", "y".repeat(300_000));
    let long_path = format!("GET /kv/b/{} HTTP/1.1\r\nHost: x\r\n\r\n", "k".repeat(100_000));
    let garbage: Vec<Vec<u8>> = vec![
        b"\0\0\0\0\r\n\r\n".to_vec(),
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03".to_vec(),
        b"GET\r\n\r\n".to_vec(),
        b"GET /kv/b/k\0 HTTP/1.1\r\n\r\n".to_vec(),
        b"GET /kv/b/\xff\xfe HTTP/1.1\r\n\r\n".to_vec(),
        b"GET /kv/b/k HTTP/9.9\r\n\r\n".to_vec(),
        b"GET /kv/b/a b HTTP/1.1\r\n\r\n".to_vec(),
        b"GET /livez HTTP/1.1\r\nX\0Y: 1\r\n\r\n".to_vec(),
        b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n".to_vec(),
        many.into_bytes(),
        large.into_bytes(),
        long_path.into_bytes(),
    ];
    for bytes in garbage {
        let answer = send(to, &bytes, true);
        let fine = answer.as_ref().is_none_or(|answer| (400..=505).contains(&answer.status));
        assert!(fine, "{answer:?} to {:?}", String::from_utf8_lossy(&bytes[..40.min(bytes.len())]));
    }
    for odd in [
        "OPTIONS * HTTP/1.1\r\nHost: x\r\n\r\n",
        "CONNECT x:1 HTTP/1.1\r\nHost: x\r\n\r\n",
        "GET http://other/livez HTTP/1.1\r\nHost: x\r\n\r\n",
    ] {
        assert!(send(to, odd.as_bytes(), true).is_some(), "{odd}");
    }
    cluster.nodes[0].assert_alive();
    assert_untouched(to);
}

#[test]
fn a_connection_serves_one_request_after_the_other() {
    let cluster = Cluster::start(1);
    let mut raw = Raw::connect(cluster.nodes[0].client_addr);
    raw.send(b"PUT /kv/b/k HTTP/1.1\r\nHost: x\r\nContent-Length: 1\r\n\r\n7");
    assert_eq!(raw.answer_to("PUT").unwrap().status, 204);
    raw.send(b"HEAD /kv/b/k HTTP/1.1\r\nHost: x\r\n\r\n");
    assert_eq!(raw.answer_to("HEAD").unwrap().status, 200);
    raw.send(b"GET /kv/b/none HTTP/1.1\r\nHost: x\r\n\r\n");
    assert_eq!(raw.answer().unwrap().status, 404);
    raw.send(b"GET /kv/b/k HTTP/1.1\r\nHost: x\r\n\r\n");
    assert_eq!(raw.answer().unwrap().text(), "7");
}

#[test]
fn one_connection_too_many_is_refused_and_others_go_on() {
    let mut cluster = Cluster::start_with(1, "test", "[limits]\nconnections_max = 4\n");
    let to = cluster.nodes[0].client_addr;
    let mut busy: Vec<Raw> = (0..4).map(|_| Raw::connect(to)).collect();
    for raw in &mut busy {
        raw.send(b"PUT /kv/b/k HTTP/1.1\r\nHost: x\r\nExpect: 100-continue\r\n");
        raw.send(b"Content-Length: 2\r\n\r\n");
        assert_eq!(raw.answer().unwrap().status, 100);
    }
    let refused = Raw::connect(to).answer().unwrap();
    refused.assert_problem(503, "overloaded");
    assert_eq!(refused.header("retry-after"), Some("1"));
    for raw in &mut busy {
        raw.send(b"ok");
        assert_eq!(raw.answer_to("PUT").unwrap().status, 204);
    }
    drop(busy);
    cluster.nodes[0].wait_until_alive();
}

#[test]
fn an_idle_connection_gives_way_to_a_new_one() {
    let cluster = Cluster::start_with(1, "test", "[limits]\nconnections_max = 4\n");
    let to = cluster.nodes[0].client_addr;
    let mut idle: Vec<Raw> = (0..4).map(|_| Raw::connect(to)).collect();
    for raw in &mut idle {
        raw.send(b"GET /livez HTTP/1.1\r\nHost: x\r\n\r\n");
        assert_eq!(raw.answer().unwrap().status, 200);
    }
    until("one of them to give way", || {
        Request::get("/livez").try_send(to).is_some_and(|answer| answer.status == 200)
    });
    // They became idle at about the same moment, so any of them may have been closed, but only few.
    let goes_on = |raw: &mut Raw| {
        raw.send(b"GET /livez HTTP/1.1\r\nHost: x\r\n\r\n");
        raw.answer().is_some_and(|answer| answer.status == 200)
    };
    let left = idle.iter_mut().filter_map(|raw| goes_on(raw).then_some(())).count();
    assert!((2..=3).contains(&left), "{left}");
}
