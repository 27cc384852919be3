//! Runs many seeds on all cores. Each seed is an independent run, so the result does not depend on
//! threads.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc;
use std::thread;
use std::time::Duration;

use quorate_oracle::Violation;
use quorate_protocol::mutation::Mutation;

use crate::run::{Run, run};

/// One in this many seeds runs twice, and both runs must be the same.
const TWICE_EVERY: u64 = 64;

/// Which seeds to run, and how.
#[derive(Clone, Copy, Debug)]
pub struct SeedRange {
    /// The first seed.
    pub first: u64,
    /// How many.
    pub count: u64,
    /// The deliberate bug to switch on, if any.
    pub mutation: Option<Mutation>,
    /// How many threads; the result is the same for any number from 1.
    pub threads: usize,
}

/// The result of a range of seeds.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Report {
    /// Seeds that were run.
    pub seeds: u64,
    /// Events of all of them.
    pub events: u64,
    /// The lowest seed that broke a promise, and the promise.
    pub failure: Option<(u64, Violation)>,
}

impl SeedRange {
    /// Runs the seeds in order and stops at the lowest one that fails. `progress` is told about
    /// every quarter of a second how many are done.
    pub fn run(&self, mut progress: impl FnMut(u64)) -> Report {
        let next = AtomicU64::new(self.first);
        let end = self.first.saturating_add(self.count);
        // Seeds from here on need not run.
        let limit = AtomicU64::new(end);
        let (results, done) = mpsc::channel();
        let mut report = Report::default();
        thread::scope(|scope| {
            for _ in 0..self.threads.max(1) {
                let (results, next, limit) = (results.clone(), &next, &limit);
                scope.spawn(move || {
                    loop {
                        let seed = next.fetch_add(1, Ordering::Relaxed);
                        if seed >= limit.load(Ordering::Relaxed) {
                            return;
                        }
                        let run = run_checked(seed, self.mutation);
                        if run.violation.is_some() {
                            limit.fetch_min(seed, Ordering::Relaxed);
                        }
                        if results.send((seed, run)).is_err() {
                            return;
                        }
                    }
                });
            }
            drop(results);
            loop {
                match done.recv_timeout(Duration::from_millis(250)) {
                    Ok((seed, run)) => report.add(seed, run),
                    Err(mpsc::RecvTimeoutError::Timeout) => {}
                    Err(mpsc::RecvTimeoutError::Disconnected) => break,
                }
                progress(report.seeds);
            }
        });
        report
    }
}

impl Report {
    fn add(&mut self, seed: u64, run: Run) {
        self.seeds += 1;
        self.events += run.events;
        if let Some(violation) = run.violation
            && self.failure.as_ref().is_none_or(|(lowest, _)| seed < *lowest)
        {
            self.failure = Some((seed, violation));
        }
    }
}

/// Runs a seed, now and then twice: a run that cannot be repeated proves nothing.
fn run_checked(seed: u64, mutation: Option<Mutation>) -> Run {
    let mut first = run(seed, mutation, false);
    if seed.is_multiple_of(TWICE_EVERY) {
        let second = run(seed, mutation, false);
        if second.hash != first.hash && first.violation.is_none() {
            let story = format!("two runs of seed {seed} differ");
            first.violation = Some(Violation { property: "seeds_are_deterministic", story });
        }
    }
    first
}
