//! `quorate-sim`: runs seeds of the simulator and prints how to reproduce the first failure.

use std::io::{IsTerminal, Write};
use std::process::ExitCode;
use std::time::{Duration, Instant};

use clap::Parser;
use quorate_sim::mutations::{MUTATIONS, Mutation};
use quorate_sim::run::{Nodes, run};
use quorate_sim::seeds::{Report, SeedRange};

/// A progress line is shown only if the run takes longer than this.
const PROGRESS_AFTER: Duration = Duration::from_secs(2);

/// Run simulated clusters of the shipping node from seeds, with faults, and check every promise.
#[derive(Parser)]
#[command(version)]
struct Arguments {
    /// The first seed.
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// How many seeds to run, starting there.
    #[arg(long, default_value_t = 1)]
    seeds: u64,
    /// Print every event of the first seed, and run no other.
    #[arg(long, conflicts_with = "seeds")]
    trace: bool,
    /// Run the simulator's own, smaller reading of the node instead: more seeds in less time.
    #[arg(long)]
    mirror: bool,
    /// Switch on a deliberate bug in the mirror: the run must fail.
    #[arg(long, alias = "plant", value_name = "NAME")]
    mutation: Option<Mutation>,
    /// List the deliberate bugs that can be switched on.
    #[arg(long, alias = "plants")]
    mutations: bool,
    /// Threads; 0 means one per core. The result does not depend on it.
    #[arg(long, default_value_t = 0)]
    threads: usize,
}

impl Arguments {
    fn nodes(&self) -> Nodes {
        match self.mirror || self.mutation.is_some() {
            true => Nodes::Mirror(self.mutation),
            false => Nodes::Shipping,
        }
    }
}

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    let mut out = std::io::stdout().lock();
    let done = if arguments.mutations {
        list_mutations(&mut out)
    } else if arguments.trace {
        trace(&arguments, &mut out)
    } else {
        run_seeds(&arguments, &mut out)
    };
    match done {
        Ok(code) => code,
        // The reader of our output has gone away.
        Err(_) => ExitCode::FAILURE,
    }
}

fn list_mutations(out: &mut impl Write) -> std::io::Result<ExitCode> {
    for (_, name, what) in MUTATIONS {
        writeln!(out, "{name:<28} {what}")?;
    }
    Ok(ExitCode::SUCCESS)
}

fn trace(arguments: &Arguments, out: &mut impl Write) -> std::io::Result<ExitCode> {
    let run = run(arguments.seed, arguments.nodes(), true);
    for line in &run.lines {
        writeln!(out, "{line}")?;
    }
    writeln!(out, "seed {}: {} events, hash {:016x}", arguments.seed, run.events, run.hash)?;
    match run.violation {
        None => Ok(ExitCode::SUCCESS),
        Some(violation) => {
            writeln!(out, "BROKEN {violation}")?;
            Ok(ExitCode::FAILURE)
        }
    }
}

fn run_seeds(arguments: &Arguments, out: &mut impl Write) -> std::io::Result<ExitCode> {
    let threads = match arguments.threads {
        0 => std::thread::available_parallelism().map_or(1, usize::from),
        threads => threads,
    };
    let range = SeedRange {
        first: arguments.seed,
        count: arguments.seeds,
        nodes: arguments.nodes(),
        threads,
    };
    let begun = Instant::now();
    let report = range.run(|seeds| show_progress(begun, seeds, arguments.seeds));
    clear_progress(begun);
    let seconds = begun.elapsed().as_secs_f64();
    let Report { seeds, events, failure } = report;
    let rate = seeds as f64 / seconds.max(0.001);
    match failure {
        None => {
            writeln!(
                out,
                "{seeds} seeds clean, {events} events, {seconds:.1} s, {rate:.0} seeds/s"
            )?;
            Ok(ExitCode::SUCCESS)
        }
        Some((seed, violation)) => {
            writeln!(out, "seed {seed} BROKEN {violation}")?;
            let name =
                MUTATIONS.iter().find(|(mutation, ..)| Some(*mutation) == arguments.mutation);
            let mutation = match name {
                Some((_, name, _)) => format!(" --mutation {name}"),
                None if arguments.mirror => " --mirror".to_owned(),
                None => String::new(),
            };
            writeln!(
                out,
                "reproduce: cargo run -p quorate-sim --release -- --seed {seed} --trace{mutation}"
            )?;
            Ok(ExitCode::FAILURE)
        }
    }
}

fn show_progress(begun: Instant, seeds: u64, count: u64) {
    if begun.elapsed() > PROGRESS_AFTER
        && std::io::stderr().is_terminal()
        && seeds.is_multiple_of(16)
    {
        // Progress is optional: a closed terminal is no reason to stop.
        let _ = write!(std::io::stderr(), "\r{seeds} of {count} seeds");
    }
}

fn clear_progress(begun: Instant) {
    if begun.elapsed() > PROGRESS_AFTER && std::io::stderr().is_terminal() {
        let _ = write!(std::io::stderr(), "\r\x1b[K");
    }
}
