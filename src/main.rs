//! The `quorate` command.

use std::io::Write;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Duration;

use clap::{CommandFactory, Parser, Subcommand};
use quorate::cli::ca::Ca;
use quorate::cli::dev::{Dev, NODES_MAX};
use quorate::cli::form::Formed;
use quorate::cli::operator::Ask;
use quorate::cli::temporary::Temporary;
use quorate::cli::{self, form, operator};
use quorate::config::{self, Config, LogConfig, new_key};
use quorate::server::Ended;
use quorate::{log, server};
use tokio_util::sync::CancellationToken;

/// How long the exit waits for pending log lines: a stuck reader must not block it.
const LOG_PATIENCE: Duration = Duration::from_secs(1);
/// How long it waits for blocking work, which cannot be cancelled.
const WORK_PATIENCE: Duration = Duration::from_secs(1);

// Used by RocksDB too, since the library replaces `malloc`. It keeps the memory of a flushed
// memtable for the next one, instead of having the kernel zero fresh pages
// (docs/performance/experiments.md).
#[global_allocator]
static ALLOCATOR: tikv_jemallocator::Jemalloc = tikv_jemallocator::Jemalloc;

/// A leaderless, Dynamo-style quorum key-value store.
///
/// To try it: `quorate dev` in one terminal; in another `quorate put carts/alice '2 apples'`, `quorate
/// get carts/alice`, `quorate status`. For real: one configuration per node (config/node.toml documents
/// every setting), `serve` on each, and `form` once; `scripts/cluster.sh up` does all of it on this
/// machine. Any node takes any request.
#[derive(Parser)]
#[command(name = "quorate", version, after_help = quorate_cli::EXIT_CODES)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Run a node in the foreground until SIGTERM; logs go to standard error. SIGHUP reads
    /// log.level and certificates again.
    Serve {
        /// The node's configuration.
        #[arg(long, value_name = "FILE")]
        config: PathBuf,
    },
    /// Try it out: run a whole cluster in this process, in the foreground, without configuration.
    /// Ctrl-C stops it.
    Dev {
        /// How many nodes.
        #[arg(long, default_value_t = 3, value_parser = node_count())]
        nodes: u16,
        /// The client port of the first node; the others follow, and peers use ports 100 above.
        /// [default: 7401]
        #[arg(long)]
        port: Option<u16>,
        /// Keep the data in this directory, and go on with what is there. Without it, data is
        /// deleted at the end.
        #[arg(long, value_name = "DIR")]
        data: Option<PathBuf>,
        /// Speak TLS alone, on all ports, with certificates that are made in the directory.
        #[arg(long)]
        tls: bool,
        /// Ask every request for a token. One that may do everything is shown.
        #[arg(long)]
        auth: bool,
        /// Stop when standard input ends, too: a program that holds its other end takes the cluster along,
        /// however it ends itself.
        #[arg(long)]
        until_eof: bool,
        /// What to log to standard error: levels, such as info or warn,quorate=debug.
        #[arg(long, default_value = "warn", value_name = "LEVELS")]
        log: String,
    },
    /// Form the cluster, once: wait until every node of the layout answers, then let each record
    /// it. A cluster that was formed before is left unchanged; empty nodes join it by themselves.
    Form {
        /// The configuration of any node.
        #[arg(long, value_name = "FILE")]
        config: PathBuf,
        /// How long to wait for the nodes, in milliseconds.
        #[arg(long, default_value_t = 30_000, value_name = "MS")]
        timeout_ms: u64,
    },
    /// Check a configuration and print its layout.
    CheckConfig {
        /// The configuration to check.
        #[arg(long, value_name = "FILE")]
        config: PathBuf,
    },
    /// Data that nodes have set aside or lost: rows of a node that came back too old, partitions
    /// that lost all their replicas. After a restore of the whole cluster from backups, `accept`
    /// brings it back.
    Distrusted {
        /// What to do, on every node of the cluster.
        #[command(subcommand)]
        what: Distrusted,
    },
    /// Print a new random key for `cluster_keys`.
    Keygen,
    /// Certificates for TLS: make an authority, and what it signs for nodes and clients.
    Ca {
        #[command(subcommand)]
        what: Ca,
        /// Print JSON for programs.
        #[arg(long, global = true)]
        json: bool,
    },
    #[command(flatten)]
    Client(Box<quorate_cli::Command>),
}

#[derive(Subcommand)]
enum Distrusted {
    /// Show what is distrusted and why, with the keys that the cluster does not know.
    List(AnyNode),
    /// Accept it as current and serve it. Keys that may have been deleted since are listed in a
    /// file in each node's data directory.
    Accept(AnyNode),
    /// Delete it permanently.
    Discard(AnyNode),
}

