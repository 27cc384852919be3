//! Chores: background work on the store that may take a while, such as scanning rows for a peer that
//! fills, merging what it sent, listing keys that differ, scrubbing.
//!
//! They run on a few threads of their own and of low priority. On tokio's blocking pool a dozen of them
//! at once took every core, and a request whose own work is a fraction of a millisecond stood in line
//! behind them.

use std::sync::Arc;
use std::time::{Duration, Instant};

use quorate_storage::Error;
use rustix::time::{ClockId, clock_gettime};
use tokio::runtime::{Builder, Runtime};
use tokio::task::JoinHandle;

use crate::background::throttle::Throttle;
use crate::node::Node;

/// How many chores are done at a time; the others wait.
const AT_ONCE: usize = 2;
/// How much the threads give way to others: a nice value, of which each step is worth about 1.25 times the
/// processor time where it is contended.
const NICE: i32 = 10;

/// The threads. They end with this value, once their chores are done.
pub(crate) struct Chores(Option<Runtime>);

impl Chores {
    /// Threads start when there is something to do.
    ///
    /// # Errors
    /// The system's, if it gives no resources.
    pub(crate) fn new() -> std::io::Result<Self> {
        let pool = Builder::new_current_thread()
            .thread_name("quorate-chores")
            .max_blocking_threads(AT_ONCE)
            .on_thread_start(give_way)
            .build()?;
        Ok(Self(Some(pool)))
    }
}

/// Lowers the priority of the calling thread: on Linux that is what this system call does, whatever its name
/// says (setpriority(2)).
fn give_way() {
    if let Err(error) = rustix::process::setpriority_process(None, NICE) {
        tracing::debug!(%error, "chores are done at the priority of all else");
    }
}

impl Drop for Chores {
    fn drop(&mut self) {
        // An asynchronous context may not wait for threads; what a chore still does, the store keeps whole.
        if let Some(pool) = self.0.take() {
            pool.shutdown_background();
        }
    }
}

/// Does a chore when its turn comes, within the share of a core that `throttle` allows.
///
/// # Errors
/// As [`run`].
pub(crate) async fn run_throttled<T: Send + 'static>(
    node: &Arc<Node>,
    throttle: &Throttle,
    work: impl FnOnce(&Node) -> Result<T, Error> + Send + 'static,
) -> Result<T, Error> {
    let _turn = throttle.turn().await;
    let timed = move |node: &Node| {
        let (began, worked_before) = (Instant::now(), worked());
        let done = work(node)?;
        Ok((done, worked().saturating_sub(worked_before), began.elapsed()))
    };
    let (done, worked, took) = run(node, timed).await?;
    throttle.worked(worked, took);
    Ok(done)
}

/// The processor time of the calling thread.
fn worked() -> Duration {
    let time = clock_gettime(ClockId::ThreadCPUTime);
    Duration::new(time.tv_sec as u64, time.tv_nsec as u32)
}

/// Does a chore.
///
/// # Errors
/// What `work` returns, or [`Error::Closed`] if the node is stopping.
pub(crate) async fn run<T: Send + 'static>(
    node: &Arc<Node>,
    work: impl FnOnce(&Node) -> Result<T, Error> + Send + 'static,
) -> Result<T, Error> {
    let Some(pool) = &node.chores.0 else { return Err(Error::Closed) };
    let working = node.clone();
    result_of(pool.spawn_blocking(move || work(&working))).await
}

/// What work on a thread that may block comes to.
///
/// # Errors
/// Those of the work, or [`Error::Closed`] if its pool is shutting down.
pub(crate) async fn result_of<T>(working: JoinHandle<Result<T, Error>>) -> Result<T, Error> {
    working.await.unwrap_or(Err(Error::Closed))
}
