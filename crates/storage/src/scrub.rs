//! The scrub: compares trees and indexes with the rows they are derived from, and repairs them.
//!
//! Rows, leaves and index entries change in one batch, so in one snapshot they must agree. A leaf is repaired
//! by XORing the difference, which is correct whatever has been written since. An index entry is rebuilt from
//! its row, under the row's stripe. A difference is a bug in this crate or a fault of the disk, never a race.
//!
//! A partition is scrubbed in pieces of some leaves, each with its own snapshot, then its tombstone index, so
//! that the caller can throttle it.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, PoisonError};

use bytes::Bytes;
use quorate_protocol::layout::Partition;
use quorate_protocol::name::Key;
use quorate_protocol::object::DecodeError;
use quorate_protocol::row::Row;
use quorate_protocol::tree::{Leaves, Tree, leaf_hash, leaf_of};

use crate::backend::{Range, Snapshot};
use crate::columns::{Column, expiry_key, key_of, leaf_entry, leaf_key, tombstone_key};
use crate::disk::Need;
use crate::error::Error;
use crate::index::{Entries, Listing, encode_tombstone};
use crate::options::{Blocking, Place};
use crate::secondary_index;
use crate::store::{Store, undecodable};
use crate::walk::next_of;

/// The most index entries that one piece repairs, which bounds its memory; the next scrub repairs
/// the rest.
const REPAIRS_MAX: usize = 10_000;

/// What a scrub of one partition found.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Scrubbed {
    /// Rows it read.
    pub rows: u64,
    /// Their bytes.
    pub bytes: u64,
    /// Rows that cannot be decoded. They are left unchanged; reads of them fail, and do not answer "absent".
    pub damaged_rows: u64,
    /// Rows that a newer release wrote. They are left unchanged like damaged ones, and so are the
    /// leaves of those whose tree is unknown.
    pub newer_rows: u64,
    /// Rows that were in a different tree than that of their bucket's n. They are moved.
    pub moved_rows: u64,
    /// Leaves that disagreed with the rows. They are repaired.
    pub differing_leaves: u64,
    /// Rows whose index entries disagreed with them. They are repaired.
    pub differing_entries: u64,
}

/// Where the scrub of a partition continues.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ScrubFrom {
    /// At the rows of this leaf.
    Leaf(u8),
    /// In the tombstone index, after this key.
    Tombstones(Option<Key>),
}

impl Scrubbed {
    /// Adds the findings of another piece.
    pub fn add(&mut self, other: Self) {
        self.rows += other.rows;
        self.bytes += other.bytes;
        self.damaged_rows += other.damaged_rows;
        self.newer_rows += other.newer_rows;
        self.moved_rows += other.moved_rows;
        self.differing_leaves += other.differing_leaves;
        self.differing_entries += other.differing_entries;
    }

    /// How much was wrong and has been repaired.
    pub fn repaired(&self) -> u64 {
        self.moved_rows + self.differing_leaves + self.differing_entries
    }
}

/// One piece of a scrub: some leaves of one partition, in one snapshot.
struct Piece<'a> {
    store: &'a Store,
    snapshot: Arc<Snapshot<'a>>,
    partition: Partition,
    found: Scrubbed,
    /// By n: the XOR of the leaves computed from the rows and the stored ones.
    differences: BTreeMap<u16, Leaves>,
    /// Leaves with a row whose tree and version are unknown, because a newer release wrote it.
    unknown: BTreeSet<u8>,
    /// Keys whose index entries must be rebuilt.
    suspect: BTreeSet<Key>,
    /// Keys whose rows are in a different tree than that of their bucket's n.
    misplaced: BTreeSet<Key>,
}

