//! Merkle trees over home rows: which leaf a key belongs to, what it contributes, and how two trees
//! differ.
//!
//! One tree per partition and n, of [`LEAVES`] leaves under one root. A leaf is the XOR of a hash
//! of (key, version) for each of its keys, so a changed row costs one XOR, concurrent writers
//! commute, and the tree is never rebuilt. Source: Merkle, "A Digital Signature Based on a
//! Conventional Encryption Function" (CRYPTO '87), as DeCandia et al. use it ("Dynamo", SOSP 2007,
//! section 4.7).

use serde::{Deserialize, Serialize};

use crate::layout::Partition;
use crate::name::Key;
use crate::object::Version;

/// Leaves of a tree: one level is enough, since the 4 KiB of all leaves fit in one message.
pub const LEAVES: usize = 256;

/// Which tree: replicas compare only trees of rows that both hold, so rows of buckets with a
/// different n are in a different tree.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Tree {
    /// The partition of its keys.
    pub partition: Partition,
    /// The number of replicas of its buckets.
    pub n: u16,
}

/// The hash over all leaves of a tree. Equal roots mean equal rows, barring a 128-bit collision.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Root(#[serde(with = "postcard::fixint::le")] pub u128);

/// The leaves of one tree. An empty tree has only zeros, but rows may also XOR to zero: a zero leaf
/// does not prove that there are no rows.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Leaves(Box<[u128; LEAVES]>);

/// A set of leaves.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct LeafSet([u64; LEAVES / 64]);

/// The leaf of a key. Independent of its partition, which is the top bits of the same hash.
pub fn leaf_of(key: &Key) -> u8 {
    key.hash() as u8
}

/// What a row contributes to its leaf.
pub fn leaf_hash(key: &Key, version: Version) -> u128 {
    // Keys hold no second NUL, so no two pairs of key and version have the same bytes.
    let bytes = [key.as_bytes(), &[0], &version.0].concat();
    xxhash_rust::xxh3::xxh3_128(&bytes)
}

impl Default for Leaves {
    fn default() -> Self {
        Self(Box::new([0; LEAVES]))
    }
}

impl Leaves {
    /// Adds or removes a row, or replaces one by the XOR of both hashes.
    pub fn toggle(&mut self, leaf: u8, hash: u128) {
        self.0[usize::from(leaf)] ^= hash;
    }

    /// The value of a leaf.
    pub fn get(&self, leaf: u8) -> u128 {
        self.0[usize::from(leaf)]
    }

    /// The hash over all leaves; [`Root::default`] if all are zero.
    pub fn root(&self) -> Root {
        if self.0.iter().all(|leaf| *leaf == 0) {
            return Root::default();
        }
        Root(xxhash_rust::xxh3::xxh3_128(&self.to_bytes()))
    }

    /// The leaves in which two trees differ.
    pub fn differing(&self, other: &Self) -> LeafSet {
        let mut set = LeafSet::default();
        for leaf in 0..=u8::MAX {
            if self.get(leaf) != other.get(leaf) {
                set.insert(leaf);
            }
        }
        set
    }

    /// The leaves concatenated, little-endian: [`LEAVES`] * 16 bytes.
    pub fn to_bytes(&self) -> Vec<u8> {
        self.0.iter().flat_map(|leaf| leaf.to_le_bytes()).collect()
    }

    /// Decodes [`Leaves::to_bytes`]; `None` for the wrong number of bytes.
    pub fn from_bytes(bytes: &[u8]) -> Option<Self> {
        let (chunks, rest) = bytes.as_chunks::<16>();
        let mut leaves = Self::default();
        if chunks.len() != LEAVES || !rest.is_empty() {
            return None;
        }
        for (leaf, chunk) in leaves.0.iter_mut().zip(chunks) {
            *leaf = u128::from_le_bytes(*chunk);
        }
        Some(leaves)
    }
}

impl LeafSet {
    /// All leaves.
    pub fn all() -> Self {
        Self([u64::MAX; LEAVES / 64])
    }

    /// Adds a leaf.
    pub fn insert(&mut self, leaf: u8) {
        self.0[usize::from(leaf / 64)] |= 1 << (leaf % 64);
    }

    /// Whether a leaf is in the set.
    pub fn contains(&self, leaf: u8) -> bool {
        self.0[usize::from(leaf / 64)] & (1 << (leaf % 64)) != 0
    }

    /// Whether the set is empty.
    pub fn is_empty(&self) -> bool {
        self.0.iter().all(|word| *word == 0)
    }

    /// Its leaves in order.
    pub fn iter(&self) -> impl Iterator<Item = u8> + '_ {
        (0..=u8::MAX).filter(|leaf| self.contains(*leaf))
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn key(name: &str) -> Key {
        Key::new("b", name.as_bytes()).unwrap()
    }

    #[test]
    fn a_leaf_follows_the_key_and_its_hash_the_version_too() {
        let (a, b) = (key("a"), key("b"));
        assert_eq!(leaf_of(&a), leaf_of(&a));
        let [v, w] = [1, 2].map(|byte| Version([byte; 16]));
        let hashes = [(&a, v), (&a, w), (&b, v)].map(|(key, version)| leaf_hash(key, version));
        assert!(hashes[0] != hashes[1] && hashes[0] != hashes[2] && hashes[1] != hashes[2]);
    }

    #[test]
    fn keys_of_one_partition_spread_over_the_leaves() {
        let mut seen = LeafSet::default();
        let keys = (0..200_000).map(|i| key(&format!("k{i}")));
        for key in keys.filter(|key| key.partition(64) == Partition(5)) {
            seen.insert(leaf_of(&key));
        }
        assert_eq!(seen, LeafSet::all());
    }

    #[test]
    fn trees_of_the_same_rows_are_equal_in_any_order_and_differ_where_a_row_does() {
        let rows: Vec<_> = (0..100).map(|i| (key(&format!("k{i}")), Version([i; 16]))).collect();
        let tree = |rows: &mut dyn Iterator<Item = &(Key, Version)>| {
            let mut leaves = Leaves::default();
            rows.for_each(|(key, v)| leaves.toggle(leaf_of(key), leaf_hash(key, *v)));
            leaves
        };
        let (whole, back) = (tree(&mut rows.iter()), tree(&mut rows.iter().rev()));
        assert_eq!((whole.root(), whole.differing(&back)), (back.root(), LeafSet::default()));
        let less = tree(&mut rows[1..].iter());
        assert_ne!(whole.root(), less.root());
        assert_eq!(whole.differing(&less).iter().collect::<Vec<_>>(), [leaf_of(&rows[0].0)]);
        assert_eq!(
            tree(&mut rows.iter().chain(&rows)).root(),
            Root::default(),
            "added and removed"
        );
    }

    proptest! {
        #[test]
        fn leaves_round_trip(toggles: Vec<(u8, u128)>, cut in 0usize..LEAVES * 16) {
            let mut leaves = Leaves::default();
            toggles.iter().for_each(|(leaf, hash)| leaves.toggle(*leaf, *hash));
            let bytes = leaves.to_bytes();
            prop_assert_eq!(Leaves::from_bytes(&bytes[..cut]), None);
            prop_assert_eq!(Leaves::from_bytes(&bytes), Some(leaves));
        }
    }
}
