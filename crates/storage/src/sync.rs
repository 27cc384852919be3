//! Group commit: many writers wait, and one sync of the log answers them all.
//!
//! One thread takes all waiters, syncs once, and answers them. A writer that arrives during a sync
//! waits for the next one, so under load a group grows to the arrivals of one sync. On a fast disk
//! those are few, and each sync costs CPU time: after a group of several, the next one gathers for
//! a while. A lone writer is never delayed. (Compare PostgreSQL's commit_delay and
//! commit_siblings.)
//!
//! In a simulation there is no thread: the first waiter of a group asks the simulation for a turn,
//! and that turn syncs for all who wait by then. How long a sync takes is when the turn comes.

use std::io;
use std::mem;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use tokio::sync::oneshot;

use crate::error::Error;
use crate::host::{Host, Later, Simulation};

type Answer = Result<(), Error>;
type Waiters = Vec<oneshot::Sender<Answer>>;

/// A group of this size or more counts as load.
const GROUP_MIN: usize = 3;
/// The least time between the starts of two syncs under load.
const SYNC_INTERVAL: Duration = Duration::from_millis(2);

/// What syncs, and who waits for it.
pub(crate) struct GroupSync {
    shared: Arc<Shared>,
    turns: Turns,
}

/// Who takes the waiters and syncs.
enum Turns {
    Thread(Mutex<Option<JoinHandle<()>>>),
    /// A simulation that is asked to once there is a waiter.
    Simulated(Arc<dyn Simulation>),
}

struct Shared {
    queue: Mutex<Queue>,
    wake: Condvar,
    sync: Box<dyn Fn() -> Answer + Send + Sync>,
}

#[derive(Default)]
struct Queue {
    /// Bounded by the operations in flight, each of which waits at most once.
    waiters: Waiters,
    /// Whether the thread is parked and must be woken, or the simulation asked: skips a system call
    /// if not.
    is_parked: bool,
    stopped: bool,
}

impl GroupSync {
    /// Starts the thread, if there is to be one. `sync` makes durable what was written before it was
    /// called.
    pub(crate) fn start(
        host: &Host,
        sync: impl Fn() -> Answer + Send + Sync + 'static,
    ) -> io::Result<Self> {
        let queue = Mutex::default();
        let shared = Arc::new(Shared { queue, wake: Condvar::new(), sync: Box::new(sync) });
        if let Host::Simulated(simulation) = host {
            shared.lock().is_parked = true; // as a thread that waits
            return Ok(Self { shared, turns: Turns::Simulated(Arc::clone(simulation)) });
        }
        let theirs = Arc::clone(&shared);
        let thread = thread::Builder::new().name("quorate-sync".to_owned()).spawn(move || {
            let mut earliest = None;
            while let Some(waiters) = theirs.next_group(earliest) {
                earliest = not_before(waiters.len(), Instant::now());
                theirs.serve(waiters);
            }
        })?;
        Ok(Self { shared, turns: Turns::Thread(Mutex::new(Some(thread))) })
    }

    /// Joins the next group. The receiver gets the answer of a sync that begins after this call; it
    /// is closed if the thread has stopped.
    pub(crate) fn join(&self) -> oneshot::Receiver<Answer> {
        let (answer, receiver) = oneshot::channel();
        let mut queue = self.shared.lock();
        if !queue.stopped {
            queue.waiters.push(answer);
            let is_parked = mem::take(&mut queue.is_parked);
            drop(queue);
            if is_parked {
                self.call();
            }
        }
        receiver
    }

    /// Calls for a sync: there is a waiter.
    fn call(&self) {
        match &self.turns {
            Turns::Thread(_) => self.shared.wake.notify_one(),
            Turns::Simulated(simulation) => {
                let theirs = Arc::downgrade(&self.shared);
                let turn = move || {
                    if let Some(shared) = theirs.upgrade() {
                        shared.take_turn();
                    }
                };
                simulation.later(Later::Sync, Box::new(turn));
            }
        }
    }

    /// Serves the remaining waiters with a last sync and ends the thread.
    pub(crate) fn stop(&self) {
        self.shared.lock().stopped = true;
        match &self.turns {
            Turns::Thread(thread) => {
                self.shared.wake.notify_one();
                let thread = thread.lock().unwrap_or_else(PoisonError::into_inner).take();
                if let Some(Err(_)) = thread.map(JoinHandle::join) {
                    tracing::error!("the sync thread panicked");
                }
            }
            Turns::Simulated(_) => self.shared.take_turn(),
        }
    }
}

