//! Keeping up with the cluster: its nodes, its ring, and the nodes that were dead.
//!
//! This runs beside requests, at most once at a time, and only while requests are made: a client that
//! is not used sends nothing. Between two looks there is a second at least, however many answers ask for one
//! (`upkeep.rs`).

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use reqwest::Method;
use reqwest::header::HeaderMap;
use serde::Deserialize;
use serde::de::DeserializeOwned;

use crate::answer::{EPOCH, error, read};
use crate::call::was_removed;
use crate::client::{Client, Inner};
use crate::error::Error;
use crate::nodes::{Node, View};
use crate::retry::Deadline;
use crate::ring::{Copies, LayoutId, Partitions, Ring};
use crate::settings::{NODES_MAX, base_url_of};
use crate::upkeep::again_after;

/// How long one question about the cluster may take.
const LOOK_WITHIN: Duration = Duration::from_secs(2);
/// The time between looks while a node is listed without its address: it was not heard of yet.
const LOOK_AT_UNKNOWN: Duration = Duration::from_secs(5);
/// The longest answer about the cluster that is read, in bytes: 65,536 partitions fit.
const ANSWER_BYTES_MAX: usize = 16 << 20;

/// Marks the upkeep as not running, also if its task is dropped before its end.
struct Running(Arc<Inner>);

impl Drop for Running {
    fn drop(&mut self) {
        self.0.upkeep.ends();
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
        if !is_due || !upkeep.begins() {
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
                upkeep.set(&upkeep.look, Some(Instant::now() + again_after()));
            }
        });
    }

    /// Lets the next look be soon: what is known seems to be wrong.
    pub(crate) fn look_again_soon(&self) {
        self.upkeep.soon(&self.upkeep.look, Instant::now());
    }

    /// Notes which epoch of the layout a node follows: a later one than was known is a reason to look.
    pub(crate) fn hear(&self, headers: &HeaderMap) {
        let text = headers.get(&EPOCH).and_then(|value| value.to_str().ok());
        let Some(epoch) = text.and_then(|text| text.parse().ok()) else { return };
        if self.upkeep.hears(epoch) {
            self.look_again_soon();
        }
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
            let answer =
                tokio::time::timeout(LOOK_WITHIN, self.request(Method::GET, url).send()).await;
            let is_up = match answer {
                Ok(Ok(response)) if response.status().is_success() => true,
                // Not ready is an answer: such a node says so at once, and is asked for nothing else. One
                // that was removed has nothing to say.
                Ok(Ok(response)) => {
                    !was_removed(&error(response, &Deadline::new(LOOK_WITHIN), &node.url).await)
                }
                Ok(Err(_)) | Err(_) => false,
            };
            match is_up {
                true => node.answered(),
                false => drop(node.failed(Instant::now())),
            }
        });
        futures_util::future::join_all(probes).await;
        // In this order: a node that fails in between is not forgotten.
        self.upkeep.set(&self.upkeep.probe, None);
        for at in self.view().nodes.iter().filter_map(|node| node.probe_at()) {
            self.upkeep.by(&self.upkeep.probe, at);
        }
    }

    /// Asks live nodes in turn about the cluster until one tells that has heard of the last change. If none
    /// has, the one that knows most is believed: the cluster may have been formed afresh.
    async fn look(&self) -> Result<(), Error> {
        if !self.settings.discovers && !self.settings.routes {
            self.schedule(true);
            return Ok(()); // nothing of it would be used
        }
        let mut failed = Error::invalid("nodes", "none is known");
        let place = crate::nodes::Place::Any;
        let nodes = self.view().candidates(place, self.next_turn(), Instant::now());
        let mut behind: Option<(Arc<Node>, Cluster)> = None;
        for node in nodes.into_iter().take(8) {
            match self.ask::<Cluster>(&node, "/cluster").await {
                Ok(cluster) if cluster.layout.version >= self.upkeep.epoch() => {
                    self.take_over(&node, cluster).await;
                    return Ok(());
                }
                Ok(cluster) => {
                    let most = behind.as_ref().map(|(_, known)| known.layout.version);
                    if most.is_none_or(|most| most < cluster.layout.version) {
                        behind = Some((node, cluster));
                    }
                }
                Err(error) => failed = error.of_read(),
            }
        }
        let Some((node, cluster)) = behind else { return Err(failed) };
        self.take_over(&node, cluster).await;
        Ok(())
    }

    fn schedule(&self, is_complete: bool) {
        let every = self.settings.refresh_every;
        let next = if is_complete { every } else { every.min(LOOK_AT_UNKNOWN) };
        self.upkeep.set(&self.upkeep.look, Some(Instant::now() + next));
    }

    /// Believes what a node says about the cluster.
    async fn take_over(&self, node: &Arc<Node>, cluster: Cluster) {
        let (nodes, names) = self.nodes_of(node, &cluster).await;
        let ring =
            if self.settings.routes { self.ring_of(node, &cluster.layout).await } else { None };
        let is_known = |listed: &Listed| names.contains_key(&listed.node);
        let is_complete = !self.settings.discovers || cluster.nodes.iter().all(is_known);
        self.upkeep.knows(cluster.layout.version);
        self.set_view(View { nodes, names, ring });
        // While a node is listed without its address, the next look is earlier.
        self.schedule(is_complete);
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
        let sent = self.request(Method::GET, format!("{}{path}", node.url)).send();
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
