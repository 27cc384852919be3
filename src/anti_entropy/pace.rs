//! Keeps background work within a share of a core.

use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use tokio::sync::{Semaphore, SemaphorePermit};

/// So much may be owed when a turn begins: timers go by the millisecond, and pieces may be shorter.
const DEBT_MAX: Duration = Duration::from_millis(1);
/// On a busy machine work costs up to so many times its processor time.
const DEARER_MAX: u32 = 4;

/// Work is done in pieces, one at a time, and paid for afterwards: each makes the next one wait so long
/// that work takes its share of the time. Side by side they would all work and then all rest, and whoever
/// needs the processor meanwhile would wait for all of them.
pub struct Pace {
    share_percent: u64,
    turns: Semaphore,
    /// When everything that was worked is paid for.
    paid_at: Mutex<Option<Instant>>,
}

impl Pace {
    /// A share of one core, 1 to 100 percent.
    pub fn new(share_percent: u64) -> Self {
        let (turns, paid_at) = (Semaphore::new(1), Mutex::new(None));
        Self { share_percent: share_percent.clamp(1, 100), turns, paid_at }
    }

    /// Waits until nobody else works and what was worked before is paid for. The turn ends when it is
    /// dropped.
    pub async fn turn(&self) -> Option<SemaphorePermit<'_>> {
        let turn = self.turns.acquire().await.ok(); // the semaphore is never closed
        let paid_at = *self.paid_at.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(paid_at) = paid_at.filter(|paid_at| *paid_at > Instant::now() + DEBT_MAX) {
            tokio::time::sleep_until(paid_at.into()).await;
        }
        turn
    }

    /// Somebody has worked for so long, not counting the time until its turn came.
    pub fn worked(&self, work: Duration) {
        let mut paid_at = self.paid_at.lock().unwrap_or_else(PoisonError::into_inner);
        *paid_at = Some(pay(*paid_at, Instant::now(), work, self.share_percent));
    }
}

/// How much is paid for work that had so much processor time, from its beginning to its end within `took`. What
/// was interrupted competed with somebody for the processor, the disk or a lock, most likely with a client's
/// request, and is paid for as if it had gone on meanwhile: the busier the machine, the longer background
/// work rests. It never comes to rest altogether.
pub fn price(worked: Duration, took: Duration) -> Duration {
    took.clamp(worked, worked * DEARER_MAX)
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
    fn interrupted_work_is_dearer_within_bounds() {
        let ms = Duration::from_millis;
        for (worked_ms, took_ms, price_ms) in
            [(10, 10, 10), (10, 25, 25), (10, 9000, 40), (10, 9, 10)]
        {
            assert_eq!(price(ms(worked_ms), ms(took_ms)), ms(price_ms));
        }
    }

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
