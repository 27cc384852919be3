//! Why a node did nothing.

use serde::{Deserialize, Deserializer, Serialize, Serializer};

/// Why a node did nothing. A release that adds a reason needs no new protocol version: the others take a
/// code that they do not know for [`Refusal::Failed`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    /// Its queues are full.
    #[error("busy")]
    Busy,
    /// It is not part of a formed cluster.
    #[error("not formed")]
    NotFormed,
    /// Its disk is full, read-only or failing.
    #[error("takes no writes")]
    ReadOnly,
    /// Its hint store is full.
    #[error("hint store full")]
    HintsFull,
    /// It is stopping.
    #[error("stopping")]
    Stopping,
    /// It could not execute the message; its log says why.
    #[error("failed")]
    Failed,
    /// The message is invalid.
    #[error("malformed")]
    Malformed,
    /// The object was in transit too long (see [`crate::reap`]).
    #[error("too long on its way")]
    Stale,
    /// Another process with the sender's name was heard from recently (see [`crate::generation`]).
    #[error("another process of that name is alive")]
    NameTaken,
    /// Its release does not know the message.
    #[error("its release does not know this message")]
    Unsupported,
    /// Another cluster record is in force there than the one under which the message was sent.
    #[error("another cluster record is in force there")]
    OtherEpoch,
    /// It is no member any more, or takes the sender for none: one of them was removed or sworn dead.
    #[error("no member")]
    NoMember,
}

impl Refusal {
    /// Every reason with its code on the wire. Codes are never reused.
    const CODES: [(u8, Self); 12] = [
        (0, Self::Busy),
        (1, Self::NotFormed),
        (2, Self::ReadOnly),
        (3, Self::HintsFull),
        (4, Self::Stopping),
        (5, Self::Failed),
        (6, Self::Malformed),
        (7, Self::Stale),
        (8, Self::NameTaken),
        (9, Self::Unsupported),
        (10, Self::OtherEpoch),
        (11, Self::NoMember),
    ];
    /// The code of [`Refusal::Failed`].
    const FAILED: u8 = 5;
}

impl Serialize for Refusal {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let code = Self::CODES.iter().find(|(_, reason)| reason == self);
        serializer.serialize_u8(code.map_or(Self::FAILED, |(code, _)| *code))
    }
}

impl<'de> Deserialize<'de> for Refusal {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let code = u8::deserialize(deserializer)?;
        let known = Self::CODES.iter().find(|(known, _)| *known == code);
        Ok(known.map_or(Self::Failed, |(_, reason)| *reason))
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn codes_are_of_one_byte_and_unknown_ones_are_failures() {
        for code in 0..=u8::MAX {
            let reason: Refusal = postcard::from_bytes(&[code]).unwrap();
            let known = Refusal::CODES.iter().find(|(known, _)| *known == code);
            assert_eq!(reason, known.map_or(Refusal::Failed, |(_, reason)| *reason));
            if known.is_some() {
                assert_eq!(postcard::to_stdvec(&reason).unwrap(), [code]);
            }
        }
    }
}
