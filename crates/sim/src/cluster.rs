//! One run: a cluster, its clients and its faults, from a seed to a verdict.
//!
//! First safety: clients send requests while faults happen, and the oracle sees every answer. Then
//! liveness (`verdict`): all faults end, the cluster converges by itself, and the oracle judges the
//! final state; last, an auditor writes and reads every key, and must succeed.

use std::collections::{BTreeMap, BTreeSet};

use quorate_protocol::name::{Key, NodeId};
use quorate_protocol::row::Incarnation;

use crate::claims::Fill;
use crate::client::{Client, Response};
use crate::dice::Dice;
use crate::faults::DiskCopy;
use crate::mutations::Mutation;
use crate::node::Node;
use crate::run::Run;
use crate::setup::Setup;
use crate::store::Rows;
use crate::trace::Trace;
use crate::world::{Body, Claim, Event, Fault, Request, World};
use quorate_oracle::every_operation_ends;
use quorate_oracle::history::WriteNo;

/// The most events of a run: far above what any run needs; it bounds an endless loop.
const EVENTS_MAX: u64 = 300_000;
/// The client number of the auditor.
pub(crate) const AUDITOR: usize = usize::MAX;

/// Runs a seed. `keep_lines` keeps the trace.
pub fn run(seed: u64, mutation: Option<Mutation>, keep_lines: bool) -> Run {
    let mut dice = Dice::new(seed);
    let setup = Setup::draw(&mut dice);
    let world = World::new(setup, dice, mutation, Trace::new(keep_lines));
    let mut cluster = Cluster::new(world);
    cluster.run();
    let Cluster { world, events, .. } = cluster;
    let World { trace, violation, .. } = world;
    Run { hash: trace.hash(), violation, events, lines: trace.into_lines() }
}

/// A cluster and its world.
pub(crate) struct Cluster {
    pub(crate) world: World,
    pub(crate) nodes: BTreeMap<NodeId, Node>,
    /// Copies that were taken of nodes' disks.
    pub(crate) copies: BTreeMap<NodeId, DiskCopy>,
    /// Comparisons in progress that fill nodes.
    pub(crate) fills: BTreeMap<u64, Fill>,
    clients: Vec<Client>,
    healed: bool,
    events: u64,
}

impl Cluster {
    fn new(mut world: World) -> Self {
        let ids = world.setup.nodes.clone();
        let mut start = |id: &NodeId| {
            let incarnation = Incarnation(world.dice.nonzero());
            let mut node = Node::new(*id, incarnation, &world);
            node.start(&mut world);
            (*id, node)
        };
        let nodes = ids.iter().map(&mut start).collect();
        let requests = world.setup.requests_per_client;
        let mut client = |id| Client::new(id, *world.dice.pick(&ids), requests);
        let clients = (0..world.setup.clients).map(&mut client).collect();
        let (copies, fills) = (BTreeMap::new(), BTreeMap::new());
        Self { world, nodes, copies, fills, clients, healed: false, events: 0 }
    }

    /// The whole run, until its end or the first broken promise.
    fn run(&mut self) {
        let Setup { n, n_min, n_max, r, w, sloppy, fsync, conflicts, grace_ms, .. } =
            self.world.setup;
        let nodes = self.world.setup.nodes.len();
        self.world.note(format_args!(
            "{nodes} nodes, n={n} ({n_min} to {n_max}) r={r} w={w} sloppy={sloppy} fsync={fsync} \
             {conflicts:?} grace={grace_ms} ms"
        ));
        for client in 0..self.clients.len() {
            let delay_ms = self.world.dice.between(0, 50);
            self.world.schedule(delay_ms, Event::ClientActs { client });
        }
        self.world.schedule(10, Event::Fault(Fault::Next));
        for node in self.world.setup.nodes.clone() {
            let delay_ms = self.world.dice.between(1, self.world.setup.jobs_every_ms);
            self.world.schedule(delay_ms, Event::Jobs { node });
        }
        while self.clients.iter().any(|client| !client.is_done()) && self.step() {}
        self.healed = true;
        self.heal();
        let phases: [fn(&mut Self); 5] = [
            Self::converge,
            Self::judge_what_is_left,
            Self::judge_rest,
            Self::reap_what_is_left,
            Self::audit,
        ];
        for phase in phases {
            if self.world.violation.is_none() {
                phase(self);
            }
        }
    }

