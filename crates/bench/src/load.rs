//! `run`: PUT and GET as fast as they go (closed loop), or at a given rate (open loop), for a time.
//!
//! Each connection writes keys of its own, one after the other, so that the sequence number of a key only
//! grows; it reads the keys of all. Each answer is checked: the key, the checksum, and whether it is older
//! than the last acknowledged write. The bucket is `lww`: writing a key again makes no siblings.

use std::fmt::Write;
use std::ops::Range;
use std::path::PathBuf;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use tokio::task::JoinSet;

use crate::ask::describe;
use crate::http::{Client, Error, Node, Request};
use crate::pace::Pace;
use crate::progress::{Progress, TICK};
use crate::summary::{Recorder, Summary};
use crate::usage::{self, Usage};
use crate::value::{self, Maker, VALUE_BYTES_MIN};
use crate::{Outcome, path};

/// How long one operation may take before it counts as a timeout.
const OPERATION_TIMEOUT: Duration = Duration::from_secs(10);
/// The largest answer, in bytes.
const BODY_BYTES_MAX: usize = 16 * 1024 * 1024;
/// How long a connection rests after it broke: a node that is down is not asked in a tight loop.
const AFTER_BREAK: Duration = Duration::from_millis(20);
/// How long the bucket's properties may take to be known everywhere.
const BUCKET_TIMEOUT: Duration = Duration::from_secs(10);
/// How often one key is tried while the keys are laid down before reading.
const PRELOAD_TRIES_MAX: usize = 100;

/// What to do to the cluster.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub(crate) enum Op {
    /// Only PUT.
    Put,
    /// Only GET, of keys that were stored before.
    Get,
    /// Half PUT, half GET.
    Mixed,
}

impl Op {
    pub(crate) fn name(self) -> &'static str {
        match self {
            Op::Put => "put",
            Op::Get => "get",
            Op::Mixed => "mixed",
        }
    }
}

/// Load a cluster and measure it.
#[derive(Clone, Debug, clap::Args)]
pub(crate) struct Args {
    /// The nodes to spread the connections over.
    #[arg(long, value_delimiter = ',', required = true, value_name = "URL,URL,…")]
    pub(crate) nodes: Vec<String>,
    /// What to do.
    #[arg(long, value_enum, default_value = "put")]
    pub(crate) op: Op,
    /// Connections, and so operations in flight.
    #[arg(long, default_value_t = 64, value_parser = clap::value_parser!(u16).range(1..=4096))]
    pub(crate) connections: u16,
    /// The length of the measurement.
    #[arg(long, default_value_t = 10.0, value_parser = seconds)]
    pub(crate) seconds: f64,
    /// Load before it that is not measured.
    #[arg(long, default_value_t = 2.0, value_parser = seconds)]
    pub(crate) warmup_seconds: f64,
    /// Bytes of a value.
    #[arg(long, default_value_t = 1024, value_parser = value_bytes)]
    pub(crate) value_bytes: usize,
    /// How many keys.
    #[arg(long, default_value_t = 100_000, value_parser = clap::value_parser!(u64).range(1..=50_000_000))]
    pub(crate) keys: u64,
    /// Open loop: this many operations per second; latencies count from the intended start.
    #[arg(long, value_name = "OPS", value_parser = rate)]
    pub(crate) rate: Option<f64>,
    /// Add the result to this file, as one line of JSON.
    #[arg(long, value_name = "FILE")]
    pub(crate) json: Option<PathBuf>,
    /// Processes whose processor time and memory to report: the nodes.
    #[arg(long, value_delimiter = ',', value_name = "PID,PID,…")]
    pub(crate) pids: Vec<u32>,
    /// The bucket; it is set to `conflicts = lww`.
    #[arg(long, default_value = "bench")]
    pub(crate) bucket: String,
    /// Parameters for each request, for example `w=1`.
    #[arg(long, default_value = "")]
    pub(crate) query: String,
    /// Do not store the keys before reading them.
    #[arg(long)]
    pub(crate) skip_preload: bool,
    /// Take any body for an answer to GET (for the ceiling server, which knows only one).
    #[arg(long)]
    pub(crate) any_value: bool,
    /// What to call the result.
    #[arg(long, default_value = "cluster")]
    pub(crate) name: String,
}

