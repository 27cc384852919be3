//! The reaper of a simulated node: proves that tombstones cover all that is left of their keys, and
//! has them deleted everywhere. It drives `protocol::reap` as `repair/reaper.rs` does in the engine.

use std::collections::BTreeMap;
use std::convert::Infallible;

use quorate_protocol::message::{Message, Repair, RepairReply, Reply};
use quorate_protocol::name::{Key, NodeId};
use quorate_protocol::object::{Object, Version};
use quorate_protocol::reap::{Evidence, Facts, Round, may_confirm};
use quorate_protocol::time::{Uptime, WallTime};

use crate::mutations::Mutation;
use crate::node::{Node, Pending};
use crate::replica::Waiter;
use crate::store::Slot;
use crate::world::{Claim, Event, World};

/// A round in progress.
pub(crate) struct ReapRound {
    round: Round,
    /// The tombstones as they were when the round began.
    objects: BTreeMap<Key, Object>,
    deadline: Uptime,
}

impl Node {
    /// Records that this node drops something it held for others: a copy of it may still be in
    /// flight.
    pub(crate) fn record_drop(&mut self, key: &Key, world: &World) {
        if world.has(Mutation::DropUnnoted) {
            return;
        }
        let partition = key.partition(world.setup.layout.partitions());
        self.quiet_since.insert(partition, world.now);
    }

    /// Starts a round about the tombstones that are old enough, if this node is responsible for
    /// them.
    pub(crate) fn begin_reaping(&mut self, world: &mut World) {
        let (now, grace_ms) = (self.wall(world.now), world.setup.grace_ms);
        let all_nodes = world.setup.nodes.clone();
        if !self.operations.reap_rounds.is_empty() || !self.records.missing.is_empty() {
            return;
        }
        let layout = world.setup.layout.clone();
        let mut objects = BTreeMap::new();
        for (slot, row) in self.store.rows().iter().filter(|(slot, _)| slot.target.is_none()) {
            let partition = slot.key.partition(layout.partitions());
            let is_mine = layout.preference_list(partition).first() == Some(&self.id);
            let is_old = now.since(row.since) >= grace_ms;
            if is_mine && is_old && row.object.is_deleted() {
                objects.insert(slot.key.clone(), row.object.clone());
            }
        }
        if objects.is_empty() {
            return;
        }
        let tombstones: Vec<(Key, Version)> =
            objects.iter().map(|(key, object)| (key.clone(), object.version())).collect();
        let which = self.confirm(&tombstones, world);
        if which.iter().all(|confirmed| !confirmed) {
            return; // nothing is left to ask peers about
        }
        let round = Round::new(tombstones.clone(), all_nodes.clone());
        world.note(format_args!("{} begins to reap {:?}", self.id, objects.keys()));
        let operation = world.fresh_number();
        // What the round proves must still be true at its end: see `reap`.
        let patience_ms = world.setup.request_timeout_ms.min(grace_ms / 8);
        let deadline = world.now.plus(patience_ms);
        let (node, life) = (self.id, self.life);
        world.schedule(patience_ms, Event::Wake { node, life, operation });
        self.operations.reap_rounds.insert(operation, ReapRound { round, objects, deadline });
        let me = self.id;
        for node in all_nodes.into_iter().filter(|node| *node != me) {
            let message = Message::Repair(Repair::Confirm { tombstones: tombstones.clone() });
            self.request(node, &message, &[], Pending::Confirm { operation, node }, world);
        }
        self.when_durable(Waiter::Confirm { operation, which }, world);
    }

    pub(crate) fn on_confirm(
        &mut self,
        back: (NodeId, u64),
        tombstones: &[(Key, Version)],
        world: &mut World,
    ) {
        let which = self.confirm(tombstones, world);
        world.note(format_args!("{} -> {} confirms {which:?}", self.id, back.0));
        let (to, request) = back;
        // What was read must survive a restart.
        let reply = Reply::Repair(RepairReply::Confirmed { which });
        self.when_durable(Waiter::Peer { to, request, reply }, world);
    }

    fn confirm(&self, tombstones: &[(Key, Version)], world: &World) -> Vec<bool> {
        let now = self.wall(world.now);
        let confirm = |(key, version): &(Key, Version)| {
            let facts = self.facts(key, now, world);
            self.is_admitted() && may_confirm(*version, &facts, now, world.setup.grace_ms)
        };
        tombstones.iter().map(confirm).collect()
    }

