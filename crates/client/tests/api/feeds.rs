//! Feeds: what answers tell of changes, and a real cluster that is followed.

use std::collections::BTreeMap;
use std::sync::atomic::Ordering::Relaxed;
use std::time::{Duration, Instant};

use quorate_client::{
    BucketProperties, Client, ClientBuilder, DataType, Error, Feed, FeedChange, FeedPage, KeyState,
    Read, Retries,
};

use crate::common::wire::{Proxy, Stub};
use crate::common::{Cluster, discovered};

const HALF_MINUTE: Duration = Duration::from_secs(30);

fn alone(url: &str) -> ClientBuilder {
    Client::builder().nodes([url]).discover(false).route(false)
}

fn once(url: &str) -> Client {
    alone(url).retries(Retries::NONE).build().unwrap()
}

/// What answers with this page.
async fn stub(changes: &str) -> Stub {
    let body = format!(
        "{{\"bucket\":\"b\",\"changes\":[{changes}],\"cursor\":\"AQ-x_\",\"complete\":false}}"
    );
    let length = body.len();
    let head = format!("200 OK\r\ncontent-type: application/json\r\ncontent-length: {length}");
    Stub::start(&head, body).await
}

async fn page(changes: &str) -> Result<FeedPage, Error> {
    once(&stub(changes).await.url).bucket("b").feed().next_page().await
}

#[tokio::test]
async fn changes_are_read_as_keys_are() {
    let page = page(
        r#"{"key":"v","status":200,"value":"x","content_type":"text/x","meta":{"by":"me"},
            "expires_at":"1970-01-01T00:00:01.500Z","context":"AAAA","etag":"\"1\""},
           {"key":"bytes","status":200,"value":"/wA=","encoding":"base64","context":"AAAA"},
           {"key":"both","status":300,"siblings_count":2,"context":"BBBB","siblings":[
             {"dot":"0a-1","value":"l"},{"dot":"0b-1","deleted":true}]},
           {"key":"gone","status":404,"deleted":true,"context":"CCCC"},
           {"key":"over","status":404,"deleted":true,"expired":true,"context":"CCCC"},
           {"key":"large","status":200,"bytes":100000,"content_type":"text/x","etag":"\"2\""},
           {"key":"many","status":300,"bytes":200000,"siblings_count":9},
           {"key":"n","status":200,"type":"counter","value":-5,"exists":true,"context":"DDDD"}"#,
    );
    let FeedPage { changes, cursor, complete, .. } = page.await.unwrap();
    assert_eq!((cursor.as_str(), complete), ("AQ-x_", false));
    let [v, bytes, both, gone, over, large, many, n] = &changes[..] else { panic!("{changes:?}") };
    let KeyState::Read(Read::Value(value)) = &v.state else { panic!("{v:?}") };
    assert_eq!((v.key.as_str(), value.key(), value.text()), ("v", "v", Some("x")));
    assert_eq!(value.value().metadata.user("by"), Some("me"));
    assert_eq!(value.value().metadata.content_type.as_deref(), Some("text/x"));
    assert!(value.expires_at().is_some() && value.etag() == Some("\"1\""));
    let KeyState::Read(Read::Value(value)) = &bytes.state else { panic!("{bytes:?}") };
    assert_eq!(&value.bytes()[..], [0xff, 0]);
    let KeyState::Read(Read::Siblings(two)) = &both.state else { panic!("{both:?}") };
    assert_eq!((two.siblings().len(), two.values().count()), (2, 1));
    let absent = |change: &FeedChange| {
        let KeyState::Read(Read::Absent(absent)) = &change.state else { panic!("{change:?}") };
        (absent.was_deleted(), absent.has_expired())
    };
    assert_eq!((absent(gone), absent(over)), ((true, false), (true, true)));
    let KeyState::LeftOut(left_out) = &large.state else { panic!("{large:?}") };
    assert_eq!((left_out.bytes, left_out.siblings, large.context()), (100_000, 1, None));
    assert_eq!(left_out.metadata.content_type.as_deref(), Some("text/x"));
    assert_eq!((left_out.etag.as_deref(), left_out.expires_at), (Some("\"2\""), None));
    let KeyState::LeftOut(left_out) = &many.state else { panic!("{many:?}") };
    assert_eq!((left_out.bytes, left_out.siblings), (200_000, 9));
    let KeyState::Typed(counter) = &n.state else { panic!("{n:?}") };
    assert_eq!((counter.value().data_type(), counter.exists()), (DataType::Counter, true));
    let contexts = [v, both, gone, n].map(|it| it.context().unwrap().as_str().to_owned());
    assert_eq!(contexts, ["AAAA", "BBBB", "CCCC", "DDDD"]);
}

