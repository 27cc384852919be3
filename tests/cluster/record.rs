//! What the clients of a test did and saw, judged by the simulator's oracle.
//!
//! Every value is a list of elements, the last of which names the write itself: `w3 w7 w9` is write
//! 9, by a client that was shown 3 and 7. So a value tells all that its write saw, and that nothing
//! was lost can be seen without any version vector.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Mutex, MutexGuard, PoisonError};

use quorate_protocol::clock::{Clock, Dot};
use quorate_protocol::context::ContextKeys;
use quorate_protocol::name::Key;
use quorate_sim::history::{End, Moment, Saw, WriteNo};
use quorate_sim::oracle::{Answer as Judged, Oracle, Read, Sight, Verdict};

use crate::harness::{Cluster, name_of};
use crate::http::{Answer, Node, Shown};
use crate::look::Inspection;

/// How many attempts at a write the oracle is told of: a coordinator forwards a write anew when its
/// minter falls silent, so that it may be minted twice, under two dots (design, section 4, the
/// exception to promise 3). The oracle then excuses copies that come up late; [`State::judge_dots`]
/// excuses nothing.
const ATTEMPTS: usize = 2;

/// The history of one test.
pub(crate) struct Record {
    contexts: ContextKeys,
    state: Mutex<State>,
}

struct State {
    oracle: Oracle,
    now: u64,
    /// Every dot that was seen, and the write that it names.
    dots: BTreeMap<(String, Dot), WriteNo>,
    /// What each write's context covered.
    sent: BTreeMap<WriteNo, Clock>,
    acked: BTreeMap<String, BTreeSet<WriteNo>>,
}

/// What a client was shown of a key: good for one write.
#[derive(Clone, Debug, Default)]
pub(crate) struct View {
    writes: BTreeSet<WriteNo>,
    /// All elements of all siblings.
    pub(crate) elements: BTreeSet<WriteNo>,
    context: Option<String>,
}

