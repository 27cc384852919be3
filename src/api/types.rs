//! `/types/{bucket}/{key}`: values of buckets that have a type: counters, sets, flags, maps, registers,
//! estimates.

use std::collections::BTreeMap;

use axum::body::Body;
use axum::extract::Request;
use axum::http::header::ETAG;
use axum::http::request::Parts;
use axum::response::Response;
use quorate_protocol::bucket::Conflicts;
use quorate_protocol::context::ContextKeys;
use quorate_protocol::data_type::sketch::{Sketch, hash_of};
use quorate_protocol::data_type::{
    Counts, DataType, Field, FieldChange, FieldType, FieldValue, Operation, PARTS_BYTES_MAX, Part,
    SetChange, Value as TypedValue,
};
use quorate_protocol::name::Key;
use quorate_protocol::object::{Metadata, Object, Sibling};
use quorate_protocol::view::context_of;
use serde::Deserialize;
use serde_json::{Map, Value, json};

use super::conditions::ReadConditions;
use super::explain::Wish;
use super::gate::Gate;
use super::headers::CONTEXT;
use super::problem::{Kind, Problem};
use super::route::Answer;
use super::write::{Change, WriteRequest};
use super::{body, conditions, headers, index_entries, kv, permit_body, represent, write};
use quorate_engine::node::Node;
use quorate_engine::ops::explain::Facts;

/// The longest operation, in bytes of JSON: escapes make it longer than its content.
const JSON_BYTES_MAX: usize = 2 * PARTS_BYTES_MAX;

/// `GET /types/{bucket}/{key}`: the value. A key that was never written, or deleted, has the empty value of
/// the bucket's type.
pub(super) async fn get(gate: Gate, request: Request) -> Answer {
    let (parts, _) = request.into_parts();
    let key = gate.key(&parts.uri)?;
    let params = gate.params(&parts.uri)?;
    let conditions = ReadConditions::parse(&parts.headers)?;
    let wish = Wish::of(&gate.node, gate.arrived, params.explain, &parts.headers);
    let (((view, terms), data_type), mut pass) = gate.enter_if(&params, |node| {
        let (view, terms) = kv::read_terms(node, &key, &params)?;
        let data_type = type_of(terms.conflicts, &key)?;
        Ok(((view, terms), data_type))
    })?;
    let node = &gate.node;
    let facts = Facts::of_read(&terms, pass.timeout_ms);
    let (recorder, explained) = wish.begin((node, &view), &key, facts);
    let (object, trace) = kv::read_recorded(node, &key, (view, terms), &mut pass, recorder).await;
    let answer = object.and_then(|object| shown_if(node, &key, &object, data_type, &conditions));
    let response = explained.end(node, trace, answer)?;
    Ok(permit_body::until_sent(response, &node.admission, pass.permit))
}

/// 200, or 304 if the client has that.
///
/// # Errors
/// 412 if the conditions do not hold.
fn shown_if(
    node: &Node,
    key: &Key,
    object: &Object,
    data_type: DataType,
    conditions: &ReadConditions<'_>,
) -> Answer {
    let tag = represent::etag(object.version(), "");
    let text = tag.to_str().unwrap_or_default().trim_matches('"');
    if conditions.fails((!object.is_absent()).then_some(text)) {
        return Err(represent::condition_failed());
    }
    Ok(match conditions.has(text, None) {
        true => represent::not_modified(tag),
        false => shown(&node.contexts, key, object, data_type),
    })
}

/// The type of the key's bucket.
///
/// # Errors
/// 409: its values are bytes.
fn type_of(conflicts: Conflicts, key: &Key) -> Result<DataType, Problem> {
    conflicts.data_type().ok_or_else(|| {
        let bucket = key.bucket();
        let detail = format!(
            "bucket {bucket} has values of no type; give it one before it has keys (PUT /buckets/{bucket} \
             with \"type\"), or use /kv/{bucket}"
        );
        Problem::new(Kind::WrongType, detail)
    })
}

/// 200: the value, with the context of all its parts.
pub(super) fn shown(
    contexts: &ContextKeys,
    key: &Key,
    object: &Object,
    data_type: DataType,
) -> Response {
    let value = json_of(&TypedValue::of(object, data_type));
    let exists = !object.is_deleted();
    let mut response =
        represent::json(&json!({"type": data_type.name(), "value": value, "exists": exists}));
    let headers = response.headers_mut();
    headers.insert(CONTEXT, represent::context(contexts, key, &context_of(object)));
    headers.insert(ETAG, represent::etag(object.version(), ""));
    response
}

