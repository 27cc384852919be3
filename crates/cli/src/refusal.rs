//! What a failed request means to the command line: the exit code, and what to do next.

use quorate_client::{Error, Outcome, Problem};
use serde_json::{Value, json};

use crate::exit::{Exit, Failure, Stop};
use crate::out::short;

impl From<Error> for Stop {
    fn from(error: Error) -> Self {
        of(&error).into()
    }
}

/// The failure that an error stands for.
#[allow(clippy::wildcard_enum_match_arm, reason = "the enum is non-exhaustive")]
pub(crate) fn of(error: &Error) -> Failure {
    if let Some(problem) = error.problem() {
        return match (problem.name(), problem.status()) {
            ("", 401 | 403 | 429) => of_proxy(problem),
            ("", _) => foreign(&format!("{}: {}", problem.node(), short(problem.detail(), 300))),
            _ => of_problem(problem, error.outcome()),
        };
    }
    let text = short(&in_short(error), 400);
    let in_doubt = error.outcome() != Outcome::NotApplied;
    match error {
        Error::TimedOut { .. } | Error::Unreachable { .. } if in_doubt => {
            Failure::new(Exit::Unknown, format!("the outcome is unknown: {text}"))
                .advise("it may or may not have been done: look first, then repeat it")
        }
        Error::TimedOut { .. } => Failure::new(Exit::Unavailable, text)
            .advise("`quorate status` shows which nodes answer; --timeout-ms waits longer"),
        Error::Unreachable { .. } => Failure::new(Exit::Unavailable, text).advise(
            "is it running? `quorate dev` starts a cluster to try, `scripts/cluster.sh up` one of five \
             processes; --url or QUORATE_URL name another address",
        ),
        Error::Invalid { .. } | Error::WrongType { .. } => Failure::new(Exit::Usage, text),
        Error::BadAnswer { .. } => foreign(&text),
        Error::Conflict { .. } => Failure::new(Exit::Conflict, text),
        // The others come with a problem. The enum may grow.
        _ => Failure::new(Exit::Failed, text),
    }
}

/// An error in words. Of what the network said only the cause, such as `Connection refused`.
fn in_short(error: &Error) -> String {
    let Error::Unreachable { node, detail, .. } = error else { return error.to_string() };
    let cause = detail.rsplit(": ").next().unwrap_or(detail);
    format!("{node} does not answer: {cause}")
}

/// An answer that no Quorate node gives.
pub(crate) fn foreign(what: &str) -> Failure {
    Failure::new(Exit::Failed, format!("this is no Quorate node, it seems: {what}"))
        .advise("check the address: --url or QUORATE_URL must name a client port (7401 by default)")
}

/// A node's JSON that lacks what every release has.
pub(crate) fn incomplete(route: &str) -> Stop {
    foreign(&format!("its answer to GET {route} is not as a node gives it")).into()
}

fn of_problem(problem: &Problem, outcome: Outcome) -> Failure {
    let name = problem.name();
    let detail = short(problem.detail(), 600);
    let mut failure =
        Failure::new(exit(problem, outcome), format!("{}: {detail}", short(name, 60)));
    failure.advice = advice(name).map(str::to_owned);
    failure.problem = Some(shown(problem));
    failure
}

/// A refusal without a name: something in front of the node refused.
fn of_proxy(problem: &Problem) -> Failure {
    let text = format!("{}: {}", problem.node(), short(problem.detail(), 300));
    match problem.status() {
        429 => Failure::new(Exit::Unavailable, text).advise("try again later"),
        _ => Failure::new(Exit::Denied, text)
            .advise("something in front of the node wants a token: set QUORATE_TOKEN"),
    }
}

/// A problem as the node gave it.
fn shown(problem: &Problem) -> Value {
    let mut shown = json!({
        "name": problem.name(),
        "status": problem.status(),
        "detail": problem.detail(),
        "node": problem.node(),
        "request_id": problem.request_id(),
    });
    if let Value::Object(members) = &mut shown {
        for (name, value) in problem.facts() {
            members.entry(name).or_insert_with(|| value.clone());
        }
    }
    shown
}

