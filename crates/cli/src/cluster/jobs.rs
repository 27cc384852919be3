//! `quorate jobs`.

use serde_json::{Value, json};

use crate::app::{App, patiently};
use crate::args::Common;
use crate::exit::{Done, Exit};
use crate::nodes::Member;
use crate::out::{millis, short};
use crate::table::{Cell, Paint, Table, cell, maybe, painted};

/// The longest error in the table, in characters.
const ERROR_CHARS_MAX: usize = 60;

/// Show the background jobs of every node: what each does, and what went wrong.
#[derive(Clone, Debug, clap::Args)]
#[command(after_help = "Examples:
  quorate jobs
  quorate jobs fill scrub
  quorate jobs --troubled

Exits with 5 if a node did not answer.

JSON: nodes (node, jobs: job, about, peer, state, reason, runs, worked_at, took_us, busy_ms, done, of,
last_error, failed_at, share_percent, share_now_percent), unreachable.")]
pub struct Args {
    /// Show only jobs of these names
    #[arg(value_name = "JOB")]
    names: Vec<String>,
    /// Show only jobs that are paused or had an error
    #[arg(long)]
    troubled: bool,
    #[command(flatten)]
    pub(crate) common: Common,
}

impl Args {
    fn wants(&self, job: &Value) -> bool {
        let is_named = |name: &String| job["job"].as_str() == Some(name);
        let is_troubled = job["state"] == "paused" || job["last_error"].is_string();
        (self.names.is_empty() || self.names.iter().any(is_named))
            && (!self.troubled || is_troubled)
    }
}

/// What each node that answered said, and who did not answer.
struct Told {
    nodes: Vec<(Member, Vec<Value>)>,
    unreachable: Vec<String>,
}

async fn everywhere(app: &App, args: &Args) -> Done<Told> {
    let members = app.nodes.cluster().await?.members;
    let answers = app.nodes.everywhere(&members, async |admin| admin.jobs().await).await;
    let mut told = Told { nodes: Vec::new(), unreachable: Vec::new() };
    for (member, answer) in members.into_iter().zip(answers) {
        match answer.ok().as_ref().and_then(|answer| answer["jobs"].as_array()) {
            Some(jobs) => {
                let wanted = jobs.iter().filter(|job| args.wants(job)).cloned().collect();
                told.nodes.push((member, wanted));
            }
            None => told.unreachable.push(member.name),
        }
    }
    Ok(told)
}

/// Runs the command.
pub(crate) async fn run(app: &App, args: &Args) -> Done<Exit> {
    let told = patiently("asking every node", everywhere(app, args)).await?;
    let exit = if told.unreachable.is_empty() { Exit::Ok } else { Exit::Unavailable };
    if app.out.json {
        let node =
            |(member, jobs): &(Member, Vec<Value>)| json!({"node": member.name, "jobs": jobs});
        app.out.json(&json!({
            "nodes": told.nodes.iter().map(node).collect::<Vec<_>>(),
            "unreachable": told.unreachable,
        }))?;
        return Ok(exit);
    }
    let rows = told.nodes.iter().flat_map(|(member, jobs)| jobs.iter().map(move |it| (member, it)));
    let rows: Vec<Vec<Cell>> = rows.map(|(member, job)| row(&member.name, job)).collect();
    if rows.is_empty() {
        app.out.line("no such jobs")?;
    } else {
        let headings =
            ["node", "job", "peer", "state", "#runs", "#took", "#progress", "#share", "last error"];
        let mut table = Table::new(&headings);
        rows.into_iter().for_each(|row| table.row(row));
        app.out.table(&table)?;
    }
    if !told.unreachable.is_empty() {
        app.out.note(&format!("note: {} did not answer", told.unreachable.join(", ")));
    }
    Ok(exit)
}

fn row(node: &str, job: &Value) -> Vec<Cell> {
    let progress = job["done"].as_u64().zip(job["of"].as_u64());
    vec![
        cell(node),
        maybe(job["job"].as_str()),
        maybe(job["peer"].as_str()),
        state(job),
        maybe(job["runs"].as_u64()),
        maybe(job["took_us"].as_u64().map(took)),
        maybe(progress.map(|(done, of)| format!("{done}/{of}"))),
        maybe(job["share_now_percent"].as_f64().map(|share| format!("{share:.1} %"))),
        match job["last_error"].as_str() {
            Some(error) => painted(short(error, ERROR_CHARS_MAX), Paint::Bad),
            None => maybe(None::<&str>),
        },
    ]
}

fn state(job: &Value) -> Cell {
    let state = job["state"].as_str().unwrap_or("?");
    match job["reason"].as_str() {
        Some(reason) => painted(format!("{state}: {reason}"), Paint::Warn),
        None => cell(state),
    }
}

/// How long a run took.
fn took(us: u64) -> String {
    match us {
        0..1_000 => format!("{us} us"),
        1_000.. => millis(us / 1_000),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn args(names: &[&str], troubled: bool) -> Args {
        let names = names.iter().map(|name| (*name).to_owned()).collect();
        Args { names, troubled, common: Common::default() }
    }

    #[test]
    fn jobs_are_chosen_by_name_and_by_trouble() {
        let fine = json!({"job": "fill", "state": "waiting", "last_error": null});
        let paused = json!({"job": "scrub", "state": "paused", "last_error": null});
        let failed = json!({"job": "reap", "state": "waiting", "last_error": "no luck"});
        let all = args(&[], false);
        assert!(all.wants(&fine) && all.wants(&paused) && all.wants(&failed));
        let troubled = args(&[], true);
        assert!(!troubled.wants(&fine) && troubled.wants(&paused) && troubled.wants(&failed));
        let named = args(&["reap", "fill"], true);
        assert!(!named.wants(&fine) && !named.wants(&paused) && named.wants(&failed));
    }

    #[test]
    fn short_runs_are_told_in_microseconds() {
        assert_eq!(took(999), "999 us");
        assert_eq!(took(7_000), millis(7));
    }
}
