//! One node's disk in memory: rows with their Merkle leaves, and a log whose unsynced tail is lost
//! in a crash.
//!
//! A write changes the rows at once (reads may show what is not yet durable) and appends to the
//! log, together with its change of the leaves. A sync makes durable what was written *before the
//! sync began*. A crash keeps some prefix of the rest, as a write-ahead log does: the order is
//! kept, the end is lost.

use std::collections::{BTreeMap, VecDeque};

use bytes::BytesMut;
use quorate_protocol::exchange::{Page, row_order};
use quorate_protocol::name::{Key, NodeId};
use quorate_protocol::object::Version;
use quorate_protocol::row::Row;
use quorate_protocol::time::WallTime;
use quorate_protocol::tree::{LEAVES, LeafSet, Leaves, Tree, leaf_hash, leaf_of};

use crate::dice::Dice;
use crate::mutations::Mutation;
use crate::setup::PARTITIONS;

/// Where a row is stored: among the node's own rows, or among its hints for a target.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Slot {
    pub(crate) key: Key,
    /// The node the hint is for; `None` for an own row.
    pub(crate) target: Option<NodeId>,
}

impl Slot {
    pub(crate) fn home(key: &Key) -> Self {
        Self { key: key.clone(), target: None }
    }
}

/// Rows by slot.
pub(crate) type Rows = BTreeMap<Slot, Row>;

/// The contents of a disk.
#[derive(Clone, Default)]
pub(crate) struct Image {
    rows: Rows,
    /// Leaves that are not zero.
    leaves: BTreeMap<(Tree, u8), u128>,
    /// When the node last recorded that it runs, by its own clock.
    alive_at: WallTime,
}

/// One atomic change of the disk: after a crash all of it is there, or none.
enum Change {
    Row { slot: Slot, row: Option<Row>, leaves: Vec<LeafChange> },
    Alive(WallTime),
}

/// A change of one leaf.
enum LeafChange {
    Toggle((Tree, u8), u128),
    /// Only a mutation writes a whole leaf.
    Set((Tree, u8), u128),
}

/// The store of one node.
#[derive(Default)]
pub(crate) struct Store {
    image: Image,
    durable: Image,
    /// Changes not yet durable, oldest first.
    tail: VecDeque<Change>,
    /// The sequence number of the last change.
    written: u64,
    /// Whether a sync failed: nothing is written or becomes durable until the store is reopened.
    failed: bool,
    /// The mutation that is switched on, if any.
    mutation: Option<Mutation>,
}

/// A copy of what was durable.
#[derive(Clone)]
pub(crate) struct Backup {
    image: Image,
    written: u64,
}

impl Backup {
    /// The sequence number of its last change.
    pub(crate) fn sequence(&self) -> u64 {
        self.written
    }
}

impl Store {
    /// An empty disk.
    pub(crate) fn new(mutation: Option<Mutation>) -> Self {
        Self { mutation, ..Self::default() }
    }

    /// The row as last written.
    pub(crate) fn get(&self, slot: &Slot) -> Option<&Row> {
        self.image.rows.get(slot)
    }

    /// All rows as last written.
    pub(crate) fn rows(&self) -> &Rows {
        &self.image.rows
    }

    /// The rows that survive any crash.
    pub(crate) fn durable(&self) -> &Rows {
        &self.durable.rows
    }

    /// The version of a key's home row as last written.
    pub(crate) fn version(&self, key: &Key) -> Version {
        self.get(&Slot::home(key)).map_or(Version::ABSENT, |row| row.object.version())
    }

    /// Writes or drops a row, and changes the leaves that count it.
    pub(crate) fn put(&mut self, slot: Slot, row: Option<Row>) {
        let mut leaves = Vec::new();
        if slot.target.is_none() {
            for row in self.image.rows.get(&slot).into_iter().chain(&row) {
                let place = (tree_of(&slot.key, row.tree), leaf_of(&slot.key));
                leaves.push(LeafChange::Toggle(place, leaf_hash(&slot.key, row.object.version())));
            }
        }
        match self.mutation {
            Some(Mutation::LeafNotUpdated) => {
                // In a separate batch: a crash may happen in between.
                self.write(Change::Row {
                    slot: slot.clone(),
                    row: row.clone(),
                    leaves: Vec::new(),
                });
                self.write(Change::Row { slot, row, leaves });
            }
            Some(Mutation::LeafReadThenWritten) => {
                let leaves = self.leaves_written_whole(leaves);
                self.write(Change::Row { slot, row, leaves });
            }
            Some(_) | None => self.write(Change::Row { slot, row, leaves }),
        }
    }

