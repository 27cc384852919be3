//! `quorate siblings`: keys in conflict, and who holds what of one key.

use serde_json::{Value, json};

use super::entries;
use super::value::Stored;
use crate::app::App;
use crate::args::{Common, Name, bucket_name};
use crate::exit::{Done, Exit, Failure};
use crate::lifetime::End;
use crate::out::{bytes, count};
use crate::refusal;
use crate::table::{Cell, Paint, Table, cell, maybe, painted};

/// Keys asked for in one request.
const PAGE: u64 = 1000;

/// Show who holds what of a key, or list all keys in conflict.
///
/// Every node is asked, and nothing is changed. What was shown is remembered: `quorate resolve`
/// supersedes exactly that.
#[derive(Clone, Debug, clap::Args)]
#[command(after_help = "Examples:
  quorate siblings                  # every key in conflict
  quorate siblings carts            # those of one bucket
  quorate siblings carts/alice      # all values of one key, and which node holds which

The list exits with 0 whether or not there are conflicts, and with 5 if a node did not answer.
One key exits with 4 if it is in conflict. A key of a bucket with a type has parts instead of siblings, which
together are its value, and is never in conflict.

JSON of the list: keys (bucket, key, siblings), cursor, unreachable. JSON of a key: siblings (dot,
writer, written_at, expires_at, value, index, held_by, hinted_at, ...), replicas (node, state, dots, hints),
fallbacks, conflict, context.")]
pub struct Args {
    /// A key, or a bucket
    #[arg(value_name = "BUCKET[/KEY]")]
    what: Option<String>,
    /// List at most so many keys
    #[arg(long, value_name = "COUNT", default_value_t = 10_000,
          value_parser = clap::value_parser!(u64).range(1..=1_000_000))]
    limit: u64,
    #[command(flatten)]
    pub(crate) common: Common,
}

/// Runs the command.
pub(crate) async fn run(app: &App, args: &Args) -> Done<Exit> {
    match &args.what {
        Some(what) if what.contains('/') => {
            let name = what.parse::<Name>().map_err(Failure::usage)?;
            inspect(app, &name).await
        }
        Some(bucket) => {
            let bucket = bucket_name(bucket).map_err(Failure::usage)?;
            list(app, Some(&bucket), args.limit).await
        }
        None => list(app, None, args.limit).await,
    }
}

async fn list(app: &App, bucket: Option<&str>, limit: u64) -> Done<Exit> {
    let admin = app.nodes.admin();
    let (mut keys, mut cursor, mut unreachable) = (Vec::new(), None::<String>, Vec::new());
    while (keys.len() as u64) < limit {
        let size = PAGE.min(limit - keys.len() as u64) as u16;
        let page = admin.conflicts(bucket, Some(size), cursor.as_deref());
        let page = app.ask("looking for conflicts", page).await?;
        let stuck = page.keys.is_empty() || page.cursor == cursor;
        keys.extend(page.keys);
        (cursor, unreachable) = (page.cursor, page.unreachable);
        if cursor.is_none() || stuck {
            break;
        }
    }
    let exit = if unreachable.is_empty() { Exit::Ok } else { Exit::Unavailable };
    if app.out.json {
        app.out.json(&json!({"keys": keys, "cursor": cursor, "unreachable": unreachable}))?;
        return Ok(exit);
    }
    if keys.is_empty() {
        app.out.line("no key is in conflict")?;
    } else {
        let mut table = Table::new(&["key", "#siblings"]);
        for key in &keys {
            table.row(vec![cell(format!("{}/{}", key.bucket, key.key)), cell(key.siblings)]);
        }
        app.out.table(&table)?;
    }
    if cursor.is_some() {
        app.out.note("note: there are more; --limit shows more of them");
    }
    if !unreachable.is_empty() {
        let shown = crate::out::safe(&unreachable.join(", "));
        app.out.note(&format!("note: keys may be missing: {shown} did not answer"));
    }
    Ok(exit)
}

async fn inspect(app: &App, name: &Name) -> Done<Exit> {
    let admin = app.nodes.client.admin();
    let report = admin.inspect(&name.bucket, &name.key, app.nodes.timeout_ms);
    let report = app.ask("asking every node", report).await?;
    let found = report["siblings"].as_array().ok_or_else(|| refusal::incomplete("/siblings"))?;
    if let Some(context) = report["context"].as_str() {
        app.remember(name, Some(context)).await;
    }
    let conflict = report["conflict"].as_bool() == Some(true);
    let exit = match (conflict, found.is_empty()) {
        (true, _) => Exit::Conflict,
        (false, true) => Exit::NotFound,
        (false, false) => Exit::Ok,
    };
    if app.out.json {
        app.out.json(&report)?;
        return Ok(exit);
    }
    if found.is_empty() {
        app.out.line(&format!("{name} was never written, as far as the nodes that answer know"))?;
    } else {
        let state = if conflict { " in conflict" } else { "" };
        let what = if found.iter().any(is_part) { "part" } else { "sibling" };
        app.out.line(&format!("{name}: {}{state}", count(found.len() as u64, what)))?;
        app.out.table(&held(found))?;
        app.out.line("")?;
    }
    app.out.table(&replicas(&report))?;
    if conflict {
        app.out.note(&format!(
            "Keep one: quorate resolve {name} --keep DOT; merge: quorate resolve {name} 'NEW VALUE'"
        ));
    }
    Ok(exit)
}

