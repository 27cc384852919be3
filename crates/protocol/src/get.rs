//! One GET: which replicas to ask, when there are enough answers, and which to repair.
//!
//! One replica sends its full object, R-1 more send digests. A replica counts towards R only if its
//! full object is in the merge, or its digest equals that of an object in the merge, or says that
//! it holds nothing; a replica whose digest differs is asked for its object. A slow replica is
//! hedged by asking one more; a silent or refusing one is replaced. A fallback counts only if it
//! holds a hint for the key: an empty fallback must not make a 404. After answering, stale replicas
//! are sent the merged object (read repair). Sources: DeCandia et al. (SOSP 2007), 4.5, 5; Dean and
//! Barroso, "The Tail at Scale" (2013) for hedging.
//!
//! Driven like [`crate::put`]: `on_reply`, `on_silent`, `on_time`, until [`Get::is_done`].

use std::collections::BTreeSet;
use std::sync::Arc;

use serde::{Deserialize, Serialize};

use crate::mutation::{Mutation, mutated};
use crate::name::NodeId;
use crate::object::{Object, Version};
use crate::quorum::{Verdict, verdict};
use crate::time::Uptime;

/// What the entry node knows when it starts.
#[derive(Clone, Debug)]
pub struct Plan {
    /// The home replicas in the order in which they are asked: this node first if it is one.
    pub homes: Vec<NodeId>,
    /// The nodes after the bucket's home replicas, in order of preference.
    pub fallbacks: Vec<NodeId>,
    /// R: answers needed.
    pub needed: u16,
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
    /// A home replica that has not yet received this partition. Does not count.
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
    /// The merge of what R replicas hold.
    Read(Arc<Object>),
    /// Fewer than R replicas gave an answer that counts.
    NoQuorum {
        /// How many did.
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
    unasked: Vec<(NodeId, RowKind)>,
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
            let of = move |node: &&NodeId| down.contains(node) == is_down;
            plan.homes.iter().filter(of).map(|node| (*node, RowKind::Home))
        };
        let mut order: Vec<(NodeId, RowKind)> = homes(false).collect();
        if plan.sloppy {
            let up = plan.fallbacks.iter().filter(|node| !down.contains(node));
            order.extend(up.map(|node| (*node, RowKind::Hints)));
        }
        order.extend(homes(true));
        order.reverse();
        let needed = plan.needed;
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
        for position in 0..needed {
            let what = if position == 0 { ReadKind::Object } else { ReadKind::Digest };
            get.ask_next(what, now, &mut effects);
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
            Reply::NoHint | Reply::NotFilled | Reply::Refused => {
                contact.state = State::Failed;
                self.replace(now, &mut effects);
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
            self.replace(now, &mut effects);
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
                self.replace(now, &mut effects);
            } else if self.may_hedge() && now >= self.hedge_at(&contact) {
                self.hedged = true;
                self.ask_next(what, now, &mut effects);
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
            if self.may_hedge() {
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
            State::Waiting(_) | State::Silent(_) | State::Failed | State::Gone => None,
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
            let counted = self.counted();
            match verdict(self.plan.needed, counted, self.possible()) {
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

    fn replace(&mut self, now: Uptime, effects: &mut Vec<Effect>) {
        if self.answered {
            return;
        }
        let has_object =
            |c: &Contact| matches!(c.state, State::Waiting(ReadKind::Object) | State::Merged(_));
        let any = self.contacts.iter().any(has_object);
        self.ask_next(if any { ReadKind::Digest } else { ReadKind::Object }, now, effects);
    }

    fn ask_next(&mut self, what: ReadKind, now: Uptime, effects: &mut Vec<Effect>) {
        let Some((node, place)) = self.unasked.pop() else { return };
        let state = State::Waiting(what);
        self.contacts.push(Contact { node, place, asked_at: now, state });
        effects.push(Effect::Ask { to: node, what, place });
    }

    fn may_hedge(&self) -> bool {
        let spare_home = matches!(self.unasked.last(), Some((_, RowKind::Home)));
        !self.answered && !self.hedged && self.plan.hedge_ms.is_some() && spare_home
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

    fn counted(&self) -> u16 {
        let counts = |c: &&Contact| match c.state {
            State::Merged(_) => true,
            State::Digest(version) => self.agrees(version),
            State::Waiting(_) | State::Silent(_) | State::Failed | State::Gone => false,
        };
        self.contacts.iter().filter(counts).count() as u16
            + u16::from(mutated(Mutation::ReplicaCountedTwice))
    }

    /// How many more could still count.
    fn possible(&self) -> u16 {
        let open = |c: &&Contact| match c.state {
            State::Waiting(_) | State::Silent(_) => true,
            State::Digest(version) => !self.agrees(version),
            State::Merged(_) | State::Failed | State::Gone => false,
        };
        (self.contacts.iter().filter(open).count() + self.unasked.len()) as u16
    }

    fn no_quorum(&self) -> Answer {
        let nodes = |of: fn(&State) -> bool| {
            self.contacts.iter().filter(|c| of(&c.state)).map(|c| c.node).collect()
        };
        Answer::NoQuorum {
            counted: self.counted(),
            refused: nodes(|state| *state == State::Failed),
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
            State::Waiting(_) | State::Silent(_) | State::Failed | State::Gone => false,
        };
        self.contacts.iter().filter(differs).map(|c| c.node).collect()
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests;
