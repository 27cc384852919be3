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
use std::time::{Duration, Instant};

use bytes::Bytes;
use futures_util::{StreamExt, stream};
use quorate_protocol::layout::Partition;
use quorate_protocol::message::{Message, Reply, Rows};
use quorate_protocol::name::{Bucket, Key, NodeId};
use quorate_protocol::packed;
use quorate_protocol::reap;
use quorate_protocol::stamp::Millis;
use quorate_protocol::tree::Tree;
use quorate_storage::{MERGE_BATCH_ROWS, Place, Store};

use crate::anti_entropy::{Asking, Talk, had_better_stream, is_home, mend_tree};
use crate::chores;
use crate::node::{Node, StartError};
use crate::received;

/// Which partitions were received. Recorded in the store.
pub struct Readiness {
    ready: Vec<AtomicBool>,
    complete: AtomicBool,
    recording: Mutex<()>,
}

const READY_RECORD: &str = "ready";
/// Partitions that are filled at a time: while one waits for the network, another is merged.
const PARTITIONS_AT_ONCE: usize = 4;
const SAY_EVERY: Duration = Duration::from_secs(2);
const RETRY_EVERY: Duration = Duration::from_millis(500);
/// Of so many turns one fills, while partitions wait for an operator.
const WAITING: u64 = 4;
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

    /// How many partitions were not received yet.
    pub fn missing_count(&self) -> usize {
        if self.is_complete() { 0 } else { self.missing().len() }
    }

    /// The partitions that were not received yet.
    pub fn missing(&self) -> Vec<Partition> {
        let partitions = (0..self.ready.len()).map(|p| Partition(p as u16));
        partitions.filter(|p| !self.is_ready(*p)).collect()
    }
}

