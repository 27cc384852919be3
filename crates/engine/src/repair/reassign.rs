//! Slow scans over all rows, which keep derived state consistent with bucket properties and the
//! disk:
//!
//! * rows are counted in the Merkle tree of their bucket's n (after n was changed);
//! * rows that this node does not own are returned to their owners (`crate::repair::unowned`);
//! * trees match the rows (the *scrub*): differences are counted and repaired.
//!
//! Nothing else waits for these scans: trees are compared and partitions are filled at the same
//! time, and `protocol::reassign` says what rows in the wrong tree mean for that.

use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::time::Duration;

use quorate_protocol::layout::Partition;
use quorate_protocol::name::{Bucket, Key};
use quorate_protocol::reassign::{Pass, Rows};
use quorate_storage::{Error, KeyCursor, ScrubFrom, Scrubbed};
use tokio::time::Instant;
use tokio::time::MissedTickBehavior;

use crate::background::jobs::JobState;
use crate::background::work;
use crate::cluster::view::ClusterView;
use crate::node::Node;

/// How often a node checks whether bucket properties changed.
const LOOK_EVERY: Duration = Duration::from_millis(500);
/// How long a node waits before it retries to move rows.
const RETRY_AFTER: Duration = Duration::from_secs(5);
/// Rows that are processed together.
const STEP_ROWS_MAX: usize = 512;
/// The longest time that one step runs before other background work gets a turn.
const STEP_TIME: Duration = Duration::from_millis(20);

/// Moves rows to their trees whenever the n of buckets has changed, for as long as the node runs.
pub async fn run(node: Arc<Node>, job: Arc<JobState>) {
    let node = &node;
    let mut ticks = tokio::time::interval(LOOK_EVERY);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        ticks.tick().await;
        while let Ok(Some(pass)) = work::run(node, |node| Ok(node.buckets.pass(&node.store))).await
        {
            let working = job.works();
            let carried_out = carry_out(node, pass, &job).await;
            if let Err(error) = &carried_out {
                job.failed(error);
            }
            drop(working);
            if let Err(error) = carried_out {
                tracing::warn!(%error, "could not move all rows to their trees; retrying soon");
                tokio::time::sleep(RETRY_AFTER).await;
                break;
            }
        }
    }
}

/// One pass, from its start to its record.
async fn carry_out(node: &Arc<Node>, pass: Pass, job: &JobState) -> Result<(), Error> {
    // Whatever changes after this is the next pass's.
    let view = node.view();
    match &pass.rows {
        Rows::All => move_all(node, &view, job).await?,
        Rows::Of(bucket) => move_bucket(node, &view, bucket).await?,
    }
    work::run(node, move |node| node.buckets.passed(&node.store, &pass)).await
}

/// Where a scan over all rows continues.
type At = (Partition, Option<Key>);

async fn move_all(node: &Arc<Node>, view: &ClusterView, job: &JobState) -> Result<(), Error> {
    let mut from = Some((Partition(0), None));
    let of = u64::from(node.view().placement().partitions());
    while let Some(at) = from {
        job.progress(u64::from(at.0.0), of);
        let view = view.clone();
        let step = move |node: &Node| move_some(node, &view, at);
        from = work::run_throttled(node, &node.anti_entropy.throttle, step).await?;
    }
    job.progress(of, of);
    Ok(())
}

/// Moves rows for one step. Returns where to continue, `None` at the end. Blocks.
fn move_some(
    node: &Node,
    view: &ClusterView,
    (mut partition, mut after): At,
) -> Result<Option<At>, Error> {
    let began = Instant::now();
    while u32::from(partition.0) < view.placement().partitions() {
        if began.elapsed() >= STEP_TIME {
            return Ok(Some((partition, after)));
        }
        let n_of = |bucket: &str| Some(view.n(bucket));
        let swept = node.store.reassign(partition, after.as_ref(), STEP_ROWS_MAX, n_of)?;
        node.swept.moved.fetch_add(swept.moved as u64, Relaxed);
        after = swept.last;
        if after.is_none() {
            partition.0 += 1;
        }
    }
    Ok(None)
}

