//! How a store behaves on a completely full disk: tests on small in-memory file systems. Only root
//! can mount them; otherwise these tests say so and pass.

use std::fs::File;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use quorate_protocol::object::Object;
use rustix::fs::{FallocateFlags, fallocate};
use tempfile::TempDir;

use crate::data_dir::free_bytes;
use crate::testing::{HOME, LIMITS, NOW, draft, key, mint, object, options, try_mint, wait};
use crate::{Blocking, Condition, Durability, Error, OpenError, Options, Store};

const MIB: u64 = 1 << 20;
const MIN: u64 = 16 * MIB;

/// A small file system of its own.
struct Disk {
    dir: TempDir,
}

impl Disk {
    fn mount() -> Option<Self> {
        let dir = tempfile::tempdir().unwrap();
        let mount = ["-t", "tmpfs", "-o", "size=128m", "tmpfs"];
        let mounted = Command::new("mount").args(mount).arg(dir.path()).output();
        if mounted.is_ok_and(|mounted| mounted.status.success()) {
            return Some(Self { dir });
        }
        eprintln!("skipped: only root can mount a file system to fill");
        None
    }

    fn data(&self) -> PathBuf {
        self.dir.path().join("data")
    }

    fn free(&self) -> u64 {
        free_bytes(self.dir.path()).unwrap()
    }

    /// Fills it, leaving `left` bytes free.
    fn fill(&self, left: u64) {
        let filler = File::options().create(true).append(true).open(self.filler()).unwrap();
        for piece in [MIB, 4096] {
            let mut at = filler.metadata().unwrap().len();
            while self.free() > left
                && fallocate(&filler, FallocateFlags::empty(), at, piece.min(self.free())).is_ok()
            {
                at = filler.metadata().unwrap().len();
            }
        }
    }

    fn empty(&self) {
        std::fs::remove_file(self.filler()).unwrap();
    }

    fn filler(&self) -> PathBuf {
        self.dir.path().join("filler")
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        drop(Command::new("umount").arg("-l").arg(self.dir.path()).status());
    }
}

fn with_watermark() -> Options {
    Options { disk_free_bytes_min: MIN, ..options(Durability::Fsync) }
}

fn open(dir: &Path, options: Options) -> Store {
    Store::open(dir, options).unwrap()
}

fn until(what: &str, mut holds: impl FnMut() -> bool) {
    let begun = Instant::now();
    while !holds() {
        assert!(begun.elapsed() < Duration::from_secs(30), "timed out waiting until {what}");
        std::thread::sleep(Duration::from_millis(10));
    }
}

/// A synced delete of what a key holds.
fn delete(store: &Store, name: &str, was: &Object) -> Result<(), Error> {
    let mut draft = draft(was.clock.clone(), b"");
    draft.value = None;
    draft.context_stamp = was.stamp_max();
    store.mint(HOME, &key(name), &draft, NOW, &LIMITS, Blocking::Allowed)?.unwrap();
    wait(store.durable())
}

fn is_low(store: &Store) -> bool {
    matches!(store.condition(), Condition::DiskLow { .. })
}

fn reserve_is_allocated(disk: &Disk) -> bool {
    disk.data().join("reserve").metadata().is_ok_and(|reserve| reserve.len() >= MIN)
}

#[test]
fn a_full_disk_serves_reads_and_deletes_and_writes_once_there_is_space() {
    let Some(disk) = Disk::mount() else { return };
    let store = open(&disk.data(), with_watermark());
    let kept = mint(&store, HOME, "kept", &[7; 1000]).object;
    let gone = mint(&store, HOME, "gone", &[7; 1000]).object;
    until("the reserve is allocated", || reserve_is_allocated(&disk));
    disk.fill(0);
    let takes_deletes =
        || !matches!(store.condition(), Condition::DiskLow { takes_deletes: false, .. });
    until("the disk is full", || !takes_deletes());
    let late = || try_mint(&store, HOME, "late", b"v", Blocking::Allowed).err();
    assert!(matches!(late(), Some(Error::DiskLow { .. })));
    let merged = store.merge(HOME, &key("copy"), &kept, NOW, Blocking::Allowed);
    assert!(matches!(merged, Err(Error::DiskLow { .. })), "{merged:?}");
    assert_eq!(object(&store, HOME, "kept").as_ref(), Some(&kept));
    // The free space has stopped falling: there is room for deletes.
    until("deletes are taken", || delete(&store, "gone", &gone).is_ok());
    assert!(!reserve_is_allocated(&disk));
    let deleted = object(&store, HOME, "gone").unwrap();
    assert!(deleted.is_deleted());
    let merged = store.merge(HOME, &key("copy"), &deleted, NOW, Blocking::Allowed);
    assert!(merged.is_ok_and(|merged| merged.changed), "a delete that comes from elsewhere");
    assert!(matches!(late(), Some(Error::DiskLow { .. })));
    disk.empty();
    until("writes are taken", || late().is_none());
    assert_eq!(wait(store.durable()), Ok(()));
    until("the reserve is allocated again", || reserve_is_allocated(&disk));
    assert_eq!(store.condition(), Condition::Healthy);
}

