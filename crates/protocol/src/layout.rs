//! Placement: which nodes are the home replicas of a key.
//!
//! The key space is cut into a fixed number of partitions. Each has a preference list over *all*
//! nodes: the walk of a consistent-hash ring from the partition's point, weighted by virtual nodes,
//! distinct zones first, with a bound on each node's load. The first N nodes of the list are the
//! home replicas, the rest are fallbacks in order. The lists are computed once per layout; a lookup
//! is an array read.
//!
//! Sources: Karger et al., "Consistent Hashing and Random Trees" (STOC 1997); DeCandia et al. (SOSP
//! 2007), 4.2, 4.3, 6.2 (strategy 3); Mirrokni et al., "Consistent Hashing with Bounded Loads"
//! (2016).

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::hash::{Hash, Hasher};

use consistent_hash::{Node, RingHash, StaticHashRing};
use serde::{Deserialize, Serialize};

use crate::name::NodeId;

/// One of the fixed slices of the key space, counted from 0.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Partition(pub u16);

/// The most partitions a cluster may have.
pub const PARTITIONS_MAX: u32 = 32_768;
/// The most nodes a layout may have.
pub const NODES_MAX: usize = 255;
/// The greatest weight of a node.
pub const WEIGHT_MAX: u16 = 100;
/// The longest name of a zone, in bytes.
pub const ZONE_BYTES_MAX: usize = 64;
/// Virtual nodes of a node of weight 1: enough that the ring alone is nearly even, before the load
/// bound corrects it. Part of placement: it must never change.
const VIRTUAL_NODES: usize = 512;

/// One node as the layout knows it.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Member {
    /// Its name.
    pub node: NodeId,
    /// The name from which its points on the ring are drawn: its own, or that of the node in whose place it
    /// came, so that nothing else moves.
    pub seat: NodeId,
    /// Nodes of one zone are expected to fail together; replicas go to distinct zones first.
    pub zone: String,
    /// Its share of the data, relative to the other nodes (1 to [`WEIGHT_MAX`]).
    pub weight: u16,
}

impl Member {
    /// A node in the seat of its own name.
    pub fn new(node: NodeId, zone: String, weight: u16) -> Self {
        Self { node, seat: node, zone, weight }
    }
}

/// A hash of everything that decides placement: nodes, seats, zones, weights and the number of partitions.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct LayoutHash(#[serde(with = "postcard::fixint::le")] pub u64);

impl fmt::Display for LayoutHash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:016x}", self.0)
    }
}

impl fmt::Debug for LayoutHash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{self}")
    }
}

/// Why a layout cannot be used.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum LayoutError {
    /// No node, or more than [`NODES_MAX`].
    #[error("a layout has 1 to 255 nodes, this one has {0}")]
    NodeCount(usize),
    /// Two nodes share a name.
    #[error("the layout names node {0} twice")]
    DuplicateNode(NodeId),
    /// Two nodes share a seat.
    #[error("two nodes of the layout have the seat {0}")]
    DuplicateSeat(NodeId),
    /// The number of partitions is not a power of two up to [`PARTITIONS_MAX`].
    #[error("partitions must be a power of two from 1 to 32768, not {0}")]
    Partitions(u32),
    /// A weight is out of range.
    #[error("node {0}: weight must be from 1 to 100")]
    Weight(NodeId),
    /// A zone's name is empty or longer than 64 bytes.
    #[error("node {0}: zone must be 1 to 64 bytes")]
    Zone(NodeId),
}

/// A snapshot of the cluster's members and of where each partition lives.
pub struct Layout {
    version: u64,
    hash: LayoutHash,
    partitions: u32,
    members: Vec<Member>,
    /// `partitions` preference lists, concatenated, each over all nodes.
    lists: Vec<NodeId>,
}

impl Layout {
    /// Computes the placement.
    ///
    /// # Errors
    /// [`LayoutError`] that names what is wrong with the nodes or the number of partitions.
    pub fn new(
        version: u64,
        partitions: u32,
        mut members: Vec<Member>,
    ) -> Result<Self, LayoutError> {
        members.sort();
        check(partitions, &members)?;
        Ok(Self::of_valid(version, partitions, members))
    }

    /// Computes the placement of members that are ordered by name and have passed [`check`].
    pub(crate) fn of_valid(version: u64, partitions: u32, members: Vec<Member>) -> Self {
        let hash = hash_of(partitions, &members);
        let lists = place(partitions, &members);
        Self { version, hash, partitions, members, lists }
    }

