//! Forwarded writes: those that wait for their coordinator's answer, and how many are taken over from others.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use quorate_protocol::name::NodeId;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use crate::peer::mailbox::{PeerEvent, ReplyTo};

/// Both directions.
pub(crate) struct Forwards {
    /// Operation number -> the mailbox of the operation.
    waiting: Mutex<HashMap<u64, ReplyTo>>,
    accepted: Arc<Semaphore>,
}

/// Removes the operation when it ends, however it ends.
pub(crate) struct Registration<'a> {
    forwards: &'a Forwards,
    operation: u64,
}

impl Forwards {
    /// Nothing waits; at most `accepted_max` writes are taken over at a time.
    pub(crate) fn new(accepted_max: usize) -> Self {
        Self { waiting: Mutex::default(), accepted: Arc::new(Semaphore::new(accepted_max)) }
    }

    /// Room to take over one write, `None` if there is none.
    pub(crate) fn admit(&self) -> Option<OwnedSemaphorePermit> {
        self.accepted.clone().try_acquire_owned().ok()
    }

    /// Expects answers for an operation until the registration is dropped.
    pub(crate) fn register(&self, operation: u64, reply_to: ReplyTo) -> Registration<'_> {
        self.lock().insert(operation, reply_to);
        Registration { forwards: self, operation }
    }

    /// Hands an answer to its operation. One that is over does not care.
    pub(crate) fn tell(&self, operation: u64, from: NodeId, heard: PeerEvent) {
        let reply_to = self.lock().get(&operation).cloned();
        if let Some(reply_to) = reply_to {
            reply_to.tell(from, heard);
        }
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<u64, ReplyTo>> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Registration<'_> {
    fn drop(&mut self) {
        self.forwards.lock().remove(&self.operation);
    }
}
