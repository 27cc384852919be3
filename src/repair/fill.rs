//! What this node has not received: partitions after it lost its disk, buckets whose n was raised;
//! and how they fill.
//!
//! A replica that starts empty in a formed cluster takes writes, which count, but answers reads of
//! a partition only after it has merged with the other home replicas: an empty disk must not make a
//! 404. What it is missing is fetched in pages: first the hints that others keep, for whomever, from every
//! node that is up (one that is down hands them off when it is back), then each partition from every
//! other home replica of it. Until then it says "not ready", which is no answer.
//!
//! A partition is received when everything that its other home replicas hold is here. They need not have
//! taken what is held here: anti-entropy sees to that. Of single keys that they cannot give, see
//! `crate::repair::doubtful`.

use std::collections::BTreeSet;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use bytes::Bytes;
use futures_util::{StreamExt, stream};
use quorate_protocol::layout::Partition;
use quorate_protocol::message::{Message, Reply, Rows};
use quorate_protocol::name::{Bucket, Key, NodeId};
use quorate_protocol::object::Object;
use quorate_protocol::packed;
use quorate_protocol::reap;
use quorate_protocol::stamp::Millis;
use quorate_protocol::tree::Tree;
use quorate_storage::{Error, MERGE_BATCH_ROWS};

use crate::background::work;
use crate::node::Node;
use crate::repair::anti_entropy::{Asking, Talk, Way, is_home, mend_tree, receive_key, way};
use crate::repair::received;

/// Partitions that are filled at a time: while one waits for the network, another is merged.
const PARTITIONS_AT_ONCE: usize = 4;
const SAY_EVERY: Duration = Duration::from_secs(2);
const RETRY_EVERY: Duration = Duration::from_millis(500);
/// Of so many turns one fills, while partitions wait for an operator.
const WAITING: u64 = 4;
/// How long peers that are moving rows to other trees are waited for, before all of their rows are taken
/// instead of those that differ.
const DOUBT_PATIENCE: Duration = Duration::from_secs(10);
/// How often it is asked again for keys that others could not give.
const DOUBTFUL_EVERY: Duration = Duration::from_secs(10);
/// How many partitions are recorded together: a record costs a sync, a repeated fill costs little.
const RECORD_EVERY: usize = 64;

/// Fills what is missing, and what comes to be missing when the n of a bucket is raised.
pub(crate) async fn run(node: Arc<Node>) {
    let mut ticks = tokio::time::interval(RETRY_EVERY);
    let mut hints_from = BTreeSet::new();
    let mut raises = Raises::default();
    let (mut began, mut asked_again) = (Instant::now(), Instant::now());
    let mut turn: u64 = 0;
    loop {
        ticks.tick().await;
        if !node.takes_part() {
            began = Instant::now();
            continue;
        }
        let missing = node.filled.missing();
        // What waits for an operator is asked for again, but not all the time.
        let turns =
            if node.unreceived.lost() + node.unreceived.undecided() > 0 { WAITING } else { 1 };
        turn += 1;
        let waits = began.elapsed() < DOUBT_PATIENCE;
        if missing.is_empty() {
            began = Instant::now();
        } else if turn.is_multiple_of(turns) && fetch_hints(&node, &mut hints_from).await {
            fill_partitions(&node, &missing, waits).await;
        }
        raises.fill(&node).await;
        if asked_again.elapsed() >= DOUBTFUL_EVERY {
            ask_again(&node).await;
            asked_again = Instant::now();
        }
    }
}

/// Merges the hints that others keep of keys this node is a home replica of, whomever they keep them
/// for: the other home replicas may have been down when a key was written. `had` remembers whose are
/// in. Returns whether every node that is up has sent its own.
async fn fetch_hints(node: &Arc<Node>, had: &mut BTreeSet<NodeId>) -> bool {
    let down = node.peers.down();
    let others: Vec<NodeId> =
        node.peers.nodes().filter(|other| !down.contains(other) && !had.contains(other)).collect();
    for other in others {
        for target in node.layout.members().iter().map(|member| member.node) {
            if !fetch_all(node, other, Rows::HintsFor(target)).await {
                return false;
            }
        }
        had.insert(other);
    }
    true
}

