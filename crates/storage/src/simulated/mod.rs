//! A simulated disk: the contents of one node's data directory in memory, that outlive the store on
//! it, and that fail when they are told to.
//!
//! No threads, no clock and no randomness: a same sequence of calls gives the same result. What a
//! killed process or a power cut leaves is exactly what the log allows ([`database`]): a batch
//! is there as a whole or not at all, and never without those before it.

mod database;
mod entries;
mod files;
mod memory;
mod tables;

use std::collections::BTreeMap;
use std::fmt;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use bytes::Bytes;
use quorate_protocol::name::Key;
use xxhash_rust::xxh3::xxh3_64_with_seed;

pub use self::database::Crash;
use self::database::Database;
pub(crate) use self::entries::Entries;
use self::files::Files;
pub(crate) use self::memory::{Batch, Memory, Snapshot};
use self::tables::Tables;
use crate::options::Place;

/// One node's disk. Clones are handles to the same disk; [`SimulatedDisk::copy`] is another one.
///
/// Functions that take a `cut` let the caller choose, by a random number, which of all possible
/// outcomes happens.
#[derive(Clone)]
pub struct SimulatedDisk(Arc<Mutex<State>>);

struct State {
    contents: Contents,
    /// The number of the process that has it open.
    process: Option<u64>,
    /// How many processes have opened it.
    opened: u64,
}

/// What is there whether a process has it open or not.
struct Contents {
    /// What messages call it.
    name: String,
    database: Database,
    files: Files,
    faults: Faults,
}

/// Faults that wait for the call they are for.
#[derive(Clone, Copy, Default)]
struct Faults {
    fail_sync: bool,
    fail_write: bool,
    block_read: bool,
    block_write: bool,
}

/// How far the log has got, in batches since the last time it was emptied into tables.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct LogPositions {
    /// Written, at least to the process's buffer.
    pub written: usize,
    /// Of these, flushed to the operating system.
    pub flushed: usize,
    /// Of these, synced.
    pub synced: usize,
}

impl SimulatedDisk {
    /// An empty disk. The name is for messages, and tells its identity from that of other disks.
    pub fn new(name: &str) -> Self {
        Self::of(name, Tables::default())
    }

    /// A disk that holds only tables.
    fn of(name: &str, tables: Tables) -> Self {
        let files = Files::new(xxh3_64_with_seed(name.as_bytes(), 0));
        Self::with(name.to_owned(), Database::of(tables), files)
    }

    fn with(name: String, database: Database, files: Files) -> Self {
        let contents = Contents { name, database, files, faults: Faults::default() };
        Self(Arc::new(Mutex::new(State { contents, process: None, opened: 0 })))
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The path that messages name it by.
    pub(crate) fn path(&self) -> PathBuf {
        PathBuf::from(&self.lock().contents.name)
    }

    /// Kills the process that has it open: a prefix of the batches that were not flushed is left,
    /// none with a `cut` of 0. The store that was open fails from now on.
    pub fn kill(&self, cut: u64) {
        let mut state = self.lock();
        state.process = None;
        state.contents.database.lose_buffer(cut);
        state.contents.files.each_set(|set| set.kill(cut));
    }

    /// Cuts the power: a prefix of the batches that were not synced is left, none with a `cut` of 0.
    /// The machine restarts.
    pub fn lose_power(&self, cut: u64) {
        let mut state = self.lock();
        state.process = None;
        state.contents.database.lose_unsynced(cut);
        state.contents.files.restart();
        state.contents.files.each_set(|set| set.lose_power(cut));
    }

    /// Kills the process that has it open, and empties the disk.
    pub fn wipe(&self) {
        let mut state = self.lock();
        state.process = None;
        state.contents.database = Database::default();
        state.contents.files.wipe();
    }

    /// A backup: another disk with the same contents, in so far as they are flushed.
    pub fn copy(&self) -> Self {
        let mut state = self.lock();
        let mut database = state.contents.database.clone();
        database.recover();
        let (name, files) =
            (format!("a copy of {}", state.contents.name), state.contents.files.copy());
        Self::with(name, database, files)
    }

    /// Kills the process that has it open, and replaces the contents by those of a copy, which stays
    /// as it is.
    pub fn restore(&self, copy: &Self) {
        let copy = copy.copy();
        let mut from = copy.lock();
        let mut state = self.lock();
        state.process = None;
        state.contents.database = std::mem::take(&mut from.contents.database);
        state.contents.files.restore(&from.contents.files);
    }

    /// The next sync fails, and it is unknown what of the batches that it was for is left.
    pub fn fail_next_sync(&self) {
        self.lock().contents.faults.fail_sync = true;
    }

    /// No sync is about to fail.
    pub fn forgive_next_sync(&self) {
        self.lock().contents.faults.fail_sync = false;
    }

    /// The next write of a batch fails.
    pub fn fail_next_write(&self) {
        self.lock().contents.faults.fail_write = true;
    }

    /// The next read that may not block, and that no cache answers, would block.
    pub fn block_next_read(&self) {
        self.lock().contents.faults.block_read = true;
    }

    /// The next write that may not block would block.
    pub fn block_next_write(&self) {
        self.lock().contents.faults.block_write = true;
    }

    /// Sets the free space, in bytes: a flush that needs more fails, and stores see it when they look
    /// at the disk. It stays so but for what the store's reserve takes and gives back.
    pub fn set_free_bytes(&self, bytes: u64) {
        self.lock().contents.files.free_bytes = bytes;
    }

    /// Makes the stored value of a row unreadable, as if its checksum were wrong, until it is
    /// replaced. A store's row cache may still have it. Returns whether there is such a row.
    pub fn damage_row(&self, place: Place, key: &Key) -> bool {
        let tables = &mut self.lock().contents.database.tables;
        tables.damage(place.column(), &place.row_key(key))
    }

    /// Damages the log at a batch before its last one, that `which` chooses, synced or not: the next
    /// start loses it and all behind it, and reports it. Returns whether there was one.
    pub fn damage_log(&self, which: u64) -> bool {
        self.lock().contents.database.damage_log(which)
    }

    /// A row, encoded, as it would be if the worst crash of this kind happened now; `None` if there would be
    /// none.
    pub fn surviving_row(&self, crash: Crash, place: Place, key: &Key) -> Option<Bytes> {
        let database = &self.lock().contents.database;
        let row = database.surviving(crash, place.column(), &place.row_key(key));
        row.map(|row| Bytes::copy_from_slice(&row))
    }

    /// Two numbers that change whenever what is stored changes: how often it was opened, and the number of
    /// the last change.
    pub fn position(&self) -> (u64, u64) {
        let state = self.lock();
        (state.opened, state.contents.database.tables.sequence)
    }

    /// How far its log has got.
    pub fn log_positions(&self) -> LogPositions {
        let (written, flushed, synced) = self.lock().contents.database.positions();
        LogPositions { written, flushed, synced }
    }

    /// The sets of rows that were set aside on it, by name: oldest first, as [`crate::sets_aside`].
    pub fn sets_aside(&self) -> BTreeMap<String, SimulatedDisk> {
        self.lock().contents.files.sets()
    }

    /// Removes a set for good. Returns whether there was one.
    pub fn remove_set(&self, name: &str) -> bool {
        self.lock().contents.files.remove_set(name)
    }
}

impl fmt::Debug for SimulatedDisk {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("SimulatedDisk").field(&self.lock().contents.name).finish()
    }
}
