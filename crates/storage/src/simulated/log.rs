//! The log of a simulated disk: batches, and how far each has got.

use super::tables::{Change, Tables};
use crate::options::Recovery;

/// Batches that the tables do not hold yet. The first `synced` survive a power cut, the first
/// `flushed` a killed process, and the rest is in the process's buffer.
#[derive(Clone, Default)]
pub(super) struct Log {
    batches: Vec<Vec<Change>>,
    /// What all of them take, in bytes.
    bytes: u64,
    synced: usize,
    flushed: usize,
    /// The batch that cannot be read any more, by its place.
    damaged: Option<usize>,
}

impl Log {
    pub(super) fn append(&mut self, batch: Vec<Change>) {
        self.bytes += bytes(std::slice::from_ref(&batch));
        self.batches.push(batch);
    }

    /// What it takes, in bytes, the buffer included.
    pub(super) fn bytes(&self) -> u64 {
        self.bytes
    }

    /// Bytes of the process's buffer.
    pub(super) fn buffer_bytes(&self) -> u64 {
        bytes(&self.batches[self.flushed..])
    }

    pub(super) fn flush(&mut self) {
        self.flushed = self.batches.len();
    }

    pub(super) fn sync(&mut self) {
        self.flush();
        self.synced = self.flushed;
    }

    /// After a failed sync it is unknown what of the pages is still there: the kernel may drop them.
    pub(super) fn fail_to_sync(&mut self) {
        self.flushed = self.synced;
    }

    /// Batches that are written, flushed and synced.
    pub(super) fn positions(&self) -> (usize, usize, usize) {
        (self.batches.len(), self.flushed, self.synced)
    }

    /// The process is gone: of what was in its buffer a prefix is left that `cut` chooses.
    pub(super) fn lose_buffer(&mut self, cut: u64) {
        self.keep(self.flushed, cut);
        self.flushed = self.batches.len();
    }

    /// The power is gone: of what was not synced a prefix is left that `cut` chooses.
    pub(super) fn lose_unsynced(&mut self, cut: u64) {
        self.keep(self.synced, cut);
        self.sync();
    }

    /// Keeps the first `least` batches and some of the others.
    fn keep(&mut self, least: usize, cut: u64) {
        let choices = (self.batches.len() - least) as u64 + 1;
        self.truncate(least + (cut % choices) as usize);
    }

    fn truncate(&mut self, batches: usize) {
        self.bytes -= bytes(&self.batches[batches..]);
        self.batches.truncate(batches);
    }

    /// Drops what was not flushed.
    pub(super) fn drop_buffer(&mut self) {
        self.truncate(self.flushed);
    }

    /// Damages a batch that is not the last one. Returns whether there was one.
    pub(super) fn damage(&mut self, which: u64) -> bool {
        let choices = self.batches.len().saturating_sub(1) as u64;
        if choices > 0 {
            self.damaged = Some((which % choices) as usize);
        }
        choices > 0
    }

    /// Moves everything up to the first damage to the tables, as a start does. A damaged last batch
    /// looks like one that was torn by a crash.
    pub(super) fn recover(&mut self, tables: &mut Tables) -> Recovery {
        let damaged = self.damaged.take().filter(|at| *at < self.batches.len());
        let lost = damaged.map_or(0, |at| self.batches.len() - at);
        self.truncate(self.batches.len() - lost);
        self.sync();
        self.move_synced(tables);
        match lost {
            0 | 1 => Recovery::Whole,
            lost => Recovery::CutShort(format!("the simulated log lost {lost} batches to damage")),
        }
    }

    /// Moves what is synced to the tables.
    pub(super) fn move_synced(&mut self, tables: &mut Tables) {
        self.bytes -= bytes(&self.batches[..self.synced]);
        for batch in self.batches.drain(..self.synced) {
            tables.apply(&batch);
        }
        self.flushed -= self.synced;
        self.damaged = self.damaged.and_then(|at| at.checked_sub(self.synced));
        self.synced = 0;
    }
}

fn bytes(batches: &[Vec<Change>]) -> u64 {
    batches.iter().flatten().map(Change::bytes).sum()
}
