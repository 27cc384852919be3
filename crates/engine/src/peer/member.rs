//! One other node: where it is reached, what waits to be sent to it, and what is known of it.

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, PoisonError, RwLock};

use quorate_protocol::name::NodeId;
use quorate_protocol::placement::Epoch;
use quorate_protocol::wire::Header;
use tokio_util::sync::CancellationToken;

use crate::liveness::advertised::AdvertisedState;
use crate::liveness::health::{Health, State};
use crate::liveness::peer_time::PeerTime;
use crate::peer::epochs::Epochs;
use crate::peer::mailbox::PeerEvent;
use crate::peer::queue::{Bounds, Queue};
use crate::peer::traffic::Traffic;
use crate::seldom::Seldom;

/// A member of the cluster, as far as others need it to talk to it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PeerMember {
    /// Its name.
    pub node: NodeId,
    /// Its peer address, host and port.
    pub addr: String,
    /// Its failure domain.
    pub zone: String,
    /// Whether an operator has sworn that its disk is dead: nobody waits for it.
    pub is_sworn_dead: bool,
}

/// Where a peer is reached. Replaced as a whole when that changes.
pub struct Endpoint {
    /// Its peer address.
    pub addr: String,
    /// Its failure domain.
    pub zone: String,
    /// Cancelled when the peer has another address or is gone: streams to this one are closed.
    pub replaced: CancellationToken,
}

/// The limits of a peer's queues, in the order of [`crate::peer::connection::Kind`].
#[derive(Clone, Copy)]
pub struct QueueBounds(pub [Bounds; 3]);

/// One other node.
pub struct Peer {
    /// Its name.
    pub node: NodeId,
    endpoint: RwLock<Arc<Endpoint>>,
    /// The header of frames to it. Replaced as a whole when another cluster record is in force.
    header: RwLock<Arc<Header>>,
    /// What waits to be sent, by [`crate::peer::connection::Kind`].
    pub queues: [Queue; 3],
    /// When the batch in flight on each lane was sent, 0 if there is none.
    pub in_flight: Vec<AtomicU64>,
    /// What is known of it.
    pub health: Arc<Health>,
    /// What was sent and received.
    pub traffic: Traffic,
    /// Limits how many of its refusals are logged.
    pub refusals: Seldom,
    /// Told which epochs it shows.
    pub epochs: Arc<Epochs>,
    /// Cancelled when it is no peer any more, or this node stops.
    gone: CancellationToken,
}

impl Peer {
    /// A peer not heard from yet, to which `lanes` lanes are about to be started. `gone` is cancelled when
    /// it leaves.
    pub fn new(
        member: &PeerMember,
        (header, epochs): (Header, Arc<Epochs>),
        bounds: QueueBounds,
        lanes: usize,
        heartbeat_ms: u64,
        gone: CancellationToken,
    ) -> Self {
        let PeerMember { node, addr, zone, is_sworn_dead: _ } = member.clone();
        Self {
            node,
            endpoint: RwLock::new(Arc::new(Endpoint { addr, zone, replaced: gone.child_token() })),
            header: RwLock::new(Arc::new(Header { to: node, ..header })),
            queues: bounds.0.map(Queue::new),
            in_flight: (0..lanes).map(|_| AtomicU64::new(0)).collect(),
            health: Arc::new(Health::new(heartbeat_ms)),
            traffic: Traffic::default(),
            refusals: Seldom::new(),
            epochs,
            gone,
        }
    }

    /// Where it is reached now.
    pub fn endpoint(&self) -> Arc<Endpoint> {
        self.endpoint.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// The header of the next frame to it.
    pub fn header(&self) -> Arc<Header> {
        self.header.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Frames to it are sent in this epoch from now on.
    pub(super) fn set_epoch(&self, epoch: Epoch) {
        let header = Arc::new(Header { epoch, ..(*self.header()).clone() });
        *self.header.write().unwrap_or_else(PoisonError::into_inner) = header;
    }

    /// Cancelled when it is no peer any more, or this node stops.
    pub fn gone(&self) -> &CancellationToken {
        &self.gone
    }

    /// Whether it is no peer any more, or this node stops.
    pub fn is_gone(&self) -> bool {
        self.gone.is_cancelled()
    }

    /// It is reached where `member` says. If that is another address, its streams are closed once the
    /// batches on them are answered, and it is greeted at the new one. Returns whether anything changed.
    pub(super) fn moves_to(&self, member: &PeerMember) -> bool {
        let before = self.endpoint();
        let is_moved = before.addr != member.addr;
        if !is_moved && before.zone == member.zone {
            return false;
        }
        let replaced = if is_moved { self.gone.child_token() } else { before.replaced.clone() };
        let (addr, zone) = (member.addr.clone(), member.zone.clone());
        let endpoint = Arc::new(Endpoint { addr, zone, replaced });
        *self.endpoint.write().unwrap_or_else(PoisonError::into_inner) = endpoint;
        if is_moved {
            before.replaced.cancel();
            self.health.greet_now();
        }
        true
    }

    /// It is no peer any more: its lanes end, and who has a message in its queues is told that it was not
    /// sent. What is in flight is still answered.
    pub(super) fn leaves(&self) {
        self.gone.cancel();
        for queue in &self.queues {
            for outgoing in queue.close() {
                outgoing.reply_to.tell(self.node, PeerEvent::NotSent);
            }
        }
    }

    /// When the oldest batch still in flight was sent.
    pub fn waiting_since(&self) -> Option<PeerTime> {
        self.in_flight
            .iter()
            .map(|sent| sent.load(Relaxed))
            .filter(|sent| *sent > 0)
            .min()
            .map(PeerTime)
    }

    pub(super) fn view(&self, now: PeerTime) -> PeerView {
        let (health, endpoint) = (&self.health, self.endpoint());
        PeerView {
            node: self.node,
            peer_addr: endpoint.addr.clone(),
            zone: endpoint.zone.clone(),
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
