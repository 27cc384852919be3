//! Which Merkle tree counts which row while the n of buckets changes, and when a row that a node
//! does not own may be dropped.
//!
//! A row is counted in the tree of its bucket's n. When n changes, existing rows stay in the tree
//! of the old n until a *pass* over the bucket has moved them; until then they are *in doubt*.
//! [`Assignment`] tracks the buckets concerned. The node records it before the change takes effect,
//! so a crash at any point means too many rows are rechecked afterwards, never too few. A change
//! and its reversal are two changes: rows written in between are in the wrong tree although n is
//! what it was.
//!
//! Trees in doubt are still compared, because merging what two replicas hold is always correct:
//! rows in the wrong tree only cost a recheck, and those of buckets in doubt are skipped
//! ([`crate::exchange`]). But equal trees prove nothing while either node is in doubt. A filling
//! node therefore sends a hash of its n of all buckets ([`ReplicaCounts::hash`]), and a peer answers only if
//! its trees match exactly those n ([`Assignment::is_settled_for`]); otherwise the rows themselves are
//! fetched.
//!
//! A row on a node that is not a home replica of it ([`HandOver`]) is sent to all home replicas,
//! and is dropped when all of them hold it, unless the node has become its owner again in the
//! meantime.

use std::collections::{BTreeMap, BTreeSet};

use serde::{Deserialize, Serialize};

use crate::bucket::{Properties, Settings};
use crate::bucket_table::{Record, Table};
use crate::mutation::{Mutation, mutated};
use crate::name::{Bucket, NodeId};
use crate::object::Version;

/// How many home replicas the keys of each bucket have, as one node knows it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ReplicaCounts {
    /// The n of all buckets not in `others`.
    usual: u16,
    /// The n of each bucket that differs from `usual`.
    others: BTreeMap<Bucket, u16>,
}

impl ReplicaCounts {
    /// From a bucket table; `defaults` as in [`crate::bucket::Settings::over`].
    pub fn of(table: &Table, defaults: &Properties) -> Self {
        let usual = Settings::default().over(defaults).n;
        let n = |(bucket, record): (&Bucket, &Record)| {
            (bucket.clone(), record.settings.over(defaults).n)
        };
        let others = table.records().map(n).filter(|(_, n)| *n != usual).collect();
        Self { usual, others }
    }

    /// The n of a bucket.
    pub fn n(&self, bucket: &str) -> u16 {
        self.others.get(bucket).copied().unwrap_or(self.usual)
    }

    /// The distinct n of all buckets.
    pub fn distinct(&self) -> BTreeSet<u16> {
        self.others.values().copied().chain([self.usual]).collect()
    }

    /// A hash that is equal on nodes that know the same n for all buckets.
    pub fn hash(&self) -> u64 {
        let mut hash = xxhash_rust::xxh3::Xxh3::new();
        for (bucket, n) in &self.others {
            hash.update(bucket.as_str().as_bytes());
            hash.update(&[0]);
            hash.update(&n.to_le_bytes());
        }
        hash.update(&self.usual.to_le_bytes());
        hash.digest()
    }

    /// The buckets whose n differs; `None` if the n of buckets without a record differs.
    fn differing(&self, other: &Self) -> Option<BTreeSet<Bucket>> {
        let both = self.others.keys().chain(other.others.keys());
        let differs = |bucket: &&Bucket| self.n(bucket.as_str()) != other.n(bucket.as_str());
        (self.usual == other.usual).then(|| both.filter(differs).cloned().collect())
    }
}

/// Whether the rows of a node are in the trees of their buckets' n. Recorded durably by the node.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Assignment {
    /// The n in force, or about to take effect.
    ns: ReplicaCounts,
    /// The change that last put every row in doubt; `None` if at most the rows of some buckets are.
    all: Option<u64>,
    /// The buckets whose rows are in doubt, each with the last change that put them there.
    buckets: BTreeMap<Bucket, u64>,
    /// The change that last changed the n of each bucket individually.
    changed: BTreeMap<Bucket, u64>,
    /// The change that last changed the n of all buckets without a record.
    all_changed: u64,
    /// The number of changes so far.
    changes: u64,
}

/// The rows that a pass must check.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Rows {
    /// All rows of the node.
    All,
    /// The rows of one bucket.
    Of(Bucket),
}

/// A walk over rows that moves each to its tree.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Pass {
    /// Which rows.
    pub rows: Rows,
    /// The last change that it takes into account.
    changes: u64,
}

