//! The quorum numbers and the nodes of one operation, taken together from one snapshot.
//!
//! A bucket's properties and the layout change while requests run. The N, R and W of a request are
//! therefore checked against the bucket in one place, together with the choice of home replicas, by
//! the node that uses both: [`QuorumOptions`] is sent with a forwarded write, [`Terms`] never are. A count
//! that no longer fits is an error for the client, and nothing was written.

use serde::{Deserialize, Serialize};

use crate::bucket::{Conflicts, Properties};
use crate::mutation::{Mutation, mutated};
use crate::name::NodeId;
use crate::quorum::{Count, Quorum, QuorumError};
use crate::quorum_sets::{QuorumSet, QuorumSets};

/// What a request asks of its quorum; a field that is `None` follows the bucket.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct QuorumOptions {
    /// How many home replicas to ask: at most the bucket's n.
    pub n: Option<Count>,
    /// R of a read, W of a write: at most n.
    pub needed: Option<Count>,
    /// Whether fallbacks count.
    pub sloppy: Option<bool>,
}

/// The nodes of a key in order of preference: by the layout, and while that changes by the next one too.
#[derive(Clone, Copy, Debug)]
pub struct Lists<'a> {
    /// All nodes of the layout.
    pub stable: &'a [NodeId],
    /// All nodes of the next layout, while it changes.
    pub next: Option<&'a [NodeId]>,
}

/// What an operation does with its terms.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Purpose {
    /// It reads.
    Read,
    /// It writes.
    Write,
    /// It reads, because a write needs that first.
    ReadFirst,
}

/// The numbers and nodes of one operation, valid by construction: of each set of home replicas,
/// `1 <= needed <= n <=` its size.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Terms {
    /// The bucket's home replicas of the key, in order of preference, and how many of each set must
    /// answer: R of a read, W of a write. One set, or while the layout changes those of both layouts.
    pub sets: QuorumSets,
    /// The nodes after them, in order of preference.
    pub fallbacks: Vec<NodeId>,
    /// How many home replicas are asked; while the layout changes, how many of those by the old one.
    pub n: u16,
    /// R of the read that a conditional write or a blind delete needs first. The request does not
    /// set it, so it is capped by the home replicas that there are.
    pub r: Count,
    /// Whether fallbacks count.
    pub sloppy: bool,
    /// How conflicts are shown to the client.
    pub conflicts: Conflicts,
    /// The lifetime of values whose write gives none, in seconds; `None`: they do not expire.
    pub expires_in_s: Option<u32>,
    /// What the request asked.
    pub asked: QuorumOptions,
    /// What they are for.
    pub purpose: Purpose,
}

impl Terms {
    /// The terms of a read of a key with these preference lists.
    ///
    /// # Errors
    /// [`QuorumError`] if what is asked does not fit the bucket.
    pub fn of_read(
        asked: &QuorumOptions,
        bucket: &Properties,
        lists: Lists<'_>,
    ) -> Result<Self, QuorumError> {
        Self::new(Purpose::Read, asked, bucket, lists)
    }

    /// The terms of a write of a key with these preference lists.
    ///
    /// # Errors
    /// [`QuorumError`] if what is asked does not fit the bucket.
    pub fn of_write(
        asked: &QuorumOptions,
        bucket: &Properties,
        lists: Lists<'_>,
    ) -> Result<Self, QuorumError> {
        Self::new(Purpose::Write, asked, bucket, lists)
    }

    /// Checks a write's counts in a cluster of `nodes` nodes, so that an invalid request is
    /// rejected before its body arrives.
    ///
    /// # Errors
    /// [`QuorumError`] if what is asked does not fit the bucket.
    pub fn check_write(
        asked: &QuorumOptions,
        bucket: &Properties,
        nodes: usize,
    ) -> Result<(), QuorumError> {
        quorum(asked, bucket.w, bucket, nodes).map(drop)
    }

