//! `quorate layout recover`: a cluster goes on after it has lost a majority of its disks. The node's own code
//! does it, on the data directory; no node is asked.

use std::path::PathBuf;

use super::commit::confirm;
use crate::app::App;
use crate::exit::{Done, Exit, Failure};

/// Asks a person, after this text. The error says why nothing is to be done.
pub type Confirm<'a> = &'a dyn Fn(&str) -> Result<(), String>;

/// Recovers a data directory, once that is confirmed. What it returns is for the operator.
pub type RecoverDisk<'a> = &'a dyn Fn(&Recover, Confirm<'_>) -> Result<String, String>;

/// The flags of `quorate layout recover`.
#[derive(Clone, Debug, clap::Args)]
#[command(after_help = "Example, on n1 and n4, what is left of five nodes, both stopped:
  quorate layout recover --config n1.toml --without n2,n3,n5
  quorate layout recover --config n4.toml --without n2,n3,n5 --expect HASH

Only for a cluster that has lost a majority of its disks for good, and can decide nothing any more. Every disk
that is left must come to the same record: compare the epoch and the hash that it prints before you start any
node. If the epochs differ, give the newest record (the file cluster-record in that data directory) to the
others with --record. Lost is what only the lost disks held: writes acknowledged by them alone, and all keys
of partitions that had no copy elsewhere. The lost nodes are no members any more: should one come back, it is
refused. May be repeated.")]
pub struct Recover {
    /// The configuration of the node whose data directory it is
    #[arg(long, value_name = "FILE")]
    pub config: PathBuf,
    /// The nodes whose disks are lost
    #[arg(long, value_name = "NODES", value_delimiter = ',', required = true)]
    pub without: Vec<String>,
    /// The newest record of all disks that are left, if another one has it
    #[arg(long, value_name = "FILE")]
    pub record: Option<PathBuf>,
    /// Refuse if it comes to another record than this, of another disk
    #[arg(long, value_name = "HASH")]
    pub expect: Option<String>,
    /// Go on though a majority of the disks is left: two clusters may come of it
    #[arg(long)]
    pub force: bool,
    /// Do not ask
    #[arg(long)]
    pub yes: bool,
}

/// Runs the command.
pub(super) fn run(app: &App, args: &Recover, recover: RecoverDisk<'_>) -> Done<Exit> {
    let ask = |text: &str| {
        app.out.note(text);
        confirm(args.yes, "recover this disk?").map_err(|stop| match stop {
            crate::exit::Stop::Failed(failure) => failure.message,
            crate::exit::Stop::ClosedPipe => "nobody is here to be asked".to_owned(),
        })
    };
    let told = recover(args, &ask).map_err(|why| Failure::new(Exit::Failed, why))?;
    app.out.line(&told)?;
    Ok(Exit::Ok)
}
