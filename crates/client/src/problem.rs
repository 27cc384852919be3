//! A node's error answer: `application/problem+json` (RFC 9457), and the error it stands for.

use std::fmt;
use std::time::Duration;

use serde_json::{Map, Value};

use crate::answer::bad;
use crate::error::{Error, Outcome};

/// What every problem's `type` starts with.
const URN: &str = "urn:quorate:problem:";
/// The problem of a node that is no member of the cluster any more.
pub(crate) const REMOVED: &str = "removed";
/// The longest text of an answer that is kept, in characters: a hostile one may be long.
const TEXT_CHARS_MAX: usize = 2_000;

/// A node's error answer.
#[derive(Clone, Debug)]
pub struct Problem {
    name: String,
    title: String,
    detail: String,
    status: u16,
    facts: Map<String, Value>,
    node: String,
    head: Head,
}

/// What an error answer's headers say.
#[derive(Clone, Debug, Default)]
pub(crate) struct Head {
    /// The id under which the node's log has the request.
    pub(crate) request_id: Option<String>,
    /// The id of the request's trace.
    pub(crate) explain_id: Option<String>,
    /// How long the node asks to wait.
    pub(crate) retry_after: Option<Duration>,
}

impl Problem {
    /// Parses a body; `None` unless it is a problem of this store.
    pub(crate) fn parse(body: &[u8], status: u16, node: &str) -> Option<Self> {
        let Ok(Value::Object(mut facts)) = serde_json::from_slice(body) else { return None };
        let mut text = |name: &str| match facts.remove(name) {
            Some(Value::String(text)) => Some(cut(&text)),
            Some(_) | None => None,
        };
        let name = text("type")?.strip_prefix(URN)?.to_owned();
        let (title, detail) =
            (text("title").unwrap_or_default(), text("detail").unwrap_or_default());
        facts.remove("status"); // that of the answer counts
        let node = node.to_owned();
        Some(Self { name, title, detail, status, facts, node, head: Head::default() })
    }

    /// An answer that is none, but whose status says enough.
    pub(crate) fn of_status(status: u16, node: &str, detail: String) -> Self {
        let (name, node) = (String::new(), node.to_owned());
        let (title, facts) = (String::new(), Map::new());
        let (detail, head) = (cut(&detail), Head::default());
        Self { name, title, detail, status, facts, node, head }
    }

    /// With what the answer's headers say.
    pub(crate) fn with_head(self, head: Head) -> Self {
        Self { head, ..self }
    }

    /// The stable name, such as `bad_parameter`: the end of the problem's `type`. Empty if the answer was
    /// no problem that could be read, and only its status counts.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The same for every problem of the name.
    pub fn title(&self) -> &str {
        &self.title
    }

    /// What was wrong with this request.
    pub fn detail(&self) -> &str {
        &self.detail
    }

    /// The HTTP status.
    pub fn status(&self) -> u16 {
        self.status
    }

    /// A further member, such as `parameter`, `header`, `max`, `silent`.
    pub fn fact(&self, name: &str) -> Option<&Value> {
        self.facts.get(name)
    }

    /// All further members.
    pub fn facts(&self) -> &Map<String, Value> {
        &self.facts
    }

    /// The URL of the node that answered.
    pub fn node(&self) -> &str {
        &self.node
    }

    /// The id under which the node's log has the request.
    pub fn request_id(&self) -> Option<&str> {
        self.head.request_id.as_deref()
    }

    /// The id of the trace, if the request asked for one and got that far: see
    /// [`Admin::explanation`](crate::Admin::explanation). [`Problem::node`] keeps it.
    pub fn explain_id(&self) -> Option<&str> {
        self.head.explain_id.as_deref()
    }

    /// How long the node asks to wait before another attempt (`Retry-After`).
    pub fn retry_after(&self) -> Option<Duration> {
        self.head.retry_after
    }

