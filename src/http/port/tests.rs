//! Stops, and connections that are accepted late, idle or stuck.

use std::net::SocketAddr;

use axum::routing::get;
use quorate_engine::config::{TlsConfig, TlsMode};
use tokio::sync::Notify;
use tokio::task::{JoinHandle, JoinSet};

use super::*;
use crate::tls::own_client;
use crate::tls::slot::Slot;
use crate::tls::tests::{Certificates, config};

fn bounds(connections_max: usize) -> Bounds {
    Bounds { connections_max, heads: HeadBounds::PassedOn(10_000), stall_ms: 200, last_call_ms: 0 }
}

struct Port {
    addr: SocketAddr,
    stop: Stop,
    ended: JoinHandle<()>,
}

async fn port(app: Router, connections_max: usize) -> Port {
    port_within(bounds(connections_max), app).await
}

async fn port_within(bounds: Bounds, app: Router) -> Port {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let (addr, stop) = (listener.local_addr().unwrap(), Stop::default());
    let ended = tokio::spawn(run(listener, app, bounds, stop.clone()));
    Port { addr, stop, ended }
}

/// Says whether it was asked over TLS.
#[derive(Clone)]
struct Tells(&'static str);

impl App for Tells {
    async fn answer(self, _: Request<Incoming>) -> Result<Response, Infallible> {
        Ok(Response::new(self.0.into()))
    }

    fn on_secure_connection(self) -> Self {
        Self("secure")
    }
}

#[tokio::test]
async fn an_app_knows_which_connections_speak_tls() {
    let certificates = Certificates::new();
    certificates.issue("n1", "n1");
    let settings = certificates.settings(TlsMode::Accept, "n1");
    let client_tls = TlsConfig { ca: Vec::new(), ..settings };
    let config = Config { client_tls, ..config(certificates.dir.path()) };
    let slot = Arc::new(Slot::load(&config, crate::tls::Port::Client).unwrap());
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let addr = listener.local_addr().unwrap();
    let ends = Stop::default();
    tokio::spawn(run((listener, Some(slot)), Tells("plain"), bounds(10), ends));
    let client = own_client::trusting_file(&certificates.ca()).unwrap().build().unwrap();
    for (scheme, told) in [("http", "plain"), ("https", "secure")] {
        let answer = client.get(format!("{scheme}://{addr}/")).send().await.unwrap();
        assert_eq!(answer.text().await.unwrap(), told);
    }
}

/// Connects and asks, again and again, until the port takes no connection. Returns how many were cut off.
fn ask_until_closed(addr: SocketAddr) -> usize {
    use std::io::{Read, Write};
    let mut cut_off = 0;
    while let Ok(mut stream) = std::net::TcpStream::connect(addr) {
        let mut answer = String::new();
        let asked = stream.write_all(b"GET / HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n");
        let read = asked.and_then(|()| stream.read_to_string(&mut answer));
        cut_off += usize::from(read.is_err() || !answer.ends_with("done"));
    }
    cut_off
}

/// Each port closes while clients connect to it, one after the other as fast as they can.
#[tokio::test(flavor = "multi_thread")]
async fn whoever_reaches_a_closing_port_is_answered() {
    let bounds = Bounds { last_call_ms: LAST_CALL_MS, ..bounds(100) };
    let mut clients = JoinSet::new();
    for _ in 0..50 {
        let port = port_within(bounds, Router::new().route("/", get(|| async { "done" }))).await;
        for _ in 0..4 {
            clients.spawn_blocking(move || ask_until_closed(port.addr));
        }
        sleep(Duration::from_millis(10)).await;
        port.stop.begun.cancel();
    }
    let cut_off: usize = clients.join_all().await.into_iter().sum();
    assert_eq!(cut_off, 0);
}

#[tokio::test]
async fn a_socket_that_is_shared_goes_on() {
    let owner = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    owner.set_nonblocking(true).unwrap();
    let (addr, stop) = (owner.local_addr().unwrap(), Stop::default());
    let shared = TcpListener::from_std(owner.try_clone().unwrap()).unwrap();
    stop.begun.cancel();
    run(Entrance::shared(shared, None), Router::new(), bounds(10), stop).await;
    let owner = TcpListener::from_std(owner).unwrap();
    let (connected, accepted) = tokio::join!(TcpStream::connect(addr), owner.accept());
    assert!(connected.is_ok() && accepted.is_ok());
}

async fn ask(addr: SocketAddr) -> TcpStream {
    let mut stream = TcpStream::connect(addr).await.unwrap();
    drop(stream.write_all(b"GET / HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n").await);
    stream
}

async fn all_of(mut stream: TcpStream) -> String {
    let mut bytes = Vec::new();
    drop(stream.read_to_end(&mut bytes).await);
    String::from_utf8_lossy(&bytes).into_owned()
}

#[tokio::test]
async fn a_stop_ends_idle_connections_and_finishes_requests_in_flight() {
    let (arrived, go) = (Arc::new(Notify::new()), Arc::new(Notify::new()));
    let told = (arrived.clone(), go.clone());
    let handler = move || async move {
        told.0.notify_one();
        told.1.notified().await;
        "done"
    };
    let port = port(Router::new().route("/", get(handler)), 2).await;
    let idle = TcpStream::connect(port.addr).await.unwrap();
    let busy = ask(port.addr).await;
    arrived.notified().await;
    port.stop.begun.cancel();
    assert_eq!(all_of(idle).await, "");
    assert!(!port.ended.is_finished());
    go.notify_one();
    assert!(all_of(busy).await.ends_with("done"));
    port.ended.await.unwrap();
    assert!(TcpStream::connect(port.addr).await.is_err(), "the port is closed");
}

#[tokio::test]
async fn a_client_that_takes_nothing_is_given_up() {
    let port = port(Router::new().route("/", get(|| async { vec![7; 64 << 20] })), 1).await;
    let _stuck = ask(port.addr).await;
    let served = async {
        // The only slot is taken until the stuck connection is aborted.
        while !all_of(ask(port.addr).await).await.starts_with("HTTP/1.1 200") {}
    };
    timeout(Duration::from_secs(20), served).await.unwrap();
}
