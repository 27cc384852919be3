//! Who waits for a change of a key: requests that stay open until there is something new.
//!
//! The store tells of each home row that it has changed. A waiting request is woken, and reads again; it
//! misses nothing, since it began to listen before it read.

use std::ops::Deref;
use std::sync::Arc;
use std::time::Duration;

use quorate_protocol::name::Key;
use quorate_storage::Store;
use tokio::sync::{Semaphore, SemaphorePermit};
use tokio::time::timeout;

use super::watchers::{Watch, Watchers};

/// The most requests that wait at a time: as many as a node keeps connections.
pub const WATCHES_MAX: usize = 10_000;
/// How often one that waits asks a quorum at the most, in milliseconds.
const LOOK_MS_MIN: usize = 500;
/// How many of all that wait ask in a second at the most.
const LOOKS_A_SECOND: usize = 1_000;
/// How many of those that one change has woken read at a time. More would only be refused.
const LOOKS_AT_ONCE: usize = 64;
/// How long one of them waits for its turn. Then reads must be taking long, and admission is to judge.
const TURN_PATIENCE: Duration = Duration::from_secs(1);

/// All that wait.
pub struct Watches {
    waiting: Arc<Watchers<Key>>,
    turns: Semaphore,
}

impl Default for Watches {
    fn default() -> Self {
        Self { waiting: Arc::default(), turns: Semaphore::new(LOOKS_AT_ONCE) }
    }
}

impl Deref for Watches {
    type Target = Watchers<Key>;

    fn deref(&self) -> &Watchers<Key> {
        &self.waiting
    }
}

impl Watches {
    /// Those of a store, which is not shared yet.
    pub fn of(store: &Store) -> Self {
        let watches = Self::default();
        let waiting = watches.waiting.clone();
        store.tell_changes_to(Box::new(move |key| waiting.changed(key)));
        watches
    }

    /// Begins to wait; `None` if too many do.
    pub fn watch(&self, key: &Key) -> Option<Watch<Key>> {
        self.waiting.watch(key, WATCHES_MAX)
    }

    /// Waits until it is the turn of one that was woken to read, first come, first served; `None` if that
    /// takes too long.
    pub async fn turn(&self) -> Option<SemaphorePermit<'_>> {
        timeout(TURN_PATIENCE, self.turns.acquire()).await.ok()?.ok()
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

    #[tokio::test(start_paused = true)]
    async fn of_those_that_were_woken_some_read_at_a_time_and_none_waits_for_ever() {
        let watches = Watches::default();
        let mut turns = Vec::new();
        for _ in 0..LOOKS_AT_ONCE {
            turns.push(watches.turn().await.unwrap());
        }
        assert!(watches.turn().await.is_none(), "all of them take long");
        turns.pop();
        assert!(watches.turn().await.is_some());
    }
}
