//! A subscriber to the feed of the bucket that clients use: through any node, again and again with the
//! cursor of the last page that it got.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use quorate_engine::cluster::bucket_change;
use quorate_engine::node::Node;
use quorate_engine::ops::entry::{self, ReadOptions};
use quorate_engine::ops::feed::{self, From, Question};
use quorate_engine::ops::recorder::Recorder;
use quorate_oracle::Violation;
use quorate_oracle::history::Moment;
use quorate_protocol::bucket::Settings;
use quorate_protocol::feed::{Cursor, Promise};
use quorate_protocol::name::{Bucket, Key};
use quorate_protocol::object::Object;
use quorate_protocol::quorum::Count;
use quorate_protocol::terms::QuorumOptions;
use tokio::time::sleep;

use crate::client::Client;
use crate::setup::{BUCKET, Fault};

/// For how long changes are kept: no run is so long.
pub(crate) const RETENTION_S: u32 = 24 * 3_600;
/// Bytes after which a page ends: some values.
const BYTES_MAX: usize = 64;
/// How often it asks for a page at the end, until one is complete and has nothing.
const LAST_PAGES_MAX: usize = 400;
/// How often the feed is begun before the follower gives up: too few nodes may answer.
const BEGUN_MAX: usize = 60;

/// A subscriber, and what it has been told.
pub(crate) struct Follower {
    client: Client,
    bucket: Bucket,
    is_over: Arc<AtomicBool>,
    /// What it sends with its next request, once it has begun.
    cursor: Option<String>,
    /// The newest state of each key, as far as it was told.
    states: BTreeMap<Key, Arc<Object>>,
}

/// A page as a client gets it.
struct Page {
    changes: Vec<(Key, Arc<Object>)>,
    cursor: String,
    promise: Promise,
}

impl Follower {
    /// A subscriber that ends once `is_over`; `None` if the bucket has no valid name.
    pub(crate) fn new(client: Client, is_over: Arc<AtomicBool>) -> Option<Self> {
        let bucket = Bucket::parse(BUCKET).ok()?;
        Some(Self { client, bucket, is_over, cursor: None, states: BTreeMap::new() })
    }

    /// Gives the bucket its feed, and follows it. Returns the follower if it could.
    pub(crate) async fn run(mut self) -> Option<Self> {
        if !self.begin().await {
            return None;
        }
        while !self.is_over.load(Ordering::SeqCst) && !self.client.world.is_broken() {
            sleep(self.client.world.at_most_ms(400)).await;
            self.follow().await;
        }
        Some(self)
    }

    /// Has the bucket given its feed; returns whether a node did.
    pub(crate) async fn begin(&self) -> bool {
        for _ in 0..BEGUN_MAX {
            let bucket = self.bucket.clone();
            let settings = Settings { feed_retention_s: Some(RETENTION_S), ..Settings::default() };
            let begun = self.client.ask(async move |node| {
                node.accepts_requests().ok()?;
                if node.view().properties(BUCKET).feed_retention_s.is_some() {
                    return Some(());
                }
                bucket_change::set(&node, bucket, settings).await.ok()
            });
            if begun.await.flatten().is_some() {
                return true;
            }
            sleep(Duration::from_secs(1)).await;
        }
        false
    }

    /// Asks for one page, and judges it. Returns whether it was complete and had nothing.
    pub(crate) async fn follow(&mut self) -> Option<bool> {
        let begun = self.client.world.record().tick();
        let begins = if self.client.world.percent(50) { "now" } else { "oldest" };
        let cursor = self.cursor.clone().unwrap_or_else(|| begins.to_owned());
        let question = self.question();
        let page = self.client.ask(async move |node| page(&node, question, cursor).await);
        let page = page.await.flatten()?;
        if self.client.world.percent(10) {
            return None; // it is killed before it has stored what it got
        }
        let (number, promise) = (self.client.number, page.promise);
        let keys: Vec<&Key> = page.changes.iter().map(|(key, _)| key).collect();
        self.client.world.note(format_args!("f{number} is told of {keys:?}, {promise:?}"));
        let is_empty = page.changes.is_empty();
        self.states.extend(page.changes);
        if self.cursor.is_none() || page.promise == Promise::Expired {
            self.list().await?; // what was written before it began, or is not kept any more
            self.cursor = Some(page.cursor);
            return Some(false);
        }
        self.cursor = Some(page.cursor);
        if page.promise == Promise::Complete {
            self.check(begun);
        }
        Some(is_empty && page.promise == Promise::Complete)
    }

