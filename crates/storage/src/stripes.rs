//! Lock stripes: one writer at a time per row.
//!
//! A row's stripe is held around its read-modify-write. Rows share stripes by hash, so two rows are
//! never locked at once. The guarded data is in RocksDB: a poisoned stripe guards nothing
//! half-done, since a batch is applied whole.

use std::sync::{Mutex, MutexGuard, PoisonError, TryLockError};

use crate::error::Error;
use crate::options::Blocking;

/// Far more than threads that write at once.
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
        let stripe = &self.0[xxhash_rust::xxh3::xxh3_64(row_key) as usize % STRIPES];
        match blocking {
            Blocking::Allowed => Ok(stripe.lock().unwrap_or_else(PoisonError::into_inner)),
            Blocking::Never => match stripe.try_lock() {
                Ok(guard) => Ok(guard),
                Err(TryLockError::Poisoned(poisoned)) => Ok(poisoned.into_inner()),
                Err(TryLockError::WouldBlock) => Err(Error::WouldBlock),
            },
        }
    }

    /// Waits until every writer that holds a stripe has let go, one stripe after the other.
    pub(crate) fn wait_for_all(&self) {
        for stripe in &self.0 {
            drop(stripe.lock().unwrap_or_else(PoisonError::into_inner));
        }
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn a_held_stripe_is_not_waited_for() {
        let stripes = Stripes::new();
        let guard = stripes.lock(b"row", Blocking::Never).unwrap();
        assert_eq!(stripes.lock(b"row", Blocking::Never).err(), Some(Error::WouldBlock));
        drop(guard);
        assert!(stripes.lock(b"row", Blocking::Never).is_ok());
        stripes.wait_for_all();
    }
}
