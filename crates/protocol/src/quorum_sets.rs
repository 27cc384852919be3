//! The sets of home replicas of one operation: of each of them enough must answer.
//!
//! An operation has one set, the home replicas of its key. While a layout changes it has two, those
//! of the old and of the new one, and with copies in several sites one for each. A node in several
//! sets is asked once and counts in all of them; a fallback counts in the sets of the home replica
//! whose place it takes. The operation has its quorum once every set has, and cannot have it any
//! more once some set cannot.
//!
//! With one set this is a list of nodes and a number: nothing else is allocated or searched.

use crate::name::NodeId;
use crate::quorum::{Count, Verdict, verdict};

/// The most sets of one operation.
pub const SETS_MAX: usize = 8;

/// Home replicas of which enough must answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct QuorumSet {
    /// The home replicas that are asked, each once, in order of preference; at least one.
    pub homes: Vec<NodeId>,
    /// How many answers are needed, of these or of fallbacks in their place: R or W.
    pub needed: u16,
    /// Whether one counts in a read that has not received yet what it must hold. So it is with the new home
    /// replicas while a layout changes: the old ones have the data, and these show only that the change has
    /// not ended.
    pub takes_witnesses: bool,
}

impl QuorumSet {
    /// Home replicas that have what they must hold.
    pub fn of(homes: Vec<NodeId>, needed: u16) -> Self {
        Self { homes, needed, takes_witnesses: false }
    }
}

/// All sets of one operation, 1 to [`SETS_MAX`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct QuorumSets {
    /// The home replicas of all sets, each once, in order of preference. The place of one in this
    /// list is its *slot*.
    homes: Vec<NodeId>,
    sets: Sets,
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Sets {
    /// All home replicas are one set.
    One {
        needed: u16,
    },
    Several(Vec<QuorumSet>),
}

/// The sets in which a node counts, one bit for each.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct InSets(u8);

/// How many answers each set has, and how many more it may get.
#[derive(Clone, Copy, Debug, Default)]
pub struct Tally {
    have: [u16; SETS_MAX],
    possible: [u16; SETS_MAX],
}

impl InSets {
    const FIRST: Self = Self(1);

    /// Whether any set is in both.
    pub fn meets(self, other: Self) -> bool {
        !self.and(other).is_empty()
    }

    /// The sets that are in both.
    #[must_use]
    pub fn and(self, other: Self) -> Self {
        Self(self.0 & other.0)
    }

    /// These sets without the others.
    #[must_use]
    pub fn without(self, others: Self) -> Self {
        Self(self.0 & !others.0)
    }

    /// Whether it is no set at all.
    pub fn is_empty(self) -> bool {
        self.0 == 0
    }
}

impl Tally {
    /// A node has answered that counts in these sets.
    pub fn has(&mut self, sets: InSets) {
        add(&mut self.have, sets);
    }

    /// A node may yet answer that would count in these sets.
    pub fn may_get(&mut self, sets: InSets) {
        add(&mut self.possible, sets);
    }
}

fn add(counts: &mut [u16; SETS_MAX], sets: InSets) {
    let mut left = sets.0;
    while let Some(count) = counts.get_mut(left.trailing_zeros() as usize) {
        *count += 1;
        left &= left - 1;
    }
}

impl QuorumSets {
    /// One set.
    pub fn one(homes: Vec<NodeId>, needed: u16) -> Self {
        Self { homes, sets: Sets::One { needed } }
    }

    /// Some sets, in order of preference of their home replicas; `None` if that is none, more than
    /// [`SETS_MAX`], or one without home replicas.
    pub fn several(mut sets: Vec<QuorumSet>) -> Option<Self> {
        if sets.len() > SETS_MAX || sets.iter().any(|set| set.homes.is_empty()) {
            return None;
        }
        if sets.len() < 2 && sets.iter().all(|set| !set.takes_witnesses) {
            return sets.pop().map(|only| Self::one(only.homes, only.needed));
        }
        let mut homes = Vec::new();
        for home in sets.iter().flat_map(|set| &set.homes) {
            if !homes.contains(home) {
                homes.push(*home);
            }
        }
        Some(Self { homes, sets: Sets::Several(sets) })
    }

    /// One of several sets alone; one set as it is.
    #[must_use]
    pub fn only(self, place: usize) -> Self {
        match self.sets {
            Sets::One { .. } => self,
            Sets::Several(mut sets) if place < sets.len() => {
                let set = sets.swap_remove(place);
                Self { homes: set.homes.clone(), sets: Sets::Several(vec![set]) }
            }
            Sets::Several(_) => self,
        }
    }

    /// The home replicas of all sets, each once, in the order in which they are asked.
    pub fn homes(&self) -> &[NodeId] {
        &self.homes
    }

    /// The same, by value.
    pub fn into_homes(self) -> Vec<NodeId> {
        self.homes
    }

