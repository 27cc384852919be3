//! Background jobs.

use std::collections::BTreeMap;

use quorate_engine::background::jobs::{JobView, Phase};
use quorate_engine::background::registry;
use quorate_engine::metrics::desc::{Desc, Section};
use quorate_engine::metrics::text::Writer;
use quorate_engine::node::Node;

const RUNS: Desc =
    Desc::counter("quorate_job_runs_total", "How often a background job worked").by(&["job"]);
const SECONDS: Desc = Desc::counter(
    "quorate_job_seconds_total",
    "How long it worked in all, waits for peers and for its turn included",
)
.by(&["job"]);
const PAUSED: Desc = Desc::gauge(
    "quorate_jobs_paused",
    "How many jobs of this name cannot work: not admitted, peer down, store failed",
)
.by(&["job"])
.means("`quorate jobs --troubled` says why. Those for a peer that is down are paused with it.");

/// The metrics written here.
pub(super) const SECTION: Section = Section {
    title: "Jobs",
    about: "What a node does in the background; jobs that run once for each peer are added up. \
            `GET /jobs` shows them one by one.",
    metrics: &[RUNS, SECONDS, PAUSED],
};

/// Writes the metrics of jobs.
pub(super) fn write(out: &mut Writer, node: &Node) {
    let mut by_name = BTreeMap::<&'static str, Vec<JobView>>::new();
    for job in registry::list(node) {
        by_name.entry(job.name).or_default().push(job);
    }
    let done = node.jobs.done();
    let mut runs = out.metric(&RUNS);
    for (name, done) in &done {
        runs.value(&[name], done.runs);
    }
    let mut seconds = out.metric(&SECONDS);
    for (name, done) in &done {
        seconds.value(&[name], done.busy.as_secs_f64());
    }
    let mut paused = out.metric(&PAUSED);
    for (name, jobs) in &by_name {
        let is_paused = |job: &&JobView| matches!(job.phase, Phase::Paused(_));
        paused.value(&[name], jobs.iter().filter(is_paused).count());
    }
}
