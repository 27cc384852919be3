//! One PUT, from the coordinator's point of view: which nodes must hold the object before it is
//! acknowledged.
//!
//! The coordinator has stored the merged object locally and now sends it to the other home replicas
//! in parallel. Each home replica has a *slot*. If one is known to be down, refuses, or stays
//! silent past the replica timeout, the next fallback of the preference list takes its slot and
//! keeps the object as a hint for it. W acknowledgements from distinct nodes, in each set of home
//! replicas ([`crate::quorum_sets`]), answer the client; the machine runs on until every slot is
//! held or no node is left to ask. Source: DeCandia et al. (SOSP 2007), 4.5, 4.6.
//!
//! Report events (`on_ack`, `on_refused`, `on_silent`, `on_time`), execute the effects they return,
//! and call [`Put::on_time`] at [`Put::next_wake`], until [`Put::is_done`].

use std::collections::BTreeSet;

use serde::{Deserialize, Serialize};

use crate::mutation::{Mutation, mutated};
use crate::name::NodeId;
use crate::quorum::Verdict;
use crate::quorum_sets::{QuorumSets, Tally};
use crate::time::Uptime;

/// In which role a node holds an object.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub enum Role {
    /// As one of the key's home replicas.
    Home,
    /// As a fallback, on behalf of a home replica.
    Hint {
        /// The home replica it is kept for.
        target: NodeId,
    },
}

/// What the coordinator knows when it starts.
#[derive(Clone, Debug)]
pub struct Plan {
    /// The coordinator itself.
    pub me: NodeId,
    /// The home replicas that are asked, and W: the acknowledgements that each set needs.
    pub sets: QuorumSets,
    /// Whether the coordinator's copy counts, as a home replica's or as a hint for the first of them. It does
    /// not if it stored the object as a home replica and is none any more: the layout has changed since.
    pub counts_me: bool,
    /// The nodes after the bucket's home replicas, in order of preference.
    pub fallbacks: Vec<NodeId>,
    /// Whether hints count as acknowledgements.
    pub sloppy: bool,
    /// How long a replica may stay silent before a fallback takes its slot, in milliseconds.
    pub replica_timeout_ms: u64,
    /// The latest time at which the client is answered.
    pub deadline: Uptime,
}

/// The role in which `node` would hold a key with these home replicas. A node that is not one of
/// them holds it as a hint for the first.
///
/// # Panics
/// If `homes` is empty: every key has a home.
pub fn role_of(node: NodeId, homes: &[NodeId]) -> Role {
    if homes.contains(&node) { Role::Home } else { Role::Hint { target: homes[0] } }
}

/// What the coordinator must do now.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Effect {
    /// Send the whole merged object to a node.
    Send {
        /// The node.
        to: NodeId,
        /// The role in which it must hold it.
        role: Role,
    },
    /// Answer the client. Comes exactly once.
    Answer(Answer),
}

/// What is known when the client is answered.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Answer {
    /// W nodes of each set hold the write.
    Written(Acks),
    /// They do not, and the deadline has passed or no node is left to ask.
    NoQuorum(Acks),
}

/// Which nodes hold the write: only acknowledgements count, nothing is assumed.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Acks {
    /// Distinct nodes that acknowledged and count towards W, in the set with the fewest.
    pub counted: u16,
    /// Of all acknowledgements, those by fallbacks that keep a hint.
    pub hints: u16,
    /// Whether some copy is known to be stored, durable or not yet.
    pub stored: bool,
    /// Nodes that refused.
    pub refused: Vec<NodeId>,
    /// Nodes that were asked and have not answered: they may hold the write.
    pub silent: Vec<NodeId>,
    /// Home replicas that were known to be down and not asked.
    pub down: Vec<NodeId>,
}

/// The machine of one PUT.
#[derive(Debug)]
pub struct Put {
    plan: Plan,
    contacts: Vec<Contact>,
    /// Home replicas that are known to be down; a fallback has taken their slot.
    skipped_homes: Vec<NodeId>,
    answered: bool,
}

#[derive(Clone, Copy, Debug)]
struct Contact {
    node: NodeId,
    /// The home replica whose copy this node holds: its index in the plan.
    slot: usize,
    role: Role,
    sent_at: Uptime,
    state: State,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    Waiting,
    Silent,
    Acked,
    Refused,
}

