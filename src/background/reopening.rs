//! What is known of a store that failed (see `crate::background::reopen`).

use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use tokio_util::sync::CancellationToken;

/// What is known of a store that failed.
#[derive(Default)]
pub(crate) struct Reopening {
    state: Mutex<State>,
    /// Cancelled when the process shall replace itself.
    pub(crate) now: CancellationToken,
}

#[derive(Default)]
pub(super) struct State {
    pub(super) failed_at: Option<Instant>,
    /// Why it was not opened again yet.
    pub(super) obstacle: Option<String>,
}

impl Reopening {
    pub(super) fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Why the store was not opened again yet; `None` if that is only a matter of a moment.
    pub(crate) fn obstacle(&self) -> Option<String> {
        self.lock().obstacle.clone()
    }

    /// For how long the store has been failed.
    pub(super) fn failed_for(&self) -> Duration {
        self.lock().failed_at.map_or(Duration::ZERO, |at| at.elapsed())
    }
}
