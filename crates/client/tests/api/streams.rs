//! Large values, in both directions, that are never in memory as a whole on the client.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};

use bytes::Bytes;
use futures_util::{Stream, StreamExt, stream};
use quorate_client::{Client, Error, NewValue, Outcome, ReadStream};

use crate::common::Cluster;
use crate::common::wire::Proxy;

const CHUNK: usize = 48 * 1024;
const CHUNKS: usize = 128;
/// 6 MiB.
const LENGTH: usize = CHUNK * CHUNKS;

/// The byte at a place of the value.
fn byte(at: usize) -> u8 {
    (at % 251) as u8
}

fn chunk(number: usize) -> Bytes {
    (number * CHUNK..(number + 1) * CHUNK).map(byte).collect()
}

/// The value, chunk by chunk; counts those that were taken.
fn chunks(taken: Arc<AtomicUsize>) -> impl Stream<Item = std::io::Result<Bytes>> + Send + 'static {
    stream::iter(0..CHUNKS).map(move |number| {
        taken.fetch_add(1, Relaxed);
        Ok(chunk(number))
    })
}

async fn check(read: ReadStream) {
    let ReadStream::Value(mut value) = read else { panic!("{read:?}") };
    assert_eq!(value.length(), Some(LENGTH as u64));
    assert_eq!(value.metadata().content_type.as_deref(), Some("video/x-test"));
    let (mut at, mut pieces) = (0, 0);
    while let Some(chunk) = value.chunk().await.unwrap() {
        assert!(chunk.iter().zip(at..).all(|(got, place)| *got == byte(place)), "at {at}");
        at += chunk.len();
        pieces += 1;
    }
    assert_eq!(at, LENGTH);
    assert!(pieces > 10, "{pieces} pieces");
}

#[tokio::test]
async fn six_mebibytes_go_out_and_come_back_as_streams() {
    let cluster = Cluster::start();
    let bucket = cluster.client().bucket("b");
    let taken = Arc::new(AtomicUsize::new(0));
    let counted = taken.clone();
    let value = NewValue::stream(LENGTH as u64, move || chunks(counted.clone()));
    let put = bucket.put_blind("k", value).content_type("video/x-test").w(3);
    assert_eq!(put.await.unwrap().siblings, 1);
    assert_eq!(taken.load(Relaxed), CHUNKS, "sent once");
    check(bucket.get("k").stream().await.unwrap()).await;

    // The context of a stream is that of a read, and a stream can be collected.
    let ReadStream::Value(value) = bucket.get("k").stream().await.unwrap() else { panic!() };
    let whole = value.collect().await.unwrap();
    assert_eq!(whole.bytes().len(), LENGTH);
    assert_eq!(whole.replace("small").w(3).await.unwrap().siblings, 1);
    assert!(matches!(bucket.get("none").stream().await.unwrap(), ReadStream::Absent(_)));
    bucket.put_blind("k", "other").w(3).await.unwrap();
    let ReadStream::Siblings(both) = bucket.get("k").r(3).stream().await.unwrap() else { panic!() };
    assert_eq!(both.siblings().len(), 2);
}

#[tokio::test]
async fn a_stream_that_can_be_made_again_is_retried_and_one_that_cannot_is_not() {
    let cluster = Cluster::start();
    let alone =
        |url: &str| Client::builder().nodes([url]).discover(false).route(false).build().unwrap();
    let proxy = Proxy::start(&cluster.url(1), 1).await;
    let taken = Arc::new(AtomicUsize::new(0));
    let counted = taken.clone();
    let value = NewValue::stream(LENGTH as u64, move || chunks(counted.clone()));
    let put = alone(&proxy.url).bucket("b").put_blind("k", value).content_type("video/x-test").w(3);
    let written = put.await.unwrap();
    assert_eq!((written.siblings, written.answered.attempts), (1, 2));
    assert_eq!(taken.load(Relaxed), 2 * CHUNKS);
    check(cluster.client().bucket("b").get("k").stream().await.unwrap()).await;

    let proxy = Proxy::start(&cluster.url(1), 1).await;
    let value = NewValue::stream_once(LENGTH as u64, chunks(Arc::default()));
    let error = alone(&proxy.url).bucket("b").put_blind("l", value).await.unwrap_err();
    assert_eq!(error.outcome(), Outcome::Unknown);
    assert!(matches!(error, Error::Unreachable { .. }), "{error}");
}

#[tokio::test]
async fn a_stream_of_another_length_writes_nothing() {
    let cluster = Cluster::start();
    let bucket = cluster.client().bucket("b");
    for length in [LENGTH as u64 + 1, LENGTH as u64 - 1] {
        let value = NewValue::stream(length, || chunks(Arc::default()));
        let error = bucket.put_blind("k", value).await.unwrap_err();
        assert!(matches!(error, Error::Invalid { what: "value", .. }), "{error}");
        assert!(error.to_string().contains("stream"), "{error}");
    }
    let broken = || stream::iter([Ok(chunk(0)), Err(std::io::Error::other("the tape is torn"))]);
    let error = bucket.put_blind("k", NewValue::stream(LENGTH as u64, broken)).await.unwrap_err();
    assert!(error.to_string().contains("the tape is torn"), "{error}");
    assert!(matches!(bucket.get("k").stream().await.unwrap(), ReadStream::Absent(_)));
}

#[tokio::test]
async fn a_value_that_is_too_large_is_refused_by_name() {
    let cluster = Cluster::start();
    let value = Bytes::from(vec![0; (8 << 20) + 1]);
    let error = cluster.client().bucket("b").put_blind("k", value).await.unwrap_err();
    assert!(matches!(error, Error::TooLarge { outcome: Outcome::NotApplied, .. }), "{error}");
    assert_eq!(error.problem().unwrap().fact("max").unwrap(), 8 << 20);
}
