//! What a simulated node does as entry node and as coordinator: it drives the machines of the
//! protocol.
//!
//! There are three kinds of operation: a *route* looks for the coordinator of a client's write, a
//! *get* reads (for a client, or before a conditional write), a *put* sends a minted object to its
//! replicas. A client's write is first a route and then, where it is minted, a get (if it has a
//! condition) and a put.

use std::collections::{BTreeMap, VecDeque};

use bytes::Bytes;
use quorate_protocol::get::{self, Get, ReadKind, RowKind};
use quorate_protocol::message::{Data, Message, Outcome, WriteAnswer};
use quorate_protocol::name::{Key, NodeId};
use quorate_protocol::object::Object;
use quorate_protocol::put::{self, Role};
use quorate_protocol::route::{self, Route};
use quorate_protocol::terms::Terms;
use quorate_protocol::time::{Uptime, WallTime};

use crate::anti_entropy::ExchangeOperation;
use crate::buckets::HandOvers;
use crate::coordinator::Minting;
use crate::mutations::Mutation;
use crate::node::{Node, Pending};
use crate::put_driver::PutOperation;
use crate::reaper::ReapRound;
use crate::world::{Body, Event, Request, World};

/// The operations in progress on a node.
#[derive(Default)]
pub(crate) struct Operations {
    pub(crate) routes: BTreeMap<u64, RouteOperation>,
    pub(crate) gets: BTreeMap<u64, GetOperation>,
    pub(crate) puts: BTreeMap<u64, PutOperation>,
    pub(crate) exchanges: BTreeMap<u64, ExchangeOperation>,
    pub(crate) reap_rounds: BTreeMap<u64, ReapRound>,
    pub(crate) hand_overs: HandOvers,
}

impl Operations {
    /// How many operations must end by themselves.
    pub(crate) fn len(&self) -> usize {
        let client = self.routes.len() + self.gets.len() + self.puts.len();
        client + self.exchanges.len() + self.reap_rounds.len()
    }
}

/// A client's write that is looking for its coordinator.
pub(crate) struct RouteOperation {
    route: Route,
    pub(crate) request: Request,
    /// From this node's own snapshot; the coordinator takes its own.
    terms: Terms,
    deadline: Uptime,
    wake_at: Option<Uptime>,
}

/// A read in progress.
pub(crate) struct GetOperation {
    get: Get,
    /// When it began, by the wall clock: no replica read its object earlier.
    read_at: WallTime,
    key: Key,
    purpose: Purpose,
    wake_at: Option<Uptime>,
}

/// What a read is for.
pub(crate) enum Purpose {
    /// A client's GET.
    Client(Request),
    /// A write whose condition or context must be checked before it is minted.
    Check(Box<Minting>),
    /// Nothing more: the caller has its answer, and the machine continues with repair.
    Answered,
}

impl Node {
    /// A client's request arrives.
    pub(crate) fn on_request(&mut self, request: Request, world: &mut World) {
        let operation = world.fresh_number();
        let now = world.now;
        match &request.body {
            Body::Read { asked, timeout_ms } => {
                let Ok(terms) = self.read_terms(&request.key, asked, world) else {
                    return self.refuse_read(&request, world);
                };
                let deadline = now.plus(*timeout_ms);
                let key = request.key.clone();
                let purpose = Purpose::Client(request);
                self.start_get(operation, key, (terms, deadline), purpose, world);
            }
            Body::Write(write, _) => {
                let terms = match self.write_terms(&request.key, &write.asked, world) {
                    Ok(terms) => terms,
                    Err(unfit) => {
                        return self.answer_write(
                            request,
                            &WriteAnswer::InvalidQuorum(unfit),
                            None,
                            world,
                        );
                    }
                };
                let deadline = now.plus(u64::from(write.timeout_ms));
                let plan = route::Plan {
                    me: self.id,
                    homes: terms.asked_homes(write.preferred_home(self.id)),
                    sloppy: terms.sloppy,
                    at_first_home: write.needs_first_home(),
                    accept_timeout_ms: world.setup.replica_timeout_ms,
                    answer_timeout_ms: world.setup.replica_timeout_ms * 3,
                    deadline,
                };
                let (route, effect) = Route::start(plan, &self.down(now), now);
                let routing = RouteOperation { route, request, terms, deadline, wake_at: None };
                self.operations.routes.insert(operation, routing);
                self.carry_out_route(operation, effect, world);
            }
        }
    }

