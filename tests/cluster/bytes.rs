//! Bytes are limited, not only operations: large values, slow clients and slow links.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::task::JoinSet;

use crate::harness::{Cluster, Setup, eventually};
use crate::http::Answer;
use crate::links::FAST_ETHERNET;

const MIB: usize = 1 << 20;
/// Low limits, so that little traffic exceeds them.
const SMALL_BOUNDS: &str = "[limits]\noperation_bytes_max = 67108864\n\
    [peers]\nlarge_bytes_max = 16777216\n";
/// What a node may hold under these limits, with the overhead of a message and its answer, and of
/// the allocator.
const BOUNDS_MIB: u64 = (64 + 16) * 5 / 4 + 100;

fn of_bytes(settings: &'static str, nodes: usize) -> Setup {
    Setup { settings, ..Setup::of(nodes) }
}

/// A value that does not compress.
fn noise(bytes: usize, seed: u64) -> Vec<u8> {
    let mut state = seed | 1;
    let mut next = || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state as u8
    };
    (0..bytes).map(|_| next()).collect()
}

/// Watches how much memory each node takes.
struct Watch {
    stop: Arc<AtomicBool>,
    peaks: Arc<Vec<AtomicU64>>,
    before: Vec<u64>,
}

impl Watch {
    fn start(cluster: &Arc<Cluster>) -> Self {
        let stop = Arc::new(AtomicBool::new(false));
        let before: Vec<u64> = cluster.all().map(|number| cluster.resident_mib(number)).collect();
        let peaks = Arc::new(before.iter().map(|mib| AtomicU64::new(*mib)).collect::<Vec<_>>());
        let (watched, stopped, seen) = (cluster.clone(), stop.clone(), peaks.clone());
        tokio::spawn(async move {
            while !stopped.load(Relaxed) {
                for number in watched.all() {
                    seen[number - 1].fetch_max(watched.resident_mib(number), Relaxed);
                }
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        });
        Self { stop, peaks, before }
    }

    /// The peak growth of each node's memory, in MiB.
    fn stop(self) -> Vec<u64> {
        self.stop.store(true, Relaxed);
        let peaks = self.peaks.iter().map(|peak| peak.load(Relaxed));
        peaks.zip(self.before).map(|(peak, before)| peak.saturating_sub(before)).collect()
    }
}

/// Checks that no node has called another one down since the cluster was up.
fn assert_no_node_was_called_down(cluster: &Cluster, before: &[usize]) {
    for (number, before) in cluster.all().zip(before) {
        let log = cluster.log(number);
        let said: Vec<&str> = log.lines().skip(*before).filter(|l| l.contains("is down")).collect();
        assert!(said.is_empty(), "n{number}: {said:?}");
    }
}

fn lines(cluster: &Cluster) -> Vec<usize> {
    cluster.all().map(|number| cluster.log(number).lines().count()).collect()
}

/// Whether it was refused for overload: with a time to retry by this node, or by its replicas, one of
/// which may have been too busy to say so.
fn is_refused(answer: &Answer) -> bool {
    if answer.status == 503 {
        let problem = answer.json();
        let by_replicas = problem["type"] == "urn:quorate:problem:no_read_quorum"
            && problem["refused"].as_array().is_some_and(|refused| !refused.is_empty());
        let by_node = problem["type"] == "urn:quorate:problem:overloaded"
            && answer.header("Retry-After").is_some();
        assert!(by_node || by_replicas, "{problem}");
    }
    answer.status == 503
}

async fn gets_at_once(
    cluster: &Arc<Cluster>,
    through: usize,
    key: &str,
    count: usize,
) -> Vec<Answer> {
    let mut readers = JoinSet::new();
    for _ in 0..count {
        let ask = cluster.at(through).get(&format!("/kv/{key}"));
        readers.spawn(ask.answer());
    }
    readers.join_all().await
}

#[tokio::test(flavor = "multi_thread")]
async fn many_readers_of_large_values_stay_within_the_bounds() {
    let cluster = Cluster::start(of_bytes(SMALL_BOUNDS, 4)).await;
    let elsewhere = |list: &[usize]| !list[..3].contains(&4);
    let key = &cluster.keys_where("large", 1, elsewhere)[0];
    let value = noise(8 * MIB, 7);
    let put = cluster.at(1).put(&format!("/kv/{key}?w=all")).value(value.clone()).answer().await;
    assert_eq!(put.status, 204, "{}", put.text());
    let (before, watch) = (lines(&cluster), Watch::start(&cluster));
    for through in [4, 1] {
        let answers = gets_at_once(&cluster, through, key, 100).await;
        let mut read = 0;
        for answer in &answers {
            if !is_refused(answer) {
                assert_eq!(answer.status, 200, "{}", answer.text());
                assert!(answer.body() == &value[..]);
                read += 1;
            }
        }
        assert!(read >= 3, "{read} of 100 through n{through}");
    }
    let grown = watch.stop();
    assert!(grown.iter().all(|mib| *mib <= BOUNDS_MIB), "{grown:?} MiB of {BOUNDS_MIB}");
    assert_no_node_was_called_down(&cluster, &before);
}

#[tokio::test(flavor = "multi_thread")]
async fn many_readers_of_a_large_conflict_stay_within_the_bounds() {
    let cluster = Cluster::start(of_bytes(SMALL_BOUNDS, 3)).await;
    for i in 0..5 {
        let text = String::from_utf8(vec![b'a' + i; 8 * MIB]).unwrap();
        let put = cluster.at(1).put("/kv/large/conflict?w=all").value(text).answer().await;
        assert_eq!(put.status, 204, "{}", put.text());
    }
    let watch = Watch::start(&cluster);
    let answers = gets_at_once(&cluster, 1, "large/conflict", 30).await;
    let shown: Vec<_> = answers.iter().filter(|answer| !is_refused(answer)).collect();
    assert!(!shown.is_empty());
    for answer in shown {
        assert_eq!((answer.status, answer.siblings().len()), (300, 5));
    }
    let looks = ["/kv/large/conflict", "/siblings/large/conflict"];
    let mut asking = JoinSet::new();
    for i in 0..40 {
        let ask = cluster.at(1 + i % 3).get(looks[i % 2]);
        asking.spawn(ask.header("Accept", "multipart/mixed, application/json").try_answer());
    }
    let looked = asking.join_all().await.into_iter().flatten();
    assert!(looked.filter(|answer| !is_refused(answer)).count() > 0);
    let grown = watch.stop();
    // An inspecting node holds the copies of three replicas; a merging one the same again. A quarter
    // more is for what the allocator has not given back.
    let bound = (BOUNDS_MIB + 5 * 40) * 5 / 4;
    eprintln!("{grown:?} MiB of {bound}");
    assert!(grown.iter().all(|mib| *mib <= bound), "{grown:?} MiB of {bound}");
}

/// A connection that has sent something and then stays idle.
async fn begin(cluster: &Cluster, number: usize, head: String) -> TcpStream {
    let mut stream = TcpStream::connect(cluster.client_addr(number)).await.unwrap();
    stream.write_all(head.as_bytes()).await.unwrap();
    stream
}

#[tokio::test(flavor = "multi_thread")]
async fn clients_that_read_nothing_do_not_starve_others() {
    let cluster = Cluster::start(of_bytes(SMALL_BOUNDS, 3)).await;
    let value = noise(8 * MIB, 9);
    let put = cluster.at(1).put("/kv/large/k?w=all").value(value.clone()).answer().await;
    assert_eq!(put.status, 204);
    let mut stuck = Vec::new();
    for _ in 0..40 {
        let head = "GET /kv/large/k HTTP/1.1\r\nHost: x\r\n\r\n".to_owned();
        let mut stream = begin(&cluster, 1, head).await;
        let mut start = [0; 12];
        stream.read_exact(&mut start).await.unwrap();
        stuck.push(stream);
    }
    for i in 0..100 {
        let path = format!("/kv/small/k{i}");
        let put = cluster.at(1).put(&path).value("v").answer().await;
        assert_eq!(put.status, 204, "{}", put.text());
        assert_eq!(cluster.at(1).get(&path).answer().await.status, 200);
    }
    eventually("a large value is read again", async || {
        let answer = cluster.at(1).get("/kv/large/k").answer().await;
        (!is_refused(&answer)).then(|| assert!(answer.body() == &value[..]))
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn stalled_uploads_do_not_starve_others() {
    let cluster = Cluster::start(of_bytes(SMALL_BOUNDS, 3)).await;
    let mut stuck = Vec::new();
    for i in 0..100 {
        let head = "HTTP/1.1\r\nHost: x\r\nContent-Length: 8388608\r\n\r\nthe beginning";
        stuck.push(begin(&cluster, 1, format!("PUT /kv/slow/k{i} {head}")).await);
    }
    eventually("a large value is written", async || {
        let put = cluster.at(1).put("/kv/large/k").value(noise(8 * MIB, 3)).answer().await;
        (!is_refused(&put)).then(|| assert_eq!(put.status, 204, "{}", put.text()))
    })
    .await;
    drop(stuck);
}

#[tokio::test(flavor = "multi_thread")]
async fn over_slow_links_large_writes_and_reads_succeed_and_no_node_is_called_down() {
    let settings = "[gossip]\nenabled = false\n";
    let cluster = Cluster::start_linked(of_bytes(settings, 3), FAST_ETHERNET).await;
    let before = lines(&cluster);
    let mut done = 0;
    let mut clients = JoinSet::new();
    let keys: Vec<String> = (0..60).map(|i| format!("/kv/large/k{i}")).collect();
    for client in 0..16 {
        let (cluster, keys) = (cluster.clone(), keys.clone());
        clients.spawn(async move {
            for path in keys.iter().skip(client).step_by(16) {
                let put = cluster.at(1 + client % 3).put(path).value(noise(MIB, 5)).answer().await;
                assert_eq!(put.status, 204, "{}", put.text());
                let read = cluster.at(1 + (client + 1) % 3).get(path).answer().await;
                assert_eq!(read.status, 200, "{}", read.text());
            }
        });
    }
    while let Some(ended) = clients.join_next().await {
        ended.unwrap();
        done += 1;
    }
    assert_eq!(done, 16);
    assert_no_node_was_called_down(&cluster, &before);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_peers_do_not_take_is_not_written() {
    let cluster =
        Cluster::start_edited(of_bytes("[limits]\nhint_alarm_ms = 1000\n", 3), |number, config| {
            let small = "value_bytes_max = 65536\nobject_bytes_max = 131072\n";
            let large = "value_bytes_max = 33554432\nobject_bytes_max = 67108864\n";
            let limits = format!("[limits]\n{}", if number == 1 { large } else { small });
            config.replace("[limits]\n", &limits)
        })
        .await;
    let before = lines(&cluster);
    let put = cluster.at(1).put("/kv/large/k?w=1").value(noise(10 * MIB, 1)).answer().await;
    assert!([413, 422].contains(&put.status), "{}", put.text());
    for number in cluster.all() {
        assert_eq!(cluster.at(number).get("/kv/large/k?r=1").answer().await.status, 404);
    }
    let put = cluster.at(1).put("/kv/large/k").value(noise(60_000, 1)).answer().await;
    assert_eq!(put.status, 204, "{}", put.text());
    assert_no_node_was_called_down(&cluster, &before);
}

#[tokio::test(flavor = "multi_thread")]
async fn repeated_operator_requests_delay_no_write() {
    let cluster = Cluster::start(of_bytes("", 3)).await;
    let mut asking = JoinSet::new();
    for i in 0..120 {
        let (path, query) = (["run", "scrub"][i % 2], "timeout_ms=1000");
        let ask = cluster.at(1).post(&format!("/anti-entropy/{path}?{query}"));
        asking.spawn(ask.answer());
    }
    for i in 0..50 {
        let put = cluster.at(1).put(&format!("/kv/small/k{i}")).value("v").answer().await;
        assert_eq!(put.status, 204, "{}", put.text());
    }
    let answers = asking.join_all().await;
    let done = answers.iter().filter(|answer| !is_refused(answer));
    assert!(done.map(|answer| assert_eq!(answer.status, 200)).count() >= 2);
}
