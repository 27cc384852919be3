//! Records the result of each operation as it ends: counts, a latency histogram for each kind of
//! operation, and one for each slice of time, so that a freeze is visible.

use std::collections::BTreeMap;
use std::ops::Range;
use std::time::{Duration, Instant};

use hdrhistogram::Histogram;

use crate::plan::Op;
use crate::summary::{Counts, Latency, Point};

/// The largest latency recorded, with three digits of precision: ten minutes.
const LATENCY_US_MAX: u64 = 600_000_000;
/// How many wrong answers are described; all are counted.
const WRONG_NAMED_MAX: usize = 5;
/// The most slices that a measurement is cut into, and the shortest one.
const SLICES_MAX: u32 = 240;
const SLICE_MIN: Duration = Duration::from_millis(200);
/// Points of the percentile curve per halving of the distance to 100 %.
const CURVE_TICKS: u32 = 4;

/// The results so far.
#[derive(Debug)]
pub(crate) struct Recorder {
    window: Range<Instant>,
    /// By kind of operation.
    latency_us: BTreeMap<&'static str, Histogram<u64>>,
    refusal_us: Histogram<u64>,
    /// Successful operations that ended inside the measured window.
    pub(crate) ended_in_window: u64,
    /// Bytes of the values they moved, and how many of those were written.
    pub(crate) value_bytes: u64,
    pub(crate) written_bytes: u64,
    counts: Counts,
    slice: Duration,
    in_slice: Histogram<u64>,
    points: Vec<Point>,
}

impl Recorder {
    /// A recorder for this window.
    pub(crate) fn new(window: Range<Instant>) -> Self {
        let slice = ((window.end - window.start) / SLICES_MAX).max(SLICE_MIN);
        Recorder {
            window,
            latency_us: BTreeMap::new(),
            refusal_us: histogram(3),
            ended_in_window: 0,
            value_bytes: 0,
            written_bytes: 0,
            counts: Counts::default(),
            slice,
            in_slice: histogram(2),
            points: Vec::new(),
        }
    }

    /// A success that was due at `intended`, ended at `now` and moved a value of `value_bytes`. Its
    /// latency counts if it was due in the window, and also if it only ended there: in an
    /// overloaded open loop, what ends now was due long ago.
    pub(crate) fn success(&mut self, op: Op, intended: Instant, now: Instant, value_bytes: usize) {
        let latency_us = micros(now - intended);
        if self.window.contains(&intended) || self.window.contains(&now) {
            let of_op = self.latency_us.entry(op.name()).or_insert_with(|| histogram(3));
            of_op.saturating_record(latency_us);
            self.counts.operations += 1;
        }
        if self.window.contains(&now) {
            self.ended_in_window += 1;
            self.value_bytes += value_bytes as u64;
            if op == Op::Put {
                self.written_bytes += value_bytes as u64;
            }
            self.close_slices(now);
            self.in_slice.saturating_record(latency_us);
        }
    }

    /// Closes the slices that ended before `now`; slices without an operation are points too.
    fn close_slices(&mut self, now: Instant) {
        let elapsed = now.min(self.window.end) - self.window.start;
        while self.slice * (self.points.len() as u32 + 1) <= elapsed {
            let at = |percent| self.in_slice.value_at_percentile(percent);
            self.points.push(Point {
                seconds: (self.slice * (self.points.len() as u32 + 1)).as_secs_f64(),
                operations_per_second: self.in_slice.len() as f64 / self.slice.as_secs_f64(),
                p50_us: at(50.0),
                p99_us: at(99.0),
                max_us: self.in_slice.max(),
            });
            self.in_slice.reset();
        }
    }

    /// No answer, or one with an unexpected status. Counted during the warm-up too.
    pub(crate) fn error(&mut self, kind: &str) {
        match self.counts.errors.get_mut(kind) {
            Some(count) => *count += 1,
            None => {
                self.counts.errors.insert(kind.to_string(), 1);
            }
        }
    }

    /// A refusal for overload, its duration, and whether it said when to retry.
    pub(crate) fn refusal(&mut self, status: u16, took: Duration, says_when: bool) {
        self.counts.refused += 1;
        self.refusal_us.saturating_record(micros(took));
        self.error(if says_when {
            if status == 429 { "429" } else { "503" }
        } else if status == 429 {
            "429 without Retry-After"
        } else {
            "503 without Retry-After"
        });
    }

    /// An answer that cannot be right.
    pub(crate) fn wrong(&mut self, what: String) {
        self.counts.wrong += 1;
        if self.counts.wrong_named.len() < WRONG_NAMED_MAX {
            self.counts.wrong_named.push(what);
        }
    }

    /// An answer older than the last acknowledged write. Sloppy quorums allow that.
    pub(crate) fn stale(&mut self) {
        self.counts.stale += 1;
    }

    pub(crate) fn errors_total(&self) -> u64 {
        self.counts.errors.values().sum()
    }

    /// The last slice of time, for the progress line.
    pub(crate) fn last_point(&self) -> Option<&Point> {
        self.points.last()
    }

