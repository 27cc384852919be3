//! How a store is set up, how it is asked, and how it is.

use std::fmt;

use quorate_protocol::name::NodeId;
use quorate_protocol::tree::Tree;

/// When a write counts as kept.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Durability {
    /// When the log is synced to the disk: survives a power cut. Many writes share one sync.
    Fsync,
    /// When the log is with the operating system: survives a killed process, not a power cut.
    Buffered,
}

/// How to open a store. All sizes are bytes.
#[derive(Clone, Debug)]
pub struct Options {
    /// When a write counts as kept.
    pub durability: Durability,
    /// Memory for blocks and values read from disk.
    pub block_cache_bytes: usize,
    /// Memory for whole home rows, written or read lately; 0 for none.
    pub row_cache_bytes: usize,
    /// Memory for the newest writes of one column family before they are flushed; up to three such
    /// buffers exist at a time. The log is kept below four times as much.
    pub memtable_bytes: usize,
    /// Rows from this size up live in blob files, so that compaction does not copy them
    /// (docs/decisions/0011).
    pub blob_bytes_min: u64,
    /// How many bytes flushes and compactions together may write in a second; 0 for any number.
    /// They get their share in small pieces, so that requests have a turn between.
    pub background_bytes_per_s: u64,
    /// Below this many free bytes on the data disk no writes are taken; deletes down to an eighth
    /// of it. It must leave room for a compaction under way. As much again is held back by a file,
    /// which is given up when the disk is full. 0 turns all of it off.
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
    /// memtables, blobs from 512 bytes, 256 MiB a second in the background, a watermark of 1 GiB,
    /// hints up to 4 GiB.
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

/// Which row of a key is meant.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Place {
    /// The node's own, as home replica of the key's partition, counted in this Merkle tree. The row
    /// is the same whatever the tree's n says; a change moves it to that tree.
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
    /// No: it answers [`crate::Error::WouldBlock`] instead, with nothing changed. It reads from the
    /// disk only as long as that answers at once, which is when the operating system has the bytes
    /// in memory (docs/decisions/0013).
    Never,
    /// Yes: disk reads, stalled writes and waiting for another writer of the same row.
    Allowed,
}

/// What tests have a store suffer.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Ailment {
    /// Syncs of the log fail.
    pub syncs_fail: bool,
    /// How long each takes at the least, in milliseconds.
    pub sync_ms: u64,
}

/// How a store is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Condition {
    /// It takes reads and writes.
    Healthy,
    /// It takes no writes, until there is room on the disk, but reads and perhaps deletes.
    DiskLow {
        /// Free bytes at the last look.
        free_bytes: u64,
        /// The watermark, in bytes.
        min: u64,
        /// Whether there is room for deletes.
        takes_deletes: bool,
    },
    /// It takes reads only, until it is opened anew.
    Failed(String),
}

/// What opening found in the log.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Recovery {
    /// Everything that was ever synced is here.
    Whole,
    /// The log is damaged before its end and was cut there. After a power cut this is the part that
    /// was never synced; otherwise acknowledged writes are gone from this node. It must be treated
    /// as a replica that came back behind. The text is RocksDB's.
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
    /// Calls with [`Blocking::Never`] that were answered.
    pub inline: u64,
    /// Calls with [`Blocking::Never`] that were answered [`crate::Error::WouldBlock`].
    pub would_block: u64,
    /// Those of them that met a write stall.
    pub stalls: u64,
    /// Reads of the disk by calls with [`Blocking::Never`].
    pub reads_in_place: u64,
    /// Bytes the block cache holds.
    pub block_cache_bytes: u64,
    /// Bytes of the home rows in memory.
    pub row_cache_bytes: u64,
    /// Free bytes on the data disk at the last look.
    pub disk_free_bytes: u64,
    /// Flushes and compactions that failed. RocksDB tries them again.
    pub background_errors: u64,
}
