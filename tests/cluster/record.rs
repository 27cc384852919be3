//! A record of what the clients of a test did and saw, judged by the same oracle as the simulator's.
//!
//! Every value is a set of elements, a JSON array whose last element names the write itself:
//! `["k:w3", "k:w7", "k:w9"]` is write 9 to key `k`, by a client that was shown 3 and 7. So a value
//! names everything that its write saw, and whether anything was lost, invented or resurrected can
//! be checked without any version vector. A client may also leave elements out deliberately.
//!
//! Each key has its own oracle, so that judging a key only costs its own history.

mod past;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, PoisonError};

use quorate_oracle::history::{End, Moment, Saw, WriteNo};
use quorate_oracle::{Answer as Judged, Oracle, Read, Sight, Verdict};
use quorate_protocol::clock::{Clock, Dot};
use quorate_protocol::context::ContextKeys;
use quorate_protocol::name::Key;

use self::past::{Event, What};
pub(crate) use self::past::{Window, now_ms};
use crate::harness::{Cluster, name_of};
use crate::http::{Answer, Node, Reasons, Shown};
use crate::inspect::Inspection;

/// How many attempts at a write the oracle is told of: an entry node forwards a write again when
/// its coordinator falls silent, so that it may be minted twice, under two dots (the exception to
/// promise 3). The oracle then excuses copies that come up late; [`State::judge_dots`] excuses
/// nothing.
const ATTEMPTS: usize = 2;

/// The history of one test.
pub(crate) struct Record {
    contexts: ContextKeys,
    n: u16,
    keys: Mutex<BTreeMap<String, State>>,
    /// Why requests failed.
    pub(crate) reasons: Arc<Reasons>,
}

/// The history of one key.
struct State {
    oracle: Oracle,
    now: u64,
    /// Every dot that was seen, and the write that it names.
    dots: BTreeMap<Dot, WriteNo>,
    /// What each write's context covered.
    sent: BTreeMap<WriteNo, Clock>,
    acked: BTreeSet<WriteNo>,
    /// Elements that a write left out, whether or not that write succeeded.
    removed: BTreeSet<WriteNo>,
    /// Those whose removal was acknowledged.
    removed_surely: BTreeSet<WriteNo>,
    /// All of it, in order.
    log: Vec<Event>,
}

/// What a client was shown of a key: good for one write.
#[derive(Clone, Debug, Default)]
pub(crate) struct View {
    writes: BTreeSet<WriteNo>,
    /// All elements of all siblings.
    pub(crate) elements: BTreeSet<WriteNo>,
    context: Option<String>,
}

/// The final state of a key.
#[derive(Debug, Default)]
pub(crate) struct Left {
    /// All siblings that any home replica holds, with their dots.
    pub(crate) siblings: Vec<Shown>,
    /// The dots that each home replica holds.
    pub(crate) dots: BTreeMap<usize, Vec<String>>,
}

/// What was found wrong with the final state of a key, in numbers and in words.
#[derive(Debug, Default)]
pub(crate) struct Findings {
    /// Acknowledged elements that are gone although no client removed them.
    pub(crate) lost: usize,
    /// Elements and values that no client sent.
    pub(crate) phantom: usize,
    /// Siblings that an acknowledged write had superseded.
    pub(crate) resurrected: usize,
    /// Copies under a dot that nothing superseded of writes that were superseded: see [`ATTEMPTS`].
    pub(crate) twins: usize,
    /// Each finding, and what the oracle says.
    pub(crate) details: Vec<String>,
}

impl Findings {
    /// Adds those of another key.
    pub(crate) fn add(&mut self, other: Self) {
        self.lost += other.lost;
        self.phantom += other.phantom;
        self.resurrected += other.resurrected;
        self.twins += other.twins;
        self.details.extend(other.details);
    }
}

impl From<&Inspection> for Left {
    fn from(seen: &Inspection) -> Self {
        Self { siblings: seen.siblings(), dots: seen.dots() }
    }
}

