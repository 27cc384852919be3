//! Checks that the tests of this directory would notice a broken promise: here it is broken on
//! purpose.

use crate::harness::{Cluster, Setup};
use crate::load::check_all;
use crate::record::{Record, View};

/// All copies of an acknowledged write are destroyed.
#[tokio::test(flavor = "multi_thread")]
#[should_panic(expected = "no_false_absence")]
async fn a_lost_key_is_found() {
    let cluster = Cluster::start(Setup::of(3)).await;
    let record = Record::new(&cluster, 3);
    record.add(&cluster.at(1), "broken/k", &View::default()).await.unwrap();
    for number in cluster.all() {
        cluster.kill(number);
        cluster.wipe(number);
        cluster.launch(number);
    }
    cluster.form();
    cluster.wait_all_up().await;
    check_all(&cluster, &record).await;
}

/// A client drops an element that it was shown, unknown to the record.
#[tokio::test(flavor = "multi_thread")]
#[should_panic(expected = "lost 1 of 2")]
async fn a_lost_element_is_found() {
    let cluster = Cluster::start(Setup::of(3)).await;
    let record = Record::new(&cluster, 3);
    let node = cluster.at(1);
    record.add(&node, "broken/k", &View::default()).await.unwrap();
    let seen = record.read(&node, "broken/k", 2).await.unwrap();
    record.add(&node, "broken/k", &seen).await.unwrap();
    let shown = node.get("/kv/broken/k").answer().await;
    node.put("/kv/broken/k").value("[\"k:w1\"]").context(shown.context()).answer().await;
    check_all(&cluster, &record).await;
}
