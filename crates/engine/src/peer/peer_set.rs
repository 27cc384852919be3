//! The peers at one moment: a counted reference to a list that never changes.

use std::sync::Arc;

use quorate_protocol::name::NodeId;

use crate::peer::member::Peer;

/// The peers at one moment, in order of their names. Cheap to clone and to hold.
#[derive(Clone)]
pub struct PeerSet(Arc<[Arc<Peer>]>);

impl PeerSet {
    /// No peers.
    pub fn none() -> Self {
        Self(Arc::new([]))
    }

    /// These peers, which come in order of their names, each once.
    pub(super) fn of(peers: Vec<Arc<Peer>>) -> Self {
        debug_assert!(peers.is_sorted_by(|one, next| one.node < next.node), "each once, in order");
        Self(peers.into())
    }

    /// All of them.
    pub fn iter(&self) -> impl Iterator<Item = &Arc<Peer>> {
        self.0.iter()
    }

    /// The peer of this name.
    pub fn get(&self, node: NodeId) -> Option<&Arc<Peer>> {
        let at = self.0.binary_search_by(|peer| peer.node.cmp(&node)).ok()?;
        self.0.get(at)
    }

    /// All names, without a borrow of the set.
    pub fn into_nodes(self) -> impl Iterator<Item = NodeId> + use<> {
        (0..self.0.len()).filter_map(move |at| self.0.get(at).map(|peer| peer.node))
    }
}
