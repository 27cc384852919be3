//! Which Merkle tree counts which row while the n of buckets changes, and when a row that a node does
//! not own may go.
//!
//! A row is counted in the tree of its bucket's n. When that is changed, the rows that are there already
//! stay in the tree of the n before until a *pass* over the bucket has moved them. [`Placement`] knows of
//! which buckets that is so. The node records it before the change takes effect, so that a node that stops
//! at any moment moves too much afterwards, and never too little. A change and its reversal are two
//! changes: rows that were written in between are in the wrong tree although n is what it was.
//!
//! Trees in doubt are compared all the same, because merging what two replicas hold is always right: rows in
//! the wrong tree only cost a second look, and those of the buckets in doubt are left out
//! ([`crate::exchange`]). But equal trees prove nothing as long as one of the two nodes is in doubt. A node
//! that has to be filled therefore names its n of all buckets ([`Ns::hash`]), and a peer answers only if
//! its trees fit those very n ([`Placement::fits_by`]); else the rows themselves are fetched.
//!
//! A row on a node that is no home replica of it ([`HandOver`]) is brought to all home replicas, and is
//! dropped when all of them hold it, unless the node has come to own it again meanwhile.

use std::collections::{BTreeMap, BTreeSet};

use serde::{Deserialize, Serialize};

use crate::bucket::{Properties, Table};
use crate::name::{Bucket, NodeId};
use crate::object::Version;

/// How many home replicas the keys of each bucket have, as one node knows it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Ns {
    /// That of all buckets but some.
    usual: u16,
    /// That of those for which it is another.
    others: BTreeMap<Bucket, u16>,
}

impl Ns {
    /// By a bucket table; `over` as in [`crate::bucket::Settings::over`].
    pub fn of(table: &Table, over: (&Properties, u16)) -> Self {
        let usual = Table::default().settings("").over(over.0, over.1).n;
        let n = |(bucket, record): (&Bucket, &crate::bucket::Record)| {
            (bucket.clone(), record.settings.over(over.0, over.1).n)
        };
        let others = table.records().map(n).filter(|(_, n)| *n != usual).collect();
        Self { usual, others }
    }

    /// The n of a bucket.
    pub fn n(&self, bucket: &str) -> u16 {
        self.others.get(bucket).copied().unwrap_or(self.usual)
    }

    /// Every n that some bucket has, each once.
    pub fn each(&self) -> BTreeSet<u16> {
        self.others.values().copied().chain([self.usual]).collect()
    }

    /// Equal on nodes that know the same n of all buckets.
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

    /// Buckets whose n is not the same in both; `None` if that of buckets without a record is not.
    fn differing(&self, other: &Self) -> Option<BTreeSet<Bucket>> {
        let both = self.others.keys().chain(other.others.keys());
        let differs = |bucket: &&Bucket| self.n(bucket.as_str()) != other.n(bucket.as_str());
        (self.usual == other.usual).then(|| both.filter(differs).cloned().collect())
    }
}

/// Whether the rows of a node are in the trees of their buckets' n. A node records it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Placement {
    /// The n in force, or about to be.
    ns: Ns,
    /// When any row at all came to be in doubt, counted in changes; `None` if only some buckets' are.
    all: Option<u64>,
    /// The buckets whose rows are in doubt, and by which change they last came to be.
    buckets: BTreeMap<Bucket, u64>,
    /// By which change the n of each bucket last changed by itself.
    changed: BTreeMap<Bucket, u64>,
    /// By which change that of all buckets without a record did.
    all_changed: u64,
    /// Changes so far.
    changes: u64,
}

/// Rows that a pass has to look at.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Rows {
    /// All that the node has.
    All,
    /// Those of one bucket.
    Of(Bucket),
}

/// A look at rows, one after the other, by which each is moved to its tree.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Pass {
    /// Which rows.
    pub rows: Rows,
    /// The last change that it knows of.
    changes: u64,
}

