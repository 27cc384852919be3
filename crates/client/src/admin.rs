//! What operators ask of a cluster or of one node. Answers whose shape programs rely on are typed; the
//! others are the node's JSON.

mod backups;
mod layout;
mod tokens;

use std::sync::Arc;
use std::time::Duration;

use reqwest::Method;
use reqwest::header::{CONTENT_TYPE, HeaderMap, HeaderValue};
use serde::Serialize;
use serde_json::Value as Json;

pub use self::backups::FileStream;
use crate::admin_answers::{BucketProperties, Conflicts, Delivery, Health, Location, SyncPoint};
use crate::answer::Answer;
use crate::body::Source;
use crate::call::{Call, Target};
use crate::client::Client;
use crate::error::Error;
use crate::nodes::{Node, Place};
use crate::path::{self, escaped};
use crate::retry::{Deadline, TIME_MAX, patience};
use crate::ring::Partitions;

/// The administrative calls, to any node ([`Client::admin`]) or to one ([`Client::admin_of`]).
#[derive(Clone, Debug)]
pub struct Admin {
    client: Client,
    node: Option<Arc<Node>>,
}

impl Client {
    /// Administrative calls, each to some node that answers.
    pub fn admin(&self) -> Admin {
        Admin { client: self.clone(), node: None }
    }

    /// Administrative calls to one node, by its URL, or by its name once that is known (see
    /// [`Client::discover`]). The node need not be one that the client knows.
    ///
    /// # Errors
    /// [`Error::Invalid`] if it is neither a known name nor a URL.
    pub fn admin_of(&self, node: &str) -> Result<Admin, Error> {
        let view = self.inner.view();
        if let Some(named) = view.names.get(node) {
            return Ok(Admin { client: self.clone(), node: Some(named.clone()) });
        }
        let url = crate::settings::base_url(node)?;
        let known = view.nodes.iter().find(|it| it.url == url).cloned();
        let node = known.unwrap_or_else(|| Node::new(url, true));
        Ok(Admin { client: self.clone(), node: Some(node) })
    }
}

/// A request that is no read or write of a key.
struct Ask<'a> {
    method: Method,
    path: &'a str,
    query: String,
    body: Option<Json>,
    /// How long the node is waited for, in milliseconds; the client's attempt time-out if none.
    timeout_ms: Option<u64>,
    accepts: &'a [u16],
    writes: bool,
    /// Whether it must not be sent again once it may have arrived.
    once: bool,
}

impl<'a> Ask<'a> {
    fn get(path: &'a str) -> Self {
        let (method, query) = (Method::GET, String::new());
        let (timeout_ms, writes, once) = (None, false, false);
        Self { method, path, query, body: None, timeout_ms, accepts: &[], writes, once }
    }

    fn of(method: Method, path: &'a str) -> Self {
        Self { method, writes: true, ..Self::get(path) }
    }

    /// With a parameter, if it has a value.
    fn with(mut self, name: &str, value: Option<impl ToString>) -> Self {
        if let Some(value) = value {
            let mark = if self.query.is_empty() { "" } else { "&" };
            self.query += &format!("{mark}{name}={}", escaped(&value.to_string()));
        }
        self
    }

    fn within(self, timeout_ms: Option<u64>) -> Self {
        let mut ask = self.with("timeout_ms", timeout_ms);
        ask.timeout_ms = timeout_ms;
        ask
    }

    /// Likewise, of work that a node does for as long as it lets anything take.
    fn within_long(self, timeout_ms: Option<u64>) -> Self {
        Self { timeout_ms: timeout_ms.or(Some(LONG_MS)), ..self.within(timeout_ms) }
    }
}

impl Admin {
    async fn ask(&self, ask: Ask<'_>) -> Result<Answer, Error> {
        let inner = &self.client.inner;
        let (mut headers, mut body) = (HeaderMap::new(), Source::EMPTY);
        if let Some(json) = &ask.body {
            headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
            body = Source::Bytes(json.to_string().into());
        }
        let asked = ask.timeout_ms.map(Duration::from_millis);
        let attempt_max = asked.unwrap_or(inner.settings.attempt_timeout).min(TIME_MAX);
        let query = ask.query;
        let call = Call {
            method: ask.method,
            path: ask.path.to_owned(),
            query: &|_| query.clone(),
            headers,
            body,
            target: match &self.node {
                Some(node) => Target::Node(node.clone()),
                None => Target::Place(Place::Any),
            },
            writes: ask.writes,
            repeatable: !ask.once, // what the others change is set, not added to
            accepts: ask.accepts,
            reads_body: true,
            deadline: Deadline::new(inner.settings.timeout.max(patience(attempt_max))),
            attempt_max,
        };
        inner.call(call).await
    }

