//! The nodes of one run, the messages between them, and what must hold after every event.

use std::collections::{BTreeMap, BTreeSet};

use quorate_protocol::name::NodeId;
use quorate_protocol::record::successor::{Addresses, SuccessorError};
use quorate_protocol::record::{ClusterRecord, DiskId, Reason, RecordHash, RecordMember};
use quorate_protocol::synod::{
    Acceptor, Answer, Ask, Ballot, Ballots, Effect, Instance, Learned, Proposer, Request, Response,
    State,
};
use quorate_protocol::time::WallTime;

use crate::{Bug, Seen};

const NODES: usize = 6;
/// The events of a run.
pub(crate) const STEPS: usize = 1000;

/// The generator of a run's choices (SplitMix64).
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    fn below(&mut self, bound: usize) -> usize {
        (self.next() % bound as u64) as usize
    }
}

#[derive(Clone)]
enum Message {
    Request { to: DiskId, from: usize, request: Request },
    Response { to: usize, disk: DiskId, response: Response },
    Learn { to: usize, record: ClusterRecord },
}

/// A reply that waits for a sync.
struct Held {
    after: u64,
    to: usize,
    response: Response,
}

struct Node {
    name: NodeId,
    disk: DiskId,
    acceptor: Acceptor,
    durable: (ClusterRecord, State),
    held: Vec<Held>,
    ballots: Ballots,
    proposer: Option<Proposer>,
}

/// What a disk has answered in an instance: the greatest ballots.
#[derive(Clone, Copy, Default)]
struct Given {
    promised: Option<Ballot>,
    accepted: Option<Ballot>,
}

pub(crate) struct World {
    random: Random,
    bug: Option<Bug>,
    /// Whether a disk that forgets an answer ends the run, or only what comes of it.
    watches_memory: bool,
    nodes: Vec<Node>,
    messages: Vec<Message>,
    disks: u128,
    /// The decided record of each epoch.
    pub(crate) decided: BTreeMap<u64, ClusterRecord>,
    given: BTreeMap<(DiskId, Instance), Given>,
    /// The record and the votes of each ballot.
    votes: BTreeMap<(Instance, Ballot), (RecordHash, BTreeSet<DiskId>)>,
    pub(crate) seen: Seen,
}

fn name(number: usize) -> NodeId {
    NodeId::parse(&format!("n{}", number + 1)).unwrap()
}

fn member(number: usize, disk: DiskId) -> RecordMember {
    RecordMember {
        node: name(number),
        disk,
        seat: name(number),
        zone: "z".to_owned(),
        weight: 1,
        peer_addr: "host:7000".to_owned(),
        client_addr: None,
    }
}

impl Node {
    fn new(number: usize, disk: DiskId, known: ClusterRecord, nonce: u64) -> Self {
        let acceptor = Acceptor::restore(disk, known.clone(), None).unwrap();
        let durable = (known, acceptor.state());
        let ballots = Ballots::new(name(number), nonce);
        let (held, proposer) = (Vec::new(), None);
        Self { name: name(number), disk, acceptor, durable, held, ballots, proposer }
    }
}

impl World {
    pub(crate) fn new(seed: u64, bug: Option<Bug>, watches_memory: bool) -> Self {
        let mut random = Random(seed);
        let disk = |number: usize| DiskId(number as u128 + 1);
        let stable = 1 + random.below(5);
        let members = (0..stable).map(|number| member(number, disk(number))).collect();
        let first = ClusterRecord::first("c", 1, 8, members).unwrap();
        let node = |number| Node::new(number, disk(number), first.clone(), random.next());
        Self {
            nodes: (0..NODES).map(node).collect(),
            random,
            bug,
            watches_memory,
            messages: Vec::new(),
            disks: NODES as u128,
            decided: BTreeMap::from([(1, first)]),
            given: BTreeMap::new(),
            votes: BTreeMap::new(),
            seen: Seen::default(),
        }
    }

    pub(crate) fn step(&mut self) -> Result<(), String> {
        let at = self.random.below(NODES);
        match self.random.below(100) {
            0..64 => self.deliver(),
            64..68 => self.lose(),
            68..71 => self.repeat(),
            71..92 => self.sync(at),
            92..96 => self.propose(at),
            96..98 => self.retry(at),
            98 => self.crash(at),
            // More often where it is to show what comes of it.
            _ if self.bug == Some(Bug::WipedKeepsId) || self.random.below(3) == 0 => self.wipe(at),
            _ => Ok(()),
        }
    }