    fn carry_out_route(
        &mut self,
        operation: u64,
        effect: Option<route::Effect>,
        world: &mut World,
    ) {
        let Some(routing) = self.operations.routes.get_mut(&operation) else { return };
        let Body::Write(write, value) = &routing.request.body else { return };
        match effect {
            None => {}
            Some(route::Effect::Forward { to }) => {
                let mut write = write.clone();
                let left_ms = routing.deadline.since(world.now);
                write.timeout_ms = u32::try_from(left_ms).unwrap_or(u32::MAX);
                if world.has(Mutation::WriteIdForgotten) {
                    let salt = world.fresh_number();
                    write.draft.write_id.0[8..].copy_from_slice(&salt.to_le_bytes());
                }
                let message = Message::Data(Data::Forward { operation, write });
                let payload = value.clone().unwrap_or_default();
                let request = world.send((self.id, self.life), to, &message, &payload);
                self.pending.insert(request, Pending::Forward { operation, node: to });
            }
            Some(route::Effect::Mint(_)) => {
                let (write, value, terms) = (write.clone(), value.clone(), routing.terms.clone());
                let deadline = routing.deadline;
                let minting = Minting { back: None, operation, write, value, terms, deadline };
                self.begin_mint(minting, world);
            }
            Some(route::Effect::Fail(failed)) => {
                let outcome =
                    if failed.silent.is_empty() { Outcome::NotApplied } else { Outcome::Unknown };
                let (refused, silent) = (failed.refused, failed.silent);
                let acks = put::Acks { refused, silent, ..put::Acks::default() };
                let answer =
                    WriteAnswer::NoQuorum { required: routing.terms.needed, acks, outcome };
                let Some(routing) = self.operations.routes.remove(&operation) else { return };
                let answer = if world.has(Mutation::NotAppliedLie) {
                    report_not_applied(answer)
                } else {
                    answer
                };
                self.answer_write(routing.request, &answer, None, world);
            }
        }
        self.keep_awake(operation, world);
    }

    pub(crate) fn on_forward_accepted(&mut self, operation: u64, node: NodeId, world: &mut World) {
        if let Some(routing) = self.operations.routes.get_mut(&operation) {
            routing.route.on_accepted(node, world.now);
            self.keep_awake(operation, world);
        }
    }

    pub(crate) fn on_forward_refused(&mut self, operation: u64, node: NodeId, world: &mut World) {
        if let Some(routing) = self.operations.routes.get_mut(&operation) {
            let effect = routing.route.on_refused(node, world.now);
            self.carry_out_route(operation, effect, world);
        }
    }

    pub(crate) fn on_forward_silent(&mut self, operation: u64, node: NodeId, world: &mut World) {
        if let Some(routing) = self.operations.routes.get_mut(&operation) {
            let effect = routing.route.on_silent(node, world.now);
            self.carry_out_route(operation, effect, world);
        }
    }

    /// The coordinator's answer to a forwarded write arrived.
    pub(crate) fn on_written(
        &mut self,
        from: NodeId,
        operation: u64,
        answer: WriteAnswer,
        payload: Bytes,
        world: &mut World,
    ) {
        let object = (!payload.is_empty()).then(|| Object::decode(payload));
        self.finish_route(operation, from, answer, object.and_then(Result::ok), world);
    }

    /// A node answered a write; the client gets the first answer that is conclusive.
    pub(crate) fn finish_route(
        &mut self,
        operation: u64,
        from: NodeId,
        answer: WriteAnswer,
        object: Option<Object>,
        world: &mut World,
    ) {
        let Some(routing) = self.operations.routes.get_mut(&operation) else { return };
        let required = routing.terms.needed;
        let Some(answer) = routing.route.on_written(from, answer, required) else { return };
        let Some(routing) = self.operations.routes.remove(&operation) else { return };
        let answer =
            if world.has(Mutation::NotAppliedLie) { report_not_applied(answer) } else { answer };
        self.answer_write(routing.request, &answer, object, world);
    }

    /// Starts a read.
    pub(crate) fn start_get(
        &mut self,
        operation: u64,
        key: Key,
        (terms, deadline): (Terms, Uptime),
        purpose: Purpose,
        world: &mut World,
    ) {
        let Terms { mut homes, fallbacks, n, needed, sloppy, .. } = terms;
        homes.sort_by_key(|home| *home != self.id);
        homes.truncate(usize::from(n));
        let plan = get::Plan {
            homes,
            fallbacks,
            needed,
            sloppy,
            hedge_ms: world.setup.hedge_ms,
            replica_timeout_ms: world.setup.replica_timeout_ms,
            deadline,
        };
        let (get, effects) = Get::start(plan, &self.down(world.now), world.now);
        let read_at = self.wall(world.now);
        let getting = GetOperation { get, read_at, key, purpose, wake_at: None };
        self.operations.gets.insert(operation, getting);
        self.carry_out_get(operation, effects, world);
    }

    fn carry_out_get(&mut self, operation: u64, effects: Vec<get::Effect>, world: &mut World) {
        let mut todo = VecDeque::from(effects);
        let mut answer = None;
        while let Some(effect) = todo.pop_front() {
            let Some(getting) = self.operations.gets.get(&operation) else { return };
            let key = getting.key.clone();
            match effect {
                get::Effect::Ask { to, what, place } if to == self.id => {
                    let reply = self.read(&key, what, place, world);
                    let Some(getting) = self.operations.gets.get_mut(&operation) else { return };
                    todo.extend(getting.get.on_reply(to, reply, world.now));
                }
                get::Effect::Ask { to, what, place } => {
                    let request = self.ask(to, key, what, place, world);
                    self.pending.insert(request, Pending::Get { operation, node: to });
                }
                get::Effect::Answer(found) => answer = Some(found),
                get::Effect::Repair(behind) => {
                    let (merged, read_at) = (getting.get.merged().clone(), getting.read_at);
                    self.repair(&key, &merged, read_at, behind, world);
                }
            }
        }
        if let Some(answer) = answer {
            self.on_get_answer(operation, answer, world);
        }
        if self.operations.gets.get(&operation).is_some_and(|getting| getting.get.is_done()) {
            self.operations.gets.remove(&operation);
        }
        self.keep_awake(operation, world);
    }