#[test]
fn a_store_opens_on_a_full_disk_and_takes_deletes() {
    let Some(disk) = Disk::mount() else { return };
    let store = open(&disk.data(), with_watermark());
    let gone = mint(&store, HOME, "gone", &[7; 100_000]).object;
    assert_eq!(wait(store.durable()), Ok(()));
    until("the reserve is allocated", || reserve_is_allocated(&disk));
    drop(store); // as by kill -9
    disk.fill(0);
    let store = open(&disk.data(), with_watermark());
    assert!(is_low(&store));
    assert_eq!(object(&store, HOME, "gone").as_ref(), Some(&gone));
    assert_eq!(delete(&store, "gone", &gone), Ok(()));
    assert_eq!(store.close(), Ok(()));
}

#[test]
fn a_store_that_cannot_open_for_lack_of_space_says_so() {
    let Some(disk) = Disk::mount() else { return };
    let store = open(&disk.data(), options(Durability::Fsync));
    let kept = mint(&store, HOME, "kept", &[7; 100_000]).object;
    assert_eq!(wait(store.durable()), Ok(()));
    drop(store);
    disk.fill(0);
    let error = Store::open(&disk.data(), options(Durability::Fsync)).err().unwrap();
    assert!(matches!(error, OpenError::DiskFull { .. }), "{error}");
    assert!(error.to_string().contains("its disk is full"), "{error}");
    disk.empty();
    let store = open(&disk.data(), options(Durability::Fsync));
    assert_eq!(object(&store, HOME, "kept"), Some(kept), "nothing is lost");
}

#[test]
fn a_store_that_failed_for_lack_of_space_serves_reads_and_reopens() {
    let Some(disk) = Disk::mount() else { return };
    let store = open(&disk.data(), options(Durability::Fsync));
    let incarnation = store.incarnation();
    let kept = mint(&store, HOME, "kept", &[7; 1000]).object;
    assert_eq!(wait(store.durable()), Ok(()));
    disk.fill(0);
    let value = vec![7; 100_000];
    let mut acked = Vec::new();
    for i in 0.. {
        let minted = try_mint(&store, HOME, &format!("k{i}"), &value, Blocking::Allowed);
        match minted.map(|_| wait(store.durable())) {
            Ok(Ok(())) => acked.push(i),
            Ok(Err(_)) | Err(_) => break,
        }
        assert!(i < 10_000, "the disk is not full");
    }
    assert!(matches!(store.condition(), Condition::Failed(_)));
    assert_eq!(object(&store, HOME, "kept"), Some(kept), "reads still work");
    // A flush that failed may give back what it took, now or a little later.
    let fill = |_| {
        disk.fill(0);
        store.make_room_to_reopen().err()
    };
    let (free, needed) = (0..100).find_map(fill).expect("the disk stays full in the end");
    assert!(free < needed);
    disk.empty();
    assert_eq!(store.make_room_to_reopen(), Ok(()));
    drop(store);
    let store = open(&disk.data(), options(Durability::Fsync));
    assert_ne!(store.incarnation(), incarnation);
    for i in acked {
        assert!(object(&store, HOME, &format!("k{i}")).is_some(), "k{i} was acknowledged");
    }
    mint(&store, HOME, "late", b"v");
    assert_eq!(wait(store.durable()), Ok(()));
}