    /// One event. Returns whether the run continues.
    pub(crate) fn step(&mut self) -> bool {
        if self.world.violation.is_some() {
            return false;
        }
        let Some(event) = self.world.next_event() else { return false };
        self.events += 1;
        let bounded = self.events < EVENTS_MAX;
        self.world.judge(every_operation_ends(bounded, "the cluster never becomes idle"));
        self.dispatch(event);
        for claim in std::mem::take(&mut self.world.claims) {
            self.check_claim(claim);
        }
        true
    }

    fn dispatch(&mut self, event: Event) {
        match event {
            Event::Arrives { to, envelope } => match self.running(to) {
                Running::Yes => self.on_node(to, |node, world| node.on_frame(envelope, world)),
                Running::Later(ms) => self.world.schedule(ms, Event::Arrives { to, envelope }),
                Running::No if envelope.is_reply => {}
                // Nothing listens: the sender may learn it at once.
                Running::No if self.world.dice.percent(50) => {
                    let (node, life, request) = (envelope.from, envelope.life, envelope.request);
                    self.world.schedule(1, Event::Unreachable { node, life, request });
                }
                Running::No => {}
            },
            Event::Unreachable { node, life, request } => {
                let again = Event::Unreachable { node, life, request };
                self.in_life(node, life, again, |node, world| node.on_unreachable(request, world));
            }
            Event::Wake { node, life, operation } => {
                let again = Event::Wake { node, life, operation };
                self.in_life(node, life, again, |node, world| node.on_wake(operation, world));
            }
            Event::Synced { node, life, upto } => {
                let again = Event::Synced { node, life, upto };
                self.in_life(node, life, again, |node, world| node.on_synced(upto, world));
            }
            Event::ClientActs { client } => self.clients[client].act(&mut self.world),
            Event::ClientAsks { to, request } => match self.running(to) {
                Running::Yes => self.on_node(to, |node, world| node.on_request(*request, world)),
                Running::Later(ms) => self.world.schedule(ms, Event::ClientAsks { to, request }),
                Running::No => self.refuse_client(&request),
            },
            Event::ClientHears { client: AUDITOR, response, .. } => {
                self.world.audit.push(*response);
            }
            Event::ClientHears { client, number, response } => {
                self.clients[client].hear(number, &response, &mut self.world);
            }
            Event::ClientGivesUp { client, number } => self.on_give_up(client, number),
            Event::Fault(fault)
                if !self.healed || matches!(fault, Fault::Restart(_) | Fault::Reopen(_)) =>
            {
                self.on_fault(&fault);
            }
            Event::Jobs { node } if !self.healed => self.on_jobs_due(node),
            Event::Fault(_) | Event::Jobs { .. } => {}
        }
    }

    fn running(&self, id: NodeId) -> Running {
        match self.nodes.get(&id) {
            Some(node) if node.up => match node.paused_until.since(self.world.now) {
                0 => Running::Yes,
                left_ms => Running::Later(left_ms),
            },
            Some(_) | None => Running::No,
        }
    }

    pub(crate) fn on_node(&mut self, id: NodeId, act: impl FnOnce(&mut Node, &mut World)) {
        if let Some(node) = self.nodes.get_mut(&id) {
            act(node, &mut self.world);
        }
    }

    /// Performs an event if it belongs to the node's current life; later if the node is paused.
    fn in_life(
        &mut self,
        id: NodeId,
        life: u64,
        again: Event,
        act: impl FnOnce(&mut Node, &mut World),
    ) {
        if self.nodes.get(&id).is_none_or(|node| node.life != life) {
            return;
        }
        match self.running(id) {
            Running::Yes => self.on_node(id, act),
            Running::Later(left_ms) => self.world.schedule(left_ms, again),
            Running::No => {}
        }
    }