    fn facts(&self, key: &Key, now: WallTime, world: &World) -> Facts {
        let Ok(facts) = Facts::gather(&Look { node: self, key, now, world });
        facts
    }

    /// A node answered which tombstones it confirms.
    pub(crate) fn on_confirmed(
        &mut self,
        operation: u64,
        node: NodeId,
        reply: &Reply,
        world: &mut World,
    ) {
        let Some(reap_round) = self.operations.reap_rounds.get_mut(&operation) else { return };
        let Reply::Repair(RepairReply::Confirmed { which }) = reply else { return };
        reap_round.round.on_confirmed(node, which);
        if !reap_round.round.is_over() {
            return;
        }
        let Some(reap_round) = self.operations.reap_rounds.remove(&operation) else { return };
        let tombstones = reap_round.round.proven();
        if tombstones.is_empty() {
            return;
        }
        for (key, _) in &tombstones {
            let Some(object) = reap_round.objects.get(key) else { continue };
            world.note(format_args!("{} has proven {key}: {:?}", self.id, object.clock));
            world.claims.push(Claim::Reaped { key: key.clone(), tombstone: object.clone() });
        }
        for node in world.setup.nodes.clone().into_iter().filter(|node| *node != self.id) {
            let message = Message::Repair(Repair::Reap { tombstones: tombstones.clone() });
            world.send((self.id, self.life), node, &message, &[]);
        }
        self.reap(&tombstones, world);
    }

    /// A round timed out.
    pub(crate) fn on_reap_time(&mut self, operation: u64, world: &mut World) {
        let Some(reap_round) = self.operations.reap_rounds.get(&operation) else { return };
        let is_over = world.now >= reap_round.deadline;
        if is_over && world.has(Mutation::ReapWithoutFullProof) {
            let which = vec![true; reap_round.round.tombstones().len()];
            for node in world.setup.nodes.clone() {
                let reply = Reply::Repair(RepairReply::Confirmed { which: which.clone() });
                self.on_confirmed(operation, node, &reply, world);
            }
        } else if is_over {
            self.operations.reap_rounds.remove(&operation);
        }
    }

    /// Deletes proven tombstones that have not changed. Returns how many.
    pub(crate) fn reap(&mut self, tombstones: &[(Key, Version)], world: &mut World) -> u32 {
        let mut rows = 0;
        if self.store.has_failed() {
            return rows;
        }
        for (key, version) in tombstones {
            let slot = Slot::home(key);
            if let Some(row) = self.store.get(&slot).filter(|r| r.object.version() == *version) {
                world.note(format_args!("{} reaps {key}", self.id));
                world.gives_up(self.id, &row.object);
                self.store.put(slot, None);
                rows += 1;
            }
        }
        self.begin_sync(world);
        rows
    }
}

/// A node's own evidence about a key. Nothing changes while it is read here: a test of
/// `protocol::reap` covers the race.
struct Look<'a> {
    node: &'a Node,
    key: &'a Key,
    now: WallTime,
    world: &'a World,
}

impl Evidence for Look<'_> {
    type Error = Infallible;

    fn place(&self) -> Result<(bool, bool), Infallible> {
        let Self { node, key, world, .. } = self;
        Ok((node.is_home(key, world), node.is_ready_for(key, world)))
    }

    fn row(&self) -> Result<Option<(Version, WallTime)>, Infallible> {
        let row = self.node.store.get(&Slot::home(self.key));
        Ok(row.map(|row| (row.object.version(), row.since)))
    }

    fn is_hinted(&self) -> Result<bool, Infallible> {
        let is_hint = |slot: &Slot| slot.target.is_some() && slot.key == *self.key;
        let is_hinted = self.node.store.rows().keys().any(is_hint);
        Ok(is_hinted && !self.world.has(Mutation::HintNotCounted))
    }

    fn quiet_since(&self) -> WallTime {
        let partition = self.key.partition(self.world.setup.layout.partitions());
        let since = self.node.quiet_since.get(&partition).copied();
        let quiet_ms = self.world.now.since(since.unwrap_or(self.node.started_at));
        WallTime(self.now.0.saturating_sub(quiet_ms))
    }
}
