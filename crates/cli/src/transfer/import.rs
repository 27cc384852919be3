//! `quorate import`.

use std::hash::{DefaultHasher, Hash, Hasher};
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use futures_util::stream::{self, StreamExt};
use quorate_client::{Client, Error};
use serde_json::json;
use tokio::sync::Mutex;

use super::line::Line;
use super::merge::{Became, OnConflict, one};
use crate::app::App;
use crate::args::{Common, bucket_name};
use crate::exit::{Done, Exit, Failure, Stop};
use crate::lines;
use crate::out::{count, note};
use crate::progress::Progress;

/// Lines in flight at a time.
const WRITES: usize = 16;
/// Keys are divided among so many turns; those of one turn are stored one after the other.
const TURNS: u64 = 256;
/// How long one write is retried.
const PATIENCE: Duration = Duration::from_secs(60);

/// Store the keys of an export.
///
/// A key that is not there is new. One that holds the same is left alone. One that holds something else
/// keeps it, as a sibling beside what the line brings, unless the line's context covers it: then it is
/// replaced. So an export can be edited and imported again.
#[derive(Clone, Debug, clap::Args)]
#[command(after_help = "Examples:
  quorate import carts.jsonl
  quorate export carts --url http://old:7401 | quorate import --url http://new:7401
  quorate import carts.jsonl --bucket carts-copy --dry-run
  quorate import carts.jsonl --on-conflict skip
  quorate import carts.jsonl --from-line 5001         # go on where it stopped

A file is checked as a whole before anything is written. A line whose siblings hold a delete brings
its values only. Contexts of another cluster are ignored.

A value that expires gets the time that is left of it (\"expires_at\"); one that has expired since the
export is not stored, but counted. A value that was exported as one that never expires stays one, whatever
the bucket says; where a line does not say it, the bucket does.

A value without \"index\" is stored without index entries; one that is there with others is not the same.

Exits with 4 if keys were left in conflict. JSON: lines, new, same, replaced, conflicted, skipped, expired
(lines of which nothing is left), expired_siblings (of other lines), next_line.")]
pub struct Args {
    /// The file; - or nothing for standard input
    #[arg(value_name = "FILE")]
    file: Option<PathBuf>,
    /// Store all keys in this bucket
    #[arg(long, value_parser = bucket_name)]
    bucket: Option<String>,
    /// What to do with a key that holds something else
    #[arg(long, value_enum, default_value_t = OnConflict::Keep)]
    on_conflict: OnConflict,
    /// Only read and compare: say what would be done
    #[arg(long)]
    dry_run: bool,
    /// Begin at this line, the first being 1
    #[arg(long, value_name = "LINE", default_value_t = 1, hide_default_value = true,
          value_parser = clap::value_parser!(u64).range(1..))]
    from_line: u64,
    #[command(flatten)]
    pub(crate) common: Common,
}

#[derive(Debug, Default)]
struct Totals {
    lines: u64,
    new: u64,
    same: u64,
    replaced: u64,
    conflicted: u64,
    skipped: u64,
    /// Lines of which nothing is left.
    expired: u64,
    /// Siblings of other lines that have expired.
    expired_siblings: u64,
}

impl Totals {
    fn add(&mut self, became: Became) {
        self.lines += 1;
        let of = match became {
            Became::New => &mut self.new,
            Became::Same => &mut self.same,
            Became::Replaced => &mut self.replaced,
            Became::Conflicted => &mut self.conflicted,
            Became::Skipped => &mut self.skipped,
            Became::Expired => &mut self.expired,
        };
        *of += 1;
    }

    fn told(&self, dry_run: bool) -> String {
        let Self { lines, new, same, replaced, conflicted, skipped, expired, expired_siblings } =
            self;
        let would = if dry_run { "would be " } else { "" };
        let all = count(*lines, "line");
        let written = format!("{new} new, {same} same, {replaced} replaced");
        let mut told =
            format!("{all}: {would}{written}, {conflicted} conflicted, {skipped} skipped");
        if *expired > 0 {
            told += &format!(", {expired} expired since the export");
        }
        if *expired_siblings > 0 {
            told += &format!("; of other lines {} expired", count(*expired_siblings, "sibling"));
        }
        told
    }
}

