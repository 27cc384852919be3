//! How a row is stored: local fields and version, then the object as it is sent to peers.

use bytes::{Buf, BufMut, Bytes, BytesMut};

use super::{Incarnation, Row, Tenure};
use crate::clock::Actor;
use crate::object::{DecodeError, Object, Version};
use crate::time::WallTime;

/// Bytes of an encoded row before the object: actor, incarnation, version, since, tree.
const ROW_HEAD_BYTES: usize = 8 + 8 + size_of::<Version>() + 8 + 2;

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
        out.put_u64_le(self.since.0);
        out.put_u16_le(self.tree);
        self.object.encode(out);
    }

    /// Decodes a row; values are slices of `bytes`.
    ///
    /// # Errors
    /// [`DecodeError`] for anything that [`Row::encode`] would not have written.
    pub fn decode(mut bytes: Bytes) -> Result<Self, DecodeError> {
        if bytes.len() < ROW_HEAD_BYTES {
            return Err(DecodeError::Damaged);
        }
        let (actor, incarnation) = (bytes.get_u64_le(), bytes.get_u64_le());
        let tenure = (actor != 0)
            .then_some(Tenure { actor: Actor(actor), incarnation: Incarnation(incarnation) });
        let version = bytes.split_to(size_of::<Version>());
        let (since, tree) = (WallTime(bytes.get_u64_le()), bytes.get_u16_le());
        let object = Object::decode(bytes)?;
        if version[..] != object.version().0 {
            return Err(DecodeError::Invalid("the row's version is not its object's"));
        }
        Ok(Self { tenure, tree, since, object })
    }

    /// The version of an encoded row, without decoding the rest. `None` if the bytes are truncated.
    pub fn encoded_version(row: &[u8]) -> Option<Version> {
        row.get(16..32)?.try_into().ok().map(Version)
    }

    /// [`Row::since`] of an encoded row. `None` if truncated.
    pub fn encoded_since(row: &[u8]) -> Option<WallTime> {
        row.get(32..40)?.try_into().ok().map(|bytes| WallTime(u64::from_le_bytes(bytes)))
    }

    /// The n of the tree that counts an encoded row. `None` if truncated.
    pub fn encoded_tree(row: &[u8]) -> Option<u16> {
        row.get(40..ROW_HEAD_BYTES)?.try_into().ok().map(u16::from_le_bytes)
    }

    /// The object's encoding within an encoded row, as it is sent to peers. `None` if truncated.
    pub fn encoded_object(row: &Bytes) -> Option<Bytes> {
        (row.len() > ROW_HEAD_BYTES).then(|| row.slice(ROW_HEAD_BYTES..))
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
