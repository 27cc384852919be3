//! Clients of typed values: counters that count up and down, sets to which few elements are added and removed
//! again and again.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use quorate_engine::cluster::bucket_change;
use quorate_oracle::Verdict;
use quorate_oracle::history::End;
use quorate_oracle::types::{CounterHistory, Fate, SetHistory};
use quorate_protocol::bucket::Settings;
use quorate_protocol::clock::Dot;
use quorate_protocol::context::Context;
use quorate_protocol::data_type::{DataType, Operation, Part, SetChange, Value};
use quorate_protocol::message::WriteAnswer;
use quorate_protocol::name::{Bucket, Key};
use quorate_protocol::object::{Object, WriteId};
use quorate_protocol::row::Draft;
use quorate_protocol::view::context_of;
use tokio::time::sleep;

use crate::client::{Client, end_of};

/// Their buckets, of which each has a type, and the keys of each.
const COUNTERS: &str = "counters";
const SETS: &str = "sets";
const KEYS: [&str; 2] = ["k0", "k1"];
const ELEMENTS: [&str; 4] = ["a", "b", "c", "d"];
/// How often a type is set before the client gives up: too few nodes may answer.
const TYPES_SET_MAX: usize = 30;

/// What clients did to typed values.
#[derive(Default)]
pub(crate) struct TypedRecord {
    counters: Mutex<BTreeMap<Key, CounterHistory>>,
    sets: Mutex<BTreeMap<Key, SetHistory>>,
}

/// The keys of a bucket.
fn keys(bucket: &str) -> Vec<Key> {
    KEYS.iter().filter_map(|key| Key::new(bucket, key.as_bytes()).ok()).collect()
}

/// The keys of all typed values.
pub(crate) fn all_keys() -> Vec<Key> {
    [COUNTERS, SETS].into_iter().flat_map(keys).collect()
}

impl TypedRecord {
    fn counters(&self) -> MutexGuard<'_, BTreeMap<Key, CounterHistory>> {
        self.counters.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn sets(&self) -> MutexGuard<'_, BTreeMap<Key, SetHistory>> {
        self.sets.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Checks what is left of a key, the same on all replicas.
    pub(crate) fn check_final(&self, key: &Key, object: &Object) -> Verdict {
        let name = key.to_string();
        if let Some(counter) = self.counters().get(key) {
            let Value::Counter(total) = Value::of(object, DataType::Counter) else { return Ok(()) };
            counter.check(&name, total)?;
        }
        match self.sets().get(key) {
            Some(set) => set.check(&name, &elements(object)),
            None => Ok(()),
        }
    }
}

/// The elements of a set, each with its dots.
fn elements(object: &Object) -> BTreeMap<String, BTreeSet<Dot>> {
    let mut elements: BTreeMap<String, BTreeSet<Dot>> = BTreeMap::new();
    for part in object.siblings.iter().filter(|part| part.part == Part::Element) {
        let bytes = part.value.as_deref().unwrap_or_default();
        let name = String::from_utf8_lossy(bytes).into_owned();
        elements.entry(name).or_default().insert(part.dot);
    }
    elements
}

/// A client of typed values.
pub(crate) struct TypedClient {
    /// How it asks.
    pub(crate) client: Client,
    pub(crate) record: Arc<TypedRecord>,
    /// What it last saw of each set.
    pub(crate) seen: BTreeMap<Key, (BTreeSet<String>, Context)>,
}

impl TypedClient {
    /// Makes its requests, one after another, once the buckets have their types.
    pub(crate) async fn run(mut self, requests: u64) {
        for (bucket, data_type) in [(COUNTERS, DataType::Counter), (SETS, DataType::Set)] {
            if !self.give_type(bucket, data_type).await {
                return;
            }
        }
        let (counters, sets) = (keys(COUNTERS), keys(SETS));
        for _ in 0..requests {
            if self.client.world.is_broken() {
                return;
            }
            sleep(self.client.world.at_most_ms(self.client.setup.thinking_ms_max)).await;
            if self.client.world.percent(40) {
                let key = self.client.world.pick(&counters);
                self.increment(&key).await;
            } else {
                let key = self.client.world.pick(&sets);
                match self.client.world.between(0, 9) {
                    0..=2 => self.look(&key).await,
                    3..=6 => self.add(&key).await,
                    7 | 8 => self.remove(&key, false).await,
                    _ => self.remove(&key, true).await,
                }
            }
        }
    }

