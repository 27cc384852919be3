//! How often something may happen: so many times a second on average, and at once after a while of rest.

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

/// A limit on a rate, as a generic cell rate algorithm: one number, which any thread may change.
#[derive(Debug)]
pub struct Pace {
    /// The time between two, in microseconds.
    every_us: u64,
    /// When, at an even pace, the last one that was let through would be over: microseconds of uptime.
    until_us: AtomicU64,
}

/// How much may come at once after a rest, in microseconds at an even pace.
const BURST_US: u64 = 1_000_000;

impl Pace {
    /// At most `per_s` in a second; 0 counts as 1.
    pub fn new(per_s: u32) -> Self {
        Self { every_us: 1_000_000 / u64::from(per_s.max(1)), until_us: AtomicU64::new(0) }
    }

    /// Lets one through at a time in microseconds of uptime, or says how long to wait, in microseconds.
    ///
    /// # Errors
    /// The wait. Nothing was counted.
    pub fn take(&self, now_us: u64) -> Result<(), u64> {
        let next = |until: u64| {
            let until = until.max(now_us).saturating_add(self.every_us);
            // One may always come after a rest, however slow the pace.
            let ahead_max = now_us.saturating_add(BURST_US.max(self.every_us));
            (until <= ahead_max).then_some(until)
        };
        match self.until_us.fetch_update(Relaxed, Relaxed, next) {
            Ok(_) => Ok(()),
            Err(until) => {
                let over = until.saturating_add(self.every_us);
                Err(over.saturating_sub(now_us.saturating_add(BURST_US.max(self.every_us))).max(1))
            }
        }
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn a_second_at_once_then_one_by_one() {
        let pace = Pace::new(10);
        let start = 5_000_000;
        assert_eq!((0..20).filter(|_| pace.take(start).is_ok()).count(), 10);
        let wait = pace.take(start).unwrap_err();
        assert_eq!(wait, 100_000);
        assert!(pace.take(start + wait - 1).is_err());
        assert!(pace.take(start + wait).is_ok() && pace.take(start + wait).is_err());
        let later = start + 60_000_000;
        assert_eq!(
            (0..20).filter(|_| pace.take(later).is_ok()).count(),
            10,
            "rest is not saved up"
        );
    }

    #[test]
    fn the_slowest_pace_lets_one_through() {
        let pace = Pace::new(1);
        assert!(pace.take(0).is_ok());
        assert!(pace.take(999_999).is_err() && pace.take(1_000_000).is_ok());
    }
}
