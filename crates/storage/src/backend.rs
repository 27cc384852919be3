//! The key-value engine below [`crate::engine`]: what a store needs of one, and nothing more.
//!
//! All above this file is one code; what is below exists twice: RocksDB ([`crate::rocks`]), and a
//! simulated disk in memory ([`crate::simulated`]). An engine has columns of ordered entries, applies
//! a batch atomically, and logs it: a batch is first written (to the process's buffer), then flushed
//! (to the operating system), then synced (to the disk).
//!
//! Enums and not trait objects: a batch or an iterator would be an allocation more on every call.

use crate::columns::Column;
use crate::database_stats::DatabaseStats;
use crate::error::Error;
use crate::options::Blocking;
use crate::rocks::{self, Rocks};
use crate::simulated::{self, Memory};
use crate::walk::end_of;

/// The engine of an open store.
pub(crate) enum Backend {
    Rocks(Box<Rocks>),
    Memory(Memory),
}

/// Changes that are written together, or not at all.
pub(crate) enum Batch<'a> {
    Rocks(rocks::Batch<'a>),
    Memory(simulated::Batch),
}

/// A position in the entries of a range: at none until [`Entries::seek`].
pub(crate) enum Entries<'a> {
    Rocks(rocks::Entries<'a>),
    Memory(simulated::Entries),
}

/// The state of all columns at one moment, unchanged by later writes.
pub(crate) enum Snapshot<'a> {
    Rocks(rocks::Snapshot<'a>),
    Memory(simulated::Snapshot),
}

/// Why a batch was not written.
pub(crate) enum NotWritten {
    /// Writes are stalled, and the call may not block.
    WouldBlock,
    /// It failed, for this reason.
    Failed(String),
}

/// Keys from `start` on and below `end`, if there is one.
pub(crate) struct Range {
    pub(crate) start: Vec<u8>,
    pub(crate) end: Option<Vec<u8>>,
}

impl Range {
    /// All keys of a column.
    pub(crate) fn all() -> Self {
        Self { start: Vec::new(), end: None }
    }

    /// The keys from `start` on that begin with `prefix`.
    pub(crate) fn from(start: Vec<u8>, prefix: &[u8]) -> Self {
        Self { start, end: end_of(prefix) }
    }
}

/// Passes a call on to whichever of the two it is.
macro_rules! either {
    ($self:ident, $it:ident => $call:expr) => {
        match $self {
            Self::Rocks($it) => $call,
            Self::Memory($it) => $call,
        }
    };
}

impl Backend {
    /// What `take` extracts from a value; `None` if there is none.
    pub(crate) fn get_with<T>(
        &self,
        column: Column,
        key: &[u8],
        blocking: Blocking,
        take: impl FnOnce(&[u8]) -> T,
    ) -> Result<Option<T>, Error> {
        either!(self, engine => engine.get_with(column, key, blocking, take))
    }

    /// An empty batch with room for this many bytes.
    pub(crate) fn batch(&self, bytes: usize) -> Batch<'_> {
        match self {
            Self::Rocks(rocks) => Batch::Rocks(rocks.batch(bytes)),
            Self::Memory(_) => Batch::Memory(simulated::Batch::default()),
        }
    }

    /// Writes a batch of this backend, atomically.
    pub(crate) fn write(&self, batch: Batch<'_>, blocking: Blocking) -> Result<(), NotWritten> {
        match (self, batch) {
            (Self::Rocks(rocks), Batch::Rocks(batch)) => rocks.write(batch, blocking),
            (Self::Memory(memory), Batch::Memory(batch)) => memory.write(batch, blocking),
            (Self::Rocks(_), Batch::Memory(_)) | (Self::Memory(_), Batch::Rocks(_)) => {
                Err(NotWritten::Failed("a batch of another backend".to_owned()))
            }
        }
    }

    /// Flushes the log: all batches written before survive a killed process.
    pub(crate) fn flush_log(&self) -> Result<(), String> {
        either!(self, engine => engine.flush_log())
    }

    /// Flushes and syncs the log: all batches written before survive a power cut.
    pub(crate) fn sync_log(&self) -> Result<(), String> {
        either!(self, engine => engine.sync_log())
    }

    /// The number of the last change.
    pub(crate) fn sequence(&self) -> u64 {
        either!(self, engine => engine.sequence())
    }

    /// Entries in key order, as they are now.
    pub(crate) fn entries(&self, column: Column, range: Range) -> Result<Entries<'_>, Error> {
        match self {
            Self::Rocks(rocks) => rocks.entries(column, range).map(Entries::Rocks),
            Self::Memory(memory) => memory.entries(column, range).map(Entries::Memory),
        }
    }

    /// A snapshot of now.
    pub(crate) fn snapshot(&self) -> Result<Snapshot<'_>, Error> {
        match self {
            Self::Rocks(rocks) => Ok(Snapshot::Rocks(rocks.snapshot())),
            Self::Memory(memory) => memory.snapshot().map(Snapshot::Memory),
        }
    }

    /// Gives the space of a column back whose entries were all deleted and synced.
    pub(crate) fn release_space(&self, column: Column) -> Result<(), Error> {
        match self {
            Self::Rocks(rocks) => rocks.release_space(column),
            Self::Memory(_) => Ok(()),
        }
    }

    /// Flushes and compactions that have failed since it was opened.
    pub(crate) fn background_errors(&self) -> u64 {
        match self {
            Self::Rocks(rocks) => rocks.background_errors(),
            Self::Memory(_) => 0,
        }
    }

    /// Disk reads by calls that may not block.
    pub(crate) fn reads_in_place(&self) -> u64 {
        match self {
            Self::Rocks(rocks) => rocks.read_offload.in_place(),
            Self::Memory(_) => 0,
        }
    }

    /// Bytes of its cache of blocks.
    pub(crate) fn cache_bytes(&self) -> u64 {
        match self {
            Self::Rocks(rocks) => rocks.cache_bytes(),
            Self::Memory(_) => 0,
        }
    }

    /// About how many entries a column has.
    pub(crate) fn entries_estimate(&self, column: Column) -> u64 {
        either!(self, engine => engine.entries_estimate(column))
    }

    /// Adds what the engine says of itself to the numbers of a store.
    pub(crate) fn add_stats(&self, stats: &mut DatabaseStats) {
        either!(self, engine => engine.add_stats(stats));
    }
}

