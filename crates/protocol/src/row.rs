//! One key's row on one node: the object, and the right to mint on it.
//!
//! A clock entry claims every earlier dot of its actor, so an actor may mint only on a row that
//! holds all its earlier dots, and a dot is never used twice (Riak lost acknowledged writes for
//! years to this: basho/riak_kv issue 679). The rule: an actor belongs to one row on one node in
//! one [`Incarnation`]. The row keeps it in a local field that is never sent to or taken from a
//! peer. A row that was dropped and recreated starts without one, and a node that may have lost
//! something starts under a new incarnation; either way the next mint draws a new actor.
//!
//! Hint rows follow the same rule: a fallback mints on the hint row of (target, key).

mod change;
mod encoding;
mod expiry;
mod mint_error;

use bytes::Bytes;
use serde::{Deserialize, Serialize};

use crate::clock::{Actor, CLOCK_ENTRIES_MAX, Clock, Dot};
use crate::data_type::{Operation, PARTS_BYTES_MAX, PARTS_MAX, Part};
use crate::lifetime::Lifetime;
use crate::mutation::{Mutation, mutated};
use crate::name::NodeId;
use crate::object::{Metadata, Object, Sibling, WriteId};
use crate::stamp::Stamp;
use crate::time::WallTime;

pub use self::mint_error::{MintError, TypeName};

/// A random number that a node draws at every start that does not provably follow a clean stop, and
/// whenever its data directory is new, restored or copied. Never zero.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Incarnation(pub u64);

/// The right to mint on one row: an actor, and the incarnation that drew it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Tenure {
    /// The actor.
    pub actor: Actor,
    /// The incarnation in which it was drawn; in any other the actor may not mint.
    pub incarnation: Incarnation,
}

/// A row: what one node holds of one key, as home replica or as a hint for another.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Row {
    /// The actor that mints here. Like every field but the object it is local and never sent to a
    /// peer.
    pub tenure: Option<Tenure>,
    /// The n of the Merkle tree that counts this row; 0 in a hint row, which is in none.
    pub tree: u16,
    /// Since when, by this node's wall clock, a home row has held exactly this object, or a hint
    /// row has been kept.
    pub since: WallTime,
    /// The merged object.
    pub object: Object,
}

/// One client write on its way to a coordinator.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Draft {
    /// What the client saw: siblings whose dots it covers are superseded.
    pub context: Clock,
    /// The greatest stamp of what the client saw.
    pub context_stamp: Stamp,
    /// The client's metadata.
    pub metadata: Metadata,
    /// The request it comes from.
    pub write_id: WriteId,
    /// Whether the write supersedes all that its coordinator holds (`lww` buckets).
    pub supersede_all: bool,
    /// Whether the write is rejected if its coordinator holds a write that the context does not
    /// cover: set on conditional writes, whose condition was checked against that context.
    pub unless_overtaken: bool,
    /// The value; `None` deletes. Sent in the payload, not in the encoded head.
    #[serde(skip)]
    pub value: Option<Bytes>,
    /// What to do to a typed value, instead of writing one. Sent in the payload too
    /// ([`crate::message::Data::Change`]).
    #[serde(skip)]
    pub operation: Option<Operation>,
    /// How long the value lives. Sent in a message of its own
    /// ([`crate::message::Data::ForwardExpiring`]); before the mint the coordinator takes the bucket's if the
    /// request says nothing.
    #[serde(skip)]
    pub lifetime: Lifetime,
    /// Removes what has expired by this time, instead of writing a value. Only a home replica itself does.
    #[serde(skip)]
    pub removes_expired: Option<WallTime>,
    /// Whether the client may repeat the request under the same id: a counter then remembers it, since its
    /// next increment takes the place of this one. The coordinator decides this.
    #[serde(skip)]
    pub is_remembered: bool,
}

impl Draft {
    /// Whether it would count twice if two nodes minted it. Other writes are recognised by their write id, or
    /// are the same when they are done twice.
    pub fn counts(&self) -> bool {
        matches!(self.operation, Some(Operation::Increment(_)))
    }

    /// The type of the value that it writes or changes; `None` if it deletes.
    pub fn writes(&self) -> Option<TypeName> {
        match &self.operation {
            Some(operation) => Some(TypeName(Some(operation.data_type()))),
            None => self.value.is_some().then_some(TypeName(None)),
        }
    }
}

/// The minting node, at the time of the mint.
#[derive(Clone, Copy, Debug)]
pub struct Coordinator {
    /// Its name.
    pub node: NodeId,
    /// Its incarnation.
    pub incarnation: Incarnation,
    /// A fresh random number (not zero), used if the row needs a new actor.
    pub fresh_actor: Actor,
    /// Its wall clock.
    pub now: WallTime,
}