    /// The entry node's port is closed: no node received the request.
    fn refuse_client(&mut self, request: &Request) {
        if let Body::Write(write, _) = &request.body {
            let number = crate::values::write_of(write.draft.write_id);
            let moment = self.world.moment();
            self.world.oracle.end_attempt(number, quorate_oracle::history::End::NotApplied, moment);
        }
        let (client, number) = (request.client, request.number);
        let response = Box::new(Response::Failed);
        self.world.schedule(1, Event::ClientHears { client, number, response });
    }

    fn on_give_up(&mut self, client: usize, number: u64) {
        let Some(client) = self.clients.get_mut(client) else { return };
        if let Some((to, begun_ms, patient)) = client.waits_for(number) {
            let disturbed_ms = self.nodes.get(&to).map_or(u64::MAX, |node| node.disturbed_at.0);
            let excused = !patient || disturbed_ms >= begun_ms;
            let what = format!("{to} kept running and never answered a request of {begun_ms}");
            self.world.judge(every_operation_ends(excused, &what));
        }
        client.give_up(number, &mut self.world);
    }

    fn on_jobs_due(&mut self, node: NodeId) {
        if matches!(self.running(node), Running::Yes) {
            self.on_node(node, Node::run_jobs);
        }
        self.world.schedule(self.world.setup.jobs_every_ms, Event::Jobs { node });
    }

    /// Compares what an answer claims with the disks.
    fn check_claim(&mut self, claim: Claim) {
        let verdict = match claim {
            Claim::Acked { key, write, w, acks, strict } => {
                let (homes, _) = self.world.setup.preference_list(&key, self.world.setup.n_max);
                let counts = |id: &NodeId| !strict || homes.contains(id);
                let holders: BTreeSet<NodeId> = self
                    .nodes
                    .iter()
                    .filter(|(id, node)| counts(id) && self.holds_durably(node, &key, write))
                    .map(|(id, _)| *id)
                    .collect();
                self.world.oracle.durable_copies_at_ack(write, w, acks, &holders)
            }
            Claim::Partial { key, write } => {
                let stored = self.nodes.values().any(|node| {
                    holds(node.store.rows(), &key, write, &self.world) || self.gave_up(node, write)
                });
                self.world.oracle.partial_has_a_copy(write, stored)
            }
            Claim::Reaped { key, tombstone } => self.check_reaped(&key, &tombstone),
            Claim::Dropped { node, key, object, homes } => {
                self.check_dropped(node, &key, &object, &homes)
            }
            Claim::FillBegins { operation, node, from, partition } => {
                self.begin_fill(operation, (node, from), partition);
                Ok(())
            }
            Claim::FillEnds { operation, has_all } => self.end_fill(operation, has_all),
            Claim::Fills { node } => {
                self.fills.retain(|_, fill| !fill.is_of(node));
                Ok(())
            }
            Claim::Filled { node } => self.check_filled(node),
        };
        self.world.judge(verdict);
    }

    pub(crate) fn holds_durably(&self, node: &Node, key: &Key, write: WriteNo) -> bool {
        holds(node.store.durable(), key, write, &self.world) || self.gave_up(node, write)
    }

    fn gave_up(&self, node: &Node, write: WriteNo) -> bool {
        let writes = self.world.gave_up.get(&node.id);
        writes.is_some_and(|writes| self.world.oracle.history.is_in(write, writes))
    }
}

/// Whether a node runs now.
enum Running {
    Yes,
    /// It is paused for this many milliseconds.
    Later(u64),
    No,
}

/// Whether some row holds a write of a key, or one that saw it.
fn holds(rows: &Rows, key: &Key, write: WriteNo, world: &World) -> bool {
    rows.iter().any(|(slot, row)| slot.key == *key && world.holds(&row.object, write))
}
