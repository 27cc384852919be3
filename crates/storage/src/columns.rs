//! The column families: their names, their keys and their RocksDB options.
//!
//! | family | key | value |
//! |---|---|---|
//! | `objects` | partition (u16), leaf (u8), bucket NUL key | encoded row |
//! | `merkle` | partition (u16), n (u16), leaf (u8) | the leaf (u128), changed by merge operands |
//! | `keys` | bucket NUL key | for a large row its version and whether it is plain, else empty |
//! | `conflicts` | bucket NUL key | siblings to show (u32) |
//! | `tombstones` | partition (u16), bucket NUL key | since when (u64) and version |
//! | `hints` | target NUL, bucket NUL key | encoded row |
//! | `hint_totals` | target | keys and bytes of its hints, changed by merge operands |
//! | `meta` | name | bytes |
//!
//! Numbers in keys are big-endian, so that they sort; those in values little-endian. The rows of
//! one Merkle leaf are one range of `objects`.
//!
//! Options follow the RocksDB tuning guide for small values on a few cores: level compaction with
//! dynamic level sizes, whole-key Bloom filters, index and filter blocks in the bounded cache
//! (those of level 0 pinned), values of `blob_bytes_min` or more in blob files with garbage
//! collection. Flushes and compactions write in small pieces and at a limited rate, so that a
//! request waits for at most one piece.

use bytes::Bytes;
use quorate_protocol::layout::Partition;
use quorate_protocol::name::{Key, NodeId};
use quorate_protocol::tree::{Tree, leaf_of};
use rocksdb::statistics::StatsLevel;
use rocksdb::{
    BlockBasedOptions, Cache, ColumnFamilyDescriptor, DBCompressionType, DBRecoveryMode, Env,
    LogLevel, MemtableFactory, MergeOperands,
};

use crate::error::Error;
use crate::options::{Options, Place};

/// What a flush or compaction writes at a time: about 0.2 ms of work.
const PIECE_BYTES: u64 = 64 << 10;
/// How often the rate limiter refills, in microseconds: short, so that a refill is a short burst.
const REFILL_US: i64 = 500;
/// If more than this fraction of the oldest blob files is garbage, their live values are moved at
/// once; otherwise when a compaction reaches them. At one half, blob files take at most about twice
/// the live data.
const BLOB_GARBAGE_MAX: f64 = 0.5;

/// A column family.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Column {
    Objects,
    Merkle,
    Keys,
    Conflicts,
    Tombstones,
    Hints,
    HintTotals,
    Meta,
}

impl Column {
    pub(crate) const ALL: [Self; 8] = [
        Self::Objects,
        Self::Merkle,
        Self::Keys,
        Self::Conflicts,
        Self::Tombstones,
        Self::Hints,
        Self::HintTotals,
        Self::Meta,
    ];

    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Objects => "objects",
            Self::Merkle => "merkle",
            Self::Keys => "keys",
            Self::Conflicts => "conflicts",
            Self::Tombstones => "tombstones",
            Self::Hints => "hints",
            Self::HintTotals => "hint_totals",
            Self::Meta => "meta",
        }
    }
}

impl Place {
    /// The column family its rows are in.
    pub(crate) fn column(self) -> Column {
        match self {
            Self::Home(_) => Column::Objects,
            Self::Hint(_) => Column::Hints,
        }
    }

    /// The prefix of all its row keys.
    pub(crate) fn prefix(self) -> Vec<u8> {
        let mut prefix = Vec::new();
        self.push_prefix(&mut prefix);
        prefix
    }

    fn push_prefix(self, out: &mut Vec<u8>) {
        match self {
            Self::Home(tree) => out.extend_from_slice(&tree.partition.0.to_be_bytes()),
            Self::Hint(target) => {
                out.extend_from_slice(target.as_str().as_bytes());
                out.push(0);
            }
        }
    }

