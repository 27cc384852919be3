//! Writes metrics in the formats that Prometheus reads: its own text format, and OpenMetrics for
//! clients that ask for it.
//!
//! The formats differ in little: OpenMetrics names a counter's family without `_total`, knows
//! units and infos, and ends with a mark.

use std::fmt::{Display, Write};
use std::time::Duration;

use quorate_storage::{DurationCounts, Durations};

use crate::metrics::desc::{Desc, Kind};

/// A format.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Format {
    /// Prometheus' text format, version 0.0.4.
    Text,
    /// OpenMetrics, version 1.0.0.
    OpenMetrics,
}

impl Format {
    /// The format for a client that sent this `Accept` header: OpenMetrics only if it asks for it
    /// by name.
    pub fn accepted(accept: Option<&str>) -> Self {
        let is_refused = |parameters: &str| {
            let quality = parameters.split(';').filter_map(|p| p.trim().strip_prefix("q=")).next();
            quality.and_then(|q| q.trim().parse().ok()).is_some_and(|q: f64| q <= 0.0)
        };
        let asks = accept.unwrap_or_default().split(',').any(|range| {
            let (name, parameters) = range.split_once(';').unwrap_or((range, ""));
            name.trim().eq_ignore_ascii_case("application/openmetrics-text")
                && !is_refused(parameters)
        });
        if asks { Self::OpenMetrics } else { Self::Text }
    }

    /// Its media type.
    pub fn content_type(self) -> &'static str {
        match self {
            Self::Text => "text/plain; version=0.0.4; charset=utf-8",
            Self::OpenMetrics => "application/openmetrics-text; version=1.0.0; charset=utf-8",
        }
    }
}

/// Writes metrics, one after another.
pub struct Writer {
    text: String,
    format: Format,
}

impl Writer {
    /// Nothing written yet.
    pub fn new(format: Format) -> Self {
        Self { text: String::with_capacity(64 << 10), format }
    }

    /// Everything that was written.
    pub fn finish(mut self) -> String {
        if self.format == Format::OpenMetrics {
            self.text.push_str("# EOF\n");
        }
        self.text
    }

    /// Begins a metric; its values follow.
    pub fn metric(&mut self, desc: &'static Desc) -> Values<'_> {
        let (family, kind) = match (self.format, desc.kind) {
            (Format::OpenMetrics, kind) => (desc.stem(), kind.name()),
            (Format::Text, Kind::Info) => (desc.name, "gauge"),
            (Format::Text, kind) => (desc.name, kind.name()),
        };
        self.line(format_args!("# HELP {family} {}", desc.help));
        self.line(format_args!("# TYPE {family} {kind}"));
        if let (Format::OpenMetrics, Some(unit)) = (self.format, desc.unit()) {
            self.line(format_args!("# UNIT {family} {unit}"));
        }
        Values { writer: self, desc }
    }

    /// A metric with a single value.
    pub fn one(&mut self, desc: &'static Desc, value: impl Display) {
        self.metric(desc).value(&[], value);
    }

    fn line(&mut self, line: std::fmt::Arguments<'_>) {
        let written = writeln!(self.text, "{line}");
        debug_assert!(written.is_ok(), "writing to a String cannot fail");
    }
}

/// Writes the values of one metric.
pub struct Values<'a> {
    writer: &'a mut Writer,
    desc: &'static Desc,
}

impl Values<'_> {
    /// The value for these labels, given in the order of the metric's label names.
    pub fn value(&mut self, labels: &[&str], value: impl Display) {
        let labels = self.labels(labels, None);
        self.writer.line(format_args!("{}{labels} {value}", self.desc.name));
    }

    /// The histogram for these labels.
    pub fn durations(&mut self, labels: &[&str], counts: &DurationCounts) {
        let bounds = (0..Durations::BOUNDS).map(|bucket| seconds(Durations::bound(bucket)));
        let bounds = bounds.map(|bound| bound.to_string());
        self.histogram(labels, bounds, &counts.buckets, seconds(counts.sum));
    }

    /// The histogram for these labels, with one bucket more than bounds.
    pub fn histogram(
        &mut self,
        labels: &[&str],
        bounds: impl Iterator<Item = String>,
        buckets: &[u64],
        sum: impl Display,
    ) {
        let (name, mut count) = (self.desc.name, 0);
        let bounds = bounds.chain(["+Inf".to_owned()]);
        for (bound, bucket) in bounds.zip(buckets) {
            count += bucket;
            let labels = self.labels(labels, Some(&bound));
            self.writer.line(format_args!("{name}_bucket{labels} {count}"));
        }
        let labels = self.labels(labels, None);
        self.writer.line(format_args!("{name}_sum{labels} {sum}"));
        self.writer.line(format_args!("{name}_count{labels} {count}"));
    }

    /// Labels with their braces; nothing if there are none.
    fn labels(&self, values: &[&str], bound: Option<&str>) -> String {
        debug_assert_eq!(self.desc.labels.len(), values.len(), "{}", self.desc.name);
        let bound = bound.map(|bound| ("le", bound));
        let named = self.desc.labels.iter().copied().zip(values.iter().copied());
        let all: Vec<String> = named
            .chain(bound)
            .map(|(name, value)| [name, "=\"", &escaped(value), "\""].concat())
            .collect();
        if all.is_empty() { String::new() } else { ["{", &all.join(","), "}"].concat() }
    }
}

