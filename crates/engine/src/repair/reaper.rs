//! Reaps tombstones: proves that they cover every remaining copy of their keys, then deletes them
//! everywhere (`protocol::reap` defines the proof).
//!
//! Each partition's first node looks for tombstones older than the grace, asks *every* node of the
//! cluster to confirm them, and tells all to delete what all confirmed. While any node is away
//! nothing is reaped.

use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::time::Duration;

use quorate_protocol::layout::Partition;
use quorate_protocol::message::{Message, Refusal, Repair, RepairReply, Reply};
use quorate_protocol::mutation::{Mutation, mutated};
use quorate_protocol::name::{Key, NodeId};
use quorate_protocol::object::Version;
use quorate_protocol::reap::{Evidence, Facts, ROUND_MAX, Round, may_confirm};
use quorate_protocol::row::Row;
use quorate_protocol::time::WallTime;
use quorate_storage::{Blocking, Error};

use crate::background::jobs::{JobState, Pause};
use crate::background::work;
use crate::cluster::view::ClusterView;
use crate::node::Node;
use crate::ops::replica::refusal_of;

/// Reaps for as long as the node runs.
pub async fn run(node: Arc<Node>, job: Arc<JobState>) {
    let mut ticks = tokio::time::interval(Duration::from_millis(node.config.deletes.reap_ms));
    ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    loop {
        ticks.tick().await;
        if let Some(why) = not_now(&node) {
            job.pauses(why);
            continue;
        }
        let _working = job.works();
        let view = node.view();
        let is_mine = |p: &Partition| view.first_home(*p) == Some(node.me);
        let of = u64::from(view.placement().partitions());
        for partition in view.partitions().filter(is_mine) {
            job.progress(u64::from(partition.0), of);
            // The count first: few partitions have tombstones, and for the others peer state is not
            // checked.
            let has_any = node.store.tombstone_count(partition) > 0;
            if has_any && node.peers.down().is_empty() && node.graces_agree() {
                reap_partition(&node, &view, partition, &job).await;
            }
        }
        job.progress(of, of);
    }
}

/// Why nothing can be reaped now. Peers matter only where there are tombstones.
fn not_now(node: &Node) -> Option<Pause> {
    match (node.takes_part(), node.filled.is_complete()) {
        (false, _) => Some(Pause::NotAdmitted),
        (true, false) => Some(Pause::NotFilled),
        (true, true) => (!is_settled(node)).then_some(Pause::NotCompared),
    }
}

/// Whether this node may confirm tombstones, for all that its restore from a backup has to say.
fn is_settled(node: &Node) -> bool {
    let is_settled = node.restored.is_settled(node.peers.nodes());
    is_settled || mutated(Mutation::RestoreReapsAtOnce)
}

/// Proves and reaps the tombstones of one partition, a page at a time.
async fn reap_partition(
    node: &Arc<Node>,
    view: &ClusterView,
    partition: Partition,
    job: &JobState,
) {
    let mut after: Option<Key> = None;
    loop {
        let old = WallTime(node.now().0.saturating_sub(node.config.deletes.grace_ms));
        let page = work::run(node, move |node| {
            node.store.tombstones(partition, after.as_ref(), ROUND_MAX, old)
        });
        let page: Vec<(Key, Version)> = match page.await {
            Ok(page) => page,
            Err(error) => {
                job.failed(&error);
                return tracing::warn!(%error, "could not list tombstones");
            }
        };
        let Some((last, _)) = page.last() else { return };
        after = Some(last.clone());
        let looked_at = page.len();
        let proven = prove(node, view, page).await;
        node.metrics.repair.tombstones_unconfirmed.add((looked_at - proven.len()) as u64);
        if !proven.is_empty() {
            let rows = proven.len();
            reap_everywhere(node, view, proven).await;
            tracing::debug!(partition = partition.0, rows, "tombstones reaped");
        }
    }
}

async fn prove(
    node: &Arc<Node>,
    view: &ClusterView,
    tombstones: Vec<(Key, Version)>,
) -> Vec<(Key, Version)> {
    let is_asked = |at: &NodeId| {
        let stable = view.placement().layout();
        stable.contains(*at) || !mutated(Mutation::ReapWithoutJoiner)
    };
    let mut round = Round::new(tombstones.clone(), view.nodes().filter(is_asked));
    if let Ok(which) = confirm_all(node, view, tombstones.clone()).await {
        round.on_confirmed(node.me, &which);
    }
    if round.is_over() && round.proven().is_empty() && view.nodes().nth(1).is_some() {
        return Vec::new(); // nothing is left to ask the other nodes about
    }
    let question = Message::Repair(Repair::Confirm { tombstones });
    for (peer, reply) in ask_all(node, question).await {
        if let Some(Reply::Repair(RepairReply::Confirmed { which })) = reply {
            round.on_confirmed(peer, &which);
        }
    }
    round.proven()
}

