//! The lanes to one peer: each takes what is waiting in its queue, sends it as one batch and
//! distributes the replies. What a batch reveals about the peer is recorded in its
//! [`crate::liveness::health`].

use std::collections::BTreeSet;
use std::sync::atomic::Ordering::Relaxed;
use std::sync::{Arc, PoisonError, RwLock};
use std::time::Duration;

use tokio::time::Instant;

use bytes::Bytes;
use quorate_protocol::envelope;
use quorate_protocol::handshake::{NoCommonVersion, Versions};
use quorate_protocol::message::{Cluster, Message, Refusal, Reply, WithPayload};
use quorate_protocol::name::NodeId;
use quorate_protocol::proof::PeerKeys;
use quorate_protocol::wire::{self, FrameWriter};

use crate::host::{Chance, Wire};
use crate::limits::sizes::LARGE_BYTES;
use crate::liveness::health::State;
use crate::liveness::peer_time::PeerTime;
use crate::peer::client_stream::{Link, Replies};
use crate::peer::fault_hook::Faults;
use crate::peer::mailbox::{PeerEvent, ReplyTo};
use crate::peer::member::{Endpoint, Peer};
use crate::peer::queue::{Lane, Outgoing};

/// The kinds of messages that must not wait for each other.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// Reads: quick, and a client is waiting.
    Read = 0,
    /// Stores: they wait for a sync.
    Write = 1,
    /// Everything else.
    Control = 2,
}

impl Kind {
    /// All kinds.
    pub const ALL: [Self; 3] = [Self::Read, Self::Write, Self::Control];
}

/// How many lanes of each kind carry only large messages. More would not be faster, only hold more
/// memory at both ends.
pub const LARGE_LANES: usize = 2;
/// The longest part of a refusal's text that is shown, in bytes.
const TEXT_BYTES_MAX: usize = 500;

/// State shared by the lanes of all peers.
#[derive(Clone)]
pub struct TransportContext {
    /// Opens connections.
    pub wire: Arc<dyn Wire>,
    /// Faults set through the fault hook.
    pub faults: Arc<Faults>,
    /// How long a batch may take.
    pub timeout: Duration,
    /// Which peers to avoid.
    pub outlook: Arc<LivenessView>,
    /// The origin of [`PeerTime`].
    pub started: Instant,
    /// How many lanes of each kind a peer has.
    pub lanes: usize,
    /// The longest frame that is sent or accepted as a reply, in bytes.
    pub frame_bytes_max: usize,
    /// The protocol versions that this node speaks.
    pub versions: Versions,
    /// What proves this node to its peers, and them to it.
    pub keys: Arc<PeerKeys>,
    /// Where nonces come from.
    pub chance: Arc<dyn Chance>,
}

impl TransportContext {
    /// How many lanes a peer has in total.
    pub fn lanes_in_all(&self) -> usize {
        Kind::ALL.len() * (self.lanes + LARGE_LANES)
    }

    /// The longest frame that a peer takes from this node, in bytes.
    pub fn frame_bytes_max_of(&self, peer: &Peer) -> usize {
        self.frame_bytes_max.min(peer.health.word().frame_bytes_max())
    }

    /// The clock of all peer state.
    pub fn now(&self) -> PeerTime {
        PeerTime::now(self.started)
    }
}

/// Which peers to avoid: snapshots shared by operations, replaced as a whole.
#[derive(Default)]
pub struct LivenessView(RwLock<Avoided>);

#[derive(Default)]
struct Avoided {
    down: Arc<BTreeSet<NodeId>>,
    down_or_suspected: Arc<BTreeSet<NodeId>>,
}

impl LivenessView {
    /// The peers that are down.
    pub fn down(&self) -> Arc<BTreeSet<NodeId>> {
        self.0.read().unwrap_or_else(PoisonError::into_inner).down.clone()
    }

    /// The peers that are down or suspected.
    pub fn avoided(&self) -> Arc<BTreeSet<NodeId>> {
        self.0.read().unwrap_or_else(PoisonError::into_inner).down_or_suspected.clone()
    }

    /// Updates the snapshots from a peer's *current* state, so that with concurrent updates the
    /// last one is right.
    pub fn refresh(&self, peer: &Peer) {
        let mut avoided = self.0.write().unwrap_or_else(PoisonError::into_inner);
        // Under the lock: what is left of a lane may report after the peer was forgotten.
        if peer.is_gone() {
            return;
        }
        let is_down = peer.health.state() == State::Down;
        put(&mut avoided.down, peer.node, is_down);
        let is_avoided = is_down || peer.health.is_suspected();
        put(&mut avoided.down_or_suspected, peer.node, is_avoided);
    }

    /// This node is no peer any more.
    pub(super) fn forget(&self, node: NodeId) {
        let mut avoided = self.0.write().unwrap_or_else(PoisonError::into_inner);
        put(&mut avoided.down, node, false);
        put(&mut avoided.down_or_suspected, node, false);
    }
}

