//! `run`: PUT, GET, DELETE or a mixture of them, at full speed (closed loop) or at a given rate
//! (open loop), for a given time.
//!
//! Each answer is checked: the key, the checksum, and whether it is older than the last
//! acknowledged write. The bucket is `lww`, where writing a key again makes no siblings, unless
//! conflicts are requested.

use std::ops::Range;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use serde_json::{Value, json};
use tokio::task::JoinSet;

use crate::describe::describe;
use crate::http::{Client, Error, Node, Request};
use crate::key_chooser::KeyChooser;
use crate::key_history::KeyHistory;
use crate::plan::{Args, Op, Route};
use crate::progress::{Progress, TICK};
use crate::recorder::Recorder;
use crate::route::Homes;
use crate::schedule::Schedule;
use crate::summary::Summary;
use crate::usage::{self, Usage};
use crate::value::ValueGen;
use crate::worker::{BODY_BYTES_MAX, Ended, Job, OPERATION_TIMEOUT, Worker};
use crate::{Outcome, path, plot, slow};

/// How long a connection backs off after it broke: a node that is down is not retried in a tight
/// loop.
const AFTER_BREAK: Duration = Duration::from_millis(20);
/// How long the bucket's properties may take to reach every node.
const BUCKET_TIMEOUT: Duration = Duration::from_secs(10);
/// How long its changes are kept, if it has a feed.
pub(crate) const FEED_RETENTION_S: u32 = 3_600;
/// How often one key is tried while the keys are stored before reading.
const PRELOAD_TRIES_MAX: usize = 100;
/// The most connections that store them.
const PRELOAD_CONNECTIONS_MAX: usize = 64;

/// Runs the command.
///
/// # Errors
/// What kept it from measuring.
pub(crate) async fn run(args: Args) -> Result<Outcome, String> {
    let svg = args.svg.clone();
    let summary = measure(args).await?;
    if let Some(path) = svg {
        plot::write(&path, std::slice::from_ref(&summary))?;
    }
    Ok(Outcome { report: summary.text(), good: summary.good() })
}

/// Configures the bucket, stores the keys if they are to be read, and measures.
///
/// # Errors
/// What kept it from measuring.
pub(crate) async fn measure(mut args: Args) -> Result<Summary, String> {
    let nodes = path::nodes(&args.nodes, args.ca.as_deref()).await?;
    let slow = args.slow_readers > 0 || args.slow_uploads > 0 || args.idle_connections > 0;
    if slow && nodes.iter().any(|node| node.secure.is_some()) {
        return Err(
            "slow and idle clients speak http, not https: name the nodes by http://".to_owned()
        );
    }
    let mut properties = match (args.op.data_type(), args.conflicts) {
        (Some(data_type), _) => {
            args.bucket = format!("{}-{data_type}", args.bucket);
            json!({"type": data_type})
        }
        (None, Some(_)) => json!({"conflicts": "siblings"}),
        (None, None) => json!({"conflicts": "lww"}),
    };
    if args.feed {
        properties["feed_retention_s"] = json!(FEED_RETENTION_S);
    }
    make_bucket(&nodes, &args.bucket, &properties).await?;
    let since_1970 = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    let homes = match args.route {
        Route::Any => None,
        Route::Home => Some(Homes::ask(&nodes, &args.bucket, args.ca.as_deref()).await?),
    };
    let kept_contexts = if args.conflicts.is_some() { args.keys } else { 0 };
    let job = Arc::new(Job {
        value_gen: ValueGen::new(args.value_bytes.max()),
        chooser: KeyChooser::new(args.keys, args.order),
        histories: (0..args.keys).map(|_| KeyHistory::new()).collect(),
        contexts: (0..kept_contexts).map(|_| Mutex::new(None)).collect(),
        sequence_base: since_1970.as_micros() as u64,
        sequence: AtomicU64::new(0),
        nodes,
        homes,
        args,
    });
    if matches!(job.args.op, Op::Get | Op::Delete | Op::Mixed)
        && !job.args.skip_preload
        && !job.args.any_value
    {
        preload(&job).await?;
    }
    let slow = slow::start(&job);
    let summary = window(&job).await?;
    drop(slow);
    if let Some(path) = &job.args.json {
        summary.append_to(path)?;
    }
    Ok(summary)
}

