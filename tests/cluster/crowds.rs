//! Crowds of connections that say little or nothing, at both ports, while others work.

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use tokio::io::AsyncWriteExt as _;
use tokio::net::TcpStream;
use tokio::task::JoinSet;
use tokio::time::timeout;

use crate::harness::{Cluster, Setup};
use crate::tls::{Ca, world};

/// Idle connections at one node; as many as its limit lets in.
const IDLE: u64 = 10_000;
/// Descriptors that this process needs for something else.
const OWN_DESCRIPTORS: u64 = 500;
/// What an idle connection may take of a node's memory, in KiB, and what else may grow meanwhile.
const IDLE_KIB_MAX: u64 = 24;
const GROWTH_MIB_MAX: u64 = 64;
/// Connections that never finish what they have begun.
const UNFINISHED: usize = 2_000;
/// How long a request may take beside a crowd.
const PATIENCE: Duration = Duration::from_secs(5);

/// Lets this process open as many files as it may, and returns how many connections it can keep.
fn connections_possible() -> u64 {
    let limit = getrlimit(Resource::Nofile);
    let hard = limit.maximum.unwrap_or(IDLE * 2);
    setrlimit(Resource::Nofile, Rlimit { current: Some(hard), maximum: limit.maximum }).unwrap();
    hard.saturating_sub(OWN_DESCRIPTORS)
}

/// Opens connections that send this and then nothing. Those that the other end closes count, too.
async fn crowd(to: SocketAddr, count: usize, first: &'static [u8]) -> Vec<TcpStream> {
    let mut opening = JoinSet::new();
    let mut open = Vec::with_capacity(count);
    for _ in 0..count {
        opening.spawn(async move {
            let mut stream = TcpStream::connect(to).await?;
            stream.write_all(first).await?;
            Ok::<_, std::io::Error>(stream)
        });
        if opening.len() >= 100 {
            open.extend(opening.join_next().await.unwrap().unwrap());
        }
    }
    open.extend(opening.join_all().await.into_iter().flatten());
    open
}

/// Writes and reads through a node on connections of their own.
async fn serves(cluster: &Cluster, number: usize, round: usize) {
    let path = format!("/kv/crowds/k{round}");
    let put = timeout(PATIENCE, cluster.at(number).put(&path).value("v").answer()).await.unwrap();
    assert_eq!(put.status, 204, "{}", put.text());
    let get = timeout(PATIENCE, cluster.at(number).get(&path).answer()).await.unwrap();
    assert_eq!((get.status, get.text().as_str()), (200, "v"));
}

#[tokio::test(flavor = "multi_thread")]
async fn ten_thousand_idle_connections_leave_others_alone() {
    let count = IDLE.min(connections_possible());
    let cluster = Cluster::start(Setup::of(3)).await;
    let before = cluster.resident_mib(1);
    let silent = crowd(cluster.client_addr(1), count as usize / 2, b"").await;
    let asked = b"GET /livez HTTP/1.1\r\nHost: x\r\n\r\n";
    let served = crowd(cluster.client_addr(1), count as usize / 2, asked).await;
    for round in 0..50 {
        serves(&cluster, 1, round).await;
    }
    let grown = cluster.resident_mib(1).saturating_sub(before);
    let open = silent.len() + served.len();
    eprintln!("{open} idle connections: {grown} MiB more");
    assert!(grown <= count * IDLE_KIB_MAX / 1024 + GROWTH_MIB_MAX, "{grown} MiB");
    // One more makes the one that is idle for the longest time go.
    let more = crowd(cluster.client_addr(1), 100, asked).await;
    serves(&cluster, 1, 50).await;
    drop((silent, served, more));
    serves(&cluster, 1, 51).await;
}

/// They are more than the peer port takes, so that a node that comes back needs them to make way.
#[tokio::test(flavor = "multi_thread")]
async fn unfinished_openings_keep_no_peer_out() {
    let cluster = Cluster::start(Setup::of(3)).await;
    let upgrade: &[u8] =
        b"GET /peer HTTP/1.1\r\nHost: x\r\nConnection: upgrade\r\nUpgrade: quorate-peer\r\n\r\nQR";
    let mut crowds = Vec::new();
    for number in 1..=3 {
        crowds.push(crowd(cluster.peer_addr(number), UNFINISHED / 3, upgrade).await);
    }
    cluster.kill(2);
    cluster.restart(2).await;
    cluster.wait_all_up().await;
    for round in 0..50 {
        let path = format!("/kv/crowds/k{round}?w=all");
        let put = timeout(PATIENCE, cluster.at(1).put(&path).value("v").answer()).await.unwrap();
        assert_eq!(put.status, 204, "{}", put.text());
    }
    drop(crowds);
}

#[tokio::test(flavor = "multi_thread")]
async fn unfinished_handshakes_keep_no_client_and_no_peer_out() {
    let ca = Ca::new(3);
    let world = world(&ca, 3, "require", &["ca"]).await;
    // The beginning of a ClientHello that announces more.
    let hello: &[u8] = &[0x16, 0x03, 0x01, 0x02, 0x00, 0x01, 0x00, 0x01, 0xfc, 0x03, 0x03];
    let (client, peer) = (world.cluster.client_addr(1), world.cluster.peer_addr(1));
    let begun = Instant::now();
    world
        .under_load(async || {
            let crowds =
                (crowd(client, UNFINISHED, hello).await, crowd(peer, UNFINISHED / 4, hello).await);
            for _ in 0..20 {
                let fresh = ca.client(&["ca"]).get(format!("https://{client}/livez")).send();
                assert_eq!(timeout(PATIENCE, fresh).await.unwrap().unwrap().status(), 200);
            }
            drop(crowds);
        })
        .await;
    let log = world.cluster.log(2);
    assert!(!log.contains("n1 is down"), "{:?}: {log}", begun.elapsed());
}