    fn deliver(&mut self) -> Result<(), String> {
        if self.messages.is_empty() {
            return Ok(());
        }
        let at = self.random.below(self.messages.len());
        let message = self.messages.swap_remove(at);
        self.receive(message)
    }

    fn lose(&mut self) -> Result<(), String> {
        if !self.messages.is_empty() {
            let at = self.random.below(self.messages.len());
            self.messages.swap_remove(at);
        }
        Ok(())
    }

    fn repeat(&mut self) -> Result<(), String> {
        if !self.messages.is_empty() {
            let at = self.random.below(self.messages.len());
            self.messages.push(self.messages[at].clone());
        }
        Ok(())
    }

    fn receive(&mut self, message: Message) -> Result<(), String> {
        match message {
            Message::Learn { to, record } => self.learn(to, &record),
            Message::Request { to, from, request } => {
                // Requests to disks that are no more are lost.
                let Some(at) = self.nodes.iter().position(|node| node.disk == to) else {
                    return Ok(());
                };
                let reply = self.nodes[at].acceptor.answer(&request);
                let hold = reply.sync_first.filter(|_| self.bug != Some(Bug::AnswersBeforeSync));
                match hold {
                    Some(after) => {
                        let held = Held { after, to: from, response: reply.response };
                        self.nodes[at].held.push(held);
                    }
                    None => self.send_response(at, from, reply.response),
                }
                Ok(())
            }
            Message::Response { to, disk, response } => self.respond(to, disk, response),
        }
    }

    /// An answer leaves: from now on the disk must remember it.
    fn send_response(&mut self, from: usize, to: usize, response: Response) {
        let disk = self.nodes[from].disk;
        let Response { instance, ballot, answer } = &response;
        let given = self.given.entry((disk, *instance)).or_default();
        match answer {
            Answer::Promise { .. } => given.promised = given.promised.max(Some(*ballot)),
            Answer::Accepted => {
                given.promised = given.promised.max(Some(*ballot));
                given.accepted = given.accepted.max(Some(*ballot));
                if let Some((_, disks)) = self.votes.get_mut(&(*instance, *ballot)) {
                    disks.insert(disk);
                }
            }
            Answer::Refused { .. }
            | Answer::Outdated(_)
            | Answer::Behind { .. }
            | Answer::Conflict { .. }
            | Answer::Rejected => {}
        }
        self.messages.push(Message::Response { to, disk, response });
    }

    fn respond(&mut self, to: usize, disk: DiskId, mut response: Response) -> Result<(), String> {
        let mut disks = vec![disk];
        let known = self.nodes[to].acceptor.known().clone();
        match self.bug {
            Some(Bug::AcceptedUnheard) => {
                if let Answer::Promise { accepted } = &mut response.answer {
                    *accepted = None;
                }
            }
            Some(Bug::CountedTwice) => {
                disks.extend(known.acceptors().into_iter().find(|other| *other != disk));
            }
            Some(_) | None => {}
        }
        for disk in disks {
            let Some(proposer) = &mut self.nodes[to].proposer else { return Ok(()) };
            let effects = proposer.on_response(disk, response.clone());
            self.execute(to, effects)?;
        }
        Ok(())
    }

    fn execute(&mut self, at: usize, effects: Vec<Effect>) -> Result<(), String> {
        for effect in effects {
            match effect {
                Effect::Ask { to, request } => {
                    self.check_ballot(&request)?;
                    let request = |to| Message::Request { to, from: at, request: request.clone() };
                    self.messages.extend(to.into_iter().map(request));
                }
                Effect::Teach { to, record, request } => {
                    self.seen.taught += 1;
                    if let Some(node) = self.nodes.iter().position(|node| node.disk == to) {
                        self.learn(node, &record)?;
                    }
                    self.messages.push(Message::Request { to, from: at, request });
                }
                Effect::Retry => self.seen.retries += 1,
                Effect::Decided { record, is_wanted } => {
                    self.seen.lost_to_another += u64::from(!is_wanted);
                    self.check_decided(&record)?;
                    self.learn(at, &record)?;
                    let learn = |to| Message::Learn { to, record: record.clone() };
                    self.messages.extend((0..NODES).map(learn));
                }
                Effect::Outdated { record } => {
                    self.seen.outdated += 1;
                    self.learn(at, &record)?;
                }
                Effect::Conflict { disk, known } => {
                    return Err(format!("{disk} knows {known} instead"));
                }
            }
        }
        Ok(())
    }

