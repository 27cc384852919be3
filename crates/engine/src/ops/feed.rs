//! Reads the feed of a bucket: a page of its changes, from the logs of all nodes.
//!
//! `protocol::feed` decides what a page has and promises. Here the logs are asked, and the keys that changed
//! are read, a few at a time and in order: so many as have room.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use futures_util::future::join_all;
use futures_util::stream::{self, StreamExt};
use quorate_protocol::feed::{Changes, Cursor, Page, Position, Promise};
use quorate_protocol::message::{Message, Query, QueryReply, Refusal, Reply};
use quorate_protocol::name::{Bucket, KEY_BYTES_MAX, Key, NodeId};
use quorate_protocol::object::Version;
use quorate_protocol::time::WallTime;

use crate::cluster::moved::RESTARTS_MAX;
use crate::cluster::view::ClusterView;
use crate::node::Node;
use crate::ops::listing;
use crate::ops::replica::{on_blocking_pool, refusal_of};

/// Reads of changed keys in flight at a time.
const READS_AT_ONCE: usize = 16;

/// What a subscriber wants to know of.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Question {
    /// The bucket.
    pub bucket: Bucket,
    /// Only changes of keys with this prefix.
    pub prefix: String,
    /// The most changes on a page, 1 to [`listing::LIMIT_MAX`].
    pub limit: u16,
}

/// Where a subscription is.
#[derive(Clone, Debug)]
pub enum From {
    /// It begins: with what is written from now on.
    Now,
    /// It begins: with all that is kept.
    Oldest,
    /// It goes on.
    Cursor(Cursor),
}

/// A key that was read for a page.
pub struct Read<T> {
    /// What there is of it.
    pub shown: T,
    /// The version of that.
    pub version: Version,
    /// How many bytes of a page it takes.
    pub bytes: usize,
}

/// A page of changes.
pub struct Feed<T> {
    /// What was read of the keys that changed, in order.
    pub changes: Vec<T>,
    /// Where to go on: if the cursor has expired, after all keys have been listed.
    pub cursor: Cursor,
    /// What the page promises.
    pub promise: Promise,
    /// Whether the logs have more.
    pub has_more: bool,
    /// Up to when the subscriber was complete before it.
    complete_before: WallTime,
}

impl<T> Feed<T> {
    /// The page without what it promises: the placement of keys has changed meanwhile.
    fn without_promise(mut self) -> Self {
        self.cursor.complete_at = self.complete_before;
        Self { promise: Promise::Partial, ..self }
    }
}

/// The R with which a changed key is read: what W home replicas have acknowledged is seen.
pub fn r_of(view: &ClusterView, bucket: &str) -> u16 {
    let properties = view.properties(bucket);
    let homes = properties.n.min(view.placement().layout().node_count());
    properties.r.of(homes).clamp(properties.w.intersecting(homes), homes)
}

/// Reads a page. `read` reads a key by [`r_of`] home replicas or more, and shows it; `None` if that failed:
/// the page ends before it then, as it does where it has more than `bytes_max` bytes.
pub async fn page<T, F: Future<Output = Option<Read<T>>>>(
    node: &Arc<Node>,
    question: &Question,
    from: &From,
    bytes_max: usize,
    read: impl Fn(Key) -> F,
) -> Feed<T> {
    let mut view = node.view();
    let deadline = node.uptime().plus(node.config.timeouts.request_ms);
    let mut restarts = 0;
    loop {
        let feed = page_in(node, &view, (question, from), bytes_max, &read).await;
        restarts += 1;
        let failed = (feed.promise == Promise::Partial).then_some(deadline);
        match node.moved(&view, failed).await {
            Some(newer) if restarts < RESTARTS_MAX && feed.changes.is_empty() => view = newer,
            // Its cursor is behind what was missed: that is said in any case.
            Some(_) if feed.promise != Promise::Expired => return feed.without_promise(),
            Some(_) | None => return feed,
        }
    }
}

