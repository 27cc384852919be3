//! RocksDB as a [`crate::backend`].

mod cursor;
mod open;
mod options;
mod read_offload;
mod stats;

use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};

use rocksdb::checkpoint::Checkpoint;
use rocksdb::{
    Cache, ColumnFamily, DB, ErrorKind, ReadOptions, ReadTier, WriteBatch, WriteOptions,
};

pub(crate) use self::cursor::{Entries, Snapshot};
pub(crate) use self::open::{DATABASE, check_contents, log_bytes, open};
pub(crate) use self::read_offload::ReadOffload;
use crate::backend::NotWritten;
use crate::columns::Column;
use crate::error::Error;
use crate::options::Blocking;

/// Syncs the log: `flush_wal(true)`, or a function that fails in tests.
pub(crate) type SyncLog = Box<dyn Fn(&DB) -> Result<(), String> + Send + Sync>;

/// Greater than every key.
const END: [u8; 2048] = [u8::MAX; 2048];

/// An open database.
pub(crate) struct Rocks {
    db: DB,
    cache: Cache,
    sync_log: SyncLog,
    /// Reads that may not block and found everything in memory, and those that did not.
    memory_reads: AtomicU64,
    disk_reads: AtomicU64,
    modes: [Mode; 2],
    pub(crate) read_offload: ReadOffload,
}

/// RocksDB's options for calls that may block, or may not. Created once: each is an allocation
/// across the FFI boundary.
struct Mode {
    read: ReadOptions,
    write: WriteOptions,
}

impl Mode {
    fn new(blocking: Blocking) -> Self {
        let (mut read, mut write) = (ReadOptions::default(), WriteOptions::default());
        if blocking == Blocking::Never {
            read.set_read_tier(ReadTier::BlockCache);
        }
        write.set_no_slowdown(blocking == Blocking::Never);
        Self { read, write }
    }
}

impl Rocks {
    fn new(db: DB, cache: Cache, sync_log: SyncLog) -> Self {
        Self {
            db,
            cache,
            sync_log,
            memory_reads: AtomicU64::new(0),
            disk_reads: AtomicU64::new(0),
            modes: [Mode::new(Blocking::Never), Mode::new(Blocking::Allowed)],
            read_offload: ReadOffload::default(),
        }
    }

    /// The sync of a node.
    pub(crate) fn default_sync() -> SyncLog {
        Box::new(|db| db.flush_wal(true).map_err(|error| error.to_string()))
    }

    fn mode(&self, blocking: Blocking) -> &Mode {
        &self.modes[usize::from(blocking == Blocking::Allowed)]
    }

    fn family(&self, column: Column) -> Result<&ColumnFamily, Error> {
        let missing = || Error::Failed(format!("there is no column family {}", column.name()));
        self.db.cf_handle(column.name()).ok_or_else(missing)
    }

    /// A read that may not block and needs the disk runs in place while reads do not wait.
    pub(crate) fn get_with<T>(
        &self,
        column: Column,
        key: &[u8],
        blocking: Blocking,
        take: impl FnOnce(&[u8]) -> T,
    ) -> Result<Option<T>, Error> {
        let family = self.family(column)?;
        let read = |as_if| self.db.get_pinned_cf_opt(family, key, &self.mode(as_if).read);
        let mut value = read(blocking);
        if blocking == Blocking::Never {
            let needs_disk = value.as_ref().is_err_and(is_incomplete);
            let reads = if needs_disk { &self.disk_reads } else { &self.memory_reads };
            reads.fetch_add(1, Ordering::Relaxed);
            if needs_disk && !self.read_offload.should_offload() {
                value = self.read_offload.run_in_place(|| read(Blocking::Allowed));
            }
        }
        match value {
            Ok(value) => Ok(value.map(|bytes| take(&bytes))),
            Err(error) => Err(read_error(&error, || {
                format!("the value of {:?} in {}", String::from_utf8_lossy(key), column.name())
            })),
        }
    }

    pub(crate) fn batch(&self, bytes: usize) -> Batch<'_> {
        // An empty one needs no room of its own: RocksDB's default is a string of 12 bytes.
        let changes = match bytes {
            0 => WriteBatch::default(),
            _ => WriteBatch::with_capacity_bytes(bytes),
        };
        Batch { rocks: self, changes }
    }

    pub(crate) fn write(&self, batch: Batch<'_>, blocking: Blocking) -> Result<(), NotWritten> {
        let written = self.db.write_opt(batch.changes, &self.mode(blocking).write);
        written.map_err(|error| {
            if blocking == Blocking::Never && is_incomplete(&error) {
                NotWritten::WouldBlock
            } else {
                NotWritten::Failed(error.to_string())
            }
        })
    }

    pub(crate) fn flush_log(&self) -> Result<(), String> {
        self.db.flush_wal(false).map_err(|error| error.to_string())
    }

    pub(crate) fn sync_log(&self) -> Result<(), String> {
        (self.sync_log)(&self.db)
    }

    pub(crate) fn sequence(&self) -> u64 {
        self.db.latest_sequence_number()
    }

    pub(crate) fn release_space(&self, column: Column) -> Result<(), Error> {
        let dropped = self.db.delete_file_in_range_cf(self.family(column)?, &[][..], &END);
        dropped.map_err(|error| read_error(&error, || column.name().to_owned()))
    }

    /// Writes a copy of the database to `dir`, which must not exist: hard links, no row is copied.
    pub(crate) fn copy_to(&self, dir: &Path) -> Result<(), String> {
        let checkpoint = Checkpoint::new(&self.db).map_err(|error| error.to_string())?;
        checkpoint.create_checkpoint(dir).map_err(|error| error.to_string())
    }

    /// Writes the newest entries of a column to a table, as RocksDB does when there are many.
    #[cfg(test)]
    pub(crate) fn flush(&self, column: Column) -> Result<(), Error> {
        let flushed = self.db.flush_cf(self.family(column)?);
        flushed.map_err(|error| Error::Io(error.to_string()))
    }
}

/// A batch in RocksDB's own form: a value is copied into it once.
pub(crate) struct Batch<'a> {
    rocks: &'a Rocks,
    changes: WriteBatch,
}

impl Batch<'_> {
    pub(crate) fn put(&mut self, column: Column, key: &[u8], value: &[u8]) -> Result<(), Error> {
        self.changes.put_cf(self.rocks.family(column)?, key, value);
        Ok(())
    }

    pub(crate) fn delete(&mut self, column: Column, key: &[u8]) -> Result<(), Error> {
        self.changes.delete_cf(self.rocks.family(column)?, key);
        Ok(())
    }

    pub(crate) fn merge(&mut self, column: Column, key: &[u8], change: &[u8]) -> Result<(), Error> {
        self.changes.merge_cf(self.rocks.family(column)?, key, change);
        Ok(())
    }

    pub(crate) fn delete_all(&mut self, column: Column) -> Result<(), Error> {
        self.changes.delete_range_cf(self.rocks.family(column)?, &[][..], &END);
        Ok(())
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.changes.is_empty()
    }
}

/// Whether RocksDB returned early because it was told not to wait.
fn is_incomplete(error: &rocksdb::Error) -> bool {
    error.kind() == ErrorKind::Incomplete
}

/// Classifies a failed read.
fn read_error(error: &rocksdb::Error, what: impl Fn() -> String) -> Error {
    if is_incomplete(error) {
        Error::WouldBlock
    } else if error.kind() == ErrorKind::Corruption {
        Error::Damaged { what: what(), reason: error.to_string() }
    } else {
        Error::Io(error.to_string())
    }
}