fn seconds(text: &str) -> Result<f64, String> {
    let seconds: f64 = text.parse().map_err(|_| "expected a number of seconds".to_string())?;
    if (0.0..=86_400.0).contains(&seconds) { Ok(seconds) } else { Err("0 to 86400".to_string()) }
}

fn rate(text: &str) -> Result<f64, String> {
    let rate: f64 = text.parse().map_err(|_| "expected operations per second".to_string())?;
    if (0.1..=1e7).contains(&rate) { Ok(rate) } else { Err("0.1 to 10000000".to_string()) }
}

fn value_bytes(text: &str) -> Result<usize, String> {
    let bytes: usize = text.parse().map_err(|_| "expected a number of bytes".to_string())?;
    let limits = VALUE_BYTES_MIN..=8 * 1024 * 1024;
    if limits.contains(&bytes) { Ok(bytes) } else { Err(format!("{limits:?}")) }
}

/// How one operation ended.
#[derive(Debug, PartialEq, Eq)]
enum Ended {
    Good,
    /// A true value, but not the last acknowledged one.
    Stale,
    Wrong(String),
    Status(u16),
    Broken(&'static str),
}

/// Everything that the connections share.
struct Job {
    args: Args,
    nodes: Vec<Node>,
    maker: Maker,
    /// The last acknowledged sequence number of each key; 0 where this run wrote none.
    acknowledged: Vec<AtomicU64>,
    /// Sequence numbers begin here: later runs begin higher.
    sequence_base: u64,
}

/// Runs the command.
///
/// # Errors
/// What kept it from measuring.
pub(crate) async fn run(args: Args) -> Result<Outcome, String> {
    let summary = measure(args).await?;
    Ok(Outcome { report: summary.text(), good: summary.good() })
}

/// Makes the bucket, stores the keys if they are to be read, and measures.
///
/// # Errors
/// What kept it from measuring.
pub(crate) async fn measure(args: Args) -> Result<Summary, String> {
    let nodes = path::nodes(&args.nodes).await?;
    if args.keys < u64::from(args.connections) {
        return Err("--keys must be at least --connections: each connection writes its own".into());
    }
    make_bucket(&nodes, &args.bucket).await?;
    let since_1970 = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    let job = Arc::new(Job {
        maker: Maker::new(args.value_bytes),
        acknowledged: (0..args.keys).map(|_| AtomicU64::new(0)).collect(),
        sequence_base: since_1970.as_micros() as u64,
        nodes,
        args,
    });
    if job.args.op != Op::Put && !job.args.skip_preload && !job.args.any_value {
        preload(&job).await?;
    }
    let summary = window(&job).await?;
    if let Some(path) = &job.args.json {
        summary.append_to(path)?;
    }
    Ok(summary)
}

/// Sets the bucket to `lww`, and waits until every node knows.
async fn make_bucket(nodes: &[Node], bucket: &str) -> Result<(), String> {
    let path = format!("/buckets/{bucket}");
    let headers = [("Content-Type", "application/json")];
    let body = br#"{"conflicts":"lww"}"#;
    let put = Request { method: "PUT", path: &path, headers: &headers, body };
    let get = Request { method: "GET", path: &path, headers: &[], body: b"" };
    let deadline = Instant::now() + BUCKET_TIMEOUT;
    for (place, node) in nodes.iter().enumerate() {
        let mut client = Client::new(node.clone(), OPERATION_TIMEOUT, BODY_BYTES_MAX);
        let asked = |error: Error| format!("{}: bucket {bucket}: {error}", node.name);
        if place == 0 {
            let answer = client.send(&put).await.map_err(asked)?;
            if !(200..300).contains(&answer.status) {
                return Err(format!("{}: PUT {path}: {}", node.name, describe(&answer)));
            }
        }
        loop {
            let answer = client.send(&get).await.map_err(asked)?;
            let known: serde_json::Value = serde_json::from_slice(answer.body).unwrap_or_default();
            if known.get("conflicts").and_then(|it| it.as_str()) == Some("lww") {
                break;
            }
            if Instant::now() >= deadline {
                return Err(format!("{}: GET {path}: {}", node.name, describe(&answer)));
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    }
    Ok(())
}

/// Stores every key once, so that there is something to read.
async fn preload(job: &Arc<Job>) -> Result<(), String> {
    let mut workers = JoinSet::new();
    for place in 0..usize::from(job.args.connections) {
        let job = job.clone();
        workers.spawn(async move {
            let mut hand = Hand::new(&job, place);
            for _ in 0..hand.own_keys {
                let mut tries = 0;
                while let ended @ (Ended::Status(_) | Ended::Broken(_)) = hand.put().await {
                    tries += 1;
                    if tries == PRELOAD_TRIES_MAX {
                        return Err(format!("storing the keys to read: {ended:?}"));
                    }
                    tokio::time::sleep(AFTER_BREAK).await;
                }
            }
            Ok(())
        });
    }
    let mut progress = Progress::start("storing keys", job.args.keys);
    let mut tick = tokio::time::interval(TICK);
    loop {
        tokio::select! {
            finished = workers.join_next() => match finished {
                None => break,
                Some(ended) => ended.map_err(|error| format!("a connection stopped: {error}"))??,
            },
            _ = tick.tick() => {
                let stored = job.acknowledged.iter().filter(|it| it.load(Ordering::Relaxed) > 0);
                progress.show(stored.count() as u64, "keys");
            }
        }
    }
    progress.finish();
    Ok(())
}

/// Warms up, measures, and waits for what is still in flight.
async fn window(job: &Arc<Job>) -> Result<Summary, String> {
    let args = &job.args;
    let started = Instant::now();
    let from = started + Duration::from_secs_f64(args.warmup_seconds);
    let end = from + Duration::from_secs_f64(args.seconds);
    let pace = Arc::new(Pace::new(started, end, args.rate));
    let recorder = Arc::new(Mutex::new(Recorder::new()));
    let driver = {
        let pace = pace.clone();
        tokio::task::spawn_blocking(move || pace.drive())
    };
    let mut workers = JoinSet::new();
    for place in 0..usize::from(args.connections) {
        let (job, pace, recorder) = (job.clone(), pace.clone(), recorder.clone());
        workers.spawn(async move { work(&job, place, &pace, &recorder, from..end).await });
    }
    tokio::time::sleep_until(from.into()).await;
    let before = Sample::take(&args.pids);
    watch(args.op, from..end, &recorder).await;
    let after = Sample::take(&args.pids);
    let in_window = lock(&recorder).ended_in_window;
    while let Some(ended) = workers.join_next().await {
        ended.map_err(|error| format!("a connection stopped: {error}"))?;
    }
    driver.await.map_err(|error| format!("the pacer stopped: {error}"))?;
    let recorder = std::mem::replace(&mut *lock(&recorder), Recorder::new());
    let per_operation = |us: u64| us as f64 / in_window.max(1) as f64;
    let measured = !args.pids.is_empty();
    Ok(Summary {
        name: args.name.clone(),
        op: args.op.name().to_string(),
        connections: usize::from(args.connections),
        nodes: job.nodes.len(),
        value_bytes: args.value_bytes,
        keys: args.keys,
        rate: args.rate,
        seconds: args.seconds,
        operations_per_second: in_window as f64 / args.seconds.max(0.001),
        latency: recorder.latency(),
        counts: recorder.into_counts(),
        missed: pace.missed(),
        cpu_us_per_operation: measured
            .then(|| per_operation(after.nodes.cpu_us.saturating_sub(before.nodes.cpu_us))),
        generator_cpu_us_per_operation: per_operation(after.own.cpu_us - before.own.cpu_us),
        rss_bytes: measured.then_some(after.nodes.rss_bytes),
    })
}

/// What the nodes and the generator have used at one moment.
struct Sample {
    nodes: Usage,
    own: Usage,
}

impl Sample {
    fn take(pids: &[u32]) -> Self {
        Sample { nodes: usage::of(pids), own: usage::of(&[std::process::id()]) }
    }
}

/// Shows how it goes, until the end.
async fn watch(op: Op, window: Range<Instant>, recorder: &Mutex<Recorder>) {
    let total_ms = (window.end - window.start).as_millis() as u64;
    let mut progress = Progress::start(op.name(), total_ms);
    let mut tick = tokio::time::interval(TICK);
    loop {
        tokio::select! {
            () = tokio::time::sleep_until(window.end.into()) => break,
            _ = tick.tick() => {
                let elapsed = window.start.elapsed();
                let (ended, errors, latency) = {
                    let recorder = lock(recorder);
                    (recorder.ended_in_window, recorder.errors_total(), recorder.latency())
                };
                let rate = ended as f64 / elapsed.as_secs_f64().max(0.001);
                let (p50, p99) = (latency.p50_us as f64 / 1e3, latency.p99_us as f64 / 1e3);
                let message = format!("ms, {rate:.0}/s, p50 {p50:.2}, p99 {p99:.2}, {errors} errors");
                progress.show((elapsed.as_millis() as u64).min(total_ms), &message);
            }
        }
    }
    progress.finish();
}

/// One connection: operations at the pace, until the end.
async fn work(
    job: &Job,
    place: usize,
    pace: &Pace,
    recorder: &Mutex<Recorder>,
    window: Range<Instant>,
) {
    let mut hand = Hand::new(job, place);
    while let Some(intended) = pace.next().await {
        let ended = hand.operate().await;
        let rest = matches!(ended, Ended::Broken(_));
        record(&mut lock(recorder), ended, intended, &window);
        if rest {
            tokio::time::sleep(AFTER_BREAK).await;
        }
    }
}

fn record(recorder: &mut Recorder, ended: Ended, intended: Instant, window: &Range<Instant>) {
    match ended {
        Ended::Good => {}
        Ended::Stale => recorder.stale(),
        Ended::Wrong(what) => return recorder.wrong(what),
        Ended::Status(status) => return recorder.error(&status.to_string()),
        Ended::Broken(kind) => return recorder.error(kind),
    }
    let now = Instant::now();
    if window.contains(&intended) {
        recorder.success(now - intended);
    }
    if window.contains(&now) {
        recorder.ended_in_window += 1;
    }
}

fn lock(recorder: &Mutex<Recorder>) -> MutexGuard<'_, Recorder> {
    recorder.lock().unwrap_or_else(PoisonError::into_inner)
}

/// One connection, the keys it writes, and its buffers.
struct Hand<'a> {
    job: &'a Job,
    client: Client,
    place: u64,
    own_keys: u64,
    turn: u64,
    path: String,
    value: Vec<u8>,
}

impl<'a> Hand<'a> {
    fn new(job: &'a Job, place: usize) -> Self {
        // `measure` made sure that there is a node, and a key for each connection.
        let node = job.nodes[place % job.nodes.len()].clone();
        let (place, connections) = (place as u64, u64::from(job.args.connections));
        Hand {
            job,
            client: Client::new(node, OPERATION_TIMEOUT, BODY_BYTES_MAX),
            place,
            own_keys: (job.args.keys - place).div_ceil(connections),
            turn: 0,
            path: String::new(),
            value: Vec::new(),
        }
    }