/// Limits for a *client write* at its coordinator. They never apply to repair.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// The most siblings an object may have after the write.
    pub siblings_max: usize,
    /// The most bytes all its values may have after the write.
    pub object_bytes_max: usize,
}

/// What minting did.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Minted {
    /// A new sibling with this dot is in the row.
    New(Dot),
    /// The row already holds this request's sibling: nothing changed; answer with success.
    Already(Dot),
}

impl Row {
    /// Writes a client's value into the row: drops the siblings that its context covers, adds it
    /// under a fresh dot, and joins context and dot into the clock.
    ///
    /// # Errors
    /// [`MintError`]; the row is then unchanged.
    pub fn mint(
        &mut self,
        draft: &Draft,
        by: &Coordinator,
        limits: &Limits,
    ) -> Result<Minted, MintError> {
        if let Some(known) = self.object.siblings.iter().find(|s| s.write_id == draft.write_id) {
            return Ok(Minted::Already(known.dot));
        }
        let is_overtaken = !draft.context.covers_all(&self.object.clock);
        if draft.unless_overtaken && is_overtaken && !mutated(Mutation::OvertakenIgnored) {
            return Err(MintError::Overtaken);
        }
        if let Some(operation) = &draft.operation {
            return self.change(operation, draft, by, limits);
        }
        if let Some(due) = draft.removes_expired {
            return self.remove_expired(due, draft, by);
        }
        let mut context = draft.context.clone();
        if draft.supersede_all {
            context.join(&self.object.clock);
        }
        let mut seen = draft.context_stamp;
        let mut next = Object { clock: self.object.clock.clone(), siblings: Vec::with_capacity(1) };
        for sibling in &self.object.siblings {
            if context.covers(sibling.dot) {
                seen = seen.max(sibling.stamp);
            } else {
                next.siblings.push(sibling.clone());
            }
        }
        let tenure = self.tenure_for(by, &context);
        let dot = self.object.clock.next_of(tenure.actor);
        next.clock.join(&context);
        next.clock.advance(dot);
        next.siblings.push(Sibling {
            dot,
            part: Part::Value,
            value: draft.value.clone(),
            metadata: draft.metadata.clone(),
            stamp: Stamp::after(seen, by.now),
            expires: draft.lifetime.end(by.now).filter(|_| draft.value.is_some()),
            writer: by.node,
            write_id: draft.write_id,
        });
        next.siblings.sort_unstable_by_key(|s| s.dot);
        limits.check(&next)?;
        // A delete must always be possible: reaping the tombstone removes the clock with it.
        if draft.value.is_some() {
            self.check_clock(&next.clock)?;
        }
        self.touch(by.now);
        self.tenure = Some(tenure);
        self.object = next;
        Ok(Minted::New(dot))
    }

    fn check_clock(&self, next: &Clock) -> Result<(), MintError> {
        let grows = next.len() > self.object.clock.len();
        match grows && next.len() > CLOCK_ENTRIES_MAX {
            true => Err(MintError::ClockFull { max: CLOCK_ENTRIES_MAX as u64 }),
            false => Ok(()),
        }
    }

    /// Joins a peer's object, at `now` by this node's wall clock. Returns whether the row changed.
    ///
    /// A peer that knows a later dot of this row's own actor proves that the row lost writes; the
    /// tenure ends, so that no dot is used twice even then.
    pub fn merge(&mut self, other: &Object, now: WallTime) -> bool {
        let own_counter = |clock: &Clock, tenure: Tenure| clock.counter(tenure.actor);
        self.tenure = self
            .tenure
            .filter(|t| own_counter(&other.clock, *t) <= own_counter(&self.object.clock, *t));
        let clock_before = self.object.clock.clone();
        let siblings_before = self.object.siblings.len();
        self.object.merge(other);
        if mutated(Mutation::LifetimeRestarts) {
            for sibling in &mut self.object.siblings {
                let lifetime_ms = |at: WallTime| at.since(sibling.stamp.wall_time());
                sibling.expires = sibling.expires.map(|at| now.plus(lifetime_ms(at)));
            }
        }
        // Merge only adds claims or drops covered siblings: an equal clock and an equal number of
        // siblings mean equal objects.
        let changed =
            self.object.clock != clock_before || self.object.siblings.len() != siblings_before;
        assert!(self.object.clock.covers_all(&clock_before), "a merge dropped claims");
        assert!(
            self.tenure.is_none_or(|tenure| {
                own_counter(&self.object.clock, tenure) == own_counter(&clock_before, tenure)
            }),
            "a row kept the right to mint under an actor that another copy has used since"
        );
        if changed {
            self.touch(now);
        }
        changed
    }

