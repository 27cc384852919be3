//! Hinted handoff: delivers hints to their home replica when it is back.
//!
//! Hints are merged state keyed by (target, key). A pass goes over all hints for one target in
//! pages: before each, the target says how many it accepts. A hint is deleted only when the target
//! has acknowledged it, and only if its version is still the one that was sent; anything not
//! acknowledged is retried by the next pass. Hints that cannot be delivered do not hold up the
//! others. Source: DeCandia et al. (SOSP 2007), section 4.6.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use quorate_protocol::message::{Message, Repair, RepairReply, Reply};
use quorate_protocol::mutation::{Mutation, mutated};
use quorate_protocol::name::{Key, NodeId};
use quorate_protocol::object::Version;
use quorate_protocol::packed;
use quorate_protocol::row::Row;
use quorate_protocol::time::WallTime;
use tokio::time::{Instant, MissedTickBehavior};

use crate::background::jobs::{JobState, Pause};
use crate::background::throttle::Throttle;
use crate::background::work;
use crate::liveness::health::State;
use crate::node::Node;
use crate::repair::hints::ROOM_ROWS_MAX;

/// Bytes of hints in flight to one target (a single larger one still goes).
const PAGE_BYTES_MAX: usize = 64 << 10;
/// How often a node checks whether there are hints to deliver.
const LOOK_EVERY: Duration = Duration::from_millis(500);
/// The longest back-off after passes that left hints.
const RETRY_AFTER_MAX: Duration = Duration::from_secs(5);
/// How often a node checks the age of its hints.
const ALARM_EVERY: Duration = Duration::from_secs(60);
/// How many old hints have their partitions marked at a time, and the bytes that are read for it.
const ALARM_ROWS_MAX: usize = 1024;
const ALARM_BYTES_MAX: usize = 4 << 20;

/// Delivers hints to one target for as long as the node runs.
pub async fn run(node: Arc<Node>, target: NodeId, job: Arc<JobState>) {
    let mut ticks = tokio::time::interval(LOOK_EVERY);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut retry_after = LOOK_EVERY;
    let mut look_at_ages = Instant::now();
    loop {
        ticks.tick().await;
        if Instant::now() >= look_at_ages {
            look_at_ages = Instant::now() + ALARM_EVERY;
            alarm(&node, target).await;
        }
        if let Some(why) = not_now(&node, target) {
            job.pauses(why);
            retry_after = LOOK_EVERY;
            continue;
        }
        if node.backups.hold.is_held() {
            continue;
        }
        // Most looks find nothing to deliver, and are no work.
        let working = (node.store.hint_bytes() > 0).then(|| job.works());
        if working.is_none() {
            job.waits();
        }
        let mark = node.hints.last();
        let pass = deliver(&node, target, &job).await;
        drop(working);
        if pass.delivered > 0 {
            tracing::info!(%target, hints = pass.delivered, left = pass.left, "handoff");
        }
        if pass.reached_end && pass.left == 0 {
            node.hints.settle(target, mark);
            retry_after = LOOK_EVERY;
            continue;
        }
        // The target accepts nothing, or not these: back off.
        retry_after = if pass.delivered > 0 { LOOK_EVERY } else { retry_after * 2 };
        retry_after = retry_after.min(RETRY_AFTER_MAX);
        tokio::time::sleep(retry_after).await;
    }
}

/// Warns of hints that are older than they should be, and has their partitions compared.
async fn alarm(node: &Arc<Node>, target: NodeId) {
    if node.store.hint_bytes() == 0 {
        return node.hints.saw_oldest(target, None);
    }
    let (now, alarm_ms) = (node.now(), node.config.limits.hint_alarm_ms);
    let looked = work::run(node, move |node| {
        let oldest = node.store.oldest_hint(target)?;
        node.hints.saw_oldest(target, oldest);
        let Some(oldest) = oldest else { return Ok(None) };
        let age_ms = now.since(oldest);
        if age_ms < alarm_ms {
            return Ok(None);
        }
        let is_old =
            |row: &Bytes| Row::encoded_since(row).is_some_and(|since| now.since(since) >= alarm_ms);
        let hints = node.store.hints(target, None, ALARM_ROWS_MAX, ALARM_BYTES_MAX)?;
        for (key, _) in hints.iter().filter(|(_, row)| is_old(row)) {
            node.anti_entropy.mark_dirty(node.partition(key));
        }
        Ok(Some(age_ms))
    });
    match looked.await {
        Ok(Some(age_ms)) => {
            tracing::warn!(%target, age_ms, "hints have been waiting for this node for too long");
        }
        Ok(None) => {}
        Err(error) => tracing::error!(%error, %target, "could not read the age of hints"),
    }
}

/// Why nothing can be delivered now.
fn not_now(node: &Node, target: NodeId) -> Option<Pause> {
    match (node.takes_part(), is_up(node, target)) {
        (false, _) => Some(Pause::NotAdmitted),
        (true, false) => Some(Pause::PeerDown),
        (true, true) => None,
    }
}