fn exit(problem: &Problem, outcome: Outcome) -> Exit {
    match (problem.name(), problem.status()) {
        ("no_such_route" | "sync_point_gone" | "layout_unsafe" | "counter_full", _) => Exit::Failed,
        ("cursor_expired", _) => Exit::Failed,
        ("wrong_type" | "bucket_not_empty" | "context_needed" | "no_feed", _) => Exit::Usage,
        (_, 401 | 403) => Exit::Denied,
        (_, 404) => Exit::NotFound,
        (_, 409 | 412 | 422) => Exit::Conflict,
        _ if outcome != Outcome::NotApplied => Exit::Unknown,
        ("internal", _) => Exit::Failed,
        (_, 408 | 429 | 500..) => Exit::Unavailable,
        _ => Exit::Usage,
    }
}

fn advice(name: &str) -> Option<&'static str> {
    Some(match name {
        "unauthenticated" => {
            "set QUORATE_TOKEN to a token (`quorate token create` makes one), or give --operator FILE"
        }
        "forbidden" => "`quorate token whoami` shows what the token allows",
        "tls_required" => {
            "use https://, with --ca FILE or QUORATE_CA; a token that was sent is to be revoked"
        }
        "auth_stale" => "the node has lost the others: ask another one (--url), or try again",
        "rate_limited" => "try again later; the token has a rate_per_s",
        "no_token_quorum" => "`quorate status` shows which nodes are down; then repeat the command",
        "tokens_full" => "`quorate token list`, then revoke those that are not needed any more",
        "bad_context" => "read the key again (`quorate get`), then repeat the command",
        "no_such_sibling" | "sibling_gone" => {
            "another write came first: `quorate siblings BUCKET/KEY` shows what is there"
        }
        "condition_failed" => "another write came first: read the key again",
        "too_many_siblings" | "object_too_large" | "clock_full" => {
            "resolve the key first: `quorate siblings BUCKET/KEY`, then `quorate resolve`"
        }
        "wrong_type" => {
            "`quorate bucket get BUCKET` shows the bucket's type, which stays; `quorate typed` reads and \
             changes values that have one"
        }
        "bucket_not_empty" => "give the type to a bucket without keys: every name is one",
        "context_needed" | "context_ahead" => {
            "read the key again (`quorate typed get --json`), and give its context: --context"
        }
        "counter_full" => "count on under another key",
        "no_feed" => {
            "`quorate bucket set BUCKET --feed 24h` has the bucket keep what changes from then on, for a day"
        }
        "cursor_expired" => {
            "read everything once (`quorate export BUCKET`), then go on with the cursor of the answer"
        }
        "no_such_route" => {
            "the node is of another release than this command; `quorate status` shows releases"
        }
        "no_quorum" => "`quorate status` shows which nodes are down; a smaller --w needs fewer",
        "no_read_quorum" => {
            "`quorate status` shows which nodes are down; a smaller --r needs fewer"
        }
        "overloaded" => "try again in a second, or ask another node (--url)",
        "not_formed" => "form the cluster once: `quorate form --config FILE`",
        "not_ready" | "stopping" => {
            "`quorate wait ready` waits for it; another node may take the request (--url)"
        }
        "removed" => {
            "stop that node and delete its data directory; ask a member of the cluster (--url)"
        }
        "hints_full" | "disk_full" => "`quorate status` shows the disks and hints; make room",
        "layout_changed" => "another change came first: `quorate layout show`, then plan again",
        "layout_moving" => {
            "`quorate layout wait` waits for its end; `quorate layout abort` gives it up"
        }
        "layout_unsafe" => "`quorate layout plan` with the same changes shows why",
        "no_layout_quorum" => {
            "`quorate status` shows which nodes are down; the command may be repeated as it is"
        }
        "backup_refused" => "`GET /backups` of that node shows what it keeps",
        "internal" => "this is a bug: report it with the request id in the node's log",
        _ => return None,
    })
}
