//! Somebody who hears everything that two nodes say to each other, on TCP and UDP, and plays it back.

use std::net::SocketAddr;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use quorate_protocol::envelope::{self, Kind, PREFIX_BYTES};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream, UdpSocket};
use tokio::time::timeout;

use crate::harness::{Cluster, Setup, eventually};

/// Between a node and those that connect to it.
#[derive(Clone, Default)]
struct Tap {
    /// What came on each connection, from the end that opened it.
    streams: Arc<Mutex<Vec<Vec<u8>>>>,
    datagrams: Arc<Mutex<Vec<Vec<u8>>>>,
}

impl Tap {
    /// Listens in the place of a node.
    async fn before(&self, node: SocketAddr) -> SocketAddr {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let addr = listener.local_addr().unwrap();
        let udp = UdpSocket::bind(addr).await.unwrap();
        let tap = self.clone();
        tokio::spawn(async move {
            while let Ok((near, _)) = listener.accept().await {
                let number = {
                    let mut streams = tap.streams.lock().unwrap();
                    streams.push(Vec::new());
                    streams.len() - 1
                };
                tokio::spawn(tap.clone().hear(number, near, node));
            }
        });
        let datagrams = self.datagrams.clone();
        tokio::spawn(async move {
            let mut datagram = vec![0; 64 << 10];
            while let Ok(len) = udp.recv(&mut datagram).await {
                datagrams.lock().unwrap().push(datagram[..len].to_vec());
                drop(udp.send_to(&datagram[..len], node).await);
            }
        });
        addr
    }

    async fn hear(self, number: usize, near: TcpStream, node: SocketAddr) {
        let Ok(far) = TcpStream::connect(node).await else { return };
        let ((mut near_in, mut near_out), (mut far_in, mut far_out)) =
            (near.into_split(), far.into_split());
        let there = async {
            let mut piece = vec![0; 16 << 10];
            while let Ok(read @ 1..) = near_in.read(&mut piece).await {
                self.streams.lock().unwrap()[number].extend_from_slice(&piece[..read]);
                if far_out.write_all(&piece[..read]).await.is_err() {
                    return;
                }
            }
            drop(far_out.shutdown().await);
        };
        let back = async { drop(tokio::io::copy(&mut far_in, &mut near_out).await) };
        tokio::join!(there, back);
    }
}

/// Sends all of a recorded stream, and returns the envelopes that are answered.
async fn play(node: SocketAddr, recorded: &[u8]) -> Vec<(Kind, String)> {
    let mut io = TcpStream::connect(node).await.unwrap();
    io.write_all(recorded).await.unwrap();
    io.shutdown().await.unwrap();
    let mut answer = Vec::new();
    drop(timeout(Duration::from_secs(30), io.read_to_end(&mut answer)).await.unwrap());
    let head = answer.windows(4).position(|window| window == b"\r\n\r\n").expect("a head") + 4;
    let mut rest = &answer[head..];
    let mut envelopes = Vec::new();
    while let Some((prefix, after)) = rest.split_first_chunk::<PREFIX_BYTES>() {
        let (kind, len) = envelope::parse(*prefix).unwrap();
        envelopes.push((kind, String::from_utf8_lossy(&after[..len]).into_owned()));
        rest = &after[len..];
    }
    envelopes
}

/// The bytes of values in what was heard.
fn holds(recorded: &[u8], value: &str) -> bool {
    recorded.windows(value.len()).any(|window| window == value.as_bytes())
}

#[tokio::test(flavor = "multi_thread")]
async fn what_was_heard_between_nodes_is_worth_nothing() {
    let tap = Tap::default();
    let runtime = tokio::runtime::Handle::current();
    let cluster = Cluster::start_edited(Setup::of(2), |number, config| {
        if number == 1 {
            return config;
        }
        // n2 reaches n1 by way of the tap.
        let (before, nodes) = config.split_once("[[layout.nodes]]").unwrap();
        let n1 = nodes.lines().find_map(|line| line.strip_prefix("peer_addr = \"")).unwrap();
        let n1 = n1.trim_end_matches('"');
        let listening = || runtime.block_on(tap.before(n1.parse().unwrap()));
        let tapped = tokio::task::block_in_place(listening);
        let nodes = nodes.replacen(&format!("\"{n1}\""), &format!("\"{tapped}\""), 1);
        format!("{before}[[layout.nodes]]{nodes}")
    })
    .await;
    let put = cluster.at(2).put("/kv/b/k?w=2").value("heard").answer().await;
    assert_eq!(put.status, 204, "{}", put.text());
    let deleted = cluster.at(2).delete("/kv/b/k?w=2").answer().await;
    assert_eq!(deleted.status, 204, "{}", deleted.text());

    let streams = tap.streams.lock().unwrap().clone();
    let of_store = streams.iter().filter(|stream| holds(stream, "heard")).count();
    assert!(of_store > 0, "the tap heard the write");
    for stream in &streams {
        let envelopes = play(cluster.peer_addr(1), stream).await;
        let kinds: Vec<Kind> = envelopes.iter().map(|(kind, _)| *kind).collect();
        assert_eq!(kinds, [Kind::Handshake, Kind::Refusal], "{envelopes:?}");
        assert!(envelopes[1].1.contains("does not have a key of this cluster"), "{envelopes:?}");
    }
    let read = cluster.at(1).get("/kv/b/k?r=2").answer().await;
    assert_eq!(read.status, 404, "{}", read.text());

    let datagrams = eventually("gossip is heard", async || {
        let heard = tap.datagrams.lock().unwrap().clone();
        (heard.len() >= 5).then_some(heard)
    })
    .await;
    let dropped = async || {
        let metrics = cluster.at(1).get("/metrics").answer().await.text();
        let name = "quorate_gossip_datagrams_total{kind=\"replayed\"}";
        let count = metrics.lines().find_map(|line| line.strip_prefix(name)).expect("the metric");
        count.trim().parse::<u64>().unwrap()
    };
    let before = dropped().await;
    let attacker = UdpSocket::bind("127.0.0.1:0").await.unwrap();
    for datagram in &datagrams {
        attacker.send_to(datagram, cluster.peer_addr(1)).await.unwrap();
    }
    eventually("replayed datagrams are dropped", async || (dropped().await > before).then_some(()))
        .await;
    assert_eq!(cluster.seen(1, 2).await.unwrap()["state"], "up");
}
