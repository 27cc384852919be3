//! Rows that go or move: reaped tombstones, rows this node no longer owns, rows of buckets that got
//! another n.

use quorate_protocol::layout::Partition;
use quorate_protocol::name::Key;
use quorate_protocol::object::{DecodeError, Version};
use quorate_protocol::row::Row;
use quorate_protocol::tree::Tree;
use rocksdb::WriteBatch;

use crate::columns::{Column, key_of};
use crate::disk::Need;
use crate::error::Error;
use crate::index::Entries;
use crate::options::{Blocking, Place};
use crate::store::{Store, damaged};

/// What one step of [`Store::sweep`] found.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Sweep {
    /// The last row it looked at: go on after it. `None` at the end of the partition.
    pub last: Option<Key>,
    /// How many rows it moved to the tree of their bucket's n.
    pub moved: usize,
    /// Rows of buckets that this node is no home replica of, with their versions: hand them over,
    /// then [`Store::drop_row`].
    pub unowned: Vec<(Key, Version)>,
}

impl Store {
    /// Drops a row, if it still has this version, with all that follows from it. Its tenure goes
    /// too: a row made again draws a new actor. Whether it was dropped; `false` if it has changed
    /// or is not there. Blocks.
    ///
    /// # Errors
    /// [`Error::Damaged`], [`Error::Failed`], [`Error::Io`], [`Error::Closed`]; the row is then
    /// still there.
    pub fn drop_row(&self, place: Place, key: &Key, version: Version) -> Result<bool, Error> {
        let partition = match place {
            Place::Home(tree) => tree.partition,
            Place::Hint(target) => return self.drop_hint(target, key, version),
        };
        self.engine.check()?;
        self.disk.check(Need::Record)?;
        let row_key = place.row_key(key);
        let _stripe = self.stripes.lock(&row_key, Blocking::Allowed)?;
        let Some(row) = self.read(place, key, Blocking::Allowed)? else {
            return Ok(false);
        };
        if Row::encoded_version(&row) != Some(version) {
            return Ok(false);
        }
        let decoded = Row::decode(row.clone()).map_err(|error| damaged(place, key, error))?;
        let (old, none) = (Entries::of(&decoded, &row), Entries::default());
        let mut batch = WriteBatch::default();
        batch.delete_cf(self.engine.column(Column::Objects)?, &row_key);
        let pending = self.stage_entries(&mut batch, partition, key, &old, &none)?;
        self.engine.write(batch, Blocking::Allowed)?;
        pending.apply();
        self.rows.remove(key);
        Ok(true)
    }

    /// One step of a walk over a partition after a bucket's n or the layout changed: looks at up to
    /// `limit` rows in row order after `after`. `n_of` says by bucket in which tree its rows belong,
    /// or `None` if this node is no home replica of that bucket in this partition: such rows stay
    /// as they are and are listed. A moved row keeps its version and its age. Blocks on the disk.
    ///
    /// # Errors
    /// [`Error::Damaged`], [`Error::Io`], and those of a write; rows that were moved stay moved.
    pub fn sweep(
        &self,
        partition: Partition,
        after: Option<&Key>,
        limit: usize,
        n_of: impl Fn(&str) -> Option<u16>,
    ) -> Result<Sweep, Error> {
        let (mut sweep, mut misplaced, mut seen) = (Sweep::default(), Vec::new(), 0);
        let place = Place::Home(Tree { partition, n: 0 });
        let after = after.map(|key| place.row_key(key));
        self.walk(Column::Objects, &place.prefix(), after.as_deref(), |row_key, row| {
            if seen == limit {
                return Ok(false);
            }
            seen += 1;
            let key = key_of(Column::Objects, row_key, place.key_at())?;
            let heads = Row::encoded_tree(row).zip(Row::encoded_version(row));
            let Some((counted_in, version)) = heads else {
                return Err(damaged(place, &key, DecodeError::Damaged));
            };
            match n_of(key.bucket()) {
                None => sweep.unowned.push((key.clone(), version)),
                Some(n) if n != counted_in => misplaced.push((key.clone(), n)),
                Some(_) => {}
            }
            sweep.last = Some(key);
            Ok(true)
        })?;
        for (key, n) in misplaced {
            sweep.moved += usize::from(self.retree(&key, Tree { partition, n })?);
        }
        Ok(sweep)
    }

    /// Moves a row to another tree. Whether it was in another.
    fn retree(&self, key: &Key, tree: Tree) -> Result<bool, Error> {
        self.disk.check(Need::Growth)?;
        self.change(Place::Home(tree), key, Blocking::Allowed, |update| {
            let moves = update.old.leaf.is_some_and(|(n, _)| n != tree.n);
            if moves {
                self.save(&update, Blocking::Allowed)?;
            }
            Ok(moves)
        })
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use crate::Durability;
    use crate::testing::{HOME, TREE, key, mint, object, open};

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
        let step = store.sweep(TREE.partition, None, 9, |_| Some(5)).unwrap();
        assert_eq!((step.moved, step.unowned, step.last), (1, vec![], Some(key("k"))));
        assert_eq!(row(), Row { tree: 5, ..was });
        assert_eq!(store.roots(), [(Tree { n: 5, ..TREE }, root)]);
        let step = store.sweep(TREE.partition, None, 9, |_| None).unwrap();
        assert_eq!((step.moved, step.unowned), (0, vec![(key("k"), before.version())]));
        assert_eq!(
            store.sweep(TREE.partition, step.last.as_ref(), 9, |_| None).unwrap().last,
            None
        );
    }
}
