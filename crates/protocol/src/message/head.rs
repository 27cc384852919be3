//! How heads are encoded: a tag of one byte, then the fields one after the other, each as the protocol
//! version of the stream says.
//!
//! A tag is given explicitly, never reused, and does not depend on where its variant stands. Its upper
//! three bits are the family. A tag that a receiver does not know is no damage ([`super::Message::Unknown`]).

use bytes::{BufMut, BytesMut};
use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::append::append;

/// A head whose fields cannot be decoded.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Unreadable;

/// What travels as the head of a message: [`super::Message`] or [`super::Reply`].
pub trait Head: Sized {
    /// Appends the encoding of this protocol version.
    fn encode(&self, protocol: u16, out: &mut BytesMut);

    /// The length of that, in bytes.
    fn encoded_len(&self, protocol: u16) -> usize {
        let mut out = BytesMut::new();
        self.encode(protocol, &mut out);
        out.len()
    }

    /// Decodes a whole head of this protocol version.
    ///
    /// # Errors
    /// [`Unreadable`] if its tag is known and its fields are not exactly those of that tag.
    fn decode(protocol: u16, head: &[u8]) -> Result<Self, Unreadable>;
}

/// A head as it is on the wire, for tools and tests that send what no release sends.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RawHead(pub Vec<u8>);

impl Head for RawHead {
    fn encode(&self, _protocol: u16, out: &mut BytesMut) {
        out.put_slice(&self.0);
    }

    fn decode(_protocol: u16, head: &[u8]) -> Result<Self, Unreadable> {
        Ok(Self(head.to_vec()))
    }
}

/// A field of a message. What serde can encode is the same in every protocol version; a type that changes
/// with the version implements this itself and has no serde traits, so that it cannot be encoded otherwise.
pub(crate) trait Field: Sized {
    fn put(&self, protocol: u16, out: &mut BytesMut);

    /// Takes the field from the front of `input`.
    fn take(protocol: u16, input: &mut &[u8]) -> Result<Self, Unreadable>;
}

impl<T: Serialize + DeserializeOwned> Field for T {
    fn put(&self, _protocol: u16, out: &mut BytesMut) {
        append(self, out);
    }

    fn take(_protocol: u16, input: &mut &[u8]) -> Result<Self, Unreadable> {
        let (field, rest) = postcard::take_from_bytes(input).map_err(|_| Unreadable)?;
        *input = rest;
        Ok(field)
    }
}

/// Some of the messages or replies, with their tags.
pub(crate) trait Family: Sized {
    /// Appends tag and fields.
    fn put(&self, protocol: u16, out: &mut BytesMut);

    /// Takes the fields that belong to `tag`; `None` if no variant has that tag.
    fn take(protocol: u16, tag: u8, input: &mut &[u8]) -> Result<Option<Self>, Unreadable>;
}

/// The number of the family that a tag belongs to, 0 to 7.
pub(crate) const fn family_of(tag: u8) -> u8 {
    tag >> 5
}

/// Splits a head into its tag and its fields. A head without a tag is unreadable.
pub(crate) fn split(head: &[u8]) -> Result<(u8, &[u8]), Unreadable> {
    head.split_first().map(|(tag, fields)| (*tag, fields)).ok_or(Unreadable)
}

/// Defines a family: an enum, and how its variants are encoded. Each variant stands behind its tag, and what
/// a tuple variant holds has a name as a field has.
macro_rules! family {
    (
        $(#[$about:meta])*
        $family:literal $name:ident { $(
            $(#[$doc:meta])*
            $tag:literal $variant:ident
            $( { $( $(#[$field_doc:meta])* $field:ident : $type:ty, )* } )?
            $( ( $held:ident : $held_type:ty ) )?
        , )* }
    ) => {
        $(#[$about])*
        #[derive(Clone, Debug, PartialEq, Eq)]
        pub enum $name { $(
            $(#[$doc])*
            $variant $( { $( $(#[$field_doc])* $field: $type, )* } )? $( ($held_type) )?,
        )* }

        // A tag of another family would be dispatched there.
        $( const _: () = assert!(crate::message::head::family_of($tag) == $family); )*

        impl crate::message::head::Family for $name {
            fn put(&self, protocol: u16, out: &mut bytes::BytesMut) {
                match self { $(
                    Self::$variant $( { $($field,)* } )? $( ($held) )? => {
                        bytes::BufMut::put_u8(out, $tag);
                        $( $( crate::message::head::Field::put($field, protocol, out); )* )?
                        $( crate::message::head::Field::put($held, protocol, out); )?
                    }
                )* }
                let _ = protocol; // used only if a variant has fields
            }

            #[deny(unreachable_patterns)] // two variants with the same tag
            fn take(
                protocol: u16,
                tag: u8,
                input: &mut &[u8],
            ) -> Result<Option<Self>, crate::message::head::Unreadable> {
                Ok(Some(match tag {
                    $( $tag => Self::$variant
                        $( { $( $field: crate::message::head::Field::take(protocol, input)?, )* } )?
                        $( (<$held_type as crate::message::head::Field>::take(protocol, input)?) )?,
                    )*
                    _ => return Ok(None),
                }))
            }
        }

        #[cfg(test)]
        impl $name {
            /// All tags, in the order of the variants.
            pub(crate) const TAGS: &[u8] = &[$($tag),*];
        }
    };
}
pub(crate) use family;
