//! Failed syncs and writes, a full disk, damage.

use quorate_protocol::time::WallTime;
use quorate_storage::{Blocking, Condition, Error, OpenError, Recovery, SimulatedDisk, Store};

use crate::lab::{
    LIMITS, LONG, Lab, MIB, PARTITIONS, draft, found, incarnation, key, mint, place, read,
};

#[test]
fn after_a_failed_sync_nothing_is_durable_until_the_store_is_reopened() {
    let lab = Lab::new();
    let store = lab.open();
    let first = incarnation(&store);
    lab.mint(&store, 0..1);
    assert_eq!(lab.durable(&store), Ok(()));
    lab.mint(&store, 1..2);
    lab.disk.fail_next_sync();
    let failed = lab.durable(&store);
    assert!(matches!(failed, Err(Error::Failed(_))), "{failed:?}");
    assert_eq!(
        [lab.durable(&store), mint(&store, 2), store.close()],
        [(); 3].map(|()| failed.clone())
    );
    assert!(matches!(store.condition(), Condition::Failed(_)));
    assert!(read(&store, 1).unwrap().is_some(), "reads go on");
    drop(store);
    let store = lab.open();
    assert_eq!(found(&store), [0], "the kernel may drop what it could not sync");
    assert_ne!(incarnation(&store), first);
    lab.mint(&store, 2..3);
    assert_eq!(lab.durable(&store), Ok(()));
}

#[test]
fn a_failed_write_fails_the_store() {
    let lab = Lab::new();
    let store = lab.open();
    lab.disk.fail_next_write();
    let failed = mint(&store, 0);
    assert!(matches!(failed, Err(Error::Failed(_))), "{failed:?}");
    assert_eq!((mint(&store, 1), read(&store, 0)), (failed, Ok(None)));
}

#[test]
fn a_call_that_may_not_block_says_that_it_would() {
    let lab = Lab::new();
    let store = lab.open();
    lab.mint(&store, 0..1);
    lab.disk.block_next_read();
    assert_eq!(read(&store, 0), Err(Error::WouldBlock));
    lab.disk.block_next_write();
    assert_eq!(mint(&store, 1), Err(Error::WouldBlock));
    assert!(read(&store, 0).unwrap().is_some());
    assert_eq!((read(&store, 1), mint(&store, 1)), (Ok(None), Ok(())));
}

#[test]
fn a_full_disk_takes_deletes_from_its_reserve_and_writes_once_there_is_space() {
    let mut lab = Lab::new();
    lab.options.disk_free_bytes_min = 16 * MIB;
    lab.disk.set_free_bytes(100 * MIB);
    let store = lab.open();
    assert_eq!((store.condition(), mint(&store, 0)), (Condition::Healthy, Ok(())));
    lab.disk.set_free_bytes(MIB / 2);
    lab.world.run();
    assert!(matches!(mint(&store, 1), Err(Error::DiskLow { .. })));
    let delete = || {
        let deletion = draft(None);
        store.mint(place(0), &key(0), &deletion, WallTime(1), &LIMITS, Blocking::Never)
    };
    assert!(matches!(delete(), Err(Error::DiskLow { .. })));
    // Once the free space has stopped falling, the reserve is released: the next look sees it.
    (0..2).for_each(|_| lab.world.run_after(LONG));
    assert!(delete().unwrap().is_ok());
    assert!(
        matches!(mint(&store, 1), Err(Error::DiskLow { free_bytes, .. }) if free_bytes > 16 * MIB)
    );
    lab.disk.set_free_bytes(100 * MIB);
    lab.world.run();
    assert_eq!((mint(&store, 1), lab.durable(&store)), (Ok(()), Ok(())));
    assert_eq!(store.condition(), Condition::Healthy);
}

#[test]
fn without_space_a_sync_fails_and_the_store_reopens_once_there_is_some() {
    let lab = Lab::new();
    let store = lab.open();
    lab.mint(&store, 0..3);
    assert_eq!(lab.durable(&store), Ok(()));
    lab.mint(&store, 3..4);
    lab.disk.set_free_bytes(10);
    let failed = lab.durable(&store);
    assert!(
        matches!(&failed, Err(Error::Failed(why)) if why.contains("No space left")),
        "{failed:?}"
    );
    assert!(store.make_room_to_reopen().is_err());
    drop(store);
    assert!(matches!(lab.try_open().err(), Some(OpenError::DiskFull { free_bytes: 10, .. })));
    lab.disk.set_free_bytes(100 * MIB);
    assert_eq!(found(&lab.open()), [0, 1, 2]);
}

#[test]
fn a_damaged_row_is_never_absent() {
    let lab = Lab::new();
    let store = lab.open();
    lab.mint(&store, 0..9);
    assert_eq!(lab.durable(&store), Ok(()));
    assert!(lab.disk.damage_row(place(1), &key(1)) && !lab.disk.damage_row(place(50), &key(50)));
    let partition = key(1).partition(PARTITIONS);
    let check = |store: &Store| {
        let is_damaged = |error: Option<Error>| matches!(error, Some(Error::Damaged { .. }));
        assert!(is_damaged(read(store, 1).err()) && is_damaged(mint(store, 1).err()));
        assert!(is_damaged(store.scan_partition(partition, None, 9, usize::MAX).err()));
        assert!(read(store, 2).unwrap().is_some());
    };
    check(&store);
    drop(store);
    check(&lab.open());
    let elsewhere = Lab { disk: lab.disk.copy(), ..Lab::new() };
    check(&elsewhere.open());
}

#[test]
fn a_log_that_is_damaged_before_its_end_is_cut_there_and_reported() {
    for which in 0..8 {
        let lab = Lab::seeded(which);
        let store = lab.open();
        let opening = lab.disk.log_positions().written as u64;
        lab.mint(&store, 0..6);
        assert_eq!(lab.durable(&store), Ok(()));
        let at = opening + which % 5;
        assert!(lab.disk.damage_log(at));
        drop(store);
        let store = lab.open();
        assert!(matches!(store.recovery(), Recovery::CutShort(_)), "{:?}", store.recovery());
        assert_eq!(found(&store), (0..which as usize % 5).collect::<Vec<_>>());
    }
    assert!(!SimulatedDisk::new("empty").damage_log(0));
}
