//! Doubtful keys: another home replica holds something of them that it could not give when this
//! node was filled, because the row is damaged there, or larger than a frame.
//!
//! One such key must not keep a whole partition from being served, and data that may be missing
//! must not be reported as absent. So the partition counts as received, but the key does not: reads
//! of it by this node are "not ready" until every home replica could give what it holds.

use std::collections::BTreeSet;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::sync::{Mutex, PoisonError, RwLock, RwLockReadGuard};

use quorate_protocol::name::Key;
use quorate_storage::{Error, Store};

use crate::node::errors::StartError;
use crate::node::record;

const RECORD: &str = "doubtful";
/// The most keys that are remembered; with more, the partition is not ready.
const KEYS_MAX: usize = 1024;

/// The doubtful keys. Recorded in the store.
pub struct Doubtful {
    keys: RwLock<BTreeSet<Key>>,
    /// Whether there are none, which is nearly always so: checked by every read.
    is_empty: AtomicBool,
    recording: Mutex<()>,
}

impl Doubtful {
    /// Loads the keys recorded in the store.
    ///
    /// # Errors
    /// [`StartError`] if the record cannot be read.
    pub fn load(store: &Store) -> Result<Self, StartError> {
        let keys: BTreeSet<Key> = record::load(store, RECORD)?.unwrap_or_default();
        let is_empty = AtomicBool::new(keys.is_empty());
        Ok(Self { keys: RwLock::new(keys), is_empty, recording: Mutex::new(()) })
    }

    /// Whether a key is doubtful.
    pub fn has(&self, key: &Key) -> bool {
        !self.is_empty.load(Relaxed) && self.read().contains(key)
    }

    /// All doubtful keys.
    pub fn all(&self) -> Vec<Key> {
        if self.is_empty.load(Relaxed) { Vec::new() } else { self.read().iter().cloned().collect() }
    }

    /// Adds some keys and removes others, durably. Returns whether there was room; nothing changed
    /// if not.
    ///
    /// # Errors
    /// The store's, if that cannot be made durable; nothing changed.
    pub fn change(
        &self,
        store: &Store,
        add: &[Key],
        take_out: impl Fn(&Key) -> bool,
    ) -> Result<bool, Error> {
        let _one_at_a_time = self.recording.lock().unwrap_or_else(PoisonError::into_inner);
        let before = self.read().clone();
        let mut keys = before.clone();
        keys.retain(|key| !take_out(key));
        keys.extend(add.iter().cloned());
        if keys.len() > KEYS_MAX.max(before.len()) {
            return Ok(false);
        }
        if keys != before {
            record::put(store, RECORD, &keys)?;
            self.is_empty.store(keys.is_empty(), Relaxed);
            *self.keys.write().unwrap_or_else(PoisonError::into_inner) = keys;
        }
        Ok(true)
    }

    fn read(&self) -> RwLockReadGuard<'_, BTreeSet<Key>> {
        self.keys.read().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use quorate_protocol::name::NodeId;
    use quorate_storage::Options;

    use super::*;

    fn key(i: usize) -> Key {
        Key::new("b", format!("k{i}").as_bytes()).unwrap()
    }

    #[test]
    fn they_are_there_after_a_restart_and_are_bounded() {
        let directory = tempfile::tempdir().unwrap();
        let me = NodeId::parse("n1").unwrap();
        let options = || Options { disk_free_bytes_min: 0, ..Options::new(me, "test", 8) };
        let store = Store::open(directory.path(), options()).unwrap();
        let doubtful = Doubtful::load(&store).unwrap();
        assert!(!doubtful.has(&key(1)) && doubtful.all().is_empty());
        assert_eq!(doubtful.change(&store, &[key(1), key(2)], |_| false), Ok(true));
        let many: Vec<Key> = (0..KEYS_MAX + 1).map(key).collect();
        assert_eq!(doubtful.change(&store, &many, |_| false), Ok(false), "no room");
        drop((doubtful, store));
        let store = Store::open(directory.path(), options()).unwrap();
        let doubtful = Doubtful::load(&store).unwrap();
        assert_eq!(doubtful.all(), [key(1), key(2)]);
        assert_eq!(doubtful.change(&store, &[], |found| *found == key(1)), Ok(true));
        assert!(!doubtful.has(&key(1)) && doubtful.has(&key(2)));
    }
}
