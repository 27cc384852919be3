//! The batches that peers send (through [`crate::peer_port::stream`]): their messages are
//! executed one after another and answered together.
//!
//! A batch holds messages of one kind. All its stores are merged first and then share one wait for
//! durability; reads never wait for it.

use std::iter::Peekable;
use std::sync::Arc;
use std::time::Duration;

use tokio::time::Instant;

use bytes::Bytes;
use quorate_protocol::get::{ReadKind, RowKind};
use quorate_protocol::listing::ListRequest;
use quorate_protocol::message::{Message, Refusal, Reply, WithPayload, Write, WriteAnswer};
use quorate_protocol::mutation::{Mutation, mutated};
use quorate_protocol::name::{Bucket, Key, NodeId};
use quorate_protocol::object::Object;
use quorate_protocol::trace_context::TraceContext;
use quorate_protocol::wire::Frame;
use quorate_storage::{Blocking, Error};
use tokio::task::yield_now;

use crate::background::work;
use crate::cluster::view::ClusterView;
use crate::cluster::{bucket_change, hello};
use crate::limits::room::Room;
use crate::limits::sizes::{IN_PLACE_BYTES_MAX, LARGE_BYTES};
use crate::node::Node;
use crate::ops::replica::{self, on_blocking_pool, refusal_of};
use crate::ops::sampled_work::SampledWork;
use crate::ops::{coordinator, keys};
use crate::peer::mailbox::PeerEvent;
use crate::repair::anti_entropy::answers;
use crate::repair::hint_marks::Mark;
use crate::repair::hints;
use crate::repair::{delivery, reaper};

/// How long a batch runs before it yields the thread: a full one takes several milliseconds, and a
/// concurrent read should not wait for that.
const TURN_MAX: Duration = Duration::from_micros(500);

/// A batch in progress. It is answered in parts: as soon as the replies fill one frame, they are
/// sent before the next message is executed. So a batch never holds more than a part and one reply.
pub struct Batch<'a> {
    node: &'a Arc<Node>,
    /// With which all of its messages are executed.
    view: ClusterView,
    from: NodeId,
    messages: Peekable<std::vec::IntoIter<WithPayload<Message>>>,
    sampled: SampledWork,
    /// Whether memory for large bytes is held already: then the batch waits for no more.
    has_room: bool,
}

/// Some replies, in the order of the messages.
pub struct Part {
    /// The replies.
    pub replies: Vec<WithPayload<Reply>>,
    /// Whether these are the last ones.
    pub is_last: bool,
    /// Held until they are sent.
    _room: Option<Room>,
}

impl<'a> Batch<'a> {
    /// A batch of a node's messages.
    pub fn new(node: &'a Arc<Node>, frame: Frame<Message>, has_room: bool) -> Self {
        let sampled = SampledWork::of(&node.sampler, &frame);
        let messages = frame.messages.into_iter().peekable();
        Self { node, view: node.view(), from: frame.header.from, messages, sampled, has_room }
    }

    /// Executes the messages of the next part.
    pub async fn next(&mut self) -> Part {
        let node = self.node;
        let part_bytes_max = node.config.peers.batch_bytes_max;
        let mut part = Part { replies: Vec::new(), is_last: false, _room: self.room().await };
        part.replies.reserve(self.messages.len());
        let (mut turn, mut bytes) = (Instant::now(), 0);
        while bytes < part_bytes_max
            && let Some(message) =
                self.messages.next_if(|next| part.replies.is_empty() || !asks_for_large(next))
        {
            // A large row would block this thread, and all tasks on it, for too long even in
            // memory.
            let takes_long = takes_long(node, &message);
            let in_place = if takes_long {
                Some(Err(Error::WouldBlock))
            } else {
                on_a_row(node, &self.view, &message, Blocking::Never)
            };
            let _turn = node.bounds.turn_if(takes_long).await;
            let done = match in_place {
                // After a restart every row comes from the disk: one thread hop for all messages
                // that follow.
                Some(Err(Error::WouldBlock)) => {
                    let mut some = self.wait_for_disk(message, part_bytes_max - bytes).await;
                    bytes += some.iter().map(|reply| reply.payload.len()).sum::<usize>();
                    part.replies.append(&mut some);
                    continue;
                }
                Some(done) => done.unwrap_or_else(refused),
                None => {
                    let by = self.sampled.by(part.replies.len());
                    carry_out_one(node, &self.view, (self.from, by), message).await
                }
            };
            bytes += done.payload.len();
            part.replies.push(done);
            if turn.elapsed() >= TURN_MAX {
                yield_now().await;
                turn = Instant::now();
            }
        }
        part.is_last = self.messages.peek().is_none();
        make_durable(node, &mut part.replies).await;
        self.sampled.answered(&node.sampler, &part.replies);
        part
    }

