//! Whether a frame may be executed: its sender is checked before anything in it.

use std::time::Duration;

use bytes::Bytes;
use quorate_protocol::handshake::Versions;
use quorate_protocol::message::Message;
use quorate_protocol::mutation::{Mutation, mutated};
use quorate_protocol::name::NodeId;
use quorate_protocol::wire::{self, Frame, FrameError, FrameWriter, Header, Proof};

use crate::node::Node;

/// Why a frame was refused as a whole. None of it was executed.
#[derive(Debug)]
pub enum Refused {
    /// It is malformed, or of a sender that may send none; in words.
    Invalid(String),
    /// It is of a protocol version that does not belong here; in words.
    Version(String),
    /// The fault hook cuts its sender off.
    CutOff,
}

impl Refused {
    /// The reason, in words.
    pub fn why(&self) -> &str {
        match self {
            Self::Invalid(why) | Self::Version(why) => why,
            Self::CutOff => "cut off by the fault hook",
        }
    }
}

impl From<FrameError> for Refused {
    fn from(error: FrameError) -> Self {
        match error {
            FrameError::ProtocolVersion { .. } => Self::Version(error.to_string()),
            FrameError::Damaged(_)
            | FrameError::Cluster { .. }
            | FrameError::Token { .. }
            | FrameError::Impostor { .. }
            | FrameError::Receiver { .. }
            | FrameError::Stranger { .. }
            | FrameError::DefaultN { .. }
            | FrameError::Layout { .. } => Self::Invalid(error.to_string()),
        }
    }
}

/// Validates a frame of this protocol version, on a stream whose other end is `proved` if that version has it
/// prove itself: its sender and its messages.
///
/// # Errors
/// [`Refused`], which says why.
pub async fn receive(
    node: &Node,
    frame: Bytes,
    protocol: u16,
    proved: Option<NodeId>,
) -> Result<Frame<Message>, Refused> {
    let checked = |header: &Header| check(node, header, proved).map(drop);
    let frame = wire::decode_if::<Message>(frame, Versions::only(protocol), checked)?;
    cut_off(node, frame.header.from).await?;
    Ok(frame)
}

/// Whether the fault hook cuts a sender off, which takes as long as silence would.
///
/// # Errors
/// [`Refused::CutOff`] if it does.
pub async fn cut_off(node: &Node, from: NodeId) -> Result<(), Refused> {
    if node.faults.cuts_in(from) {
        tokio::time::sleep(Duration::from_millis(4 * node.config.timeouts.replica_ms)).await;
        return Err(Refused::CutOff);
    }
    Ok(())
}

/// The sender of a frame, if it may send this node any.
///
/// # Errors
/// [`FrameError`] if it may not.
pub fn check(node: &Node, header: &Header, proved: Option<NodeId>) -> Result<NodeId, FrameError> {
    let proof = proved.map_or(Proof::Token(&node.keys), Proof::Stream);
    header.check((&node.header, node.epoch()), proof, knows(node))?;
    Ok(header.from)
}

/// Whether a sender is the node that its certificate names, and a member. A removed node's certificate stays
/// valid, and a node that joins has one before it is added: neither may send anything.
///
/// # Errors
/// [`Refused::Invalid`] if it is not. Without TLS (`shown` is none) nothing is known.
pub fn check_identity(node: &Node, shown: Option<NodeId>, from: NodeId) -> Result<(), Refused> {
    match shown {
        None => Ok(()),
        Some(shown) if shown != from => {
            Err(Refused::Invalid(format!("the certificate is of node {shown}, not of {from}")))
        }
        Some(shown) if !knows(node)(shown) => {
            Err(Refused::Invalid(format!("{shown} is not a member of this cluster")))
        }
        Some(_) => Ok(()),
    }
}

/// Which nodes are members.
fn knows(node: &Node) -> impl Fn(NodeId) -> bool {
    let view = node.view();
    move |from| view.placement().contains(from) || mutated(Mutation::RemovedDiskReturns)
}

/// Starts a frame of a protocol version to a peer.
pub fn frame_to(node: &Node, protocol: u16, to: NodeId) -> FrameWriter {
    FrameWriter::new(protocol, &node.header_to(to))
}
