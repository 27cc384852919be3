//! Keeping up with the cluster: its nodes, its ring, and the nodes that were dead.
//!
//! This runs beside requests, at most once at a time, and only while requests are made: a client that
//! is not used sends nothing.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
use std::time::{Duration, Instant};

use serde::Deserialize;
use serde::de::DeserializeOwned;

use crate::answer::{error, read};
use crate::client::{Client, Inner};
use crate::error::Error;
use crate::nodes::{Node, View};
use crate::retry::Deadline;
use crate::ring::{Copies, LayoutId, Partitions, Ring};
use crate::settings::{NODES_MAX, base_url_of};

/// How long one question about the cluster may take.
const LOOK_WITHIN: Duration = Duration::from_secs(2);
/// The shortest time between two looks that errors ask for.
const LOOK_AGAIN: Duration = Duration::from_secs(1);
/// The time between looks while a node is listed without its address: it was not heard of yet.
const LOOK_AT_UNKNOWN: Duration = Duration::from_secs(5);
/// The longest answer about the cluster that is read, in bytes: 65,536 partitions fit.
const ANSWER_BYTES_MAX: usize = 16 << 20;

/// When to look at the cluster, and when to probe dead nodes.
#[derive(Debug)]
pub(crate) struct Upkeep {
    began: Instant,
    look: Due,
    probe: Due,
    running: AtomicBool,
}

/// A time, in milliseconds since the client began; [`NEVER`] for none.
#[derive(Debug)]
struct Due(AtomicU64);

const NEVER: u64 = u64::MAX;

impl Upkeep {
    /// A look is due at once.
    pub(crate) fn new(now: Instant) -> Self {
        let (look, probe) = (Due(AtomicU64::new(0)), Due(AtomicU64::new(NEVER)));
        Self { began: now, look, probe, running: AtomicBool::new(false) }
    }

    fn ms(&self, at: Instant) -> u64 {
        u64::try_from(at.saturating_duration_since(self.began).as_millis()).unwrap_or(NEVER)
    }

    fn is_due(&self, due: &Due) -> bool {
        due.0.load(Relaxed) <= self.ms(Instant::now())
    }

    /// Not later than this.
    fn by(&self, due: &Due, at: Instant) {
        due.0.fetch_min(self.ms(at), Relaxed);
    }

    /// At this time; `None`: until further notice not.
    fn set(&self, due: &Due, at: Option<Instant>) {
        due.0.store(at.map_or(NEVER, |at| self.ms(at)), Relaxed);
    }
}

/// Marks the upkeep as not running, also if its task is dropped before its end.
struct Running(Arc<Inner>);

impl Drop for Running {
    fn drop(&mut self) {
        self.0.upkeep.running.store(false, Relaxed);
    }
}

/// The part of `GET /cluster` that matters here.
#[derive(Debug, Deserialize)]
struct Cluster {
    node: String,
    layout: LayoutId,
    nodes: Vec<Listed>,
}

#[derive(Debug, Deserialize)]
struct Listed {
    node: String,
    /// Nodes of older releases do not say.
    #[serde(default)]
    http_addr: Option<String>,
}

/// The part of `GET /buckets` that matters here.
#[derive(Debug, Deserialize)]
struct Buckets {
    defaults: HasN,
    buckets: Vec<Named>,
}

#[derive(Debug, Deserialize)]
struct HasN {
    n: usize,
}

#[derive(Debug, Deserialize)]
struct Named {
    bucket: String,
    properties: HasN,
}

impl Client {
    /// Looks at the cluster now: finds its nodes, and where keys are. Without this the client does so
    /// beside its first requests.
    ///
    /// # Errors
    /// What the last node that was asked answered, if none told about the cluster.
    pub async fn discover(&self) -> Result<(), Error> {
        self.inner.look().await
    }
}

