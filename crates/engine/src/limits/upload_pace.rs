//! Throttles large uploads by how long their writes take: the limit is on bytes in flight.
//!
//! A fixed limit in bytes is a queue: at 30 MB/s, 256 MiB wait longer than their clients do, and
//! the work for writes that time out is wasted. So the limit drops by a quarter as soon as writes
//! use a good part of their timeout, once for all that were concurrent, and rises while they are
//! quick (additive increase, multiplicative decrease: Chiu and Jain, 1989).

use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering::Relaxed};
use std::time::{Duration, Instant};

use crate::limits::sizes::LARGE_BYTES;

/// A write that takes more than this part of its timeout is slow, as a divisor.
const SLOW_PART: u32 = 3;
/// A write that takes less than this part is quick, as a divisor.
const QUICK_PART: u32 = 6;
/// The limit never drops below this part of its maximum, as a divisor.
const FLOOR_PART: usize = 32;

/// The limit.
pub struct Pace {
    bytes: AtomicUsize,
    bytes_max: usize,
    begun: Instant,
    /// Time of its last drop, in microseconds after `begun`.
    fell_us: AtomicU64,
}

impl Pace {
    /// Starts at the maximum.
    pub fn new(bytes_max: usize) -> Self {
        let bytes = AtomicUsize::new(bytes_max);
        Self { bytes, bytes_max, begun: Instant::now(), fell_us: AtomicU64::new(0) }
    }

    /// The current limit, in bytes.
    pub fn bytes(&self) -> usize {
        self.bytes.load(Relaxed)
    }

    /// Records the end of a write of `bytes` that began then and had `allowed` time.
    pub fn ended(&self, bytes: usize, began: Instant, allowed: Duration) {
        if bytes <= LARGE_BYTES {
            return;
        }
        let took = began.elapsed();
        if took > allowed / SLOW_PART {
            self.fall(began);
        } else if took < allowed / QUICK_PART {
            let more = |now: usize| Some(now.saturating_add(bytes / 8).min(self.bytes_max));
            // Cannot fail: the closure always returns a value.
            let _ = self.bytes.fetch_update(Relaxed, Relaxed, more);
        }
    }

    /// Drops the limit, unless it already dropped after this write began.
    fn fall(&self, began: Instant) {
        let began_us = began.saturating_duration_since(self.begun).as_micros() as u64;
        let now_us = (self.begun.elapsed().as_micros() as u64).max(1);
        let is_first = |fell_us: u64| (began_us >= fell_us).then_some(now_us);
        if self.fell_us.fetch_update(Relaxed, Relaxed, is_first).is_ok() {
            let less = |now: usize| Some((now - now / 4).max(self.bytes_max / FLOOR_PART));
            let _ = self.bytes.fetch_update(Relaxed, Relaxed, less); // likewise
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn slow_writes_lower_it_once_a_round_and_quick_ones_raise_it() {
        let (pace, second) = (Pace::new(64 << 20), Duration::from_secs(1));
        let began = Instant::now();
        let slow = || pace.ended(1 << 20, began, Duration::ZERO);
        slow();
        slow();
        assert_eq!(pace.bytes(), 48 << 20, "they were concurrent");
        pace.ended(1 << 20, Instant::now(), second);
        pace.ended(LARGE_BYTES, Instant::now(), second);
        assert_eq!(pace.bytes(), (48 << 20) + (1 << 17), "small writes are ignored");
        for _ in 0..1000 {
            pace.ended(1 << 20, Instant::now(), second);
        }
        assert_eq!(pace.bytes(), 64 << 20);
        for _ in 0..50 {
            std::thread::sleep(Duration::from_micros(2)); // a round later
            pace.ended(1 << 20, Instant::now(), Duration::ZERO);
        }
        assert_eq!(pace.bytes(), 2 << 20);
    }
}
