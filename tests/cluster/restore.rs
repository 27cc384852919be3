//! Clusters that are restored from backups, that lost the disks of all replicas of something, or
//! that have two processes under one name: nothing is destroyed on suspicion, nothing that is gone
//! is reported as never written, and one operator command suffices.

use std::collections::BTreeSet;
use std::path::PathBuf;
use std::time::Duration;

use crate::backup::copy_directory;
use crate::harness::{Cluster, Setup, eventually, within};
use crate::load::put_all;

/// Tombstones are reaped, and rows become too old to be trusted, after a few seconds.
const SETTINGS: &str =
    "[anti_entropy]\ninterval_ms = 1000\n[deletes]\ngrace_ms = 4000\nreap_ms = 500\n";
const OLDER_THAN_THE_GRACE: Duration = Duration::from_secs(5);
const LONG: Duration = Duration::from_secs(60);

impl Cluster {
    /// What `quorate distrusted` prints, asked through a node.
    fn distrusted(&self, what: &str, through: usize) -> String {
        let mut command = std::process::Command::new(env!("CARGO_BIN_EXE_quorate"));
        command.args(["distrusted", what, "--config"]).arg(self.config(through));
        let output = command.output().unwrap();
        let told = String::from_utf8_lossy(&output.stdout).into_owned();
        assert!(output.status.success(), "{told}{}", String::from_utf8_lossy(&output.stderr));
        told
    }

    /// Reads keys through all nodes in turn; returns how many are readable and how many are
    /// refused. None may be reported as never written.
    async fn count_readable(&self, keys: &[String]) -> (usize, usize) {
        let (mut there, mut refused) = (0, 0);
        for (at, key) in keys.iter().enumerate() {
            let number = 1 + at % self.all().count();
            match self.at(number).get(&format!("/kv/{key}")).try_answer().await {
                Ok(read) if read.status == 200 => there += 1,
                Ok(read) if read.status == 503 => refused += 1,
                Ok(read) => panic!("{key} through n{number}: {} {}", read.status, read.text()),
                Err(_) => refused += 1, // it starts over
            }
        }
        (there, refused)
    }

    async fn wait_readable(&self, keys: &[String]) {
        within(LONG, "all keys are there again", async || {
            let (there, _) = self.count_readable(keys).await;
            (there == keys.len()).then_some(())
        })
        .await;
    }

    /// Waits until a node says on `/readyz` that an operator must decide.
    async fn wait_for_operator_prompt(&self, number: usize) {
        within(LONG, &format!("n{number} says what it waits for"), async || {
            let ready = self.at(number).get("/readyz").try_answer().await.ok()?;
            (ready.status == 503 && ready.text().contains("quorate distrusted")).then_some(())
        })
        .await;
    }
}

/// Waits until every node of the cluster, asked through one, says that an operator must decide:
/// none is still starting over.
async fn wait_for_all_operator_prompts(cluster: &Cluster, through: usize) {
    within(LONG, "all nodes say what they wait for", async || {
        let told = cluster.at(through).get("/distrusted").try_answer().await.ok()?.json();
        let nodes = told["nodes"].as_array()?;
        let all = nodes.len() == cluster.all().count();
        (all && nodes.iter().all(|node| node["waits"].is_string())).then_some(())
    })
    .await;
}

/// An ordinary rolling backup: each node in turn is stopped, copied and started.
async fn back_up_all(cluster: &Cluster) -> Vec<PathBuf> {
    let mut copies = Vec::new();
    for number in cluster.all() {
        cluster.terminate(number).await;
        let copy = cluster.data_dir(number).with_file_name("backup");
        copy_directory(&cluster.data_dir(number), &copy);
        copies.push(copy);
        cluster.restart(number).await;
    }
    copies
}

