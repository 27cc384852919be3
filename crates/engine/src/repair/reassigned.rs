//! What reassigning and scrubbing rows has found, counted.

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

/// What reassigning and scrubbing found since the start.
#[derive(Debug, Default)]
pub struct Reassigned {
    /// Rows moved to another tree.
    pub moved: AtomicU64,
    /// Rows dropped because this node no longer owned them.
    pub dropped: AtomicU64,
    /// Rows found in the last full scan that this node does not own and could not drop.
    pub unowned: AtomicU64,
    /// The epoch in which the last full scan began.
    pub looked_in: AtomicU64,
    /// How many full scans for unowned rows have ended.
    pub looks: AtomicU64,
    /// Partitions scrubbed.
    pub scrubbed: AtomicU64,
    /// Leaves and index entries that were wrong.
    pub wrong_leaves: AtomicU64,
    /// When the last scrub of all partitions ended, by the node's uptime; 0 if none has.
    pub scrubbed_at_ms: AtomicU64,
}

impl Reassigned {
    /// How many rows this node holds that are not its own by the record of an epoch; `None` as long as no
    /// full scan has looked for them in it.
    pub fn unowned_in(&self, epoch: u64) -> Option<u64> {
        (self.looked_in.load(Relaxed) == epoch).then(|| self.unowned.load(Relaxed))
    }
}
