//! Where keys live at one moment: by the cluster's layout, and while that changes, by the next one too.
//!
//! While the layout changes a key has the home replicas of both. A write needs W of each, a read R of each
//! ([`crate::terms`]): so a quorum of either layout sees what was written, whether the change ends or is
//! taken back. Everything that keeps, repairs and reaps rows treats the nodes of both as home replicas; only
//! those of the layout that is left have everything, until the change ends.

use std::borrow::Cow;
use std::collections::BTreeSet;
use std::fmt;

use serde::{Deserialize, Serialize};

use crate::layout::{Layout, LayoutHash, Partition};
use crate::name::NodeId;
use crate::terms::Lists;

/// Names the cluster record that is in force at a node. Every frame carries it, and a node executes only what
/// was sent under its own.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Epoch {
    /// Raised by one with each record.
    pub number: u64,
    /// Of what the record says: two records of one number never have the same.
    pub hash: LayoutHash,
}

impl fmt::Display for Epoch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} ({})", self.number, self.hash)
    }
}

/// The layout, and the next one while it changes.
#[derive(Debug)]
pub struct Placement {
    epoch: Epoch,
    stable: Layout,
    next: Option<Layout>,
    /// Nodes that hold no key any more, but may still have rows and hints to hand over.
    leaving: BTreeSet<NodeId>,
    gone: BTreeSet<NodeId>,
    nodes: BTreeSet<NodeId>,
}

impl Placement {
    /// The placement by a layout that does not change.
    pub fn stable(layout: Layout) -> Self {
        let epoch = Epoch { number: layout.version(), hash: layout.hash() };
        Self::new(epoch, layout, None, BTreeSet::new())
    }

    /// The placement of an epoch: by a layout and, while it changes, the next one, of as many partitions.
    pub fn new(
        epoch: Epoch,
        stable: Layout,
        next: Option<Layout>,
        leaving: BTreeSet<NodeId>,
    ) -> Self {
        let members = stable.members().iter().chain(next.iter().flat_map(Layout::members));
        let nodes = members.map(|member| member.node).chain(leaving.iter().copied()).collect();
        Self { epoch, stable, next, leaving, gone: BTreeSet::new(), nodes }
    }

    /// The same, with these nodes of the layout declared dead: nobody waits for them.
    #[must_use]
    pub fn without(self, gone: BTreeSet<NodeId>) -> Self {
        Self { gone, ..self }
    }

    /// The epoch of the record that says so.
    pub fn epoch(&self) -> Epoch {
        self.epoch
    }

    /// The layout whose nodes have all data.
    pub fn layout(&self) -> &Layout {
        &self.stable
    }

    /// The next layout, while it changes.
    pub fn next(&self) -> Option<&Layout> {
        self.next.as_ref()
    }

    /// How many partitions there are: the same in every layout of a cluster.
    pub fn partitions(&self) -> u32 {
        self.stable.partitions()
    }

    /// All nodes that take part, in order of their names: of both layouts, and those that are leaving.
    pub fn nodes(&self) -> impl Iterator<Item = NodeId> {
        self.nodes.iter().copied()
    }

    /// Whether a node takes part.
    pub fn contains(&self, node: NodeId) -> bool {
        self.nodes.contains(&node)
    }

    /// Whether a node only hands over what it still has.
    pub fn is_leaving(&self, node: NodeId) -> bool {
        self.leaving.contains(&node)
    }

    /// Whether a node is declared dead.
    pub fn is_gone(&self, node: NodeId) -> bool {
        self.gone.contains(&node)
    }

    /// Whether a node takes part, and is not declared dead.
    pub fn contains_living(&self, node: NodeId) -> bool {
        self.contains(node) && !self.is_gone(node)
    }

    /// How many nodes the larger layout has: no key has more home replicas.
    pub fn node_count(&self) -> u16 {
        let next = self.next.as_ref().map_or(0, Layout::node_count);
        self.stable.node_count().max(next)
    }

