//! When a request is tried again: jittered exponential backoff within one deadline.

use std::time::{Duration, Instant};

/// How a client retries.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Retries {
    /// How often a request is sent at most, 1 to 100. Default 8.
    pub attempts_max: u32,
    /// The first pause. It doubles with every attempt. Default 25 ms.
    pub pause_first: Duration,
    /// The longest pause, unless a node asks for a longer one. Default 1 s.
    pub pause_max: Duration,
}

impl Default for Retries {
    fn default() -> Self {
        Self {
            attempts_max: 8,
            pause_first: Duration::from_millis(25),
            pause_max: Duration::from_secs(1),
        }
    }
}

impl Retries {
    /// No retries: every request is sent once.
    pub const NONE: Self =
        Self { attempts_max: 1, pause_first: Duration::ZERO, pause_max: Duration::ZERO };

    /// The pause after this attempt (from 1): half of the exponential step, and up to the other half
    /// by `jitter` (0 to 1), so that clients that failed together do not return together.
    pub(crate) fn pause(&self, attempt: u32, jitter: f64) -> Duration {
        let factor = 2_u32.saturating_pow(attempt.saturating_sub(1).min(20));
        let step = self.pause_first.saturating_mul(factor).min(self.pause_max);
        step.mul_f64(0.5 + 0.5 * jitter.clamp(0.0, 1.0))
    }
}

/// The end of a call, and how much of it is left.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Deadline {
    began: Instant,
    after: Duration,
}

/// The longest time that a call may take: far from where adding times overflows.
pub(crate) const TIME_MAX: Duration = Duration::from_secs(86_400);
/// How much later than the node's own time-out an attempt is given up, so that the node's answer, which
/// says what became of a write, can arrive.
const ANSWER_TAKES: Duration = Duration::from_millis(300);

impl Deadline {
    /// Begins now.
    pub(crate) fn new(after: Duration) -> Self {
        Self { began: Instant::now(), after }
    }

    /// The whole span.
    pub(crate) fn after(&self) -> Duration {
        self.after
    }

    /// What is left.
    pub(crate) fn left(&self) -> Duration {
        self.after.saturating_sub(self.began.elapsed())
    }

    /// How long a node may take for the next attempt, which ends by the deadline.
    pub(crate) fn budget(&self, attempt_max: Duration) -> Duration {
        budget(self.left(), attempt_max)
    }
}

/// How long after the request an answer is still waited for.
pub(crate) fn patience(budget: Duration) -> Duration {
    budget.saturating_add(ANSWER_TAKES)
}

fn budget(left: Duration, attempt_max: Duration) -> Duration {
    let usable = left.saturating_sub(ANSWER_TAKES).max(left / 2);
    usable.min(attempt_max)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pauses_double_up_to_their_maximum() {
        let retries = Retries::default();
        let ms = |attempt, jitter| retries.pause(attempt, jitter).as_millis();
        assert_eq!(
            (1..=7).map(|n| ms(n, 1.0)).collect::<Vec<_>>(),
            [25, 50, 100, 200, 400, 800, 1000]
        );
        assert_eq!((ms(1, 0.0), ms(2, 0.0), ms(9, 0.0)), (12, 25, 500));
        assert_eq!(ms(u32::MAX, 1.0), 1000, "no overflow");
        assert_eq!(retries.pause(3, f64::INFINITY), retries.pause(3, 1.0));
        assert_eq!(Retries::NONE.pause(1, 1.0), Duration::ZERO);
    }

    #[test]
    fn an_attempt_leaves_time_for_its_answer() {
        let ms = Duration::from_millis;
        assert_eq!(budget(ms(10_000), ms(3_000)), ms(3_000));
        assert_eq!(budget(ms(2_000), ms(3_000)), ms(1_700));
        assert_eq!(budget(ms(100), ms(3_000)), ms(50));
        assert_eq!(budget(ms(0), ms(3_000)), ms(0));
    }
}
