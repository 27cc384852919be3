//! The entries of a value in secondary indexes, as clients say and see them: `Quorate-Index-*` headers, and
//! `index` in JSON.

use std::collections::BTreeMap;

use axum::http::{HeaderMap, HeaderName, HeaderValue};
use percent_encoding::{AsciiSet, CONTROLS, utf8_percent_encode};
use quorate_protocol::index::{ENTRIES_BYTES_MAX, ENTRIES_MAX, IndexName, IndexValue};
use quorate_protocol::object::Metadata;
use serde_json::{Map, Value, json};

use super::path::percent_decode;
use super::problem::Problem;

/// The prefix of their headers.
const INDEX_PREFIX: &str = "quorate-index-";
/// What is encoded in a header, besides all that is not ASCII.
const IN_A_HEADER: &AsciiSet = &CONTROLS.add(b' ').add(b',').add(b'%');

/// The entries that a request gives its value, as metadata of it: several headers of one name, and several
/// values in one header, separated by commas.
///
/// # Errors
/// 400 that names the header.
pub(super) fn from_headers(headers: &HeaderMap) -> Result<Vec<(String, String)>, Problem> {
    let (mut entries, mut bytes) = (Vec::new(), 0);
    for (name, list) in headers {
        let Some(index) = name.as_str().strip_prefix(INDEX_PREFIX) else { continue };
        let wrong = |detail: &str| Problem::bad_header(name.as_str(), detail);
        let index = IndexName::parse(index).map_err(|error| wrong(&error.to_string()))?;
        let list = std::str::from_utf8(list.as_bytes()).map_err(|_| wrong("is not UTF-8"))?;
        for text in list.split(',') {
            let text = percent_decode(text.trim()).and_then(|it| String::from_utf8(it.into()).ok());
            let text = text.ok_or_else(|| wrong("is not percent-encoded UTF-8"))?;
            let value = index.value(&text).map_err(|error| wrong(&error.to_string()))?;
            let entry = index.as_metadata(&value);
            if !entries.contains(&entry) {
                bytes += index.as_str().len() + text.len();
                entries.push(entry);
            }
            if entries.len() > ENTRIES_MAX || bytes > ENTRIES_BYTES_MAX {
                let max =
                    format!("{ENTRIES_MAX} index entries, of {ENTRIES_BYTES_MAX} bytes in all");
                return Err(wrong(&format!("a value may have at most {max}")));
            }
        }
    }
    Ok(entries)
}

/// Refuses entries on what writes no value that could have them.
///
/// # Errors
/// 400 that names the header.
pub(super) fn refuse(headers: &HeaderMap, why: &str) -> Result<(), Problem> {
    match headers.keys().find(|name| name.as_str().starts_with(INDEX_PREFIX)) {
        Some(name) => Err(Problem::bad_header(name.as_str(), why)),
        None => Ok(()),
    }
}

/// Adds the entries of a value: one header for each index.
pub(super) fn add_headers(headers: &mut HeaderMap, metadata: &Metadata) {
    for (index, values) in by_index(metadata.index_entries()) {
        let texts: Vec<String> = values.iter().map(|it| encoded(&it.to_string())).collect();
        let name = HeaderName::try_from([INDEX_PREFIX, index.as_str()].concat());
        if let (Ok(name), Ok(value)) = (name, HeaderValue::try_from(texts.join(", "))) {
            headers.insert(name, value);
        }
    }
}

/// The entries of a value in JSON; `None` if it has none.
pub(super) fn shown(metadata: &Metadata) -> Option<Value> {
    let shown = by_index(metadata.index_entries()).into_iter().map(|(index, values)| {
        let values: Vec<Value> = values.iter().map(value_json).collect();
        (index.as_str().to_owned(), Value::Array(values))
    });
    let shown: Map<String, Value> = shown.collect();
    (!shown.is_empty()).then_some(Value::Object(shown))
}

/// The entries in the headers of an answer, in JSON.
pub(super) fn shown_in(headers: &HeaderMap) -> Option<Value> {
    let user = from_headers(headers).ok()?; // they are our own
    shown(&Metadata { user, ..Metadata::default() })
}

