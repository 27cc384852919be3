//! The properties of RocksDB.

use std::sync::atomic::{AtomicU64, Ordering};

use super::Rocks;
use crate::columns::Column;
use crate::database_stats::DatabaseStats;

impl Rocks {
    /// Adds the properties of the database.
    pub(crate) fn add_stats(&self, stats: &mut DatabaseStats) {
        let load = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        (stats.delays, stats.stops) = self.stalls();
        stats.write_stopped = self.property("rocksdb.is-write-stopped") > 0;
        stats.delayed_write_bytes_per_s = self.property("rocksdb.actual-delayed-write-rate");
        stats.compaction_pending_bytes = self.sum("rocksdb.estimate-pending-compaction-bytes");
        stats.running_compactions = self.property("rocksdb.num-running-compactions");
        stats.running_flushes = self.property("rocksdb.num-running-flushes");
        (stats.memory_reads, stats.disk_reads) = (load(&self.memory_reads), load(&self.disk_reads));
        stats.memtable_bytes = self.sum("rocksdb.size-all-mem-tables");
        stats.blob_bytes = self.sum("rocksdb.total-blob-file-size");
        stats.blob_garbage_bytes = self.sum("rocksdb.live-blob-file-garbage-size");
        stats.conflicts_estimate = self.entries_estimate(Column::Conflicts);
        stats.index_estimate = self.entries_estimate(Column::Index);
        for table in self.db.live_files().unwrap_or_default() {
            let level = stats.levels.entry(table.level.unsigned_abs()).or_default();
            level.tables += 1;
            level.bytes += table.size as u64;
        }
    }

    pub(crate) fn background_errors(&self) -> u64 {
        self.property("rocksdb.background-errors")
    }

    pub(crate) fn entries_estimate(&self, column: Column) -> u64 {
        self.property_of(column, "rocksdb.estimate-num-keys")
    }

    pub(crate) fn cache_bytes(&self) -> u64 {
        self.cache.get_usage() as u64
    }

    /// A property of the database as a whole; 0 if RocksDB does not say.
    fn property(&self, name: &str) -> u64 {
        self.db.property_int_value(name).ok().flatten().unwrap_or(0)
    }

    /// A property of one column family; 0 if RocksDB does not say.
    fn property_of(&self, column: Column, name: &str) -> u64 {
        let value = |family| self.db.property_int_value_cf(family, name).ok().flatten();
        self.family(column).ok().and_then(value).unwrap_or(0)
    }

    /// The sum of a property over all column families.
    fn sum(&self, name: &str) -> u64 {
        Column::ALL.into_iter().map(|column| self.property_of(column, name)).sum()
    }

    /// How often writes were delayed, and stopped, over all column families.
    fn stalls(&self) -> (u64, u64) {
        let told: Vec<String> =
            Column::ALL.into_iter().filter_map(|column| self.stall_stats(column)).collect();
        let sum = |name| told.iter().filter_map(|told| count_in(told, name)).sum();
        (sum("total-delays"), sum("total-stops"))
    }

    /// What RocksDB says about the stalls of one column family.
    fn stall_stats(&self, column: Column) -> Option<String> {
        let family = self.family(column).ok()?;
        self.db.property_value_cf(family, "rocksdb.cf-write-stall-stats").ok().flatten()
    }
}

/// The number after a name in a list such as `a: 1, b: 2`.
fn count_in(list: &str, name: &str) -> Option<u64> {
    let named = list.split([',', '\n']).filter_map(|item| item.trim().rsplit_once(": "));
    let mut named = named.filter(|(found, _)| found.rsplit(' ').next() == Some(name));
    named.next()?.1.parse().ok()
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use crate::Durability;
    use crate::backend::Backend;
    use crate::testing::open;

    #[test]
    fn counts_are_found_by_their_whole_name() {
        let told = "Write Stall (count): l0-delays: 1, total-delays: 7, total-stops: 2\n";
        assert_eq!(count_in(told, "total-delays"), Some(7));
        assert_eq!(count_in(told, "total-stops"), Some(2));
        assert_eq!(count_in("Write Stall (count): total-stops: 3\n", "total-stops"), Some(3));
        assert_eq!(count_in(told, "delays"), None);
    }

    #[test]
    fn rocksdb_says_how_often_it_stalled() {
        let dir = tempfile::tempdir().unwrap();
        let store = open(dir.path(), Durability::Buffered);
        let Backend::Rocks(rocks) = &store.engine.backend else { panic!() };
        let told = rocks.stall_stats(Column::Objects).unwrap();
        assert_eq!(count_in(&told, "total-delays"), Some(0), "{told}");
        assert_eq!(count_in(&told, "total-stops"), Some(0), "{told}");
    }
}
