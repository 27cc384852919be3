//! The header of a frame: its sender and receiver and what both must agree on, and why a frame is refused.

use serde::{Deserialize, Serialize};

use crate::context::equal_in_constant_time;
use crate::handshake::Versions;
use crate::name::NodeId;
use crate::placement::Epoch;

/// The sender and receiver of a frame, and what both must agree on.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Header {
    /// The cluster's id.
    pub cluster_id: String,
    /// Proof of the cluster's key.
    pub token: [u8; 16],
    /// The sender.
    pub from: NodeId,
    /// The receiver.
    pub to: NodeId,
    /// The cluster record in force at the sender.
    pub epoch: Epoch,
    /// The sender's number of partitions.
    pub partitions: u32,
    /// The sender's n of buckets without settings of their own. Like the layout it decides where
    /// keys are.
    pub default_n: u16,
}

/// Why a frame was refused. None of its messages was executed.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum FrameError {
    /// Not a frame, truncated, or corrupted in transit.
    #[error("the frame is damaged: {0}")]
    Damaged(&'static str),
    /// A different protocol version.
    #[error("the sender speaks peer protocol {theirs}, this node {ours}")]
    ProtocolVersion {
        /// The frame's.
        theirs: u16,
        /// Those that this node takes here.
        ours: Versions,
    },
    /// A different cluster.
    #[error("the sender belongs to cluster {theirs:?}, this node to {ours:?}")]
    Cluster {
        /// The sender's.
        theirs: String,
        /// This node's.
        ours: String,
    },
    /// The sender does not have the cluster's key.
    #[error("{from} does not have a key of this cluster; check cluster_keys on both")]
    Token {
        /// The sender, as it claims.
        from: NodeId,
    },
    /// The frame is for another node.
    #[error("the frame is for {to}, this node is {ours}; check the peer addresses in the layout")]
    Receiver {
        /// The receiver it names.
        to: NodeId,
        /// This node.
        ours: NodeId,
    },
    /// The sender is not in this node's layout.
    #[error("{from} is not in this node's layout")]
    Stranger {
        /// The sender, as it claims.
        from: NodeId,
    },
    /// A different n for buckets without settings of their own.
    #[error("{from} has defaults.n = {theirs}, this node {ours}; all nodes must have the same")]
    DefaultN {
        /// The sender.
        from: NodeId,
        /// Its default.
        theirs: u16,
        /// This node's.
        ours: u16,
    },
    /// A different layout.
    #[error("{from} has layout {theirs}, this node {ours}")]
    Layout {
        /// The sender.
        from: NodeId,
        /// Its version, hash and partitions.
        theirs: String,
        /// This node's.
        ours: String,
    },
}

/// Checks what a frame and the opening of a stream both say: the sender has the cluster's id and key, and
/// means to reach this node.
///
/// # Errors
/// The [`FrameError`] that names both sides.
pub(crate) fn check_ends(
    (cluster_id, token): (&str, &[u8; 16]),
    (from, to): (NodeId, NodeId),
    mine: &Header,
    tokens: &[[u8; 16]],
) -> Result<(), FrameError> {
    if cluster_id != mine.cluster_id {
        let (theirs, ours) = (cluster_id.to_owned(), mine.cluster_id.clone());
        return Err(FrameError::Cluster { theirs, ours });
    }
    if !tokens.iter().any(|own| equal_in_constant_time(own, token)) {
        return Err(FrameError::Token { from });
    }
    if to != mine.from {
        return Err(FrameError::Receiver { to, ours: mine.from });
    }
    Ok(())
}

impl Header {
    /// Checks a received header against this node: `mine` is the header this node would send, but in the
    /// epoch in force, `tokens` are those of every configured key, `knows` tells whether a node is in the
    /// layout. The epochs may differ: which messages are executed then is for the receiver to say.
    ///
    /// # Errors
    /// The [`FrameError`] that names both sides.
    pub fn check(
        &self,
        (mine, in_force): (&Header, Epoch),
        tokens: &[[u8; 16]],
        knows: impl Fn(NodeId) -> bool,
    ) -> Result<(), FrameError> {
        check_ends((&self.cluster_id, &self.token), (self.from, self.to), mine, tokens)?;
        let same_number = self.epoch.number == in_force.number;
        if self.partitions != mine.partitions || (same_number && self.epoch != in_force) {
            let describe = |epoch: Epoch, partitions| format!("{epoch}, {partitions} partitions");
            let theirs = describe(self.epoch, self.partitions);
            let ours = describe(in_force, mine.partitions);
            return Err(FrameError::Layout { from: self.from, theirs, ours });
        }
        // One that was removed, and does not know that yet, may ask for the record that says so.
        if !knows(self.from) && self.epoch == in_force {
            return Err(FrameError::Stranger { from: self.from });
        }
        if self.default_n != mine.default_n {
            let (theirs, ours) = (self.default_n, mine.default_n);
            return Err(FrameError::DefaultN { from: self.from, theirs, ours });
        }
        Ok(())
    }
}
