//! What the client does when answers are lost, nodes are dead, or what answers is no node.

use std::sync::atomic::Ordering::Relaxed;
use std::time::{Duration, Instant};

use quorate_client::{Client, Error, Outcome, Read, Retries};

use crate::common::wire::{Proxy, Stub};
use crate::common::{Apart, Cluster};

/// A client of exactly one URL.
fn alone(url: &str) -> quorate_client::ClientBuilder {
    Client::builder().nodes([url]).discover(false).route(false)
}

/// Likewise, that sends everything once.
fn once(url: &str) -> Client {
    alone(url).retries(Retries::NONE).build().unwrap()
}

async fn siblings_of(client: &Client, key: &str) -> usize {
    match client.bucket("b").get(key).r(3).await.unwrap() {
        Read::Value(_) => 1,
        Read::Siblings(siblings) => siblings.siblings().len(),
        Read::Absent(_) => 0,
    }
}

#[tokio::test]
async fn a_write_whose_answer_is_lost_is_one_write() {
    let cluster = Cluster::start();
    let proxy = Proxy::start(&cluster.url(1), 3).await;
    let client = alone(&proxy.url).build().unwrap();
    let written = client.bucket("b").put_blind("k", "x").w(3).await.unwrap();
    assert_eq!((written.siblings, written.answered.attempts), (1, 4));
    assert_eq!(proxy.drops.load(Relaxed), 0);
    assert_eq!(siblings_of(&cluster.client(), "k").await, 1);

    // Without a retry the client says that it does not know.
    let proxy = Proxy::start(&cluster.url(1), 1).await;
    let lost = once(&proxy.url).bucket("b").put_blind("l", "x").await.unwrap_err();
    assert!(matches!(lost, Error::Unreachable { outcome: Outcome::Unknown, .. }), "{lost}");
    assert_eq!(siblings_of(&cluster.client(), "l").await, 1, "it was done all the same");

    // The program's own key makes a repetition by hand safe as well.
    for _ in 0..2 {
        let put = cluster.client().bucket("b").put_blind("m", "x").idempotency_key("mine").w(3);
        assert_eq!(put.await.unwrap().siblings, 1);
    }
    let other = cluster.client().bucket("b").put_blind("m", "y").idempotency_key("mine");
    let reused = other.await.unwrap_err();
    assert!(matches!(reused, Error::IdempotencyKeyReused { .. }), "{reused}");
}

