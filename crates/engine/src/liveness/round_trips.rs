//! How long a peer takes to answer, as percentiles over the last two windows.

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use hdrhistogram::Histogram;

const ROUND_TRIP_US_MAX: u64 = 60_000_000;

/// Round trips of reads, in microseconds.
pub struct RoundTrips {
    /// The current window and the previous one.
    windows: Mutex<(Histogram<u64>, Histogram<u64>)>,
    p50_us: AtomicU64,
    p95_us: AtomicU64,
    p99_us: AtomicU64,
}

impl Default for RoundTrips {
    fn default() -> Self {
        let histogram = || {
            Histogram::new_with_bounds(1, ROUND_TRIP_US_MAX, 2)
                .unwrap_or_else(|_| unreachable!("the bounds are constants that fit"))
        };
        Self {
            windows: Mutex::new((histogram(), histogram())),
            p50_us: AtomicU64::new(0),
            p95_us: AtomicU64::new(0),
            p99_us: AtomicU64::new(0),
        }
    }
}

impl RoundTrips {
    /// Records the round trip of a batch of reads, or of a greeting.
    pub fn record(&self, took: Duration) {
        let mut windows = self.windows.lock().unwrap_or_else(PoisonError::into_inner);
        windows.0.saturating_record(took.as_micros() as u64);
    }

    /// Starts a new window and recomputes the percentiles over the last two. Called every few
    /// seconds.
    pub fn turn_window(&self) {
        let mut windows = self.windows.lock().unwrap_or_else(PoisonError::into_inner);
        let (current, previous) = &mut *windows;
        if previous.add(&*current).is_ok() && !previous.is_empty() {
            self.p50_us.store(previous.value_at_quantile(0.50), Relaxed);
            self.p95_us.store(previous.value_at_quantile(0.95), Relaxed);
            self.p99_us.store(previous.value_at_quantile(0.99), Relaxed);
        }
        std::mem::swap(current, previous);
        current.reset();
    }

    /// The median round trip in microseconds, 0 if none was measured.
    pub fn p50_us(&self) -> u64 {
        self.p50_us.load(Relaxed)
    }

    /// The 95th percentile of round trips in microseconds, 0 if none was measured.
    pub fn p95_us(&self) -> u64 {
        self.p95_us.load(Relaxed)
    }

    /// The 99th percentile of round trips in microseconds, 0 if none was measured.
    pub fn p99_us(&self) -> u64 {
        self.p99_us.load(Relaxed)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn percentiles_follow_the_last_two_windows() {
        let round_trips = RoundTrips::default();
        for us in 1..=100 {
            round_trips.record(Duration::from_micros(us));
        }
        round_trips.turn_window();
        assert_eq!((round_trips.p50_us(), round_trips.p95_us()), (50, 95));
        round_trips.turn_window();
        round_trips.record(Duration::from_micros(900));
        round_trips.turn_window();
        assert!(round_trips.p50_us() > 800, "the old window is gone: {}", round_trips.p50_us());
    }
}
