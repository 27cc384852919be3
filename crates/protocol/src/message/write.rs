//! A client's write on its way to a coordinator, and the result on its way back.

use serde::{Deserialize, Serialize};

use super::Refusal;
use crate::clock::Dot;
use crate::context::Context;
use crate::name::{Key, NodeId};
use crate::object::Version;
use crate::put::Acks;
use crate::quorum::QuorumError;
use crate::row::{Draft, MintError};
use crate::terms::QuorumOptions;

/// One client write as it travels from entry node to coordinator.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Write {
    /// The key.
    pub key: Key,
    /// What to write. The value travels as the payload.
    pub draft: Draft,
    /// Whether there is a value (else it is a delete).
    pub has_value: bool,
    /// The N and W that the client asked for: checked against the bucket by the node that also
    /// picks the home replicas (see [`crate::terms`]).
    pub asked: QuorumOptions,
    /// What must hold for the write to happen.
    pub condition: Option<Condition>,
    /// Delete what a read finds (a DELETE without a context).
    pub delete_seen: bool,
    /// A hash of `Idempotency-Key`, bucket and key, if the client sent one.
    pub idempotency: Option<[u8; 16]>,
    /// How long the answer may take, in milliseconds from when the write is accepted.
    pub timeout_ms: u32,
    /// Whether the answer carries the object.
    pub return_body: bool,
    /// The entry node's number for the write's trace, if the client wants it explained: the coordinator
    /// then answers with [`super::Data::Explained`].
    pub explain: Option<u64>,
}

impl Write {
    /// Whether the write must go to the first healthy home replica, where it meets concurrent
    /// writes of its kind: conditional and idempotent ones (docs/decisions/0003).
    pub fn needs_first_home(&self) -> bool {
        self.condition.is_some() || self.idempotency.is_some()
    }

    /// Which home replica a write with a lowered n asks first: the node that has the request, which
    /// saves a hop, unless the write must meet others.
    pub fn preferred_home(&self, me: NodeId) -> Option<NodeId> {
        (!self.needs_first_home()).then_some(me)
    }
}

/// A condition on what is stored, checked after a read of R. Advisory, not linearizable.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Condition {
    /// `If-None-Match: *`: no live value may be stored.
    Absent,
    /// `If-Match: *`: a live value must be stored.
    Present,
    /// `If-Match: "<etag>"`: the object must have one of these versions.
    Version(Vec<Version>),
}

/// Whether an unsuccessful write left a copy behind.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Outcome {
    /// A copy is known to be stored; it may still spread.
    Partial,
    /// A node did not answer and may have stored a copy.
    Unknown,
    /// Certainly nothing was stored.
    NotApplied,
}

/// The result of a write.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum WriteAnswer {
    /// W nodes hold it.
    Written(WrittenAnswer),
    /// Fewer do.
    NoQuorum {
        /// W.
        required: u16,
        /// Which nodes do.
        acks: Acks,
        /// Whether a copy was left behind.
        outcome: Outcome,
    },
    /// The read before the write found fewer than R replicas; nothing was written.
    NoReadQuorum {
        /// R.
        required: u16,
        /// How many answered.
        counted: u16,
    },
    /// The condition does not hold; nothing was written.
    ConditionFailed,
    /// The `Idempotency-Key` was used for another request; nothing was written.
    IdempotencyKeyReused,
    /// The coordinator refused the write; nothing was written.
    Refused(MintError),
    /// The coordinator was unable to write; nothing was written.
    Unavailable(Refusal),
    /// The requested N and W do not fit the bucket as the coordinator knows it; nothing was
    /// written.
    InvalidQuorum(QuorumError),
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
    /// The context for the writer: only if its write is the only sibling left.
    pub seen: Option<Context>,
}
