//! How an object is encoded: the same bytes go to the disk and to every replica.
//!
//! ```text
//! kind and format u8 | length of the head u32 | head (postcard) | the values' bytes, concatenated
//! head of a value: clock, siblings*; of a typed value: clock, (part, sibling)*; if anything in it
//! expires: clock, (part, when or none, sibling)*
//! sibling: dot, length of its bytes or none (a tombstone), metadata, stamp, writer, write id
//! ```

use bytes::{Buf, BufMut, Bytes, BytesMut};
use serde::{Deserialize, Serialize, Serializer};

use super::{DecodeError, Metadata, Object, Sibling, WriteId};
use crate::append::append;
use crate::clock::{Clock, Dot};
use crate::data_type::Part;
use crate::kind::Kind;
use crate::name::NodeId;
use crate::stamp::Stamp;
use crate::time::WallTime;

/// The most siblings an object decoded from a peer or the disk may hold: far above any limit for
/// clients, so more is treated as damage.
pub const SIBLINGS_DECODE_MAX: usize = 65_536;

impl Object {
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
        let kind = self.kind();
        out.put_u8(kind.first_byte());
        out.put_u32_le(0);
        let head_at = out.len();
        let (clock, siblings) = (&self.clock, &self.siblings[..]);
        match kind {
            Kind::Value => append(&(clock, heads(siblings, SiblingHead::of)), out),
            Kind::Typed => {
                append(&(clock, heads(siblings, |s| (s.part, SiblingHead::of(s)))), out);
            }
            Kind::Expiring => {
                append(&(clock, heads(siblings, |s| (s.part, s.expires, SiblingHead::of(s)))), out);
            }
        }
        let head_len = (out.len() - head_at) as u32;
        out[head_at - 4..head_at].copy_from_slice(&head_len.to_le_bytes());
        for value in self.siblings.iter().filter_map(|s| s.value.as_ref()) {
            out.put_slice(value);
        }
    }

    fn kind(&self) -> Kind {
        match (self.has_expiry(), self.has_parts()) {
            (true, _) => Kind::Expiring,
            (false, true) => Kind::Typed,
            (false, false) => Kind::Value,
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
        let kind = Kind::of(bytes.get_u8())?;
        let head_len = bytes.get_u32_le() as usize;
        if bytes.len() < head_len {
            return Err(DecodeError::Damaged);
        }
        let head = bytes.split_to(head_len);
        let (clock, siblings): (Clock, Vec<Sibling>) = match kind {
            Kind::Value => {
                let (clock, heads) = taken(&head)?;
                (clock, decoded(heads, |head| (Part::Value, None, head), &mut bytes)?)
            }
            Kind::Typed => {
                let (clock, heads) = taken(&head)?;
                (clock, decoded(heads, |(part, head)| (part, None, head), &mut bytes)?)
            }
            Kind::Expiring => {
                let (clock, heads) = taken(&head)?;
                (clock, decoded(heads, |head| head, &mut bytes)?)
            }
        };
        if !bytes.is_empty() {
            return Err(DecodeError::Damaged);
        }
        let object = Self { clock, siblings };
        match kind {
            Kind::Typed if !object.has_parts() => {
                return Err(DecodeError::Invalid("a typed object without parts"));
            }
            Kind::Expiring if !object.has_expiry() => {
                return Err(DecodeError::Invalid("an object that expires without saying when"));
            }
            Kind::Value | Kind::Typed | Kind::Expiring => {}
        }
        object.check().map(|()| object)
    }
}

// The usual sizes of the parts of an encoding, in bytes: the frame around everything, one clock
// entry, and one sibling without its value and metadata.
const HEAD_BYTES_ABOUT: usize = 16;
const ENTRY_BYTES_ABOUT: usize = 16;
const SIBLING_BYTES_ABOUT: usize = 72;

/// The siblings of a head, each encoded as the function says.
struct Heads<'a, F>(&'a [Sibling], F);

fn heads<'a, T, F: Fn(&'a Sibling) -> T>(siblings: &'a [Sibling], head: F) -> Heads<'a, F> {
    Heads(siblings, head)
}

impl<'a, T: Serialize, F: Fn(&'a Sibling) -> T> Serialize for Heads<'a, F> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_seq(self.0.iter().map(&self.1))
    }
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

/// Decodes a whole head.
fn taken<'de, T: Deserialize<'de>>(head: &'de [u8]) -> Result<T, DecodeError> {
    match postcard::take_from_bytes(head) {
        Ok((head, [])) => Ok(head),
        Ok(_) | Err(_) => Err(DecodeError::Damaged),
    }
}

