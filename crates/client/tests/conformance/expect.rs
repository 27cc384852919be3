//! Compares what a step gave with what the case expects. Only what is named is compared.

use std::time::SystemTime;

use quorate_client::{Answered, Error, FeedPage, Metadata, Outcome, Read, Value};
use serde_json::{Map, Value as Json, json};

use crate::cases::{bytes, only};
use crate::feeds;
use crate::indexes;
use crate::run::{Done, Taken};
use crate::stub::{Asked, Heard};
use crate::typed::Shown;

type Expected = Map<String, Json>;

/// Checks a step.
///
/// # Errors
/// What is not as expected.
pub(crate) fn step(step: &Map<String, Json>, taken: &Taken, heard: &Heard) -> Result<(), String> {
    if let Some(any) = step.get("expect_one_of") {
        let all = any.as_array().ok_or("expect_one_of: a list")?;
        let met = all.iter().map(|one| expected(one.as_object().unwrap(), taken, heard));
        let wrong: Vec<String> = met.filter_map(Result::err).collect();
        return if wrong.len() < all.len() { Ok(()) } else { Err(wrong.join("; or ")) };
    }
    let none = Map::new();
    expected(step.get("expect").and_then(Json::as_object).unwrap_or(&none), taken, heard)
}

fn expected(expected: &Expected, taken: &Taken, heard: &Heard) -> Result<(), String> {
    let sent = heard.sent.as_slice();
    for (name, wanted) in expected {
        let is_met = match name.as_str() {
            "looks_min" => heard.looks as u64 >= wanted.as_u64().unwrap(),
            "looks_max" => heard.looks as u64 <= wanted.as_u64().unwrap(),
            "took_ms_min" => taken.took.as_millis() >= u128::from(wanted.as_u64().unwrap()),
            "took_ms_max" => taken.took.as_millis() <= u128::from(wanted.as_u64().unwrap()),
            "one_idempotency_key" => {
                let key = sent.first().and_then(|first| first.headers.get("idempotency-key"));
                key.is_some() && sent.iter().all(|one| one.headers.get("idempotency-key") == key)
            }
            "sent" => {
                requests(wanted.as_array().unwrap(), sent)?;
                true
            }
            "results" => {
                results(wanted.as_array().unwrap(), taken, heard)?;
                true
            }
            _ => continue,
        };
        if !is_met {
            return Err(format!("{name}: not {wanted}, took {:?}, {heard:?}", taken.took));
        }
    }
    match (&taken.result, expected.contains_key("error")) {
        (Ok(Done::Feed(page)), false) => {
            feeds::changes(expected, page)?;
            let mut rest = expected.clone();
            rest.retain(|name, _| !feeds::OF_CHANGES.contains(&name.as_str()));
            compare(&rest, |name| of_feed(page, name))
        }
        (Ok(done), false) => compare(expected, |name| of_done(done, name)),
        (Err(error), true) => compare(expected, |name| of_error(error, taken.writes, name)),
        (Ok(_), true) => Err(format!("succeeded, but {} was expected", expected["error"])),
        (Err(error), false) => Err(format!("failed: {error:?}")),
    }
}

/// The expectations that are about what was sent and when, and about each operation of a batch.
const OF_REQUESTS: [&str; 7] = [
    "took_ms_min",
    "took_ms_max",
    "looks_min",
    "looks_max",
    "one_idempotency_key",
    "sent",
    "results",
];

/// Compares the results of a batch, one by one.
fn results(wanted: &[Json], taken: &Taken, heard: &Heard) -> Result<(), String> {
    let Ok(Done::Batch(found)) = &taken.result else {
        return Err("results: these are of no batch".to_owned());
    };
    if found.len() != wanted.len() {
        return Err(format!("results: {}, not {}", found.len(), wanted.len()));
    }
    for (number, (wanted, found)) in wanted.iter().zip(found).enumerate() {
        let told = |why: String| format!("result {}: {why}", number + 1);
        expected(wanted.as_object().unwrap(), found, heard).map_err(told)?;
    }
    Ok(())
}

