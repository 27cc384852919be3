//! The store: reading, minting and merging one row.
//!
//! A change is read, decided by [`Row`] and written back as one batch, all under the row's stripe.
//! Reads take no lock: a row is replaced whole.

use std::future::Future;
use std::sync::atomic::AtomicBool;
use std::sync::{Arc, Mutex, OnceLock};

use bytes::Bytes;
use quorate_protocol::clock::Actor;
use quorate_protocol::name::Key;
use quorate_protocol::object::{DecodeError, Object, Version};
use quorate_protocol::row::{Coordinator, Draft, Incarnation, Limits, MintError, Minted, Row};
use quorate_protocol::time::WallTime;
use tokio::sync::oneshot;
use tokio::task::yield_now;

use crate::data_dir::DataDir;
use crate::disk::{DiskWatch, Need};
use crate::engine::Engine;
use crate::error::Error;
use crate::feeds::{Feeds, News};
use crate::hints::HintAccounting;
use crate::host::Host;
use crate::options::{Blocking, Options, Place, Recovery};
use crate::rows::RowCache;
use crate::status::CallCounters;
use crate::stripes::Stripes;
use crate::sync::GroupSync;
use crate::trees::Trees;

/// One node's rows, indexes and records on its disk. Shared behind an `Arc`; every call may be made
/// from any thread.
pub struct Store {
    // The threads come first: they are stopped before what they use is dropped.
    pub(crate) disk: DiskWatch,
    /// `None` if acknowledgements do not wait for a sync.
    pub(crate) group_sync: Option<GroupSync>,
    pub(crate) engine: Arc<Engine>,
    pub(crate) stripes: Stripes,
    pub(crate) rows: RowCache,
    pub(crate) hint_accounting: HintAccounting,
    pub(crate) trees: Trees,
    pub(crate) feeds: Feeds,
    pub(crate) scrubbing: Mutex<()>,
    pub(crate) incarnation: Incarnation,
    pub(crate) recovery: Recovery,
    pub(crate) dir: DataDir,
    pub(crate) host: Host,
    pub(crate) options: Options,
    pub(crate) call_counters: CallCounters,
    /// Whether the directory says that there may be typed rows ([`Store::raise_format`]).
    pub(crate) is_raised: AtomicBool,
    /// Whether the secondary indexes have the entries of all rows ([`Store::build_index_some`]).
    pub(crate) has_index: AtomicBool,
    /// How to look up the n of a bucket, once set ([`Store::assign_trees_by`]).
    pub(crate) n_of: OnceLock<ReplicaCountOf>,
    /// Whom to tell that a home row has changed.
    pub(crate) on_change: OnceLock<OnChange>,
}

/// Returns the current n of a bucket. Called under a row's stripe: it must not call the store.
pub type ReplicaCountOf = Box<dyn Fn(&str) -> u16 + Send + Sync>;

/// What [`Store::mint`] did.
#[derive(Clone, Debug)]
pub struct MintedRow {
    /// The new dot, or the one this request already has.
    pub minted: Minted,
    /// The whole merged object, as it is stored now.
    pub object: Object,
    /// Its encoding, as it is sent to the other replicas.
    pub encoded: Bytes,
}

/// What [`Store::merge`] did.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Merged {
    /// Whether the row changed.
    pub changed: bool,
    /// The version of the row now.
    pub version: Version,
}

/// Is told the key of each home row that has changed, under the row's stripe: it must not take long.
pub type OnChange = Box<dyn Fn(&Key) + Send + Sync>;

impl Store {
    /// From now on tells of every home row that has changed, once it is written. Call it once, before the
    /// store is shared.
    pub fn tell_changes_to(&self, on_change: OnChange) {
        drop(self.on_change.set(on_change));
    }

    /// What opening found in the log.
    pub fn recovery(&self) -> &Recovery {
        &self.recovery
    }

    /// Reads an encoded row (see [`Row::decode`], [`Row::encoded_version`],
    /// [`Row::encoded_object`]); `None` if there is none. Its object may be of a kind that this
    /// release does not know: a peer may.
    ///
    /// # Errors
    /// [`Error::WouldBlock`], [`Error::Damaged`], [`Error::Newer`], [`Error::Io`].
    pub fn read(
        &self,
        place: Place,
        key: &Key,
        blocking: Blocking,
    ) -> Result<Option<Bytes>, Error> {
        let row = match self.cached(place, key) {
            Some(row) => Ok(Some(row)),
            None => self.read_stored(place, key, blocking),
        };
        self.call_counters.count(blocking, &row);
        row
    }

    /// The row from the row cache, if it is there.
    pub(crate) fn cached(&self, place: Place, key: &Key) -> Option<Bytes> {
        matches!(place, Place::Home(_)).then(|| self.rows.get(key)).flatten()
    }

