//! `quorate-bench`: load for a running cluster, and a ceiling to compare it with.
//!
//! It knows the cluster only by its HTTP contract, through a small client of its own ([`http`]):
//! * [`load`] measures PUT, GET and DELETE, checking each answer;
//! * [`batch`] compares single requests with batches;
//! * [`standard`] measures the standard figures, with the [`ceiling`] in the same run;
//! * [`report`] makes a table of saved measurements, and [`plot`] a picture.

mod batch;
mod ceiling;
mod describe;
#[cfg(test)]
mod fake;
mod feed;
mod head;
mod http;
mod key_chooser;
mod key_history;
mod load;
mod path;
mod plan;
mod plot;
mod progress;
mod recorder;
mod report;
mod route;
mod schedule;
mod siblings;
mod slow;
mod standard;
mod summary;
mod targets;
mod usage;
mod value;
mod wait;
mod wire;
mod worker;

use std::future::Future;
use std::io::Write;
use std::process::ExitCode;

use clap::{Parser, Subcommand};

/// Load and measure a Quorate cluster.
#[derive(Debug, Parser)]
#[command(name = "quorate-bench", version, args_override_self = true)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    Run(plan::Args),
    Standard(standard::Args),
    Batch(batch::Args),
    Feed(feed::Args),
    Wait(wait::Args),
    Table(report::Args),
    Plot(plot::Args),
    CeilingServer(ceiling::Args),
}

/// The report of a command, and whether everything was fine.
#[derive(Debug)]
struct Outcome {
    report: String,
    good: bool,
}

fn main() -> ExitCode {
    match run(Cli::parse().command) {
        Ok(outcome) => {
            // A reader that has gone away does not fail the run.
            let _ = write!(std::io::stdout().lock(), "{}", outcome.report);
            if outcome.good { ExitCode::SUCCESS } else { ExitCode::FAILURE }
        }
        Err(error) => {
            eprintln!("quorate-bench: {error}");
            ExitCode::FAILURE
        }
    }
}

fn run(command: Command) -> Result<Outcome, String> {
    // The generator stays on one thread: what it does not spend on waking threads is left to the
    // nodes on the same machine. The ceiling server gets as many threads as the nodes.
    let one = tokio::runtime::Builder::new_current_thread;
    let many = tokio::runtime::Builder::new_multi_thread;
    match command {
        Command::Run(args) => block_on(one(), load::run(args))?,
        Command::Standard(args) => block_on(one(), standard::run(args))?,
        Command::Batch(args) => block_on(one(), batch::run(args))?,
        Command::Feed(args) => block_on(one(), feed::run(args))?,
        Command::Wait(args) => block_on(one(), wait::run(args))?,
        Command::Table(args) => report::run(&args),
        Command::Plot(args) => plot::run(&args),
        Command::CeilingServer(args) => block_on(many(), ceiling::serve(args))?
            .map(|()| Outcome { report: String::new(), good: true }),
    }
}

fn block_on<T>(
    mut builder: tokio::runtime::Builder,
    future: impl Future<Output = T>,
) -> Result<T, String> {
    let runtime = builder.enable_all().build().map_err(|it| format!("cannot start: {it}"))?;
    Ok(runtime.block_on(future))
}
