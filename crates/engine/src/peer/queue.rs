//! The messages waiting for one peer: bounded, and drained in batches.
//!
//! The *first* lane takes whatever is waiting as soon as it is free: while its batch is in flight
//! the next one grows ("smart batching"), and the larger a batch, the less each message costs.
//! Further lanes help only when batches are full anyway or the first lane is held up (a sync, a
//! disk read, a lost packet): with all lanes equal, a GET cost 50 % more processor time
//! (docs/performance/experiments.md).
//!
//! *Large* messages, and requests with large answers, wait separately and have lanes of their own,
//! so that small messages are never stuck behind megabytes.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use quorate_protocol::get::ReadKind;
use quorate_protocol::message::{Data, Message, Query, Repair};
use quorate_protocol::name::NodeId;
use quorate_protocol::trace_context::TraceContext;
use tokio::sync::Notify;
use tokio::task::yield_now;
use tokio::time::Instant;
use tokio::time::timeout_at;

use crate::limits::sizes::LARGE_BYTES;
use crate::peer::mailbox::{PeerEvent, ReplyTo};

/// A message queued for a peer.
pub struct Outgoing {
    /// The request.
    pub message: Message,
    /// Its payload.
    pub payload: Bytes,
    /// Where the reply goes.
    pub reply_to: ReplyTo,
    /// What asks, if that is sampled.
    pub by: Option<TraceContext>,
}

impl Outgoing {
    /// The estimated size of the message or of its answer, and whether it goes on the lanes for
    /// large ones.
    fn weight(&self) -> (usize, bool) {
        let sent = self.payload.len();
        if let Message::Data(Data::Read { what: ReadKind::Object, bytes_max, .. }) = &self.message {
            let asked = *bytes_max as usize;
            return if asked > LARGE_BYTES { (asked, true) } else { (sent, false) };
        }
        // The size of these answers is unknown: everything a key has, or a page of rows.
        if matches!(self.message, Message::Query(Query::Inspect { .. })) {
            return (sent + INSPECTED_BYTES, true);
        }
        if matches!(self.message, Message::Repair(Repair::Fetch { .. })) {
            return (sent + FETCHED_BYTES, true);
        }
        (sent, sent > LARGE_BYTES)
    }
}

/// Estimated size of an inspection's answer, in bytes.
const INSPECTED_BYTES: usize = 4 << 10;
/// Estimated size of a page of rows, in bytes.
const FETCHED_BYTES: usize = 32 << 10;

/// Limits on what may wait and on what goes out at once.
#[derive(Clone, Copy, Debug)]
pub struct Bounds {
    /// Messages that may wait.
    pub messages_max: usize,
    /// Bytes that may wait.
    pub bytes_max: usize,
    /// Messages in one batch.
    pub batch_messages_max: usize,
    /// Bytes in one batch; a single larger message still goes.
    pub batch_bytes_max: usize,
    /// If the first lane's batch is in flight longer than this (rounded up to tokio's 1 ms timer),
    /// the other lanes start draining the queue.
    pub held_up_after: Duration,
}

/// The messages waiting for one peer.
pub struct Queue {
    bounds: Bounds,
    waiting: Mutex<Waiting>,
    /// Wakes the first lane.
    not_empty: Notify,
    /// Wakes one of the others.
    help_wanted: Notify,
    /// Wakes one of the lanes for large messages.
    large_wanted: Notify,
    held_up: AtomicBool,
}

#[derive(Default)]
struct Waiting {
    small: VecDeque<Outgoing>,
    large: VecDeque<Outgoing>,
    /// Total size of all queued payloads.
    bytes: usize,
    /// Nothing more is taken.
    is_closed: bool,
}

/// Which lanes take a message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Lane {
    /// Takes small messages; from 0, the first.
    Small(usize),
    /// Takes large messages.
    Large,
}

impl Queue {
    /// An empty queue.
    pub fn new(bounds: Bounds) -> Self {
        Self {
            bounds,
            waiting: Mutex::default(),
            not_empty: Notify::new(),
            help_wanted: Notify::new(),
            large_wanted: Notify::new(),
            held_up: AtomicBool::new(false),
        }
    }

