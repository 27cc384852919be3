//! Walks over all rows, slowly, to keep what follows from bucket properties and from the disk true:
//!
//! * rows are counted in the Merkle tree of their bucket's n (after n was changed);
//! * rows that this node no longer owns (n was lowered) are dropped, once every home replica has
//!   confirmed the very version, or was brought it;
//! * the trees say what the rows say (the *scrub*): differences are counted and mended.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::{Duration, Instant};

use bytes::Bytes;
use quorate_protocol::layout::Partition;
use quorate_protocol::message::{Message, Reply};
use quorate_protocol::name::{Key, NodeId};
use quorate_protocol::object::Version;
use quorate_protocol::put::Role;
use quorate_protocol::row::Row;
use quorate_storage::Error;
use tokio::time::MissedTickBehavior;

use crate::chores;
use crate::node::Node;
use crate::replica::read_row;

/// How often a node looks whether bucket properties changed.
const LOOK_EVERY: Duration = Duration::from_millis(500);
/// Rows that are looked at together, and the most that one step leaves to be dropped.
const STEP_ROWS_MAX: usize = 512;
/// How long one step goes on.
const STEP_TIME: Duration = Duration::from_millis(20);
/// The hash of all buckets' n by which all rows were swept.
const SWEPT_RECORD: &str = "swept";

/// What sweeping and scrubbing found since the start.
#[derive(Debug, Default)]
pub struct Swept {
    /// The hash of all buckets' n by which every row is in the right tree.
    pub trees_fit: AtomicU64,
    /// Rows moved to another tree.
    pub moved: AtomicU64,
    /// Rows dropped because this node no longer owned them.
    pub dropped: AtomicU64,
    /// Partitions scrubbed.
    pub scrubbed: AtomicU64,
    /// Leaves that did not say what their rows said.
    pub wrong_leaves: AtomicU64,
    /// When the last scrub of all partitions ended, by the node's uptime; 0 if none did.
    pub scrubbed_at_ms: AtomicU64,
}

/// Sweeps whenever bucket properties have changed, for as long as the node runs.
pub async fn run(node: Arc<Node>) {
    let recorded = node.store.meta(SWEPT_RECORD).ok().flatten();
    let recorded = recorded.and_then(|bytes| bytes[..].try_into().ok()).map(u64::from_le_bytes);
    let mut done_for: Option<u64> = recorded;
    node.swept.trees_fit.store(done_for.unwrap_or_default(), Relaxed);
    let mut ticks = tokio::time::interval(LOOK_EVERY);
    loop {
        ticks.tick().await;
        let hash = node.n_hash();
        if done_for == Some(hash) || !node.takes_part() {
            continue;
        }
        let Some(all_dropped) = sweep_all(&node).await else { continue };
        node.swept.trees_fit.store(hash, Relaxed);
        if !all_dropped {
            continue; // tried again soon
        }
        let record = move |node: &Node| node.store.put_meta(SWEPT_RECORD, &hash.to_le_bytes());
        match chores::run(&node, record).await {
            Ok(()) => done_for = Some(hash),
            Err(error) => tracing::warn!(%error, "could not record that all rows were swept"),
        }
    }
}

/// Moves every row to its tree, and drops those that are not this node's. Whether all of these are
/// dropped; `None` if not every row could be looked at.
async fn sweep_all(node: &Arc<Node>) -> Option<bool> {
    let mut all_dropped = true;
    let mut from = Some((Partition(0), None));
    while let Some((partition, after)) = from {
        let sweep = move |node: &Node| sweep_some(node, partition, after);
        let step = match chores::run_paced(node, &node.anti_entropy.pace, sweep).await {
            Ok(step) => step,
            Err(error) => {
                tracing::warn!(%error, "could not sweep");
                return None;
            }
        };
        node.swept.moved.fetch_add(step.moved as u64, Relaxed);
        all_dropped &= drop_unowned(node, step.unowned).await;
        from = step.next;
    }
    Some(all_dropped)
}

/// A step over as many partitions as it takes to look at some rows.
struct Step {
    moved: usize,
    unowned: Vec<(Key, Version)>,
    /// Where to go on; `None` at the end.
    next: Option<(Partition, Option<Key>)>,
}

