//! A client: reads, resolves, writes back, writes blind, deletes, sets conditions, times out and
//! retries through other nodes.

use std::collections::{BTreeMap, BTreeSet};

use bytes::Bytes;
use quorate_protocol::bucket::Conflicts;
use quorate_protocol::context::Context;
use quorate_protocol::message::{Condition, Write};
use quorate_protocol::name::{Key, NodeId};
use quorate_protocol::object::{Metadata, Version};
use quorate_protocol::quorum::Count;
use quorate_protocol::row::Draft;
use quorate_protocol::terms::QuorumOptions;

use crate::values::{value_of, write_id, write_of};
use crate::world::{Body, Event, Request, World};
use quorate_oracle::history::{Saw, WriteNo};

/// How much longer a client waits than its entry node, in milliseconds.
const PATIENCE_MS: u64 = 100;
/// How often a client attempts the same write.
const ATTEMPTS_MAX: u32 = 3;

/// What a client is told.
#[derive(Clone, Debug)]
pub(crate) enum Response {
    /// Values, or the success of a write, which shows the write itself.
    Shown { shown: BTreeSet<WriteNo>, context: Option<String>, version: Version },
    /// Success, but there was nothing to delete.
    NothingToDelete,
    /// It failed, or its outcome is unknown.
    Failed,
}

/// A client.
pub(crate) struct Client {
    id: usize,
    /// What it last saw of each key.
    sessions: BTreeMap<Key, Session>,
    /// The node that it prefers.
    favourite: NodeId,
    /// Requests still to be made.
    left: u64,
    current: Option<Current>,
}

#[derive(Clone)]
struct Session {
    shown: BTreeSet<WriteNo>,
    context: String,
    version: Version,
    /// Whether it has not been used for a write yet.
    fresh: bool,
}

/// The request in flight.
struct Current {
    number: u64,
    key: Key,
    to: NodeId,
    begun_ms: u64,
    /// Whether it waits as long as its entry node may take.
    patient: bool,
    /// The write, if it is one that may be retried.
    write: Option<(Box<Write>, Option<Bytes>)>,
    attempts: u32,
}

impl Client {
    pub(crate) fn new(id: usize, favourite: NodeId, requests: u64) -> Self {
        Self { id, sessions: BTreeMap::new(), favourite, left: requests, current: None }
    }

    /// Whether it has made all its requests.
    pub(crate) fn is_done(&self) -> bool {
        self.left == 0 && self.current.is_none()
    }

    /// The node it waits for, since when, in milliseconds, and whether it is patient.
    pub(crate) fn waits_for(&self, number: u64) -> Option<(NodeId, u64, bool)> {
        let current = self.current.as_ref().filter(|current| current.number == number)?;
        Some((current.to, current.begun_ms, current.patient))
    }

    /// Makes the next request.
    pub(crate) fn act(&mut self, world: &mut World) {
        if self.left == 0 || self.current.is_some() {
            return;
        }
        self.left -= 1;
        let (key, phase) = choose_key(world);
        let fresh = self.sessions.get(&key).is_some_and(|session| session.fresh);
        let n = world.setup.n_min;
        let reads = match phase {
            KeyPhase::ReadOnly => true,
            KeyPhase::InUse | KeyPhase::Deleting => world.dice.percent(if fresh { 15 } else { 40 }),
        };
        let sloppy = if world.dice.percent(80) { world.setup.sloppy } else { !world.setup.sloppy };
        if reads {
            let usual = world.dice.percent(70);
            let r = if usual { world.setup.r } else { world.dice.between(1, n.into()) as u16 };
            let asked = asked(n, r, r, sloppy, world);
            let timeout_ms = world.setup.request_timeout_ms;
            self.send(key, Body::Read { asked, timeout_ms }, None, 1, world);
        } else {
            let deletes = world.dice.percent(if phase == KeyPhase::Deleting { 85 } else { 20 });
            let blind = world.dice.percent(if phase == KeyPhase::Deleting { 5 } else { 25 });
            let (write, value) = self.draft(&key, sloppy, (deletes, blind), world);
            self.attempt(key, write, value, 1, world);
        }
    }

