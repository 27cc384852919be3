//! What differs between two layouts, in numbers.

use std::collections::{BTreeMap, BTreeSet};

use super::{Facts, Held, Load, Moves};
use crate::layout::{Layout, Partition};
use crate::name::NodeId;

/// Two layouts, compared.
pub(super) struct Numbers<'a> {
    before: &'a Layout,
    after: &'a Layout,
    /// The least and the greatest n in use.
    pub(super) n_min: u16,
    pub(super) n_max: u16,
    load_before: BTreeMap<NodeId, u64>,
    load_after: BTreeMap<NodeId, u64>,
    replicas: u64,
}

impl<'a> Numbers<'a> {
    pub(super) fn new(before: &'a Layout, after: &'a Layout, facts: &Facts) -> Self {
        let of = |n: Option<&u16>| n.copied().unwrap_or_default().max(1);
        let (n_min, n_max) = (of(facts.n_in_use.first()), of(facts.n_in_use.last()));
        let moved = |partition| {
            let old = before.homes(partition, n_max);
            after.homes(partition, n_max).iter().filter(|home| !old.contains(home)).count() as u64
        };
        Self {
            before,
            after,
            n_min,
            n_max,
            load_before: loads(before, n_max),
            load_after: loads(after, n_max),
            replicas: partitions(after).map(moved).sum(),
        }
    }

    /// How many nodes there are, before and after.
    pub(super) fn nodes(&self) -> (usize, usize) {
        (self.before.members().len(), self.after.members().len())
    }

    /// How many partitions there are.
    pub(super) fn partitions(&self) -> u32 {
        self.after.partitions()
    }

    /// How many replicas move, and how many have to.
    pub(super) fn replicas_and_least(&self) -> (u64, u64) {
        let gains = self.load_after.iter().map(|(node, after)| {
            after.saturating_sub(self.load_before.get(node).copied().unwrap_or_default())
        });
        (self.replicas, gains.sum())
    }

    pub(super) fn moves(&self, facts: &Facts) -> Moves {
        let (replicas, least) = self.replicas_and_least();
        Moves {
            replicas,
            least,
            bytes: self.estimate(facts, |held| held.bytes),
            rows: self.estimate(facts, |held| held.rows),
        }
    }

    /// What the replicas that move hold, if they are as large as those of the nodes that are known.
    fn estimate(&self, facts: &Facts, what: impl Fn(&Held) -> u64) -> Option<u64> {
        let (mut held, mut replicas) = (0u128, 0u128);
        for (node, load) in &self.load_before {
            if let Some(known) = facts.held.get(node) {
                held += u128::from(what(known));
                replicas += u128::from(*load);
            }
        }
        let all = held.saturating_mul(self.replicas.into());
        all.checked_div(replicas).map(|moved| u64::try_from(moved).unwrap_or(u64::MAX))
    }

    pub(super) fn load(&self) -> Vec<Load> {
        let fair = fair_loads(self.after, self.n_max);
        let of = |loads: &BTreeMap<NodeId, u64>, node: &NodeId| {
            loads.get(node).copied().unwrap_or_default()
        };
        let nodes: BTreeSet<&NodeId> =
            self.load_before.keys().chain(self.load_after.keys()).collect();
        let load = |node: &NodeId| Load {
            node: *node,
            before: of(&self.load_before, node),
            after: of(&self.load_after, node),
            fair: of(&fair, node),
        };
        nodes.into_iter().map(load).collect()
    }

    /// In how many partitions two home replicas are in one zone, before and after.
    pub(super) fn zone_shared(&self) -> (u64, u64) {
        (zone_shared(self.before, self.n_max), zone_shared(self.after, self.n_max))
    }

    /// Whether there is more than one zone, before or after: where all nodes are in one, none is told so.
    pub(super) fn has_zones(&self) -> bool {
        let members = self.before.members().iter().chain(self.after.members());
        members.map(|member| member.zone.as_str()).collect::<BTreeSet<_>>().len() > 1
    }

    /// How many partitions had no other home replica than these nodes, for the least n in use.
    pub(super) fn only_on(&self, nodes: &BTreeSet<NodeId>) -> u64 {
        let is_only = |partition: &Partition| {
            self.before.homes(*partition, self.n_min).iter().all(|home| nodes.contains(home))
        };
        partitions(self.before).filter(is_only).count() as u64
    }
}

fn partitions(layout: &Layout) -> impl Iterator<Item = Partition> {
    (0..layout.partitions()).map(|number| Partition(number as u16))
}

/// How many replicas each node has with this n.
pub fn loads(layout: &Layout, n: u16) -> BTreeMap<NodeId, u64> {
    let mut loads: BTreeMap<NodeId, u64> =
        layout.members().iter().map(|member| (member.node, 0)).collect();
    for home in partitions(layout).flat_map(|partition| layout.homes(partition, n)) {
        *loads.entry(*home).or_default() += 1;
    }
    loads
}

/// The share of each node by weight, rounded. One whose share would be more than one replica of each
/// partition has exactly that, and the others share the rest.
pub fn fair_loads(layout: &Layout, n: u16) -> BTreeMap<NodeId, u64> {
    let partitions = u64::from(layout.partitions());
    let n = usize::from(n).min(layout.members().len());
    let mut shares = BTreeMap::new();
    loop {
        let left: Vec<_> =
            layout.members().iter().filter(|m| !shares.contains_key(&m.node)).collect();
        let places = partitions * n.saturating_sub(shares.len()) as u64;
        let weights: u64 = left.iter().map(|member| u64::from(member.weight)).sum();
        let (full, others): (Vec<_>, Vec<_>) = left
            .into_iter()
            .partition(|member| places * u64::from(member.weight) >= partitions * weights);
        if full.is_empty() {
            let share = |weight: u16| (places * u64::from(weight) + weights / 2) / weights;
            shares.extend(others.iter().map(|member| (member.node, share(member.weight))));
            return shares;
        }
        shares.extend(full.iter().map(|member| (member.node, partitions)));
    }
}

fn zone_shared(layout: &Layout, n: u16) -> u64 {
    let zones: BTreeMap<NodeId, &str> =
        layout.members().iter().map(|member| (member.node, member.zone.as_str())).collect();
    let is_shared = |partition: &Partition| {
        let homes = layout.homes(*partition, n);
        let distinct: BTreeSet<_> = homes.iter().map(|home| zones.get(home)).collect();
        distinct.len() < homes.len()
    };
    partitions(layout).filter(is_shared).count() as u64
}
