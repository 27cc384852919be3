//! Lock stripes: one writer at a time per row.
//!
//! A row's stripe is held around its read-modify-write. Rows share stripes by hash. A caller that
//! holds one stripe waits for no other; a caller that needs several (a page of rows, or all) locks
//! them in table order, so there is no deadlock. The guarded data is in RocksDB: a poisoned stripe
//! guards nothing half-done, since a batch is applied atomically.

use std::collections::BTreeSet;
use std::sync::{Mutex, MutexGuard, PoisonError, TryLockError};

use crate::error::Error;
use crate::options::Blocking;

/// Far more than concurrent writers, so that two rows rarely share one.
const STRIPES: usize = 1024;

pub(crate) struct Stripes(Box<[Mutex<()>]>);

impl Stripes {
    pub(crate) fn new() -> Self {
        Self((0..STRIPES).map(|_| Mutex::new(())).collect())
    }

    /// Locks the stripe of a row.
    ///
    /// # Errors
    /// [`Error::WouldBlock`] if it is held and the call may not block.
    pub(crate) fn lock(
        &self,
        row_key: &[u8],
        blocking: Blocking,
    ) -> Result<MutexGuard<'_, ()>, Error> {
        let stripe = &self.0[stripe_of(row_key)];
        match blocking {
            Blocking::Allowed => Ok(stripe.lock().unwrap_or_else(PoisonError::into_inner)),
            Blocking::Never => match stripe.try_lock() {
                Ok(guard) => Ok(guard),
                Err(TryLockError::Poisoned(poisoned)) => Ok(poisoned.into_inner()),
                Err(TryLockError::WouldBlock) => Err(Error::WouldBlock),
            },
        }
    }

    /// Locks the stripes of some rows. The caller holds none.
    pub(crate) fn lock_each<'a>(
        &self,
        row_keys: impl Iterator<Item = &'a [u8]>,
    ) -> Vec<MutexGuard<'_, ()>> {
        let stripes: BTreeSet<_> = row_keys.map(stripe_of).collect();
        let lock = |stripe: usize| self.0[stripe].lock().unwrap_or_else(PoisonError::into_inner);
        stripes.into_iter().map(lock).collect()
    }

    /// Locks all stripes. The caller holds none.
    pub(crate) fn lock_all(&self) -> Vec<MutexGuard<'_, ()>> {
        self.0.iter().map(|stripe| stripe.lock().unwrap_or_else(PoisonError::into_inner)).collect()
    }

    /// Waits until every writer that holds a stripe has released it, one stripe after the other.
    pub(crate) fn wait_for_all(&self) {
        for stripe in &self.0 {
            drop(stripe.lock().unwrap_or_else(PoisonError::into_inner));
        }
    }
}

fn stripe_of(row_key: &[u8]) -> usize {
    xxhash_rust::xxh3::xxh3_64(row_key) as usize % STRIPES
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn a_nonblocking_call_does_not_wait_for_a_stripe() {
        let stripes = Stripes::new();
        let guard = stripes.lock(b"row", Blocking::Never).unwrap();
        assert_eq!(stripes.lock(b"row", Blocking::Never).err(), Some(Error::WouldBlock));
        drop(guard);
        assert!(stripes.lock(b"row", Blocking::Never).is_ok());
        stripes.wait_for_all();
    }

    #[test]
    fn locking_several_stripes_does_not_deadlock() {
        let stripes = Stripes::new();
        let rows: Vec<_> = (0..500u16).map(u16::to_le_bytes).collect();
        std::thread::scope(|scope| {
            for turn in 0..4 {
                let (stripes, rows) = (&stripes, &rows);
                scope.spawn(move || {
                    for i in 0..200 {
                        let some = (0..64).map(|k| &rows[(i * 31 + k * (turn + 1)) % 500][..]);
                        match turn {
                            3 if i % 20 == 0 => drop(stripes.lock_all()),
                            _ => drop(stripes.lock_each(some)),
                        }
                    }
                });
            }
        });
        let twice = [&b"row"[..], b"row"].into_iter();
        assert_eq!(stripes.lock_each(twice).len(), 1);
    }
}