/// Sets the properties of the bucket, and waits until every node knows them.
pub(crate) async fn make_bucket(
    nodes: &[Node],
    bucket: &str,
    properties: &Value,
) -> Result<(), String> {
    let path = format!("/buckets/{bucket}");
    let headers = [("Content-Type", "application/json")];
    let body = properties.to_string();
    let body = body.as_bytes();
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
            let known: Value = serde_json::from_slice(answer.body).unwrap_or_default();
            let mut wanted = properties.as_object().into_iter().flatten();
            if wanted.all(|(name, value)| known.get(name) == Some(value)) {
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
    let next = Arc::new(AtomicU64::new(0));
    for place in 0..usize::from(job.args.connections).min(PRELOAD_CONNECTIONS_MAX) {
        let (job, next) = (job.clone(), next.clone());
        workers.spawn(async move {
            let mut worker = Worker::new(&job, place);
            loop {
                let key = next.fetch_add(1, Ordering::Relaxed);
                if key >= job.args.keys {
                    return Ok(());
                }
                let mut tries = 0;
                loop {
                    let ended = worker.put(key).await;
                    if tries == PRELOAD_TRIES_MAX && !matches!(ended, Ended::Good(_)) {
                        return Err(format!("storing the keys to read: {ended:?}"));
                    }
                    tries += 1;
                    let rest = match ended {
                        Ended::Good(_) => break,
                        Ended::Refused(_, Some(after_s)) => Duration::from_secs(after_s),
                        Ended::Refused(_, None)
                        | Ended::Stale
                        | Ended::Wrong(_)
                        | Ended::Status(_)
                        | Ended::Broken(_) => AFTER_BREAK,
                    };
                    tokio::time::sleep(rest).await;
                }
            }
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
                progress.show(next.load(Ordering::Relaxed).min(job.args.keys), "keys");
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
    let schedule = Arc::new(Schedule::new(started, end, args.rate));
    let recorder = Arc::new(Mutex::new(Recorder::new(from..end)));
    let driver = {
        let schedule = schedule.clone();
        tokio::task::spawn_blocking(move || schedule.drive())
    };
    let mut workers = JoinSet::new();
    for place in 0..usize::from(args.connections) {
        let (job, schedule, recorder) = (job.clone(), schedule.clone(), recorder.clone());
        workers.spawn(async move { work(&job, place, &schedule, &recorder, from..end).await });
    }
    tokio::time::sleep_until(from.into()).await;
    let before = Sample::take(&args.pids);
    let rss_bytes = watch(args, from..end, &recorder).await;
    let after = Sample::take(&args.pids);
    let (in_window, value_bytes, written_bytes) = {
        let recorder = lock(&recorder);
        (recorder.ended_in_window, recorder.value_bytes, recorder.written_bytes)
    };
    while let Some(ended) = workers.join_next().await {
        ended.map_err(|error| format!("a connection stopped: {error}"))?;
    }
    driver.await.map_err(|error| format!("the pacer stopped: {error}"))?;
    let found = std::mem::replace(&mut *lock(&recorder), Recorder::new(from..end)).finish();
    let per_operation = |us: u64| us as f64 / in_window.max(1) as f64;
    let used = after.nodes.since(before.nodes);
    let measured = !args.pids.is_empty();
    Ok(Summary {
        name: args.name.clone(),
        op: args.op.name().to_string(),
        connections: usize::from(args.connections),
        nodes: job.nodes.len(),
        value_bytes: args.value_bytes.to_string(),
        keys: args.keys,
        order: args.order.name().to_string(),
        conflicts: args.conflicts,
        rate: args.rate,
        seconds: args.seconds,
        operations_per_second: in_window as f64 / args.seconds.max(0.001),
        bytes_per_second: value_bytes as f64 / args.seconds.max(0.001),
        latency: found.latency,
        by_op: found.by_op,
        counts: found.counts,
        missed: schedule.missed(),
        cpu_us_per_operation: measured.then(|| per_operation(used.cpu_us)),
        generator_cpu_us_per_operation: Some(per_operation(after.own.since(before.own).cpu_us)),
        rss_bytes: measured.then_some(after.nodes.rss_bytes.max(rss_bytes)),
        disk_bytes_per_value_byte: (measured && written_bytes > 0)
            .then(|| used.written_bytes as f64 / written_bytes as f64),
        points: found.points,
        curve: found.curve,
    })
}

/// Resources used by the nodes and the generator up to one moment.
struct Sample {
    nodes: Usage,
    own: Usage,
}

impl Sample {
    fn take(pids: &[u32]) -> Self {
        Sample { nodes: usage::of(pids), own: usage::of(&[std::process::id()]) }
    }
}

/// Shows progress until the end. Returns the peak memory of all nodes together.
async fn watch(args: &Args, window: Range<Instant>, recorder: &Mutex<Recorder>) -> u64 {
    let total_ms = (window.end - window.start).as_millis() as u64;
    let mut progress = Progress::start(args.op.name(), total_ms);
    let mut rss_bytes = 0;
    let mut tick = tokio::time::interval(TICK);
    loop {
        tokio::select! {
            () = tokio::time::sleep_until(window.end.into()) => break,
            _ = tick.tick() => {
                rss_bytes = usage::of(&args.pids).rss_bytes.max(rss_bytes);
                let elapsed = window.start.elapsed();
                let (ended, errors, point) = {
                    let recorder = lock(recorder);
                    (recorder.ended_in_window, recorder.errors_total(), recorder.last_point().copied())
                };
                let rate = ended as f64 / elapsed.as_secs_f64().max(0.001);
                let at_once = point.map_or_else(String::new, |it| {
                    let (p50, p99) = (it.p50_us as f64 / 1e3, it.p99_us as f64 / 1e3);
                    format!(", now {:.0}/s p50 {p50:.2} p99 {p99:.2}", it.operations_per_second)
                });
                let message = format!("ms, {rate:.0}/s{at_once}, {errors} errors");
                progress.show((elapsed.as_millis() as u64).min(total_ms), &message);
            }
        }
    }
    progress.finish();
    rss_bytes
}

/// One connection: operations on schedule, until the end.
async fn work(
    job: &Job,
    place: usize,
    schedule: &Schedule,
    recorder: &Mutex<Recorder>,
    window: Range<Instant>,
) {
    let mut worker = Worker::new(job, place);
    while let Some(intended) = schedule.next().await {
        let began = Instant::now();
        let (op, ended) = worker.operate().await;
        let rest = match &ended {
            Ended::Broken(_) => Some(AFTER_BREAK),
            Ended::Refused(_, Some(after_s)) if job.args.obey_retry_after => {
                Some(Duration::from_secs(*after_s))
            }
            Ended::Refused(..)
            | Ended::Good(_)
            | Ended::Stale
            | Ended::Wrong(_)
            | Ended::Status(_) => None,
        };
        record(&mut lock(recorder), op, ended, intended, began);
        if let Some(rest) = rest {
            tokio::time::sleep_until((Instant::now() + rest).min(window.end).into()).await;
        }
    }
}

fn record(recorder: &mut Recorder, op: Op, ended: Ended, intended: Instant, began: Instant) {
    let now = Instant::now();
    match ended {
        Ended::Good(value_bytes) => recorder.success(op, intended, now, value_bytes),
        Ended::Stale => {
            recorder.stale();
            recorder.success(op, intended, now, 0);
        }
        Ended::Wrong(what) => recorder.wrong(what),
        Ended::Refused(status, after) => recorder.refusal(status, now - began, after.is_some()),
        Ended::Status(status) => recorder.error(&status.to_string()),
        Ended::Broken(kind) => recorder.error(kind),
    }
}

fn lock(recorder: &Mutex<Recorder>) -> MutexGuard<'_, Recorder> {
    recorder.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use crate::ceiling;
    use crate::plan::tests::args;

    #[tokio::test]
    async fn measures_the_ceiling_in_both_loops() {
        let server = ceiling::Server::start("127.0.0.1:0", 1024).await.unwrap();
        let url = format!("http://{}", server.addr());
        for (op, rate) in [("put", None), ("get", None), ("delete", None), ("mixed", Some("500"))] {
            let mut words = vec!["--nodes", &url, "--op", op, "--connections", "4"];
            words.extend([
                "--seconds",
                "0.3",
                "--warmup-seconds",
                "0.1",
                "--any-value",
                "--keys",
                "9",
            ]);
            words.extend(rate.iter().flat_map(|it| ["--rate", it]));
            let summary = measure(args(&words).unwrap()).await.unwrap();
            assert!(summary.good(), "{}", summary.text());
            assert!(summary.counts.errors.is_empty(), "{}", summary.text());
            if rate.is_some() {
                // A busy machine may start a few too late to count.
                let due = 150;
                assert!(
                    (due - 50..=due + 5).contains(&summary.counts.operations),
                    "{}",
                    summary.text()
                );
            }
        }
    }

    #[tokio::test]
    async fn a_value_that_is_not_the_keys_is_found() {
        let server = ceiling::Server::start("127.0.0.1:0", 1024).await.unwrap();
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
