//! Runs the steps of a case with the client.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering::SeqCst};
use std::time::{Duration, Instant};

use bytes::Bytes;
use futures_util::{TryStreamExt, stream};
use quorate_client::{
    Applied, Client, Delete, Error, FeedPage, IndexPage, KeysPage, Metadata, NewValue, Put, Read,
    ReadStream, Retries, Sibling, Updated, Value, Written,
};
use serde_json::{Map, Value as Json, json};

use crate::arguments::{ALL, DELETE, PUT, is, keys, lifetime, options};
use crate::batch;
use crate::cases::{Case, bytes, only};
use crate::common::wire::Proxy;
use crate::expect;
use crate::feeds;
use crate::indexes;
use crate::stub::{Heard, Stub};
use crate::typed::{self, Shown};

/// How long after a step the one is begun that is done meanwhile.
const MEANWHILE_AFTER: Duration = Duration::from_millis(200);

pub(crate) type Step = Map<String, Json>;

/// What an operation gave.
pub(crate) enum Done {
    Read(Read),
    Written(Written),
    Typed(Shown),
    Applied(Applied, Option<Shown>),
    Page(KeysPage),
    Index(IndexPage),
    Feed(FeedPage),
    /// The cursor of an error that has one.
    Expired(String),
    /// A wait has ended with nothing new.
    Unchanged,
    Properties(Json),
    Nodes(usize),
    Batch(Vec<Taken>),
    Nothing,
}

/// What a step gave, and how long it took.
pub(crate) struct Taken {
    pub(crate) result: Result<Done, Error>,
    pub(crate) took: Duration,
    pub(crate) writes: bool,
}

/// A case that runs.
pub(crate) struct Run {
    pub(crate) client: Client,
    pub(crate) bucket: String,
    stub: Option<Stub>,
    drops: Option<Arc<AtomicUsize>>,
    pub(crate) named: BTreeMap<String, Done>,
}

/// Runs a case.
///
/// # Errors
/// The step that failed, and why.
pub(crate) async fn case(case: &Case, urls: &[String]) -> Result<(), String> {
    let (mut stub, mut drops) = (None, None);
    let mut builder = Client::builder();
    let mut bucket = format!("c{:016x}", rand::random::<u64>());
    builder = match case.server() {
        "cluster" => builder.nodes(urls),
        "proxy" => {
            let proxy = Proxy::start(&urls[0], 0).await;
            drops = Some(proxy.drops.clone());
            builder.nodes([proxy.url]).discover(false).route(false)
        }
        "stub" => {
            let server = Stub::start(case.stub(), case.looks()).await?;
            bucket = "b".to_owned();
            let looks = !case.looks().is_empty();
            let builder = builder.nodes([&server.url]).discover(looks).route(looks);
            stub = Some(server);
            builder
        }
        other => return Err(format!("server: {other} is unknown")),
    };
    let settings = case.client();
    only(&settings, &["attempts_max", "deadline_ms", "token"])?;
    if let Some(attempts_max) = settings.get("attempts_max").and_then(Json::as_u64) {
        let attempts_max = u32::try_from(attempts_max).unwrap();
        builder = builder.retries(Retries { attempts_max, ..Retries::default() });
    }
    if let Some(deadline_ms) = settings.get("deadline_ms").and_then(Json::as_u64) {
        builder = builder.timeout(Duration::from_millis(deadline_ms));
    }
    if let Some(token) = settings.get("token").and_then(Json::as_str) {
        builder = builder.token(token);
    }
    let client = builder.build().map_err(|error| error.to_string())?;
    let mut run = Run { client, bucket, stub, drops, named: BTreeMap::new() };
    for (number, step) in case.steps().iter().enumerate() {
        let told = |why: String| format!("step {}: {why}", number + 1);
        run.step(step).await.map_err(told)?;
    }
    Ok(())
}

impl Run {
    async fn step(&mut self, step: &Step) -> Result<(), String> {
        let until = step.get("within_ms").and_then(Json::as_u64).map(Duration::from_millis);
        let begun = Instant::now();
        let loses = step.get("lose_responses").and_then(Json::as_u64);
        if let (Some(loses), Some(drops)) = (loses, &self.drops) {
            drops.store(usize::try_from(loses).unwrap(), SeqCst);
        }
        loop {
            let taken = self.take(step).await?;
            let sent = self.stub.as_ref().map(Stub::take).unwrap_or_default();
            let looks = self.stub.as_ref().map_or(0, Stub::looks);
            let met = expect::step(step, &taken, &Heard { sent, looks });
            if met.is_err() && until.is_some_and(|until| begun.elapsed() < until) {
                tokio::time::sleep(Duration::from_millis(50)).await;
                continue;
            }
            met?;
            if loses.is_some() && self.drops.as_ref().is_none_or(|drops| drops.load(SeqCst) > 0) {
                return Err("not all answers were lost".to_owned());
            }
            self.name(step, taken.result);
            return Ok(());
        }
    }

