//! What this node has not received: partitions after it lost its disk, buckets whose n was raised;
//! and how they fill.
//!
//! A replica that starts empty in a formed cluster takes writes, which count, but answers reads of
//! a partition only after it has merged with the other home replicas: an empty disk must not make a
//! 404. What it is missing is fetched in pages: first the hints that others keep, for whomever, from every
//! node that is up (one that is down hands them off when it is back), then each partition from every
//! other home replica of it. Until then it says "not ready", which is no answer.

use std::collections::BTreeSet;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use quorate_protocol::layout::Partition;
use quorate_protocol::message::{Message, Reply, Rows, WithPayload};
use quorate_protocol::name::{Bucket, Key, NodeId};
use quorate_protocol::put::Role;
use quorate_storage::Store;

use crate::inspect::take_object;
use crate::node::{Node, StartError};
use crate::replica;

/// Which partitions were received. Recorded in the store.
pub struct Readiness {
    ready: Vec<AtomicBool>,
    complete: AtomicBool,
    recording: Mutex<()>,
}

const READY_RECORD: &str = "ready";
const RETRY_EVERY: Duration = Duration::from_millis(500);
/// How many partitions are recorded together: a record costs a sync, a repeated fill costs little.
const RECORD_EVERY: usize = 64;

impl Readiness {
    /// Reads what this node has recorded; without a record nothing is ready.
    ///
    /// # Errors
    /// [`StartError`] if the record cannot be read.
    pub fn load(store: &Store, partitions: u32) -> Result<Self, StartError> {
        let recorded = store.meta(READY_RECORD)?.unwrap_or_default();
        if !recorded.is_empty() && recorded.len() != partitions as usize {
            return Err(StartError::Record(READY_RECORD));
        }
        let is_ready = |p: usize| recorded.get(p) == Some(&1);
        let ready: Vec<bool> = (0..partitions as usize).map(is_ready).collect();
        let complete = AtomicBool::new(ready.iter().all(|ready| *ready));
        let ready = ready.into_iter().map(AtomicBool::new).collect();
        Ok(Self { ready, complete, recording: Mutex::new(()) })
    }

    /// Whether a partition was received.
    pub fn is_ready(&self, partition: Partition) -> bool {
        self.is_complete()
            || self.ready.get(usize::from(partition.0)).is_some_and(|ready| ready.load(Relaxed))
    }

    /// Whether all partitions were received.
    pub fn is_complete(&self) -> bool {
        self.complete.load(Relaxed)
    }

    /// Records that every partition is ready (a cluster is being formed) or none (joining one).
    ///
    /// # Errors
    /// The store's, if the record cannot be made durable.
    pub fn record_all(&self, store: &Store, ready: bool) -> Result<(), quorate_storage::Error> {
        for partition in &self.ready {
            partition.store(ready, Relaxed);
        }
        self.record(store)
    }

    fn mark(&self, partition: Partition) {
        if let Some(ready) = self.ready.get(usize::from(partition.0)) {
            ready.store(true, Relaxed);
        }
    }

    fn record(&self, store: &Store) -> Result<(), quorate_storage::Error> {
        let _one_at_a_time = self.recording.lock().unwrap_or_else(PoisonError::into_inner);
        let record: Vec<u8> =
            self.ready.iter().map(|ready| u8::from(ready.load(Relaxed))).collect();
        store.put_meta(READY_RECORD, &record)?;
        self.complete.store(record.iter().all(|ready| *ready == 1), Relaxed);
        Ok(())
    }

    fn missing(&self) -> Vec<Partition> {
        let partitions = (0..self.ready.len()).map(|p| Partition(p as u16));
        partitions.filter(|p| !self.is_ready(*p)).collect()
    }
}

/// Fills what is missing, and what comes to be missing when the n of a bucket is raised.
pub async fn run(node: Arc<Node>) {
    let mut ticks = tokio::time::interval(RETRY_EVERY);
    let mut hints_from = BTreeSet::new();
    loop {
        ticks.tick().await;
        if node.formation().is_none() {
            continue;
        }
        let missing = node.readiness.missing();
        if !missing.is_empty() && fetch_hints(&node, &mut hints_from).await {
            fill_partitions(&node, &missing).await;
        }
        for (bucket, before) in node.buckets.raised() {
            fill_bucket(&node, bucket, before).await;
        }
    }
}

