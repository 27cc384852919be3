//! One operation as a line of JSON, with the members that `POST /batch` has.

use std::time::Duration;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use quorate_client::{BatchOperation, Client, Context, Lifetime, Put, Value};
use serde::Deserialize;
use serde_json::Value as Json;

use crate::args::{bucket_name, check_key};
use crate::data::entries;
use crate::data::written::idempotency_key;
use crate::lifetime;

/// What an operation does.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(super) enum Op {
    Get,
    Put,
    Delete,
    /// An operation on a typed value.
    Change,
}

impl Op {
    /// Its name in a line.
    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Get => "get",
            Self::Put => "put",
            Self::Delete => "delete",
            Self::Change => "change",
        }
    }
}

/// What of a line is shown with its result.
#[derive(Clone, Debug)]
pub(super) struct Line {
    pub(super) op: Op,
    pub(super) bucket: String,
    pub(super) key: String,
    /// The key under which a write can be repeated.
    pub(super) idempotency_key: String,
}

/// A line as it is written.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Given {
    op: Op,
    bucket: String,
    key: String,
    value: Option<String>,
    encoding: Option<String>,
    content_type: Option<String>,
    expires_in: Option<Json>,
    index: Option<Json>,
    operation: Option<Json>,
    context: Option<String>,
    idempotency_key: Option<String>,
    if_match: Option<String>,
    if_none_match: Option<String>,
}

/// Reads a line as an operation of this client.
///
/// # Errors
/// What is wrong with it.
pub(super) fn parse(text: &[u8], client: &Client) -> Result<(Line, BatchOperation), String> {
    // The line is the caller's to name: of the place in the text only the column matters.
    let told =
        |error: serde_json::Error| error.to_string().replace(" at line 1 column ", ", column ");
    let given: Given = serde_json::from_slice(text).map_err(told)?;
    bucket_name(&given.bucket)?;
    check_key(&given.key)?;
    given.check()?;
    let context = given.context.as_deref().map(Context::parse).transpose();
    let context = context.map_err(|error| error.to_string())?;
    let line = Line {
        op: given.op,
        bucket: given.bucket.clone(),
        key: given.key.clone(),
        idempotency_key: idempotency_key(given.idempotency_key.as_ref()),
    };
    let (bucket, key) = (client.bucket(given.bucket.as_str()), given.key.as_str());
    let repeated_as = line.idempotency_key.as_str();
    let operation = match given.op {
        Op::Get => bucket.get(key).into(),
        Op::Put => {
            let value = given.value()?;
            let put = match &context {
                Some(context) => bucket.put_after(key, context, value),
                None => bucket.put_blind(key, value),
            };
            given.put(put)?.idempotency_key(repeated_as).into()
        }
        Op::Delete => {
            let delete = match &context {
                Some(context) => bucket.delete_after(key, context),
                None => bucket.delete(key),
            };
            let delete = match given.if_match.as_deref() {
                None => delete,
                Some("*") => delete.if_present(),
                Some(etag) => delete.if_match(etag),
            };
            delete.idempotency_key(repeated_as).into()
        }
        Op::Change => {
            let operation = given.operation.unwrap_or_default();
            let change = bucket.typed(key).change(context.as_ref(), operation);
            change.idempotency_key(repeated_as).into()
        }
    };
    Ok((line, operation))
}

impl Given {
    /// Checks that it has what its operation needs, and nothing that it has no use for.
    fn check(&self) -> Result<(), String> {
        let op = self.op;
        let (is_put, is_write) = (op == Op::Put, op != Op::Get);
        let is_plain = matches!(op, Op::Put | Op::Delete);
        for (name, is_there, fits) in [
            ("value", self.value.is_some(), is_put),
            ("encoding", self.encoding.is_some(), is_put),
            ("content_type", self.content_type.is_some(), is_put),
            ("expires_in", self.expires_in.is_some(), is_put),
            ("index", self.index.is_some(), is_put),
            ("if_none_match", self.if_none_match.is_some(), is_put),
            ("if_match", self.if_match.is_some(), is_plain),
            ("operation", self.operation.is_some(), op == Op::Change),
            ("context", self.context.is_some(), is_write),
            ("idempotency_key", self.idempotency_key.is_some(), is_write),
        ] {
            if is_there && !fits {
                return Err(format!("{name}: is nothing for a {}", op.name()));
            }
        }
        match op {
            Op::Put if self.value.is_none() => Err("value: a put needs one, as text".to_owned()),
            Op::Put if self.if_match.is_some() && self.if_none_match.is_some() => {
                Err("if_match: cannot be combined with if_none_match".to_owned())
            }
            Op::Change if self.operation.is_none() => {
                Err("operation: a change needs one, such as {\"increment\": 1}".to_owned())
            }
            Op::Get | Op::Put | Op::Delete | Op::Change => Ok(()),
        }
    }

    fn value(&self) -> Result<Value, String> {
        let text = self.value.clone().unwrap_or_default();
        let mut value = match self.encoding.as_deref() {
            None => Value::from(text),
            Some("base64") => {
                let bytes = STANDARD.decode(text);
                Value::new(bytes.map_err(|_| "value: is not valid base64")?)
            }
            Some(_) => return Err("encoding: can only be base64".to_owned()),
        };
        value.metadata.index = entries::of_json(self.index.as_ref())?;
        Ok(match &self.content_type {
            Some(content_type) => value.content_type(content_type),
            None => value,
        })
    }

