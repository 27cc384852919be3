//! Both sides of a partition keep working, and their writes are visible afterwards.

use std::sync::Arc;
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::harness::{Cluster, Setup, eventually};
use crate::record::{Record, View};

const LEFT: [usize; 2] = [1, 2];
const RIGHT: [usize; 3] = [3, 4, 5];

#[tokio::test(flavor = "multi_thread")]
async fn both_sides_of_a_partition_take_writes_and_one_write_resolves_them_everywhere() {
    let cluster = Cluster::start(Setup::of(5)).await;
    let record = Arc::new(Record::new(&cluster, 3));
    let keys: Vec<String> = (0..20).map(|key| format!("split/k{key}")).collect();
    cluster.cut(&LEFT, &RIGHT).await;
    for (at, key) in keys.iter().enumerate() {
        for through in [LEFT[at % 2], RIGHT[at % 3]] {
            let put = record.add(&cluster.at(through), key, &View::default()).await.unwrap();
            assert_eq!(put.status, 204, "{key} through n{through}: {}", put.text());
            let read = record.read(&cluster.at(through), key, 2).await;
            assert_eq!(
                read.unwrap().elements.len(),
                1,
                "the other side's writes must not be visible"
            );
        }
    }
    cluster.heal().await;
    cluster.wait_all_up().await;
    for (at, key) in keys.iter().enumerate() {
        // The left side has two nodes for three copies: hints alone cannot reach every home
        // replica.
        cluster.wait_settled(1, key).await;
        for number in cluster.all() {
            let read = cluster.at(number).get(&format!("/kv/{key}")).answer().await;
            assert_eq!(read.siblings().len(), 2, "{key} through n{number}");
        }
        let through = cluster.at(1 + at % 5);
        let both = record.read(&through, key, 2).await.unwrap();
        let put = record.add(&through, key, &both).await.unwrap();
        assert_eq!((put.status, put.number("Quorate-Siblings")), (204, 1));
        for number in cluster.all() {
            let read = record.read(&cluster.at(number), key, 2).await.unwrap();
            assert_eq!(read.elements.len(), 3, "{key} through n{number}");
        }
        let left = cluster.wait_delivered(1, key).await;
        assert_eq!(left.siblings().len(), 1);
        record.check_final(key, &left);
    }
}

impl Cluster {
    async fn properties(&self, number: usize, bucket: &str) -> Value {
        self.at(number).get(&format!("/buckets/{bucket}")).answer().await.json()
    }

    async fn set_properties(&self, number: usize, bucket: &str, properties: &Value) -> Value {
        let put = self.at(number).put(&format!("/buckets/{bucket}")).value(properties.to_string());
        let put = put.answer().await;
        assert_eq!(put.status, 200, "{}", put.text());
        put.json()
    }

    /// Waits until all nodes have the same properties, and returns them.
    async fn agreed_properties(&self, bucket: &str) -> Value {
        eventually("all nodes agree on the bucket", async || {
            let first = self.properties(1, bucket).await;
            for number in self.all() {
                if self.properties(number, bucket).await != first {
                    return None;
                }
            }
            Some(first)
        })
        .await
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn bucket_properties_are_known_within_a_second_survive_and_agree_after_a_partition() {
    let cluster = Cluster::start(Setup::of(5)).await;
    let set = json!({"n": 5, "r": "one", "w": "all", "conflicts": "lww", "sloppy": false});
    let begun = Instant::now();
    let told = cluster.set_properties(2, "b", &set).await;
    for number in cluster.all() {
        assert_eq!(cluster.properties(number, "b").await, told, "n{number}");
    }
    let took = begun.elapsed();
    assert!(took < Duration::from_secs(1), "took {took:?}");

    for number in cluster.all() {
        cluster.kill(number);
    }
    for number in cluster.all() {
        cluster.launch(number);
    }
    cluster.wait_all_up().await;
    assert_eq!(cluster.agreed_properties("b").await, told, "after kill -9 of all");

    cluster.cut(&LEFT, &RIGHT).await;
    cluster.set_properties(1, "b", &json!({"n": 2, "conflicts": "lww"})).await;
    let later = cluster.set_properties(4, "b", &json!({"n": 3, "conflicts": "siblings"})).await;
    assert_ne!(cluster.properties(2, "b").await, cluster.properties(5, "b").await);
    cluster.heal().await;
    assert_eq!(cluster.agreed_properties("b").await, later, "the later change holds");

    // A node that was down learns of it when it is back.
    cluster.kill(3);
    let last = cluster.set_properties(1, "b", &json!({"n": 1})).await;
    cluster.restart(3).await;
    assert_eq!(cluster.agreed_properties("b").await, last);
}