/// A duration in seconds.
pub fn seconds(duration: Duration) -> f64 {
    duration.as_secs_f64()
}

fn escaped(value: &str) -> String {
    value.replace('\\', "\\\\").replace('"', "\\\"").replace('\n', "\\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    const TIMES: Desc = Desc::histogram("quorate_wait_seconds", "Waiting").by(&["peer"]);
    const BYTES: Desc = Desc::counter("quorate_moved_bytes_total", "Bytes moved");
    const BUILD: Desc = Desc::info("quorate_build_info", "The release").by(&["version"]);

    fn written(format: Format) -> String {
        let mut writer = Writer::new(format);
        writer.one(&BYTES, 17);
        writer.metric(&BUILD).value(&["a\"b\\c\n"], 1);
        let durations = Durations::default();
        durations.record(Duration::from_micros(60));
        writer.metric(&TIMES).durations(&["n2"], &durations.counts());
        writer.finish()
    }

    #[test]
    fn the_text_format_names_counters_whole_and_knows_no_units() {
        let text = written(Format::Text);
        let head = "# HELP quorate_moved_bytes_total Bytes moved\n\
            # TYPE quorate_moved_bytes_total counter\nquorate_moved_bytes_total 17\n\
            # HELP quorate_build_info The release\n# TYPE quorate_build_info gauge\n\
            quorate_build_info{version=\"a\\\"b\\\\c\\n\"} 1\n";
        assert!(text.starts_with(head), "{text}");
        let bucket = "quorate_wait_seconds_bucket{peer=\"n2\",le=\"0.00005\"} 0\n\
            quorate_wait_seconds_bucket{peer=\"n2\",le=\"0.000075\"} 1\n";
        assert!(text.contains(bucket), "{text}");
        let tail = "{peer=\"n2\",le=\"+Inf\"} 1\nquorate_wait_seconds_sum{peer=\"n2\"} 0.00006\n\
            quorate_wait_seconds_count{peer=\"n2\"} 1\n";
        assert!(text.ends_with(tail), "{text}");
    }

    #[test]
    fn openmetrics_names_families_by_their_stem() {
        let text = written(Format::OpenMetrics);
        let head = "# HELP quorate_moved_bytes Bytes moved\n# TYPE quorate_moved_bytes counter\n\
            # UNIT quorate_moved_bytes bytes\nquorate_moved_bytes_total 17\n\
            # HELP quorate_build The release\n# TYPE quorate_build info\nquorate_build_info{";
        assert!(text.starts_with(head), "{text}");
        assert!(
            text.contains("# UNIT quorate_wait_seconds seconds\n") && text.ends_with("# EOF\n")
        );
    }

    #[test]
    fn openmetrics_comes_only_to_those_who_ask_for_it() {
        for (accept, format) in [
            (None, Format::Text),
            (Some("*/*"), Format::Text),
            (Some("text/plain;version=0.0.4;q=0.5,*/*;q=0.1"), Format::Text),
            (Some("application/openmetrics-text; version=1.0.0; q=0"), Format::Text),
            (Some("application/openmetrics-textual"), Format::Text),
            (
                Some("Application/OpenMetrics-Text;version=1.0.0;q=0.6,*/*;q=0.2"),
                Format::OpenMetrics,
            ),
            (Some("text/plain, application/openmetrics-text"), Format::OpenMetrics),
        ] {
            assert_eq!(Format::accepted(accept), format, "{accept:?}");
        }
    }
}
