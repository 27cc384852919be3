//! Checks that need no history: they look at the current state only.

use std::collections::BTreeMap;

use quorate_protocol::name::NodeId;

use super::{Sight, Verdict, holds};

/// *After healing: replicas identical* (promise 5).
///
/// # Errors
/// The two that differ.
pub fn replicas_are_equal(key: &str, replicas: &BTreeMap<NodeId, Vec<Sight>>) -> Verdict {
    let mut all = replicas.iter();
    let Some((first, theirs)) = all.next() else { return Ok(()) };
    for (node, sights) in all {
        holds(sights == theirs, "replicas_are_equal", || {
            format!("{key}: {first} holds {theirs:?}, {node} holds {sights:?}")
        })?;
    }
    Ok(())
}

/// *A tombstone is reaped only when nothing else is left of its key* (docs/design.md, "Deletes"),
/// on any node. `held` says what is left.
///
/// # Errors
/// What is held, and by which node.
pub fn reaped_for_good(key: &str, held: Option<String>) -> Verdict {
    holds(held.is_none(), "reaped_for_good", || {
        format!("{key} was proven to be gone, but {}", held.unwrap_or_default())
    })
}

/// *A row that a node does not own goes only when all home replicas hold it* according to what
/// the node knows at that moment. `wrong` says what is violated.
///
/// # Errors
/// The violation.
pub fn what_is_dropped_is_held(key: &str, wrong: Option<String>) -> Verdict {
    holds(wrong.is_none(), "what_is_dropped_is_held", || {
        format!("{key}: {}", wrong.unwrap_or_default())
    })
}

/// *A node that must fill reports nothing as absent before it has received everything* (promise 4):
/// what a home replica held when the comparison started is there when it has ended successfully.
///
/// # Errors
/// What is missing.
pub fn a_filled_node_has_everything(missing: Option<String>) -> Verdict {
    holds(missing.is_none(), "a_filled_node_has_everything", || missing.unwrap_or_default())
}

/// *After healing: Merkle roots equal* (promise 5), and the trees match the rows.
///
/// # Errors
/// What does not match.
pub fn trees_are_right(wrong: Option<String>) -> Verdict {
    holds(wrong.is_none(), "trees_are_right", || wrong.unwrap_or_default())
}

/// *A converged cluster at rest writes nothing*.
///
/// # Errors
/// How many changes there were.
pub fn rest_writes_nothing(changes: u64) -> Verdict {
    holds(changes == 0, "rest_writes_nothing", || format!("{changes} changes at rest"))
}

/// *The cluster converges by itself* (promise 5) within the allowed rounds.
///
/// # Errors
/// What is left to do.
pub fn converges(left: Option<String>) -> Verdict {
    holds(left.is_none(), "converges", || left.unwrap_or_default())
}

/// *After healing: no hints* (promise 5).
///
/// # Errors
/// How many are left.
pub fn no_hints_are_left(hints: usize) -> Verdict {
    holds(hints == 0, "no_hints_are_left", || format!("{hints} hints were never delivered"))
}

/// *Bounds hold at the coordinator* (promise 6): siblings of an object right after a client write.
///
/// # Errors
/// The number and the limit.
pub fn siblings_are_bounded(siblings: usize, siblings_max: usize) -> Verdict {
    let holds_bound = siblings <= siblings_max.max(1);
    holds(holds_bound, "siblings_are_bounded", || format!("{siblings} of {siblings_max} siblings"))
}

/// *Every request is answered* by its deadline if its entry node kept running (deadlines are part
/// of the machine), and leaves nothing behind.
///
/// # Errors
/// What was not.
pub fn every_operation_ends(ended: bool, what: &str) -> Verdict {
    holds(ended, "every_operation_ends", || what.to_owned())
}

/// *A healed cluster takes every request* (promise 5).
///
/// # Errors
/// Which request failed and how.
pub fn a_healed_cluster_serves(served: bool, what: &str) -> Verdict {
    holds(served, "a_healed_cluster_serves", || what.to_owned())
}
