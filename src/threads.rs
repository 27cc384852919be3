//! The threads on which work may block.
//!
//! What a request waits for runs on tokio's blocking pool. Background work runs on a few threads of
//! its own, at low priority: on tokio's, a dozen such jobs at once took every core, and requests that
//! need a fraction of a millisecond queued behind them.

use std::io;
use std::time::Duration;

use quorate_engine::host::{Threads, Urgency, Work};
use rustix::time::{ClockId, clock_gettime};
use tokio::runtime::{Builder, Handle, Runtime};

/// How many jobs run at a time; the others wait. Few, so that requests keep most of the cores
/// (docs/decisions/0010).
const AT_ONCE: usize = 2;
/// The nice value of the threads: each step is worth about 1.25 times the processor time under
/// contention.
const NICE: i32 = 10;

/// Threads of this machine. Those for background work end when this is dropped, once their jobs are
/// done.
pub(crate) struct MachineThreads {
    requests: Handle,
    background: Option<Runtime>,
}

impl MachineThreads {
    /// Threads start on demand. Needs a tokio runtime.
    ///
    /// # Errors
    /// The system's, if it gives no resources.
    pub(crate) fn new() -> io::Result<Self> {
        let background = Builder::new_current_thread()
            .thread_name("quorate-chores")
            .max_blocking_threads(AT_ONCE)
            .on_thread_start(give_way)
            .build()?;
        Ok(Self { requests: Handle::current(), background: Some(background) })
    }
}

fn cores() -> usize {
    std::thread::available_parallelism().map_or(1, usize::from)
}

impl Threads for MachineThreads {
    fn run(&self, urgency: Urgency, work: Work) {
        match (urgency, &self.background) {
            (Urgency::Request, _) => drop(self.requests.spawn_blocking(work)),
            (Urgency::Background, Some(background)) => drop(background.spawn_blocking(work)),
            (Urgency::Background, None) => {}
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
        if let Some(background) = self.background.take() {
            background.shutdown_background();
        }
    }
}
