//! `standard`: the figures the project is measured by. PUT and GET of 1 KiB values over 64
//! connections, each on the ceiling and then on the cluster, in one run; one table, ratios to the
//! ceiling.

use std::io::{BufRead, BufReader};
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};

use comfy_table::{CellAlignment, Table, presets};

use crate::Outcome;
use crate::load;
use crate::plan::{self, Op};
use crate::summary::Summary;

/// Measure the standard figures of a cluster, and the ceiling beside it.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// Everything but the operation, which is PUT and then GET.
    #[command(flatten)]
    load: plan::Args,
}

/// Runs the command.
///
/// # Errors
/// What kept it from measuring.
pub(crate) async fn run(args: Args) -> Result<Outcome, String> {
    let mut summaries = Vec::new();
    for op in [Op::Put, Op::Get] {
        let ceiling = Ceiling::start()?;
        let of_ceiling = plan::Args {
            nodes: vec![format!("http://{}", ceiling.addr)],
            pids: vec![ceiling.child.id()],
            name: "ceiling".to_string(),
            any_value: true,
            ..args.load.clone()
        };
        summaries.push(load::measure(plan::Args { op, ..of_ceiling }).await?);
        drop(ceiling);
        summaries.push(load::measure(plan::Args { op, ..args.load.clone() }).await?);
    }
    let wrong = summaries.iter().flat_map(|it| &it.counts.wrong_named);
    let wrong: String = wrong.map(|it| format!("wrong: {it}\n")).collect();
    let report = format!("{}\n{wrong}", table(&summaries));
    Ok(Outcome { report, good: summaries.iter().all(Summary::good) })
}

/// The ceiling server in a process of its own, which ends with this value.
struct Ceiling {
    child: Child,
    addr: String,
}

impl Ceiling {
    fn start() -> Result<Self, String> {
        let in_words = |error: std::io::Error| format!("cannot start the ceiling server: {error}");
        let program: PathBuf = std::env::current_exe().map_err(in_words)?;
        let mut child = Command::new(program)
            .arg("ceiling-server")
            .stdout(Stdio::piped())
            .spawn()
            .map_err(in_words)?;
        let mut line = String::new();
        let read = match child.stdout.take() {
            Some(stdout) => BufReader::new(stdout).read_line(&mut line),
            None => Ok(0),
        };
        let ceiling = Ceiling { child, addr: line.trim().to_string() };
        match read.map_err(in_words)? {
            0 => Err("cannot start the ceiling server: it named no address".to_string()),
            _ => Ok(ceiling),
        }
    }
}

impl Drop for Ceiling {
    fn drop(&mut self) {
        // It is gone already if these fail.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// One row a measurement; the cluster's rows say how near they are to the ceiling's.
pub(crate) fn table(summaries: &[Summary]) -> Table {
    let mut table = Table::new();
    table.load_style(presets::ASCII_MARKDOWN).set_header([
        "what",
        "op",
        "ops/s",
        "of ceiling",
        "p50 ms",
        "p90 ms",
        "p99 ms",
        "p99.9 ms",
        "max ms",
        "errors",
        "server cpu µs/op",
        "generator cpu µs/op",
        "server MiB",
    ]);
    for column in table.column_iter_mut().skip(2) {
        column.set_cell_alignment(CellAlignment::Right);
    }
    let ms = |us: u64| format!("{:.2}", us as f64 / 1000.0);
    let or_dash = |figure: Option<String>| figure.unwrap_or_else(|| "-".to_string());
    for summary in summaries {
        let ceiling = summaries.iter().find(|it| it.name == "ceiling" && it.op == summary.op);
        let ratio = ceiling.filter(|it| it.operations_per_second > 0.0).map(|ceiling| {
            let ratio = summary.operations_per_second / ceiling.operations_per_second;
            format!("{:.1} %", ratio * 100.0)
        });
        let mib = |bytes: u64| format!("{:.0}", bytes as f64 / (1024.0 * 1024.0));
        table.add_row([
            summary.name.clone(),
            summary.op.clone(),
            format!("{:.0}", summary.operations_per_second),
            or_dash(ratio),
            ms(summary.latency.p50_us),
            ms(summary.latency.p90_us),
            ms(summary.latency.p99_us),
            ms(summary.latency.p99_9_us),
            ms(summary.latency.max_us),
            summary.errors_text(),
            or_dash(summary.cpu_us_per_operation.map(|it| format!("{it:.1}"))),
            format!("{:.1}", summary.generator_cpu_us_per_operation),
            or_dash(summary.rss_bytes.map(mib)),
        ]);
    }
    table
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use crate::summary::tests::summary;

    #[test]
    fn the_table_compares_each_operation_with_its_own_ceiling() {
        let rows = [
            summary("ceiling", "put", 1000.0),
            summary("cluster", "put", 250.0),
            summary("ceiling", "get", 2000.0),
            summary("cluster", "get", 100.0),
        ];
        let text = table(&rows).to_string();
        let lines: Vec<&str> = text.lines().collect();
        assert!(lines[3].contains("| 250") || lines[3].contains(" 250 "), "{text}");
        assert!(lines[3].contains("25.0 %"), "{text}");
        assert!(lines[5].contains("5.0 %"), "{text}");
        assert!(lines[2].contains("100.0 %") && lines[2].contains("1.50"), "{text}");
    }
}
