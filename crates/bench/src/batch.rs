//! `batch`: what an operation costs alone and in batches of 10, 100 and 1,000.

use std::fmt::Write;
use std::time::{Duration, Instant};

use serde_json::{Value, json};
use tokio::task::JoinSet;

use crate::http::{Client, Node, Request};
use crate::key_chooser::Dice;
use crate::progress::Progress;
use crate::worker::KeyName;
use crate::{Outcome, load, path, usage};

/// How many operations a request carries.
const SIZES: [usize; 4] = [1, 10, 100, 1000];
const REQUEST_TIMEOUT: Duration = Duration::from_secs(30);
const ANSWER_BYTES_MAX: usize = 16 << 20;
const VALUE_BYTES: usize = 100;

/// Measure PUT and GET of 100-byte values alone and in batches.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    #[command(flatten)]
    cluster: path::Cluster,
    /// How long each size is measured, for PUT and again for GET.
    #[arg(long, default_value_t = 5)]
    seconds: u64,
    /// Connections, each with one request at a time.
    #[arg(long, default_value_t = 16)]
    connections: usize,
    /// The bucket.
    #[arg(long, default_value = "bench-batch")]
    bucket: String,
    /// How many keys there are.
    #[arg(long, default_value_t = 20_000)]
    keys: u64,
}

/// One line of the table.
struct Measured {
    op: &'static str,
    size: usize,
    operations: u64,
    seconds: f64,
    /// The nodes' processor time per operation, in microseconds.
    cpu_us: f64,
    /// The median of a request, in milliseconds.
    request_ms: f64,
}

/// Runs the command.
///
/// # Errors
/// What kept it from measuring.
pub(crate) async fn run(args: Args) -> Result<Outcome, String> {
    let nodes = path::nodes(&args.cluster.nodes, None).await?;
    load::make_bucket(&nodes, &args.bucket, &json!({"conflicts": "lww"})).await?;
    let mut progress = Progress::start("batches", 2 * SIZES.len() as u64);
    let mut rows = Vec::new();
    for op in ["put", "get"] {
        for size in SIZES {
            progress.show(rows.len() as u64, &format!("{op}, {size} a request"));
            rows.push(measure(&args, &nodes, op, size).await?);
        }
    }
    progress.finish();
    Ok(Outcome { report: table(&rows), good: true })
}

fn table(rows: &[Measured]) -> String {
    let mut text = String::from(
        "op   a request   operations/s   processor time of one, us   of single ones   a request, ms\n",
    );
    for row in rows {
        let single = rows.iter().find(|other| other.op == row.op && other.size == 1);
        let share = single.map_or(1.0, |single| row.cpu_us / single.cpu_us);
        let rate = row.operations as f64 / row.seconds;
        // Writing to a String cannot fail.
        let _ = writeln!(
            text,
            "{:<4} {:>9} {rate:>14.0} {:>27.1} {share:>16.2} {:>15.1}",
            row.op, row.size, row.cpu_us, row.request_ms
        );
    }
    text
}

async fn measure(
    args: &Args,
    nodes: &[Node],
    op: &'static str,
    size: usize,
) -> Result<Measured, String> {
    let (begun, before) = (Instant::now(), usage::of(&args.cluster.pids));
    let until = begun + Duration::from_secs(args.seconds);
    let mut workers = JoinSet::new();
    for place in 0..args.connections {
        let client =
            Client::new(nodes[place % nodes.len()].clone(), REQUEST_TIMEOUT, ANSWER_BYTES_MAX);
        let worker = Worker {
            client,
            dice: Dice::new(place as u64 + 1),
            bucket: args.bucket.clone(),
            keys: args.keys,
            op,
        };
        workers.spawn(worker.run(size, until));
    }
    let (mut operations, mut took) = (0, Vec::new());
    while let Some(ended) = workers.join_next().await {
        let times = ended.map_err(|error| error.to_string())??;
        operations += (times.len() * size) as u64;
        took.extend(times);
    }
    let seconds = begun.elapsed().as_secs_f64();
    let cpu_us =
        usage::of(&args.cluster.pids).since(before).cpu_us as f64 / operations.max(1) as f64;
    took.sort_unstable();
    let median = took.get(took.len() / 2).copied().unwrap_or_default();
    let request_ms = median.as_secs_f64() * 1e3;
    Ok(Measured { op, size, operations, seconds, cpu_us, request_ms })
}

/// One connection.
struct Worker {
    client: Client,
    dice: Dice,
    bucket: String,
    keys: u64,
    op: &'static str,
}

impl Worker {
    /// Sends requests until then; returns how long each took.
    async fn run(mut self, size: usize, until: Instant) -> Result<Vec<Duration>, String> {
        let mut took = Vec::new();
        while Instant::now() < until {
            let begun = Instant::now();
            match size {
                1 => self.one().await?,
                _ => self.many(size).await?,
            }
            took.push(begun.elapsed());
        }
        Ok(took)
    }

    fn key(&mut self) -> String {
        KeyName(self.dice.below(self.keys)).to_string()
    }

    async fn one(&mut self) -> Result<(), String> {
        let key = self.key();
        let path = format!("/kv/{}/{key}", self.bucket);
        let value = "v".repeat(VALUE_BYTES);
        let (method, body) =
            if self.op == "put" { ("PUT", value.as_bytes()) } else { ("GET", &b""[..]) };
        let answer = self.client.send(&Request { method, path: &path, headers: &[], body }).await;
        match answer.map_err(|error| error.to_string())?.status {
            200 | 204 | 300 | 404 => Ok(()),
            status => Err(format!("{method} {path}: {status}")),
        }
    }

    async fn many(&mut self, size: usize) -> Result<(), String> {
        let value = "v".repeat(VALUE_BYTES);
        let (op, bucket) = (self.op, self.bucket.clone());
        let one = |key: String| match op {
            "put" => json!({"op": op, "bucket": bucket, "key": key, "value": value}),
            _ => json!({"op": op, "bucket": bucket, "key": key}),
        };
        let operations: Vec<Value> = (0..size).map(|_| one(self.key())).collect();
        let body = json!({"operations": operations}).to_string();
        let headers = [("Content-Type", "application/json")];
        let batch =
            Request { method: "POST", path: "/batch", headers: &headers, body: body.as_bytes() };
        let answer = self.client.send(&batch).await.map_err(|error| error.to_string())?;
        let text = String::from_utf8_lossy(answer.body);
        if answer.status != 200 || text.contains("\"status\":5") {
            let shown: String = text.chars().take(300).collect();
            return Err(format!("POST /batch: {}: {shown}", answer.status));
        }
        Ok(())
    }
}
