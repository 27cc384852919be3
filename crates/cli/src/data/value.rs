//! Values: as nodes represent them, as a person gives them, and as JSON.

use std::io::{IsTerminal, Read};
use std::path::{Path, PathBuf};

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use quorate_client::{Metadata, Sibling, Value, Versioned};
use serde_json::{Map, Value as Json, json};

use super::entries::{self, Entry};
use crate::exit::{Done, Failure};
use crate::lifetime::End;

/// The largest value that is read from a file or from standard input, in bytes: the largest that a
/// node can be configured to take.
const VALUE_BYTES_MAX: u64 = 256 << 20;
const TEXT: &str = "text/plain; charset=utf-8";
const OCTETS: &str = "application/octet-stream";

/// One sibling, as far as it is known. A delete has no value.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Stored {
    pub(crate) value: Option<Value>,
    pub(crate) dot: Option<String>,
    pub(crate) writer: Option<String>,
    pub(crate) written_at: Option<String>,
    pub(crate) end: End,
}

impl From<&Sibling> for Stored {
    fn from(sibling: &Sibling) -> Self {
        Self {
            value: sibling.value.clone(),
            dot: Some(sibling.dot.clone()),
            writer: Some(sibling.writer.clone()),
            written_at: Some(sibling.written_at.clone()),
            end: End::of(sibling.expires_at),
        }
    }
}

impl From<Value> for Stored {
    fn from(value: Value) -> Self {
        Self { value: Some(value), ..Self::default() }
    }
}

impl From<Versioned> for Stored {
    fn from(read: Versioned) -> Self {
        let end = End::of(read.expires_at());
        Self { end, ..Self::from(read.into_value()) }
    }
}

impl Stored {
    /// A sibling as nodes and exports represent it.
    ///
    /// # Errors
    /// What is wrong with it.
    pub(crate) fn of_json(json: &Json) -> Result<Self, String> {
        let fields = json.as_object().ok_or("a sibling is no JSON object")?;
        let text = |name: &str| match fields.get(name) {
            None | Some(Json::Null) => Ok(None),
            Some(Json::String(text)) => Ok(Some(text.clone())),
            Some(_) => Err(format!("{name}: must be text")),
        };
        let mut stored = Self {
            value: None,
            dot: text("dot")?,
            writer: text("writer")?,
            written_at: text("written_at")?,
            end: End::of_json(fields.get("expires_at"))?,
        };
        if fields.get("deleted") == Some(&Json::Bool(true)) {
            return Ok(stored);
        }
        let value = text("value")?.ok_or("value: is missing")?;
        let bytes = match text("encoding")?.as_deref() {
            None => Bytes::from(value),
            Some("base64") => {
                Bytes::from(STANDARD.decode(value).map_err(|_| "value: is not valid base64")?)
            }
            Some(_) => return Err("encoding: can only be base64".to_owned()),
        };
        let mut user = Vec::new();
        match fields.get("meta") {
            None | Some(Json::Null) => {}
            Some(Json::Object(meta)) => {
                for (name, value) in meta {
                    let value =
                        value.as_str().ok_or_else(|| format!("meta.{name}: must be text"))?;
                    user.push((name.clone(), value.to_owned()));
                }
            }
            Some(_) => return Err("meta: must be an object".to_owned()),
        }
        user.sort_unstable();
        let metadata = Metadata {
            content_type: Some(text("content_type")?.unwrap_or_else(|| OCTETS.to_owned())),
            content_encoding: text("content_encoding")?,
            content_language: text("content_language")?,
            content_disposition: text("content_disposition")?,
            user,
            index: entries::of_json(fields.get("index"))?,
        };
        stored.value = Some(Value { bytes, metadata });
        Ok(stored)
    }

