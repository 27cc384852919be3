//! Keeps background work within a share of a core.

use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use tokio::sync::{Semaphore, SemaphorePermit};

/// So much may be owed when a turn begins: timers go by the millisecond, and pieces may be shorter.
const DEBT_MAX: Duration = Duration::from_millis(1);
/// However often it is interrupted, a piece counts as this many times as long as it worked.
const SLOWDOWN_MAX: f64 = 4.0;
/// The weight of a new piece in the mean slowdown is one in so many.
const SMOOTHING: f64 = 4.0;

/// Work is done in pieces, one at a time, and paid for afterwards: each makes the next one wait so long
/// that work takes its share of the time. Side by side they would all work and then all rest, and whoever
/// needs the processor meanwhile would wait for all of them.
///
/// How far pieces are *slowed* by interruptions tells how busy the machine is: what was interrupted
/// competed with somebody for the processor, the disk or a lock, most likely with a client's request. The
/// price of work is its length times the square of the slowdown, so that it rests a little longer beside a
/// light load and takes a sixteenth of its share beside one that fills the machine; it never comes to rest
/// altogether.
pub(crate) struct Throttle {
    share_percent: u32,
    turns: Semaphore,
    account: Mutex<Account>,
}

struct Account {
    /// When everything that was worked is paid for.
    paid_at: Option<Instant>,
    /// How many times as long as their work pieces took of late, from 1 to [`SLOWDOWN_MAX`].
    slowdown: f64,
}

impl Throttle {
    /// A share of one core, 1 to 100 percent.
    pub(crate) fn new(share_percent: u64) -> Self {
        Self {
            share_percent: share_percent.clamp(1, 100) as u32,
            turns: Semaphore::new(1),
            account: Mutex::new(Account { paid_at: None, slowdown: 1.0 }),
        }
    }

    /// Waits until nobody else works and what was worked before is paid for. The turn ends when it is
    /// dropped.
    pub(crate) async fn turn(&self) -> Option<SemaphorePermit<'_>> {
        let turn = self.turns.acquire().await.ok(); // the semaphore is never closed
        let paid_at = self.account().paid_at;
        if let Some(paid_at) = paid_at.filter(|paid_at| *paid_at > Instant::now() + DEBT_MAX) {
            tokio::time::sleep_until(paid_at.into()).await;
        }
        turn
    }

    /// Somebody has worked for so much processor time, from beginning to end within `took`, not counting the
    /// time until the turn came.
    pub(crate) fn worked(&self, work: Duration, took: Duration) {
        let mut account = self.account();
        account.slowed(work, took);
        account.pay(Instant::now(), work, self.share_percent);
    }

    /// How many times the price of undisturbed work is paid now, from 1 to 16.
    pub(crate) fn price_factor(&self) -> usize {
        let slowdown = self.account().slowdown;
        ((slowdown * slowdown) as usize).max(1)
    }

    /// Somebody will have so much work that cannot be measured here.
    pub(crate) fn charge(&self, work: Duration) {
        self.account().pay(Instant::now(), work, self.share_percent);
    }

    fn account(&self) -> MutexGuard<'_, Account> {
        self.account.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Account {
    fn slowed(&mut self, work: Duration, took: Duration) {
        let slowdown = took.as_secs_f64() / work.as_secs_f64().max(f64::MIN_POSITIVE);
        self.slowdown += (slowdown.clamp(1.0, SLOWDOWN_MAX) - self.slowdown) / SMOOTHING;
    }

    /// Puts off when all is paid for, given work that ends `now`.
    fn pay(&mut self, now: Instant, work: Duration, share_percent: u32) {
        let price = work.mul_f64(self.slowdown * self.slowdown);
        // Interrupted work rests even at its full share.
        let rest = (price * 100 / share_percent).saturating_sub(work);
        self.paid_at = Some(self.paid_at.map_or(now, |paid_at| paid_at.max(now)) + rest);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const fn ms(ms: u64) -> Duration {
        Duration::from_millis(ms)
    }

    #[test]
    fn rest_leaves_work_its_share() {
        let now = Instant::now();
        for (share_percent, rest_ms) in [(100, 0), (50, 10), (25, 30), (1, 990)] {
            let mut account = Account { paid_at: None, slowdown: 1.0 };
            account.pay(now, ms(10), share_percent);
            assert_eq!(account.paid_at, Some(now + ms(rest_ms)));
            account.pay(now, ms(10), share_percent);
            assert_eq!(account.paid_at, Some(now + 2 * ms(rest_ms)), "two at once pay for both");
        }
    }

    #[test]
    fn interrupted_work_is_dearer_within_bounds_and_not_for_ever() {
        let mut account = Account { paid_at: None, slowdown: 1.0 };
        let mut after = |took_ms, pieces| {
            (0..pieces).for_each(|_| account.slowed(ms(10), ms(took_ms)));
            account.slowdown
        };
        assert!((after(10, 9) - 1.0).abs() < 1e-9);
        assert!((after(20, 50) - 2.0).abs() < 1e-3);
        assert!((after(90_000, 50) - SLOWDOWN_MAX).abs() < 1e-3);
        assert!((after(0, 50) - 1.0).abs() < 1e-3);
        account.slowed(Duration::ZERO, Duration::ZERO);

        let (now, mut busy) = (Instant::now(), Account { paid_at: None, slowdown: 4.0 });
        busy.pay(now, ms(10), 50);
        assert_eq!(busy.paid_at, Some(now + ms(160 + 150)));
    }
}
