//! `quorate backup` and `quorate restore`: backups of a whole cluster in a directory or an S3-compatible
//! store.
//!
//! `place` is where they are kept (`s3` if it is a bucket), `catalog` what is there and how it is laid out,
//! `lock` keeps two commands from working there at once. `make` walks the nodes (`nodes`), `copy` fetches
//! their files (with `uploads` of the long ones), `keep` verifies and deletes, `restore` brings a node's
//! copy back with the node's own code.

mod catalog;
mod copy;
mod keep;
mod lock;
mod make;
mod manifest;
mod nodes;
mod place;
pub(crate) mod restore;
mod s3;
mod uploads;

use std::future::Future;

use tokio::signal::unix::{SignalKind, signal};

use self::catalog::Catalog;
use self::place::Place;
use crate::app::App;
use crate::args::Common;
use crate::exit::{Done, Exit, Failure};

/// Back up the whole cluster into a directory or an S3-compatible store, without a pause.
#[derive(Clone, Debug, clap::Args)]
#[command(after_help = "Examples:
  quorate backup --to /backups/prod
  quorate backup --to /backups/prod --keep 7
  AWS_ENDPOINT_URL=https://s3.example.org quorate backup --to s3://backups/prod
  quorate backup list --to /backups/prod
  quorate backup verify --to /backups/prod

Every node makes a copy of its store (hard links), which is then fetched. Files that are there already are
not fetched again: tables never change, so that a second backup copies what is new. Everything that was
acknowledged before the first copy began is in the backup; what was written until the last one ended may be.
A backup is one once its manifest is written, which comes last; what was interrupted is none, and `list` says
so.

A bucket must exist; credentials, region and endpoint are those of the environment: AWS_ACCESS_KEY_ID,
AWS_SECRET_ACCESS_KEY, AWS_REGION, AWS_ENDPOINT_URL; plain HTTP needs AWS_ALLOW_HTTP=true.

Where nodes check tokens, the token (QUORATE_TOKEN) needs admin:backup and look; --operator FILE signs every
request instead, however long the backup takes.

Exits with 5 if a node does not answer. JSON: name, began_at, ended_at, nodes, missing, files,
bytes, copied_files, copied_bytes.")]
#[command(args_conflicts_with_subcommands = false)]
pub struct Args {
    #[command(subcommand)]
    what: Option<What>,
    /// Where backups are kept: a directory, file:///DIR, or s3://BUCKET/PREFIX
    #[arg(long, value_name = "PLACE", global = true)]
    to: Option<String>,
    /// What to call it: 1 to 64 of a-z 0-9 - [default: the time]
    #[arg(long)]
    name: Option<String>,
    /// Afterwards delete all but this many of the newest backups
    #[arg(long, value_name = "COUNT", value_parser = clap::value_parser!(u32).range(1..))]
    keep: Option<u32>,
    /// Go on without this node if it does not answer; may be repeated
    #[arg(long, value_name = "NODE")]
    allow_missing: Vec<String>,
    /// Take the place over from a command that has died
    #[arg(long, global = true)]
    break_lock: bool,
    #[command(flatten)]
    pub(crate) common: Common,
}

#[derive(Clone, Debug, clap::Subcommand)]
enum What {
    /// The backups that are there, oldest first
    List,
    /// Read a backup as a whole and compare it with its manifest
    Verify {
        /// Which one [default: the newest]
        name: Option<String>,
    },
    /// Delete a backup, and the files that no other one needs
    Delete {
        /// Which one
        name: String,
    },
    /// Delete all but the newest backups, and files that none needs
    Prune {
        /// How many to keep
        #[arg(long, value_name = "COUNT", value_parser = clap::value_parser!(u32).range(1..))]
        keep: u32,
    },
}

/// Runs the command.
pub(crate) async fn run(app: &App, args: &Args) -> Done<Exit> {
    let Some(to) = &args.to else {
        return Err(Failure::usage("--to is missing: where are the backups kept?").into());
    };
    let catalog = Catalog::new(Place::parse(to, args.what.is_none())?);
    let break_lock = args.break_lock;
    match &args.what {
        None => {
            let wanted = make::Wanted {
                name: args.name.clone(),
                keep: args.keep.map(|keep| keep as usize),
                allow_missing: &args.allow_missing,
                break_lock,
            };
            make::run(app, &catalog, wanted).await
        }
        Some(What::List) => keep::list(app, &catalog).await,
        Some(What::Verify { name }) => {
            interruptible(keep::verify(app, &catalog, name.as_deref())).await
        }
        Some(What::Delete { name }) => keep::delete(app, &catalog, name, break_lock).await,
        Some(What::Prune { keep }) => keep::prune(app, &catalog, *keep as usize, break_lock).await,
    }
}

/// Work that ends early at Ctrl-C or SIGTERM, so that what comes after it can tidy up.
async fn interruptible<T>(work: impl Future<Output = Done<T>>) -> Done<T> {
    let signal = |kind| signal(kind).map_err(|error| Failure::new(Exit::Failed, error.to_string()));
    let (mut by_user, mut by_other) =
        (signal(SignalKind::interrupt())?, signal(SignalKind::terminate())?);
    tokio::select! {
        done = work => return done,
        _ = by_user.recv() => {}
        _ = by_other.recv() => {}
    }
    Err(Failure::new(Exit::Failed, "interrupted").into())
}