    fn number(&self, name: &str) -> u64 {
        self.fact(name).and_then(Value::as_u64).unwrap_or(0)
    }

    /// The error that this answer stands for.
    pub(crate) fn into_error(self) -> Error {
        let retry_after = self.head.retry_after;
        let said = self.fact("outcome").and_then(Value::as_str).and_then(Outcome::parse);
        // A failure of the service that does not say what became of a write leaves it open.
        let outcome = said.unwrap_or(match self.status {
            500.. => Outcome::Unknown,
            _ => Outcome::NotApplied,
        });
        let (required, acks) = (self.number("required"), self.number("acks"));
        let problem = Box::new(self);
        match problem.name() {
            "no_quorum" => Error::NoQuorum { outcome, required, acks, problem },
            "no_read_quorum" => Error::NoReadQuorum { outcome, required, acks, problem },
            "overloaded" | "hints_full" => Error::Overloaded { outcome, retry_after, problem },
            "not_ready" | "not_formed" | "stopping" | "auth_stale" | REMOVED => {
                Error::NotReady { outcome, retry_after, problem }
            }
            "disk_full" | "buckets_full" => Error::Full { outcome, problem },
            "bad_context" => Error::BadContext { outcome, problem },
            "too_large" => Error::TooLarge { outcome, problem },
            "idempotency_key_reused" => Error::IdempotencyKeyReused { outcome, problem },
            "condition_failed" => Error::ConditionFailed { outcome, problem },
            "sibling_gone" => Error::SiblingGone { outcome, problem },
            "wrong_type" => {
                Error::WrongType { outcome, detail: problem.to_string(), problem: Some(problem) }
            }
            "bucket_not_empty" => Error::BucketNotEmpty { outcome, problem },
            "context_needed" => Error::ContextNeeded { outcome, problem },
            "context_ahead" => Error::ContextAhead { outcome, problem },
            "counter_full" => Error::CounterFull { outcome, problem },
            "no_feed" => Error::NoFeed { problem },
            "cursor_expired" => match problem.fact("cursor").and_then(Value::as_str) {
                Some(cursor) => Error::CursorExpired { cursor: cursor.to_owned(), problem },
                None => bad(problem.node(), "an expired cursor without one to go on with"),
            },
            "too_many_siblings" | "object_too_large" | "clock_full" => {
                Error::KeyFull { outcome, problem }
            }
            _ => match problem.status {
                401 | 403 => Error::Denied { outcome, problem },
                404 | 410 => Error::NotFound { problem },
                429 => Error::Overloaded { outcome, retry_after, problem },
                507 => Error::Full { outcome, problem },
                500.. => Error::Failed { outcome, problem },
                _ => Error::BadRequest { outcome, problem },
            },
        }
    }
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { node, name, detail, status, .. } = self;
        let (space, name) = if name.is_empty() { ("", "") } else { (" ", name.as_str()) };
        write!(f, "{node} answered {status}{space}{name}: {detail}")
    }
}

