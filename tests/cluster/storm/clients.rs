//! The clients of the storm. They read, add to what they were shown, now and then remove something
//! or write without having read, and move on to the next key and node, whatever happened.

use std::any::Any;
use std::collections::BTreeSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering::Relaxed};
use std::time::Duration;

use rand::rngs::Xoshiro256PlusPlus;
use rand::{RngExt, SeedableRng};
use tokio::task::JoinSet;

use super::deleted_keys::DeletedKeys;
use super::typed::TypedValues;
use crate::harness::Cluster;
use crate::http::{Node, Reasons};
use crate::record::{Record, View};

/// A client of a paused node gives up after this long.
const TIMEOUT: Duration = Duration::from_secs(3);
/// How often a client of [`DeletedKeys`] starts something new: all of its keys are remembered.
const DELETED_KEY_EVERY: Duration = Duration::from_millis(100);
/// How many keys are written at a time.
const KEYS: usize = 24;
/// How many counters, and sets, are changed at a time, and how often a client changes one.
const TYPED_KEYS: usize = 4;
const TYPED_EVERY: Duration = Duration::from_millis(5);

/// What all clients share.
pub(crate) struct Work {
    pub(crate) cluster: Arc<Cluster>,
    pub(crate) record: Record,
    pub(crate) deleted_keys: DeletedKeys,
    pub(crate) typed_values: TypedValues,
    /// An element is in all later values of its key until it is removed, and the history of a key
    /// grows: changing keys keeps both small.
    pub(crate) round: AtomicUsize,
    pub(crate) operations: AtomicUsize,
    pub(crate) acks: AtomicUsize,
    pub(crate) failures: AtomicUsize,
    /// Whether some values expire: not where a backup brings back what had not.
    pub(crate) lets_expire: bool,
    /// Why requests failed.
    pub(crate) reasons: Arc<Reasons>,
    stop: AtomicBool,
}

impl Work {
    pub(crate) fn new(cluster: Arc<Cluster>, lets_expire: bool) -> Self {
        let record = Record::new(&cluster, 3);
        let reasons = record.reasons.clone();
        Self {
            record,
            deleted_keys: DeletedKeys::new(&cluster, reasons.clone()),
            typed_values: TypedValues::new(&cluster),
            reasons,
            cluster,
            round: AtomicUsize::new(0),
            operations: AtomicUsize::new(0),
            acks: AtomicUsize::new(0),
            failures: AtomicUsize::new(0),
            lets_expire,
            stop: AtomicBool::new(false),
        }
    }

    fn count(&self, acked: bool) {
        self.operations.fetch_add(1, Relaxed);
        let which = if acked { &self.acks } else { &self.failures };
        which.fetch_add(1, Relaxed);
    }
}

/// Clients at work until they are stopped.
pub(crate) struct Clients {
    work: Arc<Work>,
    tasks: JoinSet<()>,
    found: Vec<String>,
}

impl Clients {
    /// Starts the clients: some for sets, some for keys that will be deleted, some for typed values.
    pub(crate) fn start(
        work: &Arc<Work>,
        seed: u64,
        (sets, gone, typed): (usize, usize, usize),
    ) -> Self {
        let mut tasks = JoinSet::new();
        for number in 0..sets + gone + typed {
            let dice = Xoshiro256PlusPlus::seed_from_u64(seed ^ (number as u64 + 1) << 32);
            let client = Client { work: work.clone(), dice, number };
            if number < sets {
                tasks.spawn(client.update_sets());
            } else if number < sets + gone {
                tasks.spawn(client.write_and_delete());
            } else {
                tasks.spawn(client.change_typed_values());
            }
        }
        Self { work: work.clone(), tasks, found: Vec::new() }
    }

    /// What clients have found wrong so far; a client stops at its first finding.
    pub(crate) fn found(&mut self) -> &[String] {
        while let Some(ended) = self.tasks.try_join_next() {
            self.found.extend(ended.err().map(|error| panic_message(&*error.into_panic())));
        }
        &self.found
    }

    /// Stops all clients; returns what they found wrong.
    pub(crate) async fn stop(mut self) -> Vec<String> {
        self.work.stop.store(true, Relaxed);
        while let Some(ended) = self.tasks.join_next().await {
            self.found.extend(ended.err().map(|error| panic_message(&*error.into_panic())));
        }
        self.found
    }
}

/// The message of a panic.
pub(crate) fn panic_message(panic: &(dyn Any + Send)) -> String {
    let text = panic.downcast_ref::<String>().map(String::as_str);
    text.or_else(|| panic.downcast_ref::<&str>().copied()).unwrap_or("a panic").to_owned()
}

