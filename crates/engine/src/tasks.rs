//! The tasks of a node.

use std::fmt;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use tokio_util::task::TaskTracker;

/// Decides when the tasks of a node run: a simulator ends a node by dropping its tasks wherever they
/// are, as `kill -9` does, and stops one by not polling them, as SIGSTOP does.
pub trait Gate: Send + Sync {
    /// Whether a task may run now. If it must wait, the context is woken once that changes.
    fn pass(&self, context: &mut Context<'_>) -> Pass;
}

/// What a task may do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Pass {
    /// Run.
    Run,
    /// Wait.
    Wait,
    /// End where it is.
    End,
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
                let work: Pin<Box<dyn Future<Output = ()> + Send>> = Box::pin(work);
                drop(self.tracker.spawn(Gated { work: Some(work), gate: gate.clone() }));
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
    work: Option<Pin<Box<dyn Future<Output = ()> + Send>>>,
    gate: Arc<dyn Gate>,
}

impl Future for Gated {
    type Output = ();

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<()> {
        match self.gate.pass(context) {
            Pass::Run => match self.work.as_mut() {
                Some(work) => work.as_mut().poll(context),
                None => Poll::Ready(()),
            },
            Pass::Wait => Poll::Pending,
            Pass::End => {
                self.work = None; // what it holds is released now, not when the task is collected
                Poll::Ready(())
            }
        }
    }
}
