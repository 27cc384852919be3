//! Deletes: what was deleted stays deleted, whichever replica missed it, and is dropped in the end.

use std::time::{Duration, Instant};

use quorate_protocol::layout::Partition;

use crate::harness::{Cluster, Setup, eventually};
use crate::http::Node;
use crate::load::put_all;

const KEY: &str = "gone/k";

async fn assert_deleted(node: &Node, r: &str) {
    let read = node.get(&format!("/kv/{KEY}?r={r}")).answer().await;
    assert_eq!(read.status, 404, "r={r}: {}", read.text());
    assert!(read.context().is_some(), "deleted, and not never written");
}

/// The replica that missed the delete learns of it from a hint, or from a read if there was none.
#[tokio::test(flavor = "multi_thread")]
async fn a_delete_that_a_home_replica_missed_is_not_undone_when_it_is_back() {
    for nodes in [3, 5] {
        let cluster = Cluster::start(Setup::synced(nodes)).await;
        let list = cluster.preference(KEY);
        let node = cluster.at(list[0]);
        assert_eq!(node.put(&format!("/kv/{KEY}?w=3")).value("v").answer().await.status, 204);
        cluster.kill(list[2]);
        let deleted = node.delete(&format!("/kv/{KEY}")).answer().await;
        assert_eq!(deleted.status, 204, "{}", deleted.text());
        cluster.restart(list[2]).await;
        cluster.wait_all_up().await;
        if nodes == 5 {
            cluster.wait_delivered(1, KEY).await;
        } else {
            assert_deleted(&cluster.at(list[2]), "2").await;
        }
        for number in cluster.all() {
            cluster.kill(number);
        }
        for number in cluster.all() {
            cluster.launch(number);
        }
        cluster.wait_all_up().await;
        let left = cluster.wait_settled(1, KEY).await;
        assert_eq!(left.siblings().len(), 1, "the tombstone: {left:?}");
        for number in cluster.all() {
            assert_deleted(&cluster.at(number), "1").await;
        }
    }
}

const GRACE: Duration = Duration::from_secs(2);
/// That grace, with trees compared all the time.
const REAPING: &str =
    "[deletes]\ngrace_ms = 2000\nreap_ms = 200\n[anti_entropy]\ninterval_ms = 500\n";

/// How many of the keys a node still knows to be deleted. Asks two replicas: one alone may have
/// missed the delete.
async fn remembered(cluster: &Cluster, keys: &[String], through: usize) -> usize {
    let mut count = 0;
    for key in keys {
        let read = cluster.at(through).get(&format!("/kv/{key}?r=2")).answer().await;
        assert!([404, 503].contains(&read.status), "{key} through n{through}: {}", read.text());
        count += usize::from(read.context().is_some());
    }
    count
}

/// One node misses the deletes, so no tombstone may be dropped until it is back and has learnt of
/// them.
#[tokio::test(flavor = "multi_thread")]
async fn deletes_are_forgotten_once_every_node_knows_and_nothing_comes_back() {
    let cluster = Cluster::start(Setup { settings: REAPING, ..Setup::synced(5) }).await;
    let keys: Vec<String> = (0..100).map(|at| format!("reaped/k{at}")).collect();
    put_all(&cluster, &keys, "v", &[1, 2, 3, 4, 5]).await;
    cluster.wait_converged().await;
    cluster.kill(5);
    for key in &keys {
        let delete = cluster.at(1).delete(&format!("/kv/{key}")).answer().await;
        assert_eq!(delete.status, 204, "{key}: {}", delete.text());
    }
    let begun = Instant::now();
    while begun.elapsed() < 2 * GRACE {
        let through: usize = 1 + begun.elapsed().as_millis() as usize % 4;
        assert_eq!(remembered(&cluster, &keys[..10], through).await, 10, "n5 does not know yet");
    }
    cluster.restart(5).await;
    for number in cluster.all() {
        let forgotten = async || (remembered(&cluster, &keys, number).await == 0).then_some(());
        eventually(&format!("n{number} has forgotten the deletes"), forgotten).await;
    }
    for number in cluster.all() {
        cluster.terminate(number).await;
        let store = cluster.open_store(number);
        for partition in (0..cluster.layout().partitions()).map(|p| Partition(p as u16)) {
            let rows = store.scan_partition(partition, None, usize::MAX, usize::MAX).unwrap();
            assert!(rows.is_empty(), "n{number} still has {rows:?}");
        }
    }
    for number in cluster.all() {
        cluster.launch(number);
    }
    cluster.wait_all_up().await;
    for number in cluster.all() {
        assert_eq!(remembered(&cluster, &keys, number).await, 0);
    }
}
