//! The trace of a run: every event in one line, hashed, and printed on request.
//!
//! Equal seeds give equal hashes; the tests and every run of many seeds check that.

use std::fmt::{self, Write};

use quorate_protocol::time::Uptime;
use xxhash_rust::xxh3::Xxh3;

/// The trace of one run.
pub(crate) struct Trace {
    hash: Xxh3,
    line: String,
    events: u64,
    /// The lines, if they are kept.
    kept: Option<Vec<String>>,
}

impl Trace {
    /// An empty trace that keeps its lines or only their hash.
    pub(crate) fn new(keep: bool) -> Self {
        Self { hash: Xxh3::new(), line: String::new(), events: 0, kept: keep.then(Vec::new) }
    }

    /// Records one event.
    pub(crate) fn note(&mut self, now: Uptime, event: fmt::Arguments) {
        self.line.clear();
        self.events += 1;
        // Writing to a String cannot fail.
        let _ = write!(self.line, "{:>6} {event}", now.0);
        self.hash.update(self.line.as_bytes());
        if let Some(kept) = &mut self.kept {
            kept.push(self.line.clone());
        }
    }

    /// How many events there were.
    pub(crate) fn events(&self) -> u64 {
        self.events
    }

    /// The hash of all events.
    pub(crate) fn hash(&self) -> u64 {
        self.hash.digest()
    }

    /// The lines, if they were kept.
    pub(crate) fn into_lines(self) -> Vec<String> {
        self.kept.unwrap_or_default()
    }
}
