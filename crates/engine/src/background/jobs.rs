//! The state of each running background job: what it does, when it last worked, what went wrong.
//!
//! A job tells its [`JobState`] what it does, at the cost of a few atomics; operators list them all
//! (`GET /jobs`). A job that panics ends, and is shown and logged as such.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::atomic::Ordering::Relaxed;
use std::sync::atomic::{AtomicU8, AtomicU64};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use quorate_protocol::name::NodeId;
use quorate_protocol::time::WallTime;
use quorate_storage::Error;
use tokio::time::Instant;

use crate::host::Clock;

/// The longest error that is kept, in characters.
const ERROR_CHARS_MAX: usize = 300;

/// What a job is.
#[derive(Clone, Copy, Debug)]
pub struct Job {
    /// Its name: lower case, no spaces.
    pub name: &'static str,
    /// What it does, in one line without a full stop at the end.
    pub about: &'static str,
}

/// Why a job does not work although it would.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Pause {
    /// The cluster is not formed, or no peer has admitted this node's generation yet.
    NotAdmitted,
    /// The node has not received all partitions yet.
    NotFilled,
    /// Its peer, or one of those that it needs, is down.
    PeerDown,
    /// The store failed.
    StoreFailed,
    /// The node was restored from a backup, and has not compared with all others since.
    NotCompared,
}

impl Pause {
    /// In words.
    pub fn text(self) -> &'static str {
        match self {
            Self::NotAdmitted => "not admitted",
            Self::NotFilled => "not filled",
            Self::PeerDown => "peer down",
            Self::StoreFailed => "store failed",
            Self::NotCompared => "not compared",
        }
    }
}

/// What a job does at the moment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Phase {
    /// It waits for its next turn.
    Waiting,
    /// It works.
    Working,
    /// It cannot work.
    Paused(Pause),
    /// It is over: done, switched off, or panicked (then [`JobView::error`] says so).
    Ended,
}

impl Phase {
    const ALL: [Self; 8] = [
        Self::Waiting,
        Self::Working,
        Self::Ended,
        Self::Paused(Pause::NotAdmitted),
        Self::Paused(Pause::NotFilled),
        Self::Paused(Pause::PeerDown),
        Self::Paused(Pause::StoreFailed),
        Self::Paused(Pause::NotCompared),
    ];

    fn code(self) -> u8 {
        Self::ALL.iter().position(|it| *it == self).unwrap_or_default() as u8
    }

    /// In one word.
    pub fn name(self) -> &'static str {
        match self {
            Self::Waiting => "waiting",
            Self::Working => "working",
            Self::Paused(_) => "paused",
            Self::Ended => "ended",
        }
    }

    /// Why it cannot work.
    pub fn reason(self) -> Option<&'static str> {
        match self {
            Self::Paused(pause) => Some(pause.text()),
            Self::Waiting | Self::Working | Self::Ended => None,
        }
    }
}

/// A running job.
pub struct JobState {
    job: Job,
    peer: Option<NodeId>,
    /// The machine's.
    clock: Arc<dyn Clock>,
    phase: AtomicU8,
    runs: AtomicU64,
    busy_us: AtomicU64,
    took_us: AtomicU64,
    /// Wall time in milliseconds; 0 before the first run.
    worked_at: AtomicU64,
    done: AtomicU64,
    /// 0 if it knows no progress.
    of: AtomicU64,
    error: Mutex<Option<(WallTime, String)>>,
}

impl JobState {
    fn new(job: Job, peer: Option<NodeId>, clock: Arc<dyn Clock>) -> Self {
        Self {
            job,
            peer,
            clock,
            phase: AtomicU8::new(Phase::Waiting.code()),
            runs: AtomicU64::new(0),
            busy_us: AtomicU64::new(0),
            took_us: AtomicU64::new(0),
            worked_at: AtomicU64::new(0),
            done: AtomicU64::new(0),
            of: AtomicU64::new(0),
            error: Mutex::new(None),
        }
    }

