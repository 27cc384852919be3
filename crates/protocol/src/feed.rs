//! The feed of a bucket's changes: which entries of its replicas' logs make a page, how far a cursor gets
//! by it, and what it then promises.
//!
//! Every node logs, in the order in which it stored them, the changes of the home rows of a bucket that has
//! a feed. A subscriber has a position in the log of each node. A page takes entries of all logs from there
//! on; what it gives is the newest state of their keys, by a read, so that intermediate states may be
//! missing and some may come again. A position moves only over entries that a page has delivered.
//!
//! A write that W home replicas have acknowledged is in W logs of its partition. A page that got to the end
//! of N − W + 1 of them therefore delivers every write that was acknowledged before the page began: it is
//! *complete*. A home replica counts for that if it answered, has received the partition, and its log is
//! whole for the cursor: what was trimmed before the cursor got there has come from others. Where W or more
//! logs of a partition are not, no page will ever be complete: the cursor has expired. So has one that was
//! not complete for longer than the logs are kept.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use serde::{Deserialize, Serialize};

use crate::context::{ContextError, ContextKeys};
use crate::layout::Partition;
use crate::listing::HomeSet;
use crate::mutation::{Mutation, mutated};
use crate::name::{Bucket, Key, NodeId};
use crate::object::Version;
use crate::time::WallTime;

/// The longest cursor accepted, in characters.
pub const CURSOR_CHARS_MAX: usize = 32 * 1024;
/// The shortest and the longest time for which a bucket's changes can be kept, in seconds.
pub const RETENTION_S: std::ops::RangeInclusive<u32> = 60..=30 * 24 * 3600;
/// By how much the clocks of two nodes may differ before a page is needlessly not complete, in milliseconds.
const SKEW_MS: u64 = 10_000;
/// How many deliveries a cursor remembers, which other nodes' logs have not named yet.
const RECENT_MAX: usize = 128;

/// How far a subscriber has got.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Cursor {
    /// Every write that was acknowledged before then was delivered, or came before the subscription.
    pub complete_at: WallTime,
    places: BTreeMap<NodeId, Place>,
    /// The last deliveries: replicas that log the same state of the key later add nothing.
    recent: VecDeque<u64>,
}

/// Where a cursor is in a node's log.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
struct Place {
    position: Position,
    /// When the last entry was logged that was trimmed before the cursor had got to it; zero if none was.
    gap: WallTime,
}

/// A position in a node's log.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Position {
    /// Which log: a node that lost its rows has another one.
    pub log: u64,
    /// The number of the last entry before it.
    pub after: u64,
}

impl Position {
    /// The end of any log.
    pub const END: Self = Self { log: 0, after: u64::MAX };
}

impl Place {
    fn at(position: Position) -> Self {
        Self { position, gap: WallTime(0) }
    }
}

/// A part of one node's log.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Page {
    /// Which log.
    pub log: u64,
    /// The keys that changed, each once, at the number of its first entry, with when that was logged and the
    /// version of its last one; none is after `upto`.
    pub entries: Vec<(u64, WallTime, Key, Version)>,
    /// The number up to which the page has everything that was asked for.
    pub upto: u64,
    /// Whether that is the end of the log.
    pub is_end: bool,
    /// The number up to which entries have been trimmed, and when the last of them was.
    pub trimmed: (u64, WallTime),
    /// Partitions that the node is a home replica of and has not received.
    pub not_ready: Vec<Partition>,
}

/// What a page promises beside what it delivers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Promise {
    /// Everything that was acknowledged before it began is delivered.
    Complete,
    /// Something may be missing, which a later page delivers.
    Partial,
    /// Something is missing, and no page will deliver it.
    Expired,
}

impl Cursor {
    /// Of a subscription to what is written from now on, which continues the logs from where they end in
    /// these pages.
    pub fn now(now: WallTime, pages: &BTreeMap<NodeId, Page>) -> Self {
        let end = |page: &Page| Position { log: page.log, after: page.upto };
        let ends = pages.iter().map(|(node, page)| (*node, Place::at(end(page))));
        Self { complete_at: now, places: ends.collect(), recent: VecDeque::new() }
    }

