//! Reading, minting and merging one row.

use std::collections::BTreeSet;
use std::thread;
use std::time::Duration;

use quorate_protocol::clock::Clock;
use quorate_protocol::tree::Tree;

use super::*;
use crate::backend::Backend;
use crate::columns::Column;
use crate::rocks::ReadOffload;
use crate::testing::{HOME, LIMITS, NOW, TREE, draft, key, mint, object, open, open_as, options};
use crate::testing::{try_mint, wait};
use crate::{Durability, Source, Store};

#[test]
fn a_minted_write_is_read_back() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(dir.path(), Durability::Fsync);
    assert_eq!(store.read(HOME, &key("k"), Blocking::Never), Ok(None));
    let big = vec![7; 100 << 10];
    for (name, value) in [("empty", &b""[..]), ("small", b"value"), ("blob", &big)] {
        let minted = mint(&store, HOME, name, value);
        assert_eq!(minted.object.siblings[0].value.as_deref(), Some(value));
        assert_eq!(Object::decode(minted.encoded).unwrap(), minted.object);
        assert_eq!(object(&store, HOME, name), Some(minted.object));
    }
    assert_eq!(wait(store.durable()), Ok(()));
    drop(store);
    let store = open(dir.path(), Durability::Fsync);
    assert_eq!(object(&store, HOME, "blob").unwrap().siblings[0].value.as_deref(), Some(&*big));
}

#[test]
fn a_retried_request_mints_once() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(dir.path(), Durability::Buffered);
    let draft = draft(Clock::default(), b"v");
    let mint = || store.mint(HOME, &key("k"), &draft, NOW, &LIMITS, Blocking::Allowed);
    let (first, second) = (mint().unwrap().unwrap(), mint().unwrap().unwrap());
    let Minted::New(dot) = first.minted else { panic!("{first:?}") };
    assert_eq!(second.minted, Minted::Already(dot));
    assert_eq!((second.object, second.encoded), (first.object, first.encoded));
    assert_eq!(store.stats().writes - 2, 1, "two batches belong to opening");
}

#[test]
fn a_merge_that_changes_nothing_writes_nothing() {
    let dirs = [tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap()];
    let [ours, theirs] = dirs.each_ref().map(|dir| open(dir.path(), Durability::Fsync));
    let minted = mint(&theirs, HOME, "k", b"v");
    let merge = || ours.merge(HOME, &key("k"), &minted.object, NOW, Blocking::Allowed).unwrap();
    let version = minted.object.version();
    assert_eq!(merge(), Merged { changed: true, version });
    let writes = ours.stats().writes;
    assert_eq!(merge(), Merged { changed: false, version });
    assert_eq!(ours.stats().writes, writes);
}

#[test]
fn concurrent_mints_on_one_key_are_all_kept_under_distinct_dots() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(dir.path(), Durability::Fsync);
    let writer = || {
        let dots = (0..50).map(|_| match mint(&store, HOME, "k", b"v").minted {
            Minted::New(dot) => dot,
            Minted::Already(dot) => panic!("{dot}"),
        });
        dots.collect::<Vec<_>>()
    };
    let dots: Vec<_> = thread::scope(|scope| {
        let writers: Vec<_> = (0..8).map(|_| scope.spawn(writer)).collect();
        writers.into_iter().flat_map(|writer| writer.join().unwrap()).collect()
    });
    let distinct: BTreeSet<_> = dots.iter().copied().collect();
    assert_eq!((dots.len(), distinct.len()), (400, 400));
    let kept = object(&store, HOME, "k").unwrap();
    assert_eq!(kept.siblings.iter().map(|s| s.dot).collect::<BTreeSet<_>>(), distinct);
    assert_eq!(store.conflicts(None, None, 10).unwrap(), [(key("k"), 400)]);
}

#[test]
fn a_held_stripe_blocks_no_nonblocking_call() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(dir.path(), Durability::Buffered);
    let before = mint(&store, HOME, "k", b"v").object;
    let guard = store.stripes.lock(&HOME.row_key(&key("k")), Blocking::Allowed).unwrap();
    let refused = try_mint(&store, HOME, "k", b"w", Blocking::Never);
    assert_eq!(refused.err(), Some(Error::WouldBlock));
    let merged = store.merge(HOME, &key("k"), &before, NOW, Blocking::Never);
    assert_eq!(merged, Err(Error::WouldBlock));
    assert!(store.read(HOME, &key("k"), Blocking::Never).unwrap().is_some(), "reads take no lock");
    drop(guard);
    assert_eq!(object(&store, HOME, "k"), Some(before));
    assert_eq!((store.stats().inline, store.stats().would_block), (1, 2));
}

fn offload(store: &Store) -> &ReadOffload {
    let Backend::Rocks(rocks) = &store.engine.backend else { panic!() };
    &rocks.read_offload
}

#[test]
fn a_nonblocking_call_reads_the_disk_only_while_reads_do_not_wait() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(dir.path(), Durability::Buffered);
    let (small, blob) =
        (mint(&store, HOME, "small", b"v"), mint(&store, HOME, "blob", &[7; 1 << 20]));
    store.write_tables(Column::Objects);
    store.close().unwrap();
    drop(store);
    let store = open(dir.path(), Durability::Buffered);
    for (name, was) in [("small", small), ("blob", blob)] {
        let read = || store.read(HOME, &key(name), Blocking::Never);
        offload(&store).record(Duration::from_micros(40), Duration::ZERO);
        assert_eq!(read(), Err(Error::WouldBlock), "{name}");
        let refused = try_mint(&store, HOME, name, b"w", Blocking::Never);
        assert_eq!(refused.err(), Some(Error::WouldBlock), "{name}");
        let row = Row::decode(read().unwrap().unwrap()).unwrap();
        assert_eq!(row.object, was.object, "{name}: two reads were offloaded for a wait of 40 us");
        offload(&store).record(Duration::from_millis(1), Duration::ZERO);
        assert!(read().is_ok(), "{name} is in the cache now");
        while offload(&store).should_offload() {}
    }
    assert_eq!(store.stats().reads_in_place, 2);
}

