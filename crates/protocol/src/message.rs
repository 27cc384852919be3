//! Every message that nodes send each other, and every reply.
//!
//! A message is a small head (postcard) and a payload of raw bytes: an encoded object or a value,
//! encoded once for all receivers. Replies come in the order of the messages. Postcard identifies a
//! variant by its position: a new one goes last, or peers misread the others.

mod write;

use bytes::Bytes;
use serde::{Deserialize, Serialize};

pub use self::write::{Condition, Outcome, Write, WriteAnswer, WrittenAnswer};
use crate::bucket_table::Table;
use crate::cluster_settings::ClusterSettings;
use crate::exchange::Page;
use crate::explain::Events;
use crate::generation::{Remembered, Start};
use crate::get::{ReadKind, RowKind};
use crate::layout::Partition;
use crate::name::{Bucket, Key, NodeId};
use crate::object::Version;
use crate::packed::Lengths;
use crate::put::Role;
use crate::received::Holdings;
use crate::time::WallTime;
use crate::tree::{LeafSet, Root, Tree};

/// A random number drawn when a cluster is formed; all nodes of one cluster record the same one.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Formation(pub [u8; 16]);

/// A request from one node to another.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Message {
    /// Merge the object in the payload, and reply once it is durable: [`Reply::Stored`].
    Store {
        /// The key.
        key: Key,
        /// Whether to hold it as a home replica or as a hint.
        role: Role,
        /// When the object was read or minted, by the sender's wall clock or earlier: an object
        /// that was in transit too long is refused (see [`crate::reap`]).
        read_at: WallTime,
    },
    /// Read what the receiver holds: [`Reply::Object`], [`Reply::Large`], [`Reply::Digest`],
    /// [`Reply::NoHint`], [`Reply::NotFilled`].
    Read {
        /// The key.
        key: Key,
        /// The object or its digest.
        what: ReadKind,
        /// Among the receiver's own rows, or among its hints.
        place: RowKind,
        /// The longest encoded object that the sender has room for, in bytes; for a longer one the
        /// reply is its length, and the sender asks again once it has made room.
        bytes_max: u32,
    },
    /// Mint this write (its value is the payload): [`Reply::Accepted`] at once, and a
    /// [`Message::Written`] later.
    Forward {
        /// The entry node's number for the operation.
        operation: u64,
        /// The write.
        write: Box<Write>,
    },
    /// The answer to a forwarded write (its object is the payload if it was asked for).
    Written {
        /// The entry node's number for the operation.
        operation: u64,
        /// The result.
        answer: WriteAnswer,
    },
    /// Return everything held for a key, as home replica and as hints: [`Reply::Inspection`].
    Inspect {
        /// The key.
        key: Key,
    },
    /// List keys in conflict from the receiver's index: [`Reply::Conflicts`].
    Conflicts {
        /// Only this bucket; all if `None`.
        bucket: Option<Bucket>,
        /// After this key.
        after: Option<Key>,
        /// The most entries to return.
        limit: u16,
    },
    /// Exchange states, which also serves as a liveness probe: [`Reply::Status`], or
    /// [`Reply::Behind`].
    Hello {
        /// The sender's state.
        status: Box<Status>,
    },
    /// Merge these bucket records: [`Reply::Buckets`].
    Buckets {
        /// Records that changed, or all of the sender's.
        table: Table,
        /// Whether the reply carries all of the receiver's records (otherwise none).
        want_all: bool,
    },
    /// Record that the cluster was formed: [`Reply::Status`] with the formation now recorded.
    Form {
        /// The formation.
        formation: Formation,
    },
    /// Fetch a page of rows: [`Reply::Rows`].
    Fetch {
        /// Which rows.
        rows: Rows,
        /// After this key.
        after: Option<Key>,
    },
    /// Compare these trees with the receiver's: [`Reply::Differing`].
    Roots {
        /// The sender's roots of trees that both nodes hold.
        roots: Vec<(Tree, Root)>,
    },
    /// Compare the leaves in the payload ([`crate::tree::Leaves::to_bytes`]) with the receiver's:
    /// [`Reply::Leaves`].
    Leaves {
        /// The tree.
        tree: Tree,
        /// Set if the sender is filling: answer only if each of the receiver's rows is in the tree
        /// of its bucket's n according to this hash ([`crate::reassign::ReplicaCounts::hash`]), otherwise
        /// [`Reply::NotFilled`].
        to_fill: Option<u64>,
    },
    /// List the keys of some leaves with their versions, in row order: [`Reply::Page`].
    List {
        /// The tree.
        tree: Tree,
        /// The leaves.
        leaves: LeafSet,
        /// After this key.
        after: Option<Key>,
        /// As in [`Message::Leaves`]: rows may have been moved to another tree since.
        to_fill: Option<u64>,
    },
    /// Return the versions of the receiver's home rows: [`Reply::Versions`].
    Versions {
        /// The keys, at most [`crate::exchange::PAGE_KEYS_MAX`].
        keys: Vec<Key>,
    },
    /// Confirm that the receiver holds nothing but these tombstones for their keys (see
    /// [`crate::reap`]): [`Reply::Confirmed`].
    Confirm {
        /// The keys and the versions of their objects, at most [`crate::reap::ROUND_MAX`].
        tombstones: Vec<(Key, Version)>,
    },
    /// Every node confirmed these tombstones: delete the rows that still have these versions:
    /// [`Reply::Reaped`].
    Reap {
        /// The keys and the versions of their objects.
        tombstones: Vec<(Key, Version)>,
    },
    /// Ask how many hints the receiver will take now: [`Reply::Room`].
    Room,
    /// Mark the hints that the receiver keeps now: [`Reply::SyncPoint`].
    SyncPoint,
    /// Ask which hints of a mark are not delivered yet: [`Reply::Undelivered`].
    Undelivered {
        /// The receiver's start that issued the mark.
        nonce: u64,
        /// The mark.
        mark: u64,
    },
    /// List live keys of a bucket from the receiver's index: [`Reply::Keys`].
    Keys {
        /// The bucket.
        bucket: Bucket,
        /// Only keys with this prefix.
        prefix: String,
        /// After this key.
        after: Option<Key>,
        /// The most entries to return.
        limit: u16,
    },
    /// Merge these hints, which were kept for the receiver, at low priority: [`Reply::Delivered`].
    Deliver {
        /// What the payload holds (see [`crate::packed`]).
        hints: Lengths,
        /// When the objects were read, by the sender's wall clock or earlier (see [`crate::reap`]).
        read_at: WallTime,
    },
    /// Apply an operator's decision about distrusted data, if there is one, and report what is
    /// still distrusted: [`Reply::Distrusted`].
    Distrusted {
        /// The decision; `None` if there is none yet.
        decision: Option<Decision>,
    },
    /// What the coordinator of an explained write has seen, to the entry node: [`Reply::Accepted`]. It
    /// comes twice: with the answer, in the place of [`Message::Written`], and when the write is done.
    Explained {
        /// The entry node's number for the operation.
        operation: u64,
        /// The trace that the events belong to: [`Write::explain`].
        trace: u64,
        /// The result (its object is the payload if it was asked for); `None` when the write is done.
        answer: Option<WriteAnswer>,
        /// All events so far. Their times count from when the write was accepted.
        events: Events,
    },
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