    /// Any `GET` by its path, with parameters if it has some, such as `/cluster`.
    ///
    /// # Errors
    /// [`Error`], as all calls of this type.
    pub async fn get(&self, path: &str) -> Result<Json, Error> {
        let (path, query) = path.split_once('?').unwrap_or((path, ""));
        if !path.starts_with('/') {
            return Err(Error::invalid("path", "must start with a slash"));
        }
        self.ask(Ask { query: query.to_owned(), ..Ask::get(path) }).await?.json()
    }

    /// The nodes as the one that answers sees them.
    ///
    /// # Errors
    /// [`Error`].
    pub async fn cluster(&self) -> Result<Json, Error> {
        self.get("/cluster").await
    }

    /// The layout, and how evenly it spreads the partitions.
    ///
    /// # Errors
    /// [`Error`].
    pub async fn ring(&self) -> Result<Json, Error> {
        self.get("/ring").await
    }

    /// The home replicas of every partition.
    ///
    /// # Errors
    /// [`Error`].
    pub async fn partitions(&self) -> Result<Partitions, Error> {
        self.ask(Ask::get("/ring/partitions")).await?.json()
    }

    /// Where a key is.
    ///
    /// # Errors
    /// [`Error`].
    pub async fn locate(&self, bucket: &str, key: &str) -> Result<Location, Error> {
        self.ask(Ask::get(&path::of_key("/ring", bucket, key)?)).await?.json()
    }

    /// The background jobs of the node, and what each does.
    ///
    /// # Errors
    /// [`Error`].
    pub async fn jobs(&self) -> Result<Json, Error> {
        self.get("/jobs").await
    }

    /// The hints that the node keeps, by target.
    ///
    /// # Errors
    /// [`Error`].
    pub async fn hints(&self) -> Result<Json, Error> {
        self.get("/hints").await
    }

    /// Makes a sync point of all hints that nodes keep now.
    ///
    /// # Errors
    /// [`Error`].
    pub async fn make_sync_point(&self) -> Result<SyncPoint, Error> {
        self.ask(Ask::of(Method::POST, "/hints/sync-points")).await?.json()
    }

    /// Whether the hints of a sync point have been delivered; waits for it up to `timeout_ms`, if given.
    ///
    /// # Errors
    /// [`Error::NotFound`] if it is unknown, or nodes have restarted since: make a new one.
    pub async fn sync_point(&self, id: &str, timeout_ms: Option<u64>) -> Result<Delivery, Error> {
        let path = format!("/hints/sync-points/{}", escaped(id));
        self.ask(Ask::get(&path).within(timeout_ms)).await?.json()
    }

    /// The last comparison with each peer, its cost and repairs.
    ///
    /// # Errors
    /// [`Error`].
    pub async fn anti_entropy(&self) -> Result<Json, Error> {
        self.get("/anti-entropy").await
    }

    /// Compares now: with one peer or all, one partition or all; answers at the end or at the time-out.
    ///
    /// # Errors
    /// [`Error`].
    pub async fn run_anti_entropy(
        &self,
        peer: Option<&str>,
        partition: Option<u16>,
        timeout_ms: Option<u64>,
    ) -> Result<Json, Error> {
        let ask = Ask::of(Method::POST, "/anti-entropy/run");
        let ask = ask.with("node", peer).with("partition", partition);
        self.ask(ask.within_long(timeout_ms)).await?.json()
    }

    /// Recomputes the Merkle trees of one partition or all of the node that answers.
    ///
    /// # Errors
    /// [`Error`].
    pub async fn scrub(
        &self,
        partition: Option<u16>,
        timeout_ms: Option<u64>,
    ) -> Result<Json, Error> {
        let ask = Ask::of(Method::POST, "/anti-entropy/scrub").with("partition", partition);
        self.ask(ask.within_long(timeout_ms)).await?.json()
    }

    /// The buckets with properties of their own, and the defaults of all others.
    ///
    /// # Errors
    /// [`Error`].
    pub async fn buckets(&self) -> Result<Json, Error> {
        self.get("/buckets").await
    }

    /// The properties of a bucket, all of them.
    ///
    /// # Errors
    /// [`Error`].
    pub async fn bucket(&self, bucket: &str) -> Result<BucketProperties, Error> {
        self.ask(Ask::get(&path::of_bucket("/buckets", bucket)?)).await?.json()
    }