impl Inner {
    /// Starts the upkeep if it is due and does not run.
    pub(crate) fn maintain(self: &Arc<Self>) {
        let upkeep = &self.upkeep;
        let is_due = upkeep.is_due(&upkeep.look) || upkeep.is_due(&upkeep.probe);
        if !is_due || upkeep.running.swap(true, Relaxed) {
            return;
        }
        let running = Running(self.clone());
        tokio::spawn(async move {
            let inner = &running.0;
            let upkeep = &inner.upkeep;
            if upkeep.is_due(&upkeep.probe) {
                inner.probe_the_dead().await;
            }
            if upkeep.is_due(&upkeep.look) && inner.look().await.is_err() {
                upkeep.set(&upkeep.look, Some(Instant::now() + LOOK_AGAIN));
            }
        });
    }

    /// Lets the next look be soon: what is known seems to be wrong.
    pub(crate) fn look_again_soon(&self) {
        self.upkeep.by(&self.upkeep.look, Instant::now() + LOOK_AGAIN);
    }

    /// Notes that a node did not answer.
    pub(crate) fn suspect(&self, node: &Node) {
        self.upkeep.by(&self.upkeep.probe, node.failed(Instant::now()));
        self.look_again_soon();
    }

    /// Asks nodes that did not answer whether they do, once their time has come.
    async fn probe_the_dead(&self) {
        let now = Instant::now();
        let view = self.view();
        let due = view.nodes.iter().filter(|node| node.probe_at().is_some_and(|at| at <= now));
        let probes = due.map(async |node| {
            let url = format!("{}/readyz", node.url);
            let answer = tokio::time::timeout(LOOK_WITHIN, self.http.get(url).send()).await;
            match answer {
                // Not ready is an answer: such a node says so at once, and is asked for nothing else.
                Ok(Ok(_)) => node.answered(),
                Ok(Err(_)) | Err(_) => {
                    node.failed(Instant::now());
                }
            }
        });
        futures_util::future::join_all(probes).await;
        // In this order: a node that fails in between is not forgotten.
        self.upkeep.set(&self.upkeep.probe, None);
        for at in self.view().nodes.iter().filter_map(|node| node.probe_at()) {
            self.upkeep.by(&self.upkeep.probe, at);
        }
    }

    /// Asks live nodes in turn about the cluster until one tells.
    async fn look(&self) -> Result<(), Error> {
        if !self.settings.discovers && !self.settings.routes {
            self.schedule(true);
            return Ok(()); // nothing of it would be used
        }
        let mut failed = Error::invalid("nodes", "none is known");
        let place = crate::nodes::Place::Any;
        let nodes = self.view().candidates(place, self.next_turn(), Instant::now());
        for node in nodes.into_iter().take(8) {
            match self.look_at(&node).await {
                Ok(is_complete) => {
                    self.schedule(is_complete);
                    return Ok(());
                }
                Err(error) => failed = error.of_read(),
            }
        }
        Err(failed)
    }

    fn schedule(&self, is_complete: bool) {
        let every = self.settings.refresh_every;
        let next = if is_complete { every } else { every.min(LOOK_AT_UNKNOWN) };
        self.upkeep.set(&self.upkeep.look, Some(Instant::now() + next));
    }

    /// Returns whether every node that the cluster lists is known now.
    async fn look_at(&self, node: &Arc<Node>) -> Result<bool, Error> {
        let cluster: Cluster = self.ask(node, "/cluster").await?;
        let (nodes, names) = self.nodes_of(node, &cluster).await;
        let ring =
            if self.settings.routes { self.ring_of(node, &cluster.layout).await } else { None };
        let is_known = |listed: &Listed| names.contains_key(&listed.node);
        let is_complete = !self.settings.discovers || cluster.nodes.iter().all(is_known);
        self.set_view(View { nodes, names, ring });
        Ok(is_complete)
    }

