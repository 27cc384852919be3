//! The store and its disk.

use std::sync::Arc;
use std::time::Duration;

use quorate_protocol::name::NodeId;
use quorate_storage::{Condition, DatabaseStats, Error, Stats};
use tokio::time::timeout;

use quorate_engine::backup::make;
use quorate_engine::metrics::desc::{Desc, Section};
use quorate_engine::metrics::text::{Writer, seconds};
use quorate_engine::node::Node;
use quorate_engine::ops::replica::on_blocking_pool;

/// How long the store may take to give its numbers. Less than Prometheus waits for all of them.
const STORE_WAIT: Duration = Duration::from_secs(2);

const FAILED: Desc =
    Desc::gauge("quorate_store_failed", "Whether a write or a sync has failed: 1 or 0")
        .means("The node then takes no writes until it has replaced its process; reads go on.");
const WRITABLE: Desc =
    Desc::gauge("quorate_store_writable", "Whether the store takes writes: 1 or 0")
        .means("0 if it has failed, or if its disk is nearly full.");
const STUCK: Desc = Desc::gauge(
    "quorate_store_sync_stuck_seconds",
    "For how long syncs have been in flight without one returning",
)
.means("More than a moment: the disk hangs.");
const DISK_FREE: Desc =
    Desc::gauge("quorate_disk_free_bytes", "Free space of the data directory's file system");
const DISK_MIN: Desc = Desc::gauge(
    "quorate_disk_free_min_bytes",
    "Below this much free space writes are refused: storage.disk_free_bytes_min",
);
const KEYS: Desc =
    Desc::gauge("quorate_keys", "Keys that this node holds as a home replica, estimated");
const CONFLICT_KEYS: Desc =
    Desc::gauge("quorate_conflict_keys", "Of these, keys with more than one sibling, estimated")
        .means("`GET /siblings` lists them. If it only grows, clients do not resolve conflicts.");
const INDEX_ENTRIES: Desc = Desc::gauge(
    "quorate_index_entries",
    "Entries that this node has in secondary indexes, as a home replica, estimated",
);
const SYNC_TIMES: Desc =
    Desc::histogram("quorate_store_sync_duration_seconds", "Time of one sync of the log")
        .means("How fast the disk is. Many writes share one sync.");
const WRITES: Desc = Desc::counter("quorate_store_writes_total", "Batches written to the store");
const SYNCED_WRITES: Desc = Desc::counter(
    "quorate_store_synced_writes_total",
    "Of these, batches that a sync is known to have made durable",
);
const CALLS: Desc = Desc::counter(
    "quorate_store_calls_total",
    "Calls of operations to the store: done in place, or handed to a thread that may block",
)
.by(&["kind"])
.means("Much `offloaded`: rows come from the disk, or writes are stalled.");
const IN_PLACE: Desc = Desc::counter(
    "quorate_store_disk_reads_in_place_total",
    "Reads from the disk that were done in place, because the last ones did not wait",
);
const STALLED_CALLS: Desc =
    Desc::counter("quorate_store_stalled_calls_total", "Writes that met a write stall");
const STALLS: Desc = Desc::counter(
    "quorate_store_stalls_total",
    "How often RocksDB found that it must delay, or stop, writes: flushes or compactions were behind",
)
.by(&["kind"])
.means(
    "The disk is too slow for the rate of writes, or storage.background_bytes_per_s too low. How long \
     writes wait shows in `quorate_phase_duration_seconds` of `local_write`.",
);
const STOPPED: Desc =
    Desc::gauge("quorate_store_write_stopped", "Whether RocksDB takes no writes at the moment");
const DELAYED: Desc = Desc::gauge(
    "quorate_store_delayed_write_bytes_per_second",
    "The rate that RocksDB holds writes to at the moment; 0 if it does not",
);
const PENDING: Desc = Desc::gauge(
    "quorate_store_compaction_pending_bytes",
    "Bytes that compactions have still to rewrite, estimated",
)
.means("It goes up and down. Growth for hours ends in write stalls.");
const COMPACTIONS: Desc =
    Desc::gauge("quorate_store_compactions_running", "Compactions that run at the moment");
