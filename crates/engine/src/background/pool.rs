//! Pools of a few low-priority threads, for work on the store that takes long.
//!
//! One is for background work, such as scanning rows for a peer that fills, merging what it sent,
//! listing keys that differ, scrubbing; one for reading and storing large rows. On tokio's blocking
//! pool such jobs took every core, and requests that need a fraction of a millisecond queued behind
//! them.

use quorate_storage::Error;
use tokio::runtime::{Builder, Runtime};
use tokio::task::JoinHandle;

use crate::limits::bounds::large_turns;

/// How many background jobs run at a time; the others wait. Few, so that requests keep most of the
/// cores (docs/decisions/0010).
const CHORES_AT_ONCE: usize = 2;
/// The nice value of the threads: each step is worth about 1.25 times the processor time under
/// contention.
const NICE: i32 = 10;

/// The threads. They end when this is dropped, once their jobs are done.
pub struct Pool(Option<Runtime>);

impl Pool {
    /// Threads for background work. They start on demand.
    ///
    /// # Errors
    /// The system's, if it gives no resources.
    pub(crate) fn for_chores() -> std::io::Result<Self> {
        Self::start("quorate-chores", CHORES_AT_ONCE)
    }

    /// Threads for reading and storing the large rows of requests, one for each turn of
    /// [`crate::limits::bounds::Bounds::turn_if`]. Small requests come first where both want the
    /// cores.
    ///
    /// # Errors
    /// The system's, if it gives no resources.
    pub(crate) fn for_large_rows() -> std::io::Result<Self> {
        Self::start("quorate-large", large_turns())
    }

    fn start(name: &str, at_once: usize) -> std::io::Result<Self> {
        let pool = Builder::new_current_thread()
            .thread_name(name)
            .max_blocking_threads(at_once)
            .on_thread_start(give_way)
            .build()?;
        Ok(Self(Some(pool)))
    }

    /// Runs work on one of the threads.
    ///
    /// # Errors
    /// What `work` returns, or [`Error::Closed`] if the node is stopping.
    pub async fn run<T: Send + 'static>(
        &self,
        work: impl FnOnce() -> Result<T, Error> + Send + 'static,
    ) -> Result<T, Error> {
        let Some(pool) = &self.0 else { return Err(Error::Closed) };
        result_of(pool.spawn_blocking(work)).await
    }
}

/// Lowers the priority of the calling thread: on Linux this system call affects only the thread,
/// despite its name (setpriority(2)).
fn give_way() {
    if let Err(error) = rustix::process::setpriority_process(None, NICE) {
        tracing::debug!(%error, "a thread of low priority runs at the normal one");
    }
}

impl Drop for Pool {
    fn drop(&mut self) {
        // An async context must not wait for threads; the store keeps unfinished jobs consistent.
        if let Some(pool) = self.0.take() {
            pool.shutdown_background();
        }
    }
}

/// The result of work on a thread that may block.
///
/// # Errors
/// Those of the work, or [`Error::Closed`] if its pool is shutting down.
pub async fn result_of<T>(working: JoinHandle<Result<T, Error>>) -> Result<T, Error> {
    working.await.unwrap_or(Err(Error::Closed))
}