    /// Records that the object changes. A hint row keeps the time at which it was first kept.
    fn touch(&mut self, now: WallTime) {
        if self.tree != 0 || self.since == WallTime::default() {
            self.since = now;
        }
    }

    /// The actor that may mint here now: the row's own if this incarnation drew it and the context
    /// has no later dot of it, otherwise the fresh one.
    fn tenure_for(&self, by: &Coordinator, context: &Clock) -> Tenure {
        match self.tenure {
            Some(tenure)
                if tenure.incarnation == by.incarnation
                    && context.counter(tenure.actor) <= self.object.clock.counter(tenure.actor) =>
            {
                tenure
            }
            Some(_) | None => {
                let is_hint = self.tree == 0;
                let actor = match mutated(Mutation::ActorSurvivesHintDrop) && is_hint {
                    true => Actor(by.incarnation.0),
                    false => by.fresh_actor,
                };
                Tenure { actor, incarnation: by.incarnation }
            }
        }
    }
}

impl Limits {
    fn check(&self, object: &Object) -> Result<(), MintError> {
        let values = object.siblings.iter().filter(|sibling| !sibling.is_part());
        let (siblings, bytes) = (values.count(), object.value_bytes());
        // A single sibling always fits: the size of one value is limited where requests arrive, not
        // here.
        if siblings > self.siblings_max.max(1) {
            let max = self.siblings_max as u64;
            return Err(MintError::TooManySiblings { siblings: siblings as u64, max });
        }
        if siblings > 1 && bytes > self.object_bytes_max {
            let max = self.object_bytes_max as u64;
            return Err(MintError::ObjectTooLarge { bytes: bytes as u64, max });
        }
        Ok(())
    }

