//! Exit codes, and the failure of a command: what went wrong, and what to do next.

use serde_json::{Value, json};

/// What a command ends with. The numbers are documented in `quorate --help` and do not change.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Exit {
    /// Done.
    Ok = 0,
    /// It failed, or a check found something wrong.
    Failed = 1,
    /// The command line, or what it asks for, is invalid; nothing was done.
    Usage = 2,
    /// There is no such key, sibling or trace.
    NotFound = 3,
    /// The key has several siblings, or another write or change came first.
    Conflict = 4,
    /// Too few nodes answered, or none; nothing was changed.
    Unavailable = 5,
    /// A write failed in a way that may have left a copy, which may still spread.
    Unknown = 6,
    /// `wait` or `get --wait` gave up.
    TimedOut = 7,
    /// The node wants a token, or the token does not allow it; nothing was done.
    Denied = 8,
}

/// The exit codes, as `--help` shows them.
pub const EXIT_CODES: &str = "\
Exit codes:
  0  done
  1  it failed, or a check found something wrong
  2  the command line or what it asks for is invalid; nothing was done
  3  no such key, sibling or trace
  4  the key has several siblings, or another write or change came first
  5  too few nodes answered, or none; nothing was changed
  6  unknown outcome: a write failed, but may have left a copy that still spreads
  7  `wait`, `layout wait` or `get --wait` gave up
  8  the node wants a token, or the token does not allow it; nothing was done";

impl Exit {
    /// The stable name that `--json` shows.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Ok => "ok",
            Self::Failed => "failed",
            Self::Usage => "usage",
            Self::NotFound => "not_found",
            Self::Conflict => "conflict",
            Self::Unavailable => "unavailable",
            Self::Unknown => "unknown_outcome",
            Self::TimedOut => "timed_out",
            Self::Denied => "denied",
        }
    }
}

/// Why a command ended early.
#[derive(Debug)]
pub(crate) enum Stop {
    /// It failed.
    Failed(Box<Failure>),
    /// Whoever read its output has gone: no error (`quorate keys b | head`).
    ClosedPipe,
}

/// A failure.
#[derive(Debug)]
pub(crate) struct Failure {
    /// The exit code.
    pub(crate) exit: Exit,
    /// What went wrong, in one sentence or a few.
    pub(crate) message: String,
    /// What to do next, if that is known.
    pub(crate) advice: Option<String>,
    /// What the node said, if it answered with a problem.
    pub(crate) problem: Option<Value>,
}

/// The result of a command or a part of one.
pub(crate) type Done<T = ()> = Result<T, Stop>;

impl Failure {
    pub(crate) fn new(exit: Exit, message: impl Into<String>) -> Self {
        Self { exit, message: message.into(), advice: None, problem: None }
    }

    pub(crate) fn usage(message: impl Into<String>) -> Self {
        Self::new(Exit::Usage, message)
    }

    pub(crate) fn advise(mut self, advice: impl Into<String>) -> Self {
        self.advice = Some(advice.into());
        self
    }

    /// `{"error": {"exit", "name", "message", "advice", "problem"}}`.
    pub(crate) fn json(&self) -> Value {
        json!({"error": {
            "exit": self.exit as u8,
            "name": self.exit.name(),
            "message": self.message,
            "advice": self.advice,
            "problem": self.problem,
        }})
    }
}

impl From<Failure> for Stop {
    fn from(failure: Failure) -> Self {
        Self::Failed(Box::new(failure))
    }
}
