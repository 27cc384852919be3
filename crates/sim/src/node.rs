//! One simulated node: its disk, its clock, its place in the cluster, and what it does as a
//! replica.
//!
//! As thin as it can be: what a node *decides* is in `quorate-protocol`; this is the plumbing that
//! the real node has in `replica.rs`. What it does as a coordinator is in `coordinator.rs`.

use std::collections::{BTreeMap, BTreeSet};

use bytes::Bytes;
use quorate_protocol::get::{self, What, Where};
use quorate_protocol::message::{Message, Refusal, Reply, WithPayload};
use quorate_protocol::name::{Key, NodeId};
use quorate_protocol::object::{Object, Version};
use quorate_protocol::put::Role;
use quorate_protocol::row::{Incarnation, Row, Tenure};
use quorate_protocol::stamp::Millis;
use quorate_protocol::wire;

use crate::coordinator::Operations;
use crate::plants::Plant;
use crate::store::{Slot, Store};
use crate::world::{Envelope, Event, World};

/// How long a node that could not be reached is thought to be down, in milliseconds.
const SUSPICION_MS: u64 = 300;

/// A node.
pub(crate) struct Node {
    pub(crate) id: NodeId,
    /// Counts starts: what belongs to an earlier life is void.
    pub(crate) life: u64,
    pub(crate) incarnation: Incarnation,
    pub(crate) up: bool,
    /// Until when it does nothing (SIGSTOP).
    pub(crate) paused_until: Millis,
    /// When it last crashed or stood still.
    pub(crate) disturbed_at: Millis,
    /// How far its wall clock is ahead, in milliseconds.
    pub(crate) clock_ahead_ms: i64,
    /// Whether it has all rows it should: not after its disk was lost, until it is filled.
    pub(crate) ready: bool,
    pub(crate) store: Store,
    pub(crate) operations: Operations,
    /// Requests sent and not yet answered.
    pub(crate) pending: BTreeMap<u64, Pending>,
    suspects: BTreeMap<NodeId, Millis>,
    /// Acknowledgements that wait for a sync, by the change they wait for.
    waiting: Vec<(u64, Waiter)>,
    syncing: bool,
    /// Tenures of dropped hint rows: only a planted bug looks at them.
    ghosts: BTreeMap<Slot, Tenure>,
}

/// For whom an answer from a peer is.
pub(crate) enum Pending {
    /// For the machine of a PUT, from this node.
    Put { operation: u64, node: NodeId },
    /// For the machine of a GET, from this node.
    Get { operation: u64, node: NodeId },
    /// For the machine that looks for a minter, from this node.
    Forward { operation: u64, node: NodeId },
    /// For the handoff of a hint row that held this.
    Handoff { slot: Slot, sent: Object },
}

/// Who waits for a sync.
pub(crate) enum Waiter {
    /// A peer's Store.
    Peer { to: NodeId, request: u64 },
    /// The node's own PUT.
    Own { operation: u64 },
}

impl Node {
    pub(crate) fn new(id: NodeId, incarnation: Incarnation) -> Self {
        Self {
            id,
            life: 1,
            incarnation,
            up: true,
            paused_until: Millis(0),
            disturbed_at: Millis(0),
            clock_ahead_ms: 0,
            ready: true,
            store: Store::default(),
            operations: Operations::default(),
            pending: BTreeMap::new(),
            suspects: BTreeMap::new(),
            waiting: Vec::new(),
            syncing: false,
            ghosts: BTreeMap::new(),
        }
    }

    /// Its wall clock.
    pub(crate) fn wall(&self, now: Millis) -> Millis {
        Millis(now.0.saturating_add_signed(self.clock_ahead_ms))
    }

    /// The nodes it thinks are down.
    pub(crate) fn down(&self, now: Millis) -> BTreeSet<NodeId> {
        self.suspects.iter().filter(|(_, until)| now < **until).map(|(node, _)| *node).collect()
    }

    /// It thinks that a node is down, rightly or not.
    pub(crate) fn suspect(&mut self, node: NodeId, now: Millis) {
        self.suspects.insert(node, now.plus(SUSPICION_MS));
    }