    /// The terms of the same operation in another view, in which it begins again.
    ///
    /// # Errors
    /// [`QuorumError`] if what was asked does not fit the bucket any more.
    pub fn renewed(
        purpose: Purpose,
        asked: &QuorumOptions,
        bucket: &Properties,
        lists: Lists<'_>,
    ) -> Result<Self, QuorumError> {
        match purpose {
            Purpose::Read => Self::of_read(asked, bucket, lists),
            Purpose::Write => Self::of_write(asked, bucket, lists),
            Purpose::ReadFirst => Ok(Self::of_write(asked, bucket, lists)?.to_read_first()),
        }
    }

    fn new(
        purpose: Purpose,
        asked: &QuorumOptions,
        bucket: &Properties,
        lists: Lists<'_>,
    ) -> Result<Self, QuorumError> {
        let usual = if purpose == Purpose::Read { bucket.r } else { bucket.w };
        let Quorum { n, needed } = quorum(asked, usual, bucket, lists.stable.len())?;
        let (homes, rest) = split(lists.stable, bucket);
        let (sets, fallbacks) = match lists.next {
            None => (QuorumSets::one(homes.to_vec(), needed), rest.to_vec()),
            Some(next) => joint((homes, needed), asked, usual, bucket, lists.stable, next),
        };
        let sets = one_of(sets, purpose);
        Ok(Self {
            sets,
            fallbacks,
            n,
            r: bucket.r,
            sloppy: asked.sloppy.unwrap_or(bucket.sloppy),
            conflicts: bucket.conflicts,
            expires_in_s: bucket.expires_in_s,
            asked: *asked,
            purpose,
        })
    }

    /// R of a read, W of a write.
    pub fn needed(&self) -> u16 {
        self.sets.required()
    }

    /// Whether a node is a home replica or one of the fallbacks: one that leaves is neither.
    pub fn lists(&self, node: NodeId) -> bool {
        self.sets.homes().contains(&node) || self.fallbacks.contains(&node)
    }

    /// The home replicas that a write asks. A request's `n` narrows each set; `first`, if it is one
    /// of them, is then asked first. Writes that must meet at the first healthy home replica
    /// (conditional and idempotent ones) pass `None`: every node must choose the same.
    pub fn asked_sets(&self, first: Option<NodeId>) -> QuorumSets {
        let mut sets = self.sets.clone();
        if let Some(n) = self.asked.n
            && sets.is_wider_than(n)
        {
            // Stable: else in order of preference.
            sets.reorder(|homes| homes.sort_by_key(|home| Some(*home) != first));
            sets.narrow(n);
        }
        sets
    }

    /// The same terms for the read that a write needs first: R instead of W.
    pub fn to_read_first(&self) -> Self {
        let asked = |homes: u16| self.asked.n.map_or(homes, |n| n.of(homes).min(homes));
        let needed = |homes| self.r.of(asked(homes)).min(asked(homes));
        let sets = self.sets.clone().with_needed(needed);
        Self { sets, purpose: Purpose::ReadFirst, ..self.clone() }
    }
}

/// A list's home replicas of a bucket, and the nodes after them.
fn split<'a>(list: &'a [NodeId], bucket: &Properties) -> (&'a [NodeId], &'a [NodeId]) {
    list.split_at(usize::from(bucket.n).min(list.len()))
}

/// What deliberate bugs leave of the sets of an operation while the layout changes: all of them without.
fn one_of(sets: QuorumSets, purpose: Purpose) -> QuorumSets {
    let place = match purpose {
        Purpose::Write if mutated(Mutation::JointWriteOldOnly) => 0,
        Purpose::Write if mutated(Mutation::JointWriteNewOnly) => 1,
        Purpose::Read if mutated(Mutation::JointReadOldOnly) => 0,
        Purpose::Read if mutated(Mutation::JointReadNewOnly) => 1,
        Purpose::Read | Purpose::Write | Purpose::ReadFirst => return sets,
    };
    sets.only(place)
}

