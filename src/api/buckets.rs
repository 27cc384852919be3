//! `/buckets`: the properties of buckets.

use std::fmt;
use std::sync::Arc;

use axum::body::Body;
use axum::extract::Request;
use axum::http::StatusCode;
use axum::http::request::Parts;
use axum::response::{IntoResponse, Response};
use quorate_protocol::bucket::{Conflicts, Properties, Settings};
use quorate_protocol::data_type::DataType;
use quorate_protocol::name::Bucket;
use serde::de::{Deserialize, Deserializer, Error, MapAccess, Visitor};
use serde_json::{Value, json};

use super::gate::Gate;
use super::problem::{Kind, Problem};
use super::route::Answer;
use super::{body, conditions, represent, write};
use quorate_engine::cluster::bucket_change;
use quorate_engine::cluster::buckets::BucketsError;
use quorate_engine::node::Node;

/// The names of all properties.
const PROPERTIES: &str = "n, r, w, conflicts, type, sloppy, expires_in_s, feed_retention_s";
/// The longest properties document, in bytes of JSON.
const JSON_BYTES_MAX: usize = 16 << 10;

/// `GET /buckets`: the buckets with properties of their own, and the defaults of all others.
pub(super) async fn list(gate: Gate, request: Request) -> Answer {
    gate.params(request.uri())?;
    gate.ready()?;
    let node = gate.node;
    let buckets: Vec<Value> = node
        .buckets
        .all()
        .into_iter()
        .map(|(bucket, settings)| {
            let properties = node.buckets.properties(bucket.as_str());
            json!({"bucket": bucket, "properties": shown(&properties), "set": set_only(&settings)})
        })
        .collect();
    let defaults = Settings::default().over(&node.config.defaults.properties());
    Ok(represent::json(&json!({"buckets": buckets, "defaults": shown(&defaults)})))
}

/// Properties, complete. The type is a property of its own here; inside, it is how conflicts are merged.
fn shown(properties: &Properties) -> Value {
    let mut value = json!(properties);
    value["conflicts"] = conflicts(properties.conflicts);
    value["type"] = json!(type_name(properties.conflicts));
    value["expires_in_s"] = json!(properties.expires_in_s);
    value["feed_retention_s"] = json!(properties.feed_retention_s);
    value
}

/// What happens to conflicts, as clients are told.
pub(super) fn conflicts(conflicts: Conflicts) -> Value {
    match conflicts.data_type() {
        Some(_) => json!("merged"),
        None => json!(conflicts),
    }
}

/// The type of a bucket, as clients are told.
pub(super) fn type_name(conflicts: Conflicts) -> &'static str {
    conflicts.data_type().map_or("value", DataType::name)
}

/// Only what was set explicitly, without values from the defaults.
fn set_only(settings: &Settings) -> Value {
    let Settings { n, r, w, conflicts, sloppy, expires_in_s, feed_retention_s } = *settings;
    let data_type = conflicts.and_then(Conflicts::data_type);
    let conflicts = conflicts.filter(|_| data_type.is_none());
    let mut value = json!({
        "n": n, "r": r, "w": w, "conflicts": conflicts, "sloppy": sloppy,
        "type": data_type.map(DataType::name), "expires_in_s": expires_in_s,
        "feed_retention_s": feed_retention_s,
    });
    if let Value::Object(fields) = &mut value {
        fields.retain(|_, value| !value.is_null());
    }
    value
}

/// `GET /buckets/{bucket}`: its properties, complete.
pub(super) async fn get(gate: Gate, request: Request) -> Answer {
    let bucket = gate.bucket(request.uri())?;
    gate.params(request.uri())?;
    gate.ready()?;
    Ok(properties(&gate.node, &bucket))
}

fn properties(node: &Node, bucket: &Bucket) -> Response {
    represent::json(&shown(&node.buckets.properties(bucket.as_str())))
}

/// `PUT /buckets/{bucket}`: replaces its properties; those not given follow the defaults, but for a type.
pub(super) async fn put(gate: Gate, request: Request) -> Answer {
    let (parts, mut body) = request.into_parts();
    let answer = set(&gate, &parts, &mut body).await;
    write::end(answer, &parts, &mut body).await
}

