//! Disks that fill up, and syncs that fail: reads continue, the node says what is wrong, and it
//! recovers by itself.

use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::harness::{Cluster, Setup, eventually};
use crate::http::Answer;
use crate::load::read_all;
use crate::ownership::wait_filled;
use crate::small_disk::Disk;

async fn readyz(cluster: &Cluster, number: usize) -> Option<Answer> {
    cluster.at(number).get("/readyz").try_answer().await.ok()
}

/// Waits until a node's readiness answer contains all these words.
async fn says(cluster: &Cluster, number: usize, status: u16, words: &[&str]) {
    eventually(&format!("/readyz of n{number} says {words:?}"), async || {
        let answer = readyz(cluster, number).await?;
        let text = answer.text();
        (answer.status == status && words.iter().all(|word| text.contains(word))).then_some(())
    })
    .await;
}

async fn put(cluster: &Cluster, number: usize, key: &str) -> u16 {
    let put = cluster.at(number).put(&format!("/kv/{key}")).value("v").try_answer().await;
    put.map_or(0, |answer| answer.status)
}

async fn takes_writes(cluster: &Cluster, number: usize, key: &str) {
    let taken = async || (put(cluster, number, key).await == 204).then_some(());
    eventually(&format!("n{number} takes writes"), taken).await;
}

/// Three nodes, the first of which has a disk that can be filled; `None` if that is impossible
/// here.
async fn start_on_a_small_disk() -> Option<(Arc<Cluster>, Disk)> {
    let disk = std::sync::Mutex::new(None);
    let storage = "disk_free_bytes_min = 33554432\n";
    let setup = Setup { durability: "fsync", storage, ..Setup::of(3) };
    let cluster = Cluster::start_in(setup, |number, directory| {
        if number == 1 {
            *disk.lock().unwrap() = Disk::mount(directory, 256);
        }
    })
    .await;
    let disk = disk.into_inner().unwrap()?;
    cluster.form();
    cluster.wait_all_up().await;
    Some((cluster, disk))
}

#[tokio::test(flavor = "multi_thread")]
async fn a_node_on_a_full_disk_reads_and_deletes_and_starts_and_recovers() {
    let Some((cluster, disk)) = start_on_a_small_disk().await else {
        return eprintln!("not tested: only root can mount a file system to fill");
    };
    let keys = cluster.keys_where("full", 8, |list| list[0] == 1);
    for key in &keys {
        assert_eq!(put(&cluster, 2, &format!("{key}?w=3")).await, 204);
    }
    let held = async || cluster.data_dir(1).join("reserve").exists().then_some(());
    eventually("disk space is reserved", held).await;
    for (round, (gone, late)) in keys.iter().zip(&keys[4..]).take(2).enumerate() {
        disk.fill();
        says(&cluster, 1, 200, &["\"writable\":false", "disk_free_bytes_min"]).await;
        if round == 1 {
            cluster.kill(1); // and it starts on a full disk
            cluster.restart(1).await;
        }
        assert_eq!(cluster.at(1).get(&format!("/kv/{gone}")).answer().await.status, 200);
        assert_eq!(put(&cluster, 1, late).await, 507);
        assert_eq!(put(&cluster, 2, late).await, 204, "the other replicas take it");
        eventually("it takes deletes", async || {
            let deleted = cluster.at(1).delete(&format!("/kv/{gone}")).answer().await;
            (deleted.status == 204).then_some(())
        })
        .await;
        assert_eq!(cluster.at(2).get(&format!("/kv/{gone}")).answer().await.status, 404);
        disk.empty();
        says(&cluster, 1, 200, &["\"writable\":true"]).await;
        takes_writes(&cluster, 1, late).await;
        eventually("disk space is reserved again", held).await;
    }
    let log = cluster.log(1);
    assert!(!log.contains("the store failed"), "the store must not fail");
}

/// Five writes through each node, each acknowledged by all nodes.
async fn written(cluster: &Cluster) -> Vec<String> {
    let keys: Vec<String> = (0..15).map(|at| format!("fail/k{at}")).collect();
    for (at, key) in keys.iter().enumerate() {
        assert_eq!(put(cluster, 1 + at % 3, &format!("{key}?w=3")).await, 204);
    }
    keys
}

