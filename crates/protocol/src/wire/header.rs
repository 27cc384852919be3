//! The header of a frame: its sender and receiver and what both must agree on, and why a frame is refused.

use bytes::BytesMut;
use serde::{Deserialize, Serialize};

use crate::append::append;
use crate::handshake::{PROTOCOL_PROVES, Versions, check_ends};
use crate::name::NodeId;
use crate::placement::Epoch;
use crate::proof::PeerKeys;

/// The sender and receiver of a frame, and what both must agree on.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Header {
    /// The cluster's id.
    pub cluster_id: String,
    /// What proves the cluster's key in versions below [`PROTOCOL_PROVES`]; it is not sent from there on, and
    /// then received as zeros.
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

/// A header without its token, as it is sent from [`PROTOCOL_PROVES`] on.
#[derive(Serialize, Deserialize)]
struct Bare<'a> {
    cluster_id: &'a str,
    from: NodeId,
    to: NodeId,
    epoch: Epoch,
    partitions: u32,
    default_n: u16,
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
    /// The stream is of another node.
    #[error("a frame of {from} on a stream of {opened_by}")]
    Impostor {
        /// The sender, as it claims.
        from: NodeId,
        /// The node that opened the stream.
        opened_by: NodeId,
    },
    /// The sender's certificate names another node.
    #[error("the certificate is of node {shown}, not of {from}")]
    Certificate {
        /// The node that it names.
        shown: NodeId,
        /// The sender, as it claims.
        from: NodeId,
    },
    /// The sender's certificate is good, and it is not in this node's layout: it was removed, or is about to
    /// join.
    #[error("{shown} is not a member of this cluster")]
    NoMember {
        /// The node that the certificate names.
        shown: NodeId,
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

/// How it is known that the sender of a frame has the cluster's key.
#[derive(Clone, Copy, Debug)]
pub enum Proof<'a> {
    /// The node at the other end of its stream has proved it.
    Stream(NodeId),
    /// By the token in each frame, as in versions below [`PROTOCOL_PROVES`]: one of these keys made it.
    Token(&'a PeerKeys),
}

impl Header {
    /// Appends it as a frame of this protocol version has it.
    pub(super) fn encode(&self, protocol: u16, out: &mut BytesMut) {
        if protocol < PROTOCOL_PROVES {
            return append(self, out);
        }
        let Self { cluster_id, token: _, from, to, epoch, partitions, default_n } = self;
        let (from, to, epoch) = (*from, *to, *epoch);
        let (partitions, default_n) = (*partitions, *default_n);
        append(&Bare { cluster_id, from, to, epoch, partitions, default_n }, out);
    }

    /// The header at the start of these bytes, and how many are left over.
    pub(super) fn decode(protocol: u16, bytes: &[u8]) -> Result<(Self, usize), FrameError> {
        let unreadable = |_| FrameError::Damaged("unreadable header");
        if protocol < PROTOCOL_PROVES {
            let (header, rest) = postcard::take_from_bytes(bytes).map_err(unreadable)?;
            return Ok((header, rest.len()));
        }
        let (bare, rest) = postcard::take_from_bytes::<Bare<'_>>(bytes).map_err(unreadable)?;
        let Bare { cluster_id, from, to, epoch, partitions, default_n } = bare;
        let (cluster_id, token) = (cluster_id.to_owned(), [0; 16]);
        Ok((Self { cluster_id, token, from, to, epoch, partitions, default_n }, rest.len()))
    }

    /// Checks a received header against this node: `mine` is the header this node would send, but in the
    /// epoch in force, `proof` how the sender's key is known, `knows` tells whether a node is in the
    /// layout. The epochs may differ: which messages are executed then is for the receiver to say.
    ///
    /// # Errors
    /// The [`FrameError`] that names both sides.
    pub fn check(
        &self,
        (mine, in_force): (&Header, Epoch),
        proof: Proof<'_>,
        knows: impl Fn(NodeId) -> bool,
    ) -> Result<(), FrameError> {
        check_ends(&self.cluster_id, self.to, mine)?;
        let from = self.from;
        match proof {
            Proof::Stream(opened_by) if opened_by != from => {
                return Err(FrameError::Impostor { from, opened_by });
            }
            Proof::Token(keys) if !keys.accepts_token(&self.token) => {
                return Err(FrameError::Token { from });
            }
            Proof::Stream(_) | Proof::Token(_) => {}
        }
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