/// The sets and fallbacks of an operation while the layout changes. Nodes that are home replicas by both
/// layouts come first: a write that one of them coordinates needs no other node more than before.
fn joint(
    (old, needed): (&[NodeId], u16),
    asked: &QuorumOptions,
    usual: Count,
    bucket: &Properties,
    stable: &[NodeId],
    next: &[NodeId],
) -> (QuorumSets, Vec<NodeId>) {
    let (new, _) = split(next, bucket);
    // What fits the layout is not refused because fewer nodes will be left.
    let needed_of_new = match quorum(asked, usual, bucket, next.len()) {
        Ok(Quorum { needed, .. }) => needed,
        Err(_) => needed.min(new.len() as u16),
    };
    let new_set = QuorumSet { homes: new.to_vec(), needed: needed_of_new, takes_witnesses: true };
    let sets = QuorumSets::several(vec![QuorumSet::of(old.to_vec(), needed), new_set]);
    let mut sets = sets.unwrap_or_else(|| QuorumSets::one(old.to_vec(), needed));
    let is_in_both = |node: &NodeId| old.contains(node) && new.contains(node);
    sets.reorder(|homes| homes.sort_by_key(|home| !is_in_both(home)));
    let mut fallbacks: Vec<NodeId> = Vec::new();
    for node in next.iter().chain(stable) {
        if !sets.homes().contains(node) && !fallbacks.contains(node) {
            fallbacks.push(*node);
        }
    }
    (sets, fallbacks)
}

