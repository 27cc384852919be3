//! Fills what this node has not received: partitions after it lost its disk, and buckets whose n
//! was raised.
//!
//! A replica that starts empty in a formed cluster takes writes, which count, but answers reads of
//! a partition only after it has merged with the other home replicas: an empty disk must not cause
//! a 404. Missing data is fetched in pages: first the hints that other nodes keep, for any target,
//! from every node that is up (one that is down hands them off when it is back), then each
//! partition from every other home replica of it. Until then it answers "not ready", which does not
//! count towards R.
//!
//! While the layout changes, so does a node that becomes a home replica, from all that are home replicas by
//! the layout that is left.
//!
//! A partition is received when everything that its other home replicas hold is here. They need not
//! have what is here: anti-entropy takes care of that. For single keys that they cannot give, see
//! `crate::repair::doubtful`.

use std::collections::BTreeSet;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::time::Instant;

use bytes::Bytes;
use futures_util::{StreamExt, stream};
use quorate_protocol::layout::Partition;
use quorate_protocol::message::{Message, Repair, RepairReply, Reply, Rows};
use quorate_protocol::mutation::{Mutation, mutated};
use quorate_protocol::name::{Bucket, Key, NodeId};
use quorate_protocol::object::Object;
use quorate_protocol::packed;
use quorate_protocol::reap;
use quorate_protocol::time::WallTime;
use quorate_protocol::tree::Tree;
use quorate_storage::{Error, MERGE_BATCH_ROWS, Source};

use crate::background::jobs::{JobState, Pause};
use crate::background::work;
use crate::cluster::view::ClusterView;
use crate::membership::moves;
use crate::node::Node;
use crate::repair::anti_entropy::{Asking, Talk, Way, receive_key, repair_tree, way};
use crate::repair::received;

/// Partitions filled at a time: while one waits for the network, another is merged.
const PARTITIONS_AT_ONCE: usize = 4;
const SAY_EVERY: Duration = Duration::from_secs(2);
const RETRY_EVERY: Duration = Duration::from_millis(500);
/// While partitions wait for an operator, only one turn in this many fills.
const WAITING: u64 = 4;
/// How long to wait for peers that are moving rows to other trees, before all of their rows are
/// fetched instead of only those that differ.
const DOUBT_PATIENCE: Duration = Duration::from_secs(10);
/// How often peers are asked again for keys that they could not give.
const DOUBTFUL_EVERY: Duration = Duration::from_secs(10);
/// How many partitions are recorded together: a record costs a sync, repeating a fill costs little.
const RECORD_EVERY: usize = 64;

/// Fills what is missing now, and later what becomes missing when the n of a bucket is raised.
pub async fn run(node: Arc<Node>, job: Arc<JobState>) {
    let mut ticks = tokio::time::interval(RETRY_EVERY);
    let (mut hints_from, mut epoch) = (BTreeSet::new(), node.epoch());
    let mut raises = Raises::default();
    let (mut began, mut asked_again) = (Instant::now(), Instant::now());
    let mut turn: u64 = 0;
    loop {
        ticks.tick().await;
        if !node.takes_part() {
            job.pauses(Pause::NotAdmitted);
            began = Instant::now();
            continue;
        }
        if node.epoch() != epoch {
            // What others kept for this node by an earlier layout may have been little.
            (epoch, hints_from) = (node.epoch(), BTreeSet::new());
        }
        let missing = node.filled.to_receive();
        let has_work = !missing.is_empty() || !node.buckets.raised().is_empty();
        let working = has_work.then(|| job.works());
        if !has_work {
            job.waits();
        }
        // Partitions that wait for an operator are retried less often.
        let turns =
            if node.unreceived.lost() + node.unreceived.undecided() > 0 { WAITING } else { 1 };
        turn += 1;
        let waits = began.elapsed() < DOUBT_PATIENCE;
        if missing.is_empty() {
            began = Instant::now();
            if !node.filled.is_recorded() {
                record(&node, &job).await;
            }
        } else if turn.is_multiple_of(turns) && fetch_hints(&node, &mut hints_from).await {
            fill_partitions(&node, &missing, waits, &job).await;
        }
        raises.fill(&node).await;
        drop(working);
        if asked_again.elapsed() >= DOUBTFUL_EVERY {
            ask_again(&node).await;
            asked_again = Instant::now();
        }
    }
}

/// Merges the hints that other nodes keep for keys this node is a home replica of, whatever their
/// target: the other home replicas may have been down when a key was written. `had` collects the
/// nodes whose hints are merged. Returns whether every node that is up has sent its hints.
async fn fetch_hints(node: &Arc<Node>, had: &mut BTreeSet<NodeId>) -> bool {
    let (down, view) = (node.peers.down(), node.view());
    let others: Vec<NodeId> =
        node.peers.nodes().filter(|other| !down.contains(other) && !had.contains(other)).collect();
    for other in others {
        if !fetch_hints_of(node, &view, other).await {
            return false;
        }
        had.insert(other);
    }
    true
}

