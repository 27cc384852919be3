//! Rows and trees while the n of buckets changes: repair goes on unaffected, and no row stays on a
//! node that does not own it.

use std::fs;
use std::time::Duration;

use crate::harness::{Cluster, Setup, eventually, within};
use crate::load::{put_all, read_all};

/// Trees are compared all the time.
const SETTINGS: &str = "[anti_entropy]\ninterval_ms = 500\n";

async fn set_n(cluster: &Cluster, bucket: &str, n: u16) {
    let put = cluster.at(1).put(&format!("/buckets/{bucket}")).value(format!("{{\"n\": {n}}}"));
    assert_eq!(put.answer().await.status, 200);
}

/// A node's report on its trees and rows.
async fn sweep(cluster: &Cluster, number: usize) -> serde_json::Value {
    cluster.at(number).get("/anti-entropy").answer().await.json()["sweep"].clone()
}

pub(crate) async fn wait_filled(cluster: &Cluster, number: usize) {
    eventually(&format!("n{number} is filled"), async || {
        let answer = cluster.at(number).get("/cluster").try_answer().await.ok()?;
        (answer.json()["filled"] == true).then_some(())
    })
    .await;
}

/// Changes a line of the configuration of a node that does not run.
fn configure(cluster: &Cluster, number: usize, line: &str, instead: &str) {
    let path = cluster.data_dir(number).with_file_name("node.toml");
    let before = fs::read_to_string(&path).unwrap();
    assert!(before.contains(line), "{line} is not in {before}");
    fs::write(&path, before.replacen(line, instead, 1)).unwrap();
}

/// n goes back and forth while rows are moved, and a node is killed in between.
#[tokio::test(flavor = "multi_thread")]
async fn changing_n_and_back_keeps_repair_on_and_trees_correct() {
    let cluster = Cluster::start(Setup { settings: SETTINGS, ..Setup::of(5) }).await;
    let keys: Vec<String> = (0..4000).map(|at| format!("toggled/k{at}")).collect();
    put_all(&cluster, &keys, "v", &[1, 2, 3, 4, 5]).await;
    cluster.wait_converged().await;
    for (round, pause_ms) in [600, 50, 300].into_iter().enumerate() {
        set_n(&cluster, "toggled", 2).await;
        tokio::time::sleep(Duration::from_millis(pause_ms)).await;
        let put = cluster.at(2).put("/kv/toggled/between").value("v").answer().await;
        assert_eq!(put.status, 204, "{}", put.text());
        if round == 1 {
            cluster.kill(4);
        }
        let reset = cluster.at(1).delete("/buckets/toggled").answer().await;
        assert!([200, 204].contains(&reset.status), "{}", reset.text());
        if round == 1 {
            cluster.restart(4).await;
        }
    }
    cluster.wait_all_up().await;
    cluster.wait_trees_fit().await;
    cluster.wait_converged().await;
    let victim = 3;
    cluster.kill(victim);
    cluster.wipe(victim);
    cluster.restart(victim).await;
    wait_filled(&cluster, victim).await;
    cluster.wait_converged().await;
    read_all(&cluster, &keys[..200], "v", victim).await;
    for number in cluster.all() {
        let scrub = cluster.at(number).post("/anti-entropy/scrub").answer().await.json();
        assert_eq!((&scrub["complete"], &scrub["wrong_leaves"]), (&true.into(), &0.into()));
    }
}

/// A write that a home replica missed reaches it in a hint after n was lowered, when it has long
/// scanned all its rows and is no longer a home replica.
#[tokio::test(flavor = "multi_thread")]
async fn a_row_that_reaches_a_former_home_after_its_sweep_is_handed_over() {
    let cluster = Cluster::start(Setup { settings: SETTINGS, ..Setup::of(5) }).await;
    let keys = cluster.keys_where("late", 40, |list| list[2] == 5);
    cluster.cut(&[1, 2, 3, 4], &[5]).await;
    for number in 1..5 {
        cluster.wait_sees(number, "down", 1).await;
    }
    put_all(&cluster, &keys, "v", &[1, 2, 3, 4]).await;
    // n5 is told, and hints do not reach it yet.
    let put = cluster.at(5).put("/buckets/late").value("{\"n\": 2}").answer().await;
    assert_eq!(put.status, 200);
    set_n(&cluster, "late", 2).await;
    let looks = async || sweep(&cluster, 5).await["looks"].as_u64();
    let before = looks().await.unwrap();
    eventually("n5 has looked at all its rows", async || {
        (looks().await? > before + 3).then_some(())
    })
    .await;
    cluster.heal().await;
    cluster.wait_all_up().await;
    eventually("n5 has got the hints and returned the rows", async || {
        let sweep = sweep(&cluster, 5).await;
        let dropped = sweep["rows_dropped"].as_u64()?;
        (dropped >= keys.len() as u64 && sweep["rows_not_owned"] == 0).then_some(())
    })
    .await;
    for number in cluster.all() {
        read_all(&cluster, &keys, "v", number).await;
    }
}

