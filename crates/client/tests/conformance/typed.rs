//! Steps on typed values, with the handle that their type names.

use std::collections::BTreeSet;

use quorate_client::{
    Applied, Bucket, Context, Delete, Error, Fields, MapChange, Operation, Options, SetChange,
    Typed, TypedGet, TypedValue,
};
use serde::Deserialize;
use serde_json::{Value as Json, json};

use crate::arguments::is;
use crate::run::{Done, Step};

/// What `typed_get` may have.
pub(crate) const GET: [&str; 6] = ["type", "key", "r", "n", "sloppy", "timeout_ms"];
/// What `change` may have.
pub(crate) const CHANGE: [&str; 11] = [
    "type",
    "key",
    "operation",
    "context",
    "w",
    "n",
    "sloppy",
    "timeout_ms",
    "idempotency_key",
    "return_body",
    "at_most_once",
];
/// What `typed_delete` may have.
pub(crate) const DELETE: [&str; 8] =
    ["type", "key", "context", "w", "n", "sloppy", "timeout_ms", "idempotency_key"];

/// A typed read, in one form for all types.
pub(crate) struct Shown {
    pub(crate) value: Json,
    pub(crate) exists: bool,
    pub(crate) context: Context,
}

impl Shown {
    fn of<V: TypedValue>(read: &Typed<V>, shown: impl FnOnce(&V) -> Json) -> Self {
        let (exists, context) = (read.exists(), read.context().clone());
        Self { value: shown(read.value()), exists, context }
    }
}

/// The delete of a handle.
macro_rules! deletes {
    ($handle:ident, $context:ident) => {
        match $context {
            Some(context) => $handle.delete_after(context),
            None => $handle.delete(),
        }
    };
}
/// Carries out a step. The operation of a change, as the cases write it, becomes calls of the handle.
pub(crate) async fn done(
    bucket: &Bucket,
    step: &Step,
    context: Option<&Context>,
    options: Options,
) -> Result<Result<Done, Error>, String> {
    let key = step["key"].as_str().ok_or("key: text")?;
    let how = How { step, options };
    match step["type"].as_str().unwrap_or_default() {
        "counter" => {
            let counter = bucket.counter(key);
            let by =
                |json: &Json| json["increment"].as_i64().ok_or("increment: a number".to_owned());
            let change = |json: &Json| {
                let change = counter.increment(by(json)?);
                Ok(if is(step, "at_most_once") { change.at_most_once() } else { change })
            };
            let shown = |total: &i128| json!(total.to_string());
            how.take(counter.get(), change, shown, deletes!(counter, context)).await
        }
        "set" => {
            let set = bucket.set(key);
            let change = |json: &Json| {
                let OfSet { add, remove } = parsed(json)?;
                Ok(match context {
                    Some(context) => {
                        set.change_after(context, SetChange::new().with(add).without(remove))
                    }
                    None if remove.is_empty() => set.add(add),
                    None => return Err("this client removes only what was read".to_owned()),
                })
            };
            let shown = |elements: &BTreeSet<String>| json!(elements);
            how.take(set.get(), change, shown, deletes!(set, context)).await
        }
        "flag" => {
            let flag = bucket.flag(key);
            let change = |json: &Json| match (json["enable"].as_bool(), context) {
                (Some(true), _) => Ok(flag.enable()),
                (Some(false), Some(context)) => Ok(flag.disable_after(context)),
                (Some(false), None) => Err("this client disables only what was read".to_owned()),
                (None, _) => Err("enable: true or false".to_owned()),
            };
            how.take(flag.get(), change, |on| json!(on), deletes!(flag, context)).await
        }
        "map" => {
            let map = bucket.map(key);
            let change = |json: &Json| {
                let change = map_change(json)?;
                Ok(match context {
                    Some(context) => map.update_after(context, change),
                    None => map.update(change),
                })
            };
            let shown = |fields: &Fields| json!(fields);
            how.take(map.get(), change, shown, deletes!(map, context)).await
        }
        "register_lww" => {
            let register = bucket.register(key);
            let change = |json: &Json| {
                let text = json["assign"].as_str().ok_or("assign: text".to_owned())?;
                Ok(register.assign(text))
            };
            let shown = |text: &Option<String>| json!(text);
            how.take(register.get(), change, shown, deletes!(register, context)).await
        }
        "hll" => {
            let estimate = bucket.estimate(key);
            let change = |json: &Json| Ok(estimate.add(parsed::<OfSet>(json)?.add));
            how.take(estimate.get(), change, |it| json!(it), deletes!(estimate, context)).await
        }
        other => Err(format!("type: {other} is unknown")),
    }
}

struct How<'a> {
    step: &'a Step,
    options: Options,
}

impl How<'_> {
    async fn take<V: TypedValue>(
        self,
        get: TypedGet<V>,
        change: impl FnOnce(&Json) -> Result<Operation<V>, String>,
        shown: impl Fn(&V) -> Json,
        delete: Delete,
    ) -> Result<Result<Done, Error>, String> {
        let Self { step, options } = self;
        let key = step.get("idempotency_key").and_then(Json::as_str);
        match step["op"].as_str() {
            Some("typed_get") => {
                let read = get.options(options).await;
                Ok(read.map(|read| Done::Typed(Shown::of(&read, shown))))
            }
            Some("change") => {
                let operation = change(&step["operation"])?.options(options);
                let operation = match key {
                    Some(key) => operation.idempotency_key(key),
                    None => operation,
                };
                if is(step, "return_body") {
                    let all = |(applied, read): (Applied, Typed<V>)| {
                        Done::Applied(applied, Some(Shown::of(&read, &shown)))
                    };
                    return Ok(operation.send_and_read().await.map(all));
                }
                Ok(operation.await.map(|applied| Done::Applied(applied, None)))
            }
            _ => {
                let delete = delete.options(options);
                let delete = match key {
                    Some(key) => delete.idempotency_key(key),
                    None => delete,
                };
                Ok(delete.await.map(Done::Written))
            }
        }
    }
}

#[derive(Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
struct OfSet {
    add: Vec<String>,
    remove: Vec<String>,
}

fn parsed<'a, T: Deserialize<'a>>(json: &'a Json) -> Result<T, String> {
    T::deserialize(json).map_err(|error| format!("operation: {error}"))
}

fn map_change(json: &Json) -> Result<MapChange, String> {
    let mut change = MapChange::new();
    for (name, field) in json["update"].as_object().into_iter().flatten() {
        for (of, what) in field.as_object().into_iter().flatten() {
            change = match (of.as_str(), what) {
                ("register_lww", Json::String(text)) => change.assign(name, text),
                ("flag", Json::Bool(true)) => change.enable(name),
                ("flag", Json::Bool(false)) => change.disable(name),
                ("set", what) => {
                    let OfSet { add, remove } = parsed(what)?;
                    let change = if add.is_empty() { change } else { change.add(name, add) };
                    if remove.is_empty() { change } else { change.remove_from(name, remove) }
                }
                _ => return Err(format!("operation: {of} is unknown")),
            };
        }
    }
    for name in parsed::<Vec<String>>(json.get("remove").unwrap_or(&json!([])))? {
        change = change.remove(name);
    }
    Ok(change)
}
