//! The secondary index, of a real cluster and of answers that are none.

use futures_util::TryStreamExt;
use quorate_client::{
    BatchAnswer, Bucket, Client, Error, IndexEntry, IndexPage, IndexQuery, IndexValue, Read,
    ReadStream, Retries, Sibling, Value,
};

use crate::common::wire::Stub;
use crate::common::{Apart, Cluster};

fn once(url: &str) -> Client {
    let builder = Client::builder().nodes([url]).discover(false).route(false);
    builder.retries(Retries::NONE).build().unwrap()
}

/// The entries of one value, in short.
fn entries(value: &Value) -> String {
    let all: Vec<String> =
        value.metadata.index.iter().map(|(index, value)| format!("{index}={value}")).collect();
    all.join(" ")
}

async fn read(bucket: &Bucket, key: &str) -> String {
    let Read::Value(value) = bucket.get(key).r(3).await.unwrap() else { panic!("one value") };
    entries(value.value())
}

async fn found(query: IndexQuery) -> Vec<String> {
    let all: Vec<IndexEntry> = query.stream().try_collect().await.unwrap();
    all.iter().map(|entry| format!("{} {}", entry.value, entry.key)).collect()
}

#[tokio::test]
async fn keys_are_found_by_what_their_values_have() {
    let cluster = Cluster::start();
    let users = cluster.client().bucket("users");
    let ada = Value::from("{}").index("Email_s", "b,1@x").index("email_s", "a%@x");
    users.put_blind("ada/ü", ada.index("age_i", 36)).w(3).await.unwrap();
    users.insert("bob", "{}").index("age_i", 17).index("email_s", "ü@x").w(3).await.unwrap();
    users.insert("cem", "{}").index("age_i", i64::MIN).index("age_i", 36).w(3).await.unwrap();
    assert_eq!(read(&users, "ada/ü").await, "age_i=36 email_s=a%@x email_s=b,1@x");

    let email = || users.index("email_s");
    assert_eq!(found(email()).await, ["a%@x ada/ü", "b,1@x ada/ü", "ü@x bob"]);
    assert_eq!(found(email().eq("b,1@x")).await, ["b,1@x ada/ü"]);
    assert_eq!(found(email().range("b", "c")).await, ["b,1@x ada/ü"]);
    assert_eq!(found(email().from("b").limit(1)).await, ["b,1@x ada/ü", "ü@x bob"]);
    let age = || users.index("age_i");
    assert_eq!(found(age().eq(36)).await, ["36 ada/ü", "36 cem"]);
    assert_eq!(found(age().to(17)).await, [format!("{} cem", i64::MIN).as_str(), "17 bob"]);
    assert!(found(users.index("nobody_s")).await.is_empty());

    let pages: Vec<IndexPage> = age().limit(1).pages().try_collect().await.unwrap();
    assert!(pages.iter().all(|page| page.complete && page.entries.len() <= 1), "{pages:?}");
    let all: Vec<&str> =
        pages.iter().flat_map(|page| &page.entries).map(|entry| entry.key.as_str()).collect();
    assert_eq!(all, ["cem", "bob", "ada/ü", "cem"]);
    let cursor = pages[0].cursor.as_deref();
    let other = email().page(cursor).await.unwrap_err();
    assert!(matches!(other, Error::BadRequest { .. }), "{other:?}");

    let Read::Value(bob) = users.get("bob").await.unwrap() else { panic!("one value") };
    bob.replace("{}").index("age_i", 18).w(3).await.unwrap();
    users.delete("cem").w(3).await.unwrap();
    assert_eq!(found(age()).await, ["18 bob", "36 ada/ü"]);
    assert_eq!(found(email()).await, ["a%@x ada/ü", "b,1@x ada/ü"]);
}

#[tokio::test]
async fn a_page_says_whether_entries_may_be_missing() {
    let mut cluster = Apart::start().await;
    let users = Client::connect(cluster.urls()).unwrap().bucket("users");
    for at in 0..20 {
        let key = format!("k{at}");
        users.put_blind(key, "x").index("age_i", at).w(3).await.unwrap();
    }
    cluster.kill(3);
    let page = users.index("age_i").page(None).await.unwrap();
    assert_eq!((page.entries.len(), page.complete), (20, true), "R of them are enough");
    cluster.kill(2);
    let page = users.index("age_i").page(None).await.unwrap();
    assert!(!page.complete, "{page:?}");
}

