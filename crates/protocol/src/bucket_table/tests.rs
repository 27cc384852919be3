//! Bucket tables converge: properties of merge, and what is forgotten.

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
        self.table.settings("carts").over(&Properties::default()).n
    }

    fn trusted(&self) -> u16 {
        self.raised.get(&Self::bucket()).copied().unwrap_or(self.n()).min(self.n())
    }

    fn set(&mut self, node: &str, n: u16, now: u64) {
        let by = (NodeId::parse(node).unwrap(), WallTime(now));
        let defaults = &Properties::default();
        let record = self.table.next(&Self::bucket(), n_of(n), by, defaults);
        let mut change = Table::default();
        change.merge(&Self::bucket(), record);
        assert!(self.learn(&Self { table: change, ..Self::default() }));
    }

    fn learn(&mut self, other: &Self) -> bool {
        self.table.learn(&other.table, &mut self.raised, &Properties::default())
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
        let record = self.table.next(&bucket, settings, by, &Properties::default());
        let mut change = Table::default();
        change.merge(&bucket, record);
        self.learn(&change);
        change
    }

    fn learn(&mut self, other: &Table) -> bool {
        self.table.learn(other, &mut self.raised, &Properties::default())
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

/// It has the lowest n from before the reset, and the others take that over: too low is safe.
#[test]
fn one_that_has_not_folded_a_reset_agrees_after_another_exchange() {
    let (mut a, mut b) = (ManyBucketsNode::default(), ManyBucketsNode::default());
    b.set("carts", ("n1", 1), n_of(1));
    b.set("carts", ("n1", 2), Settings::default());
    a.learn(&b.table);
    assert!(a.table == b.table && a.table.fold(a.table.stamp_max()));
    a.set("carts", ("n2", 3), n_of(4));
    b.learn(&a.table);
    assert_ne!(a.table.hash(), b.table.hash());
    a.learn(&b.table);
    assert_eq!(a.table.hash(), b.table.hash());
    assert_eq!(a.table.record(&named("carts")).map(|record| record.n_lowest), Some(1));
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
        // Twice: one that has not folded a reset yet adds the lowest n from before it to a later record.
        for (one, other) in [(0, 1), (0, 2), (1, 0), (2, 0)].repeat(2) {
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