    /// Waits for memory for the next message's answer, if that is large.
    async fn room(&mut self) -> Option<Room> {
        if self.has_room {
            return None;
        }
        let Message::Read { key, what: ReadKind::Object, bytes_max, .. } =
            &self.messages.peek()?.head
        else {
            return None;
        };
        let bytes_max = *bytes_max as usize;
        if bytes_max <= LARGE_BYTES {
            return None;
        }
        // The sender either states the length it knows or accepts any length.
        let known = self.node.bounds.sizes.of(key);
        let expected = if known > 0 { known.min(bytes_max) } else { bytes_max.min(UNKNOWN_BYTES) };
        Some(self.node.bounds.room.take(expected).await)
    }

    /// Runs [`on_a_row`] for a message and those that follow, on a thread that may block, until
    /// their replies have `bytes_max` bytes.
    async fn wait_for_disk(
        &mut self,
        first: WithPayload<Message>,
        bytes_max: usize,
    ) -> Vec<WithPayload<Reply>> {
        let mut some = vec![first];
        let fits = |next: &WithPayload<Message>| is_on_a_row(next) && !asks_for_large(next);
        some.extend(std::iter::from_fn(|| self.messages.next_if(fits)));
        let (asked, view) = (some.len(), self.view.clone());
        let carried_out = on_blocking_pool(self.node, move |node| {
            let (mut replies, mut bytes) = (Vec::with_capacity(some.len()), 0);
            let mut some = some.into_iter();
            while bytes < bytes_max
                && let Some(message) = some.next()
            {
                let done = on_a_row(node, &view, &message, Blocking::Allowed);
                let done = done.unwrap_or(Err(Error::WouldBlock)).unwrap_or_else(refused);
                bytes += done.payload.len();
                replies.push(done);
            }
            Ok((replies, some))
        });
        match carried_out.await {
            Ok((replies, rest)) => {
                let rest: Vec<_> = rest.chain(self.messages.by_ref()).collect();
                self.messages = rest.into_iter().peekable();
                replies
            }
            Err(error) => vec![refused(error); asked],
        }
    }
}

/// Memory assumed for a large answer of unknown length, in bytes.
const UNKNOWN_BYTES: usize = 1 << 20;

/// Whether a message accepts an object of any length: memory is reserved only for the first one of
/// a part.
fn asks_for_large(message: &WithPayload<Message>) -> bool {
    matches!(message.head, Message::Read { what: ReadKind::Object, bytes_max, .. }
        if bytes_max as usize > LARGE_BYTES)
}

/// Whether the row to read or merge is so large that it takes long even in memory.
fn takes_long(node: &Node, message: &WithPayload<Message>) -> bool {
    if let Message::Read { key, .. } = &message.head {
        let known = node.bounds.sizes.of(key);
        return asks_for_large(message) && (known == 0 || known > IN_PLACE_BYTES_MAX);
    }
    matches!(message.head, Message::Store { .. }) && message.payload.len() > LARGE_BYTES
}

/// Waits until stored objects are durable; if that fails, their replies become refusals.
async fn make_durable(node: &Node, replies: &mut [WithPayload<Reply>]) {
    let stored = |reply: &WithPayload<Reply>| reply.head == Reply::Stored;
    if mutated(Mutation::EarlyAck) {
        return;
    }
    if replies.iter().any(stored)
        && let Err(error) = node.store.durable().await
    {
        let refusal = refusal_of(&error);
        for reply in replies.iter_mut().filter(|reply| stored(reply)) {
            reply.head = Reply::Refused(refusal);
        }
    }
}

/// Whether [`on_a_row`] executes it.
fn is_on_a_row(message: &WithPayload<Message>) -> bool {
    matches!(message.head, Message::Store { .. } | Message::Read { .. })
}

/// Executes a read or merge of one row, most of what peers send; `None` for other messages.
fn on_a_row(
    node: &Node,
    view: &ClusterView,
    message: &WithPayload<Message>,
    blocking: Blocking,
) -> Option<Result<WithPayload<Reply>, Error>> {
    if let Message::Store { key, role, read_at } = &message.head {
        let object = match Object::decode(message.payload.clone()) {
            Ok(object) => object,
            Err(error) => {
                tracing::error!(?key, %error, "refused an object that cannot be decoded here");
                return Some(Ok(WithPayload::bare(Reply::Refused(Refusal::Malformed))));
            }
        };
        let place = replica::place_of(node, view, *role, key);
        let merged = replica::merge_now(node, place, key, &object, *read_at, blocking);
        return Some(merged.map(WithPayload::bare));
    }
    let Message::Read { key, what, place, bytes_max } = &message.head else { return None };
    let bytes_max = *bytes_max as usize;
    if bytes_max <= LARGE_BYTES && *what == ReadKind::Object && *place == RowKind::Home {
        // Known to be too long: no need to read it.
        let known = node.bounds.sizes.of(key);
        if known > bytes_max && node.is_ready_for(view, key) {
            return Some(Ok(WithPayload::bare(Reply::Large { bytes: known as u32 })));
        }
    }
    let read = replica::read_now(node, view, key, *what, *place, blocking);
    Some(read.map(|reply| no_longer_than(node, key, bytes_max, reply)))
}

