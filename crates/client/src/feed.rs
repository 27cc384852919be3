//! What changes in a bucket, page by page.

mod change;

use std::time::Duration;

use futures_util::Stream;
use futures_util::stream;
use serde::Deserialize;
use serde_json::Value as Json;

pub use self::change::{FeedChange, KeyState, LeftOut};
use crate::answer::{Answer, Answered};
use crate::bucket::Bucket;
use crate::call::Call;
use crate::error::Error;
use crate::path::{self, escaped};
use crate::retry::TIME_MAX;
use crate::waiting::{WAIT_DEFAULT, Waiting};

/// Cursors that stand for a place instead of naming it.
const OLDEST: &str = "oldest";
const NOW: &str = "now";

/// A page of the changes of a bucket.
#[derive(Debug)]
pub struct FeedPage {
    /// What has changed, each key once, in no order that means anything. None if nothing has changed.
    pub changes: Vec<FeedChange>,
    /// Where the feed goes on: text to store, once the changes have been dealt with, and to give to
    /// [`Feed::from_cursor`] of this bucket and prefix, through any node.
    pub cursor: String,
    /// Whether every write that W home replicas had acknowledged before the request is in this page or in an
    /// earlier one. If not, too few nodes answered, or there is more: a later page has the rest.
    pub complete: bool,
    /// Who answered.
    pub answered: Answered,
}

/// What changes in a bucket that keeps its changes
/// ([`BucketProperties::feed_retention_s`](crate::BucketProperties::feed_retention_s)): made by
/// [`Bucket::feed`], then asked for page after page.
///
/// ```
/// # use quorate_client::{BucketProperties, Client, testing::DevCluster};
/// # use quorate_client::{KeyState, Read};
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
/// # let cluster = DevCluster::start()?;
/// # let client = Client::builder().nodes([&cluster.urls()[0]]).discover(false).build()?;
/// let day = BucketProperties { feed_retention_s: Some(86_400), ..BucketProperties::default() };
/// client.admin().set_bucket("carts", &day).await?;
/// # client.bucket("carts").insert("alice", "2 apples").w(3).await?;
///
/// let stored: Option<String> = None; // the cursor of the last time, if there was one
/// let mut feed = client.bucket("carts").feed();
/// if let Some(cursor) = stored {
///     feed = feed.from_cursor(cursor);
/// }
/// # let mut seen = 0;
/// loop {
///     let page = feed.next_page().await?; // waits until something changes
///     for change in &page.changes {
///         match &change.state {
///             KeyState::Read(Read::Value(value)) => println!("{}: {:?}", change.key, value.text()),
///             KeyState::Read(Read::Siblings(_)) => println!("{}: in conflict", change.key),
///             KeyState::Read(Read::Absent(_)) => println!("{}: deleted", change.key),
///             KeyState::Typed(typed) => println!("{}: {:?}", change.key, typed.value()),
///             KeyState::LeftOut(it) => println!("{}: {} bytes, to be read", change.key, it.bytes),
///         }
///     }
///     // Only now: what was not dealt with comes again after a crash.
///     println!("store {}", page.cursor);
/// #   seen += page.changes.len();
/// #   if seen > 0 { break; }
/// }
/// # assert_eq!(seen, 1);
/// # Ok(())
/// # }
/// ```
///
/// # What it promises
///
/// A feed tells *states*: what a read of a changed key finds now, not what was done to it. Of two writes that
/// follow each other the first may never show. Each state of a key that stays is told *at least once*, and
/// may come again, so what is done with it must bear repetition. Writes that failed can show if they are
/// there all the same. There is no order between keys.
///
/// # When a node fails
///
/// The page is asked for again at another node with the same cursor, and nothing is lost. After an error the
/// feed is where it was: [`Feed::next_page`] can be called again.
///
/// # When a cursor has expired
///
/// A subscriber that was away for longer than changes are kept gets [`Error::CursorExpired`], and has to look
/// at everything once: keep the cursor of the error, list all keys ([`Bucket::keys`]), read them, forget
/// those that are not there any more, then go on [from that cursor](Feed::from_cursor). What changes
/// meanwhile comes after it. A new subscriber that wants what is there already begins likewise, with the
/// cursor of the first page [from now on](Feed::from_now).
#[derive(Clone, Debug)]
#[must_use = "nothing is asked for until `next_page`"]
pub struct Feed {
    bucket: Bucket,
    prefix: String,
    cursor: String,
    limit: Option<u16>,
    wait: Duration,
}

