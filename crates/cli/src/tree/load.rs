//! Stores each regular file under a directory as `{bucket}/{relative path}` with its content type,
//! many at a time across all nodes, and reads them back from *another* node than the one that took
//! them, comparing bytes and content type.
//!
//! A file is one write whatever failures occur: each attempt carries the same `Idempotency-Key`. A
//! key that has siblings afterwards (the tree was loaded before) is resolved with their context.

use std::collections::BTreeMap;
use std::io::Read as _;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use quorate_client::{Client, Context, Error, Metadata, Read, Value};
use serde_json::json;
use tokio::task::JoinSet;

use super::job::{Job, MEMORY_KIB_MAX, Reader, Stored};
use super::walk::{self, FILE_BYTES_MAX, File};
use crate::app::App;
use crate::args::{Common, bucket_name};
use crate::exit::{Done, Exit, Failure};
use crate::progress::{Progress, TICK};
use crate::refusal;

/// How often the siblings of a key are resolved before that counts as a failure.
const RESOLVE_ROUNDS_MAX: usize = 5;

/// Store every file of a directory, and read it back if asked to.
#[derive(Clone, Debug, clap::Args)]
#[command(after_help = "Examples:
  quorate load ~/.cargo/registry/src --verify
  quorate load docs --bucket docs
  quorate load docs --verify-node http://127.0.0.1:7405

The key of a file is its path under DIR. Symlinks are skipped, and files larger than 8 MiB; both are
counted. Exits with 1 if a file was not stored, or was read back different.

JSON: stored and verified (files, of, bytes, seconds), retries, siblings_resolved, failures,
differences, skipped (by reason), problems.")]
pub struct Load {
    #[command(flatten)]
    shared: Shared,
    /// Afterwards read every file back from another node than took it, and compare
    #[arg(long)]
    verify: bool,
    /// The same, from this node
    #[arg(long, value_name = "URL")]
    verify_node: Option<String>,
    #[command(flatten)]
    pub(crate) common: Common,
}

/// Compare what an earlier `load` stored with the files as they are now. Nothing is stored.
#[derive(Clone, Debug, clap::Args)]
#[command(after_help = "Examples:
  quorate verify docs --bucket docs

Exits with 1 if a file is missing, or different. JSON: as `quorate load`.")]
pub struct Verify {
    #[command(flatten)]
    shared: Shared,
    #[command(flatten)]
    pub(crate) common: Common,
}

#[derive(Clone, Debug, clap::Args)]
struct Shared {
    /// The directory
    #[arg(value_name = "DIR")]
    directory: PathBuf,
    /// The bucket
    #[arg(long, default_value = "files", value_parser = bucket_name)]
    bucket: String,
    /// Files in flight at a time
    #[arg(long, value_name = "COUNT", default_value_t = 64,
          value_parser = clap::value_parser!(u16).range(1..=1024))]
    concurrency: u16,
    /// How long one file is retried, in seconds, before it counts as failed
    #[arg(long, value_name = "SECONDS", default_value_t = 60,
          value_parser = clap::value_parser!(u64).range(1..=3600))]
    patience: u64,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Step {
    Store,
    Verify,
}

/// Runs `load`.
pub(crate) async fn load(app: &App, args: &Load) -> Done<Exit> {
    let verify = args.verify || args.verify_node.is_some();
    run(app, &args.shared, true, verify, args.verify_node.as_deref()).await
}

/// Runs `verify`.
pub(crate) async fn verify(app: &App, args: &Verify) -> Done<Exit> {
    run(app, &args.shared, false, true, None).await
}

async fn run(
    app: &App,
    shared: &Shared,
    store: bool,
    verify: bool,
    from: Option<&str>,
) -> Done<Exit> {
    let client = app.nodes.bulk(Duration::from_secs(shared.patience))?;
    let root = shared.directory.clone();
    let tree = tokio::task::spawn_blocking(move || walk::walk(&root)).await;
    let tree =
        tree.map_err(|error| Failure::new(Exit::Failed, format!("listing files: {error}")))?;
    let mut tree = tree.map_err(Failure::usage)?;
    let skipped = std::mem::take(&mut tree.skipped);
    client.discover().await.map_err(|error| app.failure(&error))?;
    let bucket = client.bucket(shared.bucket.as_str());
    let mut job = Job::new(shared.directory.clone(), bucket, tree, !store);
    job.readers = readers(app, &client, shared, from)?;
    let job = Arc::new(job);
    let mut shown = json!({});
    if store {
        let seconds = work(&job, Step::Store, shared.concurrency).await;
        let (line, told) = job.told("stored", seconds);
        shown["stored"] = told;
        let more = format!(
            "{line}, {} retries, {} siblings resolved, {} failures",
            job.retries.load(Ordering::Relaxed),
            job.resolved.load(Ordering::Relaxed),
            job.count("failure")
        );
        tell(app, &more)?;
    }
    if verify {
        let seconds = work(&job, Step::Verify, shared.concurrency).await;
        let (line, told) = job.told("verified", seconds);
        shown["verified"] = told;
        let (differences, failures) = (job.count("difference"), job.count("failure"));
        tell(app, &format!("{line}, {differences} differences, {failures} failures"))?;
    }
    finish(app, &job, &skipped, shown)
}