/// Receives whole partitions, a few at a time, within the share of a core that is set. `waits` for peers that
/// move rows to other trees.
async fn fill_partitions(node: &Arc<Node>, missing: &[Partition], waits: bool) {
    tracing::info!(partitions = missing.len(), "filling from the other home replicas");
    let progress = Progress::start(missing.len());
    let (mut undecided, mut lost) = (0, 0);
    for chunk in missing.chunks(RECORD_EVERY) {
        let filling = stream::iter(chunk.iter().copied()).map(|partition| async move {
            (partition, fill_partition(node, partition, waits).await)
        });
        let mut filled = filling.buffer_unordered(PARTITIONS_AT_ONCE);
        let mut merged = Vec::new();
        while let Some((partition, is_filled)) = filled.next().await {
            merged.extend(is_filled.then_some(partition));
        }
        let judged = received::judge(node, &merged).await;
        judged.received.iter().for_each(|partition| node.filled.mark(*partition));
        undecided += judged.undecided;
        lost += judged.lost;
        let recorded = work::run(node, |node| node.filled.record(&node.store));
        if let Err(error) = recorded.await {
            tracing::warn!(%error, "could not record filled partitions");
        }
        progress.say(node.filled.missing().len());
    }
    node.unreceived.set(undecided, lost);
    if node.filled.is_complete() {
        tracing::info!(
            took_ms = progress.began.elapsed().as_millis() as u64,
            "all partitions are filled"
        );
    }
}

/// Merges one partition with every other home replica. Whether all that they hold is here.
async fn fill_partition(node: &Arc<Node>, partition: Partition, waits: bool) -> bool {
    let ns = node.buckets.placement().ns().clone();
    let each = ns.each();
    let n_max = each.last().copied().unwrap_or_default();
    let trees: Vec<Tree> = each.into_iter().map(|n| Tree { partition, n }).collect();
    let homes = node.layout.homes(partition, n_max).to_vec();
    if !homes.contains(&node.me) {
        return true;
    }
    receive(node, &homes, &trees, Receiving { ns: ns.hash(), waits }).await
}

/// How a partition is received.
#[derive(Clone, Copy, Debug)]
struct Receiving {
    /// The n of all buckets by which its trees are.
    ns: u64,
    /// Whether peers that move rows to other trees are waited for.
    waits: bool,
}

/// Merges some trees of a partition with all its other home replicas. Whether all that they hold is here,
/// or is noted as in doubt.
///
/// One that lacks most is streamed whole from the first of them; with all of them the trees are compared
/// then, so that what they have in common crosses the network once.
async fn receive(node: &Arc<Node>, homes: &[NodeId], trees: &[Tree], how: Receiving) -> bool {
    let mine = trees.iter().copied().filter(|tree| is_home(node, node.me, *tree));
    let mine: Vec<Tree> = mine.collect();
    let why = Asking::ToFill { ns: how.ns };
    for (place, other) in homes.iter().filter(|other| **other != node.me).enumerate() {
        let talk = Talk::new(node, *other);
        let in_common: Vec<Tree> =
            mine.iter().copied().filter(|tree| is_home(node, *other, *tree)).collect();
        let Some(partition) = in_common.first().map(|tree| tree.partition) else { continue };
        let Some(way) = way(&talk, &in_common, why).await else { return false };
        let streams = match way {
            Way::Compare => false,
            Way::Stream => place == 0,
            Way::StreamInDoubt if how.waits => return false,
            Way::StreamInDoubt => true,
        };
        if streams && !fetch_all(node, *other, Rows::Partition(partition)).await {
            return false;
        }
        if way != Way::StreamInDoubt && !compare(&talk, &in_common, why).await {
            return false;
        }
        if !note_doubtful(node, talk.broken()).await {
            return false;
        }
    }
    true
}

/// Compares trees with a peer. Whether all that it holds is here, except for what it cannot give.
async fn compare(talk: &Talk<'_>, trees: &[Tree], why: Asking) -> bool {
    for tree in trees {
        let summary = mend_tree(talk, *tree, why).await;
        if !summary.has_all() {
            tracing::debug!(?tree, ?summary, "not all of a peer's rows came; tried again soon");
            return false;
        }
    }
    true
}