    /// It works until the guard is dropped: one run.
    pub fn works(&self) -> Working<'_> {
        self.set(Phase::Working);
        Working { job: self, began: Instant::now() }
    }

    /// It waits for its next turn, after a pause.
    pub fn waits(&self) {
        self.set(Phase::Waiting);
    }

    /// It cannot work for now.
    pub fn pauses(&self, why: Pause) {
        self.set(Phase::Paused(why));
    }

    /// It is so far; `of` 0 means that it does not know.
    pub fn progress(&self, done: u64, of: u64) {
        self.done.store(done, Relaxed);
        self.of.store(of, Relaxed);
    }

    /// It could not do something. If the store failed, it is paused until it works again.
    pub fn failed(&self, error: &Error) {
        self.note(&error.to_string());
        if matches!(error, Error::Failed(_)) {
            self.pauses(Pause::StoreFailed);
        }
    }

    /// It panicked, with this message.
    pub(super) fn panicked(&self, why: &str) {
        self.note(&format!("panicked: {why}"));
    }

    /// It is over.
    pub(super) fn ended(&self) {
        self.set(Phase::Ended);
    }

    fn note(&self, error: &str) {
        let kept = error.chars().take(ERROR_CHARS_MAX).collect();
        *self.error() = Some((self.clock.now(), kept));
    }

    fn set(&self, phase: Phase) {
        self.phase.store(phase.code(), Relaxed);
    }

    fn phase(&self) -> Phase {
        let code = usize::from(self.phase.load(Relaxed));
        Phase::ALL.get(code).copied().unwrap_or(Phase::Waiting)
    }

    fn error(&self) -> MutexGuard<'_, Option<(WallTime, String)>> {
        self.error.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn view(&self) -> JobView {
        let load = |number: &AtomicU64| number.load(Relaxed);
        let runs = load(&self.runs);
        JobView {
            name: self.job.name,
            about: self.job.about,
            peer: self.peer,
            phase: self.phase(),
            runs,
            busy: Duration::from_micros(load(&self.busy_us)),
            last: (runs > 0).then(|| Last {
                at: WallTime(load(&self.worked_at)),
                took: Duration::from_micros(load(&self.took_us)),
            }),
            progress: Some((load(&self.done), load(&self.of))).filter(|(_, of)| *of > 0),
            error: self.error().clone(),
        }
    }
}

/// A run of a job; ends on drop.
pub struct Working<'a> {
    job: &'a JobState,
    began: Instant,
}

impl Drop for Working<'_> {
    fn drop(&mut self) {
        let job = self.job;
        let took_us = self.began.elapsed().as_micros() as u64;
        job.took_us.store(took_us, Relaxed);
        job.busy_us.fetch_add(took_us, Relaxed);
        job.worked_at.store(job.clock.now().0, Relaxed);
        job.runs.fetch_add(1, Relaxed);
        if job.phase() == Phase::Working {
            job.set(Phase::Waiting);
        }
    }
}

/// The last run of a job.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Last {
    /// When it ended.
    pub at: WallTime,
    /// How long it took.
    pub took: Duration,
}

/// The state of a job at a moment.
#[derive(Clone, Debug)]
pub struct JobView {
    /// Its name.
    pub name: &'static str,
    /// What it does.
    pub about: &'static str,
    /// The peer that it is for, if there is one such job for each.
    pub peer: Option<NodeId>,
    /// What it does now.
    pub phase: Phase,
    /// How often it worked since the start.
    pub runs: u64,
    /// How long all runs took together, waits for peers and for their turn included.
    pub busy: Duration,
    /// Its last run.
    pub last: Option<Last>,
    /// How much is done, and of how much, if it knows.
    pub progress: Option<(u64, u64)>,
    /// Its last error, and when that was.
    pub error: Option<(WallTime, String)>,
}

/// What jobs of one name have done in all.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Done {
    /// How often they worked.
    pub runs: u64,
    /// How long all runs took together.
    pub busy: Duration,
}

impl Done {
    fn add(&mut self, view: &JobView) {
        self.runs += view.runs;
        self.busy += view.busy;
    }
}

/// The jobs of a node.
pub struct Jobs {
    running: Mutex<Vec<Arc<JobState>>>,
    /// What those have done, by name, whose peer has left: totals must not fall.
    of_the_gone: Mutex<BTreeMap<&'static str, Done>>,
    clock: Arc<dyn Clock>,
}

impl Jobs {
    /// None yet; runs are dated by the machine's clock.
    pub fn new(clock: Arc<dyn Clock>) -> Self {
        Self { running: Mutex::default(), of_the_gone: Mutex::default(), clock }
    }

    /// What those that were started have said last, in this order (see [`super::registry::list`]).
    pub fn list(&self) -> Vec<JobView> {
        self.lock().iter().map(|job| job.view()).collect()
    }

