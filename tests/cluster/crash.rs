//! Nodes that crash or stop and come back: every acknowledged write survives, no dot stands for two
//! values.

use std::sync::Arc;
use std::time::Duration;

use crate::harness::{Cluster, Setup, eventually};
use crate::load::{Load, acked_more, check_all};
use crate::record::{Record, View, newest};

async fn kill_all_under_load(durability: &'static str) {
    let cluster = Cluster::start(Setup { durability, ..Setup::synced(3) }).await;
    let record = Arc::new(Record::new(&cluster, 3));
    let keys: Vec<String> = (0..8).map(|key| format!("crash/k{key}")).collect();
    for _ in 0..4 {
        let load = Load::start(&cluster, &record, &keys, 12);
        acked_more(&record, 200).await;
        for number in cluster.all() {
            cluster.kill(number);
        }
        load.stop().await;
        for number in cluster.all() {
            cluster.launch(number);
        }
        cluster.wait_all_up().await;
        check_all(&cluster, &record).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn every_acked_write_survives_kill_9_of_all_nodes_with_fsync() {
    kill_all_under_load("fsync").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn every_acked_write_survives_kill_9_of_all_nodes_with_buffered() {
    kill_all_under_load("buffered").await;
}

/// The node's own bound is `timeouts.shutdown_ms`, 10 s; if nothing hangs, stopping is immediate.
#[tokio::test(flavor = "multi_thread")]
async fn a_graceful_stop_under_load_is_fast_clean_and_loses_nothing() {
    let cluster = Cluster::start(Setup { durability: "fsync", ..Setup::synced(3) }).await;
    let record = Arc::new(Record::new(&cluster, 3));
    let keys: Vec<String> = (0..8).map(|key| format!("stop/k{key}")).collect();
    let load = Load::start(&cluster, &record, &keys, 12);
    for number in cluster.all() {
        acked_more(&record, 100).await;
        let (status, took) = cluster.terminate(number).await;
        assert!(status.success(), "n{number} ended with {status}");
        assert!(took < Duration::from_secs(10), "n{number} took {took:?} to stop");
        acked_more(&record, 50).await;
        cluster.restart(number).await;
    }
    load.stop().await;
    cluster.wait_all_up().await;
    check_all(&cluster, &record).await;
}

/// A proven clean stop keeps the incarnation, and so the actors; a kill does not.
#[tokio::test(flavor = "multi_thread")]
async fn a_node_mints_on_as_the_same_actor_only_after_a_clean_stop() {
    let cluster = Cluster::start(Setup::synced(3)).await;
    let record = Record::new(&cluster, 3);
    let actor = async || {
        record.add(&cluster.at(1), "actors/k", &View::default()).await.unwrap();
        let shown = cluster.inspect(1, "actors/k").await.siblings();
        newest("actors/k", &shown).dot.as_deref().unwrap().split('-').next().unwrap().to_owned()
    };
    let first = actor().await;
    assert_eq!(actor().await, first);
    assert!(cluster.terminate(1).await.0.success());
    cluster.restart(1).await;
    assert_eq!(actor().await, first);
    cluster.kill(1);
    cluster.restart(1).await;
    assert_ne!(actor().await, first);
    let left = cluster.wait_settled(1, "actors/k").await;
    assert_eq!(left.siblings().len(), 4);
    record.check_final("actors/k", &left);
}

/// A start that is killed at any moment of creating the store leaves nothing that the next refuses.
#[tokio::test(flavor = "multi_thread")]
async fn a_node_whose_first_start_is_killed_at_any_moment_starts_the_next_time() {
    let cluster = Cluster::start(Setup::synced(3)).await;
    for moment in 0..40 {
        cluster.kill(3);
        cluster.wipe(3);
        cluster.launch(3);
        tokio::time::sleep(Duration::from_millis(2 * moment)).await; // the moment of the kill
        cluster.kill(3);
        cluster.launch(3);
        eventually(&format!("killed after {} ms, n3 listens", 2 * moment), async || {
            let ended = cluster.ended(3);
            assert!(ended.is_none(), "{} ms: {ended:?}\n{}", 2 * moment, cluster.log(3));
            cluster.at(3).get("/livez").try_answer().await.ok()
        })
        .await;
    }
    cluster.wait_all_up().await;
}