impl Placement {
    /// Nothing is known: every row is in doubt.
    pub fn unknown() -> Self {
        Self { all: Some(0), ..Self::default() }
    }

    /// That of a node that has no rows yet.
    pub fn of_no_rows(ns: Ns) -> Self {
        Self { ns, ..Self::default() }
    }

    /// The n of buckets are about to be these. Returns whether that puts rows in doubt that were not: the
    /// placement must then be recorded, durably, before they are in force.
    pub fn change(&mut self, next: &Ns) -> bool {
        if self.ns == *next {
            return false;
        }
        self.changes += 1;
        match self.ns.differing(next) {
            None => (self.all, self.all_changed) = (Some(self.changes), self.changes),
            Some(buckets) => {
                let change = |bucket: &Bucket| (bucket.clone(), self.changes);
                self.buckets.extend(buckets.iter().map(change));
                self.changed.extend(buckets.iter().map(change));
            }
        }
        self.ns = next.clone();
        true
    }

    /// The pass that is due, if there is one. It must see every row that was written before this call; what
    /// is written later is put in the tree of its n at once.
    pub fn pass(&self) -> Option<Pass> {
        let some = || self.buckets.keys().next().map(|bucket| Rows::Of(bucket.clone()));
        let rows = if self.all.is_some() { Some(Rows::All) } else { some() };
        rows.map(|rows| Pass { rows, changes: self.changes })
    }

    /// A pass has seen all its rows. Whatever came to be in doubt since it began still is. Returns whether
    /// less is in doubt now: the placement may then be recorded.
    pub fn passed(&mut self, pass: &Pass) -> bool {
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
    pub fn ns(&self) -> &Ns {
        &self.ns
    }

    /// Whether every row is in the tree of its bucket's n.
    pub fn fits(&self) -> bool {
        self.all.is_none() && self.buckets.is_empty()
    }

    /// Whether every row is in the tree of its bucket's n as somebody else knows it ([`Ns::hash`]): only then
    /// do equal trees prove that this node holds nothing more.
    pub fn fits_by(&self, hash: u64) -> bool {
        self.fits() && self.ns.hash() == hash
    }

    /// How often some n has changed.
    pub fn changes(&self) -> u64 {
        self.changes
    }

    /// Another number after every change of a bucket's n, back to what it was too: rows that were received
    /// before may have been handed over and dropped meanwhile.
    pub fn changed(&self, bucket: &str) -> u64 {
        self.changed.get(bucket).copied().unwrap_or_default().max(self.all_changed)
    }

    /// The buckets whose rows are in doubt, if it is only some.
    pub fn doubtful(&self) -> BTreeSet<Bucket> {
        let some = self.all.is_none().then(|| self.buckets.keys().cloned());
        some.into_iter().flatten().collect()
    }
}

/// A row that a node does not own, on its way to those that do.
#[derive(Clone, Debug)]
pub struct HandOver {
    version: Version,
    waiting: BTreeSet<NodeId>,
    held: BTreeSet<NodeId>,
}

impl HandOver {
    /// Begins to hand over a row of this version; `None` if `me` is a home replica and keeps it.
    pub fn start(version: Version, homes: &[NodeId], me: NodeId) -> Option<Self> {
        let is_unowned = !homes.is_empty() && !homes.contains(&me);
        let waiting = homes.iter().copied().collect();
        is_unowned.then(|| Self { version, waiting, held: BTreeSet::new() })
    }

    /// The version that is handed over.
    pub fn version(&self) -> Version {
        self.version
    }

    /// The home replicas that have not said yet that they hold it.
    pub fn waiting(&self) -> &BTreeSet<NodeId> {
        &self.waiting
    }

    /// A home replica has merged the row, durably.
    pub fn on_stored(&mut self, home: NodeId) {
        if self.waiting.remove(&home) {
            self.held.insert(home);
        }
    }

    /// A home replica says which version it has, durably.
    pub fn on_version(&mut self, home: NodeId, version: Version) {
        if version == self.version {
            self.on_stored(home);
        }
    }

