//! What is stored under one key: a clock and the siblings that no write has superseded yet.
//!
//! Merge is commutative, associative and idempotent, and applies no policy: it never collapses
//! siblings. Source: Almeida et al. (DAIS 2014), section 5; DeCandia et al., "Dynamo" (SOSP 2007),
//! 4.4.

use std::collections::BTreeSet;

use bytes::{Buf, BufMut, Bytes, BytesMut};
use serde::{Deserialize, Serialize, Serializer};

use crate::append::append;
use crate::clock::{Clock, Dot};
use crate::hex::hex;
use crate::kind::Kind;
use crate::mutation::{Mutation, mutated};
use crate::name::NodeId;
use crate::stamp::Stamp;

/// The most siblings an object decoded from a peer or the disk may hold: far above any limit for
/// clients, so more is treated as damage.
pub const SIBLINGS_DECODE_MAX: usize = 65_536;

/// Identifies one client request, so that a retry is recognised. Random, or a hash of the request.
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize,
)]
pub struct WriteId(pub [u8; 16]);

/// A 128-bit hash of an object's clock and sorted dots: equal versions are equal objects.
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize,
)]
pub struct Version(pub [u8; 16]);

impl Version {
    /// The version of an object that was never written.
    pub const ABSENT: Self = Self([0; 16]);

    /// 32 hexadecimal digits.
    pub fn to_hex(self) -> String {
        hex(&self.0)
    }
}

/// What a client says about a value in addition to its bytes.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Metadata {
    /// The media type, as sent. Empty on a tombstone.
    pub content_type: String,
    /// `Quorate-Meta-*` headers: lower-case name without the prefix, and value.
    pub user: Vec<(String, String)>,
}

/// One value (or a delete) that no other known write has superseded.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Sibling {
    /// The name of the write.
    pub dot: Dot,
    /// The value; `None` is a tombstone.
    pub value: Option<Bytes>,
    /// The client's metadata.
    pub metadata: Metadata,
    /// When it was written, in hybrid-logical time.
    pub stamp: Stamp,
    /// The node that minted it (informational; no decision depends on it).
    pub writer: NodeId,
    /// The client request that it came from.
    pub write_id: WriteId,
}

impl Sibling {
    /// Whether this sibling is a delete.
    pub fn is_tombstone(&self) -> bool {
        self.value.is_none()
    }
}

/// All that is known of one key.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct Object {
    /// Every write this object includes or supersedes.
    pub clock: Clock,
    /// Sorted by dot; each dot is covered by the clock.
    pub siblings: Vec<Sibling>,
}

/// The bytes are not an object; no part of them may be used.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum DecodeError {
    /// The bytes are truncated or cannot be decoded.
    #[error("the object's bytes are damaged or truncated")]
    Damaged,
    /// The bytes decode, but violate an invariant.
    #[error("the object breaks an invariant: {0}")]
    Invalid(&'static str),
    /// Written by a newer release, in another format.
    #[error("the object has format {0}, which only a newer release can read")]
    Format(u8),
    /// Written by a newer release: a kind of value that this one does not have.
    #[error("the object is of kind {0}, which only a newer release can read")]
    Kind(u8),
    /// A newer release wrote the row around the object.
    #[error("the row has format {0}, which only a newer release can read")]
    RowFormat(u16),
}

impl DecodeError {
    /// Whether a newer release could decode the bytes: they are not damaged.
    pub fn is_newer(self) -> bool {
        match self {
            Self::Damaged | Self::Invalid(_) => false,
            Self::Format(_) | Self::Kind(_) | Self::RowFormat(_) => true,
        }
    }
}

impl Object {
    /// Joins another replica's object. Commutative, associative, idempotent. A sibling survives if
    /// both sides have it, or if one has it and the other's clock does not cover it.
    pub fn merge(&mut self, other: &Object) {
        if self == other {
            return;
        }
        let is_kept = |s: &Sibling| other.has(s.dot) || !other.clock.covers(s.dot);
        self.siblings.retain(|s| is_kept(s) || mutated(Mutation::MergeKeepsCovered));
        for sibling in &other.siblings {
            if !self.clock.covers(sibling.dot) {
                self.siblings.push(sibling.clone());
            }
        }
        self.siblings.sort_unstable_by_key(|s| s.dot);
        self.clock.join(&other.clock);
        assert!(self.clock.covers_all(&other.clock), "a merge dropped claims");
        assert_eq!(self.check(), Ok(()), "a merge broke an invariant");
    }

    /// Whether merging `other` would add values.
    pub fn lacks_values_of(&self, other: &Self) -> bool {
        other.siblings.iter().any(|s| !s.is_tombstone() && !self.clock.covers(s.dot))
    }

