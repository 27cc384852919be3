//! One operation of a batch: a request of a key, as JSON or sent alone.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::time::Duration;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use reqwest::header::HeaderMap;
use serde::Serialize;
use serde_json::{Value as Json, json};

use super::answer::BatchAnswer;
use super::pieces::JSON_BYTES_MAX;
use crate::body::{NewValue, Source};
use crate::bucket::{At, Get};
use crate::error::Error;
use crate::index::IndexValue;
use crate::index::entries::{ByIndex, by_index};
use crate::options::{Count, Options};
use crate::path;
use crate::types::{AnyValue, Operation, TypedValue};
use crate::value::Metadata;
use crate::write::{Common, Condition, Delete, Put};

/// One operation of a [`Batch`](crate::Batch). A [`Get`], a [`Put`], a [`Delete`] and an [`Operation`] become
/// one by `into()`.
#[derive(Clone, Debug)]
pub struct BatchOperation(Kind);

#[derive(Clone, Debug)]
enum Kind {
    Get(Get),
    Put(Box<Put>),
    Delete(Box<Delete>),
    Change(Box<Operation<AnyValue>>),
}

impl From<Get> for BatchOperation {
    fn from(get: Get) -> Self {
        Self(Kind::Get(get))
    }
}

impl From<Put> for BatchOperation {
    fn from(put: Put) -> Self {
        Self(Kind::Put(Box::new(put)))
    }
}

impl From<Delete> for BatchOperation {
    fn from(delete: Delete) -> Self {
        Self(Kind::Delete(Box::new(delete)))
    }
}

impl<V: TypedValue> From<Operation<V>> for BatchOperation {
    fn from(change: Operation<V>) -> Self {
        Self(Kind::Change(Box::new(change.of_any())))
    }
}

/// What it is in JSON.
#[derive(Default, Serialize)]
struct Item<'a> {
    op: &'a str,
    bucket: &'a str,
    key: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    value: Option<Cow<'a, str>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    encoding: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    content_type: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    expires_in: Option<Json>,
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    index: ByIndex<&'a IndexValue>,
    #[serde(skip_serializing_if = "Option::is_none")]
    operation: Option<&'a Json>,
    #[serde(skip_serializing_if = "Option::is_none")]
    context: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    idempotency_key: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    if_match: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    if_none_match: Option<&'a str>,
}

impl BatchOperation {
    /// The key.
    pub(super) fn at(&self) -> &At {
        match &self.0 {
            Kind::Get(get) => &get.at,
            Kind::Put(put) => &put.common.at,
            Kind::Delete(delete) => &delete.common.at,
            Kind::Change(change) => &change.common.at,
        }
    }

    fn common(&self) -> Option<&Common> {
        match &self.0 {
            Kind::Get(_) => None,
            Kind::Put(put) => Some(&put.common),
            Kind::Delete(delete) => Some(&delete.common),
            Kind::Change(change) => Some(&change.common),
        }
    }

    fn options(&self) -> &Options {
        match &self.0 {
            Kind::Get(get) => &get.options,
            Kind::Put(put) => &put.common.options,
            Kind::Delete(delete) => &delete.common.options,
            Kind::Change(change) => &change.common.options,
        }
    }

    /// Whether it changes something.
    pub(super) fn writes(&self) -> bool {
        self.common().is_some()
    }

    /// Whether it is a change of a typed value.
    pub(super) fn is_change(&self) -> bool {
        matches!(self.0, Kind::Change(_))
    }

    /// Whether it may be sent again after it may have arrived.
    pub(super) fn is_repeatable(&self) -> bool {
        self.common().is_none_or(|common| common.repeatable)
    }

    /// An error of a request with many operations, as one of this.
    pub(super) fn own(&self, error: Error) -> Error {
        if self.writes() { error } else { error.of_read() }
    }

    /// What it is in the body of a batch; `None` if it has to be sent alone.
    ///
    /// # Errors
    /// [`Error::Invalid`], if it cannot be sent at all.
    pub(super) fn json(&self) -> Result<Option<String>, Error> {
        let at = self.at();
        let (bucket, key) = (at.bucket.name.as_str(), at.key.as_str());
        path::of_key("", bucket, key)?;
        let mut item = Item { bucket, key, ..Item::default() };
        if let Some(common) = self.common() {
            common.headers()?;
            item.context = common.context.as_ref().map(|context| context.as_str());
            item.idempotency_key = Some(&common.idempotency_key);
            match &common.condition {
                None => {}
                Some(Condition::Absent) => item.if_none_match = Some("*"),
                Some(Condition::Present) => item.if_match = Some("*"),
                Some(Condition::Match(tag)) => item.if_match = Some(tag),
            }
        }
        let fits = match &self.0 {
            Kind::Get(_) => {
                item.op = "get";
                true
            }
            Kind::Put(put) => {
                item.op = "put";
                let seconds = put.lifetime.map(|lifetime| lifetime.seconds()).transpose()?;
                item.expires_in = seconds.map(|limit| limit.map_or(json!("never"), Json::from));
                item.takes(&put.value)?
            }
            Kind::Delete(delete) => {
                item.op = "delete";
                delete.route == "/kv"
            }
            Kind::Change(change) => {
                item.op = "change";
                item.operation = Some(change.body()?);
                true
            }
        };
        if !fits || *self.options() != Options::default() {
            return Ok(None);
        }
        let text = serde_json::to_string(&item);
        let text = text.map_err(|error| Error::invalid("batch", error.to_string()))?;
        Ok(Some(text).filter(|text| text.len() <= JSON_BYTES_MAX))
    }

