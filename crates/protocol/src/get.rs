//! One GET: which replicas to ask, when there are enough answers, and which to repair.
//!
//! One replica sends its full object, R-1 more send digests. A replica counts towards R only if its
//! full object is in the merge, or its digest equals that of an object in the merge, or says that
//! it holds nothing; a replica whose digest differs is asked for its object. A slow replica is
//! hedged by asking one more; a silent or refusing one is replaced. A fallback counts only if it
//! holds a hint for the key: an empty fallback must not make a 404. R replicas of each set of home
//! replicas must count ([`crate::quorum_sets`]); a fallback counts in the sets of the home replica
//! whose place it takes. After answering, stale replicas are sent the merged object (read repair).
//! Sources: DeCandia et al. (SOSP 2007), 4.5, 5; Dean and Barroso, "The Tail at Scale" (2013) for
//! hedging.
//!
//! Driven like [`crate::put`]: `on_reply`, `on_silent`, `on_time`, until [`Get::is_done`].

mod asking;

use std::collections::BTreeSet;
use std::sync::Arc;

use serde::{Deserialize, Serialize};

use crate::mutation::{Mutation, mutated};
use crate::name::NodeId;
use crate::object::{Object, Version};
use crate::quorum::Verdict;
use crate::quorum_sets::{InSets, QuorumSets, Tally};
use crate::time::Uptime;
use asking::Candidate;

/// What the entry node knows when it starts.
#[derive(Clone, Debug)]
pub struct Plan {
    /// The home replicas in the order in which they are asked, this node first if it is one, and R:
    /// the answers that each set needs.
    pub sets: QuorumSets,
    /// The nodes after the bucket's home replicas, in order of preference.
    pub fallbacks: Vec<NodeId>,
    /// Whether a fallback that holds a hint counts.
    pub sloppy: bool,
    /// Hedge delay in milliseconds; `None` to never hedge.
    pub hedge_ms: Option<u64>,
    /// How long a replica may stay silent before another is asked, in milliseconds.
    pub replica_timeout_ms: u64,
    /// The latest time at which the client is answered.
    pub deadline: Uptime,
}

/// What a replica is asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub enum ReadKind {
    /// Its full object.
    Object,
    /// The version of its object.
    Digest,
}

/// Where a replica looks for the key.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub enum RowKind {
    /// In its own rows.
    Home,
    /// Among the hints it keeps for others.
    Hints,
}

/// A replica's answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Reply {
    /// Its object; the absent one if it holds nothing.
    Object(Object),
    /// The version of its object.
    Digest(Version),
    /// A fallback without a hint for the key. Does not count.
    NoHint,
    /// A home replica that has not yet received this partition. Counts only as a witness
    /// ([`crate::quorum_sets::QuorumSet::takes_witnesses`]).
    NotFilled,
    /// It cannot answer. Does not count.
    Refused,
}

/// What the entry node must do now.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Effect {
    /// Ask a node.
    Ask {
        /// The node.
        to: NodeId,
        /// What to ask for.
        what: ReadKind,
        /// Where it looks.
        place: RowKind,
    },
    /// Answer the client. Comes exactly once.
    Answer(Answer),
    /// Send the merged object ([`Get::merged`]) to home replicas seen to be stale. Comes at most
    /// once, last.
    Repair(Vec<NodeId>),
}

/// The answer to the client.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Answer {
    /// The merge of what R replicas of each set hold.
    Read(Arc<Object>),
    /// Of some set, fewer than R replicas gave an answer that counts.
    NoQuorum {
        /// How many did, of the set with the fewest.
        counted: u16,
        /// Nodes that refused, are not ready, or hold no hint.
        refused: Vec<NodeId>,
        /// Nodes that did not answer.
        silent: Vec<NodeId>,
    },
}

/// The machine of one GET.
#[derive(Debug)]
pub struct Get {
    plan: Plan,
    contacts: Vec<Contact>,
    /// Candidates not yet asked, the next one last.
    unasked: Vec<Candidate>,
    merged: Arc<Object>,
    /// The versions of the objects in the merge.
    versions: Vec<Version>,
    hedged: bool,
    answered: bool,
    repaired: bool,
}

