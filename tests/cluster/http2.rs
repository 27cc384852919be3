//! HTTP/2, by a client that agrees on it over TLS.

use std::sync::Arc;

use bytes::Bytes;
use h2::client::SendRequest;
use hyper::Request;
use rustls::pki_types::ServerName;
use tokio::net::TcpStream;

use crate::tls::{Ca, world};

/// Connects with this list of protocols, and returns the one that was agreed on, with the connection.
async fn connect(
    ca: &Ca,
    to: std::net::SocketAddr,
    offered: &[&[u8]],
) -> (Option<Vec<u8>>, tokio_rustls::client::TlsStream<TcpStream>) {
    let mut config = ca.trust(&["ca"], None);
    config.alpn_protocols = offered.iter().map(|protocol| protocol.to_vec()).collect();
    let connector = tokio_rustls::TlsConnector::from(Arc::new(config));
    let name = ServerName::try_from("127.0.0.1").unwrap();
    let stream = TcpStream::connect(to).await.unwrap();
    let stream = connector.connect(name, stream).await.unwrap();
    (stream.get_ref().1.alpn_protocol().map(<[u8]>::to_vec), stream)
}

/// The status, the content type and the body of an answer.
async fn ask(
    client: &SendRequest<Bytes>,
    request: Request<()>,
    body: &'static [u8],
) -> (u16, String, Vec<u8>) {
    let mut client = client.clone().ready().await.unwrap();
    let (response, mut sending) = client.send_request(request, body.is_empty()).unwrap();
    if !body.is_empty() {
        sending.send_data(Bytes::from_static(body), true).unwrap();
    }
    let response = response.await.unwrap();
    let kind = response.headers().get("content-type").map(|it| it.to_str().unwrap().to_owned());
    let (status, mut reading, mut whole) =
        (response.status().as_u16(), response.into_body(), Vec::new());
    while let Some(part) = reading.data().await {
        let part = part.unwrap();
        reading.flow_control().release_capacity(part.len()).unwrap();
        whole.extend_from_slice(&part);
    }
    (status, kind.unwrap_or_default(), whole)
}

#[tokio::test(flavor = "multi_thread")]
async fn http_2_is_spoken_with_those_that_offer_it() {
    let ca = Ca::new(3);
    let world = world(&ca, 3, "require", &["ca"]).await;
    let to = world.cluster.client_addr(1);
    assert_eq!(connect(&ca, to, &[b"http/1.1"]).await.0.unwrap(), b"http/1.1");
    assert_eq!(connect(&ca, to, &[]).await.0, None);
    let peer = world.cluster.peer_addr(1);
    assert_eq!(connect(&ca, peer, &[b"http/1.1"]).await.0.unwrap(), b"http/1.1");
    let (agreed, stream) = connect(&ca, to, &[b"h2", b"http/1.1"]).await;
    assert_eq!(agreed.unwrap(), b"h2");
    let (client, connection) = h2::client::handshake(stream).await.unwrap();
    tokio::spawn(async move { drop(connection.await) });
    let uri = |path: &str| format!("https://{to}{path}");
    let put = Request::put(uri("/kv/http2/a%23b?w=all")).header("content-type", "text/plain");
    assert_eq!(ask(&client, put.body(()).unwrap(), b"of http/2").await.0, 204);
    let get = |path: &str| Request::get(uri(path)).body(()).unwrap();
    let found = ask(&client, get("/kv/http2/a%23b?r=all"), b"").await;
    assert_eq!(found, (200, "text/plain".to_owned(), b"of http/2".to_vec()));
    assert_eq!(ask(&client, get("/kv/http2/a"), b"").await.0, 404);
    let (status, kind, _) = ask(&client, get("/kv/http2/a?r=9"), b"").await;
    assert_eq!((status, kind.as_str()), (400, "application/problem+json"));
    let (status, _, ring) = ask(&client, get("/ring/partitions"), b"").await;
    let ring: serde_json::Value = serde_json::from_slice(&ring).unwrap();
    assert_eq!((status, ring["homes"].as_array().unwrap().len()), (200, 64), "{ring}");
}
