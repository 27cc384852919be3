//! Results of operations, as lines of JSON.

use quorate_client::{BatchAnswer, Error, Outcome, Written};
use serde_json::{Value as Json, json};

use super::line::{Line, Op};
use crate::app::App;
use crate::data::read::{shown, text};

/// Whether it is a write of which it is not known that it left nothing behind.
pub(super) fn is_in_doubt(error: &Error) -> bool {
    error.outcome() != Outcome::NotApplied
}

/// The result of one operation.
pub(super) fn result(
    app: &App,
    line: &Line,
    number: u64,
    result: &Result<BatchAnswer, Error>,
) -> Json {
    let (name, more) = match result {
        Err(error) => ("failed", failed(app, line, error)),
        Ok(BatchAnswer::Read(read)) => shown(read),
        Ok(BatchAnswer::Written(written)) if line.op == Op::Delete => ("deleted", stored(written)),
        Ok(BatchAnswer::Written(written)) => ("stored", stored(written)),
        Ok(BatchAnswer::Applied(applied)) => {
            ("changed", json!({"acks": applied.acks, "hints": applied.hints}))
        }
    };
    let mut all = json!({
        "line": number, "op": line.op.name(), "bucket": line.bucket, "key": line.key, "result": name,
    });
    if let (Json::Object(all), Json::Object(more)) = (&mut all, more) {
        all.extend(more);
    }
    all
}

fn stored(written: &Written) -> Json {
    json!({
        "acks": written.acks,
        "hints": written.hints,
        "siblings": written.siblings,
        "context": text(written.context.as_ref()),
    })
}

fn failed(app: &App, line: &Line, error: &Error) -> Json {
    let outcome = match error.outcome() {
        Outcome::NotApplied => "not_applied",
        Outcome::Unknown => "unknown",
        Outcome::Partial => "partial",
    };
    let mut shown = app.failure(error).json();
    shown["outcome"] = json!(outcome);
    if is_in_doubt(error) {
        // Under this key it can be repeated, and is stored once at most.
        shown["idempotency_key"] = json!(line.idempotency_key);
    }
    shown
}
