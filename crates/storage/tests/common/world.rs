//! The simulation around a store in tests: time passes and tasks run when the test says so.

use std::collections::VecDeque;
use std::sync::Mutex;
use std::time::Duration;

use quorate_storage::{Later, Simulation, Task};
use rand::rngs::SmallRng;
use rand::{RngExt as _, SeedableRng as _};

/// Virtual time, random numbers from a seed, and the tasks that wait for a turn.
pub(crate) struct World {
    rng: Mutex<SmallRng>,
    now: Mutex<Duration>,
    tasks: Mutex<VecDeque<(Later, Task)>>,
}

impl World {
    pub(crate) fn new(seed: u64) -> Self {
        let rng = Mutex::new(SmallRng::seed_from_u64(seed));
        Self { rng, now: Mutex::default(), tasks: Mutex::default() }
    }

    /// Lets time pass, and then runs the tasks that wait now.
    pub(crate) fn run_after(&self, time: Duration) {
        *self.now.lock().unwrap() += time;
        let tasks = std::mem::take(&mut *self.tasks.lock().unwrap());
        tasks.into_iter().for_each(|(_, task)| task());
    }

    /// Runs the tasks that wait now.
    pub(crate) fn run(&self) {
        self.run_after(Duration::from_millis(1));
    }
}

impl Simulation for World {
    fn later(&self, what: Later, task: Task) {
        self.tasks.lock().unwrap().push_back((what, task));
    }

    fn random(&self) -> u64 {
        self.rng.lock().unwrap().random()
    }

    fn now(&self) -> Duration {
        *self.now.lock().unwrap()
    }
}