impl Assignment {
    /// The assignment if nothing is known: every row is in doubt.
    pub fn unknown() -> Self {
        Self { all: Some(0), ..Self::default() }
    }

    /// The n of buckets are about to become `next`. Returns whether that puts more rows in doubt:
    /// the assignment must then be recorded durably before `next` takes effect.
    pub fn change(&mut self, next: &ReplicaCounts) -> bool {
        if self.ns == *next {
            return false;
        }
        self.changes += 1;
        match self.ns.differing(next) {
            None => (self.all, self.all_changed) = (Some(self.changes), self.changes),
            Some(buckets) if mutated(Mutation::ReversalForgotten) => {
                for bucket in buckets {
                    if self.buckets.remove(&bucket).is_none() {
                        self.buckets.insert(bucket, self.changes);
                    }
                }
            }
            Some(buckets) => {
                let change = |bucket: &Bucket| (bucket.clone(), self.changes);
                self.buckets.extend(buckets.iter().map(change));
                self.changed.extend(buckets.iter().map(change));
            }
        }
        self.ns = next.clone();
        true
    }

    /// The pass that is due, if any. It must see every row that was written before this call; later
    /// writes go to the tree of the current n.
    pub fn next_pass(&self) -> Option<Pass> {
        let some = || self.buckets.keys().next().map(|bucket| Rows::Of(bucket.clone()));
        let rows = if self.all.is_some() { Some(Rows::All) } else { some() };
        rows.map(|rows| Pass { rows, changes: self.changes })
    }

    /// A pass has seen all its rows. Rows that were put in doubt after it began remain so. Returns
    /// whether fewer rows are in doubt now: the assignment may then be recorded.
    pub fn finish_pass(&mut self, pass: &Pass) -> bool {
        let is_seen = |change: u64| change <= pass.changes;
        match &pass.rows {
            Rows::All => {
                let before = (self.all, self.buckets.len());
                self.all = self.all.filter(|change| !is_seen(*change));
                self.buckets.retain(|_, change| !is_seen(*change));
                before != (self.all, self.buckets.len())
            }
            Rows::Of(bucket) => {
                let is_done = self.buckets.get(bucket).is_some_and(|change| is_seen(*change));
                is_done && self.buckets.remove(bucket).is_some()
            }
        }
    }

    /// The n in force.
    pub fn ns(&self) -> &ReplicaCounts {
        &self.ns
    }

    /// Whether every row is in the tree of its bucket's n.
    pub fn is_settled(&self) -> bool {
        self.all.is_none() && self.buckets.is_empty()
    }

    /// Whether every row is in the tree of its bucket's n as a peer knows it ([`ReplicaCounts::hash`]): only
    /// then do equal trees prove that this node holds nothing more.
    pub fn is_settled_for(&self, hash: u64) -> bool {
        self.is_settled() && self.ns.hash() == hash
    }

    /// How many times any n has changed.
    pub fn changes(&self) -> u64 {
        self.changes
    }

    /// A number that differs after every change of a bucket's n, including a change back: rows
    /// received before may have been handed over and dropped in between.
    pub fn last_change_of(&self, bucket: &str) -> u64 {
        self.changed.get(bucket).copied().unwrap_or_default().max(self.all_changed)
    }

    /// The buckets whose rows are in doubt; empty if all rows are.
    pub fn buckets_in_doubt(&self) -> BTreeSet<Bucket> {
        let some = self.all.is_none().then(|| self.buckets.keys().cloned());
        some.into_iter().flatten().collect()
    }
}

/// The handover of a row that a node does not own to the nodes that do.
#[derive(Clone, Debug)]
pub struct HandOver {
    version: Version,
    waiting: BTreeSet<NodeId>,
    held: BTreeSet<NodeId>,
}

impl HandOver {
    /// Begins to hand over a row of this version; `None` if `me` is a home replica and keeps it, or
    /// if there are no home replicas.
    pub fn start(version: Version, homes: &[NodeId], me: NodeId) -> Option<Self> {
        let is_unowned = !homes.is_empty() && !homes.contains(&me);
        let waiting = homes.iter().copied().collect();
        is_unowned.then(|| Self { version, waiting, held: BTreeSet::new() })
    }

    /// The version being handed over.
    pub fn version(&self) -> Version {
        self.version
    }

    /// The home replicas that have not yet confirmed that they hold it.
    pub fn waiting(&self) -> &BTreeSet<NodeId> {
        &self.waiting
    }