async fn start() -> Arc<Cluster> {
    Cluster::start(Setup { durability: "fsync", ..Setup::of(3) }).await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_store_whose_sync_failed_is_opened_again_by_a_fresh_process() {
    let cluster = start().await;
    let keys = written(&cluster).await;
    let process = cluster.pid(1);
    for round in 1..=2 {
        cluster.set_disk_fault(1, r#"{"syncs_fail": true}"#).await;
        let mine = &cluster.keys_where("late", 1, |list| list[0] == 1)[0];
        let refused = cluster.at(1).put(&format!("/kv/{mine}?w=3&sloppy=false")).value("w");
        assert!(refused.try_answer().await.map_or(0, |answer| answer.status) != 204);
        eventually("the store is opened again", async || {
            let opened = cluster.log(1).matches("opens it again in a fresh process").count();
            (opened == round).then_some(())
        })
        .await;
        cluster.wait_ready(1).await;
        takes_writes(&cluster, 1, mine).await;
    }
    assert_eq!(cluster.pid(1), process, "with no help from outside");
    for key in &keys {
        let read = cluster.at(1).get(&format!("/kv/{key}?r=1")).answer().await;
        assert_eq!(read.status, 200, "{key}: {}", read.text());
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_store_that_cannot_be_opened_again_yet_gives_reads_and_says_why() {
    let cluster = start().await;
    let keys = written(&cluster).await;
    let obstacle = cluster.data_dir(1).join("reopened");
    std::fs::create_dir(&obstacle).unwrap(); // the file that proves that the disk works cannot be created
    cluster.set_disk_fault(1, r#"{"syncs_fail": true}"#).await;
    let mine = &cluster.keys_where("late", 1, |list| list[0] == 1)[0];
    assert_ne!(put(&cluster, 1, &format!("{mine}?w=3&sloppy=false")).await, 204);
    let why = ["the store failed", "reads are still served", "takes no synced write"];
    says(&cluster, 1, 503, &why).await;
    for key in &keys {
        let read = cluster.at(1).get(&format!("/kv/{key}")).answer().await;
        assert_eq!(read.status, 200, "{key}: {}", read.text());
    }
    assert_eq!(put(&cluster, 1, &keys[0]).await, 503);
    assert_eq!(put(&cluster, 2, &keys[0]).await, 204, "the others continue");
    assert_eq!(cluster.at(1).get("/livez").answer().await.status, 200, "it may still recover");
    std::fs::remove_dir(&obstacle).unwrap();
    cluster.wait_ready(1).await;
    takes_writes(&cluster, 1, &keys[1]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_slow_disk_slows_writes_and_loses_none() {
    let cluster = start().await;
    cluster.set_disk_fault(1, r#"{"sync_ms": 300}"#).await;
    let keys = written(&cluster).await;
    cluster.kill(1);
    cluster.restart(1).await;
    for key in &keys {
        let read = cluster.at(1).get(&format!("/kv/{key}?r=1")).answer().await;
        assert_eq!(read.status, 200, "{key}: {}", read.text());
    }
}

/// A disk whose reads hang: other replicas answer instead, and a write is answered by its deadline.
#[tokio::test(flavor = "multi_thread")]
async fn a_disk_whose_reads_hang_delays_no_request_for_long() {
    const TIMEOUT: Duration = Duration::from_millis(2000);
    let cluster = start().await;
    let all = cluster.keys_where("hangs", 12, |list| list[0] == 1);
    let (keys, new) = all.split_at(6);
    for key in keys {
        assert_eq!(put(&cluster, 1, &format!("{key}?w=3")).await, 204);
    }
    cluster.kill(1);
    cluster.restart(1).await; // with nothing in memory
    cluster.set_disk_fault(1, r#"{"read_ms": 4000}"#).await;
    for key in keys {
        let began = Instant::now();
        let read = cluster.at(1).get(&format!("/kv/{key}")).answer().await;
        assert_eq!((read.status, read.text().as_str()), (200, "v"), "{key}");
        assert!(began.elapsed() < TIMEOUT, "{key}: read after {:?}", began.elapsed());
    }
    let mut refused = 0;
    for key in new {
        let began = Instant::now();
        let written = put(&cluster, 1, &format!("{key}?timeout_ms={}", TIMEOUT.as_millis())).await;
        refused += usize::from(written != 204);
        assert!(began.elapsed() < 2 * TIMEOUT, "{key}: {written} after {:?}", began.elapsed());
    }
    assert!(refused <= 1, "{refused} writes failed: the first shows that the disk is slow");
    cluster.set_disk_fault(1, "{}").await;
    read_all(&cluster, keys, "v", 1).await;
}

/// It takes nothing of what the node that is filled holds and it lacks, and gives all that it has.
#[tokio::test(flavor = "multi_thread")]
async fn a_node_is_filled_from_a_peer_whose_disk_is_full() {
    let Some((cluster, disk)) = start_on_a_small_disk().await else {
        return eprintln!("not tested: only root can mount a file system to fill");
    };
    let keys: Vec<String> = (0..60).map(|at| format!("full/k{at}")).collect();
    for key in &keys[..30] {
        assert_eq!(put(&cluster, 2, &format!("{key}?w=3")).await, 204);
    }
    disk.fill();
    says(&cluster, 1, 200, &["\"writable\":false", "disk_free_bytes_min"]).await;
    // It cannot fill from n1 before it holds what n1 lacks.
    cluster.cut(&[1], &[3]).await;
    cluster.kill(3);
    cluster.wipe(3);
    cluster.launch(3);
    cluster.wait_ready(3).await;
    for key in &keys[30..] {
        assert_eq!(put(&cluster, 3, &format!("{key}?w=2")).await, 204);
    }
    cluster.heal().await;
    wait_filled(&cluster, 3).await;
    read_all(&cluster, &keys, "v", 3).await;
}
