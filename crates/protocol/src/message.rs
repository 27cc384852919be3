//! Every message that nodes send each other, and every reply.
//!
//! A message is a small head (postcard) and a payload of raw bytes: an encoded object or a value, encoded
//! once for all who get it. Replies come in the order of the messages.

use bytes::Bytes;
use serde::{Deserialize, Serialize};

use crate::bucket::Table;
use crate::clock::Dot;
use crate::common::Common;
use crate::context::Seen;
use crate::exchange::Page;
use crate::generation::{Remembered, Start};
use crate::get::{What, Where};
use crate::layout::Partition;
use crate::name::{Bucket, Key, NodeId};
use crate::object::Version;
use crate::packed::Lengths;
use crate::put::{Acks, Role};
use crate::quorum::QuorumError;
use crate::received::Holdings;
use crate::row::{Draft, MintError};
use crate::stamp::Millis;
use crate::terms::Asked;
use crate::tree::{LeafSet, Root, Tree};

/// A random number drawn when a cluster was formed; the nodes of one cluster all recorded the same.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Formation(pub [u8; 16]);

/// What one node asks of another.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Message {
    /// Merge the object in the payload, and answer when it is durable: [`Reply::Stored`].
    Store {
        /// Of which key.
        key: Key,
        /// As what to hold it.
        role: Role,
        /// When the object was read or minted, by the sender's wall clock or earlier: one that was
        /// long on its way is refused (see [`crate::reap`]).
        read_at: Millis,
    },
    /// Say what you hold: [`Reply::Object`], [`Reply::Large`], [`Reply::Digest`], [`Reply::NoHint`],
    /// [`Reply::NotFilled`].
    Read {
        /// Of which key.
        key: Key,
        /// The object or its digest.
        what: What,
        /// Among your own rows, or among your hints.
        place: Where,
        /// The longest encoded object that the asker has room for, in bytes; of a longer one it is told
        /// the length, and asks again once it has made room.
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
        /// What became of it.
        answer: WriteAnswer,
    },
    /// Say everything you hold of a key, as home replica and as hints: [`Reply::Inspection`].
    Inspect {
        /// Which key.
        key: Key,
    },
    /// List keys in conflict from your index: [`Reply::Conflicts`].
    Conflicts {
        /// Of this bucket only.
        bucket: Option<Bucket>,
        /// After this key.
        after: Option<Key>,
        /// At most so many.
        limit: u16,
    },
    /// Are you there, and in what state: [`Reply::Status`], or [`Reply::Behind`].
    Hello {
        /// The sender's state.
        status: Box<Status>,
    },
    /// Merge these bucket records: [`Reply::Buckets`].
    Buckets {
        /// Records that changed, or all of the sender's.
        table: Table,
        /// Whether the reply shall hold all of the receiver's records (else none).
        want_all: bool,
    },
    /// Record that the cluster was formed: [`Reply::Status`] with what is then recorded.
    Form {
        /// The formation.
        formation: Formation,
    },
    /// Send a page of what you hold: [`Reply::Rows`].
    Fetch {
        /// Of which rows.
        rows: Rows,
        /// After this key.
        after: Option<Key>,
    },
    /// Compare these trees with yours: [`Reply::Differing`].
    Roots {
        /// The sender's roots of trees that both hold.
        roots: Vec<(Tree, Root)>,
    },
    /// Compare the leaves in the payload ([`crate::tree::Leaves::to_bytes`]) with yours:
    /// [`Reply::Leaves`].
    Leaves {
        /// Of which tree.
        tree: Tree,
        /// Only if each of your rows is in the tree of its bucket's n by this
        /// ([`crate::sweep::Ns::hash`]), else [`Reply::NotFilled`]: the sender has to be filled.
        to_fill: Option<u64>,
    },
    /// List the keys of some leaves with their versions, in row order: [`Reply::Page`].
    List {
        /// Of which tree.
        tree: Tree,
        /// Of which of its leaves.
        leaves: LeafSet,
        /// After this key.
        after: Option<Key>,
        /// As in [`Message::Leaves`]: rows may have been moved to another tree since.
        to_fill: Option<u64>,
    },
    /// Say which versions your home rows have: [`Reply::Versions`].
    Versions {
        /// Of these keys, at most [`crate::exchange::PAGE_KEYS_MAX`].
        keys: Vec<Key>,
    },
    /// Confirm that you hold nothing but these tombstones (see [`crate::reap`]): [`Reply::Confirmed`].
    Confirm {
        /// The keys and the versions of their objects, at most [`crate::reap::ROUND_MAX`].
        tombstones: Vec<(Key, Version)>,
    },
    /// Every node confirmed these tombstones: delete the rows that are still so: [`Reply::Reaped`].
    Reap {
        /// The keys and the versions of their objects.
        tombstones: Vec<(Key, Version)>,
    },
    /// How many hints will you take now: [`Reply::Room`].
    Room,
    /// Mark the hints you keep now: [`Reply::SyncPoint`].
    SyncPoint,
    /// Which hints of the mark are not delivered yet: [`Reply::Undelivered`].
    Undelivered {
        /// The receiver's start that gave the mark.
        nonce: u64,
        /// The mark.
        mark: u64,
    },
    /// List live keys of a bucket from your index: [`Reply::Keys`].
    Keys {
        /// Of this bucket.
        bucket: Bucket,
        /// That begin with this.
        prefix: String,
        /// After this key.
        after: Option<Key>,
        /// At most so many.
        limit: u16,
    },
    /// Merge these hints that were kept for you, when there is time for it: [`Reply::Delivered`].
    Deliver {
        /// What the payload holds (see [`crate::packed`]).
        hints: Lengths,
        /// When the objects were read, by the sender's wall clock or earlier (see [`crate::reap`]).
        read_at: Millis,
    },
    /// Say what you distrust of what you hold, after an operator's decision about it:
    /// [`Reply::Distrusted`].
    Distrusted {
        /// The decision; `None` if there is none yet.
        decision: Option<Decision>,
    },
}

