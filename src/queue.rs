//! The messages that wait for one peer: bounded, and taken in batches.
//!
//! The *first* lane takes whatever waits as soon as it is free: while its batch is under way the next one
//! grows, and the larger a batch the less each message costs. Further lanes help only when batches are
//! full anyway or the first lane is held up (a sync, a disk read, a lost packet): with all lanes equal,
//! a GET cost half as much processor time again (docs/performance.md).

use std::collections::VecDeque;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use bytes::Bytes;
use quorate_protocol::message::Message;
use tokio::sync::Notify;
use tokio::task::yield_now;
use tokio::time::timeout_at;

use crate::mailbox::ReplyTo;

/// A message on its way to a peer.
pub struct Outgoing {
    /// What is asked.
    pub message: Message,
    /// The bytes beside it.
    pub payload: Bytes,
    /// Who waits for the reply.
    pub reply_to: ReplyTo,
}

/// How much may wait, and how much goes out at once.
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
    /// Whose batch is under way for longer, in full milliseconds from the next on, has others take over what
    /// comes meanwhile.
    pub held_up_after: Duration,
}

/// The messages that wait for one peer.
pub struct Queue {
    bounds: Bounds,
    waiting: Mutex<Waiting>,
    /// Wakes the first lane.
    not_empty: Notify,
    /// Wakes one of the others.
    help_wanted: Notify,
    held_up: AtomicBool,
}

#[derive(Default)]
struct Waiting {
    messages: VecDeque<Outgoing>,
    bytes: usize,
}

impl Queue {
    /// An empty queue.
    pub fn new(bounds: Bounds) -> Self {
        Self {
            bounds,
            waiting: Mutex::default(),
            not_empty: Notify::new(),
            help_wanted: Notify::new(),
            held_up: AtomicBool::new(false),
        }
    }

    /// Adds a message, or gives it back if the queue is full.
    pub fn push(&self, outgoing: Outgoing) -> Result<(), Box<Outgoing>> {
        let mut waiting = self.lock();
        let bytes = waiting.bytes + outgoing.payload.len();
        let full = waiting.messages.len() >= self.bounds.messages_max;
        if full || (bytes > self.bounds.bytes_max && !waiting.messages.is_empty()) {
            return Err(Box::new(outgoing));
        }
        waiting.bytes = bytes;
        waiting.messages.push_back(outgoing);
        let full_batch = waiting.messages.len() >= self.bounds.batch_messages_max
            || waiting.bytes >= self.bounds.batch_bytes_max;
        drop(waiting);
        self.not_empty.notify_one();
        if full_batch || self.held_up.load(Relaxed) {
            self.help_wanted.notify_one();
        }
        Ok(())
    }

    /// Waits until `lane` (from 0, the first) shall take messages, and takes what waits, up to a batch.
    pub async fn take(&self, lane: usize) -> Vec<Outgoing> {
        let wake = if lane == 0 { &self.not_empty } else { &self.help_wanted };
        loop {
            if lane > 0 {
                wake.notified().await;
            }
            let batch = self.try_take();
            if !batch.is_empty() {
                return batch;
            }
            if lane == 0 {
                wake.notified().await;
                // Whoever is woken runs next, and would find the one message that woke it: first let all that
                // is ready now add theirs.
                yield_now().await;
            }
        }
    }

    /// Waits for the answer to the first lane's batch, which was sent at `begun`. If that takes long and
    /// others wait behind it, the other lanes are called.
    pub async fn attend<T>(&self, begun: Instant, asking: impl Future<Output = T>) -> T {
        let mut asking = std::pin::pin!(asking);
        // As long as nobody waits there is nobody to help, and no timer to set: each that is due before all
        // others costs tokio a system call.
        tokio::select! {
            biased;
            answered = asking.as_mut() => return answered,
            () = self.not_empty() => {}
        }
        let held_up_at = begun + self.bounds.held_up_after;
        if let Ok(answered) = timeout_at(held_up_at.into(), asking.as_mut()).await {
            return answered;
        }
        self.set_held_up(true);
        let answered = asking.await;
        self.set_held_up(false);
        answered
    }

