//! A storm after which all is lost: backups are made meanwhile, over and over; then every disk is wiped,
//! and one of them is restored as a new cluster. Everything acknowledged before its window must be there,
//! nothing deleted before it is back, nothing begun after it is there, and no dot is ever given to a second
//! value.

use std::collections::BTreeMap;
use std::sync::atomic::Ordering::Relaxed;
use std::time::Duration;

use quorate_protocol::clock::{Clock, Dot};
use serde_json::Value;
use tempfile::TempDir;

use super::backups::Backups;
use super::clients::Work;
use super::final_check::Disks;
use super::report::Report;
use super::{N, Plan, Stage, begin, inject_faults};
use crate::harness::{Cluster, eventually};
use crate::record::{Findings, Window};

/// Longer than in other storms: the copies of a backup must be made within half a grace, and a storm is no
/// quiet time.
const SETTINGS: &str = "\
[deletes]
grace_ms = 10000
reap_ms = 500
[anti_entropy]
interval_ms = 1000
[timeouts]
shutdown_ms = 2000
";
/// The id of the new cluster.
const NEW_ID: &str = "restored";
/// How many keys of each kind are written to after the restore, by how many nodes each.
const KEYS_WRITTEN: usize = 150;
const WRITERS: usize = 3;
/// How many requests are answered after the last backup.
const ACKS_AFTER: usize = 500;

/// What was restored, for the table.
pub(crate) struct Restored {
    pub(crate) made: usize,
    pub(crate) failed: usize,
    pub(crate) name: String,
    pub(crate) window: Window,
    pub(crate) elements: usize,
    pub(crate) deleted: usize,
    pub(crate) dots: usize,
}

#[tokio::test(flavor = "multi_thread")]
async fn a_backup_made_in_a_storm_is_restored_after_all_is_lost() {
    lose_and_restore(Plan { restores: true, ..Plan::short(5, 16) }).await;
}

/// Parameters: `STORM_SEED`, `STORM_SECONDS`, `STORM_NODES`.
#[tokio::test(flavor = "multi_thread")]
#[ignore = "of any length: scripts/storm.sh --restore"]
async fn a_storm_to_restore_from() {
    lose_and_restore(Plan { restores: true, ..Plan::ordered(120) }).await;
}

/// Runs the storm, the loss and the restore, and prints the table.
///
/// # Panics
/// If any promise was broken.
async fn lose_and_restore(plan: Plan) {
    eprintln!("To repeat this storm: {plan}");
    let half = plan.length / 2;
    let to = TempDir::new().unwrap();
    let mut stage = begin(Plan { length: half, ..plan.clone() }, SETTINGS).await;
    let backups = Backups::start(&stage.work.cluster, &to);
    inject_faults(&mut stage, Duration::ZERO).await;
    stage.injector.restore_all().await;
    backups.wait_for_another().await;
    stage.plan.seed = plan.seed.wrapping_add(1);
    inject_faults(&mut stage, half).await;
    let Stage { work, clients, slow, watch, injector, .. } = stage;
    let (made, failed) = backups.stop().await;
    injector.restore_all().await;
    // No backup has what is written from here on.
    let acks = work.acks.load(Relaxed);
    eventually("clients go on", async || {
        (work.acks.load(Relaxed) > acks + ACKS_AFTER).then_some(())
    })
    .await;
    let mut details = clients.stop().await;
    drop(slow);
    let (all, cluster) = (made.len(), &work.cluster);
    // Any of them must do: the seed says which.
    let (name, window) = made.into_iter().nth(plan.seed as usize % all).unwrap();

    let before = lose_all(cluster).await;
    let converged_in = restore(cluster, &to, &name).await;
    stop_all(cluster).await;
    let disks = Disks::open(cluster);
    cluster.all().for_each(|number| cluster.launch(number));
    cluster.wait_all_up().await;
    let (dots, more) = write_again(cluster, &before).await;
    details.extend(more);
    let report = Report {
        struck: injector.struck.into_iter().collect(),
        operations: work.operations.load(Relaxed),
        acks: work.acks.load(Relaxed),
        failures: work.failures.load(Relaxed),
        elements: work.record.acked(),
        removed: work.record.removed(),
        ended: work.deleted_keys.ended().len(),
        typed: work.typed_values.len(),
        followed: (0, 0, 0),
        indexed: 0,
        converged_in,
        layouts: None,
        restored: Some(Restored {
            made: all,
            failed,
            name,
            window,
            elements: work.record.acked_before(window),
            deleted: work.deleted_keys.ended_before(window),
            dots,
        }),
        reasons: work.reasons.all(),
        found: judge(&work, &disks, window, details),
        plan,
        disks,
        usage_max: watch.max(),
    };
    eprintln!("{report}");
    assert!(report.is_clean(), "to repeat: {}\n{}", report.plan, report.details());
    let certain = report.restored.as_ref().map_or(0, |restored| restored.elements);
    assert!(certain > 50 && dots > 50, "too few writes to mean anything");
    the_judge_can_find(&work, &report.disks, window);
}