    /// Whether a sibling with this dot is here.
    pub fn has(&self, dot: Dot) -> bool {
        self.siblings.binary_search_by_key(&dot, |s| s.dot).is_ok()
    }

    /// Whether nothing was ever written.
    pub fn is_absent(&self) -> bool {
        self.clock.is_empty()
    }

    /// Whether every sibling is a tombstone (true of an absent object too).
    pub fn is_deleted(&self) -> bool {
        self.siblings.iter().all(Sibling::is_tombstone)
    }

    /// Whether a client must be shown more than one sibling: several, at least one of them live.
    /// Tombstones alone are simply "deleted"; siblings of one request count once.
    pub fn is_conflict(&self) -> bool {
        !self.is_deleted() && self.shown().len() > 1
    }

    /// The greatest stamp of the siblings.
    pub fn stamp_max(&self) -> Stamp {
        self.siblings.iter().map(|s| s.stamp).max().unwrap_or_default()
    }

    /// The siblings as clients see them: of several that came from one request (a retried forward)
    /// only the first by dot, since the others are duplicates of the value.
    pub fn shown(&self) -> Vec<&Sibling> {
        if let [only] = self.siblings.as_slice() {
            return vec![only]; // almost always
        }
        let mut requests = BTreeSet::new();
        self.siblings.iter().filter(|sibling| requests.insert(sibling.write_id)).collect()
    }

    /// The sibling a `lww` bucket answers with: greatest stamp, then dot.
    pub fn last_write(&self) -> Option<&Sibling> {
        self.siblings.iter().max_by_key(|s| (s.stamp, s.dot))
    }

    /// The total size of all values, in bytes.
    pub fn value_bytes(&self) -> usize {
        self.siblings.iter().filter_map(|s| s.value.as_ref()).map(Bytes::len).sum()
    }

    /// The hash of clock and sorted dots. Digests, ETags and Merkle trees all use it.
    pub fn version(&self) -> Version {
        if self.is_absent() {
            return Version::ABSENT;
        }
        // Copied into one buffer first: for so few bytes that is faster than hashing in several
        // pieces.
        let (claimed, present) = (self.clock.len(), self.siblings.len());
        let mut dots = Vec::with_capacity(16 * (1 + claimed + present));
        dots.extend_from_slice(&(claimed as u64).to_le_bytes());
        self.clock.entries().iter().for_each(|dot| dot.push_to(&mut dots));
        dots.extend_from_slice(&(present as u64).to_le_bytes());
        self.siblings.iter().for_each(|sibling| sibling.dot.push_to(&mut dots));
        Version(xxhash_rust::xxh3::xxh3_128(&dots).to_le_bytes())
    }

    /// The approximate length of the encoding, in bytes: reserving this much avoids reallocation
    /// while encoding.
    pub fn encoded_bytes_estimate(&self) -> usize {
        let head_of = |s: &Sibling| {
            let user = s.metadata.user.iter().map(|(name, value)| name.len() + value.len() + 4);
            SIBLING_BYTES_ABOUT + s.metadata.content_type.len() + user.sum::<usize>()
        };
        let heads: usize = self.siblings.iter().map(head_of).sum();
        HEAD_BYTES_ABOUT + self.clock.len() * ENTRY_BYTES_ABOUT + heads + self.value_bytes()
    }

    /// Appends the encoding: kind and format ([`Kind::first_byte`]), length of the head, the head
    /// (postcard), then the values' raw bytes, concatenated. The same bytes go to the disk and to
    /// every replica.
    pub fn encode(&self, out: &mut BytesMut) {
        out.reserve(self.encoded_bytes_estimate());
        out.put_u8(Kind::Value.first_byte());
        out.put_u32_le(0);
        let head_at = out.len();
        append(&Head { clock: &self.clock, siblings: &self.siblings }, out);
        let head_len = (out.len() - head_at) as u32;
        out[head_at - 4..head_at].copy_from_slice(&head_len.to_le_bytes());
        for value in self.siblings.iter().filter_map(|s| s.value.as_ref()) {
            out.put_slice(value);
        }
    }

    /// The encoding in a buffer of its own.
    pub fn to_bytes(&self) -> Bytes {
        let mut out = BytesMut::new();
        self.encode(&mut out);
        out.freeze()
    }