fn of(json: &Value) -> Stored {
    Stored::of_json(json).unwrap_or_default()
}

fn cells(stored: &Stored) -> Vec<Cell> {
    vec![
        maybe(stored.dot.as_ref()),
        maybe(stored.writer.as_ref()),
        maybe(stored.written_at.as_deref().map(second)),
        maybe(stored.size().map(bytes)),
        cell(stored.preview(40)),
    ]
}

/// Its index entries on one line.
fn index(stored: &Stored) -> Option<String> {
    let all = entries::in_short(&stored.value.as_ref()?.metadata)?;
    Some(crate::out::short(&all, 60))
}

/// When it expires.
fn expires(end: End) -> Cell {
    let json = end.json().unwrap_or_default();
    maybe(json.as_str().map(second))
}

/// A time without its fraction.
fn second(at: &str) -> String {
    at.get(..19).unwrap_or(at).replace('T', " ")
}

/// Whether it is a part of a typed value.
fn is_part(json: &Value) -> bool {
    json["part"].is_string()
}

/// Likewise, of a part.
fn cells_of_part(json: &Value) -> Vec<Cell> {
    let content = match &json["content"] {
        Value::String(text) => text.clone(),
        Value::Null => "(deleted)".to_owned(),
        other @ (Value::Bool(_) | Value::Number(_) | Value::Array(_) | Value::Object(_)) => {
            other.to_string()
        }
    };
    vec![
        maybe(json["dot"].as_str()),
        maybe(json["writer"].as_str()),
        maybe(json["written_at"].as_str().map(second)),
        maybe(json["part"].as_str()),
        cell(crate::out::short(&content, 60)),
    ]
}

/// The siblings as a table.
pub(crate) fn table(siblings: &[Stored]) -> Table {
    let ends = siblings.iter().any(|sibling| matches!(sibling.end, End::At(_)));
    let mut headings = vec!["dot", "writer", "written (UTC)", "#size", "value"];
    headings.extend(ends.then_some("expires (UTC)"));
    let are_indexed = siblings.iter().any(|sibling| index(sibling).is_some());
    headings.extend(are_indexed.then_some("index"));
    let mut table = Table::new(&headings);
    for sibling in siblings {
        let mut row = cells(sibling);
        row.extend(ends.then(|| expires(sibling.end)));
        row.extend(are_indexed.then(|| maybe(index(sibling))));
        table.row(row);
    }
    table
}

fn held(siblings: &[Value]) -> Table {
    let [fourth, fifth] =
        if siblings.iter().any(is_part) { ["part", "content"] } else { ["#size", "value"] };
    let ends = siblings.iter().any(|sibling| sibling["expires_at"].is_string());
    let mut headings = vec!["dot", "writer", "written (UTC)", fourth, fifth];
    headings.extend(ends.then_some("expires (UTC)"));
    let are_indexed = siblings.iter().any(|sibling| index(&of(sibling)).is_some());
    headings.extend(are_indexed.then_some("index"));
    headings.extend(["held by", "hinted at"]);
    let mut table = Table::new(&headings);
    for sibling in siblings {
        let mut row = if is_part(sibling) { cells_of_part(sibling) } else { cells(&of(sibling)) };
        row.extend(ends.then(|| maybe(sibling["expires_at"].as_str().map(second))));
        row.extend(are_indexed.then(|| maybe(index(&of(sibling)))));
        for name in ["held_by", "hinted_at"] {
            let nodes = sibling[name].as_array().map(Vec::as_slice).unwrap_or_default();
            row.push(maybe(Some(crate::cluster::names(nodes)).filter(|it| !it.is_empty())));
        }
        table.row(row);
    }
    table
}

fn replicas(report: &Value) -> Table {
    let mut table = Table::new(&["node", "role", "state", "holds", "hints"]);
    for (list, role) in [("replicas", "home"), ("fallbacks", "fallback")] {
        for node in report[list].as_array().map(Vec::as_slice).unwrap_or_default() {
            let state = node["state"].as_str().unwrap_or("?");
            let paint = match state {
                "ok" => Paint::Good,
                "behind" | "not_ready" | "missing" => Paint::Warn,
                _ => Paint::Bad,
            };
            let names = |name: &str| {
                let list = node[name].as_array().map(Vec::as_slice).unwrap_or_default();
                Some(crate::cluster::names(list)).filter(|it| !it.is_empty())
            };
            let kept = node["hints"].as_array().map(Vec::as_slice).unwrap_or_default();
            let at: Vec<Value> = kept.iter().map(|hint| hint["at"].clone()).collect();
            let hints = match crate::cluster::names(&at) {
                at if !at.is_empty() => Some(format!("kept at {at}")),
                _ => names("hints_for").map(|of| format!("keeps some for {of}")),
            };
            table.row(vec![
                maybe(node["node"].as_str()),
                cell(role),
                painted(state, paint),
                maybe(names("dots")),
                maybe(hints),
            ]);
        }
    }
    table
}
