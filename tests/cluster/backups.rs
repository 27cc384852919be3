//! `quorate backup` and `quorate restore`, with real processes: everything acknowledged before a backup is
//! back after all disks were wiped, what was deleted before stays deleted, and what an operator might do
//! wrong is refused.

use std::collections::BTreeSet;
use std::path::Path;
use std::process::{Command, Output};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::time::Duration;

use serde_json::Value;
use tempfile::TempDir;

use crate::harness::{Cluster, Setup, eventually, within};
use crate::load::put_all;
use crate::record::now_ms;

const SETTINGS: &str =
    "[anti_entropy]\ninterval_ms = 1000\n[deletes]\ngrace_ms = 20000\nreap_ms = 500\n";
const LONG: Duration = Duration::from_secs(60);

pub(crate) fn quorate(arguments: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_quorate"));
    command.args(arguments);
    command
}

pub(crate) fn text(output: &Output) -> String {
    let both = [&output.stdout[..], &output.stderr[..]].concat();
    String::from_utf8_lossy(&both).into_owned()
}

/// Keys of a bucket.
fn keys(bucket: &str, count: usize) -> Vec<String> {
    (0..count).map(|at| format!("{bucket}/k{at}")).collect()
}

impl Cluster {
    /// Makes a backup of the whole cluster, and returns what it says.
    fn back_up_to(&self, to: &Path, name: &str) -> Value {
        let made = self.try_back_up(to, &["--name", name]);
        assert!(made.status.success(), "{}", text(&made));
        serde_json::from_slice(&made.stdout).unwrap()
    }

    fn try_back_up(&self, to: &Path, more: &[&str]) -> Output {
        let mut command = quorate(&["backup", "--json", "--to"]);
        command.arg(to).args(more).arg("--url");
        command.arg(format!("http://{}", self.client_addr(1))).output().unwrap()
    }

    fn try_restore(&self, number: usize, from: &Path, more: &[&str]) -> Output {
        let mut command = quorate(&["restore", "--from"]);
        command.arg(from).arg("--config").arg(self.config(number)).args(more).output().unwrap()
    }

    pub(crate) fn restore(&self, number: usize, from: &Path, more: &[&str]) -> String {
        let restored = self.try_restore(number, from, more);
        assert!(restored.status.success(), "n{number}: {}", text(&restored));
        text(&restored)
    }

    /// Stops all nodes, empties their disks, and gives their configurations another cluster id.
    pub(crate) async fn lose_everything(&self, new_id: &str) {
        for number in self.all() {
            if self.is_running(number) {
                self.terminate(number).await;
            }
            if self.data_dir(number).exists() {
                self.wipe(number);
            }
            self.rename(number, new_id);
        }
    }

    fn rename(&self, number: usize, id: &str) {
        let text = self.configuration(number);
        let renamed = text.lines().map(|line| match line.starts_with("cluster_id") {
            true => format!("cluster_id = \"{id}\"\n"),
            false => format!("{line}\n"),
        });
        self.configure(number, &renamed.collect::<String>());
    }

    async fn status_of(&self, key: &str) -> u16 {
        let number = self.some(key.len() + key.bytes().map(usize::from).sum::<usize>());
        self.at(number).get(&format!("/kv/{key}")).answer().await.status
    }

    /// The dots of a key that a node shows.
    pub(crate) async fn dots_of(&self, key: &str) -> BTreeSet<String> {
        let shown = self.at(1).get(&format!("/siblings/{key}")).answer().await.json();
        let siblings = shown["siblings"].as_array().cloned().unwrap_or_default();
        siblings.iter().map(|it| it["dot"].as_str().unwrap().to_owned()).collect()
    }
}

/// Writes new keys until it is told to stop; each with the time at which its write was acknowledged.
async fn write_on(cluster: Arc<Cluster>, stop: Arc<AtomicBool>) -> Vec<(String, u64)> {
    let mut acked = Vec::new();
    for turn in 0.. {
        if stop.load(Relaxed) {
            break;
        }
        let key = format!("during/k{turn}");
        let node = cluster.at(cluster.some(turn));
        let put = node.put(&format!("/kv/{key}")).value(key.clone()).answer().await;
        if put.status == 204 {
            acked.push((key, now_ms()));
        }
    }
    acked
}

