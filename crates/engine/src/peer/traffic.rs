//! What was sent to one peer, and what came back.

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

use quorate_storage::Durations;

/// What was sent to one peer since the start, and what came back.
#[derive(Debug, Default)]
pub struct Traffic {
    messages: AtomicU64,
    refused: AtomicU64,
    sent_bytes: AtomicU64,
    received_bytes: AtomicU64,
    unknown_messages: AtomicU64,
    unknown_replies: AtomicU64,
    /// Round trips of batches of reads, and of greetings.
    pub round_trips: Durations,
}

impl Traffic {
    /// A frame of this many bytes goes out with this many messages.
    pub(super) fn sends(&self, messages: usize, bytes: usize) {
        self.messages.fetch_add(messages as u64, Relaxed);
        self.sent_bytes.fetch_add(bytes as u64, Relaxed);
    }

    /// A frame of replies has arrived.
    pub(super) fn receives(&self, bytes: usize) {
        self.received_bytes.fetch_add(bytes as u64, Relaxed);
    }

    /// A message found the queue full.
    pub(super) fn refuses(&self) {
        self.refused.fetch_add(1, Relaxed);
    }

    /// The peer does not know a message. Returns how often that was so before.
    pub(super) fn is_not_known(&self) -> u64 {
        self.unknown_messages.fetch_add(1, Relaxed)
    }

    /// This node does not know a reply of the peer. Returns how often that was so before.
    pub(super) fn knows_not(&self) -> u64 {
        self.unknown_replies.fetch_add(1, Relaxed)
    }

    /// Messages that the peer refused because its release does not know them, and replies of it that this
    /// release does not know.
    pub fn not_understood(&self) -> [u64; 2] {
        [self.unknown_messages.load(Relaxed), self.unknown_replies.load(Relaxed)]
    }

    /// Messages that were sent.
    pub fn messages(&self) -> u64 {
        self.messages.load(Relaxed)
    }

    /// Messages that were not, because the queue was full.
    pub fn refused(&self) -> u64 {
        self.refused.load(Relaxed)
    }

    /// Bytes of frames sent.
    pub fn sent_bytes(&self) -> u64 {
        self.sent_bytes.load(Relaxed)
    }

    /// Bytes of frames received as replies to them.
    pub fn received_bytes(&self) -> u64 {
        self.received_bytes.load(Relaxed)
    }
}
