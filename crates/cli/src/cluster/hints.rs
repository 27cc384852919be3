//! `quorate hints`.

use serde_json::{Value, json};

use crate::app::{App, patiently};
use crate::args::Common;
use crate::exit::{Done, Exit};
use crate::nodes::Member;
use crate::out::{bytes, millis};
use crate::table::{Table, cell, maybe};

/// Show the hints: what each node keeps for others that were down.
#[derive(Clone, Debug, clap::Args)]
#[command(after_help = "Examples:
  quorate hints
  quorate wait no-hints --timeout 60

Exits with 5 if a node did not answer, since it may keep some.

JSON: nodes (node, bytes, bytes_max, targets: node, keys, bytes, oldest_ms), keys, unreachable.")]
pub struct Args {
    #[command(flatten)]
    pub(crate) common: Common,
}

/// What all nodes keep.
pub(crate) struct Kept {
    /// `GET /hints` of each node that answered.
    pub(crate) nodes: Vec<(Member, Value)>,
    pub(crate) unreachable: Vec<String>,
}

impl Kept {
    /// How many keys are kept, by all nodes.
    pub(crate) fn keys(&self) -> u64 {
        self.targets().filter_map(|(_, target)| target["keys"].as_u64()).sum()
    }

    fn targets(&self) -> impl Iterator<Item = (&Member, &Value)> {
        self.nodes.iter().flat_map(|(member, hints)| {
            let list = hints["targets"].as_array().map(Vec::as_slice).unwrap_or_default();
            list.iter().map(move |target| (member, target))
        })
    }
}

/// Asks every node for its hints.
///
/// # Errors
/// If not even one node answers.
pub(crate) async fn everywhere(app: &App) -> Done<Kept> {
    let members = app.nodes.cluster().await?.members;
    let answers = app.nodes.everywhere(&members, async |admin| admin.hints().await).await;
    let mut kept = Kept { nodes: Vec::new(), unreachable: Vec::new() };
    for (member, answer) in members.into_iter().zip(answers) {
        match answer {
            Ok(hints) if hints["targets"].is_array() => kept.nodes.push((member, hints)),
            Ok(_) | Err(_) => kept.unreachable.push(member.name),
        }
    }
    Ok(kept)
}

/// Runs the command.
pub(crate) async fn run(app: &App) -> Done<Exit> {
    let kept = patiently("asking every node", everywhere(app)).await?;
    let exit = if kept.unreachable.is_empty() { Exit::Ok } else { Exit::Unavailable };
    if app.out.json {
        let node = |(member, hints): &(Member, Value)| {
            let mut shown = hints.clone();
            shown["node"] = json!(member.name);
            shown
        };
        app.out.json(&json!({
            "nodes": kept.nodes.iter().map(node).collect::<Vec<_>>(),
            "keys": kept.keys(),
            "unreachable": kept.unreachable,
        }))?;
        return Ok(exit);
    }
    let mut table = Table::new(&["kept by", "for", "#keys", "#bytes", "#oldest"]);
    for (member, target) in kept.targets() {
        table.row(vec![
            cell(&member.name),
            maybe(target["node"].as_str()),
            maybe(target["keys"].as_u64()),
            maybe(target["bytes"].as_u64().map(bytes)),
            maybe(target["oldest_ms"].as_u64().map(millis)),
        ]);
    }
    if kept.keys() == 0 {
        app.out.line("no hints are kept")?;
    } else {
        app.out.table(&table)?;
    }
    if !kept.unreachable.is_empty() {
        app.out.note(&format!("note: {} did not answer", kept.unreachable.join(", ")));
    }
    Ok(exit)
}
