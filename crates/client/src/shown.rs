//! What a read or a write of a key found, as an object among others: a result of a batch, or a change of a
//! feed. It becomes the answer that the request alone would have had.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use reqwest::StatusCode;
use reqwest::header::{CONTENT_TYPE, ETAG, HeaderMap, HeaderValue};
use serde::Deserialize;
use serde_json::{Map, Value as Json, json};

use crate::answer::{ACKS, Answer, AnswerBody, CONTEXT, HINTS, SIBLINGS};
use crate::error::Error;
use crate::expiry::told;
use crate::index::IndexValue;
use crate::index::entries::{self, ByIndex};
use crate::value::meta_headers;

/// One object.
#[derive(Deserialize)]
pub(crate) struct Shown {
    status: u16,
    context: Option<String>,
    etag: Option<String>,
    siblings_count: Option<u64>,
    acks: Option<u64>,
    hints: Option<u64>,
    content_type: Option<String>,
    expires_at: Option<String>,
    #[serde(default)]
    expired: bool,
    #[serde(default)]
    meta: Map<String, Json>,
    #[serde(default)]
    index: ByIndex<IndexValue>,
    value: Option<String>,
    encoding: Option<String>,
    siblings: Option<Json>,
    problem: Option<Json>,
    /// Of a feed, where a batch has a problem.
    #[serde(default)]
    deleted: bool,
}

impl Shown {
    /// Reads it from a part of an answer; `what` it is of.
    ///
    /// # Errors
    /// [`Error::BadAnswer`].
    pub(crate) fn parse(whole: &Answer, what: &str, json: Json) -> Result<Self, Error> {
        serde_json::from_value(json).map_err(|error| whole.bad(format!("no {what}: {error}")))
    }

    /// The answer that the request alone would have had.
    ///
    /// # Errors
    /// [`Error::BadAnswer`].
    pub(crate) fn alone(self, whole: &Answer) -> Result<Answer, Error> {
        let head = self.head(whole)?;
        let body = match (self.value, self.siblings, self.problem) {
            (Some(text), ..) if self.encoding.is_none() => Bytes::from(text),
            (Some(text), ..) => {
                let bytes = STANDARD.decode(text).ok().filter(|_| is_base64(&self.encoding));
                Bytes::from(bytes.ok_or_else(|| whole.bad("the value is not valid base64"))?)
            }
            (None, Some(siblings), _) => Bytes::from(json!({"siblings": siblings}).to_string()),
            (None, None, Some(problem)) => Bytes::from(problem.to_string()),
            (None, None, None) if self.deleted => gone(self.context.is_some()),
            (None, None, None) if head.status == StatusCode::OK => {
                return Err(whole.bad("a value is missing"));
            }
            (None, None, None) => Bytes::new(),
        };
        Ok(Answer { body: AnswerBody::Whole(body), ..head })
    }

    /// Likewise, without a body.
    ///
    /// # Errors
    /// [`Error::BadAnswer`].
    pub(crate) fn head(&self, whole: &Answer) -> Result<Answer, Error> {
        let status = StatusCode::from_u16(self.status);
        let status =
            status.map_err(|_| whole.bad(format!("status {} of an operation", self.status)))?;
        let mut headers = HeaderMap::new();
        let number = |number: Option<u64>| number.map(|number| number.to_string());
        for (name, text) in [
            (CONTEXT, self.context.clone()),
            (ETAG, self.etag.clone()),
            (CONTENT_TYPE, self.content_type.clone()),
            (SIBLINGS, number(self.siblings_count)),
            (ACKS, number(self.acks)),
            (HINTS, number(self.hints)),
        ] {
            let value = text.as_deref().map(HeaderValue::from_str).transpose();
            if let Some(value) = value.map_err(|_| whole.bad(format!("{name} of an operation")))? {
                headers.insert(name, value);
            }
        }
        meta_headers(&self.meta, &mut headers).map_err(|why| whole.bad(why))?;
        entries::told(&self.index, &mut headers).map_err(|why| whole.bad(why))?;
        told(&mut headers, self.expires_at.as_deref(), self.expired);
        let body = AnswerBody::Whole(Bytes::new());
        Ok(Answer { status, headers, body, by: whole.by.clone() })
    }
}

/// The body of the answer to a read of a key without a value.
fn gone(has_context: bool) -> Bytes {
    let name = if has_context { "key_deleted" } else { "key_not_found" };
    Bytes::from(json!({"type": format!("urn:quorate:problem:{name}")}).to_string())
}

fn is_base64(encoding: &Option<String>) -> bool {
    encoding.as_deref() == Some("base64")
}
