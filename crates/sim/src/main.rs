//! `quorate-sim`: runs seeds of the simulator and prints how to reproduce the first failure, or plays a
//! hand-made history.

use std::io::{IsTerminal, Write};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use clap::{Parser, ValueEnum};
use quorate_protocol::mutation::{COMPILED_IN, Mutation};
use quorate_sim::histories::{HISTORIES, History};
use quorate_sim::run::Run;
use quorate_sim::seeds::{Report, SeedRange};
use quorate_sim::{Case, Focus};

/// A progress line is shown only if the run takes longer than this.
const PROGRESS_AFTER: Duration = Duration::from_secs(2);

/// How many seeds are explored before the time is looked at.
const EXPLORED_TOGETHER: u64 = 256;

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
    /// Draw only runs about this: few faults, at a pace at which they meet.
    #[arg(long, value_name = "WHAT", conflicts_with = "replay")]
    focus: Option<Focus>,
    /// Switch on a deliberate bug in the nodes: the run must fail. Needs a build with them:
    /// --features mutations.
    #[arg(long, alias = "plant", value_name = "NAME")]
    mutation: Option<Mutation>,
    /// List the deliberate bugs that can be switched on.
    #[arg(long, alias = "plants")]
    mutations: bool,
    /// Explore new seeds for so many minutes; a case that breaks a promise is made smaller and written
    /// to a file.
    #[arg(long, conflicts_with_all = ["seeds", "trace", "replay"])]
    minutes: Option<u64>,
    /// Run a case from such a file, and print every event.
    #[arg(long, value_name = "FILE", conflicts_with_all = ["seeds", "seed", "trace"])]
    replay: Option<PathBuf>,
    /// Play a hand-made history, and print every event.
    #[arg(long, value_name = "NAME", value_parser = history_named)]
    #[arg(conflicts_with_all = ["seeds", "seed", "trace", "focus", "minutes", "replay"])]
    history: Option<&'static History>,
    /// List the hand-made histories, and the deliberate bugs that each finds.
    #[arg(long)]
    histories: bool,
    /// Print what the nodes log too, to stderr.
    #[arg(long, conflicts_with = "seeds")]
    log: bool,
    /// Threads; 0 means one per core. The result does not depend on it.
    #[arg(long, default_value_t = 0)]
    threads: usize,
}

impl Arguments {
    fn threads(&self) -> usize {
        match self.threads {
            0 => std::thread::available_parallelism().map_or(1, usize::from),
            threads => threads,
        }
    }
}

fn history_named(name: &str) -> Result<&'static History, &'static str> {
    History::named(name).ok_or("not the name of a history; --histories lists them")
}

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    if arguments.log {
        let log =
            tracing_subscriber::fmt().with_writer(std::io::stderr).with_ansi(false).without_time();
        log.with_max_level(tracing_subscriber::filter::LevelFilter::DEBUG).init();
    }
    let mut out = std::io::stdout().lock();
    let done = if arguments.mutation.is_some() && !COMPILED_IN {
        refuse_mutations(&mut out)
    } else if arguments.mutations {
        list_mutations(&mut out)
    } else if arguments.histories {
        list_histories(&mut out)
    } else if let Some(history) = arguments.history {
        print_trace(history.name, history.run(arguments.mutation, true), &mut out)
    } else if let Some(minutes) = arguments.minutes {
        explore(&arguments, minutes, &mut out)
    } else if let Some(file) = &arguments.replay {
        replay(file, arguments.mutation, &mut out)
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
    for mutation in Mutation::ALL {
        writeln!(out, "{:<28} {}", mutation.name(), mutation.what())?;
    }
    Ok(ExitCode::SUCCESS)
}

fn list_histories(out: &mut impl Write) -> std::io::Result<ExitCode> {
    for history in HISTORIES {
        let finds: Vec<&str> = history.finds.iter().map(|(mutation, _)| mutation.name()).collect();
        writeln!(out, "{:<28} {} ({})", history.name, history.about, finds.join(", "))?;
    }
    Ok(ExitCode::SUCCESS)
}

