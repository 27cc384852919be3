//! What clients did, and what each write really saw: the happened-before relation that the oracle
//! judges by.
//!
//! It is built from what was *shown* to the writer, never from version vectors, since those are
//! under test. What a write saw is known exactly only if its client said so. Where it is not (a
//! delete that reads for itself, a request that was minted twice), two bounds are kept: what it
//! *surely* saw, and what it *perhaps* saw. A check uses the bound under which fewer runs fail.

use std::collections::{BTreeMap, BTreeSet};

use quorate_protocol::clock::Dot;

/// A point in time on a clock shared by all clients of the history; only the order counts.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Moment(pub u64);

/// The number of one client write (a delete is one too), given out by [`History::begin_write`].
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct WriteNo(pub u32);

impl std::fmt::Debug for WriteNo {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{self}")
    }
}

impl std::fmt::Display for WriteNo {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "w{}", self.0)
    }
}

/// What the client knew when it wrote.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Saw {
    /// It sent the context of an answer that showed these (none: a blind write).
    These(BTreeSet<WriteNo>),
    /// The cluster decides what the write supersedes: a delete without a context, a condition, or
    /// an `lww` bucket. [`History::minted`] may tell later.
    Whatever,
    /// A node wrote by itself: some of these, it is not known which.
    Some(BTreeSet<WriteNo>),
}

/// The outcome of one attempt at a write.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum End {
    /// Success, with what the answer counted.
    Acked {
        /// Nodes that count towards W.
        acks: u16,
        /// How many of the acknowledgements came from fallbacks.
        hints: u16,
        /// The requested W.
        w: u16,
        /// Whether only home replicas counted.
        strict: bool,
    },
    /// Success, but there was nothing to delete.
    NothingToDelete,
    /// The answer says that nothing was written: `not_applied`, or a 4xx.
    NotApplied,
    /// The answer says that a copy is stored.
    Partial,
    /// The answer says `unknown`, or there was none.
    Unknown,
}

/// An acknowledgement as the client saw it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Ack {
    /// When the answer came.
    pub at: Moment,
    /// Distinct home replicas that held it.
    pub homes: u16,
    /// W, if only home replicas counted.
    pub strict_w: Option<u16>,
}

/// One client write and all its attempts.
#[derive(Clone, Debug)]
pub struct Write {
    /// The key, as `bucket/key`.
    pub key: String,
    /// Whether it is a delete.
    pub deletes: bool,
    /// When its first attempt began.
    pub begun: Moment,
    /// The first acknowledgement.
    pub acked: Option<Ack>,
    attempts: u32,
    attempts_not_applied: u32,
    saw: Saw,
    /// For each dot it was minted under, what that copy saw.
    mints: BTreeMap<Dot, BTreeSet<WriteNo>>,
    /// The dots that it was shown under.
    shown_under: BTreeSet<Dot>,
}

impl Write {
    /// Whether the cluster promised that this write does not exist.
    pub fn cannot_exist(&self) -> bool {
        self.attempts > 0 && self.attempts == self.attempts_not_applied
    }

    /// Whether copies of it may carry different dots: promise 3 allows that for a repeated request. Where
    /// dots are seen, what was shown under one dot only is one copy, however often it was attempted:
    /// what saw it, saw that one.
    pub fn is_minted_twice(&self) -> bool {
        let is_uncertain = self.attempts > 1 && self.shown_under.len() != 1;
        self.mints.len() > 1 || (self.mints.is_empty() && is_uncertain)
    }

    /// What every copy of it saw directly.
    fn saw_surely(&self) -> BTreeSet<WriteNo> {
        let mut mints = self.mints.values();
        match (mints.next(), &self.saw) {
            (Some(first), _) => mints.fold(first.clone(), |all, mint| &all & mint),
            (None, Saw::These(seen)) => seen.clone(),
            (None, Saw::Whatever | Saw::Some(_)) => BTreeSet::new(),
        }
    }

