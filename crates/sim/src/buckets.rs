//! What a simulated node knows of its bucket's n, and what a change of n entails: rows move to
//! another Merkle tree, new home replicas fill, former ones hand their rows over and drop them.
//! `cluster/buckets.rs` and `repair/reassign.rs` in the engine.

use std::collections::BTreeMap;

use quorate_protocol::bucket::{Properties, Settings};
use quorate_protocol::bucket_table::Table;
use quorate_protocol::message::{Cluster, ClusterReply, Data, Message, Reply};
use quorate_protocol::name::{Bucket, Key, NodeId};
use quorate_protocol::object::{Object, Version};
use quorate_protocol::put::Role;
use quorate_protocol::quorum::QuorumError;
use quorate_protocol::reassign::{self, Assignment, ReplicaCounts};
use quorate_protocol::row::Row;
use quorate_protocol::terms::{QuorumOptions, Terms};
use quorate_protocol::time::Uptime;

use crate::mutations::Mutation;
use crate::node::{Node, Pending};
use crate::replica::Waiter;
use crate::setup::BUCKET;
use crate::store::Slot;
use crate::world::{Claim, World};

/// The bucket table as a node has recorded it.
#[derive(Clone, Default)]
pub(crate) struct Buckets {
    table: Table,
    /// The n according to the table.
    n: u16,
    /// The bucket, if its n was raised, and how many home replicas have received all writes; until
    /// this node has fetched what it must hold.
    raised: BTreeMap<Bucket, u16>,
    /// Whether rows are in the tree of the current n.
    pub(crate) assignment: Assignment,
    /// The n by which they last were; only a mutation uses it.
    settled_n: u16,
}

/// A row being sent to its home replicas, to be dropped once all of them hold it.
pub(crate) struct HandOver {
    row: reassign::HandOver,
    object: Object,
    deadline: Uptime,
}

/// Rows being handed over, by key.
pub(crate) type HandOvers = BTreeMap<Key, HandOver>;

impl Buckets {
    /// No bucket has been configured yet.
    pub(crate) fn new(world: &World) -> Self {
        let n = world.setup.n;
        let ns = ReplicaCounts::of(
            &Table::default(),
            (&defaults(world), world.setup.layout.node_count()),
        );
        let assignment = Assignment::without_rows(ns);
        Self { n, settled_n: n, assignment, ..Self::default() }
    }

    /// Equal for equal tables.
    pub(crate) fn hash(&self) -> u64 {
        self.table.hash()
    }

    /// How many home replicas had received all writes when n was raised, if this node has not yet
    /// fetched what it must hold since.
    pub(crate) fn raised_from(&self) -> Option<u16> {
        self.raised.values().next().copied()
    }

    /// A different number after every change of n.
    pub(crate) fn changed(&self) -> u64 {
        self.assignment.last_change_of(BUCKET)
    }

    /// This node has fetched what it must hold since n was raised.
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

    /// The nodes and counts of a read of a key, as far as this node knows.
    pub(crate) fn read_terms(
        &self,
        key: &Key,
        asked: &QuorumOptions,
        world: &World,
    ) -> Result<Terms, QuorumError> {
        let setup = &world.setup;
        Terms::of_read(asked, &setup.properties(self.n()), setup.all_preferred(key))
    }

    /// The same for a write.
    pub(crate) fn write_terms(
        &self,
        key: &Key,
        asked: &QuorumOptions,
        world: &World,
    ) -> Result<Terms, QuorumError> {
        let setup = &world.setup;
        Terms::of_write(asked, &setup.properties(self.n()), setup.all_preferred(key))
    }

    /// Whether this node is a home replica of a key, as far as it knows.
    pub(crate) fn is_home(&self, key: &Key, world: &World) -> bool {
        self.preference_list(key, world).0.contains(&self.id)
    }

    /// Whether this node may answer for a key, including that it is absent.
    pub(crate) fn is_ready_for(&self, key: &Key, world: &World) -> bool {
        let trusted_n = self.records.buckets.raised_from().unwrap_or(self.n()).min(self.n());
        let (homes, _) = world.setup.preference_list(key, trusted_n);
        self.is_admitted()
            && !self.records.missing.contains(&key.partition(world.setup.layout.partitions()))
            && homes.contains(&self.id)
    }

