//! Times, one type for each clock: times of different clocks do not compare.
//!
//! [`WallTime`] says when something happened and is shared between nodes; [`Uptime`] measures how
//! long something takes and is never sent. Both are arguments here: the protocol reads no clock.

use serde::{Deserialize, Serialize};

/// A time by the wall clock: milliseconds since 1970 (in a simulation, since its start). It may
/// jump, and it differs between nodes: for stamps and ages, never for waiting.
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize,
)]
pub struct WallTime(pub u64);

impl WallTime {
    /// This time plus `ms` milliseconds.
    pub fn plus(self, ms: u64) -> Self {
        Self(self.0.saturating_add(ms))
    }

    /// Milliseconds from `earlier` to this time, 0 if it is later.
    pub fn since(self, earlier: Self) -> u64 {
        self.0.saturating_sub(earlier.0)
    }
}

/// A time by a monotonic clock: milliseconds since the start of the node (in a simulation, of the
/// whole run). For deadlines and waiting; it means nothing outside the process.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Uptime(pub u64);

impl Uptime {
    /// This time plus `ms` milliseconds.
    pub fn plus(self, ms: u64) -> Self {
        Self(self.0.saturating_add(ms))
    }

    /// Milliseconds from `earlier` to this time, 0 if it is later.
    pub fn since(self, earlier: Self) -> u64 {
        self.0.saturating_sub(earlier.0)
    }
}
