//! What a simulated node does as a replica: merges, reads, acknowledges when durable, and delivers
//! hints. `ops/replica.rs` and `repair/handoff.rs` in the engine.

use bytes::Bytes;
use quorate_protocol::get::{self, ReadKind, RowKind};
use quorate_protocol::message::{
    ClusterReply, Data, DataReply, Message, QueryReply, Refusal, RepairReply, Reply, WithPayload,
};
use quorate_protocol::name::{Key, NodeId};
use quorate_protocol::object::{Object, Version};
use quorate_protocol::put::Role;
use quorate_protocol::reap::is_stale;
use quorate_protocol::reassign::Pass;
use quorate_protocol::row::Row;
use quorate_protocol::time::WallTime;

use crate::mutations::Mutation;
use crate::node::{Node, Pending};
use crate::store::Slot;
use crate::world::{Event, World};

/// What waits for a sync.
pub(crate) enum Waiter {
    /// A peer, for this answer to its request.
    Peer { to: NodeId, request: u64, reply: Reply },
    /// The node's own PUT.
    Own { operation: u64 },
    /// The node's own round of the reaper, for what it confirms itself.
    Confirm { operation: u64, which: Vec<bool> },
    /// The node itself, which has received what was missing.
    Filled,
    /// The node itself, which has moved its rows to their trees.
    Passed(Pass),
}

impl Node {
    pub(crate) fn on_store(
        &mut self,
        back: (NodeId, u64),
        (key, role, read_at): (&Key, Role, WallTime),
        payload: Bytes,
        world: &mut World,
    ) {
        let Ok(object) = Object::decode(payload) else {
            unreachable!("a peer sent an object that does not decode")
        };
        let (to, request) = back;
        world.note(format_args!("{to} -> {} store {key} {role:?} #{request}", self.id));
        match self.store_object(key, role, &object, read_at, world) {
            Ok(()) => {
                let reply = Reply::Data(DataReply::Stored);
                self.when_durable(Waiter::Peer { to, request, reply }, world);
            }
            Err(refusal) => {
                world.note(format_args!("{} refuses #{request}: {refusal}", self.id));
                world.reply(self.id, back, &Reply::Refused(refusal), &[]);
            }
        }
    }

    /// Merges what a peer (or a read by this node) brings, read at `read_at`.
    pub(crate) fn store_object(
        &mut self,
        key: &Key,
        role: Role,
        object: &Object,
        read_at: WallTime,
        world: &mut World,
    ) -> Result<(), Refusal> {
        let now = self.wall(world.now);
        if !self.is_admitted() {
            return Err(Refusal::Failed);
        }
        if self.store.has_failed() {
            return Err(Refusal::ReadOnly);
        }
        if is_stale(read_at, now, world.setup.grace_ms) && !world.has(Mutation::StaleTaken) {
            return Err(Refusal::Stale);
        }
        let slot = slot_of(key, role);
        let is_new = self.store.get(&slot).is_none();
        if is_new && slot.target.is_some() && self.hint_count() >= world.setup.hints_max {
            return Err(Refusal::HintsFull);
        }
        let mut row = self.row(&slot, world);
        let before = row.object.clone();
        if row.merge(object, now) {
            if world.has(Mutation::MergeKeepsCovered) {
                let both = before.siblings.iter().chain(&object.siblings);
                for sibling in both {
                    if !row.object.has(sibling.dot) {
                        row.object.siblings.push(sibling.clone());
                        row.object.siblings.sort_unstable_by_key(|s| s.dot);
                    }
                }
            }
            self.store.put(slot, Some(row));
        }
        Ok(())
    }

    /// The row to change: the current one, or a new one without a tenure.
    pub(crate) fn row(&self, slot: &Slot, world: &World) -> Row {
        let mut row = self.store.get(slot).cloned().unwrap_or_default();
        row.tree = if slot.target.is_none() { self.n() } else { 0 };
        if world.has(Mutation::ActorSurvivesHintDrop) && row.object.is_absent() {
            row.tenure = self.dropped_tenures.get(slot).copied();
        }
        row
    }

    /// How many hints it keeps.
    pub(crate) fn hint_count(&self) -> usize {
        self.store.rows().keys().filter(|slot| slot.target.is_some()).count()
    }