impl Record {
    /// An empty record. Buckets keep `n` replicas.
    pub(crate) fn new(cluster: &Cluster, n: u16) -> Self {
        Self { contexts: cluster.contexts(), n, keys: Mutex::default(), reasons: Arc::default() }
    }

    /// What is known of a key.
    fn with<T>(&self, key: &str, look: impl FnOnce(&mut State) -> T) -> T {
        let mut keys = self.keys.lock().unwrap_or_else(PoisonError::into_inner);
        if !keys.contains_key(key) {
            keys.insert(key.to_owned(), State::new(self.n));
        }
        look(keys.get_mut(key).unwrap())
    }

    /// Adds an element to what the client was shown. Returns the answer, if one came.
    pub(crate) async fn add(&self, node: &Node, key: &str, seen: &View) -> Option<Answer> {
        self.write(node, key, seen, &BTreeSet::new(), "").await
    }

    /// Likewise, with a query.
    pub(crate) async fn add_with(
        &self,
        node: &Node,
        key: &str,
        seen: &View,
        query: &str,
    ) -> Option<Answer> {
        self.write(node, key, seen, &BTreeSet::new(), query).await
    }

    /// Adds an element to what the client was shown, and leaves others out.
    pub(crate) async fn write(
        &self,
        node: &Node,
        key: &str,
        seen: &View,
        without: &BTreeSet<WriteNo>,
        query: &str,
    ) -> Option<Answer> {
        let context = seen.context.as_deref();
        let covered = context.map(|context| self.open(key, context)).unwrap_or_default();
        let write = self.with(key, |state| state.begin(key, &seen.writes, covered, without));
        let kept = seen.elements.difference(without);
        let elements: Vec<_> = kept.chain([&write]).map(|of| element(key, *of)).collect();
        let value = serde_json::to_string(&elements).unwrap();
        let ask = node.put(&format!("/kv/{key}{query}")).value(value);
        let ask = ask.header("Quorate-Index-write_s", &write.to_string());
        let answer = ask.context(context).try_answer().await;
        self.reasons.note(&answer);
        let end = end_of(&answer, query);
        self.with(key, |state| state.end(write, end, without));
        answer.ok()
    }

    /// Reads a key and judges the answer. `None` if none came or too few replicas answered.
    pub(crate) async fn read(&self, node: &Node, key: &str, r: u16) -> Option<View> {
        self.read_as(node, key, r, false).await
    }

    /// Likewise; a strict read must show the last strict write that was acknowledged, or a later
    /// one.
    pub(crate) async fn read_as(
        &self,
        node: &Node,
        key: &str,
        r: u16,
        strict: bool,
    ) -> Option<View> {
        let begun = self.with(key, State::tick);
        let path = format!("/kv/{key}?r={r}&sloppy={}", !strict);
        let answer = node.get(&path).try_answer().await;
        self.reasons.note(&answer);
        let answer = answer.ok()?;
        if answer.status == 503 {
            return None;
        }
        let shown = answer.siblings();
        let sight = |shown: &Shown| {
            sight(key, shown).unwrap_or_else(|| panic!("{key}: {shown:?} was never written"))
        };
        let sights: Vec<Sight> = shown.iter().map(sight).collect();
        let context = answer.context().map(str::to_owned);
        let clock = context.as_deref().map(|context| self.open(key, context));
        let read = Read { begun, r, strict };
        let judged = Judged { key, shown: &sights, context: clock.as_ref() };
        self.with(key, |state| {
            assert_holds(state.oracle.check_read(&read, &judged));
            state.judge_dots(key, &sights);
        });
        let elements = shown.iter().flat_map(|shown| elements_of(key, &shown.value));
        let elements = elements.flatten().collect();
        Some(View { writes: sights.iter().map(|s| s.write).collect(), elements, context })
    }

    /// Judges the final state of a key, once all faults have ended and the key has converged.
    ///
    /// # Panics
    /// If anything is wrong.
    pub(crate) fn check_final(&self, key: &str, left: &Inspection) {
        let found = self.judge(key, &left.into());
        assert!(found.details.is_empty(), "{}", found.details.join("\n"));
    }