impl Store {
    /// Compares the trees and the indexes of one partition with its rows, and repairs differences: at least
    /// one leaf, and more until `is_time_over`. Returns where to continue; `None` at the end. Entries without
    /// a row are found only in the tombstone index. Reads every row: throttle it. Blocks on the disk.
    ///
    /// # Errors
    /// [`Error::Damaged`] if the disk returns other bytes than were written, [`Error::Io`], those of a write.
    pub fn scrub_some(
        &self,
        partition: Partition,
        from: ScrubFrom,
        is_time_over: impl Fn() -> bool,
    ) -> Result<(Scrubbed, Option<ScrubFrom>), Error> {
        // Two concurrent scrubs would both XOR a leaf, which undoes the repair.
        let _alone = self.scrubbing.lock().unwrap_or_else(PoisonError::into_inner);
        let mut piece = Piece {
            store: self,
            snapshot: Arc::new(self.engine.snapshot()?),
            partition,
            found: Scrubbed::default(),
            differences: BTreeMap::new(),
            unknown: BTreeSet::new(),
            suspect: BTreeSet::new(),
            misplaced: BTreeSet::new(),
        };
        let next = match from {
            ScrubFrom::Leaf(first) => {
                let last = piece.read_rows(first, is_time_over)?;
                piece.read_leaves(first, last)?;
                let next = last.checked_add(1).map(ScrubFrom::Leaf);
                Some(next.unwrap_or(ScrubFrom::Tombstones(None)))
            }
            ScrubFrom::Tombstones(after) => {
                let last = piece.read_tombstones(after.as_ref(), is_time_over)?;
                last.map(|key| ScrubFrom::Tombstones(Some(key)))
            }
        };
        let Piece { mut found, differences, unknown, suspect, misplaced, .. } = piece;
        found.differing_leaves = self.repair_leaves(partition, &differences, &unknown)?;
        for key in suspect {
            let were_wrong = self.rebuild_entries(partition, &key)?;
            if were_wrong {
                tracing::error!(%key, "repaired index entries");
            }
            found.differing_entries += u64::from(were_wrong);
        }
        for key in misplaced {
            found.moved_rows += u64::from(self.move_to_tree(&key, Tree { partition, n: 0 })?);
        }
        Ok((found, next))
    }

    fn repair_leaves(
        &self,
        partition: Partition,
        differences: &BTreeMap<u16, Leaves>,
        unknown: &BTreeSet<u8>,
    ) -> Result<u64, Error> {
        let trees = self.trees.partition(partition)?;
        let (mut batch, mut toggles) = (self.engine.batch(), Vec::new());
        for (n, leaves) in differences {
            let differing = Leaves::default().differing(leaves);
            for leaf in differing.iter().filter(|leaf| !unknown.contains(leaf)) {
                let change = leaves.get(leaf);
                let key = leaf_key(Tree { partition, n: *n }, leaf);
                batch.merge(Column::Merkle, key, change.to_le_bytes())?;
                toggles.push((trees.tree(*n).leaf(leaf), change));
            }
        }
        if toggles.is_empty() {
            return Ok(0);
        }
        tracing::error!(partition = partition.0, leaves = toggles.len(), "repaired Merkle leaves");
        self.disk.check(Need::Record)?;
        self.engine.write(batch, Blocking::Allowed)?;
        toggles.iter().for_each(|(leaf, change)| leaf.toggle(*change));
        Ok(toggles.len() as u64)
    }

    /// Rebuilds the index entries of a key. Returns whether they were wrong.
    pub(crate) fn rebuild_entries(&self, partition: Partition, key: &Key) -> Result<bool, Error> {
        let place = Place::Home(Tree { partition, n: 0 });
        let row_key = place.row_key(key);
        let _stripe = self.stripes.lock(&row_key, Blocking::Allowed)?;
        let wanted =
            self.entries_of(place, key)?.map_err(|error| undecodable(place, key, error))?;
        let (mut batch, mut tombstones) = (self.engine.batch(), 0);
        for (column, entry_key, entry) in index_entries(partition, key, &wanted) {
            let stored = self.engine.get(column, &entry_key, Blocking::Allowed)?;
            if stored.as_deref() == entry.as_deref() {
                continue;
            }
            match &entry {
                Some(entry) => batch.put(column, &entry_key, entry)?,
                None => batch.delete(column, &entry_key)?,
            }
            if column == Column::Tombstones {
                tombstones = i64::from(entry.is_some()) - i64::from(stored.is_some());
            }
        }
        if batch.is_empty() {
            return Ok(false);
        }
        self.disk.check(Need::Record)?;
        self.engine.write(batch, Blocking::Allowed)?;
        self.trees.partition(partition)?.count_tombstones(tombstones);
        Ok(true)
    }
}

