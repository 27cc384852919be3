//! What kind of value an object holds, and in which format its bytes are.
//!
//! The first byte of an encoded object says both: its low four bits are the format, from 1, its
//! high four bits the kind. So they are in the row and in whatever is sent to peers, in one place.
//! Values begin with the byte 1, typed values with 17, what expires with 33. Kind and format 15
//! and format 0 are never given: bytes that say so are damaged. A release that gives a new kind or
//! format raises the format of the store as well, before it writes the first one, so that older
//! releases refuse that store (docs/decisions/0026-row-formats-and-kinds.md).

use crate::object::DecodeError;

/// The kind of an object's value. It decides how the object is decoded, merged and shown.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Kind {
    /// Bytes from a client; concurrent writes are kept as siblings.
    Value,
    /// Parts of a typed value ([`crate::data_type`]), and perhaps siblings beside them.
    Typed,
    /// Siblings, or parts too, of which at least one says when it expires ([`crate::lifetime`]).
    Expiring,
}

/// The format in which this release writes objects of every kind.
const FORMAT: u8 = 1;
/// Neither a kind nor a format.
const NONE: u8 = 15;

impl Kind {
    /// The number of the kind in encoded objects, 0 to 14.
    pub const fn code(self) -> u8 {
        match self {
            Self::Value => 0,
            Self::Typed => 1,
            Self::Expiring => 2,
        }
    }

    /// The first byte of an encoded object of this kind, as this release writes it.
    pub const fn first_byte(self) -> u8 {
        self.code() << 4 | FORMAT
    }

    /// The kind that the first byte of an encoded object says, if this release can decode it.
    ///
    /// # Errors
    /// [`DecodeError::Kind`] or [`DecodeError::Format`] if it was written by a newer release,
    /// [`DecodeError::Damaged`] if by none.
    pub const fn of(first_byte: u8) -> Result<Self, DecodeError> {
        match (first_byte >> 4, first_byte & 0x0f) {
            (NONE, _) | (_, 0 | NONE) => Err(DecodeError::Damaged),
            (0, FORMAT) => Ok(Self::Value),
            (1, FORMAT) => Ok(Self::Typed),
            (2, FORMAT) => Ok(Self::Expiring),
            (0..=2, format) => Err(DecodeError::Format(format)),
            (kind, _) => Err(DecodeError::Kind(kind)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_first_byte_is_known_newer_or_damaged() {
        for byte in 0..=u8::MAX {
            let (kind, format) = (byte / 16, byte % 16);
            let expected = match (kind, format) {
                (15, _) | (_, 0 | 15) => Err(DecodeError::Damaged),
                (0, 1) => Ok(Kind::Value),
                (1, 1) => Ok(Kind::Typed),
                (2, 1) => Ok(Kind::Expiring),
                (0..=2, format) => Err(DecodeError::Format(format)),
                (kind, _) => Err(DecodeError::Kind(kind)),
            };
            assert_eq!(Kind::of(byte), expected, "{byte:#04x}");
        }
        let bytes = [Kind::Value, Kind::Typed, Kind::Expiring].map(Kind::first_byte);
        assert_eq!(bytes, [1, 17, 33]);
    }
}
