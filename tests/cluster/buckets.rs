//! The table of bucket properties: resets are not kept for good.

use quorate_protocol::bucket_table::Table;

use crate::harness::{Cluster, Setup, eventually};

async fn set(cluster: &Cluster, number: usize, bucket: &str, properties: &str) {
    let put = cluster.at(number).put(&format!("/buckets/{bucket}"));
    let answer = put.header("content-type", "application/json").value(properties.to_owned());
    let answer = answer.answer().await;
    assert_eq!(answer.status, 200, "{}", answer.text());
}

async fn reset(cluster: &Cluster, number: usize, bucket: &str) {
    let answer = cluster.at(number).delete(&format!("/buckets/{bucket}")).answer().await;
    assert_eq!(answer.status, 204, "{}", answer.text());
}

/// What a node that does not run has recorded.
fn recorded(cluster: &Cluster, number: usize) -> Table {
    let store = cluster.open_store(number);
    Table::decode(&store.meta("buckets").unwrap().unwrap_or_default()).unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn resets_are_forgotten_once_every_node_knows_them() {
    let cluster = Cluster::start(Setup::of(3)).await;
    set(&cluster, 1, "kept", r#"{"n": 2}"#).await;
    for at in 0..20 {
        reset(&cluster, 1 + at % 3, &format!("unknown-{at}")).await;
    }
    for at in 0..300 {
        let bucket = format!("passing-{at}");
        set(&cluster, 1 + at % 3, &bucket, r#"{"conflicts": "lww"}"#).await;
        reset(&cluster, 1 + (at + 1) % 3, &bucket).await;
    }
    for number in cluster.all() {
        let forgets =
            async || cluster.log(number).contains("every node knows these resets").then_some(());
        eventually(&format!("n{number} forgets resets"), forgets).await;
    }
    for number in cluster.all() {
        let kept = cluster.at(number).get("/buckets/kept").answer().await;
        assert_eq!(kept.json()["n"], 2);
        let passed = cluster.at(number).get("/buckets/passing-7").answer().await;
        assert_eq!(passed.json()["conflicts"], "siblings");
        cluster.terminate(number).await;
        let table = recorded(&cluster, number);
        assert!(table.resets() < 100 && table.settings("kept").n == Some(2), "{}", table.len());
        let unknown = table.records().find(|(bucket, _)| bucket.as_str().starts_with("unknown"));
        assert!(unknown.is_none(), "nothing was reset there: {unknown:?}");
    }
}

/// A reset through a node that has not heard of the settings must still revert them.
#[tokio::test(flavor = "multi_thread")]
async fn a_reset_takes_back_what_only_others_know() {
    let cluster = Cluster::start(Setup::of(3)).await;
    cluster.cut(&[1], &[2, 3]).await;
    set(&cluster, 2, "b", r#"{"n": 2}"#).await;
    assert_eq!(cluster.at(1).get("/buckets/b").answer().await.json()["n"], 3);
    reset(&cluster, 1, "b").await; // no node could tell that there is nothing to reset
    cluster.heal().await;
    let agreed = async || {
        for number in cluster.all() {
            let answer = cluster.at(number).get("/buckets/b").answer().await;
            if answer.json()["n"] != 3 {
                return None;
            }
        }
        Some(())
    };
    eventually("all nodes have reverted it", agreed).await;
}
