//! What one measurement found: counts, latencies, processor time; as text and as JSON.

use std::collections::BTreeMap;
use std::io::Write;
use std::path::Path;
use std::time::Duration;

use hdrhistogram::Histogram;
use serde::Serialize;

/// Latencies are told apart up to this one, three digits of each: ten minutes.
const LATENCY_US_MAX: u64 = 600_000_000;
/// How many wrong answers are described; all are counted.
const WRONG_NAMED_MAX: usize = 5;

/// Takes the result of each operation as it ends.
#[derive(Debug)]
pub(crate) struct Recorder {
    latency_us: Histogram<u64>,
    /// Successful operations that ended inside the measured window.
    pub(crate) ended_in_window: u64,
    errors: BTreeMap<String, u64>,
    wrong: u64,
    wrong_named: Vec<String>,
    stale: u64,
}

impl Recorder {
    pub(crate) fn new() -> Self {
        let latency_us = Histogram::new_with_bounds(1, LATENCY_US_MAX, 3)
            .unwrap_or_else(|_| unreachable!("the bounds and three digits are in range"));
        let (errors, wrong_named) = (BTreeMap::new(), Vec::new());
        Recorder { latency_us, ended_in_window: 0, errors, wrong: 0, wrong_named, stale: 0 }
    }

    /// A success that was due inside the window.
    pub(crate) fn success(&mut self, latency: Duration) {
        let latency_us = u64::try_from(latency.as_micros()).unwrap_or(u64::MAX);
        self.latency_us.saturating_record(latency_us.max(1));
    }

    /// No answer, or one with a status that was not asked for. Counted in the warm-up too.
    pub(crate) fn error(&mut self, kind: &str) {
        match self.errors.get_mut(kind) {
            Some(count) => *count += 1,
            None => {
                self.errors.insert(kind.to_string(), 1);
            }
        }
    }

    /// An answer that cannot be true.
    pub(crate) fn wrong(&mut self, what: String) {
        self.wrong += 1;
        if self.wrong_named.len() < WRONG_NAMED_MAX {
            self.wrong_named.push(what);
        }
    }

    /// A value older than the last acknowledged one. Sloppy quorums may answer so.
    pub(crate) fn stale(&mut self) {
        self.stale += 1;
    }

    pub(crate) fn errors_total(&self) -> u64 {
        self.errors.values().sum()
    }

    pub(crate) fn latency(&self) -> Latency {
        let at = |percent: f64| self.latency_us.value_at_percentile(percent);
        Latency {
            p50_us: at(50.0),
            p90_us: at(90.0),
            p99_us: at(99.0),
            p99_9_us: at(99.9),
            p99_99_us: at(99.99),
            max_us: self.latency_us.max(),
        }
    }

    pub(crate) fn into_counts(self) -> Counts {
        Counts {
            operations: self.latency_us.len(),
            errors: self.errors,
            wrong: self.wrong,
            wrong_named: self.wrong_named,
            stale: self.stale,
        }
    }
}

/// Latencies in microseconds; in an open loop they count from the intended start.
#[derive(Clone, Copy, Debug, Serialize)]
pub(crate) struct Latency {
    pub(crate) p50_us: u64,
    pub(crate) p90_us: u64,
    pub(crate) p99_us: u64,
    pub(crate) p99_9_us: u64,
    pub(crate) p99_99_us: u64,
    pub(crate) max_us: u64,
}

/// What was counted.
#[derive(Debug, Serialize)]
pub(crate) struct Counts {
    /// Successes in the histogram: those that were due inside the window.
    pub(crate) operations: u64,
    /// By status, or by what happened to the connection.
    pub(crate) errors: BTreeMap<String, u64>,
    pub(crate) wrong: u64,
    pub(crate) wrong_named: Vec<String>,
    pub(crate) stale: u64,
}

/// One measurement, whole.
#[derive(Debug, Serialize)]
pub(crate) struct Summary {
    /// What was measured: `cluster`, `ceiling` or what the user called it.
    pub(crate) name: String,
    /// `put`, `get` or `mixed`.
    pub(crate) op: String,
    pub(crate) connections: usize,
    pub(crate) nodes: usize,
    pub(crate) value_bytes: usize,
    pub(crate) keys: u64,
    /// The rate of an open loop, in operations per second.
    pub(crate) rate: Option<f64>,
    /// The length of the measured window, in seconds.
    pub(crate) seconds: f64,
    pub(crate) operations_per_second: f64,
    pub(crate) latency: Latency,
    #[serde(flatten)]
    pub(crate) counts: Counts,
    /// Operations of an open loop that were due and never started.
    pub(crate) missed: u64,
    /// Processor time of the named processes per operation.
    pub(crate) cpu_us_per_operation: Option<f64>,
    /// Processor time of the generator per operation.
    pub(crate) generator_cpu_us_per_operation: f64,
    /// Resident memory of the named processes at the end.
    pub(crate) rss_bytes: Option<u64>,
}

