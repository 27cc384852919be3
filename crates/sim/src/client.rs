//! A client: reads, resolves, writes back, writes blind, deletes, sets conditions, gives up and
//! retries through other nodes.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use quorate_engine::cluster::view::ClusterView;
use quorate_engine::node::Node;
use quorate_engine::ops::entry::{self, ReadOptions};
use quorate_engine::ops::recorder::Recorder;
use quorate_protocol::context::Context;
use quorate_protocol::layout::Layout;
use quorate_protocol::message::{Condition, Outcome, Write, WriteAnswer, WrittenAnswer};
use quorate_protocol::name::{Key, NodeId};
use quorate_protocol::object::{Object, Version};
use quorate_protocol::quorum::Count;
use quorate_protocol::row::Draft;
use quorate_protocol::terms::QuorumOptions;
use quorate_protocol::view::context_of;
use tokio::sync::oneshot;
use tokio::time::{sleep, timeout};

use crate::lifetimes::{self, nothing_expired_is_shown};
use crate::machine::Machine;
use crate::monitor::Monitor;
use crate::setup::Setup;
use crate::values::{changes, metadata_of, value_of, write_id};
use crate::world::World;
use quorate_oracle::history::{End, Saw, WriteNo};
use quorate_oracle::{Read, Verdict, Violation};

/// How much longer a patient client waits than its entry node may take.
pub(crate) const PATIENCE: Duration = Duration::from_millis(500);
/// How often a client attempts the same write.
const ATTEMPTS_MAX: usize = 3;

/// A client.
#[derive(Clone)]
pub(crate) struct Client {
    /// Its number.
    pub(crate) number: usize,
    /// The world.
    pub(crate) world: Arc<World>,
    /// What was decided for the run.
    pub(crate) setup: Arc<Setup>,
    /// The machines that it can ask.
    pub(crate) machines: Arc<Vec<Arc<Machine>>>,
    /// The one that it asks; any, by chance, if none is named.
    pub(crate) entry: Option<NodeId>,
    /// Knows what was reaped.
    pub(crate) monitor: Arc<Monitor>,
    /// What it last saw of each key.
    pub(crate) sessions: BTreeMap<Key, Session>,
}