/// A typed value as JSON. Numbers beyond 64 bits are strings.
fn json_of(value: &TypedValue) -> Value {
    match value {
        TypedValue::Counter(total) => match (i64::try_from(*total), u64::try_from(*total)) {
            (Ok(total), _) => json!(total),
            (Err(_), Ok(total)) => json!(total),
            (Err(_), Err(_)) => json!(total.to_string()),
        },
        TypedValue::Set(elements) => json!(elements),
        TypedValue::Flag(on) => json!(on),
        TypedValue::RegisterLww(text) => json!(text),
        TypedValue::Hll(estimate) => json!(estimate),
        TypedValue::Map(fields) => {
            let mut shown: BTreeMap<&str, Map<String, Value>> = BTreeMap::new();
            for ((name, of), value) in fields {
                let value = match value {
                    FieldValue::RegisterLww(text) => json!(text),
                    FieldValue::Flag => json!(true),
                    FieldValue::Set(elements) => json!(elements),
                };
                shown.entry(name).or_default().insert(name_of(*of).to_owned(), value);
            }
            json!(shown)
        }
    }
}

/// What a part holds, for whoever inspects the key.
pub(super) fn part_json(part: &Sibling) -> Value {
    let bytes = part.value.as_deref().unwrap_or_default();
    let text = || json!(String::from_utf8_lossy(bytes));
    match part.part {
        Part::Value | Part::Element | Part::Register => text(),
        Part::Flag => json!(true),
        Part::Count => Counts::decode(bytes).map_or(Value::Null, |counts| {
            json!({"added": counts.added, "subtracted": counts.subtracted})
        }),
        Part::Field => Field::decode(bytes).map_or(Value::Null, |Field { of, name, content }| {
            json!({"field": name, "type": name_of(of), "content": content})
        }),
        Part::Sketch => {
            let estimate = Sketch::decode(bytes).map(|sketch| sketch.estimate());
            json!({"estimate": estimate})
        }
    }
}

fn name_of(of: FieldType) -> &'static str {
    match of {
        FieldType::RegisterLww => "register_lww",
        FieldType::Flag => "flag",
        FieldType::Set => "set",
    }
}

/// `POST /types/{bucket}/{key}`: one operation on the value.
pub(super) async fn change(gate: Gate, request: Request) -> Answer {
    let (parts, mut body) = request.into_parts();
    let answer = change_key(&gate, &parts, &mut body).await;
    write::end(answer, &parts, &mut body).await
}

async fn change_key(gate: &Gate, parts: &Parts, body: &mut Body) -> Answer {
    let key = gate.key(&parts.uri)?;
    let params = gate.params(&parts.uri)?;
    body::check_json_type(parts)?;
    conditions::refuse_all(&parts.headers)?;
    headers::refuse_lifetime(&parts.headers, "typed values do not expire")?;
    index_entries::refuse(&parts.headers, "typed values have no index entries")?;
    let ask = WriteRequest::parse(gate, parts, key, &params)?;
    let (data_type, mut pass) = gate.enter_if(&params, |node| fits(&ask, node))?;
    let node = &gate.node;
    let body_ms = node.config.timeouts.body_ms;
    let text = body::read(body, JSON_BYTES_MAX, body_ms, &mut pass.permit).await?;
    pass.permit.add_bytes(text.len())?; // for its content, which is no longer than the text
    let operation = parse(data_type, &text)?;
    if operation.removes() && ask.seen().is_none() {
        let detail = "what is removed must have been read: send the Quorate-Context of a read, so that what \
                      others add meanwhile stays";
        return Err(Problem::new(Kind::ContextNeeded, detail));
    }
    let id = ask.write_id(&Metadata::default(), &text);
    ask.carry_out(node, id, Change::Typed(operation), pass).await
}

fn fits(ask: &WriteRequest<'_>, node: &Node) -> Result<DataType, Problem> {
    ask.check(node)?;
    type_of(node.view().properties(ask.key.bucket()).conflicts, &ask.key)
}