async fn reap_everywhere(node: &Arc<Node>, view: &ClusterView, tombstones: Vec<(Key, Version)>) {
    // Peers first: a tombstone that only this node lacks comes back from them, and is reaped again.
    ask_all(node, Message::Repair(Repair::Reap { tombstones: tombstones.clone() })).await;
    if let Err(error) = reap_here(node, view, tombstones).await {
        tracing::warn!(%error, "could not delete proven tombstones");
    }
}

async fn ask_all(node: &Arc<Node>, question: Message) -> Vec<(NodeId, Option<Reply>)> {
    let timeout = Duration::from_millis(node.config.timeouts.request_ms);
    // Half of the grace covers clock differences and this round.
    let timeout = timeout.min(Duration::from_millis(node.config.deletes.grace_ms / 8));
    node.peers.ask_each(&question, timeout).await
}

/// Answers which tombstones this node confirms.
pub async fn confirm(
    node: &Arc<Node>,
    view: &ClusterView,
    tombstones: Vec<(Key, Version)>,
) -> Reply {
    if !node.generation.is_admitted() || !is_settled(node) {
        return Reply::NotFilled;
    }
    if tombstones.len() > ROUND_MAX {
        return Reply::Refused(Refusal::Malformed);
    }
    match confirm_all(node, view, tombstones).await {
        Ok(which) => Reply::Repair(RepairReply::Confirmed { which }),
        Err(error) => Reply::Refused(refusal_of(&error)),
    }
}

/// Deletes proven tombstones whose rows are unchanged.
pub async fn reap(node: &Arc<Node>, view: &ClusterView, tombstones: Vec<(Key, Version)>) -> Reply {
    match reap_here(node, view, tombstones).await {
        Ok(rows) => Reply::Repair(RepairReply::Reaped { rows }),
        Err(error) => Reply::Refused(refusal_of(&error)),
    }
}

async fn confirm_all(
    node: &Arc<Node>,
    view: &ClusterView,
    tombstones: Vec<(Key, Version)>,
) -> Result<Vec<bool>, Error> {
    let (now, view) = (node.now(), view.clone());
    let which = work::run(node, move |node| {
        let grace_ms = node.config.deletes.grace_ms;
        let is_at_once =
            mutated(Mutation::RestoreReapsAtOnce) && !node.restored.is_settled(node.peers.nodes());
        let confirm = |(key, version): &(Key, Version)| {
            if is_at_once {
                return Ok(true);
            }
            Facts::gather(&Look { node, view: &view, key, now })
                .map(|facts| may_confirm(*version, &facts, now, grace_ms))
        };
        tombstones.iter().map(confirm).collect::<Result<Vec<bool>, Error>>()
    });
    let which = which.await?;
    node.store.durable().await?; // what was read here would also be found after a restart
    Ok(which)
}

/// This node's evidence about one key.
struct Look<'a> {
    node: &'a Node,
    view: &'a ClusterView,
    key: &'a Key,
    now: WallTime,
}

impl Evidence for Look<'_> {
    type Error = Error;

    fn place(&self) -> Result<(bool, bool), Error> {
        let Self { node, view, key, .. } = self;
        Ok((view.homes(key).contains(&node.me), node.is_ready_for(view, key)))
    }

    fn row(&self) -> Result<Option<(Version, WallTime)>, Error> {
        let row = self.node.store.read(self.view.home(self.key), self.key, Blocking::Allowed)?;
        Ok(row.and_then(|row| Row::encoded_version(&row).zip(Row::encoded_since(&row))))
    }

    fn is_hinted(&self) -> Result<bool, Error> {
        let is_hinted = !self.node.store.hints_of_key(self.key)?.is_empty();
        Ok(is_hinted && !mutated(Mutation::HintNotCounted))
    }

    fn quiet_since(&self) -> WallTime {
        let since = self.node.last_drop.since(self.node.partition(self.key));
        let quiet_ms = self.node.uptime().since(since);
        WallTime(self.now.0.saturating_sub(quiet_ms))
    }
}

async fn reap_here(
    node: &Arc<Node>,
    view: &ClusterView,
    tombstones: Vec<(Key, Version)>,
) -> Result<u32, Error> {
    let view = view.clone();
    let reaped = work::run(node, move |node| {
        let mut rows = 0;
        for (key, version) in &tombstones {
            let is_dropped = node.store.drop_row(view.home(key), key, *version)?;
            node.reaped.fetch_add(is_dropped.into(), Relaxed); // as it is dropped, for who compares the two
            rows += u32::from(is_dropped);
        }
        Ok(rows)
    });
    let rows = reaped.await?;
    node.store.durable().await?;
    Ok(rows)
}
