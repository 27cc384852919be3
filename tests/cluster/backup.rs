//! A node that comes back with an old copy of its data directory: it reports no key written since
//! as absent, mints no dot twice, and receives what it is missing.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use crate::harness::{Cluster, Setup, eventually, within};
use crate::load::put_all;
use crate::record::{Record, View};

/// The node that has a backup.
const NODE: usize = 3;

impl Cluster {
    /// Copies the data directory of a node that does not run.
    fn back_up(&self, number: usize, name: &str) -> PathBuf {
        assert!(!self.is_running(number), "n{number} runs");
        let copy = self.data_dir(number).with_file_name(name);
        copy_directory(&self.data_dir(number), &copy);
        copy
    }

    /// Puts a copy in place of a node's data directory, which is kept under another name.
    fn swap_in(&self, number: usize, copy: &Path, aside: &str) -> PathBuf {
        assert!(!self.is_running(number), "n{number} runs");
        let aside = self.data_dir(number).with_file_name(aside);
        fs::rename(self.data_dir(number), &aside).unwrap();
        fs::rename(copy, self.data_dir(number)).unwrap();
        aside
    }

    /// Waits until a node takes requests and has received all its partitions; it may have to start
    /// over first.
    async fn wait_filled(&self, number: usize) {
        self.wait_ready(number).await;
        let filled = async || self.is_filled(number).await.then_some(());
        eventually(&format!("n{number} is filled"), filled).await;
    }
}

pub(crate) fn copy_directory(from: &Path, to: &Path) {
    fs::create_dir(to).unwrap();
    for entry in fs::read_dir(from).unwrap() {
        let entry = entry.unwrap();
        let to = to.join(entry.file_name());
        if entry.file_type().unwrap().is_dir() {
            copy_directory(&entry.path(), &to);
        } else {
            fs::copy(entry.path(), to).unwrap();
        }
    }
}

/// Adds an element to each key through a node, on top of what is there.
async fn add_to_all(cluster: &Cluster, record: &Record, keys: &[String], through: usize) {
    for key in keys {
        let node = cluster.at(through);
        let seen = record.read(&node, key, 2).await.unwrap_or_default();
        let put = record.add(&node, key, &seen).await.unwrap();
        assert_eq!(put.status, 204, "{key}: {}", put.text());
    }
}

/// Until a node is filled, it shows each key or refuses, whatever the request.
async fn read_until_filled(cluster: &Cluster, keys: &[String], number: usize) {
    eventually(&format!("n{number} is filled"), async || {
        for key in keys {
            let path = format!("/kv/{key}?r=1");
            let Ok(read) = cluster.at(number).get(&path).try_answer().await else { continue };
            assert!([200, 300, 503].contains(&read.status), "{key}: {}", read.text());
        }
        cluster.is_filled(number).await.then_some(())
    })
    .await;
}

async fn check(cluster: &Cluster, record: &Record, keys: &[String]) {
    cluster.wait_all_up().await;
    cluster.wait_converged().await;
    for key in keys {
        let left = cluster.inspect(NODE, key).await;
        record.check_final(key, &left);
    }
}

/// Three nodes, so that every node is a home replica of every key and mints its own writes.
#[tokio::test(flavor = "multi_thread")]
async fn a_node_with_an_old_backup_is_told_so_and_fills() {
    for is_clean in [true, false] {
        let cluster = Cluster::start(Setup::of(3)).await;
        let record = Arc::new(Record::new(&cluster, 3));
        let keys: Vec<String> = (0..60).map(|at| format!("backup/k{at}")).collect();
        let (old, new) = keys.split_at(30);
        add_to_all(&cluster, &record, old, NODE).await;
        if is_clean {
            cluster.terminate(NODE).await;
        } else {
            cluster.kill(NODE);
        }
        let copy = cluster.back_up(NODE, "backup");
        cluster.restart(NODE).await;
        cluster.wait_all_up().await;
        add_to_all(&cluster, &record, &keys, NODE).await;
        cluster.terminate(NODE).await;
        cluster.swap_in(NODE, &copy, "lost");
        cluster.launch(NODE);
        read_until_filled(&cluster, new, NODE).await;
        add_to_all(&cluster, &record, &keys, NODE).await;
        check(&cluster, &record, &keys).await;
        let told = cluster.log(NODE);
        assert!(told.contains("behind"), "the node was told: {told}");
    }
}