    /// The offset of the key in a row key.
    pub(crate) fn key_at(self) -> usize {
        match self {
            Self::Home(_) => 3,
            Self::Hint(target) => target.as_str().len() + 1,
        }
    }

    /// The n of the Merkle tree that counts its rows; 0 for hints.
    pub(crate) fn tree_n(self) -> u16 {
        match self {
            Self::Home(tree) => tree.n,
            Self::Hint(_) => 0,
        }
    }

    /// The row key of `key`.
    pub(crate) fn row_key(self, key: &Key) -> Vec<u8> {
        let mut row_key = Vec::with_capacity(self.key_at() + key.as_bytes().len());
        self.push_prefix(&mut row_key);
        if let Self::Home(_) = self {
            row_key.push(leaf_of(key));
        }
        row_key.extend_from_slice(key.as_bytes());
        row_key
    }
}

/// The key of a leaf in `merkle`.
pub(crate) fn leaf_key(tree: Tree, leaf: u8) -> [u8; 5] {
    let ([p, q], [n, m]) = (tree.partition.0.to_be_bytes(), tree.n.to_be_bytes());
    [p, q, n, m, leaf]
}

/// An entry of `merkle`.
pub(crate) fn leaf_entry(key: &[u8], value: &[u8]) -> Result<(Tree, u8, u128), Error> {
    if let (&[p, q, n, m, leaf], Ok(value)) = (key, value.try_into()) {
        let partition = Partition(u16::from_be_bytes([p, q]));
        let tree = Tree { partition, n: u16::from_be_bytes([n, m]) };
        return Ok((tree, leaf, u128::from_le_bytes(value)));
    }
    Err(Error::Damaged {
        what: format!("the leaf {key:?} of a Merkle tree"),
        reason: format!("{value:?} is not a leaf"),
    })
}

/// The key of a tombstone's entry in `tombstones`.
pub(crate) fn tombstone_key(partition: Partition, key: &Key) -> Vec<u8> {
    [&partition.0.to_be_bytes(), key.as_bytes()].concat()
}

/// The key within a row key of `prefix_bytes` bytes of prefix.
pub(crate) fn key_of(column: Column, row_key: &[u8], prefix_bytes: usize) -> Result<Key, Error> {
    let bytes = row_key.get(prefix_bytes..).unwrap_or_default();
    Key::from_bytes(Bytes::copy_from_slice(bytes)).map_err(|error| Error::Damaged {
        what: format!("a key in {} ({:?})", column.name(), String::from_utf8_lossy(row_key)),
        reason: error.to_string(),
    })
}

/// Keys and bytes of the hints for one target, or a change to them.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Totals {
    pub(crate) keys: i64,
    pub(crate) bytes: i64,
}

impl Totals {
    pub(crate) fn plus(self, other: Self) -> Self {
        Self {
            keys: self.keys.wrapping_add(other.keys),
            bytes: self.bytes.wrapping_add(other.bytes),
        }
    }

    pub(crate) fn encode(self) -> [u8; 16] {
        let mut out = [0; 16];
        out[..8].copy_from_slice(&self.keys.to_le_bytes());
        out[8..].copy_from_slice(&self.bytes.to_le_bytes());
        out
    }

    pub(crate) fn decode(bytes: &[u8]) -> Option<Self> {
        let (keys, bytes) = bytes.split_first_chunk::<8>()?;
        let bytes: [u8; 8] = bytes.try_into().ok()?;
        Some(Self { keys: i64::from_le_bytes(*keys), bytes: i64::from_le_bytes(bytes) })
    }
}

/// The merge operator of `hint_totals`: adds changes, so that writers of different rows need no
/// common lock. A value of the wrong size fails the merge, which RocksDB reports as corruption.
fn add_totals(_target: &[u8], base: Option<&[u8]>, changes: &MergeOperands) -> Option<Vec<u8>> {
    let mut sum = match base {
        Some(bytes) => Totals::decode(bytes)?,
        None => Totals::default(),
    };
    for change in changes {
        sum = sum.plus(Totals::decode(change)?);
    }
    Some(sum.encode().to_vec())
}