    /// A frame arrived: a peer's request, or its answer to one of ours.
    pub(crate) fn on_frame(&mut self, envelope: Envelope, world: &mut World) {
        let Envelope { from, request, is_reply, frame, .. } = envelope;
        self.suspects.remove(&from);
        if is_reply {
            for reply in self.open(from, frame, world) {
                self.on_reply(from, request, reply, world);
            }
        } else {
            for message in self.open(from, frame, world) {
                self.on_message(from, request, message, world);
            }
        }
    }

    fn open<T: serde::de::DeserializeOwned>(
        &self,
        from: NodeId,
        frame: Bytes,
        world: &World,
    ) -> Vec<WithPayload<T>> {
        let mine = world.header(self.id, from);
        let (header, messages) = match wire::decode(frame) {
            Ok(opened) => opened,
            Err(error) => unreachable!("the simulated network damages nothing: {error}"),
        };
        let known = |node| world.setup.layout.contains(node);
        if let Err(error) = header.check(&mine, &[mine.token], known) {
            unreachable!("all nodes are of one cluster: {error}");
        }
        messages
    }

    fn on_message(
        &mut self,
        from: NodeId,
        request: u64,
        message: WithPayload<Message>,
        world: &mut World,
    ) {
        let WithPayload { head, payload } = message;
        let back = (from, request);
        match head {
            Message::Store { key, role, .. } => {
                let Ok(object) = Object::decode(payload) else {
                    unreachable!("a peer sent an object that does not decode")
                };
                world.note(format_args!("{from} -> {} store {key} {role:?} #{request}", self.id));
                match self.store_object(&key, role, &object, world) {
                    Ok(()) => self.when_durable(Waiter::Peer { to: from, request }, world),
                    Err(refusal) => world.reply(self.id, back, &Reply::Refused(refusal), &[]),
                }
            }
            Message::Read { key, what, place } => {
                let (reply, payload) = match self.read(&key, what, place, world) {
                    get::Reply::Object(object) => (Reply::Object, object.to_bytes()),
                    get::Reply::Digest(version) => (Reply::Digest(version), Bytes::new()),
                    get::Reply::NoHint => (Reply::NoHint, Bytes::new()),
                    get::Reply::NotReady => (Reply::NotReady, Bytes::new()),
                    get::Reply::Refused => (Reply::Refused(Refusal::Failed), Bytes::new()),
                };
                world.note(format_args!("{from} -> {} read {key} {what:?} {place:?}", self.id));
                world.reply(self.id, back, &reply, &payload);
            }
            Message::Forward { operation, write } => {
                world.note(format_args!("{from} -> {} forward {}", self.id, write.key));
                world.reply(self.id, back, &Reply::Accepted, &[]);
                self.on_forwarded(from, operation, *write, payload, world);
            }
            Message::Written { operation, answer } => {
                world.reply(self.id, back, &Reply::Accepted, &[]);
                self.on_written(from, operation, answer, payload, world);
            }
            Message::Inspect { .. }
            | Message::Conflicts { .. }
            | Message::Hello { .. }
            | Message::Buckets { .. }
            | Message::Form { .. }
            | Message::Fetch { .. }
            | Message::Roots { .. }
            | Message::Leaves { .. }
            | Message::List { .. }
            | Message::Versions { .. }
            | Message::Confirm { .. }
            | Message::Reap { .. }
            | Message::Room
            | Message::SyncPoint
            | Message::Undelivered { .. }
            | Message::Keys { .. } => {
                world.reply(self.id, back, &Reply::Refused(Refusal::Malformed), &[]);
            }
        }
    }