    /// The sets of the home replica in a slot.
    pub fn of_slot(&self, slot: usize) -> InSets {
        match (&self.sets, self.homes.get(slot)) {
            (Sets::One { .. }, _) => InSets::FIRST,
            (Sets::Several(_), None) => InSets(0),
            (Sets::Several(sets), Some(home)) => {
                InSets(bits(sets.iter().map(|set| set.homes.contains(home))))
            }
        }
    }

    /// All sets.
    pub fn all(&self) -> InSets {
        match &self.sets {
            Sets::One { .. } => InSets::FIRST,
            Sets::Several(sets) => InSets(bits(sets.iter().map(|_| true))),
        }
    }

    /// R or W, for messages: the most that one set needs.
    pub fn required(&self) -> u16 {
        match &self.sets {
            Sets::One { needed } => *needed,
            Sets::Several(sets) => sets.iter().map(|set| set.needed).max().unwrap_or_default(),
        }
    }

    /// The sets in which one counts in a read that has not received what it must hold.
    pub fn with_witnesses(&self) -> InSets {
        match &self.sets {
            Sets::One { .. } => InSets(0),
            Sets::Several(sets) => InSets(bits(sets.iter().map(|set| set.takes_witnesses))),
        }
    }

    /// The same sets with another R or W: `needed` of as many home replicas as a set has.
    #[must_use]
    pub fn with_needed(mut self, needed: impl Fn(u16) -> u16) -> Self {
        match &mut self.sets {
            Sets::One { needed: old } => *old = needed(self.homes.len() as u16),
            Sets::Several(sets) => {
                for set in sets {
                    set.needed = needed(set.homes.len() as u16);
                }
            }
        }
        self
    }

    /// Changes the order in which home replicas are asked.
    pub fn reorder(&mut self, order: impl FnOnce(&mut [NodeId])) {
        order(&mut self.homes);
    }

    /// Whether some set has more than `n` of its home replicas.
    pub fn is_wider_than(&self, n: Count) -> bool {
        let is_wider = |homes: &[NodeId]| homes.len() > first(n, homes);
        match &self.sets {
            Sets::One { .. } => is_wider(&self.homes),
            Sets::Several(sets) => sets.iter().any(|set| is_wider(&set.homes)),
        }
    }

    /// Leaves only the first `n` home replicas of each set, in the order in which they are asked.
    pub fn narrow(&mut self, n: Count) {
        let Self { homes, sets } = self;
        match sets {
            Sets::One { .. } => homes.truncate(first(n, homes)),
            Sets::Several(sets) => {
                for set in sets.iter_mut() {
                    set.homes.sort_by_key(|home| homes.iter().position(|other| other == home));
                    set.homes.truncate(first(n, &set.homes));
                }
                homes.retain(|home| sets.iter().any(|set| set.homes.contains(home)));
            }
        }
    }

    /// Whether every set has its quorum, and whether each still can.
    pub fn verdict(&self, tally: &Tally) -> Verdict {
        let sets = match &self.sets {
            Sets::One { needed } => return verdict(*needed, tally.have[0], tally.possible[0]),
            Sets::Several(sets) => sets.iter(),
        };
        let counts = tally.have.iter().zip(&tally.possible);
        let each = sets.zip(counts).map(|(set, (have, may))| verdict(set.needed, *have, *may));
        each.fold(Verdict::Reached, |all, one| match (all, one) {
            (Verdict::Impossible, _) | (_, Verdict::Impossible) => Verdict::Impossible,
            (Verdict::Pending, _) | (_, Verdict::Pending) => Verdict::Pending,
            (Verdict::Reached, Verdict::Reached) => Verdict::Reached,
        })
    }

    /// The answers that count, for messages: as many as every set has.
    pub fn counted(&self, tally: &Tally) -> u16 {
        match &self.sets {
            Sets::One { .. } => tally.have[0],
            Sets::Several(sets) => {
                sets.iter().zip(tally.have).map(|(_, have)| have).min().unwrap_or_default()
            }
        }
    }

    /// The sets that have not enough answers, even if all come that may.
    pub fn lacking(&self, tally: &Tally) -> InSets {
        let is_lacking =
            |needed: u16, (have, may): (&u16, &u16)| have.saturating_add(*may) < needed;
        let mut counts = tally.have.iter().zip(&tally.possible);
        InSets(match &self.sets {
            Sets::One { needed } => {
                u8::from(counts.next().is_some_and(|first| is_lacking(*needed, first)))
            }
            Sets::Several(sets) => {
                bits(sets.iter().zip(counts).map(|(set, at)| is_lacking(set.needed, at)))
            }
        })
    }
}

/// How many home replicas `n` of these are.
fn first(n: Count, homes: &[NodeId]) -> usize {
    usize::from(n.of(homes.len() as u16))
}

