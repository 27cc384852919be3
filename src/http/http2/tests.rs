//! Over a pipe, against the client of the same library, and against frames written by hand.

use axum::Router;
use axum::body::{Body, Bytes};
use axum::extract::Request as AxumRequest;
use axum::http::{Request, StatusCode, header};
use axum::routing::get;
use h2::client::SendRequest;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _, DuplexStream, duplex};
use tokio::sync::Notify;
use tokio::task::JoinHandle;
use tokio::time::sleep;

use super::*;
use crate::http::port::Stop;

const MIB: usize = 1 << 20;

/// A connection to an app that says what it was asked, and has something large.
struct Served {
    stream: DuplexStream,
    stop: Stop,
    crowd: Arc<Crowd>,
    /// Told that a request has come which is never answered.
    waits: Arc<Notify>,
    ended: JoinHandle<()>,
}

fn served(limits: Limits) -> Served {
    let asked = async |request: AxumRequest| {
        let host = request.headers()[header::HOST].to_str().unwrap().to_owned();
        format!("{} at {host}", request.uri())
    };
    let waits = Arc::new(Notify::new());
    let never = {
        let waits = waits.clone();
        async move || {
            waits.notify_one();
            std::future::pending::<String>().await
        }
    };
    let app = Router::new()
        .route("/large", get(async || Body::from(vec![7; 4 * MIB])))
        .route("/never", get(never))
        .fallback(asked);
    let (stop, crowd) = (Stop::default(), Arc::new(Crowd::default()));
    let lease = Lease::for_tests(&stop, crowd.clone());
    let (stream, other_end) = duplex(64 << 10);
    let ended = tokio::spawn(serve(other_end, app, limits, lease));
    Served { stream, stop, crowd, waits, ended }
}

fn patient() -> Limits {
    let patience = Patience { head_ms: 60_000, idle_ms: 60_000 };
    Limits { patience, stall: Duration::from_secs(60) }
}

/// A client with room for more than what one response may take of it.
async fn client(stream: DuplexStream) -> SendRequest<Bytes> {
    let mut builder = h2::client::Builder::new();
    builder.initial_connection_window_size(MIB as u32);
    let (client, connection) = builder.handshake(stream).await.unwrap();
    tokio::spawn(async move { drop(connection.await) });
    client.ready().await.unwrap()
}

fn request(uri: &str) -> Request<()> {
    Request::get(uri).body(()).unwrap()
}

/// The status and the whole body of an answer.
async fn ask(client: &SendRequest<Bytes>, uri: &str) -> Result<(StatusCode, Vec<u8>), h2::Error> {
    let mut client = client.clone().ready().await?;
    let (response, _) = client.send_request(request(uri), true)?;
    let response = response.await?;
    let status = response.status();
    let (mut body, mut whole) = (response.into_body(), Vec::new());
    while let Some(part) = body.data().await {
        let part = part?;
        body.flow_control().release_capacity(part.len())?;
        whole.extend_from_slice(&part);
    }
    Ok((status, whole))
}

#[tokio::test]
async fn a_request_is_as_over_http_1() {
    let served = served(patient());
    let client = client(served.stream).await;
    let (status, body) = ask(&client, "https://n1.test:7401/kv/b/a%23b?r=1").await.unwrap();
    assert_eq!(status, StatusCode::OK);
    assert_eq!(String::from_utf8(body).unwrap(), "/kv/b/a%23b?r=1 at n1.test:7401");
    let (status, body) = ask(&client, "https://n1.test/large").await.unwrap();
    assert_eq!((status, body.len()), (StatusCode::OK, 4 * MIB));
}

/// A frame (RFC 9113, 4.1).
fn frame(kind: u8, flags: u8, stream: u8, payload: &[u8]) -> Vec<u8> {
    let length = (payload.len() as u32).to_be_bytes();
    let head = [length[1], length[2], length[3], kind, flags, 0, 0, 0, stream];
    [&head, payload].concat()
}

/// The head of a GET, each field literal and not to be indexed (RFC 7541, 6.2.2).
fn head(path: &str) -> Vec<u8> {
    let fields =
        [(":method", "GET"), (":scheme", "https"), (":authority", "n1.test"), (":path", path)];
    let text = |text: &str| [&[text.len() as u8], text.as_bytes()].concat();
    fields.iter().flat_map(|(name, value)| [vec![0], text(name), text(value)].concat()).collect()
}

