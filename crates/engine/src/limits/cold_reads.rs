//! Slots for reads that wait for the disk: the memory that one needs is known only after it.
//!
//! Each is assumed to need as much as recent ones did. Reads of a key of unknown size run one at a
//! time: the ones behind the first then know the size, and reserve memory before they read.

use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};

use quorate_protocol::name::Key;
use tokio::sync::{Semaphore, SemaphorePermit};
use xxhash_rust::xxh3::xxh3_64;

use crate::limits::room::{Room, Rooms};
use crate::limits::sizes::Sizes;

/// Concurrent reads that wait for the disk.
const AT_ONCE: usize = 32;
/// Memory they may need together, in bytes, as far as it is known.
const BYTES_MAX: usize = 64 << 20;
/// Stripes of key hashes. Keys that share one only wait for each other.
const STRIPES: usize = 1024;

/// The slots.
pub struct ColdReads {
    at_once: Semaphore,
    room: Rooms,
    /// Recent maximum that a read returned, in bytes.
    lately: AtomicUsize,
    /// One read at a time for keys of the same hash.
    stripes: Vec<Semaphore>,
}

impl Default for ColdReads {
    fn default() -> Self {
        Self {
            at_once: Semaphore::new(AT_ONCE),
            room: Rooms::new(BYTES_MAX),
            lately: AtomicUsize::new(0),
            stripes: (0..STRIPES).map(|_| Semaphore::new(1)).collect(),
        }
    }
}

/// Permission to read one row; released on drop.
pub struct Turn<'a> {
    _key: Option<SemaphorePermit<'a>>,
    _room: Room,
    _place: Option<SemaphorePermit<'a>>,
}

impl ColdReads {
    /// Waits for a slot to read a key's row.
    pub async fn turn(&self, sizes: &Sizes, key: &Key) -> Turn<'_> {
        let stripe = &self.stripes[xxh3_64(key.as_bytes()) as usize % STRIPES];
        let is_known = sizes.of(key) > 0;
        let alone = if is_known { None } else { stripe.acquire().await.ok() };
        // Memory for known large objects is already reserved.
        let expected = if is_known { 0 } else { self.lately.load(Relaxed) };
        let room = self.room.take(expected).await;
        Turn { _key: alone, _room: room, _place: self.at_once.acquire().await.ok() }
    }

    /// Records how many bytes a read returned.
    pub fn saw(&self, bytes: usize) {
        let lately = |before: usize| Some(bytes.max(before - before / 8));
        // Cannot fail: the closure always returns a value.
        let _ = self.lately.fetch_update(Relaxed, Relaxed, lately);
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use futures_util::FutureExt;

    use super::*;

    #[tokio::test]
    async fn unknown_keys_are_read_one_at_a_time_and_by_what_the_last_ones_brought() {
        let (reads, sizes) = (ColdReads::default(), Sizes::default());
        let key = |i: usize| Key::new("b", format!("k{i}").as_bytes()).unwrap();
        let keys: Vec<Key> = (1..20).map(key).collect();
        let first = reads.turn(&sizes, &keys[0]).await;
        assert!(reads.turn(&sizes, &keys[0]).now_or_never().is_none());
        sizes.saw(&keys[0], 8 << 20);
        assert!(reads.turn(&sizes, &keys[0]).now_or_never().is_some(), "there is room for it");
        drop(first);
        reads.saw(32 << 20);
        let taken: Vec<_> =
            keys[1..].iter().filter_map(|key| reads.turn(&sizes, key).now_or_never()).collect();
        assert!((1..=2).contains(&taken.len()), "{}", taken.len());
        drop(taken);
        (0..100).for_each(|_| reads.saw(1000));
        let taken: Vec<_> =
            keys[1..].iter().filter_map(|key| reads.turn(&sizes, key).now_or_never()).collect();
        assert!(taken.len() > 10, "all but those that share a stripe");
    }
}
