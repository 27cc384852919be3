//! A cache of encoded home rows: a read or read-modify-write that finds its row here needs neither
//! RocksDB's memtables nor its tables.
//!
//! A cached row is inserted or changed under the row's stripe, after its batch was written: so the
//! cache holds what is stored, and an older row cannot replace a newer one. Rows are replaced whole
//! and shared by reference, each with its key, to detect a hash collision. Bounded by bytes;
//! eviction is S3-FIFO (Yang et al., "FIFO queues are all you need for cache eviction", SOSP 2023),
//! which a scan does not flush.

use std::hash::{BuildHasher, Hasher};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

use bytes::Bytes;
use quick_cache::sync::{Cache, DefaultLifecycle};
use quick_cache::{OptionsBuilder, Weighter};
use quorate_protocol::name::Key;
use xxhash_rust::xxh3::{xxh3_64_with_seed, xxh3_128};

use crate::host::Host;

/// Rows larger than this, in bytes, are left to RocksDB's own cache: one would take the space of
/// dozens of usual rows.
const ROW_BYTES_MAX: usize = 64 << 10;
/// What an entry costs in addition to key and row: the entry, its share of the table, the
/// allocator's rounding.
const OVERHEAD_BYTES: usize = 96;

/// The cache and how well it works.
pub(crate) struct RowCache {
    /// By hash of the key; `None` if it is disabled.
    cache: Option<Cache<u128, Entry, Size, Seeded>>,
    hits: AtomicU64,
    misses: AtomicU64,
}

/// The length of the key (u16, little-endian), the key and the row, in one allocation with its
/// reference count: among millions of rows each pointer dereference is likely a cache miss.
#[derive(Clone)]
struct Entry(Arc<[u8]>);

impl Entry {
    fn new(key: &Key, row: &[u8]) -> Self {
        let key = key.as_bytes();
        let (key_at, row_at) = (KEY_LENGTH_BYTES, KEY_LENGTH_BYTES + key.len());
        let mut joined: Arc<[u8]> = std::iter::repeat_n(0, row_at + row.len()).collect();
        // It is new and not shared yet.
        if let Some(room) = Arc::get_mut(&mut joined) {
            room[..key_at].copy_from_slice(&key_length(key));
            room[key_at..row_at].copy_from_slice(key);
            room[row_at..].copy_from_slice(row);
        }
        Self(joined)
    }

    /// The row, if it belongs to this key: another key may have the same hash.
    fn row_of(self, key: &Key) -> Option<Bytes> {
        let key = key.as_bytes();
        let rest = self.0.strip_prefix(&key_length(key))?;
        rest.starts_with(key)
            .then(|| Bytes::from_owner(self.0).split_off(KEY_LENGTH_BYTES + key.len()))
    }
}

const KEY_LENGTH_BYTES: usize = 2;

/// Fits: a joint key has at most 1,153 bytes.
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

/// The hash of the cache's tables, from seeds that no client knows. Their keys are hashes already,
/// but ones that a client can compute.
#[derive(Clone)]
struct Seeded([u64; 2]);

struct SeededHasher {
    seeds: [u64; 2],
    hash: u64,
}

impl BuildHasher for Seeded {
    type Hasher = SeededHasher;

    fn build_hasher(&self) -> SeededHasher {
        SeededHasher { seeds: self.0, hash: 0 }
    }
}

impl Hasher for SeededHasher {
    fn write(&mut self, bytes: &[u8]) {
        self.write_u128(u128::from(xxh3_64_with_seed(bytes, self.hash)));
    }

    /// Both halves of a product of 128 bits, as wyhash mixes.
    fn write_u128(&mut self, number: u128) {
        let [low, high] = [number as u64 ^ self.seeds[0], (number >> 64) as u64 ^ self.seeds[1]];
        let product = u128::from(low) * u128::from(high);
        self.hash ^= product as u64 ^ (product >> 64) as u64;
    }

