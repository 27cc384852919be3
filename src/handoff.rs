//! Hinted handoff: brings hints to their home replica when it is back.
//!
//! Hints are merged state keyed by (target, key). They go out in pages; a row is deleted only when the
//! target acknowledged it, and only if its version is still the one that was sent.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use quorate_protocol::message::{Message, Reply, WithPayload};
use quorate_protocol::name::{Key, NodeId};
use quorate_protocol::object::Version;
use quorate_protocol::put::Role;
use quorate_protocol::row::Row;

use crate::health::State;
use crate::mailbox::{Heard, ReplyTo};
use crate::node::Node;
use crate::replica::on_blocking_pool;

/// Hints in flight to one target.
const PAGE_ROWS_MAX: usize = 256;
/// Their bytes.
const PAGE_BYTES_MAX: usize = 4 << 20;
/// How often a node looks whether there are hints to deliver.
const LOOK_EVERY: Duration = Duration::from_millis(500);

/// Delivers hints to one target for as long as the node runs.
pub async fn run(node: Arc<Node>, target: NodeId) {
    let mut ticks = tokio::time::interval(LOOK_EVERY);
    loop {
        ticks.tick().await;
        let is_up = || node.peers.health(target).is_some_and(|h| h.state() == State::Up);
        let mut after = None;
        let mut delivered = 0;
        while is_up() {
            match deliver_page(&node, target, after.take()).await {
                Some(page) => {
                    delivered += page.delivered;
                    after = Some(page.last);
                }
                None => break,
            }
        }
        if delivered > 0 {
            tracing::info!(%target, hints = delivered, "handoff");
        }
    }
}

struct Page {
    last: Key,
    delivered: usize,
}

/// Sends the next page of hints and deletes those that arrived. `None` at the end.
async fn deliver_page(node: &Arc<Node>, target: NodeId, after: Option<Key>) -> Option<Page> {
    let read_at = node.now();
    let rows = on_blocking_pool(node, move |node| {
        node.store.hints(target, after.as_ref(), PAGE_ROWS_MAX, PAGE_BYTES_MAX)
    });
    let rows: Vec<(Key, Bytes)> = rows.await.ok()?;
    let last = rows.last()?.0.clone();
    let mut waiting = Vec::with_capacity(rows.len());
    for (key, row) in rows {
        let (Some(version), Some(object)) = (Row::encoded_version(&row), Row::encoded_object(&row))
        else {
            tracing::error!(%key, %target, "a hint is damaged and stays");
            continue;
        };
        let (reply_to, mailbox) = ReplyTo::new();
        let message = Message::Store { key: key.clone(), role: Role::Home, read_at };
        node.peers.send(target, message, object, reply_to);
        waiting.push((key, version, mailbox));
    }
    let mut arrived: Vec<(Key, Version)> = Vec::with_capacity(waiting.len());
    for (key, version, mut mailbox) in waiting {
        if let Some((_, Heard::Reply(WithPayload { head: Reply::Stored, .. }))) =
            mailbox.recv().await
        {
            arrived.push((key, version));
        }
    }
    let delivered = arrived.len();
    let dropped = on_blocking_pool(node, move |node| {
        for (key, version) in &arrived {
            node.store.drop_hint(target, key, *version)?;
        }
        Ok(())
    });
    if let Err(error) = dropped.await {
        tracing::warn!(%error, %target, "delivered hints could not be deleted");
    }
    Some(Page { last, delivered })
}