/// The receiver's answer. Any message can be answered with [`Reply::Refused`]. A new variant goes
/// last, as in [`Message`].
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Reply {
    /// The object is merged and durable as configured.
    Stored,
    /// The object is the payload.
    Object,
    /// The version of the object held; [`Version::ABSENT`] if none.
    Digest(Version),
    /// No hint is kept for this key.
    NoHint,
    /// This partition has not been received yet.
    NotFilled,
    /// The forwarded write is accepted; the receiver is its coordinator now.
    Accepted,
    /// What is held for a key; the objects are concatenated in the payload.
    Inspection {
        /// Length of the home row's object in the payload; `None` if there is none.
        own: Option<u32>,
        /// Whether the partition has been received.
        ready: bool,
        /// For each hint its target and the length of its object in the payload.
        hints: Vec<(NodeId, u32)>,
    },
    /// Keys in conflict with their number of siblings, in order.
    Conflicts {
        /// The keys.
        keys: Vec<(Key, u32)>,
    },
    /// The sender's state.
    Status(Box<Status>),
    /// The sender of the Hello came back behind what is remembered of it (see
    /// [`crate::generation`]).
    Behind(Remembered),
    /// Bucket records after the merge.
    Buckets {
        /// All of them if requested, otherwise none.
        table: Table,
    },
    /// Rows in order.
    Rows {
        /// What the payload holds (see [`crate::packed`]).
        rows: Lengths,
        /// Whether there is nothing after them.
        end: bool,
    },
    /// The trees that differ, by their index in the request. Trees that the replying node does not
    /// hold or has not received are left out.
    Differing {
        /// Indexes into the list of roots.
        trees: Vec<u16>,
    },
    /// The leaves that differ.
    Leaves {
        /// Their set.
        differing: LeafSet,
    },
    /// Keys with their versions.
    Page(Page),
    /// Versions in the order of the keys; [`Version::ABSENT`] where there is no row.
    Versions {
        /// One for each key.
        versions: Vec<Version>,
    },
    /// Which of the tombstones are confirmed, in their order.
    Confirmed {
        /// One for each.
        which: Vec<bool>,
    },
    /// The rows that still had the given versions are deleted.
    Reaped {
        /// How many.
        rows: u32,
    },
    /// How many hints the node will take now.
    Room {
        /// How many; 0 for "ask later".
        rows: u32,
    },
    /// A mark for the hints that are kept now.
    SyncPoint {
        /// This start of the node: marks of another start are meaningless.
        nonce: u64,
        /// The mark.
        mark: u64,
    },
    /// The nodes whose hints of the mark are not all delivered; `None` if the node has restarted
    /// since and cannot tell.
    Undelivered {
        /// Hints for these nodes.
        targets: Option<Vec<NodeId>>,
    },
    /// Live keys in order.
    Keys(KeyPage),
    /// Nothing was done.
    Refused(Refusal),
    /// The hints are merged and durable as configured, except for some.
    Delivered {
        /// Indexes into the list of hints, and why.
        refused: Vec<(u16, Refusal)>,
    },
    /// What the node does not trust.
    Distrusted(Box<Distrusted>),
    /// The object is longer than the sender has room for.
    Large {
        /// Its length, encoded, in bytes.
        bytes: u32,
    },
}

