//! Maps the errors of inner layers to problems. Each enum is matched exhaustively, so that a new
//! case cannot be forgotten.

use quorate_protocol::context::ContextError;
use quorate_protocol::message::{Outcome, Refusal};
use quorate_protocol::name::NodeId;
use quorate_protocol::put::Acks;
use quorate_protocol::row::MintError;
use serde_json::{Value, json};

use super::problem::{Kind, Problem};
use crate::http::framing::HeadError;
use quorate_engine::limits::admission::Overload;
use quorate_engine::node::Unavailable;
use quorate_engine::ops::entry::ReadFailure;
use quorate_engine::ops::replica::refusal_of;

impl From<Unavailable> for Problem {
    fn from(why: Unavailable) -> Self {
        let detail = why.to_string();
        match why {
            Unavailable::NotFormed => Self::new(Kind::NotFormed, detail),
            Unavailable::Removed => Self::new(Kind::Removed, detail),
            Unavailable::Asking | Unavailable::OldRows => Self::new(Kind::NotReady, detail),
            Unavailable::Stopping => Self::new(Kind::Stopping, detail),
            Unavailable::Store { .. } => Self::new(Kind::NotReady, detail),
        }
    }
}

impl From<HeadError> for Problem {
    fn from(error: HeadError) -> Self {
        match error {
            HeadError::Target(detail) => Self::bad_path(detail),
            HeadError::TargetTooLong(max) => {
                let detail = format!("a path with its parameters may have at most {max} bytes");
                Self::new(Kind::TargetTooLong, detail).fact("max", max)
            }
            HeadError::Malformed(detail) => Self::new(Kind::BadRequest, detail),
            HeadError::TooLarge(max) => {
                let detail = format!("the request line and headers may have at most {max} bytes");
                Self::new(Kind::HeadTooLarge, detail).fact("max", max)
            }
            HeadError::TooManyHeaders(max) => {
                let detail = format!("a request may have at most {max} headers");
                Self::new(Kind::HeadTooLarge, detail).fact("max", max)
            }
            HeadError::TooSlow(max_ms) => {
                let detail = format!("the head did not arrive within {max_ms} ms");
                Self::new(Kind::HeadTooSlow, detail)
            }
        }
    }
}

impl From<ContextError> for Problem {
    fn from(error: ContextError) -> Self {
        Self::new(Kind::BadContext, error.to_string()).fact("header", "Quorate-Context")
    }
}

impl From<ReadFailure> for Problem {
    fn from(failure: ReadFailure) -> Self {
        let ReadFailure { required, counted, refused, silent, overload } = failure;
        if let Some(overload) = overload {
            return overload.into();
        }
        let detail = format!("{counted} of the {required} required replicas answered");
        Self::new(Kind::NoReadQuorum, detail)
            .fact("required", required)
            .fact("acks", counted)
            .fact("refused", names(&refused))
            .fact("silent", names(&silent))
    }
}

impl From<MintError> for Problem {
    fn from(error: MintError) -> Self {
        let detail = error.to_string();
        match error {
            MintError::TooManySiblings { siblings, max } => {
                Self::new(Kind::TooManySiblings, detail).fact("siblings", siblings).fact("max", max)
            }
            MintError::ObjectTooLarge { bytes, max } => {
                Self::new(Kind::ObjectTooLarge, detail).fact("bytes", bytes).fact("max", max)
            }
            MintError::ClockFull { max } => Self::new(Kind::ClockFull, detail).fact("max", max),
            MintError::Overtaken => Self::new(Kind::ConditionFailed, detail),
            MintError::WrongType { .. } => Self::new(Kind::WrongType, detail),
            MintError::ContextAhead => Self::new(Kind::ContextAhead, detail),
            MintError::TooManyParts { parts, max } => {
                Self::new(Kind::ObjectTooLarge, detail).fact("parts", parts).fact("max", max)
            }
            MintError::PartsTooLarge { bytes, max } => {
                Self::new(Kind::ObjectTooLarge, detail).fact("bytes", bytes).fact("max", max)
            }
            MintError::CounterFull => Self::new(Kind::CounterFull, detail),
        }
    }
}

impl From<Refusal> for Problem {
    fn from(refusal: Refusal) -> Self {
        let (kind, detail) = match refusal {
            Refusal::Busy => (Kind::Overloaded, "the replica that would take the write is busy"),
            Refusal::NotFormed => (Kind::NotFormed, "the replica is not part of a formed cluster"),
            Refusal::ReadOnly => {
                (Kind::DiskFull, "the disk is full, read-only or failing; reads are still served")
            }
            Refusal::HintsFull => {
                (Kind::HintsFull, "no home replica can be reached and the hint store is full")
            }
            Refusal::Stopping => (Kind::Stopping, "the replica is stopping"),
            Refusal::NameTaken => (Kind::NotReady, "another process of the same name is alive"),
            Refusal::Failed => (Kind::Failed, "the replica failed to do it; its log says why"),
            Refusal::Stale => (Kind::Failed, "the object spent too long in transit to the replica"),
            Refusal::Malformed => (Kind::Internal, "the replica could not parse the request"),
            Refusal::Unsupported => {
                (Kind::Failed, "the replica's release does not know the message; upgrade it")
            }
            Refusal::OtherEpoch => {
                (Kind::NotReady, "the cluster's layout is changing at this moment; try again")
            }
            Refusal::NoMember => {
                (Kind::NotReady, "one of two nodes was removed from the cluster, or sworn dead")
            }
        };
        Self::new(kind, detail)
    }
}

/// The node's own store returned an error.
pub(super) fn of_store(error: &quorate_storage::Error) -> Problem {
    refusal_of(error).into()
}

/// 503: W was not met.
pub(super) fn no_quorum(required: u16, n: u16, acks: &Acks, outcome: Outcome) -> Problem {
    let left_behind = match outcome {
        Outcome::Partial => "a copy is stored and may still spread",
        Outcome::Unknown => "a silent replica may have stored a copy",
        Outcome::NotApplied => "nothing was stored",
    };
    let detail = format!("{} of {required} acknowledgements; {left_behind}", acks.counted);
    Problem::new(Kind::NoQuorum, detail)
        .fact("required", required)
        .fact("acks", acks.counted)
        .fact("hints", acks.hints)
        .fact("replicas", n)
        .fact("refused", names(&acks.refused))
        .fact("silent", names(&acks.silent))
        .fact("down", names(&acks.down))
        .fact("outcome", outcome_name(outcome))
}

/// 503: the read before a conditional write or a blind DELETE reached fewer than R replicas.
pub(super) fn no_read_before_write(required: u16, counted: u16) -> Problem {
    let detail = format!(
        "{counted} of the {required} required replicas answered the read before the write; \
         nothing was stored"
    );
    Problem::new(Kind::NoReadQuorum, detail)
        .fact("required", required)
        .fact("acks", counted)
        .fact("outcome", outcome_name(Outcome::NotApplied))
}

fn outcome_name(outcome: Outcome) -> &'static str {
    match outcome {
        Outcome::Partial => "partial",
        Outcome::Unknown => "unknown",
        Outcome::NotApplied => "not_applied",
    }
}

fn names(nodes: &[NodeId]) -> Value {
    json!(nodes)
}

impl From<Overload> for Problem {
    fn from(overload: Overload) -> Self {
        Self::new(Kind::Overloaded, format!("{overload}; nothing was done"))
    }
}