    /// Decodes an object; values are slices of `bytes`, not copies.
    ///
    /// # Errors
    /// [`DecodeError`] for anything that [`Object::encode`] would not have written, but for numbers that are
    /// written longer than needed.
    pub fn decode(mut bytes: Bytes) -> Result<Self, DecodeError> {
        if bytes.len() < 5 {
            return Err(DecodeError::Damaged);
        }
        match Kind::of(bytes.get_u8())? {
            Kind::Value => {}
        }
        let head_len = bytes.get_u32_le() as usize;
        if bytes.len() < head_len {
            return Err(DecodeError::Damaged);
        }
        let head = bytes.split_to(head_len);
        let (head, rest): (OwnedHead, _) =
            postcard::take_from_bytes(&head).map_err(|_| DecodeError::Damaged)?;
        if !rest.is_empty() || head.siblings.len() > SIBLINGS_DECODE_MAX {
            return Err(DecodeError::Damaged);
        }
        let mut siblings = Vec::with_capacity(head.siblings.len());
        for sibling in head.siblings {
            siblings.push(sibling.into_sibling(&mut bytes)?);
        }
        if !bytes.is_empty() {
            return Err(DecodeError::Damaged);
        }
        let object = Self { clock: head.clock, siblings };
        object.check().map(|()| object)
    }

    /// Checks the invariants of every object.
    ///
    /// # Errors
    /// [`DecodeError::Invalid`] that names the broken one.
    pub fn check(&self) -> Result<(), DecodeError> {
        if !self.clock.is_well_formed() {
            return Err(DecodeError::Invalid("the clock is not sorted"));
        }
        if !self.siblings.windows(2).all(|pair| pair[0].dot < pair[1].dot) {
            return Err(DecodeError::Invalid("the siblings are not sorted"));
        }
        let covered = |s: &Sibling| s.dot.counter > 0 && self.clock.covers(s.dot);
        if !self.siblings.iter().all(covered) {
            return Err(DecodeError::Invalid("the clock does not cover a sibling"));
        }
        Ok(())
    }
}

// The usual sizes of the parts of an encoding, in bytes: the frame around everything, one clock
// entry, and one sibling without its value and metadata.
const HEAD_BYTES_ABOUT: usize = 16;
const ENTRY_BYTES_ABOUT: usize = 16;
const SIBLING_BYTES_ABOUT: usize = 72;

#[derive(Serialize)]
struct Head<'a> {
    clock: &'a Clock,
    #[serde(serialize_with = "heads")]
    siblings: &'a [Sibling],
}

fn heads<S: Serializer>(siblings: &[Sibling], serializer: S) -> Result<S::Ok, S::Error> {
    serializer.collect_seq(siblings.iter().map(SiblingHead::of))
}

#[derive(Serialize)]
struct SiblingHead<'a> {
    dot: Dot,
    value_len: Option<u32>,
    metadata: &'a Metadata,
    stamp: Stamp,
    writer: NodeId,
    write_id: WriteId,
}

impl<'a> SiblingHead<'a> {
    fn of(s: &'a Sibling) -> Self {
        Self {
            dot: s.dot,
            value_len: s.value.as_ref().map(|v| v.len() as u32),
            metadata: &s.metadata,
            stamp: s.stamp,
            writer: s.writer,
            write_id: s.write_id,
        }
    }
}

#[derive(Deserialize)]
struct OwnedHead {
    clock: Clock,
    siblings: Vec<OwnedSiblingHead>,
}

#[derive(Deserialize)]
struct OwnedSiblingHead {
    dot: Dot,
    value_len: Option<u32>,
    metadata: Metadata,
    stamp: Stamp,
    writer: NodeId,
    write_id: WriteId,
}

