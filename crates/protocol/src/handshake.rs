//! How the two ends of a new stream agree on a protocol version, and prove the cluster's key to each other.
//!
//! The end that opened the stream says which versions it speaks and who it is; the other answers with the
//! versions that it speaks and with the one that both use from then on, the highest that both know. From
//! [`PROTOCOL_PROVES`] on each says a nonce too, the answer ends with a proof ([`crate::proof`]), and the
//! opening end sends its own before its first frame. All travel in envelopes of their own
//! ([`crate::envelope::Kind::Handshake`]):
//!
//! ```text
//! opening: magic "QRHS" 4 | lowest u16 | highest u16 | 0 u16 | who (postcard) | nonce 16
//! answer:  magic "QRHS" 4 | lowest u16 | highest u16 | chosen u16 | nonce 16 | proof 32
//! then:    magic "QRHP" 4 | proof 32
//! ```
//! `chosen` is 0 in an answer where the ranges do not meet, which ends after it; so does an answer that
//! chooses a version below. Every release reads this, so it never changes, except that more may follow.

use std::fmt;

use bytes::{BufMut, Bytes, BytesMut};
use serde::{Deserialize, Serialize};

use crate::append::append;
use crate::envelope;
use crate::name::NodeId;
use crate::proof::{NONCE_BYTES, Nonce, PROOF_BYTES, PeerKeys, Role};
use crate::wire::{FrameError, Header};

/// The lowest version of the peer protocol that this release speaks.
pub const PROTOCOL_MIN: u16 = 7;
/// The highest version of the peer protocol that this release speaks.
pub const PROTOCOL_MAX: u16 = 9;
/// The first version in which both ends prove the cluster's key for their stream alone. Below it each frame
/// carries the same token, which whoever has seen it can use too.
pub const PROTOCOL_PROVES: u16 = 9;
/// The longest handshake that is read, in bytes.
pub const HANDSHAKE_BYTES_MAX: usize = 1024;

const MAGIC: [u8; 4] = *b"QRHS";
const PROOF_MAGIC: [u8; 4] = *b"QRHP";
const FIXED_BYTES: usize = 4 + 2 + 2 + 2;

/// The protocol versions that a node speaks: all from the lowest to the highest.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Versions {
    /// The lowest.
    pub min: u16,
    /// The highest; not less than the lowest.
    pub max: u16,
}

impl Versions {
    /// Those that this release speaks.
    pub const ALL: Self = Self { min: PROTOCOL_MIN, max: PROTOCOL_MAX };

    /// Those that this release speaks from `min` to `max`; `max` alone if that is lower.
    pub fn between(min: u16, max: u16) -> Self {
        let max = max.clamp(PROTOCOL_MIN, PROTOCOL_MAX);
        Self { min: min.clamp(PROTOCOL_MIN, max), max }
    }

    /// One version alone.
    pub fn only(version: u16) -> Self {
        Self { min: version, max: version }
    }

    /// Whether a version is one of these.
    pub fn contains(&self, version: u16) -> bool {
        (self.min..=self.max).contains(&version)
    }

    /// The highest version that is one of both; `None` if there is none.
    pub fn highest_common(&self, other: &Self) -> Option<u16> {
        let highest = self.max.min(other.max);
        (highest >= self.min.max(other.min)).then_some(highest)
    }
}

impl fmt::Display for Versions {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.min == self.max {
            true => write!(f, "{}", self.max),
            false => write!(f, "{} to {}", self.min, self.max),
        }
    }
}

/// Two nodes have no protocol version in common.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "no common peer protocol: {peer} speaks {theirs}, this node {ours}; upgrade the older of the two, remove \
     its peers.protocol_max, or set peers.protocol_min of the newer one while the cluster is upgraded"
)]
pub struct NoCommonVersion {
    /// The other node.
    pub peer: NodeId,
    /// What it speaks.
    pub theirs: Versions,
    /// What this node speaks.
    pub ours: Versions,
}