    /// Replaces the properties of a bucket by these ([`BucketProperties`], or JSON); those not given follow
    /// the defaults, but for a type, which stays. Returns all of them.
    ///
    /// # Errors
    /// [`Error::BucketNotEmpty`] if a bucket with keys is to get a type; [`Error::WrongType`] if it has
    /// another already; [`Error`].
    pub async fn set_bucket(
        &self,
        bucket: &str,
        properties: &impl Serialize,
    ) -> Result<BucketProperties, Error> {
        let path = path::of_bucket("/buckets", bucket)?;
        let mut ask = Ask::of(Method::PUT, &path);
        let json = serde_json::to_value(properties);
        let json = json.map_err(|error| Error::invalid("properties", error.to_string()))?;
        ask.body = Some(settable(json));
        let properties = self.ask(ask).await?.json()?;
        self.client.inner.look_again_soon(); // where its keys are may have changed
        Ok(properties)
    }

    /// Resets a bucket to the defaults. Keys are not touched.
    ///
    /// # Errors
    /// [`Error`].
    pub async fn reset_bucket(&self, bucket: &str) -> Result<(), Error> {
        let path = path::of_bucket("/buckets", bucket)?;
        self.ask(Ask::of(Method::DELETE, &path)).await?;
        self.client.inner.look_again_soon();
        Ok(())
    }

    /// A page of the keys in conflict, of one bucket or all: at most `limit` (1 to 1000), from `cursor`
    /// of the page before.
    ///
    /// # Errors
    /// [`Error`].
    pub async fn conflicts(
        &self,
        bucket: Option<&str>,
        limit: Option<u16>,
        cursor: Option<&str>,
    ) -> Result<Conflicts, Error> {
        let ask = Ask::get("/siblings");
        let ask = ask.with("bucket", bucket).with("limit", limit).with("cursor", cursor);
        self.ask(ask).await?.json()
    }

    /// Every sibling of a key, and what every node holds.
    ///
    /// # Errors
    /// [`Error`].
    pub async fn inspect(
        &self,
        bucket: &str,
        key: &str,
        timeout_ms: Option<u64>,
    ) -> Result<Json, Error> {
        let path = path::of_key("/siblings", bucket, key)?;
        self.ask(Ask::get(&path).within(timeout_ms)).await?.json()
    }

    /// What nodes set aside because they came back too old.
    ///
    /// # Errors
    /// [`Error`].
    pub async fn distrusted(&self) -> Result<Json, Error> {
        self.get("/distrusted").await
    }

    /// The trace of an explained, slow or failed request. The node that took the request keeps it.
    ///
    /// # Errors
    /// [`Error::NotFound`] if it is no longer kept.
    pub async fn explanation(&self, id: &str) -> Result<Json, Error> {
        self.ask(Ask::get(&format!("/explain/{}", escaped(id)))).await?.json()
    }

    /// The slow and failed requests that the node keeps traces of, newest first; at most `limit`.
    ///
    /// # Errors
    /// [`Error`].
    pub async fn slow(&self, limit: Option<u16>) -> Result<Json, Error> {
        self.ask(Ask::get("/explain").with("slow", Some("true")).with("limit", limit)).await?.json()
    }

    /// The node's metrics, as OpenMetrics text.
    ///
    /// # Errors
    /// [`Error`].
    pub async fn metrics(&self) -> Result<String, Error> {
        let answer = self.ask(Ask::get("/metrics")).await?;
        Ok(String::from_utf8_lossy(&answer.bytes()).into_owned())
    }

    /// Whether the node works.
    ///
    /// # Errors
    /// [`Error::Unreachable`] or `TimedOut` if it does not even answer.
    pub async fn livez(&self) -> Result<Health, Error> {
        self.health("/livez").await
    }

    /// Whether the node takes requests, and why not.
    ///
    /// # Errors
    /// As [`Admin::livez`].
    pub async fn readyz(&self) -> Result<Health, Error> {
        self.health("/readyz").await
    }

    async fn health(&self, path: &str) -> Result<Health, Error> {
        let answer = self.ask(Ask { accepts: &[503], ..Ask::get(path) }).await?;
        let text = String::from_utf8_lossy(&answer.bytes()).into_owned();
        Ok(Health { ok: answer.status.is_success(), text })
    }
}

/// Properties without what only answers say: that conflicts of a typed bucket are merged.
fn settable(mut properties: Json) -> Json {
    if properties["conflicts"] == "merged"
        && let Json::Object(members) = &mut properties
    {
        members.remove("conflicts");
    }
    properties
}

/// How long comparisons and scrubs are waited for if nothing else is asked, in milliseconds: nodes let
/// requests take no longer by default.
const LONG_MS: u64 = 60_000;
