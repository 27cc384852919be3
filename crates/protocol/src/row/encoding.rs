//! How a row is stored: local fields and version, then the object as it is sent to peers.
//!
//! | bytes | field |
//! | --- | --- |
//! | 0 to 8 | the actor that mints here, 0 for none |
//! | 8 to 16 | its incarnation |
//! | 16 to 32 | the version of the object |
//! | 32 to 38 | since when, in milliseconds |
//! | 38 to 40 | the format of the row: 0 |
//! | 40 to 42 | the n of its tree |
//! | from 42 | the object; its first byte says its kind and format ([`Kind`]) |
//!
//! Releases before there was a format wrote `since` as 64 bits; no clock makes more than 48 of them,
//! so their rows are of format 0. A row of any format says which at bytes 38 to 40. All else in a row
//! of an unknown format is unknown, and none of the functions here reads it.

use bytes::{Buf, BufMut, Bytes, BytesMut};

use super::{Incarnation, Row, Tenure};
use crate::clock::Actor;
use crate::kind::Kind;
use crate::object::{DecodeError, Object, Version};
use crate::time::WallTime;

/// Bytes of an encoded row before the object: actor, incarnation, version, since and format, tree.
const ROW_HEAD_BYTES: usize = 8 + 8 + size_of::<Version>() + 8 + 2;
/// How many bits of its eight bytes `since` takes. Milliseconds reach this in the year 10889.
const SINCE_BITS: u32 = 48;
/// The greatest `since` that can be stored.
const SINCE_MAX: u64 = (1 << SINCE_BITS) - 1;
/// Where `since` and the format are.
const SINCE_AT: usize = 32;
/// Not a format.
const NO_FORMAT: u16 = u16::MAX;

/// Splits `since` from the format above it, if that is the one that this release knows.
fn since_of(packed: u64) -> Result<WallTime, DecodeError> {
    match (packed >> SINCE_BITS) as u16 {
        0 => Ok(WallTime(packed)),
        NO_FORMAT => Err(DecodeError::Damaged),
        format => Err(DecodeError::RowFormat(format)),
    }
}

impl Row {
    /// Appends the row's encoding: local fields and version, then the object's own encoding.
    pub fn encode(&self, out: &mut BytesMut) {
        let (actor, incarnation) = match self.tenure {
            Some(tenure) => (tenure.actor.0, tenure.incarnation.0),
            None => (0, 0),
        };
        out.put_u64_le(actor);
        out.put_u64_le(incarnation);
        out.put_slice(&self.object.version().0);
        out.put_u64_le(self.since.0.min(SINCE_MAX)); // and format 0 above it
        out.put_u16_le(self.tree);
        self.object.encode(out);
    }

    /// Decodes a row; values are slices of `bytes`.
    ///
    /// # Errors
    /// [`DecodeError`] for anything that [`Row::encode`] would not have written, but for numbers that are
    /// written longer than needed.
    pub fn decode(mut bytes: Bytes) -> Result<Self, DecodeError> {
        Self::encoded_kind(&bytes)?;
        let (actor, incarnation) = (bytes.get_u64_le(), bytes.get_u64_le());
        if actor == 0 && incarnation != 0 {
            return Err(DecodeError::Invalid("an incarnation of no actor"));
        }
        let tenure = (actor != 0)
            .then_some(Tenure { actor: Actor(actor), incarnation: Incarnation(incarnation) });
        let version = bytes.split_to(size_of::<Version>());
        let (since, tree) = (since_of(bytes.get_u64_le())?, bytes.get_u16_le());
        let object = Object::decode(bytes)?;
        if version[..] != object.version().0 {
            return Err(DecodeError::Invalid("the row's version is not its object's"));
        }
        Ok(Self { tenure, tree, since, object })
    }

    /// The kind of an encoded row's object, without decoding the rest.
    ///
    /// # Errors
    /// [`DecodeError::RowFormat`], [`DecodeError::Kind`] or [`DecodeError::Format`] if a newer
    /// release wrote the row; [`DecodeError::Damaged`] if it is truncated.
    pub fn encoded_kind(row: &[u8]) -> Result<Kind, DecodeError> {
        Self::head(row)?;
        row.get(ROW_HEAD_BYTES).map_or(Err(DecodeError::Damaged), |first| Kind::of(*first))
    }

    /// The version of an encoded row, whatever kind its object is. `None` if it is truncated or in
    /// an unknown format ([`Row::encoded_kind`] says which), as for all of these.
    pub fn encoded_version(row: &[u8]) -> Option<Version> {
        Self::head(row).ok()?;
        row.get(16..SINCE_AT)?.try_into().ok().map(Version)
    }

    /// [`Row::since`] of an encoded row.
    pub fn encoded_since(row: &[u8]) -> Option<WallTime> {
        Self::head(row).ok()
    }

    /// The n of the tree that counts an encoded row.
    pub fn encoded_tree(row: &[u8]) -> Option<u16> {
        Self::head(row).ok()?;
        row.get(40..ROW_HEAD_BYTES)?.try_into().ok().map(u16::from_le_bytes)
    }

    /// The object's encoding within an encoded row, as it is sent to peers, whatever kind it is.
    pub fn encoded_object(row: &Bytes) -> Option<Bytes> {
        Self::head(row).ok()?;
        (row.len() > ROW_HEAD_BYTES).then(|| row.slice(ROW_HEAD_BYTES..))
    }

    /// Checks that an encoded row is in a known format and its head is whole; returns `since`.
    fn head(row: &[u8]) -> Result<WallTime, DecodeError> {
        let packed = row.get(SINCE_AT..).and_then(|rest| rest.first_chunk());
        let since = since_of(packed.copied().map(u64::from_le_bytes).ok_or(DecodeError::Damaged)?)?;
        if row.len() < ROW_HEAD_BYTES { Err(DecodeError::Damaged) } else { Ok(since) }
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::row::tests::row;

    fn encoded(row: &Row) -> Bytes {
        let mut bytes = BytesMut::new();
        row.encode(&mut bytes);
        bytes.freeze()
    }

    proptest! {
        #![proptest_config(ProptestConfig {
            failure_persistence: None, ..ProptestConfig::with_cases(1000)
        })]

        #[test]
        fn changed_or_cut_rows_never_panic_nor_lie_about_their_version(
            count in 0..4usize,
            changes in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..4),
            len in any::<prop::sample::Index>(),
        ) {
            let whole = encoded(&row(&["a", "b", "c"][..count]));
            let cut = whole.slice(..len.index(whole.len()));
            prop_assert!(Row::decode(cut.clone()).is_err());
            let _ = (Row::encoded_version(&cut), Row::encoded_object(&cut));
            let mut changed = whole.to_vec();
            for (at, byte) in changes {
                let at = at.index(changed.len());
                changed[at] = byte;
            }
            let changed = Bytes::from(changed);
            if let Ok(row) = Row::decode(changed.clone()) {
                prop_assert_eq!(row.object.check(), Ok(()));
                prop_assert_eq!(Row::encoded_version(&changed), Some(row.object.version()));
            }
        }
    }
}
