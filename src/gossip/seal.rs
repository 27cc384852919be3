//! How a datagram is sealed: encrypted and authenticated with a key derived from the cluster's.
//!
//! ```text
//! version 1 | nonce 24, random | XChaCha20-Poly1305 (header, message) | tag 16
//! ```
//! The version and the cluster id are authenticated too, so that a datagram of another cluster with
//! the same key does not open. The header names sender, receiver, the sender's start and a sequence
//! number: a replayed datagram is recognised, whichever node it is sent to. All configured keys
//! open, the first seals, so that keys can be rotated without interruption.

use std::collections::BTreeMap;
use std::time::Duration;

use chacha20poly1305::aead::{Aead, KeyInit, Payload};
use chacha20poly1305::{XChaCha20Poly1305, XNonce};
use quorate_protocol::name::NodeId;
use quorate_protocol::time::WallTime;
use serde::{Deserialize, Serialize};

/// The largest datagram, in bytes: the limit of UDP over IPv4.
pub(super) const DATAGRAM_BYTES_MAX: usize = 65_507;

const VERSION: u8 = 1;
const NONCE_BYTES: usize = 24;
const TAG_BYTES: usize = 16;
const KEY_PURPOSE: &str = "quorate 2026-11 gossip datagram";

/// The header in front of a message, inside the seal.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Header {
    /// The sender.
    pub(super) from: NodeId,
    /// The receiver.
    pub(super) to: NodeId,
    /// When the sender started, by its wall clock.
    pub(super) start: WallTime,
    /// The sequence number: how many datagrams it had sent since.
    pub(super) number: u64,
}

/// Why a datagram was not opened.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Broken {
    /// Sealed with another key, cut short, or altered in transit.
    Stranger,
    /// Sealed properly, but the header cannot be decoded: another release.
    Malformed,
}

/// The cluster's keys, as far as datagrams need them.
pub(super) struct Seal {
    /// The first seals, all open. Never empty.
    ciphers: Vec<XChaCha20Poly1305>,
    /// The associated data authenticated with every datagram.
    bound_to: Vec<u8>,
}

impl Seal {
    /// Derives the datagram keys from the cluster's secret keys (the first seals).
    ///
    /// # Panics
    /// If `secrets` is empty: the configuration was checked before.
    pub(super) fn new(cluster_id: &str, secrets: &[[u8; 32]]) -> Self {
        assert!(!secrets.is_empty(), "a cluster has at least one key");
        let cipher = |secret: &[u8; 32]| {
            XChaCha20Poly1305::new(&blake3::derive_key(KEY_PURPOSE, secret).into())
        };
        let bound_to = [&[VERSION], cluster_id.as_bytes()].concat();
        Self { ciphers: secrets.iter().map(cipher).collect(), bound_to }
    }

    /// Seals a message. `None` if it is too large for a datagram.
    pub(super) fn seal(&self, header: &Header, message: &[u8]) -> Option<Vec<u8>> {
        let mut plain = postcard::to_stdvec(header).ok()?;
        plain.extend_from_slice(message);
        let nonce = rand::random::<[u8; NONCE_BYTES]>();
        let sealed = self.ciphers[0].encrypt(&XNonce::from(nonce), self.payload(&plain)).ok()?;
        let datagram = [&[VERSION], &nonce[..], &sealed].concat();
        (datagram.len() <= DATAGRAM_BYTES_MAX).then_some(datagram)
    }

    /// Opens a datagram: the header and the message behind it.
    ///
    /// # Errors
    /// [`Broken`], for any bytes that do not open.
    pub(super) fn open(&self, datagram: &[u8]) -> Result<(Header, Vec<u8>), Broken> {
        let sealed = datagram.strip_prefix(&[VERSION]).ok_or(Broken::Stranger)?;
        let (nonce, sealed) = sealed.split_first_chunk::<NONCE_BYTES>().ok_or(Broken::Stranger)?;
        if sealed.len() < TAG_BYTES {
            return Err(Broken::Stranger);
        }
        let nonce = XNonce::from(*nonce);
        let open = |cipher: &XChaCha20Poly1305| cipher.decrypt(&nonce, self.payload(sealed)).ok();
        let plain = self.ciphers.iter().find_map(open).ok_or(Broken::Stranger)?;
        let (header, message) = Self::read(&plain)?;
        Ok((header, message.to_vec()))
    }

    /// Reads what was sealed: the header and the message behind it.
    ///
    /// # Errors
    /// [`Broken::Malformed`].
    pub(super) fn read(plain: &[u8]) -> Result<(Header, &[u8]), Broken> {
        postcard::take_from_bytes(plain).map_err(|_| Broken::Malformed)
    }

    fn payload<'a>(&'a self, msg: &'a [u8]) -> Payload<'a, 'a> {
        Payload { msg, aad: &self.bound_to }
    }
}

/// Rejects replays. UDP may also deliver out of order; losing a gossip message that was overtaken
/// by a later one is harmless.
#[derive(Default)]
pub(super) struct Freshness(BTreeMap<NodeId, Latest>);

struct Latest {
    start: WallTime,
    number: u64,
    heard_at: Duration,
}