    /// Judges the final state of a key, once all faults have ended and the key has converged.
    pub(crate) fn judge(&self, key: &str, left: &Left) -> Findings {
        self.with(key, |state| state.judge(key, left))
    }

    /// All keys that were written.
    pub(crate) fn keys(&self) -> Vec<String> {
        let keys = self.keys.lock().unwrap_or_else(PoisonError::into_inner);
        keys.iter()
            .filter(|(_, state)| !state.acked.is_empty())
            .map(|(key, _)| key.clone())
            .collect()
    }

    /// How many writes were acknowledged.
    pub(crate) fn acked(&self) -> usize {
        self.sum(|state| state.acked.len())
    }

    /// How many elements were removed, acknowledged.
    pub(crate) fn removed(&self) -> usize {
        self.sum(|state| state.removed_surely.len())
    }

    fn sum(&self, count: impl Fn(&State) -> usize) -> usize {
        self.keys.lock().unwrap_or_else(PoisonError::into_inner).values().map(count).sum()
    }

    fn open(&self, key: &str, context: &str) -> Clock {
        let (bucket, key) = key.split_once('/').unwrap();
        let key = Key::new(bucket, key.as_bytes()).unwrap();
        self.contexts.verify(&key, context).unwrap().clock
    }
}

impl State {
    fn new(n: u16) -> Self {
        Self {
            oracle: Oracle::new(n),
            now: 0,
            dots: BTreeMap::new(),
            sent: BTreeMap::new(),
            acked: BTreeSet::new(),
            removed: BTreeSet::new(),
            removed_surely: BTreeSet::new(),
            log: Vec::new(),
        }
    }

    fn tick(&mut self) -> Moment {
        self.now += 1;
        Moment(self.now)
    }

    fn begin(
        &mut self,
        key: &str,
        saw: &BTreeSet<WriteNo>,
        covered: Clock,
        without: &BTreeSet<WriteNo>,
    ) -> WriteNo {
        let (saw_too, covered_too, without_too) = (saw.clone(), covered.clone(), without.clone());
        let what = What::Begun { saw: saw_too, covered: covered_too, without: without_too };
        self.log.push(Event { at_ms: now_ms(), what });
        let at = self.tick();
        let write = self.oracle.begin_write(key, false, Saw::These(saw.clone()), at);
        for _ in 0..ATTEMPTS {
            self.oracle.history.begin_attempt(write);
        }
        self.sent.insert(write, covered);
        self.removed.extend(without);
        write
    }

    fn end(&mut self, write: WriteNo, end: End, without: &BTreeSet<WriteNo>) {
        let what = What::Ended { write, end, without: without.clone() };
        self.log.push(Event { at_ms: now_ms(), what });
        let at = self.tick();
        let told = if end == End::NotApplied { ATTEMPTS } else { 1 };
        for _ in 0..told {
            self.oracle.end_attempt(write, end, at);
        }
        if let End::Acked { .. } = end {
            self.acked.insert(write);
            self.removed_surely.extend(without);
        }
    }

    /// *No dot stands for two values* (promise 3), on any node at any time; and no sibling is shown
    /// together with a write whose context covered its dot (promise 2).
    fn judge_dots(&mut self, key: &str, shown: &[Sight]) {
        for sight in shown {
            let Some(dot) = sight.dot else { continue };
            let known = self.dots.entry(dot).or_insert(sight.write);
            assert_eq!(*known, sight.write, "{key}: {dot} stands for two values");
            let covers = |by: &&Sight| self.sent.get(&by.write).is_some_and(|c| c.covers(dot));
            let by = shown.iter().find(covers);
            assert_eq!(by, None, "{key}: {sight:?} is shown together with what superseded it");
        }
    }

