//! Requests that wait for a change of a key.

use std::thread;
use std::time::{Duration, Instant};

use crate::common::Cluster;
use crate::common::http::{Answer, Request};

const SOON: Duration = Duration::from_secs(5);

/// What a request that waits is answered, while something is done.
fn waits(
    cluster: &Cluster,
    at: usize,
    request: &Request,
    act: impl FnOnce(),
) -> (Answer, Duration) {
    thread::scope(|scope| {
        let begun = Instant::now();
        let waiting = scope.spawn(move || (cluster.nodes[at].send(request), begun.elapsed()));
        act();
        waiting.join().unwrap()
    })
}

#[test]
fn a_request_is_answered_once_there_is_something_new() {
    let cluster = Cluster::start(4); // one of them is no home replica
    for at in 0..4 {
        let path = format!("/kv/b/k{at}");
        let wait = Request::get(&format!("{path}?wait_ms=30000"));
        let put = |value: &str, context: Option<&str>| {
            let put = Request::put(&path, value);
            let put = context.map_or(put.clone(), |context| put.context(context));
            assert_eq!(cluster.nodes[(at + 1) % 4].send(&put).status, 204);
        };
        let (first, took) = waits(&cluster, at, &wait, || put("one", None));
        assert_eq!((first.status, first.text()), (200, "one".to_owned()));
        assert!(took < SOON, "{took:?}");
        let seen = first.context().to_owned();
        let next = wait.clone().context(&seen);
        let (second, took) = waits(&cluster, at, &next, || put("two", Some(&seen)));
        assert_eq!((second.status, second.text()), (200, "two".to_owned()));
        assert!(took < SOON, "{took:?}");
        let seen = second.context().to_owned();
        let delete = Request::delete(&path).context(&seen);
        let (gone, took) = waits(&cluster, at, &wait.clone().context(&seen), || {
            assert_eq!(cluster.nodes[at].send(&delete).status, 204);
        });
        gone.assert_problem(404, "key_deleted");
        assert!(took < SOON, "{took:?}");
        // What is already there is told at once.
        let begun = Instant::now();
        cluster.nodes[at].send(&next).assert_problem(404, "key_deleted");
        assert!(begun.elapsed() < SOON);
    }
}

#[test]
fn a_wait_ends_with_nothing_new() {
    let cluster = Cluster::start(3);
    let node = &cluster.nodes[0];
    node.get("/kv/b/k?wait_ms=100").assert_problem(404, "key_not_found");
    assert_eq!(node.send(&Request::put("/kv/b/k", "v")).status, 204);
    let read = node.get("/kv/b/k?wait_ms=60000");
    assert_eq!(read.text(), "v", "without a context everything is new");
    let again = Request::get("/kv/b/k?wait_ms=300").context(read.context());
    let begun = Instant::now();
    let answer = node.send(&again);
    assert_eq!((answer.status, answer.context()), (304, read.context()));
    assert!(begun.elapsed() >= Duration::from_millis(300));
    for bad in ["wait_ms=0", "wait_ms=60001", "wait_ms=x", "wait_ms=100&explain=true"] {
        let detail = node.get(&format!("/kv/b/k?{bad}")).assert_problem(400, "bad_parameter");
        assert!(detail.contains("wait_ms"), "{detail}");
    }
    let foreign = Request::get("/kv/b/other?wait_ms=100").context(read.context());
    node.send(&foreign).assert_problem(400, "bad_context");
}

#[test]
fn the_end_of_a_value_is_something_new() {
    let cluster = Cluster::start(3);
    let node = &cluster.nodes[0];
    let put = Request::put("/kv/b/k", "v").header("Quorate-Expires-In", "1");
    assert_eq!(node.send(&put).status, 204);
    let read = node.get("/kv/b/k");
    let wait = Request::get("/kv/b/k?wait_ms=30000").context(read.context());
    let begun = Instant::now();
    let over = cluster.nodes[1].send(&wait);
    over.assert_problem(404, "key_deleted");
    assert_eq!(over.header("quorate-expired"), Some("true"));
    assert!(begun.elapsed() < SOON, "{:?}", begun.elapsed());
}
