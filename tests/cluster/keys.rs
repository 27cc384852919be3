//! `GET /keys/{bucket}`: live keys in order, complete while any one node is down.

use std::sync::Arc;

use crate::harness::{Cluster, Setup};
use crate::load::put_all;

/// All keys of a bucket that begin with a prefix, page by page, and whether every page was
/// complete.
async fn list(
    cluster: &Cluster,
    through: usize,
    prefix: &str,
    limit: usize,
) -> (Vec<String>, bool) {
    let (mut keys, mut complete, mut cursor) = (Vec::new(), true, String::new());
    loop {
        let path = format!("/keys/listed?prefix={prefix}&limit={limit}{cursor}");
        let answer = cluster.at(through).get(&path).answer().await;
        assert_eq!(answer.status, 200, "{}", answer.text());
        let page = answer.json();
        let these = page["keys"].as_array().unwrap();
        assert!(these.len() <= limit, "{page}");
        keys.extend(these.iter().map(|key| key.as_str().unwrap().to_owned()));
        complete &= page["complete"] == true;
        match page["cursor"].as_str() {
            Some(next) => cursor = format!("&cursor={next}"),
            None => return (keys, complete),
        }
    }
}

async fn listed() -> (Arc<Cluster>, Vec<String>) {
    let cluster = Cluster::start(Setup::of(5)).await;
    let keys: Vec<String> = (0..300).map(|at| format!("listed/k{at:03}")).collect();
    put_all(&cluster, &keys, "v", &[1, 2, 3, 4, 5]).await;
    let names = keys.iter().map(|key| key["listed/".len()..].to_owned()).collect();
    (cluster, names)
}

#[tokio::test(flavor = "multi_thread")]
async fn keys_are_listed_in_order_while_any_one_node_is_down() {
    let (cluster, mut names) = listed().await;
    for gone in ["k007", "k111", "k299"] {
        let delete = cluster.at(1).delete(&format!("/kv/listed/{gone}")).answer().await;
        assert_eq!(delete.status, 204, "{}", delete.text());
        names.retain(|name| name != gone);
    }
    for down in cluster.all() {
        cluster.kill(down);
        let through = 1 + down % 5;
        for limit in [7, 100, 1000] {
            assert_eq!(list(&cluster, through, "", limit).await, (names.clone(), true));
        }
        let some: Vec<String> = names.iter().filter(|n| n.starts_with("k1")).cloned().collect();
        assert_eq!(list(&cluster, through, "k1", 10).await, (some, true));
        cluster.restart(down).await;
        cluster.wait_all_up().await;
    }
}

/// With most nodes down the list cannot be complete, and the answer says so.
#[tokio::test(flavor = "multi_thread")]
async fn a_list_from_too_few_replicas_is_not_called_complete() {
    let (cluster, names) = listed().await;
    for number in 1..=3 {
        cluster.kill(number);
    }
    let (found, complete) = list(&cluster, 4, "", 1000).await;
    assert!(!complete && found.iter().all(|name| names.contains(name)), "{found:?}");
}