/// Fills what is missing, and what comes to be missing when the n of a bucket is raised.
pub async fn run(node: Arc<Node>) {
    let mut ticks = tokio::time::interval(RETRY_EVERY);
    let mut hints_from = BTreeSet::new();
    let mut turn: u64 = 0;
    loop {
        ticks.tick().await;
        if !node.takes_part() {
            continue;
        }
        let missing = node.readiness.missing();
        // What waits for an operator is asked for again, but not all the time.
        let turns =
            if node.unreceived.lost() + node.unreceived.undecided() > 0 { WAITING } else { 1 };
        turn += 1;
        if !missing.is_empty()
            && turn.is_multiple_of(turns)
            && fetch_hints(&node, &mut hints_from).await
        {
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

/// Receives whole partitions, a few at a time, within the share of a core that is set.
async fn fill_partitions(node: &Arc<Node>, missing: &[Partition]) {
    tracing::info!(partitions = missing.len(), "filling from the other home replicas");
    let progress = Progress::start(missing.len());
    let (mut undecided, mut lost) = (0, 0);
    for chunk in missing.chunks(RECORD_EVERY) {
        let filling = stream::iter(chunk.iter().copied())
            .map(|partition| async move { (partition, fill_partition(node, partition).await) });
        let mut filled = filling.buffer_unordered(PARTITIONS_AT_ONCE);
        let mut merged = Vec::new();
        while let Some((partition, is_filled)) = filled.next().await {
            merged.extend(is_filled.then_some(partition));
        }
        let judged = received::judge(node, &merged).await;
        judged.received.iter().for_each(|partition| node.readiness.mark(*partition));
        undecided += judged.undecided;
        lost += judged.lost;
        let recorded = chores::run(node, |node| node.readiness.record(&node.store));
        if let Err(error) = recorded.await {
            tracing::warn!(%error, "could not record filled partitions");
        }
        progress.say(node.readiness.missing().len());
    }
    node.unreceived.set(undecided, lost);
    if node.readiness.is_complete() {
        tracing::info!(
            took_ms = progress.began.elapsed().as_millis() as u64,
            "all partitions are filled"
        );
    }
}

/// Merges one partition with every other home replica. Whether that was done with all of them.
///
/// One that lacks most is streamed whole from the first of them; with all of them the trees are compared
/// then, so that what they have in common crosses the network once.
async fn fill_partition(node: &Arc<Node>, partition: Partition) -> bool {
    let homes = node.layout.homes(partition, node.buckets.n_max());
    if !homes.contains(&node.me) {
        return true;
    }
    let trees = node.ns().into_iter().map(|n| Tree { partition, n });
    let trees: Vec<Tree> = trees.filter(|tree| is_home(node, node.me, *tree)).collect();
    for (place, other) in homes.iter().filter(|other| **other != node.me).enumerate() {
        let talk = Talk::new(node, *other);
        let in_common: Vec<Tree> =
            trees.iter().copied().filter(|tree| is_home(node, *other, *tree)).collect();
        if place == 0
            && had_better_stream(&talk, &in_common).await
            && !fetch_all(node, *other, Rows::Partition(partition)).await
        {
            return false;
        }
        for tree in in_common {
            if !mend_tree(&talk, tree, Asking::ToFill).await.has_all() {
                return false;
            }
        }
    }
    true
}

/// Says now and then how far the filling is.
struct Progress {
    partitions: usize,
    began: Instant,
    said_at: Mutex<Instant>,
}

impl Progress {
    fn start(partitions: usize) -> Self {
        let now = Instant::now();
        Self { partitions, began: now, said_at: Mutex::new(now) }
    }

    fn say(&self, left: usize) {
        let mut said_at = self.said_at.lock().unwrap_or_else(PoisonError::into_inner);
        if said_at.elapsed() >= SAY_EVERY {
            *said_at = Instant::now();
            tracing::info!(left, of = self.partitions, "filling partitions");
        }
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
    if let Err(error) = chores::run(node, done).await {
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

/// Merges what another node holds, page by page: the next one travels while one is merged. Returns
/// whether all of it came and is kept.
async fn fetch_all(node: &Arc<Node>, from: NodeId, rows: Rows) -> bool {
    let Some(mut page) = fetch_page(node, from, rows, None).await else { return false };
    while let Some(last) = page.last.take() {
        let next = fetch_page(node, from, rows, Some(last));
        let (is_merged, next) = tokio::join!(merge_page(node, page.read_at, page.rows), next);
        match next {
            Some(next) if is_merged => page = next,
            Some(_) | None => return false,
        }
    }
    node.store.durable().await.is_ok()
}

/// Rows of which this node is a home replica, and the last key of the page, `None` if it is the end.
struct Page {
    /// Since when they may have been as they are.
    read_at: Millis,
    rows: Vec<(Place, Key, Bytes)>,
    last: Option<Key>,
}

async fn fetch_page(
    node: &Arc<Node>,
    from: NodeId,
    rows: Rows,
    after: Option<Key>,
) -> Option<Page> {
    let timeout = Duration::from_millis(node.config.timeouts.request_ms);
    let read_at = node.now();
    let heard = node.peers.ask(from, Message::Fetch { rows, after }, timeout).await;
    let reply = heard.into_reply()?;
    let Reply::Rows { rows, end } = reply.head else { return None };
    let mut rows = packed::unpack(rows, reply.payload)?;
    let last = rows.last().filter(|_| !end).map(|(key, _)| key.clone());
    rows.retain(|(key, _)| is_home(node, node.me, node.tree(key)));
    let rows = rows.into_iter().map(|(key, object)| (node.home(&key), key, object)).collect();
    Some(Page { read_at, rows, last })
}

/// Merges a page when there is time for it. Whether all of it was: what has waited too long, until a reaped
/// key could come back with it, is not.
async fn merge_page(node: &Arc<Node>, read_at: Millis, mut rows: Vec<(Place, Key, Bytes)>) -> bool {
    while !rows.is_empty() {
        // One batch a turn, a fraction of a millisecond: whoever needs the processor waits until it is over.
        let rest = rows.split_off(MERGE_BATCH_ROWS.min(rows.len()));
        let some = std::mem::replace(&mut rows, rest);
        let merge = move |node: &Node| {
            let now = node.now();
            if reap::is_stale(read_at, now, node.config.deletes.grace_ms) {
                return Ok(false);
            }
            node.store.merge_page(some, now).map(|_| true)
        };
        match chores::run_paced(node, &node.fill_pace, merge).await {
            Ok(true) => {}
            Ok(false) => {
                tracing::warn!("rows that were fetched had waited too long to be merged");
                return false;
            }
            Err(error) => {
                tracing::warn!(%error, "could not merge a page of rows");
                return false;
            }
        }
    }
    true
}