/// The reply to a read, or only the object's length if it is longer than allowed.
fn no_longer_than(
    node: &Node,
    key: &Key,
    bytes_max: usize,
    reply: WithPayload<Reply>,
) -> WithPayload<Reply> {
    if reply.head != Reply::Object {
        return reply;
    }
    let bytes = reply.payload.len();
    node.bounds.sizes.saw(key, bytes);
    if bytes <= bytes_max {
        return reply;
    }
    WithPayload::bare(Reply::Large { bytes: u32::try_from(bytes).unwrap_or(u32::MAX) })
}

async fn conflicts(
    node: &Arc<Node>,
    bucket: Option<Bucket>,
    after: Option<Key>,
    limit: u16,
) -> Reply {
    let list = move |node: &Node| {
        let bucket = bucket.as_ref().map(Bucket::as_str);
        node.store.conflicts(bucket, after.as_ref(), usize::from(limit))
    };
    match work::run(node, list).await {
        Ok(keys) => Reply::Conflicts { keys },
        Err(error) => Reply::Refused(refusal_of(&error)),
    }
}

fn refused(error: Error) -> WithPayload<Reply> {
    WithPayload::bare(Reply::Refused(refusal_of(&error)))
}

/// Accepts a forwarded write, unless its answer might come too late: the entry node then tries
/// another home replica.
fn forwarded(
    node: &Arc<Node>,
    view: &ClusterView,
    from: Asker,
    operation: u64,
    mut write: Write,
    value: Bytes,
) -> Reply {
    if node.is_draining() {
        return Reply::Refused(Refusal::Stopping);
    }
    let Ok(value) = node.admission.charged(value) else { return Reply::Refused(Refusal::Busy) };
    write.draft.value = write.has_value.then_some(value);
    coordinator::accept(node, view, from, operation, write)
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
    WithPayload::bare(Reply::Accepted)
}

/// The node that asks, and its span, if the operation is sampled.
type Asker = (NodeId, Option<TraceContext>);

async fn carry_out_one(
    node: &Arc<Node>,
    view: &ClusterView,
    asker: Asker,
    message: WithPayload<Message>,
) -> WithPayload<Reply> {
    let (payload, from) = (message.payload, asker.0);
    match message.head {
        // `on_a_row` has already answered these.
        Message::Store { .. } | Message::Read { .. } => refused(Error::WouldBlock),
        Message::Forward { operation, write } => {
            WithPayload::bare(forwarded(node, view, asker, operation, *write, payload))
        }
        Message::Written { operation, answer } => written(node, from, operation, answer, payload),
        Message::Explained { operation, trace, answer, events } => {
            node.explanations.heard(from, trace, events); // first: the answer may show them
            match answer {
                Some(answer) => written(node, from, operation, answer, payload),
                None => WithPayload::bare(Reply::Accepted),
            }
        }
        Message::Inspect { key } => replica::inspect(node, view, key).await,
        Message::Conflicts { bucket, after, limit } => {
            WithPayload::bare(conflicts(node, bucket, after, limit).await)
        }
        Message::Hello { status } => WithPayload::bare(hello::answer(node, from, *status).await),
        Message::Buckets { table, want_all } => {
            WithPayload::bare(bucket_change::take(node, table, want_all).await)
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
            WithPayload::bare(crate::repair::distrusted::answer(node, decision).await)
        }
        Message::Deliver { hints, read_at } => {
            WithPayload::bare(delivery::take(node, view, hints, payload, read_at).await)
        }
        Message::Room => WithPayload::bare(Reply::Room { rows: hints::room(node) }),
        Message::SyncPoint => WithPayload::bare(node.hints.mark().into()),
        Message::Undelivered { nonce, mark } => {
            WithPayload::bare(hints::undelivered(node, Mark { nonce, number: mark }).await)
        }
        Message::Roots { roots } => WithPayload::bare(answers::roots(node, view, &roots)),
        Message::Leaves { tree, to_fill } => {
            WithPayload::bare(answers::leaves(node, tree, to_fill, &payload))
        }
        Message::List { tree, leaves, after, to_fill } => {
            WithPayload::bare(answers::list(node, (tree, to_fill), leaves, after).await)
        }
        Message::Versions { keys } => {
            WithPayload::bare(answers::versions_of(node, view, keys).await)
        }
        Message::Confirm { tombstones } => {
            WithPayload::bare(reaper::confirm(node, view, tombstones).await)
        }
        Message::Reap { tombstones } => {
            WithPayload::bare(reaper::reap(node, view, tombstones).await)
        }
        Message::Keys { bucket, prefix, after, limit } => {
            let question = ListRequest { bucket, prefix, after, limit };
            WithPayload::bare(keys::answer(node, view, question).await)
        }
    }
}
