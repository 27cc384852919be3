//! `quorate feed`: follows what changes in a bucket.

mod cursor_file;
mod show;

use std::path::PathBuf;
use std::time::Duration;

use quorate_client::{Error, Feed, FeedPage};
use serde_json::json;
use tokio::time::{Instant, sleep};

use crate::app::App;
use crate::args::{Common, bucket_name};
use crate::exit::{Done, Exit, Failure};
use crate::out::{note, safe};

/// The most changes asked for in one request.
const PAGE: u64 = 100;
/// How long a request waits for a change.
const WAIT: Duration = Duration::from_secs(30);
/// How long a page is asked for again if no node answers.
const PATIENCE: Duration = Duration::from_secs(60);
/// With --once: how long it is waited for nodes without which the end is not known, and how often.
const COMPLETE_WITHIN: Duration = Duration::from_secs(5);
const LOOK_EVERY: Duration = Duration::from_millis(250);

/// Follow what changes in a bucket.
///
/// The bucket must keep its changes: `quorate bucket set BUCKET --feed 24h`. Each line is a key, a tab, and
/// what the key is now: the start of its value, (deleted), (expired), (2 siblings), or the size of a value
/// that is too large to be shown. Ctrl-C ends it.
#[derive(Clone, Debug, clap::Args)]
#[command(after_help = "Examples:
  quorate bucket set carts --feed 24h
  quorate feed carts                                     # what is kept, then what comes
  quorate feed carts --from now --prefix eu/
  quorate feed carts --cursor-file carts.cursor --json | while read -r line; do ...; done
  quorate feed carts --cursor-file carts.cursor --once   # what is new since the last time

A feed tells states, not events: what a key is now. Of two writes that follow each other the first may
not show, and a state may come again, after a failure for example. It goes on through any node.

With --cursor-file it begins where the file says, if there is one, and the file is replaced after each
page that was printed: what is in the pipe then is not known to have been dealt with. A cursor is good for
one bucket and prefix. If it is older than what the bucket keeps, the command fails and tells the cursor
with which to go on once everything was read.

JSON: one object per line: bucket, key, result and what it has: of value, conflict and absent what `get
--json` shows (context, value, siblings, ...; was_deleted, has_expired); of typed: type, value, exists,
context; of left_out: bytes, siblings_count. After those of a page: bucket, cursor, complete (false: too
few nodes answered, or there is more).

With --once it exits with 5 if changes may be missing because too few nodes answer.")]
pub struct Args {
    /// The bucket
    #[arg(value_parser = bucket_name)]
    bucket: String,
    /// Only keys that start with this
    #[arg(long, default_value = "", hide_default_value = true, value_name = "TEXT")]
    prefix: String,
    /// Where to begin: now, at the oldest change that is kept, or at a cursor
    #[arg(long, default_value = "oldest", value_name = "now|oldest|CURSOR")]
    from: String,
    /// Keep the cursor in this file, and go on from it, if it is there
    #[arg(long, value_name = "FILE")]
    cursor_file: Option<PathBuf>,
    /// Stop at the end of what there is
    #[arg(long)]
    once: bool,
    /// Stop after so many changes
    #[arg(long, value_name = "COUNT", value_parser = clap::value_parser!(u64).range(1..))]
    limit: Option<u64>,
    #[command(flatten)]
    pub(crate) common: Common,
}

/// Runs the command.
pub(crate) async fn run(app: &App, args: &Args) -> Done<Exit> {
    let stored = args.cursor_file.as_deref().map(cursor_file::read).transpose()?.flatten();
    let asked = args.common.timeout_ms.map(Duration::from_millis);
    let client = app.nodes.bulk(asked.unwrap_or(PATIENCE))?;
    let feed = client.bucket(args.bucket.as_str()).feed().prefix(args.prefix.as_str());
    let feed = feed.from_cursor(stored.unwrap_or_else(|| args.from.clone()));
    let mut follower = Follower { app, args, feed, printed: 0 };
    let ended = tokio::select! {
        ended = follower.all() => ended,
        _ = tokio::signal::ctrl_c() => Ok(Exit::Ok),
    };
    let exit = ended?;
    follower.tell();
    Ok(exit)
}

