//! Hints for nodes that are members no more, or sworn dead. Nobody will deliver them: they become rows of
//! this node, which hands them over to the home replicas of today as it does with all rows that are not its
//! own (`crate::repair::unowned`).

use std::sync::Arc;

use quorate_protocol::mutation::{Mutation, mutated};
use quorate_protocol::name::{Key, NodeId};
use quorate_protocol::object::Version;
use quorate_protocol::row::Row;
use quorate_storage::{Error, MERGE_BATCH_ROWS, Source};

use crate::background::work;
use crate::node::Node;

/// Bytes of hints that are taken over together (a single larger one still goes).
const PAGE_BYTES_MAX: usize = 1 << 20;

/// Takes over all such hints. Returns whether there were any.
pub async fn adopt(node: &Arc<Node>) -> bool {
    if node.store.hint_bytes() == 0 {
        return false;
    }
    let targets = match work::run(node, |node| node.store.hint_targets()).await {
        Ok(targets) => targets,
        Err(error) => {
            tracing::warn!(%error, "could not look for hints of nodes that have left or are dead");
            return false;
        }
    };
    let mut any = false;
    let view = node.view();
    for (target, keys, _) in targets {
        if view.placement().contains_living(target) {
            continue;
        }
        tracing::info!(%target, keys, "taking over hints for a node that has left or is dead");
        any = true;
        if let Err(error) = adopt_all(node, target).await {
            tracing::warn!(%error, %target, "could not take over all hints; retrying soon");
        }
    }
    any
}

async fn adopt_all(node: &Arc<Node>, target: NodeId) -> Result<(), Error> {
    let mut after = None;
    loop {
        let from: Option<Key> = after.clone();
        let step = move |node: &Node| adopt_some(node, target, from.as_ref());
        after = work::run_throttled(node, &node.anti_entropy.throttle, step).await?;
        if after.is_none() {
            return Ok(());
        }
    }
}

/// Takes over some. Returns the last key of them, `None` at the end. Blocks.
fn adopt_some(node: &Node, target: NodeId, after: Option<&Key>) -> Result<Option<Key>, Error> {
    let view = node.view();
    let hints = node.store.hints(target, after, MERGE_BATCH_ROWS, PAGE_BYTES_MAX)?;
    let Some(last) = hints.last().map(|(key, _)| key.clone()) else { return Ok(None) };
    let (mut rows, mut taken): (Vec<_>, Vec<(Key, Version)>) = (Vec::new(), Vec::new());
    for (key, row) in hints {
        let (Some(version), Some(object)) = (Row::encoded_version(&row), Row::encoded_object(&row))
        else {
            tracing::error!(?key, %target, "a hint cannot be read and is kept");
            continue;
        };
        rows.push((view.home(&key), key.clone(), object));
        taken.push((key, version));
    }
    if !mutated(Mutation::HintOfRemovedDropped) {
        node.store.merge_page(rows, Source::Replica, node.now())?;
    }
    node.store.sync()?;
    // As when a hint is delivered: every confirmation of a tombstone from now on accounts for it.
    for (key, _) in &taken {
        node.last_drop.record(node.partition(key), node.uptime());
    }
    node.store.drop_hints(target, &taken)?;
    Ok(Some(last))
}