    /// Waits until a message waits, and leaves it there.
    async fn not_empty(&self) {
        while self.is_empty() {
            self.not_empty.notified().await;
        }
    }

    /// The first lane is held up: others take what waits, until it is not.
    fn set_held_up(&self, held_up: bool) {
        self.held_up.store(held_up, Relaxed);
        if held_up {
            self.help_wanted.notify_one();
        }
    }

    /// How many messages wait.
    pub fn len(&self) -> usize {
        self.lock().messages.len()
    }

    /// Whether no message waits.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    fn try_take(&self) -> Vec<Outgoing> {
        let mut waiting = self.lock();
        let mut batch = Vec::new();
        let mut bytes = 0;
        while batch.len() < self.bounds.batch_messages_max {
            let Some(next) = waiting.messages.front() else { break };
            let next_bytes = next.payload.len();
            if !batch.is_empty() && bytes + next_bytes > self.bounds.batch_bytes_max {
                break;
            }
            bytes += next_bytes;
            waiting.bytes -= next_bytes;
            batch.extend(waiting.messages.pop_front());
        }
        let full_batch = waiting.messages.len() >= self.bounds.batch_messages_max;
        drop(waiting);
        if full_batch {
            self.help_wanted.notify_one();
        }
        batch
    }

    fn lock(&self) -> MutexGuard<'_, Waiting> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use quorate_protocol::message::Formation;
    use tokio::sync::oneshot;
    use tokio::time::timeout;

    use super::*;
    use crate::mailbox::ReplyTo;

    fn message(bytes: usize) -> Outgoing {
        Outgoing {
            message: Message::Form { formation: Formation([0; 16]) },
            payload: Bytes::from(vec![0; bytes]),
            reply_to: ReplyTo::nobody(),
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
            let batch = queue.take(0).await;
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

    #[tokio::test]
    async fn one_message_larger_than_the_bound_still_goes() {
        let queue = queue(2, 50);
        assert!(queue.push(message(400)).is_ok());
        assert_eq!(queue.take(0).await.len(), 1);
    }

    #[tokio::test(flavor = "multi_thread", worker_threads = 1)]
    async fn what_is_ready_at_the_same_time_goes_together() {
        let queue = std::sync::Arc::new(queue(100, 10_000));
        let waiting = queue.clone();
        let lane = tokio::spawn(async move { waiting.take(0).await.len() });
        // On the thread of the lane, where whoever is woken runs next.
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
        let mut helper = std::pin::pin!(queue.take(1));
        assert!(futures_util::poll!(helper.as_mut()).is_pending(), "the first lane will come");
        queue.set_held_up(true);
        assert_eq!(helper.await.len(), 1);
        queue.set_held_up(false);
        for _ in 0..3 {
            assert!(queue.push(message(1)).is_ok());
        }
        assert_eq!(queue.take(2).await.len(), 3, "a full batch");
    }

    #[tokio::test]
    async fn who_waits_behind_a_slow_batch_is_helped_out() {
        let queue = queue(100, 10_000);
        let (answer, answered) = oneshot::channel();
        let mut held_up = std::pin::pin!(queue.attend(Instant::now(), answered));
        let mut helper = std::pin::pin!(queue.take(1));
        assert!(futures_util::poll!(held_up.as_mut()).is_pending());
        assert!(queue.push(message(1)).is_ok());
        assert!(futures_util::poll!(helper.as_mut()).is_pending(), "it may not take long");
        let helped = async {
            tokio::select! {
                _ = held_up.as_mut() => panic!("nobody answered"),
                batch = helper.as_mut() => batch.len(),
            }
        };
        assert_eq!(timeout(Duration::from_secs(10), helped).await, Ok(1));
        assert_eq!(answer.send(7), Ok(()));
        assert_eq!(held_up.await, Ok(7));
        assert!(queue.push(message(1)).is_ok());
        let alone = queue.take(2);
        assert!(futures_util::poll!(std::pin::pin!(alone)).is_pending(), "the first is free again");
        assert_eq!(queue.take(0).await.len(), 1);
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
        let taken = timeout(Duration::from_secs(10), queue.take(0)).await;
        assert_eq!(taken.map(|batch| batch.len()), Ok(1));
    }
}
