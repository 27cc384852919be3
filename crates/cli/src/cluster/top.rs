//! `quorate top`: what the nodes do, second by second.

use std::time::Duration;

use serde_json::{Value, json};
use tokio::time::Instant;

use super::look::{self, Look, Seen};
use super::status::state;
use crate::app::App;
use crate::args::Common;
use crate::exit::{Done, Exit};
use crate::metrics::Metrics;
use crate::out::bytes;
use crate::table::{Paint, Table, cell, maybe, painted};

/// Show what the nodes do, live: requests, failures, latencies, hints.
///
/// On a terminal it is refreshed in place until Ctrl-C; elsewhere each round adds lines.
#[derive(Clone, Debug, clap::Args)]
#[command(after_help = "Examples:
  quorate top
  quorate top --interval 5
  quorate top --count 10 > top.txt
  quorate top --count 1 --json

JSON: one object per round: seconds, nodes (node, state, gets_per_s, puts_per_s, deletes_per_s,
failures_per_s, get_p99_us, put_p99_us, operations, hint_keys, keys, disk_free_bytes). A number that
the node does not tell is null. Latencies are those of the round, rounded up to a bucket of the node's
histogram.")]
pub struct Args {
    /// Seconds between two rounds
    #[arg(long, value_name = "SECONDS", default_value_t = 1,
          value_parser = clap::value_parser!(u64).range(1..=3600))]
    interval: u64,
    /// Stop after so many rounds
    #[arg(long, value_name = "COUNT", value_parser = clap::value_parser!(u64).range(1..))]
    count: Option<u64>,
    #[command(flatten)]
    pub(crate) common: Common,
}

/// Requests that failed through no fault of the client's, by their labels.
const FAILURES: [&str; 6] = [
    "result=\"no_quorum\"",
    "result=\"overloaded\"",
    "result=\"unavailable\"",
    "result=\"no_space\"",
    "result=\"failed\"",
    "status=\"5xx\"",
];

/// One node in one round. A number that is not known is `None`.
struct Row {
    node: String,
    state: &'static str,
    gets: Option<f64>,
    puts: Option<f64>,
    deletes: Option<f64>,
    failures: Option<f64>,
    get_p99_us: Option<u64>,
    put_p99_us: Option<u64>,
    operations: Option<u64>,
    hint_keys: Option<u64>,
    keys: Option<u64>,
    disk_free: Option<u64>,
}

/// Runs the command.
pub(crate) async fn run(app: &App, args: &Args) -> Done<Exit> {
    let mut before = look::everywhere(app).await?;
    let mut looked = Instant::now();
    let live = app.out.terminal && !app.out.json;
    let mut round = 0;
    while args.count.is_none_or(|count| round < count) {
        tokio::select! {
            () = tokio::time::sleep(Duration::from_secs(args.interval)) => {}
            _ = tokio::signal::ctrl_c() => return Ok(Exit::Ok),
        }
        // The members are asked for again, since nodes move; a moment without answers ends nothing.
        let cluster = match app.nodes.cluster().await {
            Ok(cluster) => cluster,
            Err(_) => before.cluster.clone(),
        };
        let now = look::again(app, cluster).await;
        let seconds = looked.elapsed().as_secs_f64();
        looked = Instant::now();
        let rows: Vec<Row> =
            now.nodes.iter().map(|seen| row(&before, &now, seen, seconds)).collect();
        print(app, &rows, seconds, live, round == 0)?;
        before = now;
        round += 1;
    }
    Ok(Exit::Ok)
}

/// Requests since the last look, per second.
fn rate(
    seen: &Seen,
    before: Option<&Seen>,
    seconds: f64,
    of: impl Fn(&Metrics) -> Option<f64>,
) -> Option<f64> {
    let change = of(&seen.metrics)? - of(&before?.metrics)?;
    // A node that has restarted counts from zero.
    Some((change.max(0.0) / seconds.max(0.001) * 10.0).round() / 10.0)
}

