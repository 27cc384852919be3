//! Dropping and moving rows: reaped tombstones, rows this node no longer owns, rows of buckets
//! whose n changed.
//!
//! A written row goes to the tree of its bucket's n at that moment, which is read under the row's
//! stripe ([`Store::assign_trees_by`]). A caller that changes the n of a bucket and then waits for all
//! writers ([`Store::wait_for_writers`]) therefore finds every row that has to move: no write adds
//! one later.

use quorate_protocol::layout::Partition;
use quorate_protocol::name::Key;
use quorate_protocol::object::Version;
use quorate_protocol::row::Row;
use quorate_protocol::tree::Tree;

use crate::columns::{Column, key_of, tombstone_key};
use crate::disk::Need;
use crate::error::Error;
use crate::index::Entries;
use crate::options::{Blocking, Place};
use crate::store::{ReplicaCountOf, Store, undecodable, why_unreadable};

/// The most partitions with tombstones that one step of [`Store::home_keys`] reads, which bounds
/// its time.
const PARTITIONS_MAX: usize = 64;

/// Where a walk over the keys of home rows continues ([`Store::home_keys`]).
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum KeyCursor {
    /// Among the keys that have a value, after this one.
    Alive(Option<Key>),
    /// Among the deleted keys of this partition, after this one, and of those that follow.
    Deleted(Partition, Option<Key>),
}

impl Default for KeyCursor {
    /// The beginning.
    fn default() -> Self {
        Self::Alive(None)
    }
}

/// The result of one step of [`Store::reassign`].
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ReassignStep {
    /// The last row it read: continue after it. `None` at the end of the partition.
    pub last: Option<Key>,
    /// How many rows it moved to the tree of their bucket's n.
    pub moved: usize,
    /// Rows that cannot be decoded. They stay where they are.
    pub undecodable: usize,
    /// Rows of buckets that this node is no home replica of, with their versions: hand them over,
    /// then [`Store::drop_row`].
    pub unowned: Vec<(Key, Version)>,
}

impl Store {
    /// Drops a row and its derived data if it still has this version. Its tenure is dropped too: a
    /// recreated row draws a new actor. Returns whether it was dropped: `false` if it has changed
    /// or does not exist. Blocks.
    ///
    /// # Errors
    /// [`Error::Damaged`], [`Error::Failed`], [`Error::Io`], [`Error::Closed`]; the row is then
    /// still there.
    pub fn drop_row(&self, place: Place, key: &Key, version: Version) -> Result<bool, Error> {
        self.drop_row_if(place, key, version, || true)
    }

    /// As [`Store::drop_row`], but only if `may_drop` returns `true`. For a home row it is called
    /// under the row's stripe, while no writer can change the row; it must not call the store.
    ///
    /// # Errors
    /// As [`Store::drop_row`].
    pub fn drop_row_if(
        &self,
        place: Place,
        key: &Key,
        version: Version,
        may_drop: impl FnOnce() -> bool,
    ) -> Result<bool, Error> {
        let partition = match place {
            Place::Home(tree) => tree.partition,
            Place::Hint(target) => {
                return Ok(self.drop_hints(target, &[(key.clone(), version)])? == 1);
            }
        };
        self.engine.check()?;
        self.disk.check(Need::Record)?;
        let row_key = place.row_key(key);
        let _stripe = self.stripes.lock(&row_key, Blocking::Allowed)?;
        let Some(row) = self.read(place, key, Blocking::Allowed)? else {
            return Ok(false);
        };
        if Row::encoded_version(&row) != Some(version) || !may_drop() {
            return Ok(false);
        }
        let decoded = Row::decode(row.clone()).map_err(|error| undecodable(place, key, error))?;
        let (old, none) = (Entries::of(&decoded, &row), Entries::default());
        let mut batch = self.engine.batch();
        batch.delete(Column::Objects, &row_key)?;
        let pending = self.stage_entries(&mut batch, partition, key, &old, &none)?;
        self.engine.write(batch, Blocking::Allowed)?;
        pending.apply();
        self.rows.remove(key);
        Ok(true)
    }

