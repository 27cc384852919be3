//! The keys of a bucket, page by page or as a stream.

use futures_util::Stream;
use futures_util::stream::{self, StreamExt, TryStreamExt};
use serde::{Deserialize, Serialize};

use crate::answer::Answer;
use crate::bucket::Bucket;
use crate::call::Call;
use crate::error::Error;
use crate::path::{self, escaped};

/// The largest page, in keys.
pub(crate) const LIMIT_MAX: u16 = 1000;

/// A page of the keys of a bucket.
#[derive(Clone, Debug, Deserialize, Serialize, PartialEq, Eq)]
pub struct KeysPage {
    /// The keys, in order.
    pub keys: Vec<String>,
    /// Where the next page begins. None: this was the last.
    pub cursor: Option<String>,
    /// False if too few replicas of some partition answered: keys may be missing.
    pub complete: bool,
}

/// A listing, made by [`Bucket::keys`].
#[derive(Clone, Debug)]
pub struct Keys {
    bucket: Bucket,
    prefix: String,
    limit: u16,
}

impl Bucket {
    /// Lists the live keys, in order.
    pub fn keys(&self) -> Keys {
        Keys { bucket: self.clone(), prefix: String::new(), limit: LIMIT_MAX }
    }
}

impl Keys {
    /// Only keys that begin with this.
    #[must_use]
    pub fn prefix(mut self, prefix: impl Into<String>) -> Self {
        self.prefix = prefix.into();
        self
    }

    /// The size of a page, 1 to 1000. Default 1000.
    #[must_use]
    pub fn limit(mut self, limit: u16) -> Self {
        self.limit = limit;
        self
    }

    /// One page, from the `cursor` of the page before.
    ///
    /// # Errors
    /// [`Error`].
    pub async fn page(&self, cursor: Option<&str>) -> Result<KeysPage, Error> {
        let answer = self.ask(cursor).await?;
        let page: KeysPage = answer.json().map_err(Error::of_read)?;
        if cursor.is_some() && page.cursor.as_deref() == cursor {
            // Else a listing would never end.
            return Err(answer.bad("a page of keys that does not advance").of_read());
        }
        Ok(page)
    }

    async fn ask(&self, cursor: Option<&str>) -> Result<Answer, Error> {
        let path = path::of_bucket("/keys", &self.bucket.name)?;
        let mut query = format!("limit={}", self.limit);
        if !self.prefix.is_empty() {
            query += &format!("&prefix={}", escaped(&self.prefix));
        }
        if let Some(cursor) = cursor {
            query += &format!("&cursor={}", escaped(cursor));
        }
        ask_page(&self.bucket, path, &query).await
    }

    /// All pages. Ends with the first error.
    pub fn pages(self) -> impl Stream<Item = Result<KeysPage, Error>> + Send {
        stream::try_unfold((self, Some(None)), |(keys, at): (Self, Option<Option<String>>)| async {
            let Some(cursor) = at else { return Ok(None) };
            let page = keys.page(cursor.as_deref()).await?;
            let next = page.cursor.clone().map(Some);
            Ok(Some((page, (keys, next))))
        })
    }

    /// All keys. Whether pages were complete does not show here.
    pub fn stream(self) -> impl Stream<Item = Result<String, Error>> + Send {
        self.pages().map_ok(|page| stream::iter(page.keys).map(Ok)).try_flatten()
    }
}

/// Asks for one page of a listing.
///
/// # Errors
/// [`Error`].
pub(crate) async fn ask_page(bucket: &Bucket, path: String, query: &str) -> Result<Answer, Error> {
    let inner = &bucket.client.inner;
    let settings = &inner.settings;
    let times = (settings.timeout, settings.attempt_timeout.max(LISTING_TAKES));
    let query = |_| query.to_owned();
    inner.call(Call::of_many(path, &query, times)).await
}

/// A node gives a listing its default time for requests, and is waited for as long.
const LISTING_TAKES: std::time::Duration = std::time::Duration::from_secs(5);
