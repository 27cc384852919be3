//! What the clients of a run did and saw, judged by the oracle.

use std::collections::{BTreeMap, BTreeSet};

use quorate_protocol::clock::{Clock, Dot};
use quorate_protocol::name::{Key, NodeId};
use quorate_protocol::object::{Object, Sibling};
use quorate_protocol::time::WallTime;

use quorate_oracle::history::{End, Moment, Saw, WriteNo};
use quorate_oracle::{Answer, Oracle, Read, Sight, Verdict, Violation};

use crate::lifetimes::Lifetimes;
use crate::values::is_genuine;

/// How many attempts at a write the oracle is told of: an entry node forwards a write again when its
/// coordinator falls silent, so that it may be minted twice, under two dots.
const ATTEMPTS: usize = 2;

/// The history of one run.
pub(crate) struct Record {
    oracle: Oracle,
    now: u64,
    /// Every dot that was seen, by key, and the write that it names.
    dots: BTreeMap<(String, Dot), WriteNo>,
    /// Whether a node lost data that was durable.
    has_losses: bool,
    reaped: BTreeSet<WriteNo>,
    pub(crate) lifetimes: Lifetimes,
}

impl Record {
    /// Nothing yet; buckets keep `n` replicas.
    pub(crate) fn new(n: u16) -> Self {
        Self {
            oracle: Oracle::new(n),
            now: 0,
            dots: BTreeMap::new(),
            has_losses: false,
            reaped: BTreeSet::new(),
            lifetimes: Lifetimes::default(),
        }
    }

    /// What the oracle sees of a sibling. A value that no write stored is a write that does not exist.
    fn sight(&mut self, key: &str, sibling: &Sibling, now: WallTime) -> Sight {
        let at = Moment(self.now);
        let write = self.lifetimes.write_of(&mut self.oracle, key, sibling, (at, now));
        let genuine = is_genuine(sibling);
        Sight { write: if genuine { write } else { WriteNo(u32::MAX) }, dot: Some(sibling.dot) }
    }

    /// What a client saw that wrote, and is told that nothing else would be shown: the write, and perhaps
    /// what has expired.
    pub(crate) fn alone(&mut self, key: &str, write: WriteNo, now: WallTime) -> BTreeSet<WriteNo> {
        let at = Moment(self.now);
        let has_any = self.lifetimes.has(key);
        let over = has_any.then(|| self.lifetimes.removal(&mut self.oracle, key, (at, now)));
        [write].into_iter().chain(over).collect()
    }

    /// Everything that a replica holds.
    pub(crate) fn held(&mut self, key: &str, object: &Object, now: WallTime) -> Vec<Sight> {
        let all = object.siblings.iter().map(|sibling| self.sight(key, sibling, now));
        all.collect::<BTreeSet<Sight>>().into_iter().collect()
    }

    /// What a client sees of an object, and what nodes wrote by themselves: one copy of each request.
    pub(crate) fn shown(&mut self, key: &str, object: &Object, now: WallTime) -> Vec<Sight> {
        let mut requests = BTreeSet::new();
        let first = object.siblings.iter().filter(|sibling| requests.insert(sibling.write_id));
        first.map(|sibling| self.sight(key, sibling, now)).collect()
    }

    /// Whether acknowledged writes may be lost.
    pub(crate) fn has_losses(&self) -> bool {
        self.has_losses
    }

    /// The next moment.
    pub(crate) fn tick(&mut self) -> Moment {
        self.now += 1;
        Moment(self.now)
    }

    /// A client is about to write.
    pub(crate) fn begin(&mut self, key: &str, deletes: bool, saw: Saw) -> WriteNo {
        let at = self.tick();
        let write = self.oracle.begin_write(key, deletes, saw, at);
        (0..ATTEMPTS).for_each(|_| self.oracle.history.begin_attempt(write));
        write
    }

    /// An attempt at a write is repeated by its client.
    pub(crate) fn again(&mut self, write: WriteNo) {
        (0..ATTEMPTS).for_each(|_| self.oracle.history.begin_attempt(write));
    }

    /// An attempt at a write ended.
    pub(crate) fn end(&mut self, write: WriteNo, end: End) {
        let at = self.tick();
        let told = if end == End::NotApplied { ATTEMPTS } else { 1 };
        (0..told).for_each(|_| self.oracle.end_attempt(write, end, at));
    }

    /// Tombstones were reaped. Returns whether that was not known.
    pub(crate) fn reaped(&mut self, tombstones: impl IntoIterator<Item = WriteNo>) -> bool {
        let (before, at) = (self.reaped.len(), self.tick());
        let tombstones: Vec<WriteNo> = tombstones.into_iter().collect();
        self.reaped.extend(&tombstones);
        self.oracle.history.reaped(tombstones, at);
        self.reaped.len() > before
    }

