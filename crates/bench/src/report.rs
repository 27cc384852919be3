//! `table`: measurements side by side. Settings that are the same in all of them are listed once,
//! below the table; each measurement is compared with the last ceiling of its operation that
//! precedes it. The latencies of each operation of a mixed load follow below it.

use std::path::PathBuf;

use comfy_table::{CellAlignment, Table, presets};

use crate::summary::Summary;
use crate::{Outcome, targets};

/// The name of the bare HTTP server's measurements: others are compared with them.
pub(crate) const CEILING: &str = "ceiling";
/// The name of bare RocksDB's measurements, followed by `buffered` or `synced`.
const ROCKSDB: &str = "rocksdb";

/// Make a table of measurements that `--json` saved.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// The file, with one measurement per line.
    file: PathBuf,
    /// Also compare them with the project's targets.
    #[arg(long)]
    targets: bool,
}

/// Runs the command.
///
/// # Errors
/// A sentence that names the file.
pub(crate) fn run(args: &Args) -> Result<Outcome, String> {
    let summaries = Summary::read_from(&args.file)?;
    let mut report = text(&summaries);
    if args.targets {
        let verdicts = targets::text(&summaries);
        if !verdicts.is_empty() {
            report += &format!("\n{verdicts}");
        }
    }
    Ok(Outcome { report, good: summaries.iter().all(Summary::good) })
}

/// The table, the settings common to all rows, and each wrong answer that was described.
pub(crate) fn text(summaries: &[Summary]) -> String {
    let (table, same) = table(summaries);
    let wrong = summaries.iter().flat_map(|it| &it.counts.wrong_named);
    let wrong: String = wrong.map(|it| format!("wrong: {it}\n")).collect();
    let same = if same.is_empty() { String::new() } else { format!("All: {}\n", same.join(", ")) };
    format!("{table}\n{same}{wrong}")
}

/// How to format a cell of a column.
type Cell = fn(&Summary) -> String;

/// Settings: a column only where they differ.
const SETTINGS: [(&str, Cell); 7] = [
    ("connections", |it| it.connections.to_string()),
    ("nodes", |it| it.nodes.to_string()),
    ("value bytes", |it| it.value_bytes.clone()),
    ("keys", |it| it.keys.to_string()),
    ("order", |it| it.order.clone()),
    ("conflicts %", |it| or_dash(it.conflicts.map(|it| it.to_string()))),
    ("offered/s", |it| or_dash(it.rate.map(|it| format!("{it:.0}")))),
];

/// Figures, without the ratio to the ceiling.
const FIGURES: [(&str, Cell); 13] = [
    ("MB/s", |it| number(it.bytes_per_second / 1e6, 1)),
    ("p50 ms", |it| ms(it.latency.p50_us)),
    ("p90 ms", |it| ms(it.latency.p90_us)),
    ("p99 ms", |it| ms(it.latency.p99_us)),
    ("p99.9 ms", |it| ms(it.latency.p99_9_us)),
    ("p99.99 ms", |it| ms(it.latency.p99_99_us)),
    ("max ms", |it| ms(it.latency.max_us)),
    ("server cpu µs/op", |it| or_dash(it.cpu_us_per_operation.map(|it| format!("{it:.1}")))),
    ("generator cpu µs/op", |it| {
        or_dash(it.generator_cpu_us_per_operation.map(|it| format!("{it:.1}")))
    }),
    ("server MiB", |it| or_dash(it.rss_bytes.map(|it| format!("{:.0}", it as f64 / 1048576.0)))),
    ("disk B/B", |it| or_dash(it.disk_bytes_per_value_byte.map(|it| format!("{it:.2}")))),
    ("longest pause ms", |it| longest_pause_ms(it)),
    ("errors", |it| if it.seconds > 0.0 { it.errors_text() } else { "-".to_string() }),
];