/// A sender whose clock was set back has starts that look old. After this much silence they are
/// accepted: even a replay is harmless then, since gossip state only ever moves forward.
const SILENCE: Duration = Duration::from_secs(10);

impl Freshness {
    /// Accepts a datagram if it is later than all accepted from its sender before. `now`: how long
    /// the socket has been open. Returns whether it is.
    pub(super) fn accept(&mut self, header: &Header, now: Duration) -> bool {
        let Header { from, start, number, .. } = *header;
        let later = |latest: &Latest| (start, number) > (latest.start, latest.number);
        let quiet = |latest: &Latest| now.saturating_sub(latest.heard_at) >= SILENCE;
        let fresh = self.0.get(&from).is_none_or(|latest| later(latest) || quiet(latest));
        if fresh {
            self.0.insert(from, Latest { start, number, heard_at: now });
        }
        fresh
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn node(name: &str) -> NodeId {
        NodeId::parse(name).unwrap()
    }

    fn header(start: u64, number: u64) -> Header {
        Header { from: node("n1"), to: node("n2"), start: WallTime(start), number }
    }

    #[test]
    fn what_is_sealed_opens_with_the_same_key_in_the_same_cluster_only() {
        let seal = Seal::new("c", &[[1; 32]]);
        let datagram = seal.seal(&header(5, 6), b"hello").unwrap();
        assert_eq!(seal.open(&datagram), Ok((header(5, 6), b"hello".to_vec())));
        assert!(!datagram.windows(5).any(|bytes| bytes == b"hello"), "it is encrypted");
        for other in [Seal::new("d", &[[1; 32]]), Seal::new("c", &[[2; 32]])] {
            assert_eq!(other.open(&datagram), Err(Broken::Stranger));
        }
    }

    #[test]
    fn a_rotation_of_keys_breaks_nothing() {
        let (old, new) = ([1; 32], [2; 32]);
        let stages = [vec![old], vec![old, new], vec![new, old], vec![new]];
        for pair in stages.windows(2) {
            let (before, after) = (Seal::new("c", &pair[0]), Seal::new("c", &pair[1]));
            for (from, to) in [(&before, &after), (&after, &before)] {
                assert!(to.open(&from.seal(&header(1, 1), b"x").unwrap()).is_ok());
            }
        }
    }

    #[test]
    fn no_two_datagrams_are_alike() {
        let seal = Seal::new("c", &[[1; 32]]);
        let one = seal.seal(&header(1, 1), b"x").unwrap();
        assert_ne!(one, seal.seal(&header(1, 1), b"x").unwrap());
    }

    #[test]
    fn a_message_too_large_for_a_datagram_is_not_sealed() {
        let seal = Seal::new("c", &[[1; 32]]);
        assert!(seal.seal(&header(1, 1), &vec![0; 65_000]).is_some());
        assert_eq!(seal.seal(&header(1, 1), &vec![0; DATAGRAM_BYTES_MAX]), None);
    }

    #[test]
    fn a_header_that_makes_no_sense_is_malformed() {
        let seal = Seal::new("c", &[[1; 32]]);
        let nonce = [7; NONCE_BYTES];
        let payload = seal.payload(b"\x05NODE!");
        let sealed = seal.ciphers[0].encrypt(&XNonce::from(nonce), payload).unwrap();
        let datagram = [&[VERSION], &nonce[..], &sealed].concat();
        assert_eq!(seal.open(&datagram), Err(Broken::Malformed));
    }

    proptest! {
        #[test]
        fn random_bytes_do_not_open(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
            let seal = Seal::new("c", &[[1; 32], [2; 32]]);
            prop_assert_eq!(seal.open(&bytes), Err(Broken::Stranger));
            let versioned = [&[VERSION], &bytes[..]].concat();
            prop_assert_eq!(seal.open(&versioned), Err(Broken::Stranger));
        }

        #[test]
        fn cut_short_or_changed_it_does_not_open(at in any::<prop::sample::Index>(), flip in 1..=255u8) {
            let seal = Seal::new("c", &[[1; 32]]);
            let datagram = seal.seal(&header(5, 6), b"hello").unwrap();
            let at = at.index(datagram.len());
            prop_assert_eq!(seal.open(&datagram[..at]), Err(Broken::Stranger));
            let mut changed = datagram.clone();
            changed[at] ^= flip;
            prop_assert_eq!(seal.open(&changed), Err(Broken::Stranger));
        }
    }

    #[test]
    fn a_replay_is_recognised_and_a_restart_is_not_taken_for_one() {
        let silence_ms = SILENCE.as_millis() as u64;
        let mut freshness = Freshness::default();
        let mut accepts = |start, number, now| {
            freshness.accept(&header(start, number), Duration::from_millis(now))
        };
        assert!(accepts(100, 0, 1) && accepts(100, 3, 2));
        assert!(!accepts(100, 3, 3) && !accepts(100, 2, 4), "replayed, or overtaken on the way");
        assert!(accepts(200, 0, 5), "a restart");
        assert!(!accepts(100, 9, 6), "of an earlier start");
        assert!(!accepts(50, 0, silence_ms) && accepts(50, 0, 5 + silence_ms), "a clock set back");
        assert!(accepts(50, 1, 6 + silence_ms));
    }
}
