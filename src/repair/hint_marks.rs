//! How far the hints that this node keeps were delivered (see `crate::repair::hints`).

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering::SeqCst};
use std::sync::{Mutex, PoisonError};

use quorate_protocol::message::Reply;
use quorate_protocol::name::NodeId;
use quorate_protocol::stamp::Millis;
use serde::{Deserialize, Serialize};

/// How long a stalled write makes a node a busy one.
const STALLED_MS: u64 = 1_000;

/// How far hints were delivered, and how busy the node was of late.
pub(crate) struct Hints {
    nonce: u64,
    /// The last mark that was given out.
    last: AtomicU64,
    /// By target: marks up to this one are settled.
    settled: BTreeMap<NodeId, AtomicU64>,
    /// Stalled writes at the last look, and until when they count.
    stalls: Mutex<(u64, Millis)>,
}

impl Hints {
    /// Nothing is marked yet.
    pub(crate) fn new(targets: impl Iterator<Item = NodeId>) -> Self {
        Self {
            nonce: rand::random(),
            last: AtomicU64::new(0),
            settled: targets.map(|target| (target, AtomicU64::new(0))).collect(),
            stalls: Mutex::default(),
        }
    }

    /// Marks the hints that are kept now.
    pub(crate) fn mark(&self) -> Mark {
        Mark { nonce: self.nonce, number: self.last.fetch_add(1, SeqCst) + 1 }
    }

    /// The last mark given: what a pass that begins now will settle.
    pub(crate) fn last(&self) -> u64 {
        self.last.load(SeqCst)
    }

    /// A pass that began after this mark was given has brought the target all that it found.
    pub(crate) fn settle(&self, target: NodeId, number: u64) {
        if let Some(settled) = self.settled.get(&target) {
            settled.fetch_max(number, SeqCst);
        }
    }

    /// Of the nodes that hints are kept for, those to which not all of a mark are delivered; `None` if
    /// this start of the node did not give the mark.
    pub(crate) fn undelivered(&self, mark: Mark, kept: &[NodeId]) -> Option<Vec<NodeId>> {
        if mark.nonce != self.nonce || mark.number > self.last() {
            return None;
        }
        let settled = |target: &NodeId| {
            self.settled.get(target).is_some_and(|settled| settled.load(SeqCst) >= mark.number)
        };
        Some(kept.iter().copied().filter(|target| !settled(target)).collect())
    }

    /// Whether a write stalled within the last second.
    pub(super) fn is_stalled(&self, stalls: u64, now: Millis) -> bool {
        let mut seen = self.stalls.lock().unwrap_or_else(PoisonError::into_inner);
        if stalls > seen.0 {
            *seen = (stalls, now.plus(STALLED_MS));
        }
        now < seen.1
    }
}

/// What one node gave out.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Mark {
    /// The start of the node.
    pub(crate) nonce: u64,
    /// The number.
    pub(crate) number: u64,
}

impl From<Mark> for Reply {
    fn from(mark: Mark) -> Self {
        Self::SyncPoint { nonce: mark.nonce, mark: mark.number }
    }
}
