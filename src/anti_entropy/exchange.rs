//! Drives `protocol::exchange` over one tree: asks the peer, reads the store, mends.

use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::Duration;

use bytes::Bytes;
use futures_util::future::join_all;
use quorate_protocol::exchange::{self, Difference, Exchange, PAGE_KEYS_MAX, Page, Step, Summary};
use quorate_protocol::get::{What, Where};
use quorate_protocol::message::{Message, Reply, WithPayload};
use quorate_protocol::name::{Key, NodeId};
use quorate_protocol::object::{Object, Version};
use quorate_protocol::packed;
use quorate_protocol::put::Role;
use quorate_protocol::row::Row;
use quorate_protocol::stamp::Millis;
use quorate_protocol::tree::{LeafSet, Tree};
use quorate_storage::{Blocking, Error};
use serde::Serialize;

use super::Pace;
use super::round::patience;
use crate::chores;
use crate::node::Node;
use crate::replica;
use crate::sizes::LARGE_BYTES;

/// Keys of one page that are mended together.
const MENDING_MAX: usize = 64;
/// Bytes of one page that are held while they are mended; a single larger object still is.
const MENDED_BYTES_MAX: usize = 8 << 20;
/// What asking for a key's object and sending it costs this node in processor time, about.
const TALK_PER_KEY: Duration = Duration::from_micros(50);

/// Why a tree is compared.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Asking {
    /// Two replicas that have received the partition.
    ToCompare,
    /// This node has not received the partition yet. It takes what the peer has, even if the peer has
    /// not received all of it either: all nodes may have come back behind at once.
    ToFill,
}

/// A conversation with one peer, and how much was said.
pub struct Talk<'a> {
    node: &'a Arc<Node>,
    peer: NodeId,
    sent: AtomicU64,
    received: AtomicU64,
}

impl<'a> Talk<'a> {
    /// Nothing was said yet.
    pub fn new(node: &'a Arc<Node>, peer: NodeId) -> Self {
        Self { node, peer, sent: AtomicU64::new(0), received: AtomicU64::new(0) }
    }

    /// Bytes of messages sent and of replies received.
    pub fn bytes(&self) -> (u64, u64) {
        (self.sent.load(Relaxed), self.received.load(Relaxed))
    }

