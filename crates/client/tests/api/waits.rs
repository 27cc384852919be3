//! Reads that wait: what answers tell, and a real cluster in which something changes.

use std::sync::atomic::Ordering::Relaxed;
use std::time::{Duration, Instant};

use quorate_client::{Client, ClientBuilder, Context, Error, Read, Retries};

use crate::common::Cluster;
use crate::common::wire::{Proxy, Stub};

const SOON: Duration = Duration::from_secs(5);
const NOTHING: &str = "{\"type\":\"urn:quorate:problem:key_not_found\",\"detail\":\"d\"}";

fn alone(url: &str) -> ClientBuilder {
    Client::builder().nodes([url]).discover(false).route(false)
}

fn once(url: &str) -> Client {
    alone(url).retries(Retries::NONE).build().unwrap()
}

#[tokio::test]
async fn nothing_new_is_no_error() {
    let seen = Context::parse("AAAA").unwrap();
    let stub = Stub::start("304 X\r\nquorate-context: AAAA", "").await;
    let bucket = once(&stub.url).bucket("b");
    assert!(bucket.wait_after("k", &seen).wait_for(SOON).r(2).await.unwrap().is_none());
    let head = stub.head.lock().unwrap().clone();
    assert!(head.starts_with("get /kv/b/k?wait_ms=5000&r=2 http"), "{head}");
    assert!(head.contains("quorate-context: aaaa"), "{head}");

    // Who has seen nothing waits for a first write, and then reads what is there.
    let length = NOTHING.len();
    let head =
        format!("404 X\r\ncontent-type: application/problem+json\r\ncontent-length: {length}");
    let stub = Stub::start(&head, NOTHING).await;
    let read = once(&stub.url).bucket("b").wait("k").await.unwrap();
    assert!(matches!(&read, Some(Read::Absent(it)) if !it.was_deleted()), "{read:?}");
    let head = stub.head.lock().unwrap().clone();
    assert!(head.starts_with("get /kv/b/k?wait_ms=30000 http"), "{head}");
    assert!(!head.contains("quorate-context"), "{head}");
}

#[tokio::test]
async fn what_is_new_is_a_read() {
    let head = "200 OK\r\nquorate-context: BBBB\r\ncontent-length: 1";
    let bucket = once(&Stub::start(head, "x").await.url).bucket("b");
    let new = bucket.wait("k").await.unwrap();
    let Some(Read::Value(value)) = new else { panic!("{new:?}") };
    assert_eq!((value.text(), value.context().as_str()), (Some("x"), "BBBB"));
    for bad in ["200 OK\r\ncontent-length: 0", "302 X\r\ncontent-length: 0"] {
        let stub = Stub::start(bad, "").await;
        let error = once(&stub.url).bucket("b").wait("k").await.unwrap_err();
        assert!(matches!(error, Error::BadAnswer { .. }), "{bad}: {error:?}");
    }
}

#[tokio::test]
async fn a_wait_that_cannot_be_is_refused_before_anything_is_sent() {
    let bucket = Client::connect(["http://127.0.0.1:1"]).unwrap().bucket("b");
    let error = bucket.wait("k").wait_for(Duration::from_millis(60_001)).await.unwrap_err();
    assert!(matches!(error, Error::Invalid { what: "wait", .. }), "{error}");
}

#[tokio::test]
async fn time_outs_are_for_what_comes_beyond_the_wait() {
    let silent = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}", silent.local_addr().unwrap());
    let quick = alone(&url).timeout(Duration::from_millis(600));
    let bucket = quick.build().unwrap().bucket("b");
    let begun = Instant::now();
    let error = bucket.wait("k").wait_for(Duration::from_secs(1)).await.unwrap_err();
    assert!(matches!(error, Error::TimedOut { .. }), "{error}");
    let took = begun.elapsed().as_millis();
    assert!((1_300..4_000).contains(&took), "{took}");
    // A deadline is for all of it.
    let begun = Instant::now();
    let wait = bucket.wait("k").deadline(Duration::from_millis(400)).await;
    assert!(wait.is_err() && begun.elapsed() < Duration::from_secs(3));
}

#[tokio::test]
async fn a_reader_is_woken_and_survives_a_lost_answer() {
    let cluster = Cluster::start();
    let client = cluster.client();
    let bucket = client.bucket("b");
    let first = tokio::spawn(bucket.wait("k").send());
    bucket.put_blind("k", "one").w(3).await.unwrap();
    let begun = Instant::now();
    let seen = first.await.unwrap().unwrap().unwrap();
    let Read::Value(one) = &seen else { panic!("{seen:?}") };
    assert_eq!(one.text(), Some("one"));
    let short = Duration::from_millis(200);
    assert!(seen.wait().wait_for(short).await.unwrap().is_none());

    // The first answer is lost on its way: it is asked for again, and is still new.
    let proxy = Proxy::start(&cluster.url(2), 1).await;
    let other = alone(&proxy.url).build().unwrap().bucket("b");
    let waiting = tokio::spawn(other.wait_after("k", one.context()).send());
    tokio::time::sleep(short).await;
    one.replace("two").w(3).await.unwrap();
    let new = waiting.await.unwrap().unwrap();
    let Some(Read::Value(two)) = new else { panic!("{new:?}") };
    assert_eq!((two.text(), two.answered().attempts), (Some("two"), 2));
    assert_eq!(proxy.drops.load(Relaxed), 0);
    assert!(begun.elapsed() < SOON, "{:?}", begun.elapsed());

    // A delete and the end of a value are new as well.
    let waiting = tokio::spawn(two.wait().send());
    two.delete().w(3).await.unwrap();
    let new = waiting.await.unwrap().unwrap();
    let Some(Read::Absent(gone)) = new else { panic!("{new:?}") };
    assert!(gone.was_deleted());
    gone.put("three").expires_in(Duration::from_secs(1)).w(3).await.unwrap();
    let three = gone.wait().await.unwrap().unwrap();
    let over = three.wait().wait_for(SOON).await.unwrap();
    assert!(matches!(&over, Some(Read::Absent(it)) if it.has_expired()), "{over:?}");
}