    pub(crate) fn on_read(
        &self,
        back: (NodeId, u64),
        key: &Key,
        what: ReadKind,
        place: RowKind,
        world: &mut World,
    ) {
        let (reply, payload) = match self.read(key, what, place, world) {
            get::Reply::Object(object) => (Reply::Data(DataReply::Object), object.to_bytes()),
            get::Reply::Digest(version) => (Reply::Data(DataReply::Digest(version)), Bytes::new()),
            get::Reply::NoHint => (Reply::Data(DataReply::NoHint), Bytes::new()),
            get::Reply::NotFilled => (Reply::NotFilled, Bytes::new()),
            get::Reply::Refused => (Reply::Refused(Refusal::Failed), Bytes::new()),
        };
        world.note(format_args!("{} -> {} read {key} {what:?} {place:?}", back.0, self.id));
        world.reply(self.id, back, &reply, &payload);
    }

    /// What it holds of a key, as home replica or as fallback.
    pub(crate) fn read(
        &self,
        key: &Key,
        what: ReadKind,
        place: RowKind,
        world: &World,
    ) -> get::Reply {
        let object = match place {
            RowKind::Home | RowKind::Hints if !self.is_admitted() => return get::Reply::NotFilled,
            RowKind::Home if !self.is_ready_for(key, world) => return get::Reply::NotFilled,
            RowKind::Home => self.store.get(&Slot::home(key)).map(|row| row.object.clone()),
            RowKind::Hints => self.hints_of(key),
        };
        let absent_counts = place == RowKind::Home || world.has(Mutation::EmptyFallbackCounts);
        match (object, what) {
            (None, _) if !absent_counts => get::Reply::NoHint,
            (object, ReadKind::Object) => get::Reply::Object(object.unwrap_or_default()),
            (object, ReadKind::Digest) => {
                get::Reply::Digest(object.map_or(Version::ABSENT, |object| object.version()))
            }
        }
    }

    /// The hints for a key, whatever their targets, merged.
    fn hints_of(&self, key: &Key) -> Option<Object> {
        let of_key = |slot: &&Slot| slot.key == *key && slot.target.is_some();
        let mut hints = self.store.rows().iter().filter(|(slot, _)| of_key(slot));
        let mut merged = hints.next()?.1.object.clone();
        hints.for_each(|(_, row)| merged.merge(&row.object));
        Some(merged)
    }

    /// Acknowledges once everything written so far is durable as configured.
    pub(crate) fn when_durable(&mut self, waiter: Waiter, world: &mut World) {
        if self.store.has_failed() {
            return self.refuse_waiting(waiter, world);
        }
        self.begin_sync(world);
        let change = self.store.written();
        if self.store.is_durable(change) || world.has(Mutation::EarlyAck) {
            self.acknowledge(waiter, world);
        } else {
            self.waiting.push((change, waiter));
        }
    }

    /// One sync covers all writes made before it began.
    pub(crate) fn begin_sync(&mut self, world: &mut World) {
        if self.store.has_failed() {
            return;
        }
        let upto = self.store.written();
        if !world.setup.fsync {
            self.store.sync(upto);
        }
        if self.syncing || self.store.is_durable(upto) {
            return;
        }
        self.syncing = true;
        let delay_ms = world.dice.between(1, world.setup.sync_ms_max);
        let (node, life) = (self.id, self.life);
        world.schedule(delay_ms, Event::Synced { node, life, upto });
    }

    /// A sync ended.
    pub(crate) fn on_synced(&mut self, upto: u64, world: &mut World) {
        self.syncing = false;
        if self.store.has_failed() {
            return; // a concurrent sync failed: this one's success must not be reported
        }
        self.store.sync(upto);
        let covers_all = world.has(Mutation::SyncCoversLater);
        let (done, waiting) = std::mem::take(&mut self.waiting)
            .into_iter()
            .partition::<Vec<_>, _>(|(change, _)| covers_all || *change <= upto);
        self.waiting = waiting;
        for (_, waiter) in done {
            self.acknowledge(waiter, world);
        }
        self.begin_sync(world);
    }

    /// Nothing written since the last sync is durable, or will become so.
    pub(crate) fn refuse_all_waiting(&mut self, world: &mut World) {
        self.passing = None;
        for (_, waiter) in std::mem::take(&mut self.waiting) {
            self.refuse_waiting(waiter, world);
        }
    }

    fn refuse_waiting(&mut self, waiter: Waiter, world: &mut World) {
        match waiter {
            Waiter::Peer { to, request, .. } => {
                let refused = Reply::Refused(Refusal::Failed);
                world.reply(self.id, (to, request), &refused, &[]);
            }
            Waiter::Own { operation } => self.on_put_refused(operation, self.id, world),
            Waiter::Confirm { .. } | Waiter::Passed(_) => {}
            Waiter::Filled => self.filling = None,
        }
    }

