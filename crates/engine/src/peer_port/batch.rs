//! The batches that peers send (through [`crate::peer_port::stream`]): their messages are
//! executed one after another and answered together.
//!
//! A batch is executed in the epoch of its frame. If another cluster record is in force here, only the
//! messages by which the two nodes come to the same one are. If one of the two was sworn dead, nothing is
//! that has to do with data.
//!
//! A batch holds messages of one kind. All its stores are merged first and then share one wait for
//! durability; reads never wait for it.

use std::iter::Peekable;
use std::sync::Arc;
use std::time::Duration;

use tokio::time::Instant;

use quorate_protocol::get::{ReadKind, RowKind};
use quorate_protocol::message::{Data, DataReply, Message, Refusal, Reply, WithPayload};
use quorate_protocol::mutation::{Mutation, mutated};
use quorate_protocol::name::{Key, NodeId};
use quorate_protocol::object::Object;
use quorate_protocol::placement::Epoch;
use quorate_protocol::trace_context::TraceContext;
use quorate_protocol::wire::Frame;
use quorate_storage::{Blocking, Error};
use tokio::task::yield_now;

use crate::cluster::view::ClusterView;
use crate::limits::room::Room;
use crate::limits::sizes::{IN_PLACE_BYTES_MAX, LARGE_BYTES};
use crate::node::Node;
use crate::ops::replica::{self, on_blocking_pool, refusal_of};
use crate::ops::sampled_work::SampledWork;
use crate::peer_port::{cluster, data, query, repair};
use crate::seldom::Seldom;

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
    /// The epoch in which it was sent.
    sent_in: Epoch,
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
        let (from, sent_in) = (frame.header.from, frame.header.epoch);
        let messages = frame.messages.into_iter().peekable();
        Self { node, view: node.view(), from, sent_in, messages, sampled, has_room }
    }

    /// Comes to the epoch in which the batch was sent, if that is a newer one: the sender has the record.
    async fn catch_up(&mut self) {
        if self.sent_in.number > self.view.epoch().number {
            self.node.membership.epochs.saw(self.from, self.sent_in.number);
            let patience = Duration::from_millis(self.node.config.timeouts.replica_ms);
            self.node.membership.epochs.catch_up(patience).await;
            self.view = self.node.view();
        }
    }

    /// Executes the messages of the next part.
    pub async fn next(&mut self) -> Part {
        let node = self.node;
        let part_bytes_max = node.config.peers.batch_bytes_max;
        if self.sent_in != self.view.epoch()
            && self.messages.peek().is_some_and(|m| !is_of_any_epoch(m))
        {
            self.catch_up().await;
        }
        let hears = self.hears();
        match self.messages.peek().and_then(|next| hears.refuses(next)) {
            Some(Refusal::OtherEpoch) => {
                node.metrics.layout.refused(self.sent_in, self.view.epoch());
            }
            Some(_) => no_member(self.from),
            None => {}
        }
        let mut part = Part { replies: Vec::new(), is_last: false, _room: self.room().await };
        part.replies.reserve(self.messages.len());
        let (mut turn, mut bytes) = (Instant::now(), 0);
        while bytes < part_bytes_max
            && let Some(message) =
                self.messages.next_if(|next| part.replies.is_empty() || !asks_for_large(next))
        {
            if let Some(refusal) = hears.refuses(&message) {
                part.replies.push(WithPayload::bare(Reply::Refused(refusal)));
                continue;
            }
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

    /// What the sender and this node are to each other at this moment.
    fn hears(&self) -> Hears {
        if self.sent_in != self.view.epoch() && !mutated(Mutation::OldEpochAccepted) {
            return Hears::OfAnyEpoch(Refusal::OtherEpoch);
        }
        if !self.node.membership.is_member() {
            return Hears::OfAnyEpoch(Refusal::NoMember);
        }
        let is_gone = self.view.placement().is_gone(self.from);
        match is_gone && !mutated(Mutation::SwornDeadHeard) {
            true => Hears::OfCluster,
            false => Hears::All,
        }
    }

    /// Waits for memory for the next message's answer, if that is large.
    async fn room(&mut self) -> Option<Room> {
        if self.has_room {
            return None;
        }
        let Message::Data(Data::Read { key, what: ReadKind::Object, bytes_max, .. }) =
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

/// Which messages are executed.
#[derive(Clone, Copy)]
enum Hears {
    All,
    /// Those about the cluster: the sender was sworn dead. Its name may have a new disk by now, which greets,
    /// and asks to be named in the record.
    OfCluster,
    /// Those by which two nodes come to the same record. What becomes of the others.
    OfAnyEpoch(Refusal),
}

impl Hears {
    /// Why a message is not executed.
    fn refuses(self, message: &WithPayload<Message>) -> Option<Refusal> {
        let is_cluster = matches!(message.head, Message::Cluster(_));
        match self {
            Self::All => None,
            Self::OfCluster => (!is_cluster).then_some(Refusal::NoMember),
            Self::OfAnyEpoch(refusal) => (!is_of_any_epoch(message)).then_some(refusal),
        }
    }
}

/// Says that one of two nodes should not be running.
fn no_member(from: NodeId) {
    static SELDOM: Seldom = Seldom::new();
    if let Some(held_back) = SELDOM.now() {
        tracing::warn!(
            %from, held_back,
            "refused what a node asks for: that node, or this one, was sworn dead or removed"
        );
    }
}

/// Whether a message is executed whatever the sender's epoch is.
fn is_of_any_epoch(message: &WithPayload<Message>) -> bool {
    matches!(&message.head, Message::Cluster(message) if message.is_of_any_epoch())
}

/// Memory assumed for a large answer of unknown length, in bytes.
const UNKNOWN_BYTES: usize = 1 << 20;

/// Whether a message accepts an object of any length: memory is reserved only for the first one of
/// a part.
fn asks_for_large(message: &WithPayload<Message>) -> bool {
    matches!(message.head, Message::Data(Data::Read { what: ReadKind::Object, bytes_max, .. })
        if bytes_max as usize > LARGE_BYTES)
}

/// Whether the row to read or merge is so large that it takes long even in memory.
fn takes_long(node: &Node, message: &WithPayload<Message>) -> bool {
    if let Message::Data(Data::Read { key, .. }) = &message.head {
        let may_be = |known: usize| known == 0 || known > IN_PLACE_BYTES_MAX;
        return asks_for_large(message) && may_be(node.bounds.sizes.of(key));
    }
    matches!(message.head, Message::Data(Data::Store { .. })) && message.payload.len() > LARGE_BYTES
}

/// Waits until stored objects are durable; if that fails, their replies become refusals.
async fn make_durable(node: &Node, replies: &mut [WithPayload<Reply>]) {
    let stored = |reply: &WithPayload<Reply>| reply.head == Reply::Data(DataReply::Stored);
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
    matches!(message.head, Message::Data(Data::Store { .. }) | Message::Data(Data::Read { .. }))
}

/// Executes a read or merge of one row, most of what peers send; `None` for other messages.
fn on_a_row(
    node: &Node,
    view: &ClusterView,
    message: &WithPayload<Message>,
    blocking: Blocking,
) -> Option<Result<WithPayload<Reply>, Error>> {
    if let Message::Data(Data::Store { key, role, read_at }) = &message.head {
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
    let Message::Data(Data::Read { key, what, place, bytes_max }) = &message.head else {
        return None;
    };
    let bytes_max = *bytes_max as usize;
    if bytes_max <= LARGE_BYTES && *what == ReadKind::Object && *place == RowKind::Home {
        // Known to be too long: no need to read it.
        let known = node.bounds.sizes.of(key);
        if known > bytes_max && node.is_ready_for(view, key) {
            return Some(Ok(WithPayload::bare(Reply::Data(DataReply::Large {
                bytes: known as u32,
            }))));
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
    if reply.head != Reply::Data(DataReply::Object) {
        return reply;
    }
    let bytes = reply.payload.len();
    node.bounds.sizes.saw(key, bytes);
    if bytes <= bytes_max {
        return reply;
    }
    WithPayload::bare(Reply::Data(DataReply::Large {
        bytes: u32::try_from(bytes).unwrap_or(u32::MAX),
    }))
}

pub(super) fn refused(error: Error) -> WithPayload<Reply> {
    WithPayload::bare(Reply::Refused(refusal_of(&error)))
}

/// The node that asks, and its span, if the operation is sampled.
pub(super) type Asker = (NodeId, Option<TraceContext>);

/// Hands a message to the handler of its family.
async fn carry_out_one(
    node: &Arc<Node>,
    view: &ClusterView,
    asker: Asker,
    message: WithPayload<Message>,
) -> WithPayload<Reply> {
    let payload = message.payload;
    match message.head {
        Message::Data(message) => data::carry_out(node, view, asker, message, payload),
        Message::Repair(message) => repair::carry_out(node, view, message, payload).await,
        Message::Cluster(message) => {
            WithPayload::bare(cluster::carry_out(node, asker.0, message).await)
        }
        Message::Query(message) => query::carry_out(node, view, message).await,
        Message::Unknown(tag) => {
            if let Some(held_back) = node.unknown_messages.now() {
                tracing::warn!(peer = %asker.0, tag, held_back, "a message of a later release is refused");
            }
            WithPayload::bare(Reply::Refused(Refusal::Unsupported))
        }
    }
}
