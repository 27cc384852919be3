//! The secondary index: entries that belong to a value, and the keys that have them.

pub(crate) mod entries;
mod value;

use futures_util::Stream;
use futures_util::stream::{self, StreamExt, TryStreamExt};
use serde::{Deserialize, Serialize};

pub use self::value::IndexValue;
use self::value::check_name;
use crate::answer::Answer;
use crate::bucket::Bucket;
use crate::error::Error;
use crate::keys::{LIMIT_MAX, ask_page};
use crate::path::{self, escaped};

/// One entry of an index.
#[derive(Clone, Debug, Deserialize, Serialize, PartialEq, Eq, PartialOrd, Ord)]
pub struct IndexEntry {
    /// What is indexed.
    pub value: IndexValue,
    /// A key with a value that has this entry.
    pub key: String,
}

/// A page of the entries of an index.
#[derive(Clone, Debug, Deserialize, Serialize, PartialEq, Eq)]
pub struct IndexPage {
    /// The entries, in order of value, then of key, each once. There may be fewer than asked for, even none,
    /// before the last page.
    pub entries: Vec<IndexEntry>,
    /// Where the next page begins. None: this was the last.
    pub cursor: Option<String>,
    /// False if too few replicas of some partition answered: entries may be missing.
    pub complete: bool,
}

/// A question to an index, made by [`Bucket::index`]: which values, then [`IndexQuery::stream`] or
/// [`IndexQuery::pages`].
///
/// Pages are no snapshot: what is written while they are read may be in them or not; what is there all the
/// time is.
#[derive(Clone, Debug)]
#[must_use = "nothing is asked for until it is streamed"]
pub struct IndexQuery {
    bucket: Bucket,
    index: String,
    eq: Option<IndexValue>,
    from: Option<IndexValue>,
    to: Option<IndexValue>,
    limit: u16,
}

impl Bucket {
    /// Asks an index which keys have a value with which entries: all of them, unless told otherwise. Its
    /// name says what it has: `email_s` has texts, `age_i` has integers of 64 bits. Entries are written with
    /// a value ([`Value::index`](crate::Value::index), [`Put::index`](crate::Put::index)). An index that
    /// nobody has used is empty.
    ///
    /// ```
    /// # use quorate_client::{IndexEntry, Value, testing::DevCluster};
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// # let cluster = DevCluster::start()?;
    /// # let users = cluster.client()?.bucket("users");
    /// use futures_util::TryStreamExt;
    ///
    /// for (key, email, age) in [("ada", "a@x", 36), ("bob", "b@x", 17)] {
    ///     users.insert(key, "{}").index("email_s", email).index("age_i", age).w(3).await?;
    /// }
    ///
    /// let found: Vec<IndexEntry> = users.index("email_s").eq("a@x").stream().try_collect().await?;
    /// assert_eq!(found[0].key, "ada");
    ///
    /// let page = users.index("age_i").from(18).page(None).await?;
    /// assert!(page.complete, "else some may be missing");
    /// assert_eq!((page.entries[0].key.as_str(), page.entries[0].value.integer()), ("ada", Some(36)));
    /// # Ok(())
    /// # }
    /// ```
    pub fn index(&self, index: impl Into<String>) -> IndexQuery {
        let (bucket, index) = (self.clone(), index.into());
        IndexQuery { bucket, index, eq: None, from: None, to: None, limit: LIMIT_MAX }
    }
}

impl IndexQuery {
    /// Only entries with this value.
    pub fn eq(mut self, value: impl Into<IndexValue>) -> Self {
        self.eq = Some(value.into());
        self
    }

    /// Only entries with this value or a greater one.
    pub fn from(mut self, value: impl Into<IndexValue>) -> Self {
        self.from = Some(value.into());
        self
    }

    /// Only entries with this value or a smaller one.
    pub fn to(mut self, value: impl Into<IndexValue>) -> Self {
        self.to = Some(value.into());
        self
    }