    /// Keeps what a step gave under the names that it has for it.
    fn name(&mut self, step: &Step, result: Result<Done, Error>) {
        let done = match result {
            Ok(Done::Batch(results)) => {
                for (operation, taken) in batch::operations(step).iter().zip(results) {
                    self.name(operation, taken.result);
                }
                return;
            }
            Ok(done) => done,
            Err(Error::CursorExpired { cursor, .. }) => Done::Expired(cursor),
            Err(_) => return,
        };
        if let Some(name) = step.get("as").and_then(Json::as_str) {
            self.named.insert(name.to_owned(), done);
        }
    }

    async fn take(&self, step: &Step) -> Result<Taken, String> {
        let op = step.get("op").and_then(Json::as_str).ok_or("a step has an op")?;
        let own: &[&str] = match op {
            "get" => &["key", "r", "n", "sloppy", "timeout_ms", "explain", "stream"],
            "put" => &PUT,
            "delete" => &DELETE,
            "resolve" => &["key", "siblings", "join", "keep", "index", "expires_in"],
            "update" => &["key", "append"],
            "list_keys" => &["prefix", "limit", "cursor"],
            "all_keys" => &["prefix", "limit"],
            "list_index" => &indexes::LIST,
            "all_index" => &indexes::ALL,
            "set_bucket" => &["properties"],
            "get_bucket" | "reset_bucket" | "nodes" => &[],
            "typed_get" => &typed::GET,
            "change" => &typed::CHANGE,
            "typed_delete" => &typed::DELETE,
            "batch" => &batch::BATCH,
            "wait" => &feeds::WAIT,
            "feed" => &feeds::FEED,
            "follow" => &feeds::FOLLOW,
            other => return Err(format!("op: {other} is unknown")),
        };
        only(step, &[&ALL, own].concat())?;
        let begun = Instant::now();
        let (result, ()) = tokio::try_join!(self.done(op, step), self.meanwhile(step))?;
        let writes = ["put", "delete", "resolve", "update", "change", "typed_delete"].contains(&op);
        Ok(Taken { result, took: begun.elapsed(), writes })
    }

    /// The step that is begun while this one goes on.
    async fn meanwhile(&self, step: &Step) -> Result<(), String> {
        let Some(other) = step.get("meanwhile") else { return Ok(()) };
        tokio::time::sleep(MEANWHILE_AFTER).await;
        let other = other.as_object().ok_or("meanwhile: a step")?;
        let taken = Box::pin(self.take(other)).await?;
        taken.result.map(drop).map_err(|error| format!("meanwhile: {error}"))
    }

    async fn done(&self, op: &str, step: &Step) -> Result<Result<Done, Error>, String> {
        let text = |name: &str| step.get(name).and_then(Json::as_str);
        let bucket = self.client.bucket(text("bucket").unwrap_or(&self.bucket));
        let key = text("key").unwrap_or_default();
        let admin = self.client.admin();
        Ok(match op {
            "get" => {
                let options = match options(step, "r") {
                    Ok(options) => options,
                    Err(error) => return Ok(Err(error)),
                };
                let get = bucket.get(key).options(options);
                if is(step, "stream") {
                    streamed(get.stream().await).await.map(Done::Read)
                } else {
                    get.await.map(Done::Read)
                }
            }
            "put" => match self.put(step)? {
                Ok(put) => put.await.map(Done::Written),
                Err(error) => Err(error),
            },
            "delete" => match self.delete(step)? {
                Ok(delete) => delete.await.map(Done::Written),
                Err(error) => Err(error),
            },
            "batch" => self.batch(step).await?,
            "wait" => self.wait(step).await?,
            "feed" => self.feed(step)?.next_page().await.map(Done::Feed),
            "follow" => feeds::follow(self.feed(step)?).await?.map(Done::Feed),
            "resolve" => self.resolve(step).await?.map(Done::Written),
            "update" => self.update(step).await,
            "list_keys" => {
                let cursor = match text("cursor").map(|name| self.named.get(name)) {
                    None => None,
                    Some(Some(Done::Page(page))) => page.cursor.as_deref(),
                    Some(_) => return Err("cursor: names no page".to_owned()),
                };
                keys(&bucket, step).page(cursor).await.map(Done::Page)
            }
            "all_keys" => {
                let all: Result<Vec<KeysPage>, Error> =
                    keys(&bucket, step).pages().try_collect().await;
                let one = |pages: Vec<KeysPage>| KeysPage {
                    complete: pages.iter().all(|page| page.complete),
                    keys: pages.into_iter().flat_map(|page| page.keys).collect(),
                    cursor: None,
                };
                all.map(|pages| Done::Page(one(pages)))
            }
            "list_index" => self.list_index(&bucket, step).await?.map(Done::Index),
            "all_index" => self.all_index(&bucket, step).await?.map(Done::Index),
            "get_bucket" => admin.bucket(bucket.name()).await.map(|it| Done::Properties(json!(it))),
            "set_bucket" => {
                let properties = step.get("properties").cloned().unwrap_or_default();
                let set = admin.set_bucket(bucket.name(), &properties).await;
                set.map(|it| Done::Properties(json!(it)))
            }
            "typed_get" | "change" | "typed_delete" => self.typed(op, step).await?,
            "reset_bucket" => admin.reset_bucket(bucket.name()).await.map(|()| Done::Nothing),
            _ => match self.client.discover().await {
                Ok(()) => Ok(Done::Nodes(self.client.known_nodes().len())),
                Err(error) => Err(error),
            },
        })
    }

