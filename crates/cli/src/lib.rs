//! The commands of `quorate` that talk to a running cluster, over HTTP like any client.
//!
//! [`Command`] is flattened into the binary's own commands, so that there is one `quorate`. The
//! modules, from the bottom up:
//! * `quorate-client` sends requests; `nodes` chooses whom to ask and finds the other nodes;
//!   `refusal` says what a failed request means here;
//! * `out`, `table`, `progress` show things; `session` remembers contexts; `metrics` reads numbers;
//!   `lifetime` reads and tells how long values live; `lines` reads files line by line;
//! * `data` has the commands on keys, `cluster` those on the cluster, `tree` loads directories,
//!   `transfer` imports and exports, `backup` makes backups and restores them, `explain` shows traces.

mod app;
mod args;
mod backup;
mod cluster;
mod data;
mod exit;
mod explain;
mod generate;
mod lifetime;
mod lines;
mod metrics;
mod nodes;
mod out;
mod progress;
mod refusal;
mod security;
mod session;
mod table;
mod transfer;
mod tree;

use std::process::ExitCode;

use self::app::App;
pub use self::backup::restore::{Chosen, Restore, RestoreCode};
pub use self::cluster::doctor::{LoadFile, NodeFile};
pub use self::cluster::layout::recover::{Confirm, Recover, RecoverDisk};
use self::exit::{Done, Failure, Stop};
pub use self::exit::{EXIT_CODES, Exit};
pub use self::nodes::{MakeToken, Operator, SignAsOperator};
use self::out::{Out, note};

// The commands of this crate. No doc comment: it would become the description of the whole program.
#[allow(missing_docs, reason = "each command is documented at its arguments, for --help")]
#[derive(Clone, Debug, clap::Subcommand)]
pub enum Command {
    Get(data::get::Args),
    Put(data::put::Args),
    Delete(data::delete::Args),
    Keys(data::keys::Args),
    Index(data::index::Args),
    Feed(data::feed::Args),
    Siblings(data::siblings::Args),
    Resolve(data::resolve::Args),
    Typed(data::typed::Args),
    Batch(data::batch::Args),
    Explain(explain::Args),
    Load(tree::load::Load),
    Verify(tree::load::Verify),
    Export(transfer::export::Args),
    Import(transfer::import::Args),
    Backup(backup::Args),
    /// Bring a node's copy back from a backup: run on the node, which is stopped
    Restore(backup::restore::Restore),
    Status(cluster::status::Args),
    Top(cluster::top::Args),
    Ring(cluster::ring::Ring),
    Locate(cluster::ring::Locate),
    Layout(cluster::layout::Args),
    Hints(cluster::hints::Args),
    AntiEntropy(cluster::anti_entropy::Args),
    Jobs(cluster::jobs::Args),
    Bucket(cluster::bucket::Args),
    Token(cluster::token::Args),
    Wait(cluster::wait::Args),
    Doctor(cluster::doctor::Args),
    Healthcheck(cluster::healthcheck::Args),
    Completions(generate::Completions),
    Man(generate::Man),
}

/// What commands need of the node's own code, which this crate does not know.
#[derive(Clone, Copy)]
pub struct NodeCode<'a> {
    /// Reads a node's configuration.
    pub load: LoadFile<'a>,
    /// Signs as the operator, with a node's configuration.
    pub sign: SignAsOperator<'a>,
    /// Recovers the data directory of a node that is stopped.
    pub recover: RecoverDisk<'a>,
    /// Restores the data directory of a node that is stopped.
    pub restore: RestoreCode<'a>,
}

/// Runs a command to its end. Failures are told on standard error; a closed pipe is none.
///
/// `program` is the whole command line of the binary, for completions and manual pages; `node` is what it has
/// of the node.
pub fn run(command: &Command, program: clap::Command, node: NodeCode<'_>) -> ExitCode {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let ended = match runtime {
        Ok(runtime) => {
            let ended = runtime.block_on(carry_out(command, program, node));
            // A read of standard input cannot be cancelled, and must not block the end.
            runtime.shutdown_background();
            ended
        }
        Err(error) => Err(Failure::new(Exit::Failed, format!("cannot start: {error}")).into()),
    };
    let exit = match ended {
        Ok(exit) => exit,
        Err(Stop::ClosedPipe) => Exit::Ok,
        Err(Stop::Failed(failure)) => {
            tell(&failure, command.common().is_some_and(|common| common.json));
            failure.exit
        }
    };
    ExitCode::from(exit as u8)
}

