//! What bounds a node's work beside [`crate::limits::admission`]: by bytes, and by how much of a
//! kind is done at a time.

use std::sync::Arc;
use std::sync::atomic::AtomicUsize;
use std::thread::available_parallelism;

use tokio::sync::{Semaphore, SemaphorePermit};

use crate::limits::cold_reads::ColdReads;
use crate::limits::room::Rooms;
use crate::limits::sizes::Sizes;

/// How many keys are inspected at a time.
const INSPECTIONS: usize = 4;

/// All of it.
pub(crate) struct Bounds {
    /// Room for what peers send and ask for that is large.
    pub(crate) room: Rooms,
    /// Which objects are large.
    pub(crate) sizes: Sizes,
    /// Turns for reads of this node's own replica that wait for the disk.
    pub(crate) cold_reads: ColdReads,
    /// Writes that wait for this node's own store for longer than a replica may be silent.
    pub(crate) slow_stores: AtomicUsize,
    /// Turns for reading and storing large rows, one for each core: more threads would only take time from
    /// those that serve what is small.
    large_work: Semaphore,
    /// Turns for inspections of a key.
    pub(crate) inspections: Semaphore,
    /// Turns for comparisons that people ask for.
    pub(crate) comparisons: Arc<Semaphore>,
    /// Turns for scrubs that people ask for.
    pub(crate) scrubs: Semaphore,
}

impl Bounds {
    /// Waits for a turn to read or store a row, if it is a large one.
    pub(crate) async fn turn_if(&self, is_large: bool) -> Option<SemaphorePermit<'_>> {
        match is_large {
            true => self.large_work.acquire().await.ok(), // it is never closed
            false => None,
        }
    }

    /// With room for so many bytes of peers' large messages.
    pub(crate) fn new(large_bytes_max: usize) -> Self {
        Self {
            room: Rooms::new(large_bytes_max),
            sizes: Sizes::default(),
            cold_reads: ColdReads::default(),
            slow_stores: AtomicUsize::new(0),
            large_work: Semaphore::new(
                available_parallelism().map_or(2, |cores| cores.get().max(2)),
            ),
            inspections: Semaphore::new(INSPECTIONS),
            comparisons: Arc::new(Semaphore::new(1)),
            scrubs: Semaphore::new(1),
        }
    }
}
