//! The result of one measurement, as text and as a line of JSON, which can be read back to make
//! tables and plots.

use std::collections::BTreeMap;
use std::io::Write;
use std::path::Path;
use std::time::Duration;

use serde::{Deserialize, Serialize};

/// Latencies in microseconds; in an open loop they count from the intended start.
#[derive(Clone, Copy, Debug, Default, Serialize, Deserialize)]
pub(crate) struct Latency {
    pub(crate) p50_us: u64,
    pub(crate) p90_us: u64,
    pub(crate) p99_us: u64,
    pub(crate) p99_9_us: u64,
    pub(crate) p99_99_us: u64,
    pub(crate) max_us: u64,
}

/// Operations that ended within one slice of time.
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
pub(crate) struct Point {
    /// Its end, in seconds from the start of the window.
    pub(crate) seconds: f64,
    pub(crate) operations_per_second: f64,
    pub(crate) p50_us: u64,
    pub(crate) p99_us: u64,
    pub(crate) max_us: u64,
}

/// The counters.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(default)]
pub(crate) struct Counts {
    /// Successes in the histogram: those that were due inside the window, or ended there.
    pub(crate) operations: u64,
    /// By status, or by what happened to the connection; includes refusals.
    pub(crate) errors: BTreeMap<String, u64>,
    /// Refusals for overload (429 or 503), and the p99 of their latency.
    pub(crate) refused: u64,
    pub(crate) refusal_p99_us: u64,
    pub(crate) wrong: u64,
    pub(crate) wrong_named: Vec<String>,
    pub(crate) stale: u64,
}

/// One complete measurement.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(default)]
pub(crate) struct Summary {
    /// What was measured: `cluster`, `ceiling` or what the user called it.
    pub(crate) name: String,
    /// `put`, `get`, `delete` or `mixed`.
    pub(crate) op: String,
    pub(crate) connections: usize,
    pub(crate) nodes: usize,
    /// Sizes of values, as given by `--value-bytes`.
    pub(crate) value_bytes: String,
    pub(crate) keys: u64,
    /// The order in which keys were requested.
    pub(crate) order: String,
    /// The share of PUTs that deliberately made conflicts, in percent.
    pub(crate) conflicts: Option<f64>,
    /// The rate of an open loop, in operations per second.
    pub(crate) rate: Option<f64>,
    /// The length of the measured window, in seconds.
    pub(crate) seconds: f64,
    pub(crate) operations_per_second: f64,
    /// Bytes of values moved per second.
    pub(crate) bytes_per_second: f64,
    pub(crate) latency: Latency,
    /// The latency of each kind of operation of a mixed load.
    pub(crate) by_op: BTreeMap<String, Latency>,
    #[serde(flatten)]
    pub(crate) counts: Counts,
    /// Operations of an open loop that were due but never started.
    pub(crate) missed: u64,
    /// CPU time of the given processes per operation.
    pub(crate) cpu_us_per_operation: Option<f64>,
    /// CPU time of the generator per operation.
    pub(crate) generator_cpu_us_per_operation: Option<f64>,
    /// Resident memory of the given processes at the end.
    pub(crate) rss_bytes: Option<u64>,
    /// Bytes that the given processes wrote to disk for each byte of value that was put.
    pub(crate) disk_bytes_per_value_byte: Option<f64>,
    /// Latency over time.
    pub(crate) points: Vec<Point>,
    /// Percentile and latency in microseconds, ascending.
    pub(crate) curve: Vec<(f64, u64)>,
}

impl Summary {
    /// Whether there was no wrong answer, and at least one right one.
    pub(crate) fn good(&self) -> bool {
        self.counts.wrong == 0 && self.counts.operations > 0
    }

    /// The errors in a short text.
    pub(crate) fn errors_text(&self) -> String {
        let mut parts: Vec<String> =
            self.counts.errors.iter().map(|(kind, count)| format!("{kind}: {count}")).collect();
        if self.counts.refused > 0 {
            let ms = self.counts.refusal_p99_us as f64 / 1000.0;
            parts.push(format!("429 and 503 after {ms:.1} ms at p99"));
        }
        if self.counts.wrong > 0 {
            parts.push(format!("WRONG: {}", self.counts.wrong));
        }
        if self.counts.stale > 0 {
            parts.push(format!("stale: {}", self.counts.stale));
        }
        if self.missed > 0 {
            parts.push(format!("missed: {}", self.missed));
        }
        if parts.is_empty() { "0".to_string() } else { parts.join(", ") }
    }

