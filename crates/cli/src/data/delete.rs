//! `quorate delete`.

use super::OfWrite;
use super::written::{Writing, idempotency_key, write};
use crate::app::{App, Causality};
use crate::args::{Common, Name};
use crate::exit::{Done, Exit};

/// Delete a key.
///
/// It deletes what your last `get` of the key saw (remembered for you, or --context); a value that
/// came in the meantime stays. With --blind, and for a key that you have not read, it deletes what
/// a read shows.
#[derive(Clone, Debug, clap::Args)]
#[command(after_help = "Examples:
  quorate delete carts/alice
  quorate delete carts/alice --blind --w all

JSON: as `quorate put`.")]
pub struct Args {
    /// The key
    #[arg(value_name = "BUCKET/KEY")]
    name: Name,
    #[command(flatten)]
    causality: Causality,
    #[command(flatten)]
    quorum: OfWrite,
    /// Repeat an earlier delete under its key
    #[arg(long, value_name = "KEY")]
    idempotency_key: Option<String>,
    /// Print how the request was carried out
    #[arg(long)]
    explain: bool,
    #[command(flatten)]
    pub(crate) common: Common,
}

/// Runs the command.
pub(crate) async fn run(app: &App, args: &Args) -> Done<Exit> {
    let seen = app.seen(&args.name, &args.causality).await?;
    let (bucket, key) = (app.bucket(&args.name), args.name.key.as_str());
    let delete = match &seen.context {
        Some(context) => bucket.delete_after(key, context),
        None => bucket.delete(key),
    };
    let idempotency_key = idempotency_key(args.idempotency_key.as_ref());
    let delete = delete
        .options(args.quorum.options(args.common.timeout_ms, args.explain))
        .idempotency_key(idempotency_key.as_str());
    let (done, explain) = ("deleted".to_owned(), args.explain);
    let writing = Writing { name: &args.name, seen, idempotency_key, done, explain };
    write(app, writing, delete.send()).await
}
