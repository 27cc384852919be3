//! Keeps background work within a share of a core.

use std::time::{Duration, Instant};

use tokio::sync::{Mutex, MutexGuard};

/// Lets one piece of work run at a time, and makes the next wait so long that work takes only its share of
/// the time. Work that waits for others is counted as work: the share is an upper bound.
pub struct Pace {
    share_percent: u64,
    turn: Mutex<()>,
}

/// The right to work now. Give it back with [`Turn::end`].
pub struct Turn<'a> {
    _turn: MutexGuard<'a, ()>,
    began: Instant,
    share_percent: u64,
}

impl Pace {
    /// A share of one core, 1 to 100 percent.
    pub fn new(share_percent: u64) -> Self {
        Self { share_percent: share_percent.clamp(1, 100), turn: Mutex::new(()) }
    }

    /// Waits for its turn.
    pub async fn turn(&self) -> Turn<'_> {
        let turn = self.turn.lock().await;
        Turn { _turn: turn, began: Instant::now(), share_percent: self.share_percent }
    }
}

impl Turn<'_> {
    /// Rests in proportion to the work that was done, and lets the next one work.
    pub async fn end(self) {
        tokio::time::sleep(rest(self.began.elapsed(), self.share_percent)).await;
    }
}

fn rest(worked: Duration, share_percent: u64) -> Duration {
    let rest_us = worked.as_micros() as u64 * (100 - share_percent) / share_percent;
    Duration::from_micros(rest_us)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rest_leaves_work_its_share() {
        let worked = Duration::from_millis(10);
        for (share_percent, rest_ms) in [(100, 0), (50, 10), (25, 30), (1, 990)] {
            assert_eq!(rest(worked, share_percent), Duration::from_millis(rest_ms));
        }
    }
}
