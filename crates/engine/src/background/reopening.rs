//! The state of a failed store (see `crate::background::reopen`).

use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use tokio_util::sync::CancellationToken;

/// The state of a failed store.
#[derive(Default)]
pub struct Reopening {
    state: Mutex<State>,
    /// Cancelled when the process must replace itself.
    pub now: CancellationToken,
}

#[derive(Default)]
pub(super) struct State {
    pub(super) failed_at: Option<Instant>,
    /// Why it has not been reopened yet.
    pub(super) obstacle: Option<String>,
}

impl Reopening {
    pub(super) fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Why the store has not been reopened yet; `None` if that is about to happen.
    pub fn obstacle(&self) -> Option<String> {
        self.lock().obstacle.clone()
    }

    /// For how long the store has been failed.
    pub(super) fn failed_for(&self) -> Duration {
        self.lock().failed_at.map_or(Duration::ZERO, |at| at.elapsed())
    }
}