impl Put {
    /// Starts once the coordinator has stored the object locally (its own acknowledgement comes
    /// later, through [`Put::on_ack`], when the local copy is durable). Nodes in `down` are not
    /// waited for. A W above the number of nodes is answered with [`Answer::NoQuorum`], like any
    /// quorum that cannot be met.
    pub fn start(plan: Plan, down: &BTreeSet<NodeId>, now: Uptime) -> (Self, Vec<Effect>) {
        let me = plan.me;
        let my_slot = plan.sets.homes().iter().position(|home| *home == me).unwrap_or(0);
        let my_slot = plan.counts_me.then_some(my_slot);
        let mut put =
            Self { plan, contacts: Vec::new(), skipped_homes: Vec::new(), answered: false };
        let role = role_of(me, put.plan.sets.homes());
        if let Some(my_slot) = my_slot {
            put.contact(me, my_slot, role, now);
        }
        let mut effects = Vec::new();
        for slot in (0..put.plan.sets.homes().len()).filter(|slot| Some(*slot) != my_slot) {
            let home = put.plan.sets.homes()[slot];
            if down.contains(&home) && put.replace(slot, Some(down), now, &mut effects) {
                put.skipped_homes.push(home);
                continue;
            }
            put.send(home, slot, Role::Home, now, &mut effects);
        }
        (put, effects)
    }

    /// A node holds the object, durably as configured.
    pub fn on_ack(&mut self, node: NodeId) -> Vec<Effect> {
        self.set_state(node, State::Acked);
        let mut effects = Vec::new();
        self.judge(&mut effects);
        effects
    }

    /// A node refused, and certainly did not store the object.
    pub fn on_refused(&mut self, node: NodeId, now: Uptime) -> Vec<Effect> {
        self.on_failed(node, State::Refused, now)
    }

    /// The object is being sent and the transfer makes progress: the node is slow, not silent, and
    /// its timeout starts over.
    pub fn on_progress(&mut self, node: NodeId, now: Uptime) {
        let waiting = |c: &&mut Contact| c.node == node && c.state == State::Waiting;
        if let Some(contact) = self.contacts.iter_mut().find(waiting) {
            contact.sent_at = now;
        }
    }

    /// The node will not answer any more, and it is unknown whether it stored the object.
    pub fn on_silent(&mut self, node: NodeId, now: Uptime) -> Vec<Effect> {
        self.on_failed(node, State::Silent, now)
    }

    /// Time has passed.
    pub fn on_time(&mut self, now: Uptime) -> Vec<Effect> {
        let mut effects = Vec::new();
        for at in 0..self.contacts.len() {
            let contact = self.contacts[at];
            let timeout_at = contact.sent_at.plus(self.plan.replica_timeout_ms);
            if contact.state == State::Waiting && now >= timeout_at {
                self.contacts[at].state = State::Silent;
                self.replace(contact.slot, None, now, &mut effects);
            }
        }
        if !self.answered && now >= self.plan.deadline {
            self.answer(Answer::NoQuorum(self.acks()), &mut effects);
        }
        self.judge(&mut effects);
        effects
    }

    /// When [`Put::on_time`] must be called next, unless another event comes first.
    pub fn next_wake(&self) -> Option<Uptime> {
        let timeout_ms = self.plan.replica_timeout_ms;
        let waiting = self.contacts.iter().filter(|c| c.state == State::Waiting);
        let timeout = waiting.map(|c| c.sent_at.plus(timeout_ms)).min();
        let deadline = (!self.answered).then_some(self.plan.deadline);
        [timeout, deadline].into_iter().flatten().min()
    }

    /// Whether the client was answered and no node is waited for.
    pub fn is_done(&self) -> bool {
        let all_held = (0..self.plan.sets.homes().len()).all(|slot| self.is_held(slot));
        self.answered && (all_held || !self.is_waiting())
    }

    /// The nodes that are no longer waited for and have not answered.
    pub fn silent(&self) -> impl Iterator<Item = NodeId> {
        self.contacts.iter().filter(|c| c.state == State::Silent).map(|c| c.node)
    }

    fn on_failed(&mut self, node: NodeId, state: State, now: Uptime) -> Vec<Effect> {
        let mut effects = Vec::new();
        if let Some(slot) = self.set_state(node, state) {
            self.replace(slot, None, now, &mut effects);
        }
        self.judge(&mut effects);
        effects
    }

