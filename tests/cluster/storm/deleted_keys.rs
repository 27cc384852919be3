//! Keys that are written and deleted, some of them repeatedly, and then never touched again: what
//! their deletes covered must not come back, whatever was in flight, hinted, down, cut off or
//! reaped at the time. Some are not deleted: their last value expires.
//!
//! Each key has one client, which does one thing at a time; so it is clear what it knew when it
//! deleted. The clock of a delete's context tells which siblings it covered, by their dots: a write
//! that was minted twice (the exception to promise 3) may leave a twin, which no delete covered.

mod past;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, PoisonError};

use quorate_oracle::types::Fate;
use quorate_protocol::clock::{Clock, Dot};
use quorate_protocol::context::ContextKeys;

use self::past::Step;
use super::answers::{clock_of, fate_of};
use crate::harness::Cluster;
use crate::http::{Node, Reasons, Shown as Sibling};
use crate::record::{Findings, Left};

/// Everything that was done to such keys.
pub(crate) struct DeletedKeys {
    contexts: ContextKeys,
    keys: Mutex<BTreeMap<String, KeyHistory>>,
    reasons: Arc<Reasons>,
}

/// What is known of one key.
#[derive(Default)]
struct KeyHistory {
    /// Every value that was sent.
    puts: BTreeMap<String, Fate>,
    /// Values that a delete or a later write saw, whether or not that succeeded.
    superseded: BTreeSet<String>,
    /// Values that expire.
    expiring: BTreeSet<String>,
    /// What the contexts of acknowledged deletes and writes covered.
    covered: Clock,
    /// Whether its last operation is an acknowledged delete, or an acknowledged write that expires.
    ended: bool,
    /// All of it, in order, with the time by this machine's clock.
    log: Vec<(u64, Step)>,
}

/// What a client was shown.
#[derive(Default)]
pub(crate) struct Shown {
    values: BTreeSet<String>,
    context: Option<String>,
}

impl Shown {
    /// Whether there is anything to delete.
    pub(crate) fn is_alive(&self) -> bool {
        !self.values.is_empty()
    }
}

impl DeletedKeys {
    /// None yet; failed requests are counted by reason.
    pub(crate) fn new(cluster: &Cluster, reasons: Arc<Reasons>) -> Self {
        Self { contexts: cluster.contexts(), keys: Mutex::default(), reasons }
    }

    fn with<T>(&self, key: &str, look: impl FnOnce(&mut KeyHistory) -> T) -> T {
        let mut keys = self.keys.lock().unwrap_or_else(PoisonError::into_inner);
        look(keys.entry(key.to_owned()).or_default())
    }

    /// Writes a value that no other write has, over what was shown; it may live for some seconds only.
    /// Returns whether it was acknowledged.
    pub(crate) async fn put(
        &self,
        node: &Node,
        key: &str,
        over: &Shown,
        lifetime_s: Option<u32>,
    ) -> bool {
        let value = self.with(key, |history| {
            let value = format!("{key}#{}", history.puts.len());
            let (over, expires) = (over.values.clone(), lifetime_s.is_some());
            history.note(Step::PutBegun { value: value.clone(), over, expires });
            value
        });
        let put = node.put(&format!("/kv/{key}")).value(padded(key, value.clone()));
        let put = match lifetime_s {
            Some(seconds) => put.header("Quorate-Expires-In", &seconds.to_string()),
            None => put,
        };
        let answer = put.context(over.context.as_deref()).try_answer().await;
        self.reasons.note(&answer);
        let fate = fate_of(&answer);
        let covered = clock_of(&self.contexts, key, over.context.as_deref());
        self.with(key, |history| history.note(Step::PutEnded { value, fate, covered }));
        fate == Fate::Acked
    }

    /// What a quorum shows. `None` without a quorum.
    pub(crate) async fn read(&self, node: &Node, key: &str) -> Option<Shown> {
        let answer = node.get(&format!("/kv/{key}")).try_answer().await;
        self.reasons.note(&answer);
        let answer = answer.ok()?;
        if ![200, 300, 404].contains(&answer.status) {
            return None;
        }
        let values = answer.siblings().into_iter().map(|s| s.value).filter(|v| !v.is_empty());
        let values = values.map(|value| unpadded(key, &value).to_owned());
        Some(Shown { values: values.collect(), context: answer.context().map(str::to_owned) })
    }

    /// Deletes what was shown. Returns whether that was acknowledged.
    pub(crate) async fn delete(&self, node: &Node, key: &str, shown: &Shown) -> bool {
        self.with(key, |history| history.note(Step::DeleteBegun { of: shown.values.clone() }));
        let delete = node.delete(&format!("/kv/{key}")).context(shown.context.as_deref());
        let answer = delete.try_answer().await;
        self.reasons.note(&answer);
        let acked = fate_of(&answer) == Fate::Acked;
        if acked {
            let covered = clock_of(&self.contexts, key, shown.context.as_deref());
            self.with(key, |history| history.note(Step::Deleted { covered }));
        }
        acked
    }

    /// The keys that have ended.
    pub(crate) fn ended(&self) -> Vec<String> {
        let keys = self.keys.lock().unwrap_or_else(PoisonError::into_inner);
        keys.iter().filter(|(_, history)| history.ended).map(|(key, _)| key.clone()).collect()
    }

    /// All keys.
    pub(crate) fn keys(&self) -> Vec<String> {
        let keys = self.keys.lock().unwrap_or_else(PoisonError::into_inner);
        keys.keys().cloned().collect()
    }

    /// Judges what is left of a key in the end. Tombstones are siblings without a value.
    pub(crate) fn judge(&self, key: &str, left: &Left) -> Findings {
        self.with(key, |history| history.judge(key, left))
    }
}

impl KeyHistory {
    fn judge(&self, key: &str, left: &Left) -> Findings {
        let alive = || left.siblings.iter().filter(|sibling| !sibling.value.is_empty());
        let mut found = Findings::default();
        for Sibling { value, dot } in alive() {
            let value = unpadded(key, value);
            let dot: Dot = dot.as_ref().unwrap().parse().unwrap();
            match self.puts.get(value) {
                None | Some(Fate::NotApplied) => {
                    found.phantom += 1;
                    found.details.push(format!("{key}: {value:?} was never written"));
                }
                Some(_) if self.covered.covers(dot) || self.expiring.contains(value) => {
                    found.resurrected += 1;
                    found.details.push(format!("{key}: {value:?} ({dot}) is back"));
                }
                Some(_) if self.superseded.contains(value) => found.twins += 1,
                Some(_) => {}
            }
        }
        for (value, fate) in &self.puts {
            let there = alive().any(|sibling| unpadded(key, &sibling.value) == *value);
            let is_over = self.superseded.contains(value) || self.expiring.contains(value);
            if *fate == Fate::Acked && !there && !is_over {
                found.lost += 1;
                found.details.push(format!("{key}: {value:?} is lost"));
            }
        }
        found
    }
}

/// The length to which the values of some keys are padded, in bytes.
const PADDED_BYTES: usize = 300 << 10;

/// Values of every tenth key are large.
fn padded(key: &str, value: String) -> String {
    let missing = if key.ends_with('7') { PADDED_BYTES.saturating_sub(value.len()) } else { 0 };
    value + &"~".repeat(missing)
}

/// A value without its padding; unchanged if its length is not the padded one.
fn unpadded<'a>(key: &str, value: &'a str) -> &'a str {
    match key.ends_with('7') && value.len() == PADDED_BYTES {
        true => value.trim_end_matches('~'),
        false => value,
    }
}
