//! The other nodes: a queue per peer and kind, emptied in batches by a few lanes.
//!
//! **Adaptive batching**: whatever waits when a lane is free goes out as one POST. Under load batches
//! grow by themselves, when idle a message leaves at once. Reads, writes and control messages have
//! queues and lanes of their own, so that a read never waits behind another operation's sync and a
//! forwarded write never behind a full data lane. No lane is held by an operation that itself waits for
//! a peer: a forward is accepted at once and its answer comes back as a message.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, PoisonError, RwLock};
use std::time::{Duration, Instant};

use bytes::Bytes;
use quorate_protocol::message::{Message, Reply, WithPayload};
use quorate_protocol::name::NodeId;
use quorate_protocol::stamp::Millis;
use quorate_protocol::wire::{self, FrameWriter, Header};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::config::Config;
use crate::faults::Faults;
use crate::health::{Health, State};
use crate::mailbox::{Heard, ReplyTo};
use crate::node::StartError;
use crate::queue::{Bounds, Outgoing, Queue};

/// The kinds of messages that must not wait for each other.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    Read = 0,
    Write = 1,
    Control = 2,
}

/// All other nodes of the layout.
pub struct Peers {
    peers: BTreeMap<NodeId, Arc<Peer>>,
    /// The peers that are down, as a snapshot that operations share.
    down: Arc<RwLock<Arc<BTreeSet<NodeId>>>>,
    started: Instant,
}

/// One other node.
pub struct Peer {
    node: NodeId,
    addr: String,
    url: reqwest::Url,
    zone: String,
    header: Header,
    queues: [Queue; 3],
    health: Health,
}

/// One peer as people see it.
#[derive(Clone, Debug)]
pub struct PeerView {
    /// Its name.
    pub node: NodeId,
    /// Where it is reached.
    pub peer_addr: String,
    /// Its zone.
    pub zone: String,
    /// `up`, `down` or `unknown`.
    pub state: &'static str,
    /// For how long, in milliseconds.
    pub since_ms: u64,
    /// Median round trip of reads, in microseconds; 0 if none was measured.
    pub round_trip_p50_us: u64,
    /// 99th percentile of round trips of reads, in microseconds.
    pub round_trip_p99_us: u64,
    /// Messages that wait for it.
    pub queue_depth: usize,
    /// Why it is down, or why it refused a frame.
    pub last_error: Option<String>,
    /// Its release.
    pub release: Option<String>,
    /// Whether it has recorded a formation.
    pub formed: Option<bool>,
}

/// What the lanes of all peers share.
#[derive(Clone)]
struct Line {
    client: reqwest::Client,
    faults: Arc<Faults>,
    timeout: Duration,
    down: Arc<RwLock<Arc<BTreeSet<NodeId>>>>,
    started: Instant,
}

impl Peers {
    /// Starts the lanes to every other node of the layout; they stop when `stop` is cancelled.
    ///
    /// # Errors
    /// [`StartError`] if a peer's address makes no URL or the HTTP client cannot be made.
    pub fn start(
        config: &Config,
        header: &Header,
        faults: Arc<Faults>,
        tasks: &TaskTracker,
        stop: &CancellationToken,
    ) -> Result<Self, StartError> {
        let line = Line {
            client: client(config)?,
            faults,
            timeout: Duration::from_millis(config.timeouts.replica_ms.saturating_mul(2)),
            down: Arc::default(),
            started: Instant::now(),
        };
        let bounds = Bounds {
            messages_max: config.peers.queue_messages_max,
            bytes_max: config.peers.queue_bytes_max,
            batch_messages_max: config.peers.batch_messages_max,
            batch_bytes_max: config.peers.batch_bytes_max,
        };
        let mut peers = BTreeMap::new();
        for other in config.layout.nodes.iter().filter(|other| other.name != config.node) {
            let peer = Arc::new(Peer {
                node: other.name,
                addr: other.peer_addr.clone(),
                url: peer_url(&other.peer_addr)?,
                zone: other.zone.clone(),
                header: Header { to: other.name, ..header.clone() },
                queues: [Queue::new(bounds), Queue::new(bounds), Queue::new(bounds)],
                health: Health::default(),
            });
            peers.insert(other.name, peer.clone());
            for kind in [Kind::Read, Kind::Write, Kind::Control] {
                for lane in 0..config.peers.lanes {
                    let (peer, line, stop) = (peer.clone(), line.clone(), stop.clone());
                    tasks.spawn(async move {
                        tokio::select! {
                            () = run_lane(peer, line, kind, lane) => {}
                            () = stop.cancelled() => {}
                        }
                    });
                }
            }
        }
        Ok(Self { peers, down: line.down, started: line.started })
    }