#[tokio::test]
async fn what_no_node_says_is_an_error() {
    for bad in [
        "7",
        "{}",
        r#"{"key":7,"status":200}"#,
        r#"{"key":"k","status":200}"#,
        r#"{"key":"k","status":200,"value":"x"}"#,
        r#"{"key":"k","status":200,"value":"?","encoding":"base64","context":"AAAA"}"#,
        r#"{"key":"k","status":204,"context":"AAAA"}"#,
        r#"{"key":"k","status":200,"bytes":"many"}"#,
        r#"{"key":"k","status":300,"siblings":[],"context":"AAAA"}"#,
        r#"{"key":"k","status":200,"type":"counter","value":"x","exists":true,"context":"AAAA"}"#,
        r#"{"key":"k","status":200,"value":"x","context":"AAAA","meta":{"a b":"1"}}"#,
    ] {
        let error = page(bad).await.unwrap_err();
        assert!(matches!(error, Error::BadAnswer { .. }), "{bad}: {error:?}");
    }
    for body in ["[]", "{\"changes\":[],\"complete\":true}", "no"] {
        let stub = Stub::start(&format!("200 OK\r\ncontent-length: {}", body.len()), body).await;
        let error = once(&stub.url).bucket("b").feed().next_page().await.unwrap_err();
        assert!(matches!(error, Error::BadAnswer { .. }), "{body}: {error:?}");
    }
}

#[tokio::test]
async fn a_feed_goes_on_where_it_was() {
    let stub = stub("").await;
    let bucket = once(&stub.url).bucket("b");
    let asked = || stub.head.lock().unwrap().lines().next().unwrap().to_owned();
    let mut feed = bucket.feed().prefix("a/ü").limit(7);
    assert_eq!(feed.cursor(), "oldest");
    feed.next_page().await.unwrap();
    assert!(asked().ends_with("cursor=oldest&limit=7&prefix=a%2f%c3%bc&wait_ms=30000 http/1.1"));
    assert_eq!(feed.cursor(), "AQ-x_");
    feed = feed.wait(Duration::from_micros(1));
    feed.next_page().await.unwrap();
    assert!(asked().contains("cursor=aq-x_&limit=7&prefix=a%2f%c3%bc&wait_ms=1 "), "{}", asked());
    // Where now is, is told at once.
    let mut now = bucket.feed().from_now();
    now.next_page().await.unwrap();
    assert!(asked().ends_with("?cursor=now http/1.1"), "{}", asked());
    now.next_page().await.unwrap();
    assert!(asked().ends_with("?cursor=aq-x_&wait_ms=30000 http/1.1"), "{}", asked());
    let error = bucket.feed().wait(Duration::from_secs(61)).next_page().await.unwrap_err();
    assert!(matches!(error, Error::Invalid { what: "wait", .. }), "{error}");
}

#[tokio::test]
async fn refusals_say_what_to_do() {
    let stub = Stub::problem(409, "no_feed", "").await;
    let error = alone(&stub.url).build().unwrap().bucket("b").feed().next_page().await.unwrap_err();
    assert!(matches!(error, Error::NoFeed { .. }), "{error}");
    assert_eq!(stub.asked.load(Relaxed), 1, "it is not asked again");
    let stub = Stub::problem(410, "cursor_expired", ",\"cursor\":\"AQnew\"").await;
    let mut feed = once(&stub.url).bucket("b").feed().from_cursor("AQold");
    let error = feed.next_page().await.unwrap_err();
    let Error::CursorExpired { cursor, problem } = error else { panic!("{error}") };
    assert_eq!((cursor.as_str(), problem.status()), ("AQnew", 410));
    assert_eq!(feed.cursor(), "AQold", "to go on is up to the caller");
}

