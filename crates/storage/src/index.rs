//! Data derived from a home row: its contribution to a Merkle leaf and its index entries.
//!
//! All of it is a function of the row alone ([`Entries::of`]). A change of a row compares its
//! entries before and after, and puts the difference into the row's own batch, so rows, trees and
//! indexes cannot disagree after a crash. The in-memory copies ([`Pending`]) are updated once the
//! batch is written.

use quorate_protocol::index::{IndexName, IndexValue};
use quorate_protocol::layout::Partition;
use quorate_protocol::mutation::{Mutation, mutated};
use quorate_protocol::name::Key;
use quorate_protocol::object::{DecodeError, Object, Version};
use quorate_protocol::row::Row;
use quorate_protocol::time::WallTime;
use quorate_protocol::tree::{Tree, leaf_hash, leaf_of};

use crate::backend::Batch;
use crate::columns::{Column, expiry_key, leaf_key, tombstone_key};
use crate::error::Error;
use crate::options::{Blocking, Place};
use crate::secondary_index;
use crate::store::Store;
use crate::trees::{LiveLeaf, PartitionTrees};

/// Rows of this size or more store their version in the key index, so that listing keys need not
/// read them.
const LARGE_ROW_BYTES: usize = 16 << 10;

/// The data derived from a home row; the default is for no row.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Entries {
    /// The n of its tree, and its version.
    pub(crate) leaf: Option<(u16, Version)>,
    /// In conflict: how many siblings a client is shown.
    pub(crate) conflict: Option<u32>,
    /// Alive: it has a sibling with a value.
    pub(crate) key: Option<Listing>,
    /// Deleted: since when, and its version.
    pub(crate) tombstone: Option<(WallTime, Version)>,
    /// A value of it expires: when the first does.
    pub(crate) expiry: Option<WallTime>,
    /// Its entries in secondary indexes, in order.
    pub(crate) index: Vec<(IndexName, IndexValue)>,
}

/// The key index's entry for a row with a value.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Listing {
    /// Only that the row exists.
    Small,
    /// Its version, and whether it is plain: of one sibling.
    Large(Version, bool),
}

impl Entries {
    /// The version of the row.
    pub(crate) fn version(&self) -> Version {
        self.leaf.map(|(_, version)| version).unwrap_or_default()
    }

    /// Derives the entries from a row and its encoding.
    pub(crate) fn of(row: &Row, encoded: &[u8]) -> Self {
        let version = Row::encoded_version(encoded).unwrap_or_default();
        let object = &row.object;
        let is_deleted = object.is_deleted();
        let is_conflict = object.siblings.len() > 1 && object.is_conflict();
        let listing = if encoded.len() < LARGE_ROW_BYTES {
            Listing::Small
        } else {
            Listing::Large(version, is_plain(object))
        };
        Self {
            leaf: Some((row.tree, version)),
            conflict: is_conflict.then(|| object.shown().len() as u32),
            key: (!is_deleted).then_some(listing),
            tombstone: is_deleted.then_some((row.since, version)),
            expiry: object.next_expiry(),
            index: object.index_entries(),
        }
    }
}

/// Whether an object is one value and nothing else, which does not expire.
pub(crate) fn is_plain(object: &Object) -> bool {
    matches!(&object.siblings[..], [only] if !only.is_tombstone() && only.expires.is_none())
}

impl Listing {
    pub(crate) fn encode(self) -> Vec<u8> {
        match self {
            Self::Small => Vec::new(),
            Self::Large(version, is_plain) => [&version.0[..], &[u8::from(is_plain)]].concat(),
        }
    }

    pub(crate) fn decode(bytes: &[u8]) -> Option<Self> {
        match bytes.split_first_chunk() {
            None if bytes.is_empty() => Some(Self::Small),
            Some((version, &[is_plain @ (0 | 1)])) => {
                Some(Self::Large(Version(*version), is_plain == 1))
            }
            None | Some(_) => None,
        }
    }
}

/// The value of a tombstone's entry.
pub(crate) fn encode_tombstone((since, version): (WallTime, Version)) -> [u8; 24] {
    let mut out = [0; 24];
    out[..8].copy_from_slice(&since.0.to_le_bytes());
    out[8..].copy_from_slice(&version.0);
    out
}

/// Decodes [`encode_tombstone`].
pub(crate) fn decode_tombstone(bytes: &[u8]) -> Option<(WallTime, Version)> {
    let (since, version) = bytes.split_first_chunk()?;
    Some((WallTime(u64::from_le_bytes(*since)), Version(version.try_into().ok()?)))
}

