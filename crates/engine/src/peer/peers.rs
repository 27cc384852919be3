//! The other nodes: a queue per peer and kind, drained in batches by a few lanes.
//!
//! **Smart batching**: whatever is waiting when a lane becomes free goes out as one batch. Under
//! load batches grow by themselves; when idle, a message leaves at once. Reads, writes and control
//! messages have queues and lanes of their own, so that a read never waits behind another
//! operation's sync and a forwarded write never waits behind a full data lane. No lane is held by
//! an operation that itself waits for a peer: a forward is accepted at once and its answer comes
//! back as a message.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::sync::atomic::AtomicU64;
use std::time::Duration;

use tokio::time::Instant;

use bytes::Bytes;
use futures_util::future::join_all;
use quorate_protocol::message::{Data, Message, Query, Reply};
use quorate_protocol::name::NodeId;
use quorate_protocol::trace_context::TraceContext;
use quorate_protocol::wire::Header;
use tokio_util::sync::CancellationToken;

use crate::config::{Config, Durability};
use crate::host::Wire;
use crate::liveness::advertised::AdvertisedState;
use crate::liveness::datagrams::Counts;
use crate::liveness::health::{Health, PROBES_PER_GREETING, Patience, State};
use crate::liveness::peer_time::PeerTime;
use crate::peer::connection::{self, Kind, LARGE_LANES, Peer, TransportContext};
use crate::peer::fault_hook::Faults;
use crate::peer::framed;
use crate::peer::mailbox::{PeerEvent, ReplyTo};
use crate::peer::queue::{Bounds, Outgoing, Queue};
use crate::peer::traffic::Traffic;
use crate::seldom::Seldom;
use crate::tasks::Tasks;

/// When the first lane's batch is in flight longer than this, other lanes start draining the queue.
const HELD_UP_AFTER: Duration = Duration::from_millis(2);
/// The same where a long wait is certain: until tokio's next tick, half a millisecond on average,
/// so that the other lanes find more than one message.
const NEXT_TICK: Duration = Duration::from_nanos(1);

/// All other nodes of the layout.
pub struct Peers {
    peers: BTreeMap<NodeId, Arc<Peer>>,
    line: TransportContext,
    patience: Patience,
    gossip: Arc<Counts>,
}

/// One peer, as shown to operators.
#[derive(Clone, Debug)]
pub struct PeerView {
    /// Its name.
    pub node: NodeId,
    /// Its peer address.
    pub peer_addr: String,
    /// Its zone.
    pub zone: String,
    /// `up`, `suspected` (contacted last), `down`, `incompatible` (no common protocol version) or
    /// `unknown`.
    pub state: &'static str,
    /// For how long, in milliseconds.
    pub since_ms: u64,
    /// Its suspicion level by gossip; `None` if gossip has not reported it.
    pub phi: Option<f64>,
    /// Median round trip of reads and greetings, in microseconds; 0 if none was measured.
    pub round_trip_p50_us: u64,
    /// 99th percentile of round trips of reads and greetings, in microseconds.
    pub round_trip_p99_us: u64,
    /// Messages queued for it.
    pub queue_depth: usize,
    /// Bytes of their payloads.
    pub queue_bytes: usize,
    /// Whether it can reach this node, as far as is known.
    pub reaches_us: bool,
    /// The state it advertised last.
    pub said: AdvertisedState,
}

/// With `fsync` every batch of stores waits for a sync and so holds up its lane; messages queued
/// behind it would wait for two syncs in a row.
fn stores_are_held_up_after(config: &Config) -> Duration {
    match config.durability {
        Durability::Fsync => NEXT_TICK,
        Durability::Buffered => HELD_UP_AFTER,
    }
}

