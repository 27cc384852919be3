//! Hints: rows kept for other nodes, and how much they hold together.
//!
//! The totals of each target change in the batch that changes the row, by merge operands, so they are
//! exact after any crash and reading them at the start is a few rows. The sum of all is kept in memory
//! too, and room is reserved in it *before* a write, so that the bound holds whoever writes at once.

use std::sync::atomic::{AtomicU64, Ordering};

use bytes::Bytes;
use quorate_protocol::name::{Key, NodeId};
use quorate_protocol::object::Version;
use quorate_protocol::row::Row;
use rocksdb::{IteratorMode, WriteBatch};

use crate::columns::{Column, Totals, target_of};
use crate::engine::{Engine, read_error};
use crate::error::Error;
use crate::options::{Blocking, Place};
use crate::store::Store;

/// The sum over all hints, including writes that are under way.
pub(crate) struct Ledger {
    keys: AtomicU64,
    bytes: AtomicU64,
}

impl Ledger {
    /// Sums up the totals of all targets.
    pub(crate) fn load(engine: &Engine) -> Result<Self, Error> {
        let (mut keys, mut bytes) = (0, 0);
        for (_, target_keys, target_bytes) in totals(engine)? {
            keys += target_keys;
            bytes += target_bytes;
        }
        Ok(Self { keys: AtomicU64::new(keys), bytes: AtomicU64::new(bytes) })
    }

    pub(crate) fn keys(&self) -> u64 {
        self.keys.load(Ordering::Relaxed)
    }

    pub(crate) fn bytes(&self) -> u64 {
        self.bytes.load(Ordering::Relaxed)
    }

    /// Enters a change that is about to be written. One that does not grow is never refused.
    ///
    /// # Errors
    /// [`Error::HintsFull`] if the hints would hold more than `max` bytes.
    pub(crate) fn reserve(&self, change: Totals, max: u64) -> Result<(), Error> {
        let room = |bytes: u64| {
            let after = bytes.saturating_add_signed(change.bytes);
            (change.bytes <= 0 || after <= max).then_some(after)
        };
        self.bytes.fetch_update(Ordering::Relaxed, Ordering::Relaxed, room).map_err(|bytes| {
            Error::HintsFull { bytes: bytes.saturating_add_signed(change.bytes), max }
        })?;
        self.keys.fetch_add(change.keys as u64, Ordering::Relaxed); // wraps: may be negative
        Ok(())
    }

    /// Takes a change back that was not written.
    pub(crate) fn release(&self, change: Totals) {
        self.bytes.fetch_sub(change.bytes as u64, Ordering::Relaxed);
        self.keys.fetch_sub(change.keys as u64, Ordering::Relaxed);
    }
}

impl Store {
    /// Up to `limit` hints for a target in key order, after `after`. Stops before their rows hold more
    /// than `bytes_max` bytes, but gives at least one if there is one. Blocks on the disk.
    ///
    /// # Errors
    /// [`Error::Damaged`] if an entry is no hint, [`Error::Io`].
    pub fn hints(
        &self,
        target: NodeId,
        after: Option<&Key>,
        limit: usize,
        bytes_max: usize,
    ) -> Result<Vec<(Key, Bytes)>, Error> {
        self.rows(Place::Hint(target), after, limit, bytes_max)
    }

    /// The nodes hints are kept for: target, keys, bytes (of row keys and rows). Blocks on the disk.
    ///
    /// # Errors
    /// [`Error::Damaged`] if the totals cannot be read, [`Error::Io`].
    pub fn hint_targets(&self) -> Result<Vec<(NodeId, u64, u64)>, Error> {
        let mut targets = totals(&self.engine)?;
        targets.retain(|(_, keys, _)| *keys > 0);
        Ok(targets)
    }

    /// Bytes of all hints together (row keys and rows).
    pub fn hint_bytes(&self) -> u64 {
        self.ledger.bytes()
    }

    /// Drops a hint that was delivered, if it still has the version that was sent. Whether it was
    /// dropped; `false` if it has changed or is not there. Blocks.
    ///
    /// # Errors
    /// [`Error::Damaged`], [`Error::Failed`], [`Error::Io`], [`Error::Closed`]; the hint is then still
    /// there.
    pub fn drop_hint(&self, target: NodeId, key: &Key, version: Version) -> Result<bool, Error> {
        self.engine.check()?;
        let row_key = Place::Hint(target).row_key(key);
        let _stripe = self.stripes.lock(&row_key, Blocking::Allowed)?;
        let Some(row) = self.read(Place::Hint(target), key, Blocking::Allowed)? else {
            return Ok(false);
        };
        if Row::encoded_version(&row) != Some(version) {
            return Ok(false);
        }
        let mut batch = WriteBatch::default();
        batch.delete_cf(self.engine.column(Column::Hints)?, &row_key);
        let change = Totals { keys: -1, bytes: -((row_key.len() + row.len()) as i64) };
        self.write_hint(batch, target, change, Blocking::Allowed)?;
        Ok(true)
    }

    /// Writes a batch that changes one hint, together with the totals.
    pub(crate) fn write_hint(
        &self,
        mut batch: WriteBatch,
        target: NodeId,
        change: Totals,
        blocking: Blocking,
    ) -> Result<(), Error> {
        let totals = self.engine.column(Column::HintTotals)?;
        batch.merge_cf(totals, target.as_str(), change.encode());
        self.ledger.reserve(change, self.options.hint_bytes_max)?;
        self.engine.write(batch, blocking).inspect_err(|_| self.ledger.release(change))
    }
}

/// The totals of every target there ever was.
fn totals(engine: &Engine) -> Result<Vec<(NodeId, u64, u64)>, Error> {
    let mut targets = Vec::new();
    for entry in engine.db().iterator_cf(engine.column(Column::HintTotals)?, IteratorMode::Start) {
        let entry = entry.map_err(|error| read_error(&error, || "the hint totals".to_owned()));
        let (name, value) = entry?;
        let target = target_of(&name)?;
        let counts = Totals::decode(&value)
            .and_then(|totals| Some((totals.keys.try_into().ok()?, totals.bytes.try_into().ok()?)));
        let Some((keys, bytes)) = counts else {
            return Err(Error::Damaged {
                what: format!("the hint totals of {target}"),
                reason: format!("{value:?} is no pair of counts"),
            });
        };
        targets.push((target, keys, bytes));
    }
    Ok(targets)
}
