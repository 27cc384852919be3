//! The database on a simulated disk: tables, and a log that knows how far each batch has got.
//!
//! The tables are as the process sees them, all of the log included. A crash undoes the batches that
//! it loses, the last one first. So a start, a flush and a sync cost the same however much is stored.

use super::tables::{Change, Replaced, Shared, Tables};
use crate::columns::Column;
use crate::options::Recovery;

/// What the log may hold before its synced batches are forgotten, in bytes, as RocksDB drops a log
/// once its changes are in tables.
const LOG_BYTES_MAX: u64 = 4 << 20;

/// The first `synced` batches of the log survive a power cut, the first `flushed` a killed process,
/// and the rest is in the process's buffer.
#[derive(Clone, Default)]
pub(super) struct Database {
    pub(super) tables: Tables,
    log: Vec<Batch>,
    synced: usize,
    flushed: usize,
    /// The batch in the log that cannot be read any more, by its place.
    damaged: Option<usize>,
    log_bytes: u64,
}

/// What can happen to the process or to the machine.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Crash {
    /// The process is killed: what was not flushed is gone.
    Kill,
    /// The power fails: what was not synced is gone.
    PowerCut,
}

/// A batch in the log.
#[derive(Clone)]
struct Batch {
    replaced: Vec<Replaced>,
    bytes: u64,
}

impl Database {
    /// One that holds these tables, and nothing in its log.
    pub(super) fn of(tables: Tables) -> Self {
        Self { tables, ..Self::default() }
    }

    pub(super) fn write(&mut self, changes: Vec<Change>) {
        let bytes = changes.iter().map(Change::bytes).sum();
        self.log_bytes += bytes;
        self.log.push(Batch { replaced: self.tables.apply(changes), bytes });
    }

    pub(super) fn flush(&mut self) {
        self.flushed = self.log.len();
    }

    pub(super) fn sync(&mut self) {
        self.flush();
        self.synced = self.flushed;
        if self.log_bytes > LOG_BYTES_MAX {
            self.forget_synced();
        }
    }

    /// After a failed sync it is unknown what of its pages is still there: the kernel may drop them.
    pub(super) fn fail_to_sync(&mut self) {
        self.flushed = self.synced;
    }

    /// What the log takes, in bytes, the process's buffer included.
    pub(super) fn log_bytes(&self) -> u64 {
        self.log_bytes
    }

    /// What is in the process's buffer, in bytes.
    pub(super) fn buffer_bytes(&self) -> u64 {
        self.log[self.flushed..].iter().map(|batch| batch.bytes).sum()
    }

    /// Batches in the log that are written, flushed and synced.
    pub(super) fn positions(&self) -> (usize, usize, usize) {
        (self.log.len(), self.flushed, self.synced)
    }

    /// A value as it would be if the worst crash of this kind happened now; `None` if there would be
    /// none, or none that can be read.
    pub(super) fn surviving(&self, crash: Crash, column: Column, key: &[u8]) -> Option<Shared> {
        let least = match crash {
            Crash::Kill => self.flushed,
            Crash::PowerCut => self.synced,
        };
        let undone = self.log[least..].iter().flat_map(|batch| &batch.replaced);
        // The first change that is lost knows what was there before.
        for replaced in undone {
            let before = match replaced {
                Replaced::One(other, name, before) if *other == column && name[..] == *key => {
                    before.as_ref()
                }
                Replaced::All(other, map) if *other == column => map.get(key),
                Replaced::One(..) | Replaced::All(..) => continue,
            };
            return before.and_then(|value| value.read(column, key).ok()).cloned();
        }
        self.tables.get(column, key).ok().flatten().cloned()
    }

    /// The process is gone: of what was in its buffer a prefix is left that `cut` chooses.
    pub(super) fn lose_buffer(&mut self, cut: u64) {
        self.keep(self.flushed, cut);
        self.flush();
    }

    /// The power is gone: of what was not synced a prefix is left that `cut` chooses.
    pub(super) fn lose_unsynced(&mut self, cut: u64) {
        self.keep(self.synced, cut);
        self.sync();
    }

    /// Keeps the first `least` batches of the log and some of the others.
    fn keep(&mut self, least: usize, cut: u64) {
        let choices = (self.log.len() - least) as u64 + 1;
        self.truncate(least + (cut % choices) as usize);
    }

    fn truncate(&mut self, batches: usize) {
        for batch in self.log.drain(batches..).rev() {
            self.log_bytes -= batch.bytes;
            self.tables.undo(batch.replaced);
        }
    }

    /// Damages a batch in the log that is not the last one. Returns whether there was one.
    pub(super) fn damage_log(&mut self, which: u64) -> bool {
        let choices = self.log.len().saturating_sub(1) as u64;
        if choices > 0 {
            self.damaged = Some((which % choices) as usize);
        }
        choices > 0
    }

    /// A start: takes what is left up to the first damage, durably. A damaged last batch looks like
    /// one that was torn by a crash.
    pub(super) fn recover(&mut self) -> Recovery {
        self.lose_buffer(0);
        let damaged = self.damaged.take().filter(|at| *at < self.log.len());
        let lost = damaged.map_or(0, |at| self.log.len() - at);
        self.truncate(self.log.len() - lost);
        self.sync();
        self.forget_synced();
        match lost {
            0 | 1 => Recovery::Whole,
            lost => Recovery::CutShort(format!("the simulated log lost {lost} batches to damage")),
        }
    }

    /// Removes what is synced from the log.
    fn forget_synced(&mut self) {
        let forgotten = self.log.drain(..self.synced);
        self.log_bytes -= forgotten.map(|batch| batch.bytes).sum::<u64>();
        self.flushed -= self.synced;
        self.damaged = self.damaged.and_then(|at| at.checked_sub(self.synced));
        self.synced = 0;
    }
}
