//! The index entries of a value, as headers and as JSON.

use std::collections::BTreeMap;

use percent_encoding::{AsciiSet, CONTROLS, percent_decode, utf8_percent_encode};
use reqwest::header::{HeaderMap, HeaderName, HeaderValue};

use super::value::IndexValue;
use crate::error::Error;

/// The prefix of the headers with index entries.
const PREFIX: &str = "quorate-index-";
/// What is escaped in a header: all but visible ASCII, and what separates values and escapes them.
const ESCAPED: &AsciiSet = &CONTROLS.add(b' ').add(b'%').add(b',');

/// The entries of a value: names of indexes, and values.
pub(crate) type Entries = Vec<(String, IndexValue)>;

/// Entries as JSON has them: the values of each index.
pub(crate) type ByIndex<V> = BTreeMap<String, Vec<V>>;

/// The values of each index.
pub(crate) fn by_index(entries: &[(String, IndexValue)]) -> ByIndex<&IndexValue> {
    let mut all = ByIndex::new();
    for (index, value) in entries {
        all.entry(index.to_ascii_lowercase()).or_default().push(value);
    }
    all
}

/// Adds entries to the headers of a request: one for each index, with its values in their order.
///
/// # Errors
/// [`Error::Invalid`] if no index can have them.
pub(crate) fn write_to(
    entries: &[(String, IndexValue)],
    headers: &mut HeaderMap,
) -> Result<(), Error> {
    for (index, values) in by_index(entries) {
        values.iter().try_for_each(|value| value.check(&index))?;
        let (name, value) = header(&index, &values).map_err(|why| Error::invalid("index", why))?;
        headers.insert(name, value);
    }
    Ok(())
}

/// Adds the entries that an answer tells in JSON to its headers.
///
/// # Errors
/// What is wrong with them.
pub(crate) fn told(told: &ByIndex<IndexValue>, headers: &mut HeaderMap) -> Result<(), String> {
    for (index, values) in told {
        let (name, value) = header(index, values)?;
        headers.insert(name, value);
    }
    Ok(())
}

fn header<V: ToString>(index: &str, values: &[V]) -> Result<(HeaderName, HeaderValue), String> {
    let wrong = || format!("the index {index:?} is none");
    let name = HeaderName::try_from(format!("{PREFIX}{index}")).map_err(|_| wrong())?;
    let escaped = |value: &V| utf8_percent_encode(&value.to_string(), ESCAPED).to_string();
    let texts: Vec<String> = values.iter().map(escaped).collect();
    Ok((name, HeaderValue::try_from(texts.join(", ")).map_err(|_| wrong())?))
}

/// The entries of an answer with these headers, by index.
///
/// # Errors
/// What is wrong with them.
pub(crate) fn of_headers(headers: &HeaderMap) -> Result<Entries, String> {
    let mut entries = Entries::new();
    for (name, texts) in headers {
        let Some(index) = name.as_str().strip_prefix(PREFIX) else { continue };
        for text in texts.as_bytes().split(|byte| *byte == b',').map(<[u8]>::trim_ascii) {
            if text.is_empty() {
                continue;
            }
            let wrong = || format!("the value {:?} in {name}", String::from_utf8_lossy(text));
            let text = percent_decode(text).decode_utf8().map_err(|_| wrong())?;
            let value = match index.ends_with("_i") {
                true => IndexValue::Integer(text.parse().map_err(|_| wrong())?),
                false => IndexValue::Text(text.into_owned()),
            };
            entries.push((index.to_owned(), value));
        }
    }
    entries.sort_by(|(one, _), (other, _)| one.cmp(other));
    Ok(entries)
}

/// The entries that an answer tells in JSON.
///
/// # Errors
/// What is wrong with them.
pub(crate) fn of_json(told: ByIndex<IndexValue>) -> Result<Entries, String> {
    let mut entries = Entries::new();
    for (index, values) in told {
        if let Some(wrong) = values.iter().find(|value| !value.is_of(&index)) {
            return Err(format!("{wrong:?} is no value of the index {index:?}"));
        }
        entries.extend(values.into_iter().map(|value| (index.clone(), value)));
    }
    Ok(entries)
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    fn of(entries: &[(&str, IndexValue)]) -> Entries {
        entries.iter().map(|(index, value)| ((*index).to_owned(), value.clone())).collect()
    }

    #[test]
    fn entries_travel_in_headers() {
        let written = of(&[
            ("Name_s", "a,b".into()),
            ("age_i", 42.into()),
            ("name_s", " é%\n".into()),
            ("age_i", i64::MIN.into()),
        ]);
        let mut headers = HeaderMap::new();
        write_to(&written, &mut headers).unwrap();
        assert_eq!(headers["quorate-index-name_s"], "a%2Cb, %20%C3%A9%25%0A");
        assert_eq!(headers["quorate-index-age_i"], "42, -9223372036854775808");
        let read = of(&[
            ("age_i", 42.into()),
            ("age_i", i64::MIN.into()),
            ("name_s", "a,b".into()),
            ("name_s", " é%\n".into()),
        ]);
        assert_eq!(of_headers(&headers).unwrap(), read);
    }

    #[test]
    fn headers_may_be_repeated_and_have_blanks() {
        let mut headers = HeaderMap::new();
        for text in ["a ,\tb", "", ", c+d"] {
            headers.append("quorate-index-x_s", HeaderValue::from_static(text));
        }
        let read = of(&[("x_s", "a".into()), ("x_s", "b".into()), ("x_s", "c+d".into())]);
        assert_eq!(of_headers(&headers).unwrap(), read);
    }

    #[test]
    fn what_no_index_has_is_refused() {
        let refused = |index: &str, value: IndexValue| {
            write_to(&of(&[(index, value)]), &mut HeaderMap::new()).unwrap_err().to_string()
        };
        assert!(refused("email", "a".into()).contains("\"email\""));
        assert!(refused("age_i", "a".into()).contains("integers"));
        assert!(refused("a_s", "".into()).contains("256"));
        for (name, text) in [("quorate-index-a_i", "1, x"), ("quorate-index-a_s", "%FF")] {
            let mut headers = HeaderMap::new();
            headers.insert(HeaderName::from_static(name), HeaderValue::from_static(text));
            assert!(of_headers(&headers).unwrap_err().contains(name), "{text}");
        }
    }

    #[test]
    fn entries_are_read_from_json() {
        let read = |text: &str| of_json(serde_json::from_str(text).unwrap());
        let entries = of(&[("a_i", i64::MAX.into()), ("b_s", "x".into()), ("b_s", "7".into())]);
        let text = r#"{"b_s": ["x", "7"], "a_i": [9223372036854775807]}"#;
        assert_eq!(read(text).unwrap(), entries);
        assert!(read(r#"{"b_s": [7]}"#).unwrap_err().contains("b_s"));
        assert!(read(r#"{"a_i": ["7"]}"#).unwrap_err().contains("a_i"));
        for bad in ["[]", r#"{"a_i": 7}"#, r#"{"a_i": [1.5]}"#, r#"{"a_i": [null]}"#] {
            assert!(serde_json::from_str::<ByIndex<IndexValue>>(bad).is_err(), "{bad}");
        }
        let told: ByIndex<IndexValue> = serde_json::from_str(text).unwrap();
        let mut headers = HeaderMap::new();
        super::told(&told, &mut headers).unwrap();
        assert_eq!(of_headers(&headers).unwrap(), entries);
    }
}