    /// Has a bucket given its type; returns whether a node did.
    async fn give_type(&self, bucket: &str, data_type: DataType) -> bool {
        let Ok(bucket) = Bucket::parse(bucket) else { return false };
        for _ in 0..TYPES_SET_MAX {
            let settings = Settings { conflicts: Some(data_type.into()), ..Settings::default() };
            let bucket = bucket.clone();
            let given = self.client.ask(async move |node| {
                node.accepts_requests().ok()?;
                bucket_change::set(&node, bucket, settings).await.ok()
            });
            if given.await.flatten().is_some() {
                return true;
            }
            sleep(Duration::from_secs(1)).await;
        }
        false
    }

    async fn increment(&self, key: &Key) {
        let by = self.client.world.between(0, 19) as i64 - 9;
        let number = self.record.counters().entry(key.clone()).or_default().begin(by);
        let (fate, _) = self.write(key, Some(Operation::Increment(by)), None).await;
        if let Some(counter) = self.record.counters().get_mut(key) {
            counter.end(number, fate);
        }
    }

    async fn add(&self, key: &Key) {
        let element = self.client.world.pick(&ELEMENTS);
        let number = self.record.sets().entry(key.clone()).or_default().begin_add(element);
        let change = SetChange { add: vec![element.to_owned()], remove: Vec::new() };
        let ended = self.write(key, Some(Operation::Set(change)), None).await;
        if let Some(set) = self.record.sets().get_mut(key) {
            set.end_add(element, number, ended);
        }
    }

    /// Removes one element that it has seen, or deletes all that it has seen.
    async fn remove(&mut self, key: &Key, all: bool) {
        let Some((shown, context)) = self.seen.remove(key) else { return };
        let shown: Vec<String> = shown.into_iter().collect();
        if shown.is_empty() {
            return;
        }
        let element = self.client.world.pick(&shown);
        let (elements, operation) = match all {
            true => (None, None),
            false => {
                let change = SetChange { add: Vec::new(), remove: vec![element.clone()] };
                (Some(BTreeSet::from([element])), Some(Operation::Set(change)))
            }
        };
        let seen = context.clock.clone();
        let number =
            self.record.sets().entry(key.clone()).or_default().begin_remove(elements, seen);
        let (fate, _) = self.write(key, operation, Some(context)).await;
        if let Some(set) = self.record.sets().get_mut(key) {
            set.end_remove(number, fate);
        }
    }

    /// Reads a set, and remembers it.
    async fn look(&mut self, key: &Key) {
        let (r, strict) = (self.client.setup.r as u16, self.client.world.percent(50));
        let Some(object) = self.client.object(key, r, strict).await else { return };
        let shown: BTreeSet<String> = elements(&object).into_keys().collect();
        self.client.world.note(format_args!("{key} shows {shown:?}"));
        let verdict = self.record.sets().entry(key.clone()).or_default().check_shown(SETS, &shown);
        self.client.world.judge(verdict);
        self.seen.insert(key.clone(), (shown, context_of(&object)));
    }

    /// Carries out an operation, or a delete, and says what became of it.
    async fn write(
        &self,
        key: &Key,
        operation: Option<Operation>,
        context: Option<Context>,
    ) -> (Fate, Option<Dot>) {
        let (setup, world) = (&self.client.setup, &self.client.world);
        let strict = world.percent(50);
        let w = if world.percent(70) { setup.w } else { world.between(setup.w_min, 3) } as u16;
        let about = format!("{operation:?} of {key}, w={w}");
        let seen = context.unwrap_or_default();
        let id = u128::from(world.draw()) << 64 | u128::from(world.draw());
        let draft = Draft {
            context: seen.clock,
            context_stamp: seen.stamp,
            write_id: WriteId(id.to_le_bytes()),
            operation,
            ..Draft::default()
        };
        let write = self.client.plain_write(key, draft, (w, strict));
        let (fate, dot) = match self.client.carry_out(write).await {
            None => (Fate::Unknown, None),
            Some(None) => (Fate::NotApplied, None),
            Some(Some(answer)) => {
                let dot = dot_of(&answer);
                (fate_of(&end_of(answer, w, strict).0), dot)
            }
        };
        world.note(format_args!("{about}: {fate:?} {dot:?}"));
        (fate, dot)
    }
}

/// The dot that an acknowledgement names.
fn dot_of(answer: &WriteAnswer) -> Option<Dot> {
    if let WriteAnswer::Written(written) = answer { written.dot } else { None }
}

fn fate_of(end: &End) -> Fate {
    match end {
        End::Acked { .. } | End::NothingToDelete => Fate::Acked,
        End::NotApplied => Fate::NotApplied,
        End::Partial | End::Unknown => Fate::Unknown,
    }
}