    async fn update(&self, step: &Step) -> Result<Done, Error> {
        let text = |name: &str| step.get(name).and_then(Json::as_str);
        let append = text("append").unwrap_or_default().to_owned();
        let bucket = self.client.bucket(text("bucket").unwrap_or(&self.bucket));
        let update = bucket.update(text("key").unwrap_or_default());
        let update = update.resolver(|all| joined(all, "|").into());
        let change =
            |it: Option<&Value>| format!("{}{append}", it.and_then(Value::text).unwrap_or(""));
        Ok(match update.apply(change).await? {
            Updated::Written(written) => Done::Written(written),
            Updated::Kept => Done::Nothing,
        })
    }

    pub(crate) fn put(&self, step: &Step) -> Result<Result<Put, Error>, String> {
        let text = |name: &str| step.get(name).and_then(Json::as_str);
        let bucket = self.client.bucket(text("bucket").unwrap_or(&self.bucket));
        let (key, value) = (text("key").unwrap_or_default(), Bytes::from(bytes(&step["value"])?));
        let value: NewValue = if is(step, "stream") {
            let pieces: Vec<Bytes> = value.chunks(10_000).map(Bytes::copy_from_slice).collect();
            NewValue::stream(value.len() as u64, move || {
                stream::iter(pieces.clone().into_iter().map(Ok::<Bytes, std::io::Error>))
            })
        } else {
            value.into()
        };
        let user = step.get("meta").and_then(Json::as_object).cloned().unwrap_or_default();
        let pair =
            |(name, value): (String, Json)| (name, value.as_str().unwrap_or_default().to_owned());
        let metadata = Metadata {
            content_type: text("content_type").map(str::to_owned),
            user: user.into_iter().map(pair).collect(),
            index: indexes::entries(step)?,
            ..Metadata::default()
        };
        let (context, options) = match (self.context(step)?, options(step, "w")) {
            (Ok(context), Ok(options)) => (context, options),
            (Err(error), _) | (Ok(_), Err(error)) => return Ok(Err(error)),
        };
        let put = match &context {
            Some(context) => bucket.put_after(key, context, value),
            None => bucket.put_blind(key, value),
        };
        let put = put.metadata(metadata).options(options);
        let put = match text("idempotency_key") {
            Some(key) => put.idempotency_key(key),
            None => put,
        };
        let put = match lifetime(step) {
            Some(lifetime) => put.lifetime(lifetime),
            None => put,
        };
        Ok(Ok(match text("if") {
            None => put,
            Some("absent") => put.if_absent(),
            Some("present") => put.if_present(),
            Some(name) => put.if_match(self.etag(name)?),
        }))
    }

    async fn typed(&self, op: &str, step: &Step) -> Result<Result<Done, Error>, String> {
        let name = step.get("bucket").and_then(Json::as_str).unwrap_or(&self.bucket);
        let needed = if op == "typed_get" { "r" } else { "w" };
        let (context, options) = match (self.context(step)?, options(step, needed)) {
            (Ok(context), Ok(options)) => (context, options),
            (Err(error), _) | (Ok(_), Err(error)) => return Ok(Err(error)),
        };
        typed::done(&self.client.bucket(name), step, context.as_ref(), options).await
    }

    pub(crate) fn delete(&self, step: &Step) -> Result<Result<Delete, Error>, String> {
        let text = |name: &str| step.get(name).and_then(Json::as_str);
        let bucket = self.client.bucket(text("bucket").unwrap_or(&self.bucket));
        let key = text("key").unwrap_or_default();
        let (context, options) = match (self.context(step)?, options(step, "w")) {
            (Ok(context), Ok(options)) => (context, options),
            (Err(error), _) | (Ok(_), Err(error)) => return Ok(Err(error)),
        };
        let delete = match &context {
            Some(context) => bucket.delete_after(key, context),
            None => bucket.delete(key),
        };
        let delete = delete.options(options);
        let delete = match text("idempotency_key") {
            Some(key) => delete.idempotency_key(key),
            None => delete,
        };
        Ok(Ok(match text("if") {
            None => delete,
            Some("absent") => delete.if_absent(),
            Some("present") => delete.if_present(),
            Some(name) => delete.if_match(self.etag(name)?),
        }))
    }
}

async fn streamed(read: Result<ReadStream, Error>) -> Result<Read, Error> {
    Ok(match read? {
        ReadStream::Value(value) => Read::Value(value.collect().await?),
        ReadStream::Siblings(siblings) => Read::Siblings(siblings),
        ReadStream::Absent(absent) => Read::Absent(absent),
    })
}

/// The texts of the live siblings, sorted.
pub(crate) fn joined(siblings: &[Sibling], with: &str) -> String {
    let mut texts: Vec<&str> =
        siblings.iter().filter_map(|it| it.value.as_ref()).filter_map(Value::text).collect();
    texts.sort_unstable();
    texts.join(with)
}
