//! The messages with which replicas become equal: trees compared, rows fetched, hints delivered,
//! tombstones reaped.

use serde::{Deserialize, Serialize};

use super::Refusal;
use super::head::family;
use crate::exchange::Page;
use crate::layout::Partition;
use crate::name::{Key, NodeId};
use crate::object::Version;
use crate::packed::Lengths;
use crate::time::WallTime;
use crate::tree::{LeafSet, Root, Tree};

family! {
    /// What repair asks of another node.
    1 Repair {
        /// Compare these trees with the receiver's: [`RepairReply::Differing`].
        0x20 Roots {
            /// The sender's roots of trees that both nodes hold.
            roots: Vec<(Tree, Root)>,
        },
        /// Compare the leaves in the payload ([`crate::tree::Leaves::to_bytes`]) with the receiver's:
        /// [`RepairReply::Leaves`].
        0x21 Leaves {
            /// The tree.
            tree: Tree,
            /// Set if the sender is filling: answer only if each of the receiver's rows is in the tree
            /// of its bucket's n according to this hash ([`crate::reassign::ReplicaCounts::hash`]),
            /// otherwise [`super::Reply::NotFilled`].
            to_fill: Option<u64>,
        },
        /// List the keys of some leaves with their versions, in row order: [`RepairReply::Page`].
        0x22 List {
            /// The tree.
            tree: Tree,
            /// The leaves.
            leaves: LeafSet,
            /// After this key.
            after: Option<Key>,
            /// As in [`Repair::Leaves`]: rows may have been moved to another tree since.
            to_fill: Option<u64>,
        },
        /// Return the versions of the receiver's home rows: [`RepairReply::Versions`].
        0x23 Versions {
            /// The keys, at most [`crate::exchange::PAGE_KEYS_MAX`].
            keys: Vec<Key>,
        },
        /// Fetch a page of rows: [`RepairReply::Rows`].
        0x24 Fetch {
            /// Which rows.
            rows: Rows,
            /// After this key.
            after: Option<Key>,
        },
        /// Merge these hints, which were kept for the receiver, at low priority:
        /// [`RepairReply::Delivered`].
        0x25 Deliver {
            /// What the payload holds (see [`crate::packed`]).
            hints: Lengths,
            /// When the objects were read, by the sender's wall clock or earlier (see
            /// [`crate::reap`]).
            read_at: WallTime,
        },
        /// Ask how many hints the receiver will take now: [`RepairReply::Room`].
        0x26 Room,
        /// Mark the hints that the receiver keeps now: [`RepairReply::SyncPoint`].
        0x27 SyncPoint,
        /// Ask which hints of a mark are not delivered yet: [`RepairReply::Undelivered`].
        0x28 Undelivered {
            /// The receiver's start that issued the mark.
            nonce: u64,
            /// The mark.
            mark: u64,
        },
        /// Confirm that the receiver holds nothing but these tombstones for their keys (see
        /// [`crate::reap`]): [`RepairReply::Confirmed`].
        0x29 Confirm {
            /// The keys and the versions of their objects, at most [`crate::reap::ROUND_MAX`].
            tombstones: Vec<(Key, Version)>,
        },
        /// Every node confirmed these tombstones: delete the rows that still have these versions:
        /// [`RepairReply::Reaped`].
        0x2a Reap {
            /// The keys and the versions of their objects.
            tombstones: Vec<(Key, Version)>,
        },
        /// Apply an operator's decision about distrusted data, if there is one, and report what is
        /// still distrusted: [`RepairReply::Distrusted`].
        0x2b Distrusted {
            /// The decision; `None` if there is none yet.
            decision: Option<Decision>,
        },
    }
}

family! {
    /// The replies to [`Repair`].
    1 RepairReply {
        /// The trees that differ, by their index in the request. Trees that the replying node does not
        /// hold or has not received are left out.
        0x20 Differing {
            /// Indexes into the list of roots.
            trees: Vec<u16>,
        },
        /// The leaves that differ.
        0x21 Leaves {
            /// Their set.
            differing: LeafSet,
        },
        /// Keys with their versions.
        0x22 Page(page: Page),
        /// Versions in the order of the keys; [`Version::ABSENT`] where there is no row.
        0x23 Versions {
            /// One for each key.
            versions: Vec<Version>,
        },
        /// Rows in order.
        0x24 Rows {
            /// What the payload holds (see [`crate::packed`]).
            rows: Lengths,
            /// Whether there is nothing after them.
            end: bool,
        },
        /// The hints are merged and durable as configured, except for some.
        0x25 Delivered {
            /// Indexes into the list of hints, and why.
            refused: Vec<(u16, Refusal)>,
        },
        /// How many hints the node will take now.
        0x26 Room {
            /// How many; 0 for "ask later".
            rows: u32,
        },
        /// A mark for the hints that are kept now.
        0x27 SyncPoint {
            /// This start of the node: marks of another start are meaningless.
            nonce: u64,
            /// The mark.
            mark: u64,
        },
        /// The nodes whose hints of the mark are not all delivered; `None` if the node has restarted
        /// since and cannot tell.
        0x28 Undelivered {
            /// Hints for these nodes.
            targets: Option<Vec<NodeId>>,
        },
        /// Which of the tombstones are confirmed, in their order.
        0x29 Confirmed {
            /// One for each.
            which: Vec<bool>,
        },
        /// The rows that still had the given versions are deleted.
        0x2a Reaped {
            /// How many.
            rows: u32,
        },
        /// What the node does not trust.
        0x2b Distrusted(distrusted: Box<Distrusted>),
    }
}

/// An operator's decision about data that a node does not trust by itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Decision {
    /// Trust it and merge it. For a partition of which nothing is left, accept the loss.
    Accept,
    /// Delete it.
    Discard,
}

/// The data that a node holds but does not trust.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Distrusted {
    /// What waits for an operator, as text; `None` if nothing does.
    pub waits: Option<String>,
    /// Rows and hints that are set aside, as counted so far.
    pub rows: u64,
    /// Of these, those that the cluster was found to hold or to have superseded.
    pub covered: u64,
    /// Partitions whose data no home replica has.
    pub lost: u32,
    /// Keys that are set aside and unknown to the cluster, at most [`DISTRUSTED_KEYS_MAX`].
    pub unknown: Vec<Key>,
}

/// The most keys in a [`Distrusted`].
pub const DISTRUSTED_KEYS_MAX: usize = 1000;

/// Which rows a filling node asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Rows {
    /// Those of a partition, held as home replica.
    Partition(Partition),
    /// The hints kept for a node, of all partitions.
    HintsFor(NodeId),
}
