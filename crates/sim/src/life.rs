//! One process: its tasks can be ended wherever they are, or held up.

use std::sync::{Mutex, MutexGuard, PoisonError};
use std::task::{Context, Waker};

use quorate_engine::tasks::Gate;
use tokio::task::AbortHandle;

/// How many tasks are kept before those that have ended are forgotten.
const TASKS_KEPT: usize = 256;

/// The tasks of one process.
#[derive(Default)]
pub(crate) struct Life(Mutex<State>);

#[derive(Default)]
struct State {
    is_stopped: bool,
    is_over: bool,
    waiting: Vec<Waker>,
    tasks: Vec<AbortHandle>,
}

impl Life {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// SIGKILL: every task ends where it is, and no other begins.
    pub(crate) fn kill(&self) {
        let tasks = {
            let mut state = self.lock();
            state.is_over = true;
            std::mem::take(&mut state.tasks)
        };
        tasks.iter().for_each(AbortHandle::abort);
    }

    /// SIGSTOP, or SIGCONT.
    pub(crate) fn stop(&self, is_stopped: bool) {
        let waiting = {
            let mut state = self.lock();
            state.is_stopped = is_stopped;
            if is_stopped { Vec::new() } else { std::mem::take(&mut state.waiting) }
        };
        waiting.into_iter().for_each(Waker::wake);
    }

    /// Whether it is stopped.
    pub(crate) fn is_stopped(&self) -> bool {
        self.lock().is_stopped
    }
}

impl Gate for Life {
    fn started(&self, task: AbortHandle) {
        let mut state = self.lock();
        if state.is_over {
            return task.abort();
        }
        if state.tasks.len() >= TASKS_KEPT {
            state.tasks.retain(|task| !task.is_finished());
        }
        state.tasks.push(task);
    }

    fn may_run(&self, context: &mut Context<'_>) -> bool {
        let mut state = self.lock();
        if state.is_stopped {
            state.waiting.push(context.waker().clone());
        }
        !state.is_stopped
    }
}