impl Summary {
    /// No wrong answer, and at least one right one.
    pub(crate) fn good(&self) -> bool {
        self.counts.wrong == 0 && self.counts.operations > 0
    }

    /// The errors in a few words.
    pub(crate) fn errors_text(&self) -> String {
        let mut parts: Vec<String> =
            self.counts.errors.iter().map(|(kind, count)| format!("{kind}: {count}")).collect();
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

    /// Some lines for people.
    pub(crate) fn text(&self) -> String {
        let ms = |us: u64| us as f64 / 1000.0;
        let latency = &self.latency;
        let mut text = format!(
            "{} {}: {:.0} operations/s over {:.1} s, {} connections, {} nodes, {} bytes\n",
            self.name,
            self.op,
            self.operations_per_second,
            self.seconds,
            self.connections,
            self.nodes,
            self.value_bytes,
        );
        text += &format!(
            "  latency ms: p50 {:.2}, p90 {:.2}, p99 {:.2}, p99.9 {:.2}, p99.99 {:.2}, max {:.2}\n",
            ms(latency.p50_us),
            ms(latency.p90_us),
            ms(latency.p99_us),
            ms(latency.p99_9_us),
            ms(latency.p99_99_us),
            ms(latency.max_us),
        );
        text += &format!("  errors: {}\n  cpu µs per operation: ", self.errors_text());
        if let (Some(cpu_us), Some(rss_bytes)) = (self.cpu_us_per_operation, self.rss_bytes) {
            let mib = rss_bytes as f64 / (1024.0 * 1024.0);
            text += &format!("nodes {cpu_us:.1} ({mib:.0} MiB resident), ");
        }
        text += &format!("generator {:.1}\n", self.generator_cpu_us_per_operation);
        for wrong in &self.counts.wrong_named {
            text += &format!("  wrong: {wrong}\n");
        }
        text
    }

    /// Adds this measurement to a file, as one line of JSON.
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
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
pub(crate) mod tests {
    use super::*;

    pub(crate) fn summary(name: &str, op: &str, operations_per_second: f64) -> Summary {
        let mut recorder = Recorder::new();
        recorder.success(Duration::from_micros(1500));
        Summary {
            name: name.to_string(),
            op: op.to_string(),
            connections: 64,
            nodes: 3,
            value_bytes: 1024,
            keys: 100,
            rate: None,
            seconds: 10.0,
            operations_per_second,
            latency: recorder.latency(),
            counts: recorder.into_counts(),
            missed: 0,
            cpu_us_per_operation: Some(12.5),
            generator_cpu_us_per_operation: 3.25,
            rss_bytes: Some(1 << 20),
        }
    }

    #[test]
    fn percentiles_are_those_of_what_was_recorded() {
        let mut recorder = Recorder::new();
        for us in 1..=10_000 {
            recorder.success(Duration::from_micros(us));
        }
        let latency = recorder.latency();
        let near = |found: u64, expected: u64| found.abs_diff(expected) * 1000 <= expected;
        assert!(near(latency.p50_us, 5_000), "{latency:?}");
        assert!(near(latency.p99_us, 9_900), "{latency:?}");
        assert!(near(latency.p99_99_us, 9_999), "{latency:?}");
        assert!(near(latency.max_us, 10_000), "{latency:?}");
        assert_eq!(recorder.into_counts().operations, 10_000);
    }

    #[test]
    fn errors_are_counted_by_kind_and_wrong_answers_named() {
        let mut recorder = Recorder::new();
        recorder.error("503");
        recorder.error("503");
        recorder.error("timeout");
        (0..9).for_each(|it| recorder.wrong(format!("wrong {it}")));
        assert_eq!(recorder.errors_total(), 3);
        let counts = recorder.into_counts();
        assert_eq!(counts.errors["503"], 2);
        assert_eq!((counts.wrong, counts.wrong_named.len()), (9, WRONG_NAMED_MAX));
        let summary = Summary { counts, ..summary("a", "get", 1.0) };
        assert_eq!(summary.errors_text(), "503: 2, timeout: 1, WRONG: 9");
        assert!(!summary.good());
    }

    #[test]
    fn json_is_one_line_a_measurement() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("figures.jsonl");
        summary("cluster", "put", 5.0).append_to(&path).unwrap();
        summary("cluster", "get", 6.0).append_to(&path).unwrap();
        let text = std::fs::read_to_string(&path).unwrap();
        let lines: Vec<serde_json::Value> =
            text.lines().map(|it| serde_json::from_str(it).unwrap()).collect();
        assert_eq!(lines.len(), 2);
        assert_eq!(lines[1]["op"], "get");
        assert_eq!(lines[1]["latency"]["max_us"], 1500);
        assert_eq!(lines[1]["operations"], 1);
    }
}
