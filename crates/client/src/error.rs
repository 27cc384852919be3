//! What can go wrong, by what the caller can do about it.

use std::time::Duration;

use crate::problem::Problem;

/// What a failed write may have left behind.
///
/// Ordered by what must be assumed: a request that was tried several times has the greatest of its
/// attempts' outcomes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Outcome {
    /// Nothing was stored, and nothing will be.
    NotApplied,
    /// It is not known whether anything was stored: a node was silent, or an answer was lost.
    Unknown,
    /// A copy is known to be stored, on fewer nodes than were asked for. It may still spread.
    Partial,
}

impl Outcome {
    /// Reads the `outcome` of a problem; `None` for any other text.
    pub(crate) fn parse(text: &str) -> Option<Self> {
        match text {
            "not_applied" => Some(Self::NotApplied),
            "unknown" => Some(Self::Unknown),
            "partial" => Some(Self::Partial),
            _ => None,
        }
    }
}

/// Why a call failed.
///
/// Every error answers [`Error::outcome`]: for a write, what it may have left behind over all of its
/// attempts; for anything else [`Outcome::NotApplied`].
#[derive(Clone, Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// Fewer replicas acknowledged a write than were asked for.
    #[error("{problem}")]
    NoQuorum {
        /// What the write left behind.
        outcome: Outcome,
        /// How many acknowledgements were needed (W).
        required: u64,
        /// How many arrived at the last attempt.
        acks: u64,
        /// The node's answer; it names the nodes that refused, were silent or are down.
        problem: Box<Problem>,
    },
    /// Fewer replicas answered a read than were asked for, or the read that a conditional write or a
    /// delete makes first.
    #[error("{problem}")]
    NoReadQuorum {
        /// What a write left behind.
        outcome: Outcome,
        /// How many answers were needed (R).
        required: u64,
        /// How many arrived at the last attempt.
        acks: u64,
        /// The node's answer.
        problem: Box<Problem>,
    },
    /// The node has too much to do, or too many hints to keep, and refused at once.
    #[error("{problem}")]
    Overloaded {
        /// What a write left behind.
        outcome: Outcome,
        /// How long the node asks to wait.
        retry_after: Option<Duration>,
        /// The node's answer.
        problem: Box<Problem>,
    },
    /// The node takes no requests: it starts, stops, waits for an operator, or its cluster was never
    /// formed.
    #[error("{problem}")]
    NotReady {
        /// What a write left behind.
        outcome: Outcome,
        /// How long the node asks to wait.
        retry_after: Option<Duration>,
        /// The node's answer.
        problem: Box<Problem>,
    },
    /// A node could not carry out the request (`failed`, `internal`), or something before it failed
    /// (a status from 500 that no node gives).
    #[error("{problem}")]
    Failed {
        /// What a write left behind.
        outcome: Outcome,
        /// The node's answer.
        problem: Box<Problem>,
    },
    /// There is no room: a disk is full, or there are too many buckets.
    #[error("{problem}")]
    Full {
        /// What a write left behind.
        outcome: Outcome,
        /// The node's answer.
        problem: Box<Problem>,
    },
    /// The condition of a write (`if_absent`, `if_match`) does not hold.
    #[error("{problem}")]
    ConditionFailed {
        /// [`Outcome::NotApplied`], unless an earlier attempt of the same write was lost: a retry that
        /// meets its own first attempt on another node fails its condition.
        outcome: Outcome,
        /// The node's answer.
        problem: Box<Problem>,
    },
    /// The sibling to keep is no longer there: read again, decide again.
    #[error("{problem}")]
    SiblingGone {
        /// What the write left behind.
        outcome: Outcome,
        /// The node's answer.
        problem: Box<Problem>,
    },
    /// The key has too many siblings, too many bytes or a full clock: read, resolve, write back. A typed
    /// value has too many elements or bytes: remove some, or use several keys.
    #[error("{problem}")]
    KeyFull {
        /// What the write left behind.
        outcome: Outcome,
        /// The node's answer.
        problem: Box<Problem>,
    },
    /// What was asked for does not exist (sync points, explanations, routes of a newer release). A key
    /// that does not exist is no error but [`Read::Absent`](crate::Read::Absent).
    #[error("{problem}")]
    NotFound {
        /// The node's answer.
        problem: Box<Problem>,
    },
    /// The bucket keeps no changes, or not any more: give it
    /// [`feed_retention_s`](crate::BucketProperties::feed_retention_s).
    #[error("{problem}")]
    NoFeed {
        /// The node's answer.
        problem: Box<Problem>,
    },
    /// The feed's cursor is older than what is kept: changes have been missed. List all keys and read them,
    /// then go on with the cursor given here: see [`Feed`](crate::Feed#when-a-cursor-has-expired).
    #[error("{problem}")]
    CursorExpired {
        /// Where to go on once all keys have been read: for
        /// [`Feed::from_cursor`](crate::Feed::from_cursor).
        cursor: String,
        /// The node's answer.
        problem: Box<Problem>,
    },
    /// The token was not accepted (`unauthenticated`), or does not allow this (`forbidden`, whose `action`
    /// names what is missing).
    #[error("{problem}")]
    Denied {
        /// What a write left behind.
        outcome: Outcome,
        /// The node's answer.
        problem: Box<Problem>,
    },
    /// The context is damaged, or of another key or cluster: read the key again.
    #[error("{problem}")]
    BadContext {
        /// What a write left behind.
        outcome: Outcome,
        /// The node's answer.
        problem: Box<Problem>,
    },
    /// The value is longer than the cluster takes.
    #[error("{problem}")]
    TooLarge {
        /// What a write left behind.
        outcome: Outcome,
        /// The node's answer; its `max` is the limit in bytes.
        problem: Box<Problem>,
    },
    /// The `Idempotency-Key` was used for another request.
    #[error("{problem}")]
    IdempotencyKeyReused {
        /// What a write left behind.
        outcome: Outcome,
        /// The node's answer.
        problem: Box<Problem>,
    },
    /// The bucket's values are of another type than the call is for, or the bucket has another type than
    /// it is to get: a type stays.
    #[error("{detail}")]
    WrongType {
        /// What a write left behind.
        outcome: Outcome,
        /// Which type the bucket has, and which was expected.
        detail: String,
        /// The node's answer. None if the node answered, and the client noticed.
        problem: Option<Box<Problem>>,
    },
    /// A bucket gets a type only while it has no keys.
    #[error("{problem}")]
    BucketNotEmpty {
        /// [`Outcome::NotApplied`].
        outcome: Outcome,
        /// The node's answer.
        problem: Box<Problem>,
    },
    /// What removes from a typed value needs the context of a read: read, and remove from what was read. Of
    /// a key that was never written there is nothing to remove.
    #[error("{problem}")]
    ContextNeeded {
        /// What a write left behind.
        outcome: Outcome,
        /// The node's answer.
        problem: Box<Problem>,
    },
    /// The node did not find all that the context covers: read again, and use what that gives.
    #[error("{problem}")]
    ContextAhead {
        /// What a write left behind.
        outcome: Outcome,
        /// The node's answer.
        problem: Box<Problem>,
    },
    /// A counter has counted so far that this increment does not fit: use another key.
    #[error("{problem}")]
    CounterFull {
        /// What a write left behind.
        outcome: Outcome,
        /// The node's answer.
        problem: Box<Problem>,
    },
    /// The request itself is wrong: see the problem's name, and its `parameter` or `header`.
    #[error("{problem}")]
    BadRequest {
        /// What a write left behind.
        outcome: Outcome,
        /// The node's answer.
        problem: Box<Problem>,
    },
    /// No answer within the deadline.
    #[error("no answer within {} ms, {attempts} attempts{}", after.as_millis(), last_of(last.as_deref()))]
    TimedOut {
        /// [`Outcome::Unknown`] at the least, for a write that was sent.
        outcome: Outcome,
        /// The deadline, counted from the call.
        after: Duration,
        /// How often a request was sent.
        attempts: u32,
        /// What the last attempt that ended before the deadline reported.
        last: Option<Box<Error>>,
    },
    /// No node could be reached, or every connection broke before the end of an answer.
    #[error("{node}: {detail}")]
    Unreachable {
        /// [`Outcome::NotApplied`] if no connection could be made, else [`Outcome::Unknown`] for a
        /// write.
        outcome: Outcome,
        /// The URL of the node that was tried last.
        node: String,
        /// What the network said.
        detail: String,
    },
    /// What answered is no node, or does not speak as one: another type, unreadable JSON, a value without
    /// its context, more bytes than are held in memory.
    #[error("{node}: {detail}")]
    BadAnswer {
        /// [`Outcome::Unknown`] for a write.
        outcome: Outcome,
        /// The URL that answered.
        node: String,
        /// What is wrong with the answer.
        detail: String,
    },
    /// The call cannot be made into a request, or the stream of its value failed; nothing was stored.
    #[error("{what}: {detail}")]
    Invalid {
        /// The argument or setting.
        what: &'static str,
        /// What is wrong with it, and what is accepted.
        detail: String,
    },
    /// An update met siblings that it may not or could not resolve within its rounds.
    #[error(
        "the key has {siblings} siblings after {rounds} rounds; give the update a resolver, or \
             resolve them by hand"
    )]
    Conflict {
        /// How many siblings were there.
        siblings: usize,
        /// How many rounds were made.
        rounds: u32,
        /// Whether the change is among them: it was stored, beside a concurrent one.
        applied: bool,
    },
}

