//! The receiving end of handoff: merges pages of hints that others kept for this node.
//!
//! This is background work like filling a partition, done in the same way and within the same share
//! of a core: the node may have been away for hours, and client requests come first. The sender
//! waits for the answer before it reads its next page, so it is never faster than this node.

use std::sync::Arc;

use bytes::Bytes;
use quorate_protocol::message::{Refusal, RepairReply, Reply};
use quorate_protocol::mutation::{Mutation, mutated};
use quorate_protocol::name::Key;
use quorate_protocol::object::Object;
use quorate_protocol::packed::{self, Lengths};
use quorate_protocol::time::WallTime;
use quorate_storage::{Error, MERGE_BATCH_ROWS, Source};

use crate::background::work;
use crate::cluster::view::ClusterView;
use crate::node::Node;
use crate::ops::replica::{may_merge, refusal_of};
use crate::repair::hints::ROOM_ROWS_MAX;

/// Hints, with their position in the message.
type Hints = Vec<(u16, Key, Bytes)>;

/// Merges hints in batches; once it replies, they are durable.
pub async fn take(
    node: &Arc<Node>,
    view: &ClusterView,
    hints: Lengths,
    payload: Bytes,
    read_at: WallTime,
) -> Reply {
    let is_page = hints.len() <= ROOM_ROWS_MAX;
    let Some(hints) = packed::unpack(hints, payload).filter(|_| is_page) else {
        return Reply::Refused(Refusal::Malformed);
    };
    let number = |(place, (key, object))| (place, key, object);
    let mut hints: Hints = (0..).zip(hints).map(number).collect();
    let mut refused = Vec::new();
    while !hints.is_empty() {
        let rest = hints.split_off(MERGE_BATCH_ROWS.min(hints.len()));
        let some = std::mem::replace(&mut hints, rest);
        let view = view.clone();
        let merging = move |node: &Node| merge(node, &view, some, read_at);
        match work::run_throttled(node, &node.fill_throttle, merging).await {
            Ok(Ok(mut some)) => refused.append(&mut some),
            Ok(Err(reply)) => return reply,
            Err(error) => return Reply::Refused(refusal_of(&error)),
        }
    }
    let durable = match mutated(Mutation::HintAckedEarly) {
        true => Ok(()),
        false => node.store.durable().await,
    };
    match durable {
        Ok(_) => Reply::Repair(RepairReply::Delivered { refused }),
        Err(error) => Reply::Refused(refusal_of(&error)),
    }
}

/// Merges some hints in one batch. Returns those that are refused individually, or the reply that
/// refuses all of them.
///
/// # Errors
/// The store's.
fn merge(
    node: &Node,
    view: &ClusterView,
    hints: Hints,
    read_at: WallTime,
) -> Result<Result<Vec<(u16, Refusal)>, Reply>, Error> {
    let now = node.now();
    let (mut rows, mut refused) = (Vec::with_capacity(hints.len()), Vec::new());
    for (place, key, bytes) in hints {
        if let Err(error) = Object::decode(bytes.clone()) {
            tracing::error!(?key, %error, "a hint for this node cannot be decoded here");
            refused.push((place, Refusal::Malformed));
            continue;
        }
        match may_merge(node, &key, read_at, now) {
            Ok(()) => rows.push((view.home(&key), key, bytes)),
            Err(Reply::Refused(why)) => refused.push((place, why)),
            Err(reply) => return Ok(Err(reply)),
        }
    }
    node.store.merge_page(rows, Source::Replica, now)?;
    Ok(Ok(refused))
}