/// Looks at rows for a while. Blocks.
fn sweep_some(
    node: &Node,
    mut partition: Partition,
    mut after: Option<Key>,
) -> Result<Step, Error> {
    let began = Instant::now();
    let mut step = Step { moved: 0, unowned: Vec::new(), next: None };
    while u32::from(partition.0) < node.layout.partitions() {
        if began.elapsed() >= STEP_TIME || step.unowned.len() >= STEP_ROWS_MAX {
            step.next = Some((partition, after));
            break;
        }
        let n_of = |bucket: &str| n_if_home(node, partition, bucket);
        let swept = node.store.sweep(partition, after.as_ref(), STEP_ROWS_MAX, n_of)?;
        step.moved += swept.moved;
        step.unowned.extend(swept.unowned);
        after = swept.last;
        if after.is_none() {
            partition.0 += 1;
        }
    }
    Ok(step)
}

/// The n of a bucket, if this node is a home replica of its keys in this partition.
fn n_if_home(node: &Node, partition: Partition, bucket: &str) -> Option<u16> {
    let n = node.buckets.properties(bucket).n;
    node.layout.homes(partition, n).contains(&node.me).then_some(n)
}

/// Drops rows that this node no longer owns, once all home replicas hold them. Whether none is left.
async fn drop_unowned(node: &Arc<Node>, rows: Vec<(Key, Version)>) -> bool {
    let mut all_dropped = true;
    for (key, version) in rows {
        if !hand_over(node, &key, version).await {
            all_dropped = false;
            continue;
        }
        // First: whoever confirms a tombstone from now on knows of this drop.
        node.quiet.disturb(node.partition(&key), node.uptime());
        let drop_row = move |node: &Node| node.store.drop_row(node.home(&key), &key, version);
        match chores::run(node, drop_row).await {
            Ok(true) => drop(node.swept.dropped.fetch_add(1, Relaxed)),
            Ok(false) | Err(_) => all_dropped = false,
        }
    }
    all_dropped
}

/// Brings a row, if it still has this version, to its home replicas. Whether all of them said that they
/// hold it, durably.
async fn hand_over(node: &Arc<Node>, key: &Key, version: Version) -> bool {
    let read_at = node.now();
    let Ok(Some(row)) = read_row(node, node.home(key), key).await else { return false };
    let Some(object) = Row::encoded_object(&row) else { return false };
    if Row::encoded_version(&row) != Some(version) {
        return false;
    }
    let homes = node.layout.homes(node.partition(key), node.properties(key).n).to_vec();
    for home in homes {
        let message = Message::Store { key: key.clone(), role: Role::Home, read_at };
        if !is_stored(node, home, message, &object).await {
            return false;
        }
    }
    true
}

async fn is_stored(node: &Arc<Node>, home: NodeId, message: Message, object: &Bytes) -> bool {
    let timeout = Duration::from_millis(node.config.timeouts.request_ms);
    let heard = node.peers.ask_aside(home, message, object.clone(), timeout).await;
    heard.into_reply().is_some_and(|reply| reply.head == Reply::Stored)
}

/// Compares the trees with the rows, one partition after the other, spread over the interval.
pub async fn scrub(node: Arc<Node>) {
    let scrub_ms = node.config.anti_entropy.scrub_ms;
    if scrub_ms == 0 {
        return;
    }
    let partitions = u64::from(node.layout.partitions());
    let mut ticks = tokio::time::interval(Duration::from_millis((scrub_ms / partitions).max(1)));
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    for number in 0u64.. {
        ticks.tick().await;
        let partition = Partition((number % partitions) as u16);
        scrub_partition(&node, partition).await;
        if number % partitions == partitions - 1 {
            node.swept.scrubbed_at_ms.store(node.uptime().0, Relaxed);
        }
    }
}

/// Recomputes the trees of one partition. How many leaves were wrong.
pub async fn scrub_partition(node: &Arc<Node>, partition: Partition) -> u64 {
    let scrub = move |node: &Node| node.store.scrub(partition);
    let wrong = match chores::run_paced(node, &node.anti_entropy.pace, scrub).await {
        Ok(scrubbed) => scrubbed.differing_leaves + scrubbed.differing_entries,
        Err(error) => {
            tracing::warn!(%error, partition = partition.0, "could not scrub");
            return 0;
        }
    };
    node.swept.scrubbed.fetch_add(1, Relaxed);
    node.swept.wrong_leaves.fetch_add(wrong, Relaxed);
    if wrong > 0 {
        tracing::error!(partition = partition.0, wrong, "mended leaves and index entries");
        node.anti_entropy.mark_dirty(partition);
    }
    wrong
}
