//! Version vectors with dots.
//!
//! A [`Clock`] maps actors to counters. An entry claims *every* earlier dot of its actor, which is
//! why an actor may mint only on a row that holds all its earlier dots (see [`crate::row`]).
//! Source: Almeida et al., "Scalable and Accurate Causality Tracking for Eventually Consistent
//! Stores", DAIS 2014.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

/// The most entries one clock may hold; it bounds the size of contexts and object heads. A row at
/// this limit refuses client writes that add an actor, never repair.
pub const CLOCK_ENTRIES_MAX: usize = 1024;

/// A random 64-bit number that belongs to one row on one node in one incarnation. Never zero.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Actor(#[serde(with = "postcard::fixint::le")] pub u64);

impl fmt::Debug for Actor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:x}", self.0)
    }
}

/// The name of one write: the `counter`-th (from 1) by `actor`. A dot never names two values.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Dot {
    /// The actor that minted it.
    pub actor: Actor,
    /// Which of the actor's writes it is, counted from 1.
    pub counter: u64,
}

impl Dot {
    /// Appends the bytes that versions are hashes of.
    pub(crate) fn push_to(self, out: &mut Vec<u8>) {
        out.extend_from_slice(&self.actor.0.to_le_bytes());
        out.extend_from_slice(&self.counter.to_le_bytes());
    }
}

impl fmt::Display for Dot {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:016x}-{}", self.actor.0, self.counter)
    }
}

impl fmt::Debug for Dot {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{self}")
    }
}

impl FromStr for Dot {
    type Err = DotError;
    fn from_str(text: &str) -> Result<Self, DotError> {
        let (actor, counter) = text.split_once('-').ok_or(DotError)?;
        if actor.len() != 16 || !actor.bytes().all(|b| b.is_ascii_hexdigit()) {
            return Err(DotError);
        }
        if !counter.bytes().all(|b| b.is_ascii_digit()) {
            return Err(DotError);
        }
        let actor = Actor(u64::from_str_radix(actor, 16).map_err(|_| DotError)?);
        Ok(Self { actor, counter: counter.parse().map_err(|_| DotError)? })
    }
}

/// The text is not a dot.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("a dot is 16 hexadecimal digits, a dash and a number")]
pub struct DotError;

/// A version vector: for each actor the highest counter seen, all lower ones included.
#[derive(Clone, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(try_from = "Unchecked")]
pub struct Clock {
    /// Sorted by actor, each once, no counter zero.
    entries: Vec<Dot>,
}

/// A clock as decoded from a peer or the disk, before its invariants are checked.
#[derive(Deserialize)]
struct Unchecked {
    entries: Vec<Dot>,
}

impl TryFrom<Unchecked> for Clock {
    type Error = &'static str;
    fn try_from(Unchecked { entries }: Unchecked) -> Result<Self, Self::Error> {
        let clock = Self { entries };
        if clock.is_well_formed() { Ok(clock) } else { Err("the clock is not sorted") }
    }
}

impl Clock {
    /// The highest counter of `actor`, 0 if it has none.
    pub fn counter(&self, actor: Actor) -> u64 {
        match self.find(actor) {
            Ok(at) => self.entries[at].counter,
            Err(_) => 0,
        }
    }

    /// Whether the write named `dot` is claimed by this clock.
    pub fn covers(&self, dot: Dot) -> bool {
        self.counter(dot.actor) >= dot.counter
    }

    /// Whether this clock claims everything that `other` does.
    pub fn covers_all(&self, other: &Clock) -> bool {
        other.entries.iter().all(|dot| self.covers(*dot))
    }

    /// The dot of the next write that `actor` mints.
    pub fn next_of(&self, actor: Actor) -> Dot {
        Dot { actor, counter: self.counter(actor) + 1 }
    }

    /// Claims `dot` and all earlier ones of its actor.
    pub fn advance(&mut self, dot: Dot) {
        if dot.counter == 0 {
            return;
        }
        match self.find(dot.actor) {
            Ok(at) => self.entries[at].counter = self.entries[at].counter.max(dot.counter),
            Err(at) => self.entries.insert(at, dot),
        }
    }

    /// Claims all that `other` claims.
    pub fn join(&mut self, other: &Clock) {
        if self.is_empty() {
            self.entries.clone_from(&other.entries);
            return;
        }
        for dot in &other.entries {
            self.advance(*dot);
        }
    }

    /// The entries, ordered by actor.
    pub fn entries(&self) -> &[Dot] {
        &self.entries
    }

    /// How many actors the clock names.
    pub fn len(&self) -> usize {
        self.entries.len()
    }

    /// Whether the clock claims nothing.
    pub fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    /// Whether the entries are sorted, each actor once, no counter zero. Decoded clocks are
    /// checked.
    pub fn is_well_formed(&self) -> bool {
        self.entries.windows(2).all(|pair| pair[0].actor < pair[1].actor)
            && self.entries.iter().all(|dot| dot.counter > 0)
    }

    fn find(&self, actor: Actor) -> Result<usize, usize> {
        self.entries.binary_search_by_key(&actor, |dot| dot.actor)
    }
}

impl fmt::Debug for Clock {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_map().entries(self.entries.iter().map(|d| (d.actor, d.counter))).finish()
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    fn dot(actor: u64, counter: u64) -> Dot {
        Dot { actor: Actor(actor), counter }
    }

    #[test]
    fn an_entry_claims_every_earlier_dot() {
        let mut clock = Clock::default();
        clock.advance(dot(7, 3));
        assert!(clock.covers(dot(7, 1)) && clock.covers(dot(7, 3)));
        assert!(!clock.covers(dot(7, 4)) && !clock.covers(dot(8, 1)));
        clock.advance(dot(7, 2));
        assert_eq!(clock.counter(Actor(7)), 3);
    }

    #[test]
    fn join_takes_the_greater_counter_of_each() {
        let (mut a, mut b) = (Clock::default(), Clock::default());
        a.advance(dot(1, 5));
        a.advance(dot(3, 1));
        b.advance(dot(2, 2));
        b.advance(dot(3, 4));
        a.join(&b);
        assert_eq!(a.entries(), [dot(1, 5), dot(2, 2), dot(3, 4)]);
        assert!(a.covers_all(&b) && !b.covers_all(&a) && a.is_well_formed());
    }

    #[test]
    fn only_a_sorted_clock_is_decoded() {
        let read = |entries: &[Dot]| {
            postcard::from_bytes::<Clock>(&postcard::to_stdvec(&entries).unwrap())
        };
        assert_eq!(read(&[dot(1, 5), dot(2, 1)]).unwrap().counter(Actor(1)), 5);
        for bad in [[dot(2, 1), dot(1, 5)], [dot(1, 1), dot(1, 2)], [dot(1, 1), dot(2, 0)]] {
            assert!(read(&bad).is_err(), "{bad:?}");
        }
    }

    #[test]
    fn dots_parse_back_and_garbage_does_not() {
        assert_eq!(dot(255, 12).to_string().parse(), Ok(dot(255, 12)));
        for bad in ["", "-", "00000000000000ff", "ff-1", "00000000000000ff-", "00000000000000ff-+1"]
        {
            assert_eq!(bad.parse::<Dot>(), Err(DotError), "{bad}");
        }
    }
}
