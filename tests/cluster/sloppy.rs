//! With one home replica down: what succeeds, what fails, and that failures report the truth.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};
use std::time::Instant;

use tokio::task::JoinSet;

use crate::harness::{Cluster, Setup, eventually};

/// Five nodes, with the second home replica of the key down; requests through a home replica and
/// through a fallback.
#[tokio::test(flavor = "multi_thread")]
async fn with_a_home_replica_dead_w3_succeeds_with_a_hint_and_strict_w3_is_partial() {
    let cluster = Cluster::start(Setup::synced(5)).await;
    let key = "quorum/k";
    let list = cluster.preference(key);
    cluster.kill(list[1]);
    for through in [list[0], list[2], list[3], list[4]] {
        let node = cluster.at(through);
        let path = |query: &str| format!("/kv/{key}{query}");
        let counts = |answer: &crate::http::Answer| {
            (answer.status, answer.number("Quorate-Acks"), answer.number("Quorate-Hints"))
        };
        for word in ["3", "all"] {
            let read = node.get(&path("")).answer().await;
            let put = node.put(&path(&format!("?w={word}"))).value("sloppy");
            let put = put.context(read.context()).answer().await;
            assert_eq!(counts(&put), (204, 3, 1), "w={word} through n{through}");
        }
        for (query, status) in [
            ("?w=one", 204),
            ("?w=quorum", 204),
            ("?n=2&w=2", 204),
            ("?n=1&w=1", 204),
            ("?w=quorum&sloppy=false", 204),
        ] {
            let put = node.put(&path(query)).value("word");
            let seen = node.get(&path("")).answer().await;
            let put = put.context(seen.context()).answer().await;
            assert_eq!(put.status, status, "{query} through n{through}: {}", put.text());
        }
        // The hint of the write above counts for the home replica that is down, unless only home
        // replicas count.
        for (query, status) in
            [("one", 200), ("quorum", 200), ("all", 200), ("all&sloppy=false", 503)]
        {
            let get = node.get(&path(&format!("?r={query}"))).answer().await;
            assert_eq!(get.status, status, "r={query} through n{through}: {}", get.text());
        }
        strict_write_is_partial(&cluster, through, key, list[1]).await;
    }
}

/// A 503 that is accurate: the write can be read.
async fn strict_write_is_partial(cluster: &Cluster, through: usize, key: &str, dead: usize) {
    let node = cluster.at(through);
    let seen = node.get(&format!("/kv/{key}")).answer().await;
    let value = format!("strict through n{through}");
    let put = node.put(&format!("/kv/{key}?w=3&sloppy=false")).value(value.clone());
    let put = put.context(seen.context()).answer().await;
    assert_eq!((put.status, put.outcome().as_str()), (503, "partial"), "{}", put.text());
    let problem = put.json();
    assert_eq!((&problem["required"], &problem["acks"]), (&3.into(), &2.into()), "{problem}");
    let alive = cluster.all().filter(|number| *number != dead);
    for number in alive {
        let read = cluster.at(number).get(&format!("/kv/{key}")).answer().await;
        assert_eq!((read.status, read.text()), (200, value.clone()), "through n{number}");
    }
}

/// Three nodes have no fallback: W=3 cannot be met, all default requests can.
#[tokio::test(flavor = "multi_thread")]
async fn three_nodes_with_one_dead_meet_w2_and_not_w3() {
    let cluster = Cluster::start(Setup::synced(3)).await;
    cluster.kill(3);
    let node = cluster.at(1);
    assert_eq!(node.put("/kv/b/k").value("two").answer().await.status, 204);
    for query in ["?w=3", "?w=3&sloppy=false"] {
        let put = node.put(&format!("/kv/b/{}{query}", query.len())).value("v").answer().await;
        assert_eq!((put.status, put.outcome().as_str()), (503, "partial"), "{query}");
    }
    assert_eq!(node.get("/kv/b/k?r=3").answer().await.status, 503);
    assert_eq!(node.get("/kv/b/k").answer().await.text(), "two");
    assert_eq!(node.get("/kv/b/never").answer().await.status, 404);
}

