//! Batches: against a real cluster, and against answers that are none.

use std::sync::atomic::Ordering::Relaxed;
use std::time::Duration;

use quorate_client::{
    BatchAnswer, BatchOperation, BucketProperties, Client, DataType, Error, NewValue, Outcome,
    Read, Retries, Value,
};

use crate::common::Cluster;
use crate::common::wire::{Proxy, Stub};

type Results = Vec<Result<BatchAnswer, Error>>;

fn once(url: &str) -> Client {
    let builder = Client::builder().nodes([url]).discover(false).route(false);
    builder.retries(Retries::NONE).build().unwrap()
}

fn read(results: &Results, at: usize) -> &Read {
    results[at].as_ref().unwrap().read().unwrap()
}

fn text(results: &Results, at: usize) -> Option<&str> {
    match read(results, at) {
        Read::Value(value) => value.text(),
        Read::Siblings(_) | Read::Absent(_) => None,
    }
}

#[tokio::test]
async fn each_operation_has_the_result_that_it_has_alone() {
    let cluster = Cluster::start();
    let client = cluster.client();
    client.discover().await.unwrap();
    let counters = BucketProperties::of_type(DataType::Counter);
    client.admin().set_bucket("counters", &counters).await.unwrap();
    let mut batch = client.batch();
    for at in 0..2_500 {
        batch = batch.put_blind("b", format!("k{at}"), format!("v{at}"));
    }
    assert_eq!(batch.len(), 2_500);
    for written in batch.w(3).await {
        let written = written.unwrap();
        let written = written.written().unwrap();
        assert_eq!((written.acks, written.siblings, written.answered.attempts), (3, 1, 1));
        assert!(written.context.is_some());
    }
    let b = client.bucket("b");
    let Read::Value(seen) = b.get("k1").r(3).await.unwrap() else { panic!("it was written") };
    let results = client
        .batch()
        .get("b", "k0")
        .push(seen.replace("new"))
        .insert("b", "k2", "taken")
        .delete("b", "k3")
        .get("b", "never")
        .push(b.put_blind("meta", Value::new("x").meta("m", "1")))
        .push(b.put_blind("bytes", &[0xff, 0][..]))
        .push(client.bucket("counters").counter("c").increment(5))
        .put_blind("counters", "c", "x")
        .put_blind("a b", "k", "x")
        .r(3)
        .w(3)
        .await;
    assert_eq!(text(&results, 0), Some("v0"));
    assert_eq!(results[1].as_ref().unwrap().written().unwrap().siblings, 1);
    let taken = results[2].as_ref().unwrap_err();
    assert!(
        matches!(taken, Error::ConditionFailed { outcome: Outcome::NotApplied, .. }),
        "{taken}"
    );
    assert!(results[3].is_ok() && results[5].is_ok() && results[6].is_ok());
    assert!(matches!(read(&results, 4), Read::Absent(absent) if !absent.was_deleted()));
    assert!(matches!(&results[7], Ok(BatchAnswer::Applied(applied)) if applied.acks == 3));
    assert!(matches!(results[8], Err(Error::WrongType { .. })), "{:?}", results[8]);
    assert!(matches!(results[9], Err(Error::Invalid { what: "bucket", .. })), "{:?}", results[9]);

    b.put_blind("both", "one").w(3).await.unwrap();
    b.put_blind("both", "two").w(3).await.unwrap();
    let reads = client.batch().get("b", "both").get("b", "bytes").get("b", "k3").get("b", "k1");
    let reads = reads.get("b", "meta").r(3).await;
    let Read::Siblings(both) = read(&reads, 0) else { panic!("{:?}", reads[0]) };
    assert_eq!(both.replace("one, two").w(3).await.unwrap().siblings, 1);
    let Read::Value(bytes) = read(&reads, 1) else { panic!("{:?}", reads[1]) };
    assert_eq!(&bytes.bytes()[..], [0xff, 0]);
    assert!(matches!(read(&reads, 2), Read::Absent(absent) if absent.was_deleted()));
    assert_eq!((text(&reads, 3), text(&reads, 4)), (Some("new"), Some("x")));
    let Read::Value(meta) = b.get("meta").await.unwrap() else { panic!("it was written") };
    assert_eq!(meta.value().metadata.user("m"), Some("1"), "it was sent alone");
    assert_eq!(*client.bucket("counters").counter("c").get().await.unwrap().value(), 5);
    assert!(client.batch().await.is_empty());
}

#[tokio::test]
async fn what_has_no_room_is_sent_alone() {
    let cluster = Cluster::start();
    let client = cluster.client();
    let large = |byte: u8| vec![byte; 3 << 20];
    let mut batch = client.batch();
    for at in 0..5 {
        batch = batch.put_blind("b", format!("k{at}"), large(at)); // three in base64, in a request each
    }
    let stream = NewValue::stream(3, || futures_util::stream::iter([Ok("abc".into())]));
    for written in batch.put_blind("b", "stream", stream).w(3).await {
        written.unwrap();
    }
    // Together the answers are longer than a batch may have.
    let mut batch = client.batch().get("b", "stream");
    for at in 0..5 {
        batch = batch.get("b", format!("k{at}"));
    }
    let reads = batch.await;
    assert_eq!(text(&reads, 0), Some("abc"));
    for at in 0..5 {
        let Read::Value(value) = read(&reads, at + 1) else { panic!("{:?}", reads[at + 1]) };
        assert_eq!(value.bytes(), &large(at as u8));
    }
}