    /// One step of a walk over a partition after a bucket's n or the layout changed: reads up to
    /// `limit` rows in row order after `after`. `n_of` says to which tree a bucket's rows belong,
    /// or `None` if this node is not a home replica of that bucket in this partition: such rows are
    /// left unchanged and listed. A moved row keeps its version and its age. Blocks on the disk.
    ///
    /// # Errors
    /// [`Error::Damaged`], [`Error::Io`], and those of a write; rows that were moved stay moved.
    pub fn reassign(
        &self,
        partition: Partition,
        after: Option<&Key>,
        limit: usize,
        n_of: impl Fn(&str) -> Option<u16>,
    ) -> Result<ReassignStep, Error> {
        let (mut step, mut misplaced, mut seen) = (ReassignStep::default(), Vec::new(), 0);
        let place = Place::Home(Tree { partition, n: 0 });
        let after = after.map(|key| place.row_key(key));
        self.walk(Column::Objects, &place.prefix(), after.as_deref(), |row_key, row| {
            if seen == limit {
                return Ok(false);
            }
            seen += 1;
            let key = key_of(Column::Objects, row_key, place.key_at())?;
            let heads = Row::encoded_tree(row).zip(Row::encoded_version(row));
            match heads.zip(Some(n_of(key.bucket()))) {
                None => {
                    let error = why_unreadable(row);
                    tracing::error!(%key, partition = partition.0, %error, "a row cannot be read and stays");
                    step.undecodable += 1;
                }
                Some(((_, version), None)) => step.unowned.push((key.clone(), version)),
                Some(((counted_in, _), Some(n))) if n != counted_in => {
                    misplaced.push((key.clone(), n));
                }
                Some(_) => {}
            }
            step.last = Some(key);
            Ok(true)
        })?;
        for (key, n) in misplaced {
            match self.move_to_tree(&key, Tree { partition, n }) {
                Ok(moved) => step.moved += usize::from(moved),
                Err(error) if error.is_undecodable() => {
                    tracing::error!(%error, "a row stays in its tree");
                    step.undecodable += 1;
                }
                Err(error) => return Err(error),
            }
        }
        Ok(step)
    }

    /// From now on counts every written home row in the tree of the n that `n_of` returns at that
    /// time, whatever tree the writer names. Call it once, before the store is shared.
    pub fn assign_trees_by(&self, n_of: ReplicaCountOf) {
        drop(self.n_of.set(n_of));
    }

    /// The n of the tree in which a row is counted from now on; 0 for a hint. The caller holds its
    /// stripe.
    pub(crate) fn tree_n(&self, place: Place, key: &Key) -> u16 {
        match (place, self.n_of.get()) {
            (Place::Home(_), Some(n_of)) => n_of(key.bucket()),
            (Place::Home(_) | Place::Hint(_), _) => place.tree_n(),
        }
    }

    /// Waits until every row that was being written when it was called is written. Blocks.
    pub fn wait_for_writers(&self) {
        self.stripes.wait_for_all();
    }

    /// Moves a row to `tree`, or to the tree of its bucket's n if that is known
    /// ([`Store::assign_trees_by`]). A moved row keeps its version and its age. Returns whether it was
    /// moved; `false` if there is no row. Blocks.
    ///
    /// # Errors
    /// [`Error::Damaged`], [`Error::Io`], and those of a write; the row is then where it was.
    pub fn move_to_tree(&self, key: &Key, tree: Tree) -> Result<bool, Error> {
        let (place, row_key) = (Place::Home(tree), Place::Home(tree).row_key(key));
        let counted_in = match self.cached(place, key) {
            Some(row) => Some(Row::encoded_tree(&row)),
            None => {
                let look = Row::encoded_tree;
                self.engine.get_with(Column::Objects, &row_key, Blocking::Allowed, look)?
            }
        };
        let Some(counted_in) = counted_in else { return Ok(false) };
        if counted_in == Some(self.tree_n(place, key)) {
            return Ok(false); // the usual case: no need for the stripe
        }
        self.disk.check(Need::Growth)?;
        self.change(place, key, Blocking::Allowed, |update| {
            let moves = update.old.leaf.is_some_and(|(n, _)| n != update.row.tree);
            if moves {
                self.save(&update, Blocking::Allowed)?;
            }
            Ok(moves)
        })
    }