/// What the request asks is refused if `nodes` nodes cannot give it, what is `usual` is capped: it was chosen
/// for as many nodes as n.
fn quorum(
    asked: &QuorumOptions,
    usual: Count,
    bucket: &Properties,
    nodes: usize,
) -> Result<Quorum, QuorumError> {
    let homes = usize::from(bucket.n).min(nodes) as u16;
    let usual = if usual.of(homes) > homes { Count::All } else { usual };
    Quorum::new(homes, asked.n, asked.needed.unwrap_or(usual))
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    fn list(count: usize) -> Vec<NodeId> {
        (1..=count).map(|i| NodeId::parse(&format!("n{i}")).unwrap()).collect()
    }

    fn stable(list: &[NodeId]) -> Lists<'_> {
        Lists { stable: list, next: None }
    }

    fn asked(n: Option<u16>, needed: Option<u16>) -> QuorumOptions {
        let exactly = |count: Option<u16>| count.map(Count::Exactly);
        QuorumOptions { n: exactly(n), needed: exactly(needed), sloppy: None }
    }

    #[test]
    fn unset_counts_follow_the_bucket() {
        let bucket = Properties { n: 3, ..Properties::default() };
        let terms = Terms::of_write(&QuorumOptions::default(), &bucket, stable(&list(5))).unwrap();
        assert_eq!((terms.n, terms.needed(), terms.to_read_first().needed()), (3, 2, 2));
        assert_eq!((terms.sets.homes(), terms.fallbacks), (&list(3)[..], list(5)[3..].to_vec()));
    }

    #[test]
    fn counts_that_no_longer_fit_the_bucket_are_an_error() {
        let lowered = Properties { n: 1, ..Properties::default() };
        let three = asked(None, Some(3));
        let error = Terms::of_write(&three, &lowered, stable(&list(5))).unwrap_err();
        assert_eq!(error, QuorumError::MoreThanN { needed: 3, n: 1 });
        assert_eq!(Terms::check_write(&three, &lowered, 5), Err(error));
        let error = Terms::of_read(&asked(Some(3), None), &lowered, stable(&list(5))).unwrap_err();
        assert_eq!(error, QuorumError::TooManyReplicas { n: 3, max: 1 });
        let terms = Terms::of_write(&QuorumOptions::default(), &lowered, stable(&list(5))).unwrap();
        assert_eq!((terms.n, terms.needed(), terms.to_read_first().needed()), (1, 1, 1));
    }

    /// The usual counts are capped by the nodes there are, and grow with them; what a request asks is
    /// refused.
    #[test]
    fn fewer_nodes_than_n_keep_a_replica_each() {
        let bucket = Properties { w: Count::Exactly(3), ..Properties::default() };
        let of = |nodes, needed| {
            let terms = Terms::of_write(&asked(None, needed), &bucket, stable(&list(nodes)));
            terms.map(|terms| (terms.n, terms.needed(), terms.to_read_first().needed()))
        };
        let usual: Vec<_> = (1..=4).map(|nodes| of(nodes, None).unwrap()).collect();
        assert_eq!(usual, [(1, 1, 1), (2, 2, 2), (3, 3, 2), (3, 3, 2)]);
        assert_eq!(of(2, Some(3)), Err(QuorumError::MoreThanN { needed: 3, n: 2 }));
    }

    /// From one node to three: one of the old layout, and a quorum of the next one.
    #[test]
    fn each_set_has_the_quorum_of_its_own_size() {
        let (one, all) = (list(1), list(3));
        let lists = Lists { stable: &one, next: Some(&all) };
        let needed = |terms: &Terms| {
            let answers = |count: usize| {
                let mut tally = crate::quorum_sets::Tally::default();
                (0..count).for_each(|slot| tally.has(terms.sets.of_slot(slot)));
                terms.sets.verdict(&tally) == crate::quorum::Verdict::Reached
            };
            (1..=3).find(|count| answers(*count)).unwrap()
        };
        let terms = Terms::of_write(&asked(None, None), &Properties::default(), lists).unwrap();
        assert_eq!(terms.asked_sets(None).homes(), all, "nothing is narrowed");
        assert_eq!((needed(&terms), needed(&terms.to_read_first())), (2, 2));
        let one_each =
            Terms::of_write(&asked(Some(1), None), &Properties::default(), lists).unwrap();
        assert_eq!(one_each.asked_sets(None).homes(), one);
    }

    /// Conditional writes through any node meet at the first home replica, however low their n.
    #[test]
    fn narrowed_writes_that_must_meet_ask_the_same_home_from_everywhere() {
        let bucket = Properties::default();
        let terms = Terms::of_write(&asked(Some(1), None), &bucket, stable(&list(5))).unwrap();
        assert_eq!(terms.asked_sets(None).homes(), list(1));
        let second = list(2)[1];
        assert_eq!(
            terms.asked_sets(Some(second)).homes(),
            [second],
            "no other write to meet: saves a hop"
        );
        let fallback = list(5)[4];
        assert_eq!(terms.asked_sets(Some(fallback)).homes(), list(1));
    }

    #[test]
    fn while_the_layout_changes_both_have_a_say() {
        let bucket = Properties::default();
        let (old, all) = (list(4), list(5));
        let new = [all[1], all[4], all[2], all[3]]; // n2 n5 n3 n4: n1 leaves, n5 joins
        let lists = Lists { stable: &old, next: Some(&new) };
        let terms = Terms::of_write(&QuorumOptions::default(), &bucket, lists).unwrap();
        let expected = [all[1], all[2], all[0], all[4]]; // in both, then of the old, then of the new
        assert_eq!((terms.sets.homes(), terms.fallbacks.clone()), (&expected[..], vec![all[3]]));
        let sets = |slot| terms.sets.of_slot(slot);
        assert!(sets(0) == terms.sets.all() && sets(1) == terms.sets.all());
        assert!(!sets(2).meets(terms.sets.with_witnesses()) && !sets(2).is_empty());
        assert_eq!(sets(3), terms.sets.with_witnesses());
        assert_eq!((terms.n, terms.needed(), terms.to_read_first().needed()), (3, 2, 2));
    }

    #[test]
    fn a_count_that_fits_the_layout_is_not_refused_for_the_next_one() {
        let (bucket, all) = (Properties::default(), list(3));
        let lists = Lists { stable: &all, next: Some(&all[..2]) };
        let terms = Terms::of_write(&asked(None, Some(3)), &bucket, lists).unwrap();
        let mut tally = crate::quorum_sets::Tally::default();
        (0..3).for_each(|slot| tally.may_get(terms.sets.of_slot(slot)));
        assert!(terms.sets.lacking(&tally).is_empty(), "all three can answer");
        let error = Terms::of_write(&asked(None, Some(4)), &bucket, lists).unwrap_err();
        assert_eq!(error, QuorumError::MoreThanN { needed: 4, n: 3 });
    }
}
