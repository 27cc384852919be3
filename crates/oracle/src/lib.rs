//! The oracle: from what clients sent and received, it tells which promise was broken.
//!
//! It knows nothing of who runs the clusters: the simulator and tests of real processes use it. There is
//! one function per property; each names its source: a promise (docs/design.md, "Promises") or a paper.
//! Every value is unique, so a value identifies its write. A write that failed or timed out is
//! *unknown*: it may appear or not. Precedents: Riak's `kv679_eqc` (keep every write with what it
//! saw, compute what must be left), and openraft's rule that every check names its source.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

use quorate_protocol::clock::{Clock, Dot};
use quorate_protocol::name::NodeId;

use crate::history::{End, History, Moment, Saw, WriteNo};

pub mod history;
mod state;
pub mod types;

pub use state::{
    a_filled_node_has_everything, a_healed_cluster_serves, converges, every_operation_ends,
    no_hints_are_left, reaped_for_good, replicas_are_equal, rest_writes_nothing,
    siblings_are_bounded, trees_are_right, what_is_dropped_is_held,
};

/// A broken promise.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Violation {
    /// The property, named after its function.
    pub property: &'static str,
    /// What happened, in words.
    pub story: String,
}

impl fmt::Display for Violation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.property, self.story)
    }
}

/// The result of a check.
pub type Verdict = Result<(), Violation>;

/// One sibling in an answer or a replica.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Sight {
    /// Which write it is.
    pub write: WriteNo,
    /// Its dot, if the observer can see it.
    pub dot: Option<Dot>,
}

impl fmt::Debug for Sight {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.dot {
            Some(dot) => write!(f, "{}={dot}", self.write),
            None => write!(f, "{}", self.write),
        }
    }
}

/// An answer that showed (or, by `lww` policy, superseded) the siblings of a key.
#[derive(Clone, Debug)]
pub struct Answer<'a> {
    /// The key, as `bucket/key`.
    pub key: &'a str,
    /// The siblings; repeats of one request are shown once.
    pub shown: &'a [Sight],
    /// The clock of the context that came with it, if the observer can open it.
    pub context: Option<&'a Clock>,
}

/// A read that was answered.
#[derive(Clone, Copy, Debug)]
pub struct Read {
    /// When it was sent.
    pub begun: Moment,
    /// R.
    pub r: u16,
    /// Whether only home replicas counted.
    pub strict: bool,
}

/// The oracle of one run.
#[derive(Debug)]
pub struct Oracle {
    /// What clients did.
    pub history: History,
    /// The N of every bucket in the run.
    n: u16,
}

impl Oracle {
    /// An oracle for a cluster whose buckets keep `n` replicas.
    pub fn new(n: u16) -> Self {
        Self { history: History::default(), n }
    }

    /// A client is about to write.
    pub fn begin_write(&mut self, key: &str, deletes: bool, saw: Saw, at: Moment) -> WriteNo {
        self.history.begin_write(key, deletes, saw, at)
    }

    /// A node minted a write. Checks that its dot is fresh.
    ///
    /// # Errors
    /// *No dot stands for two values* (promise 3; a clock entry claims every earlier dot of its
    /// actor, Almeida et al. 2014, so a dot used twice makes replicas drop one of the two writes).
    pub fn minted(&mut self, write: WriteNo, dot: Dot, saw: BTreeSet<WriteNo>) -> Verdict {
        let other = self.history.minted(write, dot, saw);
        holds(other.is_none(), "no_dot_stands_for_two_values", || {
            let other = other.unwrap_or(write);
            format!("{dot} names {write} and, before, {}", self.history.describe(other))
        })
    }

    /// A write was acknowledged. `holders` are the nodes that durably hold it, or a write that saw
    /// it, as home replica or as hint; those that rightly gave it up (handoff) count too.
    ///
    /// # Errors
    ///
    /// *An acknowledged write has W durable copies on distinct nodes at that moment* (promise 1),
    /// and as many as the answer counted: acks are counted, never assumed.
    pub fn durable_copies_at_ack(
        &self,
        write: WriteNo,
        w: u16,
        acks: u16,
        holders: &BTreeSet<NodeId>,
    ) -> Verdict {
        let enough = acks >= w && holders.len() >= usize::from(acks);
        holds(enough, "durable_copies_at_ack", || {
            let write = self.history.describe(write);
            format!("{write} was acknowledged with w={w} acks={acks}, durable on {holders:?}")
        })
    }

