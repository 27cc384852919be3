//! What an operator is told of a plan, by name: what can be accepted, and what cannot.

use std::collections::BTreeSet;
use std::fmt;

use serde::Serialize;

use super::numbers::Numbers;
use super::{Change, Facts};
use crate::name::NodeId;
use crate::record::{ClusterRecord, DiskId};

/// A node is overloaded above this share of what is fair, in percent.
const OVERLOAD_PERCENT: u64 = 120;

/// What a plan makes worse. It can be committed if the operator accepts it by name.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(tag = "name", rename_all = "snake_case")]
pub enum Warning {
    /// More partitions than before have two home replicas in one zone.
    ZoneShared {
        /// How many.
        partitions: u64,
        /// How many had before.
        before: u64,
        /// How many partitions there are.
        of: u32,
    },
    /// A node gets much more than its share, as zones leave no other choice.
    OverloadedNode {
        /// Which.
        node: NodeId,
        /// Its replicas.
        after: u64,
        /// Its share.
        fair: u64,
    },
    /// There are fewer nodes than some bucket has replicas, and fewer than before.
    TooFewNodes {
        /// How many nodes there are.
        nodes: usize,
        /// How many replicas.
        n: u16,
    },
    /// Many more replicas move than the new loads need.
    MovesTooMuch {
        /// How many.
        replicas: u64,
        /// The least.
        least: u64,
    },
    /// What only nodes that are gone have acknowledged is lost.
    WritesOfGoneLost {
        /// The nodes.
        nodes: Vec<NodeId>,
        /// Partitions of which every home replica is gone, for the least n in use.
        partitions: u64,
    },
}

impl Warning {
    /// The names of all warnings.
    pub const NAMES: [&str; 5] = [
        "zone_shared",
        "overloaded_node",
        "too_few_nodes",
        "moves_too_much",
        "writes_of_gone_lost",
    ];

    /// Its name: what an operator accepts.
    pub fn name(&self) -> &'static str {
        match self {
            Self::ZoneShared { .. } => "zone_shared",
            Self::OverloadedNode { .. } => "overloaded_node",
            Self::TooFewNodes { .. } => "too_few_nodes",
            Self::MovesTooMuch { .. } => "moves_too_much",
            Self::WritesOfGoneLost { .. } => "writes_of_gone_lost",
        }
    }
}

impl fmt::Display for Warning {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::ZoneShared { partitions, before, of } => write!(
                f,
                "{partitions} of {of} partitions have two home replicas in one zone ({before} before): one \
                 zone's failure takes both; add nodes in other zones, or change zones"
            ),
            Self::OverloadedNode { node, after, fair } => write!(
                f,
                "{node} gets {after} replicas, {fair} would be fair: add a node in its zone, or lower its \
                 weight and that of its zone"
            ),
            Self::TooFewNodes { nodes, n } => write!(
                f,
                "{nodes} nodes cannot hold {n} replicas, each on a node of its own: add nodes, or lower \
                 n first"
            ),
            Self::MovesTooMuch { replicas, least } => write!(
                f,
                "{replicas} replicas move, and {least} would do for these loads: replace a node instead of \
                 removing and adding one, or change less at a time"
            ),
            Self::WritesOfGoneLost { nodes, partitions } => {
                let names: Vec<&str> = nodes.iter().map(NodeId::as_str).collect();
                let names = names.join(", ");
                write!(f, "what only {names} acknowledged (w=1, hints not delivered) is lost")?;
                match partitions {
                    0 => f.write_str("; every partition has a home replica left"),
                    1 => f.write_str("; 1 partition has no home replica left"),
                    many => write!(f, "; {many} partitions have no home replica left"),
                }
            }
        }
    }
}

/// Why a plan cannot be committed. Nobody can accept it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub enum Refusal {
    /// A node is sworn gone, and answers.
    NodeUp {
        /// Which.
        node: NodeId,
    },
    /// A node is to join that has not asked to, or not with this disk.
    NotWaiting {
        /// Which.
        node: NodeId,
        /// With which disk.
        disk: DiskId,
    },
    /// Another change is under way.
    LayoutMoving {
        /// The epoch in which it is.
        epoch: u64,
    },
    /// A member does not answer, and is not sworn gone.
    NodeDown {
        /// Which.
        node: NodeId,
    },
    /// The release of a member knows no cluster records.
    OldRelease {
        /// Which.
        node: NodeId,
    },
}