/// One bit for each, the first one lowest.
fn bits(of: impl Iterator<Item = bool>) -> u8 {
    of.zip(0..SETS_MAX).fold(0, |bits, (is_set, at)| bits | u8::from(is_set) << at)
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
pub(crate) mod tests {
    use std::collections::BTreeSet;

    use proptest::prelude::*;

    use super::*;

    fn node(number: u8) -> NodeId {
        NodeId::parse(&format!("n{number}")).unwrap()
    }

    prop_compose! {
        /// One to three sets among the first `nodes` nodes, that may overlap or be the same.
        pub(crate) fn sets(nodes: u8)(
            sets in prop::collection::vec(
                (prop::collection::btree_set(0..nodes, 1..4), 1..4u16, any::<[bool; 2]>()), 1..4),
        ) -> Vec<QuorumSet> {
            let set = |(homes, needed, [is_turned, takes_witnesses]): (BTreeSet<u8>, u16, [bool; 2])| {
                let mut homes: Vec<NodeId> = homes.into_iter().map(node).collect();
                if is_turned {
                    homes.reverse();
                }
                QuorumSet { needed: needed.min(homes.len() as u16), homes, takes_witnesses }
            };
            sets.into_iter().map(set).collect()
        }
    }

    prop_compose! {
        fn one_set()(nodes in 1..8u8, n in 1..8u8, needed in 1..8u8) -> (Vec<QuorumSet>, u8) {
            let n = n.min(nodes);
            let homes = (0..n).map(node).collect();
            (vec![QuorumSet::of(homes, u16::from(needed.min(n)))], nodes)
        }
    }

    /// One set, or up to three that overlap, and of how many nodes the cluster is.
    pub(crate) fn one_or_several() -> impl Strategy<Value = (Vec<QuorumSet>, u8)> {
        prop_oneof![one_set(), sets(6).prop_map(|sets| (sets, 8))]
    }

    proptest! {
        #![proptest_config(ProptestConfig {
            failure_persistence: None, ..ProptestConfig::with_cases(2000)
        })]

        /// Against counting in each set by hand, and trying what may come.
        #[test]
        fn the_verdict_is_that_of_every_set(sets in sets(6), said in prop::collection::vec(0..3u8, 6)) {
            let all = QuorumSets::several(sets.clone()).unwrap();
            let said_by = |home: &NodeId| said[home.as_str()[1..].parse::<usize>().unwrap()];
            let mut tally = Tally::default();
            for (slot, home) in all.homes().iter().enumerate() {
                match said_by(home) {
                    0 => {}
                    1 => tally.may_get(all.of_slot(slot)),
                    _ => tally.has(all.of_slot(slot)),
                }
            }
            let have = |set: &QuorumSet, least: u8| {
                set.homes.iter().filter(|home| said_by(home) >= least).count() as u16
            };
            let reached = |least| sets.iter().all(|set| have(set, least) >= set.needed);
            let expected = match (reached(2), reached(1)) {
                (true, _) => Verdict::Reached,
                (false, true) => Verdict::Pending,
                (false, false) => Verdict::Impossible,
            };
            prop_assert_eq!(all.verdict(&tally), expected);
            let least = sets.iter().map(|set| have(set, 2)).min();
            prop_assert_eq!(Some(all.counted(&tally)), least);
            prop_assert_eq!(all.lacking(&tally).is_empty(), reached(1));
            prop_assert_eq!(Some(all.required()), sets.iter().map(|set| set.needed).max());
        }

        #[test]
        fn narrowed_sets_keep_their_first_homes(sets in sets(6), n in 1..4u16, first in 0..6u8) {
            let mut all = QuorumSets::several(sets.clone()).unwrap();
            let count = Count::Exactly(n);
            prop_assert_eq!(all.is_wider_than(count), sets.iter().any(|s| s.homes.len() > usize::from(n)));
            all.reorder(|homes| homes.sort_by_key(|home| *home != node(first)));
            let order = all.homes().to_vec();
            all.narrow(count);
            let mut kept = BTreeSet::new();
            for set in &sets {
                let of_set = order.iter().filter(|home| set.homes.contains(home));
                kept.extend(of_set.take(usize::from(n)).copied());
            }
            let expected: Vec<NodeId> =
                order.into_iter().filter(|home| kept.contains(home)).collect();
            prop_assert_eq!(all.homes(), expected);
            let in_some = (0..all.homes().len()).all(|slot| !all.of_slot(slot).is_empty());
            prop_assert!(in_some, "a home of no set");
        }
    }

    #[test]
    fn impossible_sets_are_refused() {
        let set = QuorumSet::of(vec![node(1)], 1);
        assert_eq!(QuorumSets::several(Vec::new()), None);
        assert_eq!(QuorumSets::several(vec![set.clone(); SETS_MAX + 1]), None);
        let empty = QuorumSet::of(Vec::new(), 1);
        assert_eq!(QuorumSets::several(vec![set.clone(), empty]), None);
        assert!(QuorumSets::several(vec![set.clone(); SETS_MAX]).is_some());
        assert_eq!(QuorumSets::several(vec![set]), Some(QuorumSets::one(vec![node(1)], 1)));
    }
}