    /// The answer to a write said that a copy is stored.
    ///
    /// # Errors
    ///
    /// *`partial` is said only if a copy is stored*: an answer never errs in either direction.
    pub fn partial_has_a_copy(&self, write: WriteNo, is_stored: bool) -> Verdict {
        holds(is_stored, "partial_has_a_copy", || {
            format!(
                "{} was reported as partial but is stored nowhere",
                self.history.describe(write)
            )
        })
    }

    /// Checks every answer that shows siblings: reads, writes with `return_body`, and a plain
    /// write's answer, which shows the write itself.
    ///
    /// # Errors
    /// The first property that it breaks.
    pub fn check_answer(&self, answer: &Answer) -> Verdict {
        self.no_phantoms(answer)?;
        self.one_request_one_sibling(answer)?;
        self.no_false_siblings(answer)?;
        self.contexts_cover_only_what_was_shown(answer)
    }

    /// Checks the answer to a read against the acknowledgements that came before it was sent.
    ///
    /// # Errors
    /// The first property that it breaks.
    pub fn check_read(&self, read: &Read, answer: &Answer) -> Verdict {
        self.check_answer(answer)?;
        self.nothing_reaped_comes_back(read.begun, answer)?;
        self.no_false_absence(read, answer)?;
        self.strict_reads_see_what_was_acknowledged(read, answer)
    }

    /// Checks what a subscriber to changes knows by a page that said to be complete, as far as a read by R at
    /// the moment when that was asked for has to see it.
    ///
    /// # Errors
    /// What it should know.
    pub fn check_feed(&self, read: &Read, answer: &Answer) -> Verdict {
        self.strict_reads_see_what_was_acknowledged(read, answer)
    }

    /// *Nothing read was never written* (promise 2); a write reported as `not_applied` was not
    /// written. A dot that was minted for one write never shows another.
    fn no_phantoms(&self, answer: &Answer) -> Verdict {
        for sight in answer.shown {
            let record = self.history.get(sight.write).filter(|w| w.key == answer.key);
            let real = record.is_some_and(|w| !w.cannot_exist());
            holds(real, "no_phantoms", || {
                let write = self.history.describe(sight.write);
                format!("{} shows {write}, which was never written there", answer.key)
            })?;
            let owner = sight.dot.and_then(|dot| self.history.write_of(answer.key, dot));
            let same = owner.is_none_or(|owner| owner == sight.write);
            holds(same, "no_dot_stands_for_two_values", || {
                format!("{sight:?} shows a dot that was minted for {owner:?}")
            })?;
        }
        Ok(())
    }

    /// *One request shows as at most one sibling* (promise 3).
    fn one_request_one_sibling(&self, answer: &Answer) -> Verdict {
        let writes: BTreeSet<WriteNo> = answer.shown.iter().map(|s| s.write).collect();
        holds(writes.len() == answer.shown.len(), "one_request_one_sibling", || {
            format!("{} shows a request twice: {:?}", answer.key, answer.shown)
        })
    }

    /// *No false siblings* (promise 2): siblings are pairwise concurrent in the true
    /// happened-before relation. The exception of promise 3: a request that was minted twice may
    /// show together with what superseded it.
    fn no_false_siblings(&self, answer: &Answer) -> Verdict {
        for (older, newer) in pairs(answer.shown) {
            let excused = self.history.get(older).is_none_or(|w| w.is_minted_twice());
            let false_pair = !excused && self.history.surely_saw(newer, older);
            holds(!false_pair, "no_false_siblings", || {
                let (older, newer) = (self.history.describe(older), self.history.describe(newer));
                format!("{} shows {older} together with {newer}, which saw it", answer.key)
            })?;
        }
        Ok(())
    }

    /// *A client gets only contexts of what it saw*: each dot that its context covers was shown to
    /// it, or superseded by something that was.
    fn contexts_cover_only_what_was_shown(&self, answer: &Answer) -> Verdict {
        let Some(context) = answer.context else { return Ok(()) };
        let shown: BTreeSet<WriteNo> = answer.shown.iter().map(|s| s.write).collect();
        for (dot, write) in self.history.dots_of(answer.key).filter(|(d, _)| context.covers(*d)) {
            holds(self.history.is_in(write, &shown), "contexts_cover_only_what_was_shown", || {
                let write = self.history.describe(write);
                format!("a context that showed {shown:?} covers {dot}: {write}")
            })?;
        }
        Ok(())
    }