impl Refusal {
    /// Its name.
    pub fn name(&self) -> &'static str {
        match self {
            Self::NodeUp { .. } => "node_up",
            Self::NotWaiting { .. } => "not_waiting",
            Self::LayoutMoving { .. } => "layout_moving",
            Self::NodeDown { .. } => "node_down",
            Self::OldRelease { .. } => "old_release",
        }
    }

    /// The node that it is about, if it is about one.
    pub fn node(&self) -> Option<NodeId> {
        match self {
            Self::NodeUp { node }
            | Self::NotWaiting { node, .. }
            | Self::NodeDown { node }
            | Self::OldRelease { node } => Some(*node),
            Self::LayoutMoving { .. } => None,
        }
    }
}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NodeUp { node } => write!(
                f,
                "{node} is sworn gone and answers: stop it for good, or remove it without swearing it gone"
            ),
            Self::NotWaiting { node, disk } => write!(
                f,
                "no {node} with disk {disk} has asked to join: start it with this cluster's id and keys first"
            ),
            Self::LayoutMoving { epoch } => write!(
                f,
                "the layout is changing (epoch {epoch}): wait until that is finished, or abort it"
            ),
            Self::NodeDown { node } => write!(
                f,
                "{node} does not answer: start it again, or remove or replace it and swear it gone"
            ),
            Self::OldRelease { node } => {
                write!(f, "{node} runs a release that cannot change the layout: upgrade it first")
            }
        }
    }
}

/// What has to be accepted.
pub(super) fn warnings(numbers: &Numbers, gone: &BTreeSet<NodeId>) -> Vec<Warning> {
    let mut warnings = Vec::new();
    let (before, partitions) = numbers.zone_shared();
    if partitions > before && numbers.has_zones() {
        warnings.push(Warning::ZoneShared { partitions, before, of: numbers.partitions() });
    }
    for load in numbers.load() {
        if load.after * 100 > load.fair * OVERLOAD_PERCENT {
            let (node, after, fair) = (load.node, load.after, load.fair);
            warnings.push(Warning::OverloadedNode { node, after, fair });
        }
    }
    let (n, (nodes_before, nodes)) = (numbers.n_max, numbers.nodes());
    if nodes < usize::from(n) && nodes < nodes_before {
        warnings.push(Warning::TooFewNodes { nodes, n });
    }
    let (replicas, least) = numbers.replicas_and_least();
    if replicas * 2 > least * 3 {
        warnings.push(Warning::MovesTooMuch { replicas, least });
    }
    if !gone.is_empty() {
        let (nodes, partitions) = (gone.iter().copied().collect(), numbers.only_on(gone));
        warnings.push(Warning::WritesOfGoneLost { nodes, partitions });
    }
    warnings
}

/// What forbids it, by what is known and whether two layouts would be in force.
pub(super) fn refusals(
    base: &ClusterRecord,
    changes: &[Change],
    gone: &BTreeSet<NodeId>,
    (facts, is_joint): (&Facts, bool),
) -> Vec<Refusal> {
    let mut refusals = Vec::new();
    if base.next().is_some() {
        refusals.push(Refusal::LayoutMoving { epoch: base.epoch() });
    }
    let up = gone.intersection(&facts.up);
    refusals.extend(up.map(|node| Refusal::NodeUp { node: *node }));
    let absent = joining(changes).difference(&facts.waiting).copied().collect::<Vec<_>>();
    refusals.extend(absent.into_iter().map(|(node, disk)| Refusal::NotWaiting { node, disk }));
    if is_joint {
        let sworn = |node: &NodeId| {
            let member = base.stable().iter().find(|member| member.node == *node);
            gone.contains(node) || member.is_some_and(|member| base.gone().contains(&member.disk))
        };
        let lives = |node: &&NodeId| !sworn(node);
        let down = facts.down.iter().filter(lives);
        refusals.extend(down.map(|node| Refusal::NodeDown { node: *node }));
        let old = facts.old_release.iter().filter(lives);
        refusals.extend(old.map(|node| Refusal::OldRelease { node: *node }));
    }
    refusals
}

fn joining(changes: &[Change]) -> BTreeSet<(NodeId, DiskId)> {
    let new = changes.iter().filter_map(|change| match change {
        Change::Add(new) => Some((new.node, new.disk)),
        Change::Replace { new, .. } => Some((new.node, new.disk)),
        Change::Remove { .. } | Change::Set { .. } => None,
    });
    new.collect()
}
