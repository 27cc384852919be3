//! The other nodes: a queue per peer and kind, drained in batches by a few lanes.
//!
//! **Smart batching**: whatever is waiting when a lane becomes free goes out as one batch. Under
//! load batches grow by themselves; when idle, a message leaves at once. Reads, writes and control
//! messages have queues and lanes of their own, so that a read never waits behind another
//! operation's sync and a forwarded write never waits behind a full data lane. No lane is held by
//! an operation that itself waits for a peer: a forward is accepted at once and its answer comes
//! back as a message.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::atomic::{AtomicU64, Ordering::SeqCst};
use std::sync::{Arc, PoisonError, RwLock};
use std::time::Duration;

use tokio::time::Instant;

use bytes::Bytes;
use futures_util::future::join_all;
use quorate_protocol::message::{Data, Message, Query, Reply};
use quorate_protocol::name::NodeId;
use quorate_protocol::placement::Epoch;
use quorate_protocol::proof::PeerKeys;
use quorate_protocol::trace_context::TraceContext;
use quorate_protocol::wire::Header;
use tokio_util::sync::CancellationToken;

use crate::config::{Config, Durability};
use crate::host::{Chance, Wire};
use crate::liveness::datagrams::Counts;
use crate::liveness::health::{Health, PROBES_PER_GREETING, Patience};
use crate::liveness::peer_time::PeerTime;
use crate::peer::connection::{self, Kind, LARGE_LANES, TransportContext};
use crate::peer::epochs::Epochs;
use crate::peer::fault_hook::Faults;
use crate::peer::framed;
use crate::peer::mailbox::{PeerEvent, ReplyTo};
use crate::peer::member::{Peer, PeerMember, PeerView, QueueBounds};
use crate::peer::peer_set::PeerSet;
use crate::peer::queue::{Bounds, Outgoing};
use crate::tasks::Tasks;

/// When the first lane's batch is in flight longer than this, other lanes start draining the queue.
const HELD_UP_AFTER: Duration = Duration::from_millis(2);
/// The same where a long wait is certain: until tokio's next tick, half a millisecond on average,
/// so that the other lanes find more than one message.
const NEXT_TICK: Duration = Duration::from_nanos(1);

/// All other nodes of the cluster, which may change while the node runs.
pub struct Peers {
    /// Replaced as a whole; the lock is never held for longer than a look.
    current: RwLock<PeerSet>,
    /// How often it, or where a peer is reached, was changed.
    changes: AtomicU64,
    line: TransportContext,
    starts: Starts,
    patience: Patience,
    gossip: Arc<Counts>,
}

/// What the lanes to a new peer are started with.
struct Starts {
    header: Header,
    /// In which new peers are talked to.
    epoch: RwLock<Epoch>,
    epochs: Arc<Epochs>,
    bounds: QueueBounds,
    heartbeat_ms: u64,
    tasks: Tasks,
    stop: CancellationToken,
}