    /// Reads a row from the engine, and caches it.
    fn read_stored(
        &self,
        place: Place,
        key: &Key,
        blocking: Blocking,
    ) -> Result<Option<Bytes>, Error> {
        let row_key = place.row_key(key);
        // Without the stripe the row is still read, but not cached.
        let stripe = self.stripes.lock(&row_key, Blocking::Never).ok();
        let row = self.engine.get(place.column(), &row_key, blocking)?;
        if let Some(row) = row.as_ref().filter(|row| Row::encoded_object(row).is_none()) {
            return Err(undecodable(place, key, why_unreadable(row)));
        }
        if let (Some(_), Place::Home(_), Some(row)) = (&stripe, place, &row) {
            self.rows.put(key, row);
        }
        Ok(row)
    }

    /// Mints a client's write on a row; durable once [`Store::durable`] says so.
    ///
    /// # Errors
    /// [`Error`], or [`MintError`] if the row may not take this write. Nothing changed then, except
    /// that after [`Error::Failed`] the write may be found at the next start.
    pub fn mint(
        &self,
        place: Place,
        key: &Key,
        draft: &Draft,
        now: WallTime,
        limits: &Limits,
        blocking: Blocking,
    ) -> Result<Result<MintedRow, MintError>, Error> {
        let coordinator = Coordinator {
            node: self.options.node,
            incarnation: self.incarnation,
            fresh_actor: Actor(self.host.random_nonzero()),
            now,
        };
        let need = if draft.value.is_some() { Need::Growth } else { Need::Release };
        let result = self.change(place, key, blocking, |mut update| {
            self.disk.check(need)?;
            update.news = News::Change(now);
            let minted = match update.row.mint(draft, &coordinator, limits) {
                Ok(minted) => minted,
                Err(error) => return Ok(Err(error)),
            };
            let row = match (minted, update.stored.take()) {
                (Minted::Already(_), Some(stored)) => stored,
                (Minted::New(_) | Minted::Already(_), _) => self.save(&update, blocking)?,
            };
            let encoded = Row::encoded_object(&row)
                .ok_or_else(|| undecodable(place, key, why_unreadable(&row)))?;
            Ok(Ok(MintedRow { minted, object: update.row.object, encoded }))
        });
        self.call_counters.count(blocking, &result);
        result
    }

    /// Merges another replica's object into a row, at `now` by the wall clock. Writes nothing if
    /// the row already includes it.
    ///
    /// # Errors
    /// [`Error`]; nothing changed then, except that after [`Error::Failed`] the change may be found
    /// at the next start.
    pub fn merge(
        &self,
        place: Place,
        key: &Key,
        object: &Object,
        now: WallTime,
        blocking: Blocking,
    ) -> Result<Merged, Error> {
        let result = self.change(place, key, blocking, |mut update| {
            self.check_room(&update.row, object)?;
            update.news = News::Change(now);
            let changed = update.row.merge(object, now);
            if changed {
                self.save(&update, blocking)?;
            }
            Ok(Merged { changed, version: update.row.object.version() })
        });
        self.call_counters.count(blocking, &result);
        result
    }

    /// Syncs every write that returned before this call to the disk, whatever durability is
    /// configured. Blocks.
    ///
    /// # Errors
    /// [`Error::Failed`] if a sync or write failed.
    pub fn sync(&self) -> Result<(), Error> {
        if self.engine.is_synced() { self.engine.check_failure() } else { self.engine.sync() }
    }

    /// Resolves when every write that returned before this call is durable as configured;
    /// immediately if there is nothing to sync. Cancel-safe: the future may be dropped.
    ///
    /// # Errors
    /// [`Error::Failed`] if a sync or write failed, [`Error::Closed`] if the store was closed in
    /// the meantime: the write must not be acknowledged.
    pub fn durable(&self) -> impl Future<Output = Result<(), Error>> + Send + use<> {
        let wait = match (self.engine.check_failure(), &self.group_sync) {
            (Err(error), _) => Wait::Over(Err(error)),
            (Ok(()), Some(_)) if self.engine.is_synced() => Wait::Over(Ok(())),
            (Ok(()), Some(group_sync)) => Wait::Sync(group_sync.join()),
            (Ok(()), None) => Wait::Log(Arc::clone(&self.engine), self.engine.written()),
        };
        async move {
            match wait {
                Wait::Over(answer) => answer,
                Wait::Sync(answer) => answer.await.unwrap_or(Err(Error::Closed)),
                Wait::Log(engine, batches) => {
                    // Let other tasks write first, so that one flush of the log covers them all.
                    yield_now().await;
                    engine.flush_log(batches)
                }
            }
        }
    }
}

/// What a writer waits for.
enum Wait {
    Over(Result<(), Error>),
    /// The next group sync.
    Sync(oneshot::Receiver<Result<(), Error>>),
    /// Until this many batches are written to the operating system.
    Log(Arc<Engine>, u64),
}

pub(crate) fn undecodable(place: Place, key: &Key, error: DecodeError) -> Error {
    Error::undecodable(format!("{key} ({place})"), error)
}

/// Why a row's head cannot be read, if it cannot.
pub(crate) fn why_unreadable(row: &[u8]) -> DecodeError {
    Row::encoded_kind(row).err().unwrap_or(DecodeError::Damaged)
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests;
