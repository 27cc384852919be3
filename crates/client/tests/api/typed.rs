//! Typed values against a real cluster: nothing that was changed is lost, and what cannot be is refused.

use quorate_client::{
    AnyValue, Bucket, BucketProperties, Client, DataType, Error, Field, MapChange, Outcome,
    SetChange,
};
use serde_json::json;
use tokio::task::JoinSet;

use crate::common::Cluster;

/// A bucket that was given a type.
async fn typed(client: &Client, data_type: DataType) -> Bucket {
    let name = data_type.name();
    let properties = client.admin().set_bucket(name, &BucketProperties::of_type(data_type)).await;
    assert_eq!(properties.unwrap().data_type, Some(data_type));
    client.bucket(name)
}

#[tokio::test]
async fn increments_at_once_add_up() {
    let cluster = Cluster::start();
    typed(&cluster.client(), DataType::Counter).await;
    let mut writers = JoinSet::new();
    for writer in 0..6 {
        let counter = cluster.client().bucket("counter").counter("k");
        writers.spawn(async move {
            for _ in 0..10 {
                counter.increment(writer - 2).await.unwrap();
            }
        });
    }
    while let Some(ended) = writers.join_next().await {
        ended.unwrap();
    }
    let counter = cluster.client().bucket("counter").counter("k");
    assert_eq!(*counter.get().r(3).await.unwrap().value(), 30);
    let most = counter.increment(i64::MAX).w(3);
    let (applied, seen) = most.send_and_read().await.unwrap();
    assert_eq!((applied.acks, *seen.value()), (3, i128::from(i64::MAX) + 30));
    assert_eq!(
        *counter.increment(-30).at_most_once().send_and_read().await.unwrap().1.value(),
        i64::MAX.into()
    );
}

#[tokio::test]
async fn what_was_read_is_removed_and_nothing_else() {
    let cluster = Cluster::start();
    let client = cluster.client();
    let set = typed(&client, DataType::Set).await.set("k");
    let seen = set.get().await.unwrap();
    assert!(!seen.exists() && seen.value().is_empty());
    set.add(["a", "b"]).w(3).await.unwrap();
    let seen = set.get().await.unwrap();
    assert!(seen.value().iter().eq(["a", "b"]) && seen.etag().is_some());
    set.add(["b"]).w(3).await.unwrap();
    let (_, left) = seen
        .change(SetChange::new().with(["c"]).without(["a", "b"]))
        .w(3)
        .send_and_read()
        .await
        .unwrap();
    assert!(left.value().iter().eq(["b", "c"]), "{:?}", left.value());
    left.delete().w(3).await.unwrap();
    assert!(!set.get().await.unwrap().exists());

    let flag = typed(&client, DataType::Flag).await.flag("k");
    let enabled = flag.enable().w(3).send_and_read().await.unwrap().1;
    flag.enable().w(3).await.unwrap();
    enabled.disable().w(3).await.unwrap();
    assert!(*flag.get().await.unwrap().value(), "it was enabled again meanwhile");
    flag.disable_after(flag.get().await.unwrap().context()).w(3).await.unwrap();
    assert!(!flag.get().await.unwrap().into_value());
}

#[tokio::test]
async fn what_cannot_be_is_refused() {
    let cluster = Cluster::start();
    let client = cluster.client();
    let map = typed(&client, DataType::Map).await.map("k");
    map.update(MapChange::new().enable("other")).w(3).await.unwrap();
    for change in [
        MapChange::new().remove("f"),
        MapChange::new().disable("f"),
        MapChange::new().add("f", ["x"]).remove_from("f", ["y"]),
    ] {
        let error = map.update(change.clone()).await.unwrap_err();
        assert!(matches!(error, Error::Invalid { what: "change", .. }), "{error}");
        map.get().await.unwrap().update(change).w(3).await.unwrap();
    }
    let any = client.bucket("map").typed("k");
    let remove = json!({ "remove": ["f"] });
    let error = any.change(None, remove.clone()).await.unwrap_err();
    assert!(matches!(error, Error::ContextNeeded { outcome: Outcome::NotApplied, .. }), "{error}");
    let seen = any.get().await.unwrap();
    let AnyValue::Map(fields) = seen.value() else { panic!("{seen:?}") };
    assert!(fields["f"].set.contains("x"));
    any.change(Some(seen.context()), remove).w(3).await.unwrap();
    assert_eq!(
        any.get().await.unwrap().into_value(),
        AnyValue::Map([("other".to_owned(), Field { flag: true, ..Field::default() })].into())
    );

    let error = client.bucket("map").counter("k").get().await.unwrap_err();
    assert!(matches!(error, Error::WrongType { problem: None, .. }), "{error}");
    assert_eq!(error.outcome(), Outcome::NotApplied);
    let error = client.bucket("map").get("k").await.unwrap_err();
    assert!(matches!(error, Error::WrongType { problem: Some(_), .. }), "{error}");
    client.bucket("plain").insert("k", "v").w(3).await.unwrap();
    let error = client.bucket("plain").set("k").add(["x"]).await.unwrap_err();
    assert!(matches!(error, Error::WrongType { outcome: Outcome::NotApplied, .. }), "{error}");
    let admin = client.admin();
    let set = BucketProperties::of_type(DataType::Set);
    let error = admin.set_bucket("plain", &set).await.unwrap_err();
    assert!(matches!(error, Error::BucketNotEmpty { .. }), "{error}");
    let error = admin.set_bucket("map", &set).await.unwrap_err();
    assert!(matches!(error, Error::WrongType { .. }), "{error}");

    // What an answer says can be set again.
    let mut properties = admin.bucket("map").await.unwrap();
    assert_eq!(properties.conflicts.as_deref(), Some("merged"));
    properties.n = Some(2);
    let changed = admin.set_bucket("map", &properties).await.unwrap();
    assert_eq!((changed.n, changed.data_type), (Some(2), Some(DataType::Map)));
}
