//! Checks a write that depends on stored state against a read of R replicas: a conditional write,
//! or a delete without a context.

use crate::bucket::Conflicts;
use crate::message::{Condition, Write, WriteAnswer, WrittenAnswer};
use crate::object::Object;
use crate::time::WallTime;
use crate::view::{View, context_of};

/// What to do with the write.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Checked {
    /// Mint it; its draft's context now covers what was read.
    Mint,
    /// A retry: its sibling is in the object that was read. Merge that object locally, and minting
    /// will find the sibling.
    Known,
    /// Write nothing, and answer this.
    Answer(WriteAnswer),
}

/// Checks a write against what a read of R found, under the bucket's conflict policy, at `now` by this
/// node's wall clock. What is deleted or has expired counts as absent.
pub fn check(write: &mut Write, seen: &Object, conflicts: Conflicts, now: WallTime) -> Checked {
    if seen.siblings.iter().any(|s| s.write_id == write.draft.write_id) {
        return Checked::Known;
    }
    let is_there = !matches!(View::of(seen, conflicts, now), View::Absent | View::Deleted);
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
    // The write supersedes exactly what was read. A condition was checked against exactly that, so
    // a conditional write fails if another write has arrived since.
    write.draft.unless_overtaken = write.condition.is_some();
    write.draft.context.join(&seen.clock);
    write.draft.context_stamp = write.draft.context_stamp.max(seen.stamp_max());
    Checked::Mint
}

/// Deleting an absent key writes nothing and succeeds.
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
