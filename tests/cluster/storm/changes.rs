//! The changes of the layout that a cluster went through, as its nodes remember them.

use std::collections::BTreeMap;
use std::fmt;
use std::time::{Duration, SystemTime};

use serde_json::Value;

/// All records that were seen, by epoch.
#[derive(Clone, Debug, Default)]
pub(crate) struct Changes(BTreeMap<u64, Record>);

#[derive(Clone, Debug)]
struct Record {
    op: String,
    /// When it was proposed, by the clock of the proposer: off by a second at most.
    at: SystemTime,
}

impl Changes {
    /// Takes what `GET /layout/history` shows.
    pub(crate) fn take(&mut self, history: &Value) {
        for entry in history.as_array().unwrap() {
            let epoch = entry["epoch"].as_str().unwrap().parse().unwrap();
            let cause = &entry["cause"];
            let at = humantime::parse_rfc3339(cause["at"].as_str().unwrap()).unwrap();
            let op = cause["op"].as_str().unwrap().to_owned();
            self.0.entry(epoch).or_insert(Record { op, at });
        }
    }

    /// How many records of each kind there were.
    pub(crate) fn counts(&self) -> BTreeMap<&str, usize> {
        let mut counts = BTreeMap::new();
        for record in self.0.values() {
            *counts.entry(record.op.as_str()).or_default() += 1;
        }
        counts
    }

    /// How long the changes took that were finished.
    fn durations(&self) -> Vec<Duration> {
        let mut durations = Vec::new();
        let mut begun = None;
        for record in self.0.values() {
            match record.op.as_str() {
                "begin" => begun = Some(record.at),
                "finish" => {
                    let took = begun.take().and_then(|begun| record.at.duration_since(begun).ok());
                    durations.extend(took);
                }
                "abort" => begun = None,
                _ => {}
            }
        }
        durations.sort();
        durations
    }
}

/// How long a change took: at the middle, and at most.
impl fmt::Display for Changes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let durations = self.durations();
        match (durations.get(durations.len() / 2), durations.last()) {
            (Some(middle), Some(longest)) => {
                let (middle, longest) = (middle.as_secs_f64(), longest.as_secs_f64());
                f.pad(&format!("{middle:.1} / {longest:.1}"))
            }
            _ => f.pad("-"),
        }
    }
}