/// Runs the command.
pub(crate) async fn run(app: &App, args: &Args) -> Done<Exit> {
    let file = args.file.clone().filter(|file| file.as_os_str() != "-");
    let total = file.as_deref().map(|file| check(file, args)).transpose()?;
    let client = app.nodes.bulk(PATIENCE)?;
    client.discover().await.map_err(|error| app.failure(&error))?;
    let mut totals = Totals::default();
    let mut progress = Progress::start("importing", total);
    let ended = tokio::select! {
        ended = import(app, args, &client, file, &mut totals, &mut progress) => ended,
        _ = tokio::signal::ctrl_c() => Err(Failure::new(Exit::Failed, "interrupted").into()),
    };
    progress.finish();
    let next_line = args.from_line + totals.lines;
    match ended {
        Ok(()) => {}
        Err(Stop::ClosedPipe) => return Err(Stop::ClosedPipe),
        Err(Stop::Failed(failure)) => {
            return Err(stopped(*failure, &totals, args.dry_run, next_line).into());
        }
    }
    if app.out.json {
        let Totals { lines, new, same, replaced, conflicted, skipped, expired, expired_siblings } =
            totals;
        app.out.json(&json!({
            "lines": lines, "new": new, "same": same, "replaced": replaced, "conflicted": conflicted,
            "skipped": skipped, "expired": expired, "expired_siblings": expired_siblings,
            "next_line": next_line,
        }))?;
    } else {
        app.out.line(&totals.told(args.dry_run))?;
        if totals.conflicted > 0 && !args.dry_run {
            note("note: quorate siblings lists the keys in conflict");
        }
    }
    Ok(if totals.conflicted > 0 { Exit::Conflict } else { Exit::Ok })
}

fn stopped(mut failure: Failure, totals: &Totals, dry_run: bool, next_line: u64) -> Failure {
    failure.message = format!("line {next_line}: {}", failure.message);
    let done = totals.told(dry_run);
    let go_on = format!("{done}; go on with the same command and --from-line {next_line}");
    failure.advice = Some(match failure.advice {
        Some(advice) => format!("{advice}. {go_on}"),
        None => go_on,
    });
    failure
}

/// Checks all lines of a file, so that nothing is written if one is wrong; returns how many there are
/// to do.
fn check(file: &Path, args: &Args) -> Done<u64> {
    let named = |why: String| Failure::usage(format!("{}: {why}", file.display()));
    let mut number = 0;
    for line in lines::in_file(file).map_err(|error| named(error.to_string()))? {
        number += 1;
        let text = line.map_err(|why| named(format!("line {number}: {why}")))?;
        if number >= args.from_line {
            Line::parse(&text, args.bucket.as_deref()).map_err(|why| {
                named(format!("line {number}: {why}")).advise("nothing was written")
            })?;
        }
    }
    Ok(number - (args.from_line - 1).min(number))
}

async fn import(
    app: &App,
    args: &Args,
    client: &Client,
    file: Option<PathBuf>,
    totals: &mut Totals,
    progress: &mut Progress,
) -> Done {
    let lines = lines::of(file, args.from_line - 1);
    let lines = stream::unfold(lines, async |mut lines| Some((lines.recv().await?, lines)));
    let failed = |error: Error| Stop::from(app.failure(&error));
    // Two lines of one key, as an export that was continued may have, must not be stored at once: both
    // would find nothing there, and conflict.
    let turns: Vec<Mutex<()>> = (0..TURNS).map(|_| Mutex::new(())).collect();
    let store = async |text: Result<Vec<u8>, String>| -> Done<(Became, u64)> {
        let line = text.and_then(|text| Line::parse(&text, args.bucket.as_deref()));
        let mut line = line.map_err(Failure::usage)?;
        let expired = line.drop_expired(SystemTime::now());
        if !line.has_value() {
            return Ok((Became::Expired, 0));
        }
        let bucket = client.bucket(line.name.bucket.as_str());
        let mut hasher = DefaultHasher::new();
        (&line.name.bucket, &line.name.key).hash(&mut hasher);
        let turn = (hasher.finish() % TURNS) as usize;
        let _turn = turns[turn].lock().await;
        let became = one(&bucket, &line, args.on_conflict, args.dry_run).await;
        Ok((became.map_err(failed)?, expired))
    };
    // In order, so that all lines before a failed one are done.
    let mut done = std::pin::pin!(lines.map(store).buffered(WRITES));
    while let Some(stored) = done.next().await {
        let (became, expired) = stored?;
        totals.add(became);
        totals.expired_siblings += expired;
        let message = format!("lines, {} new, {} conflicted", totals.new, totals.conflicted);
        progress.show(totals.lines, &message);
    }
    Ok(())
}
