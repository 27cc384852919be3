//! What RocksDB says about itself: its properties, read when they are asked for. Its own statistics
//! stay off: they made reads that miss the row cache a tenth more expensive.

use std::collections::BTreeMap;

use crate::durations::DurationCounts;
use crate::store::Store;

/// Properties of RocksDB, and how long its calls took. Counts start at zero when the store is opened.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct DatabaseStats {
    /// How long a batch took to be written to the log's buffer and the memtables, stalls included.
    pub writes: DurationCounts,
    /// How long a sync of the log took.
    pub syncs: DurationCounts,
    /// How often RocksDB found that it must delay writes because flushes or compactions were behind.
    pub delays: u64,
    /// How often it found that it must stop them.
    pub stops: u64,
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
    /// Reads that may not block and found everything in memory: in memtables and the block cache.
    pub memory_reads: u64,
    /// Those that needed the disk.
    pub disk_reads: u64,
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
    /// Entries of secondary indexes, estimated.
    pub index_estimate: u64,
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
    /// The properties of RocksDB. Takes its lock several times: up to a millisecond.
    pub fn database_stats(&self) -> DatabaseStats {
        let (writes, syncs) = self.engine.durations();
        let (row_cache_hits, row_cache_misses) = self.rows.lookups();
        let mut stats = DatabaseStats {
            writes,
            syncs,
            row_cache_hits,
            row_cache_misses,
            ..DatabaseStats::default()
        };
        self.engine.backend.add_stats(&mut stats);
        stats
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use crate::testing::{HOME, key, mint, object, open, wait};
    use crate::{Blocking, Durability, Error, Level};

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
        let read = store.read(HOME, &key("k9"), Blocking::Never);
        assert!(matches!(read, Ok(Some(_)) | Err(Error::WouldBlock)), "{read:?}");
        let stats = store.database_stats();
        assert_eq!((stats.memory_reads + stats.disk_reads, stats.row_cache_misses), (1, 1));
    }
}
