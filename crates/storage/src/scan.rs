//! Walks over ranges of rows and of the conflict index, in key order and in bounded pieces.
//!
//! Scans block on the disk and belong on a thread that may. They do not fill the cache: one walk over
//! a partition would push out what is being read.

use bytes::Bytes;
use quorate_protocol::layout::Partition;
use quorate_protocol::name::Key;
use rocksdb::{DBRawIterator, ReadOptions};

use crate::columns::{Column, key_of};
use crate::engine::read_error;
use crate::error::Error;
use crate::options::Place;
use crate::store::Store;

impl Store {
    /// Up to `limit` home rows of a partition in key order, after `after`. Stops before the rows hold more
    /// than `bytes_max` bytes, but gives at least one if there is one. Blocks on the disk.
    ///
    /// # Errors
    /// [`Error::Damaged`] if an entry has no key, [`Error::Io`].
    pub fn scan_partition(
        &self,
        partition: Partition,
        after: Option<&Key>,
        limit: usize,
        bytes_max: usize,
    ) -> Result<Vec<(Key, Bytes)>, Error> {
        self.rows(Place::Home(partition), after, limit, bytes_max)
    }

    /// Up to `limit` keys in conflict on this node as home replica, in key order, after `after`, in one
    /// bucket or in all: each with the number of siblings a client is shown. Blocks on the disk.
    ///
    /// # Errors
    /// [`Error::Damaged`] if an entry cannot be read, [`Error::Io`].
    pub fn conflicts(
        &self,
        bucket: Option<&str>,
        after: Option<&Key>,
        limit: usize,
    ) -> Result<Vec<(Key, u32)>, Error> {
        let prefix = bucket.map(|bucket| [bucket.as_bytes(), &[0]].concat()).unwrap_or_default();
        let mut found = Vec::new();
        self.walk(Column::Conflicts, &prefix, after, |key, entry| {
            if found.len() == limit {
                return Ok(false);
            }
            let key = key_of(Column::Conflicts, key, 0)?;
            let siblings =
                entry.try_into().map(u32::from_le_bytes).map_err(|_| Error::Damaged {
                    what: format!("the conflict entry of {key}"),
                    reason: format!("{entry:?} is no number"),
                })?;
            found.push((key, siblings));
            Ok(true)
        })?;
        Ok(found)
    }

    /// Encoded rows of one place, bounded in number and bytes.
    pub(crate) fn rows(
        &self,
        place: Place,
        after: Option<&Key>,
        limit: usize,
        bytes_max: usize,
    ) -> Result<Vec<(Key, Bytes)>, Error> {
        let prefix = place.prefix();
        let mut found = Vec::new();
        let mut bytes = 0;
        self.walk(place.column(), &prefix, after, |row_key, row| {
            bytes += row.len();
            if found.len() == limit || (bytes > bytes_max && !found.is_empty()) {
                return Ok(false);
            }
            let key = key_of(place.column(), row_key, prefix.len())?;
            found.push((key, Bytes::copy_from_slice(row)));
            Ok(true)
        })?;
        Ok(found)
    }

    /// Calls `visit` with each entry whose key begins with `prefix`, after `prefix` and `after`, until it
    /// answers `false`.
    fn walk(
        &self,
        column: Column,
        prefix: &[u8],
        after: Option<&Key>,
        mut visit: impl FnMut(&[u8], &[u8]) -> Result<bool, Error>,
    ) -> Result<(), Error> {
        // A conflict key holds its bucket itself; a row key holds the whole key after the prefix.
        let start = match after {
            None => prefix.to_vec(),
            Some(after) => {
                let before = if column == Column::Conflicts { &[][..] } else { prefix };
                // The least key greater than `after`.
                let next = [before, after.as_bytes(), &[0]].concat();
                next.max(prefix.to_vec())
            }
        };
        let mut options = ReadOptions::default();
        options.fill_cache(false);
        options.set_iterate_lower_bound(start);
        if let Some(end) = end_of(prefix) {
            options.set_iterate_upper_bound(end);
        }
        let column_ref = self.engine.column(column)?;
        let mut entries: DBRawIterator<'_> =
            self.engine.db().raw_iterator_cf_opt(column_ref, options);
        entries.seek_to_first();
        while let Some((key, value)) = entries.item() {
            if !visit(key, value)? {
                return Ok(());
            }
            entries.next();
        }
        let what = || format!("an entry in {}", column.name());
        entries.status().map_err(|error| read_error(&error, what))
    }
}

/// The least key greater than all that begin with `prefix`; `None` if there is none.
fn end_of(prefix: &[u8]) -> Option<Vec<u8>> {
    let last = prefix.iter().rposition(|byte| *byte < u8::MAX)?;
    let mut end = prefix[..=last].to_vec();
    end[last] += 1;
    Some(end)
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn a_range_ends_after_its_prefix() {
        assert_eq!(end_of(&[0, 5]), Some(vec![0, 6]));
        assert_eq!(end_of(&[0, 255]), Some(vec![1]));
        assert_eq!(end_of(b"n1\0"), Some(b"n1\x01".to_vec()));
        assert_eq!(end_of(&[255, 255]), None);
        assert_eq!(end_of(&[]), None);
    }
}