fn row(before: &Look, now: &Look, seen: &Seen, seconds: f64) -> Row {
    let earlier = before.nodes.iter().find(|it| it.member.name == seen.member.name);
    // The names and labels of this release, then those of earlier ones.
    const REQUESTS: [&str; 1] = ["quorate_requests_total"];
    const TIMES: [&str; 2] = ["quorate_request_duration_seconds", "quorate_request_time_seconds"];
    let labels = |of: &str| [format!("operation=\"{of}\""), format!("route=\"{of}\"")];
    let requests = |of: &str| {
        let [new, old] = labels(of);
        rate(seen, earlier, seconds, |metrics| metrics.sum_of(&REQUESTS, &[&new, &old]))
    };
    let p99 = |of: &str| {
        let [new, old] = labels(of);
        let before = earlier.map(|it| &it.metrics);
        let seconds = seen.metrics.quantile(before, &TIMES, &[&new, &old], 0.99)?;
        Some((seconds * 1e6).round() as u64)
    };
    Row {
        node: seen.member.name.clone(),
        state: state(now, seen),
        gets: requests("get"),
        puts: requests("put"),
        deletes: requests("delete"),
        failures: rate(seen, earlier, seconds, |metrics| metrics.sum_of(&REQUESTS, &FAILURES)),
        get_p99_us: p99("get"),
        put_p99_us: p99("put"),
        operations: seen.metrics.count(&["quorate_requests_in_flight", "quorate_operations"]),
        hint_keys: seen.hints_kept().map(|(keys, _)| keys),
        keys: seen.metrics.count(&["quorate_keys"]),
        disk_free: seen.metrics.count(&["quorate_disk_free_bytes"]),
    }
}

fn json_of(row: &Row) -> Value {
    json!({
        "node": row.node,
        "state": row.state,
        "gets_per_s": row.gets,
        "puts_per_s": row.puts,
        "deletes_per_s": row.deletes,
        "failures_per_s": row.failures,
        "get_p99_us": row.get_p99_us,
        "put_p99_us": row.put_p99_us,
        "operations": row.operations,
        "hint_keys": row.hint_keys,
        "keys": row.keys,
        "disk_free_bytes": row.disk_free,
    })
}

fn print(app: &App, rows: &[Row], seconds: f64, live: bool, is_first: bool) -> Done {
    if app.out.json {
        let nodes: Vec<Value> = rows.iter().map(json_of).collect();
        return app
            .out
            .json(&json!({"seconds": (seconds * 1000.0).round() / 1000.0, "nodes": nodes}));
    }
    let text = app.out.rendered(&table(rows));
    if live {
        // Home, then each line with the rest of it cleared, then all below: nothing flickers.
        let lines = text.replace('\n', "\u{1b}[K\n");
        let home = if is_first { "\u{1b}[2J\u{1b}[H" } else { "\u{1b}[H" };
        let shown = format!(
            "{home}quorate top, each round {seconds:.1} s; Ctrl-C ends\u{1b}[K\n\n{lines}\u{1b}[J"
        );
        return app.out.bytes(shown.as_bytes());
    }
    let text = match is_first {
        true => text,
        false => text.split_once('\n').map(|(_, rows)| rows.to_owned()).unwrap_or_default(),
    };
    app.out.bytes(text.as_bytes())
}

fn table(rows: &[Row]) -> Table {
    let headings = [
        "node",
        "state",
        "#gets/s",
        "#puts/s",
        "#deletes/s",
        "#failures/s",
        "#get p99",
        "#put p99",
        "#in flight",
        "#hints kept",
        "#keys",
        "#disk free",
    ];
    let mut table = Table::new(&headings);
    let total = |of: fn(&Row) -> Option<f64>| {
        let known: Vec<f64> = rows.iter().filter_map(of).collect();
        (!known.is_empty()).then(|| known.iter().sum::<f64>())
    };
    let shown = |rate: Option<f64>| maybe(rate.map(|rate| format!("{rate:.1}")));
    let failing = |rate: Option<f64>| match rate {
        Some(rate) if rate > 0.0 => painted(format!("{rate:.1}"), Paint::Bad),
        _ => shown(rate),
    };
    for row in rows {
        let paint = if row.state == "up" { Paint::Good } else { Paint::Bad };
        table.row(vec![
            cell(&row.node),
            painted(row.state, paint),
            shown(row.gets),
            shown(row.puts),
            shown(row.deletes),
            failing(row.failures),
            maybe(row.get_p99_us.map(|us| format!("{us} µs"))),
            maybe(row.put_p99_us.map(|us| format!("{us} µs"))),
            maybe(row.operations),
            maybe(row.hint_keys),
            maybe(row.keys),
            maybe(row.disk_free.map(bytes)),
        ]);
    }
    table.row(vec![
        painted("all", Paint::Dim),
        cell(""),
        shown(total(|row| row.gets)),
        shown(total(|row| row.puts)),
        shown(total(|row| row.deletes)),
        failing(total(|row| row.failures)),
    ]);
    table
}
