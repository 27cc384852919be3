//! The rows that this node has set aside, opened as stores (see `crate::repair::distrusted`).

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use quorate_protocol::message::Distrusted as Told;
use quorate_storage::{DataDir, Durability, Error, Options, Store};
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
    pub(super) name: String,
    pub(super) store: Store,
}

impl Set {
    /// The file, in the data directory, of keys that only this set had when it was accepted.
    pub(super) fn report(&self) -> String {
        format!("distrusted/{}.accepted.txt", self.name)
    }
}

impl Distrusted {
    /// Opens the sets of earlier starts.
    ///
    /// # Errors
    /// [`StartError::Distrusted`], naming what cannot be read.
    pub fn open(config: &Config, partitions: u32, dir: &DataDir) -> Result<Self, StartError> {
        let error = |dir: &DataDir, reason: String| StartError::Distrusted {
            path: dir.path().display().to_string(),
            reason,
        };
        let found = dir.sets_aside().map_err(|why| error(dir, why.to_string()))?;
        let mut sets = Vec::new();
        for (name, at) in found {
            let options = Options {
                durability: Durability::Buffered,
                block_cache_bytes: SET_CACHE_BYTES,
                row_cache_bytes: 0,
                memtable_bytes: SET_CACHE_BYTES,
                disk_free_bytes_min: 0,
                ..Options::new(config.node, &config.cluster_id, partitions)
            };
            let store = Store::open_in(&at, options).map_err(|why| error(&at, why.to_string()))?;
            tracing::warn!(set = name, "rows are set aside; see `quorate distrusted list`");
            sets.push(Arc::new(Set { name, store }));
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
        lock(&self.sets).retain(|set| set.name != gone.name);
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
