//! Requests that a node answers only once there is something to tell: how long it is asked to wait, beside
//! the time that its answer takes.

use std::sync::OnceLock;
use std::time::{Duration, Instant};

use crate::error::Error;

/// How long a node waits at the most.
const WAIT_MAX: Duration = Duration::from_secs(60);
/// How long it is asked to wait unless something else is said.
pub(crate) const WAIT_DEFAULT: Duration = Duration::from_secs(30);

/// The wait of one call, over all of its attempts.
#[derive(Debug)]
pub(crate) struct Waiting {
    wait: Duration,
    /// How long a node may take beyond it.
    attempt: Duration,
    /// When the first attempt began.
    begun: OnceLock<Instant>,
}

impl Waiting {
    /// So long, with so much time for an answer.
    ///
    /// # Errors
    /// [`Error::Invalid`] if no node waits so long.
    pub(crate) fn new(wait: Duration, attempt: Duration) -> Result<Self, Error> {
        if wait > WAIT_MAX {
            return Err(Error::invalid("wait", format!("at most {WAIT_MAX:?}, not {wait:?}")));
        }
        Ok(Self { wait, attempt, begun: OnceLock::new() })
    }

    /// How long one attempt may take at the most.
    pub(crate) fn attempt_max(&self) -> Duration {
        self.wait + self.attempt
    }

    /// The `wait_ms` of the attempt that begins now, none if nothing is waited for; and how long the rest may
    /// take, if that is less than usual. `budget` is how long the attempt may take, likewise.
    ///
    /// What earlier attempts have waited is not waited for again: a node that fails does not make the call
    /// longer than the wait and its own deadline.
    pub(crate) fn attempt(&self, budget: Option<Duration>) -> (Option<u64>, Option<Duration>) {
        let waited = self.begun.get_or_init(Instant::now).elapsed();
        if self.wait.is_zero() {
            return (None, budget);
        }
        // The first attempt asks for all of it.
        let first = waited < Duration::from_millis(1);
        let left = self.wait.saturating_sub(if first { Duration::ZERO } else { waited });
        let room = budget.map(|budget| budget.saturating_sub(self.attempt / 2).max(budget / 2));
        let wait = left.min(room.unwrap_or(left));
        let rest = budget.map(|budget| budget.saturating_sub(wait));
        let wait_ms = u64::try_from(wait.as_millis()).unwrap_or(u64::MAX);
        // Not zero: to have nothing new at once is still no error.
        (Some(wait_ms.max(1)), rest.filter(|rest| *rest < self.attempt))
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    const fn ms(ms: u64) -> Duration {
        Duration::from_millis(ms)
    }

    #[test]
    fn the_first_attempt_waits_for_all_of_it() {
        let waiting = Waiting::new(ms(30_000), ms(5_000)).unwrap();
        assert_eq!(waiting.attempt_max(), ms(35_000));
        assert_eq!(waiting.attempt(None), (Some(30_000), None));
        let none = Waiting::new(Duration::ZERO, ms(5_000)).unwrap();
        assert_eq!(none.attempt(Some(ms(7))), (None, Some(ms(7))));
        assert!(Waiting::new(ms(60_000), ms(1)).is_ok());
        let error = Waiting::new(ms(60_001), ms(1)).unwrap_err();
        assert!(error.to_string().starts_with("wait: at most 60s"), "{error}");
    }

    #[test]
    fn a_short_budget_leaves_time_for_the_answer() {
        let waiting = || Waiting::new(ms(30_000), ms(5_000)).unwrap();
        assert_eq!(waiting().attempt(Some(ms(34_700))), (Some(30_000), Some(ms(4_700))));
        assert_eq!(waiting().attempt(Some(ms(9_700))), (Some(7_200), Some(ms(2_500))));
        assert_eq!(waiting().attempt(Some(ms(1_000))), (Some(500), Some(ms(500))));
        assert_eq!(waiting().attempt(Some(Duration::ZERO)), (Some(1), Some(Duration::ZERO)));
    }

    #[test]
    fn what_was_waited_is_not_waited_for_again() {
        let waiting = Waiting::new(ms(40), ms(5_000)).unwrap();
        assert_eq!(waiting.attempt(None).0, Some(40));
        std::thread::sleep(ms(20));
        assert!(waiting.attempt(None).0.unwrap() <= 20);
        std::thread::sleep(ms(30));
        assert_eq!(waiting.attempt(None).0, Some(1), "the context is still told from what is new");
    }
}