/// An object that a peer cannot send does not keep its partition from being served, and is not
/// reported as absent.
#[tokio::test(flavor = "multi_thread")]
async fn one_object_that_a_peer_cannot_send_keeps_no_other_from_being_served() {
    let cluster = Cluster::start(Setup { settings: SETTINGS, ..Setup::of(3) }).await;
    let keys: Vec<String> = (0..60).map(|at| format!("large/k{at}")).collect();
    put_all(&cluster, &keys, "v", &[1, 2, 3]).await;
    let large = "large/too_large";
    let put = cluster.at(1).put(&format!("/kv/{large}?w=3")).value("v".repeat(6 << 20));
    assert_eq!(put.answer().await.status, 204);
    cluster.wait_converged().await;
    // Frames hold less than the object from now on.
    let line = "[storage]\n";
    let limits = "[limits]\nvalue_bytes_max = 65536\nobject_bytes_max = 131072\n\
                  [peers]\nbatch_bytes_max = 65536\n";
    set_all(&cluster, line, &format!("{limits}{line}")).await;
    cluster.kill(3);
    cluster.wipe(3);
    cluster.restart(3).await;
    wait_filled(&cluster, 3).await;
    let report = cluster.at(3).get("/anti-entropy").answer().await.json();
    assert_eq!(report["keys_in_doubt"], 1, "{report}");
    read_all(&cluster, &keys, "v", 3).await;
    assert_eq!(cluster.inspect(3, large).await.states()[&3], "not_ready");
    set_all(&cluster, limits, "").await;
    within(Duration::from_secs(40), "nothing is in doubt any more", async || {
        let report = cluster.at(3).get("/anti-entropy").try_answer().await.ok()?.json();
        (report["keys_in_doubt"] == 0).then_some(())
    })
    .await;
    assert_eq!(cluster.inspect(3, large).await.states()[&3], "ok");
}

/// Restarts all nodes with a changed line in their configuration.
async fn set_all(cluster: &Cluster, line: &str, instead: &str) {
    for number in cluster.all() {
        cluster.terminate(number).await;
        configure(cluster, number, line, instead);
        cluster.restart(number).await;
    }
    cluster.wait_all_up().await;
}

/// Home replicas are down when rows could be handed over; rows of other buckets are still repaired.
#[tokio::test(flavor = "multi_thread")]
async fn changing_one_bucket_does_not_suspend_repair_of_others() {
    let cluster = Cluster::start(Setup { settings: SETTINGS, ..Setup::of(5) }).await;
    let keys: Vec<String> = (0..500).map(|at| format!("changed/k{at}")).collect();
    put_all(&cluster, &keys, "v", &[1, 2, 3, 4, 5]).await;
    cluster.wait_converged().await;
    cluster.kill(5);
    for number in 1..5 {
        cluster.wait_sees(number, "down", 1).await;
    }
    set_n(&cluster, "changed", 2).await;
    for number in 1..5 {
        eventually(&format!("the trees of n{number} fit"), async || {
            (sweep(&cluster, number).await["trees_fit"] == true).then_some(())
        })
        .await;
    }
    let left = async || {
        let mut left = 0;
        for number in 1..5 {
            left += sweep(&cluster, number).await["rows_not_owned"].as_u64()?;
        }
        Some(left)
    };
    eventually("rows wait for n5", async || left().await.filter(|left| *left > 0)).await;
    cluster.kill(4);
    cluster.wipe(4);
    // What only it and n5 hold has to wait for n5; its answers show that it fills.
    cluster.restart(4).await;
    cluster.restart(5).await;
    cluster.wait_all_up().await;
    wait_filled(&cluster, 4).await;
    eventually("no row is left", async || left().await.filter(|left| *left == 0)).await;
    read_all(&cluster, &keys[..100], "v", 4).await;
}