    /// Of a subscription to all that these logs still have, of changes of the last `retention_s` seconds.
    pub fn oldest(now: WallTime, retention_s: u32, pages: &BTreeMap<NodeId, Page>) -> Self {
        let kept_since = now.0.saturating_sub(u64::from(retention_s) * 1_000);
        let whole_since = pages.values().map(|page| page.trimmed.1.0).max().unwrap_or_default();
        let complete_at = WallTime(kept_since.max(whole_since).min(now.0));
        let begin = |page: &Page| Position { log: page.log, after: page.trimmed.0 };
        let beginnings = pages.iter().map(|(node, page)| (*node, Place::at(begin(page))));
        Self { complete_at, places: beginnings.collect(), recent: VecDeque::new() }
    }

    /// The position in a node's log.
    pub fn position(&self, node: NodeId) -> Position {
        self.place(node).position
    }

    fn place(&self, node: NodeId) -> Place {
        self.places.get(&node).copied().unwrap_or_default()
    }

    /// Whether it was not complete for longer than changes are kept.
    pub fn is_older_than(&self, retention_s: u32, now: WallTime) -> bool {
        now.since(self.complete_at) > u64::from(retention_s) * 1_000 + SKEW_MS
    }

    /// Forgets nodes that are not in the cluster any more.
    pub fn keep(&mut self, members: &BTreeSet<NodeId>) {
        self.places.retain(|node, _| members.contains(node));
    }

    /// The text of it that a client gets, good for this bucket and prefix.
    pub fn seal(&self, keys: &ContextKeys, bucket: &Bucket, prefix: &str) -> String {
        keys.seal(&subject(bucket, prefix), self)
    }

    /// Verifies a cursor that a client sent.
    ///
    /// # Errors
    /// [`ContextError`] that says what is wrong with it.
    pub fn open(
        keys: &ContextKeys,
        bucket: &Bucket,
        prefix: &str,
        text: &str,
    ) -> Result<Self, ContextError> {
        if text.len() > CURSOR_CHARS_MAX {
            return Err(ContextError::Damaged);
        }
        keys.open(&subject(bucket, prefix), text)
    }
}

/// What a cursor is sealed with. It begins with a byte with which no key begins.
fn subject(bucket: &Bucket, prefix: &str) -> Vec<u8> {
    [b"\0feed\0", bucket.as_str().as_bytes(), b"\0", prefix.as_bytes()].concat()
}

impl Page {
    /// From where this log is read for a cursor with that position: from its beginning, if the position is in
    /// another one.
    fn after(&self, position: Position) -> u64 {
        let is_here = position.log == self.log && position.after <= self.upto;
        if is_here { position.after } else { 0 }
    }

    /// When the last entry was logged that the cursor has not had and that was trimmed; zero if none was.
    fn gap_for(&self, cursor: &Cursor, node: NodeId) -> WallTime {
        let (place, (number, at)) = (cursor.place(node), self.trimmed);
        let is_trimmed = self.after(place.position) < number;
        place.gap.max(if is_trimmed { at } else { WallTime(0) })
    }

    /// Whether all that was trimmed before the cursor had got to it has been delivered from other logs.
    fn is_whole_for(&self, cursor: &Cursor, node: NodeId) -> bool {
        let gap = self.gap_for(cursor, node);
        gap == WallTime(0) || cursor.complete_at.0 >= gap.0.saturating_add(SKEW_MS)
    }

    /// Whether a page is a valid answer to a question with this position, prefix and limit. An invalid one
    /// must be discarded: it would corrupt the cursor.
    pub fn is_sound(
        &self,
        position: Position,
        bucket: &Bucket,
        prefix: &str,
        limit: usize,
    ) -> bool {
        let mut last = self.after(position);
        let in_order = self.entries.iter().all(|(number, _, key, _)| {
            let is_next = *number > last && *number <= self.upto;
            last = *number;
            is_next && key.bucket() == bucket.as_str() && key.key().starts_with(prefix)
        });
        in_order && self.entries.len() <= limit && self.upto >= last
    }
}

