//! `quorate get`.

use std::io::IsTerminal;
use std::path::PathBuf;
use std::time::Duration;

use quorate_client::{Read, Siblings, Value, Versioned};
use serde_json::{Value as Json, json};
use tokio::time::Instant;

use super::OfRead;
use super::value::Stored;
use crate::app::{App, Causality, patiently};
use crate::args::{Common, Name};
use crate::exit::{Done, Exit, Failure};
use crate::explain;

/// How long a node waits at the most.
const WAIT_MAX: Duration = Duration::from_secs(60);
/// A node that stops answers at once: another is asked after so long.
const AGAIN_AFTER: Duration = Duration::from_millis(100);

/// Read a key.
///
/// The value goes to standard output as it is. What was read is remembered: the next `put` of the
/// key replaces it. If the key has several siblings, they are listed on standard error, and the exit
/// code is 4.
#[derive(Clone, Debug, clap::Args)]
#[command(after_help = "Examples:
  quorate get carts/alice
  quorate get photos/7.jpg --output 7.jpg
  quorate get carts/alice --r all --strict --json | jq -r .value
  quorate get carts/alice --explain          # who was asked, and what each node said
  quorate get carts/alice --wait 30s         # once it is something else than your last `get` saw

With --wait it exits with 7 if there was nothing new. Who has not read the key waits until it is there.

JSON: bucket, key, context, and of the value: value, encoding (base64 if it is not UTF-8),
content_type, size, expires_at (null: never), meta, index (its index entries, if it has any); or, in a
conflict, siblings: a list of those with dot, writer, written_at.")]
pub struct Args {
    /// The key
    #[arg(value_name = "BUCKET/KEY")]
    name: Name,
    #[command(flatten)]
    quorum: OfRead,
    /// In a conflict, only the sibling whose dot starts so
    #[arg(long, value_name = "DOT", conflicts_with = "explain")]
    sibling: Option<String>,
    /// Write the value to a file
    #[arg(long, short, value_name = "FILE", conflicts_with = "json")]
    output: Option<PathBuf>,
    /// Print how the request was carried out, not the value
    #[arg(long, conflicts_with = "output")]
    explain: bool,
    /// Wait so long (30s, 5m) for something that your last `get` or `put` of the key has not seen: a write, a
    /// delete, the end of a value
    #[arg(long, value_name = "TIME", value_parser = wait_time, conflicts_with = "explain")]
    wait: Option<Duration>,
    /// With --wait: what was seen, instead of what your last `get` or `put` of the key saw
    #[arg(long, value_name = "TEXT", requires = "wait")]
    context: Option<String>,
    #[command(flatten)]
    pub(crate) common: Common,
}

/// `30s`, `5m`: 1 ms to a day.
fn wait_time(text: &str) -> Result<Duration, String> {
    let range = Duration::from_millis(1)..=Duration::from_secs(86_400);
    let time = humantime::parse_duration(text).ok().filter(|time| range.contains(time));
    time.ok_or_else(|| "expected a time up to a day, such as 500ms, 30s, 5m".to_owned())
}

/// Runs the command.
pub(crate) async fn run(app: &App, args: &Args) -> Done<Exit> {
    let read = match args.wait {
        Some(time) => wait(app, args, time).await?,
        None => get(app, args).await?,
    };
    // A deleted key has a context too: a put that follows replaces the delete.
    if let Some(context) = read.context() {
        app.remember(&args.name, Some(context.as_str())).await;
    }
    if args.explain {
        explain::of_answer(app, read.answered()).await?;
    }
    match read {
        Read::Absent(absent) => {
            let what = match (absent.has_expired(), absent.was_deleted()) {
                (true, _) => "has expired",
                (false, true) => "was deleted",
                (false, false) => "was never written",
            };
            let mut failure = Failure::new(Exit::NotFound, format!("{} {what}", args.name));
            failure.advice =
                Some(format!("`quorate keys {}` lists what is there", args.name.bucket));
            Err(failure.into())
        }
        Read::Value(_) if args.explain => Ok(Exit::Ok),
        Read::Siblings(_) if args.explain => Ok(Exit::Conflict),
        Read::Value(_) if args.sibling.is_some() => {
            let message = format!("{} has one value only, no siblings", args.name);
            Err(Failure::new(Exit::NotFound, message).advise("leave out --sibling").into())
        }
        Read::Value(value) => one(app, args, value),
        Read::Siblings(siblings) => match &args.sibling {
            Some(dot) => sibling(app, args, &siblings, dot),
            None => several(app, &args.name, &siblings),
        },
    }
}

async fn get(app: &App, args: &Args) -> Done<Read> {
    let options = args.quorum.options(args.common.timeout_ms, args.explain);
    let get = app.bucket(&args.name).get(args.name.key.as_str()).options(options);
    match patiently("waiting for the value", get.send()).await {
        Ok(read) => Ok(read),
        Err(error) => {
            if args.explain {
                explain::of_error(app, &error).await;
            }
            Err(app.failure(&error).into())
        }
    }
}

