//! Hints: kept while a home replica is down, delivered when it is back, dropped afterwards, never
//! lost, and never mistaken for a "not found".

use std::sync::Arc;

use serde_json::{Value, json};

use crate::harness::{Cluster, Setup, eventually};
use crate::record::{Record, View};

/// Writes blindly to each key, through a home replica of it that is running.
async fn write_all(cluster: &Cluster, record: &Record, keys: &[String]) -> usize {
    let mut hints = 0;
    for key in keys {
        let list = cluster.preference(key);
        let through = list.into_iter().find(|number| cluster.is_awake(*number)).unwrap();
        let put = record.add_with(&cluster.at(through), key, &View::default(), "?w=3").await;
        let put = put.unwrap();
        assert_eq!(put.status, 204, "{key}: {}", put.text());
        hints += usize::from(put.number("Quorate-Hints"));
    }
    hints
}

#[tokio::test(flavor = "multi_thread")]
async fn hints_for_a_dead_home_replica_are_delivered_after_its_restart_and_then_gone() {
    let cluster = Cluster::start(Setup::synced(5)).await;
    let record = Record::new(&cluster, 3);
    let keys = cluster.keys_where("hints", 30, |list| list[..3].contains(&2));
    cluster.kill(2);
    assert_eq!(write_all(&cluster, &record, &keys).await, keys.len(), "one hint for each key");
    for key in &keys {
        let kept = cluster.inspect(1, key).await;
        assert_eq!(kept.states()[&2], "unreachable");
        assert!(kept.hints() >= 1, "{key} has a hint");
    }
    cluster.restart(2).await;
    for key in &keys {
        let left = cluster.wait_delivered(1, key).await;
        record.check_final(key, &left);
    }
}

/// The fallback crashes repeatedly during handoff, and its hints still arrive.
#[tokio::test(flavor = "multi_thread")]
async fn a_fallback_killed_amid_handoff_loses_no_hint() {
    let cluster = Cluster::start(Setup::synced(5)).await;
    // n1 is home, n5 the first fallback: it will hold all the hints, several pages of handoff.
    let keys = cluster.keys_where("amid", 400, |list| list[..3].contains(&1) && list[3] == 5);
    let value = |key: &str| key.repeat(4000);
    cluster.kill(1);
    for key in &keys {
        let home = cluster.preference(key).into_iter().find(|number| *number != 1).unwrap();
        let put = cluster.at(home).put(&format!("/kv/{key}?w=3")).value(value(key)).answer().await;
        assert_eq!((put.status, put.number("Quorate-Hints")), (204, 1), "{}", put.text());
    }
    let mut kept = cluster.hint_keys(5).await;
    assert_eq!(kept, keys.len() as u64);
    cluster.restart(1).await;
    let mut interruptions = 0;
    while kept > 0 && interruptions < 5 {
        // Once something has arrived, more is in flight.
        eventually("handoff is in progress", async || {
            let (before, now) = (kept, cluster.hint_keys(5).await);
            kept = now;
            (now < before).then_some(())
        })
        .await;
        cluster.kill(5);
        interruptions += 1;
        cluster.restart(5).await;
        kept = cluster.hint_keys(5).await;
        eprintln!("{kept} hints are left after interruption {interruptions}");
    }
    for key in &keys {
        cluster.wait_delivered(2, key).await;
        let read = cluster.at(1).get(&format!("/kv/{key}?r=1")).answer().await;
        assert_eq!((read.status, read.text()), (200, value(key)), "{key}");
    }
    assert_eq!(cluster.hint_keys(5).await, 0);
}

