//! What this node remembers of its comparisons.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Mutex, MutexGuard, PoisonError};

use quorate_protocol::layout::Partition;
use quorate_protocol::name::NodeId;
use quorate_protocol::stamp::Millis;
use tokio::sync::{Notify, Semaphore};

use crate::background::throttle::Throttle;

/// How many exchanges mend large objects at a time.
const LARGE_AT_ONCE: usize = 4;

/// What this node remembers of its comparisons.
pub(crate) struct AntiEntropy {
    /// Partitions that may differ, for each peer.
    dirty: BTreeMap<NodeId, Mutex<BTreeSet<Partition>>>,
    reports: Mutex<BTreeMap<NodeId, Report>>,
    totals: Mutex<Totals>,
    pub(super) wake: Notify,
    /// Mending takes its share of a core, all peers together.
    pub(crate) throttle: Throttle,
    /// Turns for what is mended and large.
    pub(super) large: Semaphore,
}

/// One round with one peer.
#[derive(Clone, Debug)]
pub(crate) struct Report {
    /// With whom.
    pub(crate) peer: NodeId,
    /// When it began, by the node's uptime.
    pub(crate) began: Millis,
    /// How long it took, in milliseconds.
    pub(crate) took_ms: u64,
    /// Trees whose roots were compared.
    pub(crate) trees: u64,
    /// Trees that differed.
    pub(crate) differing: u64,
    /// Keys that were listed.
    pub(crate) keys_compared: u64,
    /// Keys that were mended, on either side.
    pub(crate) keys_mended: u64,
    /// Bytes of messages sent.
    pub(crate) bytes_sent: u64,
    /// Bytes of replies received.
    pub(crate) bytes_received: u64,
    /// The partitions that differed, the first few.
    pub(crate) partitions: Vec<Partition>,
    /// Whether everything that was to be compared was, and what differed was mended.
    pub(crate) is_complete: bool,
}

/// Sums over all rounds since the start.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Totals {
    /// Rounds.
    pub(crate) rounds: u64,
    /// Keys mended.
    pub(crate) keys_mended: u64,
    /// Bytes sent and received.
    pub(crate) bytes: u64,
}

impl AntiEntropy {
    /// Nothing was compared yet.
    pub(crate) fn new(peers: impl IntoIterator<Item = NodeId>, share_percent: u64) -> Self {
        Self {
            dirty: peers.into_iter().map(|peer| (peer, Mutex::default())).collect(),
            reports: Mutex::default(),
            totals: Mutex::default(),
            wake: Notify::new(),
            throttle: Throttle::new(share_percent),
            large: Semaphore::new(LARGE_AT_ONCE),
        }
    }

    /// A partition may differ from other replicas: it is compared with all of them soon.
    pub(crate) fn mark_dirty(&self, partition: Partition) {
        for dirty in self.dirty.values() {
            lock(dirty).insert(partition);
        }
        self.wake.notify_waiters();
    }

    /// How many partitions are marked, for the peer that has most.
    pub(crate) fn dirty_partitions(&self) -> usize {
        self.dirty.values().map(|dirty| lock(dirty).len()).max().unwrap_or_default()
    }

    /// The last round with each peer.
    pub(crate) fn reports(&self) -> Vec<Report> {
        lock(&self.reports).values().cloned().collect()
    }

    /// Sums since the start.
    pub(crate) fn totals(&self) -> Totals {
        *lock(&self.totals)
    }

    pub(super) fn take_dirty(&self, peer: NodeId) -> BTreeSet<Partition> {
        self.dirty.get(&peer).map(|dirty| std::mem::take(&mut *lock(dirty))).unwrap_or_default()
    }

    pub(super) fn put_back(&self, peer: NodeId, partitions: BTreeSet<Partition>) {
        if let Some(dirty) = self.dirty.get(&peer) {
            lock(dirty).extend(partitions);
        }
    }

    pub(super) fn note(&self, report: Report) {
        let mut totals = lock(&self.totals);
        totals.rounds += 1;
        totals.keys_mended += report.keys_mended;
        totals.bytes += report.bytes_sent + report.bytes_received;
        drop(totals);
        lock(&self.reports).insert(report.peer, report);
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