    /// Drafts a write.
    fn draft(
        &mut self,
        key: &Key,
        sloppy: bool,
        (deletes, blind): (bool, bool),
        world: &mut World,
    ) -> (Box<Write>, Option<Bytes>) {
        let session = self.sessions.get_mut(key).filter(|_| !blind);
        let session = session.map(|session| {
            session.fresh = false;
            session.clone()
        });
        let condition = world.dice.percent(15).then(|| match &session {
            Some(session) => Condition::Version(vec![session.version]),
            None if world.dice.percent(70) => Condition::Absent,
            None => Condition::Present,
        });
        let seen = match &session {
            // What a client sends back is verified by the entry node, as every context is.
            Some(session) => match world.keys.verify(key, &session.context) {
                Ok(seen) => seen,
                Err(error) => unreachable!("a context that was given out is refused: {error}"),
            },
            None => Context::default(),
        };
        let saw = Saw::These(session.map(|session| session.shown).unwrap_or_default());
        let moment = world.moment();
        let number = world.oracle.begin_write(&key.to_string(), deletes, saw, moment);
        let value = (!deletes).then(|| value_of(number));
        let delete_seen = deletes && seen.clock.is_empty() && condition.is_none();
        let usual = world.dice.percent(70);
        let (min, max) = (world.setup.w_min.into(), world.setup.n_min.into());
        let w = if usual { world.setup.w } else { world.dice.between(min, max) as u16 };
        let asked = asked(world.setup.n_min, w, w.max(world.setup.r), sloppy, world);
        let write = Write {
            key: key.clone(),
            draft: Draft {
                context: seen.clock,
                context_stamp: seen.stamp,
                metadata: Metadata::default(),
                write_id: write_id(number, 0),
                supersede_all: world.setup.conflicts == Conflicts::Lww,
                unless_overtaken: false,
                value: None,
            },
            has_value: value.is_some(),
            asked,
            condition,
            delete_seen,
            idempotency: world.dice.percent(50).then_some(write_id(number, 1).0),
            timeout_ms: world.setup.request_timeout_ms as u32,
            return_body: world.dice.percent(15),
            explain: None,
        };
        (Box::new(write), value)
    }

    /// Sends a write, for the first time or as a retry.
    fn attempt(
        &mut self,
        key: Key,
        write: Box<Write>,
        value: Option<Bytes>,
        attempts: u32,
        world: &mut World,
    ) {
        world.oracle.history.begin_attempt(write_of(write.draft.write_id));
        let again = write.idempotency.is_some().then(|| (write.clone(), value.clone()));
        self.send(key, Body::Write(write, value), again, attempts, world);
    }

    fn send(
        &mut self,
        key: Key,
        body: Body,
        write: Option<(Box<Write>, Option<Bytes>)>,
        attempts: u32,
        world: &mut World,
    ) {
        let number = world.fresh_number();
        let anyone = *world.dice.pick(&world.setup.nodes.clone());
        let to = if attempts == 1 && world.dice.percent(50) { self.favourite } else { anyone };
        let patient = world.dice.percent(90);
        let full_ms = world.setup.request_timeout_ms + PATIENCE_MS;
        let patience_ms = if patient { full_ms } else { world.dice.between(10, full_ms) };
        let begun_ms = world.now.0;
        self.current =
            Some(Current { number, key: key.clone(), to, begun_ms, patient, write, attempts });
        world.note(format_args!("c{} -> {to} {key} {}", self.id, described(&body)));
        let request =
            Box::new(Request { client: self.id, number, key, begun: world.moment(), body });
        world.schedule(1, Event::ClientAsks { to, request });
        world.schedule(patience_ms, Event::ClientGivesUp { client: self.id, number });
    }