    /// As nodes represent siblings: `value` (with `"encoding": "base64"` if it is not UTF-8),
    /// `content_type`, `size`, `meta`, `index` if there are entries, and what is known of `dot`, `writer`,
    /// `written_at`, `expires_at` (null for never).
    pub(crate) fn json(&self) -> Json {
        let mut fields = Map::new();
        let mut set = |name: &str, text: Option<&str>| {
            if let Some(text) = text {
                fields.insert(name.to_owned(), json!(text));
            }
        };
        set("dot", self.dot.as_deref());
        set("writer", self.writer.as_deref());
        set("written_at", self.written_at.as_deref());
        let Some(Value { bytes, metadata }) = &self.value else {
            fields.insert("deleted".to_owned(), json!(true));
            return Json::Object(fields);
        };
        match std::str::from_utf8(bytes) {
            Ok(text) => set("value", Some(text)),
            Err(_) => {
                set("encoding", Some("base64"));
                set("value", Some(&STANDARD.encode(bytes)));
            }
        }
        set("content_type", Some(metadata.content_type.as_deref().unwrap_or(OCTETS)));
        set("content_encoding", metadata.content_encoding.as_deref());
        set("content_language", metadata.content_language.as_deref());
        set("content_disposition", metadata.content_disposition.as_deref());
        fields.extend(self.end.json().map(|end| ("expires_at".to_owned(), end)));
        let meta = metadata.user.iter().map(|(name, value)| (name.clone(), json!(value)));
        fields.insert("size".to_owned(), json!(bytes.len()));
        fields.insert("meta".to_owned(), Json::Object(meta.collect()));
        fields.extend(entries::json_of(metadata).map(|index| ("index".to_owned(), index)));
        Json::Object(fields)
    }

    /// The size of the value, in bytes.
    pub(crate) fn size(&self) -> Option<u64> {
        self.value.as_ref().map(|value| value.bytes.len() as u64)
    }

    /// The start of the value, for a table.
    pub(crate) fn preview(&self, chars_max: usize) -> String {
        let Some(Value { bytes, .. }) = &self.value else { return "(deleted)".to_owned() };
        let start = &bytes[..bytes.len().min(4 * chars_max + 4)];
        match std::str::from_utf8(start) {
            Err(error) if error.error_len().is_some() => {
                format!("({} of binary data)", size(bytes))
            }
            Err(_) | Ok(_) => crate::out::short(&String::from_utf8_lossy(start), chars_max),
        }
    }
}

fn size(bytes: &Bytes) -> String {
    crate::out::bytes(bytes.len() as u64)
}

/// A new value as a person gives it.
#[derive(Clone, Debug, clap::Args)]
pub(crate) struct Given {
    /// The value; without it and without --file, standard input is read
    #[arg(value_name = "VALUE", conflicts_with = "file")]
    pub(crate) value: Option<String>,
    /// Read the value from a file (- for standard input)
    #[arg(long, value_name = "FILE")]
    pub(crate) file: Option<PathBuf>,
    /// The media type [default: by the file's name; else text, if it is UTF-8]
    #[arg(long, value_name = "TYPE")]
    pub(crate) content_type: Option<String>,
    /// Metadata to store with it; repeatable
    #[arg(long, value_name = "NAME=TEXT", value_parser = pair)]
    pub(crate) meta: Vec<(String, String)>,
    /// An entry of an index, by which `quorate index` finds the key: the name ends in _s (texts) or _i
    /// (integers); repeatable
    #[arg(long, value_name = "NAME=VALUE", value_parser = entries::parse)]
    pub(crate) index: Vec<Entry>,
}

fn pair(text: &str) -> Result<(String, String), String> {
    match text.split_once('=') {
        Some((name, value)) if !name.is_empty() => {
            Ok((name.to_ascii_lowercase(), value.to_owned()))
        }
        Some(_) | None => Err("expected NAME=TEXT".to_owned()),
    }
}

