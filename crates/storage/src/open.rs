//! Opening and closing a store.
//!
//! The order of a start: take RocksDB's lock on the directory; check that the directory belongs to
//! this node and has this format; load the hint totals and the Merkle trees; remove the clean-stop
//! marker durably; only then is there a store that can mint. A stop is clean once all writes have
//! ended, the log is synced, and the marker is written and synced.

use std::path::Path;
use std::sync::atomic::AtomicBool;
use std::sync::{Arc, Mutex, OnceLock};

use bytes::Bytes;
use quorate_protocol::mutation::{Mutation, mutated};
use quorate_protocol::row::Incarnation;

use crate::backend::Backend;
use crate::columns::Column;
use crate::data_dir::DataDir;
use crate::directory::{directory_error, make_room, prepare_directory};
use crate::disk::DiskWatch;
use crate::engine::Engine;
use crate::error::{Error, OpenError};
use crate::feeds::Feeds;
use crate::format::{FORMAT, FORMAT_TYPED};
use crate::hints::HintAccounting;
use crate::host::{Host, Simulation};
use crate::options::{Blocking, Durability, Options, Recovery};
use crate::rocks::{self, Rocks, SyncLog};
use crate::rows::RowCache;
use crate::secondary_index;
use crate::simulated::{Memory, SimulatedDisk};
use crate::store::Store;
use crate::stripes::Stripes;
use crate::sync::GroupSync;
use crate::trees::Trees;

/// Records of this crate in `meta` have the prefix `store:`; the node's have another.
const INCARNATION: &[u8] = b"store:incarnation";

impl Store {
    /// Opens the store in `dir`, which is created if its parent exists.
    ///
    /// # Errors
    /// [`OpenError`]; its text names the directory and what to do.
    pub fn open(dir: &Path, options: Options) -> Result<Self, OpenError> {
        Self::open_with(dir, options, Rocks::default_sync())
    }

    /// Opens the store on a simulated disk, as part of a simulation: it starts no threads, reads no
    /// clock and draws no random numbers of its own.
    ///
    /// # Errors
    /// [`OpenError`]; its text names the disk.
    pub fn open_simulated(
        disk: &SimulatedDisk,
        simulation: Arc<dyn Simulation>,
        options: Options,
    ) -> Result<Self, OpenError> {
        Self::open_in(&DataDir::Simulated(disk.clone(), simulation), options)
    }

    /// Opens the store in a data directory of either kind ([`Store::open`],
    /// [`Store::open_simulated`]).
    ///
    /// # Errors
    /// [`OpenError`]; its text names the directory and what to do.
    pub fn open_in(dir: &DataDir, options: Options) -> Result<Self, OpenError> {
        match dir {
            DataDir::Path(path) => Self::open(path, options),
            DataDir::Simulated(disk, _) => {
                make_room(dir, options.disk_free_bytes_min);
                let (memory, recovery) = Memory::open(disk)?;
                Self::open_on(dir, options, Backend::Memory(memory), recovery)
            }
        }
    }

    /// As [`Store::open`], with a given function to sync the log: tests make it fail.
    pub(crate) fn open_with(
        path: &Path,
        options: Options,
        sync_log: SyncLog,
    ) -> Result<Self, OpenError> {
        let dir = DataDir::from(path);
        prepare_directory(path)?;
        make_room(&dir, options.disk_free_bytes_min);
        let (rocks, recovery) = rocks::open(path, &options, sync_log)?;
        Self::open_on(&dir, options, Backend::Rocks(Box::new(rocks)), recovery)
    }

