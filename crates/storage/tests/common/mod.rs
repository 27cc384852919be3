//! Checks the data derived from the home rows of a store against a computation from the rows alone.

use std::collections::BTreeMap;

use bytes::Bytes;
use quorate_protocol::clock::{Actor, Dot};
use quorate_protocol::data_type::Part;
use quorate_protocol::exchange::row_order;
use quorate_protocol::layout::Partition;
use quorate_protocol::name::{Key, NodeId};
use quorate_protocol::object::{Metadata, Object, Sibling, Version, WriteId};
use quorate_protocol::row::Row;
use quorate_protocol::stamp::Stamp;
use quorate_protocol::time::WallTime;
use quorate_protocol::tree::{LeafSet, Leaves, Tree, leaf_hash, leaf_of};
use quorate_storage::{ScrubFrom, Scrubbed, Store};

/// The greatest n of the tests' buckets.
const N_MAX: u16 = 5;

/// All home rows, partition by partition in row order.
pub(crate) fn home_rows(store: &Store, partitions: u32) -> Vec<(Partition, Key, Row)> {
    let mut rows = Vec::new();
    for partition in (0..partitions).map(|p| Partition(p as u16)) {
        let stored = store.scan_partition(partition, None, usize::MAX, usize::MAX).unwrap();
        assert!(stored.is_sorted_by(|(a, _), (b, _)| row_order(a, b).is_lt()));
        for (key, row) in stored {
            rows.push((partition, key, Row::decode(row).unwrap()));
        }
    }
    rows
}

/// Checks that the trees, in memory and on the disk, and the indexes match exactly these rows.
pub(crate) fn check_follows(store: &Store, partitions: u32, rows: &[(Partition, Key, Row)]) {
    check_trees(store, partitions, rows);
    check_indexes(store, rows);
    for partition in (0..partitions).map(|p| Partition(p as u16)) {
        let there = rows.iter().filter(|(p, ..)| *p == partition);
        let scrubbed = scrub(store, partition);
        let expected =
            Scrubbed { rows: there.count() as u64, bytes: scrubbed.bytes, ..Scrubbed::default() };
        assert_eq!(scrubbed, expected);
    }
}

/// Scrubs a whole partition.
fn scrub(store: &Store, partition: Partition) -> Scrubbed {
    let (mut found, mut next) = (Scrubbed::default(), Some(ScrubFrom::Leaf(0)));
    while let Some(from) = next {
        let (some, onward) = store.scrub_some(partition, from, || false).unwrap();
        found.add(some);
        next = onward;
    }
    found
}

fn check_trees(store: &Store, partitions: u32, rows: &[(Partition, Key, Row)]) {
    let mut trees: BTreeMap<Tree, (Leaves, Vec<(Key, Version)>)> = BTreeMap::new();
    for partition in (0..partitions).map(|p| Partition(p as u16)) {
        trees.extend((1..=N_MAX).map(|n| (Tree { partition, n }, Default::default())));
    }
    for (partition, key, row) in rows {
        let tree = Tree { partition: *partition, n: row.tree };
        let (leaves, keys) = trees.get_mut(&tree).unwrap();
        let version = row.object.version();
        leaves.toggle(leaf_of(key), leaf_hash(key, version));
        keys.push((key.clone(), version));
    }
    for (tree, (leaves, keys)) in &trees {
        assert_eq!(store.leaves(*tree), *leaves, "{tree:?}");
        assert_eq!(store.root(*tree), leaves.root(), "{tree:?}");
        let page = store.list(*tree, LeafSet::all(), None, usize::MAX).unwrap();
        assert_eq!((&page.versions, page.is_end), (keys, true), "{tree:?}");
    }
}

fn check_indexes(store: &Store, rows: &[(Partition, Key, Row)]) {
    let mut by_key: Vec<_> = rows.iter().collect();
    by_key.sort_by_key(|(_, key, _)| key);
    let conflicts = by_key.iter().filter(|(.., row)| row.object.is_conflict());
    let conflicts = conflicts.map(|(_, key, row)| (key.clone(), row.object.shown().len() as u32));
    let found = store.conflicts(None, None, usize::MAX).unwrap();
    assert_eq!(found, conflicts.collect::<Vec<_>>());

    let mut buckets: BTreeMap<&str, Vec<_>> = BTreeMap::new();
    for (_, key, row) in &by_key {
        let keys = buckets.entry(key.bucket()).or_default();
        if !row.object.is_deleted() {
            keys.push((key.clone(), row.object.version(), row.object.siblings.len() == 1));
        }
    }
    for (bucket, keys) in buckets {
        assert_eq!(store.keys(bucket, "", None, usize::MAX).unwrap(), keys);
    }

    let mut tombstones: BTreeMap<Partition, Vec<_>> = BTreeMap::new();
    for (partition, key, row) in &by_key {
        let deleted = tombstones.entry(*partition).or_default();
        if row.object.is_deleted() {
            deleted.push((key.clone(), row.object.version(), row.since));
        }
    }
    for (partition, deleted) in tombstones {
        assert_eq!(store.tombstone_count(partition), deleted.len() as u64);
        for older_than in [WallTime(500), WallTime(u64::MAX)] {
            let old = deleted.iter().filter(|(.., since)| *since <= older_than);
            let old: Vec<_> = old.map(|(key, version, _)| (key.clone(), *version)).collect();
            let found = store.tombstones(partition, None, usize::MAX, older_than).unwrap();
            assert_eq!(found, old);
        }
    }
}

/// A write by another node under this dot; a delete if the counter is a multiple of three.
pub(crate) fn foreign_write(actor: u64, counter: u64) -> Object {
    let dot = Dot { actor: Actor(actor), counter };
    let byte = actor as u8 * 16 + counter as u8;
    let mut object = Object::default();
    object.clock.advance(dot);
    object.siblings.push(Sibling {
        dot,
        part: Part::Value,
        value: (!counter.is_multiple_of(3)).then(|| Bytes::from(vec![byte; 100])),
        metadata: Metadata::default(),
        stamp: Stamp::at(WallTime(counter)),
        expires: None,
        writer: NodeId::parse("n3").unwrap(),
        write_id: WriteId([byte; 16]),
    });
    object
}