/// An entry node without any home replica: empty fallbacks must not cause a 404, full ones may
/// answer.
#[tokio::test(flavor = "multi_thread")]
async fn with_all_home_replicas_cut_off_reads_fail_and_writes_are_hinted() {
    let cluster = Cluster::start(Setup::synced(5)).await;
    let record = Arc::new(Record::new(&cluster, 3));
    let keys = cluster.keys_where("cut", 3, |list| list[3..].contains(&4));
    let (old, new, never) = (&keys[0], &keys[1], &keys[2]);
    assert_eq!(write_all(&cluster, &record, &keys[..1]).await, 0);
    let homes_of = |key: &str| cluster.preference(key)[..3].to_vec();
    let far = cluster.at(4);
    for key in [old, never] {
        cluster.cut(&[4], &homes_of(key)).await;
        for r in ["one", "quorum"] {
            let read = far.get(&format!("/kv/{key}?r={r}")).answer().await;
            assert_eq!(read.status, 503, "{key} r={r}: {}", read.text());
        }
        cluster.heal().await;
    }
    // The other fallback must not deliver its hint before it is read.
    let list = cluster.preference(new);
    cluster.cut(&list[3..], &list[..3]).await;
    let put = record.add(&far, new, &View::default()).await.unwrap();
    assert_eq!((put.status, put.number("Quorate-Hints")), (204, 2), "{}", put.text());
    let strict = far.put(&format!("/kv/{new}?sloppy=false")).value("strict").answer().await;
    assert_eq!(strict.status, 503);
    assert!(["unknown", "not_applied"].contains(&strict.outcome().as_str()), "{}", strict.text());
    let read = far.get(&format!("/kv/{new}")).answer().await;
    assert_eq!(read.siblings().len(), 1, "two hints make a quorum of two");
    cluster.heal().await;
    cluster.wait_all_up().await;
    let left = cluster.wait_settled(1, new).await;
    record.check_final(new, &left);
}

/// The same with the home replicas down, and a client that asks the only nodes left.
#[tokio::test(flavor = "multi_thread")]
async fn with_all_home_replicas_dead_no_key_is_called_never_written() {
    let cluster = Cluster::start(Setup::synced(5)).await;
    let key = "dead/k";
    let list = cluster.preference(key);
    assert_eq!(
        cluster.at(list[0]).put(&format!("/kv/{key}?w=all")).value("v").answer().await.status,
        204
    );
    for number in &list[..3] {
        cluster.kill(*number);
    }
    for number in &list[3..] {
        for r in ["one", "quorum", "all"] {
            let read = cluster.at(*number).get(&format!("/kv/{key}?r={r}")).answer().await;
            assert_eq!(read.status, 503, "r={r} through n{number}: {}", read.text());
        }
    }
    for number in &list[..3] {
        cluster.restart(*number).await;
    }
    for number in cluster.all() {
        let read = async || {
            let read = cluster.at(number).get(&format!("/kv/{key}")).answer().await;
            (read.status == 200).then(|| read.text())
        };
        assert_eq!(eventually("the key can be read again", read).await, "v");
    }
}

/// What a sync point reports, waiting for it up to this long.
async fn look(cluster: &Cluster, through: usize, id: &str, timeout_ms: u64) -> Value {
    let path = format!("/hints/sync-points/{id}?timeout_ms={timeout_ms}");
    let answer = cluster.at(through).get(&path).answer().await;
    assert_eq!(answer.status, 200, "{}", answer.text());
    answer.json()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_sync_point_tells_when_everything_hinted_before_it_is_delivered() {
    let cluster = Cluster::start(Setup::synced(5)).await;
    let record = Record::new(&cluster, 3);
    let keys = cluster.keys_where("point", 40, |list| list[..3].contains(&2));
    cluster.kill(2);
    write_all(&cluster, &record, &keys).await;
    let mut listed = 0;
    for number in [1, 3, 4, 5] {
        let hints = cluster.at(number).get("/hints").answer().await.json();
        for target in hints["targets"].as_array().unwrap() {
            assert_eq!(target["node"], "n2", "{hints}");
            assert!(target["bytes"].as_u64() > target["keys"].as_u64(), "{hints}");
            listed += target["keys"].as_u64().unwrap();
        }
    }
    assert_eq!(listed, keys.len() as u64);
    let make = async |through: usize| {
        let made = cluster.at(through).post("/hints/sync-points").answer().await;
        assert_eq!(made.status, 201, "{}", made.text());
        made.json()["id"].as_str().unwrap().to_owned()
    };
    let waits = look(&cluster, 3, &make(1).await, 100).await;
    assert_eq!(waits["delivered"], false, "{waits}");
    assert_eq!(waits["unreachable"], json!(["n2"]), "it could keep hints itself: {waits}");
    assert!(waits["pending"].as_array().unwrap().iter().all(|one| one["target"] == "n2"));
    cluster.restart(2).await;
    let done = look(&cluster, 3, &make(1).await, 10_000).await;
    assert_eq!(done["delivered"], true, "{done}");
    for key in &keys {
        assert_eq!(cluster.inspect(1, key).await.states()[&2], "ok", "{key} was delivered");
    }
    // If nothing is hinted, a new sync point is done at once.
    let done = look(&cluster, 5, &make(4).await, 1).await;
    assert_eq!(done["delivered"], true, "{done}");
}