    fn finish(&self) -> u64 {
        self.hash
    }
}

impl RowCache {
    /// An empty cache for up to `bytes_max` bytes; 0 for none. In a simulation it has one shard, so
    /// that what it evicts does not depend on the machine.
    pub(crate) fn new(bytes_max: usize, host: &Host) -> Self {
        let mut options = OptionsBuilder::new();
        // An estimate of how many rows fit, at 1 KiB each; it only sizes the first tables.
        options.estimated_items_capacity((bytes_max >> 10).max(1));
        options.weight_capacity(bytes_max as u64);
        if let Host::Simulated(_) = host {
            options.shards(1);
        }
        let seeded = Seeded([host.random_nonzero(), host.random_nonzero()]);
        let cache = options.build().ok().filter(|_| bytes_max > 0);
        let cache = cache
            .map(|options| Cache::with_options(options, Size, seeded, DefaultLifecycle::default()));
        Self { cache, hits: AtomicU64::new(0), misses: AtomicU64::new(0) }
    }

    /// The row of a key, if it is here.
    pub(crate) fn get(&self, key: &Key) -> Option<Bytes> {
        let row = self.cache.as_ref()?.get(&hash_of(key)).and_then(|entry| entry.row_of(key));
        if row.is_some() { &self.hits } else { &self.misses }.fetch_add(1, Relaxed);
        row
    }

    /// Caches the row that is stored now. The caller holds the row's stripe.
    pub(crate) fn put(&self, key: &Key, row: &[u8]) {
        let Some(cache) = &self.cache else { return };
        if row.len() > ROW_BYTES_MAX {
            cache.remove(&hash_of(key));
        } else {
            cache.insert(hash_of(key), Entry::new(key, row));
        }
    }

    /// Removes a row that is no longer stored. The caller holds the row's stripe.
    pub(crate) fn remove(&self, key: &Key) {
        if let Some(cache) = &self.cache {
            cache.remove(&hash_of(key));
        }
    }

    /// Removes all rows. The caller holds all stripes.
    pub(crate) fn clear(&self) {
        if let Some(cache) = &self.cache {
            cache.clear();
        }
    }

    /// How many lookups found their row here, and how many did not.
    pub(crate) fn lookups(&self) -> (u64, u64) {
        (self.hits.load(Relaxed), self.misses.load(Relaxed))
    }

    /// The size of the cached entries, in bytes.
    pub(crate) fn bytes(&self) -> u64 {
        self.cache.as_ref().map_or(0, Cache::weight)
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
    use crate::testing::{HOME, key, mint, open_as, options};
    use crate::{Blocking, Durability, Options};

    #[test]
    fn it_stays_within_its_bytes_and_refuses_large_rows() {
        let rows = RowCache::new(100_000, &Host::machine());
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
    fn cached_rows_are_the_stored_rows() {
        let dir = tempfile::tempdir().unwrap();
        // Room for few of the rows, so that they are evicted and reloaded.
        let options = Options { row_cache_bytes: 8 << 10, ..options(Durability::Buffered) };
        let store = open_as(dir.path(), options).unwrap();
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
    fn an_entry_is_not_mistaken_for_another_keys() {
        let entry = Entry::new(&key("k"), b"1 and the row");
        assert_eq!(entry.clone().row_of(&key("k")), Some(Bytes::from_static(b"1 and the row")));
        for other in ["k1", "k1 and the row", "j", "kk"] {
            assert_eq!(entry.clone().row_of(&key(other)), None, "{other}");
        }
        assert_eq!(Entry::new(&key("k1"), b"").row_of(&key("k")), None);
    }

    #[test]
    fn without_memory_it_caches_nothing() {
        let rows = RowCache::new(0, &Host::machine());
        rows.put(&key("k"), b"row");
        assert_eq!((rows.get(&key("k")), rows.bytes()), (None, 0));
    }

    crate::testing::also_on_simulated_disks! {
        cached_rows_are_the_stored_rows,
    }
}
