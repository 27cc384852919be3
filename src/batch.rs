//! The batches that peers send (through [`crate::peer_port`]): their messages are carried out one after the
//! other, and answered together.
//!
//! A batch holds messages of one kind. All its stores are merged first and then share one wait for
//! durability; reads never wait for it.

use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use quorate_protocol::listing::Question;
use quorate_protocol::message::{Message, Refusal, Reply, WithPayload, Write};
use quorate_protocol::name::NodeId;
use quorate_protocol::object::Object;
use quorate_storage::{Blocking, Error};
use tokio::task::yield_now;

use crate::anti_entropy::answers;
use crate::hints::{self, Mark};
use crate::mailbox::Heard;
use crate::node::Node;
use crate::replica::{self, on_blocking_pool, refusal_of};
use crate::{delivery, keys, minter, reaper};

/// How long a batch keeps a thread before others get a turn: a full one takes several milliseconds, and a
/// read that comes meanwhile should not.
const TURN_MAX: Duration = Duration::from_micros(500);

/// Carries out a batch and answers in the order of the messages.
pub(crate) async fn carry_out(
    node: &Arc<Node>,
    from: NodeId,
    messages: Vec<WithPayload<Message>>,
) -> Vec<WithPayload<Reply>> {
    let mut replies = Vec::with_capacity(messages.len());
    let mut turn = Instant::now();
    let mut messages = messages.into_iter().peekable();
    while let Some(message) = messages.next() {
        match on_a_row(node, &message, Blocking::Never) {
            Some(Err(Error::WouldBlock)) => {
                // A node that has just started reads every row from the disk: one hop for all that follow.
                let mut some = vec![message];
                some.extend(std::iter::from_fn(|| messages.next_if(is_on_a_row)));
                replies.append(&mut wait_for_disk(node, some).await);
            }
            Some(done) => replies.push(done.unwrap_or_else(refused)),
            None => replies.push(carry_out_one(node, from, message).await),
        }
        if turn.elapsed() >= TURN_MAX {
            yield_now().await;
            turn = Instant::now();
        }
    }
    let stored = |reply: &WithPayload<Reply>| reply.head == Reply::Stored;
    if replies.iter().any(stored)
        && let Err(error) = node.store.durable().await
    {
        let refusal = refusal_of(&error);
        for reply in replies.iter_mut().filter(|reply| stored(reply)) {
            reply.head = Reply::Refused(refusal);
        }
    }
    replies
}

/// Whether [`on_a_row`] carries it out.
fn is_on_a_row(message: &WithPayload<Message>) -> bool {
    matches!(message.head, Message::Store { .. } | Message::Read { .. })
}

/// Carries out what reads or merges one row, the bulk of what peers ask; `None` for all else.
fn on_a_row(
    node: &Node,
    message: &WithPayload<Message>,
    blocking: Blocking,
) -> Option<Result<WithPayload<Reply>, Error>> {
    if let Message::Store { key, role, read_at } = &message.head {
        let Ok(object) = Object::decode(message.payload.clone()) else {
            return Some(Ok(WithPayload::bare(Reply::Refused(Refusal::Malformed))));
        };
        let place = replica::place_of(node, *role, key);
        let merged = replica::merge_now(node, place, key, &object, *read_at, blocking);
        return Some(merged.map(WithPayload::bare));
    }
    let Message::Read { key, what, place } = &message.head else { return None };
    Some(replica::read_now(node, key, *what, *place, blocking))
}

/// As [`on_a_row`] for each of some messages, on a thread that may block.
async fn wait_for_disk(
    node: &Arc<Node>,
    messages: Vec<WithPayload<Message>>,
) -> Vec<WithPayload<Reply>> {
    let asked = messages.len();
    let carried_out = on_blocking_pool(node, move |node| {
        let carry_out = |message| on_a_row(node, message, Blocking::Allowed);
        let done = messages.iter().filter_map(carry_out);
        Ok(done.map(|done| done.unwrap_or_else(refused)).collect())
    });
    let closed = |error| vec![refused(error); asked];
    carried_out.await.unwrap_or_else(closed)
}

