//! The graceful stop: accepted requests are finished or refused with a clear answer, within the
//! bound.

use std::time::{Duration, Instant};

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use crate::harness::{Cluster, Setup, eventually};

/// A PUT with half of its body sent, so that the node is processing it.
async fn half_a_put(cluster: &Cluster, number: usize) -> TcpStream {
    let addr = cluster.at(number).base.replace("http://", "");
    let mut stream = TcpStream::connect(&addr).await.unwrap();
    let head =
        format!("PUT /kv/stop/half HTTP/1.1\r\nHost: {addr}\r\nContent-Length: 8\r\n\r\nhalf");
    stream.write_all(head.as_bytes()).await.unwrap();
    stream
}

/// Whether a node's client port is closed.
async fn is_closed(cluster: &Cluster, number: usize) -> bool {
    TcpStream::connect(cluster.at(number).base.replace("http://", "")).await.is_err()
}

#[tokio::test(flavor = "multi_thread")]
async fn requests_in_flight_at_the_stop_are_answered() {
    let cluster = Cluster::start(Setup::of(3)).await;
    let mut half = half_a_put(&cluster, 1).await;
    // A write that cannot reach its quorum waits until its deadline, and the stop waits for the
    // write.
    cluster.cut(&[1], &[2, 3]).await;
    let node = cluster.at(1);
    let put = node.put("/kv/stop/waits?w=3&sloppy=false&timeout_ms=3000").value("v").answer();
    let put = tokio::spawn(put);
    let stored = async || {
        let read = node.get("/kv/stop/waits?r=1").answer().await;
        (read.status == 200).then_some(())
    };
    eventually("the write is in progress", stored).await;
    let stop = async {
        eventually("the port is closed", async || is_closed(&cluster, 1).await.then_some(())).await;
        half.write_all(b"-put").await.unwrap();
        let mut answer = String::new();
        half.read_to_string(&mut answer).await.unwrap();
        answer
    };
    let ((status, took), answer) = tokio::join!(cluster.terminate(1), stop);
    let put = put.await.unwrap();
    assert_eq!((put.status, put.outcome().as_str()), (503, "partial"), "{}", put.text());
    let clear = answer.starts_with("HTTP/1.1 204") || answer.contains("\"outcome\":");
    assert!(clear, "the request in flight was answered: {answer:?}");
    assert!(status.success(), "{status}");
    assert!(took < Duration::from_secs(10), "took {took:?}");
}

/// Everything that can delay a stop at once: there is one bound for all its steps, not one for
/// each.
#[tokio::test(flavor = "multi_thread")]
async fn a_stop_takes_no_longer_than_its_bound() {
    let settings = "[timeouts]\nshutdown_ms = 4000\n";
    let cluster = Cluster::start(Setup { settings, ..Setup::of(3) }).await;
    cluster.cut(&[1], &[2, 3]).await;
    let node = cluster.at(1);
    let put = node.put("/kv/stop/waits?w=3&sloppy=false&timeout_ms=60000").value("v");
    let put = tokio::spawn(put.try_answer());
    let stored = async || {
        let read = node.get("/kv/stop/waits?r=1").answer().await;
        (read.status == 200).then_some(())
    };
    eventually("the write is in progress", stored).await;
    let begun = Instant::now();
    let _half = half_a_put(&cluster, 1).await;
    let (status, took) = cluster.terminate(1).await;
    assert!(status.success(), "{status}");
    // Three steps (clients, operations, peers and background work) would otherwise take twelve.
    assert!(took < Duration::from_secs(7), "took {took:?} since {:?}", begun.elapsed());
    drop(put.await);
    cluster.restart(1).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_second_signal_ends_the_stop_at_once() {
    let settings = "[timeouts]\nshutdown_ms = 60000\n";
    let cluster = Cluster::start(Setup { settings, ..Setup::of(1) }).await;
    let _half = half_a_put(&cluster, 1).await;
    cluster.signal(1, "TERM");
    eventually("the port is closed", async || is_closed(&cluster, 1).await.then_some(())).await;
    let (status, took) = cluster.terminate(1).await;
    assert!(status.success(), "{status}");
    assert!(took < Duration::from_secs(15), "took {took:?}");
    assert!(cluster.log(1).contains("stopped"), "the store was closed");
}

/// A write that a stopping node took over might get its answer too late.
#[tokio::test(flavor = "multi_thread")]
async fn a_node_that_stops_takes_no_writes_over() {
    let settings = "[timeouts]\nshutdown_ms = 60000\nrequest_ms = 10000\n";
    let cluster = Cluster::start(Setup { settings, ..Setup::of(3) }).await;
    let _half = half_a_put(&cluster, 1).await;
    cluster.signal(1, "TERM");
    eventually("the port is closed", async || is_closed(&cluster, 1).await.then_some(())).await;
    for key in cluster.keys_where("stop", 5, |order| order[0] == 1) {
        // It goes to the first home replica that accepts it.
        let put = cluster.at(2).put(&format!("/kv/{key}")).header("If-None-Match", "*");
        let put = put.value("v").answer().await;
        assert_eq!(put.status, 204, "{}", put.text());
        let inspected = cluster.at(2).get(&format!("/siblings/{key}")).answer().await.json();
        assert_ne!(inspected["siblings"][0]["writer"], "n1", "{inspected}");
    }
    assert!(cluster.is_running(1));
}