    /// Up to `limit` keys of home rows, of one bucket or of all, and where to continue, `None` at
    /// the end. Keys with a value come first, by name, then deleted ones by partition. A step may
    /// return no keys before the end. Reads only the indexes. Every row that exists throughout the
    /// walk is met, unless it is deleted or recreated during it. Blocks on the disk.
    ///
    /// # Errors
    /// [`Error::Damaged`] if an entry's key cannot be decoded, [`Error::Io`].
    pub fn home_keys(
        &self,
        bucket: Option<&str>,
        from: &KeyCursor,
        limit: usize,
    ) -> Result<(Vec<Key>, Option<KeyCursor>), Error> {
        let of_bucket = bucket.map(|bucket| [bucket.as_bytes(), &[0]].concat()).unwrap_or_default();
        let mut keys = Vec::new();
        let (first, mut after) = match from {
            KeyCursor::Deleted(partition, after) => (partition.0, after.clone()),
            KeyCursor::Alive(after) => {
                let after = after.as_ref().map(Key::as_bytes);
                self.walk(Column::Keys, &of_bucket, after, |key, _| {
                    if keys.len() < limit {
                        keys.push(key_of(Column::Keys, key, 0)?);
                    }
                    Ok(keys.len() < limit)
                })?;
                if keys.len() >= limit {
                    let last = keys.last().cloned();
                    return Ok((keys, Some(KeyCursor::Alive(last))));
                }
                (0, None)
            }
        };
        let mut looked = 0;
        for partition in (first..=u16::MAX).map(Partition) {
            if u32::from(partition.0) >= self.options.partitions {
                break;
            }
            if self.tombstone_count(partition) == 0 {
                after = None;
                continue;
            }
            if looked == PARTITIONS_MAX {
                return Ok((keys, Some(KeyCursor::Deleted(partition, None))));
            }
            looked += 1;
            let prefix = [&partition.0.to_be_bytes()[..], &of_bucket].concat();
            let from = after.take().map(|key| tombstone_key(partition, &key));
            self.walk(Column::Tombstones, &prefix, from.as_deref(), |entry_key, _| {
                if keys.len() < limit {
                    keys.push(key_of(Column::Tombstones, entry_key, 2)?);
                }
                Ok(keys.len() < limit)
            })?;
            if keys.len() >= limit {
                let last = keys.last().cloned();
                return Ok((keys, Some(KeyCursor::Deleted(partition, last))));
            }
        }
        Ok((keys, None))
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use std::collections::BTreeSet;
    use std::sync::Arc;
    use std::sync::atomic::{AtomicU16, Ordering};

    use quorate_protocol::clock::Clock;
    use quorate_protocol::tree::{LeafSet, Root};

    use super::*;
    use crate::Durability;
    use crate::testing::{HOME, LIMITS, NOW, TREE, draft, key, mint, object, open};

    #[test]
    fn a_dropped_row_takes_its_tenure_with_it() {
        let dir = tempfile::tempdir().unwrap();
        let store = open(dir.path(), Durability::Buffered);
        let first = mint(&store, HOME, "k", b"v").object;
        let later = mint(&store, HOME, "k", b"w").object;
        assert_eq!(store.drop_row(HOME, &key("k"), first.version()), Ok(false));
        assert_eq!(object(&store, HOME, "k").as_ref(), Some(&later));
        assert_eq!(store.drop_row(HOME, &key("k"), later.version()), Ok(true));
        assert_eq!(store.drop_row(HOME, &key("k"), later.version()), Ok(false));
        assert_eq!((object(&store, HOME, "k"), store.roots()), (None, vec![]));
        let again = mint(&store, HOME, "k", b"x").object;
        assert_eq!(later.clock.counter(again.siblings[0].dot.actor), 0);
    }

    #[test]
    fn a_moved_row_keeps_everything_but_its_tree() {
        let dir = tempfile::tempdir().unwrap();
        let store = open(dir.path(), Durability::Buffered);
        let before = mint(&store, HOME, "k", b"v").object;
        let decode = |bytes| Row::decode(bytes).unwrap();
        let row = || decode(store.read(HOME, &key("k"), Blocking::Allowed).unwrap().unwrap());
        let (was, root) = (row(), store.root(TREE));
        let step = store.reassign(TREE.partition, None, 9, |_| Some(5)).unwrap();
        assert_eq!((step.moved, step.unowned, step.last), (1, vec![], Some(key("k"))));
        assert_eq!(row(), Row { tree: 5, ..was });
        assert_eq!(store.roots(), [(Tree { n: 5, ..TREE }, root)]);
        let step = store.reassign(TREE.partition, None, 9, |_| None).unwrap();
        assert_eq!((step.moved, step.unowned), (0, vec![(key("k"), before.version())]));
        assert_eq!(
            store.reassign(TREE.partition, step.last.as_ref(), 9, |_| None).unwrap().last,
            None
        );
    }

    #[test]
    fn a_row_is_written_to_the_tree_of_the_n_that_is_known_then() {
        let dir = tempfile::tempdir().unwrap();
        let store = open(dir.path(), Durability::Buffered);
        let n = Arc::new(AtomicU16::new(3));
        let known = n.clone();
        store.assign_trees_by(Box::new(move |_| known.load(Ordering::Relaxed)));
        mint(&store, HOME, "k", b"v");
        n.store(2, Ordering::Relaxed);
        mint(&store, HOME, "late", b"v"); // by a writer that still has n = 3
        let two = Tree { n: 2, ..TREE };
        let keys = |tree| {
            let page = store.list(tree, LeafSet::all(), None, 9).unwrap();
            page.versions.into_iter().map(|(key, _)| key).collect::<Vec<_>>()
        };
        assert_eq!((keys(TREE), keys(two)), (vec![key("k")], vec![key("late")]));
        for (name, moves) in [("k", true), ("late", false), ("k", false), ("none", false)] {
            assert_eq!(store.move_to_tree(&key(name), TREE), Ok(moves), "{name}");
        }
        assert_eq!((store.root(TREE), keys(two).len()), (Root::default(), 2));
    }

    #[test]
    fn a_row_is_dropped_only_if_it_still_may() {
        let dir = tempfile::tempdir().unwrap();
        let store = open(dir.path(), Durability::Buffered);
        let version = mint(&store, HOME, "k", b"v").object.version();
        let drop_if = |version, may| store.drop_row_if(HOME, &key("k"), version, || may);
        assert_eq!(drop_if(version, false), Ok(false));
        assert_eq!(drop_if(Version([9; 16]), true), Ok(false));
        assert_eq!(drop_if(version, true), Ok(true));
    }

    #[test]
    fn the_walk_meets_every_key_of_its_bucket_alive_or_deleted() {
        let dir = tempfile::tempdir().unwrap();
        let store = open(dir.path(), Durability::Buffered);
        let mut expected: BTreeSet<Key> = BTreeSet::new();
        for (i, bucket) in (0..400).zip(["a", "b", "b.c", "c"].into_iter().cycle()) {
            let key = Key::new(bucket, format!("k{i}").as_bytes()).unwrap();
            let place = Place::Home(Tree { partition: key.partition(64), n: 3 });
            let mut draft = draft(Clock::default(), b"v");
            draft.value = draft.value.filter(|_| i % 3 > 0);
            store.mint(place, &key, &draft, NOW, &LIMITS, Blocking::Allowed).unwrap().unwrap();
            expected.insert(key);
        }
        for bucket in [None, Some("b"), Some("b.c"), Some("none")] {
            for limit in [1, 7, 1000] {
                let (mut met, mut next) = (Vec::new(), Some(KeyCursor::default()));
                while let Some(from) = next {
                    let (keys, onward) = store.home_keys(bucket, &from, limit).unwrap();
                    assert!(keys.len() <= limit);
                    met.extend(keys);
                    next = onward;
                }
                let count = met.len();
                let met: BTreeSet<Key> = met.into_iter().collect();
                assert_eq!(met.len(), count, "no key twice");
                let of_bucket = |key: &&Key| bucket.is_none_or(|bucket| key.bucket() == bucket);
                assert_eq!(met, expected.iter().filter(of_bucket).cloned().collect());
            }
        }
    }

    #[test]
    fn a_damaged_row_does_not_end_a_sweep() {
        let dir = tempfile::tempdir().unwrap();
        let store = open(dir.path(), Durability::Buffered);
        for i in 0..10 {
            mint(&store, HOME, &format!("k{i}"), b"v");
        }
        for (name, bytes) in [("k3", &[0; 3][..]), ("k4", &[0; 60])] {
            store.tamper(|batch| batch.put(Column::Objects, HOME.row_key(&key(name)), bytes));
        }
        let step = store.reassign(TREE.partition, None, 99, |_| Some(5)).unwrap();
        assert_eq!((step.moved, step.undecodable), (8, 2));
        assert!(store.move_to_tree(&key("k4"), Tree { n: 5, ..TREE }).is_err());
    }

    crate::testing::also_on_simulated_disks! {
        a_dropped_row_takes_its_tenure_with_it,
        a_moved_row_keeps_everything_but_its_tree,
        a_row_is_written_to_the_tree_of_the_n_that_is_known_then,
        a_row_is_dropped_only_if_it_still_may,
        the_walk_meets_every_key_of_its_bucket_alive_or_deleted,
        a_damaged_row_does_not_end_a_sweep,
    }
}
