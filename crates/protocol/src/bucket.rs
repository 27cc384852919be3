//! Bucket properties: how many replicas, how many answers, and what to do about conflicts.
//!
//! Every node keeps the whole table. A change is a [`Record`] with a hybrid-logical time; of two
//! records for one bucket the one with the greater (time, node) wins, so tables converge as objects
//! do.
//!
//! A node that missed changes cannot know for which keys it stopped being a home replica in
//! between: n may have been lowered and raised again. So a record names its predecessor and the
//! lowest n its bucket ever had: [`Table::learn`].
//!
//! A reset must outlive the settings it removed: a node that has not seen it would bring them back.
//! Once all nodes have the same table, resets are folded into one stamp, the table's `floor`
//! ([`Table::fold`]): a record missing from the table was reset if its stamp is not above the
//! floor. At that point every node knew all of them, and anything set later is newer.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::name::{Bucket, NodeId};
use crate::quorum::Count;
use crate::stamp::Stamp;
use crate::time::WallTime;

/// The most buckets that may have a record before this node refuses to set properties on another.
/// Records from other nodes are accepted beyond it: after a network partition neither side may
/// refuse what the other has promised.
pub const BUCKETS_MAX: usize = 10_000;

/// What a client is shown when writes conflict.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Conflicts {
    /// All siblings; the client resolves them.
    #[default]
    Siblings,
    /// The last write by hybrid-logical time. Applied when answering; merge still keeps siblings.
    Lww,
}

/// The properties of a bucket, complete.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Properties {
    /// Replicas of each key.
    pub n: u16,
    /// Answers that a read needs.
    pub r: Count,
    /// Acknowledgements that a write needs.
    pub w: Count,
    /// What happens to conflicting writes.
    pub conflicts: Conflicts,
    /// Whether fallbacks count when home replicas are down.
    pub sloppy: bool,
}

impl Default for Properties {
    fn default() -> Self {
        Self {
            n: 3,
            r: Count::Quorum,
            w: Count::Quorum,
            conflicts: Conflicts::Siblings,
            sloppy: true,
        }
    }
}

/// What was set explicitly for a bucket; a field that is `None` follows the node's defaults.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Settings {
    /// Replicas of each key.
    pub n: Option<u16>,
    /// Answers that a read needs.
    pub r: Option<Count>,
    /// Acknowledgements that a write needs.
    pub w: Option<Count>,
    /// What happens to conflicting writes.
    pub conflicts: Option<Conflicts>,
    /// Whether fallbacks count.
    pub sloppy: Option<bool>,
}

/// Why properties are invalid.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum PropertiesError {
    /// `n` is zero or above the number of nodes.
    #[error("n must be from 1 to the number of nodes ({nodes}), not {n}")]
    Replicas {
        /// The n asked for.
        n: u16,
        /// Nodes in the layout.
        nodes: u16,
    },
    /// `r` or `w` is above n.
    #[error("{name} must be from 1 to n ({n}), not {count}")]
    Count {
        /// Which of the two.
        name: &'static str,
        /// The count asked for.
        count: u16,
        /// The bucket's n.
        n: u16,
    },
}

impl Settings {
    /// The complete properties on a cluster of `nodes` nodes. A *default* is capped at what the
    /// cluster can do, so that a single node works; explicit settings were checked when they were
    /// set.
    pub fn over(&self, defaults: &Properties, nodes: u16) -> Properties {
        let n = self.n.unwrap_or(defaults.n).clamp(1, nodes.max(1));
        let cap = |count: Count| if count.of(n) > n { Count::All } else { count };
        Properties {
            n,
            r: cap(self.r.unwrap_or(defaults.r)),
            w: cap(self.w.unwrap_or(defaults.w)),
            conflicts: self.conflicts.unwrap_or(defaults.conflicts),
            sloppy: self.sloppy.unwrap_or(defaults.sloppy),
        }
    }