    fn judge(&self, key: &str, left: &Left) -> Findings {
        let mut found = Findings::default();
        let mut by_dot = BTreeMap::new();
        let mut elements = BTreeSet::new();
        for shown in &left.siblings {
            let (Some(sight), Some(of)) = (sight(key, shown), elements_of(key, &shown.value))
            else {
                found.phantom += 1;
                found.details.push(format!("{key}: {shown:?} was never written"));
                continue;
            };
            by_dot.insert(shown.dot.clone().unwrap_or_default(), sight);
            elements.extend(of);
            let Some(dot) = sight.dot else { continue };
            let covers = |write: &&WriteNo| self.sent[write].covers(dot);
            if let Some(by) = self.acked.iter().find(covers) {
                found.resurrected += 1;
                found.details.push(format!("{key}: {sight:?} was superseded by {by} and is back"));
            }
            if self.dots.get(&dot).is_some_and(|known| *known != sight.write) {
                found.details.push(format!("{key}: {dot} stands for two values"));
            }
        }
        let never_sent = |element: &&WriteNo| self.oracle.history.get(**element).is_none();
        let phantoms: Vec<_> = elements.iter().filter(never_sent).collect();
        if !phantoms.is_empty() {
            found.phantom += phantoms.len();
            found.details.push(format!("{key} has {phantoms:?}, which no client sent"));
        }
        let gone = self.acked.difference(&elements).filter(|w| !self.removed.contains(w));
        let gone: Vec<_> = gone.map(|w| self.oracle.history.describe(*w)).collect();
        if !gone.is_empty() {
            let (lost, of) = (gone.len(), self.acked.len());
            found.lost = lost;
            found.details.push(format!("{key} lost {lost} of {of}: {gone:?}"));
        }
        let sights = |dots: &[String]| dots.iter().filter_map(|d| by_dot.get(d).copied()).collect();
        let replicas = left.dots.iter().map(|(number, dots)| (name_of(*number), sights(dots)));
        if let Err(violation) = self.oracle.check_final(key, &replicas.collect()) {
            found.details.push(violation.to_string());
        }
        found
    }
}

fn assert_holds(verdict: Verdict) {
    if let Err(violation) = verdict {
        panic!("{violation}");
    }
}

/// The outcome of a write according to the answer.
fn end_of(answer: &reqwest::Result<Answer>, query: &str) -> End {
    let answer = match answer {
        Ok(answer) => answer,
        Err(error) if error.is_connect() => return End::NotApplied,
        Err(_) => return End::Unknown,
    };
    match answer.status {
        200 | 204 | 300 => End::Acked {
            acks: answer.number("Quorate-Acks"),
            hints: answer.number("Quorate-Hints"),
            w: 2,
            strict: query.contains("sloppy=false"),
        },
        500.. => match answer.outcome().as_str() {
            "partial" => End::Partial,
            "unknown" => End::Unknown,
            "not_applied" => End::NotApplied,
            other => panic!("outcome {other}"),
        },
        422 => End::NotApplied, // too many siblings: a client must read before the next blind write
        _ => panic!("a good write was refused: {} {}", answer.status, answer.text()),
    }
}

/// The write a sibling came from: its last element. `None` if no client writes such a value.
fn sight(key: &str, shown: &Shown) -> Option<Sight> {
    let dot = shown.dot.as_deref().map(|dot| dot.parse().unwrap());
    Some(Sight { write: *elements_of(key, &shown.value)?.last()?, dot })
}

/// The sibling that was written last, of those that are shown.
pub(crate) fn newest<'a>(key: &str, shown: &'a [Shown]) -> &'a Shown {
    shown.iter().max_by_key(|shown| sight(key, shown).map(|sight| sight.write)).unwrap()
}

/// An element of a value, which names its key, so that it cannot be taken for another key's.
fn element(key: &str, write: WriteNo) -> String {
    let (_, key) = key.split_once('/').unwrap();
    format!("{key}:{write}")
}

fn elements_of(key: &str, value: &str) -> Option<Vec<WriteNo>> {
    let words: Vec<&str> = serde_json::from_str(value).ok()?;
    let number = |word: &str| {
        let write = WriteNo(word.rsplit_once(":w")?.1.parse().ok()?);
        (element(key, write) == word).then_some(write)
    };
    words.into_iter().map(number).collect()
}
