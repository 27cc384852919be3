//! Whether a read that needs the disk is done in place, or takes a detour over a thread that may
//! wait.
//!
//! A detour costs two changes of threads, which is more than such a read where the operating system
//! has the bytes in memory. Nobody can tell before, but afterwards it shows: a read that took
//! longer than it worked has waited. So reads are done in place until one waits, and then as many
//! take the detour as the wait would have paid for: whatever the disk, waiting in place costs no
//! more than a detour for each read. Who merely lost the processor meanwhile seems to have waited
//! too. That is rare in so short a time, and makes a few detours too many.

use std::sync::atomic::{AtomicU32, AtomicU64, Ordering::Relaxed};
use std::time::{Duration, Instant};

use rustix::time::{ClockId, clock_gettime};

/// What a detour costs, in microseconds.
const DETOUR_US: u128 = 20;
/// The most detours that one wait is followed by: that of a fifth of a second.
const OWED_MAX: u32 = 10_000;

#[derive(Default)]
pub(crate) struct Detours {
    /// How many reads shall take a detour before one is done in place again.
    owed: AtomicU32,
    /// Reads of the disk that were done in place.
    in_place: AtomicU64,
}

impl Detours {
    /// Whether this read shall take a detour.
    pub(crate) fn take(&self) -> bool {
        self.owed.fetch_update(Relaxed, Relaxed, |owed| owed.checked_sub(1)).is_ok()
    }

    /// Reads in place, and sees whether that had to wait.
    pub(crate) fn watch<T>(&self, read: impl FnOnce() -> T) -> T {
        let (began, worked_before) = (Instant::now(), worked());
        let done = read();
        self.in_place.fetch_add(1, Relaxed);
        self.took(began.elapsed(), worked().saturating_sub(worked_before));
        done
    }

    /// A read in place took so long, and so much of it was work.
    pub(crate) fn took(&self, time: Duration, worked: Duration) {
        let waited_us = time.saturating_sub(worked).as_micros();
        let detours = u32::try_from(waited_us / DETOUR_US).unwrap_or(u32::MAX);
        self.owed.fetch_max(detours.min(OWED_MAX), Relaxed);
    }

    /// How many reads of the disk were done in place.
    pub(crate) fn in_place(&self) -> u64 {
        self.in_place.load(Relaxed)
    }
}

/// The processor time of the calling thread.
fn worked() -> Duration {
    let time = clock_gettime(ClockId::ThreadCPUTime);
    Duration::new(time.tv_sec as u64, time.tv_nsec as u32)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn owed(detours: &Detours) -> usize {
        std::iter::from_fn(|| detours.take().then_some(())).count()
    }

    #[test]
    fn a_wait_is_followed_by_as_many_detours_as_it_would_have_paid_for() {
        let (detours, us) = (Detours::default(), Duration::from_micros);
        assert!(!detours.take());
        for (time, worked, expected) in [
            (0, 0, 0),
            (19, 0, 0),
            (100, 0, 5),
            (10_000, 0, 500),
            (10_000, 9_990, 0),
            (10_000, 8_000, 100),
            (5, 10, 0),
            (60_000_000, 0, 10_000),
        ] {
            detours.took(us(time), us(worked));
            assert_eq!(owed(&detours), expected, "{time} {worked}");
        }
        detours.took(us(200), us(0));
        detours.took(us(100), us(0));
        assert_eq!(owed(&detours), 10, "the longer of two waits counts");
    }

    #[test]
    fn who_sleeps_has_waited() {
        let detours = Detours::default();
        detours.watch(|| std::thread::sleep(Duration::from_millis(2)));
        assert!(owed(&detours) > 50);
        assert_eq!(detours.in_place(), 1);
    }
}