    /// Checks settings before they are applied.
    ///
    /// # Errors
    /// [`PropertiesError`] that names the property and its range.
    pub fn check(&self, defaults: &Properties, nodes: u16) -> Result<(), PropertiesError> {
        if let Some(n) = self.n
            && (n == 0 || n > nodes)
        {
            return Err(PropertiesError::Replicas { n, nodes });
        }
        let n = self.over(defaults, nodes).n;
        for (name, count) in [("r", self.r), ("w", self.w)] {
            if let Some(count) = count.map(|count| count.of(n))
                && count > n
            {
                return Err(PropertiesError::Count { name, count, n });
            }
        }
        Ok(())
    }
}

/// Identifies one change: when it was made, and on which node, which breaks ties.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Change {
    /// When.
    pub stamp: Stamp,
    /// On which node.
    pub node: NodeId,
}

/// One change of a bucket's properties.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Record {
    /// What was set; all `None` after a reset.
    pub settings: Settings,
    /// Which change this is.
    pub change: Change,
    /// The change before it, as known to the node that made this one.
    pub previous: Option<Change>,
    /// The lowest n that the bucket ever had, as known to the node that made this change.
    pub n_lowest: u16,
}

impl Record {
    /// Whether this record only removes settings.
    fn is_reset(&self) -> bool {
        self.settings == Settings::default()
    }

    /// Whether a node whose record is `known` has seen every change that this record follows, or
    /// has this one already. `n` is the bucket's n under this record, `n_lowest` the lowest n that
    /// the node has seen.
    ///
    /// After concurrent changes on both sides of a network partition, a change of the losing side
    /// is recognised as concurrent (rather than as an ancestor of the known one) only if it is
    /// newer than the known record's predecessor or lowered n further.
    fn misses_nothing(&self, known: Option<&Self>, n: u16, n_lowest: u16) -> bool {
        match known {
            None => self.previous.is_none() && self.n_lowest >= n_lowest.min(n),
            Some(known) if known.change < self.change => {
                self.previous == Some(known.change) && self.n_lowest >= n_lowest.min(n)
            }
            Some(known) => {
                let led_to_it = Some(self.change) <= known.previous;
                (known.change == self.change || led_to_it) && self.n_lowest >= n_lowest
            }
        }
    }
}

/// The properties of all buckets that have their own. Tables converge under merge.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Table {
    records: BTreeMap<Bucket, Record>,
    /// A bucket without a record whose change is not newer than this was reset, and every node has
    /// seen the reset.
    floor: Stamp,
}

/// A table as it was encoded before it had a floor.
#[derive(Deserialize)]
struct WithoutFloor {
    records: BTreeMap<Bucket, Record>,
}

impl Table {
    /// Adopts a record if it is newer than the known one; keeps the lower `n_lowest` of both.
    /// Returns whether anything changed: not if the bucket was reset since and every node knows it.
    pub fn merge(&mut self, bucket: &Bucket, record: Record) -> bool {
        let known = self.records.get(bucket).copied();
        if known.is_none() && record.change.stamp <= self.floor {
            return false;
        }
        let newer = known.filter(|known| known.change >= record.change).unwrap_or(record);
        let n_lowest = known.map_or(record.n_lowest, |known| known.n_lowest.min(record.n_lowest));
        let next = Record { n_lowest, ..newer };
        if known == Some(next) {
            return false;
        }
        self.records.insert(bucket.clone(), next);
        true
    }

    /// Merges another node's table. `raised` holds the buckets whose n was raised and whose new
    /// home replicas have not yet received the earlier writes, each with the number of home
    /// replicas that have them. Entries are added here; the caller removes one once this node has
    /// fetched everything. `defaults` as in [`Settings::over`]. Returns whether anything changed.
    pub fn learn(
        &mut self,
        other: &Self,
        raised: &mut BTreeMap<Bucket, u16>,
        (defaults, nodes): (&Properties, u16),
    ) -> bool {
        let n_of = |settings: Settings| settings.over(defaults, nodes).n;
        let mut changed = false;
        for (bucket, record) in self.reset_below(other) {
            // This table comes from a backup: the node may have missed any change since.
            let trusted = raised.get(&bucket).copied().unwrap_or(record.n_lowest);
            if trusted.min(record.n_lowest) < n_of(Settings::default()) {
                raised.insert(bucket.clone(), trusted.min(record.n_lowest));
            }
            self.records.remove(&bucket);
            changed = true;
        }
        for (bucket, record) in other.records() {
            let known = self.record(bucket).copied();
            let n_before = n_of(self.settings(bucket.as_str()));
            let before = raised.get(bucket).copied();
            let trusted = before.unwrap_or(n_before).min(n_before);
            changed |= self.merge(bucket, *record);
            if self.record(bucket).is_none() {
                continue; // every node knows that it was reset since
            }
            let n_lowest = known.map_or(n_before, |known| known.n_lowest);
            let n = n_of(record.settings);
            let misses_nothing = record.misses_nothing(known.as_ref(), n, n_lowest);
            let trusted = if misses_nothing { trusted } else { trusted.min(record.n_lowest) };
            if trusted < n_of(self.settings(bucket.as_str())) && before != Some(trusted) {
                raised.insert(bucket.clone(), trusted);
                changed = true;
            }
        }
        self.fold(other.floor) || changed
    }