    /// Records what a node did; an acknowledgement or refusal is final. Returns its slot if the
    /// state changed.
    fn set_state(&mut self, node: NodeId, state: State) -> Option<usize> {
        let contact = self.contacts.iter_mut().find(|c| c.node == node)?;
        let settled = matches!(contact.state, State::Acked | State::Refused);
        if settled || contact.state == state {
            return None;
        }
        contact.state = state;
        Some(contact.slot)
    }

    /// Gives a slot that no node holds or is about to hold to the next fallback. Returns whether
    /// the slot is taken. Fallbacks in `down` are skipped.
    fn replace(
        &mut self,
        slot: usize,
        down: Option<&BTreeSet<NodeId>>,
        now: Uptime,
        effects: &mut Vec<Effect>,
    ) -> bool {
        let busy = |c: &Contact| c.slot == slot && matches!(c.state, State::Waiting | State::Acked);
        if self.contacts.iter().any(busy) {
            return true;
        }
        let usable = |node: &&NodeId| {
            down.is_none_or(|down| !down.contains(node))
                && **node != self.plan.me
                && self.contacts.iter().all(|c| c.node != **node)
        };
        let Some(fallback) = self.plan.fallbacks.iter().find(usable).copied() else {
            return false;
        };
        let role = Role::Hint { target: self.plan.sets.homes()[slot] };
        self.send(fallback, slot, role, now, effects);
        true
    }

    fn send(
        &mut self,
        to: NodeId,
        slot: usize,
        role: Role,
        now: Uptime,
        effects: &mut Vec<Effect>,
    ) {
        self.contact(to, slot, role, now);
        effects.push(Effect::Send { to, role });
    }

    fn contact(&mut self, node: NodeId, slot: usize, role: Role, sent_at: Uptime) {
        self.contacts.push(Contact { node, slot, role, sent_at, state: State::Waiting });
    }

    fn judge(&mut self, effects: &mut Vec<Effect>) {
        if self.answered {
            return;
        }
        match self.plan.sets.verdict(&self.tally()) {
            Verdict::Reached => self.answer(Answer::Written(self.acks()), effects),
            // Lost, but wait for the nodes that were just sent the object: the client is told which
            // nodes hold the write, and these soon answer or time out.
            Verdict::Impossible if self.is_waiting() => {}
            Verdict::Impossible => self.answer(Answer::NoQuorum(self.acks()), effects),
            Verdict::Pending => {}
        }
    }

    fn answer(&mut self, answer: Answer, effects: &mut Vec<Effect>) {
        self.answered = true;
        effects.push(Effect::Answer(answer));
    }

    fn counts(&self, contact: &Contact) -> bool {
        self.plan.sloppy || contact.role == Role::Home || mutated(Mutation::HintsCountInStrict)
    }

    /// What each set has. A node counts in the sets of the home replica whose slot it has.
    fn tally(&self) -> Tally {
        let mut tally = Tally::default();
        for contact in self.contacts.iter().filter(|c| self.counts(c)) {
            let sets = self.plan.sets.of_slot(contact.slot);
            match contact.state {
                State::Acked => {
                    tally.has(sets);
                    if mutated(Mutation::AckCountedTwice) {
                        tally.has(sets);
                    }
                }
                State::Waiting | State::Silent => tally.may_get(sets),
                State::Refused => {}
            }
        }
        tally
    }

    fn is_waiting(&self) -> bool {
        self.contacts.iter().any(|c| c.state == State::Waiting)
    }

    fn is_held(&self, slot: usize) -> bool {
        self.contacts.iter().any(|c| c.slot == slot && c.state == State::Acked)
    }

    fn acks(&self) -> Acks {
        let acked = || self.contacts.iter().filter(|c| c.state == State::Acked);
        let in_states = |states: &[State]| {
            self.contacts.iter().filter(|c| states.contains(&c.state)).map(|c| c.node).collect()
        };
        let mine = self.contacts.iter().find(|c| c.node == self.plan.me);
        let is_stored_here = mine.is_none_or(|c| c.state != State::Refused);
        Acks {
            counted: self.plan.sets.counted(&self.tally()),
            hints: acked().filter(|c| c.role != Role::Home).count() as u16,
            stored: is_stored_here || acked().next().is_some(),
            refused: in_states(&[State::Refused]),
            // A node that is still waited for may hold the write, as may one that timed out.
            silent: in_states(&[State::Waiting, State::Silent]),
            down: self.skipped_homes.clone(),
        }
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests;
