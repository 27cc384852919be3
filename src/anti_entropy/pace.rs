//! Keeps background work within a share of a core.

use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

/// Work is done first and paid for afterwards: each piece makes the next one wait so long that work
/// takes its share of the time. Pieces may run side by side; they pay together.
pub struct Pace {
    share_percent: u64,
    /// When everything that was worked is paid for.
    paid_at: Mutex<Option<Instant>>,
}

impl Pace {
    /// A share of one core, 1 to 100 percent.
    pub fn new(share_percent: u64) -> Self {
        Self { share_percent: share_percent.clamp(1, 100), paid_at: Mutex::new(None) }
    }

    /// Waits until what was worked before is paid for.
    pub async fn turn(&self) {
        let paid_at = *self.paid_at.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(paid_at) = paid_at {
            tokio::time::sleep_until(paid_at.into()).await;
        }
    }

    /// Somebody has worked so long: processor time of this node, not time spent waiting.
    pub fn worked(&self, work: Duration) {
        let mut paid_at = self.paid_at.lock().unwrap_or_else(PoisonError::into_inner);
        *paid_at = Some(pay(*paid_at, Instant::now(), work, self.share_percent));
    }
}

/// When work that ends `now` is paid for.
fn pay(paid_at: Option<Instant>, now: Instant, work: Duration, share_percent: u64) -> Instant {
    let rest_us = work.as_micros() as u64 * (100 - share_percent) / share_percent;
    paid_at.map_or(now, |paid_at| paid_at.max(now)) + Duration::from_micros(rest_us)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rest_leaves_work_its_share() {
        let (now, worked) = (Instant::now(), Duration::from_millis(10));
        for (share_percent, rest_ms) in [(100, 0), (50, 10), (25, 30), (1, 990)] {
            let paid_at = pay(None, now, worked, share_percent);
            assert_eq!(paid_at - now, Duration::from_millis(rest_ms));
        }
        let together = pay(Some(pay(None, now, worked, 50)), now, worked, 50);
        assert_eq!(together - now, Duration::from_millis(20), "two at once pay for both");
    }
}
