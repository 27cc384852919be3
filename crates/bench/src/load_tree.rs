//! `load-tree`: stores each regular file under a directory as `/kv/{bucket}/{relative path}` with
//! its content type, many at a time across all nodes; `--verify` reads all of them back from
//! *another* node than the one that stored them, and compares bytes and content type.
//!
//! A file is one write whatever failures occur: each attempt carries the same `Idempotency-Key`. A
//! key that has siblings afterwards (the tree was loaded before) is resolved with their context.

use std::io::Read;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Instant;

use tokio::task::JoinSet;

use crate::ask::{Asker, describe};
use crate::http::{Request, Response};
use crate::progress::{Progress, TICK};
use crate::tree::{self, FILE_BYTES_MAX, File};
use crate::tree_job::{Job, MEMORY_KIB_MAX, Stored};
use crate::{Outcome, path};

/// How often the siblings of a key are resolved before that counts as a failure.
const RESOLVE_ROUNDS_MAX: usize = 5;

/// Store every file under a directory, and read it back.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// The directory. Symlinks below it are skipped.
    pub(crate) directory: PathBuf,
    /// The nodes to spread the files over.
    #[arg(long, value_delimiter = ',', required = true, value_name = "URL,URL,…")]
    pub(crate) nodes: Vec<String>,
    /// Files in flight at a time.
    #[arg(long, default_value_t = 64, value_parser = clap::value_parser!(u16).range(1..=4096))]
    pub(crate) concurrency: u16,
    /// The bucket to store them in.
    #[arg(long, default_value = "files")]
    pub(crate) bucket: String,
    /// Afterwards read every file back from another node than the one that stored it, and compare.
    #[arg(long)]
    pub(crate) verify: bool,
    /// Read back from this node (it then stores no files, unless it is the only one).
    #[arg(long, value_name = "URL")]
    pub(crate) verify_node: Option<String>,
    /// Store nothing: compare what an earlier run stored with the files as they are now.
    #[arg(long)]
    pub(crate) verify_only: bool,
    /// How long one file is retried before it counts as failed.
    #[arg(long, default_value_t = 60)]
    pub(crate) patience_seconds: u64,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Step {
    Store,
    Verify,
}

/// Runs the command.
///
/// # Errors
/// What kept it from starting. Failures and differences are in the outcome.
pub(crate) async fn run(args: Args) -> Result<Outcome, String> {
    let root = args.directory.clone();
    let tree = tokio::task::spawn_blocking(move || tree::walk(&root))
        .await
        .map_err(|error| format!("listing files failed: {error}"))??;
    let (job, skipped) = Job::new(&args, tree).await?;
    let job = Arc::new(job);
    let mut report = String::new();
    if !args.verify_only {
        let (seconds, bytes) = work(&job, Step::Store, args.concurrency).await;
        report += &job.line("stored", seconds, bytes);
        report += &format!(
            ", {} retries, {} siblings resolved, {} failures\n",
            job.cluster.retries(),
            job.resolved.load(Ordering::Relaxed),
            job.count("failure")
        );
    }
    if args.verify || args.verify_only || args.verify_node.is_some() {
        let (seconds, bytes) = work(&job, Step::Verify, args.concurrency).await;
        report += &job.line("verified", seconds, bytes);
        report += &format!(
            ", {} differences, {} failures\n",
            job.count("difference"),
            job.count("failure")
        );
    }
    for (reason, count) in &skipped {
        report += &format!("skipped: {count} ({reason})\n");
    }
    report += &job.named_problems();
    Ok(Outcome { report, good: job.count("failure") + job.count("difference") == 0 })
}

/// Performs one step for all files; returns the seconds it took and the bytes it moved.
async fn work(job: &Arc<Job>, step: Step, concurrency: u16) -> (f64, u64) {
    job.next.store(0, Ordering::Relaxed);
    job.done.store(0, Ordering::Relaxed);
    job.bytes.store(0, Ordering::Relaxed);
    let label = if step == Step::Store { "storing" } else { "verifying" };
    let mut progress = Progress::start(label, job.files.len() as u64);
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
                let retries = job.cluster.retries();
                let failures = job.count("failure") + job.count("difference");
                let message = format!("{mib} MiB, {retries} retries, {failures} failures");
                progress.show(job.done.load(Ordering::Relaxed), &message);
            }
        }
    }
    progress.finish();
    (started.elapsed().as_secs_f64(), job.bytes.load(Ordering::Relaxed))
}