impl Record {
    /// Nothing was done yet. Buckets keep `n` replicas.
    pub(crate) fn new(cluster: &Cluster, n: u16) -> Self {
        let state = State {
            oracle: Oracle::new(n),
            now: 0,
            dots: BTreeMap::new(),
            sent: BTreeMap::new(),
            acked: BTreeMap::new(),
        };
        Self { contexts: cluster.contexts(), state: Mutex::new(state) }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Adds an element to what the client was shown. Returns the answer, if one came.
    pub(crate) async fn add(&self, node: &Node, key: &str, seen: &View) -> Option<Answer> {
        self.add_with(node, key, seen, "").await
    }

    /// Likewise, with a query.
    pub(crate) async fn add_with(
        &self,
        node: &Node,
        key: &str,
        seen: &View,
        query: &str,
    ) -> Option<Answer> {
        let context = seen.context.as_deref();
        let covered = context.map(|context| self.open(key, context)).unwrap_or_default();
        let write = {
            let mut state = self.state();
            let at = state.tick();
            let saw = Saw::These(seen.writes.clone());
            let write = state.oracle.begin_write(key, false, saw, at);
            for _ in 0..ATTEMPTS {
                state.oracle.history.begin_attempt(write);
            }
            state.sent.insert(write, covered.clone());
            write
        };
        let elements = seen.elements.iter().chain([&write]).map(ToString::to_string);
        let value = elements.collect::<Vec<_>>().join(" ");
        let ask = node.put(&format!("/kv/{key}{query}")).value(value);
        let answer = ask.context(context).try_answer().await;
        let end = end_of(&answer, query);
        let mut state = self.state();
        let at = state.tick();
        let told = if end == End::NotApplied { ATTEMPTS } else { 1 };
        for _ in 0..told {
            state.oracle.end_attempt(write, end, at);
        }
        if let End::Acked { .. } = end {
            state.acked.entry(key.to_owned()).or_default().insert(write);
        }
        answer.ok()
    }

    /// Reads a key and judges the answer. `None` if none came or too few replicas answered.
    pub(crate) async fn read(&self, node: &Node, key: &str, r: u16) -> Option<View> {
        let begun = self.state().tick();
        let answer = node.get(&format!("/kv/{key}?r={r}")).try_answer().await.ok()?;
        if answer.status == 503 {
            return None;
        }
        let shown = answer.siblings();
        let sights: Vec<Sight> = shown.iter().map(sight).collect();
        let context = answer.context().map(str::to_owned);
        let clock = context.as_deref().map(|context| self.open(key, context));
        let read = Read { begun, r, strict: false };
        let judged = Judged { key, shown: &sights, context: clock.as_ref() };
        let mut state = self.state();
        must_hold(state.oracle.check_read(&read, &judged));
        state.judge_dots(key, &sights);
        let elements = shown.iter().flat_map(|shown| elements_of(&shown.value)).collect();
        Some(View { writes: sights.iter().map(|s| s.write).collect(), elements, context })
    }

    /// Judges what is left of a key once all is healed and settled.
    pub(crate) fn check_final(&self, key: &str, left: &Inspection) {
        let shown = left.siblings();
        let by_dot: BTreeMap<&str, Sight> =
            shown.iter().map(|s| (s.dot.as_deref().unwrap_or_default(), sight(s))).collect();
        let replicas = left.dots().into_iter().map(|(number, dots)| {
            (name_of(number), dots.iter().map(|dot| by_dot[dot.as_str()]).collect())
        });
        let mut state = self.state();
        must_hold(state.oracle.check_final(key, &replicas.collect()));
        let sights: Vec<Sight> = by_dot.into_values().collect();
        state.judge_dots(key, &sights);
        let acked = state.acked.get(key).cloned().unwrap_or_default();
        for sight in &sights {
            let covers =
                |write: &&WriteNo| sight.dot.is_some_and(|dot| state.sent[write].covers(dot));
            let by = acked.iter().find(covers);
            assert_eq!(by, None, "{key}: {sight:?} was superseded and is back");
        }
        let elements: BTreeSet<WriteNo> =
            shown.iter().flat_map(|shown| elements_of(&shown.value)).collect();
        let lost: Vec<_> =
            acked.difference(&elements).map(|w| state.oracle.history.describe(*w)).collect();
        assert!(lost.is_empty(), "{key} lost {} of {}: {lost:?}", lost.len(), acked.len());
    }

    /// All keys that were written.
    pub(crate) fn keys(&self) -> Vec<String> {
        self.state().acked.keys().cloned().collect()
    }

    /// How many writes were acknowledged.
    pub(crate) fn acked(&self) -> usize {
        self.state().acked.values().map(BTreeSet::len).sum()
    }

    fn open(&self, key: &str, context: &str) -> Clock {
        let (bucket, key) = key.split_once('/').unwrap();
        let key = Key::new(bucket, key.as_bytes()).unwrap();
        self.contexts.verify(&key, context).unwrap().clock
    }
}

impl State {
    fn tick(&mut self) -> Moment {
        self.now += 1;
        Moment(self.now)
    }

    /// *No dot stands for two values* (promise 3), whoever shows it and whenever; and no sibling is
    /// shown beside a write whose context covered its dot (promise 2).
    fn judge_dots(&mut self, key: &str, shown: &[Sight]) {
        for sight in shown {
            let Some(dot) = sight.dot else { continue };
            let known = self.dots.entry((key.to_owned(), dot)).or_insert(sight.write);
            assert_eq!(*known, sight.write, "{key}: {dot} stands for two values");
            let covers = |by: &&Sight| self.sent.get(&by.write).is_some_and(|c| c.covers(dot));
            let by = shown.iter().find(covers);
            assert_eq!(by, None, "{key}: {sight:?} is shown beside what superseded it");
        }
    }
}

fn must_hold(verdict: Verdict) {
    if let Err(violation) = verdict {
        panic!("{violation}");
    }
}

/// What the answer says became of a write.
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
        _ => panic!("a good write was refused: {} {}", answer.status, answer.text()),
    }
}

/// The write that a sibling is: its last element.
fn sight(shown: &Shown) -> Sight {
    let dot = shown.dot.as_deref().map(|dot| dot.parse().unwrap());
    let write = elements_of(&shown.value).last();
    Sight { write: write.unwrap_or_else(|| panic!("nobody wrote {shown:?}")), dot }
}

fn elements_of(value: &str) -> impl Iterator<Item = WriteNo> {
    let number = |word: &str| word.strip_prefix('w').and_then(|number| number.parse().ok());
    value
        .split(' ')
        .map(move |word| WriteNo(number(word).unwrap_or_else(|| panic!("nobody wrote {word:?}"))))
}