    /// Adds a message, or gives it back if the queue is full or closed.
    pub fn push(&self, outgoing: Outgoing) -> Result<(), Box<Outgoing>> {
        let (_, is_large) = outgoing.weight();
        let mut waiting = self.lock();
        let bytes = waiting.bytes + outgoing.payload.len();
        let count = waiting.small.len() + waiting.large.len();
        let full = count >= self.bounds.messages_max || waiting.is_closed;
        if full || (bytes > self.bounds.bytes_max && count > 0) {
            return Err(Box::new(outgoing));
        }
        waiting.bytes = bytes;
        if is_large {
            waiting.large.push_back(outgoing);
            drop(waiting);
            self.large_wanted.notify_one();
            return Ok(());
        }
        waiting.small.push_back(outgoing);
        let full_batch = waiting.small.len() >= self.bounds.batch_messages_max
            || waiting.bytes >= self.bounds.batch_bytes_max;
        drop(waiting);
        self.not_empty.notify_one();
        if full_batch || self.held_up.load(Relaxed) {
            self.help_wanted.notify_one();
        }
        Ok(())
    }

    /// Takes no more messages from now on. Returns those that waited.
    pub fn close(&self) -> Vec<Outgoing> {
        let mut waiting = self.lock();
        let Waiting { small, large, .. } = std::mem::take(&mut *waiting);
        waiting.is_closed = true;
        drop(waiting);
        small.into_iter().chain(large).collect()
    }

    /// Waits until it is `lane`'s turn to take messages, and takes up to one batch. Cancel-safe.
    pub async fn take(&self, lane: Lane) -> Vec<Outgoing> {
        let (wake, is_first) = match lane {
            Lane::Small(0) => (&self.not_empty, true),
            Lane::Small(_) => (&self.help_wanted, false),
            Lane::Large => (&self.large_wanted, false),
        };
        loop {
            if !is_first {
                wake.notified().await;
            }
            let batch = if lane == Lane::Large { self.take_large() } else { self.try_take() };
            if !batch.is_empty() {
                return batch;
            }
            if is_first {
                wake.notified().await;
                // The woken task runs next and would find only the message that woke it: first let
                // all tasks that are ready add theirs.
                yield_now().await;
            }
        }
    }

    /// A large batch is making progress: tells those queued behind it that the peer is slow but not
    /// silent.
    pub fn tell_progress(&self, peer: NodeId) {
        for outgoing in &self.lock().large {
            outgoing.reply_to.tell(peer, PeerEvent::Progress);
        }
    }

    /// Waits for the answer to the first lane's batch, sent at `begun`. If that takes long and more
    /// messages are queued, the other lanes start draining.
    pub async fn attend<T>(&self, begun: Instant, asking: impl Future<Output = T>) -> T {
        let mut asking = std::pin::pin!(asking);
        // No timer unless messages are queued: arming one that is due before all others costs tokio
        // a system call.
        tokio::select! {
            biased;
            answered = asking.as_mut() => return answered,
            () = self.not_empty() => {}
        }
        let held_up_at = begun + self.bounds.held_up_after;
        if let Ok(answered) = timeout_at(held_up_at, asking.as_mut()).await {
            return answered;
        }
        self.set_held_up(true);
        let answered = asking.await;
        self.set_held_up(false);
        answered
    }

    /// Waits until a small message is queued, without taking it.
    async fn not_empty(&self) {
        while self.lock().small.is_empty() {
            self.not_empty.notified().await;
        }
    }

    /// Marks the first lane as held up: other lanes drain the queue until it is not.
    fn set_held_up(&self, held_up: bool) {
        self.held_up.store(held_up, Relaxed);
        if held_up {
            self.help_wanted.notify_one();
        }
    }

    /// How many messages wait.
    pub fn waiting(&self) -> usize {
        let waiting = self.lock();
        waiting.small.len() + waiting.large.len()
    }

    /// The total size of the payloads that wait.
    pub fn bytes(&self) -> usize {
        self.lock().bytes
    }

    /// Whether no message waits.
    #[cfg(test)]
    pub fn is_empty(&self) -> bool {
        self.waiting() == 0
    }

    fn try_take(&self) -> Vec<Outgoing> {
        let mut waiting = self.lock();
        let mut batch = Vec::new();
        let mut bytes = 0;
        while batch.len() < self.bounds.batch_messages_max {
            let Some(next) = waiting.small.front() else { break };
            let next_bytes = next.payload.len();
            if !batch.is_empty() && bytes + next_bytes > self.bounds.batch_bytes_max {
                break;
            }
            bytes += next_bytes;
            waiting.bytes -= next_bytes;
            batch.extend(waiting.small.pop_front());
        }
        let full_batch = waiting.small.len() >= self.bounds.batch_messages_max;
        drop(waiting);
        if full_batch {
            self.help_wanted.notify_one();
        }
        batch
    }