#[tokio::test]
async fn a_dead_node_is_avoided_and_comes_back() {
    let mut cluster = Apart::start().await;
    let urls = cluster.urls();
    let client = Client::builder().nodes(urls.clone()).build().unwrap();
    client.discover().await.unwrap();
    let bucket = client.bucket("b");
    bucket.put_blind("k", "x").w(3).await.unwrap();

    cluster.kill(2);
    let dead = |client: &Client| !client.known_nodes()[1].up;
    // A connection that breaks may only have been idle; one that cannot be made says that it is dead.
    let begun = Instant::now();
    for turn in 0.. {
        let written = bucket.put_blind(format!("k{turn}"), "x").await.unwrap();
        assert_ne!(written.answered.node, urls[1]);
        assert!(matches!(bucket.get("k").await.unwrap(), Read::Value(_)));
        if dead(&client) {
            break;
        }
        assert!(begun.elapsed() < Duration::from_secs(20), "it is noticed");
    }
    let begun = Instant::now();
    for _ in 0..20 {
        let read = bucket.get("k").await.unwrap();
        assert_eq!(
            read.answered().attempts,
            1,
            "no request goes to it while it is known to be dead"
        );
    }
    assert!(begun.elapsed() < Duration::from_secs(20));

    cluster.serve(2);
    cluster.ready(&[2]).await;
    let begun = Instant::now();
    while dead(&client) {
        assert!(begun.elapsed() < Duration::from_secs(30), "it is probed again");
        drop(bucket.get("k").await.unwrap());
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

#[tokio::test]
async fn a_hung_node_costs_one_attempt() {
    let cluster = Apart::start().await;
    let urls = cluster.urls();
    let client = Client::builder().nodes(urls.clone()).attempt_timeout(Duration::from_millis(1500));
    let client = client.build().unwrap();
    client.discover().await.unwrap();
    let bucket = client.bucket("b");
    bucket.put_blind("k", "x").w(3).await.unwrap();
    cluster.signal(3, "-STOP");
    let mut attempts = 0;
    for turn in 0..10 {
        let written = bucket.put_blind(format!("k{turn}"), "x").await.unwrap();
        attempts += written.answered.attempts + bucket.get("k").await.unwrap().answered().attempts;
    }
    cluster.signal(3, "-CONT");
    assert!((20..=22).contains(&attempts), "{attempts} attempts for 20 requests");
}

#[tokio::test]
async fn nobody_there_is_a_clear_error_within_the_deadline() {
    let closed = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}", closed.local_addr().unwrap());
    drop(closed);
    let client = Client::builder().nodes([&url]).timeout(Duration::from_secs(2)).build().unwrap();
    let begun = Instant::now();
    let error = client.bucket("b").put_blind("k", "x").await.unwrap_err();
    assert!(matches!(error, Error::Unreachable { outcome: Outcome::NotApplied, .. }), "{error}");
    assert!(error.to_string().contains(&url) && error.to_string().contains("refused"), "{error}");
    assert!(begun.elapsed() < Duration::from_secs(4));
}

#[tokio::test]
async fn a_server_that_is_silent_leaves_a_write_unknown() {
    let silent = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}", silent.local_addr().unwrap());
    let client = alone(&url).timeout(Duration::from_millis(600)).build().unwrap();
    let begun = Instant::now();
    let error = client.bucket("b").put_blind("k", "x").await.unwrap_err();
    assert!(matches!(error, Error::TimedOut { outcome: Outcome::Unknown, .. }), "{error}");
    assert!((500..3000).contains(&begun.elapsed().as_millis()), "{:?}", begun.elapsed());
    let read = client.bucket("b").get("k").await.unwrap_err();
    assert!(matches!(read, Error::TimedOut { outcome: Outcome::NotApplied, .. }), "{read}");
}

#[tokio::test]
async fn failed_writes_say_what_they_left() {
    for (text, outcome) in [
        ("not_applied", Outcome::NotApplied),
        ("partial", Outcome::Partial),
        ("unknown", Outcome::Unknown),
    ] {
        let members = format!(",\"outcome\":{text:?},\"required\":2,\"acks\":1,\"down\":[\"n3\"]");
        let stub = Stub::problem(503, "no_quorum", &members).await;
        let error = once(&stub.url).bucket("b").put_blind("k", "x").await.unwrap_err();
        let Error::NoQuorum { outcome: told, required: 2, acks: 1, problem } = error else {
            panic!("{error}")
        };
        assert_eq!(told, outcome);
        assert_eq!(problem.fact("down").unwrap()[0], "n3");
        assert_eq!(problem.request_id(), Some("0123456789abcdef"));
        assert_eq!(problem.retry_after(), Some(Duration::from_secs(1)));
    }
    let stub = Stub::problem(503, "overloaded", ",\"outcome\":\"not_applied\"").await;
    let error = once(&stub.url).bucket("b").put_blind("k", "x").await.unwrap_err();
    let Error::Overloaded { retry_after, outcome, .. } = error else { panic!("{error}") };
    assert_eq!((retry_after, outcome), (Some(Duration::from_secs(1)), Outcome::NotApplied));
}

#[tokio::test]
async fn retry_after_is_honoured_and_bounded_by_the_deadline() {
    let stub = Stub::problem(503, "overloaded", "").await;
    let two = Retries { attempts_max: 2, ..Retries::default() };
    let client = alone(&stub.url).retries(two).build().unwrap();
    let begun = Instant::now();
    assert!(client.bucket("b").get("k").await.is_err());
    assert!(begun.elapsed() >= Duration::from_secs(1));
    assert_eq!(stub.asked.load(Relaxed), 2);

    let client = alone(&stub.url).timeout(Duration::from_millis(900)).build().unwrap();
    let begun = Instant::now();
    let error = client.bucket("b").get("k").await.unwrap_err();
    assert!(matches!(error, Error::Overloaded { .. }), "the true reason: {error}");
    assert!(begun.elapsed() < Duration::from_millis(900), "no wait that cannot end in time");
}

