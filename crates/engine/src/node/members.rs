//! Follows the members of the cluster as they join, move and leave: all that a node keeps for each peer.
//!
//! What it remembers of a peer's starts ([`crate::cluster::generation`]) outlives its leaving: should it come
//! back with an old disk, that must still be recognised. Hints for it stay in the store.

use std::sync::{Arc, MutexGuard, PoisonError};

use super::Node;
use crate::background::registry;
use crate::peer::member::PeerMember;
use crate::peer::peers::Followed;

impl Node {
    /// These are the members of the cluster from now on, this node among them or not. Those that are new
    /// are talked to, greeted, compared with and sent hints; those at another address are dialled there; of
    /// those that are gone nothing is waited for, and none is shown or counts as down.
    pub fn follow_members(self: &Arc<Self>, members: &[PeerMember]) {
        let _one_at_a_time = self.hold_members();
        let Followed { joined, left } = self.peers.follow(members);
        for peer in &left {
            self.jobs.forget(*peer);
        }
        self.hints.follow(members.iter().map(|member| member.node));
        self.anti_entropy.follow(self.peers.nodes());
        self.clock.follow(self.peers.nodes());
        for peer in &joined {
            registry::start_for(self, *peer);
        }
        if !(joined.is_empty() && left.is_empty()) {
            tracing::info!(?joined, ?left, "the members of the cluster have changed");
        }
    }

    /// Keeps the members as they are while it is held. What follows a change takes its own locks under it,
    /// briefly; nothing takes this one under another, but for the one that serialises records.
    pub(crate) fn hold_members(&self) -> MutexGuard<'_, ()> {
        self.following.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests;
