//! Executes the messages of operations: forwarded writes and their results. Stores and reads of a row are
//! executed by the batch itself, many at a time.

use std::sync::Arc;

use bytes::Bytes;
use quorate_protocol::data_type::Operation;
use quorate_protocol::message::{Data, DataReply, Refusal, Reply, WithPayload, Write, WriteAnswer};
use quorate_protocol::name::NodeId;
use quorate_storage::Error;

use crate::cluster::view::ClusterView;
use crate::node::Node;
use crate::ops::coordinator;
use crate::peer::mailbox::PeerEvent;
use crate::peer_port::batch::{Asker, refused};

/// Executes one.
pub(super) fn carry_out(
    node: &Arc<Node>,
    view: &ClusterView,
    asker: Asker,
    message: Data,
    payload: Bytes,
) -> WithPayload<Reply> {
    let from = asker.0;
    match message {
        // The batch has already answered these.
        Data::Store { .. } | Data::Read { .. } => refused(Error::WouldBlock),
        Data::Forward { operation, write } => {
            let take =
                |write: &mut Write, value| write.draft.value = write.has_value.then_some(value);
            WithPayload::bare(forwarded(node, view, asker, (operation, *write), payload, take))
        }
        Data::ForwardExpiring { operation, lifetime, write } => {
            let take = |write: &mut Write, value| {
                write.draft.value = write.has_value.then_some(value);
                write.draft.lifetime = lifetime;
            };
            WithPayload::bare(forwarded(node, view, asker, (operation, *write), payload, take))
        }
        Data::Change { operation, write } => {
            let Some(change) = Operation::decode(&payload) else {
                return WithPayload::bare(Reply::Refused(Refusal::Malformed));
            };
            let take = |write: &mut Write, _| write.draft.operation = Some(change);
            WithPayload::bare(forwarded(node, view, asker, (operation, *write), payload, take))
        }
        Data::Written { operation, answer } => written(node, from, operation, answer, payload),
        Data::Explained { operation, trace, answer, events } => {
            node.explanations.heard(from, trace, events); // first: the answer may show them
            match answer {
                Some(answer) => written(node, from, operation, answer, payload),
                None => WithPayload::bare(DataReply::Accepted.into()),
            }
        }
    }
}

/// Accepts a forwarded write, unless its answer might come too late: the entry node then tries
/// another home replica.
fn forwarded(
    node: &Arc<Node>,
    view: &ClusterView,
    asker: Asker,
    (operation, mut write): (u64, Write),
    payload: Bytes,
    take: impl FnOnce(&mut Write, Bytes),
) -> Reply {
    if node.is_draining() {
        return Reply::Refused(Refusal::Stopping);
    }
    let Ok(payload) = node.admission.charged(payload) else { return Reply::Refused(Refusal::Busy) };
    take(&mut write, payload);
    coordinator::accept(node, view, asker, operation, write)
}

/// Hands the result of a forwarded write to its operation.
fn written(
    node: &Node,
    from: NodeId,
    operation: u64,
    head: WriteAnswer,
    payload: Bytes,
) -> WithPayload<Reply> {
    let answer = Box::new(WithPayload { head, payload: node.admission.held(payload) });
    node.forwards.tell(operation, from, PeerEvent::Written(answer));
    WithPayload::bare(Reply::Data(DataReply::Accepted))
}
