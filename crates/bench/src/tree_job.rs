//! What the workers of one tree load share: the files, the nodes they may go to, and the results.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use tokio::sync::Semaphore;

use crate::ask::Cluster;
use crate::load_tree::Args;
use crate::path;
use crate::tree::{File, Tree};

/// File contents held in memory by all workers together, in KiB.
pub(crate) const MEMORY_KIB_MAX: u32 = 64 * 1024;
/// How many failures and differences are listed; all are counted.
const NAMED_MAX: usize = 20;

/// The result for one file.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Stored {
    pub(crate) digest: blake3::Hash,
    /// The node that stored it, if this run did.
    pub(crate) node: Option<usize>,
}

/// Everything that the workers of one run share.
pub(crate) struct Job {
    pub(crate) root: PathBuf,
    pub(crate) bucket: String,
    pub(crate) cluster: Cluster,
    /// Where files may be stored, and where they are read back (indices into the list of nodes).
    pub(crate) writers: Vec<usize>,
    pub(crate) readers: Vec<usize>,
    pub(crate) files: Vec<File>,
    /// In the order of `files`; an entry is set once its file is stored.
    pub(crate) stored: Vec<Mutex<Option<Stored>>>,
    /// Drawn per run, so that two runs never share an `Idempotency-Key`.
    pub(crate) run: u128,
    /// Whether this run only reads.
    pub(crate) verify_only: bool,
    pub(crate) memory: Semaphore,
    pub(crate) next: AtomicUsize,
    pub(crate) done: AtomicU64,
    pub(crate) bytes: AtomicU64,
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
    /// Resolves the nodes and takes ownership of the tree; also returns what the walk skipped, by
    /// reason.
    ///
    /// # Errors
    /// A node that cannot be resolved, by name.
    pub(crate) async fn new(
        args: &Args,
        tree: Tree,
    ) -> Result<(Self, BTreeMap<&'static str, u64>), String> {
        let mut nodes = path::nodes(&args.nodes).await?;
        let mut writers: Vec<usize> = (0..nodes.len()).collect();
        let mut readers = writers.clone();
        if let Some(url) = &args.verify_node {
            let reader = path::nodes(std::slice::from_ref(url)).await?.remove(0);
            let place = nodes.iter().position(|it| it.addr == reader.addr).unwrap_or_else(|| {
                nodes.push(reader);
                nodes.len() - 1
            });
            readers = vec![place];
            if writers.len() > 1 {
                writers.retain(|it| *it != place);
            }
        }
        let job = Job {
            root: args.directory.clone(),
            bucket: args.bucket.clone(),
            cluster: Cluster::new(nodes, Duration::from_secs(args.patience_seconds)),
            writers,
            readers,
            stored: tree.files.iter().map(|_| Mutex::new(None)).collect(),
            files: tree.files,
            run: rand::random(),
            verify_only: args.verify_only,
            memory: Semaphore::new(MEMORY_KIB_MAX as usize),
            next: AtomicUsize::new(0),
            done: AtomicU64::new(0),
            bytes: AtomicU64::new(0),
            resolved: AtomicU64::new(0),
            problems: Mutex::default(),
        };
        tree.failures.into_iter().for_each(|it| job.problem("failure", it));
        Ok((job, tree.skipped))
    }

    /// The result for the file at this index.
    pub(crate) fn stored(&self, place: usize) -> Option<Stored> {
        *self.stored.get(place)?.lock().unwrap_or_else(PoisonError::into_inner)
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
            of_kind.named.push(problem);
        }
    }

    /// How many problems of this kind there are.
    pub(crate) fn count(&self, kind: &str) -> usize {
        let problems = self.problems.lock().unwrap_or_else(PoisonError::into_inner);
        problems.get(kind).map_or(0, |it| it.count)
    }

    /// The result of a step, in one line without a line break.
    pub(crate) fn line(&self, what: &str, seconds: f64, bytes: u64) -> String {
        let done = self.done.load(Ordering::Relaxed);
        let mib = bytes as f64 / (1024.0 * 1024.0);
        let rate = done as f64 / seconds.max(0.001);
        let of = self.files.len();
        format!("{what}: {done} of {of} files, {mib:.1} MiB in {seconds:.1} s ({rate:.0} files/s)")
    }

    /// The first problems of each kind, one per line.
    pub(crate) fn named_problems(&self) -> String {
        let problems = self.problems.lock().unwrap_or_else(PoisonError::into_inner);
        let mut text = String::new();
        for (kind, all) in problems.iter() {
            for problem in &all.named {
                text += &format!("{kind}: {problem}\n");
            }
            if let more @ 1.. = all.count - all.named.len() {
                text += &format!("{kind}: … and {more} more\n");
            }
        }
        text
    }
}
