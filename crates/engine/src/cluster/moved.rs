//! An operation counts its quorum in one epoch. If the cluster record has changed when it ends, what it
//! counted may be a quorum of neither layout: it begins again, in the view of the new record.
//!
//! The frames of an operation carry the epoch in which they are sent, not that in which the operation
//! began. So it is judged at its end: had the epoch changed before the last answer that counts, the node
//! knows by now.
//!
//! A node that joins starts once the record names it. What needs it and fails in that moment begins again
//! when it has: where few nodes grow to many, a quorum of the new home replicas may be all new.

use std::time::Duration;

use quorate_protocol::mutation::{Mutation, mutated};
use quorate_protocol::placement::Epoch;
use quorate_protocol::time::Uptime;
use tokio::time::sleep;

use crate::cluster::view::ClusterView;
use crate::node::Node;

/// How often an operation begins again before it fails: each time another record was decided meanwhile.
pub const RESTARTS_MAX: usize = 8;

/// How long a node that joins may take to start.
const JOINER_STARTS_WITHIN: Duration = Duration::from_secs(5);
/// How often it is looked whether it has.
const LOOK_EVERY: Duration = Duration::from_millis(20);

impl Node {
    /// The view in which an operation must begin again that ends now and began in `view`; `None` if it
    /// stands. One that has failed, and may take until `failed`, may have failed because of a newer record
    /// that this node has not received yet: waits for it, if a peer has shown one. Or because nodes that
    /// join have not started: waits for them.
    pub async fn moved(&self, view: &ClusterView, failed: Option<Uptime>) -> Option<ClusterView> {
        if mutated(Mutation::AcksOfTwoEpochs) {
            return None;
        }
        let epoch = view.epoch();
        let mut has_waited = false;
        if let Some(deadline) = failed
            && self.epoch() == epoch
        {
            let patience = Duration::from_millis(self.config.timeouts.replica_ms);
            self.membership.epochs.catch_up(patience).await;
            while self.awaits_joiners(epoch) && self.uptime() < deadline {
                has_waited = true;
                sleep(LOOK_EVERY).await;
            }
        }
        let begins_again = has_waited || self.epoch() != epoch;
        self.metrics.layout.restarts.add(u64::from(begins_again));
        begins_again.then(|| self.view())
    }

    /// Whether this epoch is in force, has just begun, and a node that joins by it has not started yet.
    pub fn awaits_joiners(&self, epoch: Epoch) -> bool {
        let record = self.membership.record();
        let Some(next) = record.next() else { return false };
        if self.epoch() != epoch || self.membership.epochs.age() >= JOINER_STARTS_WITHIN {
            return false;
        }
        let down = self.peers.down();
        let is_new = |node| record.stable().iter().all(|member| member.node != node);
        next.iter().any(|member| down.contains(&member.node) && is_new(member.node))
    }
}
