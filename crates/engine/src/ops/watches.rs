//! Who waits for a change of a key: requests that stay open until there is something new.
//!
//! The store tells of each home row that it has changed. A waiting request is woken, and reads again; it
//! misses nothing, since it began to listen before it read.

use std::collections::HashMap;
use std::sync::atomic::{AtomicUsize, Ordering::SeqCst};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use quorate_protocol::name::Key;
use quorate_storage::Store;
use tokio::sync::Notify;
use tokio::sync::futures::Notified;

/// The most requests that wait at a time: as many as a node keeps connections.
pub const WATCHES_MAX: usize = 10_000;
/// How often one that waits asks a quorum at the most, in milliseconds.
const LOOK_MS_MIN: usize = 500;
/// How many of all that wait ask in a second at the most.
const LOOKS_A_SECOND: usize = 1_000;

/// All that wait.
#[derive(Default)]
pub struct Watches {
    /// How many do: read for every write.
    count: AtomicUsize,
    by_key: Mutex<HashMap<Key, Watched>>,
}

/// A key for which some wait.
#[derive(Default)]
struct Watched {
    changed: Arc<Notify>,
    count: usize,
}

/// One that waits.
pub struct Watch {
    watches: Arc<Watches>,
    key: Key,
    changed: Arc<Notify>,
}

impl Watches {
    /// Those of a store, which is not shared yet.
    pub fn of(store: &Store) -> Arc<Self> {
        let watches = Arc::<Self>::default();
        let waiting = watches.clone();
        store.tell_changes_to(Box::new(move |key| waiting.changed(key)));
        watches
    }

    /// Begins to wait; `None` if too many do.
    pub fn watch(self: &Arc<Self>, key: &Key) -> Option<Watch> {
        let more = |count: usize| (count < WATCHES_MAX).then_some(count + 1);
        self.count.fetch_update(SeqCst, SeqCst, more).ok()?;
        let mut by_key = self.lock();
        let watched = by_key.entry(key.clone()).or_default();
        watched.count += 1;
        let changed = watched.changed.clone();
        Some(Watch { watches: self.clone(), key: key.clone(), changed })
    }

    /// A home row has changed.
    pub fn changed(&self, key: &Key) {
        if self.count() > 0
            && let Some(watched) = self.lock().get(key)
        {
            watched.changed.notify_waiters();
        }
    }

    /// How often each that waits asks a quorum while no row of this node's own changes: it may be no home
    /// replica, or miss a write. The more wait, the less often, so that waiting costs no more than so much.
    pub fn look_every(&self) -> Duration {
        let ms = (self.count() * 1_000 / LOOKS_A_SECOND).max(LOOK_MS_MIN);
        Duration::from_millis(ms as u64)
    }

    /// How many wait.
    pub fn count(&self) -> usize {
        self.count.load(SeqCst)
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<Key, Watched>> {
        self.by_key.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Watch {
    /// Resolves at the next change from this call on.
    pub fn changed(&self) -> Notified<'_> {
        self.changed.notified()
    }
}

impl Drop for Watch {
    fn drop(&mut self) {
        let mut by_key = self.watches.lock();
        if let Some(watched) = by_key.get_mut(&self.key) {
            watched.count -= 1;
            if watched.count == 0 {
                by_key.remove(&self.key);
            }
        }
        self.watches.count.fetch_sub(1, SeqCst);
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use futures_util::FutureExt;

    use super::*;

    #[test]
    fn a_change_wakes_those_that_wait_for_its_key_alone() {
        let watches = Arc::new(Watches::default());
        let key = |name: &str| Key::new("b", name.as_bytes()).unwrap();
        watches.changed(&key("a")); // no request waits
        let [one, two, other] = ["a", "a", "b"].map(|name| watches.watch(&key(name)).unwrap());
        let mut waiting = [one.changed(), two.changed(), other.changed()].map(Box::pin);
        waiting.iter_mut().for_each(|it| assert!(!it.as_mut().enable()));
        watches.changed(&key("a"));
        let woken = waiting.map(|it| it.now_or_never().is_some());
        assert_eq!(woken, [true, true, false]);
        assert!(one.changed().now_or_never().is_none(), "a change wakes once");
        assert_eq!(watches.count(), 3);
        drop((one, two, other));
        assert_eq!((watches.count(), watches.lock().len()), (0, 0));
    }

    #[test]
    fn no_more_than_so_many_wait() {
        let watches = Arc::new(Watches::default());
        let key = Key::new("b", b"k").unwrap();
        assert_eq!(watches.look_every(), Duration::from_millis(500));
        let mut all: Vec<Watch> = (0..WATCHES_MAX).map(|_| watches.watch(&key).unwrap()).collect();
        assert_eq!(watches.look_every(), Duration::from_secs(10));
        assert!(watches.watch(&key).is_none());
        all.pop();
        assert!(watches.watch(&key).is_some());
    }
}
