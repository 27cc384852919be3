//! What reassigning and scrubbing rows has found, counted.

use std::sync::atomic::AtomicU64;

/// What reassigning and scrubbing found since the start.
#[derive(Debug, Default)]
pub(crate) struct Reassigned {
    /// Rows moved to another tree.
    pub(crate) moved: AtomicU64,
    /// Rows dropped because this node no longer owned them.
    pub(crate) dropped: AtomicU64,
    /// Rows found in the last full scan that this node does not own and could not drop.
    pub(crate) unowned: AtomicU64,
    /// How many full scans for unowned rows have ended.
    pub(crate) looks: AtomicU64,
    /// Partitions scrubbed.
    pub(crate) scrubbed: AtomicU64,
    /// Leaves and index entries that were wrong.
    pub(crate) wrong_leaves: AtomicU64,
    /// When the last scrub of all partitions ended, by the node's uptime; 0 if none has.
    pub(crate) scrubbed_at_ms: AtomicU64,
}
