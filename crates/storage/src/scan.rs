//! Walks over ranges of rows and of the conflict index, in key order and in bounded pieces.
//!
//! Scans block on the disk and belong on a thread that may. They do not fill the cache: one walk
//! over a partition would push out what is being read.

use bytes::Bytes;
use quorate_protocol::layout::Partition;
use quorate_protocol::name::Key;
use quorate_protocol::tree::Tree;
use rocksdb::{DBRawIterator, ReadOptions};

use crate::columns::{Column, key_of};
use crate::engine::read_error;
use crate::error::Error;
use crate::options::Place;
use crate::store::Store;

impl Store {
    /// Up to `limit` home rows of a partition in key order, after `after`. Stops before the rows
    /// hold more than `bytes_max` bytes, but gives at least one if there is one. Blocks on the
    /// disk.
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
        self.rows(Place::Home(Tree { partition, n: 0 }), after, limit, bytes_max)
    }

    /// Up to `limit` keys in conflict on this node as home replica, in key order, after `after`, in
    /// one bucket or in all: each with the number of siblings a client is shown. Blocks on the
    /// disk.
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

    /// Calls `visit` with each entry whose key begins with `prefix`, after `prefix` and `after`,
    /// until it answers `false`.
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
    use quorate_protocol::clock::Clock;
    use quorate_protocol::row::Row;

    use super::*;
    use crate::testing::{HOME, LIMITS, NOW, draft, mint, open};
    use crate::{Blocking, Durability};

    #[test]
    fn a_range_ends_after_its_prefix() {
        assert_eq!(end_of(&[0, 5]), Some(vec![0, 6]));
        assert_eq!(end_of(&[0, 255]), Some(vec![1]));
        assert_eq!(end_of(b"n1\0"), Some(b"n1\x01".to_vec()));
        assert_eq!(end_of(&[255, 255]), None);
        assert_eq!(end_of(&[]), None);
    }

    #[test]
    fn rows_come_in_order_and_in_bounded_pieces() {
        let dir = tempfile::tempdir().unwrap();
        let store = open(dir.path(), Durability::Buffered);
        let neighbours = [2, 4].map(|p| Place::Home(Tree { partition: Partition(p), n: 3 }));
        for place in neighbours {
            mint(&store, place, "k", b"v");
        }
        let names: Vec<_> = (0..25).map(|i| format!("k{i:02}")).collect();
        for name in names.iter().rev() {
            mint(&store, HOME, name, &[7; 1000]);
        }
        let Place::Home(Tree { partition, .. }) = HOME else { panic!() };
        for (limit, bytes_max, step) in [(10, usize::MAX, 10), (99, 2_500, 2), (99, 1, 1)] {
            let (mut seen, mut after) = (Vec::new(), None);
            loop {
                let rows =
                    store.scan_partition(partition, after.as_ref(), limit, bytes_max).unwrap();
                assert!(rows.len() <= step);
                let Some((last, _)) = rows.last() else { break };
                after = Some(last.clone());
                seen.extend(rows.into_iter().map(|(key, _)| key.key().to_owned()));
            }
            assert_eq!(seen, names);
        }
        assert_eq!(store.scan_partition(partition, None, 0, usize::MAX), Ok(vec![]));
        let last = store.scan_partition(Partition(u16::MAX), None, 1, usize::MAX);
        assert_eq!(last, Ok(vec![]));
    }

    #[test]
    fn conflicts_are_listed_by_bucket_and_end_with_a_resolution() {
        let dir = tempfile::tempdir().unwrap();
        let store = open(dir.path(), Durability::Buffered);
        let write = |bucket: &str, name: &str, context: Clock| {
            let key = Key::new(bucket, name.as_bytes()).unwrap();
            let draft = draft(context, b"v");
            let minted = store.mint(HOME, &key, &draft, NOW, &LIMITS, Blocking::Allowed);
            (key, minted.unwrap().unwrap().object.clock)
        };
        let mut expected = Vec::new();
        for bucket in ["a", "b", "b.c"] {
            for name in ["x", "y", "z"] {
                write(bucket, name, Clock::default());
                expected.push((write(bucket, name, Clock::default()).0, 2));
            }
            write(bucket, "fine", Clock::default());
        }
        expected.sort();
        assert_eq!(store.conflicts(None, None, 99).unwrap(), expected);
        assert_eq!(store.conflicts(Some("b"), None, 99).unwrap(), expected[3..6]);
        assert_eq!(store.conflicts(Some("b"), Some(&expected[3].0), 1).unwrap(), expected[4..5]);
        assert_eq!(store.conflicts(Some("b"), Some(&expected[0].0), 99).unwrap(), expected[3..6]);
        assert_eq!(store.conflicts(Some("b"), Some(&expected[6].0), 99).unwrap(), []);
        assert_eq!(store.conflicts(None, Some(&expected[8].0), 99).unwrap(), []);
        for (key, _) in expected {
            let row = store.read(HOME, &key, Blocking::Allowed).unwrap().unwrap();
            write(key.bucket(), key.key(), Row::decode(row).unwrap().object.clock);
        }
        assert_eq!(store.conflicts(None, None, 99).unwrap(), []);
    }
}