impl Bucket {
    /// Follows what changes, from the oldest change that is kept, unless told otherwise.
    pub fn feed(&self) -> Feed {
        let (prefix, cursor) = (String::new(), OLDEST.to_owned());
        Feed { bucket: self.clone(), prefix, cursor, limit: None, wait: WAIT_DEFAULT }
    }
}

impl Feed {
    /// Only keys that begin with this. A cursor is good for one prefix.
    pub fn prefix(mut self, prefix: impl Into<String>) -> Self {
        self.prefix = prefix.into();
        self
    }

    /// From what is written from now on. The first page has no changes and is not waited for: it tells the
    /// cursor of this moment, after which all keys may be listed.
    pub fn from_now(self) -> Self {
        self.from_cursor(NOW)
    }

    /// From the oldest change that is kept: the default.
    pub fn from_oldest(self) -> Self {
        self.from_cursor(OLDEST)
    }

    /// From where an earlier page ended, or where [`Error::CursorExpired`] says.
    pub fn from_cursor(mut self, cursor: impl Into<String>) -> Self {
        self.cursor = cursor.into();
        self
    }

    /// The size of a page, 1 to 1000 changes. Default 100. Pages end earlier if values are long.
    pub fn limit(mut self, limit: u16) -> Self {
        self.limit = Some(limit);
        self
    }

    /// How long a page without changes is waited for, up to 60 s. Default 30 s; zero: not at all. The
    /// client's time-outs are for what a page takes beyond that.
    pub fn wait(mut self, time: Duration) -> Self {
        // Less than a millisecond is not to become nothing.
        self.wait = if time.is_zero() { time } else { time.max(Duration::from_millis(1)) };
        self
    }

    /// Where the next page begins: that of the last page, or what was given.
    pub fn cursor(&self) -> &str {
        &self.cursor
    }

    /// The next page, once something has changed; without changes if the time is over. The feed then goes on
    /// after it; after an error it is where it was.
    ///
    /// # Errors
    /// [`Error::NoFeed`] if the bucket keeps no changes, [`Error::CursorExpired`] if they are not kept any
    /// more, [`Error`].
    pub async fn next_page(&mut self) -> Result<FeedPage, Error> {
        let answer = self.ask().await?;
        let page = page(&self.bucket, &answer).map_err(Error::of_read)?;
        self.cursor.clone_from(&page.cursor);
        Ok(page)
    }

    /// All pages, those without changes too; there is no last one. Ends with the first error.
    pub fn pages(self) -> impl Stream<Item = Result<FeedPage, Error>> + Send {
        stream::try_unfold(self, async |mut feed: Self| {
            let page = feed.next_page().await?;
            Ok(Some((page, feed)))
        })
    }

    async fn ask(&self) -> Result<Answer, Error> {
        let path = path::of_bucket("/feed", &self.bucket.name)?;
        let settings = &self.bucket.client.inner.settings;
        // What was written while a request from now on waited would be lost with its answer.
        let wait = if self.cursor == NOW { Duration::ZERO } else { self.wait };
        let attempt = settings.attempt_timeout.max(PAGE_TAKES).min(settings.timeout);
        let waiting = Waiting::new(wait, attempt)?;
        let mut asked = format!("cursor={}", escaped(&self.cursor));
        if let Some(limit) = self.limit {
            asked += &format!("&limit={limit}");
        }
        if !self.prefix.is_empty() {
            asked += &format!("&prefix={}", escaped(&self.prefix));
        }
        let query = |budget: Option<Duration>| match waiting.attempt(budget) {
            (Some(wait_ms), _) => format!("{asked}&wait_ms={wait_ms}"),
            (None, _) => asked.clone(),
        };
        let timeout = settings.timeout.saturating_add(wait).min(TIME_MAX);
        let call = Call::of_many(path, &query, (timeout, waiting.attempt_max()));
        self.bucket.client.inner.call(call).await
    }
}

/// A node gives a page its default time for requests, and is waited for as long.
const PAGE_TAKES: Duration = Duration::from_secs(5);

/// The body of an answer.
#[derive(Deserialize)]
struct Body {
    changes: Vec<Json>,
    cursor: String,
    complete: bool,
}

fn page(bucket: &Bucket, answer: &Answer) -> Result<FeedPage, Error> {
    let Body { changes, cursor, complete } = answer.json()?;
    if cursor.is_empty() {
        return Err(answer.bad("a page of changes without a cursor"));
    }
    let changes = changes.into_iter().map(|json| FeedChange::of(bucket, answer, json));
    let changes = changes.collect::<Result<_, _>>()?;
    Ok(FeedPage { changes, cursor, complete, answered: answer.by.clone() })
}