fn refused(error: Error) -> WithPayload<Reply> {
    WithPayload::bare(Reply::Refused(refusal_of(&error)))
}

/// Takes a write over, unless its answer might come too late: another home replica takes it then.
fn forwarded(
    node: &Arc<Node>,
    from: NodeId,
    operation: u64,
    mut write: Write,
    value: Bytes,
) -> Reply {
    if node.is_draining() {
        return Reply::Refused(Refusal::Stopping);
    }
    write.draft.value = write.has_value.then_some(value);
    minter::accept(node, from, operation, write)
}

async fn carry_out_one(
    node: &Arc<Node>,
    from: NodeId,
    message: WithPayload<Message>,
) -> WithPayload<Reply> {
    let payload = message.payload;
    match message.head {
        // `on_a_row` has answered these.
        Message::Store { .. } | Message::Read { .. } => refused(Error::WouldBlock),
        Message::Forward { operation, write } => {
            WithPayload::bare(forwarded(node, from, operation, *write, payload))
        }
        Message::Written { operation, answer } => {
            let answer = Box::new(WithPayload { head: answer, payload });
            node.forwards.tell(operation, from, Heard::Written(answer));
            WithPayload::bare(Reply::Accepted)
        }
        Message::Inspect { key } => replica::inspect(node, key).await,
        Message::Conflicts { bucket, after, limit } => {
            let bucket = bucket.as_ref().map(|bucket| bucket.as_str());
            let found = node.store.conflicts(bucket, after.as_ref(), usize::from(limit));
            WithPayload::bare(match found {
                Ok(keys) => Reply::Conflicts { keys },
                Err(error) => Reply::Refused(refusal_of(&error)),
            })
        }
        Message::Hello { status } => {
            WithPayload::bare(crate::background::answer(node, from, *status).await)
        }
        Message::Buckets { table, want_all } => {
            let merged =
                on_blocking_pool(node, move |node| node.buckets.merge(&node.store, &table));
            WithPayload::bare(match merged.await {
                Ok(_) if want_all => Reply::Buckets { table: node.buckets.table() },
                Ok(_) => Reply::Buckets { table: Default::default() },
                Err(error) => Reply::Refused(refusal_of(&error)),
            })
        }
        Message::Form { formation } => {
            let recorded =
                on_blocking_pool(node, move |node| node.record_formation(formation, false));
            WithPayload::bare(match recorded.await {
                Ok(()) => Reply::Status(Box::new(node.status())),
                Err(error) => Reply::Refused(refusal_of(&error)),
            })
        }
        Message::Fetch { rows, after } => replica::fetch(node, rows, after).await,
        Message::Distrusted { decision } => {
            WithPayload::bare(crate::distrusted::answer(node, decision).await)
        }
        Message::Deliver { hints, read_at } => {
            WithPayload::bare(delivery::take(node, hints, payload, read_at).await)
        }
        Message::Room => WithPayload::bare(Reply::Room { rows: hints::room(node) }),
        Message::SyncPoint => WithPayload::bare(node.hints.mark().into()),
        Message::Undelivered { nonce, mark } => {
            WithPayload::bare(hints::undelivered(node, Mark { nonce, number: mark }).await)
        }
        Message::Roots { roots } => WithPayload::bare(answers::roots(node, &roots)),
        Message::Leaves { tree } => WithPayload::bare(answers::leaves(node, tree, &payload)),
        Message::List { tree, leaves, after } => {
            WithPayload::bare(answers::list(node, tree, leaves, after).await)
        }
        Message::Versions { keys } => WithPayload::bare(answers::versions_of(node, keys).await),
        Message::Confirm { tombstones } => {
            WithPayload::bare(reaper::confirm(node, tombstones).await)
        }
        Message::Reap { tombstones } => WithPayload::bare(reaper::reap(node, tombstones).await),
        Message::Keys { bucket, prefix, after, limit } => {
            let question = Question { bucket, prefix, after, limit };
            WithPayload::bare(keys::answer(node, question).await)
        }
    }
}
