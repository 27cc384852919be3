//! How far the hints that this node keeps have been delivered (see `crate::repair::hints`).

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering::SeqCst};
use std::sync::{Mutex, PoisonError};

use quorate_protocol::message::{RepairReply, Reply};
use quorate_protocol::name::NodeId;
use quorate_protocol::time::{Uptime, WallTime};
use serde::{Deserialize, Serialize};

/// How long after a stalled write the node counts as busy, in milliseconds.
const STALLED_MS: u64 = 1_000;

/// How far hints have been delivered, and whether the node was busy recently.
pub struct Hints {
    nonce: u64,
    /// The last mark that was handed out.
    last: AtomicU64,
    /// By target: marks up to this one are settled.
    settled: BTreeMap<NodeId, AtomicU64>,
    /// By target: since when the oldest hint has been kept, as last looked up; 0 if there was none.
    oldest_ms: BTreeMap<NodeId, AtomicU64>,
    /// Stalled writes counted at the last check, and until when the node counts as busy.
    stalls: Mutex<(u64, Uptime)>,
}

impl Hints {
    /// Starts without marks. `nonce` tells this process from others.
    pub fn new(targets: impl Iterator<Item = NodeId>, nonce: u64) -> Self {
        let settled: BTreeMap<_, _> = targets.map(|target| (target, AtomicU64::new(0))).collect();
        Self {
            oldest_ms: settled.keys().map(|target| (*target, AtomicU64::new(0))).collect(),
            nonce,
            last: AtomicU64::new(0),
            settled,
            stalls: Mutex::default(),
        }
    }

    /// Marks the hints that are kept now.
    pub fn mark(&self) -> Mark {
        Mark { nonce: self.nonce, number: self.last.fetch_add(1, SeqCst) + 1 }
    }

    /// The last mark handed out: what a pass that begins now will settle.
    pub fn last(&self) -> u64 {
        self.last.load(SeqCst)
    }

    /// A pass that began after this mark was handed out has delivered all hints it found for the
    /// target.
    pub fn settle(&self, target: NodeId, number: u64) {
        if let Some(settled) = self.settled.get(&target) {
            settled.fetch_max(number, SeqCst);
        }
    }

    /// Of the nodes that hints are kept for, those with undelivered hints from before the mark;
    /// `None` if the mark was not handed out by this process.
    pub fn undelivered(&self, mark: Mark, kept: &[NodeId]) -> Option<Vec<NodeId>> {
        if mark.nonce != self.nonce || mark.number > self.last() {
            return None;
        }
        let settled = |target: &NodeId| {
            self.settled.get(target).is_some_and(|settled| settled.load(SeqCst) >= mark.number)
        };
        Some(kept.iter().copied().filter(|target| !settled(target)).collect())
    }

    /// The oldest hint for a target was looked up: since when it has been kept, if there is one.
    pub(super) fn saw_oldest(&self, target: NodeId, since: Option<WallTime>) {
        if let Some(oldest_ms) = self.oldest_ms.get(&target) {
            oldest_ms.store(since.map_or(0, |since| since.0), SeqCst);
        }
    }

    /// Since when the oldest hint for a target has been kept, as last looked up: up to a minute ago.
    pub fn oldest(&self, target: NodeId) -> Option<WallTime> {
        let since_ms = self.oldest_ms.get(&target)?.load(SeqCst);
        (since_ms > 0).then_some(WallTime(since_ms))
    }

    /// Whether a write stalled within the last second.
    pub(super) fn is_stalled(&self, stalls: u64, now: Uptime) -> bool {
        let mut seen = self.stalls.lock().unwrap_or_else(PoisonError::into_inner);
        if stalls > seen.0 {
            *seen = (stalls, now.plus(STALLED_MS));
        }
        now < seen.1
    }
}

/// A mark of one node.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Mark {
    /// Identifies the start of the node.
    pub nonce: u64,
    /// The number.
    pub number: u64,
}

impl From<Mark> for Reply {
    fn from(mark: Mark) -> Self {
        RepairReply::SyncPoint { nonce: mark.nonce, mark: mark.number }.into()
    }
}
