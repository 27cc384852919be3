//! Where one operation hears from its peers.

use futures_channel::mpsc;
use quorate_protocol::message::{Reply, WithPayload, WriteAnswer};
use quorate_protocol::name::NodeId;

/// What an operation hears.
#[derive(Debug)]
pub(crate) enum PeerEvent {
    /// A node replied to a message.
    Reply(WithPayload<Reply>),
    /// The answer to a write that was forwarded.
    Written(Box<WithPayload<WriteAnswer>>),
    /// The message was certainly not carried out.
    NotSent,
    /// Nobody knows whether the message was carried out.
    Silent,
    /// The message or its answer is on its way, and moves.
    Progress,
}

/// The receiving end: one per operation. What it can hold is bounded by what the operation asked.
///
/// This channel allocates by message; tokio's own allocates room for 32 at once, several kilobytes for
/// the one or two that an operation hears.
pub(crate) struct Mailbox(mpsc::UnboundedReceiver<(NodeId, PeerEvent)>);

impl Mailbox {
    /// The next that is heard; `None` if nothing will come any more. Dropping the future loses nothing.
    pub(crate) async fn recv(&mut self) -> Option<(NodeId, PeerEvent)> {
        self.0.recv().await.ok()
    }
}

/// The sending end: who waits for a reply, if anybody.
#[derive(Clone)]
pub(crate) struct ReplyTo(Option<mpsc::UnboundedSender<(NodeId, PeerEvent)>>);

impl ReplyTo {
    /// A mailbox and the address that leads to it.
    pub(crate) fn new() -> (Self, Mailbox) {
        let (sender, mailbox) = mpsc::unbounded();
        (Self(Some(sender)), Mailbox(mailbox))
    }

    /// Nobody waits.
    pub(crate) fn nobody() -> Self {
        Self(None)
    }

    /// Delivers. An operation that is over does not care.
    pub(crate) fn tell(&self, from: NodeId, heard: PeerEvent) {
        if let Some(sender) = &self.0 {
            drop(sender.unbounded_send((from, heard)));
        }
    }
}

impl PeerEvent {
    /// The reply, if it is one.
    pub(crate) fn into_reply(self) -> Option<WithPayload<Reply>> {
        match self {
            Self::Reply(reply) => Some(reply),
            Self::Written(_) | Self::NotSent | Self::Silent | Self::Progress => None,
        }
    }
}
