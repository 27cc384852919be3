//! More load than the node accepts: refused at once with a clear answer, and recovered from when
//! the load ends.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};
use std::time::{Duration, Instant};

use tokio::task::JoinSet;

use crate::harness::{Cluster, Setup, TIMEOUT, eventually};

#[tokio::test(flavor = "multi_thread")]
async fn overload_is_refused_at_once_and_the_node_recovers() {
    let settings = "[limits]\noperations_max = 8\n";
    let cluster = Cluster::start(Setup { durability: "fsync", settings, ..Setup::of(3) }).await;
    let (refused, done) = (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicUsize::new(0)));
    let mut clients = JoinSet::new();
    for client in 0..200 {
        let (cluster, refused, done) = (cluster.clone(), refused.clone(), done.clone());
        clients.spawn(async move {
            let mut acked = Vec::new();
            let begun = Instant::now();
            for turn in 0.. {
                let enough = refused.load(Relaxed) > 500 && done.load(Relaxed) > 500;
                if enough || begun.elapsed() > TIMEOUT {
                    break;
                }
                let path = format!("/kv/over/c{client}t{turn}");
                let begun = Instant::now();
                let put = cluster.at(1 + client % 3).put(&path).value("v").answer().await;
                match put.status {
                    204 => {
                        done.fetch_add(1, Relaxed);
                        acked.push(path);
                    }
                    503 => {
                        refused.fetch_add(1, Relaxed);
                        assert!(put.header("Retry-After").is_some(), "{}", put.text());
                        let outcome = put.outcome();
                        assert_eq!(outcome, "not_applied", "{}", put.text());
                        let took = begun.elapsed();
                        assert!(took < Duration::from_secs(5), "refused after {took:?}");
                    }
                    other => panic!("{other}: {}", put.text()),
                }
            }
            acked
        });
    }
    let acked: Vec<String> = clients.join_all().await.into_iter().flatten().collect();
    assert!(refused.load(Relaxed) > 0, "the load did not overload the node");
    assert!(!acked.is_empty(), "overload must not starve all clients");
    for number in cluster.all() {
        let path = format!("/kv/over/after{number}");
        let works = async || {
            let put = cluster.at(number).put(&path).value("v").answer().await;
            (put.status == 204).then_some(())
        };
        eventually("the node takes writes again", works).await;
    }
    for path in acked.iter().step_by(7) {
        assert_eq!(cluster.at(1).get(path).answer().await.status, 200, "{path}");
    }
}
