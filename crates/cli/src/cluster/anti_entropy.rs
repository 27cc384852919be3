//! `quorate anti-entropy`.

use serde_json::{Value, json};

use crate::app::{App, patiently};
use crate::args::Common;
use crate::exit::{Done, Exit};
use crate::nodes::Member;
use crate::out::{bytes, count, millis};
use crate::table::{Paint, Table, cell, maybe, painted};

/// How long a comparison may take on a node, in milliseconds: the default upper bound of a request.
const RUN_MS: u64 = 60_000;

/// Show how replicas compare, or compare them now.
#[derive(Clone, Debug, clap::Args)]
#[command(after_help = "Examples:
  quorate anti-entropy                  # the last comparison of each pair of nodes
  quorate anti-entropy run              # compare all now; exit code 1 if not all could be compared
  quorate anti-entropy run --partition 7
  quorate wait converged

JSON: nodes (node, and what GET /anti-entropy or POST /anti-entropy/run answers: rounds with peer,
differing, keys_repaired, outcome, ...), unreachable; of run also complete, keys_repaired.")]
pub struct Args {
    #[command(subcommand)]
    what: Option<What>,
    #[command(flatten)]
    pub(crate) common: Common,
}

#[derive(Clone, Debug, clap::Subcommand)]
enum What {
    /// Compare now: every node with every other one that is up
    Run {
        /// Only this partition
        #[arg(long)]
        partition: Option<u16>,
    },
}

/// The answers of all nodes.
pub(crate) struct Told {
    pub(crate) nodes: Vec<(Member, Value)>,
    /// Nodes that did not do it, and why.
    failed: Vec<(String, String)>,
}

/// Compares all nodes with each other.
///
/// # Errors
/// If not even one node answers.
pub(crate) async fn compare(app: &App, partition: Option<u16>, within_ms: u64) -> Done<Told> {
    let within_ms = Some(within_ms.clamp(1, RUN_MS));
    let members = app.nodes.cluster().await?.members;
    let run = async |admin: quorate_client::Admin| {
        admin.run_anti_entropy(None, partition, within_ms).await
    };
    let answers = app.nodes.everywhere(&members, run).await;
    Ok(told(members, answers))
}

fn told(members: Vec<Member>, answers: Vec<Result<Value, String>>) -> Told {
    let mut told = Told { nodes: Vec::new(), failed: Vec::new() };
    for (member, answer) in members.into_iter().zip(answers) {
        match answer {
            Ok(answer) if answer["rounds"].is_array() => told.nodes.push((member, answer)),
            Ok(_) => told.failed.push((member.name, "an unknown answer".to_owned())),
            Err(why) => told.failed.push((member.name, why)),
        }
    }
    told
}

impl Told {
    fn rounds(&self) -> impl Iterator<Item = (&Member, &Value)> {
        self.nodes.iter().flat_map(|(member, answer)| {
            let list = answer["rounds"].as_array().map(Vec::as_slice).unwrap_or_default();
            list.iter().map(move |round| (member, round))
        })
    }

    /// Whether every node compared everything with every other one.
    pub(crate) fn is_complete(&self) -> bool {
        self.failed.is_empty()
            && self.nodes.iter().all(|(_, answer)| answer["complete"].as_bool() == Some(true))
    }

    /// The names of the nodes that did not do it.
    fn unreachable(&self) -> Vec<&str> {
        self.failed.iter().map(|(name, _)| name.as_str()).collect()
    }

    /// How many keys were found to differ, and repaired.
    pub(crate) fn repaired(&self) -> u64 {
        self.rounds().filter_map(|(_, round)| round["keys_repaired"].as_u64()).sum()
    }

    /// How many partitions were found to differ.
    pub(crate) fn differing(&self) -> u64 {
        self.rounds().filter_map(|(_, round)| round["differing"].as_u64()).sum()
    }
}

