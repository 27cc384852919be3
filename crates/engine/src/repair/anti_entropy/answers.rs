//! The answering side of anti-entropy and of the reaper.

use std::sync::Arc;

use bytes::Bytes;
use quorate_protocol::exchange::{PAGE_KEYS_MAX, Page};
use quorate_protocol::message::{Refusal, RepairReply, Reply};
use quorate_protocol::mutation::{Mutation, mutated};
use quorate_protocol::name::Key;
use quorate_protocol::tree::{LeafSet, Leaves, Root, Tree};
use quorate_storage::Error;

use super::exchange::versions;
use crate::background::work;
use crate::cluster::view::ClusterView;
use crate::node::Node;
use crate::ops::replica::refusal_of;

/// Which of a peer's trees differ from this node's. If rows have not been moved to their new trees
/// yet, the recheck finds that such differences are none.
pub fn roots(node: &Node, view: &ClusterView, theirs: &[(Tree, Root)]) -> Reply {
    let may_compare = |tree: Tree| {
        node.generation.is_admitted()
            && u32::from(tree.partition.0) < view.placement().partitions()
            && node.filled.is_ready(tree.partition)
            && view.is_home(node.me, tree)
    };
    let mut trees = Vec::new();
    for (place, (tree, root)) in theirs.iter().enumerate().take(usize::from(u16::MAX)) {
        if may_compare(*tree) && node.store.root(*tree) != *root {
            trees.push(place as u16);
        }
    }
    Reply::Repair(RepairReply::Differing { trees })
}

/// Which leaves of a peer's tree differ from this node's. A peer that must fill sends the hash of
/// its n of all buckets: only then do equal trees prove that this node has nothing more.
pub fn leaves(node: &Node, tree: Tree, to_fill: Option<u64>, theirs: &Bytes) -> Reply {
    let fits_by = |hash| {
        node.buckets.assignment().is_settled_for(hash) || mutated(Mutation::TreesTrustedInDoubt)
    };
    if !node.generation.is_admitted() || !to_fill.is_none_or(fits_by) {
        return Reply::NotFilled;
    }
    match Leaves::from_bytes(theirs) {
        Some(theirs) => Reply::Repair(RepairReply::Leaves {
            differing: node.store.leaves(tree).differing(&theirs),
        }),
        None => Reply::Refused(Refusal::Malformed),
    }
}

/// The keys of some leaves. A peer that must fill sends the hash of its n of all buckets.
pub async fn list(
    node: &Arc<Node>,
    (tree, to_fill): (Tree, Option<u64>),
    leaves: LeafSet,
    after: Option<Key>,
) -> Reply {
    if !node.generation.is_admitted() {
        return Reply::NotFilled;
    }
    let changes = node.buckets.assignment().changes();
    let page =
        work::run(node, move |node| node.store.list(tree, leaves, after.as_ref(), PAGE_KEYS_MAX));
    let page: Result<Page, Error> = page.await;
    // Checked again: no row was moved while the page was read.
    let fitted = |hash| {
        let assignment = node.buckets.assignment();
        (assignment.is_settled_for(hash) && assignment.changes() == changes)
            || mutated(Mutation::TreesTrustedInDoubt)
    };
    if !to_fill.is_none_or(fitted) {
        return Reply::NotFilled;
    }
    page.map_or_else(
        |error| Reply::Refused(refusal_of(&error)),
        |page| RepairReply::Page(page).into(),
    )
}

/// The versions of some keys, of durable rows: a peer that hands a row over drops it on this
/// answer.
pub async fn versions_of(node: &Arc<Node>, view: &ClusterView, keys: Vec<Key>) -> Reply {
    if !node.generation.is_admitted() {
        return Reply::NotFilled;
    }
    if keys.len() > PAGE_KEYS_MAX {
        return Reply::Refused(Refusal::Malformed);
    }
    let view = view.clone();
    let versions = work::run(node, move |node| versions(node, &view, &keys)).await;
    match (versions, node.store.durable().await) {
        (Ok(versions), Ok(())) => Reply::Repair(RepairReply::Versions { versions }),
        (Err(error), _) | (_, Err(error)) => Reply::Refused(refusal_of(&error)),
    }
}