#[tokio::test(flavor = "multi_thread")]
async fn a_cluster_that_lost_all_its_disks_is_restored_under_a_new_id() {
    let cluster = Cluster::start(Setup { settings: SETTINGS, ..Setup::synced(5) }).await;
    let to = TempDir::new().unwrap();
    let (kept, deleted, hinted, later) =
        (keys("kept", 60), keys("deleted", 20), keys("hinted", 40), keys("later", 20));
    put_all(&cluster, &kept, "before", &[1, 2, 3, 4, 5]).await;
    put_all(&cluster, &deleted, "before", &[1, 2, 3]).await;
    for key in &deleted {
        let gone = cluster.at(2).delete(&format!("/kv/{key}")).answer().await;
        assert_eq!(gone.status, 204, "{key}");
    }
    // Hints, some of which are being delivered while the nodes are copied.
    cluster.kill(5);
    put_all(&cluster, &hinted, "before", &[1, 2, 3, 4]).await;
    cluster.restart(5).await;

    let stop = Arc::new(AtomicBool::new(false));
    let writer = tokio::spawn(write_on(cluster.clone(), stop.clone()));
    let first = cluster.back_up_to(to.path(), "first");
    stop.store(true, Relaxed);
    let during = writer.await.unwrap();
    let began_at = first["began_at"].as_u64().unwrap();
    let certain = during.iter().filter(|(_, at)| *at < began_at).count();
    assert!(certain > 0 && certain < during.len(), "{certain} of {} before it", during.len());

    put_all(&cluster, &later, "after", &[1, 2, 3]).await;
    put_all(&cluster, &kept, "after", &[4, 5]).await;
    let mut dots = BTreeSet::new();
    for key in &kept {
        dots.extend(cluster.dots_of(key).await);
    }
    let second = cluster.back_up_to(to.path(), "second");
    let copied = |made: &Value| made["copied_bytes"].as_u64().unwrap();
    assert!(copied(&first) > 0 && copied(&second) < second["bytes"].as_u64().unwrap());
    let listed = quorate(&["backup", "list", "--to"]).arg(to.path()).output().unwrap();
    assert!(text(&listed).contains("first") && text(&listed).contains("second"), "{listed:?}");
    let sound = quorate(&["backup", "verify", "first", "--to"]).arg(to.path()).output().unwrap();
    assert!(sound.status.success(), "{}", text(&sound));

    cluster.lose_everything("restored").await;
    for number in cluster.all() {
        let told = cluster.restore(number, to.path(), &["--new-cluster", "--backup", "first"]);
        assert!(told.contains("epoch 2"), "{told}");
    }
    cluster.all().for_each(|number| cluster.launch(number));
    cluster.wait_all_up().await;
    for key in kept.iter().chain(&hinted) {
        let read = cluster.at(3).get(&format!("/kv/{key}")).answer().await;
        assert_eq!((read.status, read.text().as_str()), (200, "before"), "{key}");
    }
    for key in &deleted {
        assert_eq!(cluster.status_of(key).await, 404, "{key}");
    }
    for (key, _) in during.iter().filter(|(_, at)| *at < began_at) {
        assert_eq!(cluster.status_of(key).await, 200, "{key} was acknowledged before the backup");
    }
    for key in &later {
        assert_eq!(cluster.status_of(key).await, 404, "{key} was written after the backup");
    }
    new_writes_are_new(&cluster, &kept, &dots).await;
    it_settles(&cluster, &deleted).await;
}

/// What is written after the restore has dots that the old cluster never had.
async fn new_writes_are_new(cluster: &Arc<Cluster>, kept: &[String], old: &BTreeSet<String>) {
    put_all(cluster, kept, "restored", &[1, 2, 3, 4, 5]).await;
    let mut fresh = 0;
    for key in kept {
        let shown = cluster.at(1).get(&format!("/siblings/{key}")).answer().await.json();
        for sibling in shown["siblings"].as_array().unwrap() {
            let dot = sibling["dot"].as_str().unwrap();
            fresh += usize::from(!old.contains(dot) && sibling["value"] == "restored");
            assert!(sibling["value"] != "restored" || !old.contains(dot), "{key}: {dot} again");
        }
    }
    assert!(fresh >= kept.len(), "{fresh}");
}

