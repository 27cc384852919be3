//! What a start of the node is judged by ([`quorate_protocol::standing`]): how far the store was when
//! it was opened, how far it is durable, and when it was last in use.

use quorate_protocol::stamp::Millis;
use rocksdb::WriteBatch;

use crate::columns::Column;
use crate::engine::read_error;
use crate::error::Error;
use crate::options::{Blocking, Durability};
use crate::store::Store;

/// When the store was last said to be in use.
const ALIVE: &[u8] = b"store:alive";
/// Greater than every key.
const END: [u8; 2048] = [u8::MAX; 2048];

impl Store {
    /// The sequence number of the last change that was there when the store was opened, before this
    /// start wrote anything.
    pub fn opened_at(&self) -> u64 {
        self.engine.opened_at()
    }

    /// The sequence number of the last change known to be durable as configured.
    pub fn durable_at(&self) -> u64 {
        match self.options.durability {
            Durability::Fsync => self.engine.synced_to(),
            // What is numbered is in the log, and the log is with the operating system.
            Durability::Buffered => self.engine.db().latest_sequence_number(),
        }
    }

    /// When the store was last in use, by the wall clock: what [`Store::mark_alive`] recorded, as
    /// far as it survived. `None` if it never did. Blocks on the disk.
    ///
    /// # Errors
    /// [`Error::Damaged`], [`Error::Io`].
    pub fn alive_at(&self) -> Result<Option<Millis>, Error> {
        let Some(bytes) = self.engine.get(Column::Meta, ALIVE, Blocking::Allowed)? else {
            return Ok(None);
        };
        let alive_at = bytes.as_ref().try_into().map(|bytes| Millis(u64::from_le_bytes(bytes)));
        alive_at.map(Some).map_err(|_| Error::Damaged {
            what: "the record of when the store was last in use".to_owned(),
            reason: format!("{bytes:?} is no time"),
        })
    }

    /// Records that the store is in use. It goes through the log like every change and is not
    /// synced by itself: whatever survives of it, all that was written before survives too.
    ///
    /// # Errors
    /// [`Error::Failed`], [`Error::Closed`].
    pub fn mark_alive(&self, now: Millis) -> Result<(), Error> {
        let stripe = self.stripes.lock(ALIVE, Blocking::Allowed)?;
        let mut batch = WriteBatch::default();
        batch.put_cf(self.engine.column(Column::Meta)?, ALIVE, now.0.to_le_bytes());
        let written = self.engine.write(batch, Blocking::Allowed);
        drop(stripe);
        written
    }

    /// Discards all rows and hints and what follows from them, durably: those of a node that was
    /// away so long that others have forgotten what was deleted meanwhile. The node's records stay.
    /// Meant for a start, before anything is served. Blocks.
    ///
    /// # Errors
    /// [`Error::Failed`], [`Error::Closed`]; at the next start all of it is there or nothing is.
    pub fn discard_rows(&self) -> Result<(), Error> {
        let _everything = self.stripes.lock_all();
        let mut batch = WriteBatch::default();
        let columns = || Column::ALL.into_iter().filter(|column| *column != Column::Meta);
        for column in columns() {
            batch.delete_range_cf(self.engine.column(column)?, &[][..], &END);
        }
        self.engine.write(batch, Blocking::Allowed)?;
        self.trees.clear();
        self.ledger.clear();
        self.engine.sync()?;
        // Only now may files go: until then the log could still have said otherwise.
        for column in columns() {
            let column_ref = self.engine.column(column)?;
            let dropped = self.engine.db().delete_file_in_range_cf(column_ref, &[][..], &END);
            dropped.map_err(|error| read_error(&error, || column.name().to_owned()))?;
        }
        Ok(())
    }
}
