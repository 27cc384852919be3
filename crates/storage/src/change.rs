//! The read-modify-write of one row: written back in one batch with the data derived from it.

use bytes::{Bytes, BytesMut};
use quorate_protocol::mutation::{Mutation, mutated};
use quorate_protocol::name::Key;
use quorate_protocol::object::Object;
use quorate_protocol::row::Row;
use quorate_protocol::tree::Tree;

use crate::backend::Batch;
use crate::columns::Totals;
use crate::disk::Need;
use crate::error::Error;
use crate::feeds::{Logged, News};
use crate::hints::Reservation;
use crate::index::{Entries, Pending};
use crate::options::{Blocking, Place};
use crate::rows::RowCache;
use crate::secondary_index;
use crate::store::{OnChange, Store, undecodable};

/// Upper bound on a row's bytes in addition to its object.
const ROW_HEAD_BYTES_ABOUT: usize = 64;
/// About what a batch takes in addition to the row, in bytes: keys, index entries, leaves.
const BATCH_BYTES_ABOUT: usize = 512;

/// One row during a change: as stored, and as it will be.
pub(crate) struct Update<'a> {
    pub(crate) place: Place,
    pub(crate) key: &'a Key,
    pub(crate) row_key: Vec<u8>,
    /// The row as it is stored.
    pub(crate) stored: Option<Bytes>,
    stored_bytes: Option<usize>,
    /// The index entries of the row as it is stored, if it is a home row.
    pub(crate) old: Entries,
    /// The row as it will be.
    pub(crate) row: Row,
    /// Whether a log tells of it.
    pub(crate) news: News,
}

/// In-memory changes to apply once a row's batch is written. Dropped unapplied, it changes nothing.
pub(crate) enum Staged<'a> {
    Home {
        pending: Pending<'a>,
        rows: &'a RowCache,
        key: Key,
        row: Bytes,
        logged: Option<Logged<'a>>,
        on_change: Option<&'a OnChange>,
    },
    Hint(Reservation<'a>),
}

impl Staged<'_> {
    /// Applies the changes once the batch is written. The caller holds the row's stripe.
    pub(crate) fn apply(self) {
        match self {
            Self::Home { pending, rows, key, row, logged, on_change } => {
                pending.apply();
                rows.put(&key, &row);
                if let Some(logged) = logged {
                    logged.keep();
                }
                if let Some(tell) = on_change {
                    tell(&key);
                }
            }
            Self::Hint(reservation) => reservation.keep(),
        }
    }
}

impl Update<'_> {
    /// About how long the encoded row will be, in bytes.
    fn row_bytes_about(&self) -> usize {
        self.row.object.encoded_bytes_estimate() + ROW_HEAD_BYTES_ABOUT
    }
}

impl Store {
    /// Reads a row under its stripe and lets `decide` change it. A `decide` that adds values must
    /// check for disk space itself.
    pub(crate) fn change<T>(
        &self,
        place: Place,
        key: &Key,
        blocking: Blocking,
        decide: impl FnOnce(Update<'_>) -> Result<T, Error>,
    ) -> Result<T, Error> {
        self.engine.check()?;
        self.disk.check(Need::Release)?;
        let row_key = place.row_key(key);
        let _stripe = self.stripes.lock(&row_key, blocking)?;
        let stored = self.stored(place, key, &row_key, blocking)?;
        decide(self.update(place, key, row_key, stored)?)
    }

    /// Checks for the disk space to merge an object into a row: a merge that adds no values passes
    /// below the watermark too.
    pub(crate) fn check_room(&self, row: &Row, object: &Object) -> Result<(), Error> {
        match self.disk.check(Need::Growth) {
            Err(error) if row.object.lacks_values_of(object) => Err(error),
            Err(_) | Ok(()) => Ok(()),
        }
    }

    /// The row as it is stored, from the row cache if it is there. The caller holds its stripe.
    pub(crate) fn stored(
        &self,
        place: Place,
        key: &Key,
        row_key: &[u8],
        blocking: Blocking,
    ) -> Result<Option<Bytes>, Error> {
        match self.cached(place, key) {
            Some(row) => Ok(Some(row)),
            None => self.engine.get(place.column(), row_key, blocking),
        }
    }

    /// Begins a change of a stored row.
    pub(crate) fn update<'a>(
        &self,
        place: Place,
        key: &'a Key,
        row_key: Vec<u8>,
        stored: Option<Bytes>,
    ) -> Result<Update<'a>, Error> {
        let (mut row, old) = match &stored {
            None => (Row::default(), Entries::default()),
            Some(bytes) => {
                let row =
                    Row::decode(bytes.clone()).map_err(|error| undecodable(place, key, error))?;
                let entries = Entries::of(&row, bytes);
                (row, entries)
            }
        };
        row.tree = self.tree_n(place, key);
        let stored_bytes = stored.as_ref().map(Bytes::len);
        let news = News::None;
        Ok(Update { place, key, row_key, stored, stored_bytes, old, row, news })
    }

    /// Writes a changed row and its derived data in one batch; returns the encoded row.
    pub(crate) fn save(&self, update: &Update<'_>, blocking: Blocking) -> Result<Bytes, Error> {
        // A batch that must grow is copied, with a value of a megabyte in it.
        let about = update.row_bytes_about() + BATCH_BYTES_ABOUT;
        let mut batch = self.engine.batch_with_room(about);
        let (row, staged) = self.stage(&mut batch, update)?;
        if mutated(Mutation::IndexOutsideBatch) {
            let mut before = self.engine.batch();
            let new = Entries::of(&update.row, &row);
            secondary_index::stage(&mut before, update.key, &update.old, &new)?;
            self.engine.write(before, blocking)?;
        }
        self.engine.write(batch, blocking)?;
        staged.apply();
        Ok(row)
    }

    /// Adds a changed row and its derived data to a batch; returns the encoded row too.
    pub(crate) fn stage(
        &self,
        batch: &mut Batch<'_>,
        update: &Update<'_>,
    ) -> Result<(Bytes, Staged<'_>), Error> {
        if update.row.object.has_parts() {
            self.raise_format()?;
        }
        // Enough capacity that the row is not copied while it grows.
        let mut row = BytesMut::with_capacity(update.row_bytes_about());
        update.row.encode(&mut row);
        let row = row.freeze();
        batch.put(update.place.column(), &update.row_key, &row)?;
        let staged = match update.place {
            Place::Home(Tree { partition, .. }) => {
                let new = Entries::of(&update.row, &row);
                let old = &update.old;
                let pending = self.stage_entries(batch, partition, update.key, old, &new)?;
                let logged = self.feeds.stage(batch, update, new.version())?;
                Staged::Home {
                    pending,
                    rows: &self.rows,
                    key: update.key.clone(),
                    row: row.clone(),
                    logged,
                    on_change: self.on_change.get(),
                }
            }
            Place::Hint(target) => {
                let entry_bytes = |row_bytes: usize| (update.row_key.len() + row_bytes) as i64;
                let change = Totals {
                    keys: i64::from(update.stored_bytes.is_none()),
                    bytes: entry_bytes(row.len()) - update.stored_bytes.map_or(0, entry_bytes),
                };
                Staged::Hint(self.stage_totals(batch, target, change)?)
            }
        };
        Ok((row, staged))
    }
}