    /// The same after an operation on a typed value that does not only remove.
    fn check_parts(&self, object: &Object) -> Result<(), MintError> {
        let parts = object.siblings.len();
        if parts > PARTS_MAX {
            return Err(MintError::TooManyParts { parts: parts as u64, max: PARTS_MAX as u64 });
        }
        let (bytes, max) = (object.value_bytes(), PARTS_BYTES_MAX.min(self.object_bytes_max));
        if bytes > max {
            return Err(MintError::PartsTooLarge { bytes: bytes as u64, max: max as u64 });
        }
        Ok(())
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    const LIMITS: Limits = Limits { siblings_max: 3, object_bytes_max: 10 };

    fn draft(value: &'static str) -> Draft {
        Draft {
            write_id: WriteId(xxhash_rust::xxh3::xxh3_128(value.as_bytes()).to_le_bytes()),
            value: Some(Bytes::from_static(value.as_bytes())),
            ..Draft::default()
        }
    }

    fn by(incarnation: u64, fresh_actor: u64) -> Coordinator {
        Coordinator {
            node: NodeId::parse("n1").unwrap(),
            incarnation: Incarnation(incarnation),
            fresh_actor: Actor(fresh_actor),
            now: WallTime(1000),
        }
    }

    pub(super) fn row(values: &[&'static str]) -> Row {
        let mut row = Row::default();
        for value in values {
            row.mint(&draft(value), &by(1, 10), &LIMITS).unwrap();
        }
        row
    }

    fn actors(row: &Row) -> Vec<u64> {
        row.object.siblings.iter().map(|s| s.dot.actor.0).collect()
    }

    /// Two conditional writes, both checked before either was minted: the second must be rejected.
    #[test]
    fn an_overtaken_conditional_write_is_rejected() {
        let mut row = Row::default();
        let conditional = |value| Draft { unless_overtaken: true, ..draft(value) };
        let mut mint = |value| row.mint(&conditional(value), &by(1, 10), &LIMITS);
        assert!(matches!(mint("a"), Ok(Minted::New(_))));
        assert_eq!(mint("b"), Err(MintError::Overtaken));
        assert!(matches!(mint("a"), Ok(Minted::Already(_))), "a retry");
        assert_eq!(row.object.siblings.len(), 1);
    }

    #[test]
    fn an_actor_mints_in_its_own_incarnation_only() {
        let mut row = row(&["a"]);
        row.mint(&draft("b"), &by(1, 11), &LIMITS).unwrap();
        assert_eq!(actors(&row), [10, 10]);
        row.mint(&draft("c"), &by(2, 12), &LIMITS).unwrap();
        assert_eq!(actors(&row), [10, 10, 12]);
    }

    #[test]
    fn an_actor_mints_no_more_once_a_later_dot_was_seen_elsewhere() {
        let (old, new) = (row(&["a"]), row(&["a", "b"]));
        // A peer brings back what the row lost.
        let mut forgot = old.clone();
        assert!(forgot.merge(&new.object, WallTime(9)));
        forgot.mint(&draft("c"), &by(1, 11), &LIMITS).unwrap();
        assert_eq!(actors(&forgot), [10, 10, 11]);
        // A client does.
        let mut forgot = old;
        let context = Draft { context: new.object.clock, ..draft("c") };
        forgot.mint(&context, &by(1, 11), &LIMITS).unwrap();
        assert_eq!(actors(&forgot), [11]);
    }

    #[test]
    fn a_context_supersedes_what_it_covers_and_no_more() {
        let mut row = row(&["a"]);
        let seen = row.object.clock.clone();
        row.mint(&draft("b"), &by(1, 11), &LIMITS).unwrap();
        row.mint(&Draft { context: seen, ..draft("c") }, &by(1, 11), &LIMITS).unwrap();
        let values: Vec<_> = row.object.siblings.iter().filter_map(|s| s.value.clone()).collect();
        assert_eq!(values, ["b", "c"]);
        row.mint(&Draft { supersede_all: true, ..draft("d") }, &by(1, 11), &LIMITS).unwrap();
        assert_eq!(row.object.siblings.len(), 1);
    }

    /// A value written while a clock was wrong: the key stays writable, and the next write gets the
    /// later stamp.
    #[test]
    fn a_stamp_far_ahead_is_followed_by_greater_ones() {
        let mut row = Row::default();
        let ahead = Draft { context_stamp: Stamp::at(WallTime(3_600_000)), ..draft("a") };
        row.mint(&ahead, &by(1, 10), &LIMITS).unwrap();
        let first = row.object.stamp_max();
        let context = row.object.clock.clone();
        row.mint(&Draft { context, ..draft("b") }, &by(1, 10), &LIMITS).unwrap();
        assert!(row.object.stamp_max() > first && first > Stamp::at(WallTime(3_600_000)));
    }

    #[test]
    fn a_known_request_mints_nothing() {
        let mut row = row(&["a", "b"]);
        let before = row.clone();
        let dot = row.object.siblings[0].dot;
        assert_eq!(row.mint(&draft("a"), &by(2, 11), &LIMITS), Ok(Minted::Already(dot)));
        assert_eq!(row, before);
    }

    #[test]
    fn a_refused_write_leaves_the_row_as_it_was() {
        let mut full = row(&["a", "b", "c"]);
        let before = full.clone();
        let refused = full.mint(&draft("d"), &by(1, 11), &LIMITS);
        assert_eq!(refused, Err(MintError::TooManySiblings { siblings: 4, max: 3 }));
        let mut large = row(&["a"]);
        let refused = large.mint(&draft("0123456789"), &by(1, 11), &LIMITS);
        assert_eq!(refused, Err(MintError::ObjectTooLarge { bytes: 11, max: 10 }));
        let mut context = Clock::default();
        for actor in 100..=100 + CLOCK_ENTRIES_MAX as u64 {
            context.advance(Dot { actor: Actor(actor), counter: 1 });
        }
        let refused = full.mint(&Draft { context, ..draft("") }, &by(1, 11), &LIMITS);
        assert!(refused.is_err());
        assert_eq!(full, before);
        assert_eq!(large, row(&["a"]));
        // A single sibling always fits, however large.
        assert!(Row::default().mint(&draft("0123456789ab"), &by(1, 10), &LIMITS).is_ok());
    }

    #[test]
    fn a_key_whose_clock_is_full_can_be_deleted_and_updated_by_its_actor() {
        let mut row = row(&["a"]);
        for actor in 100..99 + CLOCK_ENTRIES_MAX as u64 {
            row.object.clock.advance(Dot { actor: Actor(actor), counter: 1 });
        }
        let context = row.object.clock.clone();
        let seen = |value| Draft { context: context.clone(), ..draft(value) };
        let full = row.mint(&seen("b"), &by(2, 12), &LIMITS);
        assert_eq!(full, Err(MintError::ClockFull { max: CLOCK_ENTRIES_MAX as u64 }));
        assert!(row.clone().mint(&seen("b"), &by(1, 12), &LIMITS).is_ok(), "no entry more");
        let delete = Draft { value: None, ..seen("c") };
        assert!(row.mint(&delete, &by(2, 12), &LIMITS).is_ok());
        assert!(row.object.is_deleted());
    }
}
