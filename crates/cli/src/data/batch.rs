//! `quorate batch`: many operations, as JSON lines.

mod line;
mod show;

use std::path::{Path, PathBuf};
use std::time::Duration;

use quorate_client::{Batch, BatchOperation, Client, Count, Options};
use serde_json::json;
use tokio::sync::mpsc::Receiver;
use tokio::time::{Instant, timeout_at};

use self::line::{Line, parse};
use crate::app::App;
use crate::args::Common;
use crate::exit::{Done, Exit, Failure, Stop};
use crate::lines;
use crate::out::{count, note};
use crate::progress::Progress;

/// How many lines are sent at a time, and how many bytes of them.
const LINES_MAX: usize = 1000;
const BYTES_MAX: usize = 8 << 20;
/// So long after the first line those that came are sent, even if there are few: the program that writes
/// them may wait for results.
const GATHER: Duration = Duration::from_millis(200);
/// How long operations are retried.
const PATIENCE: Duration = Duration::from_secs(60);

/// Carry out many operations, given as JSON lines.
///
/// Each line is one operation, with its own result: they are not atomic, and run in no order, also those of
/// one key. Up to 1000 are sent at a time. The results are printed as JSON lines, in the order of the
/// operations; a summary goes to standard error.
#[derive(Clone, Debug, clap::Args)]
#[command(after_help = "Examples:
  quorate batch operations.jsonl > results.jsonl
  quorate keys carts --json | jq -c 'select(.key) | .op = \"get\"' | quorate batch | jq -r .value

