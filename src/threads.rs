//! The threads on which work may block.
//!
//! What a request waits for runs on tokio's blocking pool. Reading and storing large rows, and
//! background work, run on a few threads of their own: on tokio's, a dozen such jobs at once took
//! every core, and requests that need a fraction of a millisecond queued behind them.

use std::io;
use std::time::Duration;

use quorate_engine::host::{Threads, Urgency, Work};
use quorate_engine::limits::bounds::large_turns;
use rustix::time::{ClockId, clock_gettime};
use tokio::runtime::{Builder, Handle, Runtime};

/// How many jobs run at a time; the others wait. Few, so that requests keep most of the cores
/// (docs/decisions/0010).
const AT_ONCE: usize = 2;
/// The nice value of the threads for background work: each step is worth about 1.25 times the
/// processor time under contention. Large rows have none: a thread that gives way to this node's
/// event loop gives way to every other program too, and beside a few busy ones no large write was
/// acknowledged in time.
const NICE: i32 = 10;

/// Threads of this machine. Those of the two pools end when this is dropped, once their jobs are done.
pub(crate) struct MachineThreads {
    requests: Handle,
    large_rows: Option<Runtime>,
    background: Option<Runtime>,
}

impl MachineThreads {
    /// Threads start on demand. Needs a tokio runtime.
    ///
    /// # Errors
    /// The system's, if it gives no resources.
    pub(crate) fn new() -> io::Result<Self> {
        Ok(Self {
            requests: Handle::current(),
            large_rows: Some(pool("quorate-large", large_turns(cores()), || {})?),
            background: Some(pool("quorate-chores", AT_ONCE, give_way)?),
        })
    }
}

fn cores() -> usize {
    std::thread::available_parallelism().map_or(1, usize::from)
}

/// A few threads.
fn pool(
    name: &str,
    at_once: usize,
    start: impl Fn() + Send + Sync + 'static,
) -> io::Result<Runtime> {
    Builder::new_current_thread()
        .thread_name(name)
        .max_blocking_threads(at_once)
        .on_thread_start(start)
        .build()
}

impl Threads for MachineThreads {
    fn run(&self, urgency: Urgency, work: Work) {
        let pool = match urgency {
            Urgency::Request => return drop(self.requests.spawn_blocking(work)),
            Urgency::LargeRow => &self.large_rows,
            Urgency::Background => &self.background,
        };
        if let Some(pool) = pool {
            drop(pool.spawn_blocking(work));
        }
    }

    fn cores(&self) -> usize {
        cores()
    }

    fn processor_time(&self) -> Duration {
        let time = clock_gettime(ClockId::ThreadCPUTime);
        Duration::new(time.tv_sec as u64, time.tv_nsec as u32)
    }
}

/// Lowers the priority of the calling thread: on Linux this system call affects only the thread,
/// despite its name (setpriority(2)).
fn give_way() {
    if let Err(error) = rustix::process::setpriority_process(None, NICE) {
        tracing::debug!(%error, "background work runs at the normal priority");
    }
}

impl Drop for MachineThreads {
    fn drop(&mut self) {
        // An async context must not wait for threads; the store keeps unfinished jobs consistent.
        for pool in [self.large_rows.take(), self.background.take()].into_iter().flatten() {
            pool.shutdown_background();
        }
    }
}