async fn set(gate: &Gate, parts: &Parts, body: &mut Body) -> Answer {
    let bucket = gate.bucket(&parts.uri)?;
    let (text, _pass) = gate.document(parts, body, JSON_BYTES_MAX).await?;
    let node = &gate.node;
    let Wanted { settings, is_untyped } = body::parse_json(&text)?;
    if let Some(has) = node.buckets.properties(bucket.as_str()).conflicts.data_type()
        && is_untyped
    {
        return Err(BucketsError::Typed { has }.into());
    }
    change(node, bucket.clone(), settings).await?;
    Ok(properties(node, &bucket))
}

/// `DELETE /buckets/{bucket}`: resets it to the defaults, but for a type. Keys are not touched.
pub(super) async fn delete(gate: Gate, request: Request) -> Answer {
    let bucket = gate.bucket(request.uri())?;
    let params = gate.params(request.uri())?;
    conditions::refuse_all(request.headers())?;
    let _pass = gate.enter(&params)?;
    change(&gate.node, bucket, Settings::default()).await?;
    Ok(StatusCode::NO_CONTENT.into_response())
}

/// Runs as its own task, so that a client that disconnects does not leave some peers uninformed.
async fn change(node: &Arc<Node>, bucket: Bucket, settings: Settings) -> Result<(), Problem> {
    let task = {
        let node = Arc::clone(node);
        let change = async move { bucket_change::set(&node, bucket, settings).await };
        tokio::spawn(change)
    };
    match task.await {
        Ok(Ok(())) => Ok(()),
        Ok(Err(error)) => Err(error.into()),
        Err(_) => Err(Problem::new(Kind::Internal, "the change was not completed")),
    }
}

impl From<BucketsError> for Problem {
    fn from(error: BucketsError) -> Self {
        let detail = error.to_string();
        match error {
            BucketsError::Properties(_) => Self::new(Kind::BadBody, detail),
            BucketsError::Full => Self::new(Kind::BucketsFull, detail),
            BucketsError::Moving | BucketsError::Unlisted => Self::new(Kind::NotReady, detail),
            BucketsError::Typed { .. } => Self::new(Kind::WrongType, detail),
            BucketsError::NotEmpty => Self::new(Kind::BucketNotEmpty, detail),
            BucketsError::Store(quorate_storage::Error::DiskLow { .. }) => {
                Self::new(Kind::DiskFull, detail)
            }
            BucketsError::Store(_) => Self::new(Kind::Failed, detail),
        }
    }
}

/// Properties as a client sends them. Deserialized by hand, so that every error names its property.
pub(super) struct Wanted {
    settings: Settings,
    /// Whether the type is said to be none.
    is_untyped: bool,
}

impl<'de> Deserialize<'de> for Wanted {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_map(WantedVisitor)
    }
}

struct WantedVisitor;

impl<'de> Visitor<'de> for WantedVisitor {
    type Value = Wanted;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "an object with some of {PROPERTIES}")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Wanted, A::Error> {
        let mut settings = Settings::default();
        let mut data_type: Option<String> = None;
        let mut lifetime: Option<Option<u32>> = None; // null, as a bucket without one shows it
        let mut retention: Option<Option<u32>> = None;
        while let Some(name) = map.next_key::<String>()? {
            match name.as_str() {
                "n" => take(&mut map, "n", &mut settings.n)?,
                "r" => take(&mut map, "r", &mut settings.r)?,
                "w" => take(&mut map, "w", &mut settings.w)?,
                "conflicts" => take(&mut map, "conflicts", &mut settings.conflicts)?,
                "type" => take(&mut map, "type", &mut data_type)?,
                "sloppy" => take(&mut map, "sloppy", &mut settings.sloppy)?,
                "expires_in_s" => take(&mut map, "expires_in_s", &mut lifetime)?,
                "feed_retention_s" => take(&mut map, "feed_retention_s", &mut retention)?,
                _ => {
                    let name = super::problem::echo(&name);
                    let detail = format!("{name}: is no property; the properties are {PROPERTIES}");
                    return Err(A::Error::custom(detail));
                }
            }
        }
        settings.expires_in_s = lifetime.flatten();
        settings.feed_retention_s = retention.flatten();
        if settings.conflicts.is_some_and(|conflicts| conflicts.data_type().is_some()) {
            return Err(A::Error::custom(
                "conflicts: is siblings or lww; a type is set by \"type\"",
            ));
        }
        let Some(name) = data_type else { return Ok(Wanted { settings, is_untyped: false }) };
        if name == "value" {
            return Ok(Wanted { settings, is_untyped: true });
        }
        let Some(data_type) = DataType::named(&name) else {
            let known: Vec<&str> = DataType::ALL.iter().map(|known| known.name()).collect();
            return Err(A::Error::custom(format!("type: is one of value, {}", known.join(", "))));
        };
        if settings.conflicts.is_some() {
            return Err(A::Error::custom("conflicts: a bucket with a type has none"));
        }
        settings.conflicts = Some(data_type.into());
        Ok(Wanted { settings, is_untyped: false })
    }
}