Operations, one a line:
  {\"op\": \"get\", \"bucket\": \"carts\", \"key\": \"alice\"}
  {\"op\": \"put\", \"bucket\": \"carts\", \"key\": \"alice\", \"value\": \"1 pear\", \"context\": \"AY\"}
  {\"op\": \"put\", \"bucket\": \"carts\", \"key\": \"bob\", \"value\": \"/wA=\", \"encoding\": \"base64\",
   \"content_type\": \"image/png\", \"expires_in\": \"1h\", \"if_none_match\": \"*\"}   (on one line)
  {\"op\": \"put\", \"bucket\": \"users\", \"key\": \"ada\", \"value\": \"{}\",
   \"index\": {\"email_s\": [\"ada@x\"], \"age_i\": [36]}}   (on one line)
  {\"op\": \"delete\", \"bucket\": \"carts\", \"key\": \"carol\"}
  {\"op\": \"change\", \"bucket\": \"visits\", \"key\": \"home\", \"operation\": {\"increment\": 1}}

A put with the context of a read replaces what that saw; one without replaces nothing: contexts that
`get` remembered are not used. expires_in: seconds, a time (90s, 15m, 1h, 7d), or \"never\". Writes may
also have if_match and idempotency_key. Of a value that is read content_type, meta and index are shown. A
file is checked as a whole before anything is done.

Results: line, op, bucket, key, result, and what the command for one key prints with --json. result is
value, conflict (siblings), absent (was_deleted, has_expired), stored, deleted, changed, or failed: then
there are outcome (not_applied, unknown, partial) and error (exit, name, message, advice, problem).

Exits with 1 if an operation failed, with 6 if it is unknown what became of one. With --json the summary
is JSON: operations, done, failed, in_doubt.")]
pub struct Args {
    /// The file; - or nothing for standard input
    #[arg(value_name = "FILE")]
    file: Option<PathBuf>,
    /// How many replicas must answer a read: a number, one, quorum or all
    #[arg(long, value_name = "COUNT")]
    r: Option<Count>,
    /// How many replicas must hold a write: a number, one, quorum or all
    #[arg(long, value_name = "COUNT")]
    w: Option<Count>,
    /// How many replicas to use, at most the bucket's n
    #[arg(long, value_name = "COUNT")]
    n: Option<Count>,
    /// Count home replicas only (sloppy=false)
    #[arg(long)]
    strict: bool,
    #[command(flatten)]
    pub(crate) common: Common,
}

#[derive(Debug, Default)]
struct Totals {
    operations: u64,
    failed: u64,
    /// Of these, writes that may have left something behind.
    in_doubt: u64,
}

impl Totals {
    fn told(&self) -> String {
        let Self { operations, failed, in_doubt } = self;
        let all = count(*operations, "operation");
        let doubt = match in_doubt {
            0 => String::new(),
            some => format!(", {some} of them in doubt"),
        };
        format!("{all}: {} done, {failed} failed{doubt}", operations - failed)
    }

    fn exit(&self) -> Exit {
        match (self.failed, self.in_doubt) {
            (0, _) => Exit::Ok,
            (_, 0) => Exit::Failed,
            (..) => Exit::Unknown,
        }
    }
}

/// Runs the command.
pub(crate) async fn run(app: &App, args: &Args) -> Done<Exit> {
    let file = args.file.clone().filter(|file| file.as_os_str() != "-");
    let total = file.as_deref().map(|file| check(file, &app.nodes.client)).transpose()?;
    let client = app.nodes.bulk(PATIENCE)?;
    client.discover().await.map_err(|error| app.failure(&error))?;
    let mut totals = Totals::default();
    let mut progress = Progress::start("carrying out", total);
    let ended = tokio::select! {
        ended = all(app, args, &client, file, &mut totals, &mut progress) => ended,
        _ = tokio::signal::ctrl_c() => Err(Failure::new(Exit::Failed, "interrupted").into()),
    };
    progress.finish();
    if let Err(Stop::Failed(failure)) = ended {
        let told = totals.told();
        return Err(failure.advise(format!("before that, {told}")).into());
    }
    ended?;
    match app.out.json {
        false => note(&totals.told()),
        true => {
            let Totals { operations, failed, in_doubt } = totals;
            let done = operations - failed;
            let shown = json!({
                "operations": operations, "done": done, "failed": failed, "in_doubt": in_doubt,
            });
            note(&shown.to_string()); // standard output has the results
        }
    }
    Ok(totals.exit())
}

/// Checks all lines of a file, so that nothing is done if one is wrong; returns how many there are.
fn check(file: &Path, client: &Client) -> Done<u64> {
    let named = |why: String| Failure::usage(format!("{}: {why}", file.display()));
    let mut number = 0;
    for line in lines::in_file(file).map_err(|error| named(error.to_string()))? {
        number += 1;
        line.and_then(|text| parse(&text, client).map(drop)).map_err(|why| {
            named(format!("line {number}: {why}")).advise("nothing was done; see --help")
        })?;
    }
    Ok(number)
}

async fn all(
    app: &App,
    args: &Args,
    client: &Client,
    file: Option<PathBuf>,
    totals: &mut Totals,
    progress: &mut Progress,
) -> Done {
    let mut lines = lines::of(file, 0);
    loop {
        let Gathered { some, end } = gather(&mut lines, client).await;
        let begun = totals.operations;
        let (shown, operations): (Vec<Line>, Vec<BatchOperation>) = some.into_iter().unzip();
        let batch = operations.into_iter().fold(batch(args, client), Batch::push);
        let mut text = String::new();
        for ((line, number), result) in shown.iter().zip(begun + 1..).zip(batch.await) {
            let failed = result.as_ref().err();
            totals.operations += 1;
            totals.failed += u64::from(failed.is_some());
            totals.in_doubt += u64::from(failed.is_some_and(show::is_in_doubt));
            text += &format!("{}\n", show::result(app, line, number, &result));
        }
        app.out.bytes(text.as_bytes())?;
        progress.show(totals.operations, &format!("operations, {} failed", totals.failed));
        match end {
            None => {}
            Some(Ok(())) => return Ok(()),
            Some(Err(why)) => {
                let number = totals.operations + 1;
                return Err(Failure::usage(format!("line {number}: {why}")).into());
            }
        }
    }
}

fn batch(args: &Args, client: &Client) -> Batch {
    let batch = client.batch().options(Options {
        n: args.n,
        needed: args.w,
        sloppy: args.strict.then_some(false),
        timeout_ms: args.common.timeout_ms,
        ..Options::default()
    });
    match args.r {
        Some(r) => batch.r(r),
        None => batch,
    }
}

/// Lines that are sent together, and whether they are the last: at the end, or before a line that is wrong.
struct Gathered {
    some: Vec<(Line, BatchOperation)>,
    end: Option<Result<(), String>>,
}

async fn gather(lines: &mut Receiver<Result<Vec<u8>, String>>, client: &Client) -> Gathered {
    let (mut some, mut bytes, mut until) = (Vec::new(), 0, None);
    while some.len() < LINES_MAX && bytes < BYTES_MAX {
        let next = match until {
            None => lines.recv().await,
            Some(until) => match timeout_at(until, lines.recv()).await {
                Ok(next) => next,
                Err(_) => break,
            },
        };
        until = until.or_else(|| Some(Instant::now() + GATHER));
        let Some(text) = next else { return Gathered { some, end: Some(Ok(())) } };
        match text.and_then(|text| Ok((text.len(), parse(&text, client)?))) {
            Ok((length, one)) => {
                bytes += length;
                some.push(one);
            }
            Err(why) => return Gathered { some, end: Some(Err(why)) },
        }
    }
    Gathered { some, end: None }
}
