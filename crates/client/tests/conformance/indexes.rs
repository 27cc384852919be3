//! Index entries of values, and steps that ask for them.

use futures_util::TryStreamExt;
use quorate_client::{Bucket, Error, IndexPage, IndexQuery, IndexValue, Metadata};
use serde_json::{Map, Value as Json, json};

use crate::run::{Done, Run, Step};

/// What `list_index` may have.
pub(crate) const LIST: [&str; 6] = ["index", "eq", "from", "to", "limit", "cursor"];
/// What `all_index` may have.
pub(crate) const ALL: [&str; 5] = ["index", "eq", "from", "to", "limit"];

/// A value as cases write it: an integer may be text, for all its digits. What an index of integers cannot
/// have is given to the client as it is.
fn value(index: &str, json: &Json) -> Result<IndexValue, String> {
    let text = match json {
        Json::String(text) => text.clone(),
        Json::Number(_) if index.ends_with("_i") => json.to_string(),
        Json::Null | Json::Bool(_) | Json::Number(_) | Json::Array(_) | Json::Object(_) => {
            return Err(format!("index: {json} is no value of {index}"));
        }
    };
    let is_integer = index.ends_with("_i") && text.parse::<i64>().is_ok();
    if is_integer {
        return IndexValue::parse("any_i", &text).map_err(|error| error.to_string());
    }
    Ok(IndexValue::from(text))
}

/// The entries that a write has.
pub(crate) fn entries(step: &Step) -> Result<Vec<(String, IndexValue)>, String> {
    let Some(told) = step.get("index") else { return Ok(Vec::new()) };
    let mut entries = Vec::new();
    for (index, values) in told.as_object().ok_or("index: a map")? {
        for json in values.as_array().ok_or("index: a map of lists")? {
            entries.push((index.clone(), value(index, json)?));
        }
    }
    Ok(entries)
}

/// An index's value in the form in which values are compared: each as text, with all its digits.
fn shown(value: &IndexValue) -> Json {
    json!(value.to_string())
}

/// The entries of a value, to be compared with [`wanted`].
pub(crate) fn of_metadata(metadata: &Metadata) -> Json {
    let mut all = Map::<String, Json>::new();
    for (index, value) in &metadata.index {
        let values = all.entry(index.clone()).or_insert(json!([]));
        values.as_array_mut().unwrap().push(shown(value));
    }
    Json::Object(all)
}

/// What is expected, with every integer as text: `index`, one of `indexes`, or `entries`.
pub(crate) fn wanted(expected: &Json) -> Json {
    match expected {
        Json::Number(number) => json!(number.to_string()),
        Json::Array(all) => all.iter().map(wanted).collect(),
        Json::Object(all) => all.iter().map(|(name, it)| (name.clone(), wanted(it))).collect(),
        Json::Null | Json::Bool(_) | Json::String(_) => expected.clone(),
    }
}

/// A fact of a page.
pub(crate) fn of_page(page: &IndexPage, name: &str) -> Option<Json> {
    Some(match name {
        "entries" => page.entries.iter().map(|it| json!([shown(&it.value), it.key])).collect(),
        "entries_max" => json!(page.entries.len()),
        "complete" => json!(page.complete),
        "has_cursor" => json!(page.cursor.is_some()),
        _ => return None,
    })
}

fn query(bucket: &Bucket, step: &Step) -> Result<IndexQuery, String> {
    let index = step.get("index").and_then(Json::as_str).ok_or("index: text")?;
    let mut query = bucket.index(index);
    let told = |name: &str| step.get(name).map(|json| value(index, json)).transpose();
    if let Some(value) = told("eq")? {
        query = query.eq(value);
    }
    if let Some(value) = told("from")? {
        query = query.from(value);
    }
    if let Some(value) = told("to")? {
        query = query.to(value);
    }
    Ok(match step.get("limit").and_then(Json::as_u64) {
        Some(limit) => query.limit(u16::try_from(limit).map_err(|error| error.to_string())?),
        None => query,
    })
}

impl Run {
    pub(crate) async fn list_index(
        &self,
        bucket: &Bucket,
        step: &Step,
    ) -> Result<Result<IndexPage, Error>, String> {
        let name = step.get("cursor").and_then(Json::as_str);
        let cursor = match name.map(|name| self.named.get(name)) {
            None => None,
            Some(Some(Done::Index(page))) => page.cursor.as_deref(),
            Some(_) => return Err("cursor: names no page of an index".to_owned()),
        };
        Ok(query(bucket, step)?.page(cursor).await)
    }

    pub(crate) async fn all_index(
        &self,
        bucket: &Bucket,
        step: &Step,
    ) -> Result<Result<IndexPage, Error>, String> {
        let all: Result<Vec<IndexPage>, Error> = query(bucket, step)?.pages().try_collect().await;
        let one = |pages: Vec<IndexPage>| IndexPage {
            complete: pages.iter().all(|page| page.complete),
            entries: pages.into_iter().flat_map(|page| page.entries).collect(),
            cursor: None,
        };
        Ok(all.map(one))
    }
}