    /// The mutation: the leaf is read as last synced and written back as a whole.
    fn leaves_written_whole(&self, changes: Vec<LeafChange>) -> Vec<LeafChange> {
        let mut whole: BTreeMap<(Tree, u8), u128> = BTreeMap::new();
        for change in changes {
            let LeafChange::Toggle(place, hash) = change else { continue };
            let read = || self.durable.leaves.get(&place).copied().unwrap_or_default();
            *whole.entry(place).or_insert_with(read) ^= hash;
        }
        whole.into_iter().map(|(place, leaf)| LeafChange::Set(place, leaf)).collect()
    }

    /// Records that the node runs.
    pub(crate) fn mark_alive(&mut self, now: WallTime) {
        self.write(Change::Alive(now));
    }

    /// When that was last recorded.
    pub(crate) fn alive_at(&self) -> WallTime {
        self.image.alive_at
    }

    /// A sync fails.
    pub(crate) fn fail(&mut self) {
        self.failed = true;
    }

    /// Whether a sync has failed.
    pub(crate) fn has_failed(&self) -> bool {
        self.failed
    }

    fn write(&mut self, change: Change) {
        assert!(!self.failed, "a store that failed takes no writes");
        self.image.apply(&change);
        self.tail.push_back(change);
        self.written += 1;
    }

    /// The number of the last change: durable once [`Store::sync`] was called with it.
    pub(crate) fn written(&self) -> u64 {
        self.written
    }

    /// The number of the last change that survives any crash.
    pub(crate) fn durable_at(&self) -> u64 {
        self.written - self.tail.len() as u64
    }

    /// Whether the change with this number is durable.
    pub(crate) fn is_durable(&self, change: u64) -> bool {
        change <= self.durable_at()
    }

    /// Makes every change up to this number durable.
    pub(crate) fn sync(&mut self, upto: u64) {
        assert!(!self.failed, "a failed sync is not tried again");
        while !self.is_durable(upto) {
            let Some(change) = self.tail.pop_front() else { return };
            self.durable.apply(&change);
        }
    }

    /// Loses power: some of the unsynced changes are lost, the newest first. Returns how many.
    pub(crate) fn crash(&mut self, dice: &mut Dice) -> u64 {
        self.failed = false; // the next start finds what the disk has
        let lost = dice.between(0, self.tail.len() as u64);
        self.sync(self.written - lost);
        self.tail.clear();
        self.written -= lost;
        self.image = self.durable.clone();
        self.image.rows.values_mut().for_each(|row| *row = reread(row));
        lost
    }

    /// A copy of the disk: only what is durable.
    pub(crate) fn backup(&self) -> Backup {
        Backup { image: self.durable.clone(), written: self.durable_at() }
    }

    /// The disk is replaced by a copy.
    pub(crate) fn restore(&mut self, backup: Backup) {
        self.failed = false;
        self.tail.clear();
        (self.image, self.durable) = (backup.image.clone(), backup.image);
        self.written = backup.written;
    }

    /// Drops all rows, durably.
    pub(crate) fn discard_rows(&mut self) {
        let alive_at = self.image.alive_at;
        self.sync(self.written);
        self.image = Image { alive_at, ..Image::default() };
        self.durable = self.image.clone();
        self.written += 1;
    }

    /// The leaves of a tree.
    pub(crate) fn leaves(&self, tree: Tree) -> Leaves {
        let mut leaves = Leaves::default();
        let of_tree = self.image.leaves.range((tree, 0)..=(tree, u8::MAX));
        of_tree.for_each(|((_, leaf), value)| leaves.toggle(*leaf, *value));
        leaves
    }