fn last_of(last: Option<&Error>) -> String {
    last.map(|last| format!("; last: {last}")).unwrap_or_default()
}

/// Sets the outcome of the variants that have one.
macro_rules! with_outcome {
    ($error:expr, $outcome:ident => $use:expr, else $none:expr) => {
        match $error {
            Error::NoQuorum { outcome: $outcome, .. }
            | Error::NoReadQuorum { outcome: $outcome, .. }
            | Error::Overloaded { outcome: $outcome, .. }
            | Error::NotReady { outcome: $outcome, .. }
            | Error::Failed { outcome: $outcome, .. }
            | Error::Full { outcome: $outcome, .. }
            | Error::ConditionFailed { outcome: $outcome, .. }
            | Error::SiblingGone { outcome: $outcome, .. }
            | Error::KeyFull { outcome: $outcome, .. }
            | Error::Denied { outcome: $outcome, .. }
            | Error::BadContext { outcome: $outcome, .. }
            | Error::TooLarge { outcome: $outcome, .. }
            | Error::IdempotencyKeyReused { outcome: $outcome, .. }
            | Error::WrongType { outcome: $outcome, .. }
            | Error::BucketNotEmpty { outcome: $outcome, .. }
            | Error::ContextNeeded { outcome: $outcome, .. }
            | Error::ContextAhead { outcome: $outcome, .. }
            | Error::CounterFull { outcome: $outcome, .. }
            | Error::BadRequest { outcome: $outcome, .. }
            | Error::TimedOut { outcome: $outcome, .. }
            | Error::Unreachable { outcome: $outcome, .. }
            | Error::BadAnswer { outcome: $outcome, .. } => $use,
            Error::NotFound { .. }
            | Error::NoFeed { .. }
            | Error::CursorExpired { .. }
            | Error::Invalid { .. }
            | Error::Conflict { .. } => $none,
        }
    };
}

