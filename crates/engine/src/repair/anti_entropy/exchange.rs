//! Drives `protocol::exchange` over one tree: queries the peer, reads the store, repairs both
//! sides.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use futures_util::future::join_all;
use quorate_protocol::exchange::{
    self, Difference, Exchange, PAGE_KEYS_MAX, Page, Repaired, Step, Summary, UNREADABLE,
};
use quorate_protocol::get::{ReadKind, RowKind};
use quorate_protocol::handshake::PROTOCOL_MAX;
use quorate_protocol::message::head::Head;
use quorate_protocol::message::{
    Data, DataReply, Message, Query, QueryReply, Refusal, Repair, RepairReply, Reply, WithPayload,
};
use quorate_protocol::name::{Key, NodeId};
use quorate_protocol::object::{Object, Version};
use quorate_protocol::packed;
use quorate_protocol::put::Role;
use quorate_protocol::row::Row;
use quorate_protocol::time::WallTime;
use quorate_protocol::tree::{LeafSet, Tree};
use quorate_storage::{Blocking, Error};

use super::round::patience;
use crate::background::throttle::Throttle;
use crate::background::work;
use crate::cluster::view::ClusterView;
use crate::limits::sizes::LARGE_BYTES;
use crate::node::Node;
use crate::ops::replica;

/// Keys of one page that are repaired together.
const REPAIRS_MAX: usize = 64;
/// Bytes of one page that are held while they are repaired; a single larger object still is.
const REPAIR_BYTES_MAX: usize = 8 << 20;
/// Approximate processor time on this node for fetching and sending one key's object.
const TALK_PER_KEY: Duration = Duration::from_micros(50);

/// Why a tree is compared.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Asking {
    /// Two replicas that have received the partition.
    ToCompare,
    /// This node has not received the partition yet. It takes what the peer has, even if the peer
    /// has not received all of it either: all nodes may have come back behind at once.
    ToFill {
        /// Hash of the n of all buckets as this node knows them: only if the peer's is equal do its
        /// trees prove anything.
        ns: u64,
    },
}

impl Asking {
    fn to_fill(self) -> Option<u64> {
        match self {
            Self::ToCompare => None,
            Self::ToFill { ns } => Some(ns),
        }
    }
}

/// An exchange with one peer, with its byte counts.
pub struct Talk<'a> {
    node: &'a Arc<Node>,
    peer: NodeId,
    sent: AtomicU64,
    received: AtomicU64,
    broken: Mutex<Vec<Key>>,
}

impl<'a> Talk<'a> {
    /// Starts with nothing sent.
    pub fn new(node: &'a Arc<Node>, peer: NodeId) -> Self {
        let (sent, received) = (AtomicU64::new(0), AtomicU64::new(0));
        Self { node, peer, sent, received, broken: Mutex::default() }
    }

    /// Keys whose objects the peer has but cannot give, or gave damaged.
    pub fn broken(self) -> Vec<Key> {
        self.broken.into_inner().unwrap_or_else(PoisonError::into_inner)
    }

    /// Bytes of messages sent and of replies received.
    pub fn bytes(&self) -> (u64, u64) {
        (self.sent.load(Relaxed), self.received.load(Relaxed))
    }

    /// Sends a request and waits for the reply; `None` on timeout.
    pub async fn ask(&self, message: Message, payload: &[u8]) -> Option<Reply> {
        self.ask_for_payload(message, Bytes::copy_from_slice(payload)).await.map(|reply| reply.head)
    }

    async fn ask_for_payload(
        &self,
        message: Message,
        payload: Bytes,
    ) -> Option<WithPayload<Reply>> {
        self.sent.fetch_add(encoded_bytes(&message) + payload.len() as u64, Relaxed);
        let patience = patience(self.node);
        let heard = self.node.peers.ask_aside(self.peer, message, payload, patience).await;
        let reply = heard.into_reply()?;
        self.received.fetch_add(encoded_bytes(&reply.head) + reply.payload.len() as u64, Relaxed);
        Some(reply)
    }
}

fn encoded_bytes(head: &impl Head) -> u64 {
    head.encoded_len(PROTOCOL_MAX) as u64
}

