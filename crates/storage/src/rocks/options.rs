//! The options of RocksDB and of its column families.
//!
//! Options follow the RocksDB tuning guide for small values on a few cores: level compaction with
//! dynamic level sizes, whole-key Bloom filters, index and filter blocks in the bounded cache
//! (those of level 0 pinned), values of `blob_bytes_min` or more in blob files with garbage
//! collection. Flushes and compactions write in small pieces and at a limited rate, so that a
//! request waits for at most one piece.
//!
//! A merge operator that finds a value of the wrong size fails, which RocksDB reports as corruption.

use rocksdb::{
    BlockBasedOptions, Cache, ColumnFamilyDescriptor, DBCompressionType, DBRecoveryMode, Env,
    LogLevel, MemtableFactory,
};

use crate::columns::Column;
use crate::options::Options;

/// What a flush or compaction writes at a time: about 0.2 ms of work.
const PIECE_BYTES: u64 = 64 << 10;
/// How often the rate limiter refills, in microseconds: short, so that a refill is a short burst.
const REFILL_US: i64 = 500;
/// If more than this fraction of the oldest blob files is garbage, their live values are moved at
/// once; otherwise when a compaction reaches them. At one half, blob files take at most about twice
/// the live data.
const BLOB_GARBAGE_MAX: f64 = 0.5;

/// The options of the database as a whole.
pub(super) fn database_options(options: &Options, recovery: DBRecoveryMode) -> rocksdb::Options {
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
    db.set_log_level(LogLevel::Warn);
    db.set_max_log_file_size(8 << 20);
    db.set_keep_log_file_num(4);
    db
}

/// All column families with their options, sharing one cache.
pub(super) fn descriptors(options: &Options, cache: &Cache) -> Vec<ColumnFamilyDescriptor> {
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
            cf.set_merge_operator_associative(c"quorate.add_totals", move |_, base, changes| {
                column.merge(base.into_iter().chain(changes))
            });
            // Merges operands while they are in memory, so that reading a total stays cheap.
            cf.set_max_successive_merges(64);
            cf.set_write_buffer_size(1 << 20);
        }
        Column::Merkle => {
            cf.set_merge_operator_associative(c"quorate.xor_leaves", move |_, base, changes| {
                column.merge(base.into_iter().chain(changes))
            });
            cf.set_write_buffer_size(8 << 20);
            // Every write changes a leaf, and only a start or a scrub reads one: changes are
            // appended, and sorted when read or flushed. Inserting each into a skip list cost 10 %
            // of a PUT.
            cf.set_memtable_factory(MemtableFactory::Vector);
        }
        Column::Keys => cf.set_write_buffer_size(8 << 20),
        Column::Conflicts
        | Column::Tombstones
        | Column::Expiries
        | Column::Index
        | Column::Feeds
        | Column::Meta => cf.set_write_buffer_size(4 << 20),
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
