//! A store's options, the parameters of its calls, and its reported state.

use std::fmt;

use quorate_protocol::name::NodeId;
use quorate_protocol::tree::Tree;

/// When a write counts as durable.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Durability {
    /// When the log is synced to the disk: survives a power cut. Many writes share one sync.
    Fsync,
    /// When the log is written to the operating system: survives a killed process, not a power cut.
    Buffered,
}

/// How to open a store. All sizes are bytes.
#[derive(Clone, Debug)]
pub struct Options {
    /// When a write counts as durable.
    pub durability: Durability,
    /// Memory for blocks and values read from disk.
    pub block_cache_bytes: usize,
    /// Memory for whole home rows, recently written or read; 0 for none.
    pub row_cache_bytes: usize,
    /// Memory for the newest writes of one column family before they are flushed; up to three such
    /// buffers exist at a time. The log is kept below four times this size.
    pub memtable_bytes: usize,
    /// Rows of this size or more are stored in blob files, so that compaction does not copy them
    /// (docs/decisions/0011).
    pub blob_bytes_min: u64,
    /// The most bytes per second that flushes and compactions together may write; 0 for no limit.
    /// Granted in small pieces, so that requests run in between.
    pub background_bytes_per_s: u64,
    /// Below this many free bytes on the data disk writes are refused; deletes below 1/8 of it. It
    /// must leave room for a running compaction. A file reserves the same amount again, and is
    /// removed when the disk is full. 0 turns all of it off.
    pub disk_free_bytes_min: u64,
    /// The most bytes all hints together may hold.
    pub hint_bytes_max: u64,
    /// The node this directory belongs to.
    pub node: NodeId,
    /// The cluster this directory belongs to.
    pub cluster_id: String,
    /// The cluster's number of partitions.
    pub partitions: u32,
}

impl Options {
    /// The defaults for a node: synced writes, 256 MiB of block cache, 128 MiB of row cache, 64 MiB
    /// memtables, blobs from 512 bytes, 256 MiB/s in the background, a watermark of 1 GiB, hints up
    /// to 4 GiB.
    pub fn new(node: NodeId, cluster_id: &str, partitions: u32) -> Self {
        Self {
            durability: Durability::Fsync,
            block_cache_bytes: 256 << 20,
            row_cache_bytes: 128 << 20,
            memtable_bytes: 64 << 20,
            blob_bytes_min: 512,
            background_bytes_per_s: 256 << 20,
            disk_free_bytes_min: 1 << 30,
            hint_bytes_max: 4 << 30,
            node,
            cluster_id: cluster_id.to_owned(),
            partitions,
        }
    }
}

/// Which row of a key.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Place {
    /// The node's own, as home replica of the key's partition, counted in this Merkle tree. The
    /// tree's n does not select the row; a change moves the row to that tree.
    Home(Tree),
    /// The one kept as a hint for another node.
    Hint(NodeId),
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Home(tree) => write!(f, "home row of partition {}", tree.partition.0),
            Self::Hint(target) => write!(f, "hint for {target}"),
        }
    }
}

/// Whether a call may block its thread for long.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Blocking {
    /// No: it returns [`crate::Error::WouldBlock`] instead, with nothing changed. It reads from the
    /// disk only while reads do not wait, which is when the operating system has the bytes in
    /// memory (docs/decisions/0013).
    Never,
    /// Yes: disk reads, stalled writes and waiting for another writer of the same row.
    Allowed,
}

/// Faults that tests inject into a store.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct InjectedFaults {
    /// Syncs of the log fail.
    pub syncs_fail: bool,
    /// The least time each sync takes, in milliseconds.
    pub sync_ms: u64,
    /// The least time each read from RocksDB takes, in milliseconds; it then counts as one that
    /// would block.
    pub read_ms: u64,
}

/// A store's state.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Condition {
    /// It serves reads and writes.
    Healthy,
    /// It refuses writes until there is space on the disk; it serves reads and possibly deletes.
    DiskLow {
        /// Free bytes at the last check.
        free_bytes: u64,
        /// The watermark, in bytes.
        min: u64,
        /// Whether deletes are accepted.
        takes_deletes: bool,
    },
    /// It serves only reads until it is reopened.
    Failed(String),
}

/// What opening found in the log.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Recovery {
    /// Everything that was ever synced is present.
    Whole,
    /// The log was damaged before its end and was truncated there. After a power cut only writes
    /// that were never synced are lost; otherwise acknowledged writes are gone from this node. It
    /// must be treated as a replica that came back behind. The text is RocksDB's.
    CutShort(String),
}

/// Numbers for `/metrics`. Counters start at zero with the process.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Stats {
    /// Home rows, estimated.
    pub keys_estimate: u64,
    /// Hint rows, exact.
    pub hint_keys: u64,
    /// Bytes of all hints, exact.
    pub hint_bytes: u64,
    /// Keys for which a hint was stored where there was none.
    pub hints_queued: u64,
    /// Hints refused because all hints together would have exceeded their limit.
    pub hints_refused: u64,
    /// Home rows that are deleted and not yet reaped, exact.
    pub tombstones: u64,
    /// Merkle trees in memory.
    pub trees: u64,
    /// Bytes they hold.
    pub tree_bytes: u64,
    /// Syncs of the log.
    pub syncs: u64,
    /// Batches written.
    pub writes: u64,
    /// Batches known to be durable as configured.
    pub synced_writes: u64,
    /// Calls with [`Blocking::Never`] that completed.
    pub inline: u64,
    /// Calls with [`Blocking::Never`] that returned [`crate::Error::WouldBlock`].
    pub would_block: u64,
    /// Of these, calls that met a write stall.
    pub stalls: u64,
    /// Disk reads by calls with [`Blocking::Never`].
    pub reads_in_place: u64,
    /// Bytes the block cache holds.
    pub block_cache_bytes: u64,
    /// Bytes of the home rows in memory.
    pub row_cache_bytes: u64,
    /// Free bytes on the data disk at the last check.
    pub disk_free_bytes: u64,
    /// Flushes and compactions that failed. RocksDB retries them.
    pub background_errors: u64,
}