fn table(summaries: &[Summary]) -> (Table, Vec<String>) {
    let mut same = Vec::new();
    let mut settings = Vec::new();
    for (name, cell) in SETTINGS {
        let cells: Vec<String> = summaries.iter().map(cell).filter(|it| it != "-").collect();
        match cells.first() {
            None => {}
            Some(first) if cells.len() == summaries.len() && cells.iter().all(|it| it == first) => {
                same.push(format!("{name} {first}"));
            }
            Some(_) => settings.push((name, cell)),
        }
    }
    let with_ceiling = summaries.iter().any(|it| it.name == CEILING);
    let with_rocksdb = summaries.iter().any(|it| it.name.starts_with(ROCKSDB));
    let percent = |ratio: Option<f64>| or_dash(ratio.map(|it| format!("{:.1} %", it * 100.0)));
    let mut header = vec!["what", "op"];
    header.extend(settings.iter().map(|(name, _)| *name));
    header.push("ops/s");
    header.extend(with_ceiling.then_some("of ceiling"));
    header.extend(with_ceiling.then_some("cpu, bare ones"));
    header.extend(with_rocksdb.then_some("of RocksDB"));
    header.extend(FIGURES.iter().map(|(name, _)| *name));
    let mut table = Table::new();
    table.load_style(presets::ASCII_MARKDOWN).set_header(header);
    for column in table.column_iter_mut().skip(2) {
        column.set_cell_alignment(CellAlignment::Right);
    }
    for (place, summary) in summaries.iter().enumerate() {
        let mut row = vec![summary.name.clone(), summary.op.clone()];
        row.extend(settings.iter().map(|(_, cell)| cell(summary)));
        row.push(number(summary.operations_per_second, 0));
        if with_ceiling {
            row.push(percent(of_ceiling(summaries, place)));
            let bare = cpu_of_bare(summaries, place);
            row.push(or_dash(bare.map(|it| format!("{it:.1}"))));
        }
        if with_rocksdb {
            row.push(percent(of_rocksdb(summaries, summary)));
        }
        row.extend(FIGURES.iter().map(|(_, cell)| cell(summary)));
        table.add_row(row);
        for (op, latency) in &summary.by_op {
            let part = Summary { latency: *latency, ..Summary::default() };
            let mut row = vec![format!("  of {}", summary.name), op.clone()];
            row.extend(settings.iter().map(|(_, cell)| cell(summary)));
            row.push("-".to_string());
            row.extend(with_ceiling.then(|| "-".to_string()));
            row.extend(with_ceiling.then(|| "-".to_string()));
            row.extend(with_rocksdb.then(|| "-".to_string()));
            row.extend(FIGURES.iter().map(|(_, cell)| cell(&part)));
            table.add_row(row);
        }
    }
    (table, same)
}

/// The rate of the measurement at `place` relative to its ceiling.
pub(crate) fn of_ceiling(summaries: &[Summary], place: usize) -> Option<f64> {
    relative_to_ceiling(summaries, place, |it| Some(it.operations_per_second))
}

/// The CPU time of an operation relative to the bare server's for the same: similar on fast and
/// slow machines.
pub(crate) fn cpu_of_bare(summaries: &[Summary], place: usize) -> Option<f64> {
    relative_to_ceiling(summaries, place, |it| it.cpu_us_per_operation)
}

/// A figure of the measurement at `place` relative to its ceiling: the last one before it with the
/// same operation, connections and values.
pub(crate) fn relative_to_ceiling(
    summaries: &[Summary],
    place: usize,
    figure: impl Fn(&Summary) -> Option<f64>,
) -> Option<f64> {
    let of = summaries.get(place).filter(|it| !it.name.starts_with(ROCKSDB))?;
    let alike = |it: &&Summary| {
        (&it.op, it.connections, &it.value_bytes) == (&of.op, of.connections, &of.value_bytes)
    };
    let before = summaries.get(..=place)?.iter().rev().filter(alike);
    let ceiling = figure(before.into_iter().find(|it| it.name == CEILING)?)?;
    (ceiling > 0.0).then_some(figure(of)? / ceiling)
}

