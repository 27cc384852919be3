//! The logs of buckets that have a feed: which of their home rows changed, in order.
//!
//! An entry is in the batch of the change itself, so that both are there after a crash or neither is. The
//! number of an entry is drawn before its batch is written, and batches may be written in another order: a
//! reader gets only what is below every number that is still being written, and so misses none. Numbers of
//! a start of the store are greater than those of all earlier ones, also of entries that a crash has undone.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock, RwLockReadGuard};

use quorate_protocol::feed::{Page, Position};
use quorate_protocol::mutation::{Mutation, mutated};
use quorate_protocol::name::Key;
use quorate_protocol::object::Version;
use quorate_protocol::time::WallTime;

use crate::backend::{Batch, Range};
use crate::change::Update;
use crate::columns::Column;
use crate::disk::Need;
use crate::engine::Engine;
use crate::error::Error;
use crate::options::Blocking;
use crate::store::Store;

/// How often a store with logs was opened: the upper bits of the numbers that it draws.
const STARTS: &[u8] = b"store:feed-starts";
/// The bits of a number that count within one start.
const COUNT_BITS: u32 = 40;
/// Entries that one call reads at the most, of whatever prefix.
const READ_MAX: usize = 10_000;
/// Entries that one call trims at the most.
pub const TRIM_MAX: usize = 1_000;

/// Why a home row changes, and when: whether its bucket's log tells of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum News {
    /// Its value does not change.
    None,
    /// A write, or another replica's state.
    Change(WallTime),
    /// It is received by a filling node: that is news if it was written while logs are kept. With older rows
    /// subscribers would get the whole bucket again whenever a node joins.
    Received(WallTime),
}

/// All logs.
pub(crate) struct Feeds {
    /// Whether there is one: read for every change.
    has_logs: AtomicBool,
    by_bucket: RwLock<Logs>,
    numbers: Mutex<Numbers>,
}

type Logs = BTreeMap<String, Arc<Log>>;

/// The log of a bucket.
struct Log {
    id: u64,
    retention_s: AtomicU32,
    /// The number up to which entries were trimmed, and when the last of them was logged.
    trimmed: Mutex<(u64, WallTime)>,
    /// The number of its last entry.
    last: AtomicU64,
    /// How many entries it has.
    count: AtomicU64,
}

#[derive(Default)]
struct Numbers {
    /// The last one; 0 until there is a log.
    last: u64,
    /// Those whose batches are being written.
    in_flight: BTreeSet<u64>,
}

/// An entry whose batch is being written.
pub(crate) struct Logged<'a> {
    feeds: &'a Feeds,
    log: Arc<Log>,
    number: u64,
}

impl Logged<'_> {
    /// The batch is written.
    pub(crate) fn keep(self) {
        self.log.last.fetch_max(self.number, Ordering::SeqCst);
        self.log.count.fetch_add(1, Ordering::SeqCst);
    }
}

impl Drop for Logged<'_> {
    fn drop(&mut self) {
        self.feeds.numbers().in_flight.remove(&self.number);
    }
}

impl Feeds {
    /// Reads which logs there are.
    pub(crate) fn load(engine: &Engine) -> Result<Self, Error> {
        let mut logs = BTreeMap::new();
        let mut entries = engine.entries(Column::Feeds, Range::all())?;
        entries.seek(&[]);
        while let Some((key, value)) = entries.item() {
            let (bucket, mut log, counted) = decode_log(key, value)?;
            entries.seek(&after_entries_of(bucket.as_bytes()));
            log.count_since(engine, &bucket, counted)?;
            logs.insert(bucket, Arc::new(log));
        }
        entries.check()?;
        let feeds = Self {
            has_logs: AtomicBool::new(!logs.is_empty()),
            by_bucket: RwLock::new(logs),
            numbers: Mutex::default(),
        };
        if feeds.has_logs.load(Ordering::SeqCst) {
            feeds.begin(engine)?;
        }
        Ok(feeds)
    }

    /// Begins to draw numbers that no earlier start of this store has drawn.
    fn begin(&self, engine: &Engine) -> Result<(), Error> {
        let recorded = engine.get(Column::Meta, STARTS, Blocking::Allowed)?;
        let starts =
            recorded.and_then(|bytes| Some(u64::from_le_bytes(bytes.as_ref().try_into().ok()?)));
        let start = starts.unwrap_or_default() + 1;
        let mut batch = engine.batch();
        batch.put(Column::Meta, STARTS, start.to_le_bytes())?;
        engine.write(batch, Blocking::Allowed)?;
        engine.sync()?;
        self.numbers().last = start << COUNT_BITS;
        Ok(())
    }

    fn numbers(&self) -> MutexGuard<'_, Numbers> {
        self.numbers.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn log(&self, bucket: &str) -> Option<Arc<Log>> {
        if !self.has_logs.load(Ordering::SeqCst) {
            return None;
        }
        self.logs().get(bucket).cloned()
    }