/// What a client saw of a key.
#[derive(Clone)]
pub(crate) struct Session {
    pub(crate) shown: BTreeSet<WriteNo>,
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
            if self.setup.is_indexed && self.world.percent(8) {
                self.find().await;
            } else if self.world.percent(4) {
                self.list().await;
            } else if self.world.percent(40) {
                self.read(key).await;
            } else {
                self.write(key).await;
            }
        }
    }

    /// A process to ask, if the machine that it chose runs one.
    fn node(&self) -> Option<(Arc<Node>, quorate_engine::tasks::Tasks)> {
        let machine = match self.entry {
            Some(entry) => self.machines.iter().find(|machine| machine.name == entry)?.clone(),
            None => {
                let known: Vec<_> =
                    self.machines.iter().filter(|machine| !machine.waits()).cloned().collect();
                self.world.pick(&known)
            }
        };
        machine.process().map(|process| (process.node, process.tasks))
    }

    /// Has a node do something as long as it runs and the client waits.
    pub(crate) async fn ask<T: Send + 'static, F: Future<Output = T> + Send + 'static>(
        &self,
        work: impl FnOnce(Arc<Node>) -> F,
    ) -> Option<T> {
        let (node, tasks) = self.node()?;
        let (tell, told) = oneshot::channel();
        let work = work(node);
        tasks.spawn(async move { drop(tell.send(work.await)) });
        let full = Duration::from_millis(self.setup.request_ms) + PATIENCE;
        let is_auditor = self.number == self.setup.clients;
        let patience = match is_auditor || self.world.percent(90) {
            true => full,
            false => self.world.at_most_ms(full.as_millis() as u64),
        };
        timeout(patience, told).await.ok()?.ok()
    }

    async fn read(&mut self, key: Key) {
        let strict = self.world.percent(50);
        let usual = self.world.percent(70);
        let r = if usual { self.setup.r } else { self.world.between(1, 3) } as u16;
        self.read_by(key, r, strict).await;
    }

    /// Reads, and judges the answer. Returns the writes that it showed; `None` if there was no answer.
    pub(crate) async fn read_by(
        &mut self,
        key: Key,
        r: u16,
        strict: bool,
    ) -> Option<BTreeSet<WriteNo>> {
        let begun = self.world.record().tick();
        let object = self.object(&key, r, strict).await?;
        Some(self.saw(key, &Read { begun, r, strict }, &object))
    }

    /// What a read by R = `r` finds; `None` if there is no answer.
    pub(crate) async fn object(&self, key: &Key, r: u16, strict: bool) -> Option<Arc<Object>> {
        let (key, asked, timeout_ms) = (key.clone(), asked(r, !strict), self.setup.request_ms);
        let read = async move |node: Arc<Node>| {
            node.accepts_reads().ok()?;
            let view = node.view();
            let terms = view.read_terms(&key, &asked).ok()?;
            let options = ReadOptions { view, terms, timeout_ms };
            entry::read(&node, &key, options, Recorder::off()).await.0.ok()
        };
        self.ask(read).await?
    }

    /// Judges and remembers what a read returned: the writes that it showed.
    fn saw(&mut self, key: Key, read: &Read, object: &Object) -> BTreeSet<WriteNo> {
        let name = key.to_string();
        let now = self.world.wall();
        let seen = self.world.record().shown(&name, object, now);
        let verdict = self.world.record().lifetimes.one_end_for_each_dot(&name, object);
        self.world.judge(verdict);
        self.world.judge(nothing_expired_is_shown(&name, object, now));
        self.world.note(format_args!("c{} read {name} r={}: {seen:?}", self.number, read.r));
        let context = context_of(object);
        if seen.is_empty() {
            self.monitor.look(); // it may have been reaped just now
        }
        let verdict = self.world.record().check_read(&name, read, &seen, &context.clock);
        self.world.judge(verdict);
        let session = Session {
            shown: seen.iter().map(|sight| sight.write).collect(),
            context,
            version: object.version(),
        };
        let shown = session.shown.clone();
        self.sessions.insert(key, session);
        shown
    }

    /// Reads a quorum of home replicas through this node.
    ///
    /// # Errors
    /// Why it did not answer.
    pub(crate) async fn read_from(&mut self, node: &Arc<Node>, key: &Key) -> Result<(), String> {
        let begun = self.world.record().tick();
        let (view, r) = (node.view(), two_of(node));
        let terms = view.read_terms(key, &asked(r, false)).map_err(|error| error.to_string())?;
        let options = ReadOptions { view, terms, timeout_ms: 5_000 };
        let read = entry::read(node, key, options, Recorder::off()).await.0;
        let object = read.map_err(|why| format!("a read of {key}: {why:?}"))?;
        self.saw(key.clone(), &Read { begun, r, strict: true }, &object);
        Ok(())
    }

    /// Replaces what is there by one value on a quorum of home replicas, through any node, and reads it
    /// back through this one.
    ///
    /// # Errors
    /// What did not work.
    pub(crate) async fn overwrite(&mut self, node: &Arc<Node>, key: &Key) -> Result<(), String> {
        self.read_from(node, key).await?;
        let (number, end) = self.replace(key, true, two_of(node)).await;
        if !matches!(end, End::Acked { .. }) {
            return Err(format!("a write of {key}: {end:?}"));
        }
        self.read_from(node, key).await?;
        let session = self.sessions.get(key).map(|session| &session.shown);
        match session == Some(&BTreeSet::from([number])) {
            true => Ok(()),
            false => Err(format!("{key} shows {session:?}, not {number} alone")),
        }
    }

    /// Replaces what it last saw of a key by a value, or by a tombstone, on W = `w` home replicas; what
    /// it has not seen stays.
    pub(crate) async fn replace(&mut self, key: &Key, has_value: bool, w: u16) -> (WriteNo, End) {
        self.replace_by(key, has_value, (w, true)).await
    }

    /// The same by a strict quorum of `w`, or by a sloppy one.
    pub(crate) async fn replace_by(
        &mut self,
        key: &Key,
        has_value: bool,
        (w, strict): (u16, bool),
    ) -> (WriteNo, End) {
        let session = self.sessions.remove(key);
        let shown = session.as_ref().map(|session| session.shown.clone()).unwrap_or_default();
        let number = self.world.record().begin(&key.to_string(), !has_value, Saw::These(shown));
        let write = self.request(key, number, session.as_ref(), has_value, (w, strict));
        (number, self.attempt(number, write, (w, strict), false).await)
    }

    async fn write(&mut self, key: Key) {
        let strict = self.world.percent(50);
        let usual = self.world.percent(70);
        let w = if usual { self.setup.w } else { self.world.between(self.setup.w_min, 3) } as u16;
        let deletes = self.world.percent(self.setup.deletes_percent);
        let session = self.sessions.remove(&key).filter(|_| self.world.percent(75));
        let condition = self.world.percent(self.setup.conditions_percent).then(|| match &session {
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
        let mut write = Write {
            condition,
            delete_seen,
            idempotency: self.world.percent(50).then_some(write_id(number, 1).0),
            ..self.request(&key, number, session.as_ref(), !deletes, (w, strict))
        };
        if self.setup.lifetimes_percent > 0 && !deletes {
            write.draft.lifetime = lifetimes::draw(&self.world, &self.setup, &key, number);
        }
        for attempt in 0..ATTEMPTS_MAX {
            if attempt > 0 {
                self.world.record().again(number);
            }
            let end = self.attempt(number, write.clone(), (w, strict), attempt > 0).await;
            let may_repeat = write.idempotency.is_some() && self.world.percent(70);
            if !matches!(end, End::Unknown | End::Partial) || !may_repeat {
                return;
            }
        }
    }

    fn request(
        &self,
        key: &Key,
        number: WriteNo,
        session: Option<&Session>,
        has_value: bool,
        (w, strict): (u16, bool),
    ) -> Write {
        let seen = session.map(|session| session.context.clone()).unwrap_or_default();
        let draft = Draft {
            context: seen.clock,
            context_stamp: seen.stamp,
            write_id: write_id(number, 0),
            value: has_value.then(|| value_of(number)),
            metadata: match has_value && self.setup.is_indexed {
                true => metadata_of(number),
                false => Default::default(),
            },
            ..Draft::default()
        };
        self.plain_write(key, draft, (w, strict))
    }

    /// A write without a condition or an idempotency key.
    pub(crate) fn plain_write(&self, key: &Key, draft: Draft, (w, strict): (u16, bool)) -> Write {
        Write {
            key: key.clone(),
            has_value: draft.writes().is_some(),
            draft,
            asked: asked(w, !strict),
            condition: None,
            delete_seen: false,
            idempotency: None,
            timeout_ms: self.setup.request_ms as u32,
            return_body: false,
            explain: None,
        }
    }

    /// Has a node carry out a write: `None` if there is no answer, `Some(None)` if it takes none.
    pub(crate) async fn carry_out(&self, write: Write) -> Option<Option<WriteAnswer>> {
        let written = async move |node: Arc<Node>| {
            node.accepts_requests().ok()?;
            let view = node.view();
            let terms = view.write_terms(&write.key, &write.asked).ok()?;
            Some(entry::write(&node, write, (view, terms), Recorder::off()).await.answer)
        };
        self.ask(written).await
    }

    async fn attempt(
        &mut self,
        number: WriteNo,
        write: Write,
        (w, strict): (u16, bool),
        is_repeated: bool,
    ) -> End {
        let key = write.key.clone();
        let kind = if write.has_value { "put" } else { "delete" };
        // What is repeated may have been written the first time, and be told of later.
        let is_conditional = write.condition.is_some() && !is_repeated;
        let changes_before = self.changes_of_n();
        let (end, context) = match self.carry_out(write).await {
            None => (End::Unknown, None),
            Some(None) => (End::NotApplied, None),
            Some(Some(answer)) => {
                if let WriteAnswer::NoQuorum { acks, .. } = &answer {
                    self.world.note(format_args!("c{} {key} {number} {acks:?}", self.number));
                }
                self.check_dot(&key, number, &answer);
                // A replica that is none any more drops its row once those that remain have it.
                if self.changes_of_n() == changes_before {
                    self.check_ack(&key, number, (w, strict), is_conditional, &answer);
                }
                end_of(answer, w, strict)
            }
        };
        self.world.note(format_args!("c{} {kind} {key} {number} w={w}: {end:?}", self.number));
        self.world.record().end(number, end);
        if let Some((context, version)) = context {
            let shown = self.world.record().alone(&key.to_string(), number, self.world.wall());
            self.sessions.insert(key, Session { shown, context, version });
        }
        end
    }
}

impl Client {
    /// How often n or the layout has changed, at all nodes that run together.
    fn changes_of_n(&self) -> u64 {
        let processes = self.machines.iter().filter_map(|machine| machine.process());
        processes.map(|process| changes(&process.node)).sum()
    }

    /// The home replicas by both layouts while one becomes the other, if all nodes agree that it does: a
    /// write that is acknowledged then is on W of each.
    fn homes_while_moving(&self, key: &Key) -> Vec<BTreeSet<NodeId>> {
        let processes = self.machines.iter().filter_map(|machine| machine.process());
        let views: Vec<ClusterView> = processes.map(|process| process.node.view()).collect();
        let [first, others @ ..] = &views[..] else { return Vec::new() };
        let (partition, n) = (first.partition(key), first.n(key.bucket()));
        let is_same =
            |view: &ClusterView| (view.epoch(), view.n(key.bucket())) == (first.epoch(), n);
        let Some(next) = first.placement().next().filter(|_| others.iter().all(is_same)) else {
            return Vec::new();
        };
        let homes = |layout: &Layout| layout.homes(partition, n).iter().copied().collect();
        vec![homes(first.placement().layout()), homes(next)]
    }

    /// Checks the dot that an answer names: the client's next write supersedes that one.
    fn check_dot(&self, key: &Key, number: WriteNo, answer: &WriteAnswer) {
        let WriteAnswer::Written(WrittenAnswer { dot: Some(dot), .. }) = answer else { return };
        let verdict = self.world.record().check_minted(&key.to_string(), number, *dot);
        self.world.judge(verdict);
    }

    /// Checks what an acknowledgement says about the nodes' disks.
    fn check_ack(
        &self,
        key: &Key,
        number: WriteNo,
        (w, strict): (u16, bool),
        is_conditional: bool,
        answer: &WriteAnswer,
    ) {
        let WriteAnswer::Written(WrittenAnswer { acks, siblings, dot: Some(dot), .. }) = answer
        else {
            return;
        };
        // Hints do not count in a strict quorum.
        let hints_of = self.machines.iter().filter(|_| !strict);
        let targets: Vec<NodeId> = hints_of.map(|machine| machine.name).collect();
        let holders = self.machines.iter().filter(|machine| machine.holds(key, *dot, &targets));
        let holders = holders.map(|machine| machine.name).collect();
        let verdict = self.world.record().check_ack(&key.to_string(), number, (w, *acks), &holders);
        self.world.judge(verdict);
        for homes in self.homes_while_moving(key).iter().filter(|_| strict) {
            let (of_set, w) = (&holders & homes, w.min(homes.len() as u16));
            let verdict = self.world.record().check_ack(&key.to_string(), number, (w, w), &of_set);
            self.world.judge(verdict);
        }
        // Where nothing fails no node repeats a request, and the coordinator has just minted it.
        if is_conditional && self.setup.faults.is_empty() {
            let verdict = nothing_overtook(*siblings == 1, number, *siblings);
            self.world.judge(verdict);
        }
    }
}

/// *A condition holds when the write is minted*: then nothing is beside what it wrote.
fn nothing_overtook(holds: bool, number: WriteNo, siblings: u32) -> Verdict {
    if holds {
        return Ok(());
    }
    let story = format!("{number} was written on a condition, and left {siblings} siblings");
    Err(Violation { property: "conditions_hold", story })
}

/// A quorum of three home replicas, or as many as there are.
fn two_of(node: &Node) -> u16 {
    node.view().placement().layout().node_count().min(2)
}

fn asked(needed: u16, sloppy: bool) -> QuorumOptions {
    QuorumOptions { n: None, needed: Some(Count::Exactly(needed)), sloppy: Some(sloppy) }
}

/// What an answer says of a write, and the context that came with it.
pub(crate) fn end_of(
    answer: WriteAnswer,
    w: u16,
    strict: bool,
) -> (End, Option<(Context, Version)>) {
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
