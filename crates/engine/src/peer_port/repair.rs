//! Executes the messages of repair.

use std::sync::Arc;

use bytes::Bytes;
use quorate_protocol::message::{Repair, RepairReply, Reply, WithPayload};

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