    /// Sends it as a request of its own, with the batch's options where it has none, by its deadline.
    pub(super) async fn alone(
        self,
        options: &Options,
        r: Option<Count>,
        left: Duration,
    ) -> Result<BatchAnswer, Error> {
        let own = self.options();
        let needed = if self.writes() { options.needed } else { r };
        let options = Options {
            n: own.n.or(options.n),
            needed: own.needed.or(needed),
            sloppy: own.sloppy.or(options.sloppy),
            timeout_ms: own.timeout_ms.or(options.timeout_ms),
            deadline: Some(own.deadline.map_or(left, |own| own.min(left))),
            explain: own.explain,
        };
        match self.0 {
            Kind::Get(get) => get.options(options).send().await.map(BatchAnswer::Read),
            Kind::Put(put) => put.options(options).send().await.map(BatchAnswer::Written),
            Kind::Delete(delete) => delete.options(options).send().await.map(BatchAnswer::Written),
            Kind::Change(change) => change.options(options).send().await.map(BatchAnswer::Applied),
        }
    }
}

impl<'a> Item<'a> {
    /// Takes a value; `false` if the JSON of a batch has no place for all of it.
    fn takes(&mut self, value: &'a NewValue) -> Result<bool, Error> {
        value.metadata.write_to(&mut HeaderMap::new())?;
        let Metadata {
            content_type,
            content_encoding,
            content_language,
            content_disposition,
            user,
            index,
        } = &value.metadata;
        self.content_type = content_type.as_deref();
        self.index = by_index(index);
        let more = [content_encoding, content_language, content_disposition];
        let Source::Bytes(bytes) = &value.source else { return Ok(false) };
        // In base64 it has a third more.
        if more.iter().any(|text| text.is_some())
            || !user.is_empty()
            || bytes.len() > JSON_BYTES_MAX / 4 * 3
        {
            return Ok(false);
        }
        self.value = Some(match std::str::from_utf8(bytes) {
            Ok(text) => Cow::Borrowed(text),
            Err(_) => {
                self.encoding = Some("base64");
                Cow::Owned(STANDARD.encode(bytes))
            }
        });
        Ok(true)
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use crate::{Bucket, Client, Context, Value};

    fn bucket() -> Bucket {
        Client::connect(["http://127.0.0.1:1"]).unwrap().bucket("b")
    }

    fn json_of(operation: impl Into<BatchOperation>) -> Option<Json> {
        let text = operation.into().json().unwrap();
        text.map(|text| serde_json::from_str(&text).unwrap())
    }

    #[test]
    fn an_operation_says_what_its_request_says() {
        let b = bucket();
        let get = json_of(b.get("k")).unwrap();
        assert_eq!(get, json!({"op": "get", "bucket": "b", "key": "k"}));
        let context = Context::parse("AY").unwrap();
        let put = b.put_after("k", &context, "v").idempotency_key("i").if_match("\"e\"");
        assert_eq!(
            json_of(put.expires_in(Duration::from_millis(1500))).unwrap(),
            json!({"op": "put", "bucket": "b", "key": "k", "value": "v", "context": "AY",
                "content_type": "text/plain; charset=utf-8", "expires_in": 2,
                "idempotency_key": "i", "if_match": "\"e\""})
        );
        let bytes = json_of(b.insert("k", vec![0xff]).never_expires()).unwrap();
        assert_eq!((&bytes["value"], &bytes["encoding"]), (&json!("/w=="), &json!("base64")));
        assert_eq!((&bytes["expires_in"], &bytes["if_none_match"]), (&json!("never"), &json!("*")));
        let put = b.put_blind("k", "v").index("age_i", 42).index("name_s", "b,c");
        assert_eq!(
            json_of(put.index("Age_i", -7)).unwrap()["index"],
            json!({"age_i": [42, -7], "name_s": ["b,c"]})
        );
        let change = json_of(b.counter("k").increment(5)).unwrap();
        assert_eq!(
            (&change["op"], &change["operation"]["increment"]),
            (&json!("change"), &json!(5))
        );
        let delete = json_of(b.delete_after("k", &context).if_present()).unwrap();
        assert_eq!((&delete["context"], &delete["if_match"]), (&json!("AY"), &json!("*")));
        assert!(delete["idempotency_key"].is_string(), "it may be repeated");
    }

    #[test]
    fn what_does_not_fit_is_sent_alone() {
        let b = bucket();
        let fill = |byte: u8, length: usize| b.put_blind("k", vec![byte; length]);
        for alone in [
            b.get("k").r(3).into(),
            b.get("k").explain().into(),
            b.put_blind("k", Value::new("v").meta("m", "1")).into(),
            b.put_blind("k", NewValue::stream(0, futures_util::stream::empty)).into(),
            fill(0xff, 3 << 20).into(),
            fill(1, 1 << 20).into(), // six characters each
            b.counter("k").delete().into(),
        ] {
            let alone: BatchOperation = alone;
            assert!(json_of(alone.clone()).is_none(), "{alone:?}");
        }
        assert!(json_of(fill(b'a', 2 << 20)).is_some());
    }

    #[test]
    fn what_cannot_be_sent_is_refused() {
        let b = bucket();
        let long = Duration::from_secs(1 << 40);
        for bad in [
            b.get("").into(),
            b.put_blind("k", "v").idempotency_key("").into(),
            b.put_blind("k", "v").content_type("a\nb").into(),
            b.put_blind("k", "v").index("age_i", "old").into(),
            b.put_blind("k", "v").expires_in(long).into(),
            b.map("k").update(crate::MapChange::new().remove("f")).into(),
        ] {
            let bad: BatchOperation = bad;
            assert!(matches!(bad.json(), Err(Error::Invalid { .. })), "{bad:?}");
        }
    }
}