    /// *No false 404*: "never written" is a wrong answer when R replicas cannot all have missed a
    /// write that its home replicas acknowledged; an empty fallback must not make a 404.
    fn no_false_absence(&self, read: &Read, answer: &Answer) -> Verdict {
        if !answer.shown.is_empty() {
            return Ok(());
        }
        let gone = self.gone(answer.key);
        for (number, write) in self.history.writes_of(answer.key) {
            let Some(ack) = write.acked.filter(|ack| ack.at < read.begun) else { continue };
            let homes = ack.homes.saturating_sub(self.history.losses_since(write.begun));
            let excused = homes + read.r <= self.n || self.history.is_in(number, &gone);
            holds(excused, "no_false_absence", || {
                let write = self.history.describe(number);
                format!(
                    "r={} of n={} reported {} as never written: {write}",
                    read.r, self.n, answer.key
                )
            })?;
        }
        Ok(())
    }

    /// *R + W > N, strict on both sides: a read sees the last acknowledged write or a later one*
    /// (promise 4; Gifford, "Weighted Voting for Replicated Data", SOSP 1979). Nor does it see
    /// anything that an acknowledged write superseded.
    fn strict_reads_see_what_was_acknowledged(&self, read: &Read, answer: &Answer) -> Verdict {
        if !read.strict {
            return Ok(());
        }
        let shown: BTreeSet<WriteNo> = answer.shown.iter().map(|s| s.write).collect();
        let known = &shown | &self.gone(answer.key);
        for (number, write) in self.history.writes_of(answer.key) {
            let ack = write.acked.filter(|ack| ack.at < read.begun);
            let Some(w) = ack.and_then(|ack| ack.strict_w) else { continue };
            if w + read.r <= self.n {
                continue;
            }
            let seen = self.history.is_in(number, &known);
            holds(seen, "strict_reads_see_what_was_acknowledged", || {
                let write = self.history.describe(number);
                format!("w={w} r={} n={}, the read showed {shown:?}, not {write}", read.r, self.n)
            })?;
            self.nothing_comes_back_from_the_dead(answer.key, number, &shown)?;
        }
        Ok(())
    }

    /// Checks a complete listing by R = `r` home replicas that was asked for at `begun`: `is_listed` says of
    /// a key whether it is there.
    ///
    /// # Errors
    /// *A complete listing misses no live key, and names none that was never written.*
    pub fn check_listing(&self, (begun, r): (Moment, u16), key: &str, is_listed: bool) -> Verdict {
        let mut writes = self.history.writes_of(key).map(|(_, write)| write);
        if is_listed {
            let is_written = writes.any(|write| !write.deletes && !write.cannot_exist());
            return holds(is_written, "listings_are_complete_and_true", || {
                format!("{key} is listed, and was never written")
            });
        }
        let mut missed = None;
        for write in writes {
            if write.deletes {
                return Ok(()); // it may be deleted
            }
            let ack = write.acked.filter(|ack| ack.at < begun);
            let homes = ack.map_or(0, |ack| ack.homes);
            let homes = homes.saturating_sub(self.history.losses_since(write.begun));
            missed = missed.or((homes + r > self.n).then_some(homes));
        }
        holds(missed.is_none(), "listings_are_complete_and_true", || {
            format!("{key} is on {missed:?} home replicas, and a listing by r={r} misses it")
        })
    }

    /// Checks a complete listing of an index by R = `r`, in which every value has an entry of its own:
    /// those of one key. An entry is missed only if something may have superseded its value. (Whether one is
    /// there for too long cannot be seen here: a write that was repeated may have been minted twice, and an
    /// entry has no dot.)
    ///
    /// # Errors
    /// The violated property.
    pub fn check_index(
        &self,
        (begun, r): (Moment, u16),
        key: &str,
        hits: &BTreeSet<WriteNo>,
    ) -> Verdict {
        let property = "indexes_are_complete_and_true";
        let writes: Vec<_> = self.history.writes_of(key).collect();
        for hit in hits {
            let written = writes.iter().find(|(number, _)| number == hit).map(|(_, write)| write);
            let is_written = written.is_some_and(|it| !it.deletes && !it.cannot_exist());
            holds(is_written, property, || format!("{hit} of {key} is found, and is no value"))?;
        }
        for (number, write) in &writes {
            let Some(ack) = write.acked.filter(|ack| ack.at < begun) else { continue };
            let homes = ack.homes.saturating_sub(self.history.losses_since(write.begun));
            if homes + r <= self.n {
                continue;
            }
            let may_be_over = |other: &WriteNo| self.history.perhaps_saw(*other, *number);
            let others = writes.iter().filter(|(it, other)| it != number && !other.cannot_exist());
            let is_missed = !write.deletes && !hits.contains(number);
            let excused = others.map(|(it, _)| it).any(may_be_over);
            holds(!is_missed || excused, property, || {
                let what = self.history.describe(*number);
                format!("{what} is on {homes} home replicas, and the index by r={r} misses it")
            })?;
        }
        Ok(())
    }

