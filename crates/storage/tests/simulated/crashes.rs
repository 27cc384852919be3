//! What is durable, and what a killed process and a power cut leave.

use std::collections::BTreeSet;
use std::pin::pin;

use bytes::Bytes;
use quorate_protocol::row::Row;
use quorate_protocol::time::WallTime;
use quorate_storage::{
    Blocking, Crash, Durability, Error, LogPositions, OpenError, Recovery, SimulatedDisk, Store,
};
use rand::rngs::SmallRng;
use rand::{RngExt as _, SeedableRng as _};

use crate::common::{check_follows, foreign_write, home_rows};
use crate::lab::{Lab, PARTITIONS, found, key, mint, outcome, place, read};

#[test]
fn a_write_is_durable_once_its_sync_has_run_and_not_before() {
    let lab = Lab::new();
    let store = lab.open();
    let before = lab.disk.log_positions();
    lab.mint(&store, 0..2);
    let mut durable = pin!(store.durable());
    assert_eq!(outcome(durable.as_mut()), None);
    let positions = lab.disk.log_positions();
    assert_eq!(positions, LogPositions { written: before.written + 2, ..before });
    lab.mint(&store, 2..3);
    let mut late = pin!(store.durable());
    lab.world.run();
    let positions = lab.disk.log_positions();
    assert_eq!((positions.flushed, positions.synced), (positions.written, positions.written));
    assert_eq!((outcome(durable), outcome(late.as_mut())), (Some(Ok(())), Some(Ok(()))));

    lab.mint(&store, 3..4);
    let lost = pin!(store.durable());
    drop(store);
    lab.world.run();
    assert_eq!(outcome(lost), Some(Err(Error::Closed)), "the process was killed");
    assert_eq!(found(&lab.open()), [0, 1, 2]);
}

/// What an observer is told of a crash is what the crash leaves.
#[test]
fn a_row_that_survives_is_told_before_the_crash() {
    let mut lab = Lab::new();
    lab.options.durability = Durability::Buffered;
    let store = lab.open();
    lab.mint(&store, 0..1);
    store.sync().unwrap();
    lab.mint(&store, 1..2);
    assert_eq!(lab.durable(&store), Ok(()), "flushed");
    lab.mint(&store, 2..3);
    let survives =
        |crash, which| lab.disk.surviving_row(crash, place(which), &key(which)).is_some();
    let survivors = |crash| [0, 1, 2].map(|which| survives(crash, which));
    assert_eq!(survivors(Crash::PowerCut), [true, false, false]);
    assert_eq!(survivors(Crash::Kill), [true, true, false]);
    lab.disk.kill(0);
    assert_eq!(survivors(Crash::Kill), [true, true, false]);
    assert_eq!(found(&lab.open()), [0, 1]);
}

#[test]
fn a_buffered_write_is_durable_once_it_is_flushed() {
    let mut lab = Lab::new();
    lab.options.durability = Durability::Buffered;
    let store = lab.open();
    lab.mint(&store, 0..3);
    assert_eq!(lab.durable(&store), Ok(()));
    let positions = lab.disk.log_positions();
    assert_eq!(positions.flushed, positions.written);
    assert!(positions.synced < positions.flushed);
    lab.mint(&store, 3..5);
    drop(store);
    let store = lab.open();
    assert_eq!(found(&store), [0, 1, 2], "a killed process keeps what it flushed");
    lab.mint(&store, 5..6);
    assert_eq!(lab.durable(&store), Ok(()));
    lab.disk.lose_power(0);
    assert_eq!(found(&lab.open()), [0, 1, 2], "a start syncs what it finds, later writes do not");
}

