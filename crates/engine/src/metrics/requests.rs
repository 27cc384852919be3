//! Counts and latencies of answered requests.

use std::time::Duration;

use quorate_storage::Durations;

use crate::metrics::counter::Counter;
use crate::metrics::desc::{Desc, Section};
use crate::metrics::text::Writer;

const REQUESTS: Desc =
    Desc::counter("quorate_requests_total", "Client requests answered, by operation and result")
        .by(&["operation", "result"])
        .means(
            "The rate of `no_quorum`, `overloaded`, `unavailable`, `no_space` and `failed` is what \
             clients see of trouble; much `siblings` means that clients do not send contexts back, or \
             do not resolve conflicts.",
        );
const TIMES: Desc = Desc::histogram(
    "quorate_request_duration_seconds",
    "Time from a request's head to its answer, by operation",
)
.by(&["operation"])
.means(
    "The time that clients wait, without the network to them. For large values the head of the answer \
     counts, not its end. `quorate_phase_duration_seconds` says where the time goes.",
);

/// The metrics written here.
pub const SECTION: Section = Section {
    title: "Requests",
    about: "Requests of clients, counted by the node that they reached (the entry node).",
    metrics: &[REQUESTS, TIMES],
};

/// The kinds of request that are counted separately.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Operation {
    /// GET or HEAD of a key.
    Get,
    /// PUT of a key.
    Put,
    /// DELETE of a key.
    Delete,
    /// Inspection and listing of conflicts.
    Siblings,
    /// Resolution of a conflict.
    Resolve,
    /// Listing of keys.
    Keys,
    /// Bucket properties.
    Buckets,
    /// Ring, cluster, health, metrics, and everything else.
    Other,
}

impl Operation {
    const ALL: [Self; 8] = [
        Self::Get,
        Self::Put,
        Self::Delete,
        Self::Siblings,
        Self::Resolve,
        Self::Keys,
        Self::Buckets,
        Self::Other,
    ];

    fn name(self) -> &'static str {
        match self {
            Self::Get => "get",
            Self::Put => "put",
            Self::Delete => "delete",
            Self::Siblings => "siblings",
            Self::Resolve => "resolve",
            Self::Keys => "keys",
            Self::Buckets => "buckets",
            Self::Other => "other",
        }
    }
}

/// How a request ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// As asked.
    Ok,
    /// With all siblings of a conflict.
    Siblings,
    /// There is no such thing, or no longer.
    NotFound,
    /// What is stored is not what the request required.
    PreconditionFailed,
    /// The request was wrong.
    ClientError,
    /// The key takes no more siblings, bytes or writers.
    KeyFull,
    /// Fewer than R or W replicas.
    NoQuorum,
    /// A limit of this node is reached.
    Overloaded,
    /// This node takes no such requests at the moment.
    Unavailable,
    /// No room, on a disk or for another bucket.
    NoSpace,
    /// Something failed.
    Failed,
}

impl Outcome {
    const ALL: [Self; 11] = [
        Self::Ok,
        Self::Siblings,
        Self::NotFound,
        Self::PreconditionFailed,
        Self::ClientError,
        Self::KeyFull,
        Self::NoQuorum,
        Self::Overloaded,
        Self::Unavailable,
        Self::NoSpace,
        Self::Failed,
    ];

    /// The outcome of an answer that is no problem of a known kind.
    pub fn of_status(status: u16) -> Self {
        match status {
            300 => Self::Siblings,
            404 => Self::NotFound,
            503 => Self::Unavailable,
            ..400 => Self::Ok,
            400..500 => Self::ClientError,
            500.. => Self::Failed,
        }
    }

    fn name(self) -> &'static str {
        match self {
            Self::Ok => "ok",
            Self::Siblings => "siblings",
            Self::NotFound => "not_found",
            Self::PreconditionFailed => "precondition_failed",
            Self::ClientError => "client_error",
            Self::KeyFull => "key_full",
            Self::NoQuorum => "no_quorum",
            Self::Overloaded => "overloaded",
            Self::Unavailable => "unavailable",
            Self::NoSpace => "no_space",
            Self::Failed => "failed",
        }
    }
}

/// Counts and latencies of answered requests.
#[derive(Debug, Default)]
pub struct Requests {
    /// By operation and outcome, so that counting needs no lookup.
    counts: [[Counter; Outcome::ALL.len()]; Operation::ALL.len()],
    times: [Durations; Operation::ALL.len()],
}

impl Requests {
    /// Records one answered request.
    pub fn answered(&self, operation: Operation, outcome: Outcome, took: Duration) {
        self.counts[operation as usize][outcome as usize].add(1);
        self.times[operation as usize].record(took);
    }

    /// Records a request that was refused before it could be read.
    pub fn refused(&self, outcome: Outcome) {
        self.counts[Operation::Other as usize][outcome as usize].add(1);
    }

    /// Writes them.
    pub fn write(&self, out: &mut Writer) {
        let mut counts = out.metric(&REQUESTS);
        for operation in Operation::ALL {
            for outcome in Outcome::ALL {
                let count = self.counts[operation as usize][outcome as usize].get();
                counts.value(&[operation.name(), outcome.name()], count);
            }
        }
        let mut times = out.metric(&TIMES);
        for operation in Operation::ALL {
            times.durations(&[operation.name()], &self.times[operation as usize].counts());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::metrics::text::Format;

    #[test]
    fn what_was_answered_is_counted_by_operation_and_outcome() {
        let requests = Requests::default();
        for (place, operation) in Operation::ALL.into_iter().enumerate() {
            assert_eq!(place, operation as usize);
        }
        for (place, outcome) in Outcome::ALL.into_iter().enumerate() {
            assert_eq!(place, outcome as usize);
        }
        requests.answered(Operation::Put, Outcome::Ok, Duration::from_millis(3));
        requests.answered(Operation::Put, Outcome::NoQuorum, Duration::from_millis(3));
        requests.refused(Outcome::ClientError);
        let mut out = Writer::new(Format::Text);
        requests.write(&mut out);
        let text = out.finish();
        for line in [
            r#"quorate_requests_total{operation="put",result="ok"} 1"#,
            r#"quorate_requests_total{operation="put",result="no_quorum"} 1"#,
            r#"quorate_requests_total{operation="get",result="ok"} 0"#,
            r#"quorate_requests_total{operation="other",result="client_error"} 1"#,
            r#"quorate_request_duration_seconds_count{operation="put"} 2"#,
            r#"quorate_request_duration_seconds_count{operation="other"} 0"#,
        ] {
            assert!(text.contains(line), "{line} is not in\n{text}");
        }
    }

    #[test]
    fn a_status_alone_tells_most() {
        let found = [101, 204, 300, 304, 404, 405, 500, 503, 507].map(Outcome::of_status);
        use Outcome::{ClientError, Failed, NotFound, Ok, Siblings, Unavailable};
        let wanted = [Ok, Ok, Siblings, Ok, NotFound, ClientError, Failed, Unavailable, Failed];
        assert_eq!(found, wanted);
    }
}
