//! Room for what peers send and ask for that is large: who finds none waits, and its peer with it.
//!
//! Nothing that holds room waits for another node, so there is always some again soon.

use std::sync::Arc;

use tokio::sync::{OwnedSemaphorePermit, Semaphore};

/// What is counted: small pieces would cost more than they are worth, in bytes.
const UNIT_BYTES: usize = 1 << 10;

/// All room there is.
pub(crate) struct Rooms {
    units: Arc<Semaphore>,
    units_max: u32,
}

/// Some of it, until dropped.
pub(crate) struct Room {
    _units: Option<OwnedSemaphorePermit>,
}

impl Rooms {
    /// Room for so many bytes.
    pub(crate) fn new(bytes_max: usize) -> Self {
        let units_max = u32::try_from(bytes_max / UNIT_BYTES).unwrap_or(u32::MAX).max(1);
        let units = (units_max as usize).min(Semaphore::MAX_PERMITS);
        Self { units: Arc::new(Semaphore::new(units)), units_max }
    }

    /// Takes room, in the order of asking. Whoever needs more than there is gets all of it.
    pub(crate) async fn take(&self, bytes: usize) -> Room {
        let units = u32::try_from(bytes.div_ceil(UNIT_BYTES)).unwrap_or(u32::MAX);
        let units = units.clamp(1, self.units_max);
        // It is never closed, so there is always a permit.
        Room { _units: self.units.clone().acquire_many_owned(units).await.ok() }
    }

    /// Bytes that are taken now.
    pub(crate) fn taken_bytes(&self) -> usize {
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
        assert_eq!(rooms.taken_bytes(), 100 << 10, "all there is");
        assert!(small.as_mut().now_or_never().is_none());
        drop(large);
        drop(small.await);
        assert_eq!(rooms.taken_bytes(), 0);
    }
}
