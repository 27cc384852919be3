//! What a simulated node knows of its bucket's n, and what follows when that is changed: rows move
//! to another Merkle tree, new home replicas must be filled, former ones hand their rows over and
//! drop them. `src/buckets.rs` and `src/sweep.rs` of the real node.

use std::collections::{BTreeMap, BTreeSet};

use quorate_protocol::bucket::{Properties, Settings, Table};
use quorate_protocol::message::{Message, Reply};
use quorate_protocol::name::{Bucket, Key, NodeId};
use quorate_protocol::object::{Object, Version};
use quorate_protocol::put::Role;
use quorate_protocol::quorum::QuorumError;
use quorate_protocol::row::Row;
use quorate_protocol::stamp::Millis;
use quorate_protocol::terms::{Asked, Terms};

use crate::node::{Node, Pending};
use crate::setup::BUCKET;
use crate::store::Slot;
use crate::world::World;

/// The bucket table as a node has recorded it.
#[derive(Clone, Default)]
pub(crate) struct Buckets {
    table: Table,
    /// The n by it.
    n: u16,
    /// The bucket, if its n was raised, with the number of home replicas that have been sent all
    /// writes; until this node has fetched what it must hold.
    raised: BTreeMap<Bucket, u16>,
}

/// A row on its way to its home replicas, to be dropped when all of them hold it.
pub(crate) struct HandOver {
    version: Version,
    object: Object,
    waiting: BTreeSet<NodeId>,
    deadline: Millis,
}

/// Rows on their way, by key.
pub(crate) type HandOvers = BTreeMap<Key, HandOver>;

impl Buckets {
    /// Nobody has set anything yet.
    pub(crate) fn new(n: u16) -> Self {
        Self { n, ..Self::default() }
    }

    /// Equal for equal tables.
    pub(crate) fn hash(&self) -> u64 {
        self.table.hash()
    }

    /// How many home replicas had been sent all writes when n was raised, if this node has not yet
    /// fetched what it must hold since.
    pub(crate) fn raised_from(&self) -> Option<u16> {
        self.raised.values().next().copied()
    }

    /// It has.
    pub(crate) fn fetched(&mut self) {
        self.raised.clear();
    }
}

impl Node {
    /// How many home replicas a key has, as far as this node knows.
    pub(crate) fn n(&self) -> u16 {
        self.records.buckets.n
    }