/// The same from one node. Most keep none at all, which they say once they have answered for one target: then
/// nothing that began in an earlier epoch is under way there, which could still become a hint.
async fn fetch_hints_of(node: &Arc<Node>, view: &ClusterView, other: NodeId) -> bool {
    for (place, target) in view.nodes().enumerate() {
        if !fetch_all(node, other, Rows::HintsFor(target)).await {
            return false;
        }
        if place == 0 && moves::progress_of(node, other).await.is_some_and(|it| it.hints == 0) {
            return true;
        }
    }
    true
}

/// Receives whole partitions, a few at a time, within the configured share of a core. `waits`:
/// whether to wait for peers that are moving rows to other trees.
async fn fill_partitions(node: &Arc<Node>, missing: &[Partition], waits: bool, job: &JobState) {
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
        node.metrics.repair.partitions_filled.add(judged.received.len() as u64);
        undecided += judged.undecided;
        lost += judged.lost;
        record(node, job).await;
        let (left, of) =
            (node.filled.missing().len(), u64::from(node.view().placement().partitions()));
        job.progress(of.saturating_sub(left as u64), of);
        progress.say(left);
    }
    node.unreceived.set(undecided, lost);
    if node.filled.is_complete() {
        tracing::info!(
            took_ms = progress.began.elapsed().as_millis() as u64,
            "all partitions are filled"
        );
    }
}

/// Makes durable what was received; the next turn tries again if that fails.
async fn record(node: &Arc<Node>, job: &JobState) {
    if let Err(error) = work::run(node, |node| node.filled.record(&node.store)).await {
        job.failed(&error);
        tracing::warn!(%error, "could not record filled partitions");
    }
}

/// Merges one partition with every other home replica. Returns whether all that they hold is here.
async fn fill_partition(node: &Arc<Node>, partition: Partition, waits: bool) -> bool {
    let ns = node.buckets.assignment().ns().clone();
    let each = ns.distinct();
    let n_max = each.last().copied().unwrap_or_default();
    let trees: Vec<Tree> = each.into_iter().map(|n| Tree { partition, n }).collect();
    let view = node.view();
    let tree = Tree { partition, n: n_max };
    if !view.is_home(node.me, tree) {
        return true;
    }
    receive(node, &view, &view.sources(tree), &trees, Receiving { ns: ns.hash(), waits }).await
}

/// How a partition is received.
#[derive(Clone, Copy, Debug)]
struct Receiving {
    /// Hash of the n of all buckets by which its trees are built.
    ns: u64,
    /// Whether to wait for peers that are moving rows to other trees.
    waits: bool,
}