    /// The version, raised by every change of the layout.
    pub fn version(&self) -> u64 {
        self.version
    }

    /// The hash of what decides placement.
    pub fn hash(&self) -> LayoutHash {
        self.hash
    }

    /// How many partitions there are.
    pub fn partitions(&self) -> u32 {
        self.partitions
    }

    /// The nodes, ordered by name.
    pub fn members(&self) -> &[Member] {
        &self.members
    }

    /// How many nodes there are.
    pub fn node_count(&self) -> u16 {
        self.members.len() as u16
    }

    /// Whether the node is part of the layout.
    pub fn contains(&self, node: NodeId) -> bool {
        self.members.binary_search_by_key(&node, |m| m.node).is_ok()
    }

    /// All nodes in the order of preference for a partition: home replicas first, then fallbacks.
    pub fn preference_list(&self, partition: Partition) -> &[NodeId] {
        let nodes = self.members.len();
        let start = usize::from(partition.0) % self.partitions as usize * nodes;
        &self.lists[start..start + nodes]
    }

    /// The first `n` nodes of the preference list.
    pub fn homes(&self, partition: Partition, n: u16) -> &[NodeId] {
        let list = self.preference_list(partition);
        &list[..usize::from(n).min(list.len())]
    }

    /// Whether every key has the same preference list under both layouts, whatever else differs.
    pub fn has_same_placement(&self, other: &Self) -> bool {
        (self.partitions, &self.lists) == (other.partitions, &other.lists)
    }

    /// How many partitions have the node among their first `n`.
    pub fn load(&self, node: NodeId, n: u16) -> usize {
        (0..self.partitions).filter(|p| self.homes(Partition(*p as u16), n).contains(&node)).count()
    }
}

impl fmt::Debug for Layout {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "layout {} ({}, {} nodes)", self.version, self.hash, self.members.len())
    }
}

/// Checks that a layout of these members, ordered by name, can be used.
pub(crate) fn check(partitions: u32, members: &[Member]) -> Result<(), LayoutError> {
    if members.is_empty() || members.len() > NODES_MAX {
        return Err(LayoutError::NodeCount(members.len()));
    }
    if !partitions.is_power_of_two() || partitions > PARTITIONS_MAX {
        return Err(LayoutError::Partitions(partitions));
    }
    for pair in members.windows(2) {
        if pair[0].node == pair[1].node {
            return Err(LayoutError::DuplicateNode(pair[0].node));
        }
    }
    let mut seats = BTreeSet::new();
    for member in members {
        if !seats.insert(member.seat) {
            return Err(LayoutError::DuplicateSeat(member.seat));
        }
        if member.weight == 0 || member.weight > WEIGHT_MAX {
            return Err(LayoutError::Weight(member.node));
        }
        if member.zone.is_empty() || member.zone.len() > ZONE_BYTES_MAX {
            return Err(LayoutError::Zone(member.node));
        }
    }
    Ok(())
}

/// Stands before the seat in what is hashed: no text is so long.
const SEAT_MARK: u64 = u64::MAX;

fn hash_of(partitions: u32, members: &[Member]) -> LayoutHash {
    let mut hasher = xxhash_rust::xxh3::Xxh3::new();
    hasher.update(&partitions.to_le_bytes());
    for member in members {
        for text in [member.node.as_str(), &member.zone] {
            hasher.update(&(text.len() as u64).to_le_bytes());
            hasher.update(text.as_bytes());
        }
        hasher.update(&member.weight.to_le_bytes());
        // Only then: the hash of a layout without replacements is that of every release.
        if member.seat != member.node {
            hasher.update(&SEAT_MARK.to_le_bytes());
            hasher.update(&(member.seat.as_str().len() as u64).to_le_bytes());
            hasher.update(member.seat.as_str().as_bytes());
        }
    }
    LayoutHash(hasher.digest())
}

