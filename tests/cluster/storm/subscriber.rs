//! A subscriber in a storm: it follows the feeds of the typed buckets through one node after another, loses
//! some of the pages that it got, and must end with what is on the disks.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::time::{Duration, Instant};

use quorate_protocol::object::Object;
use rand::rngs::Xoshiro256PlusPlus;
use rand::{RngExt, SeedableRng};
use serde_json::Value;
use tokio::task::JoinSet;

use super::typed::BUCKETS;
use crate::harness::Cluster;
use crate::http::Node;

/// How long a request waits for a change, and its client for an answer.
const WAIT_MS: u64 = 500;
const TIMEOUT: Duration = Duration::from_secs(6);
/// How long it may take at the end until a page is complete and has nothing.
const ENDS_WITHIN: Duration = Duration::from_secs(60);

/// What a subscriber knows of a bucket.
#[derive(Default)]
struct Known {
    cursor: Option<String>,
    /// The entity tag of each key's last state; `None` if it was deleted.
    tags: BTreeMap<String, Option<String>>,
}

/// A subscriber at work.
pub(crate) struct Subscriber {
    is_over: Arc<AtomicBool>,
    work: JoinSet<Followed>,
}

/// What it was told.
#[derive(Default)]
pub(crate) struct Followed {
    known: BTreeMap<&'static str, Known>,
    /// Changes it got, pages it lost, and cursors that had expired.
    pub(crate) changes: usize,
    pub(crate) lost: usize,
    pub(crate) expired: usize,
    /// What went wrong.
    wrong: Vec<String>,
}

impl Subscriber {
    pub(crate) fn start(cluster: &Arc<Cluster>, seed: u64) -> Self {
        let is_over = Arc::<AtomicBool>::default();
        let dice = Xoshiro256PlusPlus::seed_from_u64(seed ^ 0xfeed);
        let follower = Follower { cluster: cluster.clone(), dice, followed: Followed::default() };
        let mut work = JoinSet::new();
        work.spawn(follower.run(is_over.clone()));
        Self { is_over, work }
    }

    /// Once nothing changes any more: follows to the end.
    pub(crate) async fn finish(mut self) -> Followed {
        self.is_over.store(true, Relaxed);
        self.work.join_next().await.unwrap().unwrap()
    }
}

struct Follower {
    cluster: Arc<Cluster>,
    dice: Xoshiro256PlusPlus,
    followed: Followed,
}

impl Follower {
    async fn run(mut self, is_over: Arc<AtomicBool>) -> Followed {
        while !is_over.load(Relaxed) {
            for bucket in BUCKETS {
                self.follow(bucket, true).await;
            }
        }
        for bucket in BUCKETS {
            let begun = Instant::now();
            while self.follow(bucket, false).await != Some(true) {
                if begun.elapsed() > ENDS_WITHIN {
                    self.followed.wrong.push(format!("the feed of {bucket} does not end"));
                    break;
                }
            }
        }
        self.followed
    }

    fn node(&mut self) -> Node {
        let node = self.cluster.some(self.dice.random_range(0..1000));
        self.cluster.at(node).with_timeout(TIMEOUT)
    }

    /// Asks for one page. Returns whether it was complete and had nothing; `None` if it did not come.
    async fn follow(&mut self, bucket: &'static str, waits: bool) -> Option<bool> {
        let node = self.node();
        let known = self.followed.known.entry(bucket).or_default();
        let cursor = known.cursor.clone().unwrap_or_else(|| "oldest".to_owned());
        let wait = if waits { format!("&wait_ms={WAIT_MS}") } else { String::new() };
        let answer = node.get(&format!("/feed/{bucket}?limit=20&cursor={cursor}{wait}"));
        let Ok(answer) = answer.try_answer().await else {
            tokio::time::sleep(Duration::from_millis(50)).await;
            return None;
        };
        if answer.status == 410 {
            self.followed.expired += 1;
            return self.list(bucket, answer.json()["cursor"].as_str()?).await.map(|()| false);
        }
        if answer.status != 200 {
            if !matches!(answer.status, 409 | 429 | 503) {
                let why = format!("the feed of {bucket}: {} {}", answer.status, answer.text());
                self.followed.wrong.push(why);
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
            return None;
        }
        if waits && self.dice.random_range(0..10) == 0 {
            self.followed.lost += 1;
            return None; // it dies before it has stored what it got
        }
        let page = answer.json();
        let changes = page["changes"].as_array()?;
        for change in changes {
            let key = change["key"].as_str()?.to_owned();
            known.tags.insert(key, change["etag"].as_str().map(str::to_owned));
        }
        known.cursor = Some(page["cursor"].as_str()?.to_owned());
        self.followed.changes += changes.len();
        Some(changes.is_empty() && page["complete"] == Value::Bool(true))
    }

    /// Reads all keys, and goes on with this cursor.
    async fn list(&mut self, bucket: &'static str, cursor: &str) -> Option<()> {
        let node = self.node();
        let keys = node.get(&format!("/keys/{bucket}?limit=1000")).try_answer().await.ok()?;
        let keys = keys.json();
        if keys["complete"] != Value::Bool(true) || !keys["cursor"].is_null() {
            return None;
        }
        for key in keys["keys"].as_array()?.iter().filter_map(Value::as_str) {
            let path = format!("/types/{bucket}/{key}?sloppy=false");
            let read = node.get(&path).try_answer().await.ok()?;
            if read.status != 200 {
                return None;
            }
            let tag = read.header("etag").map(str::to_owned);
            let known = self.followed.known.entry(bucket).or_default();
            known.tags.insert(key.to_owned(), tag);
        }
        self.followed.known.entry(bucket).or_default().cursor = Some(cursor.to_owned());
        Some(())
    }
}

impl Followed {
    /// Compares what it was told with what is left on the disks. Returns what is wrong.
    pub(crate) fn judge(&self, left: impl Fn(&str) -> Vec<(String, Object)>) -> Vec<String> {
        let mut wrong = self.wrong.clone();
        for bucket in BUCKETS {
            let nothing = Known::default();
            let known = self.known.get(bucket).unwrap_or(&nothing);
            for (key, object) in left(bucket) {
                let told = known.tags.get(&key).cloned().flatten();
                let is =
                    (!object.is_deleted()).then(|| format!("\"{}\"", object.version().to_hex()));
                if told != is {
                    wrong.push(format!(
                        "a subscriber was told {told:?} of {bucket}/{key}, not {is:?}"
                    ));
                }
            }
        }
        wrong
    }
}
