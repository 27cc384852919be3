//! Lists the live keys of a bucket: queries every node's index, and reads the keys on which
//! replicas disagree.
//!
//! `protocol::listing` decides which keys are certain; here pages are fetched and uncertain keys
//! read, a few at a time and in order, until the page is full. The cost depends on the page, not
//! the bucket.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use futures_util::stream::{self, StreamExt};
use quorate_protocol::layout::Partition;
use quorate_protocol::listing::{Candidate, ListRequest, Quorum};
use quorate_protocol::message::{KeyPage, Message, Query, QueryReply, Refusal, Reply};
use quorate_protocol::name::{KEY_BYTES_MAX, Key, NodeId};
use quorate_protocol::terms::QuorumOptions;
use quorate_protocol::tree::Tree;
use quorate_protocol::view::View;

use crate::cluster::moved::RESTARTS_MAX;
use crate::cluster::view::ClusterView;
use crate::node::Node;
use crate::ops::reader::{self, ReadOptions};
use crate::ops::recorder::Recorder;
use crate::ops::replica::{on_blocking_pool, refusal_of};

/// The most keys on one page, of a listing or of a feed.
pub const LIMIT_MAX: u16 = 1000;
/// Reads of uncertain keys in flight at a time.
const READS_AT_ONCE: usize = 16;

/// A page of live keys.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Page {
    /// The keys in order.
    pub keys: Vec<Key>,
    /// The key after which the next page begins; `None` if this is the last page.
    pub next: Option<Key>,
    /// Whether no live key can be missing: R home replicas of every partition answered, and every
    /// uncertain key could be read.
    pub is_complete: bool,
}

/// Lists live keys of a bucket from all nodes. A page may hold fewer keys than its limit: only
/// [`Page::next`] says whether it is the last one.
pub async fn list(node: &Arc<Node>, question: &ListRequest) -> Page {
    let mut view = node.view();
    let deadline = node.uptime().plus(node.config.timeouts.request_ms);
    for _ in 0..RESTARTS_MAX {
        let page = list_in(node, &view, question).await;
        let failed = (!page.is_complete).then_some(deadline);
        match node.moved(&view, failed).await {
            Some(newer) => view = newer,
            None => return page,
        }
    }
    Page::default()
}

/// The same, in one epoch.
async fn list_in(node: &Arc<Node>, view: &ClusterView, question: &ListRequest) -> Page {
    let (first, next) = view.home_sets(question.bucket.as_str());
    let quorum = Quorum { first, others: next.as_slice() };
    let listing = quorum.join(&ask_all(node, view, question).await);
    let mut left = listing.candidates.len();
    let mut page = Page { is_complete: listing.is_complete, ..Page::default() };
    let settled = stream::iter(listing.candidates)
        .map(|candidate| settle(node, view, candidate))
        .buffered(READS_AT_ONCE);
    let mut settled = std::pin::pin!(settled);
    while page.keys.len() < usize::from(question.limit)
        && let Some((key, is_live)) = settled.next().await
    {
        left -= 1;
        page.next = Some(key.clone());
        match is_live {
            Some(true) => page.keys.push(key),
            Some(false) => {}
            None => page.is_complete = false,
        }
    }
    if left == 0 {
        page.next = listing.horizon;
    }
    page
}

/// Collects the pages of all nodes that answer with one.
async fn ask_all(
    node: &Arc<Node>,
    view: &ClusterView,
    question: &ListRequest,
) -> BTreeMap<NodeId, KeyPage> {
    let timeout = Duration::from_millis(node.config.timeouts.replica_ms.saturating_mul(2));
    let ListRequest { bucket, prefix, after, limit } = question.clone();
    let message = Message::Query(Query::Keys { bucket, prefix, after, limit });
    let own = answer(node, view, question.clone());
    let (own, asked) = futures_util::join!(own, node.peers.ask_each(&message, timeout));
    let mut pages = BTreeMap::new();
    for (from, reply) in asked.into_iter().chain([(node.me, Some(own))]) {
        let Some(Reply::Query(QueryReply::Keys(page))) = reply else { continue };
        if question.admits(&page) {
            pages.insert(from, page);
        } else {
            tracing::warn!(peer = %from, "discarded an unsolicited page of keys");
        }
    }
    pages
}

/// Reads whether a key is live; `None` if that cannot be determined now.
async fn settle(node: &Arc<Node>, view: &ClusterView, candidate: Candidate) -> (Key, Option<bool>) {
    let Candidate { key, is_live } = candidate;
    if is_live {
        return (key, Some(true));
    }
    let Ok(terms) = view.read_terms(&key, &QuorumOptions::default()) else {
        return (key, None);
    };
    let conflicts = terms.conflicts;
    let (view, timeout_ms) = (view.clone(), node.config.timeouts.request_ms);
    let options = ReadOptions { view, terms, timeout_ms };
    let is_live = match reader::read(node, &key, options, Recorder::off()).await.0 {
        Ok(object) => match View::of(&object, conflicts, node.now()) {
            View::One(_) | View::Many(_) | View::Typed => Some(true),
            View::Absent | View::Deleted => Some(false),
        },
        Err(_) => None,
    };
    (key, is_live)
}

/// This node's page from its own index: [`QueryReply::Keys`], or the reason it has none.
pub async fn answer(node: &Arc<Node>, view: &ClusterView, question: ListRequest) -> Reply {
    if let Err(refusal) = check(node, &question.prefix, question.limit) {
        return Reply::Refused(refusal);
    }
    // Before the index is read: a partition that is ready now was received before the read.
    let not_ready = not_ready(node, view, question.bucket.as_str());
    let listed = on_blocking_pool(node, move |node| {
        let ListRequest { bucket, prefix, after, limit } = &question;
        let limit = usize::from(*limit);
        let keys = node.store.keys(bucket.as_str(), prefix, after.as_ref(), limit)?;
        Ok((keys.len() < limit, keys))
    });
    match listed.await {
        Ok((is_end, keys)) => Reply::Query(QueryReply::Keys(KeyPage { keys, is_end, not_ready })),
        Err(error) => Reply::Refused(refusal_of(&error)),
    }
}

/// Whether this node can answer a question about keys with this prefix, of which a page has so many.
pub(super) fn check(node: &Node, prefix: &str, limit: u16) -> Result<(), Refusal> {
    if prefix.len() > KEY_BYTES_MAX || !(1..=LIMIT_MAX).contains(&limit) {
        return Err(Refusal::Malformed);
    }
    if node.formation().is_none() {
        return Err(Refusal::NotFormed);
    }
    Ok(())
}

/// Partitions of which this node is a home replica but that it is not ready to answer for.
pub(super) fn not_ready(node: &Node, view: &ClusterView, bucket: &str) -> Vec<Partition> {
    let n = view.n(bucket);
    let is_home = |partition: &Partition| view.is_home(node.me, Tree { partition: *partition, n });
    let mine = view.partitions().filter(is_home);
    mine.filter(|p| !node.is_ready_in(view, *p, bucket)).collect()
}
