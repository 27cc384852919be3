//! Administrative calls and listings.

use futures_util::TryStreamExt;
use quorate_client::{BucketProperties, Error};
use serde_json::json;

use crate::common::{Cluster, discovered};

#[tokio::test]
async fn a_cluster_tells_about_itself() {
    let cluster = Cluster::start();
    let client = cluster.client();
    let admin = client.admin();
    assert_eq!(admin.cluster().await.unwrap()["nodes"].as_array().unwrap().len(), 3);
    assert_eq!(admin.ring().await.unwrap()["partitions"], 64);
    assert!(admin.hints().await.unwrap()["targets"].as_array().unwrap().is_empty());
    assert!(admin.anti_entropy().await.unwrap()["rounds"].is_array());
    assert!(admin.distrusted().await.unwrap().is_object());
    assert!(admin.metrics().await.unwrap().contains("quorate_"));
    assert!(admin.livez().await.unwrap().ok && admin.readyz().await.unwrap().ok);
    let run = admin.run_anti_entropy(None, Some(3), Some(10_000)).await.unwrap();
    assert_eq!(run["complete"], true);
    let error = admin.run_anti_entropy(Some("n9"), None, None).await.unwrap_err();
    assert_eq!(error.problem().unwrap().fact("parameter").unwrap(), "node");
    assert_eq!(admin.scrub(Some(3), None).await.unwrap()["partitions"], 1);

    let point = admin.make_sync_point().await.unwrap();
    assert!(point.unreachable.is_empty());
    assert!(admin.sync_point(&point.id, Some(5_000)).await.unwrap().delivered);
    let none = admin.sync_point("none", None).await.unwrap_err();
    assert!(matches!(none, Error::NotFound { .. } | Error::BadRequest { .. }), "{none}");

    // One node, by name and by URL.
    discovered(&client).await;
    for node in ["n2".to_owned(), cluster.url(2)] {
        let admin = client.admin_of(&node).unwrap();
        assert_eq!(admin.cluster().await.unwrap()["node"], "n2");
    }
    assert!(matches!(client.admin_of("n9").unwrap_err(), Error::Invalid { .. }));
    assert!(matches!(admin.get("cluster").await.unwrap_err(), Error::Invalid { .. }));
    assert!(matches!(admin.get("/none").await.unwrap_err(), Error::NotFound { .. }));
}

#[tokio::test]
async fn properties_of_buckets_are_set_and_reset() {
    let cluster = Cluster::start();
    let client = cluster.client();
    let admin = client.admin();
    let wanted = BucketProperties {
        w: Some(json!("all")),
        conflicts: Some("lww".to_owned()),
        ..BucketProperties::default()
    };
    let set = admin.set_bucket("b", &wanted).await.unwrap();
    assert_eq!(
        (set.n, set.w, set.conflicts.as_deref()),
        (Some(3), Some(json!("all")), Some("lww"))
    );
    assert_eq!(admin.buckets().await.unwrap()["buckets"][0]["bucket"], "b");
    client.bucket("b").put_blind("k", "1").await.unwrap();
    assert!(!client.bucket("b").put_blind("k", "2").await.unwrap().is_conflict());
    admin.reset_bucket("b").await.unwrap();
    assert_eq!(admin.bucket("b").await.unwrap().conflicts.as_deref(), Some("siblings"));
    let error = admin.set_bucket("b", &json!({"colour": "red"})).await.unwrap_err();
    assert_eq!(error.problem().unwrap().name(), "bad_body");
}

#[tokio::test]
async fn keys_and_conflicts_are_listed_page_by_page() {
    let cluster = Cluster::start();
    let client = cluster.client();
    let bucket = client.bucket("b");
    let keys: Vec<String> = (0..25).map(|number| format!("user {number:02}+ü")).collect();
    for key in &keys {
        bucket.put_blind(key, "1").w(3).await.unwrap();
    }
    bucket.put_blind("other", "x").w(3).await.unwrap();
    for key in &keys[..3] {
        bucket.put_blind(key, "2").w(3).await.unwrap();
    }
    let page = bucket.keys().prefix("user ").limit(10).page(None).await.unwrap();
    assert_eq!((page.keys.as_slice(), page.complete), (&keys[..10], true));
    let next = bucket.keys().prefix("user ").limit(10).page(page.cursor.as_deref()).await.unwrap();
    assert_eq!(next.keys, keys[10..20]);
    let all: Vec<String> =
        bucket.keys().prefix("user ").limit(7).stream().try_collect().await.unwrap();
    assert_eq!(all, keys);

    let admin = client.admin();
    let first = admin.conflicts(Some("b"), Some(2), None).await.unwrap();
    assert_eq!((first.keys.len(), first.keys[0].siblings), (2, 2));
    let rest = admin.conflicts(Some("b"), Some(2), first.cursor.as_deref()).await.unwrap();
    assert_eq!((rest.keys.len(), rest.cursor), (1, None));
    let shown = admin.inspect("b", &keys[0], None).await.unwrap();
    assert_eq!(
        (shown["conflict"].as_bool(), shown["siblings"].as_array().unwrap().len()),
        (Some(true), 2)
    );
}