    /// What some copy of it may have seen directly; `None` means anything.
    fn saw_perhaps(&self) -> Option<impl Iterator<Item = WriteNo>> {
        let client = match &self.saw {
            Saw::These(seen) | Saw::Some(seen) => Some(seen),
            Saw::Whatever if self.mints.is_empty() => return None,
            Saw::Whatever => None,
        };
        Some(self.mints.values().chain(client).flatten().copied())
    }
}

/// All writes of one run.
#[derive(Debug, Default)]
pub struct History {
    writes: Vec<Write>,
    dots: BTreeMap<(String, Dot), WriteNo>,
    /// Tombstones that were reaped, and when each was first reaped.
    reaped: BTreeMap<WriteNo, Moment>,
    /// When a node lost its disk, or part of its data.
    losses: Vec<Moment>,
}

impl History {
    /// A client is about to write. Attempts follow.
    pub fn begin_write(&mut self, key: &str, deletes: bool, saw: Saw, begun: Moment) -> WriteNo {
        self.writes.push(Write {
            key: key.to_owned(),
            deletes,
            begun,
            acked: None,
            attempts: 0,
            attempts_not_applied: 0,
            saw,
            mints: BTreeMap::new(),
            shown_under: BTreeSet::new(),
        });
        WriteNo(self.writes.len() as u32 - 1)
    }

    /// A write that a node made by itself ([`Saw::Some`]) may have seen this one as well.
    pub fn may_have_seen(&mut self, write: WriteNo, seen: WriteNo) {
        if let Some(Write { saw: Saw::Some(some), .. }) = self.writes.get_mut(write.0 as usize) {
            some.insert(seen);
        }
    }

    /// A request for the write goes out: the first, or a retry under the same write id.
    pub fn begin_attempt(&mut self, write: WriteNo) {
        self.writes[write.0 as usize].attempts += 1;
    }

    /// An attempt ended.
    pub fn end_attempt(&mut self, write: WriteNo, end: End, at: Moment) {
        let write = &mut self.writes[write.0 as usize];
        match end {
            End::Acked { acks, hints, w, strict } => {
                let homes = if strict { acks } else { acks.saturating_sub(hints) };
                let strict_w = strict.then_some(w);
                write.acked.get_or_insert(Ack { at, homes, strict_w });
            }
            End::NotApplied => write.attempts_not_applied += 1,
            End::NothingToDelete | End::Partial | End::Unknown => {}
        }
    }

    /// A node minted the write under `dot` (if an observer can see that), superseding what its
    /// client saw and what the node itself saw for it. Returns the write that already has this dot,
    /// if any.
    pub fn minted(
        &mut self,
        write: WriteNo,
        dot: Dot,
        node_saw: BTreeSet<WriteNo>,
    ) -> Option<WriteNo> {
        let record = self.writes.get_mut(write.0 as usize)?;
        let mut saw = node_saw;
        if let Saw::These(seen) = &record.saw {
            saw.extend(seen);
        }
        saw.remove(&write);
        let again = record.mints.insert(dot, saw).is_some();
        let owner = self.dots.insert((record.key.clone(), dot), write);
        owner.filter(|owner| again || *owner != write)
    }

    /// An answer showed the write under `dot`.
    pub fn shown_under(&mut self, write: WriteNo, dot: Dot) {
        let Some(record) = self.writes.get_mut(write.0 as usize) else { return };
        record.shown_under.insert(dot);
        self.dots.entry((record.key.clone(), dot)).or_insert(write);
    }

    /// Tombstones were proven to be all that is left of their keys: what they saw is gone for good,
    /// and they may be forgotten.
    pub fn reaped(&mut self, tombstones: impl IntoIterator<Item = WriteNo>, at: Moment) {
        for tombstone in tombstones {
            self.reaped.entry(tombstone).or_insert(at);
        }
    }

