//! The columns: their names, their keys and how their values merge. RocksDB has a column family for
//! each.
//!
//! | column | key | value |
//! |---|---|---|
//! | `objects` | partition (u16), leaf (u8), bucket NUL key | encoded row |
//! | `merkle` | partition (u16), n (u16), leaf (u8) | the leaf (u128), changed by merge operands |
//! | `keys` | bucket NUL key | for a large row its version and whether it is plain, else empty |
//! | `conflicts` | bucket NUL key | siblings to show (u32) |
//! | `tombstones` | partition (u16), bucket NUL key | since when (u64) and version |
//! | `expiries` | partition (u16), when (u64), bucket NUL key | empty |
//! | `index` | bucket NUL index NUL value key | as in `keys` |
//! | `feeds` | bucket, or bucket NUL number (u64) | the log's description, or when, version and key |
//! | `hints` | target NUL, bucket NUL key | encoded row |
//! | `hint_totals` | target | keys and bytes of its hints, changed by merge operands |
//! | `meta` | name | bytes |
//!
//! Numbers in keys are big-endian, so that they sort; those in values little-endian. The rows of
//! one Merkle leaf are one range of `objects`.

use bytes::Bytes;
use quorate_protocol::layout::Partition;
use quorate_protocol::name::{Key, NodeId};
use quorate_protocol::time::WallTime;
use quorate_protocol::tree::{Tree, leaf_of};

use crate::error::Error;
use crate::options::Place;

/// A column: entries in key order.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Column {
    Objects,
    Merkle,
    Keys,
    Conflicts,
    Tombstones,
    Expiries,
    Index,
    Feeds,
    Hints,
    HintTotals,
    Meta,
}

impl Column {
    pub(crate) const ALL: [Self; 11] = [
        Self::Objects,
        Self::Merkle,
        Self::Keys,
        Self::Conflicts,
        Self::Tombstones,
        Self::Expiries,
        Self::Index,
        Self::Feeds,
        Self::Hints,
        Self::HintTotals,
        Self::Meta,
    ];

    /// Its merge operator: a value, if there is one, and changes to it become one value. `None` if
    /// one of them has the wrong size, and for columns whose values do not merge.
    pub(crate) fn merge<'a>(self, values: impl Iterator<Item = &'a [u8]>) -> Option<Vec<u8>> {
        match self {
            Self::HintTotals => add_totals(values),
            Self::Merkle => xor_leaves(values),
            Self::Objects
            | Self::Keys
            | Self::Conflicts
            | Self::Tombstones
            | Self::Expiries
            | Self::Index
            | Self::Feeds
            | Self::Hints
            | Self::Meta => None,
        }
    }

    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Objects => "objects",
            Self::Merkle => "merkle",
            Self::Keys => "keys",
            Self::Conflicts => "conflicts",
            Self::Tombstones => "tombstones",
            Self::Expiries => "expiries",
            Self::Index => "index",
            Self::Feeds => "feeds",
            Self::Hints => "hints",
            Self::HintTotals => "hint_totals",
            Self::Meta => "meta",
        }
    }
}

impl Place {
    /// The column its rows are in.
    pub(crate) fn column(self) -> Column {
        match self {
            Self::Home(_) => Column::Objects,
            Self::Hint(_) => Column::Hints,
        }
    }

    /// The prefix of all its row keys.
    pub(crate) fn prefix(self) -> Vec<u8> {
        let mut prefix = Vec::new();
        self.push_prefix(&mut prefix);
        prefix
    }

    fn push_prefix(self, out: &mut Vec<u8>) {
        match self {
            Self::Home(tree) => out.extend_from_slice(&tree.partition.0.to_be_bytes()),
            Self::Hint(target) => {
                out.extend_from_slice(target.as_str().as_bytes());
                out.push(0);
            }
        }
    }

    /// The offset of the key in a row key.
    pub(crate) fn key_at(self) -> usize {
        match self {
            Self::Home(_) => 3,
            Self::Hint(target) => target.as_str().len() + 1,
        }
    }

    /// The n of the Merkle tree that counts its rows; 0 for hints.
    pub(crate) fn tree_n(self) -> u16 {
        match self {
            Self::Home(tree) => tree.n,
            Self::Hint(_) => 0,
        }
    }

    /// The row key of `key`.
    pub(crate) fn row_key(self, key: &Key) -> Vec<u8> {
        let mut row_key = Vec::with_capacity(self.key_at() + key.as_bytes().len());
        self.push_prefix(&mut row_key);
        if let Self::Home(_) = self {
            row_key.push(leaf_of(key));
        }
        row_key.extend_from_slice(key.as_bytes());
        row_key
    }
}

/// The key of a leaf in `merkle`.
pub(crate) fn leaf_key(tree: Tree, leaf: u8) -> [u8; 5] {
    let ([p, q], [n, m]) = (tree.partition.0.to_be_bytes(), tree.n.to_be_bytes());
    [p, q, n, m, leaf]
}

/// An entry of `merkle`.
pub(crate) fn leaf_entry(key: &[u8], value: &[u8]) -> Result<(Tree, u8, u128), Error> {
    if let (&[p, q, n, m, leaf], Ok(value)) = (key, value.try_into()) {
        let partition = Partition(u16::from_be_bytes([p, q]));
        let tree = Tree { partition, n: u16::from_be_bytes([n, m]) };
        return Ok((tree, leaf, u128::from_le_bytes(value)));
    }
    Err(Error::Damaged {
        what: format!("the leaf {key:?} of a Merkle tree"),
        reason: format!("{value:?} is not a leaf"),
    })
}

