//! Memory for large messages of peers: a request that finds none waits, and so does the peer that
//! sent it.
//!
//! Nothing that holds memory here waits for another node, so some is always released soon.

use std::sync::Arc;

use tokio::sync::{OwnedSemaphorePermit, Semaphore};

/// Accounting unit, in bytes. Finer accounting would cost more than it is worth.
const UNIT_BYTES: usize = 1 << 10;

/// The memory limit.
pub struct Rooms {
    units: Arc<Semaphore>,
    units_max: u32,
}

/// Reserved memory; released on drop.
pub struct Room {
    _units: Option<OwnedSemaphorePermit>,
}

impl Rooms {
    /// A limit of `bytes_max`.
    pub fn new(bytes_max: usize) -> Self {
        let units_max = u32::try_from(bytes_max / UNIT_BYTES).unwrap_or(u32::MAX).max(1);
        let units = (units_max as usize).min(Semaphore::MAX_PERMITS);
        Self { units: Arc::new(Semaphore::new(units)), units_max }
    }

    /// Reserves memory, first come, first served. A request larger than the limit gets all of it.
    pub async fn take(&self, bytes: usize) -> Room {
        let units = u32::try_from(bytes.div_ceil(UNIT_BYTES)).unwrap_or(u32::MAX);
        let units = units.clamp(1, self.units_max);
        // Cannot fail: the semaphore is never closed.
        Room { _units: self.units.clone().acquire_many_owned(units).await.ok() }
    }

    /// Bytes reserved now.
    pub fn taken_bytes(&self) -> usize {
        (self.units_max as usize - self.units.available_permits()) * UNIT_BYTES
    }
}

#[cfg(test)]
mod tests {
    use futures_util::FutureExt;

    use super::*;

    #[tokio::test]
    async fn who_finds_no_room_waits_in_the_order_of_asking() {
        let rooms = Rooms::new(100 << 10);
        let most = rooms.take(80 << 10).await;
        let mut large = Box::pin(rooms.take(1 << 30));
        assert!(large.as_mut().now_or_never().is_none());
        let mut small = Box::pin(rooms.take(1));
        assert!(small.as_mut().now_or_never().is_none(), "after the large one");
        drop(most);
        let large = large.await;
        assert_eq!(rooms.taken_bytes(), 100 << 10, "at most the limit");
        assert!(small.as_mut().now_or_never().is_none());
        drop(large);
        drop(small.await);
        assert_eq!(rooms.taken_bytes(), 0);
    }
}
