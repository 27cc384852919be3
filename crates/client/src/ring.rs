//! Where keys are: the home replicas of every partition, from `GET /ring/partitions`.

use std::collections::BTreeMap;

use serde::Deserialize;
use xxhash_rust::xxh3::xxh3_64;

/// The most partitions that a layout can have.
const PARTITIONS_MAX: usize = 65_536;

/// Which layout a node runs: where keys are changes only with it.
#[derive(Clone, Debug, Deserialize, PartialEq, Eq)]
pub struct LayoutId {
    /// Its version.
    pub version: u64,
    /// A hash over partitions, nodes, zones and weights, in hexadecimal.
    pub hash: String,
}

/// The answer of `GET /ring/partitions`.
#[derive(Clone, Debug, Deserialize, PartialEq, Eq)]
pub struct Partitions {
    /// The layout.
    #[serde(flatten)]
    pub layout: LayoutId,
    /// The largest N of any bucket: as many home replicas are listed.
    pub n: usize,
    /// The names of all nodes.
    pub nodes: Vec<String>,
    /// By partition: its home replicas in order, as indexes into `nodes`.
    pub homes: Vec<Vec<usize>>,
}

/// The number of copies that buckets keep.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Copies {
    /// Of a bucket without properties of its own.
    pub(crate) default: usize,
    /// Of the others.
    pub(crate) of: BTreeMap<String, usize>,
}

/// The home replicas of every key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Ring {
    partitions: Partitions,
    copies: Copies,
}

impl Ring {
    /// Checks what a node answered; `None` if it is no ring.
    pub(crate) fn new(partitions: Partitions, copies: Copies) -> Option<Self> {
        let count = partitions.homes.len();
        let nodes = partitions.nodes.len();
        let sound = count.is_power_of_two()
            && count <= PARTITIONS_MAX
            && partitions.homes.iter().flatten().all(|home| *home < nodes);
        sound.then_some(Self { partitions, copies })
    }

    /// The layout.
    pub(crate) fn layout(&self) -> &LayoutId {
        &self.partitions.layout
    }

    /// How many home replicas are listed.
    pub(crate) fn listed(&self) -> usize {
        self.partitions.n
    }

    /// The same ring, for buckets with other properties.
    pub(crate) fn with_copies(&self, copies: Copies) -> Self {
        Self { partitions: self.partitions.clone(), copies }
    }

    /// The names of a key's home replicas, in the order of its preference list.
    pub(crate) fn homes(&self, bucket: &str, key: &str) -> impl Iterator<Item = &str> {
        let n = self.copies.of.get(bucket).copied().unwrap_or(self.copies.default).max(1);
        let partition = partition_of(bucket, key, self.partitions.homes.len());
        let homes = self.partitions.homes.get(partition).map(Vec::as_slice).unwrap_or_default();
        let names = &self.partitions.nodes;
        homes.iter().take(n).filter_map(|home| names.get(*home)).map(String::as_str)
    }
}

/// The partition of a key: the highest log2(partitions) bits of `xxh3_64(bucket, a zero byte, key)`.
/// `partitions` is a power of two.
pub fn partition_of(bucket: &str, key: &str, partitions: usize) -> usize {
    let hash = xxh3_64(&[bucket.as_bytes(), b"\0", key.as_bytes()].concat());
    let bits = partitions.max(1).trailing_zeros();
    hash.checked_shr(u64::BITS - bits).unwrap_or(0) as usize
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    fn ring(homes: Vec<Vec<usize>>, copies: Copies) -> Option<Ring> {
        let layout = LayoutId { version: 1, hash: "0".to_owned() };
        let nodes = ["n1", "n2", "n3"].map(str::to_owned).to_vec();
        Ring::new(Partitions { layout, n: 3, nodes, homes }, copies)
    }

    #[test]
    fn a_key_is_where_the_cluster_puts_it() {
        // The same numbers as in the protocol crate's test of the hash.
        for (key, partition) in [("a", 542), ("b", 253), ("user/7", 128)] {
            assert_eq!(partition_of("b", key, 1024), partition);
            assert_eq!(partition_of("b", key, 1), 0);
        }
    }

    #[test]
    fn a_bucket_has_as_many_homes_as_its_n() {
        let of = BTreeMap::from([("one".to_owned(), 1)]);
        let ring = ring(vec![vec![2, 0, 1]; 4], Copies { default: 2, of }).unwrap();
        assert_eq!(ring.homes("b", "k").collect::<Vec<_>>(), ["n3", "n1"]);
        assert_eq!(ring.homes("one", "k").collect::<Vec<_>>(), ["n3"]);
    }

    #[test]
    fn what_is_no_ring_is_refused() {
        for homes in [vec![], vec![vec![0]; 3], vec![vec![3]; 4], vec![vec![0]; 131_072]] {
            assert!(ring(homes, Copies::default()).is_none());
        }
    }
}