#[derive(Clone, Copy, Debug)]
struct Contact {
    node: NodeId,
    place: RowKind,
    /// Its own slot, or that of the home replica whose place it takes.
    slot: usize,
    asked_at: Uptime,
    state: State,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    Waiting(ReadKind),
    /// Asked for this and past its timeout; may still answer.
    Silent(ReadKind),
    /// Its object is in the merge.
    Merged(Version),
    /// It reported this version.
    Digest(Version),
    /// It has not received what it must hold: counts only in the sets that take witnesses.
    Witness,
    /// It cannot answer.
    Failed,
    /// It did not answer and never will.
    Gone,
}

impl Get {
    /// Starts asking. Nodes in `down` are asked only after all others. An R above the number of
    /// nodes ends in [`Answer::NoQuorum`], like any quorum that cannot be met.
    pub fn start(plan: Plan, down: &BTreeSet<NodeId>, now: Uptime) -> (Self, Vec<Effect>) {
        let homes = |is_down: bool| {
            let of = move |(_, node): &(usize, &NodeId)| down.contains(node) == is_down;
            let homes = plan.sets.homes().iter().enumerate().filter(of);
            homes.map(|(slot, _)| Candidate::Home(slot))
        };
        let mut order: Vec<Candidate> = homes(false).collect();
        if plan.sloppy {
            let up = plan.fallbacks.iter().filter(|node| !down.contains(node));
            order.extend(up.copied().map(Candidate::Fallback));
        }
        order.extend(homes(true));
        order.reverse();
        let mut get = Self {
            plan,
            contacts: Vec::new(),
            unasked: order,
            merged: Arc::default(),
            versions: Vec::new(),
            hedged: false,
            answered: false,
            repaired: false,
        };
        let mut effects = Vec::new();
        let (mut asked, mut what) = (Tally::default(), ReadKind::Object);
        loop {
            let lacking = get.plan.sets.lacking(&asked);
            if lacking.is_empty() {
                break;
            }
            let Some(sets) = get.ask_next(lacking, None, what, now, &mut effects) else { break };
            asked.may_get(sets);
            what = ReadKind::Digest;
        }
        (get, effects)
    }

    /// A node answered what it was asked.
    pub fn on_reply(&mut self, node: NodeId, reply: Reply, now: Uptime) -> Vec<Effect> {
        let mut effects = Vec::new();
        let Some(contact) = self.contacts.iter_mut().find(|c| c.node == node) else {
            return effects;
        };
        let (State::Waiting(asked) | State::Silent(asked)) = contact.state else { return effects };
        match reply {
            Reply::Object(object) => {
                let version = object.version();
                contact.state = State::Merged(version);
                self.merge_object(object);
                self.versions.push(version);
            }
            // A duplicate of the digest: its object is on the way. (A replica that was asked for an
            // object and holds none may say so with a digest.)
            Reply::Digest(version) if asked == ReadKind::Object && version != Version::ABSENT => {}
            Reply::Digest(version) => contact.state = State::Digest(version),
            Reply::NotFilled if contact.place == RowKind::Home => {
                contact.state = State::Witness;
                let slot = contact.slot;
                let sets = self.plan.sets.of_slot(slot);
                self.ask_others(
                    sets.without(self.plan.sets.with_witnesses()),
                    slot,
                    now,
                    &mut effects,
                );
            }
            Reply::NoHint | Reply::NotFilled | Reply::Refused => {
                contact.state = State::Failed;
                let slot = contact.slot;
                self.replace(slot, now, &mut effects);
            }
        }
        self.judge(now, &mut effects);
        effects
    }

    /// Where a node was asked to look.
    pub fn place_of(&self, node: NodeId) -> Option<RowKind> {
        self.contacts.iter().find(|c| c.node == node).map(|c| c.place)
    }

    /// The node is sending its answer, or has reported its length: it is slow, not silent, and its
    /// timeout starts over.
    pub fn on_progress(&mut self, node: NodeId, now: Uptime) {
        let waiting = |c: &&mut Contact| c.node == node && matches!(c.state, State::Waiting(_));
        if let Some(contact) = self.contacts.iter_mut().find(waiting) {
            contact.asked_at = now;
        }
    }

