//! Whether a frame may be executed: its sender is checked before anything in it.

use std::time::Duration;

use bytes::Bytes;
use quorate_protocol::message::Message;
use quorate_protocol::name::NodeId;
use quorate_protocol::wire::{self, Frame, FrameError, FrameWriter, Header};

use crate::node::Node;

/// Why a frame was refused as a whole. None of it was executed.
#[derive(Debug)]
pub enum Refused {
    /// It is malformed, or of a sender that may send none; in words.
    Invalid(String),
    /// The fault hook cuts its sender off.
    CutOff,
}

impl Refused {
    /// The reason, in words.
    pub fn why(&self) -> &str {
        match self {
            Self::Invalid(why) => why,
            Self::CutOff => "cut off by the fault hook",
        }
    }
}

impl From<FrameError> for Refused {
    fn from(error: FrameError) -> Self {
        Self::Invalid(error.to_string())
    }
}

/// Validates a frame: its sender and its messages.
///
/// # Errors
/// [`Refused`], which says why.
pub async fn receive(node: &Node, frame: Bytes) -> Result<Frame<Message>, Refused> {
    let frame = wire::decode_if::<Message>(frame, |header| check(node, header).map(drop))?;
    if node.faults.cuts_in(frame.header.from) {
        tokio::time::sleep(Duration::from_millis(4 * node.config.timeouts.replica_ms)).await;
        return Err(Refused::CutOff);
    }
    Ok(frame)
}

/// The sender of a frame, if it may send this node any.
///
/// # Errors
/// [`FrameError`] if it may not.
pub fn check(node: &Node, header: &Header) -> Result<NodeId, FrameError> {
    let view = node.view();
    header.check(&node.header, &node.tokens, |from| view.layout().contains(from))?;
    Ok(header.from)
}

/// Starts a frame to a peer.
pub fn frame_to(node: &Node, to: NodeId) -> FrameWriter {
    FrameWriter::new(&Header { to, ..node.header.clone() })
}