fn tell(app: &App, line: &str) -> Done {
    if app.out.json { Ok(()) } else { app.out.line(line) }
}

fn finish(
    app: &App,
    job: &Job,
    skipped: &BTreeMap<&'static str, u64>,
    mut shown: serde_json::Value,
) -> Done<Exit> {
    for (reason, count) in skipped {
        tell(app, &format!("skipped: {count} ({reason})"))?;
    }
    let problems = job.named_problems();
    if app.out.json {
        shown["retries"] = json!(job.retries.load(Ordering::Relaxed));
        shown["siblings_resolved"] = json!(job.resolved.load(Ordering::Relaxed));
        shown["failures"] = json!(job.count("failure"));
        shown["differences"] = json!(job.count("difference"));
        shown["skipped"] = json!(skipped);
        shown["problems"] = json!(problems);
        app.out.json(&shown)?;
    } else {
        problems.iter().for_each(|problem| app.out.note(problem));
    }
    let good = job.count("failure") + job.count("difference") == 0;
    Ok(if good { Exit::Ok } else { Exit::Failed })
}

/// One client for each node, or for the one to read from.
fn readers(app: &App, client: &Client, shared: &Shared, from: Option<&str>) -> Done<Vec<Reader>> {
    let known: Vec<String> = match from {
        Some(url) => vec![url.to_owned()],
        None => client.known_nodes().into_iter().map(|node| node.url).collect(),
    };
    let patience = Duration::from_secs(shared.patience);
    let reader = |url: String| Ok(Reader { client: app.nodes.only(&url, patience)?, url });
    known.into_iter().map(reader).collect()
}

/// Performs one step for all files; returns the seconds it took.
async fn work(job: &Arc<Job>, step: Step, concurrency: u16) -> f64 {
    job.begin();
    let label = if step == Step::Store { "storing" } else { "verifying" };
    let mut progress = Progress::start(label, Some(job.files.len() as u64));
    let started = Instant::now();
    let mut workers = JoinSet::new();
    for _ in 0..concurrency {
        let job = job.clone();
        workers.spawn(async move { worker(&job, step).await });
    }
    let mut tick = tokio::time::interval(TICK);
    loop {
        tokio::select! {
            finished = workers.join_next() => match finished {
                None => break,
                Some(Ok(())) => {}
                Some(Err(error)) => job.problem("failure", format!("a worker stopped: {error}")),
            },
            _ = tick.tick() => {
                let mib = job.bytes.load(Ordering::Relaxed) / (1024 * 1024);
                let retries = job.retries.load(Ordering::Relaxed);
                let failures = job.count("failure") + job.count("difference");
                let message = format!("{mib} MiB, {retries} retries, {failures} failures");
                progress.show(job.done.load(Ordering::Relaxed), &message);
            }
        }
    }
    progress.finish();
    started.elapsed().as_secs_f64()
}

/// Processes files until none is left.
async fn worker(job: &Job, step: Step) {
    loop {
        let place = job.next.fetch_add(1, Ordering::Relaxed);
        let Some(file) = job.files.get(place) else { return };
        let kib = u32::try_from(file.size_bytes.div_ceil(1024)).unwrap_or(MEMORY_KIB_MAX);
        let Ok(_memory) = job.memory.acquire_many(kib.clamp(1, MEMORY_KIB_MAX)).await else {
            return;
        };
        let result = match step {
            Step::Store => store(job, place, file).await.map_err(|it| ("failure", it)),
            Step::Verify => compare(job, place, file).await,
        };
        match result {
            Ok(bytes) => {
                job.bytes.fetch_add(bytes, Ordering::Relaxed);
                job.done.fetch_add(1, Ordering::Relaxed);
            }
            Err((kind, problem)) => job.problem(kind, format!("{}: {problem}", file.key)),
        }
    }
}

