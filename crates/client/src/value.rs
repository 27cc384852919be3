//! Values: what is stored under a key, with its metadata.

use bytes::Bytes;
use reqwest::header::{
    CONTENT_DISPOSITION, CONTENT_ENCODING, CONTENT_LANGUAGE, CONTENT_TYPE, HeaderMap, HeaderName,
    HeaderValue,
};
use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::error::Error;
use crate::index::{IndexValue, entries};

/// The prefix of the client's own metadata.
const META_PREFIX: &str = "quorate-meta-";
/// The type of text.
const TEXT: &str = "text/plain; charset=utf-8";

/// What is stored beside the bytes of a value.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Metadata {
    /// `Content-Type`, 1 to 255 ASCII characters. The cluster stores `application/octet-stream` if
    /// none.
    pub content_type: Option<String>,
    /// `Content-Encoding`, such as `gzip`. The client neither packs nor unpacks.
    pub content_encoding: Option<String>,
    /// `Content-Language`.
    pub content_language: Option<String>,
    /// `Content-Disposition`.
    pub content_disposition: Option<String>,
    /// `Quorate-Meta-*`: names in lower case without the prefix, and values. At most 32, with 4096
    /// bytes in all.
    pub user: Vec<(String, String)>,
    /// `Quorate-Index-*`: the entries by which the key is found ([`Bucket::index`](crate::Bucket::index)):
    /// names of indexes, in lower case, and values. At most 16 of 2,048 bytes in all; what is
    /// repeated counts once.
    pub index: Vec<(String, IndexValue)>,
}

impl Metadata {
    /// The value of a name of the client's own metadata; names are compared without case.
    pub fn user(&self, name: &str) -> Option<&str> {
        let found = self.user.iter().find(|(known, _)| known.eq_ignore_ascii_case(name));
        found.map(|(_, value)| value.as_str())
    }

    /// The values that an index has of it; names are compared without case.
    pub fn index(&self, index: &str) -> impl Iterator<Item = &IndexValue> {
        let of_index = move |(known, _): &&(String, IndexValue)| known.eq_ignore_ascii_case(index);
        self.index.iter().filter(of_index).map(|(_, value)| value)
    }

    /// Reads the headers of an answer.
    ///
    /// # Errors
    /// What is wrong with its index entries.
    pub(crate) fn of(headers: &HeaderMap) -> Result<Self, String> {
        let text = |name: &HeaderName| headers.get(name).map(text_of);
        let mut user: Vec<(String, String)> = headers
            .iter()
            .filter_map(|(name, value)| {
                Some((name.as_str().strip_prefix(META_PREFIX)?.to_owned(), text_of(value)))
            })
            .collect();
        user.sort_unstable();
        Ok(Self {
            content_type: text(&CONTENT_TYPE),
            content_encoding: text(&CONTENT_ENCODING),
            content_language: text(&CONTENT_LANGUAGE),
            content_disposition: text(&CONTENT_DISPOSITION),
            user,
            index: entries::of_headers(headers)?,
        })
    }

    /// Writes the headers of a request.
    pub(crate) fn write_to(&self, headers: &mut HeaderMap) -> Result<(), Error> {
        for (name, what, text) in [
            (CONTENT_TYPE, "content type", &self.content_type),
            (CONTENT_ENCODING, "content encoding", &self.content_encoding),
            (CONTENT_LANGUAGE, "content language", &self.content_language),
            (CONTENT_DISPOSITION, "content disposition", &self.content_disposition),
        ] {
            if let Some(text) = text {
                headers.insert(name, header_value(what, text)?);
            }
        }
        for (name, value) in &self.user {
            let full = format!("{META_PREFIX}{}", name.to_ascii_lowercase());
            let wrong = || {
                let detail = format!("{name:?} cannot be the end of a header's name");
                Error::invalid("metadata", detail)
            };
            if name.is_empty() {
                return Err(wrong());
            }
            let full = HeaderName::try_from(full).map_err(|_| wrong())?;
            if headers.insert(full, header_value("metadata", value)?).is_some() {
                return Err(Error::invalid(
                    "metadata",
                    format!("{name:?} is given more than once"),
                ));
            }
        }
        entries::write_to(&self.index, headers)
    }
}

/// Adds the client's own metadata, as JSON has it, to headers.
///
/// # Errors
/// What no header can carry.
pub(crate) fn meta_headers(
    meta: &serde_json::Map<String, serde_json::Value>,
    headers: &mut HeaderMap,
) -> Result<(), String> {
    for (name, value) in meta {
        let wrong = || format!("the metadata {name:?} is none");
        let text = value.as_str().ok_or_else(wrong)?;
        let full = HeaderName::try_from(format!("{META_PREFIX}{name}")).map_err(|_| wrong())?;
        headers.insert(full, HeaderValue::from_bytes(text.as_bytes()).map_err(|_| wrong())?);
    }
    Ok(())
}

fn text_of(value: &HeaderValue) -> String {
    String::from_utf8_lossy(value.as_bytes()).into_owned()
}

fn header_value(what: &'static str, text: &str) -> Result<HeaderValue, Error> {
    HeaderValue::from_bytes(text.as_bytes()).map_err(|_| {
        Error::invalid(what, format!("{text:?} has control characters, which no header can carry"))
    })
}

