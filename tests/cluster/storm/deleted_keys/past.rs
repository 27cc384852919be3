//! What was done to the keys, step by step, and what of it a backup must have or can have.

use std::collections::BTreeSet;

use quorate_protocol::clock::Clock;

use super::{DeletedKeys, Fate, KeyHistory};
use crate::record::{Findings, Left, Window, now_ms};

/// One step of a key's client.
pub(super) enum Step {
    PutBegun {
        value: String,
        over: BTreeSet<String>,
        expires: bool,
    },
    PutEnded {
        value: String,
        fate: Fate,
        covered: Clock,
    },
    DeleteBegun {
        of: BTreeSet<String>,
    },
    /// It was acknowledged.
    Deleted {
        covered: Clock,
    },
}

impl DeletedKeys {
    /// Judges what a backup has brought back of a key.
    pub(crate) fn judge_restored(&self, key: &str, left: &Left, window: Window) -> Findings {
        self.with(key, |history| history.as_of(window).judge(key, left))
    }

    /// How many keys were deleted for good, acknowledged before a backup.
    pub(crate) fn ended_before(&self, window: Window) -> usize {
        let keys = self.keys();
        keys.iter().filter(|key| self.with(key, |history| history.as_of(window).ended)).count()
    }
}

impl KeyHistory {
    /// Notes a step that is taken now.
    pub(super) fn note(&mut self, step: Step) {
        self.apply(&step);
        self.log.push((now_ms(), step));
    }

    fn apply(&mut self, step: &Step) {
        match step {
            Step::PutBegun { value, over, expires } => {
                self.expiring.extend(expires.then(|| value.clone()));
                self.puts.insert(value.clone(), Fate::Unknown);
                self.superseded.extend(over.iter().cloned());
                self.ended = false;
            }
            Step::PutEnded { value, fate, covered } => {
                self.puts.insert(value.clone(), *fate);
                if *fate == Fate::Acked {
                    self.covered.join(covered);
                    self.ended = self.expiring.contains(value);
                }
            }
            Step::DeleteBegun { of } => self.superseded.extend(of.iter().cloned()),
            Step::Deleted { covered } => {
                self.covered.join(covered);
                self.ended = true;
            }
        }
    }

    /// What is known of the key if its client was asked about a backup: what was acknowledged before it is,
    /// what was under way may be in it, and what came later was never begun.
    fn as_of(&self, window: Window) -> Self {
        let mut past = Self::default();
        for (at_ms, step) in &self.log {
            let counts = match step {
                Step::PutBegun { .. } | Step::DeleteBegun { .. } => *at_ms <= window.ended_at,
                Step::PutEnded { value, fate, .. } if *fate != Fate::Acked => {
                    past.puts.contains_key(value)
                }
                Step::PutEnded { .. } | Step::Deleted { .. } => *at_ms < window.began_at,
            };
            if counts {
                past.apply(step);
            }
        }
        past
    }
}