/// The same, in one epoch.
async fn page_in<T, F: Future<Output = Option<Read<T>>>>(
    node: &Arc<Node>,
    view: &ClusterView,
    (question, from): (&Question, &From),
    bytes_max: usize,
    read: &impl Fn(Key) -> F,
) -> Feed<T> {
    let (bucket, began) = (question.bucket.as_str(), node.now());
    let retention_s = view.properties(bucket).feed_retention_s.unwrap_or_default();
    let pages = ask_all(node, view, (question, from)).await;
    let mut cursor = match from {
        From::Now => Cursor::now(began, &pages),
        From::Oldest => Cursor::oldest(began, retention_s, &pages),
        From::Cursor(cursor) => cursor.clone(),
    };
    cursor.keep(&view.nodes().collect());
    let complete_before = cursor.complete_at;
    let is_too_old = cursor.is_older_than(retention_s, began);
    let sets = view.intersecting_sets(bucket);
    let changes = Changes::new(cursor, began, pages, &sets);
    let promise = changes.promise();
    if is_too_old || promise == Promise::Expired {
        return expired(&changes);
    }
    let (mut shown, mut delivered, mut bytes) = (Vec::new(), Vec::new(), 0);
    let keys = changes.keys(usize::from(question.limit));
    let reads = stream::iter(keys).map(|key| async { (key.clone(), read(key).await) });
    let mut reads = std::pin::pin!(reads.buffered(READS_AT_ONCE));
    while let Some((key, Some(read))) = reads.next().await {
        bytes += read.bytes;
        if bytes > bytes_max && !shown.is_empty() {
            break;
        }
        delivered.push((key, read.version));
        shown.push(read.shown);
    }
    node.feed_watch.deliver(shown.len());
    let has_more = changes.has_more();
    let (cursor, promise) = changes.deliver(&delivered, promise);
    Feed { changes: shown, cursor, promise, has_more, complete_before }
}

fn expired<T>(changes: &Changes<'_>) -> Feed<T> {
    let cursor = changes.renewed();
    let complete_before = cursor.complete_at;
    Feed {
        changes: Vec::new(),
        cursor,
        promise: Promise::Expired,
        has_more: false,
        complete_before,
    }
}

/// Asks the log of every node from where the subscription is.
async fn ask_all(
    node: &Arc<Node>,
    view: &ClusterView,
    (question, from): (&Question, &From),
) -> BTreeMap<NodeId, Page> {
    let timeout = Duration::from_millis(node.config.timeouts.replica_ms.saturating_mul(2));
    let asked = view.nodes().map(async |at| {
        let position = match from {
            From::Now => Position::END,
            From::Oldest => Position::default(),
            From::Cursor(cursor) => cursor.position(at),
        };
        let Question { bucket, prefix, limit } = question.clone();
        let reply = if at == node.me {
            Some(answer(node, view, question.clone(), position).await)
        } else {
            let message = Query::Feed { bucket, prefix, position, limit };
            let heard = node.peers.ask(at, Message::Query(message), timeout).await;
            heard.into_reply().map(|reply| reply.head)
        };
        let Some(Reply::Query(QueryReply::Feed(Some(page)))) = reply else { return None };
        let Question { bucket, prefix, limit } = question;
        if page.is_sound(position, bucket, prefix, usize::from(*limit)) {
            return Some((at, page));
        }
        tracing::warn!(peer = %at, "discarded an unsound page of a feed");
        None
    });
    join_all(asked).await.into_iter().flatten().collect()
}

/// A page of this node's own log: [`QueryReply::Feed`], or the reason there is none.
pub async fn answer(
    node: &Arc<Node>,
    view: &ClusterView,
    question: Question,
    position: Position,
) -> Reply {
    if question.prefix.len() > KEY_BYTES_MAX {
        return Reply::Refused(Refusal::Malformed);
    }
    if let Err(refusal) = listing::check(node, question.limit) {
        return Reply::Refused(refusal);
    }
    // Before the log is read: what a partition that is ready now has received is in the log.
    let not_ready = listing::not_ready(node, view, question.bucket.as_str());
    let read = on_blocking_pool(node, move |node| {
        let Question { bucket, prefix, limit } = &question;
        node.store.feed(bucket.as_str(), prefix, position, usize::from(*limit))
    });
    match read.await {
        Ok(page) => QueryReply::Feed(page.map(|page| Page { not_ready, ..page })).into(),
        Err(error) => Reply::Refused(refusal_of(&error)),
    }
}
