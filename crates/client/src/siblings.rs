//! Conflicts: the values of concurrent writes, and their resolution.

use std::time::SystemTime;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use reqwest::header::ETAG;
use serde::Deserialize;
use serde_json::{Map, json};

use crate::answer::{Answer, Answered};
use crate::body::NewValue;
use crate::bucket::At;
use crate::error::Error;
use crate::expiry::time_of;
use crate::index::IndexValue;
use crate::index::entries::{self, ByIndex};
use crate::read::{Context, context_of};
use crate::value::{Metadata, Value};
use crate::wait::Wait;
use crate::write::{Delete, Put, Resolve};

/// One of several values of a key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Sibling {
    /// Its name: the dot of the write that made it.
    pub dot: String,
    /// The node that gave it its dot.
    pub writer: String,
    /// When, by that node's clock: RFC 3339, to the millisecond.
    pub written_at: String,
    /// When it expires. None if it stays until it is overwritten or deleted.
    pub expires_at: Option<SystemTime>,
    /// The value. None if the write was a delete.
    pub value: Option<Value>,
}

/// A conflict. It stays until a write with its context replaces it: by [`Siblings::resolve`],
/// [`Siblings::replace`], [`Siblings::keep`] or [`Siblings::delete`].
#[derive(Clone, Debug)]
#[must_use = "a conflict stays until it is resolved"]
pub struct Siblings {
    at: At,
    siblings: Vec<Sibling>,
    context: Context,
    etag: Option<String>,
    answered: Answered,
}

impl Siblings {
    pub(crate) fn of(at: &At, answer: &Answer) -> Result<Self, Error> {
        let shown: Shown = answer.json()?;
        let siblings = shown.siblings.into_iter().map(Sibling::try_from);
        let siblings =
            siblings.collect::<Result<Vec<_>, String>>().map_err(|why| answer.bad(why))?;
        if siblings.is_empty() {
            return Err(answer.bad("a conflict without siblings"));
        }
        Ok(Self {
            at: at.clone(),
            siblings,
            context: context_of(answer)?,
            etag: answer.header(&ETAG),
            answered: answer.by.clone(),
        })
    }

    /// The key.
    pub fn key(&self) -> &str {
        &self.at.key
    }

    /// All siblings.
    pub fn siblings(&self) -> &[Sibling] {
        &self.siblings
    }

    /// The values of those that are no deletes.
    pub fn values(&self) -> impl Iterator<Item = &Value> {
        self.siblings.iter().filter_map(|sibling| sibling.value.as_ref())
    }

    /// What was seen: all of them.
    pub fn context(&self) -> &Context {
        &self.context
    }

    /// The entity tag, with its quotes, for [`Put::if_match`].
    pub fn etag(&self) -> Option<&str> {
        self.etag.as_deref()
    }

    /// Who answered.
    pub fn answered(&self) -> &Answered {
        &self.answered
    }

    /// Waits for something else: a resolution, a delete, a further sibling. See [`Wait`].
    pub fn wait(&self) -> Wait {
        Wait::new(self.at.clone(), Some(self.context.clone()))
    }

    /// A write that replaces all siblings by what the closure makes of them.
    ///
    /// ```
    /// # use quorate_client::{Read, Sibling, testing::DevCluster};
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// # let cluster = DevCluster::start()?;
    /// # let carts = cluster.client()?.bucket("carts");
    /// carts.put_blind("alice", "apple").await?;
    /// carts.put_blind("alice", "pear").await?; // did not see the apple
    /// if let Read::Siblings(conflict) = carts.get("alice").await? {
    ///     let union = |all: &[Sibling]| {
    ///         let mut words: Vec<_> = all.iter().filter_map(|it| it.value.as_ref()?.text()).collect();
    ///         words.sort();
    ///         words.join(", ")
    ///     };
    ///     let written = conflict.resolve(union).await?;
    ///     assert_eq!(written.siblings, 1);
    /// }
    /// # let Read::Value(cart) = carts.get("alice").r(3).await? else { panic!() };
    /// # assert_eq!(cart.text(), Some("apple, pear"));
    /// # Ok(())
    /// # }
    /// ```
    pub fn resolve<V: Into<NewValue>>(&self, merge: impl FnOnce(&[Sibling]) -> V) -> Put {
        self.replace(merge(&self.siblings))
    }

    /// A write that replaces all siblings by this value.
    pub fn replace(&self, new: impl Into<NewValue>) -> Put {
        Put::new(self.at.clone(), Some(self.context.clone()), new.into())
    }

    /// A write that keeps the sibling with this dot, with its metadata and index entries, and drops the
    /// others. It fails with [`Error::SiblingGone`] if another write has replaced that sibling meanwhile.
    pub fn keep(&self, dot: &str) -> Resolve {
        Resolve::new(self.at.clone(), self.context.clone(), json!({ "keep": dot }))
    }