    /// The node will not answer any more.
    pub fn on_silent(&mut self, node: NodeId, now: Uptime) -> Vec<Effect> {
        let mut effects = Vec::new();
        let asked = |c: &&mut Contact| {
            c.node == node && matches!(c.state, State::Waiting(_) | State::Silent(_))
        };
        if let Some(contact) = self.contacts.iter_mut().find(asked) {
            contact.state = State::Gone;
            let slot = contact.slot;
            self.replace(slot, now, &mut effects);
            self.judge(now, &mut effects);
        }
        effects
    }

    /// Time has passed.
    pub fn on_time(&mut self, now: Uptime) -> Vec<Effect> {
        let mut effects = Vec::new();
        for at in 0..self.contacts.len() {
            let contact = self.contacts[at];
            let State::Waiting(what) = contact.state else { continue };
            if now >= contact.asked_at.plus(self.plan.replica_timeout_ms) {
                self.contacts[at].state = State::Silent(what);
                self.replace(contact.slot, now, &mut effects);
            } else if self.may_hedge(&contact) && now >= self.hedge_at(&contact) {
                self.hedged = true;
                let sets = self.plan.sets.of_slot(contact.slot);
                self.ask_next(sets, Some(contact.slot), what, now, &mut effects);
            }
        }
        if !self.answered && now >= self.plan.deadline {
            let answer = self.no_quorum();
            self.answer(answer, &mut effects);
        }
        self.judge(now, &mut effects);
        effects
    }

    /// When [`Get::on_time`] must be called next, unless another event comes first.
    pub fn next_wake(&self) -> Option<Uptime> {
        let mut wake = (!self.answered).then_some(self.plan.deadline);
        for contact in self.contacts.iter().filter(|c| matches!(c.state, State::Waiting(_))) {
            let mut at = contact.asked_at.plus(self.plan.replica_timeout_ms);
            if self.may_hedge(contact) {
                at = at.min(self.hedge_at(contact));
            }
            wake = Some(wake.map_or(at, |wake| wake.min(at)));
        }
        wake
    }

    /// Whether the client was answered and no replica is waited for.
    pub fn is_done(&self) -> bool {
        self.answered && self.repaired
    }

    /// Whether the read was hedged.
    pub fn is_hedged(&self) -> bool {
        self.hedged
    }

    /// The nodes that are no longer waited for and have not answered.
    pub fn silent(&self) -> impl Iterator<Item = NodeId> {
        let is_silent = |c: &&Contact| matches!(c.state, State::Silent(_) | State::Gone);
        self.contacts.iter().filter(is_silent).map(|c| c.node)
    }

    /// The version that a node reported or sent, if it did.
    pub fn version_of(&self, node: NodeId) -> Option<Version> {
        self.contacts.iter().filter(|c| c.node == node).find_map(|c| match c.state {
            State::Merged(version) | State::Digest(version) => Some(version),
            State::Waiting(_) | State::Silent(_) | State::Witness | State::Failed | State::Gone => {
                None
            }
        })
    }

    /// The merge of all objects received.
    pub fn merged(&self) -> &Object {
        &self.merged
    }

    /// Merges what a replica holds. The first object becomes the merge, and in almost every read it
    /// is the only one.
    fn merge_object(&mut self, object: Object) {
        if self.merged.is_absent() {
            self.merged = Arc::new(object);
        } else {
            Arc::make_mut(&mut self.merged).merge(&object);
        }
    }

    fn judge(&mut self, now: Uptime, effects: &mut Vec<Effect>) {
        if !self.answered {
            self.fetch_differing(now, effects);
            match self.plan.sets.verdict(&self.tally()) {
                Verdict::Reached => self.answer(Answer::Read(Arc::clone(&self.merged)), effects),
                Verdict::Impossible => {
                    let answer = self.no_quorum();
                    self.answer(answer, effects);
                }
                Verdict::Pending => {}
            }
        }
        let waiting = self.contacts.iter().any(|c| matches!(c.state, State::Waiting(_)));
        if self.answered && !waiting && !self.repaired {
            self.repaired = true;
            let stale = self.stale_homes();
            if !stale.is_empty() {
                effects.push(Effect::Repair(stale));
            }
        }
    }

