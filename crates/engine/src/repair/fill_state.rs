//! Which partitions this node has received (see `crate::repair::fill`).

use std::sync::atomic::{AtomicBool, Ordering::Acquire, Ordering::Release};
use std::sync::{Mutex, PoisonError};

use quorate_protocol::layout::Partition;
use quorate_protocol::name::Key;
use quorate_storage::{Error, Store};

use crate::node::errors::StartError;
use crate::repair::doubtful::Doubtful;

const READY_RECORD: &str = "ready";

/// Which partitions were received. Recorded in the store.
pub struct FillState {
    ready: Vec<AtomicBool>,
    complete: AtomicBool,
    recording: Mutex<()>,
    pub(super) doubtful: Doubtful,
}

impl FillState {
    /// Loads what this node has recorded; without a record nothing is ready.
    ///
    /// # Errors
    /// [`StartError`] if the record cannot be read.
    pub fn load(store: &Store, partitions: u32) -> Result<Self, StartError> {
        let recorded = store.meta(READY_RECORD)?.unwrap_or_default();
        if !recorded.is_empty() && recorded.len() != partitions as usize {
            return Err(StartError::Record(READY_RECORD));
        }
        let is_ready = |p: usize| recorded.get(p) == Some(&1);
        let ready: Vec<bool> = (0..partitions as usize).map(is_ready).collect();
        let complete = AtomicBool::new(ready.iter().all(|ready| *ready));
        let ready = ready.into_iter().map(AtomicBool::new).collect();
        let doubtful = Doubtful::load(store)?;
        Ok(Self { ready, complete, recording: Mutex::new(()), doubtful })
    }

    /// Whether a partition was received.
    pub fn is_ready(&self, partition: Partition) -> bool {
        self.is_complete()
            || self.ready.get(usize::from(partition.0)).is_some_and(|ready| ready.load(Acquire))
    }

    /// Whether all partitions were received.
    pub fn is_complete(&self) -> bool {
        self.complete.load(Acquire)
    }

    /// Whether a key is doubtful: another home replica holds something of it but could not give it.
    pub fn is_doubtful(&self, key: &Key) -> bool {
        self.doubtful.has(key)
    }

    /// All doubtful keys.
    pub fn doubtful(&self) -> Vec<Key> {
        self.doubtful.all()
    }

    /// Records that every partition is ready (when a cluster is formed) or none is (when this node
    /// joins one).
    ///
    /// # Errors
    /// The store's, if the record cannot be made durable.
    pub fn record_all(&self, store: &Store, ready: bool) -> Result<(), Error> {
        self.doubtful.change(store, &[], |_| true)?;
        for partition in &self.ready {
            partition.store(ready, Release);
        }
        self.record(store)
    }

    /// A partition was received; [`FillState::record`] makes that durable.
    pub(super) fn mark(&self, partition: Partition) {
        if let Some(ready) = self.ready.get(usize::from(partition.0)) {
            ready.store(true, Release);
        }
    }

    pub(super) fn record(&self, store: &Store) -> Result<(), Error> {
        let _one_at_a_time = self.recording.lock().unwrap_or_else(PoisonError::into_inner);
        let record: Vec<u8> =
            self.ready.iter().map(|ready| u8::from(ready.load(Acquire))).collect();
        store.put_meta(READY_RECORD, &record)?;
        self.complete.store(record.iter().all(|ready| *ready == 1), Release);
        Ok(())
    }

    /// How many partitions have not been received yet.
    pub fn missing_count(&self) -> usize {
        if self.is_complete() { 0 } else { self.missing().len() }
    }

    /// The partitions that have not been received yet.
    pub fn missing(&self) -> Vec<Partition> {
        let partitions = (0..self.ready.len()).map(|p| Partition(p as u16));
        partitions.filter(|p| !self.is_ready(*p)).collect()
    }
}
