//! Batched merges for a filling node: fewer and larger writes.

use std::collections::BTreeMap;
use std::collections::btree_map::Entry;

use bytes::Bytes;
use quorate_protocol::name::Key;
use quorate_protocol::object::Object;
use quorate_protocol::time::WallTime;

use crate::disk::Need;
use crate::error::Error;
use crate::feeds::News;
use crate::options::{Blocking, Place};
use crate::store::{Store, undecodable};

/// Rows in one batch of [`Store::merge_page`]. Their stripes are held while the batch is written,
/// so a larger batch makes other writers wait longer.
pub const MERGE_BATCH_ROWS: usize = 16;
/// Bytes of objects at which a batch is written.
const BATCH_BYTES: usize = 1 << 20;

/// Where rows come from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Source {
    /// Their replicas had changed.
    Replica,
    /// Their replicas had them, and this node receives all of a partition.
    Fill,
}

/// Rows of one batch, keyed by whether they are hints and by row key: no row twice.
type Batch = BTreeMap<(bool, Vec<u8>), (Place, Key, Object)>;

impl Store {
    /// Merges encoded objects into their rows, as [`Store::merge`] does one, and returns how many
    /// rows changed. Blocks.
    ///
    /// # Errors
    /// [`Error::Damaged`] if an object cannot be decoded: nothing changed then. Those of a write:
    /// earlier batches have been written then.
    pub fn merge_page(
        &self,
        rows: Vec<(Place, Key, Bytes)>,
        source: Source,
        now: WallTime,
    ) -> Result<usize, Error> {
        let news = match source {
            Source::Replica => News::Change(now),
            Source::Fill => News::Received(now),
        };
        let mut objects = Vec::with_capacity(rows.len());
        for (place, key, bytes) in rows {
            let size = bytes.len();
            let object = Object::decode(bytes).map_err(|error| undecodable(place, &key, error))?;
            objects.push((place, key, object, size));
        }
        let (mut batch, mut bytes, mut changed) = (Batch::new(), 0, 0);
        for (place, key, object, size) in objects {
            let is_hint = matches!(place, Place::Hint(_));
            match batch.entry((is_hint, place.row_key(&key))) {
                Entry::Vacant(entry) => {
                    entry.insert((place, key, object));
                }
                Entry::Occupied(mut entry) => entry.get_mut().2.merge(&object),
            }
            bytes += size;
            if batch.len() >= MERGE_BATCH_ROWS || bytes >= BATCH_BYTES {
                changed += self.merge_batch(std::mem::take(&mut batch), news, now)?;
                bytes = 0;
            }
        }
        Ok(changed + self.merge_batch(batch, news, now)?)
    }

    fn merge_batch(&self, rows: Batch, news: News, now: WallTime) -> Result<usize, Error> {
        self.engine.check()?;
        self.disk.check(Need::Release)?;
        let _stripes = self.stripes.lock_each(rows.keys().map(|(_, row_key)| &row_key[..]));
        let (mut batch, mut staged) = (self.engine.batch(), Vec::new());
        for ((_, row_key), (place, key, object)) in rows {
            let stored = self.stored(place, &key, &row_key, Blocking::Allowed)?;
            let mut update = self.update(place, &key, row_key, stored)?;
            self.check_room(&update.row, &object)?;
            update.news = news;
            if update.row.merge(&object, now) {
                staged.push(self.stage(&mut batch, &update)?.1);
            }
        }
        let changed = staged.len();
        if changed > 0 {
            self.engine.write(batch, Blocking::Allowed)?;
        }
        staged.into_iter().for_each(|row| row.apply());
        Ok(changed)
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use quorate_protocol::row::Row;

    use super::*;
    use crate::testing::{HOME, NOW, TREE, key, mint, node, object, open, open_as, options};
    use crate::{Durability, Options};

    #[test]
    fn a_page_is_merged_in_few_batches_and_idempotently() {
        let dirs = [tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap()];
        let [ours, theirs] = dirs.each_ref().map(|dir| open(dir.path(), Durability::Fsync));
        let hint = Place::Hint(node("n2"));
        for i in 0..200 {
            mint(&theirs, HOME, &format!("k{i}"), b"v");
        }
        let rows = theirs.scan_partition(TREE.partition, None, 999, usize::MAX).unwrap();
        let page = || {
            let row = |place| {
                move |(key, row): &(Key, Bytes)| {
                    (place, key.clone(), Row::encoded_object(row).unwrap())
                }
            };
            rows.iter().map(row(HOME)).chain(rows.iter().take(10).map(row(hint))).collect()
        };
        let before = ours.stats().writes;
        assert_eq!(ours.merge_page(page(), Source::Fill, NOW), Ok(210));
        assert_eq!(ours.stats().writes - before, 14);
        assert_eq!(ours.merge_page(page(), Source::Fill, NOW), Ok(0));
        assert_eq!(ours.stats().writes - before, 14);
        assert_eq!(ours.root(TREE), theirs.root(TREE));
        assert_eq!((ours.hint_targets().unwrap()[0].1, ours.stats().hint_keys), (10, 10));
        assert_eq!(ours.merge_page(Vec::new(), Source::Fill, NOW), Ok(0));
    }

    #[test]
    fn a_page_that_cannot_be_stored_leaves_no_trace_in_memory() {
        let dir = tempfile::tempdir().unwrap();
        let options = Options { hint_bytes_max: 2_000, ..options(Durability::Buffered) };
        let store = open_as(dir.path(), options).unwrap();
        let good = mint(&store, HOME, "good", &[7; 500]).encoded;
        let root = store.root(TREE);
        let hint = Place::Hint(node("n2"));
        let rows = |place| (0..9).map(move |i| (place, key(&format!("k{i}")))).collect::<Vec<_>>();
        let page = |place: Place| {
            let rows = rows(place).into_iter();
            rows.map(|(place, key)| (place, key, good.clone())).collect::<Vec<_>>()
        };
        let full = store.merge_page([page(HOME), page(hint)].concat(), Source::Fill, NOW);
        assert!(matches!(full, Err(Error::HintsFull { .. })), "{full:?}");
        assert_eq!((store.root(TREE), store.hint_bytes()), (root, 0));
        assert_eq!(object(&store, HOME, "k0"), None);
        let mut damaged = page(HOME);
        damaged.push((HOME, key("bad"), good.slice(..9)));
        assert!(matches!(store.merge_page(damaged, Source::Fill, NOW), Err(Error::Damaged { .. })));
        assert_eq!((store.root(TREE), object(&store, HOME, "k0")), (root, None));
    }

    crate::testing::also_on_simulated_disks! {
        a_page_is_merged_in_few_batches_and_idempotently,
        a_page_that_cannot_be_stored_leaves_no_trace_in_memory,
    }
}