const FLUSHES: Desc =
    Desc::gauge("quorate_store_flushes_running", "Flushes that run at the moment");
const ERRORS: Desc = Desc::counter(
    "quorate_store_background_errors_total",
    "Flushes and compactions that failed and are tried again",
)
.means("A full or failing disk. RocksDB's file LOG in the data directory says more.");
const HITS: Desc =
    Desc::counter("quorate_store_cache_hits_total", "Lookups that the cache answered")
        .by(&["cache"]);
const MISSES: Desc =
    Desc::counter("quorate_store_cache_misses_total", "Lookups that the cache could not answer")
        .by(&["cache"])
        .means("Reads that miss `row` ask RocksDB; those that miss `block` as well need the disk.");
const CACHE_BYTES: Desc =
    Desc::gauge("quorate_store_cache_bytes", "Bytes that the cache holds").by(&["cache"]);
const CACHE_LIMIT: Desc =
    Desc::gauge("quorate_store_cache_limit_bytes", "Bytes that it may hold").by(&["cache"]);
const MEMTABLES: Desc =
    Desc::gauge("quorate_store_memtable_bytes", "Bytes of writes that are not yet in tables");
const TREE_BYTES: Desc =
    Desc::gauge("quorate_merkle_trees_bytes", "Memory that the Merkle trees take");
const LEVEL_BYTES: Desc =
    Desc::gauge("quorate_store_level_bytes", "Bytes of RocksDB's tables, by level").by(&["level"]);
const LEVEL_TABLES: Desc = Desc::gauge("quorate_store_level_tables", "RocksDB's tables, by level")
    .by(&["level"])
    .means("Many tables on level `0` slow reads down, and then writes: compactions are behind.");
const BLOBS: Desc = Desc::gauge(
    "quorate_store_blob_bytes",
    "Bytes of blob files, which hold the rows that are not small",
);
const GARBAGE: Desc =
    Desc::gauge("quorate_store_blob_garbage_bytes", "Of these, bytes that are no longer in use");

const BACKUPS: Desc = Desc::gauge("quorate_backups", "Backups that this node keeps");
const BACKUP_BYTES: Desc = Desc::gauge(
    "quorate_backup_bytes",
    "Bytes of files that only backups hold: the store itself needs them no more",
)
.means("It grows while a backup is kept. `quorate backup` deletes its own once they are fetched.");

/// The metrics written here.
pub(super) const SECTION: Section = Section {
    title: "Storage",
    about: "RocksDB and the disk. Numbers that RocksDB must be asked for are left out while it does not \
            answer within two seconds.",
    metrics: &[
        FAILED,
        WRITABLE,
        STUCK,
        DISK_FREE,
        DISK_MIN,
        KEYS,
        CONFLICT_KEYS,
        INDEX_ENTRIES,
        SYNC_TIMES,
        WRITES,
        SYNCED_WRITES,
        CALLS,
        IN_PLACE,
        STALLED_CALLS,
        STALLS,
        STOPPED,
        DELAYED,
        PENDING,
        COMPACTIONS,
        FLUSHES,
        ERRORS,
        HITS,
        MISSES,
        CACHE_BYTES,
        CACHE_LIMIT,
        MEMTABLES,
        TREE_BYTES,
        LEVEL_BYTES,
        LEVEL_TABLES,
        BLOBS,
        GARBAGE,
        BACKUPS,
        BACKUP_BYTES,
    ],
};

/// What the store has to be asked for.
pub(super) struct Readings {
    pub(super) stats: Stats,
    pub(super) database: DatabaseStats,
    /// Hints: target, keys, bytes.
    pub(super) hints: Vec<(NodeId, u64, u64)>,
    /// Backups that are kept, and bytes that only they hold.
    pub(super) backups: (u64, u64),
}

