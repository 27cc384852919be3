//! The nodes that a client knows, and how well each of them answers.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use crate::ring::Ring;

/// How long a node that did not answer is avoided at first. Doubled with every further failure.
const AVOIDED_FIRST: Duration = Duration::from_millis(500);
/// The longest time between two probes of a dead node.
const AVOIDED_MAX: Duration = Duration::from_secs(10);

/// One node.
#[derive(Debug)]
pub(crate) struct Node {
    /// Its URL, without a slash at the end.
    pub(crate) url: String,
    /// Whether the user named it; others were discovered.
    pub(crate) given: bool,
    health: Mutex<Health>,
}

#[derive(Debug, Default)]
struct Health {
    /// How often it failed to answer since it last did.
    failures: u32,
    /// When it may be probed, if it failed to answer.
    probe_at: Option<Instant>,
    /// Until when it asked for rest.
    rests_until: Option<Instant>,
}

/// How a node is expected to answer. Ordered: what comes first is asked first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum State {
    /// It answers.
    Up,
    /// It asked for rest.
    Resting,
    /// It did not answer, and was not probed since.
    Down,
}

impl Node {
    /// A node of which nothing is known yet.
    pub(crate) fn new(url: String, given: bool) -> Arc<Self> {
        Arc::new(Self { url, given, health: Mutex::default() })
    }

    fn health(&self) -> std::sync::MutexGuard<'_, Health> {
        self.health.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Its state at this time.
    pub(crate) fn state(&self, now: Instant) -> State {
        let health = self.health();
        match (health.probe_at, health.rests_until) {
            (Some(_), _) => State::Down,
            (None, Some(until)) if until > now => State::Resting,
            (None, _) => State::Up,
        }
    }

    /// It answered.
    pub(crate) fn answered(&self) {
        let mut health = self.health();
        (health.failures, health.probe_at) = (0, None);
    }

    /// It did not answer; returns when to probe it.
    pub(crate) fn failed(&self, now: Instant) -> Instant {
        let mut health = self.health();
        let factor = 2_u32.saturating_pow(health.failures.min(16));
        health.failures = health.failures.saturating_add(1);
        let at = now + AVOIDED_FIRST.saturating_mul(factor).min(AVOIDED_MAX);
        health.probe_at = Some(at);
        at
    }

    /// It asked to be left alone for so long.
    pub(crate) fn rests(&self, now: Instant, time: Duration) {
        self.health().rests_until = Some(now + time.min(AVOIDED_MAX));
    }

    /// When to probe it, if it is down.
    pub(crate) fn probe_at(&self) -> Option<Instant> {
        self.health().probe_at
    }
}

/// All nodes and where keys are, at one time.
#[derive(Clone, Debug, Default)]
pub(crate) struct View {
    /// Every node once.
    pub(crate) nodes: Vec<Arc<Node>>,
    /// Those whose name is known.
    pub(crate) names: BTreeMap<String, Arc<Node>>,
    /// Where keys are, once it is known.
    pub(crate) ring: Option<Arc<Ring>>,
}

/// Which nodes fit a request.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Place<'a> {
    /// Any node, in turn.
    Any,
    /// Any home replica of a key, in turn, else any node.
    AnyHome(&'a str, &'a str),
    /// The first home replica of a key, where retries of one write meet; else the next.
    FirstHome(&'a str, &'a str),
}