/// The merge operator of `merkle`: XORs the changes of a leaf, which commute, so that writers of
/// its rows need no common lock.
fn xor_leaves(_target: &[u8], base: Option<&[u8]>, changes: &MergeOperands) -> Option<Vec<u8>> {
    let mut leaf = 0;
    for value in base.into_iter().chain(changes) {
        leaf ^= u128::from_le_bytes(value.try_into().ok()?);
    }
    Some(leaf.to_le_bytes().to_vec())
}

/// Decodes a target's name in `hint_totals`.
pub(crate) fn target_of(bytes: &[u8]) -> Result<NodeId, Error> {
    let name = String::from_utf8_lossy(bytes);
    NodeId::parse(&name).map_err(|error| Error::Damaged {
        what: format!("the hint totals of {name:?}"),
        reason: error.to_string(),
    })
}

/// The options of the database as a whole.
pub(crate) fn database_options(options: &Options, recovery: DBRecoveryMode) -> rocksdb::Options {
    let mut db = rocksdb::Options::default();
    db.create_if_missing(true);
    db.create_missing_column_families(true);
    db.set_wal_recovery_mode(recovery);
    db.set_track_and_verify_wals_in_manifest(true);
    // A write only fills a buffer; a caller that waits for durability flushes the writes of many.
    db.set_manual_wal_flush(true);
    // Bounds the recovery time of the next start, and gets the small families flushed at all.
    db.set_max_total_wal_size(4 * options.memtable_bytes as u64);
    db.set_max_background_jobs(3);
    // Compactions of a gigabyte must not take the cores from requests; flushes, which writes wait
    // for, run in another pool. If compaction falls behind, RocksDB slows writes, which gives it
    // time to catch up.
    if let Ok(mut env) = Env::new() {
        env.lower_thread_pool_cpu_priority();
        db.set_env(&env);
    }
    db.set_bytes_per_sync(1 << 20);
    db.set_writable_file_max_buffer_size(PIECE_BYTES);
    if let Ok(bytes_per_s @ 1..) = i64::try_from(options.background_bytes_per_s) {
        // Compactions get 10 % of it even while flushes want all.
        db.set_ratelimiter(bytes_per_s, REFILL_US, 10);
    }
    db.set_max_open_files(512);
    db.set_skip_stats_update_on_db_open(true);
    // Counters alone: timing what RocksDB does would cost more than doing it.
    db.enable_statistics();
    db.set_statistics_level(StatsLevel::ExceptHistogramOrTimers);
    db.set_stats_dump_period_sec(0);
    db.set_stats_persist_period_sec(0);
    db.set_log_level(LogLevel::Warn);
    db.set_max_log_file_size(8 << 20);
    db.set_keep_log_file_num(4);
    db
}

/// All column families with their options, sharing one cache.
pub(crate) fn descriptors(options: &Options, cache: &Cache) -> Vec<ColumnFamilyDescriptor> {
    let describe = |column: Column| {
        ColumnFamilyDescriptor::new(column.name(), column_options(column, options, cache))
    };
    Column::ALL.into_iter().map(describe).collect()
}