async fn restore_all(cluster: &Cluster, copies: &[PathBuf]) {
    for number in cluster.all() {
        cluster.terminate(number).await;
        cluster.wipe(number);
        copy_directory(&copies[number - 1], &cluster.data_dir(number));
    }
    cluster.all().for_each(|number| cluster.launch(number));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_cluster_restored_from_old_backups_loses_nothing_and_needs_one_command() {
    for nodes in [3, 5] {
        let cluster = Cluster::start(Setup { settings: SETTINGS, ..Setup::synced(nodes) }).await;
        let keys: Vec<String> = (0..100).map(|at| format!("restored/k{at}")).collect();
        let through: Vec<usize> = cluster.all().collect();
        put_all(&cluster, &keys, "v", &through).await;
        cluster.wait_converged().await;
        let copies = back_up_all(&cluster).await;
        tokio::time::sleep(OLDER_THAN_THE_GRACE).await; // lets the backup grow old
        restore_all(&cluster, &copies).await;
        let first = *through.first().unwrap();
        cluster.wait_for_operator_prompt(first).await;
        wait_for_all_operator_prompts(&cluster, first).await;
        cluster.count_readable(&keys).await; // none is called never written
        let told = cluster.distrusted("list", first);
        assert!(told.contains("waits:"), "{told}");
        let told = cluster.distrusted("accept", first);
        assert!(!told.contains("does not answer"), "{told}");
        cluster.wait_readable(&keys).await;
        cluster.wait_all_up().await;
        cluster.wait_converged().await;
        eventually("nothing is distrusted any more", async || {
            let told = cluster.distrusted("list", nodes);
            told.lines().all(|line| line.ends_with("nothing is distrusted")).then_some(())
        })
        .await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_lost_all_its_replicas_is_not_called_never_written() {
    let cluster = Cluster::start(Setup::synced(5)).await;
    let lost = cluster.keys_where("lost", 10, |list| {
        list[..3].iter().copied().collect::<BTreeSet<_>>() == BTreeSet::from([1, 2, 3])
    });
    let kept = cluster.keys_where("lost", 20, |list| list[..3].contains(&4));
    put_all(&cluster, &lost, "v", &[1]).await;
    put_all(&cluster, &kept, "v", &[1]).await;
    cluster.wait_converged().await;
    for number in 1..=3 {
        cluster.kill(number);
        cluster.wipe(number);
    }
    (1..=3).for_each(|number| cluster.launch(number));
    cluster.wait_for_operator_prompt(2).await;
    cluster.wait_readable(&kept).await;
    assert_eq!(cluster.count_readable(&lost).await, (0, lost.len()));
    // n2 asks for an operator as soon as one of the three does, before it has counted itself.
    within(LONG, "n2 counts what is lost", async || {
        let status = cluster.at(2).get("/cluster").answer().await.json();
        (status["lost_partitions"].as_u64()? > 0).then_some(())
    })
    .await;
    // Writes are still accepted, and an operator accepts that the rest is gone.
    put_all(&cluster, &lost[..3], "w", &[4]).await;
    cluster.distrusted("accept", 4);
    cluster.wait_readable(&lost[..3]).await;
    within(LONG, "the lost keys are reported as absent", async || {
        let read = cluster.at(5).get(&format!("/kv/{}", lost[9])).answer().await;
        assert!([404, 503].contains(&read.status), "{}", read.text());
        (read.status == 404).then_some(())
    })
    .await;
    cluster.wait_all_up().await;
}

/// Both peers lost their disks while the third was away for longer than the grace.
#[tokio::test(flavor = "multi_thread")]
async fn a_survivor_that_was_away_for_long_says_what_it_waits_for() {
    let cluster = Cluster::start(Setup { settings: SETTINGS, ..Setup::synced(3) }).await;
    let keys: Vec<String> = (0..50).map(|at| format!("survivor/k{at}")).collect();
    put_all(&cluster, &keys, "v", &[1, 2, 3]).await;
    cluster.wait_converged().await;
    for number in cluster.all() {
        cluster.terminate(number).await;
    }
    tokio::time::sleep(OLDER_THAN_THE_GRACE).await; // lets the grace pass
    for number in [1, 2] {
        cluster.wipe(number);
    }
    cluster.all().for_each(|number| cluster.launch(number));
    cluster.wait_for_operator_prompt(3).await;
    wait_for_all_operator_prompts(&cluster, 3).await;
    assert_eq!(cluster.count_readable(&keys).await.0, 0);
    cluster.distrusted("accept", 1);
    cluster.wait_readable(&keys).await;
    cluster.wait_all_up().await;
}

/// An old backup among peers that continued: what they have is dropped, what was deleted stays
/// deleted, and what no peer has is kept and reported until it is discarded.
#[tokio::test(flavor = "multi_thread")]
async fn an_old_backup_revives_nothing_and_is_kept_until_it_is_covered() {
    let cluster = Cluster::start(Setup { settings: SETTINGS, ..Setup::synced(3) }).await;
    let keys: Vec<String> = (0..40).map(|at| format!("old/k{at}")).collect();
    put_all(&cluster, &keys, "v", &[1, 2]).await;
    cluster.wait_converged().await;
    cluster.terminate(3).await;
    let copy = cluster.data_dir(3).with_file_name("backup");
    copy_directory(&cluster.data_dir(3), &copy);
    cluster.restart(3).await;
    cluster.wait_all_up().await;
    let (deleted, kept) = keys.split_at(10);
    for key in deleted {
        assert_eq!(cluster.at(1).delete(&format!("/kv/{key}?w=3")).answer().await.status, 204);
    }
    within(LONG, "the deleted keys are forgotten", async || {
        let mut reaped = 0;
        for number in cluster.all() {
            let report = cluster.at(number).get("/anti-entropy").answer().await.json();
            reaped += report["reaper"]["rows_reaped"].as_u64().unwrap();
        }
        (reaped == 3 * deleted.len() as u64).then_some(())
    })
    .await;
    cluster.terminate(3).await;
    cluster.wipe(3);
    copy_directory(&copy, &cluster.data_dir(3));
    cluster.launch(3);
    within(LONG, "only what was deleted is left aside", async || {
        let told = cluster.at(2).get("/distrusted").answer().await.json();
        let node = told["nodes"].as_array()?.iter().find(|node| node["node"] == "n3")?.clone();
        let unknown = node["unknown_keys"].as_array()?.len();
        (node["covered"] == kept.len() && unknown == deleted.len()).then_some(())
    })
    .await;
    cluster.wait_all_up().await;
    cluster.wait_readable(kept).await;
    for key in deleted {
        let gone = async || {
            let read = cluster.at(3).get(&format!("/kv/{key}?r=3")).answer().await;
            assert!([404, 503].contains(&read.status), "{key}: {}", read.text());
            (read.status == 404).then_some(())
        };
        eventually("all replicas say that it is gone", gone).await;
    }
    cluster.distrusted("discard", 1);
    eventually("it is discarded", async || {
        cluster.distrusted("list", 3).contains("n3: nothing is distrusted").then_some(())
    })
    .await;
}
