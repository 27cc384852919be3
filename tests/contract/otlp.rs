//! Traces for a collector: one trace across entry node, coordinator and replicas, below that of the client;
//! and collectors that are dead or hang, which no request and no stop may notice.

use std::collections::{BTreeMap, BTreeSet};
use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use serde_json::Value;

use crate::common::http::Request;
use crate::common::{CLUSTER_ID, Cluster, until};

const TRACE: &str = "4bf92f3577b34da6a3ce929d0e0e4736";
const CLIENT_SPAN: &str = "00f067aa0ba902b7";

/// A collector that keeps every span.
struct Collector {
    endpoint: String,
    /// Each with the node that sent it.
    spans: Arc<Mutex<Vec<(String, Value)>>>,
}

impl Collector {
    fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let endpoint = format!("http://{}", listener.local_addr().unwrap());
        let spans = Arc::<Mutex<Vec<_>>>::default();
        let kept = Arc::clone(&spans);
        std::thread::spawn(move || {
            for connection in listener.incoming().map_while(Result::ok) {
                let kept = Arc::clone(&kept);
                std::thread::spawn(move || serve(connection, &kept));
            }
        });
        Self { endpoint, spans }
    }

    /// The spans of a trace so far, by their ids.
    fn trace(&self, trace: &str) -> BTreeMap<String, (String, Value)> {
        let spans = self.spans.lock().unwrap();
        let of_trace = spans.iter().filter(|(_, span)| span["traceId"] == trace);
        of_trace.map(|(node, span)| (text(&span["spanId"]), (node.clone(), span.clone()))).collect()
    }

    fn len(&self) -> usize {
        self.spans.lock().unwrap().len()
    }
}

fn serve(mut connection: TcpStream, kept: &Mutex<Vec<(String, Value)>>) {
    while let Some((head, body)) = read_request(&mut connection) {
        assert!(head.starts_with("post /v1/traces http/1.1\r\n"), "{head}");
        assert!(head.contains("content-type: application/json\r\n"), "{head}");
        let request: Value = serde_json::from_slice(&body).unwrap();
        let part = &request["resourceSpans"][0];
        let node = attribute(&part["resource"], "service.instance.id").unwrap();
        for span in part["scopeSpans"][0]["spans"].as_array().unwrap() {
            kept.lock().unwrap().push((node.clone(), span.clone()));
        }
        connection.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n{}").unwrap();
    }
}

/// The next head in lower case, and the body.
fn read_request(connection: &mut TcpStream) -> Option<(String, Vec<u8>)> {
    let (mut bytes, mut buffer) = (Vec::new(), [0; 4096]);
    loop {
        let read = connection.read(&mut buffer).ok().filter(|read| *read > 0)?;
        bytes.extend_from_slice(&buffer[..read]);
        let Some(end) = bytes.windows(4).position(|window| window == b"\r\n\r\n") else { continue };
        let head = String::from_utf8(bytes[..end + 2].to_vec()).unwrap().to_lowercase();
        let length = head.split("content-length: ").nth(1)?.split("\r\n").next()?;
        let body = &bytes[end + 4..];
        if body.len() >= length.parse::<usize>().ok()? {
            return Some((head, body.to_vec()));
        }
    }
}

fn text(value: &Value) -> String {
    value.as_str().unwrap_or_default().to_owned()
}

fn attribute(of: &Value, key: &str) -> Option<String> {
    let found = of["attributes"].as_array()?.iter().find(|it| it["key"] == key)?;
    let value = &found["value"];
    value["stringValue"].as_str().or(value["intValue"].as_str()).map(str::to_owned)
}

fn settings(endpoint: &str, more: &str) -> String {
    format!("[otlp]\nendpoint = {endpoint:?}\nsample_percent = 0.1\n{more}")
}

fn traceparent(flags: &str) -> String {
    format!("00-{TRACE}-{CLIENT_SPAN}-{flags}")
}

/// Whether a span of this role and operation is there.
fn has(spans: &BTreeMap<String, (String, Value)>, role: &str, operation: &str) -> bool {
    spans.values().any(|(_, span)| {
        attribute(span, "quorate.role").as_deref() == Some(role)
            && attribute(span, "db.operation.name").as_deref() == Some(operation)
    })
}

