//! `feed`: how soon subscribers are told of writes, what that costs, and how fast a feed is read from its
//! beginning.

use std::fmt::Write;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use serde_json::{Value, json};
use tokio::task::JoinSet;
use tokio::time::{MissedTickBehavior, interval};

use crate::http::{Client, Node, Request};
use crate::key_chooser::Dice;
use crate::progress::Progress;
use crate::summary::millis_at;
use crate::worker::KeyName;
use crate::{Outcome, load, path, usage};

const REQUEST_TIMEOUT: Duration = Duration::from_secs(30);
const ANSWER_BYTES_MAX: usize = 16 << 20;
const VALUE_BYTES: usize = 100;
/// How long a subscriber's request waits for a change, in milliseconds.
const WAIT_MS: u32 = 1_000;
/// The most changes of one page.
const LIMIT: usize = 1_000;

/// Measure how soon subscribers of a feed are told of writes.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    #[command(flatten)]
    cluster: path::Cluster,
    /// PUTs a second in all, of 100 bytes; half of what the cluster can do shows what users see.
    #[arg(long, default_value_t = 1_000, value_parser = clap::value_parser!(u32).range(1..))]
    rate: u32,
    /// Subscribers, each of which is told of every change.
    #[arg(long, value_delimiter = ',', default_value = "0,1,10", value_name = "COUNT,COUNT,…")]
    subscribers: Vec<usize>,
    /// How long each number of subscribers is measured.
    #[arg(long, default_value_t = 10)]
    seconds: u64,
    /// Connections that write.
    #[arg(long, default_value_t = 16, value_parser = clap::value_parser!(u32).range(1..=10_000))]
    connections: u32,
    /// The bucket; it is given a feed.
    #[arg(long, default_value = "bench-feed")]
    bucket: String,
    /// How many keys there are.
    #[arg(long, default_value_t = 100_000)]
    keys: u64,
}

/// One line of the table.
struct Measured {
    subscribers: usize,
    puts: u64,
    seconds: f64,
    /// How long each change took from before its PUT until a subscriber had it.
    lags: Vec<Duration>,
    /// The nodes' processor time for each PUT, in microseconds.
    cpu_us: f64,
}

/// Runs the command.
///
/// # Errors
/// What kept it from measuring.
pub(crate) async fn run(args: Args) -> Result<Outcome, String> {
    let nodes = path::nodes(&args.cluster.nodes, None).await?;
    let properties = json!({"conflicts": "lww", "feed_retention_s": load::FEED_RETENTION_S});
    load::make_bucket(&nodes, &args.bucket, &properties).await?;
    let mut progress = Progress::start("a feed", args.subscribers.len() as u64 + 1);
    let mut rows = Vec::new();
    for subscribers in &args.subscribers {
        progress.show(rows.len() as u64, &format!("{subscribers} subscribers"));
        rows.push(measure(&args, &nodes, *subscribers).await?);
    }
    progress.show(rows.len() as u64, "from the beginning");
    let (begun, is_over) = (Instant::now(), Arc::new(AtomicBool::new(true)));
    let all = Follower::new(&args, &nodes, 0).follow("oldest".to_owned(), is_over).await?;
    let (changes, rate) = (all.len(), all.len() as f64 / begun.elapsed().as_secs_f64());
    progress.finish();
    let mut report = table(&rows);
    // Writing to a String cannot fail.
    let _ = writeln!(report, "from the beginning: {changes} changes, {rate:.0} a second");
    Ok(Outcome { report, good: true })
}

fn table(rows: &[Measured]) -> String {
    let mut text = String::from(
        "subscribers   PUT/s   changes/s   lag p50, ms   lag p99, ms   processor time of a PUT, us\n",
    );
    for row in rows {
        let ms = millis_at(&row.lags);
        let (puts, changes) = (row.puts as f64 / row.seconds, row.lags.len() as f64 / row.seconds);
        let _ = writeln!(
            text,
            "{:>11} {puts:>7.0} {changes:>11.0} {:>13.1} {:>13.1} {:>29.1}",
            row.subscribers,
            ms(50),
            ms(99),
            row.cpu_us
        );
    }
    text
}

async fn measure(args: &Args, nodes: &[Node], subscribers: usize) -> Result<Measured, String> {
    let is_over = Arc::<AtomicBool>::default();
    let mut followers = JoinSet::new();
    for place in 0..subscribers {
        let mut follower = Follower::new(args, nodes, place);
        let cursor = follower.page("now", 0).await?.cursor;
        followers.spawn(follower.follow(cursor, is_over.clone()));
    }
    let (begun, before) = (Instant::now(), usage::of(&args.cluster.pids));
    let until = begun + Duration::from_secs(args.seconds);
    let mut writers = JoinSet::new();
    for place in 0..args.connections {
        writers.spawn(Writer::new(args, nodes, place).write(until));
    }
    let mut puts = 0;
    while let Some(ended) = writers.join_next().await {
        puts += ended.map_err(|error| error.to_string())??;
    }
    let seconds = begun.elapsed().as_secs_f64();
    is_over.store(true, Relaxed);
    let mut lags = Vec::new();
    while let Some(ended) = followers.join_next().await {
        lags.extend(ended.map_err(|error| error.to_string())??);
    }
    let cpu_us = usage::of(&args.cluster.pids).since(before).cpu_us as f64 / puts.max(1) as f64;
    Ok(Measured { subscribers, puts, seconds, lags, cpu_us })
}

