//! What moving and scrubbing rows has found, counted.

use std::sync::atomic::AtomicU64;

/// What sweeping and scrubbing found since the start.
#[derive(Debug, Default)]
pub(crate) struct Reassigned {
    /// Rows moved to another tree.
    pub(crate) moved: AtomicU64,
    /// Rows dropped because this node no longer owned them.
    pub(crate) dropped: AtomicU64,
    /// Rows that this node does not own and still has, when it last looked at all.
    pub(crate) unowned: AtomicU64,
    /// How often it has looked at all.
    pub(crate) looks: AtomicU64,
    /// Partitions scrubbed.
    pub(crate) scrubbed: AtomicU64,
    /// Leaves and index entries that were wrong.
    pub(crate) wrong_leaves: AtomicU64,
    /// When the last scrub of all partitions ended, by the node's uptime; 0 if none did.
    pub(crate) scrubbed_at_ms: AtomicU64,
}
