//! A node that comes back without its data: it takes writes, but reports no key as absent before it
//! has received what the others hold.

use std::sync::Arc;

use crate::harness::{Cluster, Setup, eventually};
use crate::record::{Record, View};

/// Reads every key at R=1 through every node until `until` holds: an acknowledged key is never 404.
async fn read_while(cluster: &Cluster, keys: &[String], mut until: impl AsyncFnMut() -> bool) {
    eventually("the wiped node is filled", async || {
        // 300 for keys that have concurrent writes.
        for (at, key) in keys.iter().enumerate() {
            let number = if at % 4 == 0 { 1 + at % cluster.all().count() } else { 3 };
            let path = format!("/kv/{key}?r=1");
            let Ok(read) = cluster.at(number).get(&path).try_answer().await else { continue };
            assert!(
                [200, 300, 503].contains(&read.status),
                "{key} through n{number}: {}",
                read.text()
            );
        }
        until().await.then_some(())
    })
    .await;
}

async fn a_wiped_node_fills(nodes: usize, count: usize) {
    let cluster = Cluster::start(Setup::synced(nodes)).await;
    let record = Arc::new(Record::new(&cluster, 3));
    let keys = cluster.keys_where("wipe", count, |list| list[..3].contains(&3));
    for key in &keys {
        record.add(&cluster.at(1), key, &View::default()).await.unwrap();
    }
    for key in &keys {
        cluster.wait_delivered(1, key).await; // W copies are not N copies yet
    }
    for round in 0..2 {
        cluster.kill(3);
        cluster.wipe(3);
        cluster.launch(3);
        // Concurrent writes count, and are kept.
        let late = &keys[round];
        record.add(&cluster.at(1), late, &View::default()).await.unwrap();
        read_while(&cluster, &keys, async || {
            let Ok(answer) = cluster.at(3).get("/readyz").try_answer().await else { return false };
            if answer.status != 200 {
                return false;
            }
            for key in &keys {
                if cluster.inspect(1, key).await.states()[&3] != "ok" {
                    return false;
                }
            }
            true
        })
        .await;
        for key in &keys {
            let read = cluster.at(3).get(&format!("/kv/{key}?r=1")).answer().await;
            assert!([200, 300].contains(&read.status), "{key}: {}", read.text());
        }
    }
    for key in &keys {
        let left = cluster.wait_delivered(3, key).await;
        record.check_final(key, &left);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_wiped_node_of_three_is_filled_and_calls_no_key_absent() {
    a_wiped_node_fills(3, 200).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_wiped_node_of_five_is_filled_and_calls_no_key_absent() {
    a_wiped_node_fills(5, 100).await;
}

/// With the only other holder away, the wiped node cannot know: it must not answer "never written".
#[tokio::test(flavor = "multi_thread")]
async fn a_wiped_node_waits_for_all_home_replicas_before_it_calls_a_key_absent() {
    let cluster = Cluster::start(Setup::synced(3)).await;
    cluster.cut(&[1], &[2, 3]).await;
    let put = cluster.at(1).put("/kv/b/k?w=1").value("only here").answer().await;
    assert_eq!(put.status, 204);
    cluster.kill(1);
    cluster.kill(3);
    cluster.wipe(3);
    cluster.restart(3).await;
    cluster.wait_sees(3, "up", 1).await;
    for r in ["1", "2"] {
        let read = cluster.at(3).get(&format!("/kv/b/k?r={r}")).answer().await;
        // At R=1 n2 may answer for itself: it missed the write. n3 may not.
        let fine = read.status == 503 || (r == "1" && read.status == 404);
        assert!(fine, "r={r}: {} {}", read.status, read.text());
    }
    assert_eq!(cluster.inspect(3, "b/k").await.states()[&3], "not_ready");
    cluster.restart(1).await;
    let read = async || {
        let read = cluster.at(3).get("/kv/b/k?r=3").answer().await;
        (read.status == 200).then(|| read.text())
    };
    assert_eq!(eventually("all three answer", read).await, "only here");
}

/// Nodes that become home replicas when n is raised hold nothing yet: they must not report a key as
/// absent.
#[tokio::test(flavor = "multi_thread")]
async fn a_raised_n_makes_no_key_absent() {
    let cluster = Cluster::start(Setup::synced(5)).await;
    let set_n = async |n: u16| {
        let put = cluster.at(1).put("/buckets/raised").value(format!("{{\"n\": {n}}}"));
        assert_eq!(put.answer().await.status, 200);
    };
    set_n(1).await;
    let keys: Vec<String> = (0..50).map(|at| format!("/kv/raised/k{at}")).collect();
    for key in &keys {
        assert_eq!(cluster.at(2).put(key).value("v").answer().await.status, 204);
    }
    for n in [3, 5] {
        set_n(n).await;
        for key in &keys {
            for number in cluster.all() {
                for r in ["one", "quorum"] {
                    let read = cluster.at(number).get(&format!("{key}?r={r}")).answer().await;
                    let fine = [200, 503].contains(&read.status);
                    assert!(fine, "{key} n={n} r={r} through n{number}: {}", read.text());
                }
            }
        }
    }
    for key in &keys {
        let read = async || {
            let read = cluster.at(3).get(&format!("{key}?r=all")).answer().await;
            (read.status == 200).then_some(())
        };
        eventually("all five replicas have the key", read).await;
    }
}

/// Two of three home replicas were down when a key was written, so its other copies are hints for
/// them. The third loses its disk and comes back before those are handed off.
#[tokio::test(flavor = "multi_thread")]
async fn a_wiped_node_knows_what_is_left_in_hints_only() {
    let cluster = Cluster::start(Setup::synced(5)).await;
    let key = cluster.keys_where("left", 1, |_| true).remove(0);
    let list = cluster.preference(&key);
    let (homes, fallbacks) = list.split_at(3);
    let (dead, wiped) = (&homes[..2], homes[2]);
    for number in dead {
        cluster.kill(*number);
    }
    let path = format!("/kv/{key}");
    let put = cluster.at(wiped).put(&format!("{path}?w=all")).value("kept").answer().await;
    assert_eq!((put.status, put.number("quorate-hints")), (204, 2), "{}", put.text());
    cluster.kill(wiped);
    cluster.wipe(wiped);
    // The nodes come back, but their hints cannot reach them.
    cluster.cut_one_way(fallbacks, dead).await;
    for number in dead {
        cluster.restart(*number).await;
    }
    cluster.restart(wiped).await;
    let filled = async || {
        let cluster = cluster.at(wiped).get("/cluster").answer().await.json();
        (cluster["filled"] == true).then_some(())
    };
    eventually("the wiped node is filled", filled).await;
    let read = cluster.at(wiped).get(&format!("{path}?r=1&sloppy=false")).answer().await;
    assert_eq!(read.text(), "kept");
}
