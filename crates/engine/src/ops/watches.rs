//! Who waits for a change of a key: requests that stay open until there is something new.
//!
//! The store tells of each home row that it has changed. A waiting request is woken, and reads again; it
//! misses nothing, since it began to listen before it read.

use std::ops::Deref;
use std::sync::Arc;
use std::time::Duration;

use quorate_protocol::name::Key;
use quorate_storage::Store;

use super::watchers::{Watch, Watchers};

/// The most requests that wait at a time: as many as a node keeps connections.
pub const WATCHES_MAX: usize = 10_000;
/// How often one that waits asks a quorum at the most, in milliseconds.
const LOOK_MS_MIN: usize = 500;
/// How many of all that wait ask in a second at the most.
const LOOKS_A_SECOND: usize = 1_000;

/// All that wait.
#[derive(Default)]
pub struct Watches(Arc<Watchers<Key>>);

impl Deref for Watches {
    type Target = Watchers<Key>;

    fn deref(&self) -> &Watchers<Key> {
        &self.0
    }
}

impl Watches {
    /// Those of a store, which is not shared yet.
    pub fn of(store: &Store) -> Self {
        let watches = Self::default();
        let waiting = watches.0.clone();
        store.tell_changes_to(Box::new(move |key| waiting.changed(key)));
        watches
    }

    /// Begins to wait; `None` if too many do.
    pub fn watch(&self, key: &Key) -> Option<Watch<Key>> {
        self.0.watch(key, WATCHES_MAX)
    }

    /// How often each that waits asks a quorum while no row of this node's own changes: it may be no home
    /// replica, or miss a write. The more wait, the less often, so that waiting costs no more than so much.
    pub fn look_every(&self) -> Duration {
        let ms = (self.count() * 1_000 / LOOKS_A_SECOND).max(LOOK_MS_MIN);
        Duration::from_millis(ms as u64)
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn no_more_than_so_many_wait() {
        let watches = Watches::default();
        let key = Key::new("b", b"k").unwrap();
        assert_eq!(watches.look_every(), Duration::from_millis(500));
        let mut all: Vec<Watch<Key>> =
            (0..WATCHES_MAX).map(|_| watches.watch(&key).unwrap()).collect();
        assert_eq!(watches.look_every(), Duration::from_secs(10));
        assert!(watches.watch(&key).is_none());
        all.pop();
        assert!(watches.watch(&key).is_some());
    }
}
