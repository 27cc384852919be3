//! The storm: faults drawn from a seed strike a cluster of real nodes while clients are at work,
//! followed by a final check. All faults end, the cluster must converge by itself, and the data on
//! the disks is compared with what the clients were told, and across replicas byte for byte.
//!
//! Two short storms of fixed seeds are part of the tests; `scripts/storm.sh` runs longer ones. A
//! seed determines the schedule of faults, not the timing of the clients.

mod clients;
mod deleted_keys;
mod faults;
mod final_check;
mod slow;

use std::fmt;
use std::panic::AssertUnwindSafe;
use std::sync::atomic::Ordering::Relaxed;
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::{Duration, Instant};

use futures_util::FutureExt;
use tokio::task::JoinSet;

use self::clients::{Clients, Work};
use self::faults::{Injector, N, Schedule};
use self::final_check::Disks;
use crate::harness::{Cluster, Setup, eventually};
use crate::record::Findings;
use crate::small_disk::Disk;

/// How often the keys of the sets change.
const ROUND: Duration = Duration::from_secs(20);
const PROGRESS_EVERY: Duration = Duration::from_secs(10);
const LOOK_EVERY: Duration = Duration::from_millis(200);
const SMALL_DISK_MIB: u32 = 1024;

/// A grace short enough for tombstones to be reaped during the storm, with trees compared all the
/// time.
const SETTINGS: &str = "\
[deletes]
grace_ms = 2000
reap_ms = 300
[anti_entropy]
interval_ms = 1000
[timeouts]
shutdown_ms = 2000
";

/// The parameters of a storm.
struct Plan {
    seed: u64,
    nodes: usize,
    length: Duration,
    /// Whether to print progress.
    talks: bool,
}

