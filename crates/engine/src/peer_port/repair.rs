//! Executes the messages of repair.

use std::sync::Arc;

use bytes::Bytes;
use quorate_protocol::message::{Refusal, Repair, RepairReply, Reply, WithPayload};

use quorate_protocol::mutation::{Mutation, mutated};

use crate::cluster::view::ClusterView;
use crate::node::Node;
use crate::ops::replica;
use crate::repair::anti_entropy::answers;
use crate::repair::hint_marks::Mark;
use crate::repair::{delivery, distrusted, hints, reaper};

/// Executes one.
pub(super) async fn carry_out(
    node: &Arc<Node>,
    view: &ClusterView,
    message: Repair,
    payload: Bytes,
) -> WithPayload<Reply> {
    let is_drained = node.is_drained() || mutated(Mutation::PageBeforeDrained);
    if tells_of_rows(&message) && !is_drained {
        // What is still being carried out by an earlier record may not be in the rows yet. Asked again soon.
        return WithPayload::bare(Reply::Refused(Refusal::Busy));
    }
    let reply = match message {
        Repair::Fetch { rows, after } => return replica::fetch(node, rows, after).await,
        Repair::Roots { roots } => answers::roots(node, view, &roots),
        Repair::Leaves { tree, to_fill } => answers::leaves(node, tree, to_fill, &payload),
        Repair::List { tree, leaves, after, to_fill } => {
            answers::list(node, (tree, to_fill), leaves, after).await
        }
        Repair::Versions { keys } => answers::versions_of(node, view, keys).await,
        Repair::Deliver { hints, read_at } => {
            delivery::take(node, view, hints, payload, read_at).await
        }
        Repair::Room => RepairReply::Room { rows: hints::room(node) }.into(),
        Repair::SyncPoint => node.hints.mark().into(),
        Repair::Undelivered { nonce, mark } => {
            hints::undelivered(node, Mark { nonce, number: mark }).await
        }
        Repair::Confirm { tombstones } => reaper::confirm(node, view, tombstones).await,
        Repair::Reap { tombstones } => reaper::reap(node, view, tombstones).await,
        Repair::Distrusted { decision } => distrusted::answer(node, decision).await,
    };
    WithPayload::bare(reply)
}

/// Whether the answer says what this node's rows hold, so that others conclude that they have all of it.
fn tells_of_rows(message: &Repair) -> bool {
    match message {
        Repair::Fetch { .. }
        | Repair::Roots { .. }
        | Repair::Leaves { .. }
        | Repair::List { .. }
        | Repair::Confirm { .. } => true,
        Repair::Versions { .. }
        | Repair::Deliver { .. }
        | Repair::Room
        | Repair::SyncPoint
        | Repair::Undelivered { .. }
        | Repair::Reap { .. }
        | Repair::Distrusted { .. } => false,
    }
}
