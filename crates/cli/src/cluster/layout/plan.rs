//! `quorate layout plan`: asks for a plan and shows it.

use std::path::Path;

use serde_json::{Value, json};

use super::change::Changes;
use crate::app::App;
use crate::exit::{Done, Exit, Failure};
use crate::out::{bytes, count, safe};
use crate::refusal;
use crate::table::{Paint, Table, cell, maybe, painted};

/// Runs the command.
pub(super) async fn run(app: &App, changes: &Changes, output: Option<&Path>) -> Done<Exit> {
    let document = ask(app, changes).await?;
    if let Some(path) = output {
        let text = format!("{document:#}\n");
        let failed = |error| Failure::new(Exit::Failed, format!("{}: {error}", path.display()));
        std::fs::write(path, text).map_err(failed)?;
    }
    let is_refused = !list(&document["plan"]["refusals"]).is_empty();
    if app.out.json {
        app.out.json(&document)?;
    } else {
        show(app, &document["plan"])?;
        tell_next(app, &document, output)?;
    }
    Ok(if is_refused { Exit::Failed } else { Exit::Ok })
}

/// Has a change planned: what `commit` takes, with the plan.
pub(super) async fn ask(app: &App, changes: &Changes) -> Done<Value> {
    let wanted = changes.request()?;
    let plan = app.ask("planning", app.nodes.admin().plan_layout(&wanted)).await?;
    let sound = plan["base"].is_string() && plan["result"].is_string() && plan["load"].is_array();
    if !sound {
        return Err(refusal::incomplete("/layout/plan"));
    }
    Ok(json!({
        "base": plan["base"],
        "result": plan["result"],
        "changes": wanted["changes"],
        "gone": wanted["gone"],
        "accept": [],
        "plan": plan,
    }))
}

/// A list of an answer, empty if it is none.
pub(super) fn list(value: &Value) -> &[Value] {
    value.as_array().map(Vec::as_slice).unwrap_or_default()
}

/// The names of the warnings of a plan, each once.
pub(super) fn warnings(plan: &Value) -> Vec<String> {
    let names = list(&plan["warnings"]).iter().filter_map(|it| it["name"].as_str());
    let mut names: Vec<String> = names.map(safe).collect();
    names.sort();
    names.dedup();
    names
}

/// Shows what a change comes to.
pub(super) fn show(app: &App, plan: &Value) -> Done {
    let mut table = Table::new(&["node", "#replicas before", "#after", "#fair", "#change"]);
    for load in list(&plan["load"]) {
        let number = |name: &str| load[name].as_i64();
        let change = number("after").zip(number("before")).map(|(after, before)| after - before);
        let paint = match change {
            Some(1..) => Paint::Good,
            Some(..=-1) => Paint::Warn,
            Some(0) | None => Paint::Dim,
        };
        table.row(vec![
            maybe(load["name"].as_str()),
            maybe(number("before")),
            maybe(number("after")),
            maybe(number("fair")),
            painted(change.map_or("-".to_owned(), |change| format!("{change:+}")), paint),
        ]);
    }
    app.out.table(&table)?;
    app.out.line("")?;
    app.out.line(&moves(&plan["moves"]))?;
    for (what, list, paint) in [
        ("warning", list(&plan["warnings"]), Paint::Warn),
        ("refused", list(&plan["refusals"]), Paint::Bad),
    ] {
        if list.is_empty() {
            continue;
        }
        let mut table = Table::new(&[what, "why"]);
        for it in list {
            let name = it["name"].as_str().unwrap_or("?");
            table.row(vec![painted(name, paint), cell(it["text"].as_str().unwrap_or("?"))]);
        }
        app.out.line("")?;
        app.out.table(&table)?;
    }
    Ok(())
}

fn moves(moves: &Value) -> String {
    let replicas = moves["replicas"].as_u64().unwrap_or_default();
    if replicas == 0 {
        return "no data moves".to_owned();
    }
    let least = moves["least"].as_u64().unwrap_or_default();
    let mut text =
        format!("{} of partitions move, at least {least} have to", count(replicas, "replica"));
    if let Some(estimate) = moves["bytes_estimate"].as_u64() {
        text += &format!("; about {}", bytes(estimate));
    }
    if let Some(rows) = moves["rows_estimate"].as_u64() {
        text += &format!(", {}", count(rows, "key"));
    }
    text
}

fn tell_next(app: &App, document: &Value, output: Option<&Path>) -> Done {
    let plan = &document["plan"];
    app.out.line("")?;
    if !list(&plan["refusals"]).is_empty() {
        return app.out.line("this change would be refused, for the reasons above");
    }
    let accept: Vec<String> =
        warnings(plan).into_iter().map(|name| format!(" --accept {name}")).collect();
    let what = match output {
        Some(path) => safe(&path.display().to_string()),
        None => "with the same flags".to_owned(),
    };
    app.out
        .line(&format!("nothing is changed yet: quorate layout commit {what}{}", accept.concat()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_moves_is_told_in_words() {
        assert_eq!(moves(&json!({"replicas": 0, "least": 0})), "no data moves");
        let told = moves(&json!({"replicas": 503, "least": 502, "bytes_estimate": 2048}));
        assert_eq!(told, "503 replicas of partitions move, at least 502 have to; about 2.0 KiB");
    }

    #[test]
    fn warnings_are_named_once() {
        let plan = json!({"warnings": [{"name": "b"}, {"name": "a"}, {"name": "b"}, {}]});
        assert_eq!(warnings(&plan), ["a", "b"]);
    }
}
