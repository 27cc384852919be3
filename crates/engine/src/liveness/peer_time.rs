//! The clock of everything that is known of peers.

use std::time::Instant;

/// A time by the monotonic clock that all peer state shares: milliseconds since the peers were set
/// up, plus one. It starts before the node's uptime, so the two do not compare; 0 means "never".
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct PeerTime(pub u64);

impl PeerTime {
    /// The current time of the clock that was started at `started`.
    pub fn now(started: Instant) -> Self {
        Self(started.elapsed().as_millis() as u64 + 1)
    }

    /// Milliseconds from `earlier` to this time, 0 if it is later.
    pub fn since(self, earlier: Self) -> u64 {
        self.0.saturating_sub(earlier.0)
    }
}