/// Why a node did nothing.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, thiserror::Error)]
pub enum Refusal {
    /// Its queues are full.
    #[error("busy")]
    Busy,
    /// It is not part of a formed cluster.
    #[error("not formed")]
    NotFormed,
    /// Its disk is full, read-only or failing.
    #[error("takes no writes")]
    ReadOnly,
    /// Its hint store is full.
    #[error("hint store full")]
    HintsFull,
    /// It is stopping.
    #[error("stopping")]
    Stopping,
    /// It could not execute the message; its log says why.
    #[error("failed")]
    Failed,
    /// The message is invalid.
    #[error("malformed")]
    Malformed,
    /// The object was in transit too long (see [`crate::reap`]).
    #[error("too long on its way")]
    Stale,
    /// Another process with the sender's name was heard from recently (see [`crate::generation`]).
    #[error("another process of that name is alive")]
    NameTaken,
}

/// Live keys of a bucket as one node knows them.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct KeyPage {
    /// The keys in order, each with the version of its row and whether it is plain: one value and
    /// no conflict, which needs no read to settle it.
    pub keys: Vec<(Key, Version, bool)>,
    /// Whether this is the last page.
    pub is_end: bool,
    /// Partitions that the node is a home replica of and has not received.
    pub not_ready: Vec<Partition>,
}

/// A node's state as it reports it to its peers.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Status {
    /// The cluster's formation, if the node has recorded one.
    pub formation: Option<Formation>,
    /// Whether it has received all its partitions.
    pub ready: bool,
    /// What it holds of each partition.
    pub holdings: Holdings,
    /// Whether it takes writes.
    pub writable: bool,
    /// The hash of its bucket table.
    pub buckets_hash: u64,
    /// Its release.
    pub release: String,
    /// Its start.
    pub start: Start,
    /// The settings that must be equal on all nodes.
    pub common: ClusterSettings,
    /// Since when, by its wall clock, its record of its peers' starts has had no gap.
    pub remembers_since: WallTime,
    /// Its wall clock, uncorrected (see [`crate::skew`]).
    pub clock: WallTime,
    /// Whether it waits for an operator's decision about data that it does not trust by itself.
    pub waits: bool,
    /// In a reply: it remembered an earlier start of the sender, and the sender resumes from there.
    pub attests: bool,
    /// The longest frame it accepts, in bytes: an object that would not fit is not written, since
    /// it could not be replicated to this node.
    pub frame_bytes_max: u64,
    /// Where clients reach it, host and port; empty if it does not know.
    pub client_addr: String,
}

/// A message or reply with its payload.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct WithPayload<T> {
    /// The head.
    pub head: T,
    /// The raw bytes; empty if the head needs none.
    pub payload: Bytes,
}

impl<T> WithPayload<T> {
    /// A head without a payload.
    pub fn bare(head: T) -> Self {
        Self { head, payload: Bytes::new() }
    }
}
