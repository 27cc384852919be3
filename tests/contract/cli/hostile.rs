//! Addresses where no node of ours answers, and variables that are not the node's.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener};
use std::time::{Duration, Instant};

use super::User;
use crate::common::Cluster;

/// A server that answers every request with the same bytes, again and again if `endless`.
fn server(answer: Vec<u8>, endless: bool) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let addr = listener.local_addr().unwrap();
    std::thread::spawn(move || {
        for connection in listener.incoming() {
            let (Ok(mut connection), answer) = (connection, answer.clone()) else { return };
            std::thread::spawn(move || {
                drop(connection.read(&mut [0; 4096]));
                while connection.write_all(&answer).is_ok() && endless {}
            });
        }
    });
    addr
}

fn answer(status: &str, kind: &str, body: &str) -> Vec<u8> {
    let length = body.len();
    let head = format!("HTTP/1.1 {status}\r\nContent-Type: {kind}\r\nContent-Length: {length}\r\n");
    format!("{head}Connection: close\r\n\r\n{body}").into_bytes()
}

const COMMANDS: [&[&str]; 13] = [
    &["get", "b/k"],
    &["put", "b/k", "x"],
    &["keys", "b"],
    &["siblings"],
    &["siblings", "b/k"],
    &["status"],
    &["ring"],
    &["locate", "b/k"],
    &["hints"],
    &["anti-entropy"],
    &["jobs"],
    &["bucket", "list"],
    &["export", "b"],
];

#[test]
fn another_program_is_recognised_by_every_command() {
    let large = format!("{{\"nodes\": \"{}\"}}", "x".repeat(10 << 20));
    for body in [
        answer("200 OK", "text/html", "<!doctype html><title>\u{1b}[2J</title>"),
        answer("200 OK", "application/json", "{\"nodes\": 7"),
        answer("200 OK", "application/json", "[]"),
        answer("200 OK", "application/json", "{\"nodes\":[{}],\"buckets\":1,\"keys\":{}}"),
        answer("200 OK", "application/json", &large),
        answer("404 Not Found", "text/plain", "404 page not found"),
        answer("302 Found", "text/plain", "elsewhere"),
        answer("500 Oops", "application/json", "{\"type\":\"urn:other\"}"),
        b"SSH-2.0-OpenSSH_9.2\r\n".to_vec(),
    ] {
        let user = User::of(server(body.clone(), false));
        for args in COMMANDS {
            let ran = user.run(args);
            let shown = String::from_utf8_lossy(&body[..body.len().min(80)]).into_owned();
            assert!([1, 5, 6].contains(&ran.code), "{args:?} at {shown:?}: {ran:?}");
            assert!(ran.err.starts_with("quorate: ") && ran.err.contains("→"), "{args:?}: {ran:?}");
            assert_eq!(user.run(&["healthcheck"]).code, 1, "{shown:?}");
            assert!(!ran.err.contains('\u{1b}') && ran.err.len() < 3_000, "{args:?}: {ran:?}");
        }
    }
}

#[test]
fn an_endless_answer_ends() {
    let mut head = b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\n\r\n".to_vec();
    head.extend([b'['; 64 << 10]);
    let user = User::of(server(head, true));
    let started = Instant::now();
    for args in [&["status"][..], &["ring"], &["keys", "b"]] {
        let ran = user.run(args);
        assert_ne!(ran.code, 0, "{ran:?}");
    }
    assert!(started.elapsed() < Duration::from_secs(60), "{:?}", started.elapsed());
}

#[test]
fn addresses_and_tokens_that_cannot_be_name_their_variable() {
    let user = User::of(SocketAddr::from(([127, 0, 0, 1], 1)));
    for bad in
        ["gopher://h:1", "ftp://h", "http://", "http://h:99999", ",", "http://u:p@h:1", "a b"]
    {
        user.run(&["status", "--url", bad]).check((&["status", bad], 2, "", "--url"));
        let ran = user.command(&["status"]).env("QUORATE_URL", bad).output().unwrap();
        let err = String::from_utf8(ran.stderr).unwrap();
        assert!(ran.status.code() == Some(2) && err.contains("QUORATE_URL"), "{bad}: {err}");
    }
    let ran = user.command(&["status"]).env("QUORATE_TOKEN", "a\nb").output().unwrap();
    let err = String::from_utf8(ran.stderr).unwrap();
    assert!(ran.status.code() == Some(2) && err.contains("QUORATE_TOKEN"), "{err}");
    user.run(&["get", "b/k"]).check((&["get"], 5, "", "quorate dev"));
}

#[test]
fn the_node_leaves_the_variables_of_the_command_line_alone() {
    let mut cluster = Cluster::unformed(1, "test", "");
    cluster.nodes[0].wait_until_alive();
    let user = User::of(cluster.nodes[0].client_addr);
    let config = cluster.nodes[0].config();
    let check = ["check-config", "--config", config.to_str().unwrap()];
    let ran = user.command(&check).env("QUORATE_TOKEN", "secret").output().unwrap();
    assert!(ran.status.success() && ran.stderr.is_empty(), "{ran:?}");
    let doctor = ["doctor", "--config", config.to_str().unwrap()];
    user.run(&doctor).check((&doctor, 1, "form the cluster", ""));
}
