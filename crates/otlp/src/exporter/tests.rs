//! The exporter against collectors that listen, hang, refuse and are not there.

use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::mpsc::{Receiver, channel};
use std::time::SystemTime;

use super::*;
use crate::span::{Event, Kind};

fn exporter(endpoint: String) -> Exporter {
    let instance = "n1".to_owned();
    Exporter::start(&Target { endpoint, service: "quorate", instance, version: "1" }).unwrap()
}

fn span(name: &str) -> Span {
    let now = SystemTime::now();
    Span {
        trace: [7; 16],
        id: [9; 8],
        parent: Some([8; 8]),
        kind: Kind::Server,
        name: name.to_owned(),
        start: now,
        end: now,
        attributes: vec![("db.system.name", "quorate".into())],
        events: vec![Event { name: "quorum", at: now, attributes: vec![("us", 5.into())] }],
        error: Some("too few".to_owned()),
    }
}

/// Takes requests one after the other, answers each with `status`, and passes on what it got.
fn collector(status: &'static str) -> (String, Receiver<Vec<u8>>) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let endpoint = format!("http://{}/", listener.local_addr().unwrap());
    let (got, requests) = channel();
    std::thread::spawn(move || {
        for mut connection in listener.incoming().map_while(Result::ok) {
            while let Some(request) = read_request(&mut connection) {
                let head = format!("HTTP/1.1 {status}\r\ncontent-length: 0\r\n\r\n");
                connection.write_all(head.as_bytes()).unwrap();
                if got.send(request).is_err() {
                    return;
                }
            }
        }
    });
    (endpoint, requests)
}

fn read_request(connection: &mut TcpStream) -> Option<Vec<u8>> {
    let (mut request, mut buffer) = (Vec::new(), [0; 4096]);
    loop {
        let read = connection.read(&mut buffer).ok().filter(|read| *read > 0)?;
        request.extend_from_slice(&buffer[..read]);
        let text = String::from_utf8_lossy(&request).to_lowercase();
        let Some(end) = text.find("\r\n\r\n") else { continue };
        let length = text.split("content-length: ").nth(1)?.split("\r\n").next()?;
        if request.len() >= end + 4 + length.parse::<usize>().ok()? {
            return Some(request);
        }
    }
}

fn contains(haystack: &[u8], needle: &[u8]) -> bool {
    haystack.windows(needle.len()).any(|window| window == needle)
}

#[tokio::test]
async fn spans_arrive_together_before_the_end() {
    let (endpoint, requests) = collector("200 OK");
    let exporter = exporter(endpoint);
    exporter.offer(|| vec![span("GET carts")]);
    exporter.offer(|| vec![span("PUT carts"), span("store at n2")]);
    exporter.close(Duration::from_secs(10)).await;
    assert_eq!(exporter.counts(), Counts { exported: 2, ..Counts::default() });
    let request = requests.recv().unwrap();
    assert!(request.starts_with(b"POST /v1/traces HTTP/1.1\r\n"));
    for part in ["application/json", "GET carts", "PUT carts", "store at n2", "quorum", "n1"] {
        assert!(contains(&request, part.as_bytes()), "{part}");
    }
    assert!(contains(&request, "07".repeat(16).as_bytes()));
    exporter.offer(|| panic!("called after the end"));
    assert_eq!(exporter.counts().dropped, 1);
}

#[tokio::test]
async fn a_collector_that_refuses_or_is_not_there_costs_spans_only() {
    let (refuses, _requests) = collector("400 Bad Request");
    let nobody = TcpListener::bind("127.0.0.1:0").unwrap();
    let dead = format!("http://{}", nobody.local_addr().unwrap());
    drop(nobody);
    for endpoint in [refuses, dead] {
        let exporter = exporter(endpoint);
        exporter.offer(|| vec![span("GET carts")]);
        exporter.close(Duration::from_secs(10)).await;
        assert_eq!(exporter.counts(), Counts { failed: 1, ..Counts::default() });
    }
}

#[tokio::test]
async fn a_collector_that_hangs_holds_nobody_up() {
    let hangs = TcpListener::bind("127.0.0.1:0").unwrap(); // connections are made, and never accepted
    let exporter = exporter(format!("http://{}", hangs.local_addr().unwrap()));
    let offered = 3 * WAITING_MAX as u64;
    let begun = Instant::now();
    for _ in 0..offered {
        exporter.offer(|| vec![span("GET carts"); 8]);
    }
    assert!(begun.elapsed() < SEND_WITHIN, "{:?}", begun.elapsed());
    assert!(exporter.counts().dropped > 0);
    let begun = Instant::now();
    exporter.close(Duration::from_millis(300)).await;
    assert!(begun.elapsed() < Duration::from_secs(3), "{:?}", begun.elapsed());
    assert_eq!(exporter.counts().exported, 0);
}

#[test]
fn an_endpoint_that_is_no_address_is_refused() {
    let target = Target {
        endpoint: "no URL".to_owned(),
        service: "quorate",
        instance: String::new(),
        version: "1",
    };
    assert!(Exporter::start(&target).is_err());
}
