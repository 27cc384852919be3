//! What is kept of one operation: its events, and how its request ended.

use std::sync::{Mutex, MutexGuard, PoisonError};

use quorate_protocol::explain::Events;

/// The events of a trace that is kept. Grows while the operation goes on.
#[derive(Debug, Default)]
pub struct Log(Mutex<Events>);

impl Log {
    /// Goes on from these events.
    pub(crate) fn from(events: Events) -> Self {
        Self(Mutex::new(events))
    }

    /// A copy of all events so far.
    pub fn events(&self) -> Events {
        self.lock().clone()
    }

    pub(crate) fn lock(&self) -> MutexGuard<'_, Events> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// How a request ended.
#[derive(Clone, Debug)]
pub struct Ended {
    /// The HTTP status.
    pub status: u16,
    /// The name of the problem, if it was one.
    pub problem: Option<&'static str>,
    /// What a failed write left behind.
    pub outcome: Option<String>,
    /// From arrival to answer, in microseconds.
    pub took_us: u64,
}