    /// A client sets the bucket's n through this node.
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
        let message = Message::Cluster(Cluster::Buckets { table: change, want_all: false });
        let me = self.id;
        for peer in world.setup.nodes.clone().into_iter().filter(|peer| *peer != me) {
            self.request(peer, &message, &[], Pending::Buckets, world);
        }
    }

    /// A peer has a different bucket table.
    pub(crate) fn agree_on_buckets(&mut self, peer: NodeId, world: &mut World) {
        let table = self.records.buckets.table.clone();
        let message = Message::Cluster(Cluster::Buckets { table, want_all: true });
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
        world.reply(self.id, back, &Reply::Cluster(ClusterReply::Buckets { table }), &[]);
    }

    /// Adopts newer records.
    pub(crate) fn merge_buckets(&mut self, other: &Table, world: &mut World) {
        if self.store.has_failed() {
            return; // it could not record them
        }
        let buckets = &mut self.records.buckets;
        let before = buckets.n;
        let (defaults, nodes) = (defaults(world), world.setup.layout.node_count());
        buckets.table.learn(other, &mut buckets.raised, (&defaults, nodes));
        let n = buckets.table.settings(BUCKET).over(&defaults, nodes).n;
        let ns = ReplicaCounts::of(&buckets.table, (&defaults, nodes));
        buckets.assignment.change(&ns);
        if world.has(Mutation::ReversalForgotten) && n == buckets.settled_n {
            buckets.assignment = Assignment::without_rows(ns);
        }
        buckets.n = n;
        if n != before {
            world.note(format_args!("{} learns n={n}", self.id));
        }
    }

    /// Scans some rows and moves them to the tree of their bucket's n, if a pass is due.
    pub(crate) fn reassign(&mut self, world: &mut World) {
        if self.store.has_failed() {
            return;
        }
        let due = || self.records.buckets.assignment.next_pass().map(|pass| (pass, None));
        let Some((pass, after)) = self.passing.take().or_else(due) else { return };
        let n = self.n();
        let is_next = |(slot, _): &(&Slot, &Row)| {
            slot.target.is_none() && after.as_ref().is_none_or(|after| *slot > after)
        };
        let mut rows = self.store.rows().iter().filter(is_next);
        let some = rows.by_ref().take(world.setup.page_max);
        let some: Vec<(Slot, Row)> = some.map(|(slot, row)| (slot.clone(), row.clone())).collect();
        let is_end = rows.next().is_none();
        let last = some.last().map(|(slot, _)| slot.clone());
        for (slot, row) in some.into_iter().filter(|(_, row)| row.tree != n) {
            self.store.put(slot, Some(Row { tree: n, ..row }));
        }
        if is_end {
            self.when_durable(Waiter::Passed(pass), world);
        } else {
            self.passing = Some((pass, last));
            self.begin_sync(world);
        }
    }

    /// A pass has moved all rows, durably.
    pub(crate) fn on_passed(&mut self, pass: &reassign::Pass, world: &mut World) {
        let buckets = &mut self.records.buckets;
        if buckets.assignment.finish_pass(pass) && buckets.assignment.is_settled() {
            buckets.settled_n = buckets.n;
            world.note(format_args!("{} has its rows in the tree of n={}", self.id, buckets.n));
        }
    }

    /// The keys whose rows this node no longer owns.
    pub(crate) fn unowned(&self, world: &World) -> Vec<Key> {
        let keys = self.store.rows().keys().filter(|slot| slot.target.is_none());
        keys.filter(|slot| !self.is_home(&slot.key, world)).map(|slot| slot.key.clone()).collect()
    }

    /// Sends rows that this node no longer owns to their home replicas.
    pub(crate) fn hand_over(&mut self, world: &mut World) {
        if !self.is_admitted() {
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
            let Some(row) = reassign::HandOver::start(object.version(), &homes, self.id) else {
                continue;
            };
            let read_at = self.wall(world.now);
            let message =
                Message::Data(Data::Store { key: key.clone(), role: Role::Home, read_at });
            let bytes = object.to_bytes();
            let deadline = world.now.plus(world.setup.request_timeout_ms);
            let version = object.version();
            let hand_over = HandOver { row, object, deadline };
            self.operations.hand_overs.insert(key.clone(), hand_over);
            for node in homes {
                let pending = Pending::HandOver { key: key.clone(), node, version };
                self.request(node, &message, &bytes, pending, world);
            }
        }
    }

    pub(crate) fn abort_hand_over(&mut self, key: &Key) {
        self.operations.hand_overs.remove(key);
    }

    /// A home replica holds such a row, or refuses it: the row is dropped once all hold it, if that
    /// is still allowed.
    pub(crate) fn on_handed_over(
        &mut self,
        key: &Key,
        (node, version): (NodeId, Version),
        is_stored: bool,
        world: &mut World,
    ) {
        let hand_over = self.operations.hand_overs.get_mut(key);
        // An answer may be about an earlier version.
        let Some(hand_over) = hand_over.filter(|h| h.row.version() == version) else { return };
        if !is_stored {
            return self.abort_hand_over(key);
        }
        hand_over.row.on_stored(node);
        if !hand_over.row.is_held() && !world.has(Mutation::HandedOverToOne) {
            return;
        }
        let (row, object) = (hand_over.row.clone(), hand_over.object.clone());
        self.operations.hand_overs.remove(key);
        let (version, homes) =
            (self.store.version(key), self.preference_list(key, world).0.to_vec());
        let may_drop = match world.mutation {
            Some(Mutation::HandedOverToOne) => {
                row.version() == version && !homes.contains(&self.id)
            }
            Some(Mutation::DroppedThoughOwned) => row.version() == version,
            Some(_) | None => row.may_drop(version, &homes, self.id),
        };
        if may_drop && !self.store.has_failed() {
            world.note(format_args!("{} drops {key}, which it does not own", self.id));
            self.record_drop(key, world);
            world.dropped(self.id, key, &object);
            world.claims.push(Claim::Dropped { node: self.id, key: key.clone(), object, homes });
            self.store.put(Slot::home(key), None);
            self.begin_sync(world);
        }
    }
}

/// The properties of a bucket that has not been configured.
fn defaults(world: &World) -> Properties {
    world.setup.properties(world.setup.n)
}