#[tokio::test]
async fn entries_are_kept_with_what_is_kept() {
    let cluster = Cluster::start();
    let users = cluster.client().bucket("users");
    users.put_blind("k", "one").index("age_i", 1).w(3).await.unwrap();
    users.put_blind("k", "two").index("age_i", 2).index("name_s", "x").w(3).await.unwrap();
    let Read::Siblings(both) = users.get("k").r(3).await.unwrap() else { panic!("a conflict") };
    let mut all: Vec<String> = both.values().map(entries).collect();
    all.sort();
    assert_eq!(all, ["age_i=1", "age_i=2 name_s=x"]);
    let is_two = |it: &&Sibling| it.value.as_ref().is_some_and(|value| value.text() == Some("two"));
    let two = both.siblings().iter().find(is_two).unwrap();
    both.keep(&two.dot).w(3).await.unwrap();
    assert_eq!(read(&users, "k").await, "age_i=2 name_s=x");

    // A resolver that answers with a sibling keeps what that has, and so does an update of a value.
    users.put_blind("k", "three").index("age_i", 3).w(3).await.unwrap();
    let Read::Siblings(both) = users.get("k").r(3).await.unwrap() else { panic!("a conflict") };
    let largest = |all: &[Sibling]| {
        let values = all.iter().filter_map(|it| it.value.clone());
        values.max_by_key(|value| value.metadata.index("age_i").max().cloned()).unwrap()
    };
    both.resolve(largest).w(3).await.unwrap();
    assert_eq!(read(&users, "k").await, "age_i=3");
    let change = |value: Option<&Value>| value.unwrap().clone().index("age_i", 4);
    users.update("k").w(3).apply(change).await.unwrap();
    assert_eq!(read(&users, "k").await, "age_i=3 age_i=4");

    // As a stream, and in a batch.
    let ReadStream::Value(stream) = users.get("k").stream().await.unwrap() else { panic!() };
    let told = stream.metadata();
    assert!(told.index("age_i").eq([&IndexValue::from(3), &IndexValue::from(4)]));
    stream.replace("four").metadata(told).w(3).await.unwrap();
    let client = cluster.client();
    let put = users.put_blind("l", Value::from("x").index("name_s", "b, c"));
    let results = client.batch().push(put).get("users", "k").r(3).w(3).await;
    let Ok(BatchAnswer::Read(Read::Value(k))) = &results[1] else { panic!("{results:?}") };
    assert_eq!(entries(k.value()), "age_i=3 age_i=4");
    assert!(results[0].is_ok(), "{results:?}");
    assert_eq!(found(users.index("name_s")).await, ["b, c l"]);
}

#[tokio::test]
async fn what_no_index_has_is_refused_before_anything_is_sent() {
    let client = Client::connect(["http://127.0.0.1:1"]).unwrap();
    let users = client.bucket("users");
    let refused = |error: Error| assert!(matches!(error, Error::Invalid { what: "index", .. }));
    refused(users.put_blind("k", "x").index("age", 7).await.unwrap_err());
    refused(users.put_blind("k", "x").index("age_i", "old").await.unwrap_err());
    refused(users.put_blind("k", "x").index("name_s", "").await.unwrap_err());
    refused(users.index("age").page(None).await.unwrap_err());
    refused(users.index("age_i").eq("old").page(None).await.unwrap_err());
    refused(users.index("age_i").eq(1).from(1).page(None).await.unwrap_err());
    let put = users.put_blind("k", "x").index("age_i", "old");
    refused(client.batch().push(put).await.remove(0).unwrap_err());
}

#[tokio::test]
async fn answers_that_are_none_are_told_apart() {
    let head = "200 OK\r\nquorate-context: AAAA\r\ncontent-length: 1";
    let odd = format!("{head}\r\nquorate-index-age_i: 7, old");
    let bucket = once(&Stub::start(&odd, "x").await.url).bucket("b");
    let error = bucket.get("k").await.unwrap_err();
    assert!(matches!(&error, Error::BadAnswer { detail, .. } if detail.contains("old")), "{error}");
    let error = bucket.get("k").stream().await.unwrap_err();
    assert!(matches!(error, Error::BadAnswer { .. }), "{error}");

    for body in [
        "{}",
        r#"{"entries":[{"value":"old","key":"k"}],"cursor":null,"complete":true}"#,
        r#"{"entries":[{"value":7}],"cursor":null,"complete":true}"#,
        r#"{"entries":[],"cursor":"C","complete":true}"#,
    ] {
        let head = format!("200 OK\r\ncontent-length: {}", body.len());
        let age = once(&Stub::start(&head, body).await.url).bucket("b").index("age_i");
        let error = age.pages().try_collect::<Vec<_>>().await.unwrap_err();
        assert!(matches!(error, Error::BadAnswer { .. }), "{body}: {error}");
    }
}
