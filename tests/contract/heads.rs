//! Heads of requests: what they must not contain is refused with a named error before anything is
//! done, and connections live as long as clients expect.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::{Duration, Instant};

use crate::common::Cluster;
use crate::common::http::{Answer, Raw, Request};

/// Sends bytes on a separate connection.
fn send(to: SocketAddr, bytes: &[u8]) -> Answer {
    let mut raw = Raw::connect(to);
    raw.send(bytes);
    raw.answer().unwrap_or_else(|| panic!("no answer to {:?}", String::from_utf8_lossy(bytes)))
}

fn head(line: &str) -> Vec<u8> {
    format!("{line} HTTP/1.1\r\nHost: x\r\n\r\n").into_bytes()
}

#[test]
fn a_fragment_in_the_target_touches_no_other_key() {
    let cluster = Cluster::start(1);
    let to = cluster.nodes[0].client_addr;
    assert_eq!(Request::put("/kv/b/kept", "v").send(to).status, 204);
    for (method, target) in [
        ("PUT", "/kv/b/user#1"),
        ("PUT", "/kv/b/user#"),
        ("PUT", "/kv/b/user?w=1#x"),
        ("DELETE", "/kv/b/kept#temp"),
        ("GET", "/kv/b/kept#temp"),
        ("POST", "/siblings/b/kept#1"),
    ] {
        let detail =
            Request::new(method, target).body("x").send(to).assert_problem(400, "bad_path");
        assert!(detail.contains("%23"), "{method} {target}: {detail}");
    }
    Request::get("/kv/b/user").send(to).assert_problem(404, "key_not_found");
    assert_eq!(Request::get("/kv/b/kept").send(to).text(), "v");
    let escaped = Request::put("/kv/b/user%231", "1").send(to);
    assert_eq!(escaped.status, 204);
}

#[test]
fn heads_are_looked_at_wherever_they_are_on_a_connection() {
    let cluster = Cluster::start(1);
    let to = cluster.nodes[0].client_addr;
    let put = |key: &str, body: &str| format!("PUT /kv/b/{key} HTTP/1.1\r\nHost: x\r\n{body}");
    let sized = "Content-Length: 16\r\n\r\nGET /#1 HTTP/1.1";
    let chunked = "Transfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n2;x=y\r\nde\r\n0\r\nT: 1\r\n\r\n";
    let bad = put("bad#1", "Content-Length: 1\r\n\r\nx");
    for (key, body, value) in [("sized", sized, "GET /#1 HTTP/1.1"), ("chunked", chunked, "abcde")]
    {
        // All at once, and byte by byte.
        let both = format!("{}{bad}", put(key, body)).into_bytes();
        for step in [both.len(), 1] {
            let mut stream = TcpStream::connect(to).unwrap();
            stream.set_nodelay(true).unwrap();
            for piece in both.chunks(step) {
                stream.write_all(piece).unwrap();
            }
            let mut told = String::new();
            stream.read_to_string(&mut told).unwrap();
            let (first, second) = told.split_once("\r\n\r\n").unwrap();
            assert!(first.starts_with("HTTP/1.1 204"), "{key}: {told}");
            assert!(second.starts_with("HTTP/1.1 400") && second.contains("bad_path"), "{told}");
            assert!(second.contains("connection: close\r\n"), "{told}");
        }
        let read = Request::get(&format!("/kv/b/{key}")).send(to);
        assert_eq!((read.status, read.text().contains(value)), (300, true), "{}", read.text());
    }
    Request::get("/kv/b/bad").send(to).assert_problem(404, "key_not_found");
}

