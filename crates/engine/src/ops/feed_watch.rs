//! Who waits for a change of a bucket: requests that stay open until its feed has something new.
//!
//! While there are any, one task asks all nodes again and again where their logs end, and wakes those whose
//! bucket's have moved: what waiting costs does not depend on how many wait. A woken request reads a page,
//! and misses nothing: it goes on from its own position.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use quorate_protocol::message::{Message, Query, QueryReply, Reply};
use quorate_protocol::name::{Bucket, NodeId};
use tokio::sync::Notify;
use tokio::sync::futures::Notified;
use tokio::time::sleep;

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
    watched: Arc<Mutex<Watched>>,
    delivered: AtomicU64,
}

#[derive(Default)]
struct Watched {
    by_bucket: BTreeMap<Bucket, (Arc<Notify>, usize)>,
    count: usize,
    /// Whether a task looks.
    is_looking: bool,
}

/// A request that may wait.
pub struct Subscriber {
    all: Arc<Mutex<Watched>>,
    bucket: Bucket,
    changed: Arc<Notify>,
}

/// Where the log of a bucket ended last at a node.
type Ends = BTreeMap<(Bucket, NodeId), u64>;

fn lock(watched: &Mutex<Watched>) -> MutexGuard<'_, Watched> {
    watched.lock().unwrap_or_else(PoisonError::into_inner)
}

impl FeedWatch {
    /// A request that may wait for changes of a bucket; `None` if too many do.
    pub fn subscribe(&self, node: &Arc<Node>, bucket: &Bucket) -> Option<Subscriber> {
        let mut watched = lock(&self.watched);
        if watched.count >= SUBSCRIBERS_MAX {
            return None;
        }
        watched.count += 1;
        let (changed, count) = watched.by_bucket.entry(bucket.clone()).or_default();
        *count += 1;
        let subscriber = Subscriber {
            all: self.watched.clone(),
            bucket: bucket.clone(),
            changed: changed.clone(),
        };
        if !std::mem::replace(&mut watched.is_looking, true) {
            node.background.spawn(look(node.clone()));
        }
        Some(subscriber)
    }

    /// The buckets for which some wait. Without any, whoever looks ends.
    fn buckets(&self) -> Option<Vec<Bucket>> {
        let mut watched = lock(&self.watched);
        watched.is_looking = watched.count > 0;
        watched.is_looking.then(|| watched.by_bucket.keys().cloned().collect())
    }

    fn wake(&self, buckets: &BTreeSet<&Bucket>) {
        let watched = lock(&self.watched);
        let waiting = buckets.iter().filter_map(|bucket| watched.by_bucket.get(*bucket));
        waiting.for_each(|(changed, _)| changed.notify_waiters());
    }

    /// How many there are.
    pub fn count(&self) -> usize {
        lock(&self.watched).count
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

impl Subscriber {
    /// Resolves when the bucket may have changed, from this call on.
    pub fn changed(&self) -> Notified<'_> {
        self.changed.notified()
    }
}

impl Drop for Subscriber {
    fn drop(&mut self) {
        let mut watched = lock(&self.all);
        watched.count -= 1;
        if let Some((_, count)) = watched.by_bucket.get_mut(&self.bucket) {
            *count -= 1;
            if *count == 0 {
                watched.by_bucket.remove(&self.bucket);
            }
        }
    }
}

/// Looks as long as there are subscribers and the node runs.
async fn look(node: Arc<Node>) {
    let mut last = Ends::new();
    while let Some(buckets) = node.feed_watch.buckets()
        && !node.stop.is_cancelled()
    {
        let ends = ask_all(&node, &buckets).await;
        let moved = ends.iter().filter(|(place, end)| last.get(*place) != Some(*end));
        let moved: BTreeSet<&Bucket> = moved.map(|((bucket, _), _)| bucket).collect();
        sleep(Duration::from_millis(SETTLE_MS)).await;
        node.feed_watch.wake(&moved);
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
