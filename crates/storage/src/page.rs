//! Many merges at once, for a node that fills: fewer and larger batches.

use std::collections::BTreeMap;
use std::collections::btree_map::Entry;

use bytes::Bytes;
use quorate_protocol::name::Key;
use quorate_protocol::object::Object;
use quorate_protocol::stamp::Millis;
use rocksdb::WriteBatch;

use crate::error::Error;
use crate::options::{Blocking, Place};
use crate::store::{Store, damaged};

/// Rows in one batch. Its rows' stripes are held while it is written.
const BATCH_ROWS: usize = 64;
/// Bytes of objects from which on a batch takes no more.
const BATCH_BYTES: usize = 1 << 20;

/// Rows of one batch by whether they are hints and by row key: no row twice.
type Batch = BTreeMap<(bool, Vec<u8>), (Place, Key, Object)>;

impl Store {
    /// Merges encoded objects into their rows, as [`Store::merge`] does one, and returns how many
    /// rows changed. Blocks.
    ///
    /// # Errors
    /// [`Error::Damaged`] if an object cannot be decoded: then nothing changed. Those of a write:
    /// then the rows before it changed.
    pub fn merge_page(&self, rows: Vec<(Place, Key, Bytes)>, now: Millis) -> Result<usize, Error> {
        let mut objects = Vec::with_capacity(rows.len());
        for (place, key, bytes) in rows {
            let size = bytes.len();
            let object = Object::decode(bytes).map_err(|error| damaged(place, &key, error))?;
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
            if batch.len() >= BATCH_ROWS || bytes >= BATCH_BYTES {
                changed += self.merge_batch(std::mem::take(&mut batch), now)?;
                bytes = 0;
            }
        }
        Ok(changed + self.merge_batch(batch, now)?)
    }

    fn merge_batch(&self, rows: Batch, now: Millis) -> Result<usize, Error> {
        self.engine.check()?;
        self.disk.check()?;
        let _stripes = self.stripes.lock_each(rows.keys().map(|(_, row_key)| &row_key[..]));
        let (mut batch, mut staged) = (WriteBatch::default(), Vec::new());
        for ((_, row_key), (place, key, object)) in rows {
            let stored = self.engine.get(place.column(), &row_key, Blocking::Allowed)?;
            let mut update = self.update(place, &key, row_key, stored)?;
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
