//! Forwarded writes: those awaiting their coordinator's answer, and a bound on those accepted from
//! other nodes.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use quorate_protocol::name::NodeId;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use crate::peer::mailbox::{PeerEvent, ReplyTo};

/// Forwarded writes in both directions.
pub struct Forwards {
    /// Operation number -> the mailbox of the operation.
    waiting: Mutex<HashMap<u64, ReplyTo>>,
    accepted: Arc<Semaphore>,
}

/// Deregisters the operation on drop.
pub struct Registration<'a> {
    forwards: &'a Forwards,
    operation: u64,
}

impl Forwards {
    /// Starts empty; at most `accepted_max` writes from other nodes are in flight at a time.
    pub fn new(accepted_max: usize) -> Self {
        Self { waiting: Mutex::default(), accepted: Arc::new(Semaphore::new(accepted_max)) }
    }

    /// A permit to accept one write, or `None` if the limit is reached.
    pub fn admit(&self) -> Option<OwnedSemaphorePermit> {
        self.accepted.clone().try_acquire_owned().ok()
    }

    /// Routes answers for an operation to `reply_to` until the registration is dropped.
    pub fn register(&self, operation: u64, reply_to: ReplyTo) -> Registration<'_> {
        self.lock().insert(operation, reply_to);
        Registration { forwards: self, operation }
    }

    /// Delivers an answer to its operation; dropped if the operation is over.
    pub fn tell(&self, operation: u64, from: NodeId, heard: PeerEvent) {
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
