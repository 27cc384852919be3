//! One key in an export: one line of JSON.
//!
//! `{"bucket": "carts", "key": "alice", "context": "AY…", "siblings": [{"value": "2 apples",
//! "content_type": "text/plain", "meta": {}, …}]}`. A value that is not UTF-8 is base64, and says so
//! (`"encoding": "base64"`). A key without a conflict has one sibling. `expires_at` is when a value ends,
//! null if it does not; `index` has its index entries. `context` may be left out, and so may all but `value`
//! of a sibling.

use std::time::SystemTime;

use serde_json::{Value as Json, json};

use crate::args::{Name, bucket_name, check_key};
use crate::data::value::Stored;

/// One key.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Line {
    pub(crate) name: Name,
    /// What the export saw.
    pub(crate) context: Option<String>,
    pub(crate) siblings: Vec<Stored>,
}

impl Line {
    /// The line, without its line break.
    pub(crate) fn json(&self) -> Json {
        json!({
            "bucket": self.name.bucket,
            "key": self.name.key,
            "context": self.context,
            "siblings": self.siblings.iter().map(Stored::json).collect::<Vec<_>>(),
        })
    }

    /// Parses a line; `bucket` replaces the one that it names.
    ///
    /// # Errors
    /// What is wrong with it.
    pub(crate) fn parse(text: &[u8], bucket: Option<&str>) -> Result<Self, String> {
        let json: Json =
            serde_json::from_slice(text).map_err(|error| format!("no JSON: {error}"))?;
        let fields = json.as_object().ok_or("no JSON object")?;
        let known = ["bucket", "key", "context", "siblings"];
        if let Some(odd) = fields.keys().find(|name| !known.contains(&name.as_str())) {
            let odd = crate::out::short(odd, 40);
            return Err(format!("{odd:?} is no member of a line; they are {}", known.join(", ")));
        }
        let text = |name: &str| match fields.get(name) {
            None | Some(Json::Null) => Ok(None),
            Some(Json::String(text)) => Ok(Some(text.clone())),
            Some(_) => Err(format!("{name}: must be text")),
        };
        let bucket = match bucket {
            Some(bucket) => bucket.to_owned(),
            None => bucket_name(&text("bucket")?.ok_or("bucket: is missing; --bucket gives one")?)?,
        };
        let key = text("key")?.ok_or("key: is missing")?;
        check_key(&key)?;
        let siblings = fields.get("siblings").and_then(Json::as_array);
        let siblings = siblings.ok_or("siblings: must be a list of values")?;
        let siblings: Vec<Stored> =
            siblings.iter().map(Stored::of_json).collect::<Result<_, _>>()?;
        if siblings.iter().all(|sibling| sibling.value.is_none()) {
            return Err("siblings: holds no value".to_owned());
        }
        let context = text("context")?;
        Ok(Self { name: Name { bucket, key }, context, siblings })
    }

    /// Takes out the values that have expired by now; returns how many.
    pub(crate) fn drop_expired(&mut self, now: SystemTime) -> u64 {
        let before = self.siblings.len();
        self.siblings.retain(|sibling| sibling.value.is_none() || !sibling.end.is_over(now));
        (before - self.siblings.len()) as u64
    }

    /// Whether it brings a value.
    pub(crate) fn has_value(&self) -> bool {
        self.siblings.iter().any(|sibling| sibling.value.is_some())
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use quorate_client::Value;

    use super::*;

    #[test]
    fn a_line_survives() {
        let value = |bytes: &[u8]| {
            let value = Value::new(bytes.to_vec()).content_type("a/b");
            Stored::from(value.index("age_i", -7).index("name_s", "ü"))
        };
        let line = Line {
            name: Name { bucket: "b".to_owned(), key: "k/ü\n".to_owned() },
            context: Some("AY".to_owned()),
            siblings: vec![value(b"x"), value(&[0, 255]), Stored::default()],
        };
        let text = line.json().to_string();
        assert!(!text.contains('\n'));
        assert_eq!(Line::parse(text.as_bytes(), None).unwrap(), line);
        assert_eq!(Line::parse(text.as_bytes(), Some("c")).unwrap().name.bucket, "c");
        assert!(line.json()["siblings"][0].get("expires_at").is_none(), "nothing was said");
        let least = r#"{"key": "k", "siblings": [{"value": "x"}]}"#;
        let least = Line::parse(least.as_bytes(), Some("b")).unwrap();
        assert!(least.json()["siblings"][0].get("index").is_none(), "it has none");
    }

    #[test]
    fn what_has_expired_is_taken_out() {
        let text = r#"{"bucket":"b","key":"k","siblings":[{"value":"x","expires_at":null},
            {"value":"y","expires_at":"1970-01-01T00:00:02Z"},{"deleted":true}]}"#;
        let at = |seconds| SystemTime::UNIX_EPOCH + std::time::Duration::from_secs(seconds);
        let mut line = Line::parse(text.as_bytes(), None).unwrap();
        assert_eq!((line.drop_expired(at(1)), line.siblings.len()), (0, 3));
        assert_eq!((line.drop_expired(at(2)), line.siblings.len()), (1, 2));
        assert!(line.json()["siblings"][0]["expires_at"].is_null() && line.has_value());
        line.siblings[0].end = crate::lifetime::End::At(at(3));
        assert_eq!((line.drop_expired(at(4)), line.has_value()), (1, false));
    }

    #[test]
    fn bad_lines_are_named() {
        for (bad, word) in [
            ("", "JSON"),
            ("[]", "object"),
            ("{", "JSON"),
            (r#"{"key":"k","siblings":[{"value":"x"}]}"#, "bucket"),
            (r#"{"bucket":"a b","key":"k","siblings":[{"value":"x"}]}"#, "bucket"),
            (r#"{"bucket":"b","key":"","siblings":[{"value":"x"}]}"#, "key"),
            (r#"{"bucket":"b","key":7,"siblings":[{"value":"x"}]}"#, "key"),
            (r#"{"bucket":"b","key":"k"}"#, "siblings"),
            (r#"{"bucket":"b","key":"k","siblings":[]}"#, "siblings"),
            (r#"{"bucket":"b","key":"k","siblings":[{"deleted":true}]}"#, "siblings"),
            (r#"{"bucket":"b","key":"k","value":"x","siblings":[{"value":"x"}]}"#, "value"),
            (r#"{"bucket":"b","key":"k","siblings":[{"value":"x","expires_at":9}]}"#, "expires_at"),
            (r#"{"bucket":"b","key":"k","siblings":[{"value":"x","index":{"a":1}}]}"#, "_i"),
        ] {
            let why = Line::parse(bad.as_bytes(), None).unwrap_err();
            assert!(why.contains(word), "{bad}: {why}");
        }
    }
}
