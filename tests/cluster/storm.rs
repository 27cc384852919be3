//! The storm: faults drawn from a seed strike a cluster of real nodes while clients are at work,
//! followed by a final check. All faults end, the cluster must converge by itself, and the data on
//! the disks is compared with what the clients were told, and across replicas byte for byte.
//!
//! In some storms the layout changes too: nodes join, leave and are replaced meanwhile.
//!
//! Short storms of fixed seeds are part of the tests; `scripts/storm.sh` runs longer ones. A
//! seed determines the schedule of faults, not the timing of the clients.

mod answers;
mod backups;
mod changes;
mod clients;
mod deleted_keys;
mod faults;
mod final_check;
mod indexed;
mod injector;
mod operator;
mod report;
mod restored;
mod slow;
mod story;
mod subscriber;
mod typed;

use std::fmt;
use std::panic::AssertUnwindSafe;
use std::sync::atomic::Ordering::Relaxed;
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::{Duration, Instant};

use futures_util::FutureExt;
use tokio::task::JoinSet;

use self::clients::{Clients, Work};
use self::faults::{N, Schedule};
use self::final_check::Disks;
use self::indexed::Indexed;
use self::injector::Injector;
use self::report::{Layouts, Report};
use self::subscriber::{Followed, Subscriber};
use self::typed::TypedValues;
use crate::harness::{Cluster, Setup, eventually};
use crate::record::Findings;
use crate::small_disk::Disk;

/// How often the keys of the sets change.
const ROUND: Duration = Duration::from_secs(20);
const PROGRESS_EVERY: Duration = Duration::from_secs(10);
const LOOK_EVERY: Duration = Duration::from_millis(200);
const SMALL_DISK_MIB: u32 = 1024;
/// How many nodes can join, beyond those that have left.
const SPARES: usize = 4;

/// A grace short enough for tombstones to be reaped during the storm, with trees compared all the
/// time.
const SETTINGS: &str = "\
[deletes]
grace_ms = 2000
reap_ms = 300
expire_ms = 300
expired_age_ms = 500
[anti_entropy]
interval_ms = 1000
[timeouts]
shutdown_ms = 2000
";

/// The parameters of a storm.
#[derive(Clone)]
pub(crate) struct Plan {
    /// Whether it is the story that `story.rs` tells.
    grows: bool,
    /// Whether all is lost in the end, and a backup restored.
    restores: bool,
    seed: u64,
    nodes: usize,
    length: Duration,
    /// Whether the layout changes.
    layouts: bool,
    /// Whether to print progress.
    talks: bool,
}

/// How many files each node may have open: enough for a hundred clients and four peers, or for nine peers
/// that a layout that changes may have.
const DESCRIPTORS_MAX: u32 = 1000;
const DESCRIPTORS_GROWN_MAX: u32 = 2000;