fn take<'de, A: MapAccess<'de>, T: Deserialize<'de>>(
    map: &mut A,
    name: &str,
    slot: &mut Option<T>,
) -> Result<(), A::Error> {
    if slot.is_some() {
        return Err(A::Error::custom(format!("{name}: is given more than once")));
    }
    let value = map.next_value();
    *slot = Some(value.map_err(|error| A::Error::custom(format!("{name}: {error}")))?);
    Ok(())
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use quorate_protocol::quorum::Count;

    use super::*;

    #[test]
    fn properties_are_read_and_each_error_names_its_property() {
        let all = r#"{"n": 5, "r": "one", "w": 3, "conflicts": "lww", "sloppy": false}"#;
        let read = |text: &str| body::parse_json::<Wanted>(text.as_bytes());
        let settings = read(all).unwrap().settings;
        assert_eq!((settings.n, settings.r), (Some(5), Some(Count::One)));
        assert_eq!((settings.conflicts, settings.sloppy), (Some(Conflicts::Lww), Some(false)));
        assert_eq!(read("{}").unwrap().settings, Settings::default());
        let hour = read(r#"{"expires_in_s": 3600}"#).unwrap().settings;
        assert_eq!(hour.expires_in_s, Some(3600));
        assert_eq!(read(r#"{"expires_in_s": null}"#).unwrap().settings, Settings::default());
        let typed = read(r#"{"type": "register_lww"}"#).unwrap().settings;
        assert_eq!(typed.conflicts, Some(Conflicts::RegisterLww));
        assert!(read(r#"{"type": "value", "conflicts": "lww"}"#).unwrap().is_untyped);
        for (bad, name) in [
            (r#"{"n": "3"}"#, "n"),
            (r#"{"n": -1}"#, "n"),
            (r#"{"n": 65536}"#, "n"),
            (r#"{"n": null}"#, "n"),
            (r#"{"n": 1.5}"#, "n"),
            (r#"{"n": 1, "n": 2}"#, "n: is given more"),
            (r#"{"r": 0}"#, "r"),
            (r#"{"w": "most"}"#, "w"),
            (r#"{"conflicts": "LWW"}"#, "conflicts"),
            (r#"{"conflicts": "counter"}"#, "conflicts: is siblings or lww"),
            (r#"{"type": "list"}"#, "type: is one of value, counter"),
            (r#"{"type": "set", "conflicts": "lww"}"#, "conflicts: a bucket with a type"),
            (r#"{"sloppy": 1}"#, "sloppy"),
            (r#"{"expires_in_s": "1h"}"#, "expires_in_s"),
            (r#"{"expires_in_s": -1}"#, "expires_in_s"),
            (r#"{"N": 3}"#, "N: is no property"),
        ] {
            let problem = body::parse_json::<Wanted>(bad.as_bytes()).err().unwrap();
            assert!(problem.detail().starts_with(name), "{bad}: {}", problem.detail());
        }
        for bad in ["", "[]", "null", "{", r#"{"n": 3} x"#] {
            assert!(body::parse_json::<Wanted>(bad.as_bytes()).is_err(), "{bad}");
        }
    }

    #[test]
    fn only_what_was_set_is_listed() {
        let settings = Settings { n: Some(2), ..Settings::default() };
        assert_eq!(set_only(&settings), json!({"n": 2}));
        let typed = Settings { conflicts: Some(Conflicts::Set), ..settings };
        assert_eq!(set_only(&typed), json!({"n": 2, "type": "set"}));
        assert_eq!(shown(&Properties::default())["type"], "value");
        let complete = shown(&typed.over(&Properties::default()));
        assert_eq!((&complete["type"], &complete["conflicts"]), (&json!("set"), &json!("merged")));
    }
}
