//! `wait`: how soon many requests that wait for one key are told of a write, and what memory they take.

use std::fmt::Write;
use std::time::{Duration, Instant};

use tokio::task::JoinSet;
use tokio::time::sleep;

use crate::http::{Client, Node, Request};
use crate::progress::Progress;
use crate::summary::millis_at;
use crate::{Outcome, path, usage};

const REQUEST_TIMEOUT: Duration = Duration::from_secs(90);
const ANSWER_BYTES_MAX: usize = 1 << 20;
/// How long each request waits at the most, in milliseconds.
const WAIT_MS: u32 = 60_000;
/// Clients that connect at a time: more would overflow the nodes' backlogs.
const CONNECT_AT_ONCE: usize = 100;

/// Measure how soon requests that wait for a key are told of a write.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    #[command(flatten)]
    cluster: path::Cluster,
    /// Requests that wait at the first node, each on a connection of its own; the nodes are written to in
    /// turn. A node keeps 10,000 connections by default.
    #[arg(
        long,
        value_delimiter = ',',
        default_value = "100,1000,9900",
        value_name = "COUNT,COUNT,…"
    )]
    waits: Vec<usize>,
    /// How long all of them have waited when the key is written.
    #[arg(long, default_value_t = 3)]
    seconds: u64,
    /// The bucket.
    #[arg(long, default_value = "bench")]
    bucket: String,
}

/// One line of the table.
struct Measured {
    waits: usize,
    /// How long it took from before the PUT until each had the new value.
    told_after: Vec<Duration>,
    /// Memory of the nodes' processes for each that waits, in KiB.
    kib: f64,
}

/// Runs the command.
///
/// # Errors
/// What kept it from measuring.
pub(crate) async fn run(args: Args) -> Result<Outcome, String> {
    let nodes = path::nodes(&args.cluster.nodes, None).await?;
    let mut progress = Progress::start("waiting requests", args.waits.len() as u64);
    let mut rows = Vec::new();
    for (round, waits) in args.waits.iter().enumerate() {
        progress.show(round as u64, &format!("{waits} requests"));
        rows.push(measure(&args, &nodes, round, *waits).await?);
    }
    progress.finish();
    Ok(Outcome { report: table(&rows), good: true })
}

fn table(rows: &[Measured]) -> String {
    let mut text =
        String::from("  waits   told after, ms: p50     p99    last   memory of one, KiB\n");
    for row in rows {
        let ms = millis_at(&row.told_after);
        // Writing to a String cannot fail.
        let _ = writeln!(
            text,
            "{:>7} {:>21.1} {:>7.1} {:>7.1} {:>20.1}",
            row.waits,
            ms(50),
            ms(99),
            ms(100),
            row.kib
        );
    }
    text
}

async fn measure(
    args: &Args,
    nodes: &[Node],
    round: usize,
    waits: usize,
) -> Result<Measured, String> {
    let path = format!("/kv/{}/wait-{}-{round}", args.bucket, std::process::id());
    let writer = nodes[round % nodes.len()].clone();
    let mut writer = Client::new(writer, REQUEST_TIMEOUT, ANSWER_BYTES_MAX);
    let context = put(&mut writer, &path, None).await?;
    let before = usage::of(&args.cluster.pids);
    let mut waiting = JoinSet::new();
    for place in 0..waits {
        let client = Client::new(nodes[0].clone(), REQUEST_TIMEOUT, ANSWER_BYTES_MAX);
        waiting.spawn(wait(client, path.clone(), context.clone()));
        if place % CONNECT_AT_ONCE == CONNECT_AT_ONCE - 1 {
            sleep(Duration::from_millis(20)).await;
        }
    }
    sleep(Duration::from_secs(args.seconds)).await;
    let grown = usage::of(&args.cluster.pids).rss_bytes.saturating_sub(before.rss_bytes);
    let begun = Instant::now();
    put(&mut writer, &path, Some(&context)).await?;
    let mut told_after = Vec::new();
    while let Some(told) = waiting.join_next().await {
        let told = told.map_err(|error| error.to_string())??;
        told_after.push(told.saturating_duration_since(begun));
    }
    Ok(Measured { waits, told_after, kib: grown as f64 / 1024.0 / waits.max(1) as f64 })
}

/// Writes the key; returns the context of the answer.
async fn put(client: &mut Client, path: &str, context: Option<&str>) -> Result<String, String> {
    let mut headers = vec![("Content-Type", "text/plain")];
    headers.extend(context.map(|context| ("Quorate-Context", context)));
    let put = Request { method: "PUT", path, headers: &headers, body: b"value" };
    let answer = client.send(&put).await.map_err(|error| error.to_string())?;
    match (answer.status, answer.header("quorate-context")) {
        (204, Some(context)) => Ok(context.to_owned()),
        (status, _) => Err(format!("PUT {path}: status {status}")),
    }
}

/// Waits for something that this context has not seen; returns when it was told.
async fn wait(mut client: Client, path: String, context: String) -> Result<Instant, String> {
    let path = format!("{path}?wait_ms={WAIT_MS}");
    let headers = [("Quorate-Context", &*context)];
    let get = Request { method: "GET", path: &path, headers: &headers, body: b"" };
    let answer = client.send(&get).await.map_err(|error| error.to_string())?;
    match answer.status {
        200 => Ok(Instant::now()),
        status => Err(format!("GET {path}: status {status}")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_says_when_they_were_told_and_what_they_take() {
        let told_after = (1..=100).map(Duration::from_millis).collect();
        let text = table(&[Measured { waits: 100, told_after, kib: 17.75 }]);
        let words: Vec<&str> = text.lines().last().unwrap_or_default().split_whitespace().collect();
        assert_eq!(words, ["100", "51.0", "100.0", "100.0", "17.8"]);
    }
}
