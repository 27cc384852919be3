//! Nodes that speak different versions of the peer protocol: as in an upgrade, where some are held at the
//! older one, and next to the binary of another release.
//!
//! The last test runs only with `QUORATE_OTHER_BINARY=/path/to/quorate cargo test … mixed`.

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};

use quorate_protocol::envelope::PREFIX_BYTES;
use quorate_protocol::handshake::{Answer, PROTOCOL_MAX, PROTOCOL_MIN, Versions};
use quorate_protocol::proof::PeerKeys;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;
use tokio::task::JoinSet;

use crate::harness::{Cluster, Setup, eventually};
use crate::record::{Record, View};
use crate::rolling::work;

const CLIENTS: usize = 4;
/// What lets a node speak older versions, ahead of the other tables.
const OPEN: &str = "[peers]\nprotocol_min = 7\n";
/// What holds it at the oldest.
const HELD: &str = "[peers]\nprotocol_min = 7\nprotocol_max = 7\n";

fn with(table: &str, config: &str) -> String {
    config.replacen("[layout]\n", &format!("{table}[layout]\n"), 1)
}

/// Requests without a pause; each must succeed.
struct Load {
    stop: Arc<AtomicBool>,
    answered: Arc<AtomicU64>,
    clients: JoinSet<()>,
}

impl Load {
    fn start(cluster: &Arc<Cluster>) -> Self {
        let (stop, answered) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicU64::new(0)));
        let mut clients = JoinSet::new();
        for client in 0..CLIENTS {
            let (cluster, stop, answered) = (cluster.clone(), stop.clone(), answered.clone());
            clients.spawn(async move { work(&cluster, client, &stop, &answered).await });
        }
        Self { stop, answered, clients }
    }

    async fn end(mut self) {
        self.stop.store(true, Relaxed);
        while let Some(ended) = self.clients.join_next().await {
            ended.unwrap();
        }
        assert!(self.answered.load(Relaxed) > 0);
    }
}