#[derive(clap::Args)]
struct AnyNode {
    /// The configuration of any running node.
    #[arg(long, value_name = "FILE")]
    config: PathBuf,
}

fn node_count() -> clap::builder::RangedI64ValueParser<u16> {
    clap::value_parser!(u16).range(1..=i64::from(NODES_MAX))
}

fn main() -> ExitCode {
    let cli = Cli::parse();
    if let Command::Client(command) = &cli.command {
        // For the client of object stores, which finds it there; only a second one would be refused.
        drop(rustls::crypto::ring::default_provider().install_default());
        let node = quorate_cli::NodeCode {
            load: &cli::node_file::load,
            sign: &cli::node_file::sign,
            recover: &cli::recover::run,
            restore: quorate_cli::RestoreCode {
                name: &cli::restore::name,
                begin: &cli::restore::begin,
                finish: &cli::restore::finish,
                give_up: &cli::restore::give_up,
            },
        };
        return quorate_cli::run(command, Cli::command(), node);
    }
    match run(cli) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            say(&mut std::io::stderr(), &format!("quorate: {error}"));
            ExitCode::FAILURE
        }
    }
}

fn run(cli: Cli) -> Result<(), Box<dyn std::error::Error>> {
    match cli.command {
        Command::Serve { config } => serve(&config)?,
        Command::Dev { nodes, port, data, tls, auth, until_eof, log } => {
            dev(&Dev { nodes, port, data, tls, auth }, until_eof, log)?
        }
        Command::Form { config, timeout_ms } => {
            let config = load_and_warn(&config)?;
            let formed = form::form(&config, Duration::from_millis(timeout_ms));
            let nodes = config.layout_nodes().len();
            match runtime(1)?.block_on(formed)? {
                Formed::Now => {
                    say(&mut std::io::stdout(), &format!("formed a cluster of {nodes} nodes"))
                }
                Formed::Before => say(&mut std::io::stdout(), "the cluster was formed before"),
            }
        }
        Command::CheckConfig { config } => {
            let config = load_and_warn(&config)?;
            let place = match &config.layout {
                Some(_) => format!("{:?}", config.layout()?),
                None => format!("the cluster {:?}, which it joins", config.cluster_id),
            };
            let oddities = config::oddities(&config);
            if !oddities.is_empty() {
                return Err(oddities.join("\nquorate: ").into());
            }
            let text = format!("node {} of {place}: the configuration is valid", config.node);
            say(&mut std::io::stdout(), &text);
        }
        Command::Distrusted { what } => {
            let (any, ask) = match &what {
                Distrusted::List(any) => (any, Ask::List),
                Distrusted::Accept(any) => (any, Ask::Accept),
                Distrusted::Discard(any) => (any, Ask::Discard),
            };
            let config = config::load(&any.config)?;
            let text = runtime(1)?.block_on(operator::distrusted(&config, ask))?;
            say(&mut std::io::stdout(), text.trim_end());
        }
        Command::Ca { what, json } => {
            let text = cli::ca::run(&what, json)?;
            say(&mut std::io::stdout(), text.trim_end());
        }
        Command::Keygen => say(&mut std::io::stdout(), &new_key()),
        Command::Client(_) => {} // runs in `main`, with exit codes of its own
    }
    Ok(())
}

/// Runs a node. Once logging has started, all its output goes to the log.
fn serve(path: &Path) -> Result<(), Box<dyn std::error::Error>> {
    let config = config::load(path)?;
    let levels = log::start(&config.log)?;
    stop_on_panic();
    use_small_pages();
    for name in config.foreign_variables() {
        tracing::warn!(name, "ignored an environment variable that is not a setting");
    }
    for oddity in config::oddities(&config).into_iter().chain(config::openness(path)) {
        tracing::warn!("{oddity}");
    }
    let path = path.to_owned();
    let reload = move || reload(&path, &levels);
    let runtime = runtime(config.worker_threads)?;
    let ended = runtime.block_on(server::serve(config, reload));
    runtime.shutdown_timeout(WORK_PATIENCE);
    let failed = match ended {
        Ok(Ended::Stopped) => None,
        Ok(Ended::StartOver) => {
            log::flush(LOG_PATIENCE); // the new process starts a log of its own
            Some(start_over().to_string())
        }
        Ok(Ended::BesideTwin) => {
            Some("another process runs under this node's name; see the log".to_owned())
        }
        Err(error) => Some(error.to_string()),
    };
    if let Some(error) = &failed {
        log::line(&format!("quorate: {error}"));
    }
    log::flush(LOG_PATIENCE);
    if failed.is_some() {
        std::process::exit(1); // already logged, where a stuck reader cannot block the exit
    }
    Ok(())
}

