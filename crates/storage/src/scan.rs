//! Scans of rows and indexes, in key order and in bounded pieces.
//!
//! Scans block on the disk and must run on a thread that may block. They do not fill the cache: one
//! scan of a partition would evict the working set.

use bytes::Bytes;
#[cfg(doc)]
use quorate_protocol::exchange::row_order;
use quorate_protocol::exchange::{Page, UNREADABLE};
use quorate_protocol::layout::Partition;
use quorate_protocol::name::Key;
use quorate_protocol::object::{DecodeError, Version};
use quorate_protocol::row::Row;
use quorate_protocol::time::WallTime;
use quorate_protocol::tree::{LeafSet, Tree, leaf_of};

use crate::backend::Range;
use crate::columns::{Column, key_of, tombstone_key};
use crate::error::Error;
use crate::index::{Listing, decode_tombstone, is_plain};
use crate::options::{Blocking, Place};
use crate::store::{Store, undecodable, why_unreadable};
use crate::walk::next_of;

/// Bytes of rows that [`Store::list`] reads for one page: some tens of milliseconds of a slow disk.
pub const LIST_BYTES_MAX: usize = 4 << 20;

impl Store {
    /// Up to `limit` home rows of a partition in row order ([`row_order`]), after `after`. Stops
    /// before the rows hold more than `bytes_max` bytes, but gives at least one if there is one.
    /// Blocks on the disk.
    ///
    /// # Errors
    /// [`Error::Damaged`] if an entry's key cannot be decoded, [`Error::Io`].
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
        let after = after.map(Key::as_bytes);
        self.walk(Column::Conflicts, &prefix, after, |key, entry| {
            if found.len() == limit {
                return Ok(false);
            }
            let key = key_of(Column::Conflicts, key, 0)?;
            let siblings =
                entry.try_into().map(u32::from_le_bytes).map_err(|_| Error::Damaged {
                    what: format!("the conflict entry of {key}"),
                    reason: format!("{entry:?} is not a number"),
                })?;
            found.push((key, siblings));
            Ok(true)
        })?;
        Ok(found)
    }

    /// Keys and versions of the rows that a tree counts in these leaves, up to `limit` in row
    /// order, after `after`. Reads only these leaves, and stops once the rows read hold
    /// [`LIST_BYTES_MAX`], but not before the first row of the tree: RocksDB's iterators read the
    /// values of all rows that they pass, large ones too, while the caller waits. A damaged row has
    /// the version [`UNREADABLE`], as has one in an unknown format. Blocks on the disk.
    ///
    /// # Errors
    /// [`Error::Damaged`] if an entry's key cannot be decoded, [`Error::Io`].
    pub fn list(
        &self,
        tree: Tree,
        leaves: LeafSet,
        after: Option<&Key>,
        limit: usize,
    ) -> Result<Page, Error> {
        let place = Place::Home(tree);
        let partition = Range::from(place.prefix(), &place.prefix());
        let mut rows = self.engine.entries(Column::Objects, partition)?;
        let mut page = Page { versions: Vec::new(), is_end: false };
        let mut bytes = 0;
        let first = after.map_or(0, leaf_of);
        for leaf in leaves.iter().filter(|leaf| *leaf >= first) {
            let range = [&place.prefix()[..], &[leaf]].concat();
            let after = after.filter(|_| leaf == first).map(|key| next_of(&place.row_key(key)));
            rows.seek(after.as_ref().unwrap_or(&range));
            while let Some((row_key, row)) = rows.item().filter(|(key, _)| key.starts_with(&range))
            {
                if bytes >= LIST_BYTES_MAX && !page.versions.is_empty() {
                    return Ok(page);
                }
                bytes += row.len();
                // A damaged row may belong to any tree.
                if Row::encoded_tree(row).is_none_or(|n| n == tree.n) {
                    if page.versions.len() == limit {
                        return Ok(page);
                    }
                    let key = key_of(Column::Objects, row_key, place.key_at())?;
                    let version = Row::encoded_version(row).unwrap_or(UNREADABLE);
                    page.versions.push((key, version));
                }
                rows.next();
            }
            rows.check()?;
        }
        page.is_end = true;
        Ok(page)
    }

    /// The versions of rows in the order given, [`Version::ABSENT`] where there is none. A home row
    /// is found in whatever tree it is. Does not read the values of large home rows: the key index
    /// has their versions. Blocks on the disk.
    ///
    /// # Errors
    /// [`Error::Damaged`], [`Error::Io`].
    pub fn versions(&self, rows: &[(Place, Key)]) -> Result<Vec<Version>, Error> {
        let version = |(place, key): &(Place, Key)| {
            let look =
                |column, at: &[u8]| self.engine.get_with(column, at, Blocking::Allowed, version_of);
            let row = match self.cached(*place, key) {
                Some(row) => Some(version_of(&row)),
                None => match self.listed_version(*place, key)? {
                    Some(version) => Some(Ok(version)),
                    None => look(place.column(), &place.row_key(key))?,
                },
            };
            match row {
                None => Ok(Version::ABSENT),
                Some(version) => version.map_err(|error| undecodable(*place, key, error)),
            }
        };
        rows.iter().map(version).collect()
    }

    /// The version of a large home row according to the key index.
    fn listed_version(&self, place: Place, key: &Key) -> Result<Option<Version>, Error> {
        if matches!(place, Place::Hint(_)) {
            return Ok(None);
        }
        let look = Listing::decode;
        let listing =
            self.engine.get_with(Column::Keys, key.as_bytes(), Blocking::Allowed, look)?;
        Ok(match listing.flatten() {
            Some(Listing::Large(version, _)) => Some(version),
            Some(Listing::Small) | None => None,
        })
    }

    /// Up to `limit` keys of a bucket that have a value on this node as home replica, that begin
    /// with `prefix`, in key order, after `after`: each with the version of its row and whether
    /// that is plain (one value and nothing else). The cost is proportional to the page. Blocks on
    /// the disk.
    ///
    /// # Errors
    /// [`Error::Damaged`], [`Error::Io`].
    pub fn keys(
        &self,
        bucket: &str,
        prefix: &str,
        after: Option<&Key>,
        limit: usize,
    ) -> Result<Vec<(Key, Version, bool)>, Error> {
        let prefix = [bucket.as_bytes(), &[0], prefix.as_bytes()].concat();
        let mut found = Vec::new();
        self.walk(Column::Keys, &prefix, after.map(Key::as_bytes), |key, entry| {
            if found.len() == limit {
                return Ok(false);
            }
            let key = key_of(Column::Keys, key, 0)?;
            match Listing::decode(entry) {
                Some(Listing::Large(version, is_plain)) => found.push((key, version, is_plain)),
                Some(Listing::Small) => {
                    let place = self.home_of(&key);
                    let row = self.read(place, &key, Blocking::Allowed)?;
                    // It may have been deleted since the scan began.
                    if let Some(row) = row.map(Row::decode) {
                        let object = row.map_err(|error| undecodable(place, &key, error))?.object;
                        if !object.is_deleted() {
                            found.push((key, object.version(), is_plain(&object)));
                        }
                    }
                }
                None => {
                    let what = format!("the key entry of {key}");
                    return Err(Error::Damaged { what, reason: format!("{entry:?}") });
                }
            }
            Ok(true)
        })?;
        Ok(found)
    }

    /// Up to `limit` deleted rows of a partition, in key order, after `after`, unchanged since
    /// `older_than` or longer: keys and versions. Blocks on the disk; [`Store::tombstone_count`]
    /// does not.
    ///
    /// # Errors
    /// [`Error::Damaged`], [`Error::Io`].
    pub fn tombstones(
        &self,
        partition: Partition,
        after: Option<&Key>,
        limit: usize,
        older_than: WallTime,
    ) -> Result<Vec<(Key, Version)>, Error> {
        let prefix = partition.0.to_be_bytes();
        let mut found = Vec::new();
        let after = after.map(|key| tombstone_key(partition, key));
        self.walk(Column::Tombstones, &prefix, after.as_deref(), |entry_key, entry| {
            if found.len() == limit {
                return Ok(false);
            }
            let key = key_of(Column::Tombstones, entry_key, prefix.len())?;
            let Some((since, version)) = decode_tombstone(entry) else {
                let what = format!("the tombstone entry of {key}");
                return Err(Error::Damaged { what, reason: format!("{entry:?}") });
            };
            if since <= older_than {
                found.push((key, version));
            }
            Ok(true)
        })?;
        Ok(found)
    }
}