/// Compares one tree with the peer and repairs both sides.
pub async fn repair_tree(talk: &Talk<'_>, tree: Tree, why: Asking) -> Summary {
    let (mut exchange, mut step) = match why {
        Asking::ToCompare => Exchange::start(talk.node.buckets.assignment().buckets_in_doubt()),
        Asking::ToFill { .. } => Exchange::start_to_fill(),
    };
    loop {
        let next = match step {
            Step::CompareLeaves => match differing_leaves(talk, tree, why).await {
                Compared::Differ(differing) => Some(exchange.on_leaves(differing)),
                Compared::InDoubt | Compared::Silent => None,
            },
            Step::List { leaves, after } => {
                list(talk, (tree, why), leaves, after, &mut exchange).await
            }
            Step::Recheck { keys, not_before } => {
                tokio::time::sleep_until(talk.node.instant(not_before)).await;
                recheck(talk, keys, &mut exchange).await
            }
            Step::Repair(differences) => {
                let came = repair(talk, differences, why).await;
                came.map(|came| exchange.on_repaired(came))
            }
            Step::Done(summary) => return summary,
        };
        step = next.unwrap_or_else(|| exchange.abort());
    }
}

/// The peer's answer to this node's leaves.
enum Compared {
    /// These differ from its own.
    Differ(LeafSet),
    /// Its rows may be in other trees, or it does not know yet what it holds.
    InDoubt,
    /// No answer, or an invalid one.
    Silent,
}

/// The leaves in which the peer's tree differs from this node's.
async fn differing_leaves(talk: &Talk<'_>, tree: Tree, why: Asking) -> Compared {
    let leaves = talk.node.store.leaves(tree).to_bytes();
    match talk.ask(Message::Repair(Repair::Leaves { tree, to_fill: why.to_fill() }), &leaves).await
    {
        Some(Reply::Repair(RepairReply::Leaves { differing })) => Compared::Differ(differing),
        Some(Reply::NotFilled) => Compared::InDoubt,
        Some(_) | None => Compared::Silent,
    }
}

/// How a node that fills should receive the rows of some trees from a peer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Way {
    /// Find and fetch the missing ones.
    Compare,
    /// Fetch the whole partition.
    Stream,
    /// Fetch the whole partition, because the peer's trees prove nothing now.
    StreamInDoubt,
}

/// Chooses between them; `None` if the peer does not answer.
pub async fn way(talk: &Talk<'_>, trees: &[Tree], why: Asking) -> Option<Way> {
    let mut way = Way::Compare;
    for tree in trees {
        match differing_leaves(talk, *tree, why).await {
            Compared::Differ(differing) => {
                let ours = talk.node.store.leaves(*tree);
                if exchange::should_stream(&ours, &differing) {
                    way = Way::Stream;
                }
            }
            Compared::InDoubt => return Some(Way::StreamInDoubt),
            Compared::Silent => return None,
        }
    }
    Some(way)
}

async fn list(
    talk: &Talk<'_>,
    (tree, why): (Tree, Asking),
    leaves: LeafSet,
    after: Option<Key>,
    exchange: &mut Exchange,
) -> Option<Step> {
    let question = Message::Repair(Repair::List {
        tree,
        leaves,
        after: after.clone(),
        to_fill: why.to_fill(),
    });
    let ours = work::run(talk.node, move |node| {
        node.store.list(tree, leaves, after.as_ref(), PAGE_KEYS_MAX)
    });
    let (ours, theirs): (Result<Page, Error>, _) = tokio::join!(ours, talk.ask(question, &[]));
    match (ours, theirs?) {
        (Ok(ours), Reply::Repair(RepairReply::Page(theirs))) => {
            Some(exchange.on_pages(ours, theirs, talk.node.uptime()))
        }
        (Ok(_) | Err(_), _) => None,
    }
}

async fn recheck(talk: &Talk<'_>, keys: Vec<Key>, exchange: &mut Exchange) -> Option<Step> {
    let question = Message::Repair(Repair::Versions { keys: keys.clone() });
    let ours = work::run(talk.node, move |node| versions(node, &node.view(), &keys));
    let (ours, theirs) = tokio::join!(ours, talk.ask(question, &[]));
    match (ours, theirs?) {
        (Ok(ours), Reply::Repair(RepairReply::Versions { versions })) => {
            Some(exchange.on_versions(&ours, &versions))
        }
        (Ok(_) | Err(_), _) => None,
    }
}

/// The versions of this node's home rows. Blocks.
pub(super) fn versions(
    node: &Node,
    view: &ClusterView,
    keys: &[Key],
) -> Result<Vec<Version>, Error> {
    let version = |key: &Key| match node.store.versions(&[(view.home(key), key.clone())]) {
        Ok(versions) => Ok(versions.first().copied().unwrap_or(Version::ABSENT)),
        Err(error) if error.is_undecodable() => Ok(UNREADABLE), // report the others nevertheless
        Err(error) => Err(error),
    };
    keys.iter().map(version).collect()
}