    fn acknowledge(&mut self, waiter: Waiter, world: &mut World) {
        match waiter {
            Waiter::Peer { to, request, reply } => {
                if reply == Reply::Data(DataReply::Stored) {
                    world.note(format_args!("{} -> {to} stored #{request}", self.id));
                }
                world.reply(self.id, (to, request), &reply, &[]);
            }
            Waiter::Own { operation } => self.on_put_acked(operation, self.id, world),
            Waiter::Confirm { operation, which } => {
                self.on_confirmed(
                    operation,
                    self.id,
                    &Reply::Repair(RepairReply::Confirmed { which }),
                    world,
                );
            }
            Waiter::Filled => self.on_filled(world),
            Waiter::Passed(pass) => self.on_passed(&pass, world),
        }
    }

    /// Sends every hint to its target. Acknowledgements may arrive late and find the row changed.
    pub(crate) fn hand_off(&mut self, world: &mut World) {
        if !self.is_admitted() {
            return;
        }
        let is_hint = |(slot, _): &(&Slot, &Row)| slot.target.is_some();
        let hints = self.store.rows().iter().filter(is_hint);
        let hints: Vec<(Slot, Row)> = hints.map(|(s, row)| (s.clone(), row.clone())).collect();
        for (slot, row) in hints {
            let Some(target) = slot.target else { continue };
            let (key, read_at) = (slot.key.clone(), self.wall(world.now));
            let message = Message::Data(Data::Store { key, role: Role::Home, read_at });
            let sent = row.object;
            if world.has(Mutation::HintDroppedOnSend) {
                self.drop_hint(&slot, &sent, world);
            }
            let bytes = sent.to_bytes();
            self.request(target, &message, &bytes, Pending::Handoff { slot, sent }, world);
        }
    }

    /// The target holds a hint durably: the row is dropped if it is still the one that was sent.
    pub(crate) fn drop_hint(&mut self, slot: &Slot, sent: &Object, world: &mut World) {
        let Some(row) = self.store.get(slot).filter(|_| !self.store.has_failed()) else { return };
        let same = row.object.version() == sent.version();
        if !same && !world.has(Mutation::HintDroppedThoughChanged) {
            return;
        }
        if let Some(tenure) = row.tenure {
            self.dropped_tenures.insert(slot.clone(), tenure);
        }
        world.dropped(self.id, &slot.key, sent);
        self.record_drop(&slot.key, world);
        self.store.put(slot.clone(), None);
        self.begin_sync(world);
    }
}

/// Where a node holds a key in this role.
pub(crate) fn slot_of(key: &Key, role: Role) -> Slot {
    match role {
        Role::Home => Slot::home(key),
        Role::Hint { target } => Slot { key: key.clone(), target: Some(target) },
    }
}

/// A reply as the GET machine sees it.
pub(crate) fn reading(reply: WithPayload<Reply>) -> get::Reply {
    match reply.head {
        Reply::Data(DataReply::Object) => match Object::decode(reply.payload) {
            Ok(object) => get::Reply::Object(object),
            Err(error) => unreachable!("a peer sent an object that does not decode: {error}"),
        },
        Reply::Data(DataReply::Digest(version)) => get::Reply::Digest(version),
        Reply::Data(DataReply::NoHint) => get::Reply::NoHint,
        Reply::NotFilled => get::Reply::NotFilled,
        Reply::Data(DataReply::Stored)
        | Reply::Data(DataReply::Accepted)
        | Reply::Query(QueryReply::Inspection { .. })
        | Reply::Query(QueryReply::Conflicts { .. })
        | Reply::Cluster(ClusterReply::Status(_))
        | Reply::Cluster(ClusterReply::Buckets { .. })
        | Reply::Repair(RepairReply::Rows { .. })
        | Reply::Cluster(ClusterReply::Behind(_))
        | Reply::Repair(RepairReply::Differing { .. })
        | Reply::Repair(RepairReply::Leaves { .. })
        | Reply::Repair(RepairReply::Page(_))
        | Reply::Repair(RepairReply::Versions { .. })
        | Reply::Repair(RepairReply::Confirmed { .. })
        | Reply::Repair(RepairReply::Reaped { .. })
        | Reply::Repair(RepairReply::Room { .. })
        | Reply::Repair(RepairReply::SyncPoint { .. })
        | Reply::Repair(RepairReply::Undelivered { .. })
        | Reply::Query(QueryReply::Keys(_))
        | Reply::Repair(RepairReply::Delivered { .. })
        | Reply::Repair(RepairReply::Distrusted(_))
        | Reply::Data(DataReply::Large { .. })
        | Reply::Unknown(_)
        | Reply::Refused(_) => get::Reply::Refused,
    }
}
