//! What a read of R says of a write that depends on what is there: a conditional one, or a delete
//! without a context.

use crate::bucket::Conflicts;
use crate::message::{Condition, Write, WriteAnswer, WrittenAnswer};
use crate::object::Object;
use crate::view::{View, context_of};

/// What becomes of the write.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Checked {
    /// It is minted; its draft now says that it saw what was read.
    Mint,
    /// A retry: its sibling is among what was read. Merge that here, and minting will find it.
    Known,
    /// Nothing is written: answer this.
    Answer(WriteAnswer),
}

/// Holds a write against what a read of R showed, under the policy that its client is shown conflicts by.
/// A tombstone counts as absent.
pub fn check(write: &mut Write, seen: &Object, conflicts: Conflicts) -> Checked {
    if seen.siblings.iter().any(|s| s.write_id == write.draft.write_id) {
        return Checked::Known;
    }
    let is_there = !matches!(View::of(seen, conflicts), View::Absent | View::Deleted);
    let is_met = match &write.condition {
        None => true,
        Some(Condition::Absent) => !is_there,
        Some(Condition::Present) => is_there,
        Some(Condition::Version(versions)) => is_there && versions.contains(&seen.version()),
    };
    if !is_met {
        return Checked::Answer(WriteAnswer::ConditionFailed);
    }
    if write.delete_seen && !is_there {
        return Checked::Answer(nothing_to_delete(seen));
    }
    // The write supersedes exactly what was read. A condition is about just that: a conditional write does
    // not happen if another got here meanwhile.
    write.draft.unless_overtaken = write.condition.is_some();
    write.draft.context.join(&seen.clock);
    write.draft.context_stamp = write.draft.context_stamp.max(seen.stamp_max());
    Checked::Mint
}

/// A delete of what is not there writes nothing and succeeds.
fn nothing_to_delete(seen: &Object) -> WriteAnswer {
    WriteAnswer::Written(WrittenAnswer {
        acks: 0,
        hints: 0,
        siblings: 0,
        dot: None,
        version: seen.version(),
        seen: (!seen.is_absent()).then(|| context_of(seen)),
    })
}
