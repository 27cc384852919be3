//! The parts of a typed value, and their bytes.

use bytes::{BufMut, Bytes, BytesMut};
use serde::{Deserialize, Serialize};

use super::sketch::Sketch;
use crate::object::WriteId;

/// What a sibling is: a value of its own, or a part of a typed one. It says how its bytes are read.
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize,
)]
pub enum Part {
    /// A client's bytes, or a tombstone.
    #[default]
    Value,
    /// One actor's share of a counter: [`Counts`].
    Count,
    /// An element of a set.
    Element,
    /// An enabled flag; no bytes.
    Flag,
    /// What a register holds.
    Register,
    /// A part of a map's field: [`Field`].
    Field,
    /// A sketch of a set: [`Sketch`].
    Sketch,
}

impl Part {
    /// What a client is told that it is.
    pub fn name(self) -> &'static str {
        match self {
            Self::Value => "value",
            Self::Count => "count",
            Self::Element => "element",
            Self::Flag => "flag",
            Self::Register => "register_lww",
            Self::Field => "field",
            Self::Sketch => "hll",
        }
    }

    /// Whether these can be the bytes of such a part.
    pub(crate) fn fits(self, bytes: &Bytes) -> bool {
        match self {
            Self::Value => true,
            Self::Count => Counts::decode(bytes).is_some(),
            Self::Element | Self::Register => std::str::from_utf8(bytes).is_ok(),
            Self::Flag => bytes.is_empty(),
            Self::Field => Field::decode(bytes).is_some(),
            Self::Sketch => Sketch::decode(bytes).is_some(),
        }
    }

    /// What identifies the parts that replace each other when they are written: none for a count, of which
    /// an actor replaces only its own, and for a value.
    pub(crate) fn slot(self, bytes: &Bytes) -> Option<Slot> {
        match self {
            Self::Value | Self::Count => None,
            Self::Element => Some((self, bytes.clone())),
            Self::Flag | Self::Register | Self::Sketch => Some((self, Bytes::new())),
            Self::Field => match Field::decode(bytes)? {
                Field { of: FieldType::Set, .. } => Some((self, bytes.clone())),
                field => Some((self, bytes.slice(..field.name_end()))),
            },
        }
    }
}

/// See [`Part::slot`].
pub(crate) type Slot = (Part, Bytes);

/// How many requests a share of a counter remembers.
pub const REMEMBERED_MAX: usize = 16;

/// What one actor has added to a counter, and subtracted from it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    /// The sum of its increments.
    pub added: u64,
    /// The sum of its decrements.
    pub subtracted: u64,
    /// The last requests that may be repeated ([`crate::row::Draft::is_remembered`]), the newest last; at
    /// most [`REMEMBERED_MAX`].
    pub remembered: Vec<WriteId>,
}

impl Counts {
    /// After one more operation; `None` if a total would not fit 64 bits.
    pub fn after(self, increment: i64) -> Option<Self> {
        let by = increment.unsigned_abs();
        Some(match increment < 0 {
            false => Self { added: self.added.checked_add(by)?, ..self },
            true => Self { subtracted: self.subtracted.checked_add(by)?, ..self },
        })
    }

    /// Remembers a request, and forgets the oldest beyond [`REMEMBERED_MAX`].
    #[must_use]
    pub fn remembering(mut self, request: WriteId) -> Self {
        self.remembered.push(request);
        let beyond = self.remembered.len().saturating_sub(REMEMBERED_MAX);
        self.remembered.drain(..beyond);
        self
    }

    /// The difference.
    pub fn total(&self) -> i128 {
        i128::from(self.added) - i128::from(self.subtracted)
    }

    /// Added u64, subtracted u64, and 16 bytes for each request that is remembered.
    pub fn encode(&self) -> Bytes {
        let mut out = BytesMut::with_capacity(16 * (1 + self.remembered.len()));
        out.put_u64_le(self.added);
        out.put_u64_le(self.subtracted);
        self.remembered.iter().for_each(|request| out.put_slice(&request.0));
        out.freeze()
    }

    /// Reads what [`Counts::encode`] writes.
    pub fn decode(bytes: &[u8]) -> Option<Self> {
        let (added, rest) = bytes.split_first_chunk()?;
        let (subtracted, rest) = rest.split_first_chunk()?;
        let (requests, rest) = rest.as_chunks();
        (rest.is_empty() && requests.len() <= REMEMBERED_MAX).then(|| Self {
            added: u64::from_le_bytes(*added),
            subtracted: u64::from_le_bytes(*subtracted),
            remembered: requests.iter().copied().map(WriteId).collect(),
        })
    }
}

/// What a field of a map is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum FieldType {
    /// A register.
    RegisterLww,
    /// A flag.
    Flag,
    /// A set.
    Set,
}

/// A part of a map: what it is of which field. One name can be a field of each type.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Field<'a> {
    /// The field's type.
    pub of: FieldType,
    /// Its name.
    pub name: &'a str,
    /// What the register holds, or the element of the set; empty for a flag.
    pub content: &'a str,
}

/// Bytes before a field's name: its type, and the name's length.
const NAME_AT: usize = 1 + 2;

impl<'a> Field<'a> {
    /// Type u8 (0 register, 1 flag, 2 set), length of the name u16, the name, the content.
    pub fn encode(&self) -> Bytes {
        let mut out = BytesMut::with_capacity(NAME_AT + self.name.len() + self.content.len());
        out.put_u8(match self.of {
            FieldType::RegisterLww => 0,
            FieldType::Flag => 1,
            FieldType::Set => 2,
        });
        out.put_u16_le(self.name.len() as u16); // at most NAME_BYTES_MAX
        out.put_slice(self.name.as_bytes());
        out.put_slice(self.content.as_bytes());
        out.freeze()
    }

    /// Reads what [`Field::encode`] writes.
    pub fn decode(bytes: &'a [u8]) -> Option<Self> {
        let (&of, rest) = bytes.split_first()?;
        let (length, rest) = rest.split_first_chunk()?;
        let (name, content) = rest.split_at_checked(usize::from(u16::from_le_bytes(*length)))?;
        let of = match of {
            0 => FieldType::RegisterLww,
            1 if content.is_empty() => FieldType::Flag,
            2 => FieldType::Set,
            _ => return None,
        };
        let (name, content) = (std::str::from_utf8(name).ok()?, std::str::from_utf8(content).ok()?);
        Some(Self { of, name, content })
    }

    fn name_end(&self) -> usize {
        NAME_AT + self.name.len()
    }
}