    /// Asks for the objects of digests that match nothing in the merge, once a full object has
    /// arrived (or none will).
    fn fetch_differing(&mut self, now: Uptime, effects: &mut Vec<Effect>) {
        let full = |c: &Contact| c.state == State::Waiting(ReadKind::Object);
        if self.versions.is_empty() && self.contacts.iter().any(full) {
            return;
        }
        for at in 0..self.contacts.len() {
            let contact = self.contacts[at];
            let State::Digest(version) = contact.state else { continue };
            if !self.agrees(version) {
                let state = State::Waiting(ReadKind::Object);
                self.contacts[at] = Contact { asked_at: now, state, ..contact };
                let (to, place) = (contact.node, contact.place);
                effects.push(Effect::Ask { to, what: ReadKind::Object, place });
                if self.versions.is_empty() {
                    return; // the others may agree with this one
                }
            }
        }
    }

    fn may_hedge(&self, contact: &Contact) -> bool {
        let next = || self.next_in(self.plan.sets.of_slot(contact.slot));
        let has_spare_home =
            || next().is_some_and(|at| matches!(self.unasked[at], Candidate::Home(_)));
        !self.answered && !self.hedged && self.plan.hedge_ms.is_some() && has_spare_home()
    }

    fn hedge_at(&self, contact: &Contact) -> Uptime {
        contact.asked_at.plus(self.plan.hedge_ms.unwrap_or(self.plan.replica_timeout_ms))
    }

    fn answer(&mut self, answer: Answer, effects: &mut Vec<Effect>) {
        self.answered = true;
        effects.push(Effect::Answer(answer));
    }

    /// Whether a replica with this version has nothing that the merge lacks.
    fn agrees(&self, version: Version) -> bool {
        version == Version::ABSENT || self.versions.contains(&version)
    }

    /// What each set has, and what it may still get.
    fn tally(&self) -> Tally {
        let mut tally = Tally::default();
        for contact in &self.contacts {
            let sets = self.plan.sets.of_slot(contact.slot);
            match contact.state {
                State::Merged(_) => {
                    tally.has(sets);
                    if mutated(Mutation::ReplicaCountedTwice) {
                        tally.has(sets);
                    }
                }
                State::Digest(version) if self.agrees(version) => tally.has(sets),
                State::Digest(_) | State::Waiting(_) | State::Silent(_) => tally.may_get(sets),
                State::Witness => tally.has(self.witnessed(contact)),
                State::Failed | State::Gone => {}
            }
        }
        for candidate in &self.unasked {
            tally.may_get(match candidate {
                Candidate::Home(slot) => self.plan.sets.of_slot(*slot),
                Candidate::Fallback(_) => self.plan.sets.all(),
            });
        }
        tally
    }

    /// The sets in which a home replica counts that has not received what it must hold.
    fn witnessed(&self, contact: &Contact) -> InSets {
        self.plan.sets.of_slot(contact.slot).and(self.plan.sets.with_witnesses())
    }

    fn no_quorum(&self) -> Answer {
        let nodes = |of: fn(&State) -> bool| {
            self.contacts.iter().filter(|c| of(&c.state)).map(|c| c.node).collect()
        };
        Answer::NoQuorum {
            counted: self.plan.sets.counted(&self.tally()),
            refused: nodes(|state| matches!(state, State::Failed | State::Witness)),
            silent: nodes(|state| {
                matches!(state, State::Waiting(_) | State::Silent(_) | State::Gone)
            }),
        }
    }

    /// Home replicas whose last answer differs from the merge.
    fn stale_homes(&self) -> Vec<NodeId> {
        if self.merged.is_absent() {
            return Vec::new();
        }
        let merged = self.merged.version();
        let differs = |c: &&Contact| match c.state {
            State::Merged(version) | State::Digest(version) => {
                c.place == RowKind::Home && version != merged
            }
            State::Waiting(_) | State::Silent(_) | State::Witness | State::Failed | State::Gone => {
                false
            }
        };
        self.contacts.iter().filter(differs).map(|c| c.node).collect()
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests;
