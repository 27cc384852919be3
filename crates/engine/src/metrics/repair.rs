//! What repair does, where it is not counted elsewhere.

use crate::metrics::counter::{Counter, Gauge};

/// What repair did since the start.
#[derive(Debug, Default)]
pub struct Repair {
    /// Hints that their target has acknowledged.
    pub hints_delivered: Counter,
    /// Rows received and merged while filling.
    pub fill_rows: Counter,
    /// Partitions received.
    pub partitions_filled: Counter,
    /// Tombstones that were old enough, and that not every node confirmed.
    pub tombstones_unconfirmed: Counter,
    /// Keys of which this node has removed values that had expired.
    pub expired: Counter,
    /// Keys of which it could not, when it looked last.
    pub expired_left: Gauge,
}
