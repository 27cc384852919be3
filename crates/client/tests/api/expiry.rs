//! Values that expire: what answers tell of them, and a real cluster that lets them go.

use std::time::{Duration, SystemTime};

use quorate_client::{BucketProperties, Client, Error, Lifetime, Read, ReadStream, Retries, Value};

use crate::common::Cluster;
use crate::common::wire::Stub;

fn once(url: &str) -> Client {
    let builder = Client::builder().nodes([url]).discover(false).route(false);
    builder.retries(Retries::NONE).build().unwrap()
}

fn since_1970(at: Option<SystemTime>) -> u128 {
    at.unwrap().duration_since(SystemTime::UNIX_EPOCH).unwrap().as_millis()
}

#[tokio::test]
async fn answers_tell_the_end_of_a_value() {
    let head = "200 OK\r\nquorate-context: AAAA\r\ncontent-length: 1";
    let ends = format!("{head}\r\nquorate-expires-at: 1970-01-01T00:00:01.500Z");
    let bucket = once(&Stub::start(&ends, "x").await.url).bucket("b");
    let Read::Value(value) = bucket.get("k").await.unwrap() else { panic!("one value") };
    assert_eq!(since_1970(value.expires_at()), 1500);
    let ReadStream::Value(value) = bucket.get("k").stream().await.unwrap() else { panic!() };
    assert_eq!(since_1970(value.expires_at()), 1500);
    assert_eq!(since_1970(value.collect().await.unwrap().expires_at()), 1500);

    let stays = once(&Stub::start(head, "x").await.url).bucket("b");
    let Read::Value(value) = stays.get("k").await.unwrap() else { panic!("one value") };
    assert_eq!(value.expires_at(), None);

    // An end that cannot be read must not look like none.
    let odd = format!("{head}\r\nquorate-expires-at: tomorrow");
    let error = once(&Stub::start(&odd, "x").await.url).bucket("b").get("k").await.unwrap_err();
    assert!(matches!(error, Error::BadAnswer { .. }), "{error:?}");
}

#[tokio::test]
async fn an_expired_key_is_told_from_a_deleted_one() {
    let body = "{\"type\":\"urn:quorate:problem:key_deleted\",\"detail\":\"d\",\"status\":404}";
    let head = format!(
        "404 X\r\ncontent-type: application/problem+json\r\nquorate-context: AAAA\r\ncontent-length: {}",
        body.len()
    );
    for (head, has_expired) in [(format!("{head}\r\nquorate-expired: true"), true), (head, false)] {
        let bucket = once(&Stub::start(&head, body).await.url).bucket("b");
        let Read::Absent(absent) = bucket.get("k").await.unwrap() else { panic!("no value") };
        assert_eq!((absent.was_deleted(), absent.has_expired()), (true, has_expired));
        assert!(absent.context().is_some());
    }
}

#[tokio::test]
async fn what_no_value_can_live_is_refused_before_anything_is_sent() {
    let client = Client::connect(["http://127.0.0.1:1"]).unwrap();
    let bucket = client.bucket("b");
    for time in [Duration::ZERO, Duration::from_secs(3_162_240_001)] {
        let error = bucket.put_blind("k", "x").expires_in(time).await.unwrap_err();
        assert!(matches!(error, Error::Invalid { what: "expires_in", .. }), "{error}");
    }
}

#[tokio::test]
async fn values_expire_and_are_replaced() {
    let cluster = Cluster::start();
    let client = cluster.client();
    let bucket = client.bucket("sessions");
    let put = bucket.put_blind("k", "x").expires_in(Duration::from_millis(1500)).w(3);
    put.await.unwrap();
    let Read::Value(value) = bucket.get("k").r(3).await.unwrap() else { panic!("it lives") };
    let left = value.expires_at().unwrap().duration_since(SystemTime::now()).unwrap();
    assert!(left > Duration::from_millis(500) && left <= Duration::from_secs(2), "{left:?}");
    tokio::time::sleep(left + Duration::from_millis(200)).await;
    let Read::Absent(absent) = bucket.get("k").r(3).await.unwrap() else { panic!("it is over") };
    assert!(absent.has_expired());
    assert_eq!(absent.put("again").never_expires().w(3).await.unwrap().siblings, 1);

    // The bucket's own lifetime, and writes that say another.
    let properties = BucketProperties { expires_in_s: Some(60), ..BucketProperties::default() };
    let set = client.admin().set_bucket("sessions", &properties).await.unwrap();
    assert_eq!(set.expires_in_s, Some(60));
    bucket.put_blind("follows", "x").w(3).await.unwrap();
    let append = |value: Option<&Value>| format!("{}y", value.and_then(Value::text).unwrap_or(""));
    bucket.update("stays").w(3).lifetime(Lifetime::Unlimited).apply(append).await.unwrap();
    let batch = client.batch().put_blind("sessions", "batched", "x");
    let hour = bucket.put_blind("hour", "x").expires_in(Duration::from_secs(3600));
    for written in batch.push(hour).w(3).await {
        written.unwrap();
    }
    let keys = ["k", "follows", "stays", "batched", "hour"];
    let batch = keys.iter().fold(client.batch(), |batch, key| batch.get("sessions", *key));
    let ends = batch.r(3).await.into_iter().map(|result| match result.unwrap().read() {
        Some(Read::Value(value)) => value.expires_at(),
        other => panic!("{other:?}"),
    });
    let left = ends.map(|at| Some(at?.duration_since(SystemTime::now()).unwrap().as_secs()));
    let left: Vec<_> = left.collect();
    let about =
        |left: Option<u64>, all: u64| left.is_some_and(|left| left > all - 60 && left <= all);
    assert_eq!((left[0], left[2]), (None, None));
    assert!(about(left[1], 60) && about(left[3], 60) && about(left[4], 3600), "{left:?}");

    // A sibling that is kept keeps its time.
    bucket.put_blind("hour", "z").w(3).await.unwrap();
    let Read::Siblings(both) = bucket.get("hour").r(3).await.unwrap() else { panic!("two") };
    assert!(both.siblings().iter().all(|sibling| sibling.expires_at.is_some()));
    let is_x = |value: &Value| value.text() == Some("x");
    let kept = both.siblings().iter().find(|it| it.value.as_ref().is_some_and(is_x)).unwrap();
    both.keep(&kept.dot).w(3).await.unwrap();
    let Read::Value(hour) = bucket.get("hour").r(3).await.unwrap() else { panic!("one") };
    let left = hour.expires_at().unwrap().duration_since(SystemTime::now()).unwrap();
    assert!(about(Some(left.as_secs()), 3600), "{left:?}");
}
