//! The number of replicas when a bucket's n changes while its keys are in use.

use std::collections::BTreeMap;
use std::sync::Arc;

use quorate_protocol::layout::Partition;

use crate::harness::{Cluster, Setup, eventually};
use crate::load::{put_all, read_all};

const KEYS: usize = 200;
const SETTINGS: &str = "[anti_entropy]\ninterval_ms = 1000\n[deletes]\ngrace_ms = 2000\n";

async fn set_n(cluster: &Cluster, n: u16) {
    let put = cluster.at(1).put("/buckets/sized").value(format!("{{\"n\": {n}}}"));
    assert_eq!(put.answer().await.status, 200);
    for number in cluster.all() {
        eventually(&format!("n{number} knows of n={n}"), async || {
            let bucket = cluster.at(number).get("/buckets/sized").answer().await.json();
            (bucket["n"] == n).then_some(())
        })
        .await;
    }
}

/// Which nodes hold a row of each key, according to their disks.
async fn holders(cluster: &Arc<Cluster>) -> BTreeMap<String, Vec<usize>> {
    let mut holders: BTreeMap<String, Vec<usize>> = BTreeMap::new();
    for number in cluster.all() {
        cluster.terminate(number).await;
        let store = cluster.open_store(number);
        for partition in (0..cluster.layout().partitions()).map(|p| Partition(p as u16)) {
            for (key, _) in store.scan_partition(partition, None, usize::MAX, usize::MAX).unwrap() {
                holders.entry(key.to_string()).or_default().push(number);
            }
        }
    }
    for number in cluster.all() {
        cluster.launch(number);
    }
    cluster.wait_all_up().await;
    holders
}

/// Waits until nodes have dropped this many rows since they started.
async fn wait_dropped(cluster: &Arc<Cluster>, count: u64) {
    eventually(&format!("{count} rows are dropped"), async || {
        let mut dropped = 0;
        for number in cluster.all() {
            let report = cluster.at(number).get("/anti-entropy").answer().await.json();
            dropped += report["sweep"]["rows_dropped"].as_u64().unwrap();
        }
        (dropped == count).then_some(())
    })
    .await;
}

/// Concurrent reads must not fail, and none may report a key as absent.
#[tokio::test(flavor = "multi_thread")]
async fn a_raised_n_makes_the_missing_replicas_and_a_lowered_one_drops_the_others() {
    let cluster = Cluster::start(Setup { settings: SETTINGS, ..Setup::of(5) }).await;
    let keys: Vec<String> = (0..KEYS).map(|at| format!("sized/k{at}")).collect();
    set_n(&cluster, 2).await;
    put_all(&cluster, &keys, "v", &[1, 2, 3, 4, 5]).await;
    cluster.wait_converged().await;
    let mut before = 2;
    for n in [5, 3, 4] {
        set_n(&cluster, n).await;
        for number in cluster.all() {
            for key in keys.iter().step_by(7) {
                let read = cluster.at(number).get(&format!("/kv/{key}")).answer().await;
                assert!([200, 503].contains(&read.status), "{key} n={n}: {}", read.text());
            }
        }
        cluster.wait_converged().await;
        let too_many = usize::from(before).saturating_sub(usize::from(n));
        wait_dropped(&cluster, (KEYS * too_many) as u64).await;
        before = n;
        let holders = holders(&cluster).await;
        for key in &keys {
            let mut homes = cluster.preference(key)[..usize::from(n)].to_vec();
            homes.sort_unstable();
            assert_eq!(holders.get(key), Some(&homes), "{key} n={n}");
        }
        for number in cluster.all() {
            read_all(&cluster, &keys, "v", number).await;
        }
    }
}