    /// The records of this table whose buckets the other table knows to be reset.
    fn reset_below(&self, other: &Self) -> Vec<(Bucket, Record)> {
        let is_reset = |(bucket, record): &(&Bucket, &Record)| {
            record.change.stamp <= other.floor && other.record(bucket).is_none()
        };
        let reset = self.records().filter(is_reset);
        reset.map(|(bucket, record)| (bucket.clone(), *record)).collect()
    }

    /// Discards the resets up to a stamp. Only valid for a stamp up to which all nodes have the
    /// same records: the [`Table::stamp_max`] of this table while all others are equal, or the
    /// floor of one of them. Returns whether anything changed.
    pub fn fold(&mut self, upto: Stamp) -> bool {
        if upto <= self.floor {
            return false;
        }
        self.floor = upto;
        self.records.retain(|_, record| !record.is_reset() || record.change.stamp > upto);
        true
    }

    /// How many buckets have a record of a reset.
    pub fn resets(&self) -> usize {
        self.records.values().filter(|record| record.is_reset()).count()
    }

    /// Decodes a table, including the encoding from before there was a floor.
    ///
    /// # Errors
    /// [`postcard::Error`] if the bytes are neither encoding.
    pub fn decode(bytes: &[u8]) -> Result<Self, postcard::Error> {
        postcard::from_bytes(bytes).or_else(|error| {
            let WithoutFloor { records } = postcard::from_bytes(bytes).map_err(|_| error)?;
            Ok(Self { records, floor: Stamp::default() })
        })
    }

    /// The record that sets a bucket's properties, ordered after everything in this table.
    /// `defaults` and `nodes` as in [`Settings::over`].
    pub fn next(
        &self,
        bucket: &Bucket,
        settings: Settings,
        (node, now): (NodeId, WallTime),
        (defaults, nodes): (&Properties, u16),
    ) -> Record {
        let known = self.record(bucket);
        let n_before =
            known.map(|known| known.settings).unwrap_or_default().over(defaults, nodes).n;
        let n_lowest = known.map_or(n_before, |known| known.n_lowest.min(n_before));
        Record {
            settings,
            change: Change { stamp: Stamp::after(self.stamp_max(), now), node },
            previous: known.map(|known| known.change),
            n_lowest: n_lowest.min(settings.over(defaults, nodes).n),
        }
    }

    /// The last change of a bucket.
    pub fn record(&self, bucket: &Bucket) -> Option<&Record> {
        self.records.get(bucket)
    }

    /// What was set for a bucket; the empty settings if nothing was.
    pub fn settings(&self, bucket: &str) -> Settings {
        self.records.get(bucket).map(|record| record.settings).unwrap_or_default()
    }

    /// All records, by bucket.
    pub fn records(&self) -> impl Iterator<Item = (&Bucket, &Record)> {
        self.records.iter()
    }

    /// How many buckets have a record.
    pub fn len(&self) -> usize {
        self.records.len()
    }

    /// Whether no bucket has a record.
    pub fn is_empty(&self) -> bool {
        self.records.is_empty()
    }

    /// The greatest stamp in the table.
    pub fn stamp_max(&self) -> Stamp {
        self.records.values().map(|r| r.change.stamp).fold(self.floor, Stamp::max)
    }

