//! `quorate put`.

use quorate_client::Lifetime;

use super::OfWrite;
use super::value::Given;
use super::written::{Writing, idempotency_key, write};
use crate::app::{App, Causality};
use crate::args::{Common, Name};
use crate::exit::{Done, Exit};
use crate::lifetime;

/// Write a key.
///
/// It replaces what your last `get` or `put` of the key saw (remembered for you, or --context). A
/// value that came from elsewhere in the meantime is not lost: it stays as a sibling. Without any
/// context nothing is replaced.
#[derive(Clone, Debug, clap::Args)]
#[command(after_help = "Examples:
  quorate put carts/alice '2 apples'
  quorate put photos/7.jpg --file 7.jpg --meta owner=alice
  jq .x data.json | quorate put data/x --content-type application/json
  quorate put carts/alice '3 apples' --w all --strict
  quorate put locks/a me --if-absent           # advisory: not a lock between racing writers
  quorate put sessions/7f3a alice --expires-in 1h
  quorate put users/ada --file ada.json --index email_s=ada@x --index age_i=36
  quorate index users age_i --from 18          # finds them again

Index entries and metadata belong to the value: a put without them leaves none of the value before.

JSON: bucket, key, acks, hints, siblings, context, context_used (given, remembered, none),
context_age_ms.")]
pub struct Args {
    /// The key
    #[arg(value_name = "BUCKET/KEY")]
    name: Name,
    #[command(flatten)]
    given: Given,
    #[command(flatten)]
    causality: Causality,
    #[command(flatten)]
    quorum: OfWrite,
    /// Only if a read finds no value (If-None-Match: *)
    #[arg(long)]
    if_absent: bool,
    /// Let the value expire after this time: 90s, 15m, 1h, 7d; or never [default: as its bucket says]
    #[arg(long, value_name = "TIME", value_parser = lifetime::parse)]
    expires_in: Option<Lifetime>,
    /// Repeat an earlier write under its key: it is stored once at most
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
    let value = args.given.read()?;
    let size = crate::out::bytes(value.bytes.len() as u64);
    let seen = app.seen(&args.name, &args.causality).await?;
    let (bucket, key) = (app.bucket(&args.name), args.name.key.as_str());
    let mut put = match &seen.context {
        Some(context) => bucket.put_after(key, context, value),
        None => bucket.put_blind(key, value),
    };
    if args.if_absent {
        put = put.if_absent();
    }
    if let Some(lifetime) = args.expires_in {
        put = put.lifetime(lifetime);
    }
    let idempotency_key = idempotency_key(args.idempotency_key.as_ref());
    put = put
        .options(args.quorum.options(args.common.timeout_ms, args.explain))
        .idempotency_key(idempotency_key.as_str());
    let (done, explain) =
        (format!("stored {size}{} in", lifetime::told(args.expires_in)), args.explain);
    let writing = Writing { name: &args.name, seen, idempotency_key, done, explain };
    write(app, writing, put.send()).await
}
