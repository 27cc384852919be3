//! One comparison of one Merkle tree with one peer, from the leaves to the last repaired key.
//!
//! Roots are compared first, for many trees at once; this machine takes over for a tree whose roots
//! differ. Both sides list the keys of the differing leaves in pages, in row order. Keys on which
//! they disagree are rechecked a little later, on both sides: a write in flight is not a
//! difference. Those that still have the same two versions are repaired in both directions: the
//! peer's object is fetched and merged, then the merged object is sent back unless the peer already
//! has it. The cost is proportional to the difference, not to the data. Source: DeCandia et al.
//! (SOSP 2007), section 4.7.
//!
//! A node that has to be *filled* ([`Exchange::start_to_fill`]) must not skip anything: writes it
//! receives in the meantime say nothing about what it is missing. It repairs every difference
//! without a recheck, and is complete only if [`Summary::has_all`]. That means it holds what the
//! peer held, not that the peer took what it holds: a peer with a full disk does not.
//!
//! Execute the [`Step`] and report its result to get the next one, until [`Step::Done`]. If the
//! peer is silent or refuses, call [`Exchange::abort`]: nothing is half-applied, since each merge
//! is independent.

mod pages;

use std::collections::BTreeSet;

use serde::{Deserialize, Serialize};

pub use self::pages::row_order;
use self::pages::{Horizon, differences};

use crate::name::{Bucket, Key};
use crate::object::Version;
use crate::time::Uptime;
use crate::tree::{LEAVES, LeafSet, Leaves};

/// The most keys in one page of a listing: with keys of the longest length (1 KiB) a page is about
/// 1 MiB.
pub const PAGE_KEYS_MAX: usize = 1024;
/// Delay before differing keys are rechecked, in milliseconds: longer than a write normally takes
/// to reach every home replica.
pub const RECHECK_MS: u64 = 500;

/// The version reported for a damaged row: it differs from every real version, and from
/// [`Version::ABSENT`].
pub const UNREADABLE: Version = Version([u8::MAX; 16]);

/// Keys with their versions, in row order (leaf, then key).
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Page {
    /// The keys and the versions of their rows.
    pub versions: Vec<(Key, Version)>,
    /// Whether this is the last page.
    pub is_end: bool,
}

/// What to do next.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Step {
    /// Send this node's leaves and learn which differ: [`Exchange::on_leaves`].
    CompareLeaves,
    /// List the keys of these leaves on both sides, after `after`: [`Exchange::on_pages`].
    List {
        /// The leaves.
        leaves: LeafSet,
        /// In row order.
        after: Option<Key>,
    },
    /// Read the versions of these keys on both sides, no earlier than `not_before`:
    /// [`Exchange::on_versions`].
    Recheck {
        /// The keys.
        keys: Vec<Key>,
        /// Monotonic time.
        not_before: Uptime,
    },
    /// Repair these keys: [`Exchange::on_repaired`].
    Repair(Vec<Difference>),
    /// The exchange has ended.
    Done(Summary),
}

/// A key on which two replicas disagree; [`Version::ABSENT`] where there is no row.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Difference {
    /// The key.
    pub key: Key,
    /// What this node has.
    pub ours: Version,
    /// What the peer has.
    pub theirs: Version,
}

impl Difference {
    /// Whether the peer's object must be fetched and merged.
    pub fn must_fetch(&self) -> bool {
        self.theirs != Version::ABSENT
    }

    /// Whether this node's object, at its version when sent, must go to the peer: not if the peer
    /// has it already.
    pub fn must_send(&self, ours_now: Version) -> bool {
        ours_now != Version::ABSENT && ours_now != self.theirs
    }
}

/// The result of an exchange.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Summary {
    /// Keys that were listed on either side.
    pub keys_compared: u64,
    /// Keys that were repaired.
    pub keys_repaired: u64,
    /// Keys that differed and were not repaired: writes in flight, and failures.
    pub keys_left: u64,
    /// Of `keys_left`, those for which this node did not get what the peer holds.
    pub keys_missed: u64,
    /// Whether every page was compared.
    pub is_complete: bool,
}

impl Summary {
    /// Whether this node now holds everything that the peer held. Meaningful only for
    /// [`Exchange::start_to_fill`], which skips no difference.
    pub fn has_all(&self) -> bool {
        self.is_complete && self.keys_missed == 0
    }
}

/// The result of repairing some keys. A key counted in neither field was not taken by the peer.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Repaired {
    /// Keys that are now equal on both sides.
    pub repaired: u64,
    /// Keys for which this node did not get, or did not store, what the peer holds.
    pub missed: u64,
}

