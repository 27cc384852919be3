//! `quorate resolve`.

use quorate_client::{Context, Lifetime};
use serde_json::Value as Json;

use super::OfWrite;
use super::value::Given;
use super::written::{Writing, idempotency_key, write};
use crate::app::{App, Causality, From, Seen};
use crate::args::{Common, Name};
use crate::exit::{Done, Exit, Failure};
use crate::lifetime;

/// Resolve a conflict: keep one sibling, or write a merged value.
///
/// It supersedes exactly what you saw: what `get` or `siblings` showed last, or --context. With
/// --blind it supersedes whatever is there now, seen or not.
#[derive(Clone, Debug, clap::Args)]
#[command(after_help = "Examples:
  quorate siblings carts/alice
  quorate resolve carts/alice --keep 52fe2a615653c2a3-2
  quorate resolve carts/alice --keep 52f           # the start of a dot is enough
  quorate resolve carts/alice '3 apples, 1 pear'
  quorate resolve docs/a --file merged.json
  quorate resolve users/ada --file merged.json --index email_s=ada@x
  quorate resolve sessions/7f3a --file new --expires-in 1h

A sibling that is kept keeps its metadata, its index entries, and the time that it has left, unless
--expires-in says another. A merged value has what is given with it.

JSON: as `quorate put`.")]
pub struct Args {
    /// The key
    #[arg(value_name = "BUCKET/KEY")]
    name: Name,
    /// Keep the sibling with this dot, or the only one whose dot starts so
    #[arg(long, value_name = "DOT", conflicts_with_all = ["value", "file", "content_type", "meta", "index"])]
    keep: Option<String>,
    #[command(flatten)]
    given: Given,
    /// Let the value expire after this time: 90s, 15m, 1h, 7d; or never
    #[arg(long, value_name = "TIME", value_parser = lifetime::parse)]
    expires_in: Option<Lifetime>,
    #[command(flatten)]
    causality: Causality,
    #[command(flatten)]
    quorum: OfWrite,
    /// Repeat an earlier resolution under its key
    #[arg(long, value_name = "KEY")]
    idempotency_key: Option<String>,
    #[command(flatten)]
    pub(crate) common: Common,
}

/// Runs the command.
pub(crate) async fn run(app: &App, args: &Args) -> Done<Exit> {
    let name = &args.name;
    let value = if args.keep.is_none() { Some(args.given.read()?) } else { None };
    let mut seen = app.seen(name, &args.causality).await?;
    if seen.from == From::Nothing {
        let message = format!("what {name} holds was not looked at yet");
        let advice =
            format!("look first: quorate siblings {name}; or supersede whatever is there: --blind");
        return Err(Failure::new(Exit::Conflict, message).advise(advice).into());
    }
    let is_short = args.keep.as_ref().is_some_and(|dot| !dot.contains('-'));
    let mut report = None;
    if seen.from == From::Blind || is_short {
        let looked =
            app.nodes.client.admin().inspect(&name.bucket, &name.key, args.common.timeout_ms).await;
        let looked = looked.map_err(|error| app.failure(&error))?;
        if seen.from == From::Blind {
            seen = Seen { context: Some(context_of(&looked, name)?), from: From::Blind };
        }
        report = Some(looked);
    }
    let Some(context) = seen.context.clone() else {
        return Err(Failure::new(Exit::Conflict, "there is no context").into());
    };
    let idempotency_key = idempotency_key(args.idempotency_key.as_ref());
    let options = args.quorum.options(args.common.timeout_ms, false);
    let (bucket, key) = (app.bucket(name), name.key.as_str());
    let writing = |done: String| Writing {
        name,
        seen,
        idempotency_key: idempotency_key.clone(),
        done,
        explain: false,
    };
    match (&args.keep, value) {
        (Some(start), _) => {
            let siblings = report.as_ref().and_then(|report| report["siblings"].as_array());
            let siblings = siblings.map(Vec::as_slice).unwrap_or_default();
            let dot = match is_short {
                true => full_dot(start, siblings.iter().filter_map(|it| it["dot"].as_str()), name)?,
                false => start.clone(),
            };
            let mut keep = bucket.keep_after(key, &context, &dot).options(options);
            if let Some(lifetime) = args.expires_in {
                keep = keep.lifetime(lifetime);
            }
            let sent = keep.idempotency_key(idempotency_key.as_str()).send();
            write(app, writing(format!("kept {dot} of")), sent).await
        }
        (None, value) => {
            // A write with the context of all siblings is the resolution.
            let value = value.unwrap_or_default();
            let mut put = bucket.put_after(key, &context, value).options(options);
            if let Some(lifetime) = args.expires_in {
                put = put.lifetime(lifetime);
            }
            let sent = put.idempotency_key(idempotency_key.as_str()).send();
            write(app, writing("resolved".to_owned()), sent).await
        }
    }
}

fn context_of(report: &Json, name: &Name) -> Done<Context> {
    match report["context"].as_str().map(Context::parse) {
        Some(Ok(context)) => Ok(context),
        Some(Err(error)) => Err(error.into()),
        None => Err(Failure::new(Exit::NotFound, format!("{name} was never written")).into()),
    }
}

/// The dot that starts with `start`, if there is exactly one.
pub(super) fn full_dot<'a>(
    start: &str,
    dots: impl Iterator<Item = &'a str>,
    name: &Name,
) -> Done<String> {
    let shown = crate::out::short(start, 40);
    let found: Vec<&str> = dots.filter(|dot| dot.starts_with(start)).collect();
    match found.as_slice() {
        [dot] => Ok((*dot).to_owned()),
        [] => {
            let message = format!("no sibling of {name} has a dot that starts with {shown:?}");
            let advice = format!("quorate siblings {name} shows the dots");
            Err(Failure::new(Exit::NotFound, message).advise(advice).into())
        }
        [_, ..] => {
            let message = format!("{} siblings of {name} start with {shown:?}", found.len());
            Err(Failure::usage(message).advise("give more of the dot").into())
        }
    }
}