    fn question(&self) -> Question {
        let limit = self.client.world.between(1, 6) as u16;
        Question { bucket: self.bucket.clone(), prefix: String::new(), limit }
    }

    /// Reads all keys.
    async fn list(&mut self) -> Option<()> {
        for key in self.client.setup.keys() {
            let asked = key.clone();
            let object = self.client.ask(async move |node| read(&node, &asked).await);
            self.states.insert(key, object.await??);
        }
        Some(())
    }

    /// *A complete page has delivered what was acknowledged before it was asked for.*
    fn check(&self, begun: Moment) {
        if self.client.setup.faults.contains(&Fault::ChangeN) {
            return; // W and N are others then
        }
        if self.states.values().any(|object| object.is_absent()) {
            self.client.monitor.look(); // it may have been reaped just now
        }
        let nothing = Arc::default();
        for key in self.client.setup.keys() {
            let object = self.states.get(&key).unwrap_or(&nothing);
            let now = self.client.world.wall();
            let verdict =
                self.client.world.record().check_feed(&key.to_string(), begun, object, now);
            self.client.world.judge(verdict);
        }
    }

    /// Follows to the end, once nothing changes any more, and compares what it knows with what is there.
    pub(crate) async fn finish(mut self, left: &BTreeMap<Key, Option<Object>>) {
        let mut is_done = false;
        for _ in 0..LAST_PAGES_MAX {
            is_done = self.follow().await == Some(true);
            if is_done || self.client.world.is_broken() {
                break;
            }
            sleep(Duration::from_millis(200)).await;
        }
        let mut wrong = (!is_done).then(|| "its last page never comes".to_owned());
        for (key, object) in left {
            let told = self.states.get(key).map(|object| object.version()).unwrap_or_default();
            let is = object.as_ref().map(Object::version).unwrap_or_default();
            // What is reaped was deleted before, which it was told.
            let is_gone =
                object.is_none() && self.states.get(key).is_none_or(|object| object.is_deleted());
            if told != is && !is_gone && wrong.is_none() {
                wrong = Some(format!("{key} is {object:?}, not {:?}", self.states.get(key)));
            }
        }
        let number = self.client.number;
        let story = |wrong| format!("subscriber f{number}: {wrong}");
        let property = "a_subscriber_ends_with_what_there_is";
        let verdict = wrong.map(|wrong| Violation { property, story: story(wrong) });
        self.client.world.judge(verdict.map_or(Ok(()), Err));
    }
}

/// What a key is, by so many home replicas that they have all that was acknowledged.
async fn read(node: &Arc<Node>, key: &Key) -> Option<Arc<Object>> {
    let view = node.view();
    let needed = Some(Count::Exactly(feed::r_of(&view, BUCKET)));
    let asked = QuorumOptions { n: None, needed, sloppy: Some(false) };
    let terms = view.read_terms(key, &asked).ok()?;
    let options = ReadOptions { view, terms, timeout_ms: node.config.timeouts.request_ms };
    entry::read(node, key, options, Recorder::off()).await.0.ok()
}

/// What a node answers; `None` if it refuses.
async fn page(node: &Arc<Node>, question: Question, cursor: String) -> Option<Page> {
    node.accepts_reads().ok()?;
    node.view().properties(BUCKET).feed_retention_s?;
    let (bucket, keys) = (&question.bucket, &node.contexts);
    let from = match cursor.as_str() {
        "now" => From::Now,
        "oldest" => From::Oldest,
        text => From::Cursor(Cursor::open(keys, bucket, "", text).ok()?),
    };
    let read = async |key: Key| {
        let object = read(node, &key).await?;
        let (version, bytes) = (object.version(), object.value_bytes());
        Some(feed::Read { shown: (key, object), version, bytes })
    };
    let feed = feed::page(node, &question, &from, BYTES_MAX, read).await;
    let cursor = feed.cursor.seal(keys, bucket, "");
    Some(Page { changes: feed.changes, cursor, promise: feed.promise })
}
