//! A client: reads, resolves, writes back, writes blind, deletes, sets conditions, gives up and
//! retries through other nodes.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use quorate_engine::node::Node;
use quorate_engine::ops::entry::{self, ReadOptions};
use quorate_engine::ops::recorder::Recorder;
use quorate_protocol::context::Context;
use quorate_protocol::message::{Condition, Outcome, Write, WriteAnswer};
use quorate_protocol::name::Key;
use quorate_protocol::object::{Metadata, Object, Version};
use quorate_protocol::quorum::Count;
use quorate_protocol::row::Draft;
use quorate_protocol::terms::QuorumOptions;
use quorate_protocol::view::context_of;
use tokio::sync::oneshot;
use tokio::time::{sleep, timeout};

use crate::hosted::machine::Machine;
use crate::hosted::record::shown;
use crate::hosted::setup::Setup;
use crate::hosted::world::World;
use crate::values::{value_of, write_id};
use quorate_oracle::Read;
use quorate_oracle::history::{End, Saw, WriteNo};

/// How much longer a patient client waits than its entry node may take.
const PATIENCE: Duration = Duration::from_millis(500);
/// How often a client attempts the same write.
const ATTEMPTS_MAX: usize = 3;

/// A client.
pub(crate) struct Client {
    /// Its number.
    pub(crate) number: usize,
    /// The world.
    pub(crate) world: Arc<World>,
    /// What was decided for the run.
    pub(crate) setup: Arc<Setup>,
    /// The machines that it can ask.
    pub(crate) machines: Arc<Vec<Arc<Machine>>>,
    /// What it last saw of each key.
    pub(crate) sessions: BTreeMap<Key, Session>,
}

/// What a client saw of a key.
#[derive(Clone)]
pub(crate) struct Session {
    shown: BTreeSet<WriteNo>,
    context: Context,
    version: Version,
}

impl Client {
    /// Makes its requests, one after another.
    pub(crate) async fn run(mut self, requests: u64) {
        let keys = self.setup.keys();
        for _ in 0..requests {
            if self.world.is_broken() {
                return;
            }
            sleep(self.world.at_most_ms(self.setup.thinking_ms_max)).await;
            let key = self.world.pick(&keys);
            if self.world.percent(40) {
                self.read(key).await;
            } else {
                self.write(key).await;
            }
        }
    }

    /// A process to ask, if the machine that it chose runs one.
    fn node(&self) -> Option<(Arc<Node>, quorate_engine::tasks::Tasks)> {
        let machine = self.world.pick(&self.machines);
        machine.process().map(|process| (process.node, process.tasks))
    }

    /// Has a node do something as long as it runs and the client waits.
    async fn ask<T: Send + 'static, F: Future<Output = T> + Send + 'static>(
        &self,
        work: impl FnOnce(Arc<Node>) -> F,
    ) -> Option<T> {
        let (node, tasks) = self.node()?;
        let (tell, told) = oneshot::channel();
        let work = work(node);
        tasks.spawn(async move { drop(tell.send(work.await)) });
        let full = Duration::from_millis(self.setup.request_ms) + PATIENCE;
        let patience = match self.world.percent(90) {
            true => full,
            false => self.world.at_most_ms(full.as_millis() as u64),
        };
        timeout(patience, told).await.ok()?.ok()
    }

    async fn read(&mut self, key: Key) {
        let strict = self.world.percent(50);
        let usual = self.world.percent(70);
        let r = if usual { self.setup.r } else { self.world.between(1, 3) } as u16;
        let begun = self.world.record().tick();
        let (asked, timeout_ms) = (asked(r, !strict), self.setup.request_ms);
        let question = key.clone();
        let read = async move |node: Arc<Node>| {
            node.accepts_reads().ok()?;
            let view = node.view();
            let terms = view.read_terms(&question, &asked).ok()?;
            let options = ReadOptions { view, terms, timeout_ms };
            entry::read(&node, &question, options, Recorder::off()).await.0.ok()
        };
        let Some(Some(object)) = self.ask(read).await else { return };
        let name = key.to_string();
        let seen = shown(&object);
        self.world.note(format_args!("c{} read {name} r={r}: {seen:?}", self.number));
        let context = context_of(&object);
        let read = Read { begun, r, strict };
        let verdict = self.world.record().check_read(&name, &read, &seen, &context.clock);
        self.world.judge(verdict);
        self.remember(key, &object, context);
    }