/// Processes files until none is left.
async fn worker(job: &Job, step: Step) {
    let mut asker = Asker::new(&job.cluster);
    loop {
        let place = job.next.fetch_add(1, Ordering::Relaxed);
        let Some(file) = job.files.get(place) else { return };
        let kib = u32::try_from(file.size_bytes.div_ceil(1024)).unwrap_or(MEMORY_KIB_MAX);
        let Ok(_memory) = job.memory.acquire_many(kib.clamp(1, MEMORY_KIB_MAX)).await else {
            return;
        };
        let result = match step {
            Step::Store => store(job, &mut asker, place, file).await,
            Step::Verify => verify(job, &mut asker, place, file).await,
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

type Troubled<T> = Result<T, (&'static str, String)>;

/// Stores one file and returns its size.
async fn store(job: &Job, asker: &mut Asker<'_>, place: usize, file: &File) -> Troubled<u64> {
    let failure = |problem| ("failure", problem);
    let body = read_file(job.root.join(&file.key)).await.map_err(failure)?;
    let path = path::of_key(&job.bucket, &file.key);
    let order = rotated(&job.writers, place);
    let mut context = String::new();
    for round in 0..=RESOLVE_ROUNDS_MAX {
        let idempotency_key = format!("{:032x}-{place}-{round}", job.run);
        let mut headers = vec![
            ("Content-Type", file.content_type.as_str()),
            ("Idempotency-Key", &idempotency_key),
        ];
        if round > 0 {
            headers.push(("Quorate-Context", &context));
        }
        let put = Request { method: "PUT", path: &path, headers: &headers, body: &body };
        let taken =
            asker.ask(&order, &put, |node, answer| siblings_left(answer).map(|it| (node, it)));
        let (node, siblings) = taken.await.and_then(|it| it).map_err(failure)?;
        if siblings == 1 {
            job.set_stored(place, Stored { digest: blake3::hash(&body), node: Some(node) });
            return Ok(body.len() as u64);
        }
        job.resolved.fetch_add(1, Ordering::Relaxed);
        context = read_context(asker, &order, &path).await.map_err(failure)?;
    }
    Err(failure(format!("still in conflict after {RESOLVE_ROUNDS_MAX} resolutions")))
}

/// How many siblings the key has after a PUT.
fn siblings_left(answer: &Response<'_>) -> Result<u64, String> {
    let siblings = answer.header("quorate-siblings").and_then(|it| it.parse().ok());
    match (answer.status, siblings) {
        (204, Some(siblings @ 1..)) => Ok(siblings),
        (204, _) => Err("PUT answered 204 without a Quorate-Siblings count".to_string()),
        _ => Err(format!("PUT answered {}", describe(answer))),
    }
}

/// The context of everything that the key currently holds.
async fn read_context(
    asker: &mut Asker<'_>,
    order: &[usize],
    path: &str,
) -> Result<String, String> {
    let get = Request { method: "GET", path, headers: &[], body: b"" };
    let context = |_, answer: &Response<'_>| {
        let found = answer.header("quorate-context").map(str::to_string);
        found.ok_or_else(|| format!("GET answered no context: {}", describe(answer)))
    };
    asker.ask(order, &get, context).await?
}

/// Reads one file back and returns its size.
async fn verify(job: &Job, asker: &mut Asker<'_>, place: usize, file: &File) -> Troubled<u64> {
    let stored = match job.stored(place) {
        Some(stored) => stored,
        // This run failed to store it, and has already reported that.
        None if !job.verify_only => return Ok(0),
        None => {
            let body = read_file(job.root.join(&file.key)).await.map_err(|it| ("failure", it))?;
            Stored { digest: blake3::hash(&body), node: None }
        }
    };
    let others: Vec<usize> =
        job.readers.iter().copied().filter(|node| Some(*node) != stored.node).collect();
    let candidates = if others.is_empty() { &job.readers } else { &others };
    let path = path::of_key(&job.bucket, &file.key);
    let get = Request { method: "GET", path: &path, headers: &[], body: b"" };
    let order = rotated(candidates, place);
    let compared = asker.ask(&order, &get, |_, answer| {
        if answer.status != 200 {
            return Err(format!("GET answered {}", describe(answer)));
        }
        let content_type = answer.header("content-type").unwrap_or_default();
        if content_type != file.content_type {
            let stored = &file.content_type;
            return Err(format!("content type {content_type:?}, but {stored:?} was stored"));
        }
        if blake3::hash(answer.body) != stored.digest {
            return Err(format!("{} bytes that are not the file's", answer.body.len()));
        }
        Ok(answer.body.len() as u64)
    });
    compared.await.map_err(|it| ("failure", it))?.map_err(|it| ("difference", it))
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
            return Err("it grew past the largest value while it was loaded".to_string());
        }
        Ok(bytes)
    };
    tokio::task::spawn_blocking(read).await.map_err(|error| format!("reading stopped: {error}"))?
}

/// The candidates, starting with the one whose turn it is.
fn rotated(candidates: &[usize], turn: usize) -> Vec<usize> {
    let skip = turn % candidates.len().max(1);
    candidates.iter().cycle().skip(skip).take(candidates.len()).copied().collect()
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use crate::fake::Server;

    const PUT_OK: &str = "HTTP/1.1 204 No Content\r\nQuorate-Siblings: 1\r\n\r\n";
    const PUT_CONFLICT: &str = "HTTP/1.1 204 No Content\r\nQuorate-Siblings: 2\r\n\r\n";

    async fn server(answers: &[&str]) -> Server {
        Server::start(answers.iter().map(|it| vec![it.to_string()]).collect()).await
    }

    /// Loads a directory that holds only `a b.txt` ("hello"), with one worker.
    async fn load(writer: &Server, reader: Option<&Server>) -> Outcome {
        let directory = tempfile::tempdir().unwrap();
        std::fs::write(directory.path().join("a b.txt"), "hello").unwrap();
        run(Args {
            directory: directory.path().to_path_buf(),
            nodes: vec![writer.node().name],
            concurrency: 1,
            bucket: "files".to_string(),
            verify: reader.is_some(),
            verify_node: reader.map(|it| it.node().name),
            verify_only: false,
            patience_seconds: 1,
        })
        .await
        .unwrap()
    }

    fn get_ok(content_type: &str, body: &str) -> String {
        let length = body.len();
        format!(
            "HTTP/1.1 200 OK\r\nContent-Type: {content_type}\r\n\
             Content-Length: {length}\r\n\r\n{body}"
        )
    }

    #[tokio::test]
    async fn a_file_is_stored_and_read_back_from_another_node() {
        let writer = server(&[PUT_OK]).await;
        let reader = server(&[&get_ok("text/plain", "hello")]).await;
        let outcome = load(&writer, Some(&reader)).await;
        assert!(outcome.good, "{}", outcome.report);
        assert!(outcome.report.contains("verified: 1 of 1 files"), "{}", outcome.report);
        let put = writer.requests().remove(0);
        assert!(put.starts_with("PUT /kv/files/a%20b.txt HTTP/1.1"), "{put}");
        assert!(put.contains("Content-Type: text/plain\r\nIdempotency-Key: "), "{put}");
        assert!(put.ends_with("\r\n\r\nhello"), "{put}");
    }

    #[tokio::test]
    async fn a_retry_carries_the_same_idempotency_key() {
        let busy = "HTTP/1.1 503 Busy\r\nRetry-After: 0\r\nContent-Length: 0\r\n\r\n";
        let writer = server(&[busy, PUT_OK]).await;
        assert!(load(&writer, None).await.good);
        let requests = writer.requests();
        assert_eq!(requests.len(), 2);
        assert_eq!(requests[0], requests[1]);
    }

    #[tokio::test]
    async fn siblings_are_resolved_with_their_context() {
        let seen = "HTTP/1.1 300 Multiple\r\nQuorate-Context: c0\r\nContent-Length: 0\r\n\r\n";
        let writer = server(&[PUT_CONFLICT, seen, PUT_OK]).await;
        let outcome = load(&writer, None).await;
        assert!(
            outcome.good && outcome.report.contains("1 siblings resolved"),
            "{}",
            outcome.report
        );
        let requests = writer.requests();
        assert!(requests[1].starts_with("GET /kv/files/a%20b.txt"), "{}", requests[1]);
        assert!(requests[2].contains("Quorate-Context: c0\r\n"), "{}", requests[2]);
        assert_ne!(
            requests[0].lines().nth(3),
            requests[2].lines().nth(3),
            "a new write, a new key"
        );
    }

    #[tokio::test]
    async fn other_bytes_another_type_or_nothing_are_differences() {
        let gone = "HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\n\r\n".to_string();
        for answer in [get_ok("text/plain", "hellO"), get_ok("text/html", "hello"), gone] {
            let writer = server(&[PUT_OK]).await;
            let reader = server(&[&answer]).await;
            let outcome = load(&writer, Some(&reader)).await;
            assert!(
                !outcome.good && outcome.report.contains("1 differences"),
                "{}",
                outcome.report
            );
        }
    }

    #[tokio::test]
    async fn a_refused_file_is_a_failure_by_name() {
        let writer = server(&["HTTP/1.1 413 Too Large\r\nContent-Length: 0\r\n\r\n"]).await;
        let outcome = load(&writer, None).await;
        assert!(!outcome.good);
        assert!(
            outcome.report.contains("failure: a b.txt: PUT answered 413"),
            "{}",
            outcome.report
        );
    }
}