/// The bytes of a value with their metadata: what was read, or what is to be written.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Value {
    /// The bytes.
    pub bytes: Bytes,
    /// What is stored with them.
    pub metadata: Metadata,
}

impl Value {
    /// Bytes without metadata.
    pub fn new(bytes: impl Into<Bytes>) -> Self {
        Self { bytes: bytes.into(), metadata: Metadata::default() }
    }

    /// JSON, as `application/json`.
    ///
    /// # Errors
    /// [`Error::Invalid`] if it cannot be expressed in JSON.
    pub fn json(value: &impl Serialize) -> Result<Self, Error> {
        match serde_json::to_vec(value) {
            Ok(bytes) => Ok(Self::new(bytes).content_type("application/json")),
            Err(error) => Err(Error::invalid("value", error.to_string())),
        }
    }

    /// Reads the bytes as JSON, whatever the content type says.
    ///
    /// # Errors
    /// [`Error::Invalid`] that says where they are not.
    pub fn from_json<T: DeserializeOwned>(&self) -> Result<T, Error> {
        let parsed = serde_json::from_slice(&self.bytes);
        parsed
            .map_err(|error| Error::invalid("value", format!("is not the JSON expected: {error}")))
    }

    /// The bytes as text; `None` if they are not UTF-8.
    pub fn text(&self) -> Option<&str> {
        std::str::from_utf8(&self.bytes).ok()
    }

    /// With this `Content-Type`.
    #[must_use]
    pub fn content_type(mut self, content_type: impl Into<String>) -> Self {
        self.metadata.content_type = Some(content_type.into());
        self
    }

    /// With this name and value of the client's own metadata (`Quorate-Meta-{name}`).
    #[must_use]
    pub fn meta(mut self, name: impl Into<String>, value: impl Into<String>) -> Self {
        self.metadata.user.push((name.into().to_ascii_lowercase(), value.into()));
        self
    }

    /// With this entry of an index (`Quorate-Index-{index}`), by which the key is then found
    /// ([`Bucket::index`](crate::Bucket::index)): a text if the name ends in `_s`, an integer if it ends in
    /// `_i`. An index can have several entries of a value.
    #[must_use]
    pub fn index(mut self, index: impl Into<String>, value: impl Into<IndexValue>) -> Self {
        self.metadata.index.push((index.into().to_ascii_lowercase(), value.into()));
        self
    }
}

impl From<&str> for Value {
    /// Text, as `text/plain; charset=utf-8`.
    fn from(text: &str) -> Self {
        Self::from(text.to_owned())
    }
}

impl From<String> for Value {
    fn from(text: String) -> Self {
        Self::new(text).content_type(TEXT)
    }
}

impl From<Vec<u8>> for Value {
    fn from(bytes: Vec<u8>) -> Self {
        Self::new(bytes)
    }
}

impl From<&[u8]> for Value {
    fn from(bytes: &[u8]) -> Self {
        Self::new(bytes.to_vec())
    }
}

impl From<Bytes> for Value {
    fn from(bytes: Bytes) -> Self {
        Self::new(bytes)
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn metadata_travels_in_headers() {
        let value = Value::from("x").meta("Origin", "ü").meta("b", "2");
        let mut headers = HeaderMap::new();
        value.metadata.write_to(&mut headers).unwrap();
        let read = Metadata::of(&headers).unwrap();
        assert_eq!(read.user, [("b".into(), "2".into()), ("origin".into(), "ü".into())]);
        assert_eq!(read.content_type.as_deref(), Some(TEXT));
        assert_eq!(value.metadata.user("ORIGIN"), Some("ü"));
    }

    #[test]
    fn index_entries_travel_in_headers() {
        let value = Value::from("x").index("Email_s", "b@x").index("age_i", 7);
        let value = value.index("email_s", "a@x");
        let mut headers = HeaderMap::new();
        value.metadata.write_to(&mut headers).unwrap();
        let read = Metadata::of(&headers).unwrap();
        assert!(read.index("EMAIL_S").map(|it| it.to_string()).eq(["b@x", "a@x"]));
        assert!(read.index("age_i").eq([&IndexValue::Integer(7)]));
        assert_eq!((read.index("none_s").count(), read.index.len()), (0, 3));
        headers.insert("quorate-index-age_i", HeaderValue::from_static("old"));
        assert!(Metadata::of(&headers).unwrap_err().contains("old"));
    }

    #[test]
    fn what_no_header_carries_is_named() {
        let refused = |value: Value| {
            let error = value.metadata.write_to(&mut HeaderMap::new()).unwrap_err();
            error.to_string()
        };
        assert!(refused(Value::from("x").meta("", "1")).contains("\"\""));
        assert!(refused(Value::from("x").meta("a b", "1")).contains("\"a b\""));
        assert!(refused(Value::from("x").meta("a", "1\r\nX: y")).contains("control"));
        assert!(refused(Value::from("x").meta("a", "1").meta("A", "2")).contains("more than once"));
        assert!(refused(Value::from("x").content_type("a\nb")).starts_with("content type"));
        assert!(refused(Value::from("x").index("age", 7)).contains("\"age\""));
    }
}