/// Reads the key once there is something new.
async fn wait(app: &App, args: &Args, time: Duration) -> Done<Read> {
    let given = Causality { context: args.context.clone(), blind: false };
    let seen = app.seen(&args.name, &given).await?.context;
    let (bucket, key) = (app.bucket(&args.name), args.name.key.as_str());
    let wait = match &seen {
        Some(seen) => bucket.wait_after(key, seen),
        None => bucket.wait(key),
    };
    let wait = wait.options(args.quorum.options(args.common.timeout_ms, false));
    let deadline = Instant::now() + time;
    loop {
        // Nodes wait for some time only, and for less if they stop.
        let left = deadline.saturating_duration_since(Instant::now());
        if left.is_zero() {
            let message = format!("nothing new under {} after {time:?}", args.name);
            let advice = "--wait takes a longer time; without it the key is read as it is";
            return Err(Failure::new(Exit::TimedOut, message).advise(advice).into());
        }
        let once = wait.clone().wait_for(left.min(WAIT_MAX));
        let begun = Instant::now();
        match app.ask("waiting for something new", once.send()).await? {
            // Who has seen nothing waits until it is there.
            Some(Read::Absent(absent)) if !absent.was_deleted() => {}
            Some(read) => return Ok(read),
            None => {}
        }
        tokio::time::sleep_until((begun + AGAIN_AFTER).min(deadline)).await;
    }
}

fn one(app: &App, args: &Args, read: Versioned) -> Done<Exit> {
    let context = read.context().as_str().to_owned();
    let stored = Stored::from(read);
    put_out(app, args, &stored, Some(&context))
}

fn sibling(app: &App, args: &Args, siblings: &Siblings, start: &str) -> Done<Exit> {
    let dots = siblings.siblings().iter().map(|sibling| sibling.dot.as_str());
    let dot = super::resolve::full_dot(start, dots, &args.name)?;
    let found = siblings.siblings().iter().find(|sibling| sibling.dot == dot);
    match found.map(Stored::from) {
        // Without a context: the others were not seen.
        Some(stored) if stored.value.is_some() => put_out(app, args, &stored, None),
        Some(_) | None => {
            Err(Failure::new(Exit::NotFound, format!("the sibling {dot} is a delete")).into())
        }
    }
}

fn put_out(app: &App, args: &Args, stored: &Stored, context: Option<&str>) -> Done<Exit> {
    let Some(value) = &stored.value else { return Ok(Exit::NotFound) };
    if app.out.json {
        app.out.json(&named(stored.json(), &args.name, context))?;
    } else if let Some(file) = &args.output {
        std::fs::write(file, &value.bytes)
            .map_err(|error| Failure::new(Exit::Failed, format!("{}: {error}", file.display())))?;
    } else {
        show(app, value)?;
    }
    Ok(Exit::Ok)
}

/// Prints a value: as it is into a file or a pipe; on a terminal only if that does no harm.
fn show(app: &App, value: &Value) -> Done {
    if !std::io::stdout().is_terminal() {
        return app.out.bytes(&value.bytes);
    }
    let harmful = |c: char| c.is_control() && !matches!(c, '\n' | '\t' | '\r');
    match value.text().filter(|text| !text.chars().any(harmful)) {
        Some(text) if text.ends_with('\n') || text.is_empty() => app.out.bytes(&value.bytes),
        Some(text) => app.out.line(text),
        None => {
            let size = crate::out::bytes(value.bytes.len() as u64);
            let kind = value.metadata.content_type.as_deref().unwrap_or("bytes");
            let message =
                format!("{size} of {} are not shown on a terminal", crate::out::short(kind, 60));
            Err(Failure::new(Exit::Failed, message).advise("use --output FILE, or a pipe").into())
        }
    }
}

/// Adds to JSON which key it is.
fn named(mut shown: Json, name: &Name, context: Option<&str>) -> Json {
    if let Json::Object(fields) = &mut shown {
        fields.insert("bucket".to_owned(), json!(name.bucket));
        fields.insert("key".to_owned(), json!(name.key));
        fields.insert("context".to_owned(), json!(context));
    }
    shown
}

fn several(app: &App, name: &Name, read: &Siblings) -> Done<Exit> {
    let siblings: Vec<Stored> = read.siblings().iter().map(Stored::from).collect();
    if app.out.json {
        let shown = json!({"siblings": siblings.iter().map(Stored::json).collect::<Vec<_>>()});
        app.out.json(&named(shown, name, Some(read.context().as_str())))?;
        return Ok(Exit::Conflict);
    }
    let count = siblings.len();
    app.out.note(&format!("{name} has {count} siblings, written without seeing each other:"));
    app.out.note(app.out.rendered(&super::siblings::table(&siblings)).trim_end());
    let dot = siblings.iter().find_map(|it| it.dot.as_deref()).unwrap_or("DOT");
    app.out.note(&format!(
        "Keep one:  quorate resolve {name} --keep {dot}\nMerge:     quorate resolve {name} 'NEW VALUE'\n\
         Read one:  quorate get {name} --sibling {dot}"
    ));
    Ok(Exit::Conflict)
}