/// One connection that writes at its share of the rate.
struct Writer {
    client: Client,
    dice: Dice,
    bucket: String,
    keys: u64,
    every: Duration,
}

impl Writer {
    fn new(args: &Args, nodes: &[Node], place: u32) -> Self {
        let node = nodes[place as usize % nodes.len()].clone();
        Self {
            client: Client::new(node, REQUEST_TIMEOUT, ANSWER_BYTES_MAX),
            dice: Dice::new(u64::from(place) + 1),
            bucket: args.bucket.clone(),
            keys: args.keys,
            every: Duration::from_secs(1) * args.connections / args.rate,
        }
    }

    /// Writes until then; returns how often. A value begins with when it was written.
    async fn write(mut self, until: Instant) -> Result<u64, String> {
        let mut ticks = interval(self.every.max(Duration::from_micros(1)));
        ticks.set_missed_tick_behavior(MissedTickBehavior::Burst);
        let mut puts = 0;
        while Instant::now() < until {
            ticks.tick().await;
            let path = format!("/kv/{}/{}", self.bucket, KeyName(self.dice.below(self.keys)));
            let value = format!("{:<VALUE_BYTES$}", now().as_micros());
            let (headers, body) = ([("Content-Type", "text/plain")], value.as_bytes());
            let put = Request { method: "PUT", path: &path, headers: &headers, body };
            let answer = self.client.send(&put).await.map_err(|error| error.to_string())?;
            if answer.status != 204 {
                return Err(format!("PUT {path}: status {}", answer.status));
            }
            puts += 1;
        }
        Ok(puts)
    }
}

/// One subscriber.
struct Follower {
    client: Client,
    bucket: String,
}

/// What it is told with one answer.
struct Page {
    /// When the values were written.
    written: Vec<Duration>,
    cursor: String,
    is_complete: bool,
}

impl Follower {
    fn new(args: &Args, nodes: &[Node], place: usize) -> Self {
        let node = nodes[place % nodes.len()].clone();
        let client = Client::new(node, REQUEST_TIMEOUT, ANSWER_BYTES_MAX);
        Self { client, bucket: args.bucket.clone() }
    }

    /// Follows until it has all that was written; returns how long each change took.
    async fn follow(
        mut self,
        mut cursor: String,
        is_over: Arc<AtomicBool>,
    ) -> Result<Vec<Duration>, String> {
        let mut lags = Vec::new();
        loop {
            let was_over = is_over.load(Relaxed);
            let page = self.page(&cursor, if was_over { 0 } else { WAIT_MS }).await?;
            let now = now();
            lags.extend(page.written.iter().map(|at| now.saturating_sub(*at)));
            if was_over && page.written.is_empty() && page.is_complete {
                return Ok(lags);
            }
            cursor = page.cursor;
        }
    }

    async fn page(&mut self, cursor: &str, wait_ms: u32) -> Result<Page, String> {
        let wait = if wait_ms > 0 { format!("&wait_ms={wait_ms}") } else { String::new() };
        let path = format!("/feed/{}?limit={LIMIT}&cursor={cursor}{wait}", self.bucket);
        let get = Request { method: "GET", path: &path, headers: &[], body: b"" };
        let answer = self.client.send(&get).await.map_err(|error| error.to_string())?;
        if answer.status != 200 {
            return Err(format!("GET {path}: status {}", answer.status));
        }
        let page: Value = serde_json::from_slice(answer.body).map_err(|error| error.to_string())?;
        let changes = page["changes"].as_array().map(Vec::as_slice).unwrap_or_default();
        let written = |change: &Value| {
            let micros = change["value"].as_str()?.trim_end().parse().ok()?;
            Some(Duration::from_micros(micros))
        };
        Ok(Page {
            written: changes.iter().filter_map(written).collect(),
            cursor: page["cursor"].as_str().unwrap_or_default().to_owned(),
            is_complete: page["complete"] == json!(true),
        })
    }
}

fn now() -> Duration {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_says_rates_and_quantiles() {
        let lags = (1..=100).map(Duration::from_millis).collect();
        let row = Measured { subscribers: 2, puts: 50, seconds: 10.0, lags, cpu_us: 70.25 };
        let text = table(&[row]);
        let words: Vec<&str> = text.lines().last().unwrap_or_default().split_whitespace().collect();
        assert_eq!(words, ["2", "5", "10", "51.0", "100.0", "70.2"]);
    }
}