    /// Merges what a peer (or a read of this node) brings.
    pub(crate) fn store_object(
        &mut self,
        key: &Key,
        role: Role,
        object: &Object,
        world: &mut World,
    ) -> Result<(), Refusal> {
        if object.stamp_max().is_too_far_ahead(self.wall(world.now)) {
            return Err(Refusal::StampAhead);
        }
        let slot = slot_of(key, role);
        let is_new = self.store.get(&slot).is_none();
        if is_new && slot.target.is_some() && self.hint_count() >= world.setup.hints_max {
            return Err(Refusal::HintsFull);
        }
        let mut row = self.row(&slot, world);
        let before = row.object.clone();
        if row.merge(object, self.wall(world.now)) || is_new {
            if world.has(Plant::MergeKeepsCovered) {
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

    /// The row to change: as it is, or a new one without a tenure.
    pub(crate) fn row(&self, slot: &Slot, world: &World) -> Row {
        let mut row = self.store.get(slot).cloned().unwrap_or_default();
        if world.has(Plant::ActorSurvivesHintDrop) && row.object.is_absent() {
            row.tenure = self.ghosts.get(slot).copied();
        }
        row
    }

    /// How many hints it keeps.
    pub(crate) fn hint_count(&self) -> usize {
        self.store.rows().keys().filter(|slot| slot.target.is_some()).count()
    }

    /// What it holds of a key, as home replica or as fallback.
    pub(crate) fn read(&self, key: &Key, what: What, place: Where, world: &World) -> get::Reply {
        let object = match place {
            Where::Home if !self.ready && !world.has(Plant::DiskLossReadyAtOnce) => {
                return get::Reply::NotReady;
            }
            Where::Home => self.store.get(&Slot::home(key)).map(|row| row.object.clone()),
            Where::Hints => self.hints_of(key),
        };
        let absent_counts = place == Where::Home || world.has(Plant::EmptyFallbackCounts);
        match (object, what) {
            (None, _) if !absent_counts => get::Reply::NoHint,
            (object, What::Object) => get::Reply::Object(object.unwrap_or_default()),
            (object, What::Digest) => {
                get::Reply::Digest(object.map_or(Version::ABSENT, |object| object.version()))
            }
        }
    }

    /// The hints for a key, whoever they are for, merged.
    fn hints_of(&self, key: &Key) -> Option<Object> {
        let of_key = |slot: &&Slot| slot.key == *key && slot.target.is_some();
        let mut hints = self.store.rows().iter().filter(|(slot, _)| of_key(slot));
        let mut merged = hints.next()?.1.object.clone();
        hints.for_each(|(_, row)| merged.merge(&row.object));
        Some(merged)
    }

    /// Acknowledges once all that was written so far is durable as configured.
    pub(crate) fn when_durable(&mut self, waiter: Waiter, world: &mut World) {
        let change = self.store.written();
        if !world.setup.fsync {
            self.store.sync(change);
        }
        if self.store.is_durable(change) || world.has(Plant::EarlyAck) {
            self.acknowledge(waiter, world);
        } else {
            self.waiting.push((change, waiter));
        }
        self.begin_sync(world);
    }

    /// One sync covers everyone who wrote before it began.
    fn begin_sync(&mut self, world: &mut World) {
        let upto = self.store.written();
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
        self.store.sync(upto);
        let covers_all = world.has(Plant::SyncCoversLater);
        let (done, waiting) = std::mem::take(&mut self.waiting)
            .into_iter()
            .partition::<Vec<_>, _>(|(change, _)| covers_all || *change <= upto);
        self.waiting = waiting;
        for (_, waiter) in done {
            self.acknowledge(waiter, world);
        }
        self.begin_sync(world);
    }

    /// Nothing that was written since the last sync is durable, nor will be.
    pub(crate) fn refuse_all_waiting(&mut self, world: &mut World) {
        for (_, waiter) in std::mem::take(&mut self.waiting) {
            match waiter {
                Waiter::Peer { to, request } => {
                    let refused = Reply::Refused(Refusal::Failed);
                    world.reply(self.id, (to, request), &refused, &[]);
                }
                Waiter::Own { operation } => self.on_put_refused(operation, self.id, world),
            }
        }
    }

    fn acknowledge(&mut self, waiter: Waiter, world: &mut World) {
        match waiter {
            Waiter::Peer { to, request } => {
                world.note(format_args!("{} -> {to} stored #{request}", self.id));
                world.reply(self.id, (to, request), &Reply::Stored, &[]);
            }
            Waiter::Own { operation } => self.on_put_acked(operation, self.id, world),
        }
    }

    /// A peer answered.
    fn on_reply(
        &mut self,
        from: NodeId,
        request: u64,
        reply: WithPayload<Reply>,
        world: &mut World,
    ) {
        let Some(pending) = self.pending.remove(&request) else { return };
        match pending {
            Pending::Put { operation, node } if reply.head == Reply::Stored => {
                self.on_put_acked(operation, node, world);
            }
            Pending::Put { operation, node } => self.on_put_refused(operation, node, world),
            Pending::Get { operation, node } => {
                let reply = reading(reply);
                self.on_get_reply(operation, node, reply, world);
            }
            Pending::Forward { operation, node } if reply.head == Reply::Accepted => {
                self.on_forward_accepted(operation, node, world);
            }
            Pending::Forward { operation, node } => {
                self.on_forward_refused(operation, node, world);
            }
            Pending::Handoff { slot, sent } => {
                if reply.head == Reply::Stored {
                    world.note(format_args!("{from} holds {}'s hint of {}", self.id, slot.key));
                    self.drop_hint(&slot, &sent, world);
                }
            }
        }
    }

    /// Nothing will come back for a request.
    pub(crate) fn on_unreachable(&mut self, request: u64, world: &mut World) {
        let Some(pending) = self.pending.remove(&request) else { return };
        match pending {
            Pending::Put { operation, node } => {
                self.suspect(node, world.now);
                self.on_put_silent(operation, node, world);
            }
            Pending::Get { operation, node } => {
                self.suspect(node, world.now);
                self.on_get_silent(operation, node, world);
            }
            Pending::Forward { operation, node } => {
                self.suspect(node, world.now);
                self.on_forward_silent(operation, node, world);
            }
            Pending::Handoff { .. } => {}
        }
    }

    /// Sends every hint home. Acknowledgements may come late, and find the row changed.
    pub(crate) fn hand_off(&mut self, world: &mut World) {
        let hints: Vec<(Slot, Row)> = self.store.rows().clone().into_iter().collect();
        for (slot, row) in hints {
            let Some(target) = slot.target else { continue };
            let message = Message::Store {
                key: slot.key.clone(),
                role: Role::Home,
                read_at: self.wall(world.now),
            };
            let sent = row.object;
            let identity = (self.id, self.life);
            let request = world.send(identity, target, &message, &sent.to_bytes());
            if world.has(Plant::HintDroppedOnSend) {
                self.drop_hint(&slot, &sent, world);
            }
            self.pending.insert(request, Pending::Handoff { slot, sent });
        }
    }

    /// The target holds a hint durably: the row goes, if it is still the one that was sent.
    fn drop_hint(&mut self, slot: &Slot, sent: &Object, world: &mut World) {
        let Some(row) = self.store.get(slot) else { return };
        let same = row.object.version() == sent.version();
        if !same && !world.has(Plant::HintDroppedThoughChanged) {
            return;
        }
        if let Some(tenure) = row.tenure {
            self.ghosts.insert(slot.clone(), tenure);
        }
        world.gives_up(self.id, sent);
        self.store.put(slot.clone(), None);
        self.begin_sync(world);
    }

    /// The process is gone, with everything that was only in memory.
    pub(crate) fn die(&mut self, now: Millis) {
        self.up = false;
        self.life += 1;
        self.disturbed_at = now;
        self.paused_until = Millis(0);
        self.operations = Operations::default();
        self.pending.clear();
        self.suspects.clear();
        self.waiting.clear();
        self.syncing = false;
    }
}

/// Where a node holds a key in this role.
pub(crate) fn slot_of(key: &Key, role: Role) -> Slot {
    match role {
        Role::Home => Slot::home(key),
        Role::Hint { target } => Slot { key: key.clone(), target: Some(target) },
    }
}

/// A reply as the machine of a GET understands it.
fn reading(reply: WithPayload<Reply>) -> get::Reply {
    match reply.head {
        Reply::Object => match Object::decode(reply.payload) {
            Ok(object) => get::Reply::Object(object),
            Err(error) => unreachable!("a peer sent an object that does not decode: {error}"),
        },
        Reply::Digest(version) => get::Reply::Digest(version),
        Reply::NoHint => get::Reply::NoHint,
        Reply::NotReady => get::Reply::NotReady,
        Reply::Stored
        | Reply::Accepted
        | Reply::Inspection { .. }
        | Reply::Conflicts { .. }
        | Reply::Status(_)
        | Reply::Buckets { .. }
        | Reply::Rows { .. }
        | Reply::Behind(_)
        | Reply::Differing { .. }
        | Reply::Leaves { .. }
        | Reply::Page(_)
        | Reply::Versions { .. }
        | Reply::Confirmed { .. }
        | Reply::Reaped { .. }
        | Reply::Room { .. }
        | Reply::SyncPoint { .. }
        | Reply::Undelivered { .. }
        | Reply::Keys(_)
        | Reply::Refused(_) => get::Reply::Refused,
    }
}
