//! Changes, for people and programs.

use quorate_client::{FeedChange, KeyState, Read};
use serde_json::{Value as Json, json};

use crate::data::read::shown;
use crate::data::typed::show::{in_short, json_of};
use crate::data::value::Stored;
use crate::out::{bytes, count, safe};

/// How much of a value is shown on a line, in characters.
const PREVIEW: usize = 60;

/// A change on one line.
pub(super) fn line(change: &FeedChange) -> String {
    let what = match &change.state {
        KeyState::Read(Read::Value(value)) => Stored::from(value.clone()).preview(PREVIEW),
        KeyState::Read(Read::Siblings(siblings)) => {
            format!("({})", count(siblings.siblings().len() as u64, "sibling"))
        }
        KeyState::Read(Read::Absent(absent)) if absent.has_expired() => "(expired)".to_owned(),
        KeyState::Read(Read::Absent(_)) => "(deleted)".to_owned(),
        KeyState::Typed(typed) => in_short(typed.value()),
        KeyState::LeftOut(left_out) if left_out.siblings > 1 => {
            let size = bytes(left_out.bytes);
            format!("({}, {size})", count(left_out.siblings.into(), "sibling"))
        }
        KeyState::LeftOut(left_out) => format!("({})", bytes(left_out.bytes)),
    };
    format!("{}\t{what}", safe(&change.key))
}

/// A change as one JSON object.
pub(super) fn json(bucket: &str, change: &FeedChange) -> Json {
    let (result, more) = match &change.state {
        KeyState::Read(read) => shown(read),
        KeyState::Typed(typed) => {
            let typed = json!({
                "type": typed.value().data_type(),
                "value": json_of(typed.value()),
                "exists": typed.exists(),
                "context": typed.context().as_str(),
            });
            ("typed", typed)
        }
        KeyState::LeftOut(left_out) => {
            ("left_out", json!({"bytes": left_out.bytes, "siblings_count": left_out.siblings}))
        }
    };
    let mut all = json!({"bucket": bucket, "key": change.key, "result": result});
    if let (Json::Object(all), Json::Object(more)) = (&mut all, more) {
        all.extend(more);
    }
    all
}
