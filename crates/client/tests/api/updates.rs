//! Read-modify-write: nothing is lost, nothing is applied twice.

use std::collections::BTreeSet;
use std::time::Duration;

use quorate_client::{Bucket, Change, Error, Read, Sibling, Updated, Value};
use tokio::task::JoinSet;

use crate::common::Cluster;

/// The words of a value.
fn words(value: Option<&Value>) -> BTreeSet<String> {
    let text = value.and_then(Value::text).unwrap_or_default();
    text.split_whitespace().map(str::to_owned).collect()
}

fn text(words: BTreeSet<String>) -> Value {
    words.into_iter().collect::<Vec<_>>().join(" ").into()
}

/// All words of all siblings.
fn union(siblings: &[Sibling]) -> Value {
    text(siblings.iter().flat_map(|sibling| words(sibling.value.as_ref())).collect())
}

async fn add(bucket: &Bucket, word: &str) -> Result<Updated, Error> {
    let update = bucket.update("k").resolver(union).rounds(60);
    update
        .apply(|current| {
            let mut all = words(current);
            all.insert(word.to_owned());
            text(all)
        })
        .await
}

async fn read(bucket: &Bucket) -> Value {
    match bucket.get("k").r(3).await.unwrap() {
        Read::Value(value) => value.into_value(),
        other @ (Read::Siblings(_) | Read::Absent(_)) => panic!("{other:?}"),
    }
}

#[tokio::test]
async fn an_update_changes_what_is_there() {
    let cluster = Cluster::start();
    let bucket = cluster.client().bucket("b");
    for word in ["pear", "apple"] {
        assert!(matches!(add(&bucket, word).await.unwrap(), Updated::Written(_)));
    }
    assert_eq!(read(&bucket).await.text(), Some("apple pear"));
    let kept = bucket.update("k").apply(|_| Change::Keep).await.unwrap();
    assert!(matches!(kept, Updated::Kept));

    // A conflict is resolved first; without a resolver it ends the update, and nothing is changed.
    bucket.put_blind("k", "fig").w(3).await.unwrap();
    let error = bucket.update("k").r(3).apply(|_| "lost").await.unwrap_err();
    assert!(matches!(error, Error::Conflict { siblings: 2, applied: false, .. }), "{error}");
    add(&bucket, "plum").await.unwrap();
    assert_eq!(read(&bucket).await.text(), Some("apple fig pear plum"));

    bucket.update("k").apply(|_| Change::Delete).await.unwrap();
    assert!(matches!(bucket.get("k").r(3).await.unwrap(), Read::Absent(_)));
    add(&bucket, "new").await.unwrap();
    assert_eq!(read(&bucket).await.text(), Some("new"));
}

#[tokio::test]
async fn updates_at_once_lose_nothing() {
    let cluster = Cluster::start();
    let mut writers = JoinSet::new();
    for writer in 0..6 {
        let bucket = cluster.client().bucket("b");
        writers.spawn(async move {
            for turn in 0..5 {
                add(&bucket, &format!("w{writer}t{turn}")).await.unwrap();
            }
        });
    }
    while let Some(ended) = writers.join_next().await {
        ended.unwrap();
    }
    // Siblings may be left of two updates that were the last: the next update merges them.
    add(&cluster.client().bucket("b"), "last").await.unwrap();
    let all = words(Some(&read(&cluster.client().bucket("b")).await));
    assert_eq!(all.len(), 31, "{all:?}");
}

#[tokio::test]
async fn a_write_and_its_read_come_in_one_answer() {
    let cluster = Cluster::start();
    let bucket = cluster.client().bucket("b");
    let put = bucket.put_blind("k", "one").deadline(Duration::from_secs(8));
    let (written, read) = put.send_and_read().await.unwrap();
    assert_eq!(written.siblings, 1);
    let Read::Value(value) = read else { panic!("{read:?}") };
    assert_eq!((value.text(), Some(value.context())), (Some("one"), written.context.as_ref()));
    let (written, read) = bucket.put_blind("k", "two").w(3).send_and_read().await.unwrap();
    assert_eq!(written.siblings, 2);
    let Read::Siblings(both) = read else { panic!("{read:?}") };
    assert_eq!(both.resolve(union).w(3).await.unwrap().siblings, 1);
}