/// Who opens a stream, to whom. More fields may follow in later releases.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Who {
    /// The cluster's id.
    pub cluster_id: String,
    /// The token of versions below [`PROTOCOL_PROVES`]; zeros if the node does not speak those.
    pub token: [u8; 16],
    /// The node that opens the stream.
    pub from: NodeId,
    /// The node that it means to reach.
    pub to: NodeId,
}

impl Who {
    /// What a node that sends frames with this header, in one of `versions`, says.
    pub fn of(header: &Header, versions: Versions) -> Self {
        let Header { cluster_id, token, from, to, .. } = header;
        let token = if versions.min < PROTOCOL_PROVES { *token } else { [0; 16] };
        Self { cluster_id: cluster_id.clone(), token, from: *from, to: *to }
    }

    /// Checks who opens a stream against this node: the sender is of the cluster, and means to reach this
    /// node. The layout, and so who is a member, is left to the frames, and the key to its proof.
    ///
    /// # Errors
    /// The [`FrameError`] that names both sides.
    pub fn check(&self, mine: &Header) -> Result<(), FrameError> {
        check_ends(&self.cluster_id, self.to, mine)
    }
}

/// The opening of a stream.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Opening {
    /// The versions that the sender speaks.
    pub versions: Versions,
    /// The sender, as it claims.
    pub who: Who,
    /// Its nonce; only a sender that speaks no version from [`PROTOCOL_PROVES`] on has none.
    pub nonce: Option<Nonce>,
}

/// The answer to an opening.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Answer {
    /// The versions that the answering end speaks.
    pub versions: Versions,
    /// The version of all frames on the stream; `None` if the ranges have none in common.
    pub chosen: Option<u16>,
}

impl Opening {
    /// The opening with the prefix that it needs on a stream.
    pub fn to_bytes(&self) -> Bytes {
        let mut bytes = begun(self.versions, 0);
        append(&self.who, &mut bytes);
        self.nonce.iter().for_each(|nonce| bytes.put_slice(nonce));
        sealed(bytes)
    }

    /// Decodes an opening, without its prefix.
    ///
    /// # Errors
    /// [`FrameError::Damaged`].
    pub fn decode(bytes: &[u8]) -> Result<Self, FrameError> {
        let (versions, _, rest) = fixed(bytes)?;
        let (who, rest) = postcard::take_from_bytes(rest)
            .map_err(|_| FrameError::Damaged("an unreadable handshake"))?;
        let nonce = rest.first_chunk::<NONCE_BYTES>().copied();
        if nonce.is_none() && versions.max >= PROTOCOL_PROVES {
            return Err(FrameError::Damaged("a handshake without a nonce"));
        }
        Ok(Self { versions, who, nonce: nonce.filter(|_| versions.max >= PROTOCOL_PROVES) })
    }
}

impl Answer {
    /// The answer of a node that speaks `versions` to an opening.
    pub fn to(opening: &Opening, versions: Versions) -> Self {
        Self { versions, chosen: versions.highest_common(&opening.versions) }
    }

    /// Whether both ends prove their keys on the stream.
    pub fn proves(&self) -> bool {
        self.chosen.is_some_and(|chosen| chosen >= PROTOCOL_PROVES)
    }

    /// The answer with the prefix that it needs on a stream. `opening` is what is answered, without its
    /// prefix: both are proved if the chosen version asks for it.
    pub fn to_bytes(&self, opening: &[u8], keys: &PeerKeys, nonce: &Nonce) -> Bytes {
        let mut bytes = begun(self.versions, self.chosen.unwrap_or(0));
        if self.proves() {
            bytes.put_slice(nonce);
            let proof = keys.prove(Role::Acceptor, &[opening, &bytes[envelope::PREFIX_BYTES..]]);
            bytes.put_slice(&proof);
        }
        sealed(bytes)
    }

    /// Decodes an answer, without its prefix. Its proof, if there is one, is not verified.
    ///
    /// # Errors
    /// [`FrameError::Damaged`], also if the chosen version is not one of the sender's own.
    pub fn decode(bytes: &[u8]) -> Result<Self, FrameError> {
        let (versions, chosen, _later) = fixed(bytes)?;
        if chosen != 0 && !versions.contains(chosen) {
            return Err(FrameError::Damaged("a version was chosen that its sender does not speak"));
        }
        Ok(Self { versions, chosen: (chosen != 0).then_some(chosen) })
    }

