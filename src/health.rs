//! What this node knows of one peer: whether it answers, since when, and how fast.
//!
//! Requests themselves are the detector: a peer that refuses a connection or lets one time out is avoided
//! at once, and the first answer to anything (a probe goes out every `timeouts.probe_ms` while it is
//! down) brings it back.

use std::sync::Mutex;
use std::sync::atomic::{AtomicU8, AtomicU64, Ordering::Relaxed};
use std::time::Duration;

use hdrhistogram::Histogram;
use quorate_protocol::message::Status;
use quorate_protocol::stamp::Millis;

/// Whether a peer answers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum State {
    /// Nothing was heard yet; requests are sent to it all the same.
    Unknown = 0,
    /// It answers.
    Up = 1,
    /// It refused a connection or let a request time out.
    Down = 2,
}

/// What is known of one peer.
pub struct Health {
    state: AtomicU8,
    since_ms: AtomicU64,
    /// Round trips of reads, in microseconds: the running window and the one before it.
    round_trips: Mutex<(Histogram<u64>, Histogram<u64>)>,
    p50_us: AtomicU64,
    p95_us: AtomicU64,
    p99_us: AtomicU64,
    said: Mutex<Said>,
}

/// What the peer said last.
#[derive(Clone, Debug, Default)]
pub struct Said {
    /// Why it is down, or why it refused a frame.
    pub error: Option<String>,
    /// Its own state.
    pub status: Option<Status>,
}

const ROUND_TRIP_US_MAX: u64 = 60_000_000;

impl Default for Health {
    /// A peer of which nothing was heard.
    fn default() -> Self {
        let histogram = || {
            Histogram::new_with_bounds(1, ROUND_TRIP_US_MAX, 2)
                .unwrap_or_else(|_| unreachable!("the bounds are constants that fit"))
        };
        Self {
            state: AtomicU8::new(State::Unknown as u8),
            since_ms: AtomicU64::new(0),
            round_trips: Mutex::new((histogram(), histogram())),
            p50_us: AtomicU64::new(0),
            p95_us: AtomicU64::new(0),
            p99_us: AtomicU64::new(0),
            said: Mutex::default(),
        }
    }
}

impl Health {
    /// Whether it answers.
    pub fn state(&self) -> State {
        match self.state.load(Relaxed) {
            1 => State::Up,
            2 => State::Down,
            _ => State::Unknown,
        }
    }

    /// Since when it is in this state.
    pub fn since(&self) -> Millis {
        Millis(self.since_ms.load(Relaxed))
    }

    /// Moves to a state. Returns whether that is a change.
    pub fn set(&self, state: State, now: Millis, error: Option<String>) -> bool {
        let changed = self.state.swap(state as u8, Relaxed) != state as u8;
        if changed {
            self.since_ms.store(now.0, Relaxed);
        }
        if changed || error.is_some() {
            self.lock_said().error = error;
        }
        changed
    }

    /// Records what the peer said of itself.
    pub fn heard(&self, status: Status) {
        self.lock_said().status = Some(status);
    }

    /// What the peer said last.
    pub fn said(&self) -> Said {
        self.lock_said().clone()
    }

    /// Records the round trip of a batch of reads.
    pub fn round_trip(&self, took: Duration) {
        if let Ok(mut windows) = self.round_trips.lock() {
            windows.0.saturating_record(took.as_micros() as u64);
        }
    }

    /// Starts a new window and recomputes the percentiles over the last two. Called every few seconds.
    pub fn turn_window(&self) {
        let Ok(mut windows) = self.round_trips.lock() else { return };
        let (current, previous) = &mut *windows;
        if previous.add(&*current).is_ok() && !previous.is_empty() {
            self.p50_us.store(previous.value_at_quantile(0.50), Relaxed);
            self.p95_us.store(previous.value_at_quantile(0.95), Relaxed);
            self.p99_us.store(previous.value_at_quantile(0.99), Relaxed);
        }
        std::mem::swap(current, previous);
        current.reset();
    }

    /// The median round trip of reads in microseconds, 0 if none was measured.
    pub fn p50_us(&self) -> u64 {
        self.p50_us.load(Relaxed)
    }

    /// The 95th percentile of round trips of reads in microseconds, 0 if none was measured.
    pub fn p95_us(&self) -> u64 {
        self.p95_us.load(Relaxed)
    }

    /// The 99th percentile of round trips of reads in microseconds, 0 if none was measured.
    pub fn p99_us(&self) -> u64 {
        self.p99_us.load(Relaxed)
    }

    fn lock_said(&self) -> std::sync::MutexGuard<'_, Said> {
        self.said.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn percentiles_follow_the_last_two_windows() {
        let health = Health::default();
        for us in 1..=100 {
            health.round_trip(Duration::from_micros(us));
        }
        health.turn_window();
        assert_eq!((health.p50_us(), health.p95_us()), (50, 95));
        health.turn_window();
        health.round_trip(Duration::from_micros(900));
        health.turn_window();
        assert!(health.p50_us() > 800, "the old window is gone: {}", health.p50_us());
    }

    #[test]
    fn a_change_is_told_once() {
        let health = Health::default();
        assert!(health.set(State::Down, Millis(5), Some("refused".into())));
        assert!(!health.set(State::Down, Millis(9), None));
        assert_eq!((health.since(), health.said().error), (Millis(5), Some("refused".into())));
        assert!(health.set(State::Up, Millis(12), None));
        assert_eq!(health.said().error, None);
    }
}