fn tell(failure: &Failure, as_json: bool) {
    if as_json {
        return note(&failure.json().to_string());
    }
    note(&format!("quorate: {}", failure.message));
    if let Some(advice) = &failure.advice {
        note(&format!("  → {advice}"));
    }
}

impl Command {
    fn common(&self) -> Option<&args::Common> {
        Some(match self {
            Self::Get(args) => &args.common,
            Self::Put(args) => &args.common,
            Self::Delete(args) => &args.common,
            Self::Keys(args) => &args.common,
            Self::Index(args) => &args.common,
            Self::Feed(args) => &args.common,
            Self::Siblings(args) => &args.common,
            Self::Resolve(args) => &args.common,
            Self::Typed(args) => &args.common,
            Self::Batch(args) => &args.common,
            Self::Explain(args) => &args.common,
            Self::Load(args) => &args.common,
            Self::Verify(args) => &args.common,
            Self::Export(args) => &args.common,
            Self::Import(args) => &args.common,
            Self::Backup(args) => &args.common,
            Self::Status(args) => &args.common,
            Self::Top(args) => &args.common,
            Self::Ring(args) => &args.common,
            Self::Locate(args) => &args.common,
            Self::Layout(args) => &args.common,
            Self::Hints(args) => &args.common,
            Self::AntiEntropy(args) => &args.common,
            Self::Jobs(args) => &args.common,
            Self::Bucket(args) => &args.common,
            Self::Token(args) => &args.common,
            Self::Wait(args) => &args.common,
            Self::Doctor(args) => &args.common,
            Self::Healthcheck(args) => &args.common,
            Self::Completions(_) | Self::Man(_) | Self::Restore(_) => return None,
        })
    }
}

async fn carry_out(command: &Command, program: clap::Command, node: NodeCode<'_>) -> Done<Exit> {
    let app = || match command.common() {
        Some(common) => App::new(common, node.sign),
        None => Err(Failure::usage("this command asks no node").into()),
    };
    match command {
        Command::Get(args) => data::get::run(&app()?, args).await,
        Command::Put(args) => data::put::run(&app()?, args).await,
        Command::Delete(args) => data::delete::run(&app()?, args).await,
        Command::Keys(args) => data::keys::run(&app()?, args).await,
        Command::Index(args) => data::index::run(&app()?, args).await,
        Command::Feed(args) => data::feed::run(&app()?, args).await,
        Command::Siblings(args) => data::siblings::run(&app()?, args).await,
        Command::Resolve(args) => data::resolve::run(&app()?, args).await,
        Command::Typed(args) => data::typed::run(&app()?, args).await,
        Command::Batch(args) => data::batch::run(&app()?, args).await,
        Command::Explain(args) => explain::run(&app()?, args).await,
        Command::Load(args) => tree::load::load(&app()?, args).await,
        Command::Verify(args) => tree::load::verify(&app()?, args).await,
        Command::Export(args) => transfer::export::run(&app()?, args).await,
        Command::Import(args) => transfer::import::run(&app()?, args).await,
        Command::Backup(args) => backup::run(&app()?, args).await,
        Command::Restore(args) => backup::restore::run(args, node.restore).await,
        Command::Status(_) => cluster::status::run(&app()?).await,
        Command::Top(args) => cluster::top::run(&app()?, args).await,
        Command::Ring(_) => cluster::ring::ring(&app()?).await,
        Command::Locate(args) => cluster::ring::locate(&app()?, args).await,
        Command::Layout(args) => cluster::layout::run(&app()?, args, node.recover).await,
        Command::Hints(_) => cluster::hints::run(&app()?).await,
        Command::AntiEntropy(args) => cluster::anti_entropy::run(&app()?, args).await,
        Command::Jobs(args) => cluster::jobs::run(&app()?, args).await,
        Command::Bucket(args) => cluster::bucket::run(&app()?, args).await,
        Command::Token(args) => {
            let app = App::new(&cluster::token::common_of(args), node.sign)?;
            cluster::token::run(&app, args).await
        }
        Command::Wait(args) => cluster::wait::run(&app()?, args).await,
        Command::Doctor(args) => {
            let file = args.config.as_deref().map(node.load);
            let app = App::new(&cluster::doctor::common_of(args, file.as_ref()), node.sign)?;
            cluster::doctor::run(&app, args, file).await
        }
        Command::Healthcheck(args) => cluster::healthcheck::run(&app()?, args).await,
        Command::Completions(args) => generate::completions(&Out::new(false), args, program),
        Command::Man(args) => generate::man(&Out::new(false), args, program),
    }
}