/// The operation that a document of the bucket's type describes.
///
/// # Errors
/// 400 with the position and the reason.
pub(super) fn parse(data_type: DataType, text: &[u8]) -> Result<Operation, Problem> {
    let operation = match data_type {
        DataType::Counter => {
            let Increment { increment } = body::parse_json(text)?;
            Operation::Increment(increment)
        }
        DataType::Set => Operation::Set(body::parse_json::<OfSet>(text)?.into()),
        DataType::Flag => {
            let Enable { enable } = body::parse_json(text)?;
            Operation::Flag(enable)
        }
        DataType::RegisterLww => {
            let Assign { assign } = body::parse_json(text)?;
            Operation::Assign(assign)
        }
        DataType::Hll => {
            let Observe { add } = body::parse_json(text)?;
            Operation::Observe(add.iter().map(|text| hash_of(text)).collect())
        }
        DataType::Map => {
            let OfMap { update, remove } = body::parse_json(text)?;
            let update = update.into_iter().flat_map(|(name, field)| field.changes(name)).collect();
            Operation::Map { update, remove }
        }
    };
    operation.check().map_err(|error| Problem::new(Kind::BadBody, error.to_string()))?;
    Ok(operation)
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Increment {
    increment: i64,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Enable {
    enable: bool,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Assign {
    assign: String,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Observe {
    add: Vec<String>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct OfSet {
    #[serde(default)]
    add: Vec<String>,
    #[serde(default)]
    remove: Vec<String>,
}

impl From<OfSet> for SetChange {
    fn from(OfSet { add, remove }: OfSet) -> Self {
        Self { add, remove }
    }
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct OfMap {
    #[serde(default)]
    update: BTreeMap<String, OfField>,
    #[serde(default)]
    remove: Vec<String>,
}

/// Changes of the fields of one name: one field of each type.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct OfField {
    register_lww: Option<String>,
    flag: Option<bool>,
    set: Option<OfSet>,
}

impl OfField {
    fn changes(self, name: String) -> impl Iterator<Item = (String, FieldChange)> {
        let register = self.register_lww.map(FieldChange::Assign);
        let flag = self.flag.map(FieldChange::Flag);
        let set = self.set.map(|set| FieldChange::Set(set.into()));
        [register, flag, set].into_iter().flatten().map(move |change| (name.clone(), change))
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn operations_are_read_as_their_type_says_and_errors_name_what_is_wrong() {
        let read = |data_type, text: &str| parse(data_type, text.as_bytes());
        let add = |add: &[&str]| SetChange {
            add: add.iter().map(|element| (*element).to_owned()).collect(),
            remove: Vec::new(),
        };
        assert_eq!(
            read(DataType::Counter, r#"{"increment":-5}"#).unwrap(),
            Operation::Increment(-5)
        );
        assert_eq!(read(DataType::Set, r#"{"add":["a"]}"#).unwrap(), Operation::Set(add(&["a"])));
        assert_eq!(read(DataType::Flag, r#"{"enable":false}"#).unwrap(), Operation::Flag(false));
        let map =
            r#"{"update":{"name":{"register_lww":"Ann","set":{"add":["x"]}}},"remove":["old"]}"#;
        let expected = Operation::Map {
            update: vec![
                ("name".to_owned(), FieldChange::Assign("Ann".to_owned())),
                ("name".to_owned(), FieldChange::Set(add(&["x"]))),
            ],
            remove: vec!["old".to_owned()],
        };
        assert_eq!(read(DataType::Map, map).unwrap(), expected);
        for (data_type, text, why) in [
            (DataType::Counter, "{}", "missing field `increment`"),
            (DataType::Counter, r#"{"increment":1.5}"#, "invalid type"),
            (DataType::Counter, r#"{"increment":9223372036854775808}"#, "invalid value"),
            (DataType::Counter, r#"{"add":["a"]}"#, "unknown field `add`"),
            (DataType::Set, "{}", "changes nothing"),
            (DataType::Set, r#"{"add":[7]}"#, "invalid type"),
            (DataType::Set, "[]", "must be an object"),
            (DataType::Map, r#"{"update":{"f":{"counter":1}}}"#, "unknown field `counter`"),
            (DataType::Map, r#"{"update":{"f":{}}}"#, "changes nothing"),
            (DataType::Map, r#"{"update":{"":{"flag":true}}}"#, "name is empty"),
            (DataType::Hll, r#"{"add":[]}"#, "changes nothing"),
            (DataType::RegisterLww, r#"{"assign":null}"#, "invalid type"),
        ] {
            let problem = read(data_type, text).unwrap_err();
            assert!(problem.detail().contains(why), "{text}: {}", problem.detail());
        }
    }

    #[test]
    fn numbers_beyond_64_bits_are_strings() {
        let shown = |total| json_of(&TypedValue::Counter(total));
        assert_eq!(shown(-7), json!(-7));
        assert_eq!(shown(i128::from(u64::MAX)), json!(u64::MAX));
        assert_eq!(shown(i128::from(u64::MAX) + 1), json!("18446744073709551616"));
    }
}