    /// A ballot stands for one record.
    fn check_ballot(&mut self, request: &Request) -> Result<(), String> {
        let Ask::Accept(record) = &request.ask else { return Ok(()) };
        let hash = record.hash();
        let empty = (hash, BTreeSet::new());
        let known = self.votes.entry((request.instance, request.ballot)).or_insert(empty);
        // With this bug it happens; the exploration shows what comes of it.
        match known.0 == hash || self.bug == Some(Bug::BallotAgain) {
            true => Ok(()),
            false => Err(format!("two records under {:?}", request.ballot)),
        }
    }

    /// The parent was decided, and a majority of its stable disks accepted under one ballot.
    fn check_decided(&mut self, record: &ClusterRecord) -> Result<(), String> {
        self.check_same(record)?;
        let parent = self.decided.get(&(record.epoch() - 1));
        let parent = parent.filter(|parent| parent.hash() == record.parent());
        let parent = parent.ok_or("the parent was not decided")?;
        let acceptors = parent.acceptors();
        let instance = Instance::after(parent).unwrap();
        let is_majority = |(hash, disks): &(RecordHash, BTreeSet<DiskId>)| {
            *hash == record.hash() && disks.intersection(&acceptors).count() >= parent.majority()
        };
        let of_instance = self.votes.iter().filter(|((of, _), _)| *of == instance);
        if !of_instance.map(|(_, votes)| votes).any(is_majority) {
            return Err("decided without a majority".to_owned());
        }
        self.decided.insert(record.epoch(), record.clone());
        Ok(())
    }

    /// No other record of this epoch was decided or learned.
    fn check_same(&self, record: &ClusterRecord) -> Result<(), String> {
        match self.decided.get(&record.epoch()) {
            Some(other) if other != record => Err(format!("both {other:?} and {record:?}")),
            Some(_) | None => Ok(()),
        }
    }

    fn learn(&mut self, at: usize, record: &ClusterRecord) -> Result<(), String> {
        self.check_same(record)?;
        if !self.decided.contains_key(&record.epoch()) {
            return Err(format!("{record:?} was learned and never decided"));
        }
        let node = &mut self.nodes[at];
        match node.acceptor.learn(record).map_err(|error| error.to_string())? {
            // A try for an older epoch goes on: acceptors will tell it that it is late.
            Learned::Newest | Learned::Known => Ok(()),
        }
    }

    fn sync(&mut self, at: usize) -> Result<(), String> {
        let node = &mut self.nodes[at];
        node.durable = (node.acceptor.known().clone(), node.acceptor.state());
        let all = node.held.iter().map(|held| held.after).max().unwrap_or_default();
        node.acceptor.synced(all);
        for Held { to, response, .. } in std::mem::take(&mut node.held) {
            self.send_response(at, to, response);
        }
        Ok(())
    }

    fn crash(&mut self, at: usize) -> Result<(), String> {
        self.seen.crashes += 1;
        let nonce = self.random.next();
        let bug = self.bug;
        let node = &mut self.nodes[at];
        let (known, mut state) = node.durable.clone();
        if bug == Some(Bug::AcceptedForgotten) {
            state.accepted = None;
        }
        node.acceptor = Acceptor::restore(node.disk, known, Some(state)).unwrap();
        node.held.clear();
        node.proposer = None;
        node.ballots = Ballots::new(node.name, nonce);
        self.check_memory(at)
    }

    /// The disk remembers what it answered, as long as the instance lasts.
    fn check_memory(&self, at: usize) -> Result<(), String> {
        let State { instance, promised, accepted } = self.nodes[at].acceptor.state();
        let given = self.given.get(&(self.nodes[at].disk, instance)).copied().unwrap_or_default();
        let accepted = accepted.map(|(ballot, _)| ballot);
        let remembers = promised >= given.promised && accepted >= given.accepted;
        match remembers || !self.watches_memory {
            true => Ok(()),
            false => Err(format!("{} forgot an answer", self.nodes[at].name)),
        }
    }