    /// Whether `answer`, one that proves, was made for `opening` by a node with a key of the cluster. Both
    /// are without their prefixes.
    pub fn is_proved(opening: &[u8], answer: &[u8], keys: &PeerKeys) -> bool {
        let proved = answer.split_at_checked(FIXED_BYTES + NONCE_BYTES);
        let proof = proved.and_then(|(said, rest)| Some((said, rest.get(..PROOF_BYTES)?)));
        proof.is_some_and(|(said, proof)| keys.verify(Role::Acceptor, &[opening, said], proof))
    }
}

/// The proof of the end that opened a stream, with the prefix that it needs. `opening` and `answer` are what
/// was said, without their prefixes.
pub fn opener_proof(opening: &[u8], answer: &[u8], keys: &PeerKeys) -> Bytes {
    let mut bytes = BytesMut::with_capacity(64);
    bytes.put_slice(&[0; envelope::PREFIX_BYTES]);
    bytes.put_slice(&PROOF_MAGIC);
    bytes.put_slice(&keys.prove(Role::Opener, &[opening, answer]));
    sealed(bytes)
}

/// Whether `said`, without its prefix, proves that the end which opened the stream has a key of the cluster.
pub fn is_opener_proof(said: &[u8], opening: &[u8], answer: &[u8], keys: &PeerKeys) -> bool {
    let proof = said.strip_prefix(&PROOF_MAGIC).and_then(|proof| proof.get(..PROOF_BYTES));
    proof.is_some_and(|proof| keys.verify(Role::Opener, &[opening, answer], proof))
}

/// Checks what a frame and the opening of a stream both say: the sender has the cluster's id, and means to
/// reach this node.
///
/// # Errors
/// The [`FrameError`] that names both sides.
pub(crate) fn check_ends(cluster_id: &str, to: NodeId, mine: &Header) -> Result<(), FrameError> {
    if cluster_id != mine.cluster_id {
        let (theirs, ours) = (cluster_id.to_owned(), mine.cluster_id.clone());
        return Err(FrameError::Cluster { theirs, ours });
    }
    if to != mine.from {
        return Err(FrameError::Receiver { to, ours: mine.from });
    }
    Ok(())
}

fn begun(versions: Versions, chosen: u16) -> BytesMut {
    let mut bytes = BytesMut::with_capacity(128);
    bytes.put_slice(&[0; envelope::PREFIX_BYTES]);
    bytes.put_slice(&MAGIC);
    [versions.min, versions.max, chosen].into_iter().for_each(|number| bytes.put_u16_le(number));
    bytes
}

fn sealed(mut bytes: BytesMut) -> Bytes {
    let len = bytes.len() - envelope::PREFIX_BYTES;
    let prefix = envelope::prefix(envelope::Kind::Handshake, len);
    bytes[..envelope::PREFIX_BYTES].copy_from_slice(&prefix);
    bytes.freeze()
}

/// The versions, the chosen one, and what follows.
fn fixed(bytes: &[u8]) -> Result<(Versions, u16, &[u8]), FrameError> {
    let (fixed, rest) = bytes
        .split_first_chunk::<FIXED_BYTES>()
        .ok_or(FrameError::Damaged("a truncated handshake"))?;
    let [a, b, c, d, min_low, min_high, max_low, max_high, low, high] = *fixed;
    if [a, b, c, d] != MAGIC {
        return Err(FrameError::Damaged("no handshake"));
    }
    let min = u16::from_le_bytes([min_low, min_high]);
    let max = u16::from_le_bytes([max_low, max_high]);
    if min == 0 || min > max {
        return Err(FrameError::Damaged("a handshake without a version"));
    }
    Ok((Versions { min, max }, u16::from_le_bytes([low, high]), rest))
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests;