    /// Adds one that is about to start.
    pub(super) fn add(&self, job: Job, peer: Option<NodeId>) -> Arc<JobState> {
        let state = Arc::new(JobState::new(job, peer, self.clock.clone()));
        self.lock().push(state.clone());
        state
    }

    /// What the jobs of each name have done in all, by name.
    pub fn done(&self) -> BTreeMap<&'static str, Done> {
        let mut done = self.of_the_gone().clone();
        self.list().iter().for_each(|job| done.entry(job.name).or_default().add(job));
        done
    }

    /// Whether there are jobs for a peer.
    pub(super) fn has(&self, peer: NodeId) -> bool {
        self.lock().iter().any(|job| job.peer == Some(peer))
    }

    /// Those for a peer end, as it is none any more: they are not listed from now on.
    pub(crate) fn forget(&self, peer: NodeId) {
        let gone: Vec<_> = self.lock().extract_if(.., |job| job.peer == Some(peer)).collect();
        let mut of_the_gone = self.of_the_gone();
        for job in gone.iter().map(|job| job.view()) {
            of_the_gone.entry(job.name).or_default().add(&job);
        }
    }

    fn of_the_gone(&self) -> MutexGuard<'_, BTreeMap<&'static str, Done>> {
        self.of_the_gone.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn lock(&self) -> MutexGuard<'_, Vec<Arc<JobState>>> {
        self.running.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl fmt::Debug for Jobs {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Jobs").field("count", &self.lock().len()).finish()
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    struct At(u64);

    impl Clock for At {
        fn now(&self) -> WallTime {
            WallTime(self.0)
        }
    }

    fn job() -> Arc<JobState> {
        Jobs::new(Arc::new(At(7))).add(Job { name: "test", about: "Tests" }, None)
    }

    #[test]
    fn every_phase_has_a_code_of_its_own() {
        for (code, phase) in Phase::ALL.into_iter().enumerate() {
            assert_eq!(usize::from(phase.code()), code);
        }
    }

    #[test]
    fn a_run_is_counted_and_timed_when_it_ends() {
        let job = job();
        assert_eq!((job.view().runs, job.view().last), (0, None));
        let working = job.works();
        assert_eq!((job.view().phase, job.view().runs), (Phase::Working, 0));
        drop(working);
        drop(job.works());
        let view = job.view();
        assert_eq!((view.phase, view.runs), (Phase::Waiting, 2));
        let last = view.last.unwrap();
        assert!(last.at == WallTime(7) && last.took <= view.busy);
    }

    #[test]
    fn a_failed_store_pauses_a_job_and_another_error_does_not() {
        let job = job();
        let working = job.works();
        job.failed(&Error::WouldBlock);
        drop(working);
        assert_eq!(job.view().phase, Phase::Waiting);
        let working = job.works();
        job.failed(&Error::Failed("x".repeat(1000)));
        drop(working);
        assert_eq!(job.view().phase, Phase::Paused(Pause::StoreFailed));
        let (at, error) = job.view().error.unwrap();
        assert_eq!((at, error.chars().count()), (WallTime(7), ERROR_CHARS_MAX));
        drop(job.works());
        assert_eq!(job.view().phase, Phase::Waiting);
    }

    #[test]
    fn progress_is_shown_once_it_is_known() {
        let job = job();
        assert_eq!(job.view().progress, None);
        job.progress(3, 64);
        assert_eq!(job.view().progress, Some((3, 64)));
    }

    #[test]
    fn jobs_for_who_is_gone_are_not_listed_but_what_they_did_counts() {
        let jobs = Jobs::new(Arc::new(At(7)));
        let [n2, n3] = ["n2", "n3"].map(|name| NodeId::parse(name).unwrap());
        let job = Job { name: "test", about: "Tests" };
        for peer in [None, Some(n2), Some(n3)] {
            drop(jobs.add(job, peer).works());
        }
        assert!(jobs.has(n2) && jobs.done()["test"].runs == 3);
        jobs.forget(n2);
        assert!(!jobs.has(n2) && jobs.has(n3));
        let listed: Vec<_> = jobs.list().iter().map(|job| job.peer).collect();
        assert_eq!((listed, jobs.done()["test"].runs), (vec![None, Some(n3)], 3));
    }
}
