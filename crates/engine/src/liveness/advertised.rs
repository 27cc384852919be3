//! The state that a peer advertises, in answers and by gossip.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
use std::sync::{Mutex, MutexGuard, PoisonError};

use quorate_protocol::cluster_settings::ClusterSettings;
use quorate_protocol::handshake::Versions;
use quorate_protocol::message::Status;

use crate::config::checks::is_host_and_port;

/// What gossip reports of a peer; `None` where it reported nothing.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct GossipState {
    /// Its layout's version and hash.
    pub layout: Option<(u64, u64)>,
    /// The hash of its bucket table.
    pub buckets_hash: Option<u64>,
    /// Whether it has received all its partitions.
    pub ready: Option<bool>,
    /// Whether it takes writes.
    pub writable: Option<bool>,
    /// Its release.
    pub release: Option<String>,
    /// Whether it reports that it cannot reach this node.
    pub cannot_reach_me: bool,
}

/// What the peer advertised last, in answers and by gossip.
#[derive(Clone, Debug, Default)]
pub struct AdvertisedState {
    /// Why it is down, or why it refused a frame.
    pub error: Option<String>,
    /// Its layout's version and hash.
    pub layout: Option<(u64, u64)>,
    /// Its release.
    pub release: Option<String>,
    /// Whether it has received all its partitions.
    pub ready: Option<bool>,
    /// Whether it takes writes.
    pub writable: Option<bool>,
    /// Whether it has recorded a formation.
    pub formed: Option<bool>,
    /// The hash of its bucket table.
    pub buckets_hash: Option<u64>,
    /// The settings that must be the same on all nodes.
    pub common: Option<ClusterSettings>,
    /// Whether it waits for an operator.
    pub waits: Option<bool>,
    /// Where clients reach it, host and port.
    pub client_addr: Option<String>,
    /// Whether it reports that it cannot reach this node.
    pub cannot_reach_me: bool,
    /// How many bytes of hints it keeps for others, if its protocol version tells that.
    pub hint_bytes: Option<u64>,
    /// The protocol versions that it speaks.
    pub versions: Option<Versions>,
    /// The protocol version of the streams between it and this node.
    pub protocol: Option<u16>,
}

/// The peer's advertised state. The parts that operations read are lock-free.
#[derive(Default)]
pub struct Advertised {
    last: Mutex<AdvertisedState>,
    /// Whether the last reported `ready` was `false`.
    fills: AtomicBool,
    /// The last reported layout, version and hash combined into one number.
    layout: AtomicU64,
    /// The longest frame it accepts, in bytes; 0 if it did not report one.
    frame_bytes_max: AtomicU64,
}

impl Advertised {
    /// What the peer advertised last.
    pub fn last(&self) -> AdvertisedState {
        self.lock().clone()
    }

    /// Whether it still has to receive partitions: it cannot answer for these, and is busy.
    pub fn is_filling(&self) -> bool {
        self.fills.load(Relaxed)
    }

    /// Whether it last reported that it cannot reach this node.
    pub fn cannot_reach_me(&self) -> bool {
        self.lock().cannot_reach_me
    }

    /// The longest frame that it accepts, in bytes; unlimited if it did not report one.
    pub fn frame_bytes_max(&self) -> usize {
        match self.frame_bytes_max.load(Relaxed) {
            0 => usize::MAX,
            max => usize::try_from(max).unwrap_or(usize::MAX),
        }
    }

    /// Records the state that the peer reports in an answer.
    pub fn heard(&self, status: &Status) {
        self.frame_bytes_max.store(status.frame_bytes_max, Relaxed);
        self.update(|said| {
            said.release = Some(status.release.clone());
            said.ready = Some(status.ready);
            said.writable = Some(status.writable);
            said.formed = Some(status.formation.is_some());
            said.buckets_hash = Some(status.buckets_hash);
            said.common = Some(status.common);
            said.waits = Some(status.waits);
            said.hint_bytes = status.hint_bytes;
            // Clients are told this address: pass on only what can be one.
            said.client_addr =
                is_host_and_port(&status.client_addr).then(|| status.client_addr.clone());
        });
    }

    /// A stream was opened, or could not be because it speaks no version that this node speaks. Returns
    /// whether that was not known before.
    pub fn speaks(&self, versions: Versions, protocol: Option<u16>) -> bool {
        let mut said = self.lock();
        let before = (said.versions, said.protocol);
        (said.versions, said.protocol) = (Some(versions), protocol);
        before != (said.versions, said.protocol)
    }

    /// It cannot be reached: whether its versions and this node's still do not meet is not known.
    pub fn is_unreachable(&self) {
        let mut said = self.lock();
        if said.protocol.is_none() {
            said.versions = None;
        }
    }

    /// Whether it speaks no protocol version that this node speaks.
    pub fn is_incompatible(&self) -> bool {
        let said = self.lock();
        said.versions.is_some() && said.protocol.is_none()
    }

    /// Records the layout in the header of a peer's answer. Called for every answer.
    pub fn heard_layout(&self, version: u64, hash: u64) {
        let mixed = hash ^ version.rotate_left(32);
        if self.layout.swap(mixed, Relaxed) != mixed {
            self.update(|said| said.layout = Some((version, hash)));
        }
    }

    /// Merges what gossip reports; fields that it leaves out are kept.
    pub fn gossiped(&self, news: GossipState) {
        self.update(|said| {
            said.layout = news.layout.or(said.layout);
            said.release = news.release.or(said.release.take());
            said.ready = news.ready.or(said.ready);
            said.writable = news.writable.or(said.writable);
            said.buckets_hash = news.buckets_hash.or(said.buckets_hash);
            said.cannot_reach_me = news.cannot_reach_me;
        });
    }

    /// Records why the peer is down or refused a frame; `None` once it answers.
    pub fn refused(&self, error: Option<String>) {
        self.update(|said| said.error = error);
    }

    fn lock(&self) -> MutexGuard<'_, AdvertisedState> {
        self.last.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn update(&self, change: impl FnOnce(&mut AdvertisedState)) {
        let mut said = self.lock();
        change(&mut said);
        self.fills.store(said.ready == Some(false), Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn whoever_says_it_is_not_ready_fills_until_it_says_otherwise() {
        let word = Advertised::default();
        let says = |ready| word.gossiped(GossipState { ready, ..GossipState::default() });
        assert!(!word.is_filling(), "nothing was heard");
        says(Some(false));
        says(None);
        assert!(word.is_filling(), "no news changes nothing");
        says(Some(true));
        assert!(!word.is_filling());
        assert_eq!(word.last().ready, Some(true));
    }

    #[test]
    fn a_layout_is_remembered_until_another_is_heard() {
        let word = Advertised::default();
        for layout in [(1, 7), (1, 7), (2, 9)] {
            word.heard_layout(layout.0, layout.1);
            assert_eq!(word.last().layout, Some(layout));
        }
    }
}