    async fn operate(&mut self) -> Ended {
        match self.job.args.op {
            Op::Put => self.put().await,
            Op::Get => self.get().await,
            Op::Mixed if value::mix(self.turn ^ (self.place << 48)) & 1 == 0 => self.put().await,
            Op::Mixed => self.get().await,
        }
    }

    async fn put(&mut self) -> Ended {
        let connections = u64::from(self.job.args.connections);
        let key = self.place + connections * (self.turn % self.own_keys);
        self.turn += 1;
        let sequence = self.job.sequence_base + self.turn;
        self.job.maker.make(key, sequence, &mut self.value);
        self.set_path(key);
        let headers = [("Content-Type", "application/octet-stream")];
        let put = Request { method: "PUT", path: &self.path, headers: &headers, body: &self.value };
        match self.client.send(&put).await {
            Ok(answer) if answer.status == 204 => {
                if let Some(last) = self.job.acknowledged.get(key as usize) {
                    last.store(sequence, Ordering::Relaxed);
                }
                Ended::Good
            }
            Ok(answer) => Ended::Status(answer.status),
            Err(error) => Ended::Broken(error.kind()),
        }
    }

    async fn get(&mut self) -> Ended {
        self.turn += 1;
        let key = value::mix(self.turn ^ (self.place << 40)) % self.job.args.keys;
        let last = self.job.acknowledged.get(key as usize);
        let acknowledged = last.map_or(0, |it| it.load(Ordering::Relaxed));
        self.set_path(key);
        let get = Request { method: "GET", path: &self.path, headers: &[], body: b"" };
        match self.client.send(&get).await {
            Ok(answer) if answer.status == 200 && self.job.args.any_value => Ended::Good,
            Ok(answer) if answer.status == 200 => judge(key, answer.body, acknowledged),
            Ok(answer) => Ended::Status(answer.status),
            Err(error) => Ended::Broken(error.kind()),
        }
    }