impl Peers {
    /// Starts the lanes to every other node of the layout; they stop when `stop` is cancelled.
    pub fn start(
        config: &Config,
        wire: Arc<dyn Wire>,
        header: &Header,
        faults: Arc<Faults>,
        tasks: &Tasks,
        stop: &CancellationToken,
    ) -> Self {
        let line = TransportContext {
            wire,
            faults,
            timeout: Duration::from_millis(config.timeouts.replica_ms.saturating_mul(2)),
            outlook: Arc::default(),
            started: Instant::now(),
            lanes: config.peers.lanes,
            frame_bytes_max: framed::frame_bytes_max(config),
            versions: config.versions(),
        };
        let bounds = Bounds {
            messages_max: config.peers.queue_messages_max,
            bytes_max: config.peers.queue_bytes_max,
            batch_messages_max: config.peers.batch_messages_max,
            batch_bytes_max: config.peers.batch_bytes_max,
            held_up_after: HELD_UP_AFTER,
        };
        let for_writes = Bounds { held_up_after: stores_are_held_up_after(config), ..bounds };
        let mut peers = BTreeMap::new();
        for other in config.layout.nodes.iter().filter(|other| other.name != config.node) {
            let peer = Arc::new(Peer {
                node: other.name,
                addr: other.peer_addr.clone(),
                zone: other.zone.clone(),
                header: Header { to: other.name, ..header.clone() },
                queues: [Queue::new(bounds), Queue::new(for_writes), Queue::new(bounds)],
                in_flight: (0..line.lanes_in_all()).map(|_| AtomicU64::new(0)).collect(),
                health: Health::new(config.gossip.interval_ms),
                traffic: Traffic::default(),
                refusals: Seldom::new(),
            });
            peers.insert(other.name, peer.clone());
            for kind in Kind::ALL {
                for lane in 0..line.lanes + LARGE_LANES {
                    let (peer, line, stop) = (peer.clone(), line.clone(), stop.clone());
                    tasks.spawn(async move {
                        tokio::select! {
                            biased;
                            () = connection::run(peer, line, kind, lane) => {}
                            () = stop.cancelled() => {}
                        }
                    });
                }
            }
        }
        let patience = Patience {
            // Half the time after which an operation tries another replica: suspicion is useful
            // only before that.
            answer_ms: config.timeouts.replica_ms / 2,
            // Three greetings.
            greeting_ms: 3 * PROBES_PER_GREETING * config.timeouts.probe_ms,
            phi: config.gossip.phi,
        };
        Self { peers, line, patience, gossip: Arc::default() }
    }

    /// Queues a message. If the queue is full or the node is no peer, the mailbox is told at once.
    pub fn send(&self, to: NodeId, message: Message, payload: Bytes, reply_to: ReplyTo) {
        self.send_traced(to, None, message, payload, reply_to);
    }

    /// As [`Peers::send`], for an operation that `by` asks for, if that is sampled.
    pub fn send_traced(
        &self,
        to: NodeId,
        by: Option<TraceContext>,
        message: Message,
        payload: Bytes,
        reply_to: ReplyTo,
    ) {
        let kind = kind_of(&message);
        self.queue(to, kind, Outgoing { message, payload, reply_to, by });
    }

    /// As [`Peers::send`], for background work, in the lanes of control messages: a batch is
    /// answered as a whole, and client reads and writes must not wait for repair.
    pub fn send_aside(&self, to: NodeId, message: Message, payload: Bytes, reply_to: ReplyTo) {
        self.queue(to, Kind::Control, Outgoing { message, payload, reply_to, by: None });
    }

    fn queue(&self, to: NodeId, kind: Kind, outgoing: Outgoing) {
        let Some(peer) = self.peers.get(&to) else {
            return outgoing.reply_to.tell(to, PeerEvent::NotSent);
        };
        if let Err(outgoing) = peer.queues[kind as usize].push(outgoing) {
            peer.traffic.refuses();
            outgoing.reply_to.tell(to, PeerEvent::NotSent);
        }
    }

    /// Sends a message and waits for the reply, at most `timeout`.
    pub async fn ask(&self, to: NodeId, message: Message, timeout: Duration) -> PeerEvent {
        let send = |reply_to| self.send(to, message, Bytes::new(), reply_to);
        answer_within(timeout, false, send).await
    }

    /// Asks every peer the same, each for at most `timeout`: what each replied, `None` without a reply.
    pub async fn ask_each(
        &self,
        message: &Message,
        timeout: Duration,
    ) -> Vec<(NodeId, Option<Reply>)> {
        let asked = self.nodes().map(|peer| async move {
            let event = self.ask(peer, message.clone(), timeout).await;
            (peer, event.into_reply().map(|reply| reply.head))
        });
        join_all(asked).await
    }

    /// As [`Peers::ask`], with a payload and for no client (see [`Peers::send_aside`]): the peer may take
    /// longer than `timeout` as long as its answer moves.
    pub async fn ask_aside(
        &self,
        to: NodeId,
        message: Message,
        payload: Bytes,
        timeout: Duration,
    ) -> PeerEvent {
        let send = |reply_to| self.send_aside(to, message, payload, reply_to);
        answer_within(timeout, true, send).await
    }

