//! `quorate doctor`: is everything as it should be, and if not, what to do?

mod here;
mod there;

use std::path::{Path, PathBuf};

use serde_json::{Value, json};

use super::look;
use crate::app::{App, patiently};
use crate::args::Common;
use crate::exit::{Done, Exit, Stop};
use crate::table::{Paint, Table, cell, painted};

/// Check a configuration, this machine, and the cluster, and say what to do about what is wrong.
#[derive(Clone, Debug, clap::Args)]
#[command(after_help = "Examples:
  quorate doctor
  quorate doctor --config /etc/quorate/node.toml     # on a node's machine: its file, disk and limits too
  quorate doctor --json | jq '.findings[] | select(.level != \"ok\")'

Checked: the configuration (with --config: all its values, its data disk's sync latency, free space,
the limit of open files, the peers' ports from here); and of the cluster: which nodes answer, whether
they reach each other both ways, clocks, releases, layouts, settings that must be equal, open files,
disks, hints, rows that wait for an operator.

Exits with 0 if nothing is wrong, with 1 if something is; --strict counts warnings too.

JSON: ok, findings (check, level: ok, warning or wrong; what; advice).")]
pub struct Args {
    /// A node's configuration; its client address is asked unless --url says otherwise
    #[arg(long, value_name = "FILE")]
    pub(crate) config: Option<PathBuf>,
    /// Count warnings as failures
    #[arg(long)]
    strict: bool,
    #[command(flatten)]
    pub(crate) common: Common,
}

/// What the node's own code found in a configuration.
#[derive(Clone, Debug, Default)]
pub struct NodeFile {
    /// The node's name.
    pub node: String,
    /// The cluster's name.
    pub cluster_id: String,
    /// Where it listens for clients.
    pub client_addr: String,
    /// Its data directory.
    pub data_dir: PathBuf,
    /// Whether a write is acknowledged only once it is on disk.
    pub waits_for_disk: bool,
    /// The free space below which it takes no writes, in bytes.
    pub disk_free_bytes_min: u64,
    /// The hash of its layout, 16 hexadecimal digits; empty if it has none, as a node that joins.
    pub layout_hash: String,
    /// The other nodes of the layout, or the members that a node asks to join: names and peer addresses.
    pub peers: Vec<(String, String)>,
    /// What is valid, and most often a mistake.
    pub oddities: Vec<String>,
    /// Environment variables with the prefix `QUORATE_` that are no setting.
    pub foreign_variables: Vec<String>,
}

/// How a configuration is loaded: the node's own code does it.
///
/// # Errors
/// What is wrong with it, in words that name the file or the variable.
pub type LoadFile<'a> = &'a dyn Fn(&Path) -> Result<NodeFile, String>;

/// How bad a finding is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Level {
    Ok,
    Warning,
    Wrong,
}

/// What one check found.
#[derive(Clone, Debug)]
pub(super) struct Finding {
    check: &'static str,
    level: Level,
    what: String,
    advice: Option<String>,
}

pub(super) fn ok(check: &'static str, what: impl Into<String>) -> Finding {
    Finding { check, level: Level::Ok, what: what.into(), advice: None }
}

pub(super) fn warning(check: &'static str, what: impl Into<String>, advice: &str) -> Finding {
    Finding { check, level: Level::Warning, what: what.into(), advice: Some(advice.to_owned()) }
}

pub(super) fn wrong(check: &'static str, what: impl Into<String>, advice: &str) -> Finding {
    Finding { check, level: Level::Wrong, what: what.into(), advice: Some(advice.to_owned()) }
}

impl Level {
    fn name(self) -> &'static str {
        match self {
            Self::Ok => "ok",
            Self::Warning => "warning",
            Self::Wrong => "wrong",
        }
    }

    fn paint(self) -> Paint {
        match self {
            Self::Ok => Paint::Good,
            Self::Warning => Paint::Warn,
            Self::Wrong => Paint::Bad,
        }
    }
}

/// The arguments with which the cluster is asked: the node of the configuration, unless an address
/// was given.
pub(crate) fn common_of(args: &Args, file: Option<&Result<NodeFile, String>>) -> Common {
    let mut common = args.common.clone();
    let is_set = std::env::var_os("QUORATE_URL").is_some_and(|value| !value.is_empty());
    if let (None, false, Some(Ok(file))) = (&common.url, is_set, file) {
        let addr = file.client_addr.replace("0.0.0.0:", "127.0.0.1:").replace("[::]:", "[::1]:");
        common.url = Some(addr);
    }
    common
}

/// Runs the command.
pub(crate) async fn run(
    app: &App,
    args: &Args,
    file: Option<Result<NodeFile, String>>,
) -> Done<Exit> {
    let mut findings = Vec::new();
    let file = match file {
        None => None,
        Some(Ok(file)) => {
            findings.extend(patiently("checking this machine", here::check(&file)).await);
            Some(file)
        }
        Some(Err(why)) => {
            let advice = "correct it; config/node.toml documents every setting";
            findings.push(wrong("configuration", crate::out::safe(&why), advice));
            None
        }
    };
    match look::everywhere(app).await {
        Ok(look) => {
            findings.extend(there::check(&look, file.as_ref()));
        }
        Err(Stop::ClosedPipe) => return Err(Stop::ClosedPipe),
        Err(Stop::Failed(failure)) => findings.push(Finding {
            check: "nodes",
            level: Level::Wrong,
            what: failure.message,
            advice: failure.advice,
        }),
    }
    let worst = findings.iter().map(|it| it.level).max().unwrap_or(Level::Ok);
    let bound = if args.strict { Level::Warning } else { Level::Wrong };
    tell(app, &findings)?;
    Ok(if worst >= bound { Exit::Failed } else { Exit::Ok })
}

fn tell(app: &App, findings: &[Finding]) -> Done {
    let at = |level: Level| findings.iter().filter(|it| it.level == level).count() as u64;
    if app.out.json {
        let shown: Vec<Value> = findings
            .iter()
            .map(|it| {
                let level = it.level.name();
                json!({"check": it.check, "level": level, "what": it.what, "advice": it.advice})
            })
            .collect();
        return app.out.json(&json!({"ok": at(Level::Wrong) == 0, "findings": shown}));
    }
    let mut table = Table::new(&["", "check", "finding"]);
    for finding in findings {
        table.row(vec![
            painted(finding.level.name(), finding.level.paint()),
            cell(finding.check),
            cell(&finding.what),
        ]);
        if let Some(advice) = &finding.advice {
            table.row(vec![cell(""), cell(""), cell(format!("→ {advice}"))]);
        }
    }
    app.out.table(&table)?;
    app.out.line("")?;
    app.out.line(&format!("{} wrong, {} to look at", at(Level::Wrong), at(Level::Warning)))
}