#[test]
fn every_wrong_head_gets_a_problem() {
    let mut cluster = Cluster::start(1);
    let to = cluster.nodes[0].client_addr;
    for target in ["/kv/b/a b", "/kv/b/<", "/kv/b/`", "/kv/b/k?prefix=<", "/ring <"] {
        send(to, &head(&format!("GET {target}"))).assert_problem(400, "bad_path");
    }
    send(to, b"GET /kv/b/\xff HTTP/1.1\r\n\r\n").assert_problem(400, "bad_path");
    let many = format!("GET /livez HTTP/1.1\r\n{}\r\n", "X-Y: z\r\n".repeat(101));
    send(to, many.as_bytes()).assert_problem(431, "head_too_large");
    let most = format!("GET /livez HTTP/1.1\r\n{}\r\n", "X-Y: z\r\n".repeat(100));
    assert_eq!(send(to, most.as_bytes()).status, 200);
    for bytes in [70_000, 300_000] {
        let large = format!("GET /livez HTTP/1.1\r\nX: {}\r\n\r\n", "y".repeat(bytes));
        send(to, large.as_bytes()).assert_problem(431, "head_too_large");
    }
    let long = head(&format!("GET /kv/b/{}", "k".repeat(100_000)));
    send(to, &long).assert_problem(414, "target_too_long");
    for garbage in [
        "\0\0\0\0\r\n\r\n",
        "GET\r\n\r\n",
        "GET /livez HTTP/9.9\r\n\r\n",
        "GET /livez HTTP/1.1\r\nX\0Y: 1\r\n\r\n",
        "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
        "PUT /kv/b/k HTTP/1.1\r\nContent-Length: -1\r\n\r\n",
        "PUT /kv/b/k HTTP/1.1\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\n12",
        "PUT /kv/b/k HTTP/1.1\r\nTransfer-Encoding: gzip, chunked\r\n\r\n0\r\n\r\n",
    ] {
        send(to, garbage.as_bytes()).assert_problem(400, "bad_request");
    }
    let refused = send(to, &head("GET /a b"));
    assert!(refused.header("x-request-id").is_some(), "{refused:?}");
    cluster.nodes[0].assert_alive();
    let metrics = cluster.nodes[0].get("/metrics").text();
    let counted = "quorate_requests_total{operation=\"other\",result=\"client_error\"} ";
    let counted = metrics.lines().find_map(|line| line.strip_prefix(counted)).unwrap();
    assert!(counted.parse::<u32>().unwrap() >= 15, "{counted}");
}

#[test]
fn a_refusal_without_reading_the_body_says_that_it_closes() {
    let cluster = Cluster::start_with(1, "test", "[limits]\nvalue_bytes_max = 1000\n");
    let to = cluster.nodes[0].client_addr;
    let expecting = |path: &str, length: usize| {
        let line = format!("PUT {path} HTTP/1.1\r\nHost: x\r\nExpect: 100-continue\r\n");
        let mut raw = Raw::connect(to);
        raw.send(format!("{line}Content-Length: {length}\r\n\r\n").as_bytes());
        let answer = raw.answer().unwrap();
        (raw, answer)
    };
    for (path, status) in [("/kv/b/k", 413), ("/kv/b/k?w=0", 400), ("/none", 404), ("/ring", 405)] {
        let (mut raw, refused) = expecting(path, 2000);
        assert_eq!(refused.status, status, "{path}");
        assert_eq!(refused.header("connection"), Some("close"), "{path}");
        assert!(raw.is_closed());
    }
    let (mut raw, keep_working) = expecting("/kv/b/k", 5);
    assert_eq!(keep_working.status, 100);
    raw.send(b"12345");
    let written = raw.answer_to("PUT").unwrap();
    assert_eq!((written.status, written.header("connection")), (204, None));
    raw.send(&head("GET /kv/b/k"));
    assert_eq!(raw.answer().unwrap().text(), "12345", "the connection goes on");
}

#[test]
fn idle_connections_outlive_slow_heads() {
    let settings = "[timeouts]\nheader_ms = 500\nidle_ms = 60000\n";
    let cluster = Cluster::start_with(1, "test", settings);
    let to = cluster.nodes[0].client_addr;
    let (mut used, mut slow, mut silent) = (Raw::connect(to), Raw::connect(to), Raw::connect(to));
    used.send(&head("GET /livez"));
    assert_eq!(used.answer().unwrap().status, 200);
    slow.send(b"GET /livez HTTP/1.1\r\nHos");
    slow.answer().unwrap().assert_problem(408, "head_too_slow");
    assert!(silent.is_closed(), "one that never said anything");
    // Both of these took header_ms: a connection that has been used before may stay idle for
    // longer.
    used.send(&head("GET /livez"));
    assert_eq!(used.answer().unwrap().status, 200);
    used.send(b"GET /li");
    used.answer().unwrap().assert_problem(408, "head_too_slow");
}

#[test]
fn idle_connections_are_closed_in_the_end() {
    let cluster = Cluster::start_with(1, "test", "[timeouts]\nidle_ms = 1000\n");
    let mut raw = Raw::connect(cluster.nodes[0].client_addr);
    raw.send(&head("GET /livez"));
    assert_eq!(raw.answer().unwrap().status, 200);
    let since = Instant::now();
    assert!(raw.is_closed());
    assert!(since.elapsed() > Duration::from_millis(900), "{:?}", since.elapsed());
}