#[tokio::test(flavor = "multi_thread")]
async fn a_storm_loses_nothing_and_brings_nothing_back() {
    storm(Plan::short(1, 12)).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn another_storm_loses_nothing_and_brings_nothing_back() {
    storm(Plan::short(2, 12)).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_storm_over_a_changing_layout_loses_nothing_and_brings_nothing_back() {
    storm(Plan { layouts: true, ..Plan::short(3, 20) }).await;
}

/// Parameters: `STORM_SEED`, `STORM_SECONDS`, `STORM_NODES`, and whether the layout changes: `STORM_LAYOUTS`.
#[tokio::test(flavor = "multi_thread")]
#[ignore = "of any length: scripts/storm.sh"]
async fn a_storm_to_order() {
    storm(Plan { layouts: ordered("STORM_LAYOUTS") != Some(0), ..Plan::ordered(60) }).await;
}

/// A number in the environment.
fn ordered(name: &str) -> Option<u64> {
    std::env::var(name).ok()?.parse().ok()
}

impl Plan {
    /// As the environment says: `STORM_SEED`, `STORM_NODES`, `STORM_SECONDS`.
    fn ordered(seconds: u64) -> Self {
        let seed = ordered("STORM_SEED").unwrap_or_else(rand::random);
        Self {
            nodes: ordered("STORM_NODES").map_or(5, |nodes| nodes as usize),
            talks: true,
            ..Self::short(seed, ordered("STORM_SECONDS").unwrap_or(seconds))
        }
    }

    /// A storm over five nodes whose layout stays.
    fn short(seed: u64, seconds: u64) -> Self {
        let length = Duration::from_secs(seconds);
        let (grows, restores, layouts, talks) = (false, false, false, false);
        Self { grows, restores, seed, nodes: 5, length, layouts, talks }
    }
}

/// Runs a storm and prints its table.
///
/// # Panics
/// If any promise was broken.
async fn storm(plan: Plan) {
    eprintln!("To repeat this storm: {plan}");
    let mut stage = begin(plan, SETTINGS).await;
    inject_faults(&mut stage, Duration::ZERO).await;
    stage.conclude().await;
}

/// Starts a cluster and the clients of a storm.
async fn begin(plan: Plan, settings: &'static str) -> Stage {
    // Half of the storms wait for syncs.
    let durability = if plan.seed.is_multiple_of(2) { "fsync" } else { "buffered" };
    let storage = "disk_free_bytes_min = 33554432\n";
    let setup = Setup { settings, durability, storage, ..Setup::of(plan.nodes) };
    let setup = Setup { spares: if plan.layouts { SPARES } else { 0 }, ..setup };
    let small_disk = Mutex::new(None);
    let cluster = Cluster::start_in(setup, |number, directory| {
        if number == 1 {
            *small_disk.lock().unwrap() = Disk::mount(directory, SMALL_DISK_MIB);
        }
    })
    .await;
    cluster.form();
    cluster.wait_all_up().await;
    TypedValues::prepare(&cluster.at(1)).await;
    Stage::set(plan, cluster, small_disk.into_inner().unwrap())
}

/// A cluster with clients at work, until the final check.
struct Stage {
    plan: Plan,
    work: Arc<Work>,
    clients: Clients,
    slow: JoinSet<()>,
    subscriber: Subscriber,
    watch: Watch,
    injector: Injector,
}

impl Stage {
    /// Starts the clients of a cluster that is up.
    fn set(plan: Plan, cluster: Arc<Cluster>, small_disk: Option<Disk>) -> Self {
        let max = if plan.layouts { DESCRIPTORS_GROWN_MAX } else { DESCRIPTORS_MAX };
        (1..=cluster.process_count()).for_each(|number| cluster.limit_descriptors(number, max));
        let work = Arc::new(Work::new(cluster.clone(), !plan.restores));
        Self {
            clients: Clients::start(&work, plan.seed, (10, 2, 2)),
            slow: slow::start(&cluster),
            subscriber: Subscriber::start(&cluster, plan.seed),
            watch: Watch::start(&cluster),
            injector: Injector::new(cluster, small_disk, plan.layouts),
            work,
            plan,
        }
    }

    /// Ends all faults, makes the final check and prints the table.
    ///
    /// # Panics
    /// If any promise was broken.
    async fn conclude(self) {
        let Self { plan, work, clients, slow, subscriber, watch, injector } = self;
        let repeat = plan.to_string();
        let mut details = clients.stop().await;
        drop(slow);
        let (converged_in, more) = heal(&work, &injector).await;
        details.extend(more);
        let followed = subscriber.finish().await;
        let cluster = &work.cluster;
        let indexed = Indexed::ask(cluster).await;
        for number in cluster.all() {
            let (status, _) = cluster.terminate(number).await;
            assert!(status.success(), "n{number} ended with {status}");
        }
        let disks = Disks::open(cluster);
        let found = judge(&work, &disks, (&followed, &indexed), details);
        let report = Report {
            struck: injector.struck.into_iter().collect(),
            operations: work.operations.load(Relaxed),
            acks: work.acks.load(Relaxed),
            failures: work.failures.load(Relaxed),
            elements: work.record.acked(),
            removed: work.record.removed(),
            ended: work.deleted_keys.ended().len(),
            typed: work.typed_values.len(),
            indexed: indexed.len(),
            followed: (followed.changes, followed.lost, followed.expired),
            converged_in,
            layouts: injector.operator.map(|operator| Layouts {
                changes: operator.changes(),
                answers: operator.answers(),
                ended_in: operator.ended_in(),
                members: cluster.all().count(),
            }),
            reasons: work.reasons.all(),
            plan,
            disks,
            found,
            usage_max: watch.max(),
            restored: None,
        };
        eprintln!("{report}");
        assert!(report.is_clean(), "to repeat: {repeat}\n{}", report.details());
        assert!(report.elements > 100, "too few acknowledged writes to mean anything");
        assert!(report.typed > 0, "no typed values to mean anything");
        assert!(followed.changes > 0, "a subscriber that was told nothing means nothing");
    }
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

/// Injects faults until time is up, or a client has found something wrong. `after` is how long a part of the
/// storm before this one was.
async fn inject_faults(stage: &mut Stage, after: Duration) {
    let Stage { plan, work, clients, injector, .. } = stage;
    let begun = Instant::now();
    let mut told = begun;
    for (fault, pause) in Schedule::new(plan.seed, plan.nodes, plan.layouts) {
        let elapsed = begun.elapsed();
        if elapsed > plan.length || !clients.found().is_empty() {
            break;
        }
        let left = plan.length - elapsed;
        let round = (after + elapsed).as_secs() / ROUND.as_secs();
        work.round.store(round as usize, Relaxed);
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
        if let Some(operator) = &injector.operator {
            operator.end().await;
        }
        work.cluster.wait_all_up().await;
        eventually("the bucket has its n again", async || {
            injector.set_properties(work.cluster.some(0), N, 2).await.then_some(())
        })
        .await;
        work.cluster.wait_converged().await;
        if injector.operator.is_some() {
            work.cluster.wait_swept().await;
        }
        converged_in = begun.elapsed();
        work.cluster.wait_forgotten(work.deleted_keys.ended()).await;
    };
    // A timeout must not keep the table from being printed.
    let failed = AssertUnwindSafe(converge).catch_unwind().await.err();
    (converged_in, failed.map(|panic| clients::panic_message(&*panic)))
}

fn judge(
    work: &Work,
    disks: &Disks,
    (followed, indexed): (&Followed, &Indexed),
    details: Vec<String>,
) -> Findings {
    let mut found = Findings { details, ..Findings::default() };
    found.details.extend(disks.details.iter().cloned());
    for key in work.record.keys() {
        found.add(work.record.judge(&key, &disks.left(&key)));
    }
    for key in work.deleted_keys.keys() {
        found.add(work.deleted_keys.judge(&key, &disks.left(&key)));
    }
    found.details.extend(work.typed_values.judge(|key| disks.merged(key)));
    found.details.extend(followed.judge(|bucket| disks.of_bucket(bucket)));
    found.details.extend(indexed.judge(|bucket| disks.of_bucket(bucket)));
    found
}

impl fmt::Display for Plan {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.grows {
            return write!(f, "scripts/storm.sh --grow --seed {}", self.seed);
        }
        let (seconds, seed, nodes) = (self.length.as_secs(), self.seed, self.nodes);
        let how = if self.restores { " --restore" } else { "" };
        write!(f, "scripts/storm.sh{how} --seconds {seconds} --seed {seed} --nodes {nodes}")?;
        if self.restores {
            return Ok(());
        }
        if self.layouts { Ok(()) } else { write!(f, " --no-layouts") }
    }
}
