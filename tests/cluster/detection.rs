//! Failure detection, and that its mistakes do no harm: nodes that die, stall, flap, or are
//! reachable one way only, with clients at work on all others (docs/decisions/0005).

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering::Relaxed};
use std::time::{Duration, Instant};

use serde_json::Value;
use tokio::net::UdpSocket;
use tokio::task::JoinSet;

use crate::harness::{Cluster, Setup, eventually, name_of};

/// How soon a node that is back must be used again.
const BACK_WITHIN: Duration = Duration::from_secs(2);
/// The time after a fault in which requests may be slow: with a one-way cut, three greetings.
const FIRST_SECONDS: Duration = Duration::from_millis(2500);
/// `timeouts.replica_ms`: a request that takes this long has waited for a node that is gone.
const REPLICA_TIMEOUT: Duration = Duration::from_millis(500);

impl Cluster {
    /// How a node sees another.
    pub(crate) async fn seen(&self, by: usize, other: usize) -> Option<Value> {
        let answer = self.at(by).get("/cluster").try_answer().await.ok()?;
        let nodes = answer.json()["nodes"].as_array().unwrap().clone();
        nodes.into_iter().find(|node| node["node"] == name_of(other).as_str())
    }

    /// Waits until a node shows another as wanted, and returns how long that took.
    pub(crate) async fn wait_shows(
        &self,
        by: usize,
        other: usize,
        wanted: impl Fn(&Value) -> bool,
    ) -> Duration {
        let begun = Instant::now();
        let shows = async || self.seen(by, other).await.filter(|seen| wanted(seen));
        eventually(&format!("n{by} shows n{other} as wanted"), shows).await;
        begun.elapsed()
    }

    pub(crate) async fn wait_state(&self, by: usize, other: usize, state: &str) -> Duration {
        self.wait_shows(by, other, |seen| seen["state"] == state).await
    }
}

/// Clients at work on all nodes except those allowed to fail, half of them writing, at full speed.
struct Work {
    cluster: Arc<Cluster>,
    excused: Arc<AtomicUsize>,
    done: Arc<AtomicUsize>,
    stop: Arc<AtomicBool>,
    clients: JoinSet<Vec<Request>>,
}

/// The outcome of one request.
struct Request {
    what: String,
    begun: Instant,
    took: Duration,
    failed: bool,
}

impl Work {
    fn start(cluster: &Arc<Cluster>) -> Self {
        let mut work = Self {
            cluster: cluster.clone(),
            excused: Arc::default(),
            done: Arc::default(),
            stop: Arc::default(),
            clients: JoinSet::new(),
        };
        for client in 0..6 {
            let cluster = cluster.clone();
            let (excused, done) = (work.excused.clone(), work.done.clone());
            let stop = work.stop.clone();
            work.clients.spawn(async move {
                let mut requests = Vec::new();
                for turn in client.. {
                    if stop.load(Relaxed) {
                        break;
                    }
                    let number = 1 + turn % cluster.all().count();
                    if number == excused.load(Relaxed) {
                        continue;
                    }
                    let request = one_request(&cluster, number, client, turn).await;
                    if number != excused.load(Relaxed) {
                        requests.push(request);
                    }
                    done.fetch_add(1, Relaxed);
                }
                requests
            });
        }
        work
    }

    /// From now on clients of this node may fail (0: of none).
    fn allow_failures(&self, number: usize) {
        self.excused.store(number, Relaxed);
    }

    /// Lets the clients work for a while.
    async fn keep_working(&self, duration: Duration) {
        let (begun, before) = (Instant::now(), self.done.load(Relaxed));
        let enough = async || {
            let some = self.done.load(Relaxed) >= before + 50;
            (begun.elapsed() >= duration && some).then_some(())
        };
        eventually("the clients have worked", enough).await;
    }

    /// Stops, and checks that no request failed. Returns all of them.
    async fn stop_without_failures(mut self) -> Vec<Request> {
        self.stop.store(true, Relaxed);
        let mut all = Vec::new();
        while let Some(requests) = self.clients.join_next().await {
            all.extend(requests.unwrap());
        }
        let failed: Vec<&str> = all.iter().filter(|r| r.failed).map(|r| &*r.what).collect();
        let some = &failed[..failed.len().min(10)];
        assert!(failed.is_empty(), "{} of {} failed: {some:#?}", failed.len(), all.len());
        drop(self.cluster);
        all
    }
}