/// Merges the hints that others keep of keys this node is a home replica of, whomever they keep them
/// for: the other home replicas may have been down when a key was written. `had` remembers whose are
/// in. Returns whether every node that is up has sent its own.
async fn fetch_hints(node: &Arc<Node>, had: &mut BTreeSet<NodeId>) -> bool {
    let down = node.peers.down();
    let others: Vec<NodeId> =
        node.peers.nodes().filter(|other| !down.contains(other) && !had.contains(other)).collect();
    for other in others {
        for target in node.layout.members().iter().map(|member| member.node) {
            if !fetch_all(node, other, Rows::HintsFor(target)).await {
                return false;
            }
        }
        had.insert(other);
    }
    true
}

/// Receives whole partitions.
async fn fill_partitions(node: &Arc<Node>, missing: &[Partition]) {
    tracing::info!(partitions = missing.len(), "filling from the other home replicas");
    let n = node.buckets.n_max();
    for chunk in missing.chunks(RECORD_EVERY) {
        for partition in chunk {
            let homes = node.layout.homes(*partition, n);
            if !homes.contains(&node.me) || fetch_from_all(node, homes, *partition).await {
                node.readiness.mark(*partition);
            }
        }
        let recorded = replica::on_blocking_pool(node, |node| node.readiness.record(&node.store));
        if let Err(error) = recorded.await {
            tracing::warn!(%error, "could not record filled partitions");
        }
    }
    if node.readiness.is_complete() {
        tracing::info!("all partitions are filled");
    }
}

/// Receives the partitions of a bucket of which this node became a home replica when n was raised.
async fn fill_bucket(node: &Arc<Node>, bucket: Bucket, before: u16) {
    let n = node.buckets.properties(bucket.as_str()).n;
    for partition in (0..node.layout.partitions()).map(|p| Partition(p as u16)) {
        let homes = node.layout.homes(partition, n);
        let is_new = !node.layout.homes(partition, before).contains(&node.me);
        if is_new && homes.contains(&node.me) && !fetch_from_all(node, homes, partition).await {
            return; // tried again soon
        }
    }
    tracing::info!(bucket = bucket.as_str(), before, n, "the bucket's new replicas are filled");
    let done = move |node: &Node| node.buckets.fetched(&node.store, &bucket, before, n);
    if let Err(error) = replica::on_blocking_pool(node, done).await {
        tracing::warn!(%error, "could not record a filled bucket");
    }
}

/// Merges a partition from every other home replica. Returns whether all of them answered.
async fn fetch_from_all(node: &Arc<Node>, homes: &[NodeId], partition: Partition) -> bool {
    for other in homes.iter().filter(|other| **other != node.me) {
        if !fetch_all(node, *other, Rows::Partition(partition)).await {
            return false;
        }
    }
    true
}

/// Merges what another node holds, page by page. Returns whether all of it came.
async fn fetch_all(node: &Arc<Node>, from: NodeId, rows: Rows) -> bool {
    let mut after: Option<Key> = None;
    loop {
        let message = Message::Fetch { rows, after: after.take() };
        let read_at = node.now();
        let timeout = Duration::from_millis(node.config.timeouts.request_ms);
        let heard = node.peers.ask(from, message, timeout).await;
        let Some(WithPayload { head: Reply::Rows { rows, end }, mut payload }) = heard.into_reply()
        else {
            return false;
        };
        for (key, len) in rows {
            let Some(object) = take_object(&mut payload, len) else { return false };
            let homes = node.layout.homes(node.partition(&key), node.properties(&key).n);
            if homes.contains(&node.me)
                && replica::merge(node, Role::Home, &key, object, read_at).await != Reply::Stored
            {
                return false;
            }
            after = Some(key);
        }
        if end {
            return node.store.durable().await.is_ok();
        }
    }
}