/// Asks the store; `None` if it does not answer in time, or cannot read.
pub(super) async fn read(node: &Arc<Node>) -> Option<Readings> {
    let reading = async {
        let turn = node.metrics.store_turn.clone().acquire_owned().await.ok()?;
        let asked = on_blocking_pool(node, move |node| {
            let _turn = turn; // held until the store has answered, however long that takes
            let (stats, database) = (node.store.stats(), node.store.database_stats());
            let (hints, backups) = (node.store.hint_targets()?, make::kept(node)?);
            Ok::<_, Error>(Readings { stats, database, hints, backups })
        });
        asked.await.ok()
    };
    timeout(STORE_WAIT, reading).await.ok()?
}

/// Writes the metrics of the store.
pub(super) fn write(out: &mut Writer, node: &Node, readings: Option<&Readings>) {
    let condition = node.store.condition();
    out.one(&FAILED, u8::from(matches!(condition, Condition::Failed(_))));
    out.one(&WRITABLE, u8::from(condition == Condition::Healthy));
    out.one(&STUCK, seconds(node.store.stuck_for()));
    out.one(&DISK_MIN, node.config.storage.disk_free_bytes_min);
    let mut limits = out.metric(&CACHE_LIMIT);
    limits.value(&["row"], node.config.storage.row_cache_bytes);
    limits.value(&["block"], node.config.storage.block_cache_bytes);
    if let Some(readings) = readings {
        write_stats(out, &readings.stats);
        write_database(out, &readings.stats, &readings.database);
        out.one(&BACKUPS, readings.backups.0);
        out.one(&BACKUP_BYTES, readings.backups.1);
    }
}

fn write_stats(out: &mut Writer, stats: &Stats) {
    out.one(&DISK_FREE, stats.disk_free_bytes);
    out.one(&KEYS, stats.keys_estimate);
    out.one(&WRITES, stats.writes);
    out.one(&SYNCED_WRITES, stats.synced_writes);
    let mut calls = out.metric(&CALLS);
    calls.value(&["inline"], stats.inline);
    calls.value(&["offloaded"], stats.would_block);
    out.one(&IN_PLACE, stats.reads_in_place);
    out.one(&STALLED_CALLS, stats.stalls);
    out.one(&ERRORS, stats.background_errors);
    out.one(&TREE_BYTES, stats.tree_bytes);
}

fn write_database(out: &mut Writer, stats: &Stats, database: &DatabaseStats) {
    let mut of_caches = |desc, row: u64, block: u64| {
        let mut values = out.metric(desc);
        values.value(&["row"], row);
        values.value(&["block"], block);
    };
    of_caches(&HITS, database.row_cache_hits, database.memory_reads);
    of_caches(&MISSES, database.row_cache_misses, database.disk_reads);
    of_caches(&CACHE_BYTES, stats.row_cache_bytes, stats.block_cache_bytes);
    out.one(&CONFLICT_KEYS, database.conflicts_estimate);
    out.one(&INDEX_ENTRIES, database.index_estimate);
    out.metric(&SYNC_TIMES).durations(&[], &database.syncs);
    let mut stalls = out.metric(&STALLS);
    stalls.value(&["delay"], database.delays);
    stalls.value(&["stop"], database.stops);
    out.one(&STOPPED, u8::from(database.write_stopped));
    out.one(&DELAYED, database.delayed_write_bytes_per_s);
    out.one(&PENDING, database.compaction_pending_bytes);
    out.one(&COMPACTIONS, database.running_compactions);
    out.one(&FLUSHES, database.running_flushes);
    out.one(&MEMTABLES, database.memtable_bytes);
    let mut bytes = out.metric(&LEVEL_BYTES);
    database.levels.iter().for_each(|(level, all)| bytes.value(&[&level.to_string()], all.bytes));
    let mut tables = out.metric(&LEVEL_TABLES);
    database.levels.iter().for_each(|(level, all)| tables.value(&[&level.to_string()], all.tables));
    out.one(&BLOBS, database.blob_bytes);
    out.one(&GARBAGE, database.blob_garbage_bytes);
}