/// Takes the siblings' bytes from the front of `values`.
fn decoded<T>(
    heads: Vec<T>,
    split: impl Fn(T) -> (Part, Option<WallTime>, OwnedSiblingHead),
    values: &mut Bytes,
) -> Result<Vec<Sibling>, DecodeError> {
    if heads.len() > SIBLINGS_DECODE_MAX {
        return Err(DecodeError::Damaged);
    }
    let mut siblings = Vec::with_capacity(heads.len());
    for (part, expires, head) in heads.into_iter().map(split) {
        let sibling = head.into_sibling((part, expires), values)?;
        if sibling.is_part() && expires.is_some() {
            return Err(DecodeError::Invalid("a part of a typed value expires"));
        }
        let fits = |bytes: &Bytes| sibling.metadata == Metadata::default() && part.fits(bytes);
        if sibling.is_part() && !sibling.value.as_ref().is_some_and(fits) {
            return Err(DecodeError::Invalid("the bytes of a part are not what it says"));
        }
        siblings.push(sibling);
    }
    Ok(siblings)
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
    fn into_sibling(
        self,
        (part, expires): (Part, Option<WallTime>),
        values: &mut Bytes,
    ) -> Result<Sibling, DecodeError> {
        let value = match self.value_len.map(|len| len as usize) {
            None => None,
            Some(len) if len <= values.len() => Some(values.split_to(len)),
            Some(_) => return Err(DecodeError::Damaged),
        };
        Ok(Sibling {
            dot: self.dot,
            part,
            value,
            metadata: self.metadata,
            stamp: self.stamp,
            expires,
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
    use crate::data_type::sketch::Sketch;
    use crate::data_type::{Counts, Field, FieldType};

    /// What a sibling is, and its bytes; `None` for a value of any bytes.
    fn parts() -> impl Strategy<Value = Option<(Part, Bytes)>> {
        let field = |of| {
            move |(name, content): (String, String)| {
                let field = Field { of, name: &name, content: &content };
                (Part::Field, field.encode())
            }
        };
        let part = prop_oneof![
            any::<(u64, u64, bool)>().prop_map(|(added, subtracted, remembers)| {
                let remembered = if remembers { vec![WriteId([7; 16])] } else { Vec::new() };
                (Part::Count, Counts { added, subtracted, remembered }.encode())
            }),
            "[a-c]{0,9}".prop_map(|text| (Part::Element, text.into())),
            Just((Part::Flag, Bytes::new())),
            "[a-c]{0,9}".prop_map(|text| (Part::Register, text.into())),
            ("[a-c]{1,3}", "[a-c]{0,3}").prop_map(field(FieldType::RegisterLww)),
            ("[a-c]{1,3}", Just(String::new())).prop_map(field(FieldType::Flag)),
            ("[a-c]{1,3}", "[a-c]{0,3}").prop_map(field(FieldType::Set)),
            prop::collection::vec(any::<u64>(), 0..3).prop_map(|hashes| {
                let mut sketch = Sketch::default();
                hashes.into_iter().for_each(|hash| sketch.observe(hash));
                (Part::Sketch, sketch.encode())
            }),
        ];
        prop::option::weighted(0.3, part)
    }

    prop_compose! {
        fn siblings()(actor in 1..6u64, counter in 1..4u64, value in prop::option::of("[a-c]{0,9}"),
            content_type in "[a-z/]{0,9}", stamp: u64, write_id: [u8; 16], part in parts(),
            user in prop::collection::vec(("[a-z]{1,3}", "[ -~]{0,5}"), 0..2),
            expires in prop::option::weighted(0.2, any::<u64>())) -> Sibling {
            let metadata = match part {
                None => Metadata { content_type, user },
                Some(_) => Metadata::default(),
            };
            let (part, value) = match part {
                None => (Part::Value, value.map(Bytes::from)),
                Some((part, bytes)) => (part, Some(bytes)),
            };
            Sibling {
                dot: Dot { actor: Actor(actor), counter },
                part,
                value,
                metadata,
                stamp: Stamp(stamp),
                expires: expires.map(WallTime).filter(|_| part == Part::Value),
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
        assert_eq!(begun_by(0x12), DecodeError::Format(2));
        assert_eq!(begun_by(0x11), DecodeError::Invalid("a typed object without parts"));
        assert_eq!(begun_by(0x22), DecodeError::Format(2));
        let never = DecodeError::Invalid("an object that expires without saying when");
        assert_eq!(begun_by(0x21), never);
        assert_eq!(begun_by(0x31), DecodeError::Kind(3));
        assert!(begun_by(0x02).is_newer() && begun_by(0x31).is_newer());
        assert!(!begun_by(0).is_newer() && !begun_by(0xff).is_newer());
        let huge = [&[1, 6, 0, 0, 0][..], &[0, 0xff, 0xff, 0xff, 0xff, 0x0f]].concat();
        assert_eq!(Object::decode(huge.into()), Err(DecodeError::Damaged));
    }
}
