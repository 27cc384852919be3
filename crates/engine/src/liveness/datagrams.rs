//! Datagram counters of gossip.

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

/// Datagram counters since the start.
#[derive(Debug, Default)]
pub struct Counts {
    /// Sent.
    pub sent: AtomicU64,
    /// Not sent: too large, no address known, or the system refused.
    pub unsent: AtomicU64,
    /// Received and passed to chitchat.
    pub received: AtomicU64,
    /// Dropped: not sealed by a node of this cluster, or damaged.
    pub strangers: AtomicU64,
    /// Dropped: for another node, or from a node outside the layout.
    pub misdirected: AtomicU64,
    /// Dropped: a replay, or overtaken by a later one.
    pub replayed: AtomicU64,
    /// Dropped: sealed properly but not decodable.
    pub malformed: AtomicU64,
}

impl Counts {
    /// Each count with its name.
    pub fn all(&self) -> [(&'static str, u64); 7] {
        let of = |counter: &AtomicU64| counter.load(Relaxed);
        [
            ("sent", of(&self.sent)),
            ("unsent", of(&self.unsent)),
            ("received", of(&self.received)),
            ("strangers", of(&self.strangers)),
            ("misdirected", of(&self.misdirected)),
            ("replayed", of(&self.replayed)),
            ("malformed", of(&self.malformed)),
        ]
    }
}
