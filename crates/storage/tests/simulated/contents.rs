//! Contents that are copied, put back, wiped and set aside, and the proof of a clean stop.

use std::collections::BTreeSet;
use std::sync::Arc;

use quorate_storage::{DataDir, Simulation, Store};

use crate::lab::{Lab, found, incarnation};

#[test]
fn only_a_clean_stop_of_this_very_disk_keeps_the_incarnation() {
    let lab = Lab::new();
    let store = lab.open();
    let first = incarnation(&store);
    store.close().unwrap();
    drop(store);
    let copy = lab.disk.copy();
    let store = lab.open();
    assert_eq!(incarnation(&store), first);
    store.close().unwrap();
    lab.disk.lose_power(0);
    let second = incarnation(&lab.open());
    assert_ne!(second, first, "it may be an image that was rolled back while the machine was off");
    lab.disk.restore(&copy);
    let third = incarnation(&lab.open());
    let elsewhere = Lab { disk: copy, ..Lab::seeded(8) };
    let fourth = incarnation(&elsewhere.open());
    assert_eq!(BTreeSet::from([first, second, third, fourth]).len(), 4);
}

#[test]
fn a_backup_that_is_put_back_is_behind() {
    let lab = Lab::new();
    let store = lab.open();
    lab.mint(&store, 0..2);
    assert_eq!(lab.durable(&store), Ok(()));
    lab.mint(&store, 2..3);
    let copy = lab.disk.copy();
    assert_eq!(lab.durable(&store), Ok(()));
    let durable_at = store.durable_at();
    for round in 0..2 {
        lab.disk.restore(&copy);
        let store = lab.open();
        assert_eq!(found(&store), [0, 1], "without what was not flushed");
        assert!(store.opened_at() < durable_at);
        lab.mint(&store, 5..9);
        assert_eq!(lab.durable(&store), Ok(()), "round {round}");
    }
    lab.disk.wipe();
    let store = lab.open();
    assert_eq!((found(&store), store.opened_at()), (vec![], 0));
}

#[test]
fn rows_are_set_aside_on_the_disk() {
    let lab = Lab::new();
    let store = lab.open();
    let world: Arc<dyn Simulation> = lab.world.clone();
    let dir = DataDir::Simulated(lab.disk.clone(), world);
    store.set_rows_aside("start-1").unwrap();
    assert!(dir.sets_aside().unwrap().is_empty(), "there was nothing");
    lab.mint(&store, 0..3);
    store.set_rows_aside("start-2").unwrap();
    lab.mint(&store, 3..4);
    store.set_rows_aside("start-2").unwrap();
    assert_eq!(found(&store), Vec::<usize>::new());
    lab.disk.lose_power(0);
    let (name, set) = dir.sets_aside().unwrap().remove(0);
    let aside = Store::open_in(&set, lab.options.clone()).unwrap();
    assert_eq!((name.as_str(), found(&aside)), ("start-2", vec![0, 1, 2]));
    drop(aside);
    dir.remove_set(&name).unwrap();
    assert!(dir.sets_aside().unwrap().is_empty() && dir.remove_set(&name).is_err());
    assert_eq!(found(&lab.open()), Vec::<usize>::new());
}