    /// Asks, and waits for the reply; `None` if there is none in time.
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

fn encoded_bytes(head: &impl Serialize) -> u64 {
    postcard::experimental::serialized_size(head).unwrap_or_default() as u64
}

/// Compares one tree with the peer and mends both sides.
pub async fn mend_tree(talk: &Talk<'_>, tree: Tree, why: Asking) -> Summary {
    let (mut exchange, mut step) = match why {
        Asking::ToCompare => Exchange::start(),
        Asking::ToFill => Exchange::start_to_fill(),
    };
    loop {
        let next = match step {
            Step::CompareLeaves => compare_leaves(talk, tree, &mut exchange).await,
            Step::List { leaves, after } => list(talk, tree, leaves, after, &mut exchange).await,
            Step::LookAgain { keys, not_before } => {
                tokio::time::sleep_until(talk.node.instant(not_before)).await;
                look_again(talk, keys, &mut exchange).await
            }
            Step::Mend(differences) => {
                let mended = mend(talk, differences, why).await;
                mended.map(|mended| exchange.on_mended(mended))
            }
            Step::Done(summary) => return summary,
        };
        step = next.unwrap_or_else(|| exchange.give_up());
    }
}

async fn compare_leaves(talk: &Talk<'_>, tree: Tree, exchange: &mut Exchange) -> Option<Step> {
    differing_leaves(talk, tree).await.map(|differing| exchange.on_leaves(differing))
}

/// The leaves in which the peer's tree differs from this node's.
async fn differing_leaves(talk: &Talk<'_>, tree: Tree) -> Option<LeafSet> {
    let leaves = talk.node.store.leaves(tree).to_bytes();
    let reply = talk.ask(Message::Leaves { tree }, &leaves).await?;
    if let Reply::Leaves { differing } = reply { Some(differing) } else { None }
}

/// Whether a node that fills had better take all of the peer's rows than look for those it lacks.
pub async fn had_better_stream(talk: &Talk<'_>, trees: &[Tree]) -> bool {
    for tree in trees {
        if let Some(differing) = differing_leaves(talk, *tree).await
            && exchange::had_better_stream(&talk.node.store.leaves(*tree), &differing)
        {
            return true;
        }
    }
    false
}

async fn list(
    talk: &Talk<'_>,
    tree: Tree,
    leaves: LeafSet,
    after: Option<Key>,
    exchange: &mut Exchange,
) -> Option<Step> {
    let question = Message::List { tree, leaves, after: after.clone() };
    let ours = chores::run(talk.node, move |node| {
        node.store.list(tree, leaves, after.as_ref(), PAGE_KEYS_MAX)
    });
    let (ours, theirs): (Result<Page, Error>, _) = tokio::join!(ours, talk.ask(question, &[]));
    match (ours, theirs?) {
        (Ok(ours), Reply::Page(theirs)) => {
            Some(exchange.on_pages(ours, theirs, talk.node.uptime()))
        }
        (Ok(_) | Err(_), _) => None,
    }
}

async fn look_again(talk: &Talk<'_>, keys: Vec<Key>, exchange: &mut Exchange) -> Option<Step> {
    let question = Message::Versions { keys: keys.clone() };
    let ours = chores::run(talk.node, move |node| versions(node, &keys));
    let (ours, theirs) = tokio::join!(ours, talk.ask(question, &[]));
    match (ours, theirs?) {
        (Ok(ours), Reply::Versions { versions }) => Some(exchange.on_versions(&ours, &versions)),
        (Ok(_) | Err(_), _) => None,
    }
}

/// The versions of this node's home rows. Blocks.
pub(super) fn versions(node: &Node, keys: &[Key]) -> Result<Vec<Version>, Error> {
    let version = |key: &Key| {
        let row = node.store.read(node.home(key), key, Blocking::Allowed)?;
        Ok(row.and_then(|row| Row::encoded_version(&row)).unwrap_or(Version::ABSENT))
    };
    keys.iter().map(version).collect()
}

/// Mends some keys. How many of them are mended; `None` if what was merged here is not kept.
async fn mend(talk: &Talk<'_>, differences: Vec<Difference>, why: Asking) -> Option<u64> {
    let pace = match why {
        Asking::ToCompare => &talk.node.anti_entropy.pace,
        Asking::ToFill => &talk.node.fill_pace,
    };
    let mut mended = 0;
    let mut todo: VecDeque<Mending> = differences.into_iter().map(Mending::new).collect();
    while !todo.is_empty() {
        let some = some_of(talk.node, &mut todo);
        // Each exchange holds what it mends: of those with much to hold few go on at a time.
        let is_large = some.iter().any(|one| one.bytes(talk.node) > 0);
        let large = &talk.node.anti_entropy.large;
        let _turn = if is_large { large.acquire().await.ok() } else { None };
        pace.will_work(TALK_PER_KEY * some.len() as u32);
        let (some_mended, later) = mend_some(talk, pace, some, why).await;
        mended += some_mended;
        todo.extend(later);
    }
    let is_durable = talk.node.store.durable().await.is_ok();
    is_durable.then_some(mended)
}

/// A key that is to be mended.
struct Mending {
    difference: Difference,
    /// Its object turned out to be large: nothing else is held beside it.
    is_alone: bool,
}

impl Mending {
    fn new(difference: Difference) -> Self {
        Self { difference, is_alone: false }
    }