    /// Equal tables have equal hashes; peers compare them to see whether they must exchange
    /// records.
    pub fn hash(&self) -> u64 {
        let bytes = postcard::to_stdvec(self).expect("postcard into a Vec does not fail");
        xxhash_rust::xxh3::xxh3_64(&bytes)
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn record(n: u16, at: u64, node: &str) -> Record {
        Record {
            settings: n_of(n),
            change: Change { stamp: Stamp::at(WallTime(at)), node: NodeId::parse(node).unwrap() },
            previous: None,
            n_lowest: n,
        }
    }

    fn n_of(n: u16) -> Settings {
        Settings { n: Some(n), ..Settings::default() }
    }

    /// A node's view of one bucket.
    #[derive(Clone, Default)]
    struct OneBucketNode {
        table: Table,
        raised: BTreeMap<Bucket, u16>,
    }

    impl OneBucketNode {
        fn bucket() -> Bucket {
            Bucket::parse("carts").unwrap()
        }

        fn n(&self) -> u16 {
            self.table.settings("carts").over(&Properties::default(), 5).n
        }

        fn trusted(&self) -> u16 {
            self.raised.get(&Self::bucket()).copied().unwrap_or(self.n()).min(self.n())
        }

        fn set(&mut self, node: &str, n: u16, now: u64) {
            let by = (NodeId::parse(node).unwrap(), WallTime(now));
            let defaults = (&Properties::default(), 5);
            let record = self.table.next(&Self::bucket(), n_of(n), by, defaults);
            let mut change = Table::default();
            change.merge(&Self::bucket(), record);
            assert!(self.learn(&Self { table: change, ..Self::default() }));
        }

        fn learn(&mut self, other: &Self) -> bool {
            self.table.learn(&other.table, &mut self.raised, (&Properties::default(), 5))
        }
    }

    #[test]
    fn a_node_that_missed_a_lower_n_trusts_no_more_replicas_than_that() {
        let (mut a, mut dead) = (OneBucketNode::default(), OneBucketNode::default());
        a.set("n1", 3, 1);
        dead.learn(&a);
        assert_eq!((dead.n(), dead.trusted()), (3, 3), "it missed nothing");
        a.set("n1", 1, 2);
        a.set("n1", 3, 3);
        dead.learn(&a);
        assert_eq!((dead.n(), dead.trusted()), (3, 1), "n was 1 in between");
        assert!(!dead.learn(&a), "learning it again changes nothing");
        dead.raised.clear(); // filled
        assert!(!dead.learn(&a) && dead.trusted() == 3);
        let mut late = OneBucketNode::default();
        late.learn(&a);
        assert_eq!(late.trusted(), 1, "it never knew the bucket before");
    }

    #[test]
    fn a_raise_is_done_with_when_n_is_lowered_to_what_was_trusted() {
        let mut node = OneBucketNode::default();
        node.set("n1", 5, 1);
        assert_eq!(node.trusted(), 3);
        node.set("n1", 3, 2);
        assert_eq!((node.trusted(), node.n()), (3, 3));
        node.set("n1", 2, 3);
        node.set("n1", 4, 4);
        assert_eq!(node.trusted(), 2);
    }

    #[test]
    fn concurrent_changes_count_as_missed() {
        let (mut a, mut b) = (OneBucketNode::default(), OneBucketNode::default());
        a.set("n1", 4, 1);
        b.learn(&a);
        let mut third = b.clone();
        a.set("n1", 2, 10);
        b.set("n2", 4, 11); // does not know of the 2, and wins
        third.learn(&b);
        assert_eq!(third.trusted(), 3);
        third.learn(&a);
        let why = "writes went to two replicas only on that side";
        assert_eq!((third.n(), third.trusted()), (4, 2), "{why}");
        let (mut ab, mut ba) = (a.clone(), b.clone());
        ab.learn(&b);
        ba.learn(&a);
        assert_eq!(ab.table.hash(), ba.table.hash());
        assert_eq!((ab.trusted(), ba.trusted()), (2, 2));
    }

    proptest! {
        /// Whatever the changes and the order of their delivery: in the end all tables are equal,
        /// and every node trusts as many replicas as the lowest n that was ever in force.
        #[test]
        fn every_node_trusts_the_lowest_n_that_ever_was(
            steps in proptest::collection::vec((0usize..3, 0usize..4, 1u16..=5), 1..30),
        ) {
            let mut nodes = vec![OneBucketNode::default(); 3];
            let mut lowest = Properties::default().n;
            for (at, (one, other, n)) in steps.into_iter().enumerate() {
                match nodes.get(other).cloned() {
                    Some(other) => drop(nodes[one].learn(&other)),
                    None => {
                        nodes[one].set(&format!("n{one}"), n, at as u64 + 1);
                        lowest = lowest.min(n);
                    }
                }
                prop_assert!(nodes.iter().all(|node| node.trusted() >= lowest));
            }
            for (one, other) in [(0, 1), (0, 2), (1, 0), (2, 0)] {
                let other: OneBucketNode = nodes[other].clone();
                nodes[one].learn(&other);
            }
            for node in &nodes {
                prop_assert_eq!(node.table.hash(), nodes[0].table.hash());
                prop_assert_eq!(node.trusted(), lowest);
            }
        }
    }

    /// A node that knows of many buckets.
    #[derive(Clone, Default)]
    struct ManyBucketsNode {
        table: Table,
        raised: BTreeMap<Bucket, u16>,
    }

    impl ManyBucketsNode {
        fn set(&mut self, name: &str, at: (&str, u64), settings: Settings) -> Table {
            let (node, now) = at;
            let (bucket, by) = (named(name), (NodeId::parse(node).unwrap(), WallTime(now)));
            let record = self.table.next(&bucket, settings, by, (&Properties::default(), 5));
            let mut change = Table::default();
            change.merge(&bucket, record);
            self.learn(&change);
            change
        }

        fn learn(&mut self, other: &Table) -> bool {
            self.table.learn(other, &mut self.raised, (&Properties::default(), 5))
        }
    }

    fn named(name: &str) -> Bucket {
        Bucket::parse(name).unwrap()
    }

    #[test]
    fn what_either_side_of_a_partition_promised_is_taken_over_by_the_other() {
        let [mut a, mut b] = ["a", "b"].map(|side| {
            let mut node = ManyBucketsNode::default();
            for i in 0..BUCKETS_MAX {
                let change = record(1, i as u64 + 1, "n1");
                node.table.merge(&named(&format!("{side}{i}")), change);
            }
            node
        });
        let (of_a, of_b) = (a.table.clone(), b.table.clone());
        assert!(a.learn(&of_b) && b.learn(&of_a));
        assert_eq!((a.table.len(), a.table.hash()), (2 * BUCKETS_MAX, b.table.hash()));
        assert!(!a.learn(&b.table), "there is nothing more to exchange");
    }

    #[test]
    fn folded_resets_are_neither_forgotten_nor_kept() {
        let (mut a, mut b) = (ManyBucketsNode::default(), ManyBucketsNode::default());
        let old = a.set("gone", ("n1", 1), n_of(1));
        let kept = a.set("kept", ("n1", 2), n_of(2));
        let backup = a.clone();
        a.set("gone", ("n1", 3), Settings::default());
        b.learn(&a.table);
        assert_eq!((a.table.hash(), a.table.resets()), (b.table.hash(), 1));
        assert!(a.table.fold(a.table.stamp_max()));
        assert_eq!((a.table.len(), a.table.resets()), (1, 0));
        assert!(!a.learn(&old) && !a.learn(&kept), "late messages change nothing");
        assert_eq!(a.table.settings("gone"), Settings::default());

        assert_ne!(a.table.hash(), b.table.hash());
        assert!(!a.learn(&b.table), "a reset that was folded does not come back");
        assert!(b.learn(&a.table));
        assert_eq!(a.table.hash(), b.table.hash());

        let mut restored = backup.clone();
        assert!(!a.learn(&backup.table), "an old backup brings nothing back");
        assert!(restored.learn(&a.table));
        assert_eq!(restored.table.hash(), a.table.hash());
        assert_eq!(restored.raised.get(&named("gone")), Some(&1), "and trusts only what it had");

        let again = b.set("gone", ("n2", 0), n_of(4)); // by a clock that is behind
        assert!(a.learn(&again));
        assert_eq!(a.table.settings("gone").n, Some(4));
        assert_eq!(a.table.hash(), b.table.hash());
    }

    #[test]
    fn a_table_from_before_there_was_a_floor_is_read() {
        let mut table = Table::default();
        table.merge(&named("carts"), record(2, 5, "n1"));
        let bytes = postcard::to_stdvec(&table).unwrap();
        assert_eq!(Table::decode(&bytes), Ok(table.clone()));
        let old = postcard::to_stdvec(&table.records).unwrap();
        assert_eq!(Table::decode(&old), Ok(table.clone()));
        table.fold(table.stamp_max());
        assert_eq!(Table::decode(&postcard::to_stdvec(&table).unwrap()), Ok(table));
        assert!(Table::decode(&bytes[..9]).is_err());
    }

    proptest! {
        /// Whatever is set, reset and delivered in whatever order, with late and repeated messages
        /// and resets folded whenever all tables are equal: in the end all tables are equal and
        /// hold the last change of each bucket.
        #[test]
        fn tables_agree_on_the_last_change_of_each_bucket(
            steps in proptest::collection::vec((0usize..3, 0usize..6, 0usize..4, 0u16..=5), 1..60),
        ) {
            let mut nodes = vec![ManyBucketsNode::default(); 3];
            let mut told: Vec<Table> = Vec::new();
            let mut last: BTreeMap<String, (Change, Settings)> = BTreeMap::new();
            for (at, (one, what, bucket, n)) in steps.into_iter().enumerate() {
                match what {
                    0 | 1 => {
                        let settings = if n == 0 { Settings::default() } else { n_of(n) };
                        let (name, node) = (format!("b{bucket}"), format!("n{one}"));
                        let change = nodes[one].set(&name, (&node, at as u64 / 8), settings);
                        let change_made = change.records[&named(&name)].change;
                        let made = (change_made, settings);
                        let entry = last.entry(name).or_insert(made);
                        if made.0 > entry.0 { *entry = made; }
                        told.push(change);
                    }
                    2 => if let Some(late) = told.get(usize::from(n)).cloned() {
                        nodes[one].learn(&late);
                    },
                    3 => {
                        let all_equal = nodes.iter().all(|node| node.table == nodes[0].table);
                        if all_equal {
                            let upto = nodes[one].table.stamp_max();
                            nodes[one].table.fold(upto);
                        }
                    }
                    _ => {
                        let other = nodes[bucket % 3].table.clone();
                        nodes[one].learn(&other);
                    }
                }
            }
            for (one, other) in [(0, 1), (0, 2), (1, 0), (2, 0)] {
                let other = nodes[other].table.clone();
                nodes[one].learn(&other);
            }
            for node in &nodes {
                prop_assert_eq!(node.table.hash(), nodes[0].table.hash());
                for (name, (_, settings)) in &last {
                    prop_assert_eq!(node.table.settings(name), *settings, "{}", name);
                }
            }
        }
    }

    #[test]
    fn defaults_are_capped_by_the_cluster_but_settings_are_checked() {
        let defaults = Properties::default();
        let alone = Settings::default().over(&defaults, 1);
        assert_eq!((alone.n, alone.r.of(alone.n), alone.w.of(alone.n)), (1, 1, 1));
        let n4 = Settings { n: Some(4), ..Settings::default() };
        let error = n4.check(&defaults, 3);
        assert_eq!(error, Err(PropertiesError::Replicas { n: 4, nodes: 3 }));
        let w4 = Settings { w: Some(Count::Exactly(4)), ..Settings::default() };
        let error = w4.check(&defaults, 5);
        assert_eq!(error, Err(PropertiesError::Count { name: "w", count: 4, n: 3 }));
    }

    #[test]
    fn tables_agree_whatever_the_order() {
        let bucket = Bucket::parse("carts").unwrap();
        let records = [record(1, 5, "n1"), record(2, 9, "n1"), record(3, 9, "n2")];
        let mut tables = [Table::default(), Table::default()];
        for i in [0, 1, 2] {
            tables[0].merge(&bucket, records[i]);
            tables[1].merge(&bucket, records[2 - i]);
        }
        assert_eq!(tables[0].hash(), tables[1].hash());
        assert_eq!(tables[1].settings("carts").n, Some(3));
        assert_eq!(tables[1].settings("other"), Settings::default());
    }
}