/// Repairs some keys. Returns the counts; `None` if what was merged here is not durable.
async fn repair(talk: &Talk<'_>, differences: Vec<Difference>, why: Asking) -> Option<Repaired> {
    let throttle = match why {
        Asking::ToCompare => &talk.node.anti_entropy.throttle,
        Asking::ToFill { .. } => &talk.node.fill_throttle,
    };
    let mut came = Repaired::default();
    let mut todo: VecDeque<KeyRepair> = differences.into_iter().map(KeyRepair::new).collect();
    while !todo.is_empty() {
        let some = some_of(talk.node, &mut todo);
        // Each exchange holds the objects it repairs: only a few with large ones run at a time.
        let is_large = some.iter().any(|one| one.bytes(talk.node) > 0);
        let large = &talk.node.anti_entropy.large;
        let _turn = if is_large { large.acquire().await.ok() } else { None };
        throttle.charge(TALK_PER_KEY * some.len() as u32);
        let (Repaired { repaired, missed }, later) = repair_batch(talk, throttle, some, why).await;
        came = Repaired { repaired: came.repaired + repaired, missed: came.missed + missed };
        todo.extend(later);
    }
    let is_durable = talk.node.store.durable().await.is_ok();
    is_durable.then_some(came)
}

/// A key under repair.
struct KeyRepair {
    difference: Difference,
    /// Its object turned out to be large: it is repaired alone.
    is_alone: bool,
}

impl KeyRepair {
    fn new(difference: Difference) -> Self {
        Self { difference, is_alone: false }
    }

    /// The size of its object in bytes, if that is known to be large; else 0.
    fn bytes(&self, node: &Node) -> usize {
        if self.is_alone { REPAIR_BYTES_MAX } else { node.bounds.sizes.of(&self.difference.key) }
    }
}

/// The next keys to repair together.
fn some_of(node: &Node, todo: &mut VecDeque<KeyRepair>) -> Vec<KeyRepair> {
    let (mut some, mut bytes): (Vec<KeyRepair>, usize) = (Vec::new(), 0);
    while some.len() < REPAIRS_MAX
        && let Some(next) = todo.front()
    {
        let next_bytes = next.bytes(node);
        if !some.is_empty() && bytes + next_bytes > REPAIR_BYTES_MAX {
            break;
        }
        bytes += next_bytes;
        some.extend(todo.pop_front());
    }
    some
}

/// Brings some keys to the same objects on both sides: fetches the peer's, merges them all here,
/// sends what the peer lacks. Returns the counts, and the keys to repair alone.
async fn repair_batch(
    talk: &Talk<'_>,
    throttle: &Throttle,
    some: Vec<KeyRepair>,
    why: Asking,
) -> (Repaired, Vec<KeyRepair>) {
    let count = some.len();
    let fetching = some.into_iter().map(|one| async move {
        let KeyRepair { difference, is_alone } = one;
        let fetched = match difference.must_fetch() {
            true => Some(fetch(talk, &difference.key, why, is_alone).await),
            false => None,
        };
        (difference, fetched)
    });
    let (mut found, mut later, mut broken) = (Vec::new(), Vec::new(), 0);
    for (difference, fetched) in join_all(fetching).await {
        match fetched {
            None => found.push((difference, None)),
            Some(Fetched::Object(object, read_at)) => {
                found.push((difference, Some((object, read_at))));
            }
            Some(Fetched::Larger) => later.push(KeyRepair { difference, is_alone: true }),
            Some(Fetched::Broken) => {
                broken += 1;
                note_broken(talk, &difference.key);
            }
            Some(Fetched::Nothing) => {}
        }
    }
    let count = count - later.len() - broken;
    let settled = work::run_throttled(talk.node, throttle, move |node| {
        let settle = |(difference, fetched)| settle(node, &difference, fetched);
        Ok(found.into_iter().filter_map(settle).collect::<Vec<Settled>>())
    });
    let settled = settled.await.unwrap_or_default();
    let missed = (count - settled.len()) as u64;
    let sending = settled.into_iter().map(|settled| async move {
        let Some((message, object)) = settled else { return true };
        let reply = talk.ask_for_payload(message, object).await;
        reply.is_some_and(|reply| reply.head == Reply::Data(DataReply::Stored))
    });
    let repaired = join_all(sending).await.into_iter().filter(|is_repaired| *is_repaired).count();
    (Repaired { repaired: repaired as u64, missed }, later)
}