    fn logs(&self) -> RwLockReadGuard<'_, Logs> {
        self.by_bucket.read().unwrap_or_else(PoisonError::into_inner)
    }

    /// Changes which logs there are.
    fn change_logs(&self, change: impl FnOnce(&mut Logs)) {
        let mut logs = self.by_bucket.write().unwrap_or_else(PoisonError::into_inner);
        change(&mut logs);
        self.has_logs.store(!logs.is_empty(), Ordering::SeqCst);
    }

    /// The number up to which every entry is written.
    fn visible(&self) -> u64 {
        let numbers = self.numbers();
        match numbers.in_flight.first() {
            Some(first) => first - 1,
            None => numbers.last,
        }
    }

    /// Adds the entry of a changed row to its batch, if its bucket has a log.
    pub(crate) fn stage(
        &self,
        batch: &mut Batch<'_>,
        update: &Update<'_>,
        version: Version,
    ) -> Result<Option<Logged<'_>>, Error> {
        let Some(log) = self.log(update.key.bucket()) else { return Ok(None) };
        let at = match update.news {
            News::None => return Ok(None),
            News::Change(now) => now,
            News::Received(now) => {
                let kept_since = now.0.saturating_sub(log.retention_ms());
                if mutated(Mutation::FillNotLogged)
                    || update.row.object.stamp_max().wall_time().0 < kept_since
                {
                    return Ok(None);
                }
                now
            }
        };
        let number = {
            let mut numbers = self.numbers();
            numbers.last += 1;
            let number = numbers.last;
            numbers.in_flight.insert(number);
            number
        };
        let logged = Logged { feeds: self, log, number };
        let (bucket, name) = (update.key.bucket(), update.key.key().as_bytes());
        let entry = [&at.0.to_le_bytes(), &version.0[..], name].concat();
        batch.put(Column::Feeds, entry_key(bucket, number), entry)?;
        Ok(Some(logged))
    }

    /// Forgets all logs, of which nothing is stored any more.
    pub(crate) fn clear(&self) {
        self.change_logs(BTreeMap::clear);
    }
}

impl Log {
    fn retention_ms(&self) -> u64 {
        u64::from(self.retention_s.load(Ordering::SeqCst)) * 1_000
    }

    fn trimmed(&self) -> (u64, WallTime) {
        *self.trimmed.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Its description, in which up to `counted` it has `count` entries.
    fn encode(&self, (number, at): (u64, WallTime), (counted, count): (u64, u64)) -> Vec<u8> {
        [self.id, number, at.0, counted, count].map(u64::to_le_bytes).concat()
    }

    /// Counts the entries after a number, up to which they are counted.
    fn count_since(&mut self, engine: &Engine, bucket: &str, counted: u64) -> Result<(), Error> {
        let start = entry_key(bucket, counted.saturating_add(1));
        let (mut more, mut last) = (0, counted);
        engine.entries(Column::Feeds, Range::from(start, &prefix_of(bucket)))?.visit(
            |key, entry| {
                (last, ..) = decode_entry(bucket, key, entry)?;
                more += 1;
                Ok(true)
            },
        )?;
        *self.count.get_mut() += more;
        *self.last.get_mut() = last;
        Ok(())
    }
}

impl Store {
    /// Keeps logs of the changes of these buckets and of no others, for so many seconds each: begins those
    /// that are missing, and drops the rest. Call it before anything is done by what this says. Blocks.
    ///
    /// # Errors
    /// [`Error::Damaged`], [`Error::Io`], and those of a write; some may have been begun or dropped.
    pub fn keep_feeds(&self, wanted: &BTreeMap<String, u32>, now: WallTime) -> Result<(), Error> {
        let logs = self.feeds.logs().clone();
        for (bucket, _) in logs.iter().filter(|(bucket, _)| !wanted.contains_key(*bucket)) {
            self.drop_feed(bucket)?;
        }
        for (bucket, retention_s) in wanted {
            match logs.get(bucket) {
                Some(log) => log.retention_s.store(*retention_s, Ordering::SeqCst),
                None => self.begin_feed(bucket, *retention_s, now)?,
            }
        }
        Ok(())
    }

