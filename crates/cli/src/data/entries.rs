//! Index entries of values: as a person gives them, as JSON, and in a table.

use std::collections::BTreeMap;

use quorate_client::{IndexValue, Metadata};
use serde_json::{Value as Json, json};

/// One entry, by the name of its index.
pub(crate) type Entry = (String, IndexValue);

/// `NAME=VALUE`.
///
/// # Errors
/// What no index has.
pub(crate) fn parse(text: &str) -> Result<Entry, String> {
    let Some((index, value)) = text.split_once('=') else {
        return Err("expected NAME=VALUE, such as email_s=ada@example.com or age_i=36".to_owned());
    };
    let value = IndexValue::parse(index, value).map_err(|error| error.to_string())?;
    Ok((index.to_owned(), value))
}

/// From JSON as nodes, exports and batches have it: `{"email_s": ["a@x"], "age_i": [36]}`. A single value may
/// stand without its list.
///
/// # Errors
/// What is wrong with it.
pub(crate) fn of_json(json: Option<&Json>) -> Result<Vec<Entry>, String> {
    let all = match json {
        None | Some(Json::Null) => return Ok(Vec::new()),
        Some(Json::Object(all)) => all,
        Some(Json::Bool(_) | Json::Number(_) | Json::String(_) | Json::Array(_)) => {
            return Err("index: must be an object".to_owned());
        }
    };
    let mut entries = Vec::new();
    for (index, values) in all {
        for json in values.as_array().map_or(std::slice::from_ref(values), Vec::as_slice) {
            let value = match (json.as_str(), json.as_i64()) {
                (Some(text), _) => IndexValue::from(text),
                (None, Some(integer)) => IndexValue::from(integer),
                (None, None) => {
                    return Err(format!("index.{index}: must be texts, or integers of 64 bits"));
                }
            };
            value.check(index).map_err(|error| error.to_string())?;
            entries.push((index.clone(), value));
        }
    }
    Ok(entries)
}

/// As JSON; `None` if there are none.
pub(crate) fn json_of(metadata: &Metadata) -> Option<Json> {
    let mut all = BTreeMap::<&str, Vec<&IndexValue>>::new();
    for (index, value) in &metadata.index {
        all.entry(index).or_default().push(value);
    }
    (!all.is_empty()).then(|| json!(all))
}

/// On one line: `age_i=36 email_s=a@x`; `None` if there are none.
pub(crate) fn in_short(metadata: &Metadata) -> Option<String> {
    let all: Vec<String> =
        metadata.index.iter().map(|(index, value)| format!("{index}={value}")).collect();
    (!all.is_empty()).then(|| all.join(" "))
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    fn metadata(entries: Vec<Entry>) -> Metadata {
        Metadata { index: entries, ..Metadata::default() }
    }

    #[test]
    fn an_entry_is_a_name_and_a_value() {
        assert_eq!(parse("age_i=-7").unwrap(), ("age_i".to_owned(), IndexValue::from(-7)));
        let text = parse("name_s=a=b, c").unwrap();
        assert_eq!(text, ("name_s".to_owned(), IndexValue::from("a=b, c")));
        for (bad, word) in [
            ("age_i", "NAME=VALUE"),
            ("age=7", "_i"),
            ("Age_i=7", "a-z"),
            ("age_i=old", "integers"),
            ("name_s=", "256"),
        ] {
            let why = parse(bad).unwrap_err();
            assert!(why.contains(word), "{bad}: {why}");
        }
    }

    #[test]
    fn entries_survive_json() {
        let entries =
            ["age_i=-7", "age_i=9223372036854775807", "name_s=a b", "name_s=7"].map(parse);
        let given = metadata(entries.into_iter().map(Result::unwrap).collect());
        let json = json_of(&given).unwrap();
        assert_eq!(json.to_string(), r#"{"age_i":[-7,9223372036854775807],"name_s":["a b","7"]}"#);
        assert_eq!(of_json(Some(&json)).unwrap(), given.index);
        let short = "age_i=-7 age_i=9223372036854775807 name_s=a b name_s=7";
        assert_eq!(in_short(&given).as_deref(), Some(short));
        let one = json!({"age_i": 7, "name_s": "x"});
        assert_eq!(in_short(&metadata(of_json(Some(&one)).unwrap())).unwrap(), "age_i=7 name_s=x");
        for none in [None, Some(&Json::Null), Some(&json!({})), Some(&json!({"a_s": []}))] {
            assert!(of_json(none).unwrap().is_empty());
        }
        assert!(
            json_of(&Metadata::default()).is_none() && in_short(&Metadata::default()).is_none()
        );
    }

    #[test]
    fn bad_entries_are_named() {
        for (bad, word) in [
            (json!([]), "index: must be"),
            (json!({"age": [7]}), "\"age\""),
            (json!({"age_i": ["7"]}), "age_i"),
            (json!({"age_i": [7.5]}), "index.age_i"),
            (json!({"age_i": [9_223_372_036_854_775_808_u64]}), "index.age_i"),
            (json!({"name_s": [7]}), "name_s"),
            (json!({"name_s": [null]}), "index.name_s"),
            (json!({"name_s": ""}), "name_s"),
        ] {
            let why = of_json(Some(&bad)).unwrap_err();
            assert!(why.contains(word), "{bad}: {why}");
        }
    }
}