#[tokio::test]
async fn a_batch_whose_answer_is_lost_is_sent_again_and_done_once() {
    let cluster = Cluster::start();
    let counters = BucketProperties::of_type(DataType::Counter);
    cluster.client().admin().set_bucket("counters", &counters).await.unwrap();
    let proxy = Proxy::start(&cluster.url(1), 1).await;
    let builder = Client::builder().nodes([&proxy.url]).discover(false).route(false);
    let client = builder.build().unwrap();
    let counter = client.bucket("counters").counter("c");
    let batch = client.batch().put_blind("b", "k", "x").push(counter.increment(1)).w(3);
    let results = batch.await;
    let BatchAnswer::Written(written) = results[0].as_ref().unwrap() else { panic!("a put") };
    assert_eq!((written.siblings, written.answered.attempts), (1, 2));
    assert!(results[1].is_ok());
    assert_eq!(*counter.get().await.unwrap().value(), 1);

    // What must not be repeated is not, and the others are.
    let proxy = Proxy::start(&cluster.url(1), 2).await;
    let builder = Client::builder().nodes([&proxy.url]).discover(false).route(false);
    let client = builder.build().unwrap();
    let increment = client.bucket("counters").counter("once").increment(1).at_most_once();
    let results = client.batch().push(increment).put_blind("b", "l", "x").await;
    assert_eq!(results[0].as_ref().unwrap_err().outcome(), Outcome::Unknown);
    assert!(results[1].is_ok());
}

#[tokio::test]
async fn a_request_that_fails_as_a_whole_fails_each_operation() {
    let all = |client: &Client| {
        let b = client.bucket("b");
        let batch = client.batch().put_blind("b", "k", "x").get("b", "k").delete("b", "l");
        batch.push(BatchOperation::from(b.counter("c").increment(1)))
    };
    let outcomes = |results: &Results| -> Vec<Outcome> {
        results.iter().map(|result| result.as_ref().unwrap_err().outcome()).collect()
    };
    let unknown = [Outcome::Unknown, Outcome::NotApplied, Outcome::Unknown, Outcome::Unknown];

    let closed = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}", closed.local_addr().unwrap());
    let silent = all(&once(&url)).deadline(Duration::from_millis(400)).await;
    assert!(matches!(silent[0], Err(Error::TimedOut { .. })), "{:?}", silent[0]);
    assert_eq!(outcomes(&silent), unknown);
    drop(closed);
    let refused = all(&once(&url)).await;
    assert!(matches!(refused[0], Err(Error::Unreachable { .. })), "{:?}", refused[0]);
    assert_eq!(outcomes(&refused), [Outcome::NotApplied; 4]);

    let stub = Stub::problem(413, "too_large", "").await;
    let results = all(&once(&stub.url)).await;
    assert!(results.iter().all(|it| matches!(it, Err(Error::TooLarge { .. }))), "{results:?}");
    assert_eq!((stub.asked.load(Relaxed), outcomes(&results)), (1, vec![Outcome::NotApplied; 4]));

    for body in ["{}", "[]", "{\"results\":[]}", "{\"results\":[1,2,3,4]}", "no"] {
        let head =
            format!("200 OK\r\ncontent-type: application/json\r\ncontent-length: {}", body.len());
        let stub = Stub::start(&head, body).await;
        let results = all(&once(&stub.url)).await;
        assert!(results.iter().all(|it| matches!(it, Err(Error::BadAnswer { .. }))), "{results:?}");
        assert_eq!(outcomes(&results), unknown, "{body}");
    }
}

#[tokio::test]
async fn operations_fail_one_by_one_and_are_asked_for_again() {
    let problem = |status: u16, name: &str, outcome: &str| {
        format!(
            "{{\"status\":{status},\"problem\":{{\"type\":\"urn:quorate:problem:{name}\",\
             \"detail\":\"d\",\"status\":{status},\"outcome\":\"{outcome}\"}}}}"
        )
    };
    let body = format!(
        "{{\"results\":[{},{},{{\"status\":204,\"acks\":2,\"siblings_count\":1}}]}}",
        problem(503, "no_quorum", "partial"),
        problem(400, "bad_context", "not_applied"),
    );
    let head =
        format!("200 OK\r\ncontent-type: application/json\r\ncontent-length: {}", body.len());
    let stub = Stub::start(&head, body).await;
    let puts = |client: &Client| {
        let batch = client.batch().put_blind("b", "1", "x").put_blind("b", "2", "x");
        batch.put_blind("b", "3", "x")
    };
    let results = puts(&once(&stub.url)).await;
    assert!(matches!(results[0], Err(Error::NoQuorum { outcome: Outcome::Partial, .. })));
    assert!(matches!(results[1], Err(Error::BadContext { .. })), "{:?}", results[1]);
    let written = results[2].as_ref().unwrap().written().unwrap();
    assert_eq!((written.acks, written.siblings, stub.asked.load(Relaxed)), (2, 1, 1));

    // The first alone is worth another attempt. To that this stub answers with too many results.
    let builder = Client::builder().nodes([&stub.url]).discover(false).route(false);
    let results = puts(&builder.build().unwrap()).await;
    assert_eq!(stub.asked.load(Relaxed), 3);
    let first = results[0].as_ref().unwrap_err();
    assert!(matches!(first, Error::BadAnswer { outcome: Outcome::Partial, .. }), "{first:?}");
    assert!(results[2].is_ok());
}