    /// Begins a log. What was written before is missing in it, unless there is nothing.
    fn begin_feed(&self, bucket: &str, retention_s: u32, now: WallTime) -> Result<(), Error> {
        if self.feeds.numbers().last == 0 {
            self.feeds.begin(&self.engine)?;
        }
        let mut is_empty = true;
        self.engine.entries(Column::Objects, Range::all())?.visit(|_, _| {
            is_empty = false;
            Ok(false)
        })?;
        // What is left of an earlier log has lower numbers.
        let begins_after = self.feeds.numbers().last;
        let missing_ms = if is_empty { u64::from(retention_s) * 1_000 } else { 0 };
        let log = Log {
            id: self.host.random_nonzero(),
            retention_s: AtomicU32::new(retention_s),
            trimmed: Mutex::new((begins_after, WallTime(now.0.saturating_sub(missing_ms)))),
            last: AtomicU64::new(0),
            count: AtomicU64::new(0),
        };
        self.disk.check(Need::Record)?;
        let mut batch = self.engine.batch();
        batch.put(Column::Feeds, bucket, log.encode(log.trimmed(), (begins_after, 0)))?;
        self.engine.write(batch, Blocking::Allowed)?;
        self.feeds.change_logs(|logs| drop(logs.insert(bucket.to_owned(), Arc::new(log))));
        Ok(())
    }

    /// Its entries are left for [`Store::sweep_feeds`].
    fn drop_feed(&self, bucket: &str) -> Result<(), Error> {
        self.feeds.change_logs(|logs| drop(logs.remove(bucket)));
        self.stripes.wait_for_all(); // for entries that are being written
        let mut batch = self.engine.batch();
        batch.delete(Column::Feeds, bucket)?;
        self.engine.write(batch, Blocking::Allowed)
    }

    /// Deletes entries of logs that there are no more, [`TRIM_MAX`] at the most. Returns how many. Blocks on
    /// the disk.
    ///
    /// # Errors
    /// [`Error::Damaged`], [`Error::Io`], and those of a write.
    pub fn sweep_feeds(&self) -> Result<usize, Error> {
        let mut batch = self.engine.batch();
        let mut count = 0;
        let mut entries = self.engine.entries(Column::Feeds, Range::all())?;
        entries.seek(&[]);
        while let Some((key, _)) = entries.item().filter(|_| count < TRIM_MAX) {
            if let Some(at) = key.iter().position(|byte| *byte == 0)
                && self.feeds.log(&String::from_utf8_lossy(&key[..at])).is_none()
            {
                batch.delete(Column::Feeds, key)?;
                count += 1;
                entries.next();
            } else {
                let bucket = key.split(|byte| *byte == 0).next().unwrap_or_default();
                let next = after_entries_of(bucket);
                entries.seek(&next);
            }
        }
        entries.check()?;
        if count > 0 {
            self.engine.write(batch, Blocking::Allowed)?;
        }
        Ok(count)
    }

    /// The buckets that have a log here, and how many entries it has.
    pub fn feeds(&self) -> Vec<(String, u64)> {
        let logs = self.feeds.logs();
        logs.iter().map(|(it, log)| (it.clone(), log.count.load(Ordering::SeqCst))).collect()
    }

    /// The number of the last entry of a bucket's log that can be read; 0 if there is none.
    pub fn feed_end(&self, bucket: &str) -> u64 {
        let visible = self.feeds.visible();
        self.feeds.log(bucket).map_or(0, |log| log.last.load(Ordering::SeqCst).min(visible))
    }

    /// Up to `limit` keys with a prefix that changed in a bucket, by its log from a position on; `None` if it
    /// has none. Each is at the place of its first change, with the version of its last one. A position that
    /// is not in this log stands for its beginning. Blocks on the disk.
    ///
    /// # Errors
    /// [`Error::Damaged`], [`Error::Io`].
    pub fn feed(
        &self,
        bucket: &str,
        prefix: &str,
        position: Position,
        limit: usize,
    ) -> Result<Option<Page>, Error> {
        let visible = self.feeds.visible(); // before the entries: all up to here are written
        let Some(log) = self.feeds.log(bucket) else { return Ok(None) };
        if position == Position::END {
            let (log, upto, trimmed) = (log.id, visible, log.trimmed());
            return Ok(Some(Page { log, upto, is_end: true, trimmed, ..Page::default() }));
        }
        let is_here = position.log == log.id && position.after <= visible;
        let after = if is_here { position.after } else { 0 };
        let mut page = Page { log: log.id, is_end: true, upto: visible, ..Page::default() };
        let (mut read, mut last) = (0, after);
        let mut places: HashMap<Vec<u8>, usize> = HashMap::new();
        let entries = prefix_of(bucket);
        let from = after.max(log.trimmed().0);
        self.walk(Column::Feeds, &entries, Some(&entry_key(bucket, from)), |key, entry| {
            let (number, at, version, name) = decode_entry(bucket, key, entry)?;
            if number > visible {
                return Ok(false);
            }
            let place = places.get(name).copied();
            let is_new = place.is_none() && name.starts_with(prefix.as_bytes());
            if (is_new && places.len() == limit) || read == READ_MAX {
                (page.upto, page.is_end) = (last, false);
                return Ok(false);
            }
            (read, last) = (read + 1, number);
            if let Some(place) = place {
                page.entries[place].3 = version;
            } else if is_new {
                let key = Key::new(bucket, name).map_err(|_| damaged(bucket, number))?;
                places.insert(name.to_vec(), page.entries.len());
                page.entries.push((number, at, key, version));
            }
            Ok(true)
        })?;
        // After the entries: what was trimmed meanwhile is known to be missing.
        page.trimmed = log.trimmed();
        Ok(Some(page))
    }