fn is_up(node: &Node, target: NodeId) -> bool {
    node.peers.health(target).is_some_and(|health| health.state() == State::Up)
}

/// The result of one pass over the hints for a target.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Pass {
    /// Hints that were acknowledged.
    delivered: usize,
    /// Hints that were sent and not acknowledged, or cannot be sent.
    left: usize,
    /// Whether all hints were visited.
    reached_end: bool,
}

/// One pass; it ends early when the target is down or has no room.
async fn deliver(node: &Arc<Node>, target: NodeId, job: &JobState) -> Pass {
    let mut pass = Pass { reached_end: node.store.hint_bytes() == 0, ..Pass::default() };
    let mut after = None;
    while !pass.reached_end && is_up(node, target) {
        // Taken before the rows are read: see `protocol::reap`.
        let read_at = node.now();
        let from = after.clone();
        let page = work::run_throttled(node, throttle(node), move |node| {
            node.store.hints(target, from.as_ref(), ROOM_ROWS_MAX, PAGE_BYTES_MAX)
        });
        let mut rows = match page.await {
            Ok(rows) => rows,
            Err(error) => {
                job.failed(&error);
                tracing::error!(%error, %target, "could not read hints");
                return pass;
            }
        };
        if rows.is_empty() {
            pass.reached_end = true;
            return pass;
        }
        let room = ask_room(node, target).await;
        if room == 0 {
            return pass;
        }
        rows.truncate(room);
        after = rows.last().map(|(key, _)| key.clone());
        let found = rows.len();
        let delivered = deliver_page(node, target, rows, read_at).await;
        pass.delivered += delivered;
        pass.left += found - delivered;
    }
    pass
}

/// How many hints the target accepts now; 0 if it does not answer.
async fn ask_room(node: &Arc<Node>, target: NodeId) -> usize {
    let timeout = Duration::from_millis(node.config.timeouts.replica_ms);
    let heard = node.peers.ask(target, Message::Repair(Repair::Room), timeout).await;
    match heard.into_reply().map(|reply| reply.head) {
        Some(Reply::Repair(RepairReply::Room { rows })) => rows as usize,
        Some(_) | None => 0,
    }
}

/// Sends a page of hints and deletes those that were acknowledged. Returns how many were.
async fn deliver_page(
    node: &Arc<Node>,
    target: NodeId,
    rows: Vec<(Key, Bytes)>,
    read_at: WallTime,
) -> usize {
    let (mut objects, mut versions) =
        (Vec::with_capacity(rows.len()), Vec::with_capacity(rows.len()));
    for (key, row) in rows {
        let (Some(version), Some(object)) = (Row::encoded_version(&row), Row::encoded_object(&row))
        else {
            let error = Row::encoded_kind(&row).err();
            tracing::error!(?key, %target, ?error, "a hint cannot be read and is kept");
            continue;
        };
        versions.push((key.clone(), version));
        objects.push((key, object));
    }
    let (hints, payload) = packed::pack(objects);
    let timeout = Duration::from_millis(node.config.timeouts.request_ms);
    let message = Message::Repair(Repair::Deliver { hints, read_at });
    let heard = node.peers.ask_aside(target, message, payload, timeout).await;
    let refused = match heard.into_reply().map(|reply| reply.head) {
        Some(Reply::Repair(RepairReply::Delivered { refused })) => refused,
        Some(Reply::Refused(why)) => {
            tracing::warn!(%target, %why, "the target refuses hints; they are kept");
            return 0;
        }
        Some(_) | None if mutated(Mutation::HintDroppedUnacked) => Vec::new(),
        Some(_) | None => return 0,
    };
    if let Some((place, why)) = refused.first()
        && let Some((key, _)) = versions.get(usize::from(*place))
    {
        tracing::warn!(?key, %target, %why, "the target refuses hints, such as this one; they are kept");
    }
    let refused: BTreeSet<usize> = refused.iter().map(|(place, _)| usize::from(*place)).collect();
    let arrived = versions.into_iter().enumerate().filter(|(place, _)| !refused.contains(place));
    let arrived: Vec<(Key, Version)> = arrived.map(|(_, hint)| hint).collect();
    let delivered = arrived.len();
    node.metrics.repair.hints_delivered.add(delivered as u64);
    let drop_arrived = move |node: &Node| {
        // Recorded before the drop: every confirmation of a tombstone from now on accounts for it.
        for (key, _) in arrived.iter().filter(|_| !mutated(Mutation::DropUnnoted)) {
            node.last_drop.record(node.partition(key), node.uptime());
        }
        node.store.drop_hints(target, &arrived)
    };
    // What stays because a backup is being made is delivered again, which changes nothing.
    let dropped = work::run_throttled(node, throttle(node), move |node| {
        node.backups.hold.unless_held(|| drop_arrived(node)).transpose()
    });
    if let Err(error) = dropped.await {
        tracing::warn!(%error, %target, "delivered hints could not be deleted");
    }
    delivered
}

/// Handoff and anti-entropy share one budget for bringing other nodes up to date.
fn throttle(node: &Node) -> &Throttle {
    &node.anti_entropy.throttle
}
