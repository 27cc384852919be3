//! What the observer of all disks remembers of one look for the next one.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use quorate_protocol::name::{Key, NodeId};
use quorate_protocol::object::Object;

pub(super) struct SeenHint {
    pub(super) object: Object,
    /// What each machine may have lost when it was first seen.
    pub(super) losses: BTreeMap<NodeId, (u64, u64)>,
    /// The epoch of its holder at the last look.
    pub(super) epoch: u64,
    /// How often any n had changed at its target and at its holder then.
    pub(super) changes: (u64, u64),
}

/// A hint that was dropped, and when that was seen.
pub(super) struct Dropped {
    pub(super) from: NodeId,
    pub(super) key: Key,
    pub(super) object: Object,
    pub(super) at: Duration,
    /// In which epoch. What was sent in it is executed in no other.
    pub(super) epoch: u64,
}

/// What other nodes held before a node could begin to receive it.
pub(super) struct Lacking {
    pub(super) others: BTreeMap<NodeId, Object>,
    /// How often any n had changed at the last look.
    pub(super) changes: u64,
    /// Whether the node was seen not to answer for the key since.
    pub(super) is_certain: bool,
}

impl Lacking {
    /// A node receives what the home replicas of that time hold; what others hold, they hand over.
    pub(super) fn keep_homes(&mut self, homes: &[NodeId], changes: u64) {
        // After two changes it is not known who was one in between.
        let is_known = changes.checked_sub(self.changes).is_some_and(|changed| changed <= 1);
        self.others.retain(|other, _| is_known && homes.contains(other));
        self.changes = changes;
    }
}

pub(super) struct SeenRow {
    pub(super) object: Object,
    pub(super) homes: Vec<NodeId>,
    /// How often any n had changed, at its node and at the home replicas.
    pub(super) changes: u64,
    /// What the home replicas had lost when it was seen first.
    pub(super) losses: Vec<(u64, u64)>,
    /// How many rows its node had reaped.
    pub(super) reaped: u64,
    /// The epoch of its node.
    pub(super) epoch: u64,
}

/// A row that a node had, and the home replicas of its key.
pub(super) struct Gone {
    pub(super) from: NodeId,
    pub(super) key: Key,
    pub(super) object: Object,
    pub(super) homes: Vec<NodeId>,
    /// What they had lost when the row was seen first.
    pub(super) losses: Vec<(u64, u64)>,
    /// Whether neither any n nor the layout has changed meanwhile.
    pub(super) is_settled: bool,
    /// Whether the node has reaped something meanwhile.
    pub(super) has_reaped: bool,
    /// In which epoch it is gone.
    pub(super) epoch: u64,
}

/// What these nodes have lost, as far as it is known.
pub(super) fn losses_of(
    losses: &BTreeMap<NodeId, (u64, u64)>,
    homes: &[NodeId],
) -> Vec<(u64, u64)> {
    homes.iter().map(|home| losses.get(home).copied().unwrap_or_default()).collect()
}

impl Gone {
    pub(super) fn is_owned(&self) -> bool {
        self.homes.contains(&self.from)
    }

    /// Whether it is a tombstone of the node's own that was reaped. One that is gone from a node that has
    /// reaped nothing was handed over, if the node was no home replica for a while.
    pub(super) fn is_reaped(&self) -> bool {
        let is_own = self.is_owned() && (self.is_settled || self.has_reaped);
        is_own && self.object.is_deleted()
    }

    /// Whether it is a tombstone that another node's round may have reaped here.
    pub(super) fn may_be_reaped(&self) -> bool {
        !self.is_owned() && self.has_reaped && self.object.is_deleted()
    }
}

/// Whether these are the same nodes, in whatever order.
pub(super) fn is_same_set(some: &[NodeId], others: &[NodeId]) -> bool {
    some.iter().collect::<BTreeSet<_>>() == others.iter().collect()
}
