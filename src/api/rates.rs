//! Rates and latencies of this node: the difference between two readings of its metrics.

use std::collections::BTreeMap;
use std::time::{Instant, SystemTime, UNIX_EPOCH};

use serde_json::{Value, json};

use crate::metrics;
use crate::node::Node;

/// The kinds of requests that are reported, by the names that the metrics give them.
const OPERATIONS: [&str; 6] = ["get", "put", "delete", "siblings", "buckets", "other"];

/// One reading of the metrics.
#[derive(Debug, Default)]
pub(super) struct Sample {
    at: Option<Instant>,
    operations: BTreeMap<String, Operation>,
    numbers: BTreeMap<&'static str, f64>,
}

/// The requests of one kind, since the node's start.
#[derive(Clone, Debug, Default, PartialEq)]
struct Operation {
    answered: f64,
    /// Those of them that were answered 5xx.
    failed: f64,
    /// How many took at most so many seconds, by that bound; the last bound is infinite.
    buckets: Vec<(f64, f64)>,
}

/// What `/metrics` calls them: answered requests, with their operation and how they ended; which of
/// these ends are failures; the time that requests took.
const ANSWERED: &str = "quorate_requests_total";
const OPERATION: &str = "route";
const END: &str = "status";
const FAILURES: [&str; 1] = ["5xx"];
const TOOK: &str = "quorate_request_time_seconds_bucket";
/// Numbers that are reported as they are, and those whose rate is, with their metrics.
const GAUGES: [(&str, &str); 2] =
    [("in_flight", "quorate_operations"), ("in_flight_bytes", "quorate_operation_bytes")];
const COUNTERS: [(&str, &str); 3] = [
    ("refused_per_s", "quorate_overloads_total"),
    ("store_writes_per_s", "quorate_store_writes_total"),
    ("store_syncs_per_s", "quorate_store_syncs_total"),
];

impl Sample {
    /// Reads the metrics of this node.
    pub(super) fn take(node: &Node) -> Self {
        Self { at: Some(Instant::now()), ..Self::of(&metrics::render(node)) }
    }

    /// Reads what `/metrics` answers.
    fn of(text: &str) -> Self {
        let mut sample = Self::default();
        for line in text.lines().filter(|line| !line.starts_with('#')) {
            let Some(((name, labels), value)) = parse(line) else { continue };
            let label = |wanted: &str| labels.iter().find(|(it, _)| *it == wanted).map(|(_, v)| *v);
            for (_, metric) in GAUGES.iter().chain(&COUNTERS).filter(|(_, it)| *it == name) {
                sample.numbers.insert(metric, value);
            }
            let Some(operation) = label(OPERATION).filter(|it| OPERATIONS.contains(it)) else {
                continue;
            };
            let operation = sample.operations.entry(operation.to_owned()).or_default();
            match name {
                ANSWERED => {
                    operation.answered += value;
                    if label(END).is_some_and(|end| FAILURES.contains(&end)) {
                        operation.failed += value;
                    }
                }
                TOOK => {
                    let bound = label("le").and_then(|le| le.parse().ok()).unwrap_or(f64::INFINITY);
                    operation.buckets.push((bound, value));
                }
                _ => {}
            }
        }
        for operation in sample.operations.values_mut() {
            operation.buckets.sort_by(|a, b| a.0.total_cmp(&b.0));
        }
        sample
    }

    /// What happened since an earlier sample, per second; rates are null without one.
    pub(super) fn since(&self, before: Option<&Self>) -> Value {
        let seconds =
            self.at.zip(before.and_then(|it| it.at)).map(|(now, then)| (now - then).as_secs_f64());
        let nothing = Operation::default();
        let mut operations = serde_json::Map::new();
        for name in OPERATIONS {
            let now = self.operations.get(name).unwrap_or(&nothing);
            let then = before.and_then(|it| it.operations.get(name)).unwrap_or(&nothing);
            operations.insert(name.to_owned(), now.since(then, seconds));
        }
        let number = |metric: &str, of: &Self| of.numbers.get(metric).copied();
        let mut report = json!({
            "at_ms": SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |at| at.as_millis() as u64),
            "over_ms": seconds.map(|seconds| (seconds * 1000.0).round()),
            "operations": operations,
        });
        for (name, metric) in GAUGES {
            report[name] = json!(number(metric, self));
        }
        for (name, metric) in COUNTERS {
            let then = before.and_then(|it| number(metric, it));
            report[name] = json!(per_second(number(metric, self).zip(then), seconds));
        }
        report
    }
}

impl Operation {
    fn since(&self, then: &Self, seconds: Option<f64>) -> Value {
        let mut took: Vec<(f64, f64)> = self.buckets.clone();
        for (bucket, (_, before)) in took.iter_mut().zip(&then.buckets) {
            bucket.1 -= before;
        }
        let quantile = |q: f64| seconds.and_then(|_| quantile(&took, q));
        json!({
            "per_s": per_second(Some((self.answered, then.answered)), seconds),
            "failed_per_s": per_second(Some((self.failed, then.failed)), seconds),
            "p50_s": quantile(0.5),
            "p99_s": quantile(0.99),
        })
    }
}