impl View {
    /// All nodes, in the order in which they should be asked. `turn` spreads requests.
    pub(crate) fn candidates(&self, place: Place<'_>, turn: usize, now: Instant) -> Vec<Arc<Node>> {
        let (bucket_and_key, rotates) = match place {
            Place::Any => (None, false),
            Place::AnyHome(bucket, key) => (Some((bucket, key)), true),
            Place::FirstHome(bucket, key) => (Some((bucket, key)), false),
        };
        let mut homes: Vec<Arc<Node>> = match (bucket_and_key, &self.ring) {
            (Some((bucket, key)), Some(ring)) => {
                ring.homes(bucket, key).filter_map(|name| self.names.get(name)).cloned().collect()
            }
            (Some(_), None) | (None, _) => Vec::new(),
        };
        if rotates && !homes.is_empty() {
            let by = turn % homes.len();
            homes.rotate_left(by);
        }
        let is_home = |node: &Arc<Node>| homes.iter().any(|home| Arc::ptr_eq(home, node));
        let mut others: Vec<_> = self.nodes.iter().filter(|node| !is_home(node)).cloned().collect();
        if !others.is_empty() {
            let by = turn % others.len();
            others.rotate_left(by);
        }
        let mut all = homes;
        all.append(&mut others);
        all.sort_by_cached_key(|node| node.state(now)); // stable
        all
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use crate::ring::{Copies, LayoutId, Partitions};

    fn view() -> View {
        let names = ["n1", "n2", "n3", "n4"];
        let nodes: Vec<_> = names.iter().map(|name| Node::new((*name).to_owned(), true)).collect();
        let layout = LayoutId { version: 1, hash: String::new() };
        let homes = vec![vec![2, 1]];
        let known = names.map(str::to_owned).to_vec();
        let ring = Ring::new(
            Partitions { layout, n: 2, nodes: known, homes },
            Copies { default: 2, ..Copies::default() },
        );
        let named = nodes.iter().map(|node| (node.url.clone(), node.clone())).collect();
        View { nodes, names: named, ring: ring.map(Arc::new) }
    }

    fn order(view: &View, place: Place<'_>, turn: usize) -> Vec<String> {
        let all = view.candidates(place, turn, Instant::now());
        all.iter().map(|node| node.url.clone()).collect()
    }

    #[test]
    fn homes_come_first_and_reads_take_turns() {
        let view = view();
        assert_eq!(order(&view, Place::FirstHome("b", "k"), 1), ["n3", "n2", "n4", "n1"]);
        assert_eq!(order(&view, Place::FirstHome("b", "k"), 2), ["n3", "n2", "n1", "n4"]);
        assert_eq!(order(&view, Place::AnyHome("b", "k"), 1)[..2], ["n2", "n3"]);
        assert_eq!(order(&view, Place::AnyHome("b", "k"), 2)[..2], ["n3", "n2"]);
        assert_eq!(order(&view, Place::Any, 3), ["n4", "n1", "n2", "n3"]);
        let blind = View { ring: None, ..view };
        assert_eq!(order(&blind, Place::FirstHome("b", "k"), 1)[0], "n2");
        assert!(View::default().candidates(Place::Any, 7, Instant::now()).is_empty());
    }

    #[test]
    fn dead_nodes_come_last_until_they_answer() {
        let view = view();
        let now = Instant::now();
        view.nodes[2].failed(now);
        view.nodes[1].rests(now, Duration::from_secs(60));
        assert_eq!(order(&view, Place::FirstHome("b", "k"), 0), ["n1", "n4", "n2", "n3"]);
        view.nodes[2].answered();
        assert_eq!(order(&view, Place::FirstHome("b", "k"), 0), ["n3", "n1", "n4", "n2"]);
        let later = now + Duration::from_secs(11);
        assert_eq!(view.nodes[1].state(later), State::Up, "no rest is longer than 10 s");
    }

    #[test]
    fn probes_become_rarer() {
        let node = Node::new("n".to_owned(), true);
        let now = Instant::now();
        let waits: Vec<_> = (0..7).map(|_| (node.failed(now) - now).as_millis()).collect();
        assert_eq!(waits, [500, 1000, 2000, 4000, 8000, 10_000, 10_000]);
        node.answered();
        assert_eq!(node.probe_at(), None);
        assert_eq!(node.failed(now) - now, AVOIDED_FIRST);
    }
}