/// Compares every other expectation with a fact; `None`: the expectation is unknown.
pub(crate) fn compare(
    expected: &Expected,
    fact: impl Fn(&str) -> Option<Json>,
) -> Result<(), String> {
    for (name, wanted) in expected {
        if OF_REQUESTS.contains(&name.as_str()) {
            continue;
        }
        let found = fact(name).ok_or_else(|| format!("{name}: does not apply to what came"))?;
        let is_met = match name.as_str() {
            "acks_min" | "nodes_min" | "expires_in_s_min" => found.as_u64() >= wanted.as_u64(),
            "expires_in_s_max" | "entries_max" => found.as_u64() <= wanted.as_u64(),
            "value" => found == values([wanted].into_iter())?[0],
            // A counter's total, with all its digits.
            "typed_value" if found.is_string() && wanted.is_number() => {
                found == json!(wanted.to_string())
            }
            "values" => {
                let mut wanted = values(wanted.as_array().unwrap().iter())?;
                wanted.sort_by_key(Json::to_string);
                found == json!(wanted)
            }
            "index" | "entries" => found == indexes::wanted(wanted),
            "content_types" | "indexes" => {
                let wanted = if name == "indexes" { &indexes::wanted(wanted) } else { wanted };
                let mut wanted = wanted.as_array().unwrap().clone();
                wanted.sort_by_key(Json::to_string);
                found == json!(wanted)
            }
            "properties" => {
                let wanted = wanted.as_object().unwrap();
                let is_unset = |name: &str, value: &Json| {
                    ["expires_in_s", "feed_retention_s"].contains(&name) && value.is_null()
                };
                wanted.iter().all(|(name, value)| match found.get(name) {
                    None => is_unset(name, value),
                    Some(found) => found == value,
                })
            }
            _ => found == *wanted,
        };
        if !is_met {
            let shown: String = found.to_string().chars().take(300).collect();
            return Err(format!("{name}: {shown}, not {wanted}"));
        }
    }
    Ok(())
}

/// Values in a form that can be compared.
fn values<'a>(values: impl Iterator<Item = &'a Json>) -> Result<Vec<Json>, String> {
    values.map(|value| Ok(json!(bytes(value)?))).collect()
}

fn live(read: &Read) -> Vec<&Value> {
    match read {
        Read::Value(value) => vec![value.value()],
        Read::Siblings(siblings) => siblings.values().collect(),
        Read::Absent(_) => Vec::new(),
    }
}

fn of_done(done: &Done, name: &str) -> Option<Json> {
    match done {
        Done::Read(read) => of_read(read, name),
        Done::Written(written) => Some(match name {
            "kind" => json!("written"),
            "siblings" => json!(written.siblings),
            "has_context" => json!(written.context.is_some()),
            "acks_min" => json!(written.acks),
            "explained" => is_explained(&written.answered),
            _ => return None,
        }),
        Done::Typed(shown) => of_typed(shown, name),
        Done::Applied(applied, shown) => match (name, shown) {
            ("kind", _) => Some(json!("applied")),
            ("acks_min", _) => Some(json!(applied.acks)),
            (_, Some(shown)) => of_typed(shown, name),
            (_, None) => None,
        },
        Done::Page(page) => Some(match name {
            "keys" => json!(page.keys),
            "complete" => json!(page.complete),
            "has_cursor" => json!(page.cursor.is_some()),
            _ => return None,
        }),
        Done::Index(page) => indexes::of_page(page, name),
        Done::Feed(page) => of_feed(page, name),
        Done::Unchanged => (name == "unchanged").then_some(Json::Bool(true)),
        Done::Expired(_) => None,
        Done::Properties(properties) => (name == "properties").then(|| properties.clone()),
        Done::Batch(_) => None,
        Done::Nodes(count) => (name == "nodes_min").then(|| json!(count)),
        Done::Nothing => None,
    }
}

fn of_feed(page: &FeedPage, name: &str) -> Option<Json> {
    Some(match name {
        "complete" => json!(page.complete),
        "cursor" => json!(page.cursor),
        "has_cursor" => json!(!page.cursor.is_empty()),
        _ => return None,
    })
}

/// The client's own metadata.
pub(crate) fn metadata(metadata: &Metadata) -> Json {
    let pairs = metadata.user.iter();
    Json::Object(pairs.map(|(name, value)| (name.clone(), json!(value))).collect())
}

pub(crate) fn of_read(read: &Read, name: &str) -> Option<Json> {
    let sorted = |mut all: Vec<Json>| {
        all.sort_by_key(Json::to_string);
        json!(all)
    };
    let content_type = |value: &&Value| json!(value.metadata.content_type);
    Some(match (name, read) {
        ("kind", Read::Value(_)) => json!("value"),
        ("kind", Read::Siblings(_)) => json!("siblings"),
        ("kind", Read::Absent(absent)) => {
            json!(if absent.was_deleted() { "deleted" } else { "absent" })
        }
        ("value", Read::Value(value)) => json!(value.bytes().to_vec()),
        ("content_type", Read::Value(value)) => json!(value.value().metadata.content_type),
        ("meta", Read::Value(value)) => metadata(&value.value().metadata),
        ("index", Read::Value(value)) => indexes::of_metadata(&value.value().metadata),
        ("values", _) => sorted(live(read).iter().map(|it| json!(it.bytes.to_vec())).collect()),
        ("content_types", _) => sorted(live(read).iter().map(content_type).collect()),
        ("indexes", _) => {
            sorted(live(read).iter().map(|it| indexes::of_metadata(&it.metadata)).collect())
        }
        ("deletes", Read::Siblings(siblings)) => {
            json!(siblings.siblings().iter().filter(|it| it.value.is_none()).count())
        }
        ("expires", Read::Value(value)) => json!(value.expires_at().is_some()),
        ("expires_at", Read::Value(value)) => {
            json!(humantime::format_rfc3339_millis(value.expires_at()?).to_string())
        }
        ("expires_in_s_min" | "expires_in_s_max", Read::Value(value)) => {
            json!(value.expires_at()?.duration_since(SystemTime::now()).ok()?.as_secs())
        }
        ("expiring", Read::Siblings(siblings)) => {
            json!(siblings.siblings().iter().filter(|it| it.expires_at.is_some()).count())
        }
        ("expired", Read::Absent(absent)) => json!(absent.has_expired()),
        ("unchanged", _) => json!(false), // a wait that has read something
        ("has_context", _) => json!(read.context().is_some()),
        ("explained", _) => is_explained(read.answered()),
        _ => return None,
    })
}

