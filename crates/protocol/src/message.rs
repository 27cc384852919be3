//! Every message that nodes send each other, and every reply, in families by what they serve.
//!
//! A message is a small head and a payload of raw bytes: an encoded object or a value, encoded once for all
//! receivers. Replies come in the order of the messages. A head is a tag and fields ([`head`]): a new
//! message is a variant with a tag of its own in its family's file, and an arm of that family's handler.

mod cluster;
mod data;
pub mod head;
mod query;
mod refusal;
mod repair;
mod status;
mod write;

use bytes::{BufMut, Bytes, BytesMut};

pub use self::cluster::{Cluster, ClusterReply, Formation, MoveProgress};
pub use self::data::{Data, DataReply};
use self::head::{Family, Field, Head, Unreadable};
pub use self::query::{Query, QueryReply};
pub use self::refusal::Refusal;
pub use self::repair::{DISTRUSTED_KEYS_MAX, Decision, Distrusted, Repair, RepairReply, Rows};
pub use self::status::Status;
pub use self::write::{Condition, Outcome, Write, WriteAnswer, WrittenAnswer};

/// A request from one node to another.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Message {
    /// For a client's operation.
    Data(Data),
    /// For repair.
    Repair(Repair),
    /// Of the nodes themselves.
    Cluster(Cluster),
    /// For an operator or a listing.
    Query(Query),
    /// One with a tag that this release does not know: it is refused ([`Refusal::Unsupported`]).
    Unknown(u8),
}

/// The receiver's answer. Any message can be answered with [`Reply::Refused`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Reply {
    /// To a message for an operation.
    Data(DataReply),
    /// To a message for repair.
    Repair(RepairReply),
    /// To a message of the nodes themselves.
    Cluster(ClusterReply),
    /// To a look.
    Query(QueryReply),
    /// Nothing was done.
    Refused(Refusal),
    /// Nothing was done: the partition has not been received yet.
    NotFilled,
    /// One with a tag that this release does not know: it counts as no answer.
    Unknown(u8),
}

/// The tag of [`Reply::Refused`].
const REFUSED: u8 = 0xe0;
/// The tag of [`Reply::NotFilled`].
const NOT_FILLED: u8 = 0xe1;

/// The decoded fields of a known tag, of which nothing may be left over.
fn whole<T>(found: Option<T>, rest: &[u8]) -> Result<Option<T>, Unreadable> {
    if found.is_some() && !rest.is_empty() { Err(Unreadable) } else { Ok(found) }
}

impl Head for Message {
    fn encode(&self, protocol: u16, out: &mut BytesMut) {
        match self {
            Self::Data(message) => message.put(protocol, out),
            Self::Repair(message) => message.put(protocol, out),
            Self::Cluster(message) => message.put(protocol, out),
            Self::Query(message) => message.put(protocol, out),
            Self::Unknown(tag) => out.put_u8(*tag),
        }
    }

    fn decode(protocol: u16, head: &[u8]) -> Result<Self, Unreadable> {
        let (tag, mut input) = head::split(head)?;
        let found = match head::family_of(tag) {
            0 => Data::take(protocol, tag, &mut input)?.map(Self::Data),
            1 => Repair::take(protocol, tag, &mut input)?.map(Self::Repair),
            2 => Cluster::take(protocol, tag, &mut input)?.map(Self::Cluster),
            3 => Query::take(protocol, tag, &mut input)?.map(Self::Query),
            _ => None,
        };
        Ok(whole(found, input)?.unwrap_or(Self::Unknown(tag)))
    }
}

impl Head for Reply {
    fn encode(&self, protocol: u16, out: &mut BytesMut) {
        match self {
            Self::Data(reply) => reply.put(protocol, out),
            Self::Repair(reply) => reply.put(protocol, out),
            Self::Cluster(reply) => reply.put(protocol, out),
            Self::Query(reply) => reply.put(protocol, out),
            Self::Refused(refusal) => {
                out.put_u8(REFUSED);
                refusal.put(protocol, out);
            }
            Self::NotFilled => out.put_u8(NOT_FILLED),
            Self::Unknown(tag) => out.put_u8(*tag),
        }
    }

    fn decode(protocol: u16, head: &[u8]) -> Result<Self, Unreadable> {
        let (tag, mut input) = head::split(head)?;
        let found = match (head::family_of(tag), tag) {
            (0, _) => DataReply::take(protocol, tag, &mut input)?.map(Self::Data),
            (1, _) => RepairReply::take(protocol, tag, &mut input)?.map(Self::Repair),
            (2, _) => ClusterReply::take(protocol, tag, &mut input)?.map(Self::Cluster),
            (3, _) => QueryReply::take(protocol, tag, &mut input)?.map(Self::Query),
            (_, REFUSED) => Some(Self::Refused(Refusal::take(protocol, &mut input)?)),
            (_, NOT_FILLED) => Some(Self::NotFilled),
            (_, _) => None,
        };
        Ok(whole(found, input)?.unwrap_or(Self::Unknown(tag)))
    }
}

/// Conversions from each family: a sender writes `Data::Store { … }.into()`.
macro_rules! from_families {
    ($($family:ident $reply:ident $variant:ident,)*) => { $(
        impl From<$family> for Message {
            fn from(message: $family) -> Self {
                Self::$variant(message)
            }
        }

        impl From<$reply> for Reply {
            fn from(reply: $reply) -> Self {
                Self::$variant(reply)
            }
        }
    )* };
}

from_families! {
    Data DataReply Data,
    Repair RepairReply Repair,
    Cluster ClusterReply Cluster,
    Query QueryReply Query,
}

/// A message or reply with its payload.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct WithPayload<T> {
    /// The head.
    pub head: T,
    /// The raw bytes; empty if the head needs none.
    pub payload: Bytes,
}

impl<T> WithPayload<T> {
    /// A head without a payload.
    pub fn bare(head: T) -> Self {
        Self { head, payload: Bytes::new() }
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests;