    /// Whether a write is a tombstone that was reaped, or was superseded by one.
    pub(crate) fn is_gone(&self, key: &str, write: WriteNo) -> bool {
        let of_key = self.oracle.history.reaped_of(key).map(|(tombstone, _)| tombstone).collect();
        self.oracle.history.is_in(write, &of_key)
    }

    /// An answer to a write said which dot it has.
    pub(crate) fn check_minted(&mut self, key: &str, write: WriteNo, dot: Dot) -> Verdict {
        self.check_dots(key, &[Sight { write, dot: Some(dot) }])
    }

    /// Checks an acknowledgement: `holders` have the write durably.
    pub(crate) fn check_ack(
        &self,
        key: &str,
        write: WriteNo,
        (w, acks): (u16, u16),
        holders: &BTreeSet<NodeId>,
    ) -> Verdict {
        if self.has_losses || self.is_gone(key, write) {
            return Ok(());
        }
        self.oracle.durable_copies_at_ack(write, w, acks, holders)
    }

    /// A node lost its disk.
    pub(crate) fn lost_disk(&mut self) {
        let at = self.tick();
        self.has_losses = true;
        self.oracle.history.lost_disk(at);
    }

    /// Checks the answer to a read. Once a disk was lost or put back as it was, no read is held to be
    /// fresh: a node that is cut off from all peers goes on with what it has (decision 0008), and
    /// cannot know that it had more.
    pub(crate) fn check_read(
        &mut self,
        key: &str,
        read: &Read,
        shown: &[Sight],
        context: &Clock,
    ) -> Verdict {
        self.check_dots(key, shown)?;
        let read = Read { strict: read.strict && !self.has_losses, ..*read };
        self.oracle.check_read(&read, &Answer { key, shown, context: Some(context) })
    }

    /// Checks what a subscriber knows of a key by a complete page that was asked for at `begun`.
    pub(crate) fn check_feed(
        &mut self,
        key: &str,
        begun: Moment,
        object: &Object,
        now: WallTime,
    ) -> Verdict {
        let shown = self.shown(key, object, now);
        self.check_dots(key, &shown)?;
        let strict = !self.has_losses;
        let read = Read { begun, r: 2, strict };
        self.oracle.check_feed(&read, &Answer { key, shown: &shown, context: None })
    }

    /// Checks a listing by R = `r`: which of these keys it has.
    pub(crate) fn check_listing(
        &self,
        asked: (Moment, u16),
        keys: &[Key],
        listed: &[Key],
    ) -> Verdict {
        let check =
            |key: &Key| self.oracle.check_listing(asked, &key.to_string(), listed.contains(key));
        // What has expired is not listed, before it is removed and after.
        keys.iter().filter(|key| !self.lifetimes.has(&key.to_string())).try_for_each(check)
    }

    /// Checks a complete listing of the index by R = `r`: the writes whose values it has, and their keys.
    pub(crate) fn check_index(
        &self,
        asked: (Moment, u16),
        keys: &[Key],
        found: &[(WriteNo, Key)],
    ) -> Verdict {
        let check = |key: &Key| {
            let of_key = found.iter().filter(|(_, of)| of == key).map(|(write, _)| *write);
            let (hits, name) = (of_key.collect::<BTreeSet<WriteNo>>(), key.to_string());
            self.oracle.check_index(asked, &name, &hits)
        };
        keys.iter().filter(|key| !self.lifetimes.has(&key.to_string())).try_for_each(check)
    }

    /// Checks what is left of a key.
    pub(crate) fn check_final(
        &mut self,
        key: &str,
        replicas: &BTreeMap<NodeId, Vec<Sight>>,
    ) -> Verdict {
        replicas.values().try_for_each(|shown| self.check_dots(key, shown))?;
        self.oracle.check_final(key, replicas)
    }

    /// *No dot stands for two values* (promise 3), on any node at any time.
    fn check_dots(&mut self, key: &str, shown: &[Sight]) -> Verdict {
        for sight in shown {
            let Some(dot) = sight.dot else { continue };
            self.oracle.history.shown_under(sight.write, dot);
            let known = *self.dots.entry((key.to_owned(), dot)).or_insert(sight.write);
            if known != sight.write {
                let story = format!("{key}: {dot} names {known} and {}", sight.write);
                return Err(Violation { property: "no_dot_stands_for_two_values", story });
            }
        }
        Ok(())
    }
}