/// A backup that was judged as if it had been made at the end lacks what was acknowledged since, and one
/// that was made before everything has what had not been written.
fn the_judge_can_find(work: &Work, disks: &Disks, window: Window) {
    let (first, last) = (0, u64::MAX);
    let late = judge(work, disks, Window { began_at: last, ended_at: last }, Vec::new());
    assert!(late.lost > 0, "nothing was acknowledged after {window:?}");
    let early = judge(work, disks, Window { began_at: first, ended_at: first }, Vec::new());
    assert!(early.phantom > 0, "nothing was written before {window:?}");
}

/// Loses all disks. Returns which dots were given to values of each key.
async fn lose_all(cluster: &Cluster) -> BTreeMap<String, Clock> {
    cluster.all().for_each(|number| cluster.kill(number));
    let before = Disks::open(cluster).clocks();
    cluster.lose_everything(NEW_ID).await;
    before
}

/// Brings a backup back, and waits until the replicas are equal. Returns how long that took.
async fn restore(cluster: &Cluster, from: &TempDir, name: &str) -> Duration {
    for number in cluster.all() {
        cluster.restore(number, from.path(), &["--new-cluster", "--backup", name]);
    }
    let begun = std::time::Instant::now();
    cluster.all().for_each(|number| cluster.launch(number));
    cluster.wait_all_up().await;
    // It may have been another one when the backup was made.
    eventually("the bucket has its n again", async || {
        let properties = format!("{{\"n\": {N}, \"w\": 2}}");
        let put = cluster.at(cluster.some(0)).put("/buckets/storm").value(properties);
        put.try_answer().await.ok().filter(|answer| answer.status == 200)
    })
    .await;
    cluster.wait_converged().await;
    begun.elapsed()
}

async fn stop_all(cluster: &Cluster) {
    for number in cluster.all() {
        let (status, _) = cluster.terminate(number).await;
        assert!(status.success(), "n{number} ended with {status}");
    }
}

fn judge(work: &Work, disks: &Disks, window: Window, details: Vec<String>) -> Findings {
    let mut found = Findings { details, ..Findings::default() };
    found.details.extend(disks.details.iter().cloned());
    for key in work.record.keys() {
        found.add(work.record.judge_restored(&key, &disks.left(&key), window));
    }
    for key in work.deleted_keys.keys() {
        found.add(work.deleted_keys.judge_restored(&key, &disks.left(&key), window));
    }
    found
}

/// Writes over what was restored, through several nodes. Returns how many dots were seen that are new, and
/// what is wrong with the others: *no dot stands for two values*.
async fn write_again(cluster: &Cluster, before: &BTreeMap<String, Clock>) -> (usize, Vec<String>) {
    let (mut fresh, mut wrong) = (0, Vec::new());
    for bucket in ["storm/", "gone/"] {
        let keys = before.iter().filter(|(key, _)| key.starts_with(bucket)).take(KEYS_WRITTEN);
        for (at, (key, clock)) in keys.enumerate() {
            let mut values = BTreeMap::new();
            for writer in 0..WRITERS {
                let number = cluster.some(at + writer);
                let value = format!("{key} again, by n{number}");
                let Some(dot) = write_one(cluster, number, key, &value).await else { continue };
                fresh += 1;
                if clock.covers(dot) {
                    wrong.push(format!("{key}: {dot} was given before all was lost, and again"));
                }
                if values.insert(dot, number).is_some() {
                    wrong.push(format!("{key}: {dot} was given twice after the restore"));
                }
            }
        }
    }
    (fresh, wrong)
}

/// Writes a value over all there is, and returns its dot.
async fn write_one(cluster: &Cluster, number: usize, key: &str, value: &str) -> Option<Dot> {
    let node = cluster.at(number);
    let read = node.get(&format!("/kv/{key}")).answer().await;
    let put = node.put(&format!("/kv/{key}")).value(value.to_owned());
    let put = put.context(read.context()).answer().await;
    assert!([200, 204].contains(&put.status), "{key}: {} {}", put.status, put.text());
    let shown = node.get(&format!("/siblings/{key}")).answer().await.json();
    let siblings = shown["siblings"].as_array()?;
    let own: Option<&Value> = siblings.iter().find(|sibling| sibling["value"] == value);
    own?["dot"].as_str()?.parse().ok()
}