#[tokio::test]
async fn another_node_is_asked_before_the_wait_is_over() {
    let cluster = Cluster::start();
    let stub = Stub::problem(503, "overloaded", ",\"outcome\":\"not_applied\"").await;
    for _ in 0..4 {
        let client = Client::builder().nodes([stub.url.clone(), cluster.url(2)]).discover(false);
        let client = client.route(false).build().unwrap();
        let begun = Instant::now();
        let key = format!("k{}", stub.asked.load(Relaxed));
        client.bucket("b").put_blind(key, "x").await.unwrap();
        assert!(begun.elapsed() < Duration::from_secs(1));
    }
}

#[tokio::test]
async fn answers_that_no_node_gives_are_errors() {
    let context = "quorate-context: AAAA";
    let json = format!("content-type: application/json\r\n{context}");
    for (head, body) in [
        ("200 OK\r\ncontent-type: text/html\r\ncontent-length: 2".to_owned(), "ok".to_owned()),
        (format!("300 X\r\n{json}\r\ncontent-length: 14"), "{\"siblings\":[{".to_owned()),
        (format!("300 X\r\n{json}\r\ncontent-length: 15"), "{\"siblings\":[]}".to_owned()),
        (format!("300 X\r\n{json}\r\ncontent-length: 2"), "\u{0}\u{1}".to_owned()),
        ("404 Not Found\r\ncontent-length: 4".to_owned(), "gone".to_owned()),
        (
            "302 Found\r\nlocation: http://127.0.0.1:1/\r\ncontent-length: 0".to_owned(),
            String::new(),
        ),
        (format!("200 OK\r\n{context}\r\ncontent-length: 999999999999"), "x".to_owned()),
    ] {
        let stub = Stub::start(&head, body).await;
        let error = once(&stub.url).bucket("b").get("k").await.unwrap_err();
        assert!(matches!(error, Error::BadAnswer { .. }), "{head}: {error:?}");
        let write = once(&stub.url).bucket("b").put_blind("k", "x").await.unwrap_err();
        assert_eq!(write.outcome(), Outcome::Unknown, "{head}: {write:?}");
    }
    // Cut short, and no HTTP at all.
    for head in
        [format!("200 OK\r\n{context}\r\ncontent-length: 9"), "\u{1}\u{2}garbage".to_owned()]
    {
        let stub = Stub::start(&head, "half").await;
        let error = once(&stub.url).bucket("b").get("k").await.unwrap_err();
        assert!(matches!(error, Error::Unreachable { .. }), "{head}: {error:?}");
    }
}

#[tokio::test]
async fn a_huge_error_is_not_held_in_memory() {
    let head = "503 X\r\ncontent-type: application/problem+json\r\ncontent-length: 50000000";
    let stub = Stub::start(head, vec![b'x'; 50_000_000]).await;
    let error = once(&stub.url).bucket("b").get("k").await.unwrap_err();
    let Error::Failed { problem, .. } = &error else { panic!("{error:?}") };
    assert_eq!((problem.status(), problem.name()), (503, ""));
    assert!(error.to_string().len() < 10_000);
    // Of no announced length.
    let stub = Stub::start("400 X\r\ncontent-type: text/plain", vec![b'x'; 5_000_000]).await;
    let error = once(&stub.url).bucket("b").get("k").await.unwrap_err();
    assert!(matches!(error, Error::BadRequest { .. }), "{error:?}");
    assert!(error.to_string().len() < 10_000);
    // A value that is longer than is held.
    let head = "200 OK\r\nquorate-context: AAAA";
    let stub = Stub::start(head, vec![b'x'; 5_000_000]).await;
    let small = alone(&stub.url).answer_bytes_max(1 << 20).build().unwrap();
    let error = small.bucket("b").get("k").await.unwrap_err();
    assert!(matches!(error, Error::BadAnswer { .. }), "{error:?}");
}