impl Given {
    /// Reads the value.
    ///
    /// # Errors
    /// Usage, if there is none, it cannot be read, or it is too large.
    pub(crate) fn read(&self) -> Done<Value> {
        let bytes = match (&self.value, &self.file) {
            (Some(value), _) => Bytes::from(value.clone()),
            (None, Some(file)) if file.as_os_str() != "-" => read_file(file)?,
            (None, Some(_)) => read_stdin()?,
            (None, None) if std::io::stdin().is_terminal() => {
                let why = "there is no value: give VALUE, --file FILE, or pipe it in";
                return Err(Failure::usage(why).into());
            }
            (None, None) => read_stdin()?,
        };
        let named = self.file.as_deref().filter(|file| file.as_os_str() != "-");
        let guessed = named.and_then(|file| mime_guess::from_path(file).first());
        let content_type = match (&self.content_type, guessed) {
            (Some(given), _) => given.clone(),
            (None, Some(guessed)) => guessed.to_string(),
            (None, None) if std::str::from_utf8(&bytes).is_ok() => TEXT.to_owned(),
            (None, None) => OCTETS.to_owned(),
        };
        let (content_type, user) = (Some(content_type), self.meta.clone());
        let index = self.index.clone();
        Ok(Value { bytes, metadata: Metadata { content_type, user, index, ..Metadata::default() } })
    }
}

fn read_file(file: &Path) -> Done<Bytes> {
    let wrong = |why: String| Failure::usage(format!("{}: {why}", file.display()));
    let open = std::fs::File::open(file).map_err(|error| wrong(error.to_string()))?;
    read_bounded(open).map_err(|why| wrong(why).into())
}

fn read_stdin() -> Done<Bytes> {
    read_bounded(std::io::stdin().lock())
        .map_err(|why| Failure::usage(format!("standard input: {why}")).into())
}

fn read_bounded(from: impl Read) -> Result<Bytes, String> {
    let mut bytes = Vec::new();
    from.take(VALUE_BYTES_MAX + 1).read_to_end(&mut bytes).map_err(|error| error.to_string())?;
    if bytes.len() as u64 > VALUE_BYTES_MAX {
        let max = crate::out::bytes(VALUE_BYTES_MAX);
        return Err(format!("larger than any value may be ({max})"));
    }
    Ok(Bytes::from(bytes))
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn values_survive_json() {
        for bytes in [&b"2 apples"[..], &[0, 255, 254], "ü\n\"".as_bytes(), b""] {
            let metadata = Metadata {
                content_type: Some("a/b".to_owned()),
                content_encoding: Some("gzip".to_owned()),
                user: vec![("a".to_owned(), "ü".to_owned()), ("b".to_owned(), String::new())],
                index: ["age_i=-7", "name_s=a b", "name_s=ü"]
                    .map(|it| entries::parse(it).unwrap())
                    .into(),
                ..Metadata::default()
            };
            let value = Value { bytes: Bytes::copy_from_slice(bytes), metadata };
            let at = std::time::SystemTime::UNIX_EPOCH + std::time::Duration::from_millis(1500);
            for end in [End::Unsaid, End::Never, End::At(at)] {
                let dot = Some("00-1".to_owned());
                let stored = Stored { dot, end, ..Stored::from(value.clone()) };
                assert_eq!(Stored::of_json(&stored.json()).unwrap(), stored);
            }
        }
        let deleted = Stored::of_json(&json!({"deleted": true, "dot": "00-2"})).unwrap();
        assert_eq!((deleted.value, deleted.dot.as_deref()), (None, Some("00-2")));
    }

    #[test]
    fn bad_json_is_named() {
        for (bad, word) in [
            (json!(7), "object"),
            (json!({}), "value"),
            (json!({"value": 7}), "value"),
            (json!({"value": "!", "encoding": "base64"}), "base64"),
            (json!({"value": "", "encoding": "rot13"}), "encoding"),
            (json!({"value": "", "meta": []}), "meta"),
            (json!({"value": "", "meta": {"a": 1}}), "meta.a"),
            (json!({"value": "", "content_type": 1}), "content_type"),
            (json!({"value": "", "index": {"age_i": ["old"]}}), "age_i"),
            (json!({"value": "", "expires_at": 1}), "expires_at"),
        ] {
            let why = Stored::of_json(&bad).unwrap_err();
            assert!(why.contains(word), "{bad}: {why}");
        }
    }
}
