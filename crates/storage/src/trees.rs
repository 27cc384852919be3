//! The Merkle trees of the home rows: in-memory copies of those on the disk.
//!
//! The leaves on the disk change in the batch of the row ([`crate::index`]); those in memory right
//! after it, under the row's stripe. Writers of different rows of one leaf contend only on an
//! atomic XOR. A reader may see a leaf between two writes, or half of one: then two equal trees
//! seem to differ, which the recheck of an exchange resolves. Comparing needs no disk access.
//!
//! 4 KiB per tree; as many trees as partitions of this node times different n of its buckets.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, OnceLock, PoisonError};

use quorate_protocol::layout::Partition;
use quorate_protocol::tree::{LEAVES, Leaves, Root, Tree};

use crate::backend::Range;
use crate::columns::{Column, leaf_entry};
use crate::engine::Engine;
use crate::error::Error;
use crate::store::Store;

/// The trees of all partitions.
pub(crate) struct Trees(Box<[PartitionTrees]>);

/// The trees of one partition, and how many of its rows are deleted.
#[derive(Default)]
pub(crate) struct PartitionTrees {
    tombstones: AtomicU64,
    first: OnceLock<Box<LiveTree>>,
}

/// One tree, and the next of its partition: a list that only grows, so that it needs no lock.
pub(crate) struct LiveTree {
    n: u16,
    leaves: [[AtomicU64; 2]; LEAVES],
    /// How often it changed.
    changes: AtomicU64,
    /// The cached root, and the number of changes it covers.
    root: Mutex<(u64, Root)>,
    next: OnceLock<Box<LiveTree>>,
}

/// A leaf of a tree.
pub(crate) struct LiveLeaf<'a> {
    tree: &'a LiveTree,
    halves: &'a [AtomicU64; 2],
}

impl Trees {
    /// Loads leaves and tombstone counts.
    pub(crate) fn load(engine: &Engine, partitions: u32) -> Result<Self, Error> {
        let trees = Self((0..partitions).map(|_| PartitionTrees::default()).collect());
        engine.entries(Column::Merkle, Range::all())?.visit(|key, value| {
            let (Tree { partition, n }, leaf, value) = leaf_entry(key, value)?;
            trees.partition(partition)?.tree(n).leaf(leaf).toggle(value);
            Ok(true)
        })?;
        engine.entries(Column::Tombstones, Range::all())?.visit(|key, _| {
            let partition = key.first_chunk().map(|bytes| Partition(u16::from_be_bytes(*bytes)));
            trees.partition(partition.unwrap_or(Partition(u16::MAX)))?.count_tombstones(1);
            Ok(true)
        })?;
        Ok(trees)
    }

    /// The trees of a partition.
    ///
    /// # Errors
    /// [`Error::Damaged`] if there is no such partition.
    pub(crate) fn partition(&self, partition: Partition) -> Result<&PartitionTrees, Error> {
        self.0.get(usize::from(partition.0)).ok_or_else(|| Error::Damaged {
            what: format!("a row or an index entry of partition {}", partition.0),
            reason: format!("there are {} partitions", self.0.len()),
        })
    }

    /// Resets all trees to empty.
    pub(crate) fn clear(&self) {
        for partition in &self.0 {
            partition.tombstones.store(0, Ordering::Relaxed);
            for tree in partition.iter() {
                let halves = tree.leaves.iter().flatten();
                halves.for_each(|half| half.store(0, Ordering::Relaxed));
                tree.changes.fetch_add(1, Ordering::AcqRel);
            }
        }
    }

    pub(crate) fn iter(&self) -> impl Iterator<Item = (Tree, &LiveTree)> {
        self.0.iter().enumerate().flat_map(|(partition, trees)| {
            let partition = Partition(partition as u16);
            trees.iter().map(move |tree| (Tree { partition, n: tree.n }, tree))
        })
    }

    fn find(&self, tree: Tree) -> Option<&LiveTree> {
        let trees = self.0.get(usize::from(tree.partition.0))?;
        trees.iter().find(|live| live.n == tree.n)
    }

