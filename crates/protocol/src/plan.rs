//! What a change of the layout would come to, before anything is changed.
//!
//! A plan is a pure function of a record, the changes and what is known of the nodes: nothing is staged that
//! could become stale, and a node that is asked to commit computes the plan again and compares
//! [`Plan::result`], which depends on the record and the changes alone. [`Warning`]s can be accepted by
//! name, [`Refusal`]s cannot.
//!
//! Loads and moves are counted in *replicas*: one partition on one node. They are those of the greatest n in
//! use; buckets with a lower n move less.
//!
//! The least possible number of moves is a lower bound for the loads that the new layout gives: a node with
//! more replicas than before must receive at least the difference, so it is the sum of these. Zones, and
//! that a node holds a replica once, may make it impossible to reach.

mod apply;
mod numbers;
mod warnings;

use std::collections::{BTreeMap, BTreeSet};

use serde::Serialize;

pub use self::numbers::{fair_loads, loads};
pub use self::warnings::{Refusal, Warning};
use crate::layout::{Layout, LayoutError};
use crate::name::NodeId;
use crate::record::successor::{Addresses, SuccessorError};
use crate::record::{ClusterRecord, DiskId, Reason, RecordHash, RecordMember};

/// The most changes of one plan: every node of two layouts.
pub const CHANGES_MAX: usize = 510;

/// A node that joins.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NewNode {
    /// Its name.
    pub node: NodeId,
    /// Its disk.
    pub disk: DiskId,
    /// Its zone.
    pub zone: String,
    /// Its share of the data.
    pub weight: u16,
    /// Where peers reach it.
    pub peer_addr: String,
    /// Where clients reach it, if that is known.
    pub client_addr: Option<String>,
}

/// A node that takes the place of another. It inherits the seat.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Replacement {
    /// Its name.
    pub node: NodeId,
    /// Its disk.
    pub disk: DiskId,
    /// Its zone; that of the other if `None`.
    pub zone: Option<String>,
    /// Its share of the data; that of the other if `None`.
    pub weight: Option<u16>,
    /// Where peers reach it.
    pub peer_addr: String,
    /// Where clients reach it, if that is known.
    pub client_addr: Option<String>,
}

/// One change. A plan names each node in one of them at most.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Change {
    /// A node joins.
    Add(NewNode),
    /// A node leaves.
    Remove {
        /// Which.
        node: NodeId,
    },
    /// A node leaves, and another takes its place.
    Replace {
        /// The one that leaves.
        old: NodeId,
        /// The one that comes.
        new: Replacement,
    },
    /// A member is given other properties; those that are `None` stay.
    Set {
        /// Which.
        node: NodeId,
        /// Its share of the data.
        weight: Option<u16>,
        /// Its zone.
        zone: Option<String>,
        /// Where peers reach it.
        peer_addr: Option<String>,
    },
}

/// What a node holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Held {
    /// Bytes of data.
    pub bytes: u64,
    /// Rows.
    pub rows: u64,
}

/// What the node that plans knows.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Facts {
    /// The values of n of all buckets; 1 is assumed if there are none.
    pub n_in_use: BTreeSet<u16>,
    /// What nodes hold, as far as that is known.
    pub held: BTreeMap<NodeId, Held>,
    /// The nodes that answer.
    pub up: BTreeSet<NodeId>,
    /// The members that do not answer.
    pub down: BTreeSet<NodeId>,
    /// The members that answer, and whose release knows no cluster records.
    pub old_release: BTreeSet<NodeId>,
    /// The processes that asked to join: name and disk.
    pub waiting: BTreeSet<(NodeId, DiskId)>,
}

/// What a change moves.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct Moves {
    /// Replicas that a node has to receive.
    pub replicas: u64,
    /// The least that is possible with the new loads: a lower bound.
    pub least: u64,
    /// Bytes, estimated from what nodes hold.
    pub bytes: Option<u64>,
    /// Rows, estimated likewise.
    pub rows: Option<u64>,
}

/// How many replicas a node has.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct Load {
    /// Which node.
    pub node: NodeId,
    /// In the old layout.
    pub before: u64,
    /// In the new one.
    pub after: u64,
    /// What its weight entitles it to in the new one, at most one replica of each partition.
    pub fair: u64,
}

