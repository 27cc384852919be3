//! Typed values, for people and programs.

use quorate_client::{AnyValue, Applied, Fields, Typed, Written};
use serde_json::{Value as Json, json};

use super::held;
use crate::app::App;
use crate::args::Name;
use crate::exit::Done;
use crate::out::{count, safe};
use crate::table::{Paint, Table, cell, painted};

/// Shows a value that was read.
#[allow(clippy::wildcard_enum_match_arm, reason = "the others are on one line")]
pub(super) fn value(app: &App, name: &Name, typed: &Typed<AnyValue>) -> Done {
    if app.out.json {
        return app.out.json(&document(name, typed));
    }
    if !typed.exists() {
        app.out.note(&format!("note: nothing is stored under {name}"));
    }
    match typed.value() {
        AnyValue::Set(elements) => {
            let on_terminal = app.out.terminal;
            let line = |text: &String| {
                if on_terminal { format!("{}\n", safe(text)) } else { format!("{text}\n") }
            };
            app.out.bytes(elements.iter().map(line).collect::<String>().as_bytes())
        }
        AnyValue::Map(fields) if fields.is_empty() => Ok(()),
        AnyValue::Map(fields) => app.out.table(&table(fields)),
        AnyValue::Register(None) => Ok(()),
        AnyValue::Estimate(estimate) => app.out.line(&estimate.to_string()),
        AnyValue::Register(Some(text)) if app.out.terminal => app.out.line(&safe(text)),
        AnyValue::Register(Some(text)) => app.out.bytes(text.as_bytes()),
        other => app.out.line(&in_short(other)),
    }
}

/// Says what a change left there.
pub(super) fn changed(app: &App, name: &Name, applied: &Applied, typed: &Typed<AnyValue>) -> Done {
    if app.out.json {
        let mut shown = document(name, typed);
        shown["acks"] = json!(applied.acks);
        shown["hints"] = json!(applied.hints);
        return app.out.json(&shown);
    }
    let (now, held) = (in_short(typed.value()), held(applied.acks, applied.hints));
    app.out.line(&format!("changed {name} on {held}; now {now}"))
}

/// Says that a key was deleted.
pub(super) fn deleted(app: &App, name: &Name, written: &Written) -> Done {
    if app.out.json {
        return app.out.json(&json!({
            "bucket": name.bucket,
            "key": name.key,
            "acks": written.acks,
            "hints": written.hints,
        }));
    }
    app.out.line(&format!("deleted {name} on {}", held(written.acks, written.hints)))
}

fn document(name: &Name, typed: &Typed<AnyValue>) -> Json {
    json!({
        "bucket": name.bucket,
        "key": name.key,
        "type": typed.value().data_type(),
        "value": json_of(typed.value()),
        "exists": typed.exists(),
        "context": typed.context().as_str(),
    })
}

/// A value as nodes represent it.
#[allow(clippy::wildcard_enum_match_arm, reason = "the enum is non-exhaustive")]
pub(crate) fn json_of(value: &AnyValue) -> Json {
    match value {
        AnyValue::Counter(total) => match (i64::try_from(*total), u64::try_from(*total)) {
            (Ok(total), _) => json!(total),
            (Err(_), Ok(total)) => json!(total),
            (Err(_), Err(_)) => json!(total.to_string()),
        },
        AnyValue::Set(elements) => json!(elements),
        AnyValue::Flag(on) => json!(on),
        AnyValue::Map(fields) => json!(fields),
        AnyValue::Register(text) => json!(text),
        AnyValue::Estimate(estimate) => json!(estimate),
        _ => Json::Null,
    }
}

/// A value on one line.
#[allow(clippy::wildcard_enum_match_arm, reason = "the enum is non-exhaustive")]
pub(crate) fn in_short(value: &AnyValue) -> String {
    match value {
        AnyValue::Counter(total) => total.to_string(),
        AnyValue::Set(elements) => count(elements.len() as u64, "element"),
        AnyValue::Flag(on) => on.to_string(),
        AnyValue::Map(fields) => count(fields.len() as u64, "field"),
        AnyValue::Register(None) => "nothing".to_owned(),
        AnyValue::Register(Some(text)) => format!("{:?}", crate::out::short(text, 60)),
        AnyValue::Estimate(estimate) => format!("about {estimate}"),
        _ => "a value of a later release".to_owned(),
    }
}

fn table(fields: &Fields) -> Table {
    let mut table = Table::new(&["field", "type", "value"]);
    for (name, field) in fields {
        if let Some(text) = &field.register {
            table.row(vec![cell(name), painted("register_lww", Paint::Dim), cell(text)]);
        }
        if field.flag {
            table.row(vec![cell(name), painted("flag", Paint::Dim), cell("true")]);
        }
        for element in &field.set {
            table.row(vec![cell(name), painted("set", Paint::Dim), cell(element)]);
        }
    }
    table
}