/// A feed that is followed.
struct Follower<'a> {
    app: &'a App,
    args: &'a Args,
    /// Where it is after the page that was printed last.
    feed: Feed,
    printed: u64,
}

impl Follower<'_> {
    async fn all(&mut self) -> Done<Exit> {
        let limit = self.args.limit.unwrap_or(u64::MAX);
        let mut was_complete = true;
        let mut moved_at = Instant::now();
        while self.printed < limit {
            let page = self.page((limit - self.printed).min(PAGE) as u16).await?;
            self.printed += page.changes.len() as u64;
            if page.complete || !page.changes.is_empty() {
                moved_at = Instant::now();
            }
            if was_complete && !page.complete && page.changes.is_empty() && !self.args.once {
                note("note: changes may come late: too few nodes answer (quorate status)");
            }
            was_complete = page.complete;
            match (self.args.once, page.complete) {
                (false, _) => {}
                (true, true) => break,
                (true, false) if moved_at.elapsed() > COMPLETE_WITHIN => {
                    note("note: changes may be missing: too few nodes answer (quorate status)");
                    return Ok(Exit::Unavailable);
                }
                (true, false) if page.changes.is_empty() => sleep(LOOK_EVERY).await,
                (true, false) => {}
            }
        }
        Ok(Exit::Ok)
    }

    /// Prints the next page, then moves the cursor.
    async fn page(&mut self, limit: u16) -> Done<FeedPage> {
        let wait = if self.args.once { Duration::ZERO } else { WAIT };
        let mut next = self.feed.clone().limit(limit).wait(wait);
        let page = next.next_page().await.map_err(|error| self.failure(&error))?;
        let mut text = String::new();
        for change in &page.changes {
            text += &match self.app.out.json {
                true => format!("{}\n", show::json(&self.args.bucket, change)),
                false => format!("{}\n", show::line(change)),
            };
        }
        if self.app.out.json {
            let (bucket, cursor, complete) = (&self.args.bucket, &page.cursor, page.complete);
            let end = json!({"bucket": bucket, "cursor": cursor, "complete": complete});
            text += &format!("{end}\n");
        }
        self.app.out.bytes(text.as_bytes())?;
        if let Some(file) = &self.args.cursor_file {
            cursor_file::write(file, &page.cursor)?;
        }
        self.feed = next;
        Ok(page)
    }

    /// Says where it ended, if that is not told elsewhere.
    fn tell(&self) {
        if !self.app.out.json && self.args.cursor_file.is_none() {
            note(&format!("note: to go on here: --from {}", safe(self.feed.cursor())));
        }
    }

    fn failure(&self, error: &Error) -> Failure {
        let mut failure = self.app.failure(error);
        if let Error::NoFeed { .. } = error {
            let bucket = &self.args.bucket;
            failure.advice = Some(format!(
                "`quorate bucket set {bucket} --feed 24h` has it keep what changes from then on, for a day"
            ));
        }
        let Error::CursorExpired { cursor, .. } = error else { return failure };
        let (bucket, cursor) = (&self.args.bucket, safe(cursor));
        failure.message = format!(
            "changes since the cursor are not kept any more; the cursor to go on with is {cursor}"
        );
        let prefix = match self.args.prefix.as_str() {
            "" => String::new(),
            prefix => format!(" --prefix {prefix:?}"),
        };
        let next = match &self.args.cursor_file {
            Some(file) => format!("`echo {cursor} > {}` and the same command", file.display()),
            None => format!("the same command and --from {cursor}"),
        };
        failure.advice = Some(format!(
            "read everything once (`quorate export {bucket}{prefix}`), then go on with {next}"
        ));
        failure
    }
}