#[test]
fn a_crash_leaves_what_is_synced_and_a_prefix_of_the_rest() {
    for crash in [SimulatedDisk::kill, SimulatedDisk::lose_power] {
        let mut left = BTreeSet::new();
        for cut in 0..24 {
            let lab = Lab::seeded(cut);
            let store = lab.open();
            lab.mint(&store, 0..4);
            assert_eq!(lab.durable(&store), Ok(()));
            lab.mint(&store, 4..9);
            crash(&lab.disk, cut);
            let store = lab.open();
            assert_eq!(store.recovery(), &Recovery::Whole);
            let found = found(&store);
            assert_eq!(found, (0..found.len()).collect::<Vec<_>>());
            left.insert(found.len());
        }
        assert_eq!(left, (4..=9).collect());
    }
}

#[test]
fn every_crash_leaves_a_state_that_once_was() {
    for seed in 0..60 {
        let lab = Lab::seeded(seed);
        let mut rng = SmallRng::seed_from_u64(seed);
        let mut store = lab.open();
        let states = |store: &Store| home_rows(store, PARTITIONS);
        let (mut seen, mut durable_from) = (vec![states(&store)], 0);
        for _ in 0..60 {
            let i = rng.random_range(0..6);
            match rng.random_range(0..10) {
                0..4 => mint(&store, i).unwrap(),
                4..6 => {
                    let object = foreign_write(rng.random_range(1..4), rng.random_range(1..5));
                    store.merge(place(i), &key(i), &object, WallTime(2), Blocking::Never).unwrap();
                }
                6 => {
                    if let Some(row) = read(&store, i).unwrap() {
                        let version = Row::decode(row).unwrap().object.version();
                        assert!(store.drop_row(place(i), &key(i), version).unwrap());
                    }
                }
                7..9 => {
                    assert_eq!(lab.durable(&store), Ok(()));
                    durable_from = seen.len() - 1;
                }
                _ => {
                    if rng.random() {
                        lab.disk.kill(rng.random());
                    } else {
                        lab.disk.lose_power(rng.random());
                    }
                    store = lab.open();
                    let left = states(&store);
                    let at = seen[durable_from..].iter().rposition(|state| *state == left);
                    assert!(at.is_some(), "seed {seed}: {left:?}");
                    check_follows(&store, PARTITIONS, &left);
                    (seen, durable_from) = (Vec::new(), 0);
                }
            }
            seen.push(states(&store));
        }
    }
}

#[test]
fn a_store_whose_process_was_killed_changes_nothing_more() {
    let lab = Lab::new();
    let store = lab.open();
    lab.mint(&store, 0..1);
    assert!(matches!(lab.try_open().err(), Some(OpenError::Locked { .. })));
    let durable = pin!(store.durable());
    lab.disk.kill(0);
    let next = lab.open();
    lab.mint(&next, 1..2);
    lab.world.run();
    assert!(matches!(outcome(durable), Some(Err(Error::Failed(_)))));
    assert!(
        read(&store, 0).is_err()
            && store.keys("a", "", None, 9).is_err()
            && mint(&store, 2).is_err()
    );
    assert!(store.close().is_err());
    drop(store);
    assert_eq!((mint(&next, 3), found(&next)), (Ok(()), vec![1, 3]));
}

#[test]
fn the_same_calls_give_the_same_result() {
    let run = |seed| {
        let mut lab = Lab::seeded(seed);
        // So little that rows are evicted.
        lab.options.row_cache_bytes = 4 << 10;
        let mut store = lab.open();
        let mut told = Vec::new();
        for round in 0..5u64 {
            for i in 0..80 {
                lab.mint(&store, i..i + 1);
                told.push(read(&store, i * 7 % 80).unwrap());
            }
            let durable = lab.durable(&store);
            told.push(Some(Bytes::from(format!("{durable:?} {:?}", store.stats()))));
            told.push(Some(Bytes::from(format!("{:?}", store.database_stats()))));
            lab.mint(&store, 80..90);
            lab.disk.lose_power(round * 7);
            store = lab.open();
        }
        told.extend(
            home_rows(&store, PARTITIONS)
                .into_iter()
                .map(|(.., row)| Some(Bytes::from(format!("{row:?}")))),
        );
        told
    };
    assert_eq!(run(1), run(1));
    assert_ne!(run(1), run(2));
}
