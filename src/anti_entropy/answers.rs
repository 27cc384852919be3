//! The side of anti-entropy and of the reaper that is asked.

use std::sync::Arc;

use bytes::Bytes;
use quorate_protocol::exchange::{PAGE_KEYS_MAX, Page};
use quorate_protocol::message::{Refusal, Reply};
use quorate_protocol::name::Key;
use quorate_protocol::tree::{LeafSet, Leaves, Root, Tree};
use quorate_storage::Error;

use super::exchange::versions;
use super::round::is_home;
use crate::chores;
use crate::node::Node;
use crate::replica::refusal_of;

/// Which of a peer's trees differ from this node's.
pub fn roots(node: &Node, theirs: &[(Tree, Root)]) -> Reply {
    if !node.trees_fit() {
        return Reply::NotReady; // empty trees are equal, and say nothing
    }
    let may_compare = |tree: Tree| {
        node.standing.is_cleared()
            && u32::from(tree.partition.0) < node.layout.partitions()
            && node.readiness.is_ready(tree.partition)
            && is_home(node, node.me, tree)
    };
    let mut trees = Vec::new();
    for (place, (tree, root)) in theirs.iter().enumerate().take(usize::from(u16::MAX)) {
        if may_compare(*tree) && node.store.root(*tree) != *root {
            trees.push(place as u16);
        }
    }
    Reply::Differing { trees }
}

/// Which leaves of a peer's tree differ from this node's.
pub fn leaves(node: &Node, tree: Tree, theirs: &Bytes) -> Reply {
    if !node.standing.is_cleared() || !node.trees_fit() {
        return Reply::NotReady; // rows may be in other trees still
    }
    match Leaves::from_bytes(theirs) {
        Some(theirs) => Reply::Leaves { differing: node.store.leaves(tree).differing(&theirs) },
        None => Reply::Refused(Refusal::Malformed),
    }
}

/// The keys of some leaves.
pub async fn list(node: &Arc<Node>, tree: Tree, leaves: LeafSet, after: Option<Key>) -> Reply {
    if !node.standing.is_cleared() {
        return Reply::NotReady;
    }
    let page =
        chores::run(node, move |node| node.store.list(tree, leaves, after.as_ref(), PAGE_KEYS_MAX));
    let page: Result<Page, Error> = page.await;
    page.map_or_else(|error| Reply::Refused(refusal_of(&error)), Reply::Page)
}

/// The versions of some keys.
pub async fn versions_of(node: &Arc<Node>, keys: Vec<Key>) -> Reply {
    if keys.len() > PAGE_KEYS_MAX {
        return Reply::Refused(Refusal::Malformed);
    }
    match chores::run(node, move |node| versions(node, &keys)).await {
        Ok(versions) => Reply::Versions { versions },
        Err(error) => Reply::Refused(refusal_of(&error)),
    }
}
