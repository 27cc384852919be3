//! What the oracle must know of values that expire.
//!
//! A node removes them by a write of its own, which no client began. It is taken for a delete that may have
//! seen every write whose lifetime was over when it was seen first, and nothing else: what it covers beside
//! those is lost.

use std::collections::BTreeMap;

use quorate_oracle::history::{Moment, Saw, WriteNo};
use quorate_oracle::{Oracle, Verdict, Violation};
use quorate_protocol::bucket::Conflicts;
use quorate_protocol::clock::Dot;
use quorate_protocol::lifetime::Lifetime;
use quorate_protocol::name::Key;
use quorate_protocol::object::{Object, Sibling, WriteId};
use quorate_protocol::time::WallTime;
use quorate_protocol::view::View;

use crate::setup::Setup;
use crate::values::write_of;
use crate::world::World;

/// The longest life of a value that expires, in seconds.
const LIFETIME_S_AT_MOST: u64 = 4;

/// The writes of one run that expire, and those that removed them.
#[derive(Default)]
pub(crate) struct Lifetimes {
    /// When each can expire at the earliest, by key.
    earliest: BTreeMap<(String, WriteNo), WallTime>,
    /// When each dot was seen to expire.
    ends: BTreeMap<(String, Dot), Option<WallTime>>,
    removals: BTreeMap<(String, WriteId), WriteNo>,
    /// Those, and what clients were not shown when they wrote.
    unseen: BTreeMap<String, Vec<WriteNo>>,
}

impl Lifetimes {
    /// A client begins a write that may expire from then on.
    pub(crate) fn begin(&mut self, key: &str, write: WriteNo, earliest: WallTime) {
        self.earliest.insert((key.to_owned(), write), earliest);
    }

    /// Whether any write of a key expires.
    pub(crate) fn has(&self, key: &str) -> bool {
        self.earliest.keys().any(|(of, _)| of == key)
    }

    /// The write that a sibling comes from.
    pub(crate) fn write_of(
        &mut self,
        oracle: &mut Oracle,
        key: &str,
        sibling: &Sibling,
        (at, now): (Moment, WallTime),
    ) -> WriteNo {
        if !sibling.is_tombstone() || sibling.expires.is_none() {
            return write_of(sibling.write_id);
        }
        let place = (key.to_owned(), sibling.write_id);
        if let Some(known) = self.removals.get(&place) {
            return *known;
        }
        let write = self.removal(oracle, key, (at, now));
        self.removals.insert(place, write);
        write
    }

    /// A write that may have removed what has expired by now. Any other of the kind may have come before
    /// it, or after it: when it is seen first says nothing.
    pub(crate) fn removal(
        &mut self,
        oracle: &mut Oracle,
        key: &str,
        (at, now): (Moment, WallTime),
    ) -> WriteNo {
        let expired = self.earliest.iter().filter(|((of, _), at)| of == key && **at <= now);
        let others = self.unseen.entry(key.to_owned()).or_default();
        let saw = expired.map(|((_, write), _)| *write).chain(others.iter().copied()).collect();
        let write = oracle.begin_write(key, true, Saw::Some(saw), at);
        oracle.history.begin_attempt(write);
        others.iter().for_each(|other| oracle.history.may_have_seen(*other, write));
        others.push(write);
        write
    }

    /// *When a value expires is said once*: its minter says it, and every copy on every node says the same.
    pub(crate) fn one_end_for_each_dot(&mut self, key: &str, object: &Object) -> Verdict {
        for sibling in &object.siblings {
            let known = *self.ends.entry((key.to_owned(), sibling.dot)).or_insert(sibling.expires);
            if known != sibling.expires {
                let (dot, now) = (sibling.dot, sibling.expires);
                let story = format!("{key}: {dot} expires at {known:?} and at {now:?}");
                return Err(Violation { property: "one_end_for_each_dot", story });
            }
            let write = (key.to_owned(), write_of(sibling.write_id));
            let is_early = match (sibling.expires, self.earliest.get(&write)) {
                (Some(at), Some(earliest)) => at < *earliest,
                (Some(_), None) => !sibling.is_tombstone(),
                (None, _) => false,
            };
            if is_early {
                let story = format!("{key}: {} expires too early: {:?}", write.1, sibling.expires);
                return Err(Violation { property: "one_end_for_each_dot", story });
            }
        }
        Ok(())
    }
}

/// How long a value lives: without end, or so shortly that it expires within the run.
pub(crate) fn draw(world: &World, setup: &Setup, key: &Key, number: WriteNo) -> Lifetime {
    if !world.percent(setup.lifetimes_percent) {
        return Lifetime::Unlimited;
    }
    let seconds = world.between(1, LIFETIME_S_AT_MOST) as u32;
    let earliest = world.wall().plus(u64::from(seconds) * 1000);
    world.record().lifetimes.begin(&key.to_string(), number, earliest);
    Lifetime::Limited { seconds }
}

/// *What has expired is not shown*, in a bucket of either kind.
pub(crate) fn nothing_expired_is_shown(key: &str, object: &Object, now: WallTime) -> Verdict {
    for conflicts in [Conflicts::Siblings, Conflicts::Lww] {
        let shown = match View::of(object, conflicts, now) {
            View::Absent | View::Deleted | View::Typed => Vec::new(),
            View::One(sibling) => vec![sibling],
            View::Many(siblings) => siblings,
        };
        if let Some(over) = shown.into_iter().find(|s| s.expires.is_some_and(|at| at <= now)) {
            let story = format!("{key} shows {}, which has expired", write_of(over.write_id));
            return Err(Violation { property: "nothing_expired_is_shown", story });
        }
    }
    Ok(())
}
