//! `quorate export`.

use std::fs::File;
use std::io::Write;
use std::path::Path;
use std::path::PathBuf;
use std::time::Duration;

use futures_util::stream::{self, StreamExt};
use quorate_client::{Bucket, Read};
use serde_json::json;

use super::line::Line;
use crate::app::App;
use crate::args::{Common, Name, bucket_name};
use crate::data::value::Stored;
use crate::exit::{Done, Exit, Failure, Stop};
use crate::out::{bytes, count, note};
use crate::progress::Progress;

/// Keys listed, and read, before the cursor moves on.
const PAGE: u16 = 100;
/// Keys read at a time.
const READS: usize = 16;
/// How long one read is retried.
const PATIENCE: Duration = Duration::from_secs(60);

/// Write the keys of a bucket as JSON lines, with types, metadata, index entries, siblings and contexts.
#[derive(Clone, Debug, clap::Args)]
#[command(after_help = "Examples:
  quorate export carts > carts.jsonl
  quorate export files --prefix src/ --output src.jsonl
  quorate export files --output src.jsonl --cursor CURSOR     # go on where it stopped

Each line: {\"bucket\", \"key\", \"context\", \"siblings\": [{\"value\", \"encoding\" (base64 if it is not
UTF-8), \"content_type\", \"expires_at\" (null: never), \"meta\", \"index\" (its index entries, if any),
\"dot\", \"writer\", \"written_at\", ...}]}.
A key without a conflict has one sibling. It is no snapshot: keys written meanwhile may be old or new.

If it stops, it tells the cursor to go on with; up to 100 keys may then come twice, which `import`
counts as same. Exits with 5 if keys may be missing. Buckets with a type are not exported: `quorate
backup` has them. With --json the summary is JSON: keys, in_conflict, bytes, complete.")]
pub struct Args {
    /// The bucket
    #[arg(value_parser = bucket_name)]
    bucket: String,
    /// Only keys that start with this
    #[arg(long, default_value = "", hide_default_value = true, value_name = "TEXT")]
    prefix: String,
    /// Write to a new file; with --cursor append to it [default: standard output]
    #[arg(long, short, value_name = "FILE")]
    output: Option<PathBuf>,
    /// Go on where an earlier export stopped
    #[arg(long)]
    cursor: Option<String>,
    #[command(flatten)]
    pub(crate) common: Common,
}

/// An export under way.
struct Export<'a> {
    app: &'a App,
    prefix: &'a str,
    bucket: Bucket,
    file: Option<File>,
    /// Where the page that is being read begins.
    cursor: Option<String>,
    keys: u64,
    in_conflict: u64,
    bytes: u64,
    complete: bool,
    progress: Progress,
}

/// Runs the command.
pub(crate) async fn run(app: &App, args: &Args) -> Done<Exit> {
    let client = app.nodes.bulk(PATIENCE)?;
    client.discover().await.map_err(|error| app.failure(&error))?;
    let open = |path: &PathBuf| open(path, args.cursor.is_some());
    let mut export = Export {
        app,
        prefix: &args.prefix,
        bucket: client.bucket(args.bucket.as_str()),
        file: args.output.as_ref().map(open).transpose()?,
        cursor: args.cursor.clone(),
        keys: 0,
        in_conflict: 0,
        bytes: 0,
        complete: true,
        progress: Progress::start("exporting", None),
    };
    let ended = tokio::select! {
        ended = export.all() => ended,
        _ = tokio::signal::ctrl_c() => Err(Failure::new(Exit::Failed, "interrupted").into()),
    };
    match ended {
        Ok(()) => export.tell(),
        Err(Stop::ClosedPipe) => Err(Stop::ClosedPipe),
        Err(Stop::Failed(failure)) => Err(export.stopped(*failure).into()),
    }
}

