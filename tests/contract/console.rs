//! The console and the stream of events.

use std::io::{BufRead, BufReader, Write};
use std::net::TcpStream;
use std::time::{Duration, Instant};

use serde_json::Value;

use crate::common::http::Request;
use crate::common::process::Process;
use crate::common::{Cluster, TIMEOUT};

/// Streams that a node serves at a time.
const STREAMS_MAX: usize = 16;

#[test]
fn the_console_is_in_the_binary_and_loads_nothing_from_elsewhere() {
    let cluster = Cluster::start(1);
    let node = &cluster.nodes[0];
    let page = node.get("/console");
    assert_eq!((page.status, page.header("content-type")), (200, Some("text/html; charset=utf-8")));
    assert_eq!(page.body, node.get("/").body);
    assert_eq!(page.header("cache-control"), Some("no-cache"));
    assert_eq!(page.header("x-content-type-options"), Some("nosniff"));
    let policy = page.header("content-security-policy").unwrap();
    assert!(policy.starts_with("default-src 'none'; ") && !policy.contains("unsafe"), "{policy}");
    let text = page.text();
    let named: Vec<&str> = text.split('"').filter(|it| it.starts_with("/console/")).collect();
    assert!(named.len() >= 4, "{named:?}");
    for path in named {
        let file = node.get(path);
        assert_eq!((file.status, file.header("x-content-type-options")), (200, Some("nosniff")));
        assert!(file.header("cache-control").unwrap().contains("immutable"), "{path}");
        let again = Request::get(path).header("If-None-Match", file.header("etag").unwrap());
        assert_eq!(node.send(&again).status, 304, "{path}");
    }
    node.get("/console/0000000000000000/app.js").assert_problem(404, "no_such_route");
    assert_eq!(node.get("/?x=1").status, 200);
    node.send(&Request::put("/console", "x")).assert_problem(405, "method_not_allowed");
}

/// The console has the rights of its visitor; a stored page, of the same origin, must not.
#[test]
fn a_stored_page_runs_no_scripts_in_a_browser() {
    let cluster = Cluster::start(1);
    let node = &cluster.nodes[0];
    let page = "<script>fetch('/distrusted/discard', {method: 'POST'})</script>";
    node.send(&Request::put("/kv/b/page", page).header("Content-Type", "text/html"));
    let accept = "text/html,application/xhtml+xml,application/xml;q=0.9,*/*;q=0.8";
    let shown = node.send(&Request::get("/kv/b/page").header("Accept", accept));
    assert_eq!((shown.status, shown.header("content-type")), (200, Some("text/html")));
    assert_eq!(shown.header("content-security-policy"), Some("sandbox"));
    assert_eq!(shown.header("x-content-type-options"), Some("nosniff"));
    assert_eq!(node.get("/kv/b/page").header("content-security-policy"), None);
}

/// A client of `/events`.
struct Stream(BufReader<TcpStream>);

impl Stream {
    fn open(node: &Process) -> Self {
        let mut socket = TcpStream::connect(node.client_addr).unwrap();
        socket.set_read_timeout(Some(TIMEOUT)).unwrap();
        socket.write_all(b"GET /events HTTP/1.1\r\nHost: x\r\n\r\n").unwrap();
        Self(BufReader::new(socket))
    }

    fn line(&mut self) -> Option<String> {
        let mut line = String::new();
        let read = self.0.read_line(&mut line).ok()?;
        (read > 0).then(|| line.trim_end().to_owned())
    }

    /// The data of the next event of this name; `None` if the stream ends before.
    fn next(&mut self, name: &str) -> Option<Value> {
        let wanted = format!("event: {name}");
        while self.line()? != wanted {}
        let data = self.line()?;
        Some(serde_json::from_str(data.strip_prefix("data: ").unwrap()).unwrap())
    }

    /// Whether the node answers 200.
    fn is_accepted(&mut self) -> bool {
        self.line().unwrap() == "HTTP/1.1 200 OK"
    }
}

#[test]
fn events_come_at_once_and_then_as_things_happen() {
    let mut cluster = Cluster::start(3);
    let [a, b, _] = &mut cluster.nodes[..] else { panic!("three nodes") };
    let mut stream = Stream::open(a);
    assert!(stream.is_accepted());
    let seen = stream.next("cluster").unwrap();
    assert_eq!((&seen["node"], seen["nodes"].as_array().unwrap().len()), (&"n1".into(), 3));
    assert_eq!(stream.next("hints").unwrap()["targets"], Value::Array(Vec::new()));
    assert!(stream.next("anti_entropy").unwrap()["totals"].is_object());
    let jobs = stream.next("jobs").unwrap();
    assert!(jobs["jobs"].as_array().unwrap().iter().any(|job| job["job"] == "gossip"), "{jobs}");
    let first = stream.next("rates").unwrap();
    assert_eq!(first["operations"]["put"]["per_s"], Value::Null, "nothing to compare with yet");
    a.send(&Request::put("/kv/b/k", "1"));
    let begun = Instant::now();
    let counted = std::iter::from_fn(|| stream.next("rates"))
        .take_while(|_| begun.elapsed() < TIMEOUT)
        .find(|rates| rates["operations"]["put"]["per_s"].as_f64().unwrap() > 0.0);
    let put = &counted.unwrap()["operations"]["put"];
    assert!(put["p99_s"].as_f64().unwrap() > 0.0, "{put}");
    b.kill();
    let lost = std::iter::from_fn(|| stream.next("cluster"))
        .take_while(|_| begun.elapsed() < TIMEOUT)
        .find(|cluster| cluster["nodes"][1]["state"] == "down");
    assert!(lost.is_some());
}

#[test]
fn streams_are_few_and_their_slots_come_back() {
    let cluster = Cluster::start(1);
    let node = &cluster.nodes[0];
    let mut streams: Vec<Stream> = (0..STREAMS_MAX).map(|_| Stream::open(node)).collect();
    assert!(streams.iter_mut().all(Stream::is_accepted));
    node.get("/events").assert_problem(503, "overloaded");
    node.get("/events?x=1").assert_problem(400, "bad_parameter");
    assert_eq!(node.get("/cluster").status, 200, "others are served as before");
    drop(streams);
    let begun = Instant::now();
    while !Stream::open(node).is_accepted() {
        assert!(begun.elapsed() < TIMEOUT, "the slots of clients that are gone");
    }
}

#[test]
fn a_stop_does_not_wait_for_streams() {
    let mut cluster = Cluster::start_with(1, "test", "[timeouts]\nshutdown_ms = 60000\n");
    let mut stream = Stream::open(&cluster.nodes[0]);
    assert!(stream.next("rates").is_some());
    let begun = Instant::now();
    assert!(cluster.nodes[0].stop().success());
    assert!(begun.elapsed() < Duration::from_secs(20), "{:?}", begun.elapsed());
    while stream.line().is_some() {}
}