/// The first [`TEXT_CHARS_MAX`] characters.
pub(crate) fn cut(text: &str) -> String {
    match text.char_indices().nth(TEXT_CHARS_MAX) {
        Some((end, _)) => format!("{}…", &text[..end]),
        None => text.to_owned(),
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    fn error(body: &str, status: u16) -> Error {
        Problem::parse(body.as_bytes(), status, "http://n").unwrap().into_error()
    }

    fn named(name: &str, rest: &str) -> String {
        format!("{{\"type\":\"{URN}{name}\",\"title\":\"t\",\"detail\":\"d\",\"status\":1{rest}}}")
    }

    #[test]
    fn outcomes_are_kept_apart() {
        for (text, outcome) in [
            ("not_applied", Outcome::NotApplied),
            ("partial", Outcome::Partial),
            ("unknown", Outcome::Unknown),
        ] {
            let rest =
                format!(",\"outcome\":{text:?},\"required\":2,\"acks\":1,\"silent\":[\"n3\"]");
            let error = error(&named("no_quorum", &rest), 503);
            assert!(matches!(error, Error::NoQuorum { required: 2, acks: 1, .. }), "{error:?}");
            assert_eq!(error.outcome(), outcome);
            assert_eq!(error.problem().unwrap().fact("silent").unwrap()[0], "n3");
        }
        let silent = error(&named("internal", ""), 500);
        assert!(matches!(silent, Error::Failed { outcome: Outcome::Unknown, .. }), "{silent:?}");
        assert_eq!(error(&named("bad_path", ""), 400).outcome(), Outcome::NotApplied);
    }

    #[test]
    fn every_name_has_its_error() {
        let of = |name: &str, status| error(&named(name, ""), status);
        assert!(matches!(of("no_read_quorum", 503), Error::NoReadQuorum { .. }));
        assert!(matches!(of("overloaded", 503), Error::Overloaded { .. }));
        for name in ["not_ready", "not_formed", "stopping", "removed"] {
            assert!(matches!(of(name, 503), Error::NotReady { .. }));
        }
        assert!(matches!(of("hints_full", 503), Error::Overloaded { .. }));
        assert!(matches!(of("disk_full", 507), Error::Full { .. }));
        assert!(matches!(of("bad_context", 400), Error::BadContext { .. }));
        assert!(matches!(of("too_large", 413), Error::TooLarge { .. }));
        let reused = of("idempotency_key_reused", 422);
        assert!(matches!(reused, Error::IdempotencyKeyReused { .. }));
        assert!(matches!(of("condition_failed", 412), Error::ConditionFailed { .. }));
        assert!(matches!(of("sibling_gone", 409), Error::SiblingGone { .. }));
        assert!(matches!(of("clock_full", 422), Error::KeyFull { .. }));
        assert!(matches!(of("wrong_type", 409), Error::WrongType { problem: Some(_), .. }));
        assert_eq!(of("wrong_type", 409).problem().unwrap().name(), "wrong_type");
        assert!(matches!(of("bucket_not_empty", 409), Error::BucketNotEmpty { .. }));
        assert!(matches!(of("context_needed", 422), Error::ContextNeeded { .. }));
        assert!(matches!(of("context_ahead", 409), Error::ContextAhead { .. }));
        assert!(matches!(of("counter_full", 422), Error::CounterFull { .. }));
        assert!(matches!(of("no_such_sync_point", 404), Error::NotFound { .. }));
        assert!(matches!(of("no_feed", 409), Error::NoFeed { .. }));
        let expired = error(&named("cursor_expired", ",\"cursor\":\"AQ\""), 410);
        assert!(matches!(&expired, Error::CursorExpired { cursor, .. } if cursor == "AQ"));
        assert!(matches!(of("cursor_expired", 410), Error::BadAnswer { .. }));
        assert!(matches!(of("unheard_of", 401), Error::Denied { .. }));
        assert!(matches!(of("unheard_of", 429), Error::Overloaded { .. }));
        assert!(matches!(of("unheard_of", 418), Error::BadRequest { .. }));
        assert!(matches!(of("unheard_of", 599), Error::Failed { .. }));
    }

    #[test]
    fn what_is_no_problem_is_none() {
        for body in ["", "[]", "{", "{}", "{\"type\":7}", "{\"type\":\"about:blank\"}", "\u{0}"] {
            assert!(Problem::parse(body.as_bytes(), 503, "n").is_none(), "{body}");
        }
    }

    #[test]
    fn texts_are_bounded() {
        let long = format!("{{\"type\":\"{URN}x\",\"detail\":\"{}\"}}", "ü".repeat(50_000));
        let problem = Problem::parse(long.as_bytes(), 400, "n").unwrap();
        assert_eq!(problem.detail().chars().count(), TEXT_CHARS_MAX + 1);
    }
}
