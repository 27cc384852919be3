//! Lists what many nodes have together: live keys, or entries of a secondary index. Asks every node's own
//! index, and reads the keys on which replicas disagree.
//!
//! `protocol::listing` decides what is certain; here pages are fetched and uncertain keys read, a few at a
//! time and in order, until the page is full. The cost depends on the page, not the bucket.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use futures_util::stream::{self, StreamExt};
use quorate_protocol::layout::Partition;
use quorate_protocol::listing::{Candidate, Item, ListPage, Question, Quorum};
use quorate_protocol::message::{Message, Refusal, Reply};
use quorate_protocol::name::NodeId;
use quorate_protocol::object::{Sibling, Version};
use quorate_protocol::terms::QuorumOptions;
use quorate_protocol::tree::Tree;
use quorate_protocol::view::View;

use crate::cluster::moved::RESTARTS_MAX;
use crate::cluster::view::ClusterView;
use crate::node::Node;
use crate::ops::reader::{self, ReadOptions};
use crate::ops::recorder::Recorder;
use crate::ops::replica::{on_blocking_pool, refusal_of};
use quorate_storage::{Error, Store};

/// The most items on one page, of a listing or of a feed.
pub const LIMIT_MAX: u16 = 1000;
/// Reads of uncertain keys in flight at a time.
const READS_AT_ONCE: usize = 16;

/// A question that nodes answer from their own index.
pub trait Listed: Question<Item: Send + Sync + 'static> + Clone + Send + Sync + 'static {
    /// The message that asks another node.
    fn message(&self) -> Message;
    /// The page in a reply.
    fn page_of(reply: Reply) -> Option<ListPage<Self::Item>>;
    /// The reply with a page.
    fn reply(page: ListPage<Self::Item>) -> Reply;
    /// Whether it can be answered.
    fn is_sound(&self) -> bool;
    /// Whether this node's index has all of its rows; if not, it lists what it has, and is no ready home
    /// replica.
    fn is_whole(&self, _: &Store) -> bool {
        true
    }
    /// What this node has. Blocks on the disk.
    ///
    /// # Errors
    /// Those of the store.
    fn look(&self, store: &Store) -> Result<Vec<(Self::Item, Version, bool)>, Error>;
    /// Whether a key with these values has the item.
    fn is_shown(&self, item: &Self::Item, values: &[&Sibling]) -> bool;
}

/// A page of what there is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Page<T> {
    /// In order.
    pub items: Vec<T>,
    /// After what the next page begins; `None` if this is the last page.
    pub next: Option<T>,
    /// Whether nothing can be missing: R home replicas of every partition answered, and every uncertain
    /// key could be read.
    pub is_complete: bool,
}

/// Lists what is asked for from all nodes. A page may hold fewer items than its limit: only [`Page::next`]
/// says whether it is the last one.
pub async fn list<Q: Listed>(node: &Arc<Node>, question: &Q) -> Page<Q::Item> {
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
    Page { items: Vec::new(), next: None, is_complete: false }
}

/// The same, in one epoch.
async fn list_in<Q: Listed>(node: &Arc<Node>, view: &ClusterView, question: &Q) -> Page<Q::Item> {
    let (first, next) = view.home_sets(question.bucket().as_str());
    let quorum = Quorum { first, others: next.as_slice() };
    let listing = quorum.join(&ask_all(node, view, question).await);
    let mut left = listing.candidates.len();
    let mut page = Page { items: Vec::new(), next: None, is_complete: listing.is_complete };
    let settled = stream::iter(listing.candidates)
        .map(|candidate| settle(node, view, question, candidate))
        .buffered(READS_AT_ONCE);
    let mut settled = std::pin::pin!(settled);
    while page.items.len() < usize::from(question.limit())
        && let Some((item, is_live)) = settled.next().await
    {
        left -= 1;
        page.next = Some(item.clone());
        match is_live {
            Some(true) => page.items.push(item),
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
async fn ask_all<Q: Listed>(
    node: &Arc<Node>,
    view: &ClusterView,
    question: &Q,
) -> BTreeMap<NodeId, ListPage<Q::Item>> {
    let timeout = Duration::from_millis(node.config.timeouts.replica_ms.saturating_mul(2));
    let message = question.message();
    let own = answer(node, view, question.clone());
    let (own, asked) = futures_util::join!(own, node.peers.ask_each(&message, timeout));
    let mut pages = BTreeMap::new();
    for (from, reply) in asked.into_iter().chain([(node.me, Some(own))]) {
        let Some(page) = reply.and_then(Q::page_of) else { continue };
        if question.admits(&page) {
            pages.insert(from, page);
        } else {
            tracing::warn!(peer = %from, "discarded an unsolicited page of a listing");
        }
    }
    pages
}

/// Reads whether something is there; `None` if that cannot be determined now. Only home replicas count, as
/// they do for [`Page::is_complete`].
async fn settle<Q: Listed>(
    node: &Arc<Node>,
    view: &ClusterView,
    question: &Q,
    candidate: Candidate<Q::Item>,
) -> (Q::Item, Option<bool>) {
    let Candidate { item, is_live } = candidate;
    if is_live {
        return (item, Some(true));
    }
    let asked = QuorumOptions { n: None, needed: None, sloppy: Some(false) };
    let Ok(terms) = view.read_terms(item.key(), &asked) else {
        return (item, None);
    };
    let conflicts = terms.conflicts;
    let (view, timeout_ms) = (view.clone(), node.config.timeouts.request_ms);
    let options = ReadOptions { view, terms, timeout_ms };
    let is_live = match reader::read(node, item.key(), options, Recorder::off()).await.0 {
        Ok(object) => Some(match View::of(&object, conflicts, node.now()) {
            View::One(value) => question.is_shown(&item, &[value]),
            View::Many(values) => question.is_shown(&item, &values),
            View::Typed => question.is_shown(&item, &[]),
            View::Absent | View::Deleted => false,
        }),
        Err(_) => None,
    };
    (item, is_live)
}

/// This node's page from its own index, or the reason it has none.
pub async fn answer<Q: Listed>(node: &Arc<Node>, view: &ClusterView, question: Q) -> Reply {
    let can_answer = match question.is_sound() {
        true => check(node, question.limit()),
        false => Err(Refusal::Malformed),
    };
    if let Err(refusal) = can_answer {
        return Reply::Refused(refusal);
    }
    // Before the index is read: a partition that is ready now was received before the read.
    let not_ready = match question.is_whole(&node.store) {
        true => not_ready(node, view, question.bucket().as_str()),
        false => view.partitions().collect(),
    };
    let limit = usize::from(question.limit());
    let listed = on_blocking_pool(node, move |node| question.look(&node.store));
    match listed.await {
        Ok(items) => Q::reply(ListPage { is_end: items.len() < limit, items, not_ready }),
        Err(error) => Reply::Refused(refusal_of(&error)),
    }
}

/// Whether this node can answer a question of which a page has so many items.
pub(super) fn check(node: &Node, limit: u16) -> Result<(), Refusal> {
    if !(1..=LIMIT_MAX).contains(&limit) {
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