/// Notes keys that a peer cannot give, durably. Whether there was room.
async fn note_doubtful(node: &Arc<Node>, keys: Vec<Key>) -> bool {
    if keys.is_empty() {
        return true;
    }
    let count = keys.len();
    let noted =
        work::run(node, move |node| node.filled.doubtful.change(&node.store, &keys, |_| false));
    match noted.await {
        Ok(true) => {
            tracing::error!(count, "keys that a peer cannot give are not served by this node");
            true
        }
        Ok(false) => {
            tracing::error!("a peer has too many rows that it cannot give; replace its disk");
            false
        }
        Err(error) => {
            tracing::warn!(%error, "could not record keys that a peer cannot give");
            false
        }
    }
}

/// Asks the other home replicas again for keys that they could not give.
async fn ask_again(node: &Arc<Node>) {
    let (mut here, began) = (BTreeSet::new(), Instant::now());
    for key in node.filled.doubtful() {
        let homes = node.layout.homes(node.partition(&key), node.properties(&key).n);
        let is_down = node.peers.down().iter().any(|down| homes.contains(down));
        if is_down || began.elapsed() >= DOUBTFUL_EVERY {
            continue; // the next time
        }
        let mut has_all = true;
        if homes.contains(&node.me) {
            for other in homes.iter().filter(|other| **other != node.me) {
                has_all = has_all && receive_key(node, *other, &key).await;
            }
        }
        if has_all {
            here.insert(key);
        }
    }
    if here.is_empty() {
        return;
    }
    let count = here.len();
    let taken_out = work::run(node, move |node| {
        node.filled.doubtful.change(&node.store, &[], |key| here.contains(key))
    });
    match taken_out.await {
        Ok(_) => tracing::info!(count, "keys that peers could not give are complete now"),
        Err(error) => tracing::warn!(%error, "could not record that keys are complete"),
    }
}

/// Says now and then how far the filling is.
struct Progress {
    partitions: usize,
    began: Instant,
    said_at: Mutex<Instant>,
}

impl Progress {
    fn start(partitions: usize) -> Self {
        let now = Instant::now();
        Self { partitions, began: now, said_at: Mutex::new(now) }
    }

    fn say(&self, left: usize) {
        let mut said_at = self.said_at.lock().unwrap_or_else(PoisonError::into_inner);
        if said_at.elapsed() >= SAY_EVERY {
            *said_at = Instant::now();
            tracing::info!(left, of = self.partitions, "filling partitions");
        }
    }
}

/// What of buckets whose n was raised has been received, each as long as its n does not change: what is begun
/// again goes on where it was.
#[derive(Default)]
struct Raises {
    /// By bucket and by its last change.
    received: BTreeSet<(Bucket, u64, Partition)>,
    began: Option<Instant>,
}

impl Raises {
    /// Receives what is missing of all such buckets, as far as it can be had now.
    async fn fill(&mut self, node: &Arc<Node>) {
        let raised = node.buckets.raised();
        if raised.is_empty() {
            *self = Self::default();
            return;
        }
        let began = *self.began.get_or_insert_with(Instant::now);
        for (bucket, before) in raised {
            self.fill_bucket(node, bucket, before, began.elapsed() < DOUBT_PATIENCE).await;
        }
    }

    /// Receives the partitions of a bucket of which this node became a home replica when n was raised.
    async fn fill_bucket(&mut self, node: &Arc<Node>, bucket: Bucket, before: u16, waits: bool) {
        let (ns, changed) = {
            let placement = node.buckets.placement();
            (placement.ns().clone(), placement.changed(bucket.as_str()))
        };
        self.received.retain(|(other, change, _)| *other != bucket || *change == changed);
        let n = ns.n(bucket.as_str());
        let is_new = |partition: &Partition| {
            let is_home = |n: u16| node.layout.homes(*partition, n).contains(&node.me);
            is_home(n) && !is_home(before)
        };
        let partitions = (0..node.layout.partitions()).map(|p| Partition(p as u16));
        let had =
            |partition: &Partition| self.received.contains(&(bucket.clone(), changed, *partition));
        let missing: Vec<Partition> = partitions.filter(is_new).filter(|p| !had(p)).collect();
        let how = Receiving { ns: ns.hash(), waits };
        let filling = stream::iter(missing.iter().copied()).map(|partition| async move {
            let homes = node.layout.homes(partition, n);
            (partition, receive(node, homes, &[Tree { partition, n }], how).await)
        });
        let mut filled = filling.buffer_unordered(PARTITIONS_AT_ONCE);
        let mut left = missing.len();
        while let Some((partition, is_received)) = filled.next().await {
            if is_received {
                self.received.insert((bucket.clone(), changed, partition));
                left -= 1;
            }
        }
        drop(filled);
        if left > 0 {
            tracing::debug!(
                bucket = bucket.as_str(),
                left,
                "the bucket's new replicas are filling"
            );
            return; // tried again soon
        }
        tracing::info!(bucket = bucket.as_str(), before, n, "the bucket's new replicas are filled");
        let done = move |node: &Node| node.buckets.fetched(&node.store, &bucket, before, changed);
        if let Err(error) = work::run(node, done).await {
            tracing::warn!(%error, "could not record a filled bucket");
        }
    }
}