/// Runs the command.
pub(crate) async fn run(app: &App, args: &Args) -> Done<Exit> {
    match &args.what {
        None => show(app).await,
        Some(What::Run { partition }) => compare_now(app, *partition).await,
    }
}

async fn show(app: &App) -> Done<Exit> {
    let members = app.nodes.cluster().await?.members;
    let asked = app.nodes.everywhere(&members, async |admin| admin.anti_entropy().await);
    let answers = patiently("asking every node", asked).await;
    let told = told(members, answers);
    let exit = if told.failed.is_empty() { Exit::Ok } else { Exit::Unavailable };
    if app.out.json {
        app.out.json(&json!({"nodes": shown(&told), "unreachable": told.unreachable()}))?;
        return Ok(exit);
    }
    app.out.table(&table(&told, true))?;
    let dirty: u64 =
        told.nodes.iter().filter_map(|(_, answer)| answer["dirty_partitions"].as_u64()).sum();
    let filling: u64 =
        told.nodes.iter().filter_map(|(_, answer)| answer["partitions_not_ready"].as_u64()).sum();
    app.out.line("")?;
    app.out.line(&format!(
        "{} due for comparison, {} still to fill",
        count(dirty, "partition"),
        count(filling, "partition")
    ))?;
    tell_failed(app, &told);
    Ok(exit)
}

async fn compare_now(app: &App, partition: Option<u16>) -> Done<Exit> {
    let within_ms = app.nodes.timeout_ms.unwrap_or(RUN_MS);
    let told = patiently("comparing replicas", compare(app, partition, within_ms)).await?;
    let exit = match (told.is_complete(), told.failed.is_empty()) {
        (true, _) => Exit::Ok,
        (false, true) => Exit::Failed,
        (false, false) => Exit::Unavailable,
    };
    if app.out.json {
        app.out.json(&json!({
            "nodes": shown(&told),
            "unreachable": told.unreachable(),
            "complete": told.is_complete(),
            "keys_repaired": told.repaired(),
        }))?;
        return Ok(exit);
    }
    app.out.table(&table(&told, false))?;
    app.out.line("")?;
    app.out.line(&match (told.is_complete(), told.differing()) {
        (false, _) => {
            "not everything could be compared: a node is down, busy or filling".to_owned()
        }
        (true, 0) => "all replicas are equal".to_owned(),
        (true, _) => format!("{} differed and were repaired", count(told.repaired(), "key")),
    })?;
    tell_failed(app, &told);
    Ok(exit)
}

fn shown(told: &Told) -> Vec<Value> {
    let node = |(member, answer): &(Member, Value)| {
        let mut shown = answer.clone();
        shown["node"] = json!(member.name);
        shown
    };
    told.nodes.iter().map(node).collect()
}

fn table(told: &Told, with_age: bool) -> Table {
    let when = if with_age { "#ago" } else { "#took" };
    let headings =
        ["node", "with", when, "#partitions", "#differing", "#keys repaired", "#bytes", "outcome"];
    let mut table = Table::new(&headings);
    for (member, round) in told.rounds() {
        let number = |name: &str| round[name].as_u64();
        let outcome = round["outcome"].as_str().unwrap_or("?");
        let paint = if outcome == "complete" { Paint::Good } else { Paint::Warn };
        let moved =
            number("bytes_sent").zip(number("bytes_received")).map(|(a, b)| a.saturating_add(b));
        table.row(vec![
            cell(&member.name),
            maybe(round["peer"].as_str()),
            maybe(number(if with_age { "began_ms_ago" } else { "took_ms" }).map(millis)),
            maybe(number("partitions")),
            maybe(number("differing")),
            maybe(number("keys_repaired")),
            maybe(moved.map(bytes)),
            painted(outcome, paint),
        ]);
    }
    table
}

fn tell_failed(app: &App, told: &Told) {
    for (name, why) in &told.failed {
        app.out.note(&format!("note: {name}: {why}"));
    }
}