/// The machine of one comparison.
#[derive(Clone, Debug, Default)]
pub struct Exchange {
    leaves: LeafSet,
    /// The last key that was compared on both sides; the next page starts after it.
    after: Option<Key>,
    is_end: bool,
    /// Differences of the current page, as first seen.
    found: Vec<Difference>,
    /// How many of them are being repaired.
    repairing: u64,
    /// Whether every difference is repaired, writes in flight included.
    fills: bool,
    /// Buckets whose rows are being moved to other trees.
    skipped: BTreeSet<Bucket>,
    summary: Summary,
}

impl Exchange {
    /// Begins a comparison. The rows of buckets `skipped` are being moved to other trees
    /// ([`crate::reassign`]): a difference there means nothing yet, and rechecking every such key
    /// would be expensive.
    pub fn start(skipped: BTreeSet<Bucket>) -> (Self, Step) {
        (Self { skipped, ..Self::default() }, Step::CompareLeaves)
    }

    /// Begins a comparison that skips nothing.
    pub fn start_to_fill() -> (Self, Step) {
        (Self { fills: true, ..Self::default() }, Step::CompareLeaves)
    }

    /// The peer said which leaves differ.
    pub fn on_leaves(&mut self, differing: LeafSet) -> Step {
        self.leaves = differing;
        self.is_end = differing.is_empty();
        self.next_page()
    }

    /// Both sides listed a page.
    pub fn on_pages(&mut self, ours: Page, theirs: Page, now: Uptime) -> Step {
        let ends = [&ours, &theirs].map(|page| (page.versions.last().cloned(), page.is_end));
        // Up to this key both pages are complete.
        let [ours_to, theirs_to] = ends.map(|(last, is_end)| {
            if is_end {
                Horizon::End
            } else {
                last.map_or(Horizon::Nothing, |(key, _)| Horizon::To(key))
            }
        });
        let to = ours_to.min(theirs_to);
        self.is_end = to == Horizon::End;
        let within = |(key, _): &(Key, Version)| to.holds(key);
        let ours = ours.versions.into_iter().filter(within);
        let theirs = theirs.versions.into_iter().filter(within);
        let (compared, mut found) = differences(ours, theirs);
        self.summary.keys_compared += compared;
        let found_count = found.len();
        found.retain(|difference| !self.skipped.contains(difference.key.bucket()));
        self.summary.keys_left += (found_count - found.len()) as u64;
        self.found = found;
        match to {
            // A page that is empty and not the last makes no progress: the peer is at fault.
            Horizon::Nothing => return self.abort(),
            Horizon::To(key) => self.after = Some(key),
            Horizon::End => {}
        }
        if self.found.is_empty() {
            return self.next_page();
        }
        if self.fills {
            let found = std::mem::take(&mut self.found);
            return self.repair(found);
        }
        let keys = self.found.iter().map(|difference| difference.key.clone()).collect();
        Step::Recheck { keys, not_before: now.plus(RECHECK_MS) }
    }

    /// Both sides reported their current versions, in the order of the keys. An answer of the wrong
    /// length ends the comparison.
    pub fn on_versions(&mut self, ours: &[Version], theirs: &[Version]) -> Step {
        let found = std::mem::take(&mut self.found);
        if ours.len() != found.len() || theirs.len() != found.len() {
            return self.abort();
        }
        let found_count = found.len() as u64;
        let now = ours.iter().zip(theirs);
        let still = found.into_iter().zip(now).filter(|(difference, (ours, theirs))| {
            difference.ours == **ours && difference.theirs == **theirs
        });
        let persisting: Vec<_> = still.map(|(difference, _)| difference).collect();
        self.summary.keys_left += found_count - persisting.len() as u64;
        if persisting.is_empty() { self.next_page() } else { self.repair(persisting) }
    }

    /// Some of the keys are repaired. The others will differ again in the next round.
    pub fn on_repaired(&mut self, came: Repaired) -> Step {
        self.summary.keys_repaired += came.repaired;
        self.summary.keys_left += self.repairing.saturating_sub(came.repaired);
        self.summary.keys_missed += came.missed;
        self.next_page()
    }

    /// The peer is silent or refuses: ends the exchange with the summary so far.
    pub fn abort(&self) -> Step {
        Step::Done(self.summary)
    }

    fn repair(&mut self, differences: Vec<Difference>) -> Step {
        self.repairing = differences.len() as u64;
        Step::Repair(differences)
    }

    fn next_page(&mut self) -> Step {
        if self.is_end {
            return Step::Done(Summary { is_complete: true, ..self.summary });
        }
        Step::List { leaves: self.leaves, after: self.after.clone() }
    }
}