fn opening() -> Vec<u8> {
    [b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n".to_vec(), frame(4, 0, 0, &[])].concat()
}

/// Reads until these bytes have come.
async fn read_until(stream: &mut DuplexStream, wanted: &str) -> Vec<u8> {
    let mut seen = Vec::new();
    while !String::from_utf8_lossy(&seen).contains(wanted) {
        assert!(
            stream.read_buf(&mut seen).await.unwrap() > 0,
            "{}",
            String::from_utf8_lossy(&seen)
        );
    }
    seen
}

/// The first byte of each response's head: its status, of those that have a number (RFC 7541, appendix A).
fn statuses(mut seen: &[u8]) -> Vec<u8> {
    let mut found = Vec::new();
    while let [0, a, b, kind, rest @ ..] = seen {
        let length = usize::from(u16::from_be_bytes([*a, *b]));
        let Some(payload) = rest.get(5..5 + length) else { break };
        if *kind == 1 {
            found.extend(payload.first());
        }
        seen = &rest[5 + length..];
    }
    found
}

const BAD_REQUEST: u8 = 0x80 | 12;

/// What a client wrote as `/kv/b/user#1` must not be done to `/kv/b/user`.
#[tokio::test]
async fn a_fragment_is_refused_however_its_head_arrives() {
    const END_STREAM: u8 = 1;
    const END_HEADERS: u8 = 4;
    let block = head("/kv/b/user#1");
    let whole = frame(1, END_STREAM | END_HEADERS, 1, &block);
    let (first, rest) = block.split_at(block.len() - 3);
    let parts = [frame(1, END_STREAM, 1, first), frame(9, END_HEADERS, 1, rest)].concat();
    for (sent, step) in [(&whole, usize::MAX), (&whole, 1), (&parts, usize::MAX), (&parts, 1)] {
        let Served { mut stream, ended, .. } = served(patient());
        let bytes = [opening(), sent.clone()].concat();
        for part in bytes.chunks(step.min(bytes.len())) {
            stream.write_all(part).await.unwrap();
            tokio::task::yield_now().await;
        }
        let mut seen = Vec::new();
        while statuses(&seen).is_empty() {
            assert!(stream.read_buf(&mut seen).await.unwrap() > 0, "{seen:?}");
        }
        assert_eq!(statuses(&seen), [BAD_REQUEST]);
        drop(stream);
        ended.await.unwrap();
    }
    // The same without a fragment is answered.
    let Served { mut stream, .. } = served(patient());
    let sent = frame(1, END_STREAM | END_HEADERS, 1, &head("/kv/b/user"));
    stream.write_all(&[opening(), sent].concat()).await.unwrap();
    read_until(&mut stream, "/kv/b/user at n1.test").await;
}

#[tokio::test]
async fn who_takes_nothing_of_a_response_is_cut_off_and_others_are_not() {
    let stall = Duration::from_millis(200);
    let served = served(Limits { stall, ..patient() });
    let client = client(served.stream).await;
    let mut stuck = client.clone().ready().await.unwrap();
    let (response, _) = stuck.send_request(request("https://n1.test/large"), true).unwrap();
    let mut body = response.await.unwrap().into_body();
    let mut taken = 0;
    let error = loop {
        match body.data().await {
            Some(Ok(part)) => taken += part.len(), // and no room is made for more
            Some(Err(error)) => break error,
            None => panic!("all of it came"),
        }
    };
    assert!(error.is_reset() && taken < MIB, "{error} after {taken}");
    let (status, _) = ask(&client, "https://n1.test/else").await.unwrap();
    assert_eq!(status, StatusCode::OK);
}

#[tokio::test]
async fn a_connection_without_requests_ends_and_makes_way() {
    let patience = Patience { head_ms: 100, idle_ms: 60_000 };
    let Served { mut stream, ended, .. } = served(Limits { patience, ..patient() });
    stream.write_all(&opening()).await.unwrap();
    timeout(Duration::from_secs(5), ended).await.unwrap().unwrap();

    let served = served(patient());
    let client = client(served.stream).await;
    ask(&client, "https://n1.test/one").await.unwrap();
    let way = async {
        while !served.crowd.ask_one_to_go() {
            sleep(Duration::from_millis(10)).await;
        }
    };
    timeout(Duration::from_secs(5), way).await.unwrap();
    timeout(Duration::from_secs(5), served.ended).await.unwrap().unwrap();
}

#[tokio::test]
async fn a_stop_waits_for_requests_in_flight_until_they_are_cut() {
    let served = served(patient());
    let client = client(served.stream).await;
    let waiting = tokio::spawn(async move { ask(&client, "https://n1.test/never").await });
    served.waits.notified().await;
    served.stop.begun.cancel();
    sleep(Duration::from_millis(50)).await;
    assert!(!waiting.is_finished());
    served.stop.cut.cancel();
    assert!(waiting.await.unwrap().is_err());
    timeout(Duration::from_secs(5), served.ended).await.unwrap().unwrap();
}