/// Gives a bucket a feed, and waits until all nodes know of it.
async fn feed_on(client: &Client, bucket: &str, properties: BucketProperties) {
    let properties = BucketProperties { feed_retention_s: Some(3600), ..properties };
    let set = client.admin().set_bucket(bucket, &properties).await.unwrap();
    assert_eq!(set.feed_retention_s, Some(3600));
    let begun = Instant::now();
    for node in client.known_nodes() {
        let mut feed = once(&node.url).bucket(bucket).feed().from_now();
        while !feed.next_page().await.is_ok_and(|page| page.complete) {
            assert!(begun.elapsed() < HALF_MINUTE, "{} has no feed", node.url);
            feed = feed.from_now();
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    }
}

/// Follows a feed until it has delivered all there is; the last change of each key.
async fn rest(feed: &mut Feed) -> BTreeMap<String, FeedChange> {
    let mut all = BTreeMap::new();
    loop {
        let page = feed.next_page().await.unwrap();
        let is_end = page.complete && page.changes.is_empty();
        all.extend(page.changes.into_iter().map(|change| (change.key.clone(), change)));
        if is_end {
            return all;
        }
    }
}

fn text(change: &FeedChange) -> Option<&str> {
    let KeyState::Read(Read::Value(value)) = &change.state else { return None };
    value.text()
}

#[tokio::test]
async fn a_cluster_is_followed_through_any_node() {
    let cluster = Cluster::start();
    let client = cluster.client();
    discovered(&client).await;
    let bucket = client.bucket("b");
    let error = bucket.feed().next_page().await.unwrap_err();
    assert!(matches!(error, Error::NoFeed { .. }), "{error}");
    feed_on(&client, "b", BucketProperties::default()).await;
    let mut feed = bucket.feed().from_now().limit(5);
    assert!(feed.next_page().await.unwrap().changes.is_empty());
    for at in 0..12 {
        bucket.put_blind(format!("k{at}"), format!("v{at}")).w(3).await.unwrap();
    }
    bucket.put_blind("large", vec![b'x'; 70_000]).w(3).await.unwrap();
    bucket.delete("k3").w(3).await.unwrap();
    feed = feed.wait(Duration::ZERO);
    let all = rest(&mut feed).await;
    assert_eq!((all.len(), text(&all["k7"])), (13, Some("v7")), "{:?}", all.keys());
    assert!(matches!(&all["k3"].state, KeyState::Read(Read::Absent(it)) if it.was_deleted()));
    assert!(matches!(&all["large"].state, KeyState::LeftOut(it) if it.bytes == 70_000));

    // A page is waited for; its answer is lost once, and comes again.
    let proxy = Proxy::start(&cluster.url(3), 1).await;
    let behind = alone(&proxy.url).build().unwrap().bucket("b");
    let mut waiting = behind.feed().from_cursor(feed.cursor());
    let begun = Instant::now();
    let page = tokio::spawn(async move { waiting.next_page().await });
    tokio::time::sleep(Duration::from_millis(200)).await;
    let KeyState::Read(seen) = &all["k7"].state else { panic!("a read") };
    let Read::Value(seen) = seen else { panic!("{seen:?}") };
    assert_eq!(seen.replace("new").w(3).await.unwrap().siblings, 1, "the context is good");
    let page = page.await.unwrap().unwrap();
    assert_eq!((text(&page.changes[0]), page.answered.attempts), (Some("new"), 2));
    assert!(begun.elapsed() < HALF_MINUTE);

    let counters = BucketProperties::of_type(DataType::Counter);
    feed_on(&client, "c", counters).await;
    client.bucket("c").counter("n").increment(5).w(3).await.unwrap();
    let all = rest(&mut client.bucket("c").feed().wait(Duration::ZERO)).await;
    let KeyState::Typed(n) = &all["n"].state else { panic!("{all:?}") };
    assert_eq!(*n.value(), quorate_client::AnyValue::Counter(5));
}

#[tokio::test]
async fn a_cursor_that_has_expired_gives_one_to_go_on_with() {
    let cluster = Cluster::start();
    let client = cluster.client();
    discovered(&client).await;
    feed_on(&client, "b", BucketProperties::default()).await;
    let bucket = client.bucket("b");
    let mut feed = bucket.feed().from_now();
    feed.next_page().await.unwrap();
    client.admin().reset_bucket("b").await.unwrap();
    let begun = Instant::now();
    while !matches!(feed.next_page().await, Err(Error::NoFeed { .. })) {
        assert!(begun.elapsed() < HALF_MINUTE, "the feed has an end");
    }
    bucket.put_blind("missed", "x").w(3).await.unwrap();
    feed_on(&client, "b", BucketProperties::default()).await;
    feed = feed.wait(Duration::ZERO);
    let cursor = loop {
        match feed.next_page().await {
            Err(Error::CursorExpired { cursor, .. }) => break cursor,
            other => assert!(begun.elapsed() < HALF_MINUTE, "{other:?}"),
        }
    };
    // All keys, then what has changed since.
    assert_eq!(bucket.keys().page(None).await.unwrap().keys, ["missed"]);
    bucket.put_blind("heard", "x").w(3).await.unwrap();
    let all = rest(&mut feed.from_cursor(cursor)).await;
    assert_eq!(all.keys().collect::<Vec<_>>(), ["heard"]);
}