/// What an operator makes of data that a node does not believe by itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Decision {
    /// It is the truth, as far as there is one: take it in. Where nothing is left, that is the truth.
    Accept,
    /// It is worth nothing: delete it.
    Discard,
}

/// What a node distrusts of what it holds.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Distrusted {
    /// What waits for an operator, in words; `None` if nothing does.
    pub waits: Option<String>,
    /// Rows and hints that are set aside, as far as they were counted.
    pub rows: u64,
    /// Of those that were set aside, those that the cluster was found to hold or cover.
    pub covered: u64,
    /// Partitions of which no home replica has what was there.
    pub lost: u32,
    /// Keys that are set aside and that the cluster does not know, the first
    /// [`DISTRUSTED_KEYS_MAX`].
    pub unknown: Vec<Key>,
}

/// The most keys in a [`Distrusted`].
pub const DISTRUSTED_KEYS_MAX: usize = 1000;

/// Which rows a node that has to be filled asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Rows {
    /// Those of a partition, held as home replica.
    Partition(Partition),
    /// The hints kept for a node, of all partitions.
    HintsFor(NodeId),
}

/// What the other answers. Any message can be answered with [`Reply::Refused`].
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
    /// The forwarded write is taken over.
    Accepted,
    /// What is held of a key; the objects lie one after the other in the payload.
    Inspection {
        /// Length of the own object in the payload; `None` if there is none.
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
    /// The asker came back behind what is remembered of it (see [`crate::generation`]).
    Behind(Remembered),
    /// Bucket records after the merge.
    Buckets {
        /// All of them if they were asked for, else none.
        table: Table,
    },
    /// Rows in order. Fewer than asked: the end.
    Rows {
        /// What the payload holds (see [`crate::packed`]).
        rows: Lengths,
        /// Whether there is nothing after them.
        end: bool,
    },
    /// The trees, by their place in the question, that differ. Those that the sender does not hold
    /// or has not received are left out.
    Differing {
        /// Places in the list of roots.
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
    /// The rows that were still so are deleted.
    Reaped {
        /// How many.
        rows: u32,
    },
    /// So many hints are welcome now.
    Room {
        /// How many; 0 for "ask later".
        rows: u32,
    },
    /// The mark of the hints that are kept now.
    SyncPoint {
        /// This start of the node: marks of another one mean nothing.
        nonce: u64,
        /// The mark.
        mark: u64,
    },
    /// The nodes whose hints of the mark are not all delivered; `None` if the node was started anew
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
        /// Places in the list of hints, and why.
        refused: Vec<(u16, Refusal)>,
    },
    /// What the node distrusts.
    Distrusted(Box<Distrusted>),
    /// The object is longer than the asker has room for.
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
    /// It could not carry the message out; its log says why.
    #[error("failed")]
    Failed,
    /// The message makes no sense to it.
    #[error("malformed")]
    Malformed,
    /// The object was too long on its way (see [`crate::reap`]).
    #[error("too long on its way")]
    Stale,
    /// Another process of the asker's name was heard a moment ago (see [`crate::generation`]).
    #[error("another process of that name is alive")]
    NameTaken,
}

/// Live keys of a bucket as one node knows them.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct KeyPage {
    /// The keys in order, each with the version of its row and whether that needs no settling: one
    /// value and no conflict.
    pub keys: Vec<(Key, Version, bool)>,
    /// Whether nothing comes after them.
    pub is_end: bool,
    /// Partitions of which the node is a home replica that it has not received.
    pub not_ready: Vec<Partition>,
}

