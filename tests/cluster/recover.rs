//! A cluster that has lost a majority of its disks goes on with those that are left.

use std::path::Path;
use std::process::{Command, Output};
use std::time::Duration;

use crate::harness::{Cluster, Setup, eventually, within};

const LOST: [usize; 3] = [2, 3, 5];

#[tokio::test(flavor = "multi_thread")]
async fn two_of_five_disks_go_on_without_the_others() {
    let cluster = Cluster::start(Setup::synced(5)).await;
    let is_kept = |homes: &[usize]| homes[..3].iter().any(|home| !LOST.contains(home));
    let kept = cluster.keys_where("b", 40, is_kept);
    let lost = cluster.keys_where("b", 5, |homes| !is_kept(homes));
    for key in kept.iter().chain(&lost) {
        let put = cluster.at(1).put(&format!("/kv/{key}?w=3")).value(key.clone()).answer().await;
        assert_eq!(put.status, 204, "{}", put.text());
    }
    let running = recover(&cluster, 1, &[]);
    assert!(!running.status.success());
    assert!(text(&running.stderr).contains("another process has it open"), "{running:?}");
    for number in cluster.all() {
        let (status, _) = cluster.terminate(number).await;
        assert!(status.success());
    }
    let kept_aside = tempfile::tempdir().unwrap();
    copy(&cluster.data_dir(3), &kept_aside.path().join("data"));
    for number in LOST {
        cluster.wipe(number);
        std::fs::remove_dir_all(cluster.data_dir(number)).ok();
    }

    let hash = recover_both(&cluster);
    for number in [1, 4] {
        cluster.launch(number);
    }
    accept_what_is_lost(&cluster, &lost).await;
    both_serve_and_decide(&cluster, (&hash, &kept)).await;
    a_lost_one_is_refused(&cluster, &kept_aside.path().join("data")).await;
}

/// Has the two disks that are left go on. Returns the hash of the record with which they do.
fn recover_both(cluster: &Cluster) -> String {
    let nothing = recover(cluster, 2, &[]);
    assert!(text(&nothing.stderr).contains("nothing is left here"), "{nothing:?}");
    let first = recover(cluster, 1, &[]);
    assert!(first.status.success(), "{first:?}");
    assert!(text(&first.stderr).contains("epoch 1, hash "), "{first:?}");
    let hash = hash_in(&text(&first.stdout));
    let other = recover(cluster, 4, &["--expect", &"0".repeat(32)]);
    assert!(!other.status.success() && text(&other.stderr).contains(&hash), "{other:?}");
    let second = recover(cluster, 4, &["--expect", &hash]);
    assert!(second.status.success(), "{second:?}");
    let again = recover(cluster, 4, &["--expect", &hash]);
    assert!(again.status.success(), "{again:?}");
    hash
}

/// Nothing is said of what no disk holds until an operator accepts that it is lost.
async fn accept_what_is_lost(cluster: &Cluster, lost: &[String]) {
    let waits = within(Duration::from_secs(60), "n1 knows what is lost", async || {
        let ready = cluster.at(1).get("/readyz").try_answer().await.ok()?.text();
        ready.contains("lost their data").then_some(ready)
    });
    assert!(waits.await.contains("all replicas of "));
    for key in lost {
        let read = cluster.at(1).get(&format!("/kv/{key}")).answer().await;
        assert_eq!(read.status, 503, "it is not known to be absent: {}", read.text());
    }
    within(Duration::from_secs(60), "both serve, once it is accepted what is lost", async || {
        let accept = ["distrusted", "accept", "--config"];
        quorate(&accept).arg(cluster.config(1)).output().unwrap();
        for (number, key) in [1, 4].into_iter().flat_map(|it| lost.iter().map(move |key| (it, key)))
        {
            let path = format!("/kv/{key}");
            if cluster.at(number).get(&path).try_answer().await.ok()?.status != 404 {
                return None;
            }
        }
        Some(())
    })
    .await;
}

async fn both_serve_and_decide(cluster: &Cluster, (hash, kept): (&str, &[String])) {
    cluster.wait_ready(1).await;
    cluster.wait_ready(4).await;
    let layout = cluster.at(4).get("/layout").answer().await.json();
    let members = layout["members"].as_array().unwrap().iter();
    let members: Vec<&str> = members.map(|it| it["name"].as_str().unwrap()).collect();
    assert_eq!((&layout["epoch"], &layout["hash"]), (&"2".into(), &hash.into()));
    assert_eq!(members, ["n1", "n4"]);
    for number in [1, 4] {
        for key in kept {
            served(cluster, number, key).await;
        }
    }
    let put = cluster.at(4).put("/kv/b/new?w=2").value("v").answer().await;
    assert_eq!(put.status, 204, "{}", put.text());
    // It goes on to decide: both vote.
    let accepted = ["too_few_nodes", "overloaded_node", "moves_too_much"];
    let mut set = quorate(&["layout", "commit", "--set", "n4", "--weight", "2", "--yes"]);
    set.args(accepted.iter().flat_map(|name| ["--accept", name])).arg("--url");
    let set = set.arg(format!("http://{}", cluster.client_addr(1))).output().unwrap();
    assert!(set.status.success(), "{set:?}");
}

/// One that was lost comes back as it was.
async fn a_lost_one_is_refused(cluster: &Cluster, data: &Path) {
    copy(data, &cluster.data_dir(3));
    for _ in 0..2 {
        cluster.launch(3);
        let removed = async || {
            let ready = cluster.at(3).get("/readyz").try_answer().await.ok()?;
            ready.text().contains("urn:quorate:problem:removed").then_some(ready.status)
        };
        assert_eq!(eventually("n3 knows that it is no member", removed).await, 503);
        let read = cluster.at(3).get("/kv/b/new").answer().await;
        assert_eq!(read.status, 503, "{}", read.text());
        assert!(read.text().contains("was removed from the cluster"), "{}", read.text());
        for path in ["/layout", "/livez", "/metrics"] {
            assert_eq!(cluster.at(3).get(path).answer().await.status, 200, "{path}");
        }
        assert!(cluster.log(3).contains("this node was removed from the cluster"));
        let (status, _) = cluster.terminate(3).await;
        assert!(status.success());
    }
}

async fn served(cluster: &Cluster, number: usize, key: &str) {
    let path = format!("/kv/{key}");
    let read = async || {
        let read = cluster.at(number).get(&path).answer().await;
        (read.status == 200).then(|| read.text())
    };
    let read = eventually(&format!("n{number} serves {key}"), read).await;
    assert_eq!(read, key);
}

fn recover(cluster: &Cluster, number: usize, more: &[&str]) -> Output {
    let mut command = quorate(&["layout", "recover", "--without", "n2,n3,n5", "--yes", "--config"]);
    command.arg(cluster.config(number)).args(more).output().unwrap()
}

fn quorate(arguments: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_quorate"));
    command.args(arguments);
    command
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

fn hash_in(told: &str) -> String {
    let (_, after) = told.split_once("hash ").unwrap();
    after.chars().take_while(char::is_ascii_hexdigit).collect()
}

fn copy(from: &Path, to: &Path) {
    std::fs::create_dir_all(to).unwrap();
    for entry in std::fs::read_dir(from).unwrap() {
        let entry = entry.unwrap();
        let target = to.join(entry.file_name());
        match entry.file_type().unwrap().is_dir() {
            true => copy(&entry.path(), &target),
            false => drop(std::fs::copy(entry.path(), target).unwrap()),
        }
    }
}