/// Every key is written twice and read twice: more blind writes would make more siblings than a key
/// may have.
async fn one_request(cluster: &Cluster, number: usize, client: usize, turn: usize) -> Request {
    let path = format!("/kv/steady/c{client}-{}", turn / 4);
    let node = cluster.at(number);
    let ask =
        if (turn / 2).is_multiple_of(2) { node.put(&path).value("v") } else { node.get(&path) };
    let begun = Instant::now();
    let answer = ask.try_answer().await;
    let took = begun.elapsed();
    let failed = !answer.as_ref().is_ok_and(|a| [200, 204, 300, 404].contains(&a.status));
    Request { what: format!("{path} via n{number}, {took:?}: {answer:?}"), begun, took, failed }
}

/// The 99th percentile latency of the requests that began in a span of time.
fn p99(requests: &[Request], from: Instant, to: Instant) -> Duration {
    let began = |r: &&Request| r.begun >= from && r.begun < to;
    let mut took: Vec<Duration> = requests.iter().filter(began).map(|r| r.took).collect();
    took.sort();
    assert!(!took.is_empty(), "there was work in that time");
    took[(took.len() - 1) * 99 / 100]
}

/// One node stalls, then dies, then loses what it sends, what it receives, and all traffic except
/// with one neighbour: no request at the others fails, and after the first seconds none waits for
/// it.
async fn no_request_fails_or_waits(nodes: usize) {
    let cluster = Cluster::start(Setup::of(nodes)).await;
    let work = Work::start(&cluster);
    let others: Vec<usize> = (2..=nodes).collect();
    let mut spans = Vec::new();
    let healthy = Instant::now();
    work.keep_working(Duration::from_secs(2)).await;
    spans.push(("healthy", healthy, Instant::now()));
    for fault in ["stalled", "dead", "unheard", "deaf", "cut off from n2"] {
        if fault != "cut off from n2" {
            work.allow_failures(1);
        }
        match fault {
            "stalled" => cluster.pause(1),
            "dead" => cluster.kill(1),
            "unheard" => cluster.cut_one_way(&[1], &others).await,
            "deaf" => cluster.cut_one_way(&others, &[1]).await,
            _ => cluster.cut(&[1], &[2]).await,
        }
        let from = Instant::now() + FIRST_SECONDS;
        work.keep_working(FIRST_SECONDS + Duration::from_secs(2)).await;
        spans.push((fault, from, Instant::now()));
        match fault {
            "stalled" => cluster.resume(1),
            "dead" => cluster.launch(1),
            _ => cluster.heal().await,
        }
        cluster.wait_all_up().await;
        work.allow_failures(0);
        work.keep_working(Duration::from_millis(500)).await;
    }
    let requests = work.stop_without_failures().await;
    for (what, from, to) in spans {
        let p99 = p99(&requests, from, to);
        eprintln!("{nodes} nodes, {what}: p99 {p99:?}");
        assert!(
            p99 < REPLICA_TIMEOUT,
            "{what}: requests wait for a node that is gone, p99 {p99:?}"
        );
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn one_of_three_stalled_dead_or_cut_off_one_way_fails_no_request_and_slows_none() {
    no_request_fails_or_waits(3).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn one_of_five_stalled_dead_or_cut_off_one_way_fails_no_request_and_slows_none() {
    no_request_fails_or_waits(5).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_returning_node_is_used_again_within_two_seconds() {
    let cluster = Cluster::start(Setup::of(3)).await;
    for fault in ["killed", "stopped", "cut off"] {
        match fault {
            "killed" => cluster.kill(3),
            "stopped" => cluster.pause(3),
            _ => cluster.cut(&[3], &[1, 2]).await,
        }
        for by in [1, 2] {
            cluster.wait_state(by, 3, "down").await;
        }
        match fault {
            "killed" => cluster.restart(3).await,
            "stopped" => cluster.resume(3),
            _ => cluster.heal().await,
        }
        for by in [1, 2] {
            let took = cluster.wait_state(by, 3, "up").await;
            eprintln!("{fault}: n{by} uses it again after {took:?}");
            assert!(took < BACK_WITHIN, "{fault}: {took:?}");
        }
    }
}

/// Cut off and back every other second, many times: no request fails, the node is eventually held
/// back, and it is used again once it stays.
#[tokio::test(flavor = "multi_thread")]
async fn a_flapping_node_does_no_harm_and_is_used_when_it_stays() {
    let cluster = Cluster::start(Setup::of(5)).await;
    let work = Work::start(&cluster);
    work.allow_failures(1);
    let mut ups = 0;
    for _ in 0..6 {
        cluster.cut(&[1], &[2, 3, 4, 5]).await;
        cluster.wait_state(2, 1, "down").await;
        cluster.heal().await;
        let begun = Instant::now();
        while begun.elapsed() < Duration::from_millis(700) {
            let seen = cluster.seen(2, 1).await.unwrap();
            if seen["state"] == "up" {
                ups += 1;
                break;
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }
    assert!((1..6).contains(&ups), "held back after some falls, not from the first: {ups} of 6");
    let took = cluster.wait_state(2, 1, "up").await;
    assert!(took < Duration::from_secs(6), "held back for {took:?}");
    work.stop_without_failures().await;
}

/// Node 2 learns of it by gossip although node 1 answers it: node 1 is contacted last, and forwards
/// go to other nodes.
#[tokio::test(flavor = "multi_thread")]
async fn a_node_that_cannot_reach_this_one_is_suspected_and_shown() {
    let cluster = Cluster::start(Setup::of(3)).await;
    cluster.cut_one_way(&[1], &[2]).await;
    cluster.wait_state(1, 2, "down").await;
    let took = cluster.wait_shows(2, 1, |seen| seen["reaches_us"] == false).await;
    assert!(took < BACK_WITHIN, "gossip told after {took:?}");
    cluster.wait_state(2, 1, "suspected").await;
    assert_eq!(cluster.seen(3, 1).await.unwrap()["state"], "up", "n3 has no reason");
    cluster.heal().await;
    cluster.wait_shows(2, 1, |seen| seen["state"] == "up" && seen["reaches_us"] == true).await;
}

/// Without any request, a stalled node is still noticed, and its suspicion grows.
#[tokio::test(flavor = "multi_thread")]
async fn the_cluster_shows_what_gossip_tells_and_a_silent_node_becomes_suspect() {
    let cluster = Cluster::start(Setup::of(3)).await;
    let told = |seen: &Value| {
        seen["suspicion"].is_number()
            && seen["layout"]["version"] == 1
            && seen["layout"]["hash"].as_str().is_some_and(|hash| hash.len() == 16)
            && seen["ready"] == true
            && seen["writable"] == true
            && seen["formed"] == true
            && seen["release"].is_string()
            && seen["queue_depth"].is_number()
    };
    for by in cluster.all() {
        for other in cluster.all().filter(|other| *other != by) {
            cluster.wait_shows(by, other, told).await;
        }
    }
    cluster.pause(3);
    let doubted = |seen: &Value| seen["state"] == "suspected" || seen["state"] == "down";
    let took = cluster.wait_shows(1, 3, doubted).await;
    eprintln!("a silent node is suspected after {took:?}");
    assert!(took < Duration::from_secs(4), "{took:?}");
    cluster.wait_shows(1, 3, |seen| seen["suspicion"].as_f64().unwrap() > 8.0).await;
    cluster.resume(3);
    cluster.wait_shows(1, 3, |seen| seen["suspicion"].as_f64().unwrap() < 8.0).await;
}

/// Random bytes, truncated and empty datagrams: dropped, counted, harmless.
#[tokio::test(flavor = "multi_thread")]
async fn hostile_datagrams_are_counted_and_change_nothing() {
    let cluster = Cluster::start(Setup::of(3)).await;
    let target = cluster.seen(1, 2).await.unwrap()["peer_addr"].as_str().unwrap().to_owned();
    let hostile = UdpSocket::bind("127.0.0.1:0").await.unwrap();
    let random = |length: usize| (0..length).map(move |at| (at * 37 + length) as u8);
    eventually("all kinds are counted", async || {
        for length in [0usize, 1, 2, 24, 25, 41, 100, 1400, 9000, 65_000] {
            for version in [0, 1, 255] {
                let bytes: Vec<u8> =
                    [version].into_iter().chain(random(length)).take(length).collect();
                hostile.send_to(&bytes, &target).await.unwrap();
            }
        }
        // The kernel may drop some of them.
        let counts = cluster.at(2).get("/cluster").answer().await.json()["gossip"].clone();
        (counts["strangers"].as_u64() >= Some(100)).then_some(())
    })
    .await;
    cluster.wait_all_up().await;
}

/// Where UDP is blocked, requests alone must suffice.
#[tokio::test(flavor = "multi_thread")]
async fn without_gossip_requests_tell_who_is_down() {
    let settings = "[gossip]\nenabled = false";
    let cluster = Cluster::start(Setup { settings, ..Setup::of(3) }).await;
    assert_eq!(cluster.seen(1, 3).await.unwrap()["suspicion"], Value::Null);
    cluster.kill(3);
    cluster.wait_state(1, 3, "down").await;
    assert_eq!(cluster.at(1).put("/kv/b/k").value("v").answer().await.status, 204);
    cluster.restart(3).await;
    assert!(cluster.wait_state(1, 3, "up").await < BACK_WITHIN);
}
