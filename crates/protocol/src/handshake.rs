//! How the two ends of a new stream agree on a protocol version.
//!
//! The end that opened the stream says which versions it speaks and who it is; the other answers with the
//! versions that it speaks and with the one that both use from then on, the highest that both know. Both
//! travel in envelopes of their own ([`crate::envelope::Kind::Handshake`]):
//!
//! ```text
//! magic "QRHS" 4 | lowest u16 | highest u16 | chosen u16 | who (postcard)
//! ```
//! `chosen` is 0 in the opening, and in an answer where the ranges do not meet; only an opening says who it
//! is of. Every release reads this, so it never changes, except that more may follow.

use std::fmt;

use bytes::{BufMut, Bytes, BytesMut};
use serde::{Deserialize, Serialize};

use crate::append::append;
use crate::envelope;
use crate::name::NodeId;
use crate::wire::{FrameError, Header, check_ends};

/// The lowest version of the peer protocol that this release speaks.
pub const PROTOCOL_MIN: u16 = 7;
/// The highest version of the peer protocol that this release speaks.
pub const PROTOCOL_MAX: u16 = 8;
/// The longest handshake that is read, in bytes.
pub const HANDSHAKE_BYTES_MAX: usize = 1024;

const MAGIC: [u8; 4] = *b"QRHS";
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

    /// Those that this release speaks, up to `max`, if that is one of them.
    pub fn up_to(max: u16) -> Self {
        Self { max: max.clamp(PROTOCOL_MIN, PROTOCOL_MAX), ..Self::ALL }
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
    "no common peer protocol: {peer} speaks {theirs}, this node {ours}; upgrade the older of the two, or \
     remove its peers.protocol_max"
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
    /// Proof of the cluster's key.
    pub token: [u8; 16],
    /// The node that opens the stream.
    pub from: NodeId,
    /// The node that it means to reach.
    pub to: NodeId,
}

impl Who {
    /// What a node that sends frames with this header says.
    pub fn of(header: &Header) -> Self {
        let Header { cluster_id, token, from, to, .. } = header;
        Self { cluster_id: cluster_id.clone(), token: *token, from: *from, to: *to }
    }

    /// Checks who opens a stream against this node, as [`Header::check`] does for each frame; the layout,
    /// and so who is a member, is left to the frames.
    ///
    /// # Errors
    /// The [`FrameError`] that names both sides.
    pub fn check(&self, mine: &Header, tokens: &[[u8; 16]]) -> Result<(), FrameError> {
        check_ends((&self.cluster_id, &self.token), (self.from, self.to), mine, tokens)
    }
}

/// The opening of a stream.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Opening {
    /// The versions that the sender speaks.
    pub versions: Versions,
    /// The sender, as it claims.
    pub who: Who,
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
        sealed(bytes)
    }

    /// Decodes an opening, without its prefix.
    ///
    /// # Errors
    /// [`FrameError::Damaged`].
    pub fn decode(bytes: &[u8]) -> Result<Self, FrameError> {
        let (versions, _, rest) = fixed(bytes)?;
        let (who, _later) = postcard::take_from_bytes(rest)
            .map_err(|_| FrameError::Damaged("an unreadable handshake"))?;
        Ok(Self { versions, who })
    }
}

impl Answer {
    /// The answer of a node that speaks `versions` to an opening.
    pub fn to(opening: &Opening, versions: Versions) -> Self {
        Self { versions, chosen: versions.highest_common(&opening.versions) }
    }

    /// The answer with the prefix that it needs on a stream.
    pub fn to_bytes(&self) -> Bytes {
        sealed(begun(self.versions, self.chosen.unwrap_or(0)))
    }

    /// Decodes an answer, without its prefix.
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
