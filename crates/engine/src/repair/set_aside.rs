//! The rows that this node has set aside, opened as stores (see `crate::repair::distrusted`).

use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use quorate_protocol::message::Distrusted as Told;
use quorate_storage::{Durability, Error, Options, Store, sets_aside};
use tokio::sync::Notify;

use crate::config::Config;
use crate::node::errors::StartError;

/// An operator's decision that is not fully carried out yet.
pub(super) const DECISION_RECORD: &str = "distrusted_decision";
/// Block cache for a set, in bytes: small, since each set is scanned once.
const SET_CACHE_BYTES: usize = 4 << 20;

/// What this node has set aside.
pub struct Distrusted {
    sets: Mutex<Vec<Arc<Set>>>,
    told: Mutex<Told>,
    pub(super) decided: Notify,
}

/// The rows set aside by one start.
pub(super) struct Set {
    pub(super) path: PathBuf,
    pub(super) store: Store,
}

impl Distrusted {
    /// Opens the sets of earlier starts.
    ///
    /// # Errors
    /// [`StartError::Distrusted`], naming what cannot be read.
    pub fn open(config: &Config) -> Result<Self, StartError> {
        let error = |path: String, reason: String| StartError::Distrusted { path, reason };
        let paths = sets_aside(&config.data_dir)
            .map_err(|why| error(config.data_dir.display().to_string(), why.to_string()))?;
        let mut sets = Vec::new();
        for path in paths {
            let options = Options {
                durability: Durability::Buffered,
                block_cache_bytes: SET_CACHE_BYTES,
                row_cache_bytes: 0,
                memtable_bytes: SET_CACHE_BYTES,
                disk_free_bytes_min: 0,
                ..Options::new(config.node, &config.cluster_id, config.layout.partitions)
            };
            let store = Store::open(&path, options)
                .map_err(|why| error(path.display().to_string(), why.to_string()))?;
            tracing::warn!(set = %path.display(), "rows are set aside; see `quorate distrusted list`");
            sets.push(Arc::new(Set { path, store }));
        }
        Ok(Self { sets: Mutex::new(sets), told: Mutex::default(), decided: Notify::new() })
    }

    /// Whether nothing is set aside.
    pub fn is_empty(&self) -> bool {
        lock(&self.sets).is_empty()
    }

    pub(super) fn sets(&self) -> Vec<Arc<Set>> {
        lock(&self.sets).clone()
    }

    /// What is reported of them now.
    pub(super) fn told(&self) -> Told {
        lock(&self.told).clone()
    }

    /// A set was removed.
    pub(super) fn forget(&self, gone: &Set) {
        lock(&self.sets).retain(|set| set.path != gone.path);
    }

    pub(super) fn tell(&self, change: impl FnOnce(&mut Told)) {
        change(&mut lock(&self.told));
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Discards a decision that was made before the rows that are now set aside were.
///
/// # Errors
/// The store's.
pub fn forget_decision(store: &Store) -> Result<(), Error> {
    store.put_meta(DECISION_RECORD, &[])
}