/// Runs a cluster to try out.
fn dev(dev: &Dev, until_eof: bool, level: String) -> Result<(), Box<dyn std::error::Error>> {
    log::start(&LogConfig { level, ..LogConfig::default() })?;
    stop_on_panic();
    let temporary = match dev.data {
        Some(_) => None,
        None => Some(Temporary::new(&std::env::temp_dir())?),
    };
    let dir = match (&temporary, &dev.data) {
        (None, Some(kept)) => {
            let named = |error| format!("{}: {error}", kept.display());
            std::fs::create_dir_all(kept).map_err(named)?;
            kept.canonicalize().map_err(named)? // it will be started from elsewhere, too
        }
        (Some(temporary), _) => temporary.path().to_owned(),
        (None, None) => std::env::temp_dir(),
    };
    let runtime = runtime(0)?;
    let ended = runtime.block_on(async {
        let requests = server::handle_signals(|| {})?;
        if until_eof {
            stop_at_eof(requests.stop.clone())?;
        }
        cli::dev::run(dev, &dir, &requests, &mut std::io::stdout()).await?;
        Ok(())
    });
    runtime.shutdown_timeout(WORK_PATIENCE);
    log::flush(LOG_PATIENCE);
    ended
}

/// Asks for a stop when standard input ends. On a thread that nobody waits for: reading cannot be cancelled.
fn stop_at_eof(stop: CancellationToken) -> std::io::Result<()> {
    let watching = move || {
        drop(std::io::copy(&mut std::io::stdin(), &mut std::io::sink()));
        stop.cancel();
    };
    std::thread::Builder::new().name("eof".to_owned()).spawn(watching).map(drop)
}

/// Applies the settings that can change while a node runs.
fn reload(path: &Path, levels: &log::Levels) {
    match config::load(path) {
        Ok(config) => match levels.set(&config.log.level) {
            Ok(()) => {
                let level = config.log.level;
                tracing::info!(
                    level,
                    "log.level reloaded, and certificates if they have changed; all other settings take a \
                     restart"
                );
            }
            Err(error) => tracing::error!(error, "log.level stays as it was"),
        },
        Err(error) => {
            tracing::error!(%error, "the configuration cannot be read; all stays as it was")
        }
    }
}

/// Loads a configuration, and reports environment variables that match no setting.
fn load_and_warn(path: &Path) -> Result<Config, Box<dyn std::error::Error>> {
    let config = config::load(path)?;
    for name in config.foreign_variables() {
        let text = format!("quorate: the environment variable {name} is not a setting; ignored");
        say(&mut std::io::stderr(), &text);
    }
    Ok(config)
}

/// Maps memory in small pages. Zeroing a huge page takes the kernel milliseconds in the middle of a
/// request; throughput was the same.
fn use_small_pages() {
    #[cfg(target_os = "linux")]
    if let Err(error) = rustix::thread::disable_transparent_huge_pages(true) {
        tracing::debug!(%error, "could not disable huge pages");
    }
}

/// Replaces this process with a new one of the same command. Returns only on failure, with the
/// error.
fn start_over() -> std::io::Error {
    match std::env::current_exe() {
        Ok(program) => std::process::Command::new(program).args(std::env::args_os().skip(1)).exec(),
        Err(error) => error,
    }
}

/// A runtime with this many worker threads, one per core if 0.
fn runtime(worker_threads: usize) -> std::io::Result<tokio::runtime::Runtime> {
    let mut builder = tokio::runtime::Builder::new_multi_thread();
    if worker_threads > 0 {
        builder.worker_threads(worker_threads);
    }
    builder.enable_all().build()
}

/// A panic means a broken invariant, and aborts the process: a node that is wrong about its own
/// state must not go on answering. The panic is logged first, unless that takes too long.
fn stop_on_panic() {
    std::panic::set_hook(Box::new(move |panic| {
        let thread = std::thread::current();
        let thread = thread.name().unwrap_or_default();
        tracing::error!(thread, %panic, "broken invariant; the process aborts");
        let trace = std::backtrace::Backtrace::capture();
        if trace.status() == std::backtrace::BacktraceStatus::Captured {
            log::line(&trace.to_string());
        }
        log::flush(LOG_PATIENCE);
        std::process::abort();
    }));
}

/// A closed pipe is not an error.
fn say(out: &mut dyn Write, text: &str) {
    drop(writeln!(out, "{text}"));
}