    /// The number of trees, and the bytes they hold.
    pub(crate) fn size(&self) -> (u64, u64) {
        let trees = self.iter().count() as u64;
        let heads = size_of_val(&*self.0) as u64;
        (trees, heads + trees * size_of::<LiveTree>() as u64)
    }

    /// Tombstones of all partitions.
    pub(crate) fn tombstones(&self) -> u64 {
        self.0.iter().map(PartitionTrees::tombstones).sum()
    }
}

impl PartitionTrees {
    /// The tree of this n; created if there is none.
    pub(crate) fn tree(&self, n: u16) -> &LiveTree {
        let mut slot = &self.first;
        loop {
            let tree = slot.get_or_init(|| Box::new(LiveTree::new(n)));
            if tree.n == n {
                return tree;
            }
            slot = &tree.next;
        }
    }

    /// How many rows are tombstones.
    pub(crate) fn tombstones(&self) -> u64 {
        self.tombstones.load(Ordering::Relaxed)
    }

    pub(crate) fn count_tombstones(&self, change: i64) {
        if change != 0 {
            self.tombstones.fetch_add(change as u64, Ordering::Relaxed); // wraps: may be negative
        }
    }

    fn iter(&self) -> impl Iterator<Item = &LiveTree> {
        std::iter::successors(self.first.get(), |tree| tree.next.get()).map(|tree| &**tree)
    }
}

impl LiveTree {
    fn new(n: u16) -> Self {
        let zero = || AtomicU64::new(0);
        Self {
            n,
            leaves: std::array::from_fn(|_| [zero(), zero()]),
            changes: AtomicU64::new(1),
            root: Mutex::new((0, Root::default())),
            next: OnceLock::new(),
        }
    }

    pub(crate) fn leaf(&self, leaf: u8) -> LiveLeaf<'_> {
        LiveLeaf { tree: self, halves: &self.leaves[usize::from(leaf)] }
    }

    fn leaves(&self) -> Leaves {
        let mut leaves = Leaves::default();
        for leaf in 0..=u8::MAX {
            let [low, high] = &self.leaves[usize::from(leaf)];
            let (low, high) = (low.load(Ordering::Relaxed), high.load(Ordering::Relaxed));
            leaves.toggle(leaf, u128::from(low) | u128::from(high) << 64);
        }
        leaves
    }

    fn root(&self) -> Root {
        // A change is counted after it was made, so a root that includes an uncounted one is
        // recomputed once that is counted.
        let changes = self.changes.load(Ordering::Acquire);
        let mut root = self.root.lock().unwrap_or_else(PoisonError::into_inner);
        if root.0 != changes {
            *root = (changes, self.leaves().root());
        }
        root.1
    }
}

impl LiveLeaf<'_> {
    /// Its value now.
    pub(crate) fn value(&self) -> u128 {
        let [low, high] = self.halves;
        u128::from(low.load(Ordering::Relaxed)) | u128::from(high.load(Ordering::Relaxed)) << 64
    }

    /// Changes the leaf.
    pub(crate) fn toggle(&self, change: u128) {
        let [low, high] = self.halves;
        low.fetch_xor(change as u64, Ordering::Relaxed);
        high.fetch_xor((change >> 64) as u64, Ordering::Relaxed);
        self.tree.changes.fetch_add(1, Ordering::AcqRel);
    }
}

impl Store {
    /// The leaves of a tree, all zero if there is none. Needs no disk.
    pub fn leaves(&self, tree: Tree) -> Leaves {
        self.trees.find(tree).map(LiveTree::leaves).unwrap_or_default()
    }

    /// The root of a tree, that of an empty one if there is none. Needs no disk.
    pub fn root(&self, tree: Tree) -> Root {
        self.trees.find(tree).map(LiveTree::root).unwrap_or_default()
    }

