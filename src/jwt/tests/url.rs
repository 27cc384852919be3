//! Keys at a URL, asked over TLS and nothing else.

use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};

use quorate_engine::config::TlsMode;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpListener;
use tokio_rustls::TlsAcceptor;

use super::*;
use crate::tls::Port;
use crate::tls::slot::Slot;
use crate::tls::tests::{Certificates, config};

/// A server that gives one answer to everyone, in bytes. Returns its address, and how often it was asked.
async fn serve(certificates: &Certificates, answer: Vec<u8>) -> (String, Arc<AtomicUsize>) {
    let mut client_tls = certificates.settings(TlsMode::Require, "n1");
    client_tls.ca.clear();
    let of_node = quorate_engine::config::Config { client_tls, ..config(certificates.dir.path()) };
    let server = Slot::load(&of_node, Port::Client).unwrap().current().server.clone();
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let addr = listener.local_addr().unwrap().to_string();
    let asked = Arc::new(AtomicUsize::new(0));
    let count = asked.clone();
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            let Ok(mut stream) = TlsAcceptor::from(server.clone()).accept(stream).await else {
                continue;
            };
            let mut head = Vec::new();
            while !head.ends_with(b"\r\n\r\n") {
                head.push(stream.read_u8().await.unwrap());
            }
            count.fetch_add(1, Relaxed);
            drop(stream.write_all(&answer).await);
            drop(stream.shutdown().await);
        }
    });
    (addr, asked)
}

fn answer(status: &str, headers: &str, body: &str) -> Vec<u8> {
    let length = body.len();
    format!("HTTP/1.1 {status}\r\n{headers}Content-Length: {length}\r\n\r\n{body}").into_bytes()
}

fn at(url: String, ca: PathBuf) -> Arc<Jwt> {
    let base = World::new().jwt.config.clone();
    Jwt::load(&JwtConfig { keys: url, ca, ..base }).unwrap().unwrap()
}

#[tokio::test]
async fn keys_are_fetched_from_a_host_that_is_believed() {
    let certificates = Certificates::new();
    certificates.issue("n1", "n1");
    let ec = Private::p256();
    let keys = json!({"keys": [ec.public("e")]}).to_string();
    let (addr, _) = serve(&certificates, answer("200 OK", "", &keys)).await;
    let jwt = at(format!("https://{addr}/keys"), certificates.ca());
    let token = ec.sign(&header(), &claims(&json!({})));
    assert_eq!(jwt.verify(&token, NOW).unwrap_err(), Rejected::NoKeysYet);
    let text = jwt.source.read().await.unwrap();
    assert_eq!(jwt.take(&text), Ok((1, 0)));
    assert!(jwt.verify(&token, NOW).is_ok());
    let other = Certificates::new();
    let unbelieved = at(format!("https://{addr}/keys"), other.ca());
    let why = unbelieved.source.read().await.unwrap_err();
    assert!(why.contains("certificate"), "{why}");
    let plain = at(format!("https://{addr}/keys").replace("https", "http"), certificates.ca());
    assert!(plain.source.read().await.is_err(), "the client asks over TLS alone");
}

#[tokio::test]
async fn what_a_url_answers_is_bounded_and_sends_nobody_elsewhere() {
    let certificates = Certificates::new();
    certificates.issue("n1", "n1");
    let long = "x".repeat(keys::SET_BYTES_MAX + 1);
    let (elsewhere, asked) = serve(&certificates, answer("200 OK", "", "{\"keys\": []}")).await;
    let redirect = format!("Location: https://{elsewhere}/keys\r\n");
    for (given, words) in [
        (answer("200 OK", "", &long), "more than"),
        (answer("302 Found", &redirect, ""), "302"),
        (answer("404 Not Found", "", "{\"keys\": []}"), "404"),
        (b"HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\n{".to_vec(), "http"),
        (b"nonsense\r\n\r\n".to_vec(), "http"),
    ] {
        let (addr, _) = serve(&certificates, given).await;
        let jwt = at(format!("https://{addr}/keys"), certificates.ca());
        let why = jwt.source.read().await.unwrap_err();
        assert!(why.to_lowercase().contains(words) || words == "http", "{words}: {why}");
    }
    assert_eq!(asked.load(Relaxed), 0, "the redirection was not followed");
}
