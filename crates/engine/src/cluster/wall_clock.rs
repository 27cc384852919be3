//! The node's wall clock, corrected while most of its peers disagree with it (see
//! `protocol::skew`).

use std::collections::BTreeSet;
use std::sync::atomic::{AtomicI64, Ordering::Relaxed};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use quorate_protocol::name::NodeId;
use quorate_protocol::skew::Skew;
use quorate_protocol::time::WallTime;

use crate::host::Clock;

/// The machine's clock, and what peers report of theirs. For stamps and ages, never for waiting.
pub struct WallClock {
    machine: Arc<dyn Clock>,
    heard: Mutex<Heard>,
    /// Milliseconds to add to the machine's clock: read for every write.
    correction_ms: AtomicI64,
    /// By the fault hook: how far the machine's clock seems to be ahead, in milliseconds.
    fault_ms: AtomicI64,
}

/// What is known of the peers' clocks.
struct Heard {
    /// Whose clocks count: a greeting of another may still be under way.
    peers: BTreeSet<NodeId>,
    skew: Skew,
}

impl WallClock {
    /// Trusts the machine until these peers disagree.
    pub fn new(machine: Arc<dyn Clock>, peers: impl IntoIterator<Item = NodeId>) -> Self {
        let heard = Heard { peers: peers.into_iter().collect(), skew: Skew::default() };
        let (correction_ms, fault_ms) = (AtomicI64::new(0), AtomicI64::new(0));
        Self { machine, heard: Mutex::new(heard), correction_ms, fault_ms }
    }

    /// These are the peers from now on: the clocks of others do not count.
    pub(crate) fn follow(&self, peers: impl IntoIterator<Item = NodeId>) {
        let peers = peers.into_iter().collect();
        let mut heard = self.heard();
        let before = std::mem::replace(&mut heard.peers, peers);
        for gone in &before - &heard.peers {
            heard.skew.forget(gone);
        }
        self.correct(&heard.skew);
    }

    /// The current time: the machine's, or the cluster's if the machine's clock is clearly wrong.
    pub fn now(&self) -> WallTime {
        WallTime(self.machine().0.saturating_add_signed(self.correction_ms.load(Relaxed)))
    }

    /// The machine's time, uncorrected.
    pub fn machine(&self) -> WallTime {
        WallTime(self.machine.now().0.saturating_add_signed(self.fault_ms.load(Relaxed)))
    }

    /// Skews the machine's clock, as seen by this node, for the fault hook.
    pub fn set_fault(&self, ahead_ms: i64) {
        self.fault_ms.store(ahead_ms, Relaxed);
    }

    /// A peer's clock read `theirs` in an answer that arrived just now, `round_trip` after it was
    /// requested.
    pub fn observe(&self, peer: NodeId, theirs: WallTime, round_trip: Duration) {
        let mut heard = self.heard();
        if heard.peers.contains(&peer) {
            heard.skew.observe(peer, theirs, self.machine(), round_trip.as_millis() as u64);
            self.correct(&heard.skew);
        }
    }

    fn correct(&self, skew: &Skew) {
        let correction_ms = skew.correction_ms();
        let before_ms = self.correction_ms.swap(correction_ms, Relaxed);
        match (before_ms != 0, correction_ms != 0) {
            (false, true) => tracing::error!(
                ahead_ms = -correction_ms,
                "this machine's clock is over a minute off those of most peers; the cluster's time is used \
                 until it is right. Set the clock (NTP), a restart is not needed"
            ),
            (true, false) => tracing::info!("this machine's clock agrees with the cluster again"),
            (true, true) | (false, false) => {}
        }
    }

    /// How far the machine's clock is ahead of the cluster's, in milliseconds; negative if behind.
    pub fn ahead_ms(&self) -> i64 {
        self.heard().skew.ahead_ms()
    }

    fn heard(&self) -> MutexGuard<'_, Heard> {
        self.heard.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether the machine's clock is overridden by the cluster's.
    pub fn is_corrected(&self) -> bool {
        self.correction_ms.load(Relaxed) != 0
    }
}
