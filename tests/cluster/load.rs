//! Clients at work: each reads a key, adds an element to what it was shown, and moves on.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::time::Duration;

use tokio::task::JoinSet;

use crate::harness::{Cluster, eventually};
use crate::record::Record;

/// Clients at work until they are stopped.
pub(crate) struct Load {
    stop: Arc<AtomicBool>,
    clients: JoinSet<()>,
}

impl Load {
    /// This many clients, each cycling through nodes and keys.
    pub(crate) fn start(
        cluster: &Arc<Cluster>,
        record: &Arc<Record>,
        keys: &[String],
        clients: usize,
    ) -> Self {
        let mut load = Self { stop: Arc::default(), clients: JoinSet::new() };
        for client in 0..clients {
            let (cluster, record, stop) = (cluster.clone(), record.clone(), load.stop.clone());
            let keys = keys.to_vec();
            load.clients.spawn(async move {
                for turn in client.. {
                    if stop.load(Relaxed) {
                        break;
                    }
                    let node = cluster.at(1 + turn % cluster.all().count());
                    let key = &keys[turn / 2 % keys.len()];
                    match record.read(&node, key, 2).await {
                        Some(seen) => drop(record.add(&node, key, &seen).await),
                        // No quorum: back off, so that this loop does not become a load of its own.
                        None => tokio::time::sleep(Duration::from_millis(10)).await,
                    }
                }
            });
        }
        load
    }

    /// Stops all clients; fails if one of them found something wrong.
    pub(crate) async fn stop(mut self) {
        self.stop.store(true, Relaxed);
        while let Some(ended) = self.clients.join_next().await {
            ended.unwrap();
        }
    }
}

/// Waits until this many more writes were acknowledged.
pub(crate) async fn acked_more(record: &Record, count: usize) {
    let before = record.acked();
    let enough = async || (record.acked() >= before + count).then_some(());
    eventually("enough writes are acknowledged", enough).await;
}

/// Reads every key back through every node and judges the result.
pub(crate) async fn check_all(cluster: &Cluster, record: &Record) {
    for key in record.keys() {
        for number in cluster.all() {
            let read = record.read(&cluster.at(number), &key, 2).await;
            assert!(read.is_some(), "{key} cannot be read through n{number}");
        }
        let left = cluster.wait_settled(1, &key).await;
        record.check_final(&key, &left);
    }
}

/// Writes each key once, blindly, through these nodes in turn; every write must succeed.
pub(crate) async fn put_all(
    cluster: &Arc<Cluster>,
    keys: &[String],
    value: &str,
    through: &[usize],
) {
    const AT_ONCE: usize = 16;
    let mut writers = JoinSet::new();
    for writer in 0..AT_ONCE {
        let mine: Vec<String> = keys.iter().skip(writer).step_by(AT_ONCE).cloned().collect();
        let node = cluster.at(through[writer % through.len()]);
        let value = value.to_owned();
        writers.spawn(async move {
            for key in mine {
                let put = node.put(&format!("/kv/{key}")).value(value.clone()).answer().await;
                assert_eq!(put.status, 204, "{key}: {}", put.text());
            }
        });
    }
    writers.join_all().await;
}

/// Reads each key at R=1 through one node, which must show the value.
pub(crate) async fn read_all(cluster: &Arc<Cluster>, keys: &[String], value: &str, through: usize) {
    for key in keys {
        let read = cluster.at(through).get(&format!("/kv/{key}?r=1")).answer().await;
        assert_eq!((read.status, read.text().as_str()), (200, value), "{key} through n{through}");
    }
}