impl Piece<'_> {
    /// Reads the rows from a leaf on. Returns the last leaf that was read completely.
    fn read_rows(&mut self, first: u8, is_time_over: impl Fn() -> bool) -> Result<u8, Error> {
        let place = Place::Home(Tree { partition: self.partition, n: 0 });
        let (prefix, from) = (place.prefix(), [&place.prefix()[..], &[first]].concat());
        let (mut leaf_at, mut stopped) = (first, None);
        self.each(Column::Objects, (&from, &prefix), |piece, row_key, bytes| {
            let key = key_of(Column::Objects, row_key, place.key_at())?;
            let leaf = leaf_of(&key);
            if leaf > leaf_at && is_time_over() {
                stopped = leaf.checked_sub(1);
                return Ok(false);
            }
            leaf_at = leaf;
            piece.read_row(key, bytes)?;
            Ok(true)
        })?;
        Ok(stopped.unwrap_or(u8::MAX))
    }

    fn read_row(&mut self, key: Key, bytes: &[u8]) -> Result<(), Error> {
        self.found.rows += 1;
        self.found.bytes += bytes.len() as u64;
        if let Some((n, version)) = Row::encoded_tree(bytes).zip(Row::encoded_version(bytes)) {
            let leaves = self.differences.entry(n).or_default();
            leaves.toggle(leaf_of(&key), leaf_hash(&key, version));
        }
        let row = match Row::decode(Bytes::copy_from_slice(bytes)) {
            Ok(row) => row,
            Err(error) => {
                tracing::error!(%key, partition = self.partition.0, %error, "a row cannot be read");
                if matches!(error, DecodeError::RowFormat(_)) {
                    self.unknown.insert(leaf_of(&key));
                }
                let is_newer = error.is_newer();
                self.found.newer_rows += u64::from(is_newer);
                self.found.damaged_rows += u64::from(!is_newer);
                return Ok(());
            }
        };
        let n = self.store.n_of.get().map(|n_of| n_of(key.bucket()));
        if n.is_some_and(|n| n != row.tree) && self.misplaced.len() < REPAIRS_MAX {
            self.misplaced.insert(key.clone());
        }
        self.compare_entries(key, &Entries::of(&row, bytes))
    }

    fn compare_entries(&mut self, key: Key, wanted: &Entries) -> Result<(), Error> {
        for (column, entry_key, entry) in index_entries(self.partition, &key, wanted) {
            if self.snapshot.get(column, &entry_key)? != entry {
                self.mark_suspect(key);
                return Ok(());
            }
        }
        Ok(())
    }

    /// Reads the stored leaves of a range.
    fn read_leaves(&mut self, first: u8, last: u8) -> Result<(), Error> {
        let prefix = self.partition.0.to_be_bytes();
        self.each(Column::Merkle, (&prefix, &prefix), |piece, key, value| {
            let (tree, leaf, value) = leaf_entry(key, value)?;
            if (first..=last).contains(&leaf) {
                piece.differences.entry(tree.n).or_default().toggle(leaf, value);
            }
            Ok(true)
        })
    }

    /// Finds tombstone entries whose rows are missing or disagree. Returns the last one that was
    /// read, if there are more.
    fn read_tombstones(
        &mut self,
        after: Option<&Key>,
        is_time_over: impl Fn() -> bool,
    ) -> Result<Option<Key>, Error> {
        let (prefix, partition) = (self.partition.0.to_be_bytes(), self.partition);
        let from = after.map(|key| next_of(&tombstone_key(partition, key)));
        let from = from.unwrap_or_else(|| prefix.to_vec());
        let (mut last, mut is_more) = (None, false);
        self.each(Column::Tombstones, (&from, &prefix), |piece, entry_key, entry| {
            is_more = last.is_some() && is_time_over();
            if is_more {
                return Ok(false);
            }
            let key = key_of(Column::Tombstones, entry_key, prefix.len())?;
            if !piece.is_tombstone(&key, entry)? {
                piece.mark_suspect(key.clone());
            }
            last = Some(key);
            Ok(true)
        })?;
        Ok(last.filter(|_| is_more))
    }

    /// Whether a key's row has this entry in the tombstone index. For a row that cannot be read that is
    /// unknown: the entry is kept.
    fn is_tombstone(&self, key: &Key, entry: &[u8]) -> Result<bool, Error> {
        let place = Place::Home(Tree { partition: self.partition, n: 0 });
        let row = self.snapshot.get(Column::Objects, &place.row_key(key))?;
        let Some(bytes) = row.map(Bytes::from) else { return Ok(false) };
        let Ok(row) = Row::decode(bytes.clone()) else { return Ok(true) };
        let wanted = Entries::of(&row, &bytes).tombstone.map(encode_tombstone);
        Ok(wanted.is_some_and(|wanted| wanted == entry))
    }

    fn mark_suspect(&mut self, key: Key) {
        if self.suspect.len() < REPAIRS_MAX {
            self.suspect.insert(key);
        }
    }

    /// Calls `visit` with every entry from `from` on whose key begins with `prefix`, until it
    /// returns `false`.
    fn each(
        &mut self,
        column: Column,
        (from, prefix): (&[u8], &[u8]),
        mut visit: impl FnMut(&mut Self, &[u8], &[u8]) -> Result<bool, Error>,
    ) -> Result<(), Error> {
        let range = Range::from(from.to_vec(), prefix);
        // The snapshot is shared, so that `visit` may use the piece.
        let snapshot = Arc::clone(&self.snapshot);
        snapshot.entries(column, range)?.visit(|key, value| visit(self, key, value))
    }
}