    /// Whether all home replicas hold it.
    pub fn is_held(&self) -> bool {
        self.waiting.is_empty()
    }

    /// Whether the row may be dropped, which has this version now and these home replicas: if it is what
    /// all of them hold, and still not this node's. Asked under whatever keeps writers from the row until
    /// it is dropped.
    pub fn may_drop(&self, version: Version, homes: &[NodeId], me: NodeId) -> bool {
        let is_held = self.is_held() && homes.iter().all(|home| self.held.contains(home));
        is_held && version == self.version && !homes.contains(&me)
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

    fn ns(others: &[(&str, u16)]) -> Ns {
        let others = others.iter().map(|(name, n)| (bucket(name), *n)).collect();
        Ns { usual: 3, others }
    }

    fn settled() -> Placement {
        Placement { ns: ns(&[]), ..Placement::default() }
    }

    #[test]
    fn a_change_and_its_reversal_are_two_changes() {
        let mut placement = settled();
        assert!(placement.fits() && placement.pass().is_none());
        assert!(placement.change(&ns(&[("a", 2)])));
        assert!(!placement.change(&ns(&[("a", 2)])), "nothing new");
        let pass = placement.pass().unwrap();
        assert_eq!(pass.rows, Rows::Of(bucket("a")));
        assert!(placement.change(&ns(&[])));
        assert!(!placement.fits(), "n is what it was, the rows may not be");
        assert_eq!((placement.changed("a"), placement.changed("b")), (2, 0));
        assert!(!placement.passed(&pass), "rows were written by the n in between");
        let pass = placement.pass().unwrap();
        assert!(placement.passed(&pass));
        assert!(placement.fits_by(ns(&[]).hash()) && !placement.fits_by(ns(&[("a", 2)]).hash()));
        assert!(!placement.passed(&pass), "once");
    }

    #[test]
    fn one_buckets_change_does_not_begin_the_pass_of_another_again() {
        let mut placement = settled();
        placement.change(&ns(&[("a", 2)]));
        let pass = placement.pass().unwrap();
        placement.change(&ns(&[("a", 2), ("b", 5)]));
        assert!(placement.passed(&pass));
        assert_eq!(placement.doubtful(), BTreeSet::from([bucket("b")]));
        assert_eq!(placement.pass().unwrap().rows, Rows::Of(bucket("b")));
    }

    #[test]
    fn the_usual_n_puts_every_row_in_doubt_and_a_pass_over_all_settles_what_it_saw() {
        let mut placement = Placement::unknown();
        placement.change(&Ns { usual: 2, ..ns(&[("a", 4)]) });
        let pass = placement.pass().unwrap();
        assert_eq!(pass.rows, Rows::All);
        placement.change(&Ns { usual: 2, ..ns(&[("a", 5)]) });
        assert!(placement.passed(&pass));
        assert_eq!(placement.pass().unwrap().rows, Rows::Of(bucket("a")));
        placement.change(&ns(&[]));
        assert_eq!(placement.pass().unwrap().rows, Rows::All);
    }

    #[test]
    fn the_record_says_what_was_in_doubt() {
        let mut placement = settled();
        placement.change(&ns(&[("a", 2), ("b", 4)]));
        placement.passed(&placement.pass().unwrap());
        let record = postcard::to_stdvec(&placement).unwrap();
        let mut found: Placement = postcard::from_bytes(&record).unwrap();
        assert!(!found.change(&ns(&[("a", 2), ("b", 4)])));
        assert_eq!(found.pass().unwrap().rows, Rows::Of(bucket("b")));
        // It stopped before the change that it had recorded was in force.
        assert!(found.change(&ns(&[("a", 2)])));
        assert_eq!(found.pass().unwrap().rows, Rows::Of(bucket("b")));
    }

    #[test]
    fn a_row_goes_when_all_homes_hold_it_and_it_is_still_not_the_nodes_own() {
        let [a, b, c, me] = ["a", "b", "c", "me"].map(|name| NodeId::parse(name).unwrap());
        let (v, w) = (Version([1; 16]), Version([2; 16]));
        assert!(HandOver::start(v, &[a, me], me).is_none(), "it is this node's");
        assert!(HandOver::start(v, &[], me).is_none(), "nobody would hold it");
        let mut row = HandOver::start(v, &[a, b], me).unwrap();
        row.on_version(a, w);
        assert!(!row.is_held() && row.waiting().len() == 2);
        row.on_version(a, v);
        assert!(!row.may_drop(v, &[a, b], me), "one of two");
        row.on_stored(b);
        assert!(row.may_drop(v, &[a, b], me) && row.may_drop(v, &[a], me));
        assert!(!row.may_drop(v, &[a, b, c], me), "it has one more home since");
        assert!(!row.may_drop(w, &[a, b], me), "it has changed since");
        assert!(!row.may_drop(v, &[a, me], me), "it is this node's again");
    }

    /// What happens to a node.
    #[derive(Clone, Debug)]
    enum Deed {
        Change(u8, u16),
        /// The second row of a bucket is written, by the n in force.
        Write(u8),
        /// A pass begins, and looks at its rows at once.
        Begin,
        /// A pass ends, and has looked at its rows just now.
        EndLate,
        End,
        Crash,
    }

    fn deed() -> impl Strategy<Value = Deed> {
        prop_oneof![
            (0u8..3, 2u16..5).prop_map(|(bucket, n)| Deed::Change(bucket, n)),
            (0u8..3).prop_map(Deed::Write),
            Just(Deed::Begin),
            Just(Deed::EndLate),
            Just(Deed::End),
            Just(Deed::Crash),
        ]
    }

    /// The tree of the rows of three buckets. Nothing but a pass moves the first of each.
    #[derive(Default)]
    struct Trees([[u16; 2]; 3]);

    impl Trees {
        const NAMES: [&str; 3] = ["x", "y", "z"];

        fn move_rows(&mut self, pass: &Pass, ns: &Ns) {
            for (at, name) in Self::NAMES.iter().enumerate() {
                if pass.rows == Rows::All || pass.rows == Rows::Of(bucket(name)) {
                    self.0[at] = [ns.n(name); 2];
                }
            }
        }

        fn fit(&self, ns: &Ns) -> bool {
            Self::NAMES.iter().zip(self.0).all(|(name, rows)| rows == [ns.n(name); 2])
        }
    }

    proptest! {
        #[test]
        fn whatever_is_called_settled_is_in_the_tree_of_its_n(
            deeds in prop::collection::vec(deed(), 0..60)
        ) {
            let (mut placement, mut trees) = (settled(), Trees([[3; 2]; 3]));
            let mut pass: Option<Pass> = None;
            for deed in deeds {
                match deed {
                    Deed::Change(at, n) => {
                        let mut next = placement.ns().clone();
                        next.others.insert(bucket(Trees::NAMES[usize::from(at)]), n);
                        next.others.retain(|_, n| *n != next.usual);
                        placement.change(&next);
                    }
                    Deed::Write(at) => {
                        let n = placement.ns().n(Trees::NAMES[usize::from(at)]);
                        trees.0[usize::from(at)][1] = n;
                    }
                    Deed::Begin => {
                        pass = placement.pass();
                        pass.iter().for_each(|pass| trees.move_rows(pass, placement.ns()));
                    }
                    Deed::EndLate | Deed::End => {
                        if let Some(pass) = pass.take() {
                            if matches!(deed, Deed::EndLate) {
                                trees.move_rows(&pass, placement.ns());
                            }
                            placement.passed(&pass);
                        }
                    }
                    Deed::Crash => {
                        let record = postcard::to_stdvec(&placement).unwrap();
                        placement = postcard::from_bytes(&record).unwrap();
                        pass = None;
                    }
                }
                prop_assert!(!placement.fits() || trees.fit(placement.ns()), "{:?}", trees.0);
            }
        }
    }
}
