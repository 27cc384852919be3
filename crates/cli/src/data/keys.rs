//! `quorate keys`.

use serde_json::json;

use crate::app::App;
use crate::args::{Common, bucket_name};
use crate::exit::{Done, Exit};
use crate::out::safe;

/// The most keys asked for in one request.
const PAGE: u64 = 1000;

/// List the keys of a bucket, in order.
#[derive(Clone, Debug, clap::Args)]
#[command(after_help = "Examples:
  quorate keys carts
  quorate keys files --prefix src/ | head
  quorate keys files --null | xargs -0 -n1 echo
  quorate keys files --limit 100 --cursor CURSOR

On a terminal control characters in keys are shown escaped. If too few replicas of some partition
answered, keys may be missing: a note says so, and the exit code is 5.

JSON: one object per line, {\"bucket\", \"key\"}; the last one has cursor and complete instead of key.")]
pub struct Args {
    /// The bucket
    #[arg(value_parser = bucket_name)]
    bucket: String,
    /// Only keys that start with this
    #[arg(long, default_value = "", hide_default_value = true, value_name = "TEXT")]
    prefix: String,
    /// Stop after so many keys, and tell the cursor
    #[arg(long, value_name = "COUNT", value_parser = clap::value_parser!(u64).range(1..))]
    limit: Option<u64>,
    /// Go on where an earlier listing stopped
    #[arg(long)]
    cursor: Option<String>,
    /// End each key with a NUL byte, not a line break
    #[arg(long, short = '0', conflicts_with = "json")]
    null: bool,
    #[command(flatten)]
    pub(crate) common: Common,
}

/// Runs the command.
pub(crate) async fn run(app: &App, args: &Args) -> Done<Exit> {
    let keys = app.nodes.plain.bucket(args.bucket.as_str()).keys().prefix(args.prefix.as_str());
    let mut cursor = args.cursor.clone();
    let mut left = args.limit.unwrap_or(u64::MAX);
    let mut complete = true;
    loop {
        let keys = keys.clone().limit(left.min(PAGE) as u16);
        let page = app.ask("listing keys", keys.page(cursor.as_deref())).await?;
        print(app, args, &page.keys)?;
        complete &= page.complete;
        left = left.saturating_sub(page.keys.len() as u64);
        // A node that names the same place again would keep this loop going forever.
        let stuck = page.cursor.is_some() && page.cursor == cursor;
        cursor = page.cursor;
        if cursor.is_none() || left == 0 || stuck {
            break;
        }
    }
    if app.out.json {
        app.out.json(&json!({"bucket": args.bucket, "cursor": cursor, "complete": complete}))?;
    }
    Ok(end(app, "keys", cursor.as_deref(), complete))
}

/// Ends a listing of such things: says, where the output does not, that there is more and that some may be
/// missing.
pub(super) fn end(app: &App, what: &str, cursor: Option<&str>, complete: bool) -> Exit {
    if let Some(cursor) = cursor.filter(|_| !app.out.json) {
        app.out.note(&format!("note: there is more: --cursor {}", safe(cursor)));
    }
    if complete {
        return Exit::Ok;
    }
    if !app.out.json {
        let why = "too few replicas of some partition answered (quorate status)";
        app.out.note(&format!("note: {what} may be missing: {why}"));
    }
    Exit::Unavailable
}

fn print(app: &App, args: &Args, keys: &[String]) -> Done {
    let mut text = String::new();
    for key in keys {
        match (app.out.json, args.null) {
            (true, _) => text += &format!("{}\n", json!({"bucket": args.bucket, "key": key})),
            (false, true) => text += &format!("{key}\0"),
            (false, false) if app.out.terminal => text += &format!("{}\n", safe(key)),
            (false, false) => text += &format!("{key}\n"),
        }
    }
    app.out.bytes(text.as_bytes())
}