    /// Receives an answer, if it is still waiting for it.
    pub(crate) fn hear(&mut self, number: u64, response: &Response, world: &mut World) {
        let Some(current) = self.current.take_if(|current| current.number == number) else {
            return;
        };
        match response {
            Response::Shown { shown, context: Some(context), version } => {
                let (shown, context) = (shown.clone(), context.clone());
                let session = Session { shown, context, version: *version, fresh: true };
                self.sessions.insert(current.key, session);
                self.rest(world);
            }
            Response::Shown { context: None, .. } | Response::NothingToDelete => self.rest(world),
            Response::Failed => self.again_or_rest(current, world),
        }
    }

    /// Times out.
    pub(crate) fn give_up(&mut self, number: u64, world: &mut World) {
        if let Some(current) = self.current.take_if(|current| current.number == number) {
            world.note(format_args!("c{} gives up", self.id));
            self.again_or_rest(current, world);
        }
    }

    /// Retries the same write through another node, under the same write id, or moves on.
    fn again_or_rest(&mut self, current: Current, world: &mut World) {
        match current.write {
            Some((write, value)) if current.attempts < ATTEMPTS_MAX && world.dice.percent(70) => {
                self.attempt(current.key, write, value, current.attempts + 1, world);
            }
            Some(_) | None => self.rest(world),
        }
    }

    fn rest(&self, world: &mut World) {
        let delay_ms = world.dice.between(0, world.setup.thinking_ms_max);
        world.schedule(delay_ms, Event::ClientActs { client: self.id });
    }
}

/// What a request asks for. Some lower n, never below what they need; some ask for more than the
/// bucket has while its n is lowered.
fn asked(n: u16, needed: u16, n_min: u16, sloppy: bool, world: &mut World) -> QuorumOptions {
    let narrowed = world.dice.percent(10);
    let narrowed = narrowed.then(|| world.dice.between(n_min.into(), n.into()) as u16);
    let most = world.setup.n_max;
    let (n, needed) = match narrowed {
        None if most > n && world.dice.percent(10) => (None, most),
        narrowed => (narrowed, needed),
    };
    QuorumOptions {
        n: n.map(Count::Exactly),
        needed: Some(Count::Exactly(needed)),
        sloppy: Some(sloppy),
    }
}

/// What clients mostly do with a key before they leave it alone.
#[derive(Clone, Copy, PartialEq, Eq)]
enum KeyPhase {
    /// Anything.
    InUse,
    /// They mostly delete it.
    Deleting,
    /// They only read it.
    ReadOnly,
}

/// Any key; where tombstones are reaped, mostly the one whose turn it is.
fn choose_key(world: &mut World) -> (Key, KeyPhase) {
    let keys = world.setup.keys.clone();
    let any = world.dice.pick(&keys).clone();
    let Some(rotation) = world.setup.rotation else { return (any, KeyPhase::InUse) };
    let (turn, passed_ms) = (world.now.0 / rotation.period_ms, world.now.0 % rotation.period_ms);
    let key = keys[turn as usize % keys.len()].clone();
    if any != key && world.dice.percent(25) {
        (any, KeyPhase::ReadOnly)
    } else if passed_ms > rotation.period_ms / 2 {
        (key, KeyPhase::Deleting)
    } else {
        (key, KeyPhase::InUse)
    }
}

fn described(body: &Body) -> String {
    match body {
        Body::Read { asked, .. } => format!("GET {}", in_words(asked)),
        Body::Write(write, _) => {
            let number = write_of(write.draft.write_id);
            let verb = if write.has_value { "PUT" } else { "DELETE" };
            let Write { asked, condition, .. } = &**write;
            let (asked, context) = (in_words(asked), &write.draft.context);
            format!("{verb} {number} {asked} {condition:?} {context:?}")
        }
    }
}

fn in_words(asked: &QuorumOptions) -> String {
    let QuorumOptions { n, needed, sloppy } = asked;
    format!("n={n:?} needed={needed:?} sloppy={sloppy:?}")
}
