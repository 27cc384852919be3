//! What the workers of one load share: the files, the nodes they are read back from, and the results.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Mutex, PoisonError};

use quorate_client::{Bucket, Client};
use serde_json::{Value, json};
use tokio::sync::Semaphore;

use super::walk::{File, Tree};
use crate::out::safe;

/// File contents held in memory by all workers together, in KiB.
pub(crate) const MEMORY_KIB_MAX: u32 = 64 * 1024;
/// How many failures and differences are listed; all are counted.
const NAMED_MAX: usize = 20;

/// The result for one file.
#[derive(Clone, Debug)]
pub(crate) struct Stored {
    pub(crate) digest: blake3::Hash,
    /// The URL of the node that took it, if this run stored it.
    pub(crate) node: Option<String>,
}

/// A node that files are read back from.
#[derive(Debug)]
pub(crate) struct Reader {
    pub(crate) url: String,
    /// Asks only this node.
    pub(crate) client: Client,
}

/// Everything that the workers of one run share.
pub(crate) struct Job {
    pub(crate) root: PathBuf,
    pub(crate) bucket: Bucket,
    pub(crate) readers: Vec<Reader>,
    pub(crate) files: Vec<File>,
    /// In the order of `files`; an entry is set once its file is stored.
    stored: Vec<Mutex<Option<Stored>>>,
    /// Drawn per run, so that two runs never share an `Idempotency-Key`.
    pub(crate) run: u128,
    /// Whether this run only reads.
    pub(crate) only_verifies: bool,
    pub(crate) memory: Semaphore,
    pub(crate) next: AtomicUsize,
    pub(crate) done: AtomicU64,
    pub(crate) bytes: AtomicU64,
    pub(crate) retries: AtomicU64,
    pub(crate) resolved: AtomicU64,
    problems: Mutex<BTreeMap<&'static str, Problems>>,
}

/// Problems of one kind: all are counted, the first ones are listed.
#[derive(Debug, Default)]
struct Problems {
    count: usize,
    named: Vec<String>,
}

impl Job {
    /// Takes ownership of the tree; what could not be walked is a failure from the start.
    pub(crate) fn new(root: PathBuf, bucket: Bucket, tree: Tree, only_verifies: bool) -> Self {
        let job = Job {
            root,
            bucket,
            readers: Vec::new(),
            stored: tree.files.iter().map(|_| Mutex::new(None)).collect(),
            files: tree.files,
            run: rand::random(),
            only_verifies,
            memory: Semaphore::new(MEMORY_KIB_MAX as usize),
            next: AtomicUsize::new(0),
            done: AtomicU64::new(0),
            bytes: AtomicU64::new(0),
            retries: AtomicU64::new(0),
            resolved: AtomicU64::new(0),
            problems: Mutex::default(),
        };
        tree.failures.into_iter().for_each(|it| job.problem("failure", it));
        job
    }

    /// The result for the file at this index.
    pub(crate) fn stored(&self, place: usize) -> Option<Stored> {
        self.stored.get(place)?.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Records that the file at this index is stored.
    pub(crate) fn set_stored(&self, place: usize, stored: Stored) {
        if let Some(slot) = self.stored.get(place) {
            *slot.lock().unwrap_or_else(PoisonError::into_inner) = Some(stored);
        }
    }

    /// Counts a problem of this kind: `failure` or `difference`.
    pub(crate) fn problem(&self, kind: &'static str, problem: String) {
        let mut problems = self.problems.lock().unwrap_or_else(PoisonError::into_inner);
        let of_kind = problems.entry(kind).or_default();
        of_kind.count += 1;
        if of_kind.named.len() < NAMED_MAX {
            of_kind.named.push(safe(&problem));
        }
    }

    /// How many problems of this kind there are.
    pub(crate) fn count(&self, kind: &str) -> usize {
        let problems = self.problems.lock().unwrap_or_else(PoisonError::into_inner);
        problems.get(kind).map_or(0, |it| it.count)
    }

    /// Begins a step: every file is due again.
    pub(crate) fn begin(&self) {
        self.next.store(0, Ordering::Relaxed);
        self.done.store(0, Ordering::Relaxed);
        self.bytes.store(0, Ordering::Relaxed);
    }

    /// The result of a step, in words and as JSON.
    pub(crate) fn told(&self, what: &str, seconds: f64) -> (String, Value) {
        let done = self.done.load(Ordering::Relaxed);
        let bytes = self.bytes.load(Ordering::Relaxed);
        let mib = bytes as f64 / (1024.0 * 1024.0);
        let rate = done as f64 / seconds.max(0.001);
        let of = self.files.len();
        let line = format!(
            "{what}: {done} of {of} files, {mib:.1} MiB in {seconds:.1} s ({rate:.0} files/s)"
        );
        let seconds = (seconds * 1000.0).round() / 1000.0;
        (line, json!({"files": done, "of": of, "bytes": bytes, "seconds": seconds}))
    }

    /// The first problems of each kind, one per line.
    pub(crate) fn named_problems(&self) -> Vec<String> {
        let problems = self.problems.lock().unwrap_or_else(PoisonError::into_inner);
        let mut lines = Vec::new();
        for (kind, all) in problems.iter() {
            lines.extend(all.named.iter().map(|problem| format!("{kind}: {problem}")));
            if let more @ 1.. = all.count - all.named.len() {
                lines.push(format!("{kind}: … and {more} more"));
            }
        }
        lines
    }
}