fn per_second(now_and_then: Option<(f64, f64)>, seconds: Option<f64>) -> Option<f64> {
    let ((now, then), seconds) = now_and_then.zip(seconds.filter(|it| *it > 0.0))?;
    Some(((now - then).max(0.0) / seconds * 100.0).round() / 100.0)
}

/// The quantile of a cumulative histogram, in its unit, interpolated within a bucket; `None` if it
/// is empty.
fn quantile(buckets: &[(f64, f64)], q: f64) -> Option<f64> {
    let all = buckets.last()?.1;
    if all <= 0.0 {
        return None;
    }
    let rank = q * all;
    let at = buckets.iter().position(|(_, count)| *count >= rank)?;
    let (low, below) = at.checked_sub(1).map_or((0.0, 0.0), |before| buckets[before]);
    let (high, count) = buckets[at];
    if high.is_infinite() {
        return Some(low);
    }
    let share = if count > below { (rank - below) / (count - below) } else { 1.0 };
    Some(low + (high - low) * share)
}

type Labels<'a> = Vec<(&'a str, &'a str)>;

/// One line of OpenMetrics text: name, labels, value. No label that is of interest here has an
/// escape.
fn parse(line: &str) -> Option<((&str, Labels<'_>), f64)> {
    let (series, value) = line.rsplit_once(' ')?;
    let value = value.parse().ok()?;
    let Some((name, labels)) = series.split_once('{') else {
        return Some(((series, Vec::new()), value));
    };
    let label = |pair| {
        let (name, value): (&str, &str) = str::split_once(pair, '=')?;
        Some((name, value.trim_matches('"')))
    };
    let labels = labels.trim_end_matches('}').split(',').filter_map(label).collect();
    Some(((name, labels), value))
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use std::time::Duration;

    use super::*;

    /// What `/metrics` says of PUTs: `fast` took 100 to 200 microseconds, `slow`, which failed, 50
    /// to 100 ms.
    fn reading(fast: u32, slow: u32, at: Instant) -> Sample {
        let all = fast + slow;
        let text = format!(
            "# TYPE quorate_requests counter\n\
             quorate_requests_total{{route=\"put\",status=\"2xx\"}} {fast}\n\
             quorate_requests_total{{route=\"put\",status=\"5xx\"}} {slow}\n\
             quorate_requests_total{{route=\"get\",status=\"2xx\"}} 0\n\
             quorate_request_time_seconds_bucket{{le=\"+Inf\",route=\"put\"}} {all}\n\
             quorate_request_time_seconds_bucket{{le=\"0.0001\",route=\"put\"}} 0\n\
             quorate_request_time_seconds_bucket{{le=\"0.0002\",route=\"put\"}} {fast}\n\
             quorate_request_time_seconds_bucket{{le=\"0.05\",route=\"put\"}} {fast}\n\
             quorate_request_time_seconds_bucket{{le=\"0.1\",route=\"put\"}} {all}\n"
        );
        Sample { at: Some(at), ..Sample::of(&text) }
    }

    #[test]
    fn rates_are_differences() {
        let begun = Instant::now();
        let before = reading(1, 7, begun);
        assert_eq!(before.since(None)["operations"]["put"]["per_s"], Value::Null);
        let after = reading(10, 8, begun + Duration::from_secs(2));
        let rates = after.since(Some(&before));
        let put = &rates["operations"]["put"];
        assert_eq!((&put["per_s"], &put["failed_per_s"]), (&json!(5.0), &json!(0.5)));
        let (p50, p99) = (put["p50_s"].as_f64().unwrap(), put["p99_s"].as_f64().unwrap());
        assert!(p50 > 0.0001 && p50 < 0.0002, "{p50}");
        assert!(p99 > 0.05 && p99 < 0.1, "{p99}");
        assert_eq!(rates["operations"]["get"]["p50_s"], Value::Null);
        assert_eq!(rates["over_ms"], 2000.0);
    }

    #[test]
    fn numbers_without_labels_are_read_too() {
        let text = "# HELP x y\nquorate_operations 3\nquorate_overloads_total 7\n# EOF\n";
        let sample = Sample { at: Some(Instant::now()), ..Sample::of(text) };
        let rates = sample.since(None);
        assert_eq!((&rates["in_flight"], &rates["refused_per_s"]), (&json!(3.0), &Value::Null));
    }

    #[test]
    fn a_quantile_lies_within_its_bucket() {
        let buckets = [(1.0, 0.0), (2.0, 10.0), (4.0, 10.0), (f64::INFINITY, 11.0)];
        assert_eq!(quantile(&buckets, 0.5), Some(1.55));
        assert_eq!(quantile(&buckets, 0.99), Some(4.0), "longer than the last bound");
        assert_eq!(quantile(&[(1.0, 0.0), (f64::INFINITY, 0.0)], 0.5), None);
        assert_eq!(quantile(&[], 0.5), None);
    }
}
