//! Rows of which this node is no home replica: it was one until n was lowered, or the row came from
//! a node that did not know that yet, or in a hint that was delivered late.
//!
//! Such rows are searched for continuously, by their keys alone and at a low rate, and faster for a
//! while after n has changed. They are offered to all home replicas, many rows at a time: first
//! these report which versions they have, then each gets what it lacks. A row that all of them hold
//! is dropped (`protocol::reassign` says when). Rows of which a home replica is down are left for the
//! next round.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::time::Duration;

use bytes::Bytes;
use futures_util::future::join_all;
use quorate_protocol::message::{Data, DataReply, Message, Repair, RepairReply, Reply};
use quorate_protocol::name::{Key, NodeId};
use quorate_protocol::put::Role;
use quorate_protocol::reassign::HandOver;
use quorate_protocol::row::Row;
use quorate_protocol::time::WallTime;
use quorate_storage::{Blocking, Error, KeyCursor};
use tokio::time::MissedTickBehavior;

use crate::background::jobs::{JobState, Pause};
use crate::background::work;
use crate::cluster::view::ClusterView;
use crate::node::Node;
use crate::repair::orphans;

/// How often some keys are checked.
const LOOK_EVERY: Duration = Duration::from_millis(500);
/// Keys that are checked together: some milliseconds of work.
const STEP_KEYS_MAX: usize = 2048;
/// Rows that are handed over together, and the bytes of them in flight at a time (a single larger
/// row still goes).
const HAND_OVER_ROWS_MAX: usize = 512;
const HAND_OVER_BYTES_MAX: usize = 1 << 20;

/// A key and the state of its handover.
type Going = (Key, HandOver);

/// Returns rows to their owners for as long as the node runs.
pub async fn run(node: Arc<Node>, job: Arc<JobState>) {
    let mut ticks = tokio::time::interval(LOOK_EVERY);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut walk = Walk::default();
    loop {
        ticks.tick().await;
        if !node.takes_part() {
            job.pauses(Pause::NotAdmitted);
            continue;
        }
        let _working = job.works();
        orphans::adopt(&node).await;
        while walk.step(&node, &job).await {}
    }
}

/// The repeated scan over the keys of all home rows.
#[derive(Default)]
struct Walk {
    from: KeyCursor,
    /// Unowned rows that could not be dropped in this round.
    left: u64,
    /// Hash of the n of all buckets, and the number of the epoch, that the scan last saw.
    seen: (u64, u64),
    /// The epoch in which this round began.
    began_in: u64,
    /// Rounds to run without pauses after n changed: the current one, begun before the change, and
    /// a full one.
    hurries: u8,
}

impl Walk {
    /// Checks some keys, and returns those that are not this node's to their owners. The result
    /// says whether to continue at once.
    async fn step(&mut self, node: &Arc<Node>, job: &JobState) -> bool {
        let seen = (node.buckets.assignment().ns().hash(), node.epoch().number);
        if seen != self.seen {
            (self.seen, self.hurries) = (seen, 2);
        }
        if self.from == KeyCursor::default() {
            self.began_in = seen.1;
        }
        let from = self.from.clone();
        let step = move |node: &Node| unowned_keys(node, &from);
        let (unowned, next) =
            match work::run_throttled(node, &node.anti_entropy.throttle, step).await {
                Ok(found) => found,
                Err(error) => {
                    job.failed(&error);
                    tracing::warn!(%error, "could not scan for unowned rows");
                    return false;
                }
            };
        let found = unowned.len() as u64;
        let dropped = if found > 0 { bring_home(node, unowned).await } else { 0 };
        self.left += found - dropped;
        let is_end = next.is_none();
        self.from = next.unwrap_or_default();
        if is_end {
            node.swept.unowned.store(self.left, Relaxed);
            node.swept.looked_in.store(self.began_in, Relaxed);
            node.swept.looks.fetch_add(1, Relaxed);
            self.left = 0;
            self.hurries = self.hurries.saturating_sub(1);
        }
        // A round that left rows is not repeated at once.
        !is_end && (self.hurries > 0 || dropped > 0)
    }
}

/// Keys of rows here that this node does not own, and where to continue. Blocks.
fn unowned_keys(node: &Node, from: &KeyCursor) -> Result<(Vec<Key>, Option<KeyCursor>), Error> {
    let (mut keys, next) = node.store.home_keys(None, from, STEP_KEYS_MAX)?;
    let view = node.view();
    keys.retain(|key| !view.homes(key).contains(&node.me));
    Ok((keys, next))
}

/// Hands rows over to their home replicas and drops them. Returns how many were dropped.
async fn bring_home(node: &Arc<Node>, keys: Vec<Key>) -> u64 {
    let mut dropped = 0;
    for some in keys.chunks(HAND_OVER_ROWS_MAX) {
        let some = some.to_vec();
        // Taken before anything is read: see `protocol::reap`.
        let read_at = node.now();
        let begin = move |node: &Node| {
            let view = node.view();
            Ok(some.into_iter().filter_map(|key| begin(node, &view, key)).collect())
        };
        let begun: Result<Vec<Going>, Error> = work::run(node, begin).await;
        let Ok(mut rows) = begun else { continue };
        ask_versions(node, &mut rows).await;
        send_rows(node, &mut rows, read_at).await;
        dropped += drop_rows(node, rows).await;
    }
    dropped
}