#[test]
fn a_stalled_write_changes_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let small = Options { memtable_bytes: 64 << 10, ..options(Durability::Fsync) };
    let store = open_as(dir.path(), small.clone()).unwrap();
    // Tiny memtables fill up faster than they are flushed, and RocksDB stalls all writes.
    let mint = |i: u32| try_mint(&store, HOME, &format!("k{i}"), &[7; 1024], Blocking::Never);
    let (stalled, error) = (0..200_000).find_map(|i| Some((i, mint(i).err()?))).unwrap();
    assert_eq!((error, store.stats().stalls), (Error::WouldBlock, 1));
    assert_eq!(object(&store, HOME, &format!("k{stalled}")), None);
    drop(store);
    let store = open_as(dir.path(), small).unwrap();
    assert_eq!(object(&store, HOME, &format!("k{stalled}")), None);
    assert!(object(&store, HOME, "k0").is_some());
}

#[test]
fn damaged_rows_are_named_and_never_absent() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(dir.path(), Durability::Buffered);
    let row = mint(&store, HOME, "k", b"v");
    let good = store.read(HOME, &key("k"), Blocking::Allowed).unwrap().unwrap();
    let stored = |bad: &[u8]| {
        store.tamper(|batch| batch.put(Column::Objects, HOME.row_key(&key("k")), bad));
    };
    for bad in [&b""[..], &good[..10], &good[..32], &good[..good.len() - 1], &[255; 64]] {
        stored(bad);
        let errors = [
            try_mint(&store, HOME, "k", b"w", Blocking::Allowed).err(),
            store.merge(HOME, &key("k"), &row.object, NOW, Blocking::Allowed).err(),
        ];
        for error in errors {
            let Some(Error::Damaged { what, .. }) = error else { panic!("{error:?}") };
            assert_eq!(what, "b/k (home row of partition 3)");
        }
    }
    stored(&[0; 32]);
    let read = store.read(HOME, &key("k"), Blocking::Never);
    assert!(matches!(read, Err(Error::Damaged { .. })), "{read:?}");
}

/// What a newer release wrote stays as it is, to the byte, whatever is done to it here.
#[test]
fn rows_of_a_newer_release_are_named_and_left_alone() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(dir.path(), Durability::Buffered);
    let other = mint(&store, HOME, "other", b"w").object;
    let good = mint(&store, HOME, "k", b"v");
    let row = store.read(HOME, &key("k"), Blocking::Allowed).unwrap().unwrap();
    let (tree, version) = (TREE, good.object.version());
    let root = store.root(tree);
    for (at, byte, reason) in [
        (38, 7, "the row has format 7, which only a newer release can read"),
        (42, 0x31, "the object is of kind 3, which only a newer release can read"),
        (42, 0x02, "the object has format 2, which only a newer release can read"),
    ] {
        let mut newer = row.to_vec();
        newer[at] = byte;
        let row_key = HOME.row_key(&key("k"));
        store.tamper(|batch| batch.put(Column::Objects, &row_key, &newer));
        let read = store.read(HOME, &key("k"), Blocking::Allowed);
        let page = vec![(HOME, key("k"), good.encoded.clone())];
        let errors = [
            if at == 42 {
                read.and_then(|_| store.drop_row(HOME, &key("k"), version)).err()
            } else {
                read.err()
            },
            try_mint(&store, HOME, "k", b"w", Blocking::Allowed).err(),
            store.merge(HOME, &key("k"), &other, NOW, Blocking::Allowed).err(),
            store.merge_page(page, Source::Fill, NOW).err(),
            store.move_to_tree(&key("k"), Tree { n: 9, ..tree }).err(),
        ];
        for error in errors {
            let Some(Error::Newer { what, reason: why }) = error else { panic!("{error:?}") };
            assert_eq!((&*what, &*why), ("b/k (home row of partition 3)", reason));
        }
        assert!(store.drop_row(HOME, &key("k"), version).is_err());
        let versions = store.versions(&[(HOME, key("k"))]);
        assert_eq!(versions.is_ok(), at == 42, "{versions:?}");
        // Neither a scrub nor a move of rows touches it or its leaf.
        let found = store.scrub(tree.partition).unwrap();
        assert_eq!((found.newer_rows, found.damaged_rows, found.repaired()), (1, 0, 0));
        let moved = store.reassign(tree.partition, None, 9, |_| Some(3)).unwrap();
        assert_eq!(moved.unowned, [], "{moved:?}");
        assert_eq!(store.root(tree), root);
        let kept = store.engine.get(Column::Objects, &row_key, Blocking::Allowed);
        assert_eq!(kept.unwrap().as_deref(), Some(&newer[..]));
    }
}

crate::testing::also_on_simulated_disks! {
    a_minted_write_is_read_back,
    a_retried_request_mints_once,
    a_merge_that_changes_nothing_writes_nothing,
    concurrent_mints_on_one_key_are_all_kept_under_distinct_dots,
    a_held_stripe_blocks_no_nonblocking_call,
    damaged_rows_are_named_and_never_absent,
    rows_of_a_newer_release_are_named_and_left_alone,
}