/// Whether a filling node has less work if it streams all rows of a partition than if it looks for
/// those that differ in a tree: if more leaves differ than it has non-empty ones, or more than half
/// of all leaves differ (with as many rows as leaves, that is when about half of the rows differ).
/// An empty leaf is zero, and a non-empty one is zero only by chance: this is a heuristic for
/// choosing the transfer, nothing depends on it.
pub fn should_stream(ours: &Leaves, differing: &LeafSet) -> bool {
    let differing = differing.iter().count();
    let held = (0..=u8::MAX).filter(|leaf| ours.get(*leaf) != 0).count();
    differing > held.min(LEAVES / 2)
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use std::collections::BTreeMap;

    use proptest::prelude::*;

    use super::*;
    use crate::tree::{leaf_hash, leaf_of};

    type Rows = BTreeMap<u8, u8>;

    fn key(i: u8) -> Key {
        Key::new("b", format!("k{i}").as_bytes()).unwrap()
    }

    fn version(v: u8) -> Version {
        Version([v; 16])
    }

    #[test]
    fn a_node_that_lacks_most_rows_should_stream_all() {
        let tree = |rows: std::ops::Range<u32>| {
            let mut leaves = Leaves::default();
            for i in rows {
                let key = Key::new("b", format!("k{i}").as_bytes()).unwrap();
                leaves.toggle(leaf_of(&key), leaf_hash(&key, version(1)));
            }
            leaves
        };
        let had_better = |ours: Leaves, theirs: Leaves| {
            let differing = ours.differing(&theirs);
            should_stream(&ours, &differing)
        };
        assert!(had_better(tree(0..0), tree(0..1000)) && had_better(tree(0..0), tree(0..20)));
        assert!(had_better(tree(0..5), tree(0..50)), "what came while it was away");
        assert!(had_better(tree(0..500), tree(0..1000)), "half of it");
        assert!(!had_better(tree(0..950), tree(0..1000)) && !had_better(tree(0..18), tree(0..20)));
        assert!(!had_better(tree(0..0), tree(0..0)) && !had_better(tree(0..100), tree(0..100)));
    }

    /// A listing as storage gives it, with a page size of its own.
    fn page(rows: &Rows, leaves: LeafSet, after: Option<&Key>, max: usize) -> Page {
        let mut all: Vec<_> = rows.iter().map(|(k, v)| (key(*k), version(*v))).collect();
        all.retain(|(key, _)| leaves.contains(leaf_of(key)));
        all.retain(|(key, _)| after.is_none_or(|after| row_order(key, after).is_gt()));
        all.sort_by(|(a, _), (b, _)| row_order(a, b));
        let is_end = all.len() <= max;
        all.truncate(max);
        Page { versions: all, is_end }
    }

    /// Drives an exchange in which `busy` changes on our side between the listing and the recheck.
    /// Merging takes the greater number.
    fn run(ours: &mut Rows, theirs: &mut Rows, pages: (usize, usize), busy: Option<u8>) -> Summary {
        let (mut exchange, mut step) = Exchange::start(BTreeSet::new());
        let version_in = |rows: &Rows, key: &Key| {
            rows.iter()
                .find(|(k, _)| self::key(**k) == *key)
                .map_or(Version::ABSENT, |(_, v)| version(*v))
        };
        for _ in 0..10_000 {
            step = match step {
                Step::CompareLeaves => exchange.on_leaves(LeafSet::all()),
                Step::List { leaves, after } => {
                    let a = page(ours, leaves, after.as_ref(), pages.0);
                    let b = page(theirs, leaves, after.as_ref(), pages.1);
                    exchange.on_pages(a, b, Uptime(7))
                }
                Step::Recheck { keys, not_before } => {
                    assert_eq!(not_before, Uptime(7 + RECHECK_MS));
                    if let Some(value) = busy.and_then(|busy| ours.get_mut(&busy)) {
                        *value = value.saturating_add(1);
                    }
                    let versions =
                        |rows: &Rows| keys.iter().map(|k| version_in(rows, k)).collect::<Vec<_>>();
                    exchange.on_versions(&versions(ours), &versions(theirs))
                }
                Step::Repair(differences) => {
                    for difference in &differences {
                        let k = (0..=u8::MAX).find(|k| key(*k) == difference.key).unwrap();
                        assert!(Some(k) != busy, "a write in flight was taken for a difference");
                        let merged = ours.get(&k).max(theirs.get(&k)).copied().unwrap();
                        if difference.must_fetch() {
                            ours.insert(k, merged);
                        }
                        if difference.must_send(version(ours[&k])) {
                            theirs.insert(k, merged);
                        }
                    }
                    exchange.on_repaired(Repaired { repaired: differences.len() as u64, missed: 0 })
                }
                Step::Done(summary) => return summary,
            }
        }
        panic!("the exchange does not end");
    }

    proptest! {
        #[test]
        fn both_sides_end_up_with_everything(
            ours in prop::collection::btree_map(0u8..40, 1u8..4, 0..40),
            theirs in prop::collection::btree_map(0u8..40, 1u8..4, 0..40),
            pages in (1usize..8, 1usize..8),
        ) {
            let (mut a, mut b) = (ours.clone(), theirs.clone());
            let summary = run(&mut a, &mut b, pages, None);
            let mut merged = ours.clone();
            for (k, v) in &theirs {
                let entry = merged.entry(*k).or_insert(*v);
                *entry = (*entry).max(*v);
            }
            prop_assert_eq!(&a, &merged);
            prop_assert_eq!(&b, &merged);
            let differed = merged.keys().filter(|k| ours.get(k) != theirs.get(k)).count() as u64;
            let compared = merged.len() as u64;
            prop_assert_eq!(
                summary,
                Summary {
                    keys_compared: compared,
                    keys_repaired: differed,
                    keys_left: 0,
                    keys_missed: 0,
                    is_complete: true,
                }
            );
        }
    }

    #[test]
    fn a_key_that_changes_before_the_recheck_is_left_alone() {
        let (mut ours, mut theirs) = (Rows::from([(1, 1), (2, 1)]), Rows::from([(1, 2)]));
        let summary = run(&mut ours, &mut theirs, (5, 5), Some(1));
        assert_eq!((ours[&1], theirs[&1]), (2, 2), "the write itself brought it");
        assert_eq!(theirs.get(&2), Some(&1));
        assert_eq!((summary.keys_repaired, summary.keys_left), (1, 1));
        assert!(summary.is_complete);
    }

    #[test]
    fn buckets_whose_rows_are_moved_are_skipped() {
        let (mut exchange, _) = Exchange::start(BTreeSet::from([Bucket::parse("b").unwrap()]));
        exchange.on_leaves(LeafSet::all());
        let mut versions = vec![(key(1), version(1)), (key(2), version(1))];
        versions.push((Key::new("c", b"k").unwrap(), version(1)));
        versions.sort_by(|(a, _), (b, _)| row_order(a, b));
        let step = exchange.on_pages(
            Page { versions, is_end: true },
            Page { is_end: true, ..Page::default() },
            Uptime(0),
        );
        assert!(matches!(step, Step::Recheck { keys, .. } if keys.len() == 1));
        assert_eq!(exchange.summary.keys_left, 2);
    }

    #[test]
    fn filling_leaves_nothing_out_and_says_what_failed() {
        let (mut exchange, _) = Exchange::start_to_fill();
        exchange.on_leaves(LeafSet::all());
        let page = |k| Page { versions: vec![(key(k), version(1))], is_end: true };
        let step = exchange.on_pages(page(1), page(2), Uptime(0));
        assert!(matches!(step, Step::Repair(differences) if differences.len() == 2));
        for (missed, has_all) in [(0, true), (1, false)] {
            let done = exchange.clone().on_repaired(Repaired { repaired: 1, missed });
            let Step::Done(summary) = done else { panic!("{done:?}") };
            assert_eq!((summary.keys_repaired, summary.keys_left), (1, 1));
            assert!(summary.is_complete);
            assert_eq!(
                summary.has_all(),
                has_all,
                "what the peer does not take is not missing here"
            );
        }
    }

    #[test]
    fn a_nonsensical_answer_ends_the_exchange() {
        let (mut exchange, _) = Exchange::start(BTreeSet::new());
        exchange.on_leaves(LeafSet::all());
        let ours = Page { versions: vec![(key(1), version(1))], is_end: true };
        let done = exchange.on_pages(ours.clone(), Page::default(), Uptime(0));
        assert!(matches!(done, Step::Done(Summary { is_complete: false, .. })));
        let (mut exchange, _) = Exchange::start(BTreeSet::new());
        exchange.on_leaves(LeafSet::all());
        exchange.on_pages(ours, Page { is_end: true, ..Page::default() }, Uptime(0));
        let done = exchange.on_versions(&[version(1)], &[]);
        assert!(matches!(done, Step::Done(Summary { is_complete: false, .. })));
        let (mut exchange, _) = Exchange::start(BTreeSet::new());
        let done = exchange.on_leaves(LeafSet::default());
        assert!(matches!(done, Step::Done(Summary { is_complete: true, .. })));
    }
}
