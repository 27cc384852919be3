//! The final check: what is on the disks of the nodes once they have stopped.

use std::collections::{BTreeMap, BTreeSet};

use bytes::Bytes;
use quorate_protocol::clock::Clock;
use quorate_protocol::layout::Partition;
use quorate_protocol::name::Key;
use quorate_protocol::object::Object;
use quorate_protocol::row::Row;
use quorate_protocol::tree::{Root, Tree};
use quorate_storage::Store;

use crate::harness::Cluster;
use crate::http::Shown;
use crate::record::Left;

/// Replicas of every bucket of the storm.
const N: u16 = 3;
const PAGE: usize = 1000;

/// All rows of all nodes, by key (`bucket/key`) and node: the encoded objects.
pub(crate) struct Disks {
    rows: BTreeMap<String, BTreeMap<usize, Bytes>>,
    homes: BTreeMap<String, Vec<usize>>,
    /// Hints that were not delivered.
    pub(crate) hints: u64,
    /// Descriptions of the differences.
    pub(crate) details: Vec<String>,
    /// Rows compared with their other replicas, byte for byte.
    pub(crate) compared: usize,
    /// Keys whose replicas differ.
    pub(crate) differing: usize,
    /// Rows on nodes that are not their home replicas.
    pub(crate) strays: usize,
    /// Merkle trees compared.
    pub(crate) trees: usize,
    /// Those whose roots differ.
    pub(crate) trees_differing: usize,
    /// Keys that hold nothing but tombstones.
    pub(crate) tombstones: usize,
}

impl Disks {
    /// Opens the stores of all nodes, which must have stopped, and compares them.
    pub(crate) fn open(cluster: &Cluster) -> Self {
        let mut disks = Self {
            rows: BTreeMap::new(),
            homes: BTreeMap::new(),
            hints: 0,
            details: Vec::new(),
            compared: 0,
            differing: 0,
            strays: 0,
            trees: 0,
            trees_differing: 0,
            tombstones: 0,
        };
        let partitions = cluster.layout().partitions() as u16;
        let nodes = cluster.layout().node_count();
        let mut roots: BTreeMap<Tree, BTreeMap<usize, Root>> = BTreeMap::new();
        for number in cluster.all() {
            let store = cluster.open_store(number);
            for (_, keys, _) in store.hint_targets().unwrap() {
                disks.hints += keys;
            }
            for partition in (0..partitions).map(Partition) {
                for tree in (1..=nodes).map(|n| Tree { partition, n }) {
                    let root = store.root(tree);
                    if root != Root::default() {
                        roots.entry(tree).or_default().insert(number, root);
                    }
                }
                disks.take(number, &store, partition);
            }
        }
        disks.compare_roots(cluster, &roots);
        for key in disks.rows.keys() {
            let homes = cluster.preference(key)[..usize::from(N)].to_vec();
            disks.homes.insert(key.clone(), homes);
        }
        disks.compare();
        disks
    }

    /// The root of an empty tree is not listed.
    fn compare_roots(&mut self, cluster: &Cluster, roots: &BTreeMap<Tree, BTreeMap<usize, Root>>) {
        let layout = cluster.layout();
        for (tree, roots) in roots {
            let homes = layout.homes(tree.partition, tree.n);
            let kinds: BTreeSet<_> = roots.values().map(|root| root.0).collect();
            self.trees += 1;
            if kinds.len() > 1 || roots.len() != homes.len() {
                self.trees_differing += 1;
                self.details.push(format!("{tree:?}: the roots differ: {roots:?}"));
            }
        }
    }

    fn take(&mut self, number: usize, store: &Store, partition: Partition) {
        let mut after: Option<Key> = None;
        loop {
            let page = store.scan_partition(partition, after.as_ref(), PAGE, 16 << 20).unwrap();
            let Some((last, _)) = page.last() else { break };
            after = Some(last.clone());
            for (key, row) in page {
                let object = Row::encoded_object(&row).unwrap();
                self.rows.entry(key.to_string()).or_default().insert(number, object);
            }
        }
    }

    fn compare(&mut self) {
        for (key, rows) in &self.rows {
            let homes = &self.homes[key];
            let strays = rows.keys().filter(|number| !homes.contains(number)).count();
            if strays > 0 {
                self.strays += strays;
                self.details.push(format!("{key}: {strays} rows on nodes that are not home"));
            }
            self.compared += homes.len();
            let kinds: BTreeSet<_> = homes.iter().map(|number| rows.get(number)).collect();
            if kinds.len() > 1 {
                self.differing += 1;
                let each = homes.iter().map(|n| (n, rows.get(n).map(|row| decode(row).clock)));
                let each: Vec<_> = each.collect();
                self.details.push(format!("{key}: its replicas differ: {each:?}"));
            }
            self.tombstones += usize::from(rows.values().all(|row| decode(row).is_deleted()));
        }
    }

    /// All that the home replicas of a key hold, merged.
    pub(crate) fn merged(&self, key: &str) -> Object {
        let mut merged = Object::default();
        let rows = self.rows.get(key).into_iter().flat_map(BTreeMap::values);
        rows.for_each(|row| merged.merge(&decode(row)));
        merged
    }

    /// The keys of a bucket, each with all that its home replicas hold.
    pub(crate) fn of_bucket(&self, bucket: &str) -> Vec<(String, Object)> {
        let keys = self.rows.keys().filter_map(|key| Some((key, key.split_once('/')?)));
        let here = keys.filter(|(_, (of, _))| *of == bucket);
        here.map(|(key, (_, name))| (name.to_owned(), self.merged(key))).collect()
    }

    /// What every node together knows of the dots of each key.
    pub(crate) fn clocks(&self) -> BTreeMap<String, Clock> {
        let joined = |rows: &BTreeMap<usize, Bytes>| {
            let mut all = Clock::default();
            rows.values().for_each(|row| all.join(&decode(row).clock));
            all
        };
        self.rows.iter().map(|(key, rows)| (key.clone(), joined(rows))).collect()
    }

    /// What is left of a key, for the record.
    pub(crate) fn left(&self, key: &str) -> Left {
        let mut left = Left::default();
        let Some(rows) = self.rows.get(key) else { return left };
        let mut siblings = BTreeMap::new();
        for number in &self.homes[key] {
            let object = rows.get(number).map(decode).unwrap_or_default();
            let dots = object.siblings.iter().map(|sibling| sibling.dot.to_string()).collect();
            left.dots.insert(*number, dots);
            for sibling in object.siblings {
                siblings.insert(sibling.dot, sibling.value);
            }
        }
        left.siblings = siblings
            .into_iter()
            .map(|(dot, value)| Shown {
                value: String::from_utf8_lossy(&value.unwrap_or_default()).into_owned(),
                dot: Some(dot.to_string()),
            })
            .collect();
        left
    }
}

fn decode(object: &Bytes) -> Object {
    Object::decode(object.clone()).unwrap()
}
