//! Typed values in a storm: counters that go up and down, sets to which unique elements are added and from
//! which some are removed again.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Mutex, MutexGuard, PoisonError};

use quorate_oracle::types::{CounterHistory, Fate, SetHistory};
use quorate_protocol::context::ContextKeys;
use quorate_protocol::data_type::{DataType, Part, Value};
use quorate_protocol::object::Object;
use serde_json::json;

use super::answers::{clock_of, fate_of};
use crate::harness::Cluster;
use crate::http::Node;

/// The buckets, which have these types.
const COUNTERS: &str = "counters";
const SETS: &str = "typed-sets";
/// Both, which have feeds.
pub(crate) const BUCKETS: [&str; 2] = [COUNTERS, SETS];

/// What clients did to typed values, by key (`bucket/key`).
pub(crate) struct TypedValues {
    contexts: ContextKeys,
    known: Mutex<Known>,
}

#[derive(Default)]
struct Known {
    counters: BTreeMap<String, CounterHistory>,
    sets: BTreeMap<String, SetHistory>,
    elements: usize,
}

/// What a client saw of a set.
pub(crate) struct Seen {
    elements: Vec<String>,
    context: String,
}

impl TypedValues {
    pub(crate) fn new(cluster: &Cluster) -> Self {
        Self { contexts: cluster.contexts(), known: Mutex::default() }
    }

    /// Gives the buckets their types and feeds.
    pub(crate) async fn prepare(node: &Node) {
        for (bucket, data_type) in [(COUNTERS, "counter"), (SETS, "set")] {
            let wanted = json!({"type": data_type, "feed_retention_s": 3600}).to_string();
            let put = node.put(&format!("/buckets/{bucket}")).value(wanted);
            let answer = put.header("Content-Type", "application/json").answer().await;
            assert_eq!(answer.status, 200, "{}", answer.text());
        }
    }

    fn known(&self) -> MutexGuard<'_, Known> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Adds to a counter; returns whether that was acknowledged.
    pub(crate) async fn increment(&self, node: &Node, key: &str, by: i64) -> bool {
        let key = format!("{COUNTERS}/{key}");
        let number = self.known().counters.entry(key.clone()).or_default().begin(by);
        let fate = change(node, &key, &json!({"increment": by}), None).await;
        if let Some(counter) = self.known().counters.get_mut(&key) {
            counter.end(number, fate);
        }
        fate == Fate::Acked
    }

    /// Adds a new element to a set; returns whether that was acknowledged.
    pub(crate) async fn add(&self, node: &Node, key: &str) -> bool {
        let key = format!("{SETS}/{key}");
        let (element, number) = {
            let mut known = self.known();
            known.elements += 1;
            let element = format!("e{}", known.elements);
            let number = known.sets.entry(key.clone()).or_default().begin_add(&element);
            (element, number)
        };
        let fate = change(node, &key, &json!({"add": [element]}), None).await;
        if let Some(set) = self.known().sets.get_mut(&key) {
            set.end_add(&element, number, (fate, None));
        }
        fate == Fate::Acked
    }

    /// Reads a set. `None` without a quorum.
    ///
    /// # Panics
    /// If it shows what nobody added.
    pub(crate) async fn look(&self, node: &Node, key: &str) -> Option<Seen> {
        let key = format!("{SETS}/{key}");
        let answer = node.get(&format!("/types/{key}")).try_answer().await.ok()?;
        if answer.status != 200 {
            return None;
        }
        let elements: Vec<String> = serde_json::from_value(answer.json()["value"].clone()).unwrap();
        let shown: BTreeSet<String> = elements.iter().cloned().collect();
        let verdict = self.known().sets.entry(key.clone()).or_default().check_shown(&key, &shown);
        verdict.unwrap_or_else(|violation| panic!("{violation}"));
        Some(Seen { elements, context: answer.context().unwrap().to_owned() })
    }

    /// Removes one of the elements that it has seen; returns whether that was acknowledged.
    pub(crate) async fn remove(
        &self,
        node: &Node,
        key: &str,
        (seen, which): (Seen, usize),
    ) -> bool {
        let key = format!("{SETS}/{key}");
        let Some(element) = seen.elements.get(which % seen.elements.len().max(1)) else {
            return true;
        };
        let (elements, clock) = (
            BTreeSet::from([element.clone()]),
            clock_of(&self.contexts, &key, Some(&seen.context)),
        );
        let number =
            self.known().sets.entry(key.clone()).or_default().begin_remove(Some(elements), clock);
        let fate = change(node, &key, &json!({"remove": [element]}), Some(&seen.context)).await;
        if let Some(set) = self.known().sets.get_mut(&key) {
            set.end_remove(number, fate);
        }
        fate == Fate::Acked
    }

    /// Compares what is left on the disks with what was done. Returns what is wrong.
    pub(crate) fn judge(&self, left: impl Fn(&str) -> Object) -> Vec<String> {
        let known = self.known();
        let mut wrong = Vec::new();
        for (key, counter) in &known.counters {
            if let Value::Counter(total) = Value::of(&left(key), DataType::Counter) {
                wrong.extend(counter.check(key, total).err());
            }
        }
        for (key, set) in &known.sets {
            let mut shown: BTreeMap<String, BTreeSet<_>> = BTreeMap::new();
            for part in left(key).siblings.into_iter().filter(|part| part.part == Part::Element) {
                let name = String::from_utf8(part.value.unwrap().to_vec()).unwrap();
                shown.entry(name).or_default().insert(part.dot);
            }
            wrong.extend(set.check(key, &shown).err());
        }
        wrong.into_iter().map(|violation| violation.to_string()).collect()
    }

    /// How many counters and sets there are.
    pub(crate) fn len(&self) -> usize {
        let known = self.known();
        known.counters.len() + known.sets.len()
    }
}

async fn change(
    node: &Node,
    key: &str,
    operation: &serde_json::Value,
    context: Option<&str>,
) -> Fate {
    let post = node.post(&format!("/types/{key}")).value(operation.to_string());
    let post = post.header("Content-Type", "application/json").context(context);
    match post.try_answer().await {
        // Another node has what was seen, or has not heard of the type yet.
        Ok(answer) if answer.status == 409 => Fate::NotApplied,
        answer => fate_of(&answer),
    }
}