/// The members have votes, replicas become equal, and tombstones are reaped once all have compared.
async fn it_settles(cluster: &Arc<Cluster>, deleted: &[String]) {
    let layout = cluster.at(4).get("/layout").answer().await.json();
    assert_eq!((&layout["epoch"], &layout["phase"]), (&"2".into(), &"stable".into()));
    cluster.wait_converged().await;
    let waits = async || {
        for number in cluster.all() {
            let jobs = cluster.at(number).get("/jobs").answer().await.json();
            let reap = jobs["jobs"].as_array()?.iter().find(|job| job["job"] == "reap")?.clone();
            if reap["reason"] == "not compared" {
                return None;
            }
        }
        Some(())
    };
    within(LONG, "every pair has compared", waits).await;
    for key in deleted {
        assert_eq!(cluster.status_of(key).await, 404, "{key}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_an_operator_might_do_wrong_is_refused() {
    let cluster = Cluster::start(Setup { settings: SETTINGS, ..Setup::of(3) }).await;
    let to = TempDir::new().unwrap();
    put_all(&cluster, &keys("kept", 40), "before", &[1, 2, 3]).await;
    cluster.back_up_to(to.path(), "b1");
    let new = ["--new-cluster", "--backup", "b1"];
    let refused = |number: usize, more: &[&str], why: &str| {
        let told = cluster.try_restore(number, to.path(), more);
        assert!(!told.status.success() && text(&told).contains(why), "{why}: {}", text(&told));
    };
    let again = cluster.try_back_up(to.path(), &["--name", "b1"]);
    assert!(!again.status.success() && text(&again).contains("already"), "{}", text(&again));
    refused(1, &new, "an id of its own");
    refused(1, &["--as-seed", "--backup", "b9"], "there is no backup b9");
    refused(1, &["--as-seed", "--node", "n2"], "restores its own copy");
    refused(1, &["--as-seed"], "is not empty");

    // One node is gone: a backup must not silently lack it.
    cluster.terminate(3).await;
    let lacking = cluster.try_back_up(to.path(), &["--name", "b2"]);
    assert_eq!(lacking.status.code(), Some(5), "{}", text(&lacking));
    assert!(text(&lacking).contains("n3: "), "{}", text(&lacking));
    let without = cluster.try_back_up(to.path(), &["--name", "b2", "--allow-missing", "n3"]);
    assert!(without.status.success() && text(&without).contains("n3"), "{}", text(&without));

    cluster.wipe(3);
    cluster.rename(3, "other");
    refused(3, &["--as-seed", "--backup", "b1"], "only in its own cluster");
    refused(3, &new, "of another cluster or with other keys");
    cluster.rename(3, "tests");
    refused(3, &new, "an id of its own");
    cluster.lose_everything("other").await;
    damaged_and_mixed(&cluster, to.path()).await;
}

/// Copies that are not whole, and nodes that do not fit together.
async fn damaged_and_mixed(cluster: &Arc<Cluster>, to: &Path) {
    let new = ["--new-cluster", "--backup", "b1"];
    let refused = |number: usize, more: &[&str], why: &str| {
        let told = cluster.try_restore(number, to, more);
        assert!(!told.status.success() && text(&told).contains(why), "{why}: {}", text(&told));
        let left = std::fs::read_dir(cluster.data_dir(number)).map(Iterator::count).unwrap_or(0);
        assert_eq!(left, 0, "nothing of it is left after: {why}");
    };
    // Another layout.
    let config = cluster.configuration(1);
    cluster.configure(1, &config.replacen("partitions = 64", "partitions = 128", 1));
    refused(1, &new, "partitions is 128 and was 64");
    cluster.configure(1, &config);

    // A file is damaged, then missing.
    let manifest = std::fs::read(to.join("backups/b1/nodes/n1.json")).unwrap();
    let manifest: Value = serde_json::from_slice(&manifest).unwrap();
    let table = manifest["files"].as_array().unwrap().iter();
    let table = table.max_by_key(|file| file["bytes"].as_u64()).unwrap();
    let pool = to.join("files").join(table["blake3"].as_str().unwrap());
    let whole = std::fs::read(&pool).unwrap();
    let mut bytes = whole.clone();
    bytes[whole.len() / 2] ^= 1;
    std::fs::write(&pool, bytes).unwrap();
    refused(1, &new, "is damaged in the backup");
    std::fs::remove_file(&pool).unwrap();
    refused(1, &new, "is missing in the backup");
    let verified = quorate(&["backup", "verify", "b1", "--to"]).arg(to).output().unwrap();
    assert_eq!(verified.status.code(), Some(1), "{}", text(&verified));
    std::fs::write(&pool, whole).unwrap();

    // The manifest of another node in its place, and one of a newer release.
    let own = to.join("backups/b1/nodes/n1.json");
    let other = std::fs::read(to.join("backups/b1/nodes/n2.json")).unwrap();
    let before = std::fs::read(&own).unwrap();
    std::fs::write(&own, other).unwrap();
    refused(1, &new, "is not the one that was written");
    std::fs::write(&own, before).unwrap();
    let whole = to.join("backups/b1/manifest.json");
    let before = std::fs::read_to_string(&whole).unwrap();
    std::fs::write(&whole, before.replace("\"format\": 1", "\"format\": 2")).unwrap();
    refused(1, &new, "by a newer release");
    std::fs::remove_file(&whole).unwrap();
    refused(1, &new, "was never finished");
    std::fs::write(&whole, before).unwrap();

    // A restored node runs already, of another backup.
    cluster.restore(1, to, &["--new-cluster", "--backup", "b2"]);
    cluster.launch(1);
    eventually("n1 answers", async || cluster.at(1).get("/livez").try_answer().await.ok()).await;
    refused(2, &new, "is never restored into a cluster that lives");
    // Of the same one they go together; n3 is not in it, and begins empty.
    for number in [2, 3] {
        cluster.restore(number, to, &["--new-cluster", "--backup", "b2"]);
        cluster.launch(number);
        eventually("it answers", async || cluster.at(number).get("/livez").try_answer().await.ok())
            .await;
    }
    cluster.wait_all_up().await;
    for key in keys("kept", 40) {
        eventually("n3 serves what it has filled", async || {
            let read = cluster.at(3).get(&format!("/kv/{key}")).answer().await;
            (read.status == 200).then_some(())
        })
        .await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_node_that_lost_its_disk_goes_on_as_a_seed() {
    let cluster = Cluster::start(Setup { settings: SETTINGS, ..Setup::synced(3) }).await;
    let to = TempDir::new().unwrap();
    let (old, new) = (keys("old", 60), keys("new", 60));
    put_all(&cluster, &old, "v", &[1, 2, 3]).await;
    cluster.back_up_to(to.path(), "b1");
    put_all(&cluster, &new, "v", &[1, 2, 3]).await;
    put_all(&cluster, &old, "w", &[1, 2, 3]).await;
    let runs = cluster.try_restore(3, to.path(), &["--as-seed"]);
    assert!(text(&runs).contains("is not empty"), "{}", text(&runs));
    cluster.kill(3);
    cluster.wipe(3);
    cluster.restore(3, to.path(), &["--as-seed"]);
    cluster.launch(3);
    cluster.wait_ready(3).await;
    eventually("n3 is filled", async || cluster.is_filled(3).await.then_some(())).await;
    let log = cluster.log(3);
    assert!(log.contains("filling from the other home replicas"), "{log}");
    cluster.wait_all_up().await;
    cluster.wait_converged().await;
    for key in new.iter().chain(&old) {
        let read = cluster.at(3).get(&format!("/kv/{key}?r=1")).answer().await;
        assert!([200, 300].contains(&read.status), "{key}: {}", read.text());
    }
    // It votes again, as another disk.
    let voting = async || {
        let shown = cluster.at(1).get("/layout").answer().await.json();
        (shown["epoch"] == "2").then_some(())
    };
    within(LONG, "its new disk is in the record", voting).await;
}
