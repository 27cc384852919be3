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
    peers: Mutex<BTreeMap<NodeId, OfPeer>>,
    totals: Mutex<Totals>,
    /// How long rounds took.
    pub round_times: Durations,
    pub(super) wake: Notify,
    /// Keeps repair within its share of a core, for all peers together.
    pub throttle: Throttle,
    /// Permits to repair large objects.
    pub(super) large: Semaphore,
}

/// What is remembered of the rounds with one peer.
#[derive(Default)]
struct OfPeer {
    /// The partitions that may differ.
    dirty: BTreeSet<Partition>,
    /// The last round.
    report: Option<Report>,
    /// When the last complete round ended, unless it was of a few partitions only, by the node's uptime.
    completed: Option<Uptime>,
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
            peers: Mutex::new(peers.into_iter().map(|peer| (peer, OfPeer::default())).collect()),
            totals: Mutex::default(),
            round_times: Durations::default(),
            wake: Notify::new(),
            throttle: Throttle::new(share_percent),
            large: Semaphore::new(LARGE_AT_ONCE),
        }
    }

    /// These are the peers from now on. What is remembered of others is forgotten.
    pub(crate) fn follow(&self, peers: impl IntoIterator<Item = NodeId>) {
        let mut known = lock(&self.peers);
        let followed =
            peers.into_iter().map(|peer| (peer, known.remove(&peer).unwrap_or_default())).collect();
        *known = followed;
    }

    /// A partition may differ from other replicas: it is compared with all of them soon.
    pub fn mark_dirty(&self, partition: Partition) {
        for peer in lock(&self.peers).values_mut() {
            peer.dirty.insert(partition);
        }
        self.wake.notify_waiters();
    }

    /// How many partitions are marked, for the peer with the most.
    pub fn dirty_partitions(&self) -> usize {
        lock(&self.peers).values().map(|peer| peer.dirty.len()).max().unwrap_or_default()
    }

    /// The last round with each peer.
    pub fn reports(&self) -> Vec<Report> {
        lock(&self.peers).values().filter_map(|peer| peer.report.clone()).collect()
    }

    /// When the last complete round with a peer ended that was not of a few partitions only, by the
    /// node's uptime; `None` before the first.
    pub fn completed(&self, peer: NodeId) -> Option<Uptime> {
        lock(&self.peers).get(&peer)?.completed
    }

    /// Totals since the start.
    pub fn totals(&self) -> Totals {
        *lock(&self.totals)
    }

    pub(crate) fn take_dirty(&self, peer: NodeId) -> BTreeSet<Partition> {
        let mut peers = lock(&self.peers);
        peers.get_mut(&peer).map(|peer| std::mem::take(&mut peer.dirty)).unwrap_or_default()
    }

    pub(super) fn put_back(&self, peer: NodeId, partitions: BTreeSet<Partition>) {
        if let Some(peer) = lock(&self.peers).get_mut(&peer) {
            peer.dirty.extend(partitions);
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
        if let Some(peer) = lock(&self.peers).get_mut(&report.peer) {
            if report.is_complete && is_whole {
                peer.completed = Some(report.began.plus(report.took_ms));
            }
            peer.report = Some(report);
        }
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    fn report(peer: NodeId) -> Report {
        Report {
            peer,
            began: Uptime(5),
            took_ms: 2,
            trees: 1,
            differing: 0,
            keys_compared: 0,
            keys_repaired: 0,
            bytes_sent: 0,
            bytes_received: 0,
            partitions: Vec::new(),
            is_complete: true,
        }
    }

    #[test]
    fn rounds_are_remembered_of_peers_only() {
        let [n2, n3] = ["n2", "n3"].map(|name| NodeId::parse(name).unwrap());
        let rounds = AntiEntropy::new([n2], 10);
        let peers = || rounds.reports().iter().map(|report| report.peer).collect::<Vec<_>>();
        rounds.mark_dirty(Partition(1));
        rounds.note(report(n2), true);
        rounds.follow([n2, n3]);
        assert_eq!((rounds.completed(n2), rounds.completed(n3)), (Some(Uptime(7)), None));
        rounds.mark_dirty(Partition(2));
        assert_eq!(rounds.take_dirty(n3), [Partition(2)].into(), "it is compared when it joins");
        rounds.note(report(n3), false);
        rounds.follow([n3]);
        rounds.note(report(n2), true);
        rounds.put_back(n2, [Partition(1)].into());
        assert_eq!((peers(), rounds.completed(n2)), (vec![n3], None), "n2 has left");
        assert_eq!((rounds.take_dirty(n2), rounds.dirty_partitions()), (BTreeSet::new(), 0));
    }
}
