//! Steps that follow feeds, and that wait; and what is expected of changes.

use std::collections::BTreeMap;
use std::time::Duration;

use futures_util::{StreamExt, pin_mut};
use quorate_client::{AnyValue, Error, Feed, FeedChange, FeedPage, KeyState, LeftOut};
use serde_json::{Map, Value as Json, json};

use crate::arguments::options;
use crate::expect::{compare, metadata, of_read, of_typed};
use crate::indexes;
use crate::run::{Done, Run, Step};
use crate::typed::Shown;

/// What `wait` may have.
pub(crate) const WAIT: [&str; 9] =
    ["key", "context", "context_text", "wait_ms", "r", "n", "sloppy", "timeout_ms", "meanwhile"];
/// What `feed` may have.
pub(crate) const FEED: [&str; 6] = ["from", "cursor", "prefix", "limit", "wait_ms", "meanwhile"];
/// What `follow` may have.
pub(crate) const FOLLOW: [&str; 5] = ["from", "cursor", "prefix", "limit", "wait_ms"];

fn wait_of(step: &Step) -> Duration {
    Duration::from_millis(step.get("wait_ms").and_then(Json::as_u64).unwrap_or(0))
}

impl Run {
    pub(crate) async fn wait(&self, step: &Step) -> Result<Result<Done, Error>, String> {
        let text = |name: &str| step.get(name).and_then(Json::as_str);
        let bucket = self.client.bucket(text("bucket").unwrap_or(&self.bucket));
        let key = text("key").ok_or("key: text")?;
        let (context, options) = match (self.context(step)?, options(step, "r")) {
            (Ok(context), Ok(options)) => (context, options),
            (Err(error), _) | (Ok(_), Err(error)) => return Ok(Err(error)),
        };
        let wait = match &context {
            Some(context) => bucket.wait_after(key, context),
            None => bucket.wait(key),
        };
        let new = wait.options(options).wait_for(wait_of(step)).await;
        Ok(new.map(|new| new.map_or(Done::Unchanged, Done::Read)))
    }

    /// The feed of a step, before its page.
    pub(crate) fn feed(&self, step: &Step) -> Result<Feed, String> {
        let text = |name: &str| step.get(name).and_then(Json::as_str);
        let feed = self.client.bucket(text("bucket").unwrap_or(&self.bucket)).feed();
        let feed = match (text("from"), text("cursor").map(|name| self.named.get(name))) {
            (Some("now"), None) => feed.from_now(),
            (Some("oldest"), None) => feed.from_oldest(),
            (None, Some(Some(Done::Feed(page)))) => feed.from_cursor(page.cursor.as_str()),
            (None, Some(Some(Done::Expired(cursor)))) => feed.from_cursor(cursor.as_str()),
            _ => return Err("from: now or oldest; or cursor: names a page of changes".to_owned()),
        };
        let feed = feed.prefix(text("prefix").unwrap_or_default()).wait(wait_of(step));
        Ok(match step.get("limit").and_then(Json::as_u64) {
            Some(limit) => feed.limit(u16::try_from(limit).map_err(|error| error.to_string())?),
            None => feed,
        })
    }
}

/// All changes up to the first page that is complete and has none, of each key the last.
pub(crate) async fn follow(feed: Feed) -> Result<Result<FeedPage, Error>, String> {
    let pages = feed.pages();
    pin_mut!(pages);
    let mut last = BTreeMap::new();
    while let Some(page) = pages.next().await {
        let mut page = match page {
            Ok(page) => page,
            Err(error) => return Ok(Err(error)),
        };
        let is_end = page.complete && page.changes.is_empty();
        last.extend(page.changes.drain(..).map(|change| (change.key.clone(), change)));
        if is_end {
            page.changes = last.into_values().collect();
            return Ok(Ok(page));
        }
    }
    Err("a feed has no end".to_owned())
}

/// The expectations that are about the changes of a page.
pub(crate) const OF_CHANGES: [&str; 3] = ["keys", "changes", "changes_max"];

/// Compares the changes of a page.
///
/// # Errors
/// What is not as expected.
pub(crate) fn changes(expected: &Map<String, Json>, page: &FeedPage) -> Result<(), String> {
    let mut keys: Vec<&str> = page.changes.iter().map(|change| change.key.as_str()).collect();
    keys.sort_unstable();
    if keys.windows(2).any(|two| two[0] == two[1]) {
        return Err(format!("changes: a key is there twice: {keys:?}"));
    }
    let is_met = |wanted: Vec<&str>| {
        let mut wanted = wanted;
        wanted.sort_unstable();
        if wanted == keys { Ok(()) } else { Err(format!("changes: {keys:?}, not {wanted:?}")) }
    };
    if let Some(wanted) = expected.get("keys") {
        is_met(wanted.as_array().unwrap().iter().filter_map(Json::as_str).collect())?;
    }
    if let Some(most) = expected.get("changes_max").and_then(Json::as_u64)
        && keys.len() as u64 > most
    {
        return Err(format!("changes: {}, at most {most}", keys.len()));
    }
    let Some(wanted) = expected.get("changes") else { return Ok(()) };
    let wanted = wanted.as_object().ok_or("changes: a map")?;
    is_met(wanted.keys().map(String::as_str).collect())?;
    for change in &page.changes {
        let told = |why: String| format!("change of {}: {why}", change.key);
        let wanted = wanted[&change.key].as_object().ok_or("changes: a map of maps")?;
        compare(wanted, |name| of_change(change, name)).map_err(told)?;
    }
    Ok(())
}

fn of_change(change: &FeedChange, name: &str) -> Option<Json> {
    match &change.state {
        KeyState::Read(read) => of_read(read, name),
        KeyState::Typed(typed) => {
            let (exists, context) = (typed.exists(), typed.context().clone());
            of_typed(&Shown { value: json_of(typed.value()), exists, context }, name)
        }
        KeyState::LeftOut(left_out) => of_left_out(left_out, name),
    }
}

fn of_left_out(left_out: &LeftOut, name: &str) -> Option<Json> {
    Some(match name {
        "kind" => json!("large"),
        "bytes" => json!(left_out.bytes),
        "siblings" => json!(left_out.siblings),
        "content_type" => json!(left_out.metadata.content_type),
        "meta" => metadata(&left_out.metadata),
        "index" => indexes::of_metadata(&left_out.metadata),
        "expires" => json!(left_out.expires_at.is_some()),
        "has_context" => json!(false),
        _ => return None,
    })
}

fn json_of(value: &AnyValue) -> Json {
    match value {
        AnyValue::Counter(total) => json!(total.to_string()),
        AnyValue::Set(elements) => json!(elements),
        AnyValue::Flag(on) => json!(on),
        AnyValue::Map(fields) => json!(fields),
        AnyValue::Register(text) => json!(text),
        AnyValue::Estimate(estimate) => json!(estimate),
        _ => Json::Null,
    }
}
