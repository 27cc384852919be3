//! Deletes: what was deleted stays deleted, whoever missed it.

use crate::harness::{Cluster, Setup};
use crate::http::Node;

const KEY: &str = "gone/k";

async fn assert_deleted(node: &Node, r: &str) {
    let read = node.get(&format!("/kv/{KEY}?r={r}")).answer().await;
    assert_eq!(read.status, 404, "r={r}: {}", read.text());
    assert!(read.context().is_some(), "deleted, and not never written");
}

/// The replica that missed the delete learns of it from a hint, or from a read where there was
/// none.
#[tokio::test(flavor = "multi_thread")]
async fn a_delete_that_a_home_replica_missed_is_not_undone_when_it_is_back() {
    for nodes in [3, 5] {
        let cluster = Cluster::start(Setup::of(nodes)).await;
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