/// What a change would come to.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Plan {
    /// The record that it starts from.
    pub base: RecordHash,
    /// Identifies base, members and oaths: equal for equal plans, whatever is known of the nodes.
    pub result: RecordHash,
    /// The members afterwards, ordered by name.
    pub members: Vec<RecordMember>,
    /// The disks that are sworn gone, ordered; those of `base` included.
    pub gone: Vec<DiskId>,
    /// Whether two layouts are in force for a time. Not if only addresses change.
    pub is_joint: bool,
    /// What moves.
    pub moves: Moves,
    /// The load of every node of both layouts, ordered by name.
    pub load: Vec<Load>,
    /// What an operator has to accept.
    pub warnings: Vec<Warning>,
    /// Why this cannot be committed.
    pub refusals: Vec<Refusal>,
}

/// Why there is no plan for some changes.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum PlanError {
    /// There are too many changes.
    #[error("at most 510 changes can be planned at once, not {0}")]
    TooMany(usize),
    /// A node is named by two changes.
    #[error("node {0} is named twice; what changes of one node is one change")]
    NamedTwice(NodeId),
    /// A node is to be removed, replaced, set or sworn gone that is not a member.
    #[error("node {0} is not a member")]
    NotMember(NodeId),
    /// A node is to join that is a member.
    #[error("node {0} is a member already")]
    AlreadyMember(NodeId),
    /// A node is to join under the name of one that is still leaving.
    #[error("a node {0} is still leaving: release it first, or use another name")]
    StillLeaving(NodeId),
    /// A node is sworn gone and stays a member.
    #[error("node {0} is sworn gone: it has to be removed or replaced")]
    GoneStays(NodeId),
    /// Nothing would change.
    #[error("these changes change nothing")]
    NothingChanges,
    /// The members cannot be a layout.
    #[error(transparent)]
    Layout(#[from] LayoutError),
    /// The members cannot follow the record.
    #[error(transparent)]
    Record(#[from] SuccessorError),
}

/// Plans changes after a record. Nodes that are sworn `gone` must be removed or replaced.
///
/// While another change is under way the plan starts from what that will come to, and is refused.
///
/// # Errors
/// [`PlanError`] that names what the changes are wrong about.
pub fn plan(
    base: &ClusterRecord,
    changes: &[Change],
    gone: &BTreeSet<NodeId>,
    facts: &Facts,
) -> Result<Plan, PlanError> {
    if changes.len() > CHANGES_MAX {
        return Err(PlanError::TooMany(changes.len()));
    }
    let old = base.next().unwrap_or_else(|| base.stable());
    let members = apply::apply(base, old, changes)?;
    let gone_disks = apply::gone_disks(base, &members, gone)?;
    let placed: Vec<_> = members.iter().map(RecordMember::placed).collect();
    let is_joint = !old.iter().map(RecordMember::placed).eq(placed.iter().cloned());
    if !is_joint && old == members {
        return Err(PlanError::NothingChanges);
    }
    let before = base.next_layout().unwrap_or_else(|| base.stable_layout());
    let after = Layout::new(base.epoch().saturating_add(1), base.partitions(), placed)?;
    let numbers = numbers::Numbers::new(&before, &after, facts);
    let plan = Plan {
        base: base.hash(),
        result: result_hash(base.hash(), &members, &gone_disks),
        is_joint,
        moves: numbers.moves(facts),
        load: numbers.load(),
        warnings: warnings::warnings(&numbers, &apply::gone_nodes(base, &gone_disks)),
        refusals: warnings::refusals(base, changes, gone, (facts, is_joint)),
        members,
        gone: gone_disks,
    };
    // What the record would be refused for, the plan is refused for.
    if base.next().is_none() {
        let reason = Reason { note: String::new(), ..base.cause().reason.clone() };
        plan.to_record(base, reason)?;
    }
    Ok(plan)
}

impl Plan {
    /// The record that begins the change, or makes it if only addresses change.
    ///
    /// # Errors
    /// [`SuccessorError`] if it may not follow the record.
    pub fn to_record(
        &self,
        base: &ClusterRecord,
        reason: Reason,
    ) -> Result<ClusterRecord, SuccessorError> {
        if self.is_joint {
            return base.begin(self.members.clone(), &self.gone, reason);
        }
        let addresses = self.members.iter().map(|member| (member.node, Addresses::of(member)));
        base.readdress(&addresses.collect(), reason)
    }
}

/// The [`Plan::result`] that a record is the outcome of, if it is that of a plan: so that a commit that is
/// repeated is recognised.
pub fn result_of(record: &ClusterRecord) -> RecordHash {
    let members = record.next().unwrap_or_else(|| record.stable());
    result_hash(record.parent(), members, record.gone())
}

fn result_hash(base: RecordHash, members: &[RecordMember], gone: &[DiskId]) -> RecordHash {
    let bytes = postcard::to_stdvec(&(base, members, gone));
    RecordHash(xxhash_rust::xxh3::xxh3_128(&bytes.expect("postcard into a Vec does not fail")))
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests;
