//! How far the hints that this node keeps have been delivered (see `crate::repair::hints`).

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering::SeqCst};
use std::sync::{Mutex, MutexGuard, PoisonError};

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
    targets: Mutex<BTreeMap<NodeId, Target>>,
    /// Stalled writes counted at the last check, and until when the node counts as busy.
    stalls: Mutex<(u64, Uptime)>,
}

/// How far the hints for one node have been delivered.
#[derive(Clone, Copy, Default)]
struct Target {
    /// Marks up to this one are settled.
    settled: u64,
    /// Since when the oldest hint has been kept, as last looked up.
    oldest: Option<WallTime>,
}

impl Hints {
    /// Starts without marks. `nonce` tells this process from others.
    pub fn new(targets: impl IntoIterator<Item = NodeId>, nonce: u64) -> Self {
        let targets = targets.into_iter().map(|target| (target, Target::default())).collect();
        let (last, stalls) = (AtomicU64::new(0), Mutex::default());
        Self { nonce, last, targets: Mutex::new(targets), stalls }
    }

    /// These are the nodes that hints may be kept for from now on. What was settled for others is
    /// forgotten: if hints for them are still here, they count as undelivered.
    pub(crate) fn follow(&self, targets: impl IntoIterator<Item = NodeId>) {
        let mut known = self.targets();
        let target = |node| (node, known.get(&node).copied().unwrap_or_default());
        let followed = targets.into_iter().map(target).collect();
        *known = followed;
    }

    fn targets(&self) -> MutexGuard<'_, BTreeMap<NodeId, Target>> {
        self.targets.lock().unwrap_or_else(PoisonError::into_inner)
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
        if let Some(target) = self.targets().get_mut(&target) {
            target.settled = target.settled.max(number);
        }
    }

    /// Of the nodes that hints are kept for, those with undelivered hints from before the mark;
    /// `None` if the mark was not handed out by this process.
    pub fn undelivered(&self, mark: Mark, kept: &[NodeId]) -> Option<Vec<NodeId>> {
        if mark.nonce != self.nonce || mark.number > self.last() {
            return None;
        }
        let targets = self.targets();
        let settled = |target: &NodeId| {
            targets.get(target).is_some_and(|target| target.settled >= mark.number)
        };
        Some(kept.iter().copied().filter(|target| !settled(target)).collect())
    }

    /// The oldest hint for a target was looked up: since when it has been kept, if there is one.
    pub(super) fn saw_oldest(&self, target: NodeId, since: Option<WallTime>) {
        if let Some(target) = self.targets().get_mut(&target) {
            target.oldest = since;
        }
    }

    /// Since when the oldest hint for a target has been kept, as last looked up: up to a minute ago.
    pub fn oldest(&self, target: NodeId) -> Option<WallTime> {
        self.targets().get(&target)?.oldest
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