    /// A home replica has merged the row, durably.
    pub fn on_stored(&mut self, home: NodeId) {
        if self.waiting.remove(&home) {
            self.held.insert(home);
        }
    }

    /// A home replica reports the version that it holds durably.
    pub fn on_version(&mut self, home: NodeId, version: Version) {
        if version == self.version {
            self.on_stored(home);
        }
    }

    /// Whether all home replicas hold it.
    pub fn is_held(&self) -> bool {
        if mutated(Mutation::HandedOverToOne) && !self.held.is_empty() {
            return true;
        }
        self.waiting.is_empty()
    }

    /// Whether the row may be dropped, given its current version and home replicas: if all of them
    /// hold that version, and this node is not one of them. Call it under the lock that keeps
    /// writers off the row until it is dropped.
    pub fn may_drop(&self, version: Version, homes: &[NodeId], me: NodeId) -> bool {
        let mut others = homes.iter().filter(|home| **home != me);
        let is_held = self.is_held() && others.all(|home| self.held.contains(home));
        if mutated(Mutation::HandedOverToOne) {
            return !self.held.is_empty() && version == self.version && !homes.contains(&me);
        }
        let is_owned = homes.contains(&me) && !mutated(Mutation::DroppedThoughOwned);
        is_held && version == self.version && !is_owned
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn bucket(name: &str) -> Bucket {
        Bucket::parse(name).unwrap()
    }

    fn ns(others: &[(&str, u16)]) -> ReplicaCounts {
        let others = others.iter().map(|(name, n)| (bucket(name), *n)).collect();
        ReplicaCounts { usual: 3, others }
    }

    fn settled() -> Assignment {
        Assignment { ns: ns(&[]), ..Assignment::default() }
    }

    #[test]
    fn a_change_and_its_reversal_are_two_changes() {
        let mut assignment = settled();
        assert!(assignment.is_settled() && assignment.next_pass().is_none());
        assert!(assignment.change(&ns(&[("a", 2)])));
        assert!(!assignment.change(&ns(&[("a", 2)])), "nothing new");
        let pass = assignment.next_pass().unwrap();
        assert_eq!(pass.rows, Rows::Of(bucket("a")));
        assert!(assignment.change(&ns(&[])));
        assert!(!assignment.is_settled(), "n is what it was, the rows may not be");
        assert_eq!((assignment.last_change_of("a"), assignment.last_change_of("b")), (2, 0));
        assert!(!assignment.finish_pass(&pass), "rows were written by the n in between");
        let pass = assignment.next_pass().unwrap();
        assert!(assignment.finish_pass(&pass));
        assert!(
            assignment.is_settled_for(ns(&[]).hash())
                && !assignment.is_settled_for(ns(&[("a", 2)]).hash())
        );
        assert!(!assignment.finish_pass(&pass), "once");
    }

    #[test]
    fn one_buckets_change_does_not_restart_the_pass_of_another() {
        let mut assignment = settled();
        assignment.change(&ns(&[("a", 2)]));
        let pass = assignment.next_pass().unwrap();
        assignment.change(&ns(&[("a", 2), ("b", 5)]));
        assert!(assignment.finish_pass(&pass));
        assert_eq!(assignment.buckets_in_doubt(), BTreeSet::from([bucket("b")]));
        assert_eq!(assignment.next_pass().unwrap().rows, Rows::Of(bucket("b")));
    }

    #[test]
    fn the_usual_n_puts_every_row_in_doubt_and_a_full_pass_settles_what_it_saw() {
        let mut assignment = Assignment::unknown();
        assignment.change(&ReplicaCounts { usual: 2, ..ns(&[("a", 4)]) });
        let pass = assignment.next_pass().unwrap();
        assert_eq!(pass.rows, Rows::All);
        assignment.change(&ReplicaCounts { usual: 2, ..ns(&[("a", 5)]) });
        assert!(assignment.finish_pass(&pass));
        assert_eq!(assignment.next_pass().unwrap().rows, Rows::Of(bucket("a")));
        assignment.change(&ns(&[]));
        assert_eq!(assignment.next_pass().unwrap().rows, Rows::All);
    }

    #[test]
    fn the_record_says_what_was_in_doubt() {
        let mut assignment = settled();
        assignment.change(&ns(&[("a", 2), ("b", 4)]));
        assignment.finish_pass(&assignment.next_pass().unwrap());
        let record = postcard::to_stdvec(&assignment).unwrap();
        let mut found: Assignment = postcard::from_bytes(&record).unwrap();
        assert!(!found.change(&ns(&[("a", 2), ("b", 4)])));
        assert_eq!(found.next_pass().unwrap().rows, Rows::Of(bucket("b")));
        // The node stopped before the recorded change took effect.
        assert!(found.change(&ns(&[("a", 2)])));
        assert_eq!(found.next_pass().unwrap().rows, Rows::Of(bucket("b")));
    }

    #[test]
    fn a_row_is_dropped_when_all_homes_hold_it_and_it_is_still_unowned() {
        let [a, b, c, me] = ["a", "b", "c", "me"].map(|name| NodeId::parse(name).unwrap());
        let (v, w) = (Version([1; 16]), Version([2; 16]));
        assert!(HandOver::start(v, &[a, me], me).is_none(), "this node is its home");
        assert!(HandOver::start(v, &[], me).is_none(), "no node would hold it");
        let mut row = HandOver::start(v, &[a, b], me).unwrap();
        row.on_version(a, w);
        assert!(!row.is_held() && row.waiting().len() == 2);
        row.on_version(a, v);
        assert!(!row.may_drop(v, &[a, b], me), "one of two");
        row.on_stored(b);
        assert!(row.may_drop(v, &[a, b], me) && row.may_drop(v, &[a], me));
        assert!(!row.may_drop(v, &[a, b, c], me), "it has one more home since");
        assert!(!row.may_drop(w, &[a, b], me), "it has changed since");
        assert!(!row.may_drop(v, &[a, me], me), "this node is its home again");
    }

    /// An event at a node.
    #[derive(Clone, Debug)]
    enum Event {
        Change(u8, u16),
        /// The second row of a bucket is written, under the n in force.
        Write(u8),
        /// A pass begins, and reads its rows at once.
        Begin,
        /// A pass ends, and has read its rows just before.
        EndLate,
        End,
        Crash,
    }

    fn event() -> impl Strategy<Value = Event> {
        prop_oneof![
            (0u8..3, 2u16..5).prop_map(|(bucket, n)| Event::Change(bucket, n)),
            (0u8..3).prop_map(Event::Write),
            Just(Event::Begin),
            Just(Event::EndLate),
            Just(Event::End),
            Just(Event::Crash),
        ]
    }

    /// The tree of the rows of three buckets. Nothing but a pass moves the first of each.
    #[derive(Default)]
    struct Trees([[u16; 2]; 3]);

    impl Trees {
        const NAMES: [&str; 3] = ["x", "y", "z"];

        fn move_rows(&mut self, pass: &Pass, ns: &ReplicaCounts) {
            for (at, name) in Self::NAMES.iter().enumerate() {
                if pass.rows == Rows::All || pass.rows == Rows::Of(bucket(name)) {
                    self.0[at] = [ns.n(name); 2];
                }
            }
        }

        fn fit(&self, ns: &ReplicaCounts) -> bool {
            Self::NAMES.iter().zip(self.0).all(|(name, rows)| rows == [ns.n(name); 2])
        }
    }

    proptest! {
        #[test]
        fn every_settled_row_is_in_the_tree_of_its_n(
            events in prop::collection::vec(event(), 0..60)
        ) {
            let (mut assignment, mut trees) = (settled(), Trees([[3; 2]; 3]));
            let mut pass: Option<Pass> = None;
            for event in events {
                match event {
                    Event::Change(at, n) => {
                        let mut next = assignment.ns().clone();
                        next.others.insert(bucket(Trees::NAMES[usize::from(at)]), n);
                        next.others.retain(|_, n| *n != next.usual);
                        assignment.change(&next);
                    }
                    Event::Write(at) => {
                        let n = assignment.ns().n(Trees::NAMES[usize::from(at)]);
                        trees.0[usize::from(at)][1] = n;
                    }
                    Event::Begin => {
                        pass = assignment.next_pass();
                        pass.iter().for_each(|pass| trees.move_rows(pass, assignment.ns()));
                    }
                    Event::EndLate | Event::End => {
                        if let Some(pass) = pass.take() {
                            if matches!(event, Event::EndLate) {
                                trees.move_rows(&pass, assignment.ns());
                            }
                            assignment.finish_pass(&pass);
                        }
                    }
                    Event::Crash => {
                        let record = postcard::to_stdvec(&assignment).unwrap();
                        assignment = postcard::from_bytes(&record).unwrap();
                        pass = None;
                    }
                }
                prop_assert!(!assignment.is_settled() || trees.fit(assignment.ns()), "{:?}", trees.0);
            }
        }
    }
}