    /// The peers that are down: operations do not wait for them.
    pub fn down(&self) -> Arc<BTreeSet<NodeId>> {
        self.line.outlook.down()
    }

    /// The peers that are down or suspected: contacted only after all others.
    pub fn avoided(&self) -> Arc<BTreeSet<NodeId>> {
        self.line.outlook.avoided()
    }

    /// Re-evaluates which peers are suspected. Called several times a second.
    pub fn review(&self, now: PeerTime) {
        for peer in self.peers.values() {
            let waiting_since = peer.waiting_since();
            if peer.health.review(waiting_since, &self.patience, now) {
                self.line.outlook.refresh(peer);
                let suspected = peer.health.is_suspected();
                tracing::debug!(peer = %peer.node, suspected, "suspicion");
            }
        }
    }

    /// This process was held up until now: its peers' silence does not count against them.
    pub fn forgive(&self, now: PeerTime) {
        self.peers.values().for_each(|peer| peer.health.forgive(now));
    }

    /// The clock of all peer state.
    pub fn now(&self) -> PeerTime {
        self.line.now()
    }

    /// Datagram counters of gossip.
    pub fn gossip_counts(&self) -> Arc<Counts> {
        self.gossip.clone()
    }

    /// The longest object that every peer can receive, as far as is known, in bytes.
    pub fn object_bytes_max(&self) -> usize {
        let max = |peer: &Arc<Peer>| self.line.frame_bytes_max_of(peer);
        let least = self.peers.values().map(max).min().unwrap_or(usize::MAX);
        least.saturating_sub(framed::AROUND_BYTES)
    }

    /// All peers' names.
    pub fn nodes(&self) -> impl Iterator<Item = NodeId> {
        self.peers.keys().copied()
    }

    /// What is known of a peer.
    pub fn health(&self, node: NodeId) -> Option<&Health> {
        self.peers.get(&node).map(|peer| &peer.health)
    }

    /// What was sent to each peer, and what came back.
    pub fn traffic(&self) -> impl Iterator<Item = (NodeId, &Traffic)> {
        self.peers.iter().map(|(node, peer)| (*node, &peer.traffic))
    }

    /// All peers, as shown to operators.
    pub fn view(&self) -> Vec<PeerView> {
        let now = self.now();
        self.peers.values().map(|peer| peer.view(now)).collect()
    }
}

impl Peer {
    fn view(&self, now: PeerTime) -> PeerView {
        let health = &self.health;
        PeerView {
            node: self.node,
            peer_addr: self.addr.clone(),
            zone: self.zone.clone(),
            state: match health.state() {
                State::Down if health.word().is_incompatible() => "incompatible",
                State::Down => "down",
                State::Up | State::Unknown if health.is_suspected() => "suspected",
                State::Up => "up",
                State::Unknown => "unknown",
            },
            since_ms: now.since(health.since()),
            phi: health.phi(now),
            round_trip_p50_us: health.round_trips().p50_us(),
            round_trip_p99_us: health.round_trips().p99_us(),
            queue_depth: self.queues.iter().map(Queue::waiting).sum(),
            queue_bytes: self.queues.iter().map(Queue::bytes).sum(),
            reaches_us: !health.is_one_way(),
            said: health.word().last(),
        }
    }
}

/// The reply to `send`, within `timeout`; with `if_slow`, every sign of progress restarts the
/// timeout.
async fn answer_within(timeout: Duration, if_slow: bool, send: impl FnOnce(ReplyTo)) -> PeerEvent {
    let (reply_to, mut mailbox) = ReplyTo::new();
    send(reply_to);
    let mut deadline = tokio::time::Instant::now() + timeout;
    loop {
        match tokio::time::timeout_at(deadline, mailbox.recv()).await {
            Ok(Some((_, PeerEvent::Progress))) if if_slow => {
                deadline = tokio::time::Instant::now() + timeout;
            }
            Ok(Some((_, PeerEvent::Progress))) => {}
            Ok(Some((_, heard))) => return heard,
            Ok(None) | Err(_) => return PeerEvent::Silent,
        }
    }
}

fn kind_of(message: &Message) -> Kind {
    if matches!(message, Message::Data(Data::Read { .. }) | Message::Query(Query::Inspect { .. })) {
        return Kind::Read;
    }
    match message {
        Message::Data(Data::Store { .. }) => Kind::Write,
        Message::Data(_)
        | Message::Repair(_)
        | Message::Cluster(_)
        | Message::Query(_)
        | Message::Unknown(_) => Kind::Control,
    }
}