/// The rate of a PUT relative to bare RocksDB writing the same as durably, if that was measured.
fn of_rocksdb(summaries: &[Summary], of: &Summary) -> Option<f64> {
    let name = match of.name.as_str() {
        "buffered" => "rocksdb buffered",
        "fsync" => "rocksdb synced",
        _ => return None,
    };
    let alike =
        |it: &&Summary| it.name == name && it.op == of.op && it.connections == of.connections;
    let bare = summaries.iter().rev().find(alike)?.operations_per_second;
    (bare > 0.0).then_some(of.operations_per_second / bare)
}

/// The longest time without any success, to the slice: a freeze that percentiles can hide.
fn longest_pause_ms(summary: &Summary) -> String {
    let [first, ..] = summary.points.as_slice() else { return "-".to_string() };
    let silent = summary.points.split(|it| it.operations_per_second > 0.0).map(<[_]>::len).max();
    format!("{:.0}", silent.unwrap_or(0) as f64 * first.seconds * 1000.0)
}

fn number(figure: f64, digits: usize) -> String {
    if figure > 0.0 { format!("{figure:.digits$}") } else { "-".to_string() }
}

fn ms(us: u64) -> String {
    if us == 0 { "-".to_string() } else { format!("{:.2}", us as f64 / 1000.0) }
}

fn or_dash(figure: Option<String>) -> String {
    figure.unwrap_or_else(|| "-".to_string())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::summary::tests::summary;

    #[test]
    fn each_operation_is_compared_with_the_last_ceiling_of_its_own() {
        let rows = [
            summary("ceiling", "put", 1000.0),
            summary("cluster", "put", 250.0),
            summary("ceiling", "get", 2000.0),
            summary("cluster", "get", 100.0),
            summary("ceiling", "put", 500.0),
            summary("cluster", "put", 250.0),
            Summary { connections: 1, ..summary("cluster", "put", 10.0) },
        ];
        let ratios: Vec<_> = (0..rows.len()).map(|it| of_ceiling(&rows, it)).collect();
        let expected = [1.0, 0.25, 1.0, 0.05, 1.0, 0.5].map(Some);
        assert_eq!((&ratios[..6], ratios[6]), (&expected[..], None));
        let text = text(&rows);
        let lines: Vec<&str> = text.lines().collect();
        assert!(lines[3].contains(" 250 ") && lines[3].contains("25.0 %"), "{text}");
        assert!(lines[2].contains("100.0 %") && lines[2].contains("1.50"), "{text}");
    }

    #[test]
    fn a_put_is_compared_with_rocksdb_as_durable_as_it() {
        let rows = [
            summary("rocksdb buffered", "put", 1000.0),
            summary("rocksdb synced", "put", 500.0),
            summary("buffered", "put", 100.0),
            summary("fsync", "put", 100.0),
            summary("fsync", "get", 100.0),
        ];
        let ratios = rows.iter().map(|it| of_rocksdb(&rows, it)).collect::<Vec<_>>();
        assert_eq!(ratios, [None, None, Some(0.1), Some(0.2), None]);
        assert!(text(&rows).contains("of RocksDB"));
    }

    #[test]
    fn a_mixed_load_has_a_row_for_each_operation() {
        let latency = crate::summary::Latency { p50_us: 777_000, ..Default::default() };
        let by_op = [("get".to_string(), latency)].into();
        let text = text(&[Summary { by_op, ..summary("a", "mixed", 1.0) }]);
        let row = text.lines().find(|it| it.contains("of a")).unwrap_or_default();
        assert!(row.contains(" get ") && row.contains(" 777.00 "), "{text}");
    }

    #[test]
    fn a_setting_that_all_share_stands_once() {
        let rows = [summary("a", "put", 1.0), Summary { nodes: 5, ..summary("b", "put", 1.0) }];
        let text = text(&rows);
        assert!(text.contains("\nAll: connections 64, value bytes 1024, keys 100"), "{text}");
        assert!(text.lines().next().unwrap_or_default().contains("nodes"), "{text}");
        assert!(!text.contains("offered"), "{text}");
    }
}