fn put(set: &mut Arc<BTreeSet<NodeId>>, node: NodeId, shall_be_in: bool) {
    if set.contains(&node) != shall_be_in {
        let set = Arc::make_mut(set);
        if shall_be_in {
            set.insert(node)
        } else {
            set.remove(&node)
        };
    }
}

/// One lane, until its peer is gone. `number` counts the lanes of a kind, those for large messages last.
pub async fn run(peer: Arc<Peer>, line: TransportContext, kind: Kind, number: usize) {
    while !peer.is_gone() {
        run_to(&peer.endpoint(), &peer, &line, (kind, number)).await;
    }
}

/// Takes what is waiting for a lane, sends it as one batch, distributes the replies, repeats: until the
/// peer is not at this endpoint any more and the batch in flight is answered.
async fn run_to(
    endpoint: &Endpoint,
    peer: &Peer,
    line: &TransportContext,
    (kind, number): (Kind, usize),
) {
    let queue = &peer.queues[kind as usize];
    let in_flight = &peer.in_flight[kind as usize * (line.lanes + LARGE_LANES) + number];
    let lane = if number < line.lanes { Lane::Small(number) } else { Lane::Large };
    let mut link = Link::default();
    let mut replaced = std::pin::pin!(endpoint.replaced.cancelled());
    loop {
        let batch = tokio::select! {
            biased; // what waits goes to where the peer is now
            () = replaced.as_mut() => return,
            batch = queue.take(lane) => batch,
        };
        let mut batch = batch.into_iter();
        let (begun, sent_at) = (Instant::now(), line.now());
        in_flight.store(sent_at.0, Relaxed);
        let measured = is_measured(kind, lane, batch.as_slice());
        let asking_now = askers(lane, batch.as_slice());
        let tell = || {
            asking_now.iter().for_each(|asker| asker.tell(peer.node, PeerEvent::Progress));
            queue.tell_progress(peer.node);
        };
        let progress: Option<&(dyn Fn() + Sync)> = (lane == Lane::Large).then_some(&tell);
        let asking = ask(&mut link, peer, line, &mut batch, progress);
        let is_first = lane == Lane::Small(0);
        let answered = if is_first { queue.attend(begun, asking).await } else { asking.await };
        in_flight.store(0, Relaxed);
        match answered {
            Ok(()) => {
                if measured {
                    let took = begun.elapsed();
                    peer.health.round_trips().record(took);
                    peer.traffic.round_trips.record(took);
                }
                line.answered(peer, kind, sent_at);
            }
            Err(failure) => {
                // That it does not answer where it was says nothing of where it is.
                if !endpoint.replaced.is_cancelled() {
                    line.failed(peer, (kind, lane), sent_at, &failure);
                }
                tell_all(peer, batch, || failure.heard());
            }
        }
    }
}

/// Sends a batch on the lane's stream, in the protocol version of that stream, and hands each reply to its
/// asker. What is left of the batch was not answered.
async fn ask(
    link: &mut Link,
    peer: &Peer,
    line: &TransportContext,
    batch: &mut std::vec::IntoIter<Outgoing>,
    progress: Option<&(dyn Fn() + Sync)>,
) -> Result<(), Failure> {
    let protocol = link.connect(peer, line).await?;
    let missing = batch.len();
    let frame = frame_of(peer, protocol, batch.as_mut_slice());
    peer.traffic.sends(missing, frame[0].len() + frame[1].len());
    let mut take = |reply| {
        if let Some(outgoing) = batch.next() {
            outgoing.reply_to.tell(peer.node, heard(peer, reply));
        }
    };
    link.ask(peer, line, frame, &mut Replies { missing, take: &mut take }, progress).await
}

/// What a reply means to its asker. One that this release does not know is none; a peer that does not know
/// the message has done nothing.
fn heard(peer: &Peer, reply: WithPayload<Reply>) -> PeerEvent {
    if let Reply::Unknown(tag) = reply.head {
        if peer.traffic.knows_not() == 0 {
            tracing::warn!(peer = %peer.node, tag, "a reply of a later release is not understood");
        }
        return PeerEvent::Silent;
    }
    if reply.head == Reply::Refused(Refusal::Unsupported) && peer.traffic.is_not_known() == 0 {
        let release = peer.health.word().last().release;
        tracing::warn!(peer = %peer.node, release, "the peer's release does not know a message");
    }
    PeerEvent::Reply(reply)
}

/// The mailboxes to tell that a large batch is making progress.
fn askers(lane: Lane, batch: &[Outgoing]) -> Vec<ReplyTo> {
    let batch = if lane == Lane::Large { batch } else { &[] };
    batch.iter().map(|outgoing| outgoing.reply_to.clone()).collect()
}

