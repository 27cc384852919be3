//! Home rows in memory, as they are on the disk: a read or a read-modify-write that finds its row
//! here needs neither RocksDB's memtables nor its tables.
//!
//! Whoever fills in or changes a cached row holds the row's stripe, and changes it after the batch
//! was written: so what is here is what is stored, and nobody can put an older row over a newer
//! one. Rows are replaced whole and shared by reference, each with its key, which tells it from
//! another of the same hash. Bounded by bytes; which rows stay is decided by S3-FIFO (Yang et al.,
//! "FIFO queues are all you need for cache eviction", SOSP 2023), which a scan does not flush.

use std::sync::Arc;

use bytes::Bytes;
use quick_cache::Weighter;
use quick_cache::sync::Cache;
use quorate_protocol::name::Key;
use xxhash_rust::xxh3::xxh3_128;

/// Rows larger than this are left to RocksDB's own cache, in bytes.
const ROW_BYTES_MAX: usize = 64 << 10;
/// What a row costs beside key and row: the entry, its share of the table, what the allocator
/// rounds up.
const OVERHEAD_BYTES: usize = 96;

/// The cache, by hash of the key; without room for anything it keeps nothing.
pub(crate) struct RowCache(Option<Cache<u128, Entry, Size>>);

/// The length of the key (u16, little-endian), the key and the row, in one allocation with its
/// count of references: among millions of rows each piece of memory that must be looked at is one
/// more wait for it.
#[derive(Clone)]
struct Entry(Arc<[u8]>);

impl Entry {
    fn new(key: &Key, row: &[u8]) -> Self {
        let key = key.as_bytes();
        let (key_at, row_at) = (KEY_LENGTH_BYTES, KEY_LENGTH_BYTES + key.len());
        let mut joined: Arc<[u8]> = std::iter::repeat_n(0, row_at + row.len()).collect();
        // It is new, so nobody shares it.
        if let Some(room) = Arc::get_mut(&mut joined) {
            room[..key_at].copy_from_slice(&key_length(key));
            room[key_at..row_at].copy_from_slice(key);
            room[row_at..].copy_from_slice(row);
        }
        Self(joined)
    }

    /// The row, if it is of this key: another may have the same hash.
    fn row_of(self, key: &Key) -> Option<Bytes> {
        let key = key.as_bytes();
        let rest = self.0.strip_prefix(&key_length(key))?;
        rest.starts_with(key)
            .then(|| Bytes::from_owner(self.0).split_off(KEY_LENGTH_BYTES + key.len()))
    }
}

const KEY_LENGTH_BYTES: usize = 2;

/// Fits: a joint key has 1,153 bytes at most.
fn key_length(key: &[u8]) -> [u8; KEY_LENGTH_BYTES] {
    (key.len() as u16).to_le_bytes()
}

/// What an entry weighs, in bytes.
#[derive(Clone)]
struct Size;

impl Weighter<u128, Entry> for Size {
    fn weight(&self, _: &u128, entry: &Entry) -> u64 {
        (entry.0.len() + OVERHEAD_BYTES) as u64
    }
}

impl RowCache {
    /// An empty cache for up to `bytes_max` bytes; 0 for none.
    pub(crate) fn new(bytes_max: usize) -> Self {
        // A guess at how many rows fit; it only sizes the first tables.
        let rows = (bytes_max >> 10).max(1);
        Self((bytes_max > 0).then(|| Cache::with_weighter(rows, bytes_max as u64, Size)))
    }

    /// The row of a key, if it is here.
    pub(crate) fn get(&self, key: &Key) -> Option<Bytes> {
        self.0.as_ref()?.get(&hash_of(key))?.row_of(key)
    }

    /// This is what is stored now. The caller holds the row's stripe.
    pub(crate) fn put(&self, key: &Key, row: &[u8]) {
        let Some(cache) = &self.0 else { return };
        if row.len() > ROW_BYTES_MAX {
            cache.remove(&hash_of(key));
        } else {
            cache.insert(hash_of(key), Entry::new(key, row));
        }
    }

    /// Nothing is stored any more. The caller holds the row's stripe.
    pub(crate) fn remove(&self, key: &Key) {
        if let Some(cache) = &self.0 {
            cache.remove(&hash_of(key));
        }
    }

    /// Nothing is stored any more of any key. The caller holds all stripes.
    pub(crate) fn clear(&self) {
        if let Some(cache) = &self.0 {
            cache.clear();
        }
    }

    /// Bytes of what is here.
    pub(crate) fn bytes(&self) -> u64 {
        self.0.as_ref().map_or(0, Cache::weight)
    }
}

fn hash_of(key: &Key) -> u128 {
    xxh3_128(key.as_bytes())
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use quorate_protocol::row::Row;

    use super::*;
    use crate::columns::Column;
    use crate::testing::{HOME, key, mint, options};
    use crate::{Blocking, Durability, Options, Store};

    #[test]
    fn it_stays_within_its_bytes_and_takes_no_giants() {
        let rows = RowCache::new(100_000);
        let row = [7; 1000];
        for i in 0..1000 {
            rows.put(&key(&format!("k{i}")), &row);
        }
        assert!((10_000..=100_000).contains(&rows.bytes()), "{}", rows.bytes());
        rows.put(&key("k"), &row);
        rows.put(&key("k"), &[7; ROW_BYTES_MAX + 1]);
        assert_eq!(rows.get(&key("k")), None, "the small one before it must not stay");
    }

    #[test]
    fn what_is_remembered_is_what_is_stored() {
        let dir = tempfile::tempdir().unwrap();
        // Room for few of the rows, so that they come and go.
        let options = Options { row_cache_bytes: 8 << 10, ..options(Durability::Buffered) };
        let store = Store::open(dir.path(), options).unwrap();
        let name = |i: usize| format!("k{}", i % 20);
        let read = |i: usize| store.read(HOME, &key(&name(i)), Blocking::Allowed).unwrap();
        let drop_it = |i: usize| {
            let Some(row) = read(i) else { return };
            let version = Row::encoded_version(&row).unwrap();
            store.drop_row(HOME, &key(&name(i)), version).unwrap();
        };
        std::thread::scope(|scope| {
            scope.spawn(|| {
                (0..4000).for_each(|i| drop(mint(&store, HOME, &name(7 * i), &[7; 300])))
            });
            scope
                .spawn(|| (0..4000).for_each(|i| drop(mint(&store, HOME, &name(3 * i), b"small"))));
            scope.spawn(|| (0..2000).for_each(|i| drop_it(11 * i)));
            scope.spawn(|| (0..40_000).for_each(|i| drop(read(i))));
        });
        for i in 0..20 {
            let row_key = HOME.row_key(&key(&name(i)));
            let stored = store.engine.get(Column::Objects, &row_key, Blocking::Allowed).unwrap();
            assert_eq!(read(i), stored);
        }
    }

    #[test]
    fn an_entry_is_taken_for_that_of_no_other_key() {
        let entry = Entry::new(&key("k"), b"1 and the row");
        assert_eq!(entry.clone().row_of(&key("k")), Some(Bytes::from_static(b"1 and the row")));
        for other in ["k1", "k1 and the row", "j", "kk"] {
            assert_eq!(entry.clone().row_of(&key(other)), None, "{other}");
        }
        assert_eq!(Entry::new(&key("k1"), b"").row_of(&key("k")), None);
    }

    #[test]
    fn without_room_it_keeps_nothing() {
        let rows = RowCache::new(0);
        rows.put(&key("k"), b"row");
        assert_eq!((rows.get(&key("k")), rows.bytes()), (None, 0));
    }
}