    /// Opens a store on an open backend.
    fn open_on(
        dir: &DataDir,
        options: Options,
        backend: Backend,
        recovery: Recovery,
    ) -> Result<Self, OpenError> {
        let host = dir.host();
        let engine = Arc::new(Engine::new(backend, host.clone()));
        let unreadable = |error| not_opened(dir, error);
        let is_raised = AtomicBool::new(check_identity(dir, &engine, &options)?);
        let has_index = secondary_index::is_whole(&engine).map_err(unreadable)?;
        let hint_accounting = HintAccounting::load(&engine).map_err(unreadable)?;
        let trees = Trees::load(&engine, options.partitions).map_err(unreadable)?;
        let incarnation = choose_incarnation(dir, &host, &engine, &recovery)?;
        let feeds = Feeds::load(&engine).map_err(unreadable)?; // it writes, after the proof was looked at
        let no_thread = |error: std::io::Error| directory_error(dir, &error.to_string());
        let theirs = Arc::clone(&engine);
        let group_sync = match options.durability {
            Durability::Buffered => None,
            Durability::Fsync => {
                Some(GroupSync::start(&host, move || theirs.sync()).map_err(no_thread)?)
            }
        };
        let theirs = Arc::clone(&engine);
        let disk = DiskWatch::start(dir, &host, options.disk_free_bytes_min, move || {
            theirs.has_failed_in_background()
        });
        Ok(Self {
            disk: disk.map_err(no_thread)?,
            group_sync,
            engine,
            stripes: Stripes::new(),
            rows: RowCache::new(options.row_cache_bytes, &host),
            hint_accounting,
            trees,
            feeds,
            scrubbing: Mutex::new(()),
            incarnation,
            recovery,
            dir: dir.clone(),
            host,
            options,
            call_counters: Default::default(),
            is_raised,
            has_index: AtomicBool::new(has_index),
            n_of: OnceLock::new(),
            on_change: OnceLock::new(),
        })
    }

    /// Checks that the disk has the space to reopen this store after it failed. Releases the
    /// reserve if necessary. Blocks.
    ///
    /// # Errors
    /// How many bytes are free, and how many are needed.
    pub fn make_room_to_reopen(&self) -> Result<(), (u64, u64)> {
        let (free, needed) = make_room(&self.dir, self.options.disk_free_bytes_min);
        if free < needed { Err((free, needed)) } else { Ok(()) }
    }

    /// Refuses new writes, waits for those that have begun, syncs, and writes the proof of a clean
    /// stop. Reads work until the store is dropped. Dropping a store without this is an unclean
    /// stop: nothing acknowledged is lost, but the next start draws a new incarnation.
    ///
    /// # Errors
    /// [`Error::Failed`] if the store had failed or the last sync failed; no proof is written then.
    pub fn close(&self) -> Result<(), Error> {
        if !self.engine.close() {
            return self.engine.check_failure();
        }
        self.stripes.wait_for_all();
        if let Some(group_sync) = &self.group_sync {
            group_sync.stop();
        }
        self.engine.sync()?;
        let sequence = self.engine.sequence();
        if let Err(error) = self.dir.write_marker(self.incarnation, sequence) {
            tracing::warn!(%error, "no proof of a clean stop: the next start is a new incarnation");
        }
        Ok(())
    }
}

/// Records the identity in a new directory; refuses a directory that belongs to another. Returns whether it
/// may have typed rows.
fn check_identity(dir: &DataDir, engine: &Engine, options: &Options) -> Result<bool, OpenError> {
    let facts = [
        ("format", FORMAT.to_owned()),
        ("node", options.node.to_string()),
        ("cluster", options.cluster_id.clone()),
        ("partitions", options.partitions.to_string()),
    ];
    let name = |what: &str| [b"store:", what.as_bytes()].concat();
    if engine.sequence() == 0 {
        let write = || {
            let mut batch = engine.batch();
            for (what, wanted) in &facts {
                batch.put(Column::Meta, name(what), wanted)?;
            }
            secondary_index::record_whole(&mut batch)?;
            engine.write(batch, Blocking::Allowed)?;
            engine.sync()
        };
        return write().map(|()| false).map_err(|error| not_opened(dir, error));
    }
    let mut is_raised = false;
    for (what, wanted) in facts {
        let recorded = engine.get(Column::Meta, &name(what), Blocking::Allowed);
        let Some(found) = recorded.map_err(|error| not_opened(dir, error))? else {
            let reason = format!("it does not say which {what} it belongs to");
            return Err(OpenError::Damaged { dir: dir.path(), reason });
        };
        if what == "format" && found == FORMAT_TYPED.as_bytes() {
            is_raised = true;
        } else if found != wanted.as_bytes() {
            let found = String::from_utf8_lossy(&found).into_owned();
            if what == "format" {
                let dir = dir.path();
                return Err(OpenError::OtherFormat { dir, found, wanted: FORMAT });
            }
            return Err(OpenError::OtherIdentity { dir: dir.path(), what, found, wanted });
        }
    }
    Ok(is_raised)
}