pub(crate) fn of_typed(shown: &Shown, name: &str) -> Option<Json> {
    Some(match name {
        "kind" => json!("typed"),
        "typed_value" => shown.value.clone(),
        "exists" => json!(shown.exists),
        "has_context" => json!(true),
        _ => return None,
    })
}

fn is_explained(answered: &Answered) -> Json {
    json!(answered.explain_id.is_some())
}

fn of_error(error: &Error, writes: bool, name: &str) -> Option<Json> {
    let problem = error.problem();
    Some(match name {
        "error" => json!(class(error, writes)),
        "problem" => json!(problem?.name()),
        "status" => json!(problem?.status()),
        "parameter" | "header" => problem?.fact(name)?.clone(),
        "outcome" => json!(match error.outcome() {
            Outcome::NotApplied => "not_applied",
            Outcome::Unknown => "unknown",
            Outcome::Partial => "partial",
        }),
        "cursor" => {
            let Error::CursorExpired { cursor, .. } = error else { return None };
            json!(cursor)
        }
        "resync" => problem?.fact(name)?.clone(),
        "retry_after_ms" => json!(u64::try_from(problem?.retry_after()?.as_millis()).ok()?),
        _ => return None,
    })
}

/// The name that the cases have for an error.
fn class(error: &Error, writes: bool) -> &'static str {
    let class = match error {
        Error::Invalid { .. } => return "invalid_argument",
        Error::BadRequest { .. } | Error::Denied { .. } => return "bad_request",
        Error::BadContext { .. } => return "bad_context",
        Error::NotFound { .. } => return "not_found",
        Error::SiblingGone { .. } => return "sibling_gone",
        Error::ConditionFailed { .. } => return "condition_failed",
        Error::TooLarge { .. } => return "too_large",
        Error::KeyFull { .. } => return "limit_reached",
        Error::IdempotencyKeyReused { .. } => return "idempotency_key_reused",
        Error::WrongType { .. } => return "wrong_type",
        Error::BucketNotEmpty { .. } => return "bucket_not_empty",
        Error::ContextNeeded { .. } => return "context_needed",
        Error::ContextAhead { .. } => return "context_ahead",
        Error::CounterFull { .. } => return "counter_full",
        Error::CursorExpired { .. } => return "cursor_expired",
        Error::NoFeed { .. } => return "no_feed",
        Error::NoReadQuorum { .. } => "no_read_quorum",
        Error::NoQuorum { .. } => "no_quorum",
        Error::Overloaded { .. } => "overloaded",
        Error::NotReady { .. } => "not_ready",
        Error::Full { .. } => "no_room",
        Error::Failed { .. } => "server_error",
        Error::BadAnswer { .. } => "protocol",
        Error::Unreachable { .. } => "unreachable",
        Error::TimedOut { .. } => "deadline",
        Error::Conflict { .. } | _ => "unknown to this runner",
    };
    match (writes, error.outcome()) {
        (true, Outcome::Partial) => "partial_write",
        (true, Outcome::Unknown) => "unknown_outcome",
        (true, Outcome::NotApplied) | (false, _) => class,
    }
}

fn requests(wanted: &[Json], sent: &[Asked]) -> Result<(), String> {
    if wanted.len() != sent.len() {
        return Err(format!("sent: {} requests, not {}: {sent:?}", sent.len(), wanted.len()));
    }
    for (wanted, sent) in wanted.iter().zip(sent) {
        let wanted = wanted.as_object().unwrap();
        only(wanted, &["method", "path", "query", "headers", "body", "json"])?;
        for (name, value) in wanted {
            let is_met = match name.as_str() {
                "method" => *value == json!(sent.method),
                "path" => *value == json!(sent.path),
                "query" => *value == json!(sent.query),
                "body" => bytes(value)? == sent.body,
                "json" => serde_json::from_slice::<Json>(&sent.body).ok().as_ref() == Some(value),
                _ => value.as_object().unwrap().iter().all(|(name, text)| {
                    let found = sent.headers.get(name);
                    found.is_some_and(|found| text == "*" || text == found.as_str())
                }),
            };
            if !is_met {
                return Err(format!("sent: {name}: not {value}, but {sent:?}"));
            }
        }
    }
    Ok(())
}
