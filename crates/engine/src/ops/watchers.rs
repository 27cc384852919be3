//! Who waits for something to change: woken by its name.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicUsize, Ordering::SeqCst};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::Notify;
use tokio::sync::futures::Notified;

/// All that wait.
pub struct Watchers<K> {
    /// How many do: read for every write.
    count: AtomicUsize,
    by_name: Mutex<BTreeMap<K, Watched>>,
}

/// Something for which some wait.
#[derive(Default)]
struct Watched {
    changed: Arc<Notify>,
    count: usize,
}

/// One that waits.
pub struct Watch<K: Ord> {
    all: Arc<Watchers<K>>,
    name: K,
    changed: Arc<Notify>,
}

impl<K> Default for Watchers<K> {
    fn default() -> Self {
        Self { count: AtomicUsize::new(0), by_name: Mutex::default() }
    }
}

impl<K: Ord + Clone> Watchers<K> {
    /// Begins to wait; `None` if `max` do already.
    pub fn watch(self: &Arc<Self>, name: &K, max: usize) -> Option<Watch<K>> {
        let more = |count: usize| (count < max).then_some(count + 1);
        self.count.fetch_update(SeqCst, SeqCst, more).ok()?;
        let mut by_name = self.lock();
        let watched = by_name.entry(name.clone()).or_default();
        watched.count += 1;
        Some(Watch { all: self.clone(), name: name.clone(), changed: watched.changed.clone() })
    }

    /// Something has changed.
    pub fn changed(&self, name: &K) {
        if self.count() > 0
            && let Some(watched) = self.lock().get(name)
        {
            watched.changed.notify_waiters();
        }
    }

    /// For what some wait, in order.
    pub fn names(&self) -> Vec<K> {
        self.lock().keys().cloned().collect()
    }
}

impl<K> Watchers<K> {
    /// How many wait.
    pub fn count(&self) -> usize {
        self.count.load(SeqCst)
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<K, Watched>> {
        self.by_name.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl<K: Ord> Watch<K> {
    /// Resolves at the next change from this call on.
    pub fn changed(&self) -> Notified<'_> {
        self.changed.notified()
    }
}

impl<K: Ord> Drop for Watch<K> {
    fn drop(&mut self) {
        let mut by_name = self.all.lock();
        if let Some(watched) = by_name.get_mut(&self.name) {
            watched.count -= 1;
            if watched.count == 0 {
                by_name.remove(&self.name);
            }
        }
        self.all.count.fetch_sub(1, SeqCst);
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use futures_util::FutureExt;

    use super::*;

    #[test]
    fn a_change_wakes_those_that_wait_for_it_alone() {
        let watches = Arc::new(Watchers::default());
        watches.changed(&"a"); // no request waits
        let [one, two, other] = ["a", "a", "b"].map(|name| watches.watch(&name, 3).unwrap());
        assert!(watches.watch(&"a", 3).is_none());
        let mut waiting = [one.changed(), two.changed(), other.changed()].map(Box::pin);
        waiting.iter_mut().for_each(|it| assert!(!it.as_mut().enable()));
        watches.changed(&"a");
        let woken = waiting.map(|it| it.now_or_never().is_some());
        assert_eq!(woken, [true, true, false]);
        assert!(one.changed().now_or_never().is_none(), "a change wakes once");
        assert_eq!((watches.count(), watches.names()), (3, vec!["a", "b"]));
        drop((one, two, other));
        assert_eq!((watches.count(), watches.lock().len()), (0, 0));
    }
}