/// Merges what another node holds, page by page: the next one travels while one is merged. Returns
/// whether all of it came and is kept.
async fn fetch_all(node: &Arc<Node>, from: NodeId, rows: Rows) -> bool {
    let Some(mut page) = fetch_page(node, from, rows, None).await else { return false };
    while let Some(last) = page.last.take() {
        let next = fetch_page(node, from, rows, Some(last));
        let (is_merged, next) = tokio::join!(merge_page(node, page.read_at, page.rows), next);
        match next {
            Some(next) if is_merged => page = next,
            Some(_) | None => return false,
        }
    }
    node.store.durable().await.is_ok()
}

/// Rows of which this node is a home replica, and the last key of the page, `None` if it is the end.
struct Page {
    /// Since when they may have been as they are.
    read_at: Millis,
    rows: Vec<(Key, Bytes)>,
    last: Option<Key>,
}

async fn fetch_page(
    node: &Arc<Node>,
    from: NodeId,
    rows: Rows,
    after: Option<Key>,
) -> Option<Page> {
    let timeout = Duration::from_millis(node.config.timeouts.request_ms);
    let read_at = node.now();
    let heard = node.peers.ask(from, Message::Fetch { rows, after }, timeout).await;
    let reply = heard.into_reply()?;
    let Reply::Rows { rows, end } = reply.head else { return None };
    let mut rows = packed::unpack(rows, reply.payload)?;
    let last = rows.last().filter(|_| !end).map(|(key, _)| key.clone());
    rows.retain(|(key, _)| is_home(node, node.me, node.tree(key)));
    Some(Page { read_at, rows, last })
}

/// Merges a page when there is time for it. Whether all of it was, or is noted as in doubt: what has waited
/// too long, until a reaped key could come back with it, is not.
async fn merge_page(node: &Arc<Node>, read_at: Millis, mut rows: Vec<(Key, Bytes)>) -> bool {
    while !rows.is_empty() {
        // One batch a turn, a fraction of a millisecond: whoever needs the processor waits until it is over.
        let rest = rows.split_off(MERGE_BATCH_ROWS.min(rows.len()));
        let some = std::mem::replace(&mut rows, rest);
        let merge = move |node: &Node| {
            let now = node.now();
            if reap::is_stale(read_at, now, node.config.deletes.grace_ms) {
                return Ok(None);
            }
            merge_some(node, some, now).map(Some)
        };
        match work::run_throttled(node, &node.fill_throttle, merge).await {
            Ok(Some(broken)) => {
                if !note_doubtful(node, broken).await {
                    return false;
                }
            }
            Ok(None) => {
                tracing::warn!("rows that were fetched had waited too long to be merged");
                return false;
            }
            Err(error) => {
                tracing::warn!(%error, "could not merge a page of rows");
                return false;
            }
        }
    }
    true
}

/// Merges some rows. Which of them came damaged. Blocks.
fn merge_some(node: &Node, rows: Vec<(Key, Bytes)>, now: Millis) -> Result<Vec<Key>, Error> {
    let merge = |rows: Vec<(Key, Bytes)>| {
        let place = |(key, object)| (node.home(&key), key, object);
        node.store.merge_page(rows.into_iter().map(place).collect(), now)
    };
    match merge(rows.clone()) {
        Err(Error::Damaged { .. }) => {}
        merged => return merged.map(|_| Vec::new()),
    }
    // Seldom: only now is it worth while to look which.
    let is_whole = |(_, object): &(Key, Bytes)| Object::decode(object.clone()).is_ok();
    let (whole, broken): (Vec<_>, Vec<_>) = rows.into_iter().partition(is_whole);
    merge(whole)?;
    Ok(broken.into_iter().map(|(key, _)| key).collect())
}