    /// The nodes that were given, and those that the cluster lists.
    async fn nodes_of(
        &self,
        asked: &Arc<Node>,
        cluster: &Cluster,
    ) -> (Vec<Arc<Node>>, BTreeMap<String, Arc<Node>>) {
        let before = self.view();
        let url_of = |listed: &Listed| base_url_of(&asked.url, listed.http_addr.as_deref()?);
        let mut names = BTreeMap::from([(cluster.node.clone(), asked.clone())]);
        let listed = cluster.nodes.iter().take(NODES_MAX);
        for (name, url) in listed.filter_map(|it| Some((it.node.clone(), url_of(it)?))) {
            let known = before.nodes.iter().find(|node| node.url == url);
            match known {
                Some(node) => drop(names.entry(name).or_insert_with(|| node.clone())),
                None if !self.settings.discovers => {}
                None => {
                    // It may have been given under another name of its host, and be known as such.
                    let known = before.names.get(&name).filter(|node| node.given);
                    let node = known.cloned().unwrap_or_else(|| Node::new(url, false));
                    names.entry(name).or_insert(node);
                }
            }
        }
        let given: Vec<_> = before.nodes.iter().filter(|node| node.given).cloned().collect();
        for node in &given {
            let is_named = names.values().any(|it| Arc::ptr_eq(it, node));
            let known = before.names.iter().find(|(_, it)| Arc::ptr_eq(it, node));
            match known {
                _ if is_named => {}
                // Also while it is dead, so that its keys go to it as soon as it is back.
                Some((name, _)) => drop(names.entry(name.clone()).or_insert_with(|| node.clone())),
                None if node.probe_at().is_some() => {}
                None => {
                    if let Ok(told) = self.ask::<Cluster>(node, "/cluster").await {
                        names.insert(told.node, node.clone());
                    }
                }
            }
        }
        let mut nodes = given;
        let discovered = names.values().filter(|node| !node.given).cloned();
        nodes.extend(discovered.collect::<Vec<_>>());
        (nodes, names)
    }

    /// Where keys are. Read again only if the layout or the largest N is another.
    async fn ring_of(&self, node: &Arc<Node>, layout: &LayoutId) -> Option<Arc<Ring>> {
        let known = self.view().ring.clone();
        let Ok(buckets) = self.ask::<Buckets>(node, "/buckets").await else { return known };
        let of = buckets.buckets.into_iter().map(|it| (it.bucket, it.properties.n)).collect();
        let copies = Copies { default: buckets.defaults.n, of };
        let n_max = copies.of.values().copied().max().unwrap_or(0).max(copies.default);
        if let Some(known) = &known
            && known.layout() == layout
            && known.listed() >= n_max
        {
            return Some(Arc::new(known.with_copies(copies)));
        }
        match self.ask::<Partitions>(node, "/ring/partitions").await {
            Ok(partitions) => Ring::new(partitions, copies).map(Arc::new),
            Err(_) => known,
        }
    }

    /// Asks one node, once.
    async fn ask<T: DeserializeOwned>(&self, node: &Arc<Node>, path: &str) -> Result<T, Error> {
        let deadline = Deadline::new(LOOK_WITHIN);
        let sent = self.http.get(format!("{}{path}", node.url)).send();
        let response = match tokio::time::timeout(LOOK_WITHIN, sent).await {
            Ok(Ok(response)) => response,
            Ok(Err(failed)) => {
                self.suspect(node);
                return Err(crate::call::unreachable(node, &failed));
            }
            Err(_) => {
                self.suspect(node);
                let outcome = crate::Outcome::NotApplied;
                let (after, last) = (LOOK_WITHIN, None);
                return Err(Error::TimedOut { outcome, after, attempts: 1, last });
            }
        };
        node.answered();
        if !response.status().is_success() {
            return Err(error(response, &deadline, &node.url).await);
        }
        let body = read(response, ANSWER_BYTES_MAX, LOOK_WITHIN, &deadline).await;
        let body = body.map_err(|unread| unread.into_error(&node.url, LOOK_WITHIN))?;
        serde_json::from_slice(&body).map_err(|error| {
            crate::answer::bad(&node.url, format!("{path}: not the JSON expected: {error}"))
        })
    }
}