    fn put(&self, put: Put) -> Result<Put, String> {
        let put = match self.if_none_match.as_deref() {
            None => put,
            Some("*") => put.if_absent(),
            Some(_) => return Err("if_none_match: can only be *".to_owned()),
        };
        let put = match self.if_match.as_deref() {
            None => put,
            Some("*") => put.if_present(),
            Some(etag) => put.if_match(etag),
        };
        match &self.expires_in {
            None => Ok(put),
            Some(told) => Ok(put.lifetime(lifetime_of(told)?)),
        }
    }
}

/// A number of seconds, or what `--expires-in` takes.
fn lifetime_of(told: &Json) -> Result<Lifetime, String> {
    if let Json::String(text) = told {
        return lifetime::parse(text).map_err(|why| format!("expires_in: {why}"));
    }
    let lifetime = told.as_u64().map(|seconds| Lifetime::Limited(Duration::from_secs(seconds)));
    match lifetime.filter(|lifetime| lifetime.seconds().is_ok()) {
        Some(lifetime) => Ok(lifetime),
        None => {
            Err("expires_in: must be seconds, 1 to 100 years, or text such as \"1h\"".to_owned())
        }
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    fn of(text: &str) -> Result<String, String> {
        let client = Client::connect(["http://127.0.0.1:1"]).unwrap();
        let (line, operation) = parse(text.as_bytes(), &client)?;
        Ok(format!("{} {}/{} {operation:?}", line.op.name(), line.bucket, line.key))
    }

    #[test]
    fn lines_are_operations() {
        assert!(of(r#"{"op":"get","bucket":"b","key":"k/ü"}"#).unwrap().starts_with("get b/k/ü"));
        let put = r#"{"op":"put","bucket":"b","key":"k","value":"/w==","encoding":"base64",
            "content_type":"a/b","context":"AY","expires_in":90,"if_none_match":"*",
            "idempotency_key":"mine","index":{"age_i":[7],"name_s":"x"}}"#;
        let put = of(put).unwrap();
        for part in
            ["\"AY\"", "Absent", "a/b", "Limited(90s)", "\"mine\"", "length: 1", "Integer(7)"]
        {
            assert!(put.contains(part), "{part}: {put}");
        }
        for (expires_in, shown) in [("\"1h\"", "Limited(3600s)"), ("\"never\"", "Unlimited")] {
            let put = format!(
                r#"{{"op":"put","bucket":"b","key":"k","value":"","expires_in":{expires_in}}}"#
            );
            assert!(of(&put).unwrap().contains(shown));
        }
        let delete = r#"{"op":"delete","bucket":"b","key":"k","if_match":"\"e\""}"#;
        assert!(of(delete).unwrap().contains("Match"));
        let change = r#"{"op":"change","bucket":"b","key":"k","operation":{"increment":5}}"#;
        assert!(of(change).unwrap().contains("increment"));
    }

    #[test]
    fn bad_lines_are_named() {
        for (bad, word) in [
            ("", "EOF"),
            ("nonsense", "ident, column 2"),
            ("[]", "expected"),
            (r#"{"op":"move","bucket":"b","key":"k"}"#, "unknown variant"),
            (r#"{"op":"get","key":"k"}"#, "bucket"),
            (r#"{"op":"get","bucket":"b c","key":"k"}"#, "bucket"),
            (r#"{"op":"get","bucket":"b","key":""}"#, "key"),
            (r#"{"op":"get","bucket":"b","key":"k","value":"x"}"#, "value: is nothing for a get"),
            (r#"{"op":"delete","bucket":"b","key":"k","expires_in":1}"#, "expires_in"),
            (r#"{"op":"change","bucket":"b","key":"k"}"#, "operation"),
            (r#"{"op":"put","bucket":"b","key":"k"}"#, "value"),
            (r#"{"op":"put","bucket":"b","key":"k","value":7}"#, "string"),
            (r#"{"op":"put","bucket":"b","key":"k","value":"!","encoding":"base64"}"#, "base64"),
            (r#"{"op":"put","bucket":"b","key":"k","value":"","encoding":"hex"}"#, "encoding"),
            (r#"{"op":"put","bucket":"b","key":"k","value":"","expires_in":0}"#, "expires_in"),
            (r#"{"op":"put","bucket":"b","key":"k","value":"","expires_in":1.5}"#, "expires_in"),
            (r#"{"op":"put","bucket":"b","key":"k","value":"","expires_in":"soon"}"#, "expires_in"),
            (r#"{"op":"put","bucket":"b","key":"k","value":"","context":"?"}"#, "context"),
            (r#"{"op":"put","bucket":"b","key":"k","value":"","if_none_match":"e"}"#, "if_none"),
            (r#"{"op":"put","bucket":"b","key":"k","value":"","ttl":7}"#, "ttl"),
            (r#"{"op":"put","bucket":"b","key":"k","value":"","index":{"a":7}}"#, "_i"),
            (r#"{"op":"get","bucket":"b","key":"k","index":{}}"#, "index: is nothing"),
        ] {
            let why = of(bad).unwrap_err();
            assert!(why.contains(word), "{bad}: {why}");
        }
    }
}