impl Drop for GroupSync {
    /// In a simulation, a store that is dropped is a killed process: nothing is synced any more.
    fn drop(&mut self) {
        if let Turns::Thread(_) = self.turns {
            self.stop();
        }
    }
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, Queue> {
        self.queue.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Syncs for those who wait now, as one turn of a simulation.
    fn take_turn(&self) {
        let mut queue = self.lock();
        queue.is_parked = true;
        let waiters = mem::take(&mut queue.waiters);
        drop(queue);
        if !waiters.is_empty() {
            self.serve(waiters);
        }
    }

    /// Syncs, and answers all of a group.
    fn serve(&self, waiters: Waiters) {
        let answer = (self.sync)();
        for waiter in waiters {
            // The waiter may be gone, which does no harm: its write is as durable as the others'.
            let _ = waiter.send(answer.clone());
        }
    }

    /// Waits for the next group, which may grow until `not_before`; `None` once stopped and no
    /// waiter is left.
    fn next_group(&self, not_before: Option<Instant>) -> Option<Waiters> {
        let mut queue = self.lock();
        while queue.waiters.is_empty() {
            if queue.stopped {
                return None;
            }
            queue.is_parked = true;
            queue = self.wake.wait(queue).unwrap_or_else(PoisonError::into_inner);
        }
        let gathering = not_before.map(|at| at.saturating_duration_since(Instant::now()));
        if let Some(gathering) =
            gathering.filter(|gathering| !gathering.is_zero() && !queue.stopped)
        {
            drop(queue);
            thread::sleep(gathering);
            queue = self.lock();
        }
        Some(mem::take(&mut queue.waiters))
    }
}

/// The time before which the next sync must not begin, given the last one's waiters and start.
fn not_before(waiters: usize, began: Instant) -> Option<Instant> {
    (waiters >= GROUP_MIN).then(|| began + SYNC_INTERVAL)
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};
    use std::sync::mpsc;

    use super::*;

    #[test]
    fn waiters_that_arrive_during_a_sync_share_the_next_one() {
        let syncs = Arc::new(AtomicUsize::new(0));
        let (counter, (begun_tx, begun), (go, go_rx)) =
            (Arc::clone(&syncs), mpsc::channel(), mpsc::channel::<()>());
        let go_rx = Mutex::new(go_rx);
        let group = GroupSync::start(&Host::machine(), move || {
            begun_tx.send(()).unwrap();
            go_rx.lock().unwrap().recv().unwrap();
            counter.fetch_add(1, Ordering::SeqCst);
            Ok(())
        })
        .unwrap();
        let first = group.join();
        begun.recv().unwrap();
        let others: Vec<_> = (0..100).map(|_| group.join()).collect();
        go.send(()).unwrap();
        assert_eq!(first.blocking_recv().unwrap(), Ok(()));
        go.send(()).unwrap();
        for other in others {
            assert_eq!(other.blocking_recv().unwrap(), Ok(()));
        }
        assert_eq!(syncs.load(Ordering::SeqCst), 2);
    }

    #[test]
    fn after_a_large_group_the_next_one_gathers() {
        let now = Instant::now();
        assert_eq!(not_before(1, now), None);
        assert_eq!(not_before(GROUP_MIN - 1, now), None);
        assert_eq!(not_before(GROUP_MIN, now), Some(now + SYNC_INTERVAL));

        let shared =
            Shared { queue: Mutex::default(), wake: Condvar::new(), sync: Box::new(|| Ok(())) };
        let join = || shared.lock().waiters.push(oneshot::channel().0);
        join();
        let ends = Instant::now() + Duration::from_millis(300);
        thread::scope(|scope| {
            let gathering = scope.spawn(|| shared.next_group(Some(ends)).unwrap().len());
            join();
            assert_eq!(gathering.join().unwrap(), 2);
            assert!(Instant::now() >= ends);
        });
        join();
        assert_eq!(shared.next_group(Some(ends)).map(|group| group.len()), Some(1));
    }

    #[test]
    fn a_waiter_that_left_does_no_harm() {
        let group = GroupSync::start(&Host::machine(), || Ok(())).unwrap();
        drop(group.join());
        assert_eq!(group.join().blocking_recv().unwrap(), Ok(()));
    }

    #[test]
    fn a_failed_sync_fails_every_waiter() {
        let group = GroupSync::start(&Host::machine(), || Err(Error::Failed("no disk".to_owned())))
            .unwrap();
        let waiters = [group.join(), group.join()];
        for waiter in waiters {
            assert_eq!(waiter.blocking_recv().unwrap(), Err(Error::Failed("no disk".to_owned())));
        }
    }

    #[test]
    fn stopping_serves_the_waiters_and_none_after() {
        let group = GroupSync::start(&Host::machine(), || Ok(())).unwrap();
        let waiter = group.join();
        group.stop();
        assert_eq!(waiter.blocking_recv().unwrap(), Ok(()));
        assert!(group.join().blocking_recv().is_err());
    }
}
