//! The index of the values of a storm: each value has its write as an entry, and in the end the index has
//! what is on the disks.

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use quorate_protocol::object::Object;
use serde_json::Value;

use crate::harness::Cluster;

/// The bucket whose values have entries, and their index.
const BUCKET: &str = "storm";
const INDEX: &str = "write_s";
/// How long it may take until an answer is complete.
const ENDS_WITHIN: Duration = Duration::from_secs(60);

/// What the index had, asked for once nothing changed any more: values and keys.
pub(crate) struct Indexed(Option<BTreeSet<(String, String)>>);

impl Indexed {
    pub(crate) async fn ask(cluster: &Cluster) -> Self {
        let begun = Instant::now();
        for number in (0..).map(|which| cluster.some(which)) {
            let found = all_of(cluster, number).await;
            if found.is_some() || begun.elapsed() > ENDS_WITHIN {
                return Self(found);
            }
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
        Self(None)
    }

    /// How many entries there were.
    pub(crate) fn len(&self) -> usize {
        self.0.as_ref().map_or(0, BTreeSet::len)
    }

    /// Compares it with what is left on the disks. Returns what is wrong.
    pub(crate) fn judge(&self, left: impl Fn(&str) -> Vec<(String, Object)>) -> Vec<String> {
        let Some(found) = &self.0 else {
            return vec!["no page of the index is complete".to_owned()];
        };
        let entries = |(key, object): (String, Object)| {
            let entries = object.index_entries().into_iter();
            entries.map(move |(_, value)| (value.to_string(), key.clone()))
        };
        let there: BTreeSet<_> = left(BUCKET).into_iter().flat_map(entries).collect();
        let differ = found.symmetric_difference(&there);
        let tell = |entry: &(String, String)| {
            let of = if found.contains(entry) { "has" } else { "lacks" };
            format!("the index {of} {} of {BUCKET}/{}", entry.0, entry.1)
        };
        differ.map(tell).collect()
    }
}

/// All pages of one node; `None` if one did not come or was not complete.
async fn all_of(cluster: &Cluster, number: usize) -> Option<BTreeSet<(String, String)>> {
    let (mut found, mut cursor) = (BTreeSet::new(), String::new());
    loop {
        let path = format!("/index/{BUCKET}/{INDEX}?limit=50{cursor}");
        let answer = cluster.at(number).get(&path).try_answer().await.ok()?;
        let page = answer.json();
        if page["complete"] != Value::Bool(true) {
            return None;
        }
        for entry in page["entries"].as_array()? {
            found.insert((entry["value"].as_str()?.to_owned(), entry["key"].as_str()?.to_owned()));
        }
        match page["cursor"].as_str() {
            Some(next) => cursor = format!("&cursor={next}"),
            None => return Some(found),
        }
    }
}