    /// How many deleted rows a partition has. Needs no disk.
    pub fn tombstone_count(&self, partition: Partition) -> u64 {
        self.trees.partition(partition).map_or(0, PartitionTrees::tombstones)
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use std::thread;

    use quorate_protocol::tree::{leaf_hash, leaf_of};

    use super::*;
    use crate::testing::{HOME, TREE, key, mint, open, wait};
    use crate::{Blocking, Durability, Place};

    /// The leaves of [`TREE`] on the disk.
    fn stored(store: &Store) -> Leaves {
        let mut leaves = Leaves::default();
        let entries = store.engine.entries(Column::Merkle, Range::all()).unwrap();
        let toggle = |key: &[u8], value: &[u8]| {
            let (tree, leaf, value) = leaf_entry(key, value)?;
            assert_eq!(tree, TREE);
            leaves.toggle(leaf, value);
            Ok(true)
        };
        entries.visit(toggle).unwrap();
        leaves
    }

    /// Names of keys that share one leaf.
    fn names_of_one_leaf(count: usize) -> Vec<String> {
        let names = (0..).map(|i| format!("k{i}"));
        names.filter(|name| leaf_of(&key(name)) == 7).take(count).collect()
    }

    #[test]
    fn concurrent_changes_of_rows_in_one_leaf_all_count() {
        let dir = tempfile::tempdir().unwrap();
        let store = open(dir.path(), Durability::Buffered);
        let names = names_of_one_leaf(16);
        thread::scope(|scope| {
            for names in names.chunks(2) {
                let store = &store;
                scope.spawn(move || {
                    for _ in 0..50 {
                        names.iter().for_each(|name| drop(mint(store, HOME, name, b"v")));
                        store.root(TREE);
                    }
                });
            }
            // What was flushed, what waits to be flushed and what comes later add up.
            (0..20).for_each(|_| store.write_tables(Column::Merkle));
        });
        let mut expected = Leaves::default();
        let rows: Vec<_> = names.iter().map(|name| (HOME, key(name))).collect();
        for ((_, key), version) in rows.iter().zip(store.versions(&rows).unwrap()) {
            expected.toggle(7, leaf_hash(key, version));
        }
        assert_ne!(expected, Leaves::default());
        assert_eq!(store.leaves(TREE), expected);
        assert_eq!(store.root(TREE), expected.root());
        assert_eq!(stored(&store), expected);
        wait(store.durable()).unwrap();
        drop(store);
        assert_eq!(open(dir.path(), Durability::Buffered).leaves(TREE), expected);
    }

    /// Enough that the threads really run concurrently for a while, even on a busy machine.
    #[test]
    fn concurrent_changes_of_one_leaf_all_count() {
        let tree = LiveTree::new(3);
        let changes =
            |writer: u128| (1..3_000_000).map(move |i: u128| ((i * i) << (writer * 16)) | writer);
        thread::scope(|scope| {
            for writer in 0..4 {
                let leaf = tree.leaf(7);
                scope.spawn(move || changes(writer).for_each(|change| leaf.toggle(change)));
            }
        });
        let mut expected = Leaves::default();
        (0..4).flat_map(changes).for_each(|change| expected.toggle(7, change));
        assert_eq!((tree.leaves(), tree.root()), (expected.clone(), expected.root()));
    }

    #[test]
    fn a_missing_tree_is_empty_and_is_not_created() {
        let dir = tempfile::tempdir().unwrap();
        let store = open(dir.path(), Durability::Buffered);
        for partition in [0, 63, 64, u16::MAX].map(Partition) {
            let tree = Tree { partition, n: u16::MAX };
            assert_eq!(store.root(tree), Root::default());
            assert_eq!(store.leaves(tree), Leaves::default());
            assert_eq!(store.tombstone_count(partition), 0);
        }
        assert_eq!((store.trees(), store.stats().trees), (vec![], 0));
        let nowhere = Place::Home(Tree { partition: Partition(64), n: 3 });
        let minted = crate::testing::try_mint(&store, nowhere, "k", b"v", Blocking::Allowed);
        assert!(matches!(minted.err(), Some(Error::Damaged { .. })), "there are 64 partitions");
        assert_eq!(store.read(nowhere, &key("k"), Blocking::Allowed), Ok(None));
        mint(&store, HOME, "k", b"v");
        assert_eq!(store.trees(), [TREE]);
        assert_eq!(store.roots(), [(TREE, store.leaves(TREE).root())]);
    }

    crate::testing::also_on_simulated_disks! {
        concurrent_changes_of_rows_in_one_leaf_all_count,
        a_missing_tree_is_empty_and_is_not_created,
    }
}