    /// How large its object is, if that is known to be much, in bytes.
    fn bytes(&self, node: &Node) -> usize {
        if self.is_alone { MENDED_BYTES_MAX } else { node.bounds.sizes.of(&self.difference.key) }
    }
}

/// The next keys that are mended together.
fn some_of(node: &Node, todo: &mut VecDeque<Mending>) -> Vec<Mending> {
    let (mut some, mut bytes): (Vec<Mending>, usize) = (Vec::new(), 0);
    while some.len() < MENDING_MAX
        && let Some(next) = todo.front()
    {
        let next_bytes = next.bytes(node);
        if !some.is_empty() && bytes + next_bytes > MENDED_BYTES_MAX {
            break;
        }
        bytes += next_bytes;
        some.extend(todo.pop_front());
    }
    some
}

/// What fetching a peer's object came to.
enum Found {
    /// The object, or none was needed.
    Ready(Difference, Fetched),
    /// It is larger than was known.
    Larger(Difference),
    Nothing,
}

/// Brings some keys to the same objects on both sides: fetches the peer's, merges them all here, sends
/// what the peer lacks. How many are mended, and those that are to be mended alone.
async fn mend_some(
    talk: &Talk<'_>,
    pace: &Pace,
    some: Vec<Mending>,
    why: Asking,
) -> (u64, Vec<Mending>) {
    let fetching = some.into_iter().map(|one| async move {
        let Mending { difference, is_alone } = one;
        if !difference.must_fetch() {
            return Found::Ready(difference, None);
        }
        match fetch(talk, &difference.key, why, is_alone).await {
            Ok(Some(fetched)) => Found::Ready(difference, Some(fetched)),
            Ok(None) => Found::Nothing,
            Err(Larger) => Found::Larger(difference),
        }
    });
    let (mut found, mut later) = (Vec::new(), Vec::new());
    for one in join_all(fetching).await {
        match one {
            Found::Ready(difference, fetched) => found.push((difference, fetched)),
            Found::Larger(difference) => later.push(Mending { difference, is_alone: true }),
            Found::Nothing => {}
        }
    }
    let settled = chores::run_paced(talk.node, pace, move |node| {
        let settle = |(difference, fetched)| settle(node, &difference, fetched);
        Ok(found.into_iter().filter_map(settle).collect::<Vec<Settled>>())
    });
    let sending = settled.await.unwrap_or_default().into_iter().map(|settled| async move {
        let Some((message, object)) = settled else { return true };
        let reply = talk.ask_for_payload(message, object).await;
        reply.is_some_and(|reply| reply.head == Reply::Stored)
    });
    let mended = join_all(sending).await.into_iter().filter(|is_mended| *is_mended).count();
    (mended as u64, later)
}

/// A peer's object, encoded, and since when it may have been as it is.
type Fetched = Option<(Bytes, Millis)>;

/// What a key still needs once the peer's object is merged here: to be sent, or nothing.
type Settled = Option<(Message, Bytes)>;

/// Merges the peer's object into this node's row and says what is to be sent. `None` if the key cannot be
/// mended now. Blocks.
fn settle(node: &Node, difference: &Difference, fetched: Fetched) -> Option<Settled> {
    let key = difference.key.clone();
    if let Some((bytes, read_at)) = fetched {
        let (object, place) = (Object::decode(bytes).ok()?, node.home(&key));
        match replica::merge_now(node, place, &key, &object, read_at, Blocking::Allowed) {
            Ok(Reply::Stored) => {}
            Ok(_) | Err(_) => return None,
        }
    }
    // Read now, not when it was listed: what is sent says when it was read.
    let read_at = node.now();
    match node.store.read(node.home(&key), &key, Blocking::Allowed).ok()? {
        Some(row) if difference.must_send(Row::encoded_version(&row)?) => {
            let object = Row::encoded_object(&row)?;
            Some(Some((Message::Store { key, role: Role::Home, read_at }, object)))
        }
        Some(_) => Some(None),
        // Dropped meanwhile, or the peer's object was absent.
        None => difference.must_fetch().then_some(None),
    }
}

/// An object is larger than was known.
struct Larger;

/// The peer's object: `alone` of any length, else not one that is larger than was known.
async fn fetch(talk: &Talk<'_>, key: &Key, why: Asking, alone: bool) -> Result<Fetched, Larger> {
    let read_at = talk.node.now();
    let key = key.clone();
    let question = |bytes_max| match why {
        Asking::ToCompare => {
            let (key, what, place) = (key.clone(), What::Object, Where::Home);
            Message::Read { key, what, place, bytes_max }
        }
        Asking::ToFill => Message::Inspect { key: key.clone() },
    };
    let known = talk.node.bounds.sizes.of(&key).max(LARGE_BYTES);
    let bytes_max = if alone { u32::MAX } else { known as u32 };
    let Some(mut reply) = talk.ask_for_payload(question(bytes_max), Bytes::new()).await else {
        return Ok(None);
    };
    if let Reply::Large { bytes } = reply.head {
        talk.node.bounds.sizes.saw(&key, bytes as usize);
        return Err(Larger);
    }
    let object = if let Reply::Inspection { own, .. } = reply.head {
        own.and_then(|len| packed::take(&mut reply.payload, len))
    } else {
        (reply.head == Reply::Object).then_some(reply.payload)
    };
    Ok(object.map(|object| (object, read_at)))
}