/// Writes with a home replica away: a node of one version keeps hints for a node of another, hands them over
/// when that is back, and what has no hint is found by anti-entropy.
async fn repairs_between(cluster: &Arc<Cluster>, away: usize, fallback: usize) {
    let record = Record::new(cluster, 3);
    let bucket = format!("away{away}");
    let keys =
        cluster.keys_where(&bucket, 20, |list| list[..3].contains(&away) && list[3] == fallback);
    cluster.kill(away);
    for (at, key) in keys.iter().enumerate() {
        let home = cluster.preference(key).into_iter().find(|number| *number != away).unwrap();
        let query = if at % 2 == 0 { "?w=3" } else { "?w=2&sloppy=false" };
        let put = record.add_with(&cluster.at(home), key, &View::default(), query).await.unwrap();
        assert_eq!(put.status, 204, "{key}: {}", put.text());
    }
    assert!(cluster.hint_keys(fallback).await >= 10);
    cluster.restart(away).await;
    cluster.wait_all_up().await;
    cluster.wait_converged().await;
    for key in &keys {
        let left = cluster.wait_delivered(fallback, key).await;
        record.check_final(key, &left);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn two_versions_work_together_and_lifting_the_older_one_fails_no_request() {
    let is_held = |number: usize| number <= 2;
    let cluster = Cluster::start_edited(Setup::synced(4), |number, config| {
        with(if is_held(number) { HELD } else { OPEN }, &config)
    })
    .await;
    for by in cluster.all() {
        for other in cluster.all().filter(|other| *other != by) {
            let is_old = is_held(by) || is_held(other);
            let agreed = if is_old { PROTOCOL_MIN } else { PROTOCOL_MAX };
            let theirs = if is_held(other) { PROTOCOL_MIN } else { PROTOCOL_MAX };
            cluster
                .wait_shows(by, other, |seen| {
                    seen["protocol"] == agreed
                        && seen["protocol_max"] == theirs
                        && seen["hint_bytes"].is_null() == is_old // version 8 tells them
                })
                .await;
        }
    }
    repairs_between(&cluster, 3, 1).await; // the older one keeps hints for the newer
    repairs_between(&cluster, 2, 4).await;

    let load = Load::start(&cluster);
    let lifted = cluster.all().filter(|number| is_held(*number));
    for (number, before, after) in lifted
        .map(|number| (number, HELD, OPEN))
        .chain(cluster.all().map(|number| (number, OPEN, "")))
    {
        let (status, _) = cluster.terminate(number).await;
        assert!(status.success(), "{status}");
        cluster.configure(number, &cluster.configuration(number).replace(before, after));
        cluster.restart(number).await;
        cluster.wait_all_up().await;
    }
    load.end().await;
    for by in cluster.all() {
        for other in cluster.all().filter(|other| *other != by) {
            cluster.wait_shows(by, other, |seen| seen["protocol"] == PROTOCOL_MAX).await;
        }
    }
}

/// A later release that speaks none of this one's versions is no failure to connect: both ends say what they
/// speak, once, and the peer is shown as what it is.
#[tokio::test(flavor = "multi_thread")]
async fn a_peer_without_a_common_version_is_shown_as_that() {
    let cluster = Cluster::start(Setup::of(2)).await;
    let (status, _) = cluster.terminate(2).await;
    assert!(status.success());
    let listener =
        eventually("the port is free", async || TcpListener::bind(cluster.peer_addr(2)).await.ok())
            .await;
    let fake = tokio::spawn(async move {
        while let Ok((mut io, _)) = listener.accept().await {
            tokio::spawn(async move {
                let mut head = Vec::new();
                while !head.ends_with(b"\r\n\r\n") {
                    head.push(io.read_u8().await?);
                }
                let upgrade = "HTTP/1.1 101 Switching Protocols\r\nConnection: upgrade\r\n\
                               Upgrade: quorate-peer\r\n\r\n";
                io.write_all(upgrade.as_bytes()).await?;
                let mut prefix = [0; PREFIX_BYTES];
                io.read_exact(&mut prefix).await?;
                let answer = Answer { versions: Versions { min: 40, max: 41 }, chosen: None };
                io.write_all(&answer.to_bytes(b"", &PeerKeys::new(&[[0; 32]]), &[0; 16])).await?;
                io.read_to_end(&mut head).await
            });
        }
    });
    cluster.wait_state(1, 2, "incompatible").await;
    let seen = cluster.seen(1, 2).await.unwrap();
    let error = seen["last_error"].as_str().unwrap();
    assert!(error.contains("n2 speaks 40 to 41, this node 9"), "{error}");
    assert_eq!((seen["protocol_min"].as_u64(), seen["protocol"].as_u64()), (Some(40), None));
    assert_eq!(cluster.log(1).matches("cannot be talked to").count(), 1, "{}", cluster.log(1));
    fake.abort();
    drop(fake.await);
    cluster.restart(2).await;
    cluster.wait_all_up().await;
    assert_eq!(cluster.seen(1, 2).await.unwrap()["protocol"], PROTOCOL_MAX);
}

/// From the other release's binary to this one's, node by node, and back, with clients at work.
#[tokio::test(flavor = "multi_thread")]
async fn another_release_and_this_one_work_together() {
    let Some(other) = std::env::var_os("QUORATE_OTHER_BINARY") else {
        eprintln!("skipped: QUORATE_OTHER_BINARY is not set");
        return;
    };
    let other = Path::new(&other);
    let open = |_, config: String| with(OPEN, &config);
    let cluster = Cluster::start_edited(Setup::synced(4), open).await;
    let load = Load::start(&cluster);
    for (binary, is_other) in [(Some(other), true), (None, false)] {
        for number in cluster.all() {
            let (status, _) = cluster.terminate(number).await;
            assert!(status.success(), "{status}");
            match binary {
                Some(binary) => cluster.launch_binary(number, binary),
                None => cluster.launch(number),
            }
            cluster.wait_ready(number).await;
            cluster.wait_all_up().await;
            if is_other && number == 2 {
                // Two of each: the fallback is of the other release than the node that is away.
                let shows = cluster.seen(3, 1).await.unwrap();
                eprintln!("n3 and n1 speak version {}", shows["protocol"]);
            }
        }
    }
    load.end().await;
    cluster.wait_converged().await;
}
