//! The tasks of a node.

use std::fmt;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use tokio::task::AbortHandle;
use tokio_util::task::TaskTracker;

/// Decides when the tasks of a node run: a simulator ends a node by aborting its tasks wherever they
/// are, as `kill -9` does, and holds one up by not polling them, as SIGSTOP does.
pub trait Gate: Send + Sync {
    /// A task was started.
    fn started(&self, task: AbortHandle);

    /// Whether a task may run now. If not, the context is woken once it may.
    fn may_run(&self, context: &mut Context<'_>) -> bool;
}

/// Spawns tasks, and waits for their end.
#[derive(Clone)]
pub struct Tasks {
    tracker: TaskTracker,
    gate: Option<Arc<dyn Gate>>,
}

impl Tasks {
    /// None yet.
    pub fn new(gate: Option<Arc<dyn Gate>>) -> Self {
        Self { tracker: TaskTracker::new(), gate }
    }

    /// Starts a task.
    pub fn spawn(&self, work: impl Future<Output = ()> + Send + 'static) {
        match &self.gate {
            None => drop(self.tracker.spawn(work)),
            Some(gate) => {
                let work = Gated { work: Box::pin(work), gate: gate.clone() };
                gate.started(self.tracker.spawn(work).abort_handle());
            }
        }
    }

    /// From now on [`Tasks::wait`] can return.
    pub fn close(&self) {
        self.tracker.close();
    }

    /// Waits until it is closed and all tasks have ended.
    pub async fn wait(&self) {
        self.tracker.wait().await;
    }
}

impl fmt::Debug for Tasks {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Tasks").field("count", &self.tracker.len()).finish()
    }
}

/// A task behind a gate.
struct Gated {
    work: Pin<Box<dyn Future<Output = ()> + Send>>,
    gate: Arc<dyn Gate>,
}

impl Future for Gated {
    type Output = ();

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<()> {
        if self.gate.may_run(context) { self.work.as_mut().poll(context) } else { Poll::Pending }
    }
}
