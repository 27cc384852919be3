//! A node that was down while others took writes catches up: by the hints kept for it, or without
//! hints by comparing trees.

use std::sync::Arc;

use crate::harness::{Cluster, Setup, eventually};
use crate::load::{put_all, read_all};

const KEYS: usize = 2_000;
/// The node that is down.
const AWAY: usize = 5;

/// Anti-entropy runs only on request.
const BY_HINTS: &str = "[anti_entropy]\ninterval_ms = 0\n";
/// No room for hints.
const BY_TREES: &str = "[anti_entropy]\ninterval_ms = 1000\n[limits]\nhint_bytes_max = 0\n";

/// Writes keys while a node is away. Returns those that it should have.
async fn write_without_it(cluster: &Arc<Cluster>) -> Vec<String> {
    let keys = cluster.keys_where("away", KEYS, |list| list[..3].contains(&AWAY));
    cluster.kill(AWAY);
    put_all(cluster, &keys, "missed", &[1, 2, 3, 4]).await;
    keys
}

/// Every key that it should have is there, with equal trees.
async fn check_whole(cluster: &Arc<Cluster>, keys: &[String]) {
    read_all(cluster, keys, "missed", AWAY).await;
    cluster.wait_trees_fit().await;
    for number in cluster.all() {
        let run = cluster.compare_now(number).await;
        let rounds = run["rounds"].as_array().unwrap();
        assert!(rounds.iter().all(|round| round["differing"] == 0), "n{number}: {run}");
        assert_eq!(run["complete"], true, "n{number}: {run}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_node_that_was_away_is_whole_again_by_hints() {
    let cluster = Cluster::start(Setup { settings: BY_HINTS, ..Setup::synced(5) }).await;
    let keys = write_without_it(&cluster).await;
    let mut kept = 0;
    for number in 1..AWAY {
        kept += cluster.hint_keys(number).await;
    }
    assert!(kept >= keys.len() as u64, "{kept} hints for {} keys", keys.len());
    cluster.restart(AWAY).await;
    for number in 1..AWAY {
        let drained = async || (cluster.hint_keys(number).await == 0).then_some(());
        eventually(&format!("n{number} has handed its hints off"), drained).await;
    }
    check_whole(&cluster, &keys).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_node_that_was_away_is_whole_again_without_any_hint() {
    let cluster = Cluster::start(Setup { settings: BY_TREES, ..Setup::synced(5) }).await;
    let keys = write_without_it(&cluster).await;
    for number in 1..AWAY {
        assert_eq!(cluster.hint_keys(number).await, 0, "n{number} has no room for hints");
    }
    cluster.restart(AWAY).await;
    cluster.wait_all_up().await;
    cluster.wait_converged().await;
    check_whole(&cluster, &keys).await;
}