    fn take_large(&self) -> Vec<Outgoing> {
        let mut waiting = self.lock();
        let mut batch = Vec::new();
        let mut weight = 0;
        while batch.len() < self.bounds.batch_messages_max {
            let Some(next) = waiting.large.front() else { break };
            let (next_weight, _) = next.weight();
            if !batch.is_empty() && weight + next_weight > self.bounds.batch_bytes_max {
                break;
            }
            weight += next_weight;
            waiting.bytes -= next.payload.len();
            batch.extend(waiting.large.pop_front());
        }
        let are_left = !waiting.large.is_empty();
        drop(waiting);
        if are_left {
            self.large_wanted.notify_one();
        }
        batch
    }

    fn lock(&self) -> MutexGuard<'_, Waiting> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use quorate_protocol::message::{Cluster, Formation};
    use tokio::sync::oneshot;
    use tokio::time::timeout;

    use super::*;
    use crate::peer::mailbox::ReplyTo;

    fn message(bytes: usize) -> Outgoing {
        Outgoing {
            message: Message::Cluster(Cluster::Form { formation: Formation([0; 16]) }),
            payload: Bytes::from(vec![0; bytes]),
            reply_to: ReplyTo::nobody(),
            by: None,
        }
    }

    fn queue(messages_max: usize, bytes_max: usize) -> Queue {
        Queue::new(bounds(messages_max, bytes_max))
    }

    fn bounds(messages_max: usize, bytes_max: usize) -> Bounds {
        let (batch_messages_max, batch_bytes_max) = (3, 100);
        let held_up_after = Duration::from_millis(2);
        Bounds { messages_max, bytes_max, batch_messages_max, batch_bytes_max, held_up_after }
    }

    #[tokio::test]
    async fn a_batch_is_whatever_waits_up_to_its_bounds() {
        let queue = queue(100, 10_000);
        for bytes in [10, 20, 30, 40, 90, 90, 500] {
            assert!(queue.push(message(bytes)).is_ok());
        }
        let mut batches = Vec::new();
        while !queue.is_empty() {
            let batch = queue.take(Lane::Small(0)).await;
            batches.push(batch.iter().map(|m| m.payload.len()).collect::<Vec<_>>());
        }
        assert_eq!(batches, [vec![10, 20, 30], vec![40], vec![90], vec![90], vec![500]]);
    }

    #[test]
    fn a_full_queue_gives_the_message_back() {
        let queue = queue(2, 50);
        assert!(queue.push(message(40)).is_ok());
        assert!(queue.push(message(40)).is_err(), "too many bytes");
        assert!(queue.push(message(5)).is_ok());
        assert!(queue.push(message(1)).is_err(), "too many messages");
    }

    #[test]
    fn a_closed_queue_gives_back_what_waited_and_takes_no_more() {
        let queue = Queue::new(Bounds { batch_bytes_max: 3 * LARGE_BYTES, ..bounds(100, 1 << 30) });
        assert!(queue.push(message(7)).is_ok() && queue.push(message(LARGE_BYTES + 1)).is_ok());
        let left: Vec<usize> = queue.close().iter().map(|left| left.payload.len()).collect();
        assert_eq!(left, [7, LARGE_BYTES + 1]);
        assert!(queue.push(message(1)).is_err());
        assert!(queue.is_empty() && queue.bytes() == 0 && queue.close().is_empty());
    }

    #[tokio::test]
    async fn large_messages_and_questions_with_large_answers_wait_apart() {
        let queue = Queue::new(Bounds { batch_bytes_max: 3 * LARGE_BYTES, ..bounds(100, 1 << 30) });
        let read = |what, bytes_max| Outgoing {
            message: Message::Data(Data::Read {
                key: quorate_protocol::name::Key::new("b", b"k").unwrap_or_else(|_| panic!()),
                what,
                place: quorate_protocol::get::RowKind::Home,
                bytes_max,
            }),
            ..message(0)
        };
        let large = LARGE_BYTES as u32 + 1;
        for outgoing in [
            message(LARGE_BYTES + 1),
            message(LARGE_BYTES),
            read(ReadKind::Object, large),
            read(ReadKind::Digest, u32::MAX),
            read(ReadKind::Object, LARGE_BYTES as u32),
            read(ReadKind::Object, u32::MAX),
        ] {
            assert!(queue.push(outgoing).is_ok());
        }
        assert_eq!(queue.take(Lane::Large).await.len(), 2);
        assert_eq!(queue.take(Lane::Large).await.len(), 1, "alone");
        assert_eq!(queue.take(Lane::Small(0)).await.len(), 3);
        assert!(queue.is_empty());
        assert_eq!(queue.lock().bytes, 0);
    }

