//! Rate limits for repeated log lines.

use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

/// Rate-limits repeated log lines.
pub struct Seldom {
    state: Mutex<(Option<Instant>, u64)>,
}

impl Default for Seldom {
    fn default() -> Self {
        Self::new()
    }
}

impl Seldom {
    /// The minimum interval between two lines.
    pub const PAUSE: Duration = Duration::from_secs(60);

    /// Starts out ready to log.
    pub const fn new() -> Self {
        Self { state: Mutex::new((None, 0)) }
    }

    /// Whether to log now: then `Some`, with the number of lines suppressed since the last one.
    pub fn now(&self) -> Option<u64> {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        let (last, held_back) = &mut *state;
        if last.is_some_and(|last| last.elapsed() < Self::PAUSE) {
            *held_back += 1;
            return None;
        }
        *last = Some(Instant::now());
        Some(std::mem::take(held_back))
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn of_many_equal_lines_one_is_let_through() {
        let seldom = Seldom::new();
        assert_eq!(seldom.now(), Some(0));
        assert_eq!((seldom.now(), seldom.now()), (None, None));
        seldom.state.lock().unwrap().0 = None;
        assert_eq!(seldom.now(), Some(2));
    }
}