/// A node's state as it tells its peers.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Status {
    /// The cluster's formation, if the node has recorded one.
    pub formation: Option<Formation>,
    /// Whether it has received all its partitions.
    pub ready: bool,
    /// What it holds of each.
    pub holdings: Holdings,
    /// Whether it takes writes.
    pub writable: bool,
    /// The hash of its bucket table.
    pub buckets_hash: u64,
    /// Its release.
    pub release: String,
    /// Its start.
    pub start: Start,
    /// The settings that all nodes must have alike.
    pub common: Common,
    /// Since when, by its wall clock, it has remembered the starts of its peers without a gap.
    pub remembers_since: Millis,
    /// Its wall clock, uncorrected (see [`crate::skew`]).
    pub clock: Millis,
    /// Whether it waits for an operator to decide about data that it does not believe by itself.
    pub waits: bool,
    /// In an answer: it remembered an earlier start of the asker, and the asker goes on from there.
    pub attests: bool,
    /// The longest frame it takes, in bytes: what would not fit is not written, since it could not be
    /// brought to this node.
    pub frame_bytes_max: u64,
}

/// One client write as it travels from entry node to coordinator.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Write {
    /// Of which key.
    pub key: Key,
    /// What to write. The value travels as the payload.
    pub draft: Draft,
    /// Whether there is a value (else it is a delete).
    pub has_value: bool,
    /// What the client asked of N and W: held against the bucket by the node that takes the home
    /// replicas too (see [`crate::terms`]).
    pub asked: Asked,
    /// What must hold for the write to happen.
    pub condition: Option<Condition>,
    /// Delete what a read shows (a DELETE without a context).
    pub delete_seen: bool,
    /// A hash of `Idempotency-Key`, bucket and key, if the client sent one.
    pub idempotency: Option<[u8; 16]>,
    /// How long the answer may take, in milliseconds from when the write is accepted.
    pub timeout_ms: u32,
    /// Whether the answer carries the object.
    pub return_body: bool,
}

impl Write {
    /// Whether the write must meet others like it at the first healthy home replica: a conditional or
    /// idempotent one (docs/decisions/0003).
    pub fn meets_others(&self) -> bool {
        self.condition.is_some() || self.idempotency.is_some()
    }

    /// Which home replica a narrowed write asks before the others: the node that has it, which saves a
    /// hop, unless the write must meet others.
    pub fn asked_first(&self, me: NodeId) -> Option<NodeId> {
        (!self.meets_others()).then_some(me)
    }
}

/// A condition on what is stored, checked after a read of R. Advisory, not linearizable.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Condition {
    /// `If-None-Match: *`: nothing alive may be stored.
    Absent,
    /// `If-Match: *`: something alive must be stored.
    Present,
    /// `If-Match: "<etag>"`: the object must have one of these versions.
    Version(Vec<Version>),
}

/// Whether an unsuccessful write left something behind.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Outcome {
    /// A copy is known to be stored; it may still spread.
    Partial,
    /// Somebody was silent and may have stored a copy.
    Unknown,
    /// Certainly nothing was stored.
    NotApplied,
}

/// What became of a write.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum WriteAnswer {
    /// W nodes hold it.
    Written(WrittenAnswer),
    /// Fewer do.
    NoQuorum {
        /// W.
        required: u16,
        /// Who does.
        acks: Acks,
        /// Whether something was left behind.
        outcome: Outcome,
    },
    /// The read before the write found fewer than R replicas; nothing was written.
    NoReadQuorum {
        /// R.
        required: u16,
        /// How many could say.
        counted: u16,
    },
    /// The condition does not hold; nothing was written.
    ConditionFailed,
    /// The `Idempotency-Key` was used for another request; nothing was written.
    KeyReused,
    /// The coordinator refused the write; nothing was written.
    Refused(MintError),
    /// The coordinator could not write; nothing was written.
    Unable(Refusal),
    /// What was asked of N and W does not fit the bucket as the coordinator knows it; nothing was written.
    Unfit(QuorumError),
}

/// A successful write, counted.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct WrittenAnswer {
    /// Distinct nodes that hold it and count towards W.
    pub acks: u16,
    /// Of these, hints.
    pub hints: u16,
    /// Siblings at the coordinator after the write (as shown to clients).
    pub siblings: u32,
    /// The write's dot; `None` if there was nothing to delete.
    pub dot: Option<Dot>,
    /// The object's version at the coordinator.
    pub version: Version,
    /// What the writer may take as its context: only when its write is the one sibling left.
    pub seen: Option<Seen>,
}

/// A message or reply with its payload.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct WithPayload<T> {
    /// The head.
    pub head: T,
    /// The bytes beside it; empty if it needs none.
    pub payload: Bytes,
}

impl<T> WithPayload<T> {
    /// A head without a payload.
    pub fn bare(head: T) -> Self {
        Self { head, payload: Bytes::new() }
    }
}