    /// *Nothing comes back from the dead* (promise 2): what an acknowledged write saw is
    /// superseded.
    fn nothing_comes_back_from_the_dead(
        &self,
        key: &str,
        acked: WriteNo,
        shown: &BTreeSet<WriteNo>,
    ) -> Verdict {
        for dead in shown {
            let excused = self.history.get(*dead).is_none_or(|w| w.is_minted_twice());
            let back = !excused && self.history.surely_saw(acked, *dead);
            holds(!back, "nothing_comes_back_from_the_dead", || {
                let (dead, by) = (self.history.describe(*dead), self.history.describe(acked));
                format!("{key} shows {dead}, superseded by {by}")
            })?;
        }
        Ok(())
    }

    /// *Nothing comes back from the dead* (promise 2; docs/design.md, "Deletes"): what a reaped
    /// tombstone superseded was already gone from every node when it was reaped. This needs no
    /// quorum to check.
    fn nothing_reaped_comes_back(&self, begun: Moment, answer: &Answer) -> Verdict {
        let shown: BTreeSet<WriteNo> = answer.shown.iter().map(|s| s.write).collect();
        for (tombstone, _) in self.history.reaped_of(answer.key).filter(|(_, at)| *at < begun) {
            self.nothing_comes_back_from_the_dead(answer.key, tombstone, &shown)?;
        }
        Ok(())
    }

    /// Writes known to be gone for good, with all that they saw.
    fn gone(&self, key: &str) -> BTreeSet<WriteNo> {
        self.history.reaped_of(key).map(|(tombstone, _)| tombstone).collect()
    }

    /// Checks what is left of a key after all faults ended and the replicas were repaired.
    ///
    /// # Errors
    /// The first property that it breaks.
    pub fn check_final(&self, key: &str, replicas: &BTreeMap<NodeId, Vec<Sight>>) -> Verdict {
        replicas_are_equal(key, replicas)?;
        let shown: Vec<Sight> = replicas.values().next().cloned().unwrap_or_default();
        // Copies of one request are merged when shown, not when stored.
        let mut once: Vec<Sight> = Vec::new();
        for sight in shown {
            if once.iter().all(|s| s.write != sight.write) {
                once.push(sight);
            }
        }
        let answer = Answer { key, shown: &once, context: None };
        self.check_answer(&answer)?;
        self.nothing_reaped_comes_back(Moment(u64::MAX), &answer)?;
        let present: BTreeSet<WriteNo> = once.iter().map(|s| s.write).collect();
        let known = &present | &self.gone(key);
        for (number, write) in self.history.writes_of(key) {
            if write.acked.is_some() {
                self.no_acknowledged_write_is_lost(key, number, &known)?;
                self.nothing_comes_back_from_the_dead(key, number, &present)?;
            }
        }
        Ok(())
    }

    /// *An acknowledged write is never lost* (promise 1): at the end it is present, or a write that
    /// saw it.
    fn no_acknowledged_write_is_lost(
        &self,
        key: &str,
        write: WriteNo,
        present: &BTreeSet<WriteNo>,
    ) -> Verdict {
        holds(self.history.is_in(write, present), "no_acknowledged_write_is_lost", || {
            let left: Vec<String> = present.iter().map(|w| self.history.describe(*w)).collect();
            format!("{key}: {} is gone; left: [{}]", self.history.describe(write), left.join("; "))
        })
    }

    /// An attempt at a write ended.
    pub fn end_attempt(&mut self, write: WriteNo, end: End, at: Moment) {
        self.history.end_attempt(write, end, at);
    }
}

fn holds(condition: bool, property: &'static str, story: impl FnOnce() -> String) -> Verdict {
    if condition { Ok(()) } else { Err(Violation { property, story: story() }) }
}

/// All ordered pairs of different writes.
fn pairs(shown: &[Sight]) -> impl Iterator<Item = (WriteNo, WriteNo)> {
    let all = shown.iter().flat_map(move |a| shown.iter().map(move |b| (a.write, b.write)));
    all.filter(|(a, b)| a != b)
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests;
