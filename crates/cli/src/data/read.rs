//! What a read found, as the members of a JSON object: in results of batches, and in changes of a feed.

use quorate_client::{Context, Read};
use serde_json::{Value as Json, json};

use super::value::Stored;

/// A context as JSON has it.
pub(crate) fn text(context: Option<&Context>) -> Option<&str> {
    context.map(Context::as_str)
}

/// What it is called, and its members.
pub(crate) fn shown(read: &Read) -> (&'static str, Json) {
    let context = text(read.context());
    match read {
        Read::Absent(absent) => {
            let (was_deleted, has_expired) = (absent.was_deleted(), absent.has_expired());
            let shown = json!({
                "context": context, "was_deleted": was_deleted, "has_expired": has_expired,
            });
            ("absent", shown)
        }
        Read::Value(value) => {
            let mut shown = Stored::from(value.clone()).json();
            shown["context"] = json!(context);
            ("value", shown)
        }
        Read::Siblings(siblings) => {
            let siblings = siblings.siblings().iter().map(|sibling| Stored::from(sibling).json());
            let siblings: Vec<Json> = siblings.collect();
            ("conflict", json!({"context": context, "siblings": siblings}))
        }
    }
}