/// Merges some trees of a partition with all its other home replicas. Returns whether all that they
/// hold is here, or is noted as doubtful.
///
/// If most of it is missing it is first streamed whole from the first of them; then the trees are
/// compared with all of them, so that rows they share cross the network once.
async fn receive(
    node: &Arc<Node>,
    view: &ClusterView,
    homes: &[NodeId],
    trees: &[Tree],
    how: Receiving,
) -> bool {
    let mine = trees.iter().copied().filter(|tree| view.is_home(node.me, *tree));
    let mine: Vec<Tree> = mine.collect();
    let why = Asking::ToFill { ns: how.ns };
    for (place, other) in homes.iter().filter(|other| **other != node.me).enumerate() {
        let talk = Talk::new(node, *other);
        let in_common: Vec<Tree> =
            mine.iter().copied().filter(|tree| view.is_home(*other, *tree)).collect();
        let Some(partition) = in_common.first().map(|tree| tree.partition) else { continue };
        if mutated(Mutation::FillCountsUnmerged) && place > 0 {
            continue;
        }
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

/// Compares trees with a peer. Returns whether all that it holds is here, except for what it cannot
/// give.
async fn compare(talk: &Talk<'_>, trees: &[Tree], why: Asking) -> bool {
    for tree in trees {
        let summary = repair_tree(talk, *tree, why).await;
        if !summary.has_all() {
            tracing::debug!(?tree, ?summary, "did not receive all of a peer's rows; retrying soon");
            return false;
        }
    }
    true
}

/// Notes keys that a peer cannot give, durably. Returns whether there was room.
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
    let (mut here, began, view) = (BTreeSet::new(), Instant::now(), node.view());
    for key in node.filled.doubtful() {
        let homes = view.homes(&key);
        let is_down = node.peers.down().iter().any(|down| homes.contains(down));
        if is_down || began.elapsed() >= DOUBTFUL_EVERY {
            continue; // retried later
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
        Ok(_) => tracing::info!(count, "doubtful keys are complete now"),
        Err(error) => tracing::warn!(%error, "could not record that keys are complete"),
    }
}

/// Logs the progress of filling now and then.
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

/// What has been received of buckets whose n was raised, valid as long as that n does not change:
/// an interrupted fill resumes where it was.
#[derive(Default)]
struct Raises {
    /// By bucket and its last change.
    received: BTreeSet<(Bucket, u64, Partition)>,
    began: Option<Instant>,
}

impl Raises {
    /// Receives what is missing of all such buckets, as far as it is available now.
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

    /// Receives the partitions of a bucket of which this node became a home replica when n was
    /// raised.
    async fn fill_bucket(&mut self, node: &Arc<Node>, bucket: Bucket, before: u16, waits: bool) {
        let (ns, changed) = {
            let assignment = node.buckets.assignment();
            (assignment.ns().clone(), assignment.last_change_of(bucket.as_str()))
        };
        self.received.retain(|(other, change, _)| *other != bucket || *change == changed);
        let (n, view) = (ns.n(bucket.as_str()), &node.view());
        // One that becomes a home replica for the n before holds no more by that: the layout is changing.
        let is_new = |partition: &Partition| {
            let tree = |n: u16| Tree { partition: *partition, n };
            view.is_home(node.me, tree(n)) && !view.is_old_home(node.me, tree(before))
        };
        let had =
            |partition: &Partition| self.received.contains(&(bucket.clone(), changed, *partition));
        let missing: Vec<Partition> =
            view.partitions().filter(is_new).filter(|p| !had(p)).collect();
        let how = Receiving { ns: ns.hash(), waits };
        let filling = stream::iter(missing.iter().copied()).map(|partition| async move {
            let tree = Tree { partition, n };
            (partition, receive(node, view, &view.sources(tree), &[tree], how).await)
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
            return; // retried soon
        }
        tracing::info!(bucket = bucket.as_str(), before, n, "the bucket's new replicas are filled");
        let done = move |node: &Node| node.buckets.fetched(&node.store, &bucket, before, changed);
        if let Err(error) = work::run(node, done).await {
            tracing::warn!(%error, "could not record a filled bucket");
        }
    }
}

/// Merges what another node holds, page by page: the next page is in flight while one is merged.
/// Returns whether all of it arrived and is durable.
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

/// Rows of which this node is a home replica, and the last key of the page, `None` at the end.
struct Page {
    /// The earliest time at which they may have been read.
    read_at: WallTime,
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
    let heard = node.peers.ask(from, Message::Repair(Repair::Fetch { rows, after }), timeout).await;
    let reply = heard.into_reply()?;
    let Reply::Repair(RepairReply::Rows { rows, end }) = reply.head else { return None };
    let mut rows = packed::unpack(rows, reply.payload)?;
    let last = rows.last().filter(|_| !end).map(|(key, _)| key.clone());
    let view = node.view();
    rows.retain(|(key, _)| view.is_home(node.me, view.tree(key)));
    Some(Page { read_at, rows, last })
}

/// Merges a page as the throttle allows. Returns whether all of it was merged or noted as doubtful:
/// rows that have waited so long that a reaped key could come back with them are not merged.
async fn merge_page(node: &Arc<Node>, read_at: WallTime, mut rows: Vec<(Key, Bytes)>) -> bool {
    while !rows.is_empty() {
        // One batch a turn, a fraction of a millisecond: client requests never wait longer for the
        // processor.
        let rest = rows.split_off(MERGE_BATCH_ROWS.min(rows.len()));
        let some = std::mem::replace(&mut rows, rest);
        let count = some.len() as u64;
        let merge = move |node: &Node| {
            let now = node.now();
            if reap::is_stale(read_at, now, node.config.deletes.grace_ms) {
                return Ok(None);
            }
            merge_some(node, some, now).map(Some)
        };
        match work::run_throttled(node, &node.fill_throttle, merge).await {
            Ok(Some(broken)) => {
                node.metrics.repair.fill_rows.add(count);
                if !note_doubtful(node, broken).await {
                    return false;
                }
            }
            Ok(None) => {
                tracing::warn!("discarded fetched rows that had waited too long to be merged");
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

/// Merges some rows. Returns the keys of those that cannot be decoded. Blocks.
fn merge_some(node: &Node, rows: Vec<(Key, Bytes)>, now: WallTime) -> Result<Vec<Key>, Error> {
    let view = node.view();
    let merge = |rows: Vec<(Key, Bytes)>| {
        let place = |(key, object)| (view.home(&key), key, object);
        node.store.merge_page(rows.into_iter().map(place).collect(), Source::Fill, now)
    };
    match merge(rows.clone()) {
        Err(error) if error.is_undecodable() => {}
        merged => return merged.map(|_| Vec::new()),
    }
    // Rare, so only now is it worth finding out which.
    let is_whole = |(_, object): &(Key, Bytes)| Object::decode(object.clone()).is_ok();
    let (whole, broken): (Vec<_>, Vec<_>) = rows.into_iter().partition(is_whole);
    merge(whole)?;
    Ok(broken.into_iter().map(|(key, _)| key).collect())
}