async fn move_bucket(node: &Arc<Node>, view: &ClusterView, bucket: &Bucket) -> Result<(), Error> {
    let mut from = Some(KeyCursor::default());
    while let Some(at) = from {
        let (view, bucket) = (view.clone(), bucket.clone());
        let step = move |node: &Node| move_some_of(node, &view, &bucket, at);
        from = work::run_throttled(node, &node.anti_entropy.throttle, step).await?;
    }
    Ok(())
}

/// Moves rows of one bucket for one step. Returns where to continue, `None` at the end. Blocks.
fn move_some_of(
    node: &Node,
    view: &ClusterView,
    bucket: &Bucket,
    mut from: KeyCursor,
) -> Result<Option<KeyCursor>, Error> {
    let began = Instant::now();
    while began.elapsed() < STEP_TIME {
        // Few at a time: each row is read.
        let rows_max = STEP_ROWS_MAX / 16;
        let (keys, next) = node.store.home_keys(Some(bucket.as_str()), &from, rows_max)?;
        for key in keys {
            match node.store.move_to_tree(&key, view.tree(&key)) {
                Ok(moved) => drop(node.swept.moved.fetch_add(moved.into(), Relaxed)),
                Err(error) if error.is_undecodable() => {
                    tracing::error!(%error, "a row that cannot be read was not moved");
                }
                Err(error) => return Err(error),
            }
        }
        let Some(next) = next else { return Ok(None) };
        from = next;
    }
    Ok(Some(from))
}

/// Compares the trees with the rows, one partition after another, spread over the interval.
pub async fn scrub(node: Arc<Node>, job: Arc<JobState>) {
    let scrub_ms = node.config.anti_entropy.scrub_ms;
    if scrub_ms == 0 {
        return;
    }
    let partitions = u64::from(node.view().placement().partitions());
    let mut ticks = tokio::time::interval(Duration::from_millis((scrub_ms / partitions).max(1)));
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    for number in 0u64.. {
        ticks.tick().await;
        let partition = Partition((number % partitions) as u16);
        let _working = job.works();
        scrub_partition(&node, partition).await;
        job.progress(number % partitions + 1, partitions);
        if number % partitions == partitions - 1 {
            scrub_indexes(&node).await;
            node.swept.scrubbed_at_ms.store(node.uptime().0, Relaxed);
        }
    }
}

/// Looks for entries of secondary indexes that no row has. Returns how many there were.
pub async fn scrub_indexes(node: &Arc<Node>) -> u64 {
    let (mut found, mut from) = (0, None);
    loop {
        let piece = move |node: &Node| {
            let began = Instant::now();
            node.store.scrub_index_some(from, || began.elapsed() >= STEP_TIME)
        };
        match work::run_throttled(node, &node.anti_entropy.throttle, piece).await {
            Ok((some, next)) => {
                found += some;
                from = next;
            }
            Err(error) => {
                tracing::warn!(%error, "could not scrub the secondary indexes");
                from = None;
            }
        }
        if from.is_none() {
            node.swept.wrong_leaves.fetch_add(found, Relaxed);
            return found;
        }
    }
}

/// Recomputes the trees of one partition, a few leaves at a time, taking turns with other repair.
/// Returns how much was wrong.
pub async fn scrub_partition(node: &Arc<Node>, partition: Partition) -> u64 {
    let (mut found, mut from) = (Scrubbed::default(), Some(ScrubFrom::Leaf(0)));
    while let Some(at) = from {
        let piece = move |node: &Node| {
            let began = Instant::now();
            node.store.scrub_some(partition, at, || began.elapsed() >= STEP_TIME)
        };
        match work::run_throttled(node, &node.anti_entropy.throttle, piece).await {
            Ok((some, next)) => {
                found.add(some);
                from = next;
            }
            Err(error) => {
                tracing::warn!(%error, partition = partition.0, "could not scrub");
                return found.repaired();
            }
        }
    }
    // Rows may just be moving to another tree.
    node.swept.moved.fetch_add(found.moved_rows, Relaxed);
    let wrong = found.repaired() - found.moved_rows;
    node.swept.scrubbed.fetch_add(1, Relaxed);
    node.swept.wrong_leaves.fetch_add(wrong, Relaxed);
    if wrong > 0 {
        tracing::error!(partition = partition.0, wrong, "repaired wrong leaves and index entries");
        node.anti_entropy.mark_dirty(partition);
    }
    wrong
}
