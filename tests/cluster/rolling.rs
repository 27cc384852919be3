//! Every node is restarted in turn, as an upgrade does, with clients at work: no request fails.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};

use tokio::task::JoinSet;

use crate::harness::{Cluster, Setup};
use crate::http::{Answer, Ask};

const CLIENTS: usize = 8;
/// How often every node is restarted, unless `ROLLING_ROUNDS` says otherwise.
const ROUNDS: usize = 2;

/// Sends a request to one node after the other until one takes it, as a balancer does: a node that
/// does not listen, or says that it is starting or stopping, has done nothing. Anything else counts.
async fn send(cluster: &Cluster, turn: usize, ask: impl Fn(usize) -> Ask) -> Answer {
    let nodes = cluster.all().count();
    for at in 0..nodes {
        match ask(1 + (turn + at) % nodes).try_answer().await {
            Ok(answer) if is_away(&answer) => {}
            Ok(answer) => return answer,
            Err(error) if error.is_connect() => {}
            Err(error) => panic!("no answer from n{}: {error:?}", 1 + (turn + at) % nodes),
        }
    }
    panic!("no node takes requests");
}

fn is_away(answer: &Answer) -> bool {
    answer.status == 503
        && ["not_ready", "stopping"]
            .iter()
            .any(|name| answer.text().contains(&format!(":{name}\"")))
}

pub(crate) async fn work(
    cluster: &Cluster,
    client: usize,
    stop: &AtomicBool,
    answered: &AtomicU64,
) {
    for turn in 0.. {
        if stop.load(Relaxed) {
            return;
        }
        // A sloppy read may miss a write that a fallback stands in for.
        let key = format!("/kv/rolling/{client}-{}?sloppy=false", turn % 50);
        let value = turn.to_string();
        let put = send(cluster, client + turn, |number| {
            cluster.at(number).put(&format!("{key}&return_body=true")).value(value.clone())
        });
        let put = put.await;
        assert!([200, 300].contains(&put.status), "{key}: {} {}", put.status, put.text());
        let get = send(cluster, client + turn + 1, |number| cluster.at(number).get(&key)).await;
        assert!([200, 300].contains(&get.status), "{key}: {} {}", get.status, get.text());
        answered.fetch_add(2, Relaxed);
        // Resolved, so that siblings do not pile up: a blind write at each turn would add one.
        let context = get.header("quorate-context").unwrap_or_default();
        let resolved = send(cluster, client + turn, |number| {
            cluster.at(number).put(&key).context(Some(context)).value(value.clone())
        });
        let resolved = resolved.await;
        assert_eq!(resolved.status, 204, "{key}: {}", resolved.text());
        answered.fetch_add(1, Relaxed);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn rolling_restarts_fail_no_request() {
    let cluster = Cluster::start(Setup::synced(3)).await;
    let (stop, answered) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicU64::new(0)));
    let mut clients = JoinSet::new();
    for client in 0..CLIENTS {
        let (cluster, stop, answered) = (cluster.clone(), stop.clone(), answered.clone());
        clients.spawn(async move { work(&cluster, client, &stop, &answered).await });
    }
    let rounds = std::env::var("ROLLING_ROUNDS").ok().and_then(|text| text.parse().ok());
    for round in 0..rounds.unwrap_or(ROUNDS) {
        for number in cluster.all() {
            let (status, _) = cluster.terminate(number).await;
            assert!(status.success(), "{status}");
            cluster.restart(number).await;
            cluster.wait_all_up().await;
            if let Some(ended) = clients.try_join_next() {
                ended.unwrap(); // it failed: say so at once
            }
        }
        eprintln!("round {}: {} requests answered", round + 1, answered.load(Relaxed));
    }
    stop.store(true, Relaxed);
    while let Some(ended) = clients.join_next().await {
        ended.unwrap();
    }
    assert!(answered.load(Relaxed) > 0);
}
