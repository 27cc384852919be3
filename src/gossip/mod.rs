//! Gossip: liveness and the advertised state of every node, known everywhere within a second.
//!
//! chitchat (Scuttlebutt reconciliation, by Quickwit) spreads heartbeats and the advertised state
//! of every node over UDP, on the peer port's number, in sealed datagrams (`seal`). It is advisory:
//! missing heartbeats make a peer suspected, a returning one is greeted at once, and a bucket table
//! that differs triggers an exchange of tables. Nothing fails because gossip is silent, wrong or
//! switched off (docs/decisions/0005).
//!
//! The same loop re-evaluates several times a second which peers are suspected, since gossip is one
//! of the inputs.

#[cfg(any(test, fuzzing))]
pub(crate) mod fuzzed;
mod seal;
pub(crate) mod transport;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use chitchat::{
    Chitchat, ChitchatConfig, ChitchatHandle, ChitchatId, FailureDetectorConfig, NodeState,
    spawn_chitchat,
};
use futures_util::FutureExt;
use quorate_protocol::name::NodeId;
use quorate_protocol::time::WallTime;

use self::seal::Seal;
use self::transport::{Addresses, SealedTransport, address_of};
use quorate_engine::background::jobs::JobState;
use quorate_engine::liveness::advertised::GossipState;
use quorate_engine::liveness::peer_time::PeerTime;
use quorate_engine::liveness::review::Turns;
use quorate_engine::node::{Node, RELEASE};

/// The keys under which a node advertises its state.
const LAYOUT: &str = "layout";
const BUCKETS: &str = "buckets";
const READY: &str = "ready";
const WRITABLE: &str = "writable";
const RELEASE_KEY: &str = "release";
const DOWN: &str = "down";

/// How often gossip is started again if it failed or ended, and names are resolved again.
const RETRY_MS: u64 = 5000;
const RESOLVE_MS: u64 = 30_000;
/// chitchat forgets a node's earlier starts after this long, and a node that is gone until it
/// is heard again.
const FORGET: Duration = Duration::from_secs(60);
/// The longest release name that is accepted, in characters.
const RELEASE_CHARS_MAX: usize = 64;

/// Gossips and reviews the peers for as long as the node runs.
pub(crate) async fn run(node: Arc<Node>, job: Arc<JobState>) {
    let config = &node.config.gossip;
    let mut turns = Turns::new(&node);
    let (mut gossip, mut started) = (None, None::<PeerTime>);
    loop {
        let now = turns.next(&node).await;
        let _working = job.works();
        let retry = started.is_none_or(|at| now.since(at) >= RETRY_MS);
        if config.enabled && retry && gossip.as_mut().is_none_or(Gossip::has_ended) {
            started = Some(now);
            gossip = Gossip::start(&node).await;
        }
        if let Some(gossip) = &mut gossip {
            gossip.tell(&node).await;
            gossip.listen(&node, now).await;
        }
        node.peers.review(now);
    }
}

/// The running gossip.
struct Gossip {
    handle: ChitchatHandle,
    /// The latest heartbeat of every start of every peer.
    heartbeats: BTreeMap<(NodeId, u64), u64>,
    /// The pair of bucket tables over which a peer was last greeted: this node's hash and the
    /// peer's.
    compared: BTreeMap<NodeId, (u64, u64)>,
    addresses: Arc<Addresses>,
    resolved: Resolved,
}

/// When the peers' names were resolved.
struct Resolved {
    at: PeerTime,
    any_name: bool,
    /// As of which change of the peers.
    changes: u64,
}