fn open(path: &Path, append: bool) -> Done<File> {
    let mut options = File::options();
    match append {
        true => options.append(true).create(true),
        false => options.write(true).create_new(true),
    };
    options.open(path).map_err(|error| {
        Failure::usage(format!("{}: {error}", path.display()))
            .advise("a new export wants a new file; with --cursor it is appended to")
            .into()
    })
}

impl Export<'_> {
    async fn all(&mut self) -> Done {
        let keys = self.bucket.keys().prefix(self.prefix).limit(PAGE);
        loop {
            let page = keys.page(self.cursor.as_deref()).await;
            let page = page.map_err(|error| self.app.failure(&error))?;
            self.complete &= page.complete;
            let bucket = self.bucket.clone();
            let reads = stream::iter(&page.keys).map(|key| read(&bucket, key));
            let mut lines = reads.buffered(READS);
            while let Some(line) = lines.next().await {
                if let Some(line) = line.map_err(|error| self.app.failure(&error))? {
                    self.write(&line)?;
                }
            }
            // A node that names the same place again would keep this loop going forever.
            if page.cursor.is_none() || page.cursor == self.cursor {
                return Ok(());
            }
            self.cursor = page.cursor;
        }
    }

    fn write(&mut self, line: &Line) -> Done {
        self.keys += 1;
        self.in_conflict += u64::from(line.siblings.len() > 1);
        self.bytes += line.siblings.iter().filter_map(Stored::size).sum::<u64>();
        let text = format!("{}\n", line.json());
        match &mut self.file {
            None => self.app.out.bytes(text.as_bytes())?,
            Some(file) => file
                .write_all(text.as_bytes())
                .map_err(|error| Failure::new(Exit::Failed, format!("the output file: {error}")))?,
        }
        self.progress.show(self.keys, &format!("keys, {}", bytes(self.bytes)));
        Ok(())
    }

    fn stopped(self, mut failure: Failure) -> Failure {
        self.progress.finish();
        if failure.problem.as_ref().is_some_and(|problem| problem["name"] == "wrong_type") {
            failure.advice =
                Some("buckets with a type are not exported: `quorate backup` has them".to_owned());
            return failure;
        }
        failure.message = format!("{} (after {})", failure.message, count(self.keys, "key"));
        failure.advice = Some(match self.cursor {
            Some(cursor) => {
                format!("go on with the same command and --cursor {}", crate::out::safe(&cursor))
            }
            None => "begin again: it had not come to a first cursor".to_owned(),
        });
        failure
    }

    fn tell(self) -> Done<Exit> {
        self.progress.finish();
        let exit = if self.complete { Exit::Ok } else { Exit::Unavailable };
        if self.app.out.json {
            let shown = json!({
                "keys": self.keys,
                "in_conflict": self.in_conflict,
                "bytes": self.bytes,
                "complete": self.complete,
            });
            match self.file {
                Some(_) => self.app.out.json(&shown)?,
                None => note(&shown.to_string()), // standard output has the keys
            }
            return Ok(exit);
        }
        let (keys, size) = (count(self.keys, "key"), bytes(self.bytes));
        note(&format!("exported {keys}, {size}, {} in conflict", self.in_conflict));
        if !self.complete {
            note(
                "note: keys may be missing: too few replicas of some partition answered \
                 (quorate status)",
            );
        }
        Ok(exit)
    }
}

/// Reads one key; `None` if it was deleted since it was listed.
async fn read(bucket: &Bucket, key: &str) -> Result<Option<Line>, quorate_client::Error> {
    let read = bucket.get(key).send().await?;
    let context = read.context().map(|context| context.as_str().to_owned());
    let siblings = match read {
        Read::Absent(_) => return Ok(None),
        Read::Value(versioned) => vec![Stored::from(versioned)],
        Read::Siblings(siblings) => siblings.siblings().iter().map(Stored::from).collect(),
    };
    let name = Name { bucket: bucket.name().to_owned(), key: key.to_owned() };
    Ok(Some(Line { name, context, siblings }))
}