    fn remember(&mut self, key: Key, object: &Object, context: Context) {
        let shown = shown(object).iter().map(|sight| sight.write).collect();
        let session = Session { shown, context, version: object.version() };
        self.sessions.insert(key, session);
    }

    async fn write(&mut self, key: Key) {
        let strict = self.world.percent(50);
        let usual = self.world.percent(70);
        let w = if usual { self.setup.w } else { self.world.between(self.setup.w_min, 3) } as u16;
        let deletes = self.world.percent(20);
        let session = self.sessions.remove(&key).filter(|_| self.world.percent(75));
        let condition = self.world.percent(15).then(|| match &session {
            Some(session) => Condition::Version(vec![session.version]),
            None if self.world.percent(70) => Condition::Absent,
            None => Condition::Present,
        });
        let seen = session.as_ref().map(|session| session.context.clone()).unwrap_or_default();
        let delete_seen = deletes && seen.clock.is_empty() && condition.is_none();
        let saw = match &session {
            _ if delete_seen || condition.is_some() => Saw::Whatever,
            Some(session) => Saw::These(session.shown.clone()),
            None => Saw::These(BTreeSet::new()),
        };
        let number = self.world.record().begin(&key.to_string(), deletes, saw);
        let value = (!deletes).then(|| value_of(number));
        let write = Write {
            key: key.clone(),
            draft: Draft {
                context: seen.clock,
                context_stamp: seen.stamp,
                metadata: Metadata::default(),
                write_id: write_id(number, 0),
                supersede_all: false,
                unless_overtaken: false,
                value: value.clone(),
            },
            has_value: value.is_some(),
            asked: asked(w, !strict),
            condition,
            delete_seen,
            idempotency: self.world.percent(50).then_some(write_id(number, 1).0),
            timeout_ms: self.setup.request_ms as u32,
            return_body: false,
            explain: None,
        };
        for attempt in 0..ATTEMPTS_MAX {
            if attempt > 0 {
                self.world.record().again(number);
            }
            let end = self.attempt(number, write.clone(), w, strict).await;
            let may_repeat = write.idempotency.is_some() && self.world.percent(70);
            if !matches!(end, End::Unknown | End::Partial) || !may_repeat {
                return;
            }
        }
    }

    async fn attempt(&mut self, number: WriteNo, write: Write, w: u16, strict: bool) -> End {
        let key = write.key.clone();
        let kind = if write.has_value { "put" } else { "delete" };
        let written = async move |node: Arc<Node>| {
            node.accepts_requests().ok()?;
            let view = node.view();
            let terms = view.write_terms(&write.key, &write.asked).ok()?;
            Some(entry::write(&node, write, (view, terms), Recorder::off()).await)
        };
        let (end, context) = match self.ask(written).await {
            None => (End::Unknown, None),
            Some(None) => (End::NotApplied, None),
            Some(Some(outcome)) => end_of(outcome.answer, w, strict),
        };
        self.world.note(format_args!("c{} {kind} {key} {number} w={w}: {end:?}", self.number));
        self.world.record().end(number, end);
        if let Some((context, version)) = context {
            let shown = BTreeSet::from([number]);
            self.sessions.insert(key, Session { shown, context, version });
        }
        end
    }
}

fn asked(needed: u16, sloppy: bool) -> QuorumOptions {
    QuorumOptions { n: None, needed: Some(Count::Exactly(needed)), sloppy: Some(sloppy) }
}

/// What an answer says of a write, and the context that came with it.
fn end_of(answer: WriteAnswer, w: u16, strict: bool) -> (End, Option<(Context, Version)>) {
    match answer {
        WriteAnswer::Written(written) if written.dot.is_none() => (End::NothingToDelete, None),
        WriteAnswer::Written(written) => {
            let (acks, hints) = (written.acks, written.hints);
            let seen = written.seen.map(|context| (context, written.version));
            (End::Acked { acks, hints, w, strict }, seen)
        }
        WriteAnswer::NoQuorum { outcome, .. } => {
            let end = match outcome {
                Outcome::Partial => End::Partial,
                Outcome::Unknown => End::Unknown,
                Outcome::NotApplied => End::NotApplied,
            };
            (end, None)
        }
        WriteAnswer::NoReadQuorum { .. }
        | WriteAnswer::ConditionFailed
        | WriteAnswer::IdempotencyKeyReused
        | WriteAnswer::Refused(_)
        | WriteAnswer::Unavailable(_)
        | WriteAnswer::InvalidQuorum(_) => (End::NotApplied, None),
    }
}