    /// Trims entries of a bucket's log that are older than it is kept, and the oldest if it has more than
    /// `entries_max`: [`TRIM_MAX`] at the most. Returns how many. Blocks on the disk.
    ///
    /// # Errors
    /// [`Error::Damaged`], [`Error::Io`], and those of a write.
    pub fn trim_feed(&self, bucket: &str, now: WallTime, entries_max: u64) -> Result<usize, Error> {
        let Some(log) = self.feeds.log(bucket) else { return Ok(0) };
        let before = WallTime(now.0.saturating_sub(log.retention_ms()));
        // Counted before what is visible: what is written meanwhile is counted when the store is opened.
        let (counted, entries) = (self.feeds.visible(), log.count.load(Ordering::SeqCst));
        let surplus = entries.saturating_sub(entries_max);
        let mut batch = self.engine.batch();
        let mut trimmed = log.trimmed();
        let begin = trimmed.0;
        let (mut count, mut stale) = (0, 0);
        self.walk(Column::Feeds, &prefix_of(bucket), None, |key, entry| {
            let (number, at, ..) = decode_entry(bucket, key, entry)?;
            let is_stale = number <= begin; // of an earlier log
            let is_kept = at >= before && (count - stale) as u64 >= surplus;
            if (is_kept && !is_stale) || count == TRIM_MAX {
                return Ok(false);
            }
            batch.delete(Column::Feeds, key)?;
            count += 1;
            if is_stale {
                stale += 1;
            } else {
                trimmed = (number, trimmed.1.max(at));
            }
            Ok(true)
        })?;
        if count > 0 {
            // Said before it is done: whoever reads meanwhile is not told that nothing is missing.
            *log.trimmed.lock().unwrap_or_else(PoisonError::into_inner) = trimmed;
            let left = entries.saturating_sub((count - stale) as u64);
            batch.put(Column::Feeds, bucket, log.encode(trimmed, (counted, left)))?;
            self.engine.write(batch, Blocking::Allowed)?;
            log.count.fetch_sub((count - stale) as u64, Ordering::SeqCst);
        }
        Ok(count)
    }
}

/// With what the keys of all entries of a bucket begin. The log itself is described under the bucket's name.
fn prefix_of(bucket: &str) -> Vec<u8> {
    [bucket.as_bytes(), &[0]].concat()
}

/// The least key after all entries of a bucket: its name has no byte as low as this one.
fn after_entries_of(bucket: &[u8]) -> Vec<u8> {
    [bucket, &[1]].concat()
}

fn entry_key(bucket: &str, number: u64) -> Vec<u8> {
    [bucket.as_bytes(), &[0], &number.to_be_bytes()].concat()
}

fn decode_entry<'a>(
    bucket: &str,
    key: &[u8],
    entry: &'a [u8],
) -> Result<(u64, WallTime, Version, &'a [u8]), Error> {
    let number = key.get(bucket.len() + 1..).and_then(|number| number.try_into().ok());
    let number = number.map(u64::from_be_bytes).ok_or_else(|| damaged(bucket, 0))?;
    let (at, rest) = entry.split_first_chunk().ok_or_else(|| damaged(bucket, number))?;
    let (version, name) = rest.split_first_chunk().ok_or_else(|| damaged(bucket, number))?;
    Ok((number, WallTime(u64::from_le_bytes(*at)), Version(*version), name))
}

/// A bucket, its log, and the number up to which its entries are counted.
fn decode_log(key: &[u8], value: &[u8]) -> Result<(String, Log, u64), Error> {
    let bucket = String::from_utf8_lossy(key).into_owned();
    let word = |at: usize| {
        let bytes = value.get(8 * at..8 * at + 8).and_then(|bytes| bytes.try_into().ok());
        bytes.map(u64::from_le_bytes).ok_or_else(|| damaged(&bucket, 0))
    };
    let log = Log {
        id: word(0)?,
        retention_s: AtomicU32::new(u32::MAX), // until it is said
        trimmed: Mutex::new((word(1)?, WallTime(word(2)?))),
        last: AtomicU64::new(0),
        count: AtomicU64::new(word(4)?),
    };
    let counted = word(3)?;
    Ok((bucket, log, counted))
}

fn damaged(bucket: &str, number: u64) -> Error {
    Error::Damaged {
        what: format!("entry {number} of the feed of {bucket:?}"),
        reason: "it is no entry".to_owned(),
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests;
