//! Rates and latencies of this node: the difference between two readings of its metrics.

use std::collections::BTreeMap;
use std::time::{Instant, SystemTime, UNIX_EPOCH};

use serde_json::{Value, json};

use quorate_engine::metrics::text::{Format, Writer};
use quorate_engine::node::Node;

/// The kinds of requests that are reported, by the names that the metrics give them.
const OPERATIONS: [&str; 8] =
    ["get", "put", "delete", "siblings", "resolve", "keys", "buckets", "other"];
/// Answered requests, by operation and result; the results that are failures, though not by the
/// client's fault; the time that requests took.
const ANSWERED: &str = "quorate_requests_total";
const FAILURES: [&str; 5] = ["no_quorum", "overloaded", "unavailable", "no_space", "failed"];
const TOOK: &str = "quorate_request_duration_seconds_bucket";

/// One reading of the metrics.
#[derive(Debug, Default)]
pub(super) struct Sample {
    at: Option<Instant>,
    operations: BTreeMap<String, Operation>,
    in_flight: usize,
    in_flight_bytes: usize,
    refused: u64,
}

/// The requests of one kind, since the node's start.
#[derive(Clone, Debug, Default, PartialEq)]
struct Operation {
    answered: f64,
    /// Those of them that failed.
    failed: f64,
    /// How many took at most so many seconds, by that bound; the last bound is infinite.
    buckets: Vec<(f64, f64)>,
}

impl Sample {
    /// Reads the metrics of this node that need no answer of its store.
    pub(super) fn take(node: &Node) -> Self {
        let mut out = Writer::new(Format::Text);
        node.metrics.requests.write(&mut out);
        Self {
            at: Some(Instant::now()),
            operations: operations(&out.finish()),
            in_flight: node.admission.operations(),
            in_flight_bytes: node.admission.bytes(),
            refused: node.admission.refused(),
        }
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
        let refused = before.map(|then| (self.refused as f64, then.refused as f64));
        json!({
            "at_ms": SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |at| at.as_millis() as u64),
            "over_ms": seconds.map(|seconds| (seconds * 1000.0).round()),
            "operations": operations,
            "in_flight": self.in_flight,
            "in_flight_bytes": self.in_flight_bytes,
            "refused_per_s": per_second(refused, seconds),
        })
    }
}

/// Reads the text of metrics.
fn operations(text: &str) -> BTreeMap<String, Operation> {
    let mut operations = BTreeMap::<String, Operation>::new();
    for line in text.lines().filter(|line| !line.starts_with('#')) {
        let Some(((name, labels), value)) = parse(line) else { continue };
        let label = |wanted: &str| labels.iter().find(|(it, _)| *it == wanted).map(|(_, v)| *v);
        let Some(operation) = label("operation") else { continue };
        let operation = operations.entry(operation.to_owned()).or_default();
        match name {
            ANSWERED => {
                operation.answered += value;
                if label("result").is_some_and(|result| FAILURES.contains(&result)) {
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
    for operation in operations.values_mut() {
        operation.buckets.sort_by(|a, b| a.0.total_cmp(&b.0));
    }
    operations
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
    use quorate_engine::metrics::requests::{Operation, Outcome, Requests};

    /// After these PUTs: `fast` took 150 microseconds, `slow`, which failed, 70 milliseconds.
    fn reading(fast: u32, slow: u32, at: Instant) -> Sample {
        let requests = Requests::default();
        for _ in 0..fast {
            requests.answered(Operation::Put, Outcome::Ok, Duration::from_micros(150));
        }
        for _ in 0..slow {
            requests.answered(Operation::Put, Outcome::NoQuorum, Duration::from_millis(70));
        }
        let mut out = Writer::new(Format::Text);
        requests.write(&mut out);
        Sample { at: Some(at), operations: operations(&out.finish()), ..Sample::default() }
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
    fn a_quantile_lies_within_its_bucket() {
        let buckets = [(1.0, 0.0), (2.0, 10.0), (4.0, 10.0), (f64::INFINITY, 11.0)];
        assert_eq!(quantile(&buckets, 0.5), Some(1.55));
        assert_eq!(quantile(&buckets, 0.99), Some(4.0), "longer than the last bound");
        assert_eq!(quantile(&[(1.0, 0.0), (f64::INFINITY, 0.0)], 0.5), None);
        assert_eq!(quantile(&[], 0.5), None);
    }
}