struct Client {
    work: Arc<Work>,
    dice: Xoshiro256PlusPlus,
    number: usize,
}

impl Client {
    fn stopped(&self) -> bool {
        self.work.stop.load(Relaxed)
    }

    fn node(&mut self) -> Node {
        let node = self.work.cluster.some(self.dice.random_range(0..1000));
        self.work.cluster.at(node).with_timeout(TIMEOUT)
    }

    /// Sets of unique elements through siblings.
    async fn update_sets(mut self) {
        while !self.stopped() {
            let round = self.work.round.load(Relaxed);
            let key = format!("storm/r{round}k{}", self.dice.random_range(0..KEYS));
            let node = self.node();
            let strict = self.dice.random_range(0..3) == 0;
            let seen = if self.dice.random_range(0..10) == 0 {
                Some(View::default())
            } else {
                let seen = self.work.record.read_as(&node, &key, 2, strict).await;
                self.work.count(seen.is_some());
                seen
            };
            let Some(seen) = seen else {
                // No quorum: back off, so that this loop does not become a load of its own.
                tokio::time::sleep(Duration::from_millis(10)).await;
                continue;
            };
            let without: BTreeSet<_> = match self.dice.random_range(0..4) {
                0 => {
                    let half = |_: &&_| self.dice.random_range(0..2) == 0;
                    seen.elements.iter().filter(half).copied().collect()
                }
                _ => BTreeSet::new(),
            };
            let query = if strict { "?sloppy=false" } else { "" };
            let answer = self.work.record.write(&node, &key, &seen, &without, query).await;
            self.work.count(answer.is_some_and(|answer| answer.status == 204));
        }
    }

    /// Counters and sets that merge by themselves.
    async fn change_typed_values(mut self) {
        while !self.stopped() {
            let round = self.work.round.load(Relaxed);
            let key = format!("r{round}k{}", self.dice.random_range(0..TYPED_KEYS));
            let (node, choice) = (self.node(), self.dice.random_range(0..10));
            let (by, which) = (self.dice.random_range(-9..10), self.dice.random_range(0..1000));
            let values = &self.work.typed_values;
            let acked = match choice {
                0..4 => values.increment(&node, &key, by).await,
                4..8 => values.add(&node, &key).await,
                _ => match values.look(&node, &key).await {
                    Some(seen) => values.remove(&node, &key, (seen, which)).await,
                    None => false,
                },
            };
            self.work.count(acked);
            tokio::time::sleep(TYPED_EVERY).await;
        }
    }

    /// Keys that are written, deleted, and perhaps written again.
    async fn write_and_delete(mut self) {
        let mut ticks = tokio::time::interval(DELETED_KEY_EVERY);
        for turn in 0.. {
            let key = format!("gone/c{}k{turn}", self.number);
            let lives = 1 + self.dice.random_range(0..6_usize).saturating_sub(3);
            for _ in 0..lives {
                ticks.tick().await;
                if self.stopped() {
                    return;
                }
                self.write_then_delete(&key).await;
            }
        }
    }

    /// Writes a key over its current values, if any, then deletes it until that is acknowledged, or
    /// until it is gone after a delete that was not. Some keys end by a value that expires.
    async fn write_then_delete(&mut self, key: &str) {
        let node = self.node();
        let before = match self.dice.random_range(0..2) {
            0 => self.work.deleted_keys.read(&node, key).await.unwrap_or_default(),
            _ => Default::default(),
        };
        let lifetime_s = (self.work.lets_expire && self.dice.random_range(0..4) == 0)
            .then(|| self.dice.random_range(1..=2));
        let acked = self.work.deleted_keys.put(&node, key, &before, lifetime_s).await;
        self.work.count(acked);
        if acked && lifetime_s.is_some() {
            return;
        }
        let mut has_tried = false;
        while !self.stopped() {
            let node = self.node();
            let shown = self.work.deleted_keys.read(&node, key).await;
            self.work.count(shown.is_some());
            let deleted = match shown {
                Some(shown) if shown.is_alive() => {
                    let deleted = self.work.deleted_keys.delete(&node, key, &shown).await;
                    self.work.count(deleted);
                    has_tried = true;
                    deleted
                }
                // The write did not succeed, or an unacknowledged delete did, as far as can be seen.
                Some(_) if !acked || has_tried => return,
                _ => false,
            };
            if deleted {
                return;
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }
}
