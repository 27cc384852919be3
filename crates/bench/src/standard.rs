//! `standard`: the project's standard figures. PUT and GET of 1 KiB values over 64 connections,
//! each on the ceiling and then on the cluster, in one run; then both over one connection to an
//! idle cluster. One table, with ratios to the ceiling.

use std::io::{BufRead, BufReader};
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};

use crate::load;
use crate::plan::{self, Op};
use crate::report;
use crate::summary::Summary;
use crate::{Outcome, plot};

/// How long the single connection is measured, relative to the rest.
const ALONE_SHARE: f64 = 0.4;

/// Measure the standard figures of a cluster, and of the ceiling.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// Everything except the operation, which is PUT and then GET.
    #[command(flatten)]
    load: plan::Args,
    /// Do not measure the ceiling.
    #[arg(long)]
    no_ceiling: bool,
    /// Leave out the single connection.
    #[arg(long)]
    no_alone: bool,
}

/// Runs the command.
///
/// # Errors
/// What kept it from measuring.
pub(crate) async fn run(args: Args) -> Result<Outcome, String> {
    let mut summaries = Vec::new();
    let seconds = args.load.seconds * ALONE_SHARE;
    // The values that were stored for the GETs are still there for this one.
    let alone = plan::Args { seconds, connections: 1, skip_preload: true, ..args.load.clone() };
    for load in [Some(&args.load), (!args.no_alone).then_some(&alone)].into_iter().flatten() {
        for op in [Op::Put, Op::Get] {
            if !args.no_ceiling {
                summaries.push(measure_ceiling(op, load).await?);
            }
            summaries.push(load::measure(plan::Args { op, ..load.clone() }).await?);
        }
    }
    if let Some(path) = &args.load.svg {
        plot::write(path, &summaries)?;
    }
    Ok(Outcome { report: report::text(&summaries), good: summaries.iter().all(Summary::good) })
}

/// Measures a separate ceiling for this load.
async fn measure_ceiling(op: Op, load: &plan::Args) -> Result<Summary, String> {
    let ceiling = Ceiling::start(load.value_bytes.max())?;
    let of_ceiling = plan::Args {
        op,
        nodes: vec![format!("http://{}", ceiling.addr)],
        pids: vec![ceiling.child.id()],
        name: report::CEILING.to_string(),
        any_value: true,
        ..load.clone()
    };
    load::measure(of_ceiling).await
}

/// The ceiling server in a separate process, which ends when this value is dropped.
struct Ceiling {
    child: Child,
    addr: String,
}

impl Ceiling {
    fn start(value_bytes: usize) -> Result<Self, String> {
        let describe = |error: std::io::Error| format!("cannot start the ceiling server: {error}");
        let program: PathBuf = std::env::current_exe().map_err(describe)?;
        let mut child = Command::new(program)
            .args(["ceiling-server", "--value-bytes", &value_bytes.to_string()])
            .stdout(Stdio::piped())
            .spawn()
            .map_err(describe)?;
        let mut line = String::new();
        let read = match child.stdout.take() {
            Some(stdout) => BufReader::new(stdout).read_line(&mut line),
            None => Ok(0),
        };
        let ceiling = Ceiling { child, addr: line.trim().to_string() };
        match read.map_err(describe)? {
            0 => Err("cannot start the ceiling server: it printed no address".to_string()),
            _ => Ok(ceiling),
        }
    }
}

impl Drop for Ceiling {
    fn drop(&mut self) {
        // If these fail, it has ended already.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
