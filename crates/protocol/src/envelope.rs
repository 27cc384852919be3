//! Frames on a stream between two nodes. First both ends agree on a protocol version
//! ([`crate::handshake`]). Then one end sends a batch, the other answers it, and only then
//! does the next batch follow: an answer always belongs to the batch sent last.
//!
//! ```text
//! frame length u32 | kind u8 | frame
//! ```
//! The length is little-endian and counts the frame alone. [`crate::wire`] defines frames; a
//! [`Kind::Refusal`] holds text instead.

use bytes::{BufMut, Bytes, BytesMut};

/// Bytes in front of each frame.
pub const PREFIX_BYTES: usize = 4 + 1;

/// What follows a prefix.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// A frame of messages, or of the last replies to a batch.
    Frame = 0,
    /// Why the whole batch was refused, as UTF-8 text. No message of it was executed.
    Refusal = 1,
    /// A frame of replies; more follow.
    Part = 2,
    /// The opening of a stream, or the answer to it ([`crate::handshake`]).
    Handshake = 3,
}

/// The prefix of a frame. The frame must be shorter than 4 GiB.
pub fn prefix(kind: Kind, frame_len: usize) -> [u8; PREFIX_BYTES] {
    let [a, b, c, d] = (frame_len as u32).to_le_bytes();
    [a, b, c, d, kind as u8]
}

/// Decodes a prefix: the kind and length of the frame that follows; `None` for an unknown kind.
pub fn parse(prefix: [u8; PREFIX_BYTES]) -> Option<(Kind, usize)> {
    let [a, b, c, d, kind] = prefix;
    let kind = match kind {
        0 => Kind::Frame,
        1 => Kind::Refusal,
        2 => Kind::Part,
        3 => Kind::Handshake,
        _ => return None,
    };
    Some((kind, u32::from_le_bytes([a, b, c, d]) as usize))
}

/// A refusal with its prefix.
pub fn refusal(why: &str) -> Bytes {
    let mut bytes = BytesMut::with_capacity(PREFIX_BYTES + why.len());
    bytes.put_slice(&prefix(Kind::Refusal, why.len()));
    bytes.put_slice(why.as_bytes());
    bytes.freeze()
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn prefixes_round_trip() {
        for kind in [Kind::Frame, Kind::Refusal, Kind::Part, Kind::Handshake] {
            for len in [0, 1, 255, 256, 70_000, u32::MAX as usize] {
                assert_eq!(parse(prefix(kind, len)), Some((kind, len)));
            }
        }
        assert_eq!(prefix(Kind::Part, 0x0102), [2, 1, 0, 0, 2]);
        assert_eq!(&refusal("no")[..], b"\x02\0\0\0\x01no");
    }

    #[test]
    fn other_kinds_are_unknown() {
        for kind in 4..=u8::MAX {
            assert_eq!(parse([9, 0, 0, 0, kind]), None);
        }
    }
}
