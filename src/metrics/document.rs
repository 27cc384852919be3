//! Makes `docs/metrics.md` of the metrics' declarations, and holds them to the conventions.
//!
//! `UPDATE_DOCS=1 cargo test --release --lib metrics` rewrites the file.

use std::collections::BTreeSet;
use std::fmt::Write;
use std::fs;

use crate::metrics::collect::SECTIONS;
use quorate_engine::metrics::desc::{Desc, Kind, LABELS};

const FILE: &str = "docs/metrics.md";
/// The longest line of the file, in characters.
const LINE_MAX: usize = 110;

const HEAD: &str = "# Metrics

Every node serves its metrics at `GET /metrics`: in Prometheus' text format, or as OpenMetrics to clients that
ask for it. This page is made of their declarations and tested against a running node; do not
edit it. `config/prometheus/alerts.yaml` has alert rules, `config/grafana/quorate.json` a dashboard; both use
only what is listed here. What to do about an alert is in [operations.md](operations.md).

Names end in the unit, and counters in `_total`. Counters and histograms start at zero with the process.
Durations are histograms whose bounds double every second bucket from 50 µs to 52 s, so that a quantile such
as `histogram_quantile(0.99, rate(quorate_request_duration_seconds_bucket{operation=\"get\"}[5m]))` is off
by half at the most. No label carries a key, a bucket or anything else that clients choose.
";

fn all() -> impl Iterator<Item = &'static Desc> {
    SECTIONS.iter().flat_map(|section| section.metrics)
}

fn document() -> String {
    let mut text = HEAD.to_owned();
    for section in &SECTIONS {
        writeln!(text, "\n## {}\n", section.title).unwrap();
        if !section.about.is_empty() {
            writeln!(text, "{}\n", wrapped(section.about, "")).unwrap();
        }
        for desc in section.metrics {
            writeln!(text, "{}", wrapped(&item(desc), "  ")).unwrap();
        }
    }
    text.push_str("\n## Labels\n\n");
    for (name, meaning) in LABELS {
        writeln!(text, "{}", wrapped(&format!("* `{name}`: {meaning}."), "  ")).unwrap();
    }
    text
}

/// A metric as one item of a list.
fn item(desc: &Desc) -> String {
    let kind = desc.kind.name();
    let unit = desc.unit().map(|unit| format!(", {unit}")).unwrap_or_default();
    let labels: Vec<String> = desc.labels.iter().map(|label| format!("`{label}`")).collect();
    let labels =
        if labels.is_empty() { String::new() } else { format!(", by {}", labels.join(", ")) };
    let meaning =
        if desc.meaning.is_empty() { String::new() } else { format!(" {}", desc.meaning) };
    format!("* **`{}`** ({kind}{unit}{labels}): {}.{meaning}", desc.name, desc.help)
}

/// Text in lines that fit, all but the first with an indent.
fn wrapped(text: &str, indent: &str) -> String {
    let (mut lines, mut line) = (Vec::new(), String::new());
    for word in text.split_whitespace() {
        if line.chars().count() + 1 + word.chars().count() > LINE_MAX {
            lines.push(std::mem::replace(&mut line, format!("{indent}{word}")));
        } else {
            let is_first = line.trim().is_empty();
            line.push_str(if is_first { "" } else { " " });
            line.push_str(word);
        }
    }
    lines.push(line);
    lines.join("\n")
}

#[test]
fn the_document_is_up_to_date() {
    let made = document();
    if std::env::var_os("UPDATE_DOCS").is_some() {
        fs::write(FILE, &made).unwrap();
    }
    let kept = fs::read_to_string(FILE).unwrap_or_default();
    assert!(kept == made, "{FILE} is out of date: run this test with UPDATE_DOCS=1");
}

#[test]
fn names_and_labels_follow_the_conventions() {
    let labels: BTreeSet<&str> = LABELS.iter().map(|(name, _)| *name).collect();
    let mut names = BTreeSet::new();
    for desc in all() {
        let name = desc.name;
        assert!(names.insert(name), "{name} is declared twice");
        assert!(name.starts_with("quorate_") || name.starts_with("process_"), "{name}");
        assert!(name.chars().all(|c| c.is_ascii_lowercase() || c == '_'), "{name}");
        assert_eq!(desc.kind == Kind::Counter, name.ends_with("_total"), "{name}");
        assert_eq!(desc.kind == Kind::Info, name.ends_with("_info"), "{name}");
        for part in name.split('_') {
            let is_other_unit = ["ms", "us", "ns", "kb", "mb", "percent", "ratio"].contains(&part);
            assert!(!is_other_unit, "{name} has no base unit");
        }
        for part in ["seconds", "bytes"] {
            let is_rate = name.ends_with("_bytes_per_second");
            assert!(is_rate || !name.contains(part) || desc.unit() == Some(part), "{name}");
        }
        assert!(
            desc.kind != Kind::Histogram
                || desc.unit() == Some("seconds")
                || name.ends_with("siblings")
        );
        assert!(desc.help.len() > 10 && !desc.help.ends_with('.'), "{name}: {}", desc.help);
        assert!(desc.meaning.is_empty() || desc.meaning.ends_with('.'), "{name}: {}", desc.meaning);
        assert!(
            desc.labels.iter().all(|label| labels.contains(label)),
            "{name}: {:?}",
            desc.labels
        );
    }
    let used: BTreeSet<&str> = all().flat_map(|desc| desc.labels).copied().chain(["le"]).collect();
    assert_eq!(used, labels, "every label that is explained is used");
}
