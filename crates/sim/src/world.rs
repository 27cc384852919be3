//! What all parts of a run share: virtual time, chance, the trace, and what clients did.

use std::fmt;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use quorate_protocol::time::{Uptime, WallTime};
use tokio::sync::Notify;
use tokio::time::Instant;

use crate::dice::Dice;
use crate::host::EPOCH_MS;
use crate::record::Record;
use crate::run::Run;
use crate::trace::Trace;
use quorate_oracle::{Verdict, Violation};

/// The world of one run.
pub(crate) struct World {
    started: Instant,
    dice: Mutex<Dice>,
    trace: Mutex<Trace>,
    record: Mutex<Record>,
    violation: Mutex<Option<Violation>>,
    /// Told of each process that starts.
    pub(crate) process_began: Notify,
}

impl World {
    /// A world whose clock starts now; the record judges reads by `n` replicas.
    pub(crate) fn new(dice: Dice, trace: Trace, n: u16) -> Self {
        Self {
            started: Instant::now(),
            dice: Mutex::new(dice),
            trace: Mutex::new(trace),
            record: Mutex::new(Record::new(n)),
            violation: Mutex::new(None),
            process_began: Notify::new(),
        }
    }

    /// Virtual time since the start.
    pub(crate) fn elapsed(&self) -> Duration {
        self.started.elapsed()
    }

    /// The time by a wall clock that is right.
    pub(crate) fn wall(&self) -> WallTime {
        WallTime(EPOCH_MS + self.elapsed().as_millis() as u64)
    }

    /// A number from `low` to `high`, both included.
    pub(crate) fn between(&self, low: u64, high: u64) -> u64 {
        lock(&self.dice).between(low, high)
    }

    /// True with a probability of `percent` in a hundred.
    pub(crate) fn percent(&self, percent: u64) -> bool {
        lock(&self.dice).percent(percent)
    }

    /// One of `items`, which must not be empty.
    pub(crate) fn pick<T: Clone>(&self, items: &[T]) -> T {
        items[lock(&self.dice).index(items.len())].clone()
    }

    /// A random number.
    pub(crate) fn draw(&self) -> u64 {
        lock(&self.dice).between(0, u64::MAX)
    }

    /// A random time of at most `max_ms` milliseconds.
    pub(crate) fn at_most_ms(&self, max_ms: u64) -> Duration {
        Duration::from_millis(self.between(0, max_ms))
    }

    /// Records one event.
    pub(crate) fn note(&self, event: fmt::Arguments) {
        let now = Uptime(self.elapsed().as_millis() as u64);
        lock(&self.trace).note(now, event);
    }

    /// What clients did and saw.
    pub(crate) fn record(&self) -> MutexGuard<'_, Record> {
        lock(&self.record)
    }

    /// Keeps the first broken promise.
    pub(crate) fn judge(&self, verdict: Verdict) {
        let Err(violation) = verdict else { return };
        self.note(format_args!("BROKEN {violation}"));
        lock(&self.violation).get_or_insert(violation);
    }

    /// Whether a promise is broken: the run can end.
    pub(crate) fn is_broken(&self) -> bool {
        lock(&self.violation).is_some()
    }

    /// The result of the run, which is over.
    pub(crate) fn result(&self) -> Run {
        let violation = lock(&self.violation).take();
        let trace = std::mem::replace(&mut *lock(&self.trace), Trace::new(false));
        Run { hash: trace.hash(), events: trace.events(), violation, lines: trace.into_lines() }
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