/// The incarnation of the last run if it provably stopped cleanly, otherwise a new one, recorded
/// and synced.
fn choose_incarnation(
    dir: &DataDir,
    host: &Host,
    engine: &Engine,
    recovery: &Recovery,
) -> Result<Incarnation, OpenError> {
    let recorded = engine
        .get(Column::Meta, INCARNATION, Blocking::Allowed)
        .map_err(|error| not_opened(dir, error))?
        .and_then(|bytes: Bytes| bytes.as_ref().try_into().ok())
        .map(|bytes| Incarnation(u64::from_le_bytes(bytes)));
    let sequence = engine.sequence();
    let proven = dir
        .consume_marker(recorded, sequence)
        .map_err(|error| directory_error(dir, &format!("the clean-stop marker: {error}")))?;
    let proven = proven || mutated(Mutation::ActorSurvivesCrash);
    let proven = proven || mutated(Mutation::RestoreKeepsActors);
    if let (Some(incarnation), true, Recovery::Whole) = (recorded, proven, recovery) {
        return Ok(incarnation);
    }
    let incarnation = Incarnation(host.random_nonzero());
    let write = || {
        let mut batch = engine.batch();
        batch.put(Column::Meta, INCARNATION, incarnation.0.to_le_bytes())?;
        engine.write(batch, Blocking::Allowed)?;
        engine.sync()
    };
    write().map_err(|error| not_opened(dir, error))?;
    Ok(incarnation)
}

