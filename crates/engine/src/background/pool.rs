//! Pool: background work on the store that may take a while, such as scanning rows for a peer that
//! fills, merging what it sent, listing keys that differ, scrubbing.
//!
//! It runs on a few low-priority threads of its own. On tokio's blocking pool a dozen such jobs at
//! once took every core, and requests that need a fraction of a millisecond queued behind them.

use quorate_storage::Error;
use tokio::runtime::{Builder, Runtime};
use tokio::task::JoinHandle;

/// How many jobs run at a time; the others wait. Few, so that requests keep most of the cores
/// (docs/decisions/0010).
const AT_ONCE: usize = 2;
/// The nice value of the threads: each step is worth about 1.25 times the processor time under
/// contention.
const NICE: i32 = 10;

/// The threads. They end when this is dropped, once their jobs are done.
pub struct Pool(Option<Runtime>);

impl Pool {
    /// Threads start on demand.
    ///
    /// # Errors
    /// The system's, if it gives no resources.
    pub fn new() -> std::io::Result<Self> {
        let pool = Builder::new_current_thread()
            .thread_name("quorate-chores")
            .max_blocking_threads(AT_ONCE)
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
        tracing::debug!(%error, "background work runs at normal priority");
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