fn column_options(column: Column, options: &Options, cache: &Cache) -> rocksdb::Options {
    let mut cf = rocksdb::Options::default();
    cf.set_block_based_table_factory(&table_options(cache));
    cf.set_level_compaction_dynamic_level_bytes(true);
    cf.set_max_write_buffer_number(3);
    let (none, lz4) = (DBCompressionType::None, DBCompressionType::Lz4);
    cf.set_compression_per_level(&[none, none, lz4, lz4, lz4, lz4, lz4]);
    match column {
        Column::Objects | Column::Hints => {
            cf.set_write_buffer_size(options.memtable_bytes);
            cf.set_max_bytes_for_level_base(4 * options.memtable_bytes as u64);
            cf.set_memtable_whole_key_filtering(true);
            cf.set_memtable_prefix_bloom_ratio(0.02);
            cf.set_enable_blob_files(true);
            cf.set_min_blob_size(options.blob_bytes_min);
            cf.set_blob_compression_type(lz4);
            cf.set_blob_cache(cache);
            cf.set_enable_blob_gc(true);
            cf.set_blob_gc_force_threshold(BLOB_GARBAGE_MAX);
        }
        Column::HintTotals => {
            cf.set_merge_operator_associative(c"quorate.add_totals", add_totals);
            // Merges operands while they are in memory, so that reading a total stays cheap.
            cf.set_max_successive_merges(64);
            cf.set_write_buffer_size(1 << 20);
        }
        Column::Merkle => {
            cf.set_merge_operator_associative(c"quorate.xor_leaves", xor_leaves);
            cf.set_write_buffer_size(8 << 20);
            // Every write changes a leaf, and only a start or a scrub reads one: changes are
            // appended, and sorted when read or flushed. Inserting each into a skip list cost 10 %
            // of a PUT.
            cf.set_memtable_factory(MemtableFactory::Vector);
        }
        Column::Keys => cf.set_write_buffer_size(8 << 20),
        Column::Conflicts | Column::Tombstones | Column::Meta => cf.set_write_buffer_size(4 << 20),
    }
    cf
}

fn table_options(cache: &Cache) -> BlockBasedOptions {
    let mut table = BlockBasedOptions::default();
    table.set_format_version(6);
    table.set_block_size(8 << 10);
    table.set_block_cache(cache);
    table.set_bloom_filter(10.0, false);
    table.set_whole_key_filtering(true);
    // Keeps memory within the cache's bound; level 0, which every read consults, is never evicted.
    table.set_cache_index_and_filter_blocks(true);
    table.set_cache_index_and_filter_blocks_with_high_priority(true);
    table.set_pin_l0_filter_and_index_blocks_in_cache(true);
    table
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn row_keys_keep_partitions_and_targets_apart() {
        let key = Key::new("b", b"k").unwrap();
        let tree = Tree { partition: Partition(0x0102), n: 3 };
        let home = Place::Home(tree).row_key(&key);
        assert_eq!(home, [&[1, 2, leaf_of(&key)], &b"b\0k"[..]].concat());
        let key_at = Place::Home(tree).key_at();
        assert_eq!(key_of(Column::Objects, &home, key_at).unwrap(), key);
        let place = Place::Hint(NodeId::parse("n1").unwrap());
        let hint = place.row_key(&key);
        assert_eq!(hint, b"n1\0b\0k");
        assert_eq!(key_of(Column::Hints, &hint, place.key_at()).unwrap(), key);
        assert!(matches!(key_of(Column::Hints, b"n1\0", 3), Err(Error::Damaged { .. })));
    }

    #[test]
    fn leaves_round_trip_and_other_sizes_are_rejected() {
        let tree = Tree { partition: Partition(258), n: 3 };
        let (key, value) = (leaf_key(tree, 9), 7u128.to_le_bytes());
        assert_eq!(key, [1, 2, 0, 3, 9]);
        assert_eq!(leaf_entry(&key, &value), Ok((tree, 9, 7)));
        for (key, value) in [(&key[..4], &value[..]), (&key[..], &value[..15])] {
            assert!(matches!(leaf_entry(key, value), Err(Error::Damaged { .. })));
        }
    }

    #[test]
    fn totals_round_trip_and_other_sizes_are_rejected() {
        let totals = Totals { keys: -3, bytes: 1 << 40 };
        assert_eq!(Totals::decode(&totals.encode()), Some(totals));
        assert_eq!(Totals::decode(&[0; 15]), None);
        assert_eq!(Totals::decode(&[0; 17]), None);
    }
}
