//! When this node last dropped something that it held for another node: a copy may still be in
//! flight then.

use std::sync::atomic::{AtomicU64, Ordering::SeqCst};

use quorate_protocol::layout::Partition;
use quorate_protocol::time::Uptime;

/// Per partition, since when this node has dropped nothing that it held for others.
pub struct LastDrop {
    /// Uptimes in milliseconds.
    since_ms: Vec<AtomicU64>,
}

impl LastDrop {
    /// A fresh start counts as a drop: the process before may have dropped something just before it
    /// ended.
    pub fn new(partitions: u32) -> Self {
        Self { since_ms: (0..partitions).map(|_| AtomicU64::new(0)).collect() }
    }

    /// A hint or an unowned row is about to be dropped: a copy of it may still be in flight.
    pub fn record(&self, partition: Partition, uptime: Uptime) {
        if let Some(since_ms) = self.since_ms.get(usize::from(partition.0)) {
            since_ms.fetch_max(uptime.0, SeqCst);
        }
    }

    /// When it last dropped something of a partition, by its uptime; never before it started.
    pub(super) fn since(&self, partition: Partition) -> Uptime {
        let since_ms = self.since_ms.get(usize::from(partition.0));
        Uptime(since_ms.map_or(u64::MAX, |since_ms| since_ms.load(SeqCst)))
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;

    #[test]
    fn a_drop_ends_the_quiet_of_its_partition_alone() {
        let last_drop = LastDrop::new(4);
        last_drop.record(Partition(2), Uptime(700));
        last_drop.record(Partition(2), Uptime(600));
        let since: BTreeMap<u16, u64> =
            (0..4).map(|p| (p, last_drop.since(Partition(p)).0)).collect();
        assert_eq!(since, BTreeMap::from([(0, 0), (1, 0), (2, 700), (3, 0)]));
        assert_eq!(last_drop.since(Partition(9)), Uptime(u64::MAX), "never quiet");
    }
}
