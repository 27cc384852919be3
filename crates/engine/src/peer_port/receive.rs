//! Whether a frame may be executed: its sender is checked before anything in it.

use std::time::Duration;

use bytes::Bytes;
use quorate_protocol::handshake::Versions;
use quorate_protocol::message::Message;
use quorate_protocol::mutation::{Mutation, mutated};
use quorate_protocol::name::NodeId;
use quorate_protocol::wire::{self, Frame, FrameError, FrameWriter, Header, Proof};

use crate::node::Node;
use crate::peer::framed::OtherEnd;

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
            | FrameError::Certificate { .. }
            | FrameError::NoMember { .. }
            | FrameError::Receiver { .. }
            | FrameError::Stranger { .. }
            | FrameError::DefaultN { .. }
            | FrameError::Layout { .. } => Self::Invalid(error.to_string()),
        }
    }
}

/// Validates a frame of this protocol version, from the other end of a stream: its sender and its messages.
///
/// # Errors
/// [`Refused`], which says why.
pub async fn receive(
    node: &Node,
    frame: Bytes,
    protocol: u16,
    end: OtherEnd,
) -> Result<Frame<Message>, Refused> {
    let checked = |header: &Header| check(node, header, end).map(drop);
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

/// The sender of a frame from the other end of a stream, if it may send this node any.
///
/// # Errors
/// [`FrameError`] if it may not.
pub fn check(node: &Node, header: &Header, end: OtherEnd) -> Result<NodeId, FrameError> {
    let proof = end.proved.map_or(Proof::Token(&node.keys), Proof::Stream);
    header.check((&node.header, node.epoch()), proof, knows(node))?;
    check_identity(node, end, header.from)?;
    Ok(header.from)
}

/// Whether a sender is the node that its certificate names, and a member. A removed node's certificate stays
/// valid, and a node that joins has one before it is added: neither may send anything. Without TLS nothing is
/// known.
///
/// # Errors
/// [`FrameError`] if it is not.
pub fn check_identity(node: &Node, end: OtherEnd, from: NodeId) -> Result<(), FrameError> {
    match end.shown {
        None => Ok(()),
        Some(shown) if shown != from => Err(FrameError::Certificate { shown, from }),
        Some(shown) if !knows(node)(shown) => Err(FrameError::NoMember { shown }),
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