/// The result of a storm.
struct Report {
    plan: Plan,
    struck: Vec<(&'static str, usize)>,
    operations: usize,
    acks: usize,
    failures: usize,
    elements: usize,
    removed: usize,
    ended: usize,
    converged_in: Duration,
    disks: Disks,
    found: Findings,
    /// The peak memory of a node, in MiB, and the most files that one had open.
    usage_max: (u64, usize),
}

/// How many files each node may have open: enough for a hundred clients.
const DESCRIPTORS_MAX: u32 = 1000;

#[tokio::test(flavor = "multi_thread")]
async fn a_storm_loses_nothing_and_brings_nothing_back() {
    storm(Plan { seed: 1, nodes: 5, length: Duration::from_secs(12), talks: false }).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn another_storm_loses_nothing_and_brings_nothing_back() {
    storm(Plan { seed: 2, nodes: 5, length: Duration::from_secs(12), talks: false }).await;
}

/// Parameters: `STORM_SEED`, `STORM_SECONDS` and `STORM_NODES`.
#[tokio::test(flavor = "multi_thread")]
#[ignore = "of any length: scripts/storm.sh"]
async fn a_storm_to_order() {
    let number = |name: &str| std::env::var(name).ok().and_then(|text| text.parse::<u64>().ok());
    storm(Plan {
        seed: number("STORM_SEED").unwrap_or_else(rand::random),
        nodes: number("STORM_NODES").map_or(5, |nodes| nodes as usize),
        length: Duration::from_secs(number("STORM_SECONDS").unwrap_or(60)),
        talks: true,
    })
    .await;
}

/// Runs a storm and prints its table.
///
/// # Panics
/// If any promise was broken.
async fn storm(plan: Plan) {
    let repeat = plan.to_string();
    eprintln!("To repeat this storm: {repeat}");
    // Half of the storms wait for syncs.
    let durability = if plan.seed.is_multiple_of(2) { "fsync" } else { "buffered" };
    let storage = "disk_free_bytes_min = 33554432\n";
    let setup = Setup { settings: SETTINGS, durability, storage, ..Setup::of(plan.nodes) };
    let small_disk = Mutex::new(None);
    let cluster = Cluster::start_in(setup, |number, directory| {
        if number == 1 {
            *small_disk.lock().unwrap() = Disk::mount(directory, SMALL_DISK_MIB);
        }
    })
    .await;
    cluster.form();
    cluster.wait_all_up().await;
    cluster.all().for_each(|number| cluster.limit_descriptors(number, DESCRIPTORS_MAX));
    let work = Arc::new(Work::new(cluster.clone()));
    let mut clients = Clients::start(&work, plan.seed, 10, 2);
    let slow = slow::start(&cluster);
    let watch = Watch::start(&cluster);
    let mut injector = Injector::new(cluster.clone(), small_disk.into_inner().unwrap());
    inject_faults(&plan, &work, &mut clients, &mut injector).await;
    let mut details = clients.stop().await;
    drop(slow);
    let (converged_in, more) = heal(&work, &injector).await;
    details.extend(more);
    for number in cluster.all() {
        let (status, _) = cluster.terminate(number).await;
        assert!(status.success(), "n{number} ended with {status}");
    }
    let disks = Disks::open(&cluster);
    let found = judge(&work, &disks, details);
    let report = Report {
        struck: injector.struck.clone().into_iter().collect(),
        operations: work.operations.load(Relaxed),
        acks: work.acks.load(Relaxed),
        failures: work.failures.load(Relaxed),
        elements: work.record.acked(),
        removed: work.record.removed(),
        ended: work.deleted_keys.ended().len(),
        converged_in,
        plan,
        disks,
        found,
        usage_max: watch.max(),
    };
    eprintln!("{report}");
    assert!(report.is_clean(), "to repeat: {repeat}\n{}", report.details());
    assert!(report.elements > 100, "too few acknowledged writes to mean anything");
}

/// Samples the resource usage of the nodes until it is dropped.
struct Watch {
    max: Arc<Mutex<(u64, usize)>>,
    _looking: JoinSet<()>,
}

impl Watch {
    fn start(cluster: &Arc<Cluster>) -> Self {
        let (cluster, max) = (cluster.clone(), Arc::new(Mutex::default()));
        let (mut looking, so_far) = (JoinSet::new(), max.clone());
        looking.spawn(async move {
            loop {
                for number in cluster.all() {
                    let Some((mib, files)) = cluster.usage(number) else { continue };
                    let mut max: MutexGuard<'_, (u64, usize)> = so_far.lock().unwrap();
                    *max = (max.0.max(mib), max.1.max(files));
                }
                tokio::time::sleep(LOOK_EVERY).await;
            }
        });
        Self { max, _looking: looking }
    }

    fn max(&self) -> (u64, usize) {
        *self.max.lock().unwrap()
    }
}

/// Injects faults until time is up, or a client has found something wrong.
async fn inject_faults(plan: &Plan, work: &Work, clients: &mut Clients, injector: &mut Injector) {
    let begun = Instant::now();
    let mut told = begun;
    for (fault, pause) in Schedule::new(plan.seed, plan.nodes) {
        let elapsed = begun.elapsed();
        if elapsed > plan.length || !clients.found().is_empty() {
            break;
        }
        let left = plan.length - elapsed;
        work.round.store((elapsed.as_secs() / ROUND.as_secs()) as usize, Relaxed);
        if plan.talks && told.elapsed() >= PROGRESS_EVERY {
            told = Instant::now();
            let struck: usize = injector.struck.values().sum();
            let (acks, failures) = (work.acks.load(Relaxed), work.failures.load(Relaxed));
            let seconds = elapsed.as_secs();
            eprintln!(
                "{seconds:>6} s: {struck} faults, {acks} acks, {failures} failures; {fault:?}"
            );
        }
        injector.strike(&fault).await;
        tokio::time::sleep(pause.min(left)).await;
    }
}

/// Ends all faults and waits until all replicas have converged and all tombstones are reaped.
/// Returns how long that took, and what failed.
async fn heal(work: &Work, injector: &Injector) -> (Duration, Option<String>) {
    let begun = Instant::now();
    let mut converged_in = Duration::ZERO;
    let converge = async {
        injector.restore_all().await;
        work.cluster.wait_all_up().await;
        eventually("the bucket has its n again", async || {
            injector.set_properties(1, N, 2).await.then_some(())
        })
        .await;
        work.cluster.wait_converged().await;
        converged_in = begun.elapsed();
        work.cluster.wait_forgotten(work.deleted_keys.ended()).await;
    };
    // A timeout must not keep the table from being printed.
    let failed = AssertUnwindSafe(converge).catch_unwind().await.err();
    (converged_in, failed.map(|panic| clients::panic_message(&*panic)))
}

fn judge(work: &Work, disks: &Disks, details: Vec<String>) -> Findings {
    let mut found = Findings { details, ..Findings::default() };
    found.details.extend(disks.details.iter().cloned());
    for key in work.record.keys() {
        found.add(work.record.judge(&key, &disks.left(&key)));
    }
    for key in work.deleted_keys.keys() {
        found.add(work.deleted_keys.judge(&key, &disks.left(&key)));
    }
    found
}

impl Report {
    fn is_clean(&self) -> bool {
        let Findings { lost, phantom, resurrected, details, twins: _ } = &self.found;
        lost + phantom + resurrected == 0 && details.is_empty() && self.disks.hints == 0
    }

    /// The first findings, one per line.
    fn details(&self) -> String {
        const TOLD: usize = 20;
        let details = &self.found.details;
        let more = details.len().saturating_sub(TOLD);
        let told: Vec<&str> = details.iter().take(TOLD).map(String::as_str).collect();
        format!("{}\n({more} more)", told.join("\n"))
    }
}

impl fmt::Display for Plan {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (seconds, seed, nodes) = (self.length.as_secs(), self.seed, self.nodes);
        write!(f, "scripts/storm.sh --seconds {seconds} --seed {seed} --nodes {nodes}")
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let rule = "-".repeat(56);
        writeln!(f, "{rule}\n{}\n{rule}", self.plan)?;
        let mut line = |name: &str, value: &dyn fmt::Display| writeln!(f, "{name:<40}{value:>16}");
        for (kind, count) in &self.struck {
            line(&format!("fault: {kind}"), count)?;
        }
        line("operations", &self.operations)?;
        line("  acknowledged", &self.acks)?;
        line("  failed", &self.failures)?;
        line("elements acknowledged", &self.elements)?;
        line("elements removed, acknowledged", &self.removed)?;
        line("keys deleted for good, acknowledged", &self.ended)?;
        line("elements lost", &self.found.lost)?;
        line("elements phantom", &self.found.phantom)?;
        line("siblings resurrected", &self.found.resurrected)?;
        line("twins of retried writes", &self.found.twins)?;
        line("replicas compared byte for byte", &self.disks.compared)?;
        line("keys whose replicas differ", &self.disks.differing)?;
        line("rows on nodes that do not own them", &self.disks.strays)?;
        line("Merkle roots compared", &self.disks.trees)?;
        line("Merkle roots that differ", &self.disks.trees_differing)?;
        line("hints left", &self.disks.hints)?;
        line("tombstones left", &self.disks.tombstones)?;
        line("memory of a node, MiB at most", &self.usage_max.0)?;
        line("files open in a node, at most", &self.usage_max.1)?;
        line("other findings", &self.found.details.len())?;
        line("time to converge, s", &format!("{:.1}", self.converged_in.as_secs_f64()))?;
        write!(f, "{rule}")
    }
}