    #[tokio::test]
    async fn one_message_larger_than_the_bound_still_goes() {
        let queue = queue(2, 50);
        assert!(queue.push(message(400)).is_ok());
        assert_eq!(queue.take(Lane::Small(0)).await.len(), 1);
    }

    #[tokio::test(flavor = "multi_thread", worker_threads = 1)]
    async fn what_is_ready_at_the_same_time_goes_together() {
        let queue = std::sync::Arc::new(queue(100, 10_000));
        let waiting = queue.clone();
        let lane = tokio::spawn(async move { waiting.take(Lane::Small(0)).await.len() });
        // On the lane's own thread, where a woken task runs next.
        let pushing = tokio::spawn(async move {
            yield_now().await; // the lane waits now
            for _ in 0..3 {
                let queue = queue.clone();
                tokio::spawn(async move { assert!(queue.push(message(1)).is_ok()) });
            }
        });
        assert!(pushing.await.is_ok());
        assert_eq!(lane.await.ok(), Some(3));
    }

    #[tokio::test]
    async fn other_lanes_help_when_the_first_is_held_up_or_batches_are_full() {
        let queue = queue(100, 10_000);
        assert!(queue.push(message(1)).is_ok());
        let mut helper = std::pin::pin!(queue.take(Lane::Small(1)));
        assert!(futures_util::poll!(helper.as_mut()).is_pending(), "the first lane will come");
        queue.set_held_up(true);
        assert_eq!(helper.await.len(), 1);
        queue.set_held_up(false);
        for _ in 0..3 {
            assert!(queue.push(message(1)).is_ok());
        }
        assert_eq!(queue.take(Lane::Small(2)).await.len(), 3, "a full batch");
    }

    #[tokio::test]
    async fn who_waits_behind_a_slow_batch_is_helped_out() {
        let queue = queue(100, 10_000);
        let (answer, answered) = oneshot::channel();
        let mut held_up = std::pin::pin!(queue.attend(Instant::now(), answered));
        let mut helper = std::pin::pin!(queue.take(Lane::Small(1)));
        assert!(futures_util::poll!(held_up.as_mut()).is_pending());
        assert!(queue.push(message(1)).is_ok());
        assert!(futures_util::poll!(helper.as_mut()).is_pending(), "it may not take long");
        let helped = async {
            tokio::select! {
                _ = held_up.as_mut() => panic!("no answer"),
                batch = helper.as_mut() => batch.len(),
            }
        };
        assert_eq!(timeout(Duration::from_secs(10), helped).await, Ok(1));
        assert_eq!(answer.send(7), Ok(()));
        assert_eq!(held_up.await, Ok(7));
        assert!(queue.push(message(1)).is_ok());
        let alone = queue.take(Lane::Small(2));
        assert!(futures_util::poll!(std::pin::pin!(alone)).is_pending(), "the first is free again");
        assert_eq!(queue.take(Lane::Small(0)).await.len(), 1);
    }

    #[tokio::test]
    async fn a_quick_answer_leaves_what_came_meanwhile_to_the_first_lane() {
        let queue = queue(100, 10_000);
        let (answer, answered) = oneshot::channel();
        let mut asking = std::pin::pin!(queue.attend(Instant::now(), answered));
        assert!(futures_util::poll!(asking.as_mut()).is_pending());
        assert!(queue.push(message(1)).is_ok());
        assert!(futures_util::poll!(asking.as_mut()).is_pending());
        assert_eq!(answer.send(7), Ok(()));
        assert_eq!(asking.await, Ok(7));
        let taken = timeout(Duration::from_secs(10), queue.take(Lane::Small(0))).await;
        assert_eq!(taken.map(|batch| batch.len()), Ok(1));
    }
}