    /// A write that deletes the key.
    pub fn delete(&self) -> Delete {
        Delete::new(self.at.clone(), Some(self.context.clone()))
    }
}

/// The body of a 300.
#[derive(Deserialize)]
struct Shown {
    siblings: Vec<ShownSibling>,
}

#[derive(Deserialize)]
struct ShownSibling {
    dot: String,
    #[serde(default)]
    writer: String,
    #[serde(default)]
    written_at: String,
    expires_at: Option<String>,
    #[serde(default)]
    deleted: bool,
    content_type: Option<String>,
    content_encoding: Option<String>,
    content_language: Option<String>,
    content_disposition: Option<String>,
    #[serde(default)]
    meta: Map<String, serde_json::Value>,
    #[serde(default)]
    index: ByIndex<IndexValue>,
    encoding: Option<String>,
    value: Option<String>,
}

impl TryFrom<ShownSibling> for Sibling {
    type Error = String;

    fn try_from(shown: ShownSibling) -> Result<Self, String> {
        let ShownSibling { dot, writer, written_at, deleted, .. } = shown;
        let expires_at = shown.expires_at.as_deref().map(time_of).transpose();
        let expires_at = expires_at.map_err(|why| format!("sibling {dot}: {why}"))?;
        if deleted {
            return Ok(Self { dot, writer, written_at, expires_at, value: None });
        }
        let text = shown.value.ok_or_else(|| format!("sibling {dot} has no value"))?;
        let bytes = match shown.encoding.as_deref() {
            None => Bytes::from(text),
            Some("base64") => {
                let decoded = STANDARD.decode(text);
                Bytes::from(decoded.map_err(|_| format!("sibling {dot}: not valid base64"))?)
            }
            Some(_) => return Err(format!("sibling {dot}: an unknown encoding")),
        };
        let text_of = |value: serde_json::Value| value.as_str().unwrap_or_default().to_owned();
        let metadata = Metadata {
            content_type: shown.content_type,
            content_encoding: shown.content_encoding,
            content_language: shown.content_language,
            content_disposition: shown.content_disposition,
            user: shown.meta.into_iter().map(|(name, value)| (name, text_of(value))).collect(),
            index: entries::of_json(shown.index).map_err(|why| format!("sibling {dot}: {why}"))?,
        };
        Ok(Self { dot, writer, written_at, expires_at, value: Some(Value { bytes, metadata }) })
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    fn sibling(text: &str) -> Result<Sibling, String> {
        serde_json::from_str::<ShownSibling>(text).map_err(|error| error.to_string())?.try_into()
    }

    #[test]
    fn text_bytes_and_deletes_are_read() {
        let head = r#""dot":"0a-1","writer":"n1","written_at":"2026-01-01T00:00:00.000Z""#;
        let of = |rest: &str| sibling(&format!("{{{head}{rest}}}"));
        let text =
            of(r#","content_type":"text/plain","meta":{"a":"1"},"size":1,"value":"x""#).unwrap();
        let value = text.value.unwrap();
        assert_eq!((value.text(), value.metadata.user("a")), (Some("x"), Some("1")));
        let bytes = of(r#","encoding":"base64","value":"/w==","content_encoding":"gzip""#).unwrap();
        let value = bytes.value.unwrap();
        assert_eq!(&value.bytes[..], [0xff]);
        assert_eq!(value.metadata.content_encoding.as_deref(), Some("gzip"));
        assert_eq!(of(r#","deleted":true"#).unwrap().value, None);
        let found = of(r#","value":"x","index":{"age_i":[-7,42],"name_s":["a,b"]}"#).unwrap();
        let metadata = found.value.unwrap().metadata;
        assert!(metadata.index("age_i").eq([&IndexValue::from(-7), &IndexValue::from(42)]));
        assert!(metadata.index("name_s").eq([&IndexValue::from("a,b")]));
        assert!(of(r#","value":"x","index":{"age_i":["7"]}"#).unwrap_err().contains("0a-1"));
        let ends = r#","value":"x","expires_at":"1970-01-01T00:00:01.500Z""#;
        let end = of(ends).unwrap().expires_at.unwrap();
        assert_eq!(end.duration_since(SystemTime::UNIX_EPOCH).unwrap().as_millis(), 1500);
        assert!(of(r#","value":"x","expires_at":"soon""#).unwrap_err().contains("0a-1"));
        for bad in ["", r#","value":7"#, r#","encoding":"hex","value":"ff""#] {
            assert!(of(bad).is_err(), "{bad}");
        }
        assert!(of(r#","encoding":"base64","value":"?""#).unwrap_err().contains("0a-1"));
    }
}
