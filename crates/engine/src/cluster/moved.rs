//! An operation counts its quorum in one epoch. If the cluster record has changed when it ends, what it
//! counted may be a quorum of neither layout: it begins again, in the view of the new record.
//!
//! The frames of an operation carry the epoch in which they are sent, not that in which the operation
//! began. So it is judged at its end: had the epoch changed before the last answer that counts, the node
//! knows by now.

use std::time::Duration;

use quorate_protocol::mutation::{Mutation, mutated};

use crate::cluster::view::ClusterView;
use crate::node::Node;

/// How often an operation begins again before it fails: each time another record was decided meanwhile.
pub const RESTARTS_MAX: usize = 8;

impl Node {
    /// The view in which an operation must begin again that ends now and began in `view`; `None` if it
    /// stands. A failure may be due to a newer record that this node has not received yet: waits for it, if
    /// a peer has shown one.
    pub async fn moved(&self, view: &ClusterView, has_failed: bool) -> Option<ClusterView> {
        if mutated(Mutation::AcksOfTwoEpochs) {
            return None;
        }
        let epoch = view.epoch();
        if has_failed && self.epoch() == epoch {
            let patience = Duration::from_millis(self.config.timeouts.replica_ms);
            self.membership.epochs.catch_up(patience).await;
        }
        (self.epoch() != epoch).then(|| self.view())
    }
}
