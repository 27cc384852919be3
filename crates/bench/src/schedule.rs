//! When operations are due.
//!
//! A closed loop starts the next operation when the last one is done: a slow server then gets fewer
//! requests, and its slowness hardly shows. An open loop has a schedule, and a latency counts from
//! the *intended* start, including waiting (Gil Tene calls the mistake "coordinated omission").

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use tokio::sync::Semaphore;

/// The pacer's shortest sleep: finer than tokio's timer of a millisecond.
const PACER_SLEEP_MIN: Duration = Duration::from_micros(250);
/// How long it sleeps while no worker is waiting: its wakeups cost what is measured.
const PACER_REST: Duration = Duration::from_millis(2);

/// Hands out start times until the end of the run.
#[derive(Debug)]
pub(crate) struct Schedule {
    started: Instant,
    end: Instant,
    /// Operations per second, or none for a closed loop.
    rate: Option<f64>,
    /// Starts that are due and not yet taken.
    due: Semaphore,
    taken: AtomicU64,
}

impl Schedule {
    /// A schedule from `started` to `end`.
    pub(crate) fn new(started: Instant, end: Instant, rate: Option<f64>) -> Self {
        Schedule { started, end, rate, due: Semaphore::new(0), taken: AtomicU64::new(0) }
    }

    /// The intended start of the next operation, as soon as it is due; none when the run is over.
    pub(crate) async fn next(&self) -> Option<Instant> {
        let intended = match self.rate {
            None => Instant::now(),
            Some(rate) => {
                self.due.acquire().await.ok()?.forget();
                self.intended(self.taken.fetch_add(1, Ordering::Relaxed), rate)
            }
        };
        (intended < self.end).then_some(intended)
    }

    fn intended(&self, operation: u64, rate: f64) -> Instant {
        self.started + Duration::from_secs_f64(operation as f64 / rate)
    }

    /// How many operations are due `elapsed` after the start: the first one is due at 0.
    fn due_after(elapsed: Duration, rate: f64) -> u64 {
        (elapsed.as_secs_f64() * rate) as u64 + 1
    }

    /// Releases the starts of an open loop as they fall due, until the end. Blocks, so it needs a
    /// thread of its own. Does nothing in a closed loop.
    #[allow(clippy::disallowed_methods, reason = "a thread of its own, finer than tokio's timer")]
    pub(crate) fn drive(&self) {
        let Some(rate) = self.rate else { return };
        let mut released = 0;
        loop {
            let now = Instant::now();
            if now >= self.end {
                break;
            }
            let due = Self::due_after(now - self.started, rate);
            let more = usize::try_from(due - released).unwrap_or(0).min(Semaphore::MAX_PERMITS / 2);
            self.due.add_permits(more);
            released = due;
            let next = self.intended(released, rate).min(self.end);
            // Enough are due to last until the next wakeup: all connections are behind.
            let is_ahead = self.due.available_permits() as f64 > rate * PACER_REST.as_secs_f64();
            let least = if is_ahead { PACER_REST } else { PACER_SLEEP_MIN };
            std::thread::sleep(next.saturating_duration_since(now).max(least));
        }
        // What fell due since the last wakeup goes to the connections that wait for it. Then the
        // run is over: what no connection was free to take counts as missed.
        let rest = self.due_in_all(rate).saturating_sub(released);
        self.due.add_permits(usize::try_from(rest).unwrap_or(0).min(Semaphore::MAX_PERMITS / 2));
        self.due.close();
    }

    /// How many operations were due before the end but never started because all connections were
    /// busy.
    pub(crate) fn missed(&self) -> u64 {
        let Some(rate) = self.rate else { return 0 };
        self.due_in_all(rate).saturating_sub(self.taken.load(Ordering::Relaxed))
    }

    /// How many operations fall due before the end.
    fn due_in_all(&self, rate: f64) -> u64 {
        ((self.end - self.started).as_secs_f64() * rate).ceil() as u64
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use std::sync::Arc;

    #[test]
    fn operations_fall_due_at_the_rate() {
        let at = |ms| Schedule::due_after(Duration::from_millis(ms), 1000.0);
        assert_eq!([at(0), at(1), at(10), at(1000)], [1, 2, 11, 1001]);
        let started = Instant::now();
        let schedule = Schedule::new(started, started + Duration::from_secs(1), Some(250.0));
        assert_eq!(schedule.intended(0, 250.0), started);
        assert_eq!(schedule.intended(50, 250.0), started + Duration::from_millis(200));
    }

    #[tokio::test]
    async fn an_open_loop_keeps_its_schedule_when_the_worker_is_late() {
        let started = Instant::now();
        let schedule =
            Arc::new(Schedule::new(started, started + Duration::from_millis(200), Some(1000.0)));
        let driver = tokio::task::spawn_blocking({
            let schedule = schedule.clone();
            move || schedule.drive()
        });
        let mut intended = Vec::new();
        while let Some(start) = schedule.next().await {
            intended.push(start);
        }
        driver.await.unwrap();
        // However late this thread woke up, the starts are exactly a millisecond apart.
        for (operation, start) in intended.iter().enumerate() {
            assert_eq!(*start, started + Duration::from_secs_f64(operation as f64 / 1000.0));
        }
        assert_eq!(intended.len() as u64 + schedule.missed(), 200);
        assert!(intended.len() >= 100, "one idle worker takes nearly all: {}", intended.len());
    }

    #[tokio::test]
    async fn what_nobody_started_is_missed() {
        let started = Instant::now();
        let schedule = Schedule::new(started, started + Duration::from_millis(20), Some(1000.0));
        schedule.drive();
        assert_eq!(schedule.next().await, None);
        assert_eq!(schedule.missed(), 20);
    }

    #[tokio::test]
    async fn a_closed_loop_goes_on_until_the_end() {
        let now = Instant::now();
        let schedule = Schedule::new(now, now + Duration::from_secs(60), None);
        assert!(schedule.next().await.is_some());
        assert!(Schedule::new(now, now, None).next().await.is_none());
    }
}