fn note_broken(talk: &Talk<'_>, key: &Key) {
    tracing::warn!(?key, peer = %talk.peer, "the peer cannot give what it holds of a key");
    talk.broken.lock().unwrap_or_else(PoisonError::into_inner).push(key.clone());
}

/// The result of asking a peer for its object of a key.
enum Fetched {
    /// The object, and the earliest time at which it may have been read.
    Object(Object, WallTime),
    /// It has one but cannot give it: it is damaged, or larger than a frame.
    Broken,
    /// It has one that is larger than was known, and must be fetched alone.
    Larger,
    /// No answer, or the peer no longer has one.
    Nothing,
}

/// What remains to be done once the peer's object is merged here: a message to send, or nothing.
type Settled = Option<(Message, Bytes)>;

/// Merges the peer's object into this node's row and returns what must be sent. `None` if the key
/// cannot be repaired now. Blocks.
fn settle(
    node: &Node,
    difference: &Difference,
    fetched: Option<(Object, WallTime)>,
) -> Option<Settled> {
    let key = difference.key.clone();
    let home = node.view().home(&key);
    if let Some((object, read_at)) = fetched {
        match replica::merge_now(node, home, &key, &object, read_at, Blocking::Allowed) {
            Ok(Reply::Data(DataReply::Stored)) => {}
            Ok(_) | Err(_) => return None,
        }
    }
    // The time of this read, not of the listing: a message says when its object was read.
    let read_at = node.now();
    match node.store.read(home, &key, Blocking::Allowed).ok()? {
        Some(row) if difference.must_send(Row::encoded_version(&row)?) => {
            let object = Row::encoded_object(&row)?;
            Some(Some((Message::Data(Data::Store { key, role: Role::Home, read_at }), object)))
        }
        Some(_) => Some(None),
        // The row was dropped in the meantime, or the peer's object was absent.
        None => difference.must_fetch().then_some(None),
    }
}

/// Fetches the peer's object: with `alone` of any length, else only if it is no larger than was
/// known.
async fn fetch(talk: &Talk<'_>, key: &Key, why: Asking, alone: bool) -> Fetched {
    let read_at = talk.node.now();
    let key = key.clone();
    let known = talk.node.bounds.sizes.of(&key).max(LARGE_BYTES);
    let bytes_max = if alone { u32::MAX } else { known as u32 };
    let question = match why {
        Asking::ToCompare => {
            let (key, what, place) = (key.clone(), ReadKind::Object, RowKind::Home);
            Message::Data(Data::Read { key, what, place, bytes_max })
        }
        Asking::ToFill { .. } => Message::Query(Query::Inspect { key: key.clone() }),
    };
    let Some(mut reply) = talk.ask_for_payload(question, Bytes::new()).await else {
        return Fetched::Nothing;
    };
    if let Reply::Data(DataReply::Large { bytes }) = reply.head {
        talk.node.bounds.sizes.saw(&key, bytes as usize);
        return Fetched::Larger;
    }
    let object = if let Reply::Query(QueryReply::Inspection { own: Some(len), .. }) = reply.head {
        packed::take(&mut reply.payload, len)
    } else if reply.head == Reply::Data(DataReply::Object) {
        Some(reply.payload)
    } else if reply.head == Reply::Refused(Refusal::Failed) {
        None
    } else {
        return Fetched::Nothing;
    };
    match object.map(Object::decode) {
        Some(Ok(object)) => Fetched::Object(object, read_at),
        Some(Err(_)) | None => Fetched::Broken,
    }
}

/// Merges the peer's object of a key, if it has one. Returns whether the peer gave all that it has.
pub async fn receive_key(node: &Arc<Node>, peer: NodeId, key: &Key) -> bool {
    let talk = Talk::new(node, peer);
    let (question, read_at) = (Message::Query(Query::Inspect { key: key.clone() }), node.now());
    let Some(mut reply) = talk.ask_for_payload(question, Bytes::new()).await else { return false };
    let Reply::Query(QueryReply::Inspection { own, .. }) = reply.head else { return false };
    let Some(len) = own else { return true };
    let object = packed::take(&mut reply.payload, len).map(Object::decode);
    let Some(Ok(object)) = object else { return false };
    let merged = replica::merge(node, &node.view(), Role::Home, key, object, read_at).await;
    merged == Reply::Data(DataReply::Stored) && node.store.durable().await.is_ok()
}
