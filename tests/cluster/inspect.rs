//! The state of a key on every replica.

use std::collections::BTreeMap;

use serde_json::Value;

use crate::harness::{Cluster, eventually};
use crate::http::{Shown, siblings_in};

impl Cluster {
    /// The answer of `GET /siblings/...` for a key through a node.
    pub(crate) async fn inspect(&self, through: usize, key: &str) -> Inspection {
        let path = format!("/siblings/{key}?timeout_ms=2000");
        let answer = self.at(through).get(&path).answer().await;
        assert_eq!(answer.status, 200, "{}", answer.text());
        Inspection(answer.json())
    }

    /// Waits until all home replicas of a key are equal and no hints of it are left, and changes
    /// nothing.
    pub(crate) async fn wait_delivered(&self, through: usize, key: &str) -> Inspection {
        eventually(&format!("{key} is everywhere and its hints are gone"), async || {
            let seen = self.inspect(through, key).await;
            (seen.is_everywhere() && seen.hints() == 0).then_some(seen)
        })
        .await
    }

    /// Waits until all home replicas of a key are equal and no hints of it are left. Reading all of
    /// them repairs those that have not been read since they missed something.
    pub(crate) async fn wait_settled(&self, through: usize, key: &str) -> Inspection {
        eventually(&format!("{key} is settled"), async || {
            self.at(through).get(&format!("/kv/{key}?r=all")).answer().await;
            let seen = self.inspect(through, key).await;
            (seen.is_everywhere() && seen.hints() == 0).then_some(seen)
        })
        .await
    }
}

/// One key seen from every replica at once.
#[derive(Debug)]
pub(crate) struct Inspection(pub(crate) Value);

impl Inspection {
    /// Each home replica's state: `ok`, `behind`, `missing`, `unreachable`, `not_ready`.
    pub(crate) fn states(&self) -> BTreeMap<usize, String> {
        let state = |replica: &Value| {
            (number_of(&replica["node"]), replica["state"].as_str().unwrap().to_owned())
        };
        self.replicas().iter().map(state).collect()
    }

    /// Whether every home replica has all of it.
    pub(crate) fn is_everywhere(&self) -> bool {
        self.states().values().all(|state| state == "ok")
    }

    /// The dots that each home replica holds.
    pub(crate) fn dots(&self) -> BTreeMap<usize, Vec<String>> {
        let dots = |replica: &Value| {
            let dots = replica["dots"].as_array().cloned().unwrap_or_default();
            dots.iter().map(|dot| dot.as_str().unwrap().to_owned()).collect()
        };
        self.replicas().iter().map(|r| (number_of(&r["node"]), dots(r))).collect()
    }

    /// How many nodes keep hints of the key.
    pub(crate) fn hints(&self) -> usize {
        let lists = [(self.replicas(), "hints"), (self.fallbacks(), "hints_for")];
        let count = |(nodes, name): (&Vec<Value>, &str)| {
            nodes.iter().map(|node| node[name].as_array().unwrap().len()).sum::<usize>()
        };
        lists.map(count).iter().sum()
    }

    /// All siblings with their dots.
    pub(crate) fn siblings(&self) -> Vec<Shown> {
        siblings_in(&self.0["siblings"])
    }

    fn replicas(&self) -> &Vec<Value> {
        self.0["replicas"].as_array().unwrap()
    }

    fn fallbacks(&self) -> &Vec<Value> {
        self.0["fallbacks"].as_array().unwrap()
    }
}

fn number_of(name: &Value) -> usize {
    name.as_str().and_then(|name| name.strip_prefix('n')).unwrap().parse().unwrap()
}