/// Clients of all other nodes must not notice that one dies, is down, stalls, or comes back.
async fn no_request_fails_while_any_one_node_is_gone(nodes: usize) {
    let cluster = Cluster::start(Setup::synced(nodes)).await;
    let victim = Arc::new(AtomicUsize::new(0));
    let done = Arc::new(AtomicUsize::new(0));
    let stop = Arc::new(std::sync::atomic::AtomicBool::new(false));
    let mut clients = JoinSet::new();
    for client in 0..8 {
        let (cluster, victim, done) = (cluster.clone(), victim.clone(), done.clone());
        let stop = stop.clone();
        clients.spawn(async move {
            let mut failures: Vec<String> = Vec::new();
            for turn in client.. {
                let number = 1 + turn % nodes;
                if stop.load(Relaxed) {
                    break;
                }
                if number == victim.load(Relaxed) {
                    continue;
                }
                // Enough keys that none gets too many siblings, however fast the machine is.
                let path = format!("/kv/steady/k{}", turn % 9973);
                let node = cluster.at(number);
                let ask = if turn % 2 == 0 { node.put(&path).value("v") } else { node.get(&path) };
                let begun = Instant::now();
                let answer = ask.try_answer().await;
                let failed =
                    !answer.as_ref().is_ok_and(|a| [200, 204, 300, 404].contains(&a.status));
                // Requests in flight at the victim may fail.
                if failed && number != victim.load(Relaxed) {
                    failures
                        .push(format!("{path} via n{number}, {:?}: {answer:?}", begun.elapsed()));
                }
                done.fetch_add(1, Relaxed);
            }
            failures
        });
    }
    let work = async |count: usize| {
        let until = done.load(Relaxed) + count;
        eventually("work is done", async || (done.load(Relaxed) >= until).then_some(())).await;
    };
    for number in cluster.all() {
        victim.store(number, Relaxed);
        cluster.kill(number);
        work(150).await;
        cluster.restart(number).await;
        work(50).await;
        cluster.pause(number);
        work(150).await;
        cluster.resume(number);
        cluster.wait_all_up().await;
        work(50).await;
    }
    stop.store(true, Relaxed);
    let failures: Vec<String> = clients.join_all().await.into_iter().flatten().collect();
    assert!(failures.is_empty(), "{} of {}: {failures:#?}", failures.len(), done.load(Relaxed));
}

#[tokio::test(flavor = "multi_thread")]
async fn no_default_request_fails_with_any_one_of_five_nodes_dead_or_stalled() {
    no_request_fails_while_any_one_node_is_gone(5).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn no_default_request_fails_with_any_one_of_three_nodes_dead_or_stalled() {
    no_request_fails_while_any_one_node_is_gone(3).await;
}

/// Strict writes on three nodes leave no hint, so only a read can repair the node that was cut off.
#[tokio::test(flavor = "multi_thread")]
async fn a_stale_replica_answers_r1_with_the_old_value_and_a_quorum_read_repairs_it() {
    let cluster = Cluster::start(Setup::synced(3)).await;
    let (stale, others) = (3, [1, 2]);
    let first = cluster.at(1).put("/kv/b/k?w=3&sloppy=false").value("old").answer().await;
    cluster.cut(&[stale], &others).await;
    let second = cluster.at(1).put("/kv/b/k?w=2&sloppy=false").value("new");
    let second = second.context(first.context()).answer().await;
    assert_eq!((second.status, second.number("Quorate-Hints")), (204, 0));
    let alone = cluster.at(stale).get("/kv/b/k?r=1").answer().await;
    assert_eq!(alone.text(), "old", "it is cut off and still has the old value");
    assert_eq!(cluster.inspect(1, "b/k").await.states()[&stale], "unreachable");
    cluster.heal().await;
    cluster.wait_all_up().await;
    assert_eq!(
        cluster.inspect(1, "b/k").await.states()[&stale],
        "behind",
        "inspection repairs nothing"
    );
    let one = cluster.at(stale).get("/kv/b/k?r=1").answer().await;
    assert!(["old", "new"].contains(&one.text().as_str()), "{}", one.text());
    let quorum = cluster.at(stale).get("/kv/b/k?r=2").answer().await;
    assert_eq!(quorum.text(), "new");
    cluster.wait_delivered(1, "b/k").await;
    let one = cluster.at(stale).get("/kv/b/k?r=1").answer().await;
    assert_eq!(one.text(), "new", "a replica reads its own row first");
}
