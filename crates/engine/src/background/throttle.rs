//! Keeps background work within a share of a core.

use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::time::Instant;

use tokio::sync::{Semaphore, SemaphorePermit};

/// Maximum overdraft carried into a turn: timers have a resolution of 1 ms, and pieces may be
/// shorter.
const DEBT_MAX: Duration = Duration::from_millis(1);
/// Upper bound of the slowdown: its square is the 16 in [`Throttle::price_factor`].
const SLOWDOWN_MAX: f64 = 4.0;
/// A new piece has a weight of 1/4 in the moving mean of the slowdown.
const SMOOTHING: f64 = 4.0;

/// Work runs in pieces, one at a time, and each is followed by a rest, so that work takes its share
/// of the time (as Garage's tranquilizer does). Concurrent pieces would all run and then all rest,
/// and client requests would wait for all of them.
///
/// The *slowdown*, how many times longer a piece took than the processor time it got, shows how
/// busy the machine is: it competed for the processor, the disk or a lock, most likely with client
/// requests. The price of work is its length times the square of the slowdown, so that it rests a
/// little longer under light load and is throttled to 1/16 of its share on a fully loaded machine;
/// it never stops altogether (docs/decisions/0012).
pub struct Throttle {
    share_percent: u32,
    turns: Semaphore,
    account: Mutex<Account>,
}

struct Account {
    /// When the rest after all work so far is over.
    paid_at: Option<Instant>,
    /// Moving mean of the slowdown, from 1 to [`SLOWDOWN_MAX`].
    slowdown: f64,
}

impl Throttle {
    /// `share_percent`: the share of one core, from 1 to 100.
    pub fn new(share_percent: u64) -> Self {
        Self {
            share_percent: share_percent.clamp(1, 100) as u32,
            turns: Semaphore::new(1),
            account: Mutex::new(Account { paid_at: None, slowdown: 1.0 }),
        }
    }

    /// The share of a core that work may take on an idle machine, in percent.
    pub fn share_percent(&self) -> u32 {
        self.share_percent
    }

    /// The share that it may take at the current load, in percent.
    pub fn share_percent_now(&self) -> f64 {
        let slowdown = self.account().slowdown;
        f64::from(self.share_percent) / (slowdown * slowdown)
    }

    /// Waits until no other piece runs and the rest after earlier work is over. Dropping the permit
    /// ends the turn.
    pub async fn turn(&self) -> Option<SemaphorePermit<'_>> {
        let turn = self.turns.acquire().await.ok(); // the semaphore is never closed
        let paid_at = self.account().paid_at;
        if let Some(paid_at) = paid_at.filter(|paid_at| *paid_at > Instant::now() + DEBT_MAX) {
            tokio::time::sleep_until(paid_at).await;
        }
        turn
    }

    /// Accounts for a piece that used `work` of processor time and took `took` from beginning to
    /// end, without the time it waited for its turn.
    pub fn worked(&self, work: Duration, took: Duration) {
        let mut account = self.account();
        account.slowed(work, took);
        account.pay(Instant::now(), work, self.share_percent);
    }

    /// How many times the price of undisturbed work is charged now, from 1 to 16.
    pub fn price_factor(&self) -> usize {
        let slowdown = self.account().slowdown;
        ((slowdown * slowdown) as usize).max(1)
    }

    /// Charges for upcoming work that cannot be measured here.
    pub fn charge(&self, work: Duration) {
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

    /// Extends the rest, given work that ends `now`.
    fn pay(&mut self, now: Instant, work: Duration, share_percent: u32) {
        let price = work.mul_f64(self.slowdown * self.slowdown);
        // Interrupted work rests even at a share of 100 %.
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