/// In-memory changes to apply once a batch is written.
pub(crate) struct Pending<'a> {
    trees: &'a PartitionTrees,
    leaves: [Option<(LiveLeaf<'a>, u128)>; 2],
    tombstones: i8,
}

impl Pending<'_> {
    /// Applies the changes once the batch is written. The caller holds the row's stripe.
    pub(crate) fn apply(self) {
        for (leaf, change) in self.leaves.into_iter().flatten() {
            leaf.toggle(change);
        }
        self.trees.count_tombstones(self.tombstones.into());
    }
}

impl Store {
    /// What is derived from a row as it is stored, if that can be decoded.
    pub(crate) fn entries_of(
        &self,
        place: Place,
        key: &Key,
    ) -> Result<Result<Entries, DecodeError>, Error> {
        let row = self.engine.get(place.column(), &place.row_key(key), Blocking::Allowed)?;
        let Some(bytes) = row else { return Ok(Ok(Entries::default())) };
        Ok(Row::decode(bytes.clone()).map(|row| Entries::of(&row, &bytes)))
    }

    /// Adds the changes of a home row's derived data to the row's batch.
    pub(crate) fn stage_entries(
        &self,
        batch: &mut Batch<'_>,
        partition: Partition,
        key: &Key,
        old: &Entries,
        new: &Entries,
    ) -> Result<Pending<'_>, Error> {
        let trees = self.trees.partition(partition)?;
        if old.conflict != new.conflict {
            let conflict = new.conflict.map(u32::to_le_bytes);
            stage_entry(batch, Column::Conflicts, key.as_bytes(), conflict.as_ref())?;
        }
        if old.key != new.key {
            let listing = new.key.map(Listing::encode);
            stage_entry(batch, Column::Keys, key.as_bytes(), listing.as_ref())?;
        }
        if old.tombstone != new.tombstone {
            let (entry_key, entry) =
                (tombstone_key(partition, key), new.tombstone.map(encode_tombstone));
            stage_entry(batch, Column::Tombstones, &entry_key, entry.as_ref())?;
        }
        if old.expiry != new.expiry {
            if let Some(at) = old.expiry {
                batch.delete(Column::Expiries, expiry_key(partition, at, key))?;
            }
            if let Some(at) = new.expiry {
                batch.put(Column::Expiries, expiry_key(partition, at, key), b"")?;
            }
        }
        secondary_index::stage(batch, key, old, new)?;
        let tombstones = i8::from(new.tombstone.is_some()) - i8::from(old.tombstone.is_some());
        let leaf = leaf_of(key);
        let mut changes = [None, None];
        match (old.leaf, new.leaf) {
            (Some((n, was)), Some((same, is))) if n == same => {
                changes[0] = Some((n, leaf_hash(key, was) ^ leaf_hash(key, is)));
            }
            (old, new) => {
                changes =
                    [old, new].map(|row| row.map(|(n, version)| (n, leaf_hash(key, version))));
            }
        }
        let mut leaves = [None, None];
        for (slot, change) in leaves.iter_mut().zip(changes) {
            let Some((n, change)) = change.filter(|(_, change)| *change != 0) else { continue };
            let leaf_key = leaf_key(Tree { partition, n }, leaf);
            let live = trees.tree(n).leaf(leaf);
            if mutated(Mutation::LeafReadThenWritten) {
                batch.put(Column::Merkle, leaf_key, (live.value() ^ change).to_le_bytes())?;
            } else if !mutated(Mutation::LeafNotUpdated) {
                batch.merge(Column::Merkle, leaf_key, change.to_le_bytes())?;
            }
            *slot = Some((live, change));
        }
        Ok(Pending { trees, leaves, tombstones })
    }
}

/// Adds an index entry to a batch, or its removal.
fn stage_entry(
    batch: &mut Batch<'_>,
    column: Column,
    key: &[u8],
    entry: Option<&impl AsRef<[u8]>>,
) -> Result<(), Error> {
    match entry {
        Some(entry) => batch.put(column, key, entry),
        None => batch.delete(column, key),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn entries_round_trip_and_other_bytes_are_rejected() {
        let version = Version([7; 16]);
        for listing in [Listing::Small, Listing::Large(version, true)] {
            assert_eq!(Listing::decode(&listing.encode()), Some(listing));
        }
        let large = Listing::Large(version, false).encode();
        assert_eq!(Listing::decode(&large[..16]), None);
        assert_eq!(Listing::decode(&[2; 17]), None);
        let tombstone = (WallTime(9), version);
        let bytes = encode_tombstone(tombstone);
        assert_eq!(decode_tombstone(&bytes), Some(tombstone));
        assert_eq!(decode_tombstone(&bytes[..23]), None);
    }
}