/// Encodes a batch. Its payloads are then held by the frame alone; a single large one is not
/// copied.
fn frame_of(peer: &Peer, protocol: u16, batch: &mut [Outgoing]) -> [Bytes; 2] {
    if let [only] = batch
        && only.payload.len() > LARGE_BYTES
    {
        let payload = std::mem::take(&mut only.payload);
        return wire::large_frame(
            protocol,
            &peer.header(),
            only.by,
            &only.message,
            payload,
            envelope::Kind::Frame,
        );
    }
    let mut frame = FrameWriter::new(protocol, &peer.header());
    for outgoing in batch {
        let payload = std::mem::take(&mut outgoing.payload);
        frame.push_traced(outgoing.by, &outgoing.message, &payload);
    }
    [frame.finish_for_stream(envelope::Kind::Frame), Bytes::new()]
}

/// Round trips are measured on reads and greetings: a slow peer gets no reads, and a greeting must
/// still show when it is fast again.
fn is_measured(kind: Kind, lane: Lane, batch: &[Outgoing]) -> bool {
    let is_greeting =
        |outgoing: &Outgoing| matches!(outgoing.message, Message::Cluster(Cluster::Hello { .. }));
    let is_quick = kind == Kind::Read || (kind == Kind::Control && batch.iter().all(is_greeting));
    is_quick && lane != Lane::Large
}

fn tell_all(peer: &Peer, batch: impl Iterator<Item = Outgoing>, heard: impl Fn() -> PeerEvent) {
    for outgoing in batch {
        outgoing.reply_to.tell(peer.node, heard());
    }
}

/// Why a batch got no replies.
#[derive(Debug, PartialEq, Eq)]
pub enum Failure {
    /// The peer refused the whole batch and executed none of it.
    Refused(String),
    /// No stream: nothing was executed.
    NotSent(String),
    /// Sent, possibly executed, not answered.
    Silent(String),
    /// Not sent, because the peer accepts no frame that long.
    TooLarge(String),
    /// Not sent, because the peer speaks no protocol version that this node speaks.
    Incompatible {
        /// Which versions both speak.
        none: NoCommonVersion,
        /// Whether that was not known before.
        is_news: bool,
    },
}

impl Failure {
    /// What went wrong, in words.
    pub fn error(&self) -> String {
        match self {
            Self::Refused(error)
            | Self::NotSent(error)
            | Self::Silent(error)
            | Self::TooLarge(error) => error.clone(),
            Self::Incompatible { none, .. } => none.to_string(),
        }
    }

    /// What each asker of the batch is told.
    pub fn heard(&self) -> PeerEvent {
        match self {
            Self::Refused(_) | Self::NotSent(_) | Self::TooLarge(_) | Self::Incompatible { .. } => {
                PeerEvent::NotSent
            }
            Self::Silent(_) => PeerEvent::Silent,
        }
    }
}

impl TransportContext {
    fn answered(&self, peer: &Peer, kind: Kind, sent_at: PeerTime) {
        if peer.health.answered(kind as usize, sent_at, self.now()) {
            self.outlook.refresh(peer);
            tracing::info!(peer = %peer.node, "peer is up");
        }
    }

    fn failed(&self, peer: &Peer, on: (Kind, Lane), sent_at: PeerTime, failure: &Failure) {
        let (kind, lane) = on;
        let error = failure.error();
        match failure {
            // It answers, so it is up, but it rejects this node's frames.
            Failure::Refused(_) => {
                if let Some(held_back) = peer.refusals.now() {
                    tracing::warn!(peer = %peer.node, %error, held_back, "the peer refused a frame");
                }
            }
            // That is this node's own fault and says nothing about the peer.
            Failure::TooLarge(_) => {
                return tracing::error!(peer = %peer.node, %error, "not sent");
            }
            // A peer that answered other requests in the meantime is slow, not down.
            Failure::Silent(_)
                if lane == Lane::Large && peer.health.has_answered_since(sent_at) =>
            {
                return tracing::info!(peer = %peer.node, %error, "a large batch was abandoned");
            }
            Failure::Incompatible { is_news: true, .. } => {
                tracing::error!(peer = %peer.node, %error, "the peer cannot be talked to");
            }
            Failure::Incompatible { is_news: false, .. } => {}
            // Whether the versions still do not meet is not known any more.
            Failure::Silent(_) | Failure::NotSent(_) => peer.health.word().is_unreachable(),
        }
        if peer.health.failed(kind as usize, sent_at, self.now(), error.clone()) {
            self.outlook.refresh(peer);
            tracing::warn!(peer = %peer.node, %error, "peer is down");
        }
    }
}

/// The text of a refusal, as far as it is shown.
pub fn shown(text: &[u8]) -> String {
    String::from_utf8_lossy(&text[..text.len().min(TEXT_BYTES_MAX)]).into_owned()
}
