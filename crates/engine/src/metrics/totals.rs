//! What a node counts for its metrics as it happens.

use std::sync::Arc;

use quorate_protocol::time::WallTime;
use tokio::sync::Semaphore;

use crate::metrics::auth::Auth;
use crate::metrics::layout::Layout;
use crate::metrics::operations::Operations;
use crate::metrics::repair::Repair;
use crate::metrics::requests::Requests;

/// What a node counts as it happens.
pub struct Metrics {
    /// Requests of clients.
    pub requests: Requests,
    /// What was not let in.
    pub auth: Auth,
    /// What happens within reads and writes.
    pub operations: Operations,
    /// What repair does.
    pub repair: Repair,
    /// What comes of different epochs.
    pub layout: Layout,
    /// When the node started, by the machine's clock.
    pub started: WallTime,
    /// Held while the store is asked for its numbers: a store that hangs is asked once, not again
    /// for every scrape.
    pub store_turn: Arc<Semaphore>,
}

impl Metrics {
    /// All counters at zero, for a node that starts now.
    pub fn new(started: WallTime) -> Self {
        Self {
            requests: Requests::default(),
            auth: Auth::default(),
            operations: Operations::default(),
            repair: Repair::default(),
            layout: Layout::default(),
            started,
            store_turn: Arc::new(Semaphore::new(1)),
        }
    }
}