fn not_opened(dir: &DataDir, error: Error) -> OpenError {
    match error {
        Error::Damaged { what, reason } | Error::Newer { what, reason } => {
            OpenError::Damaged { dir: dir.path(), reason: format!("{what}: {reason}") }
        }
        Error::WouldBlock
        | Error::HintsFull { .. }
        | Error::DiskLow { .. }
        | Error::Failed(_)
        | Error::Io(_)
        | Error::Closed => directory_error(dir, &error.to_string()),
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use std::fs;
    use std::path::PathBuf;
    use std::process::Command;

    use quorate_protocol::layout::Partition;
    use rocksdb::DB;

    use super::*;
    use crate::rocks::DATABASE;
    use crate::testing::{HOME, mint, node, object, open, open_as, options, wait};

    #[test]
    fn only_a_clean_stop_keeps_the_incarnation() {
        for durability in [Durability::Fsync, Durability::Buffered] {
            let dir = tempfile::tempdir().unwrap();
            let store = open(dir.path(), durability);
            let first = store.incarnation();
            assert_ne!(first.0, 0);
            mint(&store, HOME, "k", b"v");
            store.close().unwrap();
            drop(store);
            let store = open(dir.path(), durability);
            assert_eq!(store.incarnation(), first);
            drop(store);
            let store = open(dir.path(), durability);
            assert_ne!(store.incarnation(), first, "it was dropped without being closed");
            assert!(object(&store, HOME, "k").is_some());
        }
    }

    #[test]
    fn a_copy_of_a_cleanly_stopped_directory_is_a_new_incarnation() {
        let parent = tempfile::tempdir().unwrap();
        let (dir, copy) = (parent.path().join("data"), parent.path().join("copy"));
        let store = open(&dir, Durability::Fsync);
        let first = store.incarnation();
        let before = mint(&store, HOME, "k", b"v").object;
        store.close().unwrap();
        drop(store);
        assert!(Command::new("cp").arg("-a").args([&dir, &copy]).status().unwrap().success());
        let cloned = open(&copy, Durability::Fsync);
        assert_ne!(cloned.incarnation(), first);
        assert_eq!(object(&cloned, HOME, "k"), Some(before));
        cloned.close().unwrap();
        drop(cloned);
        // Old data put under a newer marker is not a clean stop either.
        let store = open(&dir, Durability::Fsync);
        assert_eq!(store.incarnation(), first);
        mint(&store, HOME, "l", b"v");
        store.close().unwrap();
        drop(store);
        fs::remove_dir_all(dir.join(DATABASE)).unwrap();
        fs::rename(copy.join(DATABASE), dir.join(DATABASE)).unwrap();
        assert_ne!(open(&dir, Durability::Fsync).incarnation(), first);
    }

    #[test]
    fn a_closed_store_refuses_writes_and_serves_reads() {
        let dir = tempfile::tempdir().unwrap();
        let store = open(dir.path(), Durability::Fsync);
        let minted = mint(&store, HOME, "k", b"v").object;
        let pending = store.durable();
        store.close().unwrap();
        assert_eq!(wait(pending), Ok(()), "waiters are served");
        assert_eq!(store.close(), Ok(()));
        assert_eq!(wait(store.durable()), Ok(()));
        let late = crate::testing::try_mint(&store, HOME, "k", b"w", Blocking::Allowed).err();
        assert_eq!((late, store.put_meta("m", b"v")), (Some(Error::Closed), Err(Error::Closed)));
        assert_eq!(object(&store, HOME, "k"), Some(minted));
    }

    #[test]
    fn the_directory_of_another_is_refused_by_name() {
        let dir = tempfile::tempdir().unwrap();
        drop(open(dir.path(), Durability::Fsync));
        let ours = options(Durability::Fsync);
        let others = [
            (Options { node: node("n2"), ..ours.clone() }, "node \"n1\"", "\"n2\""),
            (Options { cluster_id: "prod".into(), ..ours.clone() }, "cluster \"test\"", "\"prod\""),
            (Options { partitions: 128, ..ours }, "partitions \"64\"", "\"128\""),
        ];
        for (other, found, wanted) in others {
            let error = open_as(dir.path(), other).err().unwrap();
            assert!(matches!(error, OpenError::OtherIdentity { .. }), "{error}");
            let text = error.to_string();
            assert!(text.contains(found) && text.contains(wanted), "{text}");
            assert!(text.contains(&dir.path().display().to_string()), "{text}");
        }
    }

    #[test]
    fn directories_of_another_format_are_refused_by_name_and_left_as_they_are() {
        let refusal = |dir: &Path| Store::open(dir, options(Durability::Fsync)).err().unwrap();
        let dir = tempfile::tempdir().unwrap();
        let mut old = rocksdb::Options::default();
        old.create_if_missing(true);
        old.create_missing_column_families(true);
        let families = ["objects", "hints", "hint_totals", "conflicts", "meta"];
        let database = DB::open_cf(&old, dir.path().join(DATABASE), families).unwrap();
        database.put_cf(database.cf_handle("meta").unwrap(), b"store:node", b"n1").unwrap();
        drop(database);
        let error = refusal(dir.path());
        assert!(matches!(&error, OpenError::OtherFormat { found, .. } if found == "1"), "{error}");
        assert!(error.to_string().contains(&dir.path().display().to_string()), "{error}");
        drop(DB::open_cf(&old, dir.path().join(DATABASE), families).unwrap());

        let dir = tempfile::tempdir().unwrap();
        let store = open(dir.path(), Durability::Fsync);
        store.tamper(|batch| batch.put(Column::Meta, b"store:format", b"4"));
        store.close().unwrap();
        drop(store);
        let error = refusal(dir.path());
        assert!(matches!(&error, OpenError::OtherFormat { found, .. } if found == "4"), "{error}");
    }

    #[test]
    fn a_directory_whose_first_start_was_killed_becomes_a_store() {
        let all: Vec<&str> = Column::ALL.iter().map(|column| column.name()).collect();
        for created in 0..=all.len() {
            let dir = tempfile::tempdir().unwrap();
            let mut options = rocksdb::Options::default();
            options.create_if_missing(true);
            options.create_missing_column_families(true);
            drop(DB::open_cf(&options, dir.path().join(DATABASE), &all[..created]).unwrap());
            let store = open(dir.path(), Durability::Fsync);
            mint(&store, HOME, "k", b"v");
            store.close().unwrap();
            drop(store);
            assert!(object(&open(dir.path(), Durability::Fsync), HOME, "k").is_some());
        }
    }

    #[test]
    fn directories_that_cannot_be_used_are_named() {
        let dir = tempfile::tempdir().unwrap();
        let refusal = |path: &Path| Store::open(path, options(Durability::Fsync)).err().unwrap();
        let orphan = dir.path().join("no/data");
        assert_eq!(refusal(&orphan), OpenError::NoParent { dir: orphan });
        let file = dir.path().join("file");
        fs::write(&file, b"x").unwrap();
        assert!(matches!(refusal(&file), OpenError::Directory { dir, .. } if dir == file));
        let data = dir.path().join("data");
        let store = open(&data, Durability::Fsync);
        assert_eq!(refusal(&data), OpenError::Locked { dir: data.clone() });
        drop(store);
        drop(open(&data, Durability::Fsync));
    }

    #[test]
    fn a_database_without_current_is_not_taken_for_an_empty_one() {
        let dir = tempfile::tempdir().unwrap();
        let store = open(dir.path(), Durability::Fsync);
        mint(&store, HOME, "k", b"v");
        store.close().unwrap();
        drop(store);
        let (head, away) = (dir.path().join("rocksdb/CURRENT"), dir.path().join("away"));
        fs::rename(&head, &away).unwrap();
        let error = Store::open(dir.path(), options(Durability::Fsync)).err().unwrap();
        assert!(matches!(error, OpenError::Damaged { .. }), "{error}");
        fs::rename(&away, &head).unwrap();
        assert!(object(&open(dir.path(), Durability::Fsync), HOME, "k").is_some());
    }

    /// The newest log file of a store with 100 synced rows, and the store's directory.
    fn store_with_log() -> (tempfile::TempDir, PathBuf) {
        let dir = tempfile::tempdir().unwrap();
        let store = open(dir.path(), Durability::Fsync);
        for i in 0..100 {
            mint(&store, HOME, &format!("k{i:02}"), &[7; 1000]);
            wait(store.durable()).unwrap();
        }
        drop(store);
        let logs =
            fs::read_dir(dir.path().join(DATABASE)).unwrap().map(|entry| entry.unwrap().path());
        let log = logs.filter(|path| path.extension().is_some_and(|e| e == "log")).max().unwrap();
        (dir, log)
    }

    #[test]
    fn a_torn_tail_of_the_log_is_dropped() {
        let (dir, log) = store_with_log();
        let bytes = fs::read(&log).unwrap();
        assert!(bytes.len() > 100_000);
        fs::write(&log, &bytes[..bytes.len() - 500]).unwrap();
        let store = open(dir.path(), Durability::Fsync);
        assert_eq!(store.recovery(), &Recovery::Whole);
        assert!(object(&store, HOME, "k98").is_some());
        assert_eq!(object(&store, HOME, "k99"), None);
        assert_eq!(store.scan_partition(Partition(3), None, 200, usize::MAX).unwrap().len(), 99);
    }

    #[test]
    fn a_log_damaged_in_the_middle_is_truncated_and_reported() {
        let (dir, log) = store_with_log();
        let mut bytes = fs::read(&log).unwrap();
        let middle = bytes.len() / 2;
        bytes[middle] ^= 0xff;
        fs::write(&log, &bytes).unwrap();
        let store = open(dir.path(), Durability::Fsync);
        assert!(matches!(store.recovery(), Recovery::CutShort(_)), "{:?}", store.recovery());
        assert!(object(&store, HOME, "k00").is_some());
        assert_eq!(object(&store, HOME, "k99"), None);
    }

    crate::testing::also_on_simulated_disks! {
        only_a_clean_stop_keeps_the_incarnation,
        a_closed_store_refuses_writes_and_serves_reads,
        the_directory_of_another_is_refused_by_name,
    }
}
