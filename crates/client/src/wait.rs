//! Reads that are answered once there is something new.

use std::future::IntoFuture;
use std::time::Duration;

use futures_util::future::BoxFuture;
use reqwest::header::HeaderMap;
use reqwest::{Method, StatusCode};

use crate::answer::Answer;
use crate::body::Source;
use crate::bucket::{At, Bucket};
use crate::call::{Call, Target};
use crate::error::Error;
use crate::nodes::Place;
use crate::options::{Options, option_setters};
use crate::path;
use crate::read::{Context, Read};
use crate::retry::{Deadline, TIME_MAX};
use crate::waiting::{WAIT_DEFAULT, Waiting};

/// A read that waits for something new: set its options, then await it. Made by [`Read::wait`] and its
/// like, by [`Bucket::wait`], and by [`Bucket::wait_after`].
///
/// It gives what a read shows then, as soon as there is something that was not seen: a write, a delete, or
/// the end of a value. `None`: the time is over, and there is nothing; who has seen nothing at all gets what
/// is there then, [`Read::Absent`]. Writes that follow each other quickly may show as one: what is given is
/// what is there, not what has happened.
///
/// ```
/// # use std::time::Duration;
/// # use quorate_client::{Read, testing::DevCluster};
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
/// # let cluster = DevCluster::start()?;
/// # let flags = cluster.client()?.bucket("flags");
/// flags.insert("dark-mode", "on").w(3).await?;
/// let mut seen = flags.get("dark-mode").await?;
/// # let Read::Value(on) = &seen else { panic!("it was just written") };
/// # on.replace("off").w(3).await?;
/// loop {
///     if let Some(new) = seen.wait().wait_for(Duration::from_secs(30)).await? {
///         seen = new;
///         if let Read::Value(flag) = &seen {
///             println!("dark-mode is {:?} now", flag.text());
///         }
///     }
/// #   break;
/// }
/// # let Read::Value(off) = &seen else { panic!("it was replaced") };
/// # assert_eq!(off.text(), Some("off"));
/// # assert!(seen.wait().wait_for(Duration::from_millis(100)).await?.is_none());
/// # Ok(())
/// # }
/// ```
#[derive(Clone, Debug)]
#[must_use = "nothing is sent until it is awaited"]
pub struct Wait {
    at: At,
    seen: Option<Context>,
    wait: Duration,
    options: Options,
}

impl Bucket {
    /// Waits until a key has been written, for someone who has seen nothing of it: whatever is there is new,
    /// also a delete. If there is nothing until the end, that is what is read.
    pub fn wait(&self, key: impl Into<String>) -> Wait {
        Wait::new(self.at(key), None)
    }

    /// Waits for something that this context has not seen, for programs that keep contexts elsewhere. With a
    /// read at hand, use [`Read::wait`].
    pub fn wait_after(&self, key: impl Into<String>, context: &Context) -> Wait {
        Wait::new(self.at(key), Some(context.clone()))
    }
}

impl Wait {
    option_setters!(options, r, "How many replicas must answer (R).");

    pub(crate) fn new(at: At, seen: Option<Context>) -> Self {
        Self { at, seen, wait: WAIT_DEFAULT, options: Options::default() }
    }

    /// How long, up to 60 s. Default 30 s. The client's time-outs, and
    /// [`timeout_ms`](Self::timeout_ms), are for what a read takes beyond that; a
    /// [`deadline`](Self::deadline) is for all of it. A node that stops may answer earlier.
    pub fn wait_for(mut self, time: Duration) -> Self {
        self.wait = time.max(Duration::from_millis(1));
        self
    }

    /// Waits. `None`: there is nothing new.
    ///
    /// # Errors
    /// [`Error`]; a key without a value is none.
    pub async fn send(self) -> Result<Option<Read>, Error> {
        let answer = self.ask().await?;
        if answer.status == StatusCode::NOT_MODIFIED {
            return Ok(None);
        }
        Read::of(&self.at, &answer).map(Some).map_err(Error::of_read)
    }

    async fn ask(&self) -> Result<Answer, Error> {
        let (at, options) = (&self.at, &self.options);
        let (name, key) = (at.bucket.name.as_str(), at.key.as_str());
        let path = path::of_key("/kv", name, key)?;
        let usual = at.deadline(options);
        let waiting = Waiting::new(self.wait, at.attempt_max(options).min(usual))?;
        let query = |budget: Option<Duration>| {
            let (wait_ms, rest) = waiting.attempt(budget);
            let asked = options.query("r", rest);
            let mark = if asked.is_empty() { "" } else { "&" };
            format!("wait_ms={}{mark}{asked}", wait_ms.unwrap_or(1))
        };
        let mut headers = HeaderMap::new();
        if let Some(context) = &self.seen {
            context.write_to(&mut headers);
        }
        let inner = &at.bucket.client.inner;
        let routes = inner.settings.routes;
        let place = if routes { Place::AnyHome(name, key) } else { Place::Any };
        let all = options.deadline.unwrap_or(usual.saturating_add(self.wait)).min(TIME_MAX);
        let call = Call {
            method: Method::GET,
            path,
            query: &query,
            headers,
            body: Source::EMPTY,
            target: Target::Place(place),
            writes: false,
            repeatable: true,
            accepts: &[300, 304, 404],
            reads_body: true,
            deadline: Deadline::new(all),
            attempt_max: waiting.attempt_max(),
        };
        inner.call(call).await
    }
}

impl IntoFuture for Wait {
    type Output = Result<Option<Read>, Error>;
    type IntoFuture = BoxFuture<'static, Self::Output>;

    fn into_future(self) -> Self::IntoFuture {
        Box::pin(self.send())
    }
}