/// The key of a tombstone's entry in `tombstones`.
pub(crate) fn tombstone_key(partition: Partition, key: &Key) -> Vec<u8> {
    [&partition.0.to_be_bytes(), key.as_bytes()].concat()
}

/// The key of an entry in `expiries`: of a key whose first value to expire does at this time.
pub(crate) fn expiry_key(partition: Partition, at: WallTime, key: &Key) -> Vec<u8> {
    [&partition.0.to_be_bytes()[..], &at.0.to_be_bytes(), key.as_bytes()].concat()
}

/// The offset of the key in it.
pub(crate) const EXPIRY_KEY_AT: usize = 10;

/// The key within a row key of `prefix_bytes` bytes of prefix.
pub(crate) fn key_of(column: Column, row_key: &[u8], prefix_bytes: usize) -> Result<Key, Error> {
    let bytes = row_key.get(prefix_bytes..).unwrap_or_default();
    Key::from_bytes(Bytes::copy_from_slice(bytes)).map_err(|error| Error::Damaged {
        what: format!("a key in {} ({:?})", column.name(), String::from_utf8_lossy(row_key)),
        reason: error.to_string(),
    })
}

/// Keys and bytes of the hints for one target, or a change to them.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Totals {
    pub(crate) keys: i64,
    pub(crate) bytes: i64,
}

impl Totals {
    pub(crate) fn plus(self, other: Self) -> Self {
        Self {
            keys: self.keys.wrapping_add(other.keys),
            bytes: self.bytes.wrapping_add(other.bytes),
        }
    }

    pub(crate) fn encode(self) -> [u8; 16] {
        let mut out = [0; 16];
        out[..8].copy_from_slice(&self.keys.to_le_bytes());
        out[8..].copy_from_slice(&self.bytes.to_le_bytes());
        out
    }

    pub(crate) fn decode(bytes: &[u8]) -> Option<Self> {
        let (keys, bytes) = bytes.split_first_chunk::<8>()?;
        let bytes: [u8; 8] = bytes.try_into().ok()?;
        Some(Self { keys: i64::from_le_bytes(*keys), bytes: i64::from_le_bytes(bytes) })
    }
}

/// The merge operator of `hint_totals`: adds changes, so that writers of different rows need no
/// common lock.
fn add_totals<'a>(values: impl Iterator<Item = &'a [u8]>) -> Option<Vec<u8>> {
    let mut sum = Totals::default();
    for value in values {
        sum = sum.plus(Totals::decode(value)?);
    }
    Some(sum.encode().to_vec())
}

/// The merge operator of `merkle`: XORs the changes of a leaf, which commute, so that writers of
/// its rows need no common lock.
fn xor_leaves<'a>(values: impl Iterator<Item = &'a [u8]>) -> Option<Vec<u8>> {
    let mut leaf = 0;
    for value in values {
        leaf ^= u128::from_le_bytes(value.try_into().ok()?);
    }
    Some(leaf.to_le_bytes().to_vec())
}

/// Decodes a target's name in `hint_totals`.
pub(crate) fn target_of(bytes: &[u8]) -> Result<NodeId, Error> {
    let name = String::from_utf8_lossy(bytes);
    NodeId::parse(&name).map_err(|error| Error::Damaged {
        what: format!("the hint totals of {name:?}"),
        reason: error.to_string(),
    })
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn row_keys_keep_partitions_and_targets_apart() {
        let key = Key::new("b", b"k").unwrap();
        let tree = Tree { partition: Partition(0x0102), n: 3 };
        let home = Place::Home(tree).row_key(&key);
        assert_eq!(home, [&[1, 2, leaf_of(&key)], &b"b\0k"[..]].concat());
        let key_at = Place::Home(tree).key_at();
        assert_eq!(key_of(Column::Objects, &home, key_at).unwrap(), key);
        let place = Place::Hint(NodeId::parse("n1").unwrap());
        let hint = place.row_key(&key);
        assert_eq!(hint, b"n1\0b\0k");
        assert_eq!(key_of(Column::Hints, &hint, place.key_at()).unwrap(), key);
        assert!(matches!(key_of(Column::Hints, b"n1\0", 3), Err(Error::Damaged { .. })));
    }

    #[test]
    fn leaves_round_trip_and_other_sizes_are_rejected() {
        let tree = Tree { partition: Partition(258), n: 3 };
        let (key, value) = (leaf_key(tree, 9), 7u128.to_le_bytes());
        assert_eq!(key, [1, 2, 0, 3, 9]);
        assert_eq!(leaf_entry(&key, &value), Ok((tree, 9, 7)));
        for (key, value) in [(&key[..4], &value[..]), (&key[..], &value[..15])] {
            assert!(matches!(leaf_entry(key, value), Err(Error::Damaged { .. })));
        }
    }

    #[test]
    fn totals_round_trip_and_other_sizes_are_rejected() {
        let totals = Totals { keys: -3, bytes: 1 << 40 };
        assert_eq!(Totals::decode(&totals.encode()), Some(totals));
        assert_eq!(Totals::decode(&[0; 15]), None);
        assert_eq!(Totals::decode(&[0; 17]), None);
    }
}