    fn ask(&self, to: NodeId, key: Key, what: ReadKind, place: RowKind, world: &mut World) -> u64 {
        let message = Message::Data(Data::Read { key, what, place, bytes_max: u32::MAX });
        world.send((self.id, self.life), to, &message, &[])
    }

    /// Sends the merged object to replicas that a read found stale.
    fn repair(
        &mut self,
        key: &Key,
        merged: &Object,
        read_at: WallTime,
        behind: Vec<NodeId>,
        world: &mut World,
    ) {
        for node in behind {
            world.note(format_args!("{} repairs {key} on {node}", self.id));
            if node == self.id {
                // A refusal leaves the row stale; the next read tries again.
                let _ = self.store_object(key, Role::Home, merged, read_at, world);
            } else {
                let message =
                    Message::Data(Data::Store { key: key.clone(), role: Role::Home, read_at });
                world.send((self.id, self.life), node, &message, &merged.to_bytes());
            }
        }
    }

    fn on_get_answer(&mut self, operation: u64, answer: get::Answer, world: &mut World) {
        let Some(getting) = self.operations.gets.get_mut(&operation) else { return };
        let read_at = getting.read_at;
        match std::mem::replace(&mut getting.purpose, Purpose::Answered) {
            Purpose::Client(request) => self.answer_read(&request, &answer, world),
            Purpose::Check(minting) => self.on_checked(*minting, answer, read_at, world),
            Purpose::Answered => {}
        }
    }

    pub(crate) fn on_get_reply(
        &mut self,
        operation: u64,
        node: NodeId,
        reply: get::Reply,
        world: &mut World,
    ) {
        if let Some(getting) = self.operations.gets.get_mut(&operation) {
            let effects = getting.get.on_reply(node, reply, world.now);
            self.carry_out_get(operation, effects, world);
        }
    }

    pub(crate) fn on_get_silent(&mut self, operation: u64, node: NodeId, world: &mut World) {
        if let Some(getting) = self.operations.gets.get_mut(&operation) {
            let effects = getting.get.on_silent(node, world.now);
            self.carry_out_get(operation, effects, world);
        }
    }

    /// A timer of an operation fired.
    pub(crate) fn on_wake(&mut self, operation: u64, world: &mut World) {
        let now = world.now;
        if let Some(routing) = self.operations.routes.get_mut(&operation) {
            routing.wake_at = None;
            let effect = routing.route.on_time(now);
            self.carry_out_route(operation, effect, world);
        } else if let Some(getting) = self.operations.gets.get_mut(&operation) {
            getting.wake_at = None;
            let effects = getting.get.on_time(now);
            self.carry_out_get(operation, effects, world);
        } else if let Some(putting) = self.operations.puts.get_mut(&operation) {
            putting.wake_at = None;
            let effects = putting.put.on_time(now);
            self.carry_out_put(operation, effects, world);
        } else {
            self.on_exchange_time(operation, world);
            self.on_reap_time(operation, world);
        }
    }

    /// Sets the timer that an operation's machine asks for, unless an earlier one is set.
    pub(crate) fn keep_awake(&mut self, operation: u64, world: &mut World) {
        let all = &mut self.operations;
        let (wanted, wake_at) = if let Some(o) = all.routes.get_mut(&operation) {
            (o.route.next_wake(), &mut o.wake_at)
        } else if let Some(o) = all.gets.get_mut(&operation) {
            (o.get.next_wake(), &mut o.wake_at)
        } else if let Some(o) = all.puts.get_mut(&operation) {
            (o.put.next_wake(), &mut o.wake_at)
        } else {
            return;
        };
        let Some(wanted) = wanted else { return };
        if wake_at.is_none_or(|at| wanted < at) {
            *wake_at = Some(wanted);
            let (node, life) = (self.id, self.life);
            let delay_ms = wanted.since(world.now);
            world.schedule(delay_ms, Event::Wake { node, life, operation });
        }
    }
}

/// The `NotAppliedLie` mutation.
fn report_not_applied(answer: WriteAnswer) -> WriteAnswer {
    match answer {
        WriteAnswer::NoQuorum { required, acks, outcome: Outcome::Unknown } => {
            WriteAnswer::NoQuorum { required, acks, outcome: Outcome::NotApplied }
        }
        WriteAnswer::Written(_)
        | WriteAnswer::NoQuorum { .. }
        | WriteAnswer::NoReadQuorum { .. }
        | WriteAnswer::ConditionFailed
        | WriteAnswer::IdempotencyKeyReused
        | WriteAnswer::Refused(_)
        | WriteAnswer::Unavailable(_)
        | WriteAnswer::InvalidQuorum(_) => answer,
    }
}
