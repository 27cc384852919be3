//! Where an operation receives its peers' events.

use futures_channel::mpsc;
use quorate_protocol::message::{Reply, WithPayload, WriteAnswer};
use quorate_protocol::name::NodeId;

/// An event for an operation.
#[derive(Debug)]
pub enum PeerEvent {
    /// A node replied to a message.
    Reply(WithPayload<Reply>),
    /// The answer to a write that was forwarded.
    Written(Box<WithPayload<WriteAnswer>>),
    /// The message was certainly not executed.
    NotSent,
    /// It is not known whether the message was executed.
    Silent,
    /// The message or its answer is in flight and making progress.
    Progress,
}

/// The receiving end: one per operation. Its length is bounded by what the operation requested.
///
/// This channel allocates per message; tokio's own allocates space for 32 at once, several
/// kilobytes for the one or two that an operation receives.
pub struct Mailbox(mpsc::UnboundedReceiver<(NodeId, PeerEvent)>);

impl Mailbox {
    /// The next event; `None` if no more will come. Cancel-safe.
    pub async fn recv(&mut self) -> Option<(NodeId, PeerEvent)> {
        self.0.recv().await.ok()
    }
}

/// The sending end: where a reply goes, if any is wanted.
#[derive(Clone)]
pub struct ReplyTo(Option<mpsc::UnboundedSender<(NodeId, PeerEvent)>>);

impl ReplyTo {
    /// A mailbox and the address that leads to it.
    pub fn new() -> (Self, Mailbox) {
        let (sender, mailbox) = mpsc::unbounded();
        (Self(Some(sender)), Mailbox(mailbox))
    }

    /// Discards all replies.
    pub fn nobody() -> Self {
        Self(None)
    }

    /// Delivers an event; dropped if the operation is over.
    pub fn tell(&self, from: NodeId, heard: PeerEvent) {
        if let Some(sender) = &self.0 {
            drop(sender.unbounded_send((from, heard)));
        }
    }
}

impl PeerEvent {
    /// The reply, if it is one.
    pub fn into_reply(self) -> Option<WithPayload<Reply>> {
        match self {
            Self::Reply(reply) => Some(reply),
            Self::Written(_) | Self::NotSent | Self::Silent | Self::Progress => None,
        }
    }
}