fn refuse_mutations(out: &mut impl Write) -> std::io::Result<ExitCode> {
    writeln!(
        out,
        "this build has no deliberate bugs in its nodes; build it with them:\n\
         cargo run -p quorate-sim --release --features mutations -- --mutation NAME --seeds 300"
    )?;
    Ok(ExitCode::FAILURE)
}

fn trace(arguments: &Arguments, out: &mut impl Write) -> std::io::Result<ExitCode> {
    print_trace(
        &format!("seed {}", arguments.seed),
        Case::draw(arguments.seed, arguments.focus).run(arguments.mutation, true),
        out,
    )
}

/// Runs the case in a file.
fn replay(
    file: &Path,
    mutation: Option<Mutation>,
    out: &mut impl Write,
) -> std::io::Result<ExitCode> {
    let case = match Case::parse(&std::fs::read_to_string(file)?) {
        Ok(case) => case,
        Err(error) => {
            writeln!(out, "{}: {error}", file.display())?;
            return Ok(ExitCode::FAILURE);
        }
    };
    print_trace(&file.display().to_string(), case.run(mutation, true), out)
}

/// Runs seeds that were never run, until one breaks a promise or the time is over.
fn explore(arguments: &Arguments, minutes: u64, out: &mut impl Write) -> std::io::Result<ExitCode> {
    let begun = Instant::now();
    // Every exploration begins elsewhere; the seed that fails is printed.
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    let (mut first, mut done) = (since.as_micros() as u64, 0);
    while begun.elapsed() < Duration::from_secs(60 * minutes) {
        let threads = arguments.threads();
        let (focus, mutation) = (arguments.focus, arguments.mutation);
        let range = SeedRange { first, count: EXPLORED_TOGETHER, focus, mutation, threads };
        let report = range.run(|_| {});
        done += report.seeds;
        first += EXPLORED_TOGETHER;
        let (seconds, left) = (begun.elapsed().as_secs(), minutes * 60);
        writeln!(std::io::stderr(), "{done} seeds clean, {seconds} of {left} s")?;
        let Some((seed, violation)) = report.failure else { continue };
        writeln!(out, "seed {seed} BROKEN {violation}")?;
        let file = format!("simulated-failure-{seed}.json");
        std::fs::write(&file, Case::draw(seed, focus).shrink(mutation).text())?;
        writeln!(out, "the smallest case found: quorate-sim --replay {file}")?;
        return Ok(ExitCode::FAILURE);
    }
    writeln!(out, "{done} seeds clean")?;
    Ok(ExitCode::SUCCESS)
}

fn print_trace(what: &str, run: Run, out: &mut impl Write) -> std::io::Result<ExitCode> {
    for line in &run.lines {
        writeln!(out, "{line}")?;
    }
    writeln!(out, "{what}: {} events, hash {:016x}", run.events, run.hash)?;
    match run.violation {
        None => Ok(ExitCode::SUCCESS),
        Some(violation) => {
            writeln!(out, "BROKEN {violation}")?;
            Ok(ExitCode::FAILURE)
        }
    }
}

fn run_seeds(arguments: &Arguments, out: &mut impl Write) -> std::io::Result<ExitCode> {
    let range = SeedRange {
        first: arguments.seed,
        count: arguments.seeds,
        focus: arguments.focus,
        mutation: arguments.mutation,
        threads: arguments.threads(),
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
            let (features, mutation) = match arguments.mutation {
                Some(mutation) => {
                    (" --features mutations", format!(" --mutation {}", mutation.name()))
                }
                None => ("", String::new()),
            };
            let focus = arguments.focus.and_then(|focus| focus.to_possible_value());
            let focus = focus.map(|focus| format!(" --focus {}", focus.get_name()));
            let focus = focus.unwrap_or_default();
            let run = format!("--seed {seed}{focus}{mutation} --trace");
            writeln!(out, "reproduce: cargo run -p quorate-sim --release{features} -- {run}")?;
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
