//! What RocksDB says about itself: properties and counters, read when they are asked for.

use std::collections::BTreeMap;
use std::time::Duration;

use rocksdb::statistics::Ticker;

use crate::columns::Column;
use crate::durations::DurationCounts;
use crate::store::Store;

/// Properties and counters of RocksDB, and how long its calls took. Counters start at zero when the
/// store is opened.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DatabaseStats {
    /// How long a batch took to be written to the log's buffer and the memtables, stalls included.
    pub writes: DurationCounts,
    /// How long a sync of the log took.
    pub syncs: DurationCounts,
    /// For how long writes were held back in total, because flushes or compactions were behind.
    pub stalled: Duration,
    /// Whether writes are stopped at the moment.
    pub write_stopped: bool,
    /// The rate that writes are held to at the moment, in bytes per second; 0 if they are not.
    pub delayed_write_bytes_per_s: u64,
    /// Bytes that compactions have still to rewrite, estimated.
    pub compaction_pending_bytes: u64,
    /// Compactions that run at the moment.
    pub running_compactions: u64,
    /// Flushes that run at the moment.
    pub running_flushes: u64,
    /// Bytes that compactions have read.
    pub compaction_read_bytes: u64,
    /// Bytes that compactions have written.
    pub compaction_written_bytes: u64,
    /// Bytes that flushes have written.
    pub flushed_bytes: u64,
    /// Lookups that found their block, or blob, in the block cache.
    pub block_cache_hits: u64,
    /// Lookups that did not.
    pub block_cache_misses: u64,
    /// Lookups of home rows that the row cache answered.
    pub row_cache_hits: u64,
    /// Lookups of home rows that it could not answer.
    pub row_cache_misses: u64,
    /// Bytes of the memtables, those being flushed included.
    pub memtable_bytes: u64,
    /// Bytes of all blob files.
    pub blob_bytes: u64,
    /// Of these, bytes of values that are no longer in use.
    pub blob_garbage_bytes: u64,
    /// Keys with more than one sibling, estimated.
    pub conflicts_estimate: u64,
    /// Tables, by level, of all column families together.
    pub levels: BTreeMap<u32, Level>,
}

/// The tables of one level.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Level {
    /// How many.
    pub tables: u64,
    /// Their bytes.
    pub bytes: u64,
}

impl Store {
    /// Properties and counters of RocksDB. Takes RocksDB's lock several times: up to a millisecond.
    pub fn database_stats(&self) -> DatabaseStats {
        let ticker = |ticker| self.engine.ticker(ticker);
        let (writes, syncs) = self.engine.durations();
        let (row_cache_hits, row_cache_misses) = self.rows.lookups();
        DatabaseStats {
            writes,
            syncs,
            stalled: Duration::from_micros(ticker(Ticker::StallMicros)),
            write_stopped: self.property("rocksdb.is-write-stopped") > 0,
            delayed_write_bytes_per_s: self.property("rocksdb.actual-delayed-write-rate"),
            compaction_pending_bytes: self.sum("rocksdb.estimate-pending-compaction-bytes"),
            running_compactions: self.property("rocksdb.num-running-compactions"),
            running_flushes: self.property("rocksdb.num-running-flushes"),
            compaction_read_bytes: ticker(Ticker::CompactReadBytes),
            compaction_written_bytes: ticker(Ticker::CompactWriteBytes),
            flushed_bytes: ticker(Ticker::FlushWriteBytes),
            block_cache_hits: ticker(Ticker::BlockCacheHit) + ticker(Ticker::BlobDbCacheHit),
            block_cache_misses: ticker(Ticker::BlockCacheMiss) + ticker(Ticker::BlobDbCacheMiss),
            row_cache_hits,
            row_cache_misses,
            memtable_bytes: self.sum("rocksdb.size-all-mem-tables"),
            blob_bytes: self.sum("rocksdb.total-blob-file-size"),
            blob_garbage_bytes: self.sum("rocksdb.live-blob-file-garbage-size"),
            conflicts_estimate: self.property_of(Column::Conflicts, "rocksdb.estimate-num-keys"),
            levels: self.levels(),
        }
    }

    /// A property of the database as a whole; 0 if RocksDB does not say.
    fn property(&self, name: &str) -> u64 {
        self.engine.db().property_int_value(name).ok().flatten().unwrap_or(0)
    }

    /// A property of one column family; 0 if RocksDB does not say.
    pub(crate) fn property_of(&self, column: Column, name: &str) -> u64 {
        let value = |family| self.engine.db().property_int_value_cf(family, name).ok().flatten();
        self.engine.column(column).ok().and_then(value).unwrap_or(0)
    }

    /// The sum of a property over all column families.
    fn sum(&self, name: &str) -> u64 {
        Column::ALL.into_iter().map(|column| self.property_of(column, name)).sum()
    }

    fn levels(&self) -> BTreeMap<u32, Level> {
        let mut levels: BTreeMap<u32, Level> = BTreeMap::new();
        for table in self.engine.db().live_files().unwrap_or_default() {
            let level = levels.entry(table.level.unsigned_abs()).or_default();
            level.tables += 1;
            level.bytes += table.size as u64;
        }
        levels
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use crate::testing::{HOME, mint, object, open, wait};
    use crate::{Durability, Level};

    #[test]
    fn what_the_store_did_shows_in_its_numbers() {
        let dir = tempfile::tempdir().unwrap();
        let store = open(dir.path(), Durability::Fsync);
        let before = store.database_stats();
        for i in 0..50 {
            mint(&store, HOME, &format!("k{i}"), &[7; 3000]);
            wait(store.durable()).unwrap();
        }
        assert!(object(&store, HOME, "k7").is_some() && object(&store, HOME, "never").is_none());
        let after = store.database_stats();
        let more = |of: fn(&super::DatabaseStats) -> u64| of(&after) - of(&before);
        assert_eq!(more(|stats| stats.writes.buckets.iter().sum()), 50);
        assert!(more(|stats| stats.syncs.buckets.iter().sum()) > 0);
        assert!(after.writes.sum > before.writes.sum && after.syncs.sum > before.syncs.sum);
        assert!(more(|stats| stats.memtable_bytes) > 0);
        assert!(
            more(|stats| stats.row_cache_hits) >= 1 && more(|stats| stats.row_cache_misses) >= 1
        );
        assert!(!after.write_stopped && after.delayed_write_bytes_per_s == 0);

        store.close().unwrap();
        drop(store);
        let store = open(dir.path(), Durability::Fsync); // which writes the log to tables
        let stats = store.database_stats();
        let tables: u64 = stats.levels.values().map(|level: &Level| level.tables).sum();
        assert!(tables > 0 && stats.blob_bytes > 50 * 100, "{stats:?}");
        assert!(object(&store, HOME, "k9").is_some());
        let read = store.database_stats();
        assert!(read.block_cache_hits + read.block_cache_misses > 0, "{read:?}");
    }
}