/// The pages of all nodes that answered, and what they make for a subscriber.
pub struct Changes<'a> {
    cursor: Cursor,
    began: WallTime,
    pages: BTreeMap<NodeId, Page>,
    sets: &'a [HomeSet<'a>],
    /// The entries in the order in which they are delivered: from each log in turn.
    order: Vec<(NodeId, usize)>,
}

impl<'a> Changes<'a> {
    /// Of a cursor and the pages that were read from its positions; each sound, and the first was asked for
    /// at `began`. The keys have these sets of home replicas, R of which is N − W + 1.
    pub fn new(
        cursor: Cursor,
        began: WallTime,
        pages: BTreeMap<NodeId, Page>,
        sets: &'a [HomeSet<'a>],
    ) -> Self {
        let longest = pages.values().map(|page| page.entries.len()).max().unwrap_or_default();
        let has = |page: &Page, at: usize| at < page.entries.len();
        let order = (0..longest).flat_map(|at| {
            let nodes = pages.iter().filter(move |(_, page)| has(page, at));
            nodes.map(move |(node, _)| (*node, at))
        });
        let order = order.collect();
        Self { cursor, began, pages, sets, order }
    }

    fn entry(&self, (node, at): (NodeId, usize)) -> (&Key, Version) {
        let (_, _, key, version) = &self.pages[&node].entries[at];
        (key, *version)
    }

    /// The keys to deliver, each once, in order, without what the cursor's subscriber has already: at most
    /// `limit`.
    pub fn keys(&self, limit: usize) -> Vec<Key> {
        let (mut keys, mut seen) = (Vec::new(), BTreeSet::new());
        for place in &self.order {
            let (key, version) = self.entry(*place);
            if keys.len() < limit && !self.cursor.has(key, version) && seen.insert(key) {
                keys.push(key.clone());
            }
        }
        keys
    }

    /// The cursor once these keys have been delivered in these versions, the first of [`Changes::keys`], and
    /// what it promises; `promise` is what it would if all were delivered ([`Changes::promise`]).
    pub fn deliver(
        mut self,
        delivered: &[(Key, Version)],
        mut promise: Promise,
    ) -> (Cursor, Promise) {
        let passed = self.passed(delivered);
        let is_whole = self.pages.iter().all(|(node, page)| passed[node] == page.entries.len());
        if promise == Promise::Complete && !is_whole {
            promise = Promise::Partial;
        }
        let reached = match promise {
            Promise::Complete => self.began,
            Promise::Partial => self.reached(&passed),
            Promise::Expired => WallTime(0),
        };
        let furthest = self.pages.values().map(|page| page.upto).max().unwrap_or_default();
        for (node, page) in &self.pages {
            let after = match passed[node] {
                _ if mutated(Mutation::PositionOfAnotherHome) => furthest,
                count if count == page.entries.len() => page.upto,
                // Up to the first that is not delivered: before it are later entries of those that are.
                count => page.entries[count].0 - 1,
            };
            let (position, gap) =
                (Position { log: page.log, after }, page.gap_for(&self.cursor, *node));
            self.cursor.places.insert(*node, Place { position, gap });
        }
        self.cursor.complete_at = self.cursor.complete_at.max(reached);
        let recent = delivered.iter().map(|(key, version)| mark_of(key, *version));
        self.cursor.recent.extend(recent);
        let surplus = self.cursor.recent.len().saturating_sub(RECENT_MAX);
        self.cursor.recent.drain(..surplus);
        (self.cursor, promise)
    }

    /// How many entries of each page are delivered with these keys, up to the first that is not.
    fn passed(&self, delivered: &[(Key, Version)]) -> BTreeMap<NodeId, usize> {
        let keys: BTreeSet<&Key> = delivered.iter().map(|(key, _)| key).collect();
        let passed = self.pages.iter().map(|(node, page)| {
            let is_delivered = |(_, _, key, version): &&(u64, WallTime, Key, Version)| {
                keys.contains(key) || self.cursor.has(key, *version)
            };
            (*node, page.entries.iter().take_while(is_delivered).count())
        });
        passed.collect()
    }

    /// The time up to which a subscriber that is behind has got: of what was acknowledged before then,
    /// everything was logged before then by enough nodes that are at least as far.
    fn reached(&self, passed: &BTreeMap<NodeId, usize>) -> WallTime {
        if !self.are_enough(|_| true) {
            return WallTime(0);
        }
        let times = self.pages.iter().map(|(node, page)| match passed[node] {
            count if count == page.entries.len() && page.is_end => self.began,
            0 => WallTime(0),
            count => WallTime(page.entries[count - 1].1.0.saturating_sub(SKEW_MS)),
        });
        times.min().unwrap_or_default().min(self.began)
    }

    /// What these pages promise if all of their entries are delivered.
    pub fn promise(&self) -> Promise {
        if mutated(Mutation::StalledPartitionSkipped) {
            return Promise::Complete;
        }
        if self.each().any(|(partition, set)| self.is_lost(partition, set)) {
            Promise::Expired
        } else if self.are_enough(|page| page.is_end) {
            Promise::Complete
        } else {
            Promise::Partial
        }
    }

    /// Whether so many logs of a partition are not whole that there will never be enough that are.
    fn is_lost(&self, partition: Partition, set: &HomeSet<'_>) -> bool {
        let homes = set.layout.homes(partition, set.n);
        let is_broken = |home: &&NodeId| {
            self.pages.get(home).is_some_and(|page| !page.is_whole_for(&self.cursor, **home))
        };
        let broken = homes.iter().filter(is_broken).count();
        !set.takes_witnesses && homes.len() - broken < usize::from(set.r)
    }

    /// Whether enough home replicas of every partition have a page like this, of a log that has all that the
    /// replica has stored of the partition.
    fn are_enough(&self, is_like_this: impl Fn(&Page) -> bool) -> bool {
        self.each().all(|(partition, set)| {
            let counts = |home: &&NodeId| {
                let Some(page) = self.pages.get(home) else { return false };
                let is_ready = set.takes_witnesses || !page.not_ready.contains(&partition);
                is_ready && is_like_this(page) && page.is_whole_for(&self.cursor, **home)
            };
            set.layout.homes(partition, set.n).iter().filter(counts).count() >= usize::from(set.r)
        })
    }

    /// Each partition with each set of home replicas.
    fn each(&self) -> impl Iterator<Item = (Partition, &'a HomeSet<'a>)> + use<'a> {
        let sets = self.sets;
        let partitions = sets.first().map_or(0, |set| set.layout.partitions());
        let partitions = (0..partitions).map(|p| Partition(p as u16));
        partitions.flat_map(move |partition| sets.iter().map(move |set| (partition, set)))
    }

    /// Whether some log has more than its page.
    pub fn has_more(&self) -> bool {
        self.pages.values().any(|page| !page.is_end)
    }

    /// The cursor to go on with where this one has expired, once all keys have been listed: from the ends of
    /// these logs on.
    pub fn renewed(&self) -> Cursor {
        Cursor::now(self.began, &self.pages)
    }
}

impl Cursor {
    fn has(&self, key: &Key, version: Version) -> bool {
        let mark = mark_of(key, version);
        self.recent.contains(&mark)
    }
}

/// A hash of a state of a key.
fn mark_of(key: &Key, version: Version) -> u64 {
    let mut hasher = blake3::Hasher::new();
    hasher.update(&version.0);
    hasher.update(key.as_bytes());
    let hash = hasher.finalize();
    let [a, b, c, d, e, f, g, h, ..] = *hash.as_bytes();
    u64::from_le_bytes([a, b, c, d, e, f, g, h])
}

#[cfg(test)]
mod tests;