    /// A node loses its disk, unless the newest record would be left without a majority. It gets a record
    /// from some other node.
    fn wipe(&mut self, at: usize) -> Result<(), String> {
        let newest = self.decided.values().next_back().unwrap();
        let present = |disk: &DiskId| {
            self.nodes.iter().enumerate().any(|(i, node)| i != at && node.disk == *disk)
        };
        if newest.acceptors().iter().filter(|disk| present(disk)).count() < newest.majority() {
            return Ok(());
        }
        self.seen.wipes += 1;
        self.disks += 1;
        let keeps_id = self.bug == Some(Bug::WipedKeepsId);
        let disk = if keeps_id { self.nodes[at].disk } else { DiskId(self.disks) };
        let from = self.random.below(NODES);
        let known = self.nodes[from].acceptor.known().clone();
        self.nodes[at] = Node::new(at, disk, known, self.random.next());
        Ok(())
    }

    fn propose(&mut self, at: usize) -> Result<(), String> {
        let known = self.nodes[at].acceptor.known().clone();
        let Ok(wanted) = self.wanted(at, &known) else { return Ok(()) };
        if self.bug == Some(Bug::BallotAgain) {
            self.nodes[at].ballots = Ballots::new(name(at), 0);
        }
        let node = &mut self.nodes[at];
        let started = Proposer::start(known, wanted, &mut node.ballots);
        let (proposer, effects) = started.map_err(|error| error.to_string())?;
        node.proposer = Some(proposer);
        self.execute(at, effects)
    }

    /// A random step after a record.
    fn wanted(
        &mut self,
        at: usize,
        known: &ClusterRecord,
    ) -> Result<ClusterRecord, SuccessorError> {
        let random = self.random.next();
        let reason =
            Reason { by: name(at), at: WallTime(random >> 32), note: format!("{}", random % 7) };
        let other = self.random.below(NODES);
        let disk = self.nodes[other].disk;
        match self.random.below(8) {
            0 | 1 => {
                let mut next = known.stable().to_vec();
                match next.iter().position(|member| member.node == name(other)) {
                    Some(at) if next.len() > 1 => drop(next.remove(at)),
                    Some(_) | None => next.push(member(other, disk)),
                }
                let left = known.stable().iter().filter(|member| !next.contains(member));
                let gone: Vec<DiskId> =
                    left.filter(|_| random.is_multiple_of(2)).map(|member| member.disk).collect();
                known.begin(next, &gone, reason)
            }
            2 | 3 => known.finish(reason),
            4 => known.abort(&BTreeSet::new(), reason),
            5 => known.release(name(other), reason),
            6 => known.refresh(name(other), disk, reason),
            _ => {
                let peer_addr = format!("host:{}", 1 + random % 60_000);
                let addresses = Addresses { peer_addr, client_addr: None };
                known.readdress(&BTreeMap::from([(name(other), addresses)]), reason)
            }
        }
    }

    fn retry(&mut self, at: usize) -> Result<(), String> {
        let Node { proposer: Some(proposer), ballots, .. } = &mut self.nodes[at] else {
            return Ok(());
        };
        let effects = proposer.retry(ballots).map_err(|error| error.to_string())?;
        self.execute(at, effects)
    }

    /// With messages and syncs that work again, one node alone has its record decided.
    pub(crate) fn end_well(&mut self) -> Result<(), String> {
        let newest = self.decided.values().next_back().unwrap().clone();
        let present = |disk: &DiskId| {
            newest.may_vote(*disk) && self.nodes.iter().any(|node| node.disk == *disk)
        };
        if newest.acceptors().iter().filter(|disk| present(disk)).count() < newest.majority() {
            return Ok(()); // an operator has to recover this one
        }
        self.messages.clear();
        self.nodes.iter_mut().for_each(|node| node.proposer = None);
        self.learn(0, &newest)?;
        while self.nodes[0].proposer.is_none() {
            self.propose(0)?;
        }
        for _ in 0..20 {
            while !self.messages.is_empty() {
                self.deliver()?;
                (0..NODES).try_for_each(|at| self.sync(at))?;
            }
            if self.nodes[0].proposer.as_ref().unwrap().is_over() {
                self.seen.ended_well += 1;
                return Ok(());
            }
            self.retry(0)?;
        }
        Err("nothing is decided any more".to_owned())
    }
}
