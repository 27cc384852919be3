//! Time, chance and turns: a machine's, or those of a simulation that a store is part of.

use std::fmt;
use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

/// What a store on a [`crate::SimulatedDisk`] asks of the simulation that it is part of. With the
/// same answers to the same calls, the store does the same.
pub trait Simulation: Send + Sync {
    /// Takes a task that the store runs on a thread of its own otherwise: run it once, at any later
    /// time or within this call, or drop it if the node is killed before.
    fn later(&self, what: Later, task: Task);

    /// The next random number.
    fn random(&self) -> u64;

    /// The time since some moment; never less than before.
    fn now(&self) -> Duration;
}

/// A task of a store. It does nothing once the store is gone.
pub type Task = Box<dyn FnOnce() + Send>;

/// What a task does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Later {
    /// Syncs the log, for all writes that wait by then; the delay stands for the disk's.
    Sync,
    /// Looks at the free space.
    CheckDisk {
        /// When it is due.
        after: Duration,
    },
}

/// What a store runs on.
#[derive(Clone)]
pub(crate) enum Host {
    /// The machine, whose time is counted from here.
    Machine(Instant),
    Simulated(Arc<dyn Simulation>),
}

impl Host {
    pub(crate) fn machine() -> Self {
        Self::Machine(Instant::now())
    }

    /// The time since some moment; never less than before.
    pub(crate) fn now(&self) -> Duration {
        match self {
            Self::Machine(start) => start.elapsed(),
            Self::Simulated(simulation) => simulation.now(),
        }
    }

    /// A random number that is not zero.
    pub(crate) fn random_nonzero(&self) -> u64 {
        loop {
            let number = match self {
                Self::Machine(_) => rand::random(),
                Self::Simulated(simulation) => simulation.random(),
            };
            if number != 0 {
                return number;
            }
        }
    }

    /// Waits. In a simulation delays are up to the simulation, and it returns at once.
    pub(crate) fn sleep(&self, time: Duration) {
        if let Self::Machine(_) = self {
            thread::sleep(time);
        }
    }
}

impl fmt::Debug for dyn Simulation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Simulation")
    }
}