/// One value, or several, of each index, as a JSON document says them, as headers.
///
/// # Errors
/// What is wrong with it.
pub(super) fn to_headers(index: &Map<String, Value>) -> Result<HeaderMap, String> {
    let mut headers = HeaderMap::new();
    for (name, values) in index {
        IndexName::parse(name).map_err(|error| format!("index.{name}: {error}"))?;
        let values = values.as_array().map_or(std::slice::from_ref(values), Vec::as_slice);
        for value in values {
            let text = match value {
                Value::String(text) => encoded(text),
                Value::Number(number) => number.to_string(),
                Value::Null | Value::Bool(_) | Value::Array(_) | Value::Object(_) => {
                    return Err(format!(
                        "index.{name}: must be text or a whole number, or several"
                    ));
                }
            };
            let header = HeaderName::try_from([INDEX_PREFIX, name].concat());
            let (Ok(header), Ok(text)) = (header, HeaderValue::try_from(text)) else { continue };
            headers.append(header, text);
        }
    }
    match from_headers(&headers) {
        Ok(_) => Ok(headers),
        Err(problem) => Err(problem.detail().replace(INDEX_PREFIX, "index.")),
    }
}

/// A value in JSON.
pub(super) fn value_json(value: &IndexValue) -> Value {
    match value {
        IndexValue::Text(text) => json!(text),
        IndexValue::Integer(number) => json!(number),
    }
}

/// The values of each index, in order.
fn by_index(
    entries: impl Iterator<Item = (IndexName, IndexValue)>,
) -> BTreeMap<IndexName, Vec<IndexValue>> {
    let mut by_index: BTreeMap<IndexName, Vec<IndexValue>> = BTreeMap::new();
    for (index, value) in entries {
        by_index.entry(index).or_default().push(value);
    }
    by_index.values_mut().for_each(|values| values.sort_unstable());
    by_index
}

fn encoded(text: &str) -> String {
    utf8_percent_encode(text, IN_A_HEADER).to_string()
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::super::headers::tests::headers;
    use super::*;

    fn given(pairs: &[(&str, &str)]) -> Metadata {
        Metadata { user: from_headers(&headers(pairs)).unwrap(), ..Metadata::default() }
    }

    #[test]
    fn what_is_given_is_shown_in_order() {
        let metadata = given(&[
            ("Quorate-Index-Age_i", "42, -7 ,42"),
            ("quorate-index-tag_s", "b%2Cc,ü"),
            ("quorate-index-tag_s", "a%20%25"),
            ("Quorate-Meta-A", "x"),
        ]);
        let shown = json!({"age_i": [-7, 42], "tag_s": ["a %", "b,c", "ü"]});
        assert_eq!(super::shown(&metadata), Some(shown.clone()));
        let mut answer = HeaderMap::new();
        add_headers(&mut answer, &metadata);
        assert_eq!(answer["quorate-index-age_i"], "-7, 42");
        assert_eq!(answer["quorate-index-tag_s"], "a%20%25, b%2Cc, %C3%BC");
        assert_eq!(shown_in(&answer), Some(shown.clone()));
        let again = to_headers(shown.as_object().unwrap()).unwrap();
        assert_eq!(shown_in(&again), Some(shown));
        assert_eq!(super::shown(&Metadata::default()), None);
    }

    #[test]
    fn what_is_wrong_is_named() {
        let long = (0..9).map(|i| i.to_string().repeat(240)).collect::<Vec<_>>().join(",");
        let many = (0..17).map(|i| i.to_string()).collect::<Vec<_>>().join(",");
        for (name, value, why) in [
            ("quorate-index-age", "1", "quorate-index-age: the name of an index has"),
            ("quorate-index-age_i", "x", "must be a whole number"),
            ("quorate-index-age_i", "1,", "must be a whole number"),
            ("quorate-index-a_s", "", "text in an index has 1 to 256"),
            ("quorate-index-a_s", "%00", "text in an index has 1 to 256"),
            ("quorate-index-a_s", "%zz", "percent-encoded"),
            ("quorate-index-a_s", "%ff", "percent-encoded"),
            ("quorate-index-a_i", &many, "at most 16"),
            ("quorate-index-a_s", &long, "2048 bytes in all"),
        ] {
            let problem = from_headers(&headers(&[(name, value)])).unwrap_err();
            assert!(problem.detail().contains(why), "{name}: {}", problem.detail());
        }
        for (bad, why) in [
            (json!({"age": 1}), "index.age: the name"),
            (json!({"age_i": null}), "index.age_i: must be text or a whole number"),
            (json!({"age_i": [[1]]}), "index.age_i: must be text or a whole number"),
            (json!({"age_i": [7.5]}), "index.age_i: must be a whole number"),
            (json!({"a_s": ""}), "index.a_s: text in an index has"),
        ] {
            let error = to_headers(bad.as_object().unwrap()).unwrap_err();
            assert!(error.contains(why), "{error}");
        }
    }
}