    /// The keys of some leaves with their versions, in row order, at most `limit`.
    pub(crate) fn list(
        &self,
        tree: Tree,
        leaves: LeafSet,
        after: Option<&Key>,
        limit: usize,
    ) -> Page {
        let rows = self.image.rows.iter().filter(|(slot, row)| {
            slot.target.is_none()
                && tree_of(&slot.key, row.tree) == tree
                && leaves.contains(leaf_of(&slot.key))
                && after.is_none_or(|after| row_order(&slot.key, after).is_gt())
        });
        let mut versions: Vec<(Key, Version)> =
            rows.map(|(slot, row)| (slot.key.clone(), row.object.version())).collect();
        versions.sort_by(|(a, _), (b, _)| row_order(a, b));
        let is_end = versions.len() <= limit;
        versions.truncate(limit);
        Page { versions, is_end }
    }

    /// The first leaf that does not match the rows.
    pub(crate) fn wrong_leaf(&self) -> Option<(Tree, u8)> {
        let mut told = Image { leaves: self.image.leaves.clone(), ..Image::default() };
        for (slot, row) in self.image.rows.iter().filter(|(slot, _)| slot.target.is_none()) {
            let place = (tree_of(&slot.key, row.tree), leaf_of(&slot.key));
            told.change_leaf(place, |leaf| leaf ^ leaf_hash(&slot.key, row.object.version()));
        }
        told.leaves.into_keys().next()
    }
}

impl Image {
    fn apply(&mut self, change: &Change) {
        match change {
            Change::Alive(now) => self.alive_at = *now,
            Change::Row { slot, row, leaves } => {
                match row {
                    Some(row) => self.rows.insert(slot.clone(), row.clone()),
                    None => self.rows.remove(slot),
                };
                for leaf in leaves {
                    match leaf {
                        LeafChange::Toggle(place, hash) => {
                            self.change_leaf(*place, |leaf| leaf ^ hash)
                        }
                        LeafChange::Set(place, value) => self.change_leaf(*place, |_| *value),
                    }
                }
            }
        }
    }

    fn change_leaf(&mut self, place: (Tree, u8), change: impl Fn(u128) -> u128) {
        let leaf = self.leaves.entry(place).or_default();
        *leaf = change(*leaf);
        if *leaf == 0 {
            self.leaves.remove(&place);
        }
    }
}

/// The tree that counts a key's rows if its bucket has `n` replicas.
pub(crate) fn tree_of(key: &Key, n: u16) -> Tree {
    Tree { partition: key.partition(PARTITIONS), n }
}

/// A row as a restarted node reads it from its disk.
fn reread(row: &Row) -> Row {
    let mut bytes = BytesMut::new();
    row.encode(&mut bytes);
    match Row::decode(bytes.freeze()) {
        Ok(again) => {
            assert!(again == *row, "a row comes back from the disk as it was written");
            again
        }
        Err(error) => unreachable!("a row that was encoded does not decode: {error}"),
    }
}

const _: () = assert!(LEAVES == 256, "a leaf is named by one byte");

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    fn slot(key: &str) -> Slot {
        Slot::home(&Key::new("b", key.as_bytes()).unwrap())
    }

    fn row() -> Option<Row> {
        Some(Row { tree: 3, ..Row::default() })
    }

    #[test]
    fn a_crash_takes_only_what_was_written_after_the_sync_began() {
        let mut dice = Dice::new(1);
        for _ in 0..50 {
            let mut store = Store::default();
            store.put(slot("a"), row());
            let upto = store.written();
            store.put(slot("b"), row());
            store.put(slot("c"), row());
            store.sync(upto);
            store.crash(&mut dice);
            assert!(store.get(&slot("a")).is_some());
            // The log keeps its order: a later change never survives without the earlier ones.
            assert!(store.get(&slot("b")).is_some() || store.get(&slot("c")).is_none());
            assert!(store.is_durable(store.written()));
            assert_eq!(store.wrong_leaf(), None);
        }
    }

    #[test]
    fn a_row_counts_in_one_leaf_of_the_tree_it_is_in() {
        let mut store = Store::default();
        let key = slot("a").key;
        store.put(slot("a"), row());
        assert_ne!(store.leaves(tree_of(&key, 3)), Leaves::default());
        store.put(slot("a"), Some(Row { tree: 5, ..Row::default() }));
        assert_eq!(store.leaves(tree_of(&key, 3)), Leaves::default());
        assert_eq!(store.wrong_leaf(), None);
        store.put(slot("a"), None);
        assert_eq!(store.leaves(tree_of(&key, 5)), Leaves::default());
        let backup = store.backup();
        assert_eq!((backup.written, backup.image.rows.len()), (0, 0), "nothing was synced");
    }
}
