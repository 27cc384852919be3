//! One operation on a typed value, at its minter.

use super::{Coordinator, Draft, Limits, MintError, Minted, Row};
use crate::clock::Dot;
use crate::data_type::{Operation, apply, remembering};
use crate::mutation::{Mutation, mutated};
use crate::object::{Metadata, Object, Sibling};
use crate::stamp::Stamp;

impl Row {
    /// Changes the parts of a typed value: drops those that the operation replaces, and adds the new ones
    /// under fresh dots. One that only removes takes a dot as well, which then names nothing, so that
    /// every change is a new version.
    ///
    /// The context says what a remove has seen. Unlike that of a write it is not joined into the clock: it
    /// covers other elements too, and to claim those without having them would remove them.
    pub(super) fn change(
        &mut self,
        operation: &Operation,
        draft: &Draft,
        by: &Coordinator,
        limits: &Limits,
    ) -> Result<Minted, MintError> {
        if let Some(part) = remembering(&self.object.siblings, draft.write_id)
            && draft.is_remembered
        {
            return Ok(Minted::Already(part.dot));
        }
        let claims_context = mutated(Mutation::ContextJoined);
        if !self.object.clock.covers_all(&draft.context) && operation.removes() && !claims_context {
            return Err(MintError::ContextAhead);
        }
        let tenure = self.tenure_for(by, &draft.context);
        let before = &self.object;
        let request = draft.is_remembered.then_some(draft.write_id);
        let by_whom = (tenure.actor, request);
        let applied = apply(operation, &before.siblings, &draft.context, by_whom);
        let applied = applied.ok_or(MintError::CounterFull)?;
        let mut next = Object {
            clock: before.clock.clone(),
            siblings: applied.kept.into_iter().cloned().collect(),
        };
        if claims_context {
            next.clock.join(&draft.context);
        }
        let stamp = Stamp::after(before.stamp_max().max(draft.context_stamp), by.now);
        let first = before.clock.counter(tenure.actor) + 1;
        let mut dot = Dot { actor: tenure.actor, counter: first };
        let is_growing = !applied.added.is_empty();
        for (counter, (part, bytes)) in (first..).zip(applied.added) {
            dot.counter = counter;
            next.siblings.push(Sibling {
                dot,
                part,
                value: Some(bytes),
                metadata: Metadata::default(),
                stamp,
                expires: None,
                writer: by.node,
                write_id: draft.write_id,
            });
        }
        next.clock.advance(dot);
        next.siblings.sort_unstable_by_key(|part| part.dot);
        if is_growing {
            limits.check_parts(&next)?; // removing must always be possible
            self.check_clock(&next.clock)?;
        }
        self.touch(by.now);
        self.tenure = Some(tenure);
        self.object = next;
        Ok(Minted::New(dot))
    }
}
