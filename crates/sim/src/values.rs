//! What clients of simulated clusters store, and how the oracle recognises it.

use bytes::Bytes;
use quorate_engine::node::Node;
use quorate_oracle::history::WriteNo;
use quorate_protocol::index::{IndexName, IndexValue};
use quorate_protocol::name::Key;
use quorate_protocol::object::{Metadata, Object, Sibling, WriteId};
use quorate_protocol::row::Row;
use quorate_storage::{Blocking, Error};

/// The write id of a write: its number, and a salt that only a mutation changes.
pub(crate) fn write_id(write: WriteNo, salt: u64) -> WriteId {
    let mut bytes = [0; 16];
    bytes[..4].copy_from_slice(&write.0.to_le_bytes());
    bytes[8..].copy_from_slice(&salt.to_le_bytes());
    WriteId(bytes)
}

/// The write that a write id names.
pub(crate) fn write_of(id: WriteId) -> WriteNo {
    WriteNo(u32::from_le_bytes([id.0[0], id.0[1], id.0[2], id.0[3]]))
}

/// The value that a write stores: unique, and of varying length.
pub(crate) fn value_of(write: WriteNo) -> Bytes {
    let padding = write.0 as usize * 37 % 150;
    Bytes::from(format!("{write}:{}", "v".repeat(padding)))
}

/// The index of the bucket that clients use, if it has one.
pub(crate) const INDEX: &str = "write_i";

/// The metadata of a value that is in the index: the number of its write.
pub(crate) fn metadata_of(write: WriteNo) -> Metadata {
    let entry =
        IndexName::parse(INDEX).map(|it| it.as_metadata(&IndexValue::Integer(write.0.into())));
    Metadata { user: entry.into_iter().collect(), ..Metadata::default() }
}

/// The write whose value has this entry.
pub(crate) fn indexed(entry: &IndexValue) -> WriteNo {
    let number = match entry {
        IndexValue::Integer(number) => u32::try_from(*number).ok(),
        IndexValue::Text(_) => None,
    };
    WriteNo(number.unwrap_or(u32::MAX))
}

/// A node's own row of a key.
///
/// # Errors
/// The store's.
pub(crate) fn own_row(node: &Node, key: &Key) -> Result<Option<Object>, Error> {
    let row = node.store.read(node.view().home(key), key, Blocking::Allowed)?;
    Ok(row.and_then(decoded))
}

/// The object of an encoded row.
pub(crate) fn decoded(row: Bytes) -> Option<Object> {
    Row::decode(row).ok().map(|row| row.object)
}

/// Whether a sibling's value is the one that its write stores.
pub(crate) fn is_genuine(sibling: &Sibling) -> bool {
    let write = write_of(sibling.write_id);
    sibling.value.as_ref().is_none_or(|value| *value == value_of(write))
}

/// A number that is another one whenever a key may have other home replicas at a node: it rises by one when n
/// is changed, and by more with a new cluster record.
pub(crate) fn changes(node: &Node) -> u64 {
    node.buckets.assignment().changes() + (node.epoch().number << 32)
}
