//! What the client promises about contexts, conflicts and conditions, against a real cluster.

use quorate_client::{Error, Outcome, Read, Siblings, Value, Versioned};

use crate::common::Cluster;

fn value(read: Read) -> Versioned {
    match read {
        Read::Value(value) => value,
        other @ (Read::Siblings(_) | Read::Absent(_)) => panic!("not one value: {other:?}"),
    }
}

fn siblings(read: Read) -> Siblings {
    match read {
        Read::Siblings(siblings) => siblings,
        other @ (Read::Value(_) | Read::Absent(_)) => panic!("no siblings: {other:?}"),
    }
}

#[tokio::test]
async fn contexts_conflicts_and_deletes() {
    let cluster = Cluster::start();
    let carts = cluster.client().bucket("carts");
    let Read::Absent(absent) = carts.get("alice").await.unwrap() else { panic!("there is none") };
    assert!(!absent.was_deleted());

    // A value that was read is replaced with its context: there is one sibling afterwards.
    let written = absent.put("2 apples").w(3).meta("by", "ü").await.unwrap();
    assert_eq!((written.siblings, written.acks, written.hints), (1, 3, 0));
    let read = value(carts.get("alice").r(3).await.unwrap());
    assert_eq!(read.text(), Some("2 apples"));
    assert_eq!(read.value().metadata.content_type.as_deref(), Some("text/plain; charset=utf-8"));
    assert_eq!(read.value().metadata.user("by"), Some("ü"));
    let written = read.replace("3 apples").w(3).await.unwrap();
    assert_eq!(written.siblings, 1);
    let written = written.replace("4 apples").unwrap().w(3).await.unwrap();
    assert_eq!(written.siblings, 1);

    // A blind write, and one by what was seen long ago, replace nothing that they did not see.
    let blind = carts.put_blind("alice", "1 pear").w(3).await.unwrap();
    assert!(blind.is_conflict() && blind.replace("x").is_none());
    let late = read.replace(&b"\xff\x00"[..]).w(3).await.unwrap();
    assert_eq!(late.siblings, 3);
    let conflict = siblings(carts.get("alice").r(3).await.unwrap());
    let mut texts: Vec<_> = conflict.values().map(|value| value.bytes.to_vec()).collect();
    texts.sort();
    assert_eq!(texts, [&b"1 pear"[..], &b"4 apples"[..], &b"\xff\x00"[..]]);

    let resolved = conflict.resolve(|all| format!("{} values", all.len())).w(3).await.unwrap();
    assert_eq!(resolved.siblings, 1);
    let read = value(carts.get("alice").await.unwrap());
    assert_eq!(read.text(), Some("3 values"));

    read.delete().w(3).await.unwrap();
    let Read::Absent(absent) = carts.get("alice").r(3).await.unwrap() else { panic!("deleted") };
    assert!(absent.was_deleted());
    let again = absent.put("new").await.unwrap();
    assert_eq!(again.siblings, 1, "the delete was seen");
    carts.delete("alice").w(3).await.unwrap();
    assert!(matches!(carts.get("alice").await.unwrap(), Read::Absent(_)));
    assert_eq!(carts.delete("never").await.unwrap().siblings, 0);
}

#[tokio::test]
async fn one_of_the_siblings_is_kept() {
    let cluster = Cluster::start();
    let bucket = cluster.client().bucket("b");
    bucket.put_blind("k", Value::new("one").content_type("a/b").meta("m", "1")).w(3).await.unwrap();
    bucket.put_blind("k", "two").w(3).await.unwrap();
    let conflict = siblings(bucket.get("k").r(3).await.unwrap());
    let of = |text: &str| {
        let has =
            |it: &&quorate_client::Sibling| it.value.as_ref().and_then(Value::text) == Some(text);
        conflict.siblings().iter().find(has).unwrap().dot.clone()
    };
    conflict.keep(&of("one")).w(3).await.unwrap();
    let kept = value(bucket.get("k").await.unwrap());
    assert_eq!(kept.text(), Some("one"));
    assert_eq!(kept.value().metadata.content_type.as_deref(), Some("a/b"));
    assert_eq!(kept.value().metadata.user("m"), Some("1"));
    let gone = conflict.keep(&of("two")).await.unwrap_err();
    assert!(matches!(gone, Error::SiblingGone { .. }), "{gone}");
    let wrong = conflict.keep("nonsense").await.unwrap_err();
    assert_eq!(wrong.problem().unwrap().name(), "bad_body");
}

#[tokio::test]
async fn conditions_and_bad_requests_change_nothing() {
    let cluster = Cluster::start();
    let bucket = cluster.client().bucket("b");
    bucket.insert("k", "1").w(3).await.unwrap();
    let taken = bucket.insert("k", "2").await.unwrap_err();
    assert!(
        matches!(taken, Error::ConditionFailed { outcome: Outcome::NotApplied, .. }),
        "{taken}"
    );
    let read = value(bucket.get("k").r(3).await.unwrap());
    read.replace("2").if_match(read.etag().unwrap()).w(3).await.unwrap();
    let stale = read.replace("3").if_match(read.etag().unwrap()).await.unwrap_err();
    assert!(matches!(stale, Error::ConditionFailed { .. }), "{stale}");
    let none = bucket.put_blind("other", "x").if_present().await.unwrap_err();
    assert!(matches!(none, Error::ConditionFailed { .. }), "{none}");

    let name = |error: Error| error.problem().map(|problem| problem.name().to_owned()).unwrap();
    assert_eq!(name(bucket.get("k").r(9).await.unwrap_err()), "bad_parameter");
    assert_eq!(
        name(bucket.put_blind("k", "x").meta("a", "x".repeat(5000)).await.unwrap_err()),
        "bad_header"
    );
    let foreign = value(bucket.get("k").await.unwrap()).context().clone();
    assert_eq!(name(bucket.put_after("other", &foreign, "x").await.unwrap_err()), "bad_context");
    assert!(matches!(bucket.get("").await.unwrap_err(), Error::Invalid { what: "key", .. }));
    assert_eq!(value(bucket.get("k").r(3).await.unwrap()).text(), Some("2"));

    let key = "ü/../ %2F?#&+";
    bucket.put_blind(key, "odd").await.unwrap();
    assert_eq!(value(bucket.get(key).await.unwrap()).text(), Some("odd"));
}
