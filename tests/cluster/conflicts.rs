//! Conflicts across the whole cluster, and requests that are repeated or concurrent.

use std::collections::BTreeSet;

use futures_util::future::join_all;
use serde_json::Value;

use crate::harness::{Cluster, Setup, eventually};
use crate::http::Node;

/// All keys of a bucket in conflict, page by page, each page through the next of `nodes`.
async fn listed(nodes: &[Node], bucket: &str, limit: usize) -> Vec<(String, u64)> {
    let mut keys = Vec::new();
    let mut cursor = String::new();
    for page in 0..1000 {
        let path = format!("/siblings?bucket={bucket}&limit={limit}{cursor}");
        let answer = nodes[page % nodes.len()].get(&path).answer().await;
        assert_eq!(answer.status, 200, "{}", answer.text());
        let answer = answer.json();
        let list = answer["keys"].as_array().unwrap();
        assert!(list.len() <= limit);
        let key = |entry: &Value| {
            (entry["key"].as_str().unwrap().to_owned(), entry["siblings"].as_u64().unwrap())
        };
        keys.extend(list.iter().map(key));
        match answer["cursor"].as_str() {
            Some(next) => cursor = format!("&cursor={next}"),
            None => return keys,
        }
    }
    panic!("the listing has no end");
}

#[tokio::test(flavor = "multi_thread")]
async fn the_conflict_index_lists_exactly_the_keys_in_conflict_page_by_page() {
    let cluster = Cluster::start(Setup::synced(5)).await;
    let nodes: Vec<Node> = cluster.all().map(|number| cluster.at(number)).collect();
    let mut expected = Vec::new();
    for at in 0..40 {
        let writers = 1 + at % 3;
        let key = format!("k{at:03}");
        for writer in 0..writers {
            let put = nodes[(at + writer) % 5].put(&format!("/kv/index/{key}?w=3"));
            assert_eq!(put.value(format!("{writer}")).answer().await.status, 204);
        }
        if writers > 1 {
            expected.push((key.clone(), writers as u64));
        }
        // The same keys in another bucket are not in conflict.
        assert_eq!(nodes[0].put(&format!("/kv/other/{key}")).value("v").answer().await.status, 204);
    }
    for limit in [1, 7, 100] {
        assert_eq!(listed(&nodes, "index", limit).await, expected, "limit {limit}");
    }
    assert_eq!(listed(&nodes, "other", 100).await, []);

    // One node is down: it is named, and nothing is missing.
    cluster.kill(5);
    let answer = nodes[0].get("/siblings?bucket=index").answer().await.json();
    assert_eq!(answer["unreachable"], serde_json::json!(["n5"]));
    assert_eq!(listed(&nodes[..4], "index", 7).await, expected);

    // Every second conflict is resolved, by writing and by keeping, without n5 learning of it.
    let mut left = expected.clone();
    for (at, (key, _)) in expected.iter().enumerate().step_by(2) {
        let node = &nodes[at % 4];
        let seen = node.get(&format!("/kv/index/{key}")).answer().await;
        let dot = seen.siblings()[0].dot.clone().unwrap();
        let resolved = if at % 4 == 0 {
            node.put(&format!("/kv/index/{key}")).value("resolved")
        } else {
            let keep = serde_json::json!({"keep": dot}).to_string();
            node.post(&format!("/siblings/index/{key}")).value(keep)
        };
        let resolved = resolved.context(seen.context()).answer().await;
        assert_eq!(resolved.status, 204, "{}", resolved.text());
        left.retain(|(other, _)| other != key);
    }
    cluster.restart(5).await;
    eventually("resolved keys have left the index", async || {
        let found = listed(&nodes, "index", 7).await;
        let of_left = |(key, count)| left.contains(&(key, count));
        assert!(left.iter().all(|entry| found.contains(entry)), "{found:?} lacks some of {left:?}");
        found.into_iter().all(of_left).then_some(())
    })
    .await;
}

/// One request through three nodes concurrently, and again after its coordinator died.
#[tokio::test(flavor = "multi_thread")]
async fn a_repeated_request_shows_as_one_sibling() {
    let cluster = Cluster::start(Setup::synced(5)).await;
    for at in 0..20 {
        let key = format!("once/k{at}");
        let list = cluster.preference(&key);
        let put = |number: usize| {
            let ask = cluster.at(number).put(&format!("/kv/{key}?w=3")).value("v");
            ask.header("Idempotency-Key", "one-and-only").answer()
        };
        for answer in join_all([list[at % 5], list[(at + 2) % 5], list[4]].map(put)).await {
            assert_eq!(answer.status, 204, "{key}: {}", answer.text());
        }
        if at % 5 == 0 {
            cluster.kill(list[0]);
            for number in [list[1], list[4]] {
                assert_eq!(put(number).await.status, 204);
            }
            cluster.restart(list[0]).await;
            cluster.wait_all_up().await;
            assert_eq!(put(list[3]).await.status, 204);
        }
        for number in cluster.all() {
            let read = cluster.at(number).get(&format!("/kv/{key}")).answer().await;
            assert_eq!((read.status, read.text().as_str()), (200, "v"), "{key} through n{number}");
        }
        let other = cluster.at(list[0]).put(&format!("/kv/{key}")).value("something else");
        let other = other.header("Idempotency-Key", "one-and-only").answer().await;
        assert_eq!(other.status, 422, "{}", other.text());
    }
}

/// Conditions are advisory, but while all nodes are up they meet at the first home replica.
#[tokio::test(flavor = "multi_thread")]
async fn of_twenty_concurrent_creations_one_succeeds_while_all_nodes_are_up() {
    let cluster = Cluster::start(Setup::synced(5)).await;
    for at in 0..10 {
        let path = format!("/kv/create/k{at}");
        let put = |client: usize| {
            let ask = cluster.at(1 + client % 5).put(&path).value(format!("{client}"));
            ask.header("If-None-Match", "*").answer()
        };
        let answers = join_all((0..20).map(put)).await;
        let statuses: BTreeSet<u16> = answers.iter().map(|answer| answer.status).collect();
        let created = answers.iter().filter(|answer| answer.status == 204).count();
        assert_eq!((created, statuses), (1, BTreeSet::from([204, 412])), "{path}");
        let read = cluster.at(1).get(&path).answer().await;
        assert_eq!(read.siblings().len(), 1);
    }
}
