//! One disk of five, recovered and refused.

use quorate_protocol::record::{DiskId, Reason};
use quorate_protocol::synod::Ballots;
use quorate_protocol::time::WallTime;

use super::*;
use crate::testing::{MemoryFiles, config};

fn name(text: &str) -> NodeId {
    NodeId::parse(text).unwrap()
}

/// The disk of n1, one of five nodes with three copies.
struct Disk {
    config: Config,
    files: MemoryFiles,
    dir: DataDir,
    _parent: tempfile::TempDir,
}

impl Disk {
    fn formed() -> Self {
        let parent = tempfile::tempdir().unwrap();
        let config = config(parent.path(), "n1", &["n1", "n2", "n3", "n4", "n5"]);
        let dir = DataDir::Path(config.data_dir.clone());
        let disk = Self { config, files: MemoryFiles::default(), dir, _parent: parent };
        let store = disk.store();
        store.put_meta(FORMATION_RECORD, &[9; 16]).unwrap();
        FillState::load(&store, 8).unwrap().record_all(&store, true).unwrap();
        store.close().unwrap();
        disk
    }

    fn record(&self) -> ClusterRecord {
        record_in_force(&self.config, &self.files).unwrap().0
    }

    fn store(&self) -> Store {
        open(&self.config, &self.record(), &self.dir).unwrap()
    }

    fn look(&self, wanted: &Wanted) -> Result<Found, RecoverError> {
        look(&self.config, (&self.files, &self.dir), wanted)
    }
}

fn wanted(without: &[&str]) -> Wanted {
    let without = without.iter().map(|node| name(node)).collect();
    Wanted { without, newest: None, expect: None, force: false }
}

const LOST: &[&str] = &["n2", "n3", "n5"];

fn refused(disk: &Disk, wanted: &Wanted) -> RecoverError {
    match disk.look(wanted) {
        Ok(found) => panic!("{:?}", found.record),
        Err(error) => error,
    }
}

#[test]
fn the_record_goes_on_without_the_lost_and_its_votes_begin_anew() {
    let disk = Disk::formed();
    let first = disk.record();
    // It may have accepted a record that nobody will hear of.
    let accepted = first.refresh(name("n2"), DiskId(7), reason()).unwrap();
    let ballot = Ballots::new(name("n2"), 1).after(0).unwrap();
    let own = DiskId::of_name("test", name("n1"));
    let mut votes = Acceptor::restore(own, first.clone(), None).unwrap().state();
    votes.accepted = Some((ballot, accepted.clone()));
    files::store_votes(&disk.files, &votes).unwrap();

    let found = disk.look(&wanted(LOST)).unwrap();
    assert_eq!((found.overrides, found.is_done), (Some(accepted.hash()), false));
    let record = found.record.clone();
    assert_eq!(record, first.recover(&wanted(LOST).without).unwrap());
    let lost = found.lost_partitions;
    found.carry_out(&disk.files).unwrap();
    assert_eq!(disk.record(), record);
    let votes = files::load_votes(&disk.files).unwrap().unwrap();
    assert_eq!((votes.instance.epoch, votes.promised, votes.accepted.clone()), (3, None, None));
    assert_eq!(votes.instance.parent, record.hash());
    assert!(Acceptor::restore(own, record.clone(), Some(votes)).is_ok());

    // It is a home replica of everything now, and ready only where it was one.
    let store = disk.store();
    let (before, layout) = (placement_of(&first), record.stable_layout());
    let filled = FillState::load(&store, 8).unwrap();
    let all = || (0..8).map(Partition);
    assert!(all().all(|p| layout.homes(p, 2).contains(&name("n1"))));
    assert!(all().all(|p| filled.is_ready(p) == before.is_old_home(name("n1"), p, 3)));
    assert!(!filled.is_complete());
    let by = (WallTime(1), 7);
    let generation = Generation::load(&store, by, 1_000, (true, filled.is_complete()), 0).unwrap();
    assert!(generation.came_empty(), "it holds nothing of what it lacks");
    let is_lost = |p: &Partition| {
        let homes = first.stable_layout();
        homes.homes(*p, 3).iter().all(|home| wanted(LOST).without.contains(home))
    };
    assert_eq!(lost, all().filter(is_lost).count());
    store.close().unwrap();
    drop(store);

    // Once more it changes nothing.
    let again = disk.look(&Wanted { expect: Some(record.hash()), ..wanted(LOST) }).unwrap();
    assert_eq!((again.is_done, again.record.clone()), (true, record.clone()));
    again.carry_out(&disk.files).unwrap();
    assert_eq!(disk.record(), record);
}

#[test]
fn what_is_not_safe_is_refused_in_words() {
    let disk = Disk::formed();
    assert!(matches!(refused(&disk, &wanted(&["n1", "n2", "n3"])), RecoverError::WithoutThis(_)));
    let left = refused(&disk, &wanted(&["n2", "n3"]));
    assert!(matches!(left, RecoverError::MajorityLeft { left: 3, of: 5 }), "{left}");
    assert!(disk.look(&Wanted { force: true, ..wanted(&["n2", "n3"]) }).is_ok());
    let stranger = refused(&disk, &wanted(&["n2", "n3", "n9"]));
    assert_eq!(stranger.to_string(), "node n9 is not a member");
    assert!(matches!(refused(&disk, &wanted(&[])), RecoverError::Step(_)));
    let other = refused(&disk, &Wanted { expect: Some(RecordHash(7)), ..wanted(LOST) });
    assert!(other.to_string().contains("different records"), "{other}");
    let running = disk.store();
    let locked = refused(&disk, &wanted(LOST));
    assert!(locked.to_string().contains("another process has it open"), "{locked}");
    drop(running);
    files::forget_votes(&disk.files).unwrap();
    files::store_disk(&disk.files, DiskId(99)).unwrap();
    let wiped = refused(&disk, &wanted(LOST));
    assert!(matches!(wiped, RecoverError::NoMember { .. }), "{wiped}");
}

#[test]
fn a_store_that_was_never_formed_holds_nothing() {
    let disk = Disk::formed();
    let parent = tempfile::tempdir().unwrap();
    let dir = DataDir::Path(parent.path().join("empty"));
    let empty = look(&disk.config, (&disk.files, &dir), &wanted(LOST));
    assert!(matches!(empty, Err(RecoverError::NothingHere)));
}

#[test]
fn the_newest_record_of_all_disks_counts() {
    let disk = Disk::formed();
    let first = disk.record();
    let second = first.refresh(name("n4"), DiskId(7), reason()).unwrap();
    let third = second.refresh(name("n4"), DiskId(8), reason()).unwrap();
    files::store_record(&disk.files, &second).unwrap();
    let given = |record: &ClusterRecord| Wanted { newest: Some(record.encode()), ..wanted(LOST) };
    let found = disk.look(&given(&third)).unwrap();
    assert_eq!((found.record.epoch(), found.record.parent()), (4, third.hash()));
    let record = found.record.clone();
    found.carry_out(&disk.files).unwrap();
    assert_eq!(disk.record(), record);
    files::store_record(&disk.files, &second).unwrap();
    let older = refused(&disk, &given(&first));
    assert!(matches!(older, RecoverError::OtherRecord { given: 1, here: 2, .. }), "{older}");
    let damaged = refused(&disk, &Wanted { newest: Some(vec![1, 2, 3]), ..wanted(LOST) });
    assert!(damaged.to_string().starts_with("--record: "), "{damaged}");
}

fn reason() -> Reason {
    Reason { by: name("n1"), at: WallTime(1), note: String::new() }
}
