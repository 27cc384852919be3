//! The lanes to one peer: each takes whatever waits in its queue, sends it as one batch and hands the replies
//! out. What a batch reveals of the peer goes into its [`crate::health`].

use std::collections::BTreeSet;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, PoisonError, RwLock};
use std::time::{Duration, Instant};

use quorate_protocol::envelope;
use quorate_protocol::message::Message;
use quorate_protocol::name::NodeId;
use quorate_protocol::stamp::Millis;
use quorate_protocol::wire::{FrameWriter, Header};

use crate::faults::Faults;
use crate::health::{Health, State};
use crate::link::Link;
use crate::log::Seldom;
use crate::mailbox::Heard;
use crate::queue::{Outgoing, Queue};

/// The kinds of messages that must not wait for each other.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    /// Reads: quick, and somebody waits for them.
    Read = 0,
    /// Stores: they wait for a sync.
    Write = 1,
    /// All else.
    Control = 2,
}

impl Kind {
    /// All kinds.
    pub(crate) const ALL: [Self; 3] = [Self::Read, Self::Write, Self::Control];
}

/// One other node.
pub(crate) struct Peer {
    pub(crate) node: NodeId,
    pub(crate) addr: String,
    pub(crate) url: reqwest::Url,
    pub(crate) zone: String,
    pub(crate) header: Header,
    pub(crate) queues: [Queue; 3],
    /// When the batch in flight on each lane was sent, 0 if there is none.
    pub(crate) in_flight: Vec<AtomicU64>,
    pub(crate) health: Health,
    /// Of its refusals, few are logged.
    pub(crate) refusals: Seldom,
}

impl Peer {
    /// When the oldest batch was sent that waits for an answer.
    pub(crate) fn waiting_since(&self) -> Option<Millis> {
        self.in_flight
            .iter()
            .map(|sent| sent.load(Relaxed))
            .filter(|sent| *sent > 0)
            .min()
            .map(Millis)
    }
}

/// What the lanes of all peers share.
#[derive(Clone)]
pub(crate) struct Line {
    pub(crate) client: reqwest::Client,
    pub(crate) faults: Arc<Faults>,
    /// How long a batch may take.
    pub(crate) timeout: Duration,
    pub(crate) outlook: Arc<Outlook>,
    pub(crate) started: Instant,
    /// How many lanes of each kind a peer has.
    pub(crate) lanes: usize,
    /// The longest frame that is sent or taken as a reply, in bytes.
    pub(crate) frame_bytes_max: usize,
}

impl Line {
    /// The clock of all that is known of peers: milliseconds since the start, and never 0.
    pub(crate) fn now(&self) -> Millis {
        Millis(self.started.elapsed().as_millis() as u64 + 1)
    }
}

/// Which peers to avoid, as snapshots that operations share, replaced whole.
#[derive(Default)]
pub(crate) struct Outlook(RwLock<Avoided>);

#[derive(Default)]
struct Avoided {
    down: Arc<BTreeSet<NodeId>>,
    down_or_suspected: Arc<BTreeSet<NodeId>>,
}

impl Outlook {
    /// The peers that are down.
    pub(crate) fn down(&self) -> Arc<BTreeSet<NodeId>> {
        self.0.read().unwrap_or_else(PoisonError::into_inner).down.clone()
    }

    /// The peers that are down or suspected.
    pub(crate) fn avoided(&self) -> Arc<BTreeSet<NodeId>> {
        self.0.read().unwrap_or_else(PoisonError::into_inner).down_or_suspected.clone()
    }

    /// Takes over what is known of a peer *now*: whoever comes last has seen the latest.
    pub(crate) fn refresh(&self, peer: &Peer) {
        let mut avoided = self.0.write().unwrap_or_else(PoisonError::into_inner);
        let is_down = peer.health.state() == State::Down;
        put(&mut avoided.down, peer.node, is_down);
        let is_avoided = is_down || peer.health.is_suspected();
        put(&mut avoided.down_or_suspected, peer.node, is_avoided);
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

/// One lane: takes whatever waits, sends it as one batch, hands the replies out, and again.
pub(crate) async fn run(peer: Arc<Peer>, line: Line, kind: Kind, lane: usize) {
    let queue = &peer.queues[kind as usize];
    let in_flight = &peer.in_flight[kind as usize * line.lanes + lane];
    let mut link = Link::default();
    loop {
        let batch = queue.take(lane).await;
        let mut frame = FrameWriter::new(&peer.header);
        for outgoing in &batch {
            frame.push(&outgoing.message, &outgoing.payload);
        }
        let (begun, sent_at) = (Instant::now(), line.now());
        in_flight.store(sent_at.0, Relaxed);
        let frame = frame.finish_for_stream(envelope::Kind::Frame);
        let asking = link.ask(&peer, &line, frame, batch.len());
        let answered = if lane == 0 { queue.attend(begun, asking).await } else { asking.await };
        in_flight.store(0, Relaxed);
        match answered {
            Ok(replies) => {
                if is_measured(kind, &batch) {
                    peer.health.round_trip(begun.elapsed());
                }
                line.answered(&peer, kind, sent_at);
                for (outgoing, reply) in batch.into_iter().zip(replies) {
                    outgoing.reply_to.tell(peer.node, Heard::Reply(reply));
                }
            }
            Err(failure) => {
                let error = failure.error();
                if let Failure::Refused(error) = &failure {
                    // It answers, so it is up; but it wants none of this node's frames.
                    if let Some(held_back) = peer.refusals.now() {
                        tracing::warn!(peer = %peer.node, %error, held_back, "the peer refused a frame");
                    }
                }
                line.failed(&peer, kind, sent_at, error);
                tell_all(&peer, batch, || failure.heard());
            }
        }
    }
}

/// Round trips are those of reads, and of greetings: a peer that is slow is asked for no reads, and must
/// show all the same when it is fast again.
fn is_measured(kind: Kind, batch: &[Outgoing]) -> bool {
    let is_greeting = |outgoing: &Outgoing| matches!(outgoing.message, Message::Hello { .. });
    kind == Kind::Read || (kind == Kind::Control && batch.iter().all(is_greeting))
}

fn tell_all(peer: &Peer, batch: Vec<Outgoing>, heard: impl Fn() -> Heard) {
    for outgoing in batch {
        outgoing.reply_to.tell(peer.node, heard());
    }
}

/// Why a batch brought no replies.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Failure {
    /// The peer refused the batch as a whole and carried nothing out.
    Refused(String),
    /// No stream: nothing was carried out.
    NotSent(String),
    /// Sent, perhaps carried out, not answered.
    Silent(String),
}

impl Failure {
    pub(crate) fn error(&self) -> String {
        let (Self::Refused(error) | Self::NotSent(error) | Self::Silent(error)) = self;
        error.clone()
    }

    pub(crate) fn heard(&self) -> Heard {
        match self {
            Self::Refused(error) | Self::NotSent(error) => Heard::NotSent(error.clone()),
            Self::Silent(error) => Heard::Silent(error.clone()),
        }
    }
}

impl Line {
    fn answered(&self, peer: &Peer, kind: Kind, sent_at: Millis) {
        if peer.health.answered(kind as usize, sent_at, self.now()) {
            self.outlook.refresh(peer);
            tracing::info!(peer = %peer.node, "peer is up");
        }
    }

    fn failed(&self, peer: &Peer, kind: Kind, sent_at: Millis, error: String) {
        if peer.health.failed(kind as usize, sent_at, self.now(), error.clone()) {
            self.outlook.refresh(peer);
            tracing::warn!(peer = %peer.node, %error, "peer is down");
        }
    }
}