/// The preference lists, position by position over all partitions, so that the load bound holds for
/// the first n nodes whatever n is.
fn place(partitions: u32, members: &[Member]) -> Vec<NodeId> {
    let zones = zone_numbers(members);
    let zone_count = zones.iter().collect::<BTreeSet<_>>().len();
    let mut lists: Vec<List> = ring_walks(partitions, members)
        .into_iter()
        .map(|walk| List {
            chosen: Vec::with_capacity(walk.len()),
            left: walk,
            zones: BTreeSet::new(),
        })
        .collect();
    let mut loads = vec![0; members.len()];
    for position in 0..members.len() {
        let bounds = load_bounds(partitions, members, position + 1);
        for list in &mut lists {
            let needs_fresh_zone = list.zones.len() < zone_count;
            let may_be_next = |member: &Place| {
                !needs_fresh_zone || !list.zones.contains(&zones[usize::from(*member)])
            };
            let mut candidates =
                list.left.iter().copied().enumerate().filter(|(_, it)| may_be_next(it));
            let is_full = |member: Place| loads[usize::from(member)] >= bounds[usize::from(member)];
            let chosen = candidates.clone().find(|(_, member)| !is_full(*member)).or_else(|| {
                // All candidates are full: distinct zones outrank the bound. Take the least loaded.
                let excess = |member: Place| {
                    let member = usize::from(member);
                    loads[member].saturating_sub(bounds[member])
                };
                candidates.by_ref().min_by_key(|(_, member)| excess(*member))
            });
            if let Some((at, member)) = chosen {
                list.left.remove(at);
                list.chosen.push(member);
                list.zones.insert(zones[usize::from(member)]);
                loads[usize::from(member)] += 1;
            }
        }
    }
    let chosen = lists.iter().flat_map(|list| &list.chosen);
    chosen.map(|member| members[usize::from(*member)].node).collect()
}

/// A member, by its place among all.
type Place = u16;

/// A preference list that is being made.
struct List {
    chosen: Vec<Place>,
    /// The others, in the order of the walk.
    left: Vec<Place>,
    /// The zones of those that were chosen.
    zones: BTreeSet<u16>,
}

/// A number for the zone of each member.
fn zone_numbers(members: &[Member]) -> Vec<u16> {
    let names: BTreeSet<&str> = members.iter().map(|member| member.zone.as_str()).collect();
    let numbers: BTreeMap<&str, u16> = names.into_iter().zip(0..).collect();
    members.iter().filter_map(|member| numbers.get(member.zone.as_str()).copied()).collect()
}

/// How many of the first `positions` places of all lists each member may take: 1.05 times its fair
/// share, which keeps the load even without moving many partitions when a node joins.
fn load_bounds(partitions: u32, members: &[Member], positions: usize) -> Vec<usize> {
    let weights: usize = members.iter().map(|m| usize::from(m.weight)).sum();
    let places = partitions as usize * positions;
    let bound = |m: &Member| (places * usize::from(m.weight) * 105).div_ceil(weights * 100);
    members.iter().map(bound).collect()
}

/// For each partition the walk of the ring over all members. The only use of `consistent_hash`.
fn ring_walks(partitions: u32, members: &[Member]) -> Vec<Vec<Place>> {
    let nodes = members.iter().zip(0..).map(|(m, place)| {
        let point = xxhash_rust::xxh3::xxh3_64(m.seat.as_str().as_bytes());
        Node::new(point).value(place).quantity(VIRTUAL_NODES * usize::from(m.weight))
    });
    let ring = StaticHashRing::new(StableHash, nodes);
    let walk = |partition| ring.calc_candidates(&partition).map(|node| node.value).collect();
    (0..u64::from(partitions)).map(walk).collect()
}

/// A ring hash over `u64`s written little-endian, the same on every machine and in every release:
/// the crate's default goes through `std::hash`, whose encoding may change between compiler
/// releases.
struct StableHash;

impl RingHash for StableHash {
    fn hash_item<T: Hash>(&self, item: &T) -> u64 {
        let mut hasher = StableHasher(xxhash_rust::xxh3::Xxh3::new());
        item.hash(&mut hasher);
        hasher.finish()
    }

    fn hash_vnode<K: Hash>(&self, node: &K, vnode: usize) -> u64 {
        let mut hasher = StableHasher(xxhash_rust::xxh3::Xxh3::new());
        node.hash(&mut hasher);
        hasher.write_u64(vnode as u64);
        hasher.finish()
    }
}

struct StableHasher(xxhash_rust::xxh3::Xxh3);

impl Hasher for StableHasher {
    fn write(&mut self, bytes: &[u8]) {
        self.0.update(bytes);
    }
    fn write_u64(&mut self, number: u64) {
        self.0.update(&number.to_le_bytes());
    }
    fn finish(&self) -> u64 {
        self.0.digest()
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests;