/// Stores one file and returns its size.
async fn store(job: &Job, place: usize, file: &File) -> Result<u64, String> {
    let told = |error: Error| refusal::of(&error).message;
    let bytes = read_file(job.root.join(&file.key)).await?;
    let metadata =
        Metadata { content_type: Some(file.content_type.clone()), ..Metadata::default() };
    let (length, digest) = (bytes.len() as u64, blake3::hash(&bytes));
    let value = Value { bytes: bytes.into(), metadata };
    let mut context: Option<Context> = None;
    for round in 0..=RESOLVE_ROUNDS_MAX {
        let put = match &context {
            None => job.bucket.put_blind(file.key.as_str(), value.clone()),
            Some(context) => job.bucket.put_after(file.key.as_str(), context, value.clone()),
        };
        let put = put.idempotency_key(format!("{:032x}-{place}-{round}", job.run));
        let written = put.send().await.map_err(told)?;
        let again = u64::from(written.answered.attempts.saturating_sub(1));
        job.retries.fetch_add(again, Ordering::Relaxed);
        if written.siblings == 1 {
            job.set_stored(place, Stored { digest, node: Some(written.answered.node) });
            return Ok(length);
        }
        job.resolved.fetch_add(1, Ordering::Relaxed);
        let read = job.bucket.get(file.key.as_str()).send().await.map_err(told)?;
        context = read.context().cloned();
    }
    Err(format!("still in conflict after {RESOLVE_ROUNDS_MAX} resolutions"))
}

/// Reads one file back and returns its size.
async fn compare(job: &Job, place: usize, file: &File) -> Result<u64, (&'static str, String)> {
    let stored = match job.stored(place) {
        Some(stored) => stored,
        // This run failed to store it, and has already reported that.
        None if !job.only_verifies => return Ok(0),
        None => {
            let body = read_file(job.root.join(&file.key)).await.map_err(|it| ("failure", it))?;
            Stored { digest: blake3::hash(&body), node: None }
        }
    };
    let others = job.readers.iter().filter(|reader| Some(&reader.url) != stored.node.as_ref());
    let mut candidates: Vec<&Reader> = others.collect();
    if candidates.is_empty() {
        candidates = job.readers.iter().collect();
    }
    let turn = place % candidates.len().max(1);
    candidates.rotate_left(turn);
    let mut failure = "no node to read from".to_owned();
    for reader in candidates {
        let bucket = reader.client.bucket(job.bucket.name());
        match bucket.get(file.key.as_str()).send().await {
            Ok(read) => {
                return difference(&read, file, stored.digest).map_err(|it| ("difference", it));
            }
            Err(error) => failure = refusal::of(&error).message,
        }
    }
    Err(("failure", failure))
}

/// The size of what was read, if it is what was stored.
fn difference(read: &Read, file: &File, digest: blake3::Hash) -> Result<u64, String> {
    let value = match read {
        Read::Value(versioned) => versioned.value(),
        Read::Siblings(siblings) => return Err(format!("{} siblings", siblings.siblings().len())),
        Read::Absent(_) => return Err("there is no such key".to_owned()),
    };
    let found = value.metadata.content_type.as_deref().unwrap_or_default();
    if found != file.content_type {
        return Err(format!("content type {found:?}, not {:?}", file.content_type));
    }
    if blake3::hash(&value.bytes) != digest {
        return Err(format!("{} bytes that are not the file's", value.bytes.len()));
    }
    Ok(value.bytes.len() as u64)
}

/// Reads a file, up to the largest size of a value.
async fn read_file(path: PathBuf) -> Result<Vec<u8>, String> {
    let read = move || -> Result<Vec<u8>, String> {
        let mut bytes = Vec::new();
        let file = std::fs::File::open(&path).map_err(|error| format!("cannot open: {error}"))?;
        let count = file
            .take(FILE_BYTES_MAX + 1)
            .read_to_end(&mut bytes)
            .map_err(|error| format!("cannot read: {error}"))?;
        if count as u64 > FILE_BYTES_MAX {
            return Err("it grew past the largest value while it was loaded".to_owned());
        }
        Ok(bytes)
    };
    tokio::task::spawn_blocking(read).await.map_err(|error| format!("reading stopped: {error}"))?
}
