//! Syncs in flight: shows a disk that neither fails them nor completes them.

use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use crate::host::Host;

/// How many syncs are in flight, and since when none of them has completed.
pub(crate) struct InFlight {
    host: Host,
    syncs: Mutex<(usize, Option<Duration>)>,
}

impl InFlight {
    pub(crate) fn new(host: Host) -> Self {
        Self { host, syncs: Mutex::default() }
    }

    pub(crate) fn begin(&self) -> impl Drop + '_ {
        self.change(1);
        InFlightGuard(self)
    }

    /// For how long syncs have been in flight without one completing.
    pub(crate) fn stuck_for(&self) -> Duration {
        let (_, since) = *self.lock();
        since.map_or(Duration::ZERO, |since| self.host.now().saturating_sub(since))
    }

    fn change(&self, by: isize) {
        let mut state = self.lock();
        state.0 = state.0.saturating_add_signed(by);
        if state.0 == 0 {
            state.1 = None;
        } else if by < 0 || state.1.is_none() {
            state.1 = Some(self.host.now());
        }
    }

    fn lock(&self) -> MutexGuard<'_, (usize, Option<Duration>)> {
        self.syncs.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

struct InFlightGuard<'a>(&'a InFlight);

impl Drop for InFlightGuard<'_> {
    fn drop(&mut self) {
        self.0.change(-1);
    }
}

#[cfg(test)]
mod tests {
    use std::thread;

    use super::*;

    #[test]
    fn a_stuck_sync_is_reported() {
        let in_flight = InFlight::new(Host::machine());
        let pause = Duration::from_millis(30);
        assert_eq!(in_flight.stuck_for(), Duration::ZERO);
        let (first, second) = (in_flight.begin(), in_flight.begin());
        thread::sleep(pause);
        assert!(in_flight.stuck_for() >= pause);
        drop(first);
        assert!(in_flight.stuck_for() < pause, "one has ended");
        thread::sleep(pause);
        assert!(in_flight.stuck_for() >= pause);
        drop(second);
        assert_eq!(in_flight.stuck_for(), Duration::ZERO);
    }
}