/// How the peers have changed when they followed the members.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Followed {
    /// They are peers now.
    pub joined: Vec<NodeId>,
    /// They are none any more.
    pub left: Vec<NodeId>,
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
        (config, members): (&Config, &[PeerMember]),
        (wire, chance): (Arc<dyn Wire>, Arc<dyn Chance>),
        (header, keys, epochs): (&Header, Arc<PeerKeys>, Arc<Epochs>),
        faults: Arc<Faults>,
        tasks: &Tasks,
        stop: &CancellationToken,
    ) -> Self {
        let line = TransportContext {
            wire,
            chance,
            keys,
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
        let starts = Starts {
            header: header.clone(),
            epoch: RwLock::new(header.epoch),
            epochs,
            bounds: QueueBounds([bounds, for_writes, bounds]),
            heartbeat_ms: config.gossip.interval_ms,
            tasks: tasks.clone(),
            stop: stop.clone(),
        };
        let patience = Patience {
            // Half the time after which an operation tries another replica: suspicion is useful
            // only before that.
            answer_ms: config.timeouts.replica_ms / 2,
            // Three greetings.
            greeting_ms: 3 * PROBES_PER_GREETING * config.timeouts.probe_ms,
            phi: config.gossip.phi,
        };
        let (current, changes) = (RwLock::new(PeerSet::none()), AtomicU64::new(0));
        let peers = Self { current, changes, line, starts, patience, gossip: Arc::default() };
        peers.follow(members);
        peers
    }

    /// Makes the other members the peers: starts the lanes to those that are new, moves those that are
    /// reached elsewhere, and ends the lanes of those that are gone. Of two members with one name the last
    /// counts. The caller makes one call at a time: see [`crate::node::Node::follow_members`].
    pub(crate) fn follow(&self, members: &[PeerMember]) -> Followed {
        let others = members.iter().filter(|member| member.node != self.starts.header.from);
        let others: BTreeMap<NodeId, &PeerMember> =
            others.map(|member| (member.node, member)).collect();
        let before = self.all();
        let peer_of = |member: &&PeerMember| match before.get(member.node) {
            Some(peer) => peer.clone(),
            None => Arc::new(self.new_peer(member)),
        };
        let after = PeerSet::of(others.values().map(peer_of).collect());
        *self.current.write().unwrap_or_else(PoisonError::into_inner) = after.clone();
        let mut followed = Followed::default();
        let mut any_moved = false;
        for peer in after.iter() {
            let Some(member) = others.get(&peer.node) else { continue };
            if before.get(peer.node).is_none() {
                self.start_lanes(peer);
                followed.joined.push(peer.node);
            } else {
                any_moved |= peer.moves_to(member);
            }
            if peer.health.swear(member.is_sworn_dead) {
                self.line.outlook.refresh(peer);
            }
        }
        for peer in before.iter().filter(|peer| !others.contains_key(&peer.node)) {
            peer.leaves();
            self.line.outlook.forget(peer.node);
            followed.left.push(peer.node);
        }
        if any_moved || followed != Followed::default() {
            self.changes.fetch_add(1, SeqCst);
        }
        followed
    }

    /// Frames are sent in this epoch from now on.
    pub(crate) fn set_epoch(&self, epoch: Epoch) {
        *self.starts.epoch.write().unwrap_or_else(PoisonError::into_inner) = epoch;
        self.all().iter().for_each(|peer| peer.set_epoch(epoch));
    }

    fn new_peer(&self, member: &PeerMember) -> Peer {
        let Starts { header, bounds, heartbeat_ms, stop, epochs, .. } = &self.starts;
        let epoch = *self.starts.epoch.read().unwrap_or_else(PoisonError::into_inner);
        let header = Header { epoch, ..header.clone() };
        let lanes = self.line.lanes_in_all();
        Peer::new(
            member,
            (header, epochs.clone()),
            *bounds,
            lanes,
            *heartbeat_ms,
            stop.child_token(),
        )
    }

    fn start_lanes(&self, peer: &Arc<Peer>) {
        for kind in Kind::ALL {
            for lane in 0..self.line.lanes + LARGE_LANES {
                let (peer, line) = (peer.clone(), self.line.clone());
                let stop = self.starts.stop.clone();
                self.starts.tasks.spawn(async move {
                    tokio::select! {
                        biased;
                        () = connection::run(peer, line, kind, lane) => {}
                        () = stop.cancelled() => {}
                    }
                });
            }
        }
    }

    /// The peers as they are now.
    pub fn all(&self) -> PeerSet {
        self.current.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// How often the peers, or where one is reached, have changed.
    pub fn changes(&self) -> u64 {
        self.changes.load(SeqCst)
    }

    fn get(&self, node: NodeId) -> Option<Arc<Peer>> {
        self.current.read().unwrap_or_else(PoisonError::into_inner).get(node).cloned()
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
        let Some(peer) = self.get(to) else {
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
        for peer in self.all().iter() {
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
        self.all().iter().for_each(|peer| peer.health.forgive(now));
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
        let least = self.all().iter().map(max).min().unwrap_or(usize::MAX);
        least.saturating_sub(framed::AROUND_BYTES)
    }

    /// All peers' names.
    pub fn nodes(&self) -> impl Iterator<Item = NodeId> + use<> {
        self.all().into_nodes()
    }

    /// Whether a node is a peer.
    pub fn contains(&self, node: NodeId) -> bool {
        self.get(node).is_some()
    }

    /// What is known of a peer.
    pub fn health(&self, node: NodeId) -> Option<Arc<Health>> {
        self.get(node).map(|peer| peer.health.clone())
    }

    /// Cancelled when a node is no peer any more, or this node stops; `None` if it is none now.
    pub fn gone(&self, node: NodeId) -> Option<CancellationToken> {
        self.get(node).map(|peer| peer.gone().clone())
    }

    /// All peers, as shown to operators.
    pub fn view(&self) -> Vec<PeerView> {
        let now = self.now();
        self.all().iter().map(|peer| peer.view(now)).collect()
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

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests;
