//! A simulated disk as a [`crate::backend`].

use super::entries::Entries;
use super::tables::{Change, Shared, Tables};
use super::{Contents, SimulatedDisk, State};
use crate::backend::{NotWritten, Range};
use crate::columns::Column;
use crate::database_stats::DatabaseStats;
use crate::error::{Error, OpenError};
use crate::options::{Blocking, Recovery};

/// What a full disk says, in the words of the operating system.
const NO_SPACE: &str = "No space left on device";
const FAILED: &str = "the simulated disk failed it: Input/output error";
const GONE: &str = "the process was killed";

/// A simulated disk in a process that has it open.
pub(crate) struct Memory {
    disk: SimulatedDisk,
    process: u64,
}

impl Memory {
    /// Opens a disk, after a crash with what is left.
    ///
    /// # Errors
    /// [`OpenError::Locked`], [`OpenError::DiskFull`] if what is in the log does not fit in tables.
    pub(crate) fn open(disk: &SimulatedDisk) -> Result<(Self, Recovery), OpenError> {
        let State { contents, process, opened } = &mut *disk.lock();
        let dir = || contents.name.clone().into();
        if process.is_some() {
            return Err(OpenError::Locked { dir: dir() });
        }
        let (free_bytes, log_bytes) = (contents.files.free_bytes, contents.database.log_bytes());
        if log_bytes > free_bytes {
            return Err(OpenError::DiskFull {
                dir: dir(),
                free_bytes,
                reason: NO_SPACE.to_owned(),
            });
        }
        let recovery = contents.database.recover();
        *opened += 1;
        *process = Some(*opened);
        Ok((Self { disk: disk.clone(), process: *opened }, recovery))
    }

    /// Lets `act` see the disk, unless the process was killed.
    fn with<T>(&self, act: impl FnOnce(&mut Contents) -> T) -> Result<T, &'static str> {
        let State { contents, process, .. } = &mut *self.disk.lock();
        if *process == Some(self.process) { Ok(act(contents)) } else { Err(GONE) }
    }

    /// The tables now.
    fn tables(&self) -> Result<Tables, Error> {
        self.with(|disk| disk.database.tables.clone()).map_err(read_error)
    }

    pub(crate) fn get_with<T>(
        &self,
        column: Column,
        key: &[u8],
        blocking: Blocking,
        take: impl FnOnce(&[u8]) -> T,
    ) -> Result<Option<T>, Error> {
        let value = self.with(|disk| {
            if blocking == Blocking::Never && std::mem::take(&mut disk.faults.block_read) {
                return Err(Error::WouldBlock);
            }
            Ok(disk.database.tables.get(column, key)?.cloned())
        });
        Ok(value.map_err(read_error)??.map(|value: Shared| take(&value)))
    }

    pub(crate) fn write(&self, batch: Batch, blocking: Blocking) -> Result<(), NotWritten> {
        let written = self.with(|disk| {
            if blocking == Blocking::Never && std::mem::take(&mut disk.faults.block_write) {
                return Err(NotWritten::WouldBlock);
            }
            if std::mem::take(&mut disk.faults.fail_write) {
                return Err(NotWritten::Failed(FAILED.to_owned()));
            }
            disk.database.write(batch.changes);
            Ok(())
        });
        written.unwrap_or_else(|gone| Err(NotWritten::Failed(gone.to_owned())))
    }

    pub(crate) fn flush_log(&self) -> Result<(), String> {
        self.with(|disk| disk.flush())?
    }

    pub(crate) fn sync_log(&self) -> Result<(), String> {
        self.with(|disk| disk.sync())?
    }

    pub(crate) fn sequence(&self) -> u64 {
        self.with(|disk| disk.database.tables.sequence).unwrap_or_default()
    }

    pub(crate) fn entries(&self, column: Column, range: Range) -> Result<Entries, Error> {
        Ok(Entries::new(self.tables()?, column, range))
    }

    pub(crate) fn snapshot(&self) -> Result<Snapshot, Error> {
        Ok(Snapshot(self.tables()?))
    }

    pub(crate) fn entries_estimate(&self, column: Column) -> u64 {
        self.with(|disk| disk.database.tables.map(column).len() as u64).unwrap_or_default()
    }

    pub(crate) fn add_stats(&self, stats: &mut DatabaseStats) {
        stats.conflicts_estimate = self.entries_estimate(Column::Conflicts);
        stats.index_estimate = self.entries_estimate(Column::Index);
    }

    /// Sets a copy of what the process sees aside, durably.
    pub(crate) fn set_aside(&self, name: &str) -> Result<(), String> {
        Ok(self.with(|disk| {
            let path = format!("{}/{name}", disk.name);
            disk.files.add_set(name, SimulatedDisk::of(&path, disk.database.tables.clone()));
        })?)
    }
}

impl Memory {
    /// Makes a copy of what the process sees, durably: a backup once it is finished.
    pub(crate) fn back_up(&self, name: &str) -> Result<(), String> {
        Ok(self.with(|disk| {
            let path = format!("{}/{name}", disk.name);
            let copy = SimulatedDisk::of(&path, disk.database.tables.clone());
            disk.files.begin_backup(name, copy);
        })?)
    }
}

impl Drop for Memory {
    /// A process that ends without closing the store is a killed one.
    fn drop(&mut self) {
        let State { contents, process, .. } = &mut *self.disk.lock();
        if process.take_if(|process| *process == self.process).is_some() {
            contents.database.lose_buffer(0);
        }
    }
}

impl Contents {
    fn flush(&mut self) -> Result<(), String> {
        if self.database.buffer_bytes() > self.files.free_bytes {
            return Err(NO_SPACE.to_owned());
        }
        self.database.flush();
        Ok(())
    }

    fn sync(&mut self) -> Result<(), String> {
        self.flush()?;
        if std::mem::take(&mut self.faults.fail_sync) {
            self.database.fail_to_sync();
            return Err(FAILED.to_owned());
        }
        self.database.sync();
        Ok(())
    }
}

fn read_error(gone: &'static str) -> Error {
    Error::Io(gone.to_owned())
}

/// Changes that are written together.
#[derive(Default)]
pub(crate) struct Batch {
    changes: Vec<Change>,
}

impl Batch {
    pub(crate) fn put(&mut self, column: Column, key: &[u8], value: &[u8]) -> Result<(), Error> {
        self.push(Change::Put(column, key.into(), value.into()))
    }

    pub(crate) fn delete(&mut self, column: Column, key: &[u8]) -> Result<(), Error> {
        self.push(Change::Delete(column, key.into()))
    }

    pub(crate) fn merge(&mut self, column: Column, key: &[u8], change: &[u8]) -> Result<(), Error> {
        self.push(Change::Merge(column, key.into(), change.into()))
    }

    pub(crate) fn delete_all(&mut self, column: Column) -> Result<(), Error> {
        self.push(Change::DeleteAll(column))
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.changes.is_empty()
    }

    /// Never fails; RocksDB's side may.
    fn push(&mut self, change: Change) -> Result<(), Error> {
        self.changes.push(change);
        Ok(())
    }
}

/// The tables at one moment.
pub(crate) struct Snapshot(Tables);

impl Snapshot {
    pub(crate) fn get(&self, column: Column, key: &[u8]) -> Result<Option<Vec<u8>>, Error> {
        Ok(self.0.get(column, key)?.map(|value| value.to_vec()))
    }

    pub(crate) fn entries(&self, column: Column, range: Range) -> Entries {
        Entries::new(self.0.clone(), column, range)
    }
}
