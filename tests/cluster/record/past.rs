//! What was certain when a backup was made: the same history, as far as it must be in the backup, or can be.

use std::collections::BTreeSet;
use std::time::{SystemTime, UNIX_EPOCH};

use quorate_oracle::history::{End, WriteNo};
use quorate_protocol::clock::Clock;

use super::{Findings, Left, Record, State};

/// When the copies of a backup were made, by this machine's clock, in milliseconds since 1970: what was
/// acknowledged before it began is in the backup, what was begun after it ended is not.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Window {
    pub(crate) began_at: u64,
    pub(crate) ended_at: u64,
}

/// Something that a client did or was told.
pub(super) struct Event {
    pub(super) at_ms: u64,
    pub(super) what: What,
}

pub(super) enum What {
    Begun { saw: BTreeSet<WriteNo>, covered: Clock, without: BTreeSet<WriteNo> },
    Ended { write: WriteNo, end: End, without: BTreeSet<WriteNo> },
}

/// This machine's clock, in milliseconds since 1970.
pub(crate) fn now_ms() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_millis() as u64
}

impl Record {
    /// Judges what a backup has brought back of a key.
    pub(crate) fn judge_restored(&self, key: &str, left: &Left, window: Window) -> Findings {
        self.with(key, |state| state.as_of(key, self.n, window).judge(key, left))
    }

    /// How many writes of all keys were acknowledged before a backup.
    pub(crate) fn acked_before(&self, window: Window) -> usize {
        let certain = |event: &&Event| {
            matches!(event.what, What::Ended { end: End::Acked { .. }, .. })
                && event.at_ms < window.began_at
        };
        self.sum(|state| state.log.iter().filter(certain).count())
    }
}

impl State {
    /// What is known of the key if the clients were asked about a backup: writes that were acknowledged
    /// before it are acknowledged, those that were under way may be in it, and later ones were never begun.
    fn as_of(&self, key: &str, n: u16, window: Window) -> Self {
        let mut past = Self { dots: self.dots.clone(), ..Self::new(n) };
        for Event { at_ms, what } in &self.log {
            match what {
                What::Begun { saw, covered, without } if *at_ms <= window.ended_at => {
                    past.begin(key, saw, covered.clone(), without);
                }
                What::Ended { write, end, without } if past.sent.contains_key(write) => {
                    let is_ack = matches!(end, End::Acked { .. });
                    if !is_ack || *at_ms < window.began_at {
                        past.end(*write, *end, without);
                    }
                }
                What::Begun { .. } | What::Ended { .. } => {}
            }
        }
        past
    }
}