impl Batch<'_> {
    /// Sets a value.
    pub(crate) fn put(
        &mut self,
        column: Column,
        key: impl AsRef<[u8]>,
        value: impl AsRef<[u8]>,
    ) -> Result<(), Error> {
        either!(self, batch => batch.put(column, key.as_ref(), value.as_ref()))
    }

    /// Deletes a value.
    pub(crate) fn delete(&mut self, column: Column, key: impl AsRef<[u8]>) -> Result<(), Error> {
        either!(self, batch => batch.delete(column, key.as_ref()))
    }

    /// Changes a value by the column's merge operator ([`Column::merge`]).
    pub(crate) fn merge(
        &mut self,
        column: Column,
        key: impl AsRef<[u8]>,
        change: impl AsRef<[u8]>,
    ) -> Result<(), Error> {
        either!(self, batch => batch.merge(column, key.as_ref(), change.as_ref()))
    }

    /// Deletes all values of a column.
    pub(crate) fn delete_all(&mut self, column: Column) -> Result<(), Error> {
        either!(self, batch => batch.delete_all(column))
    }

    /// Whether it changes nothing.
    pub(crate) fn is_empty(&self) -> bool {
        either!(self, batch => batch.is_empty())
    }
}

impl Entries<'_> {
    /// Goes to the first entry of the range whose key is not less than `key`.
    pub(crate) fn seek(&mut self, key: &[u8]) {
        either!(self, entries => entries.seek(key));
    }

    /// Goes to the first entry of the range.
    fn seek_to_first(&mut self) {
        either!(self, entries => entries.seek_to_first());
    }

    /// The entry here; `None` at the end, and where one cannot be read ([`Entries::check`]).
    pub(crate) fn item(&self) -> Option<(&[u8], &[u8])> {
        either!(self, entries => entries.item())
    }

    /// Goes to the next entry.
    pub(crate) fn next(&mut self) {
        either!(self, entries => entries.next());
    }

    /// Whether all entries up to here could be read.
    ///
    /// # Errors
    /// [`Error::Damaged`], [`Error::Io`].
    pub(crate) fn check(&self) -> Result<(), Error> {
        either!(self, entries => entries.check())
    }

    /// Calls `visit` with each entry until it returns `false`.
    pub(crate) fn visit(
        mut self,
        mut visit: impl FnMut(&[u8], &[u8]) -> Result<bool, Error>,
    ) -> Result<(), Error> {
        self.seek_to_first();
        while let Some((key, value)) = self.item() {
            if !visit(key, value)? {
                return Ok(());
            }
            self.next();
        }
        self.check()
    }
}

impl Snapshot<'_> {
    /// A value; `None` if there is none.
    pub(crate) fn get(&self, column: Column, key: &[u8]) -> Result<Option<Vec<u8>>, Error> {
        either!(self, snapshot => snapshot.get(column, key))
    }

    /// Entries in key order.
    pub(crate) fn entries(&self, column: Column, range: Range) -> Result<Entries<'_>, Error> {
        match self {
            Self::Rocks(snapshot) => snapshot.entries(column, range).map(Entries::Rocks),
            Self::Memory(snapshot) => Ok(Entries::Memory(snapshot.entries(column, range))),
        }
    }
}
