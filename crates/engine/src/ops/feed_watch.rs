//! Who waits for a change of a bucket: requests that stay open until its feed has something new.
//!
//! While there are any, one task asks all nodes again and again where their logs end, and wakes those whose
//! bucket's have moved: what waiting costs does not depend on how many wait. A woken request reads a page,
//! and misses nothing: it goes on from its own position.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed, Ordering::SeqCst};
use std::time::Duration;

use quorate_protocol::message::{Message, Query, QueryReply, Reply};
use quorate_protocol::name::{Bucket, NodeId};
use tokio::time::sleep;

use super::watchers::{Watch, Watchers};
use crate::node::Node;

/// The most requests that wait at a time.
pub const SUBSCRIBERS_MAX: usize = 1_000;
/// How often the ends of the logs are asked for, in milliseconds.
const LOOK_MS: u64 = 25;
/// How long after a log has moved its subscribers are woken, in milliseconds: by then the other replicas of a
/// write have it too, most often, and it is delivered once.
const SETTLE_MS: u64 = 10;
/// The most buckets that one message asks for.
const BUCKETS_MAX: usize = 100;

/// All that wait.
#[derive(Default)]
pub struct FeedWatch {
    subscribers: Arc<Watchers<Bucket>>,
    /// Whether a task looks.
    is_looking: AtomicBool,
    delivered: AtomicU64,
}

/// Where the log of a bucket ended last at a node.
type Ends = BTreeMap<(Bucket, NodeId), u64>;

impl FeedWatch {
    /// A request that may wait for changes of a bucket; `None` if too many do.
    pub fn subscribe(&self, node: &Arc<Node>, bucket: &Bucket) -> Option<Watch<Bucket>> {
        let subscriber = self.subscribers.watch(bucket, SUBSCRIBERS_MAX)?;
        if !self.is_looking.swap(true, SeqCst) {
            node.background.spawn(look(node.clone()));
        }
        Some(subscriber)
    }

    /// Whether there is none, and whoever looks may end: the next one starts another look.
    fn has_ended(&self) -> bool {
        if self.count() > 0 {
            return false;
        }
        self.is_looking.store(false, SeqCst);
        // One may have come in between, and taken this look for the one that it needs.
        self.count() == 0 || self.is_looking.swap(true, SeqCst)
    }

    /// How many there are.
    pub fn count(&self) -> usize {
        self.subscribers.count()
    }

    /// How many changes subscribers were given.
    pub fn delivered(&self) -> u64 {
        self.delivered.load(Relaxed)
    }

    /// A subscriber is given some.
    pub(super) fn deliver(&self, changes: usize) {
        self.delivered.fetch_add(changes as u64, Relaxed);
    }
}

/// Looks as long as there are subscribers and the node runs.
async fn look(node: Arc<Node>) {
    let mut last = Ends::new();
    while !node.feed_watch.has_ended() && !node.stop.is_cancelled() {
        let ends = ask_all(&node, &node.feed_watch.subscribers.names()).await;
        let moved = ends.iter().filter(|(place, end)| last.get(*place) != Some(*end));
        let moved: BTreeSet<&Bucket> = moved.map(|((bucket, _), _)| bucket).collect();
        sleep(Duration::from_millis(SETTLE_MS)).await;
        moved.into_iter().for_each(|bucket| node.feed_watch.subscribers.changed(bucket));
        last = ends;
        sleep(Duration::from_millis(LOOK_MS - SETTLE_MS)).await;
    }
}

async fn ask_all(node: &Arc<Node>, buckets: &[Bucket]) -> Ends {
    let timeout = Duration::from_millis(node.config.timeouts.replica_ms);
    let mut found = Ends::new();
    for buckets in buckets.chunks(BUCKETS_MAX) {
        let message = Message::Query(Query::FeedEnds { buckets: buckets.to_vec() });
        let mut replies = node.peers.ask_each(&message, timeout).await;
        replies.push((node.me, Some(ends(node, buckets))));
        for (from, reply) in replies {
            let Some(Reply::Query(QueryReply::FeedEnds(ends))) = reply else { continue };
            found.extend(buckets.iter().map(|bucket| (bucket.clone(), from)).zip(ends));
        }
    }
    found
}

/// Where this node's logs end: the reply to [`Query::FeedEnds`].
pub fn ends(node: &Node, buckets: &[Bucket]) -> Reply {
    let buckets = buckets.iter().take(BUCKETS_MAX);
    QueryReply::FeedEnds(buckets.map(|it| node.store.feed_end(it.as_str())).collect()).into()
}