#[test]
fn one_trace_shows_entry_node_coordinator_and_replicas() {
    let collector = Collector::start();
    let mut cluster = Cluster::start_with(4, CLUSTER_ID, &settings(&collector.endpoint, ""));
    let list = cluster.preference_list("carts", "alice");
    let entry = list[3].clone(); // no home replica: it forwards writes
    let put =
        Request::put("/kv/carts/alice?w=3", "2 apples").header("traceparent", &traceparent("01"));
    let put = cluster.node(&entry).send(&put);
    assert_eq!(put.status, 204, "{}", put.text());
    let mut spans = BTreeMap::new();
    until("the spans of all nodes", || {
        spans = collector.trace(TRACE);
        let replicas = spans
            .values()
            .filter(|(_, span)| attribute(span, "quorate.role").as_deref() == Some("replica"));
        has(&spans, "entry", "PUT") && has(&spans, "coordinator", "PUT") && replicas.count() == 2
    });
    let nodes: BTreeSet<&str> = spans.values().map(|(node, _)| node.as_str()).collect();
    assert_eq!(nodes, list.iter().map(String::as_str).collect(), "all four took part");
    let mut roots = spans.values().filter(|(_, span)| span["parentSpanId"] == CLIENT_SPAN);
    let (node, root) = roots.next().unwrap();
    assert!(roots.next().is_none() && *node == entry, "{root}");
    assert_eq!(text(&root["name"]), "PUT carts");
    for (key, value) in [
        ("db.system.name", "quorate"),
        ("db.collection.name", "carts"),
        ("http.response.status_code", "204"),
        ("quorate.node", entry.as_str()),
    ] {
        assert_eq!(attribute(root, key).as_deref(), Some(value), "{root}");
    }
    for (_, span) in spans.values() {
        let parent = text(&span["parentSpanId"]);
        assert!(parent == CLIENT_SPAN || spans.contains_key(&parent), "{span} hangs in the air");
        let shown = span.to_string();
        assert!(!shown.contains("2 apples") && !shown.contains("alice"), "{shown}");
        assert!(span["startTimeUnixNano"].as_str() <= span["endTimeUnixNano"].as_str(), "{span}");
    }
    // A read is in the trace of its client, too, with the replicas that it asked.
    let get = Request::get("/kv/carts/alice?r=3").header("traceparent", &traceparent("01"));
    assert_eq!(cluster.node(&entry).send(&get).text(), "2 apples");
    until("the read", || {
        let spans = collector.trace(TRACE);
        has(&spans, "entry", "GET") && has(&spans, "replica", "READ")
    });
    assert!(cluster.node(&entry).get("/explain").json()["traces"].as_array().unwrap().is_empty());
    let counted = cluster.node(&entry).get("/metrics").text();
    let exported = "quorate_traced_operations_total{result=\"exported\"} ";
    let exported = counted.split(exported).nth(1).unwrap().split('\n').next().unwrap();
    assert!(exported.trim().parse::<f64>().unwrap() >= 2.0, "{exported}");
}

#[test]
fn a_client_that_does_not_record_is_not_traced_and_what_is_malformed_is_ignored() {
    let collector = Collector::start();
    let settings = settings(&collector.endpoint, "shows_keys = true\n");
    let cluster = Cluster::start_with(
        1,
        CLUSTER_ID,
        &settings.replace("sample_percent = 0.1", "sample_percent = 100"),
    );
    let get = |header: &str| Request::get("/kv/b/k").header("traceparent", header);
    assert_eq!(cluster.nodes[0].send(&get(&traceparent("00"))).status, 404);
    for header in ["", "00-xyz", "ff-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"] {
        assert_eq!(cluster.nodes[0].send(&get(header)).status, 404, "{header}");
    }
    assert_eq!(cluster.nodes[0].get("/kv/b/k?explain=true").status, 404);
    until("four traces of the node's own", || collector.len() >= 4);
    assert!(collector.trace(TRACE).is_empty());
    let spans = collector.spans.lock().unwrap();
    assert!(spans.iter().all(|(_, span)| span.get("parentSpanId").is_none()), "{spans:?}");
    assert!(spans.iter().all(|(_, span)| attribute(span, "quorate.key").as_deref() == Some("k")));
}

#[test]
fn dead_and_hanging_collectors_change_no_answer_and_no_stop() {
    let hangs = TcpListener::bind("127.0.0.1:0").unwrap(); // connections are made, and never answered
    let hanging = format!("http://{}", hangs.local_addr().unwrap());
    let nobody = TcpListener::bind("127.0.0.1:0").unwrap();
    let dead = format!("http://{}", nobody.local_addr().unwrap());
    drop(nobody);
    for endpoint in [hanging, dead] {
        let mut cluster = Cluster::start_with(2, CLUSTER_ID, &settings(&endpoint, ""));
        for number in 0..50 {
            let path = format!("/kv/b/k{number}");
            let put = Request::put(&path, "v").header("traceparent", &traceparent("01"));
            assert_eq!(cluster.nodes[0].send(&put).status, 204);
            let get = Request::get(&path).header("traceparent", &traceparent("01"));
            assert_eq!(cluster.nodes[1].send(&get).text(), "v");
        }
        for node in &mut cluster.nodes {
            let begun = Instant::now();
            assert!(node.stop().success());
            // Two seconds for the traces, and a second for drains; the rest is a busy machine.
            assert!(begun.elapsed() < Duration::from_secs(10), "{:?}", begun.elapsed());
        }
    }
}

#[test]
fn an_endpoint_that_is_none_is_refused() {
    for (bad, said) in [("https://a:1", "otlp.endpoint"), ("127.0.0.1:4318", "otlp.endpoint")] {
        let cluster = Cluster::unformed(1, CLUSTER_ID, &settings(bad, ""));
        until("it ends", || cluster.nodes[0].ended().is_some());
        assert!(cluster.nodes[0].log_text().contains(said), "{}", cluster.nodes[0].log_text());
    }
}