impl Gossip {
    /// Opens the port and starts gossip. `None`, and a line in the log, if that fails.
    async fn start(node: &Node) -> Option<Self> {
        let listen_addr = node.config.peer_addr;
        let start = node.now();
        let addresses = Arc::<Addresses>::default();
        let changes = node.peers.changes(); // read first: one that comes meanwhile is seen later
        let any_name = addresses.resolve(&addresses_in(node), listen_addr).await;
        let secrets = node.config.secrets().ok()?; // validated at startup
        let transport = SealedTransport {
            me: node.me,
            start,
            seal: Arc::new(Seal::new(&node.config.cluster_id, &secrets)),
            addresses: addresses.clone(),
            faults: node.faults.clone(),
            counts: node.peers.gossip_counts(),
        };
        let handle = match spawn_chitchat(chitchat_config(node, start), words(node), &transport)
            .await
        {
            Ok(handle) => handle,
            Err(error) => {
                tracing::warn!(%error, %listen_addr, "no gossip: its UDP port cannot be opened");
                return None;
            }
        };
        let resolved = Resolved { at: node.peers.now(), any_name, changes };
        let (heartbeats, compared) = (BTreeMap::new(), BTreeMap::new());
        Some(Self { handle, heartbeats, compared, addresses, resolved })
    }

    fn has_ended(&mut self) -> bool {
        let ended = self.handle.termination_watcher().now_or_never();
        if let Some(how) = &ended {
            tracing::warn!(?how, "gossip ended; restarting it");
        }
        ended.is_some()
    }

    /// Publishes this node's state. Unchanged values cost nothing.
    async fn tell(&self, node: &Node) {
        let words = words(node);
        self.handle
            .with_chitchat(|chitchat| {
                let me = chitchat.self_node_state();
                for (name, word) in &words {
                    if me.get(name) != Some(word.as_str()) {
                        me.set(name, word);
                    }
                }
            })
            .await;
    }

    /// Passes on what was heard of the peers since the last call.
    async fn listen(&mut self, node: &Node, now: PeerTime) {
        let me = node.me;
        let heartbeats = &mut self.heartbeats;
        let news = self.handle.with_chitchat(|chitchat| advanced(chitchat, heartbeats, me)).await;
        for (peer, news) in news {
            let Some(health) = node.peers.health(peer) else { continue };
            let ours = node.buckets.hash();
            if let Some(theirs) = news.buckets_hash.filter(|theirs| *theirs != ours)
                && self.compared.insert(peer, (ours, theirs)) != Some((ours, theirs))
            {
                health.greet_now();
            }
            health.gossiped(news, now);
        }
        self.resolve(node, now).await;
    }

    /// Resolves the peers' names if that is due, or if the peers have changed.
    async fn resolve(&mut self, node: &Node, now: PeerTime) {
        let changes = node.peers.changes();
        let is_due = self.resolved.any_name && now.since(self.resolved.at) >= RESOLVE_MS;
        if is_due || changes != self.resolved.changes {
            let any_name = self.addresses.resolve(&addresses_in(node), node.config.peer_addr).await;
            self.resolved = Resolved { at: now, any_name, changes };
            self.compared.retain(|peer, _| node.peers.contains(*peer));
        }
    }
}

/// The peers whose heartbeat has advanced, with their state.
fn advanced(
    chitchat: &Chitchat,
    heartbeats: &mut BTreeMap<(NodeId, u64), u64>,
    me: NodeId,
) -> Vec<(NodeId, GossipState)> {
    let mut news = Vec::new();
    let mut known = BTreeMap::new();
    for (id, state) in chitchat.node_states() {
        let Ok(peer) = NodeId::parse(&id.node_id) else { continue };
        let life = (peer, id.generation_id);
        let heartbeat = u64::from(state.heartbeat());
        // A state without values belongs to a node of which only the existence is known.
        let before = heartbeats.get(&life).copied().unwrap_or(0);
        if peer != me && heartbeat > before && state.num_key_values() > 0 {
            news.push((peer, parse_reply(state, me)));
        }
        known.insert(life, heartbeat.max(before));
    }
    *heartbeats = known;
    news
}