    /// The home replicas of a key and its fallbacks, as far as this node knows.
    pub(crate) fn preference_list<'a>(
        &self,
        key: &Key,
        world: &'a World,
    ) -> (&'a [NodeId], &'a [NodeId]) {
        world.setup.preference_list(key, self.n())
    }

    /// By which numbers a read of a key runs and on which nodes, as far as this node knows.
    pub(crate) fn read_terms(
        &self,
        key: &Key,
        asked: &Asked,
        world: &World,
    ) -> Result<Terms, QuorumError> {
        let setup = &world.setup;
        Terms::of_read(asked, &setup.properties(self.n()), setup.all_preferred(key))
    }

    /// The same for a write.
    pub(crate) fn write_terms(
        &self,
        key: &Key,
        asked: &Asked,
        world: &World,
    ) -> Result<Terms, QuorumError> {
        let setup = &world.setup;
        Terms::of_write(asked, &setup.properties(self.n()), setup.all_preferred(key))
    }

    /// Whether this node is a home replica of a key, as far as it knows.
    pub(crate) fn is_home(&self, key: &Key, world: &World) -> bool {
        self.preference_list(key, world).0.contains(&self.id)
    }

    /// Whether this node may say what is there of a key.
    pub(crate) fn is_ready_for(&self, key: &Key, world: &World) -> bool {
        let trusted_n = self.records.buckets.raised_from().unwrap_or(self.n()).min(self.n());
        let (homes, _) = world.setup.preference_list(key, trusted_n);
        self.is_cleared()
            && !self.records.missing.contains(&key.partition(world.setup.layout.partitions()))
            && homes.contains(&self.id)
    }

    /// Somebody sets the bucket's n here.
    pub(crate) fn set_n(&mut self, n: u16, world: &mut World) {
        if self.store.has_failed() {
            return;
        }
        let settings = Settings { n: Some(n), ..Settings::default() };
        let mut change = Table::default();
        let Ok(bucket) = Bucket::parse(BUCKET) else { return };
        let by = (self.id, self.wall(world.now));
        let defaults = defaults(world);
        let over = (&defaults, world.setup.layout.node_count());
        let record = self.records.buckets.table.next(&bucket, settings, by, over);
        change.merge(&bucket, record);
        self.merge_buckets(&change, world);
        let message = Message::Buckets { table: change, want_all: false };
        let me = self.id;
        for peer in world.setup.nodes.clone().into_iter().filter(|peer| *peer != me) {
            self.request(peer, &message, &[], Pending::Buckets, world);
        }
    }

    /// A peer's table is another one.
    pub(crate) fn agree_on_buckets(&mut self, peer: NodeId, world: &mut World) {
        let table = self.records.buckets.table.clone();
        let message = Message::Buckets { table, want_all: true };
        self.request(peer, &message, &[], Pending::Buckets, world);
    }

    pub(crate) fn on_buckets(
        &mut self,
        back: (NodeId, u64),
        table: &Table,
        want_all: bool,
        world: &mut World,
    ) {
        self.merge_buckets(table, world);
        let table = if want_all { self.records.buckets.table.clone() } else { Table::default() };
        world.reply(self.id, back, &Reply::Buckets { table }, &[]);
    }

    /// Takes newer records over.
    pub(crate) fn merge_buckets(&mut self, other: &Table, world: &mut World) {
        if self.store.has_failed() {
            return; // it could not be recorded
        }
        let buckets = &mut self.records.buckets;
        let before = buckets.n;
        let (defaults, nodes) = (defaults(world), world.setup.layout.node_count());
        buckets.table.learn(other, &mut buckets.raised, (&defaults, nodes));
        let n = buckets.table.settings(BUCKET).over(&defaults, nodes).n;
        buckets.n = n;
        if n != before {
            world.note(format_args!("{} learns n={n}", self.id));
            self.sweep(world);
        }
    }

    /// Moves rows to the tree of their bucket's n.
    pub(crate) fn sweep(&mut self, world: &mut World) {
        if self.store.has_failed() {
            return;
        }
        let n = self.n();
        let misplaced = |(slot, row): &(&Slot, &Row)| slot.target.is_none() && row.tree != n;
        let rows = self.store.rows().iter().filter(misplaced);
        let rows: Vec<(Slot, Row)> = rows.map(|(slot, row)| (slot.clone(), row.clone())).collect();
        for (slot, row) in rows {
            self.store.put(slot, Some(Row { tree: n, ..row }));
        }
        self.begin_sync(world);
    }

    /// The keys whose rows this node does not own any more.
    pub(crate) fn unowned(&self, world: &World) -> Vec<Key> {
        let keys = self.store.rows().keys().filter(|slot| slot.target.is_none());
        keys.filter(|slot| !self.is_home(&slot.key, world)).map(|slot| slot.key.clone()).collect()
    }

    /// Brings rows that this node does not own any more to their home replicas.
    pub(crate) fn hand_over(&mut self, world: &mut World) {
        if !self.is_cleared() {
            return;
        }
        self.operations.hand_overs.retain(|_, hand_over| world.now < hand_over.deadline);
        for key in self.unowned(world) {
            if self.operations.hand_overs.contains_key(&key) {
                continue;
            }
            let Some(row) = self.store.get(&Slot::home(&key)) else { continue };
            let object = row.object.clone();
            let homes = self.preference_list(&key, world).0.to_vec();
            let read_at = self.wall(world.now);
            let message = Message::Store { key: key.clone(), role: Role::Home, read_at };
            let bytes = object.to_bytes();
            let deadline = world.now.plus(world.setup.request_timeout_ms);
            let waiting = homes.iter().copied().collect();
            let version = object.version();
            let hand_over = HandOver { version, object, waiting, deadline };
            self.operations.hand_overs.insert(key.clone(), hand_over);
            for node in homes {
                let pending = Pending::HandOver { key: key.clone(), node };
                self.request(node, &message, &bytes, pending, world);
            }
        }
    }

    pub(crate) fn give_up_hand_over(&mut self, key: &Key) {
        self.operations.hand_overs.remove(key);
    }

    /// A home replica holds such a row, or will not: it is dropped when all do, if it is still what
    /// was sent, and still not this node's.
    pub(crate) fn on_handed_over(
        &mut self,
        key: &Key,
        node: NodeId,
        is_stored: bool,
        world: &mut World,
    ) {
        if !is_stored {
            return self.give_up_hand_over(key);
        }
        let Some(hand_over) = self.operations.hand_overs.get_mut(key) else { return };
        hand_over.waiting.remove(&node);
        if !hand_over.waiting.is_empty() {
            return;
        }
        let (version, object) = (hand_over.version, hand_over.object.clone());
        self.operations.hand_overs.remove(key);
        let is_still = self.store.version(key) == version && !self.store.has_failed();
        if is_still && !self.is_home(key, world) {
            world.note(format_args!("{} drops {key}, which it does not own", self.id));
            self.disturb(key, world);
            world.gives_up(self.id, &object);
            self.store.put(Slot::home(key), None);
            self.begin_sync(world);
        }
    }
}

/// What holds for a bucket for which nobody has set anything.
fn defaults(world: &World) -> Properties {
    world.setup.properties(world.setup.n)
}
