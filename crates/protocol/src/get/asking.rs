//! Which node a read asks next.

use super::{Contact, Effect, Get, ReadKind, RowKind, State};
use crate::name::NodeId;
use crate::quorum_sets::{InSets, Tally};
use crate::time::Uptime;

/// A node that may be asked.
#[derive(Clone, Copy, Debug)]
pub(super) enum Candidate {
    /// The home replica in this slot: its index in the plan.
    Home(usize),
    Fallback(NodeId),
}

impl Get {
    /// Asks another node in place of one that has failed or is silent.
    pub(super) fn replace(&mut self, slot: usize, now: Uptime, effects: &mut Vec<Effect>) {
        self.ask_others(self.plan.sets.of_slot(slot), slot, now, effects);
    }

    /// Asks another node in place of the one in a slot, which does not count in these sets; more than one
    /// if that is not in all the sets that need one.
    pub(super) fn ask_others(
        &mut self,
        mut missing: InSets,
        slot: usize,
        now: Uptime,
        effects: &mut Vec<Effect>,
    ) {
        if self.answered {
            return;
        }
        while !missing.is_empty() {
            let has_object = |c: &Contact| {
                matches!(c.state, State::Waiting(ReadKind::Object) | State::Merged(_))
            };
            let any = self.contacts.iter().any(has_object);
            let what = if any { ReadKind::Digest } else { ReadKind::Object };
            match self.ask_next(missing, Some(slot), what, now, effects) {
                Some(sets) => missing = missing.without(sets).and(self.lacking()),
                None => return,
            }
        }
    }

    /// The sets in which too few nodes have answered or are waited for.
    fn lacking(&self) -> InSets {
        let mut tally = Tally::default();
        for contact in &self.contacts {
            match contact.state {
                State::Waiting(_) | State::Merged(_) | State::Digest(_) => {
                    tally.may_get(self.plan.sets.of_slot(contact.slot));
                }
                State::Witness => tally.may_get(self.witnessed(contact)),
                State::Silent(_) | State::Failed | State::Gone => {}
            }
        }
        self.plan.sets.lacking(&tally)
    }

    /// The place in the list of the next candidate that can count in one of these sets.
    pub(super) fn next_in(&self, sets: InSets) -> Option<usize> {
        self.unasked.iter().rposition(|candidate| match candidate {
            Candidate::Home(slot) => self.plan.sets.of_slot(*slot).meets(sets),
            Candidate::Fallback(_) => true, // in whatever place is free
        })
    }

    /// Asks the next node that can count in one of these sets; a fallback in place of `instead_of`,
    /// or of a home replica that is not asked. Returns the sets in which the node counts.
    pub(super) fn ask_next(
        &mut self,
        sets: InSets,
        instead_of: Option<usize>,
        what: ReadKind,
        now: Uptime,
        effects: &mut Vec<Effect>,
    ) -> Option<InSets> {
        let candidate = self.unasked.remove(self.next_in(sets)?);
        let (node, place, slot) = match candidate {
            Candidate::Home(slot) => (self.plan.sets.homes()[slot], RowKind::Home, slot),
            Candidate::Fallback(node) => {
                let slot = instead_of.unwrap_or_else(|| self.free_slot(sets));
                (node, RowKind::Hints, slot)
            }
        };
        let state = State::Waiting(what);
        self.contacts.push(Contact { node, place, slot, asked_at: now, state });
        effects.push(Effect::Ask { to: node, what, place });
        Some(self.plan.sets.of_slot(slot))
    }

    /// The slot of a home replica of one of these sets, if possible of one in whose place no node
    /// was asked.
    fn free_slot(&self, sets: InSets) -> usize {
        let is_free = |slot: &usize| self.contacts.iter().all(|c| c.slot != *slot);
        let slots = || {
            let all = 0..self.plan.sets.homes().len();
            all.filter(|slot| self.plan.sets.of_slot(*slot).meets(sets))
        };
        slots().find(is_free).or_else(|| slots().next()).unwrap_or_default()
    }
}