    fn set_path(&mut self, key: u64) {
        let args = &self.job.args;
        let mark = if args.query.is_empty() { "" } else { "?" };
        self.path.clear();
        // Writing to a String cannot fail.
        let _ = write!(self.path, "/kv/{}/k{key:09}{mark}{}", args.bucket, args.query);
    }
}

/// Judges a value that was read, when `acknowledged` was the key's last acknowledged sequence
/// number as the read began.
fn judge(key: u64, value: &[u8], acknowledged: u64) -> Ended {
    match value::check(key, value) {
        Ok(sequence) if sequence < acknowledged => Ended::Stale,
        Ok(_) => Ended::Good,
        Err(wrong) => Ended::Wrong(format!("key {key}: {wrong}")),
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use crate::ceiling;

    #[derive(clap::Parser)]
    struct Cli {
        #[command(flatten)]
        args: Args,
    }

    fn args(words: &[&str]) -> Result<Args, clap::Error> {
        use clap::Parser;
        Cli::try_parse_from(["run"].iter().chain(words)).map(|it| it.args)
    }

    #[test]
    fn an_answer_is_judged_by_key_checksum_and_sequence() {
        let mut value = Vec::new();
        Maker::new(64).make(3, 10, &mut value);
        assert_eq!(judge(3, &value, 0), Ended::Good);
        assert_eq!(judge(3, &value, 10), Ended::Good);
        assert_eq!(judge(3, &value, 11), Ended::Stale);
        assert!(matches!(judge(4, &value, 0), Ended::Wrong(_)));
    }

    #[test]
    fn settings_out_of_range_are_refused() {
        assert!(args(&["--nodes", "a:1"]).is_ok());
        for bad in [
            vec![],
            vec!["--nodes", "a:1", "--connections", "0"],
            vec!["--nodes", "a:1", "--value-bytes", "23"],
            vec!["--nodes", "a:1", "--seconds", "-1"],
            vec!["--nodes", "a:1", "--seconds", "NaN"],
            vec!["--nodes", "a:1", "--rate", "0"],
            vec!["--nodes", "a:1", "--keys", "0"],
        ] {
            assert!(args(&bad).is_err(), "{bad:?}");
        }
    }

    #[tokio::test]
    async fn measures_the_ceiling_in_both_loops() {
        let server = ceiling::Server::start("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}", server.addr());
        for (op, rate) in [("put", None), ("get", None), ("mixed", Some("500"))] {
            let mut words = vec!["--nodes", &url, "--op", op, "--connections", "4"];
            words.extend(["--seconds", "0.3", "--warmup-seconds", "0.1", "--any-value"]);
            words.extend(rate.iter().flat_map(|it| ["--rate", it]));
            let summary = measure(args(&words).unwrap()).await.unwrap();
            assert!(summary.good(), "{}", summary.text());
            assert_eq!(summary.errors_text(), "0");
            if rate.is_some() {
                let due = 150;
                assert!(summary.counts.operations.abs_diff(due) <= 2, "{}", summary.text());
            }
        }
    }

    #[tokio::test]
    async fn a_value_that_is_not_the_keys_is_found() {
        let server = ceiling::Server::start("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}", server.addr());
        let mut words = vec!["--nodes", &url, "--op", "get", "--connections", "1"];
        words.extend(["--seconds", "0.1", "--warmup-seconds", "0", "--keys", "5"]);
        let summary = measure(args(&words).unwrap()).await.unwrap();
        assert!(summary.counts.wrong > 0 && !summary.good(), "{}", summary.text());
    }

    #[tokio::test]
    async fn a_dead_node_is_an_error_that_names_it() {
        let words = ["--nodes", "127.0.0.1:1", "--connections", "1"];
        let error = measure(args(&words).unwrap()).await.unwrap_err();
        assert!(error.contains("127.0.0.1:1: bucket bench: cannot connect"), "{error}");
    }
}
