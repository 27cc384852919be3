//! A histogram of durations that costs a few nanoseconds to add to: two atomic additions, and the
//! bucket found by arithmetic instead of a search.
//!
//! Bounds double every second bucket, from 50 µs to 52 s: 50, 75, 100, 150, 200, 300 µs and so on.
//! A quantile read from them is off by half at the most.

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::Duration;

/// Half of the first bound: every bound is a multiple of it.
const UNIT_NS: u64 = 25_000;
/// The first bound, in microseconds.
const FIRST_US: u64 = 50;

/// How many times durations in certain ranges were recorded. Shared; every call may be made from
/// any thread.
#[derive(Debug)]
pub struct Durations {
    /// One per bound, and one for what is above all bounds.
    buckets: [AtomicU64; Durations::BOUNDS + 1],
    sum_ns: AtomicU64,
}

/// A histogram's contents at one moment.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DurationCounts {
    /// How many durations were in each bucket: at most its bound, and above the bound before. The
    /// last bucket has no bound.
    pub buckets: [u64; Durations::BOUNDS + 1],
    /// The sum of all durations.
    pub sum: Duration,
}

impl Default for DurationCounts {
    fn default() -> Self {
        Self { buckets: [0; Durations::BOUNDS + 1], sum: Duration::ZERO }
    }
}

impl Default for Durations {
    fn default() -> Self {
        Self { buckets: [const { AtomicU64::new(0) }; Self::BOUNDS + 1], sum_ns: AtomicU64::new(0) }
    }
}

impl Durations {
    /// How many bounds there are.
    pub const BOUNDS: usize = 41;

    /// The upper bound of a bucket, itself included.
    pub fn bound(bucket: usize) -> Duration {
        let doubled = FIRST_US << (bucket / 2);
        Duration::from_micros(if bucket.is_multiple_of(2) { doubled } else { doubled / 2 * 3 })
    }

    /// Records one duration.
    pub fn record(&self, took: Duration) {
        let ns = u64::try_from(took.as_nanos()).unwrap_or(u64::MAX);
        self.buckets[bucket_of(ns)].fetch_add(1, Relaxed);
        self.sum_ns.fetch_add(ns, Relaxed);
    }

    /// What was recorded so far.
    pub fn counts(&self) -> DurationCounts {
        let load = |counter: &AtomicU64| counter.load(Relaxed);
        let buckets = std::array::from_fn(|bucket| load(&self.buckets[bucket]));
        DurationCounts { buckets, sum: Duration::from_nanos(load(&self.sum_ns)) }
    }
}

/// The bucket of a duration in nanoseconds.
fn bucket_of(ns: u64) -> usize {
    // In units, bounds are 2, 3, 4, 6, 8, 12 ...: powers of two, and one halfway to the next.
    let below = ns.div_ceil(UNIT_NS).saturating_sub(1);
    if below < 2 {
        return 0;
    }
    let power = below.ilog2() as usize;
    let is_upper_half = (below >> (power - 1)) & 1;
    (2 * power - 1 + is_upper_half as usize).min(Durations::BOUNDS)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_duration_is_in_the_first_bucket_whose_bound_it_does_not_exceed() {
        let ns = |bucket| Durations::bound(bucket).as_nanos() as u64;
        assert_eq!((ns(0), ns(1), ns(2), ns(3)), (50_000, 75_000, 100_000, 150_000));
        assert_eq!(Durations::bound(Durations::BOUNDS - 1), Duration::from_micros(50 << 20));
        for bucket in 0..Durations::BOUNDS {
            assert_eq!(bucket_of(ns(bucket)), bucket, "at the bound of {bucket}");
            assert_eq!(bucket_of(ns(bucket) + 1), bucket + 1, "above the bound of {bucket}");
        }
        assert_eq!((bucket_of(0), bucket_of(1), bucket_of(49_999)), (0, 0, 0));
        assert_eq!(bucket_of(u64::MAX), Durations::BOUNDS);
    }

    #[test]
    fn counts_and_sum_are_those_of_what_was_recorded() {
        let durations = Durations::default();
        for us in [1, 50, 60, 120, 3_600_000_000] {
            durations.record(Duration::from_micros(us));
        }
        let counts = durations.counts();
        assert_eq!(counts.buckets[..4], [2, 1, 0, 1]);
        assert_eq!(counts.buckets[Durations::BOUNDS], 1);
        assert_eq!(counts.sum, Duration::from_micros(3_600_000_231));
    }
}