    /// Queues a message. If the queue is full or the node is no peer, the mailbox hears so at once.
    pub fn send(&self, to: NodeId, message: Message, payload: Bytes, reply_to: ReplyTo) {
        let Some(peer) = self.peers.get(&to) else {
            return reply_to.tell(to, Heard::NotSent("not in the layout".to_owned()));
        };
        let queue = &peer.queues[kind_of(&message) as usize];
        if let Err(outgoing) = queue.push(Outgoing { message, payload, reply_to }) {
            outgoing.reply_to.tell(to, Heard::NotSent("queue full".to_owned()));
        }
    }

    /// Sends a message and waits for the reply, at most `timeout`.
    pub async fn ask(&self, to: NodeId, message: Message, timeout: Duration) -> Heard {
        let (reply_to, mut mailbox) = ReplyTo::new();
        self.send(to, message, Bytes::new(), reply_to);
        match tokio::time::timeout(timeout, mailbox.recv()).await {
            Ok(Some((_, heard))) => heard,
            Ok(None) | Err(_) => Heard::Silent("no answer in time".to_owned()),
        }
    }

    /// The peers that are down, to be avoided.
    pub fn down(&self) -> Arc<BTreeSet<NodeId>> {
        self.down.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// All peers' names.
    pub fn nodes(&self) -> impl Iterator<Item = NodeId> {
        self.peers.keys().copied()
    }

    /// What is known of a peer.
    pub fn health(&self, node: NodeId) -> Option<&Health> {
        self.peers.get(&node).map(|peer| &peer.health)
    }

    /// All peers as people see them.
    pub fn view(&self) -> Vec<PeerView> {
        let now = elapsed(self.started);
        self.peers.values().map(|peer| peer.view(now)).collect()
    }
}

impl Peer {
    fn view(&self, now: Millis) -> PeerView {
        let said = self.health.said();
        PeerView {
            node: self.node,
            peer_addr: self.addr.clone(),
            zone: self.zone.clone(),
            state: match self.health.state() {
                State::Unknown => "unknown",
                State::Up => "up",
                State::Down => "down",
            },
            since_ms: now.since(self.health.since()),
            round_trip_p50_us: self.health.p50_us(),
            round_trip_p99_us: self.health.p99_us(),
            queue_depth: self.queues.iter().map(Queue::len).sum(),
            last_error: said.error,
            release: said.status.as_ref().map(|status| status.release.clone()),
            formed: said.status.map(|status| status.formation.is_some()),
        }
    }
}

/// Parsed once: it would cost as much as the rest of a small request.
fn peer_url(addr: &str) -> Result<reqwest::Url, StartError> {
    let url = format!("http://{addr}/peer");
    reqwest::Url::parse(&url).map_err(|_| StartError::PeerAddr(addr.to_owned()))
}

/// The HTTP client for peers: keep-alive, no proxies, no delayed packets.
fn client(config: &Config) -> Result<reqwest::Client, reqwest::Error> {
    reqwest::Client::builder()
        .no_proxy()
        .tcp_nodelay(true)
        .pool_max_idle_per_host(3 * config.peers.lanes)
        .pool_idle_timeout(Duration::from_secs(90))
        .connect_timeout(Duration::from_millis(config.timeouts.replica_ms))
        .build()
}

/// One lane: takes whatever waits, sends it as one POST, hands the replies out, and again.
async fn run_lane(peer: Arc<Peer>, line: Line, kind: Kind, lane: usize) {
    let queue = &peer.queues[kind as usize];
    loop {
        let batch = queue.take(lane).await;
        let mut frame = FrameWriter::new(&peer.header);
        for outgoing in &batch {
            frame.push(&outgoing.message, &outgoing.payload);
        }
        let sent_at = Instant::now();
        let posting = post(&peer, &line, frame.finish());
        let posted = if lane == 0 { call_for_help(queue, posting).await } else { posting.await };
        match posted {
            Ok(replies) if replies.len() == batch.len() => {
                if kind == Kind::Read {
                    peer.health.round_trip(sent_at.elapsed());
                }
                line.mark(&peer, State::Up, None);
                for (outgoing, reply) in batch.into_iter().zip(replies) {
                    outgoing.reply_to.tell(peer.node, Heard::Reply(reply));
                }
            }
            Ok(replies) => {
                let error = format!("{} replies to {} messages", replies.len(), batch.len());
                tell_all(&peer, batch, || Heard::Silent(error.clone()));
            }
            Err(Failure::Refused(error)) => {
                // It answers, so it is up; but it wants none of this node's frames.
                tracing::warn!(peer = %peer.node, %error, "the peer refused a frame");
                line.mark(&peer, State::Down, Some(error.clone()));
                tell_all(&peer, batch, || Heard::NotSent(error.clone()));
            }
            Err(Failure::NotSent(error)) => {
                line.mark(&peer, State::Down, Some(error.clone()));
                tell_all(&peer, batch, || Heard::NotSent(error.clone()));
            }
            Err(Failure::Silent(error)) => {
                line.mark(&peer, State::Down, Some(error.clone()));
                tell_all(&peer, batch, || Heard::Silent(error.clone()));
            }
        }
    }
}

/// A first lane that waits longer than this has others take over what comes meanwhile.
const HELD_UP_AFTER: Duration = Duration::from_millis(2);

/// Waits for the first lane's batch; if it takes long, the other lanes are called.
async fn call_for_help<T>(queue: &Queue, posting: impl Future<Output = T>) -> T {
    let mut posting = std::pin::pin!(posting);
    if let Ok(posted) = tokio::time::timeout(HELD_UP_AFTER, posting.as_mut()).await {
        return posted;
    }
    queue.set_held_up(true);
    let posted = posting.await;
    queue.set_held_up(false);
    posted
}

fn tell_all(peer: &Peer, batch: Vec<Outgoing>, heard: impl Fn() -> Heard) {
    for outgoing in batch {
        outgoing.reply_to.tell(peer.node, heard());
    }
}

/// Why a POST brought no replies.
enum Failure {
    /// The peer refused the frame as a whole and carried nothing out.
    Refused(String),
    /// No connection: nothing was carried out.
    NotSent(String),
    /// Sent, perhaps carried out, not answered.
    Silent(String),
}

async fn post(peer: &Peer, line: &Line, frame: Bytes) -> Result<Vec<WithPayload<Reply>>, Failure> {
    if line.faults.cuts_out(peer.node) {
        tokio::time::sleep(line.timeout).await;
        return Err(Failure::Silent("cut off by the fault hook".to_owned()));
    }
    // Large frames get longer: ten bytes a microsecond is slow for any network worth the name.
    let timeout = line.timeout + Duration::from_micros(frame.len() as u64 / 10);
    let request = line.client.post(peer.url.clone()).timeout(timeout).body(frame);
    let response = request.send().await.map_err(|error| classify(&error))?;
    let status = response.status();
    let body = response.bytes().await.map_err(|error| Failure::Silent(error.to_string()))?;
    if !status.is_success() {
        let text = String::from_utf8_lossy(&body[..body.len().min(500)]);
        return Err(Failure::Refused(format!("{status}: {text}")));
    }
    let (header, replies) =
        wire::decode::<Reply>(body).map_err(|error| Failure::Silent(error.to_string()))?;
    if header.from != peer.node {
        let error = format!("{} answers where {} should be", header.from, peer.node);
        return Err(Failure::Silent(error));
    }
    Ok(replies)
}

fn classify(error: &reqwest::Error) -> Failure {
    let mut text = error.to_string();
    let mut source = std::error::Error::source(error);
    while let Some(cause) = source {
        text = cause.to_string(); // the innermost cause says most
        source = cause.source();
    }
    if error.is_connect() { Failure::NotSent(text) } else { Failure::Silent(text) }
}

impl Line {
    fn mark(&self, peer: &Peer, state: State, error: Option<String>) {
        if !peer.health.set(state, elapsed(self.started), error.clone()) {
            return;
        }
        let mut down = self.down.write().unwrap_or_else(PoisonError::into_inner);
        let mut nodes = BTreeSet::clone(&down);
        if state == State::Down {
            nodes.insert(peer.node);
            tracing::warn!(peer = %peer.node, error = error.as_deref(), "peer is down");
        } else {
            nodes.remove(&peer.node);
            tracing::info!(peer = %peer.node, "peer is up");
        }
        *down = Arc::new(nodes);
    }
}

fn elapsed(started: Instant) -> Millis {
    Millis(started.elapsed().as_millis() as u64)
}

fn kind_of(message: &Message) -> Kind {
    match message {
        Message::Read { .. } | Message::Inspect { .. } => Kind::Read,
        Message::Store { .. } => Kind::Write,
        Message::Forward { .. }
        | Message::Written { .. }
        | Message::Conflicts { .. }
        | Message::Hello { .. }
        | Message::Buckets { .. }
        | Message::Form { .. }
        | Message::Fetch { .. }
        | Message::Roots { .. }
        | Message::Leaves { .. }
        | Message::List { .. }
        | Message::Versions { .. }
        | Message::Confirm { .. }
        | Message::Reap { .. }
        | Message::Room
        | Message::SyncPoint
        | Message::Undelivered { .. }
        | Message::Keys { .. } => Kind::Control,
    }
}
