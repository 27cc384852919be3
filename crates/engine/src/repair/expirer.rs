//! Removes values that have expired.
//!
//! No read shows an expired value, wherever it is. To free its space the first home replica that is up
//! writes a tombstone that covers exactly what has expired ([`Draft::removes_expired`]), like any other
//! write; the reaper deletes that in its time. No node ever drops a row because of its own clock: an older
//! copy, or a value that this one replaced, would come back.
//!
//! A value is removed once it has expired for longer than two clocks may differ, so that a node whose
//! clock is behind does not still show what another one has removed.

use std::sync::Arc;
use std::time::Duration;

use futures_util::stream::{self, StreamExt};
use quorate_protocol::layout::Partition;
use quorate_protocol::message::{Write, WriteAnswer};
use quorate_protocol::mutation::{Mutation, mutated};
use quorate_protocol::name::{Key, NodeId};
use quorate_protocol::object::WriteId;
use quorate_protocol::row::{Draft, Row};
use quorate_protocol::terms::QuorumOptions;
use quorate_protocol::time::WallTime;
use quorate_protocol::tree::Tree;
use quorate_storage::{Blocking, Error};

use crate::background::jobs::{JobState, Pause};
use crate::background::work;
use crate::cluster::view::ClusterView;
use crate::node::Node;
use crate::ops::coordinator;
use crate::ops::recorder::Recorder;

/// The most keys that are looked at before others have a turn.
const PAGE_KEYS: usize = 256;
/// How many are removed at a time.
const REMOVALS_AT_ONCE: usize = 16;
/// About the processor time of a removal on all nodes, which the throttle is charged.
const REMOVAL_COST: Duration = Duration::from_micros(150);

/// A key, and when the first of its values expired.
type Due = (WallTime, Key);

/// Removes what has expired for as long as the node runs.
pub async fn run(node: Arc<Node>, job: Arc<JobState>) {
    let mut ticks = tokio::time::interval(Duration::from_millis(node.config.deletes.expire_ms));
    ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    loop {
        ticks.tick().await;
        if !node.takes_part() {
            job.pauses(Pause::NotAdmitted);
            continue;
        }
        let _working = job.works();
        match remove_all(&node).await {
            Ok(left) => node.metrics.repair.expired_left.set(left),
            Err(error) => {
                job.failed(&error);
                tracing::warn!(%error, "could not look for what has expired");
            }
        }
    }
}

/// Goes over all partitions once. Returns how many keys could not be removed.
async fn remove_all(node: &Arc<Node>) -> Result<u64, Error> {
    let (mut left, mut from) = (0, Some((Partition(0), None)));
    while let Some(begin) = from {
        let view = node.view();
        let (page, next) = find(node, &view, begin).await?;
        let looked_at = page.len();
        let removed = stream::iter(page)
            .map(|(partition, due)| remove(node, &view, partition, due))
            .buffer_unordered(REMOVALS_AT_ONCE)
            .fold(0, async |sum, removed: bool| sum + usize::from(removed))
            .await;
        node.metrics.repair.expired.add(removed as u64);
        node.anti_entropy.throttle.charge(REMOVAL_COST * removed as u32);
        left += (looked_at - removed) as u64;
        from = next;
    }
    Ok(left)
}

/// Where the search goes on: in this partition, after this key.
type From = (Partition, Option<Due>);

/// Finds keys for this node to remove, and where to go on; `None` at the end.
async fn find(
    node: &Arc<Node>,
    view: &ClusterView,
    (first, mut after): From,
) -> Result<(Vec<(Partition, Due)>, Option<From>), Error> {
    let view = view.clone();
    let search = move |node: &Node| {
        let (due, n) = (due(node), view.n_max());
        let mut found = Vec::new();
        for partition in view.partitions().filter(|partition| *partition >= first) {
            let after = after.take();
            if !is_mine(node, &view.homes_of(Tree { partition, n })) {
                continue;
            }
            let room = PAGE_KEYS - found.len();
            let page = node.store.expired(partition, after.as_ref(), room, due)?;
            let next = (page.len() == room).then(|| (partition, page.last().cloned()));
            found.extend(page.into_iter().map(|due| (partition, due)));
            if next.is_some() {
                return Ok((found, next));
            }
        }
        Ok((found, None))
    };
    work::run_throttled(node, &node.anti_entropy.throttle, search).await
}

/// What expired up to then is removed.
fn due(node: &Node) -> WallTime {
    WallTime(node.now().0.saturating_sub(node.config.deletes.expired_age_ms))
}

/// Whether this node is the first one that is up.
fn is_mine(node: &Node, homes: &[NodeId]) -> bool {
    let down = node.peers.down();
    homes.iter().find(|home| !down.contains(home)) == Some(&node.me)
}

/// Returns whether nothing that has expired is left of a key, here and for other nodes to remove.
async fn remove(node: &Arc<Node>, view: &ClusterView, partition: Partition, due_key: Due) -> bool {
    let key = due_key.1.clone();
    if !is_mine(node, &view.homes(&key)) {
        return true; // that of a bucket with a lower n
    }
    if mutated(Mutation::ExpiredDropped) {
        return drop_here(node, view, &key).is_ok();
    }
    let mut answer = None;
    let tell = |outcome: coordinator::WriteOutcome, _: &mut Recorder| answer = Some(outcome.answer);
    let write = removal(node, key);
    coordinator::mint(node, (view.clone(), None), write, &mut Recorder::off(), tell).await;
    match answer {
        Some(WriteAnswer::Written(_)) => true,
        // Another write has replaced it meanwhile, or it was never there.
        Some(WriteAnswer::ConditionFailed) => {
            let dropped = work::run(node, move |node| {
                node.store.drop_stray_expiry(partition, &due_key).map(drop)
            });
            dropped.await.is_ok()
        }
        Some(_) | None => false,
    }
}

fn removal(node: &Node, key: Key) -> Write {
    Write {
        key,
        draft: Draft {
            write_id: WriteId(node.host.chance.draw_bytes()),
            removes_expired: Some(due(node)),
            ..Draft::default()
        },
        has_value: false,
        asked: QuorumOptions::default(),
        condition: None,
        delete_seen: false,
        idempotency: None,
        timeout_ms: u32::try_from(node.config.timeouts.request_ms).unwrap_or(u32::MAX),
        return_body: false,
        explain: None,
    }
}

/// A deliberate bug: see [`Mutation::ExpiredDropped`].
fn drop_here(node: &Node, view: &ClusterView, key: &Key) -> Result<(), Error> {
    let row = node.store.read(view.home(key), key, Blocking::Allowed)?;
    let decoded = row.and_then(|row| Row::decode(row).ok());
    if let Some(row) = decoded
        && row.object.siblings.iter().all(|sibling| sibling.is_over(due(node)))
    {
        node.store.drop_row(view.home(key), key, row.object.version())?;
    }
    Ok(())
}