    /// A readable report of a few lines.
    pub(crate) fn text(&self) -> String {
        let mut text = format!(
            "{} {}: {:.0} operations/s ({:.2} MB/s of values) over {:.1} s, {} connections, {} nodes, \
             {} bytes, {} keys {}\n",
            self.name,
            self.op,
            self.operations_per_second,
            self.bytes_per_second / 1e6,
            self.seconds,
            self.connections,
            self.nodes,
            self.value_bytes,
            self.keys,
            self.order,
        );
        text += &format!("  latency ms: {}\n", percentiles(&self.latency));
        for (op, latency) in &self.by_op {
            text += &format!("    of {op}: {}\n", percentiles(latency));
        }
        text += &format!("  errors: {}\n  cpu µs per operation: ", self.errors_text());
        if let (Some(cpu_us), Some(rss_bytes)) = (self.cpu_us_per_operation, self.rss_bytes) {
            let mib = rss_bytes as f64 / (1024.0 * 1024.0);
            text += &format!("nodes {cpu_us:.1} ({mib:.0} MiB resident), ");
        }
        text +=
            &format!("generator {:.1}\n", self.generator_cpu_us_per_operation.unwrap_or_default());
        if let Some(bytes) = self.disk_bytes_per_value_byte {
            text += &format!("  written to disk: {bytes:.2} bytes per byte of value\n");
        }
        for wrong in &self.counts.wrong_named {
            text += &format!("  wrong: {wrong}\n");
        }
        text
    }

    /// Appends this measurement to a file, as one line of JSON.
    ///
    /// # Errors
    /// A sentence that names the file.
    pub(crate) fn append_to(&self, path: &Path) -> Result<(), String> {
        let in_words = |error: &dyn std::fmt::Display| format!("{}: {error}", path.display());
        let line = serde_json::to_string(self).map_err(|error| in_words(&error))?;
        let mut options = std::fs::OpenOptions::new();
        let mut file =
            options.create(true).append(true).open(path).map_err(|error| in_words(&error))?;
        writeln!(file, "{line}").map_err(|error| in_words(&error))
    }

    /// Reads every measurement of a file, in order.
    ///
    /// # Errors
    /// A sentence that names the file and the line.
    pub(crate) fn read_from(path: &Path) -> Result<Vec<Summary>, String> {
        let text = std::fs::read_to_string(path)
            .map_err(|error| format!("{}: {error}", path.display()))?;
        let parse = |(number, line): (usize, &str)| {
            serde_json::from_str(line)
                .map_err(|error| format!("{}: line {}: {error}", path.display(), number + 1))
        };
        text.lines().enumerate().map(parse).collect()
    }
}

/// The milliseconds that so many percent of some durations do not exceed; not a number if there are none.
pub(crate) fn millis_at(durations: &[Duration]) -> impl Fn(usize) -> f64 {
    let mut sorted = durations.to_vec();
    sorted.sort_unstable();
    move |percent| {
        let at = (sorted.len() * percent / 100).min(sorted.len().saturating_sub(1));
        sorted.get(at).map_or(f64::NAN, |it| it.as_secs_f64() * 1e3)
    }
}

fn percentiles(latency: &Latency) -> String {
    let ms = |us: u64| us as f64 / 1000.0;
    format!(
        "p50 {:.2}, p90 {:.2}, p99 {:.2}, p99.9 {:.2}, p99.99 {:.2}, max {:.2}",
        ms(latency.p50_us),
        ms(latency.p90_us),
        ms(latency.p99_us),
        ms(latency.p99_9_us),
        ms(latency.p99_99_us),
        ms(latency.max_us),
    )
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
pub(crate) mod tests {
    use super::*;

    pub(crate) fn summary(name: &str, op: &str, operations_per_second: f64) -> Summary {
        Summary {
            name: name.to_string(),
            op: op.to_string(),
            connections: 64,
            nodes: 3,
            value_bytes: "1024".to_string(),
            keys: 100,
            seconds: 10.0,
            operations_per_second,
            latency: Latency { p50_us: 1500, p99_us: 3000, max_us: 4000, ..Latency::default() },
            counts: Counts { operations: 1, ..Counts::default() },
            cpu_us_per_operation: Some(12.5),
            generator_cpu_us_per_operation: Some(3.25),
            rss_bytes: Some(1 << 20),
            ..Summary::default()
        }
    }

    #[test]
    fn errors_are_said_in_a_few_words() {
        let mut summary = summary("a", "get", 1.0);
        assert!(summary.good() && summary.errors_text() == "0");
        summary.counts.errors.insert("timeout".to_string(), 1);
        summary.counts.wrong = 9;
        assert_eq!(summary.errors_text(), "timeout: 1, WRONG: 9");
        assert!(!summary.good());
    }

    #[test]
    fn json_is_one_line_a_measurement_and_can_be_read_again() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("figures.jsonl");
        summary("cluster", "put", 5.0).append_to(&path).unwrap();
        summary("cluster", "get", 6.0).append_to(&path).unwrap();
        assert_eq!(std::fs::read_to_string(&path).unwrap().lines().count(), 2);
        let read = Summary::read_from(&path).unwrap();
        assert_eq!(read[1].op, "get");
        assert_eq!((read[1].latency.max_us, read[1].counts.operations), (4000, 1));
        std::fs::write(&path, "{}\nnonsense\n").unwrap();
        assert!(Summary::read_from(&path).unwrap_err().contains("line 2"));
    }
}