/// The index entries that a key must have: column, key and value of each; `None` for no entry. Without
/// one in the index of what expires, or in a secondary one, nothing is said about that: a stray entry is
/// found where it is used, or by [`Store::scrub_index_some`].
fn index_entries(
    partition: Partition,
    key: &Key,
    entries: &Entries,
) -> impl Iterator<Item = (Column, Vec<u8>, Option<Vec<u8>>)> + use<> {
    let expiry =
        entries.expiry.map(|at| (Column::Expiries, expiry_key(partition, at, key), Some(vec![])));
    let index = secondary_index::wanted(key, entries).into_iter();
    let index = index.map(|(entry_key, entry)| (Column::Index, entry_key, Some(entry)));
    let key_bytes = key.as_bytes().to_vec();
    [
        (
            Column::Conflicts,
            key_bytes.clone(),
            entries.conflict.map(|shown| shown.to_le_bytes().to_vec()),
        ),
        (Column::Keys, key_bytes, entries.key.map(Listing::encode)),
        (
            Column::Tombstones,
            tombstone_key(partition, key),
            entries.tombstone.map(|tombstone| encode_tombstone(tombstone).to_vec()),
        ),
    ]
    .into_iter()
    .chain(expiry)
    .chain(index)
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use quorate_protocol::row::Draft;

    use super::*;
    use crate::Durability;
    use crate::testing::{HOME, LIMITS, NOW, TREE, draft, key, mint, open};

    const CLEAN: Scrubbed = Scrubbed {
        rows: 0,
        bytes: 0,
        damaged_rows: 0,
        newer_rows: 0,
        moved_rows: 0,
        differing_leaves: 0,
        differing_entries: 0,
    };

    /// Scrubs in the smallest pieces, and then as a whole, which must find nothing more.
    fn scrub(store: &Store) -> Scrubbed {
        let (mut found, mut next) = (Scrubbed::default(), Some(ScrubFrom::Leaf(0)));
        while let Some(from) = next {
            let (some, onward) = store.scrub_some(TREE.partition, from, || true).unwrap();
            found.add(some);
            next = onward;
        }
        assert_eq!(store.scrub(TREE.partition).unwrap().repaired(), 0);
        Scrubbed { bytes: 0, ..found }
    }

    /// Ten rows in conflict, and ten deleted ones.
    fn fill(store: &Store, value: &[u8]) {
        for i in 0..10 {
            mint(store, HOME, &format!("k{i}"), value);
            mint(store, HOME, &format!("k{i}"), value);
            let deletion = Draft { value: None, ..draft(Default::default(), b"") };
            let key = key(&format!("d{i}"));
            store.mint(HOME, &key, &deletion, NOW, &LIMITS, Blocking::Allowed).unwrap().unwrap();
        }
    }

    #[test]
    fn differences_are_found_and_repaired() {
        let dir = tempfile::tempdir().unwrap();
        let store = open(dir.path(), Durability::Buffered);
        fill(&store, &[7; 20_000]);
        let clean = Scrubbed { rows: 20, ..CLEAN };
        assert_eq!(scrub(&store), clean);
        let (mut leaves, listed) = (store.leaves(TREE), store.keys("b", "", None, 99).unwrap());
        let conflicts = store.conflicts(None, None, 99).unwrap();
        assert_eq!((listed.len(), conflicts.len()), (10, 10));

        let tombstone = |name| tombstone_key(TREE.partition, &key(name));
        let bytes = store.read(HOME, &key("k0"), Blocking::Allowed).unwrap().unwrap();
        let (other, stray) = (Row::encoded_version(&bytes).unwrap(), Tree { n: 9, ..TREE });
        let lost = key("d9");
        let lost_version = store.versions(&[(HOME, lost.clone())]).unwrap()[0];
        // A leaf that was not updated, one of a tree without rows, and a row that vanished.
        store.tamper(|batch| {
            batch.merge(Column::Merkle, leaf_key(TREE, 7), [1; 16])?;
            batch.merge(Column::Merkle, leaf_key(stray, 8), other.0)?;
            batch.delete(Column::Objects, HOME.row_key(&lost))?;
            batch.delete(Column::Keys, key("k1").as_bytes())?;
            batch.put(Column::Conflicts, key("k2").as_bytes(), [9, 0, 0, 0])?;
            batch.delete(Column::Tombstones, tombstone("d3"))?;
            batch.put(Column::Tombstones, tombstone("k4"), [0; 24])?;
            batch.put(Column::Keys, key("d5").as_bytes(), b"")
        });
        store.sync().unwrap();
        drop(store);

        let store = open(dir.path(), Durability::Buffered);
        let repaired = Scrubbed { rows: 19, differing_leaves: 3, differing_entries: 6, ..CLEAN };
        assert_eq!(scrub(&store), repaired);
        assert_eq!(scrub(&store), Scrubbed { rows: 19, ..CLEAN });
        leaves.toggle(leaf_of(&lost), leaf_hash(&lost, lost_version));
        assert_eq!(store.leaves(TREE), leaves);
        assert_eq!(store.roots().len(), 1);
        assert_eq!(store.keys("b", "", None, 99).unwrap(), listed);
        assert_eq!(store.conflicts(None, None, 99).unwrap(), conflicts);
        assert_eq!(store.tombstone_count(TREE.partition), 9);
        assert_eq!(store.tombstones(TREE.partition, None, 99, NOW).unwrap().len(), 9);
    }

    #[test]
    fn a_row_in_the_tree_of_another_n_is_moved() {
        let dir = tempfile::tempdir().unwrap();
        let store = open(dir.path(), Durability::Buffered);
        fill(&store, b"v");
        store.assign_trees_by(Box::new(|_| 2));
        assert_eq!(scrub(&store), Scrubbed { rows: 20, moved_rows: 20, ..CLEAN });
        assert_eq!(store.roots().iter().map(|(tree, _)| tree.n).collect::<Vec<_>>(), [2]);
    }

    #[test]
    fn a_damaged_row_is_counted_and_left_alone() {
        let dir = tempfile::tempdir().unwrap();
        let store = open(dir.path(), Durability::Buffered);
        fill(&store, b"v");
        let mut row = store.read(HOME, &key("k0"), Blocking::Allowed).unwrap().unwrap().to_vec();
        row.truncate(60);
        store.tamper(|batch| batch.put(Column::Objects, HOME.row_key(&key("k0")), &row));
        assert_eq!(scrub(&store), Scrubbed { rows: 20, damaged_rows: 1, ..CLEAN });
        assert_eq!(store.read(HOME, &key("k0"), Blocking::Allowed).unwrap().unwrap(), row);
    }

    #[test]
    fn scrubs_concurrent_with_writes_and_each_other_find_nothing() {
        let dir = tempfile::tempdir().unwrap();
        let store = open(dir.path(), Durability::Buffered);
        let is_over = std::sync::atomic::AtomicBool::new(false);
        let scrub_on = || {
            while !is_over.load(std::sync::atomic::Ordering::Relaxed) {
                assert_eq!(Scrubbed { rows: 0, ..scrub(&store) }, CLEAN);
            }
        };
        std::thread::scope(|scope| {
            scope.spawn(scrub_on);
            scope.spawn(scrub_on);
            (0..20).for_each(|_| fill(&store, b"v"));
            is_over.store(true, std::sync::atomic::Ordering::Relaxed);
        });
        assert_eq!(scrub(&store), Scrubbed { rows: 20, ..CLEAN });
    }

    crate::testing::also_on_simulated_disks! {
        differences_are_found_and_repaired,
        a_row_in_the_tree_of_another_n_is_moved,
        a_damaged_row_is_counted_and_left_alone,
        scrubs_concurrent_with_writes_and_each_other_find_nothing,
    }
}