fn version_of(row: &[u8]) -> Result<Version, DecodeError> {
    Row::encoded_version(row).ok_or_else(|| why_unreadable(row))
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use std::collections::BTreeMap;

    use quorate_protocol::clock::Clock;
    use quorate_protocol::exchange::row_order;

    use super::*;
    use crate::testing::{HOME, LIMITS, NOW, TREE, draft, key, mint, open};
    use crate::{Blocking, Durability};

    #[test]
    fn rows_come_in_order_and_in_bounded_pieces() {
        let dir = tempfile::tempdir().unwrap();
        let store = open(dir.path(), Durability::Buffered);
        let neighbours = [2, 4].map(|p| Place::Home(Tree { partition: Partition(p), n: 3 }));
        for place in neighbours {
            mint(&store, place, "k", b"v");
        }
        let mut names: Vec<_> = (0..25).map(|i| format!("k{i:02}")).collect();
        for name in names.iter().rev() {
            mint(&store, HOME, name, &[7; 1000]);
        }
        names.sort_by(|a, b| row_order(&key(a), &key(b)));
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

    #[test]
    fn a_listing_reads_only_its_leaves_and_its_tree() {
        let dir = tempfile::tempdir().unwrap();
        let store = open(dir.path(), Durability::Buffered);
        let names: Vec<_> = (0..300).map(|i| format!("k{i}")).collect();
        let mut expected = Vec::new();
        for (i, name) in names.iter().enumerate() {
            let n = if i % 10 == 0 { 2 } else { 3 };
            let object = mint(&store, Place::Home(Tree { n, ..TREE }), name, b"v").object;
            if n == 3 {
                expected.push((key(name), object.version()));
            }
        }
        let next = Tree { partition: Partition(TREE.partition.0 + 1), n: 3 };
        mint(&store, Place::Home(next), "k1", b"v");
        expected.sort_by(|(a, _), (b, _)| row_order(a, b));
        let mut leaves = LeafSet::default();
        [0, 1, 7, 100, 254, 255].into_iter().for_each(|leaf| leaves.insert(leaf));
        for leaves in [LeafSet::all(), leaves, LeafSet::default()] {
            let mut expected = expected.clone();
            expected.retain(|(key, _)| leaves.contains(leaf_of(key)));
            for limit in [1, 7, expected.len(), usize::MAX] {
                let (mut seen, mut after) = (Vec::new(), None);
                loop {
                    let page = store.list(TREE, leaves, after.as_ref(), limit.max(1)).unwrap();
                    assert!(page.versions.len() <= limit.max(1));
                    after = page.versions.last().map(|(key, _)| key.clone()).or(after);
                    seen.extend(page.versions);
                    assert_eq!(page.is_end, seen.len() == expected.len());
                    if page.is_end {
                        break;
                    }
                }
                assert_eq!(seen, expected);
            }
        }
        let unknown = Tree { n: 9, ..TREE };
        assert_eq!(store.list(unknown, LeafSet::all(), None, 9).unwrap().versions, []);
    }

    #[test]
    fn a_page_of_large_rows_is_short_and_their_versions_are_known_without_them() {
        let dir = tempfile::tempdir().unwrap();
        let store = open(dir.path(), Durability::Buffered);
        let value = vec![7; LIST_BYTES_MAX / 4];
        let names: Vec<_> = (0..11).map(|i| format!("k{i}")).collect();
        let version = |name: &String| mint(&store, HOME, name, &value).object.version();
        let expected: BTreeMap<Key, Version> =
            names.iter().map(|name| (key(name), version(name))).collect();
        let (mut seen, mut after, mut pages) = (BTreeMap::new(), None, 0);
        loop {
            let page = store.list(TREE, LeafSet::all(), after.as_ref(), 1000).unwrap();
            assert!((1..=4).contains(&page.versions.len()), "{}", page.versions.len());
            pages += 1;
            after = page.versions.last().map(|(key, _)| key.clone());
            seen.extend(page.versions);
            if page.is_end {
                break;
            }
        }
        assert_eq!((&seen, pages), (&expected, 3));
        // Even if only their index entries are left.
        for key in expected.keys() {
            store.tamper(|batch| batch.delete(Column::Objects, HOME.row_key(key)));
        }
        store.rows.clear();
        let rows: Vec<_> = expected.keys().map(|key| (HOME, key.clone())).collect();
        assert_eq!(store.versions(&rows), Ok(expected.into_values().collect()));
    }

    #[test]
    fn keys_are_listed_in_order_by_prefix_while_they_have_a_value() {
        let dir = tempfile::tempdir().unwrap();
        let store = open(dir.path(), Durability::Buffered);
        let place = |key: &Key| Place::Home(Tree { partition: key.partition(64), n: 3 });
        let write = |bucket: &str, name: &str, value: Option<&[u8]>, context: Clock| {
            let key = Key::new(bucket, name.as_bytes()).unwrap();
            let mut draft = draft(context, value.unwrap_or_default());
            draft.value = draft.value.filter(|_| value.is_some());
            let minted = store.mint(place(&key), &key, &draft, NOW, &LIMITS, Blocking::Allowed);
            (key, minted.unwrap().unwrap().object)
        };
        let large = vec![7; 40_000];
        let mut expected = Vec::new();
        for (name, value) in [("a/1", &b"v"[..]), ("a/2", &large), ("a/3", b""), ("b", b"v")] {
            write("other", name, Some(value), Clock::default());
            let (key, object) = write("b", name, Some(value), Clock::default());
            expected.push((key, object.version(), true));
        }
        assert_eq!(store.keys("b", "", None, 99).unwrap(), expected);
        assert_eq!(store.keys("b", "a/", None, 99).unwrap(), expected[..3]);
        assert_eq!(store.keys("b", "a/", Some(&expected[0].0), 1).unwrap(), expected[1..2]);
        assert_eq!(store.keys("b", "c", Some(&expected[0].0), 9).unwrap(), []);
        assert_eq!(store.keys("b.b", "", None, 9).unwrap(), []);
        // A second sibling, on a small row and on a large one; a delete next to a value; deletes.
        for i in [0, 1] {
            let (_, object) = write("b", expected[i].0.key(), Some(b"w"), Clock::default());
            (expected[i].1, expected[i].2) = (object.version(), false);
        }
        let (_, object) = write("b", "a/3", None, Clock::default());
        (expected[2].1, expected[2].2) = (object.version(), false);
        assert_eq!(store.keys("b", "", None, 99).unwrap(), expected);
        for name in ["a/1", "a/2"] {
            let (key, _) = write("b", name, Some(b"x"), Clock::default());
            let row = store.read(place(&key), &key, Blocking::Allowed).unwrap().unwrap();
            write("b", name, None, Row::decode(row).unwrap().object.clock);
        }
        assert_eq!(store.keys("b", "", None, 99).unwrap(), expected[2..]);
    }

    crate::testing::also_on_simulated_disks! {
        rows_come_in_order_and_in_bounded_pieces,
        conflicts_are_listed_by_bucket_and_end_with_a_resolution,
        a_listing_reads_only_its_leaves_and_its_tree,
        a_page_of_large_rows_is_short_and_their_versions_are_known_without_them,
        keys_are_listed_in_order_by_prefix_while_they_have_a_value,
    }
}