/// Starts the handover of a row in its current version; `None` if it is not possible now. Blocks.
fn begin(node: &Node, view: &ClusterView, key: Key) -> Option<Going> {
    let version = match node.store.versions(&[(view.home(&key), key.clone())]) {
        Ok(versions) => *versions.first()?,
        Err(error) => {
            tracing::error!(%error, "an unowned row cannot be read and is kept");
            return None;
        }
    };
    let row = HandOver::start(version, &view.living_homes_of(view.tree(&key)), node.me)?;
    let down = node.peers.down();
    row.waiting().is_disjoint(&down).then_some((key, row))
}

/// Asks each home replica which of the rows it already holds.
async fn ask_versions(node: &Arc<Node>, rows: &mut [Going]) {
    let homes: BTreeSet<NodeId> = rows.iter().flat_map(|(_, row)| row.waiting()).copied().collect();
    let asking = homes.into_iter().map(|home| {
        let is_waiting = |(_, (_, row)): &(usize, &Going)| row.waiting().contains(&home);
        let asked: Vec<usize> =
            rows.iter().enumerate().filter(is_waiting).map(|(place, _)| place).collect();
        let keys = asked.iter().filter_map(|place| rows.get(*place)).map(|(key, _)| key.clone());
        let question = Message::Repair(Repair::Versions { keys: keys.collect() });
        async move {
            let heard = node.peers.ask_aside(home, question, Bytes::new(), patience(node)).await;
            (home, asked, heard.into_reply().map(|reply| reply.head))
        }
    });
    for (home, asked, reply) in join_all(asking.collect::<Vec<_>>()).await {
        let Some(Reply::Repair(RepairReply::Versions { versions })) = reply else { continue };
        if versions.len() != asked.len() {
            continue;
        }
        for (place, version) in asked.into_iter().zip(versions) {
            if let Some((_, row)) = rows.get_mut(place) {
                row.on_version(home, version);
            }
        }
    }
}

/// Sends the rows to those home replicas that have not reported to hold them, as many at a time as
/// memory allows.
async fn send_rows(node: &Arc<Node>, rows: &mut [Going], read_at: WallTime) {
    let mut batch: Vec<(&mut Going, Bytes)> = Vec::new();
    let mut bytes = 0;
    for going in rows.iter_mut().filter(|(_, row)| !row.is_held()) {
        let (key, version) = (going.0.clone(), going.1.version());
        let read = move |node: &Node| {
            let row = node.store.read(node.view().home(&key), &key, Blocking::Allowed)?;
            // A row that has changed is left for the next round.
            let row = row.filter(|row| Row::encoded_version(row) == Some(version));
            Ok(row.and_then(|row| Row::encoded_object(&row)))
        };
        let Ok(Some(object)) = work::run_throttled(node, &node.anti_entropy.throttle, read).await
        else {
            continue;
        };
        bytes += object.len();
        batch.push((going, object));
        if bytes >= HAND_OVER_BYTES_MAX {
            send_batch(node, std::mem::take(&mut batch), read_at).await;
            bytes = 0;
        }
    }
    send_batch(node, batch, read_at).await;
}

async fn send_batch(node: &Arc<Node>, batch: Vec<(&mut Going, Bytes)>, read_at: WallTime) {
    let sending = batch.into_iter().map(|((key, row), object)| async move {
        let stores = row.waiting().iter().map(|home| {
            let message = Message::Data(Data::Store { key: key.clone(), role: Role::Home, read_at });
            let (home, object) = (*home, object.clone());
            async move {
                let heard = node.peers.ask_aside(home, message, object, patience(node)).await;
                (home, heard.into_reply().map(|reply| reply.head))
            }
        });
        for (home, reply) in join_all(stores.collect::<Vec<_>>()).await {
            match reply {
                Some(Reply::Data(DataReply::Stored)) => row.on_stored(home),
                Some(Reply::Refused(why)) => {
                    tracing::warn!(?key, %home, %why, "a home replica refuses an unowned row; it is kept");
                }
                Some(_) | None => {}
            }
        }
    });
    join_all(sending).await;
}

/// Drops the rows that all living home replicas hold. Returns how many.
async fn drop_rows(node: &Arc<Node>, rows: Vec<Going>) -> u64 {
    let held: Vec<Going> = rows.into_iter().filter(|(_, row)| row.is_held()).collect();
    let drop_held = move |node: &Node| {
        let mut dropped = 0;
        for (key, row) in &held {
            // n may have changed since the handover began, so that this node owns the row again:
            // judged by a view that is taken while no writer can change the row.
            let may_drop = || {
                let view = node.view();
                let homes = view.living_homes_of(view.tree(key));
                let may_drop = row.may_drop(row.version(), &homes, node.me);
                if may_drop {
                    // Recorded before the drop: every confirmation of a tombstone from now on
                    // accounts for it.
                    node.last_drop.record(node.partition(key), node.uptime());
                }
                may_drop
            };
            match node.store.drop_row_if(node.view().home(key), key, row.version(), may_drop) {
                Ok(is_dropped) => dropped += u64::from(is_dropped),
                Err(error) => tracing::warn!(%error, "could not drop an unowned row"),
            }
        }
        dropped
    };
    let dropping =
        move |node: &Node| Ok(node.backups.hold.unless_held(|| drop_held(node)).unwrap_or(0));
    let dropped =
        work::run_throttled(node, &node.anti_entropy.throttle, dropping).await.unwrap_or(0);
    node.swept.dropped.fetch_add(dropped, Relaxed);
    dropped
}

fn patience(node: &Node) -> Duration {
    Duration::from_millis(node.config.timeouts.request_ms)
}