    /// Ends the recording.
    pub(crate) fn finish(mut self) -> Found {
        self.close_slices(self.window.end);
        let mut all = histogram(3);
        for one in self.latency_us.values() {
            // The bounds are equal, so this cannot fail.
            let _ = all.add(one);
        }
        let refusal_p99_us = self.refusal_us.value_at_percentile(99.0);
        Found {
            latency: latency(&all),
            curve: all
                .iter_quantiles(CURVE_TICKS)
                .map(|it| (it.quantile_iterated_to() * 100.0, it.value_iterated_to()))
                .collect(),
            by_op: match self.latency_us.len() {
                0 | 1 => BTreeMap::new(),
                _ => self.latency_us.iter().map(|(op, it)| (op.to_string(), latency(it))).collect(),
            },
            counts: Counts { refusal_p99_us, ..self.counts },
            points: self.points,
        }
    }
}

/// The results.
#[derive(Debug)]
pub(crate) struct Found {
    pub(crate) latency: Latency,
    /// Percentile and latency in microseconds, ascending.
    pub(crate) curve: Vec<(f64, u64)>,
    /// The latency of each kind of operation, if there was more than one.
    pub(crate) by_op: BTreeMap<String, Latency>,
    pub(crate) counts: Counts,
    pub(crate) points: Vec<Point>,
}

fn histogram(digits: u8) -> Histogram<u64> {
    Histogram::new_with_bounds(1, LATENCY_US_MAX, digits)
        .unwrap_or_else(|_| unreachable!("the bounds and so few digits are in range"))
}

fn micros(took: Duration) -> u64 {
    u64::try_from(took.as_micros()).unwrap_or(u64::MAX).max(1)
}

fn latency(histogram: &Histogram<u64>) -> Latency {
    let at = |percent| histogram.value_at_percentile(percent);
    Latency {
        p50_us: at(50.0),
        p90_us: at(90.0),
        p99_us: at(99.0),
        p99_9_us: at(99.9),
        p99_99_us: at(99.99),
        max_us: histogram.max(),
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    fn recorder(seconds: u64) -> (Recorder, Instant) {
        let start = Instant::now();
        (Recorder::new(start..start + Duration::from_secs(seconds)), start)
    }

    #[test]
    fn percentiles_are_those_of_what_was_recorded() {
        let (mut recorder, start) = recorder(10);
        for us in 1..=10_000 {
            recorder.success(Op::Get, start, start + Duration::from_micros(us), 10);
        }
        assert_eq!((recorder.ended_in_window, recorder.value_bytes), (10_000, 100_000));
        assert_eq!(recorder.written_bytes, 0);
        let found = recorder.finish();
        let near = |found: u64, expected: u64| found.abs_diff(expected) * 1000 <= expected;
        assert!(near(found.latency.p50_us, 5_000), "{found:?}");
        assert!(near(found.latency.p99_us, 9_900), "{found:?}");
        assert!(near(found.latency.p99_99_us, 9_999), "{found:?}");
        assert!(near(found.latency.max_us, 10_000), "{found:?}");
        assert_eq!(found.counts.operations, 10_000);
        assert!(found.curve.is_sorted() && found.curve.len() > 20, "{:?}", found.curve);
        assert!(found.by_op.is_empty());
    }

    #[test]
    fn a_slice_in_which_nothing_ended_is_a_point_too() {
        let (mut recorder, start) = recorder(1);
        let at = |ms| start + Duration::from_millis(ms);
        recorder.success(Op::Put, at(10), at(11), 1);
        recorder.success(Op::Get, at(20), at(720), 1);
        let found = recorder.finish();
        let rates: Vec<f64> = found.points.iter().map(|it| it.operations_per_second).collect();
        assert_eq!(rates, [5.0, 0.0, 0.0, 5.0, 0.0]);
        assert!(found.points[3].max_us.abs_diff(700_000) < 7_000);
        assert_eq!(found.by_op.len(), 2);
    }

    #[test]
    fn what_was_due_or_ended_in_the_window_has_a_latency() {
        let (mut recorder, start) = recorder(1);
        let at = |ms| start + Duration::from_millis(ms);
        let long_ago = start.checked_sub(Duration::from_millis(500)).unwrap();
        recorder.success(Op::Put, at(0), at(1000), 1);
        assert_eq!(recorder.ended_in_window, 0);
        recorder.success(Op::Put, long_ago, at(1), 1);
        recorder.success(Op::Put, long_ago, long_ago, 1);
        assert_eq!(recorder.ended_in_window, 1);
        let found = recorder.finish();
        assert_eq!(found.counts.operations, 2);
        assert!(found.latency.p50_us.abs_diff(501_000) < 1000, "{found:?}");
    }

    #[test]
    fn errors_are_counted_by_kind_and_wrong_answers_named() {
        let (mut recorder, _) = recorder(1);
        recorder.error("closed");
        recorder.refusal(503, Duration::from_millis(2), true);
        recorder.refusal(429, Duration::from_millis(1), false);
        (0..9).for_each(|it| recorder.wrong(format!("wrong {it}")));
        assert_eq!(recorder.errors_total(), 3);
        let counts = recorder.finish().counts;
        assert_eq!((counts.errors["503"], counts.errors["429 without Retry-After"]), (1, 1));
        assert_eq!((counts.refused, counts.refusal_p99_us.abs_diff(2000) < 4), (2, true));
        assert_eq!((counts.wrong, counts.wrong_named.len()), (9, WRONG_NAMED_MAX));
    }
}