impl Error {
    /// What a failed write may have left behind, over all of its attempts. [`Outcome::NotApplied`] for
    /// a read. An update whose change was stored as a sibling is [`Outcome::Partial`].
    pub fn outcome(&self) -> Outcome {
        if matches!(self, Self::Conflict { applied: true, .. }) {
            return Outcome::Partial; // stored, but not as the only value
        }
        with_outcome!(self, outcome => *outcome, else Outcome::NotApplied)
    }

    /// The node's answer, if a node answered.
    pub fn problem(&self) -> Option<&Problem> {
        match self {
            Self::NoQuorum { problem, .. }
            | Self::NoReadQuorum { problem, .. }
            | Self::Overloaded { problem, .. }
            | Self::NotReady { problem, .. }
            | Self::Failed { problem, .. }
            | Self::Full { problem, .. }
            | Self::ConditionFailed { problem, .. }
            | Self::SiblingGone { problem, .. }
            | Self::KeyFull { problem, .. }
            | Self::NotFound { problem }
            | Self::NoFeed { problem }
            | Self::CursorExpired { problem, .. }
            | Self::Denied { problem, .. }
            | Self::BadContext { problem, .. }
            | Self::TooLarge { problem, .. }
            | Self::IdempotencyKeyReused { problem, .. }
            | Self::BucketNotEmpty { problem, .. }
            | Self::ContextNeeded { problem, .. }
            | Self::ContextAhead { problem, .. }
            | Self::CounterFull { problem, .. }
            | Self::BadRequest { problem, .. } => Some(problem),
            Self::WrongType { problem, .. } => problem.as_deref(),
            Self::TimedOut { last, .. } => last.as_ref().and_then(|last| last.problem()),
            Self::Unreachable { .. }
            | Self::BadAnswer { .. }
            | Self::Invalid { .. }
            | Self::Conflict { .. } => None,
        }
    }

    /// The same error, of a request that may have left behind at least this.
    pub(crate) fn at_least(mut self, least: Outcome) -> Self {
        with_outcome!(&mut self, outcome => *outcome = (*outcome).max(least), else ());
        self
    }

    /// The same error, of a request that changes nothing.
    pub(crate) fn of_read(mut self) -> Self {
        with_outcome!(&mut self, outcome => *outcome = Outcome::NotApplied, else ());
        self
    }

    /// An argument that cannot be sent.
    pub(crate) fn invalid(what: &'static str, detail: impl Into<String>) -> Self {
        Self::Invalid { what, detail: detail.into() }
    }
}