    /// The reaped tombstones of a key, and when each was.
    pub fn reaped_of<'a>(&'a self, key: &'a str) -> impl Iterator<Item = (WriteNo, Moment)> + 'a {
        let of_key = move |write: &WriteNo| self.get(*write).is_some_and(|w| w.key == key);
        self.reaped.iter().filter(move |(write, _)| of_key(write)).map(|(w, at)| (*w, *at))
    }

    /// A node lost its data, or came back with less.
    pub fn lost_disk(&mut self, at: Moment) {
        self.losses.push(at);
    }

    /// How often that happened since a moment.
    pub fn losses_since(&self, moment: Moment) -> u16 {
        self.losses.iter().filter(|at| **at > moment).count() as u16
    }

    /// The write with this number, if there is one.
    pub fn get(&self, write: WriteNo) -> Option<&Write> {
        self.writes.get(write.0 as usize)
    }

    /// All writes of a key, with their numbers.
    pub fn writes_of<'a>(&'a self, key: &'a str) -> impl Iterator<Item = (WriteNo, &'a Write)> {
        let numbered = self.writes.iter().enumerate();
        numbered.filter(move |(_, w)| w.key == key).map(|(at, w)| (WriteNo(at as u32), w))
    }

    /// The dots of a key that were seen.
    pub fn dots_of<'a>(&'a self, key: &'a str) -> impl Iterator<Item = (Dot, WriteNo)> + 'a {
        self.dots.iter().filter(move |((of, _), _)| of == key).map(|((_, dot), w)| (*dot, *w))
    }

    /// Which write a dot belongs to, if that was seen.
    pub fn write_of(&self, key: &str, dot: Dot) -> Option<WriteNo> {
        self.dots.get(&(key.to_owned(), dot)).copied()
    }

    /// Whether `later` certainly saw `earlier`, directly or transitively.
    pub fn surely_saw(&self, later: WriteNo, earlier: WriteNo) -> bool {
        let mut found = BTreeSet::new();
        let mut open = vec![later];
        while let Some(write) = open.pop() {
            for seen in self.writes[write.0 as usize].saw_surely() {
                if seen == earlier {
                    return true;
                }
                if found.insert(seen) {
                    open.push(seen);
                }
            }
        }
        false
    }

    /// Whether `later` may have seen `earlier`, directly or transitively.
    pub fn perhaps_saw(&self, later: WriteNo, earlier: WriteNo) -> bool {
        let mut found = BTreeSet::from([later]);
        let mut open = vec![later];
        while let Some(write) = open.pop() {
            let Some(saw) = self.writes[write.0 as usize].saw_perhaps() else {
                return true;
            };
            for seen in saw {
                if seen == earlier {
                    return true;
                }
                if found.insert(seen) {
                    open.push(seen);
                }
            }
        }
        false
    }

    /// Whether the state `present` contains `write`: itself, or a write that may have seen it.
    pub fn is_in(&self, write: WriteNo, present: &BTreeSet<WriteNo>) -> bool {
        present.contains(&write) || present.iter().any(|p| self.perhaps_saw(*p, write))
    }

    /// A write's acknowledgement and causal links in one line, for reports.
    pub fn describe(&self, write: WriteNo) -> String {
        let Some(record) = self.get(write) else { return format!("{write} (never written)") };
        let what = if record.deletes { "delete" } else { "put" };
        let saw: Vec<String> = record.saw_surely().iter().map(ToString::to_string).collect();
        let dots: Vec<String> = record.mints.keys().map(ToString::to_string).collect();
        let acked =
            record.acked.map_or("not acked".to_owned(), |ack| format!("acked at {}", ack.at.0));
        format!(
            "{write} ({what} {} at {}, {acked}, saw [{}], dots [{}])",
            record.key,
            record.begun.0,
            saw.join(" "),
            dots.join(" ")
        )
    }
}
