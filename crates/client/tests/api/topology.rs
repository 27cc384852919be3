//! Which nodes a client finds, and which it asks.

use std::collections::BTreeMap;

use quorate_client::{BucketProperties, Client, Read, partition_of};

use crate::common::{Cluster, discovered};

#[tokio::test]
async fn all_nodes_are_found_from_one() {
    let cluster = Cluster::start();
    let client = cluster.client();
    discovered(&client).await;
    let mut urls: Vec<_> = client.known_nodes().into_iter().map(|node| node.url).collect();
    urls.sort();
    assert_eq!(urls, [cluster.url(1), cluster.url(2), cluster.url(3)]);
    let named: Vec<_> = client.known_nodes().into_iter().filter_map(|node| node.name).collect();
    assert_eq!(named, ["n1", "n2", "n3"]);

    // Unless the client must not look.
    let alone = Client::builder().nodes([cluster.url(1)]).discover(false).build().unwrap();
    alone.discover().await.unwrap();
    assert_eq!(alone.known_nodes().len(), 1);
    // Given twice, under two names of the host, a node is still asked by what was given.
    let port = cluster.url(2).rsplit_once(':').unwrap().1.to_owned();
    let alias = Client::connect([cluster.url(1), format!("http://localhost:{port}")]).unwrap();
    discovered(&alias).await;
    alias.discover().await.unwrap();
    let found = |name: &str| {
        let nodes = alias.known_nodes();
        nodes.into_iter().find(|node| node.name.as_deref() == Some(name)).map(|node| node.url)
    };
    assert!(found("n2").is_some() && found("n3").is_some());
}

#[tokio::test]
async fn discovery_happens_beside_requests() {
    let cluster = Cluster::start();
    let client = cluster.client();
    let bucket = client.bucket("b");
    bucket.put_blind("k", "x").await.unwrap();
    let begun = std::time::Instant::now();
    while client.known_nodes().len() < 3 {
        assert!(begun.elapsed().as_secs() < 20, "{:?}", client.known_nodes());
        tokio::task::yield_now().await;
        assert!(matches!(bucket.get("k").await.unwrap(), Read::Value(_)));
    }
}

#[tokio::test]
async fn requests_go_to_a_home_replica() {
    let cluster = Cluster::start();
    let client = cluster.client();
    let admin = client.admin();
    // With one copy there is one home replica, and no other node can answer without a hop.
    let one = BucketProperties { n: Some(1), ..BucketProperties::default() };
    let set = admin.set_bucket("one", &one).await.unwrap();
    assert_eq!(set.n, Some(1));
    let mut asked = BTreeMap::new();
    discovered(&client).await;
    let names: BTreeMap<_, _> =
        client.known_nodes().into_iter().map(|node| (node.name.unwrap(), node.url)).collect();
    let partitions = admin.partitions().await.unwrap();
    for turn in 0..40 {
        let key = format!("user/{turn} ü");
        let place = admin.locate("one", &key).await.unwrap();
        assert_eq!(place.partition, partition_of("one", &key, partitions.homes.len()));
        let home = &names[&place.preference_list[0]];
        let written = client.bucket("one").put_blind(&key, "x").await.unwrap();
        assert_eq!(&written.answered.node, home, "{key}");
        let read = client.bucket("one").get(&key).await.unwrap();
        assert_eq!(&read.answered().node, home, "{key}");
        *asked.entry(home.clone()).or_insert(0) += 1;
        // With three copies every node is a home replica: writes go to the first, reads take turns.
        let place = admin.locate("three", &key).await.unwrap();
        let written = client.bucket("three").put_blind(&key, "x").await.unwrap();
        assert_eq!(written.answered.node, names[&place.preference_list[0]], "{key}");
    }
    assert_eq!(asked.len(), 3, "keys are spread: {asked:?}");
    let mut read_by = BTreeMap::new();
    for _ in 0..30 {
        let read = client.bucket("three").get("user/0 ü").await.unwrap();
        *read_by.entry(read.answered().node.clone()).or_insert(0) += 1;
    }
    assert_eq!(read_by.len(), 3, "reads take turns: {read_by:?}");
    assert!(read_by.values().all(|count| *count == 10), "{read_by:?}");
}

#[tokio::test]
async fn a_changed_bucket_is_noticed() {
    let cluster = Cluster::start();
    let client = cluster.client();
    discovered(&client).await;
    let one = BucketProperties { n: Some(1), ..BucketProperties::default() };
    let other = cluster.client();
    other.admin().set_bucket("b", &one).await.unwrap();
    discovered(&client).await;
    let place = other.admin().locate("b", "k").await.unwrap();
    let names: BTreeMap<_, _> =
        client.known_nodes().into_iter().map(|node| (node.name.unwrap(), node.url)).collect();
    for _ in 0..6 {
        let read = client.bucket("b").get("k").await.unwrap();
        assert_eq!(read.answered().node, names[&place.preference_list[0]]);
    }
}