    /// Only entries with values from the one to the other, both of them too.
    pub fn range(self, from: impl Into<IndexValue>, to: impl Into<IndexValue>) -> Self {
        self.from(from).to(to)
    }

    /// The size of a page, 1 to 1000. Default 1000.
    pub fn limit(mut self, limit: u16) -> Self {
        self.limit = limit;
        self
    }

    /// One page, from the `cursor` of the page before of the same question.
    ///
    /// # Errors
    /// [`Error::Invalid`] if no index can answer the question; [`Error`].
    pub async fn page(&self, cursor: Option<&str>) -> Result<IndexPage, Error> {
        let answer = self.ask(cursor).await?;
        let page: IndexPage = answer.json().map_err(Error::of_read)?;
        if page.entries.iter().any(|entry| !entry.value.is_of(&self.index)) {
            return Err(answer.bad("values that the index cannot have").of_read());
        }
        if cursor.is_some() && page.cursor.as_deref() == cursor {
            // Else it would never end.
            return Err(answer.bad("a page of an index that does not advance").of_read());
        }
        Ok(page)
    }

    async fn ask(&self, cursor: Option<&str>) -> Result<Answer, Error> {
        let query = self.query(cursor)?;
        let path = path::of_bucket("/index", &self.bucket.name)?;
        ask_page(&self.bucket, format!("{path}/{}", self.index), &query).await
    }

    fn query(&self, cursor: Option<&str>) -> Result<String, Error> {
        check_name(&self.index)?;
        if self.eq.is_some() && (self.from.is_some() || self.to.is_some()) {
            let detail = "is asked for one value, or for a range, not for both";
            return Err(Error::invalid("index", detail));
        }
        let mut query = format!("limit={}", self.limit);
        for (name, value) in [("eq", &self.eq), ("from", &self.from), ("to", &self.to)] {
            if let Some(value) = value {
                value.check(&self.index)?;
                query += &format!("&{name}={}", escaped(&value.to_string()));
            }
        }
        if let Some(cursor) = cursor {
            query += &format!("&cursor={}", escaped(cursor));
        }
        Ok(query)
    }

    /// All pages, those without entries too. Ends with the first error.
    pub fn pages(self) -> impl Stream<Item = Result<IndexPage, Error>> + Send {
        let begin = (self, Some(None));
        stream::try_unfold(begin, |(asked, at): (Self, Option<Option<String>>)| async {
            let Some(cursor) = at else { return Ok(None) };
            let page = asked.page(cursor.as_deref()).await?;
            let next = page.cursor.clone().map(Some);
            Ok(Some((page, (asked, next))))
        })
    }

    /// All entries. Whether pages were complete does not show here.
    pub fn stream(self) -> impl Stream<Item = Result<IndexEntry, Error>> + Send {
        self.pages().map_ok(|page| stream::iter(page.entries).map(Ok)).try_flatten()
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use crate::{Client, Error};

    #[test]
    fn a_question_is_asked_as_given() {
        let users = Client::connect(["http://127.0.0.1:1"]).unwrap().bucket("users");
        let all = users.index("age_i").limit(7);
        assert_eq!(all.query(None).unwrap(), "limit=7");
        assert_eq!(all.query(Some("C/1")).unwrap(), "limit=7&cursor=C%2F1");
        let range = users.index("age_i").range(-7, 42);
        assert_eq!(range.query(None).unwrap(), "limit=1000&from=-7&to=42");
        let one = users.index("name_s").eq("ü/&");
        assert_eq!(one.query(None).unwrap(), "limit=1000&eq=%C3%BC%2F%26");
        for bad in [
            users.index("age"),
            users.index("Age_i"),
            users.index("age_i").eq("42"),
            users.index("age_s").from(42),
            users.index("age_s").to(""),
            users.index("age_i").eq(1).to(2),
        ] {
            assert!(matches!(bad.query(None), Err(Error::Invalid { .. })), "{bad:?}");
        }
    }
}