/// Two copies of one directory alternate: each time the one that was away longer is behind.
#[tokio::test(flavor = "multi_thread")]
async fn two_clones_of_a_node_that_take_turns_mint_no_dot_twice() {
    let cluster = Cluster::start(Setup::of(3)).await;
    let record = Arc::new(Record::new(&cluster, 3));
    let keys: Vec<String> = (0..20).map(|at| format!("clone/k{at}")).collect();
    add_to_all(&cluster, &record, &keys, NODE).await;
    cluster.terminate(NODE).await;
    let mut other = cluster.back_up(NODE, "clone-0");
    for turn in 1..4 {
        cluster.restart(NODE).await;
        cluster.wait_filled(NODE).await;
        for blind in [false, true] {
            for key in &keys {
                let node = cluster.at(NODE);
                let seen = record.read(&node, key, 2).await.unwrap_or_default();
                let seen = if blind { View::default() } else { seen };
                let put = record.add(&node, key, &seen).await.unwrap();
                assert_eq!(put.status, 204, "{key}: {}", put.text());
            }
        }
        cluster.terminate(NODE).await;
        other = cluster.swap_in(NODE, &other, &format!("clone-{turn}"));
    }
    cluster.restart(NODE).await;
    cluster.wait_filled(NODE).await;
    check(&cluster, &record, &keys).await;
}

/// A copied disk (a cloned machine) that runs at the same time as the original: one of the two
/// stops for good and says why, the other continues, and they do not keep restarting each other.
#[tokio::test(flavor = "multi_thread")]
async fn of_a_node_and_its_clone_that_run_at_once_one_ends_for_good() {
    let cluster = Cluster::start(Setup::of(3)).await;
    let keys: Vec<String> = (0..20).map(|at| format!("clone/k{at}")).collect();
    put_all(&cluster, &keys, "v", &[1, 2, 3]).await;
    cluster.terminate(NODE).await;
    let dir = tempfile::tempdir().unwrap();
    let clone = cluster.twin(NODE, dir.path());
    copy_directory(&cluster.data_dir(NODE), &clone.data_dir());
    cluster.restart(NODE).await;
    cluster.wait_all_up().await;
    clone.launch();
    within(Duration::from_secs(60), "one of the two has ended", async || {
        (cluster.ended(NODE).is_some() || clone.ended().is_some()).then_some(())
    })
    .await;
    let (original_ended, clone_ended) = (cluster.ended(NODE).is_some(), clone.ended().is_some());
    assert!(original_ended != clone_ended, "both ended");
    let told = if clone_ended { clone.log_text() } else { cluster.log(NODE) };
    assert!(told.contains("another process has started under this node's name"), "{told}");
    let starts = cluster.log(NODE).matches("listening").count();
    assert!(starts + clone.log_text().matches("listening").count() <= 5, "they take turns");
    if original_ended {
        // A supervisor restarts it in vain.
        cluster.forget(NODE);
        cluster.launch(NODE);
        eventually("it does not start", async || cluster.ended(NODE).is_some().then_some(())).await;
        assert!(cluster.log(NODE).contains("delete that file"), "{}", cluster.log(NODE));
        cluster.forget(NODE);
    }
    clone.kill();
    for key in &keys {
        assert_eq!(cluster.at(1).get(&format!("/kv/{key}")).answer().await.status, 200, "{key}");
    }
}