    /// The preference lists of a partition.
    pub fn lists(&self, partition: Partition) -> Lists<'_> {
        Lists {
            stable: self.stable.preference_list(partition),
            next: self.next.as_ref().map(|next| next.preference_list(partition)),
        }
    }

    /// All nodes in the order of preference for a partition; while the layout changes, in that of the next
    /// one, and after them those that leave.
    pub fn preference_list(&self, partition: Partition) -> Cow<'_, [NodeId]> {
        let Lists { stable, next } = self.lists(partition);
        match next {
            None => Cow::Borrowed(stable),
            Some(next) => Cow::Owned(joined(next, stable)),
        }
    }

    /// The first `n` nodes of a partition's list: the home replicas. While the layout changes, those of both.
    pub fn homes(&self, partition: Partition, n: u16) -> Cow<'_, [NodeId]> {
        let stable = self.stable.homes(partition, n);
        match &self.next {
            None => Cow::Borrowed(stable),
            Some(next) => Cow::Owned(joined(stable, next.homes(partition, n))),
        }
    }

    /// Whether a node is a home replica, by either layout.
    pub fn is_home(&self, node: NodeId, partition: Partition, n: u16) -> bool {
        self.is_old_home(node, partition, n) || self.is_next_home(node, partition, n)
    }

    /// Whether a node is a home replica by the layout whose nodes have all data.
    pub fn is_old_home(&self, node: NodeId, partition: Partition, n: u16) -> bool {
        self.stable.homes(partition, n).contains(&node)
    }

    fn is_next_home(&self, node: NodeId, partition: Partition, n: u16) -> bool {
        self.next.as_ref().is_some_and(|next| next.homes(partition, n).contains(&node))
    }

    /// Whether a node becomes a home replica by the next layout and is none by this one: it has not
    /// received what was written before.
    pub fn is_new_home(&self, node: NodeId, partition: Partition, n: u16) -> bool {
        self.is_next_home(node, partition, n) && !self.is_old_home(node, partition, n)
    }
}

/// The nodes of one list, and after them those that only the other one has.
fn joined(first: &[NodeId], second: &[NodeId]) -> Vec<NodeId> {
    let mut nodes = first.to_vec();
    nodes.extend(second.iter().filter(|node| !first.contains(node)));
    nodes
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use crate::layout::Member;

    fn node(number: usize) -> NodeId {
        NodeId::parse(&format!("n{number}")).unwrap()
    }

    fn layout(nodes: impl IntoIterator<Item = usize>) -> Layout {
        let member = |i: usize| {
            let zone = "z".to_owned();
            Member { node: node(i), seat: node(i), zone, weight: 1 }
        };
        Layout::new(1, 64, nodes.into_iter().map(member).collect()).unwrap()
    }

    #[test]
    fn homes_are_those_of_both_layouts() {
        let epoch = Epoch { number: 2, hash: LayoutHash(7) };
        let placement = Placement::new(epoch, layout(1..=4), Some(layout(2..=5)), [node(9)].into());
        assert_eq!(placement.nodes().collect::<Vec<_>>(), [1, 2, 3, 4, 5, 9].map(node));
        for p in (0..64).map(Partition) {
            let Lists { stable, next } = placement.lists(p);
            let (old, new) = (&stable[..3], &next.unwrap()[..3]);
            let homes = placement.homes(p, 3);
            assert_eq!(&homes[..3], old, "those that have all data come first");
            for at in (1..=5).map(node) {
                let (was, becomes) = (old.contains(&at), new.contains(&at));
                assert_eq!(homes.contains(&at), was || becomes);
                assert_eq!(placement.is_home(at, p, 3), was || becomes);
                assert_eq!(placement.is_new_home(at, p, 3), becomes && !was);
            }
            assert_eq!(placement.preference_list(p).len(), 5);
        }
    }

    #[test]
    fn a_layout_that_does_not_change_is_borrowed() {
        let placement = Placement::stable(layout(1..=3));
        assert!(matches!(placement.homes(Partition(1), 2), Cow::Borrowed([_, _])));
        assert!(!placement.is_new_home(node(1), Partition(1), 3));
    }
}
