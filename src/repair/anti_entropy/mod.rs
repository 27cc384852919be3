//! Anti-entropy: keeps replicas alike without anybody asking.
//!
//! For each peer a task compares the Merkle trees that both hold, every interval, as soon as the peer is
//! back, and at once where a partition is known to be dirty. What differs is walked down and mended in
//! both directions by `protocol::exchange` (`exchange`), a page of keys at a time and within a share of a
//! core ([`Throttle`]). Of two nodes, the one that comes first in a partition's preference list begins. The
//! other side is in [`answers`]; people look at it through [`Report`]s.

pub(crate) mod answers;
mod exchange;
mod round;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use quorate_protocol::layout::Partition;
use quorate_protocol::name::NodeId;
use quorate_protocol::stamp::Millis;
use tokio::sync::{Notify, Semaphore};
use tokio::time::MissedTickBehavior;

pub(crate) use self::exchange::{Asking, Talk, Way, mend_tree, receive_key, way};
pub(crate) use self::round::{Scope, is_home, run as run_round};
use crate::background::throttle::Throttle;
use crate::liveness::health::State;
use crate::node::Node;

/// How often a peer's task looks whether there is reason to compare before the interval is over.
const LOOK_EVERY: Duration = Duration::from_millis(500);

/// How many exchanges mend large objects at a time.
const LARGE_AT_ONCE: usize = 4;

/// What this node remembers of its comparisons.
pub(crate) struct AntiEntropy {
    /// Partitions that may differ, for each peer.
    dirty: BTreeMap<NodeId, Mutex<BTreeSet<Partition>>>,
    reports: Mutex<BTreeMap<NodeId, Report>>,
    totals: Mutex<Totals>,
    wake: Notify,
    /// Mending takes its share of a core, all peers together.
    pub(crate) throttle: Throttle,
    /// Turns for what is mended and large.
    large: Semaphore,
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

    fn take_dirty(&self, peer: NodeId) -> BTreeSet<Partition> {
        self.dirty.get(&peer).map(|dirty| std::mem::take(&mut *lock(dirty))).unwrap_or_default()
    }

    fn put_back(&self, peer: NodeId, partitions: BTreeSet<Partition>) {
        if let Some(dirty) = self.dirty.get(&peer) {
            lock(dirty).extend(partitions);
        }
    }

    fn note(&self, report: Report) {
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

/// Compares with one peer for as long as the node runs.
pub(crate) async fn run(node: Arc<Node>, peer: NodeId) {
    let interval_ms = node.config.anti_entropy.interval_ms;
    if interval_ms == 0 {
        return;
    }
    let mut ticks = tokio::time::interval(LOOK_EVERY);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut compared_at: Option<Millis> = None;
    loop {
        tokio::select! {
            _ = ticks.tick() => {}
            () = node.anti_entropy.wake.notified() => {}
        }
        let Some(up_since) = up_since(&node, peer) else { continue };
        if !node.takes_part() || !node.readiness.is_complete() {
            continue;
        }
        let now = node.uptime();
        let dirty = node.anti_entropy.take_dirty(peer);
        if !dirty.is_empty() {
            round::run(&node, peer, Scope::Partitions(dirty)).await;
        }
        // It was away since, and nobody else kept what it missed.
        let is_back = compared_at.is_none_or(|at| at < up_since) && !is_handed_off_to(&node, peer);
        let is_due = compared_at.is_none_or(|at| now.since(at) >= interval_ms);
        if is_back || is_due {
            compared_at = Some(now);
            round::run(&node, peer, Scope::MineToBegin).await;
        }
    }
}

/// Since when a peer has been up, by the node's uptime; `None` if it is not.
fn up_since(node: &Node, peer: NodeId) -> Option<Millis> {
    let health = node.peers.health(peer)?;
    (health.state() == State::Up).then(|| health.since())
}

/// Whether hints are still being delivered to a peer: comparing now would mend the same keys.
fn is_handed_off_to(node: &Node, peer: NodeId) -> bool {
    node.store.hint_targets().is_ok_and(|targets| targets.iter().any(|(node, ..)| *node == peer))
}
