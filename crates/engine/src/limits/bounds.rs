//! Limits on a node's work besides [`crate::limits::admission`]: bytes, and concurrency per kind of
//! work.

use std::sync::Arc;
use std::sync::atomic::AtomicUsize;

use tokio::sync::{Semaphore, SemaphorePermit};

use crate::limits::cold_reads::ColdReads;
use crate::limits::room::Rooms;
use crate::limits::sizes::Sizes;

/// Concurrent inspections of a key. Each loads the whole object from every replica.
const INSPECTIONS: usize = 4;
/// Concurrent streams of events to clients.
pub const EVENT_STREAMS: usize = 16;

/// How many large rows are read or stored at a time: one for each core, but not one alone.
fn large_turns(cores: usize) -> usize {
    cores.max(2)
}

/// All of these limits.
pub struct Bounds {
    /// Memory for large messages from peers and large answers to them.
    pub room: Rooms,
    /// Which objects are large.
    pub sizes: Sizes,
    /// Slots for reads of the local replica that wait for the disk.
    pub cold_reads: ColdReads,
    /// Writes that have waited for the local store for longer than a replica may be silent.
    pub slow_stores: AtomicUsize,
    /// Slots for reading and storing large rows ([`large_turns`]).
    large_work: Semaphore,
    /// Slots for inspections of a key.
    pub inspections: Semaphore,
    /// Slots for comparisons requested by an operator.
    pub comparisons: Arc<Semaphore>,
    /// Slots for scrubs requested by an operator.
    pub scrubs: Semaphore,
    /// Slots for streams of events.
    pub event_streams: Arc<Semaphore>,
}

impl Bounds {
    /// Waits for a slot to read or store a row, if it is a large one.
    pub async fn turn_if(&self, is_large: bool) -> Option<SemaphorePermit<'_>> {
        match is_large {
            true => self.large_work.acquire().await.ok(), // it is never closed
            false => None,
        }
    }

    /// With this many bytes for peers' large messages, on so many cores.
    pub fn new(large_bytes_max: usize, cores: usize) -> Self {
        Self {
            room: Rooms::new(large_bytes_max),
            sizes: Sizes::default(),
            cold_reads: ColdReads::default(),
            slow_stores: AtomicUsize::new(0),
            large_work: Semaphore::new(large_turns(cores)),
            inspections: Semaphore::new(INSPECTIONS),
            comparisons: Arc::new(Semaphore::new(1)),
            scrubs: Semaphore::new(1),
            event_streams: Arc::new(Semaphore::new(EVENT_STREAMS)),
        }
    }
}
