//! The arguments of steps.

use std::time::Duration;

use quorate_client::{Bucket, Error, Keys, Lifetime, Options};
use serde_json::Value as Json;

use crate::run::Step;

/// What every step may have.
pub(crate) const ALL: [&str; 7] =
    ["op", "as", "expect", "expect_one_of", "within_ms", "lose_responses", "bucket"];
pub(crate) const PUT: [&str; 16] = [
    "key",
    "value",
    "content_type",
    "meta",
    "index",
    "context",
    "context_text",
    "if",
    "w",
    "n",
    "sloppy",
    "timeout_ms",
    "explain",
    "idempotency_key",
    "expires_in",
    "stream",
];
pub(crate) const DELETE: [&str; 10] = [
    "key",
    "context",
    "context_text",
    "if",
    "w",
    "n",
    "sloppy",
    "timeout_ms",
    "explain",
    "idempotency_key",
];

pub(crate) fn is(step: &Step, name: &str) -> bool {
    step.get(name).and_then(Json::as_bool).unwrap_or(false)
}

/// How long the value of a write is to live.
pub(crate) fn lifetime(step: &Step) -> Option<Lifetime> {
    let told = step.get("expires_in")?;
    let limited = |seconds| Lifetime::Limited(Duration::from_secs(seconds));
    Some(told.as_u64().map_or(Lifetime::Unlimited, limited))
}

pub(crate) fn options(step: &Step, needed: &str) -> Result<Options, Error> {
    let count = |name: &str| {
        let text = |json: &Json| json.as_str().map_or_else(|| json.to_string(), str::to_owned);
        step.get(name).map(|json| text(json).parse()).transpose()
    };
    Ok(Options {
        n: count("n")?,
        needed: count(needed)?,
        sloppy: step.get("sloppy").and_then(Json::as_bool),
        timeout_ms: step.get("timeout_ms").and_then(Json::as_u64),
        deadline: None,
        explain: is(step, "explain"),
    })
}

pub(crate) fn keys(bucket: &Bucket, step: &Step) -> Keys {
    let mut keys = bucket.keys();
    if let Some(prefix) = step.get("prefix").and_then(Json::as_str) {
        keys = keys.prefix(prefix);
    }
    match step.get("limit").and_then(Json::as_u64) {
        Some(limit) => keys.limit(u16::try_from(limit).unwrap()),
        None => keys,
    }
}
