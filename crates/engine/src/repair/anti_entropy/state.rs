//! What this node remembers of its anti-entropy rounds.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use quorate_protocol::layout::Partition;
use quorate_protocol::name::NodeId;
use quorate_protocol::time::Uptime;
use quorate_storage::Durations;
use tokio::sync::{Notify, Semaphore};

use crate::background::throttle::Throttle;

/// How many exchanges repair large objects at a time: bounds the memory they hold.
const LARGE_AT_ONCE: usize = 4;

/// What this node remembers of its anti-entropy rounds.
pub struct AntiEntropy {
    /// For each peer, the partitions that may differ.
    dirty: BTreeMap<NodeId, Mutex<BTreeSet<Partition>>>,
    reports: Mutex<BTreeMap<NodeId, Report>>,
    totals: Mutex<Totals>,
    /// For each peer, when the last complete round ended, unless it was of a few partitions only, by the
    /// node's uptime.
    completed: Mutex<BTreeMap<NodeId, Uptime>>,
    /// How long rounds took.
    pub round_times: Durations,
    pub(super) wake: Notify,
    /// Keeps repair within its share of a core, for all peers together.
    pub throttle: Throttle,
    /// Permits to repair large objects.
    pub(super) large: Semaphore,
}

/// The report of one round with one peer.
#[derive(Clone, Debug)]
pub struct Report {
    /// The peer.
    pub peer: NodeId,
    /// When it began, by the node's uptime.
    pub began: Uptime,
    /// How long it took, in milliseconds.
    pub took_ms: u64,
    /// Trees whose roots were compared.
    pub trees: u64,
    /// Trees that differed.
    pub differing: u64,
    /// Keys that were listed.
    pub keys_compared: u64,
    /// Keys that were repaired, on either side.
    pub keys_repaired: u64,
    /// Bytes of messages sent.
    pub bytes_sent: u64,
    /// Bytes of replies received.
    pub bytes_received: u64,
    /// The partitions that differed, the first few of them.
    pub partitions: Vec<Partition>,
    /// Whether everything in scope was compared and every difference repaired.
    pub is_complete: bool,
}

/// Totals over all rounds since the start.
#[derive(Clone, Copy, Debug, Default)]
pub struct Totals {
    /// Rounds.
    pub rounds: u64,
    /// Of these, rounds that compared and repaired everything in their scope.
    pub complete: u64,
    /// Trees whose roots were compared.
    pub trees: u64,
    /// Trees that differed.
    pub differing: u64,
    /// Keys that were listed.
    pub keys_compared: u64,
    /// Keys repaired, on either side.
    pub keys_repaired: u64,
    /// Bytes of messages sent.
    pub bytes_sent: u64,
    /// Bytes of replies received.
    pub bytes_received: u64,
}

impl AntiEntropy {
    /// Starts without any rounds.
    pub fn new(peers: impl IntoIterator<Item = NodeId>, share_percent: u64) -> Self {
        Self {
            dirty: peers.into_iter().map(|peer| (peer, Mutex::default())).collect(),
            reports: Mutex::default(),
            totals: Mutex::default(),
            completed: Mutex::default(),
            round_times: Durations::default(),
            wake: Notify::new(),
            throttle: Throttle::new(share_percent),
            large: Semaphore::new(LARGE_AT_ONCE),
        }
    }

    /// A partition may differ from other replicas: it is compared with all of them soon.
    pub fn mark_dirty(&self, partition: Partition) {
        for dirty in self.dirty.values() {
            lock(dirty).insert(partition);
        }
        self.wake.notify_waiters();
    }

    /// How many partitions are marked, for the peer with the most.
    pub fn dirty_partitions(&self) -> usize {
        self.dirty.values().map(|dirty| lock(dirty).len()).max().unwrap_or_default()
    }

    /// The last round with each peer.
    pub fn reports(&self) -> Vec<Report> {
        lock(&self.reports).values().cloned().collect()
    }

    /// When the last complete round with a peer ended that was not of a few partitions only, by the
    /// node's uptime; `None` before the first.
    pub fn completed(&self, peer: NodeId) -> Option<Uptime> {
        lock(&self.completed).get(&peer).copied()
    }

    /// Totals since the start.
    pub fn totals(&self) -> Totals {
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

    /// A round has ended. `is_whole`: whether its scope was more than a few partitions.
    pub(super) fn note(&self, report: Report, is_whole: bool) {
        let mut totals = lock(&self.totals);
        totals.rounds += 1;
        totals.complete += u64::from(report.is_complete);
        totals.trees += report.trees;
        totals.differing += report.differing;
        totals.keys_compared += report.keys_compared;
        totals.keys_repaired += report.keys_repaired;
        totals.bytes_sent += report.bytes_sent;
        totals.bytes_received += report.bytes_received;
        drop(totals);
        self.round_times.record(Duration::from_millis(report.took_ms));
        if report.is_complete && is_whole {
            lock(&self.completed).insert(report.peer, report.began.plus(report.took_ms));
        }
        lock(&self.reports).insert(report.peer, report);
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