impl OwnedSiblingHead {
    fn into_sibling(self, values: &mut Bytes) -> Result<Sibling, DecodeError> {
        let value = match self.value_len.map(|len| len as usize) {
            None => None,
            Some(len) if len <= values.len() => Some(values.split_to(len)),
            Some(_) => return Err(DecodeError::Damaged),
        };
        Ok(Sibling {
            dot: self.dot,
            value,
            metadata: self.metadata,
            stamp: self.stamp,
            writer: self.writer,
            write_id: self.write_id,
        })
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::clock::Actor;

    prop_compose! {
        fn siblings()(actor in 1..6u64, counter in 1..4u64, value in prop::option::of("[a-c]{0,9}"),
            content_type in "[a-z/]{0,9}", stamp: u64, write_id: [u8; 16],
            user in prop::collection::vec(("[a-z]{1,3}", "[ -~]{0,5}"), 0..2)) -> Sibling {
            Sibling {
                dot: Dot { actor: Actor(actor), counter },
                value: value.map(Bytes::from),
                metadata: Metadata { content_type, user },
                stamp: Stamp(stamp),
                writer: NodeId::parse("n1").unwrap(),
                write_id: WriteId(write_id),
            }
        }
    }

    prop_compose! {
        /// Any object that satisfies the invariants, whether or not a history leads to it.
        fn objects()(siblings in prop::collection::vec(siblings(), 0..5),
            superseded in prop::collection::vec((1..6u64, 1..6u64), 0..4)) -> Object {
            let mut object = Object { clock: Clock::default(), siblings };
            object.siblings.sort_by_key(|s| s.dot);
            object.siblings.dedup_by_key(|s| s.dot);
            for sibling in &object.siblings {
                object.clock.advance(sibling.dot);
            }
            for (actor, counter) in superseded {
                object.clock.advance(Dot { actor: Actor(actor), counter });
            }
            object
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig {
            failure_persistence: None, ..ProptestConfig::with_cases(1000)
        })]

        #[test]
        fn an_encoded_object_round_trips(object in objects()) {
            prop_assert_eq!(object.check(), Ok(()));
            prop_assert_eq!(Object::decode(object.to_bytes()), Ok(object));
        }

        #[test]
        fn a_truncated_encoding_is_rejected(object in objects(), extra in any::<u8>()) {
            let bytes = object.to_bytes();
            for len in 0..bytes.len() {
                prop_assert!(Object::decode(bytes.slice(..len)).is_err());
            }
            let longer = [&bytes[..], &[extra]].concat();
            prop_assert!(Object::decode(longer.into()).is_err());
        }

        #[test]
        fn changed_bytes_never_panic_nor_break_an_invariant(
            object in objects(),
            changes in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..4),
        ) {
            let mut bytes = object.to_bytes().to_vec();
            for (at, byte) in changes {
                let at = at.index(bytes.len());
                bytes[at] = byte;
            }
            if let Ok(object) = Object::decode(bytes.into()) {
                prop_assert_eq!(object.check(), Ok(()));
                prop_assert_eq!(Object::decode(object.to_bytes()), Ok(object));
            }
        }

        #[test]
        fn random_bytes_never_panic(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
            let _ = Object::decode(bytes.clone().into());
            let _ = Object::decode([&[1, 20, 0, 0, 0][..], &bytes].concat().into());
        }
    }

    /// Decodes an object with this clock and these siblings' dots, encoded by hand without checks.
    fn decoded(clock: &[(u64, u64)], dots: &[(u64, u64)]) -> Result<Object, DecodeError> {
        let dot = |(actor, counter): &(u64, u64)| Dot { actor: Actor(*actor), counter: *counter };
        let metadata = Metadata::default();
        let siblings = dots.iter().map(|at| SiblingHead {
            dot: dot(at),
            value_len: None,
            metadata: &metadata,
            stamp: Stamp::default(),
            writer: NodeId::parse("n1").unwrap(),
            write_id: WriteId::default(),
        });
        let clock: Vec<Dot> = clock.iter().map(dot).collect();
        let head = (clock, siblings.collect::<Vec<_>>());
        let head = postcard::to_stdvec(&head).unwrap();
        let len = (head.len() as u32).to_le_bytes();
        Object::decode([&[1][..], &len, &head].concat().into())
    }

    #[test]
    fn each_broken_invariant_is_named() {
        let broken = |clock: &[(u64, u64)], dots: &[(u64, u64)]| decoded(clock, dots).unwrap_err();
        assert!(decoded(&[(1, 2), (2, 1)], &[(1, 2), (2, 1)]).is_ok());
        // An invalid clock is not even decoded.
        assert_eq!(broken(&[(2, 1), (1, 2)], &[]), DecodeError::Damaged);
        assert_eq!(broken(&[(1, 0)], &[]), DecodeError::Damaged);
        let siblings = DecodeError::Invalid("the siblings are not sorted");
        assert_eq!(broken(&[(1, 2)], &[(1, 2), (1, 1)]), siblings);
        assert_eq!(broken(&[(1, 2)], &[(1, 2), (1, 2)]), siblings);
        let cover = DecodeError::Invalid("the clock does not cover a sibling");
        assert_eq!(broken(&[(1, 1)], &[(1, 2)]), cover);
        assert_eq!(broken(&[], &[(1, 1)]), cover);
        assert_eq!(broken(&[(1, 1)], &[(1, 0)]), cover);
    }

    #[test]
    fn a_newer_format_or_kind_is_named_and_a_huge_length_is_refused() {
        let begun_by = |byte: u8| {
            let mut bytes = Object::default().to_bytes().to_vec();
            bytes[0] = byte;
            Object::decode(bytes.into()).unwrap_err()
        };
        assert_eq!(begun_by(0x02), DecodeError::Format(2));
        assert_eq!(begun_by(0x31), DecodeError::Kind(3));
        assert!(begun_by(0x02).is_newer() && begun_by(0x31).is_newer());
        assert!(!begun_by(0).is_newer() && !begun_by(0xff).is_newer());
        let huge = [&[1, 6, 0, 0, 0][..], &[0, 0xff, 0xff, 0xff, 0xff, 0x0f]].concat();
        assert_eq!(Object::decode(huge.into()), Err(DecodeError::Damaged));
    }
}