/// The state that this node advertises.
fn words(node: &Node) -> Vec<(String, String)> {
    let view = node.view();
    let layout = view.placement().layout();
    let down = node.peers.down();
    let down: Vec<&str> = down.iter().map(NodeId::as_str).collect();
    let words = [
        (LAYOUT, format!("{} {}", layout.version(), layout.hash())),
        (BUCKETS, format!("{:016x}", node.buckets.hash())),
        (READY, node.filled.is_complete().to_string()),
        (WRITABLE, node.is_writable().to_string()),
        (RELEASE_KEY, RELEASE.to_owned()),
        (DOWN, down.join(" ")),
    ];
    words.map(|(name, word)| (name.to_owned(), word)).into()
}

/// Parses a peer's advertised state. Values that make no sense are treated as absent.
fn parse_reply(state: &NodeState, me: NodeId) -> GossipState {
    let hex = |text: &str| u64::from_str_radix(text, 16).ok();
    let layout = |text: &str| {
        let (version, hash) = text.split_once(' ')?;
        Some((version.parse().ok()?, hex(hash)?))
    };
    let truth = |name| state.get(name).and_then(|word| word.parse().ok());
    let release = |text: &str| text.chars().take(RELEASE_CHARS_MAX).collect();
    let down = state.get(DOWN).unwrap_or_default();
    GossipState {
        layout: state.get(LAYOUT).and_then(layout),
        buckets_hash: state.get(BUCKETS).and_then(hex),
        ready: truth(READY),
        writable: truth(WRITABLE),
        release: state.get(RELEASE_KEY).map(release),
        cannot_reach_me: down.split(' ').any(|name| name == me.as_str()),
    }
}

fn chitchat_config(node: &Node, start: WallTime) -> ChitchatConfig {
    let config = &node.config.gossip;
    let interval = Duration::from_millis(config.interval_ms);
    let id = ChitchatId::new(node.me.as_str(), start.0, address_of(node.me));
    ChitchatConfig {
        chitchat_id: id,
        cluster_id: node.config.cluster_id.clone(),
        gossip_interval: interval,
        listen_addr: node.config.peer_addr,
        seed_nodes: node.peers.nodes().map(|peer| address_of(peer).to_string()).collect(),
        // Affects only chitchat's choice of gossip partners; suspicion is decided in `health`.
        failure_detector_config: FailureDetectorConfig {
            phi_threshold: config.phi,
            sampling_window_size: 100,
            max_interval: interval * 10,
            initial_interval: interval * 2,
            dead_node_grace_period: FORGET,
        },
        marked_for_deletion_grace_period: FORGET,
        catchup_callback: None,
        extra_liveness_predicate: None,
    }
}

fn addresses_in(node: &Node) -> Vec<(NodeId, String)> {
    node.peers.all().iter().map(|peer| (peer.node, peer.endpoint().addr.clone())).collect()
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    fn told(words: &[(&str, &str)]) -> GossipState {
        let mut state = NodeState::for_test();
        for (name, word) in words {
            state.set(name, word);
        }
        parse_reply(&state, NodeId::parse("n2").unwrap())
    }

    #[test]
    fn words_are_understood_and_nonsense_was_not_told() {
        let news = told(&[
            (LAYOUT, "3 00000000000000ff"),
            (BUCKETS, "10"),
            (READY, "true"),
            (WRITABLE, "false"),
            (RELEASE_KEY, "0.1.0"),
            (DOWN, "n1 n2"),
        ]);
        assert_eq!((news.layout, news.buckets_hash), (Some((3, 255)), Some(16)));
        assert_eq!((news.ready, news.writable), (Some(true), Some(false)));
        assert!(news.release.as_deref() == Some("0.1.0") && news.cannot_reach_me);
        let nonsense = told(&[
            (LAYOUT, "3"),
            (BUCKETS, "many"),
            (READY, "perhaps"),
            (DOWN, "n22 xn2"),
            (RELEASE_KEY, &"r".repeat(9999)),
        ]);
        let release = Some("r".repeat(RELEASE_CHARS_MAX));
        assert_eq!(nonsense, GossipState { release, ..GossipState::default() });
        assert_eq!(told(&[]), GossipState::default());
    }
}
