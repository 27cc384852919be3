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
use quorate_protocol::name::{Key, NodeId};
use quorate_protocol::object::Version;
use quorate_protocol::reap::{Evidence, Facts, ROUND_MAX, Round, may_confirm};
use quorate_protocol::row::Row;
use quorate_protocol::time::WallTime;
use quorate_storage::{Blocking, Error};

use crate::background::work;
use crate::node::Node;
use crate::ops::replica::refusal_of;

/// Reaps for as long as the node runs.
pub async fn run(node: Arc<Node>) {
    let mut ticks = tokio::time::interval(Duration::from_millis(node.config.deletes.reap_ms));
    ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    loop {
        ticks.tick().await;
        if !node.takes_part() || !node.filled.is_complete() {
            continue;
        }
        let partitions = (0..node.layout.partitions()).map(|p| Partition(p as u16));
        let is_mine = |p: &Partition| node.layout.preference_list(*p).first() == Some(&node.me);
        for partition in partitions.filter(is_mine) {
            // The count first: few partitions have tombstones, and for the others peer state is not
            // checked.
            let has_any = node.store.tombstone_count(partition) > 0;
            if has_any && node.peers.down().is_empty() && node.graces_agree() {
                reap_partition(&node, partition).await;
            }
        }
    }
}

/// Proves and reaps the tombstones of one partition, a page at a time.
async fn reap_partition(node: &Arc<Node>, partition: Partition) {
    let mut after: Option<Key> = None;
    loop {
        let old = WallTime(node.now().0.saturating_sub(node.config.deletes.grace_ms));
        let page = work::run(node, move |node| {
            node.store.tombstones(partition, after.as_ref(), ROUND_MAX, old)
        });
        let page: Vec<(Key, Version)> = match page.await {
            Ok(page) => page,
            Err(error) => return tracing::warn!(%error, "could not list tombstones"),
        };
        let Some((last, _)) = page.last() else { return };
        after = Some(last.clone());
        let looked_at = page.len();
        let proven = prove(node, page).await;
        node.metrics.repair.tombstones_unconfirmed.add((looked_at - proven.len()) as u64);
        if !proven.is_empty() {
            let rows = proven.len();
            reap_everywhere(node, proven).await;
            tracing::debug!(partition = partition.0, rows, "tombstones reaped");
        }
    }
}

async fn prove(node: &Arc<Node>, tombstones: Vec<(Key, Version)>) -> Vec<(Key, Version)> {
    let everybody = node.layout.members().iter().map(|member| member.node);
    let mut round = Round::new(tombstones.clone(), everybody);
    if let Ok(which) = confirm_all(node, tombstones.clone()).await {
        round.on_confirmed(node.me, &which);
    }
    if round.is_over() && round.proven().is_empty() && node.layout.node_count() > 1 {
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

async fn reap_everywhere(node: &Arc<Node>, tombstones: Vec<(Key, Version)>) {
    // Peers first: a tombstone that only this node lacks comes back from them, and is reaped again.
    ask_all(node, Message::Repair(Repair::Reap { tombstones: tombstones.clone() })).await;
    if let Err(error) = reap_here(node, tombstones).await {
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
pub async fn confirm(node: &Arc<Node>, tombstones: Vec<(Key, Version)>) -> Reply {
    if !node.generation.is_admitted() {
        return Reply::NotFilled;
    }
    if tombstones.len() > ROUND_MAX {
        return Reply::Refused(Refusal::Malformed);
    }
    match confirm_all(node, tombstones).await {
        Ok(which) => Reply::Repair(RepairReply::Confirmed { which }),
        Err(error) => Reply::Refused(refusal_of(&error)),
    }
}

/// Deletes proven tombstones whose rows are unchanged.
pub async fn reap(node: &Arc<Node>, tombstones: Vec<(Key, Version)>) -> Reply {
    match reap_here(node, tombstones).await {
        Ok(rows) => Reply::Repair(RepairReply::Reaped { rows }),
        Err(error) => Reply::Refused(refusal_of(&error)),
    }
}

async fn confirm_all(
    node: &Arc<Node>,
    tombstones: Vec<(Key, Version)>,
) -> Result<Vec<bool>, Error> {
    let now = node.now();
    let which = work::run(node, move |node| {
        let grace_ms = node.config.deletes.grace_ms;
        let confirm = |(key, version): &(Key, Version)| {
            facts(node, key, now).map(|facts| may_confirm(*version, &facts, now, grace_ms))
        };
        tombstones.iter().map(confirm).collect::<Result<Vec<bool>, Error>>()
    });
    let which = which.await?;
    node.store.durable().await?; // what was read here would also be found after a restart
    Ok(which)
}

fn facts(node: &Node, key: &Key, now: WallTime) -> Result<Facts, Error> {
    Facts::gather(&Look { node, key, now })
}

/// This node's evidence about one key.
struct Look<'a> {
    node: &'a Node,
    key: &'a Key,
    now: WallTime,
}

impl Evidence for Look<'_> {
    type Error = Error;

    fn place(&self) -> Result<(bool, bool), Error> {
        let partition = self.node.partition(self.key);
        let homes = self.node.layout.homes(partition, self.node.properties(self.key).n);
        Ok((homes.contains(&self.node.me), self.node.is_ready_for(self.key)))
    }

    fn row(&self) -> Result<Option<(Version, WallTime)>, Error> {
        let row = self.node.store.read(self.node.home(self.key), self.key, Blocking::Allowed)?;
        Ok(row.and_then(|row| Row::encoded_version(&row).zip(Row::encoded_since(&row))))
    }

    fn is_hinted(&self) -> Result<bool, Error> {
        Ok(!self.node.store.hints_of_key(self.key)?.is_empty())
    }

    fn quiet_since(&self) -> WallTime {
        let since = self.node.last_drop.since(self.node.partition(self.key));
        let quiet_ms = self.node.uptime().since(since);
        WallTime(self.now.0.saturating_sub(quiet_ms))
    }
}

async fn reap_here(node: &Arc<Node>, tombstones: Vec<(Key, Version)>) -> Result<u32, Error> {
    let reaped = work::run(node, move |node| {
        let mut rows = 0;
        for (key, version) in &tombstones {
            rows += u32::from(node.store.drop_row(node.home(key), key, *version)?);
        }
        Ok(rows)
    });
    let rows = reaped.await?;
    node.store.durable().await?;
    node.reaped.fetch_add(u64::from(rows), Relaxed);
    Ok(rows)
}
