//! `quorate layout`: the members of the cluster, and how they are changed.

mod change;
mod commit;
mod plan;
pub(crate) mod recover;
mod release;
mod show;
mod wait;

use serde_json::Value;

use self::change::Changes;
use self::recover::RecoverDisk;
use crate::app::App;
use crate::args::Common;
use crate::exit::{Done, Exit};
use crate::refusal;

/// Show and change the members of the cluster: add, remove, replace nodes, set zones and weights.
///
/// A change is planned first, which writes nothing and shows what would move. A commit begins it, and the
/// nodes then do it by themselves while the cluster goes on to serve every request. It has ended when
/// `quorate layout wait` says so. Until then it can be given up.
#[derive(Clone, Debug, clap::Args)]
#[command(after_help = "Examples:
  quorate layout show                                  # also who asked to join
  quorate layout plan --add n4                         # what would move
  quorate layout commit --add n4 && quorate layout wait
  quorate layout plan --replace n3=n7 --gone n3 -o plan.json
  quorate layout commit plan.json --accept writes_of_gone_lost
  quorate layout commit --remove n2 --yes
  quorate layout commit --set n1 --weight 2 --yes
  quorate layout abort
  quorate layout history
  quorate layout release n2 --lost                     # it was leaving, and died
  quorate layout recover --config FILE --without n2,n3,n5

Start a node before you add it: it asks to join, `show` lists it, and it serves nothing before it is a
member. Remove a node that is up without --gone: it hands over what it holds, and may be stopped once
`quorate layout wait` returns.")]
pub struct Args {
    #[command(subcommand)]
    what: What,
    #[command(flatten)]
    pub(crate) common: Common,
}

#[derive(Clone, Debug, clap::Subcommand)]
enum What {
    /// The members, the change under way, and who asked to join
    #[command(
        after_help = "JSON: as GET /layout: epoch, hash, phase, partitions, n, members, next, gone, \
                            leaving, progress, waiting."
    )]
    Show,
    /// What some changes would come to; changes nothing
    Plan(Plan),
    /// Begin a change: one that was planned, or that these flags say
    Commit(commit::Commit),
    /// Give up the change under way
    Abort(commit::Abort),
    /// Let a node go that was leaving, and is dead for good
    Release(release::Release),
    /// Go on after a majority of disks was lost: run on each disk that is left, with its node stopped
    Recover(recover::Recover),
    /// The last records of the cluster, newest first
    #[command(
        after_help = "JSON: as GET /layout/history: a list of epoch, hash, phase, members, next, cause."
    )]
    History {
        /// How many
        #[arg(long, value_name = "COUNT", default_value_t = 20,
              value_parser = clap::value_parser!(u16).range(1..=64))]
        limit: u16,
    },
    /// Wait until a change has ended
    Wait(wait::Wait),
}

#[derive(Clone, Debug, clap::Args)]
#[command(after_help = "Examples:
  quorate layout plan --add n4 --zone c --weight 2
  quorate layout plan --add n4 --add n5 --remove n1
  quorate layout plan --replace n3=n7 --gone n3 -o plan.json

Exits with 1 if the change would be refused. JSON: what `commit` takes (base, result, changes, gone,
accept), and plan: moves (replicas, least, bytes_estimate, rows_estimate), load (name, before, after,
fair), warnings, refusals.")]
struct Plan {
    #[command(flatten)]
    changes: Changes,
    /// Write the plan to this file, for `commit`
    #[arg(short, long, value_name = "FILE")]
    output: Option<std::path::PathBuf>,
}

/// Runs the command.
pub(crate) async fn run(app: &App, args: &Args, recover: RecoverDisk<'_>) -> Done<Exit> {
    match &args.what {
        What::Show => show::show(app).await,
        What::Plan(plan) => plan::run(app, &plan.changes, plan.output.as_deref()).await,
        What::Commit(args) => commit::commit(app, args).await,
        What::Abort(args) => commit::abort(app, args).await,
        What::Release(args) => release::run(app, args).await,
        What::Recover(args) => recover::run(app, args, recover),
        What::History { limit } => show::history(app, *limit).await,
        What::Wait(args) => wait::run(app, args).await,
    }
}

/// `GET /layout`, checked.
async fn layout(app: &App) -> Done<Value> {
    let told = app.ask("asking", app.nodes.admin().layout()).await?;
    check(told)
}

fn check(told: Value) -> Done<Value> {
    let sound = told["members"].is_array() && told["hash"].is_string() && told["phase"].is_string();
    if sound { Ok(told) } else { Err(refusal::incomplete("/layout")) }
}
