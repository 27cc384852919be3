//! A cache of which objects are large, so that memory is reserved before one is read or requested.
//!
//! A lock-free table of fixed size; a key that maps to an occupied slot replaces its entry. It may
//! be wrong about a key: the only cost is that an object is requested twice.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};

use quorate_protocol::name::Key;
use xxhash_rust::xxh3::xxh3_64;

/// Objects and messages longer than this are large, in bytes: they have lanes of their own, and
/// memory is reserved before they are read.
pub const LARGE_BYTES: usize = 64 << 10;

/// Objects up to this length are read on the event loop if they are in memory, in bytes: copying
/// one is cheaper than a round trip to another thread.
pub const IN_PLACE_BYTES_MAX: usize = 256 << 10;

/// The most keys remembered. A power of two. At 8 bytes each the table takes 128 KiB.
const PLACES: usize = 1 << 14;

/// The table.
pub struct Sizes {
    /// Each slot holds half of a key's hash and the length of its object.
    places: Box<[AtomicU64]>,
    /// Whether any object has ever been large: most stores have none, and need not look.
    has_any: AtomicBool,
}

impl Default for Sizes {
    fn default() -> Self {
        let places = (0..PLACES).map(|_| AtomicU64::new(0)).collect();
        Self { places, has_any: AtomicBool::new(false) }
    }
}

impl Sizes {
    /// The length of a key's object in bytes if it is known to be large, else 0.
    pub fn of(&self, key: &Key) -> usize {
        if !self.has_any.load(Relaxed) {
            return 0;
        }
        let (place, mark) = self.place(key);
        let found = place.load(Relaxed);
        if found >> 32 == mark { found as u32 as usize } else { 0 }
    }

    /// Records the encoded length of a key's object.
    pub fn saw(&self, key: &Key, bytes: usize) {
        let is_large = bytes > LARGE_BYTES;
        if !is_large && !self.has_any.load(Relaxed) {
            return;
        }
        let (place, mark) = self.place(key);
        if is_large {
            self.has_any.store(true, Relaxed);
            let bytes = u32::try_from(bytes).unwrap_or(u32::MAX);
            place.store(mark << 32 | u64::from(bytes), Relaxed);
        } else if place.load(Relaxed) >> 32 == mark {
            place.store(0, Relaxed);
        }
    }

    fn place(&self, key: &Key) -> (&AtomicU64, u64) {
        let hash = xxh3_64(key.as_bytes());
        // Never 0, which marks an empty slot.
        (&self.places[hash as usize % PLACES], hash >> 32 | 1)
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn large_objects_are_remembered_until_they_are_small() {
        let sizes = Sizes::default();
        let key = |i: usize| Key::new("b", format!("k{i}").as_bytes()).unwrap();
        assert_eq!(sizes.of(&key(1)), 0);
        sizes.saw(&key(1), LARGE_BYTES + 1);
        sizes.saw(&key(2), 8 << 20);
        sizes.saw(&key(3), LARGE_BYTES);
        let seen = [1, 2, 3, 4].map(|i| sizes.of(&key(i)));
        assert_eq!(seen, [LARGE_BYTES + 1, 8 << 20, 0, 0]);
        sizes.saw(&key(1), 10);
        assert_eq!((sizes.of(&key(1)), sizes.of(&key(2))), (0, 8 << 20));
        for i in 10..100_000 {
            sizes.saw(&key(i), 1 << 20);
        }
        assert!((10..100_000).all(|i| [0, 1 << 20].contains(&sizes.of(&key(i)))));
    }
}
