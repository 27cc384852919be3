//! Numbers from a node's `/metrics` (OpenMetrics text). A metric that a release does not have is
//! shown as unknown.

use std::collections::BTreeMap;

/// The most lines that are read.
const LINES_MAX: usize = 100_000;

/// The samples of one node: by name, then by labels as text.
#[derive(Clone, Debug, Default)]
pub(crate) struct Metrics(BTreeMap<String, Vec<Sample>>);

#[derive(Clone, Debug)]
struct Sample {
    labels: String,
    value: f64,
}

impl Metrics {
    /// Parses the text. Lines that are none of a metric are passed over.
    pub(crate) fn parse(text: &str) -> Self {
        let mut metrics = Self::default();
        for line in text.lines().take(LINES_MAX).filter(|line| !line.starts_with('#')) {
            let (name, labels, rest) = match line.split_once('{') {
                Some((name, rest)) => match rest.rsplit_once('}') {
                    Some((labels, rest)) => (name, labels, rest),
                    None => continue,
                },
                None => match line.split_once(' ') {
                    Some((name, rest)) => (name, "", rest),
                    None => continue,
                },
            };
            let value = rest.split_ascii_whitespace().next().and_then(|it| it.parse::<f64>().ok());
            if let Some(value) = value.filter(|value| value.is_finite()) {
                let sample = Sample { labels: labels.to_owned(), value };
                metrics.0.entry(name.to_owned()).or_default().push(sample);
            }
        }
        metrics
    }

    /// The sum over all labels of the first of these names that exists.
    pub(crate) fn sum(&self, names: &[&str]) -> Option<f64> {
        self.sum_where(names, |_| true)
    }

    /// Likewise, over the samples that have any of these labels, such as `operation="get"`.
    pub(crate) fn sum_of(&self, names: &[&str], labels: &[&str]) -> Option<f64> {
        self.sum_where(names, |found| labels.iter().any(|label| found.contains(label)))
    }

    fn sum_where(&self, names: &[&str], which: impl Fn(&str) -> bool) -> Option<f64> {
        let samples = names.iter().find_map(|name| self.0.get(*name))?;
        Some(samples.iter().filter(|it| which(&it.labels)).map(|it| it.value).sum())
    }

    /// A number that cannot be negative.
    pub(crate) fn count(&self, names: &[&str]) -> Option<u64> {
        self.sum(names).map(|value| value.max(0.0) as u64)
    }

    /// The quantile of the first of these histograms that exists, over the samples that have any of
    /// these labels (all, if none are given): the upper bound of the bucket that it falls in, in the
    /// unit of the buckets. `None` if there is no such histogram, or nothing since `before`.
    pub(crate) fn quantile(
        &self,
        before: Option<&Self>,
        names: &[&str],
        labels: &[&str],
        quantile: f64,
    ) -> Option<f64> {
        let mut counts = self.buckets(names, labels)?;
        if let Some(earlier) = before.and_then(|before| before.buckets(names, labels)) {
            for (bound, count) in &mut counts {
                let then =
                    earlier.iter().find(|(of, _)| of == bound).map_or(0.0, |(_, count)| *count);
                *count = (*count - then).max(0.0);
            }
        }
        let total = counts.last().map(|(_, count)| *count).filter(|total| *total > 0.0)?;
        let reached = counts.iter().find(|(_, count)| *count >= quantile * total);
        reached.map(|(bound, _)| *bound).filter(|bound| bound.is_finite())
    }

    /// Cumulated counts by upper bound, in order.
    fn buckets(&self, names: &[&str], labels: &[&str]) -> Option<Vec<(f64, f64)>> {
        let mut counts: Vec<(f64, f64)> = Vec::new();
        for sample in names.iter().find_map(|name| self.0.get(&format!("{name}_bucket")))? {
            if !labels.is_empty() && !labels.iter().any(|label| sample.labels.contains(label)) {
                continue;
            }
            let bound = sample.labels.split("le=\"").nth(1).and_then(|it| it.split('"').next());
            let bound = bound.and_then(|it| it.replace("+Inf", "inf").parse::<f64>().ok());
            let Some(bound) = bound else { continue };
            match counts.iter_mut().find(|(of, _)| *of == bound) {
                Some((_, count)) => *count += sample.value,
                None => counts.push((bound, sample.value)),
            }
        }
        counts.sort_by(|a, b| a.0.total_cmp(&b.0));
        Some(counts)
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    const TEXT: &str = "# HELP a Something.\n# TYPE a counter\n\
        a_total{route=\"get\",status=\"2xx\"} 5\na_total{route=\"put\",status=\"2xx\"} 7\nb 1.5\n\
        t_bucket{le=\"0.1\",route=\"get\"} 1\nt_bucket{le=\"0.2\",route=\"get\"} 9\n\
        t_bucket{le=\"+Inf\",route=\"get\"} 10\nnan NaN\nbroken{x 1\n\n{} 1\nword\n# EOF\n";

    #[test]
    fn samples_are_summed_and_what_is_missing_is_unknown() {
        let metrics = Metrics::parse(TEXT);
        assert_eq!(metrics.sum(&["none", "a_total"]), Some(12.0));
        assert_eq!(metrics.sum_of(&["a_total"], &["route=\"get\""]), Some(5.0));
        assert_eq!(metrics.count(&["b"]), Some(1));
        assert_eq!(metrics.sum(&["nan"]), None);
        assert_eq!(metrics.sum(&["c"]), None);
    }

    #[test]
    fn quantiles_are_those_since_the_last_look() {
        let metrics = Metrics::parse(TEXT);
        assert_eq!(metrics.quantile(None, &["none", "t"], &[], 0.5), Some(0.2));
        assert_eq!(metrics.quantile(None, &["none", "t"], &[], 0.99), None, "past the last bound");
        assert_eq!(metrics.quantile(Some(&metrics), &["t"], &[], 0.5), None, "nothing since");
        assert_eq!(metrics.quantile(None, &["u"], &[], 0.5), None);
    }
}
