//! One listening port: accepts connections within limits, serves HTTP/1.1 on each (or HTTP/2, see `http2`),
//! stops gracefully.
//!
//! axum's own `serve` has no limit on connections, no timeout for slow heads, no `TCP_NODELAY`
//! unless asked and no time limit on a graceful stop; this is hyper with all four. A connection
//! ends when the client closes it, is idle or in a head for too long (`heads`), or does not read a
//! response for too long. A port with a certificate speaks TLS: what does not has its own way (`entrance`).

use std::convert::Infallible;
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use hyper::Request;
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper::upgrade::OnUpgrade;
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::{sleep, timeout};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tokio_util::task::task_tracker::TaskTrackerToken;
use tower::ServiceExt;

use crate::config::Config;
use crate::http::closing;
use crate::http::entrance::{NOT_SECURE, entered};
use crate::http::framing::{HEAD_BYTES_MAX, HeadError};
use crate::http::heads::{Heads, Patience};
use crate::http::http2;
use crate::http::idle::Crowd;
use crate::http::impatient::Impatient;
use crate::tls::door::{Door, Entered, Identity, speaks_http2};
use quorate_engine::seldom::Seldom;

/// The read buffer limit of one connection, in bytes; a request's head must fit.
const READ_AHEAD_BYTES_MAX: usize = 256 << 10;
/// [`Bounds::last_call_ms`] of the client port.
const LAST_CALL_MS: u64 = 200;
/// How often to check whether all connections are gone, in milliseconds.
const LOOK_MS: u64 = 10;
/// Connections being refused at a time, and the time limit of each in milliseconds.
pub(crate) const REFUSALS_MAX: usize = 16;
const REFUSAL_MS_MAX: u64 = 500;
/// How long a new connection waits for an idle one to close, in milliseconds.
const ROOM_MS_MAX: u64 = 200;
/// How long to back off when the system is out of sockets, in milliseconds.
const ACCEPT_PAUSE_MS: u64 = 100;

/// The response to a connection over the limit.
const FULL: &[u8] = b"HTTP/1.1 503 Service Unavailable\r\nRetry-After: 1\r\nConnection: close\r\n\
    Content-Type: application/problem+json\r\nContent-Length: 104\r\n\r\n\
    {\"type\":\"urn:quorate:problem:overloaded\",\"title\":\"Node overloaded\",\
    \"status\":503,\"detail\":\"connections\"}\n";

/// The limits of a port.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Bounds {
    /// Concurrent connections; one more replaces an idle one, or is refused.
    pub(crate) connections_max: usize,
    /// Limits on idle connections and on heads.
    pub(crate) heads: HeadBounds,
    /// How long a client may read nothing of a response, in milliseconds.
    pub(crate) stall_ms: u64,
    /// When the port stops, how long existing connections may still start requests, in
    /// milliseconds: what a client sent before it could know of the stop is answered.
    pub(crate) last_call_ms: u64,
}

/// How request heads are checked.
#[derive(Clone, Copy, Debug)]
pub(crate) enum HeadBounds {
    /// By [`crate::http::heads`]: every head is inspected, and the app renders every rejection.
    Looked(Patience),
    /// By hyper alone, as connections may be upgraded from HTTP: the timeout of each head in
    /// milliseconds, idle time included.
    PassedOn(u64),
}

impl HeadBounds {
    /// How long a client may take for what comes before its first request.
    fn patience(self) -> Duration {
        Duration::from_millis(match self {
            Self::Looked(patience) => patience.head_ms,
            Self::PassedOn(ms) => ms,
        })
    }
}

impl Bounds {
    /// The limits of the client port, with this many connections.
    pub(crate) fn for_clients(config: &Config, connections_max: usize) -> Self {
        let timeouts = &config.timeouts;
        let patience = Patience { head_ms: timeouts.header_ms, idle_ms: timeouts.idle_ms };
        Self {
            connections_max,
            heads: HeadBounds::Looked(patience),
            stall_ms: timeouts.body_ms,
            last_call_ms: LAST_CALL_MS,
        }
    }

    /// The limits of the peer port of a cluster of so many nodes. Peers keep idle streams, each upgraded
    /// from a request that is sent at once; the peer that opened a stream closes it first.
    pub(crate) fn for_peers(config: &Config, nodes: usize) -> Self {
        let lanes = config.peers.lanes.saturating_mul(nodes);
        Self {
            connections_max: lanes.saturating_mul(8).max(64),
            heads: HeadBounds::PassedOn(config.timeouts.header_ms),
            stall_ms: config.timeouts.body_ms,
            last_call_ms: 0, // the sender retries what is lost with a closing stream
        }
    }
}

/// Stops a port. Clones refer to the same port.
#[derive(Clone, Debug, Default)]
pub(crate) struct Stop {
    /// Cancelled when the port stops accepting, closes idle connections and finishes requests in
    /// flight.
    pub(crate) begun: CancellationToken,
    /// Cancelled when the time for that is over: requests still in flight are cut off.
    pub(crate) cut: CancellationToken,
    /// The open connections.
    pub(crate) connections: TaskTracker,
}

impl Stop {
    /// Waits until there are no connections.
    pub(crate) async fn all_gone(&self) {
        while !self.connections.is_empty() {
            sleep(Duration::from_millis(LOOK_MS)).await;
        }
    }
}

/// A connection's slot on its port. The handler of an upgraded connection takes it from the
/// request's extensions and holds it as long as the connection, which thereby still counts against
/// [`Bounds::connections_max`] and is waited for when the port stops.
#[derive(Clone)]
pub(crate) struct Lease {
    /// Cancelled when the port stops.
    pub(crate) stop: CancellationToken,
    cut: CancellationToken,
    /// Those that make way when the port is full.
    pub(crate) crowd: Arc<Crowd>,
    _slot: Arc<OwnedSemaphorePermit>,
    _tracked: TaskTrackerToken,
}

impl Lease {
    /// One of a port that has no other connection.
    #[cfg(test)]
    #[allow(clippy::unwrap_used)]
    pub(crate) fn for_tests(stop: &Stop, crowd: Arc<Crowd>) -> Self {
        let slot = Arc::new(Semaphore::new(1)).try_acquire_owned().unwrap();
        let (cut, begun) = (stop.cut.clone(), stop.begun.clone());
        let tracked = stop.connections.token();
        Self { stop: begun, cut, crowd, _slot: Arc::new(slot), _tracked: tracked }
    }

    /// Runs `work` to completion, or until [`Stop::cut`]: then `None`.
    pub(crate) async fn hold<T>(self, work: impl Future<Output = T>) -> Option<T> {
        tokio::select! {
            done = work => Some(done),
            () = self.cut.cancelled() => None,
        }
    }
}

/// Answers the requests of a port. Each connection keeps memory for one such future while it lives.
pub(crate) trait App: Clone + Send + Sync + Unpin + 'static {
    /// Answers one request.
    fn answer(
        self,
        request: Request<Incoming>,
    ) -> impl Future<Output = Result<Response, Infallible>> + Send;

    /// The same app for the requests of one connection, from this address if the system tells it.
    fn on_connection_from(self, _peer: Option<SocketAddr>) -> Self {
        self
    }

    /// The same app for the requests of a connection that speaks TLS.
    fn on_secure_connection(self) -> Self {
        self
    }

    /// The response to a request whose head is rejected.
    fn refusal(&self, _why: HeadError) -> Response {
        StatusCode::BAD_REQUEST.into_response()
    }

    /// The same in bytes, head and body. The connection is closed after it.
    fn refuse(&self, _why: HeadError) -> Vec<u8> {
        b"HTTP/1.1 400 Bad Request\r\nConnection: close\r\nContent-Length: 0\r\n\r\n".to_vec()
    }
}

impl App for Router {
    async fn answer(self, request: Request<Incoming>) -> Result<Response, Infallible> {
        self.oneshot(request).await
    }
}

/// Where connections come from, and whether with TLS.
pub(crate) struct Entrance {
    listener: TcpListener,
    door: Door,
    /// Whether somebody else accepts on the same socket afterwards: then it is left as it is.
    is_shared: bool,
}

impl Entrance {
    /// One whose socket somebody else accepts on once the port stops.
    pub(crate) fn shared(listener: TcpListener, door: Door) -> Self {
        Self { listener, door, is_shared: true }
    }
}

impl From<TcpListener> for Entrance {
    /// Without TLS.
    fn from(listener: TcpListener) -> Self {
        Self { listener, door: None, is_shared: false }
    }
}

impl From<(TcpListener, Door)> for Entrance {
    fn from((listener, door): (TcpListener, Door)) -> Self {
        Self { listener, door, is_shared: false }
    }
}

/// Serves `app` at an entrance until `stop` begins, then until the requests in flight are answered
/// or cut off.
pub(crate) async fn run(entrance: impl Into<Entrance>, app: impl App, bounds: Bounds, stop: Stop) {
    let Entrance { listener, door, is_shared } = entrance.into();
    let slots = Arc::new(Semaphore::new(bounds.connections_max.min(Semaphore::MAX_PERMITS)));
    let refusals = Arc::new(Semaphore::new(REFUSALS_MAX));
    let last_call = CancellationToken::new();
    let crowd = Arc::new(Crowd::default());
    let take = |stream: TcpStream| {
        let tracked = stop.connections.token();
        let (stop, cut) = (last_call.clone(), stop.cut.clone());
        let serve = {
            let (app, crowd, door) = (app.clone(), crowd.clone(), door.clone());
            move |stream: TcpStream, slot: OwnedSemaphorePermit| {
                let lease = Lease { stop, cut, crowd, _slot: Arc::new(slot), _tracked: tracked };
                receive(stream, door, Connection { app, bounds, lease })
            }
        };
        if let Ok(slot) = Arc::clone(&slots).try_acquire_owned() {
            tokio::spawn(serve(stream, slot));
        } else if let Ok(refusal) = Arc::clone(&refusals).try_acquire_owned() {
            let room = make_room(slots.clone(), crowd.clone());
            tokio::spawn(async move {
                match room.await {
                    Some(slot) => {
                        drop(refusal);
                        serve(stream, slot).await;
                    }
                    None => refuse(stream, FULL, refusal).await,
                }
            });
        }
    };
    let failures = Seldom::new();
    while let Some(stream) = accept(&listener, &stop.begun, &failures).await {
        take(stream);
    }
    match is_shared {
        true => drop(listener),
        false => closing::close(listener, take).await,
    }
    tokio::select! {
        () = sleep(Duration::from_millis(bounds.last_call_ms)) => {}
        () = stop.all_gone() => {}
        () = stop.cut.cancelled() => {}
    }
    last_call.cancel();
    stop.connections.close();
    stop.connections.wait().await;
}

/// Makes an idle connection close, if there is one, and takes its slot.
async fn make_room(slots: Arc<Semaphore>, crowd: Arc<Crowd>) -> Option<OwnedSemaphorePermit> {
    if !crowd.ask_one_to_go() {
        return None;
    }
    timeout(Duration::from_millis(ROOM_MS_MAX), slots.acquire_owned()).await.ok()?.ok()
}

/// Refuses a connection, and gives the client a moment to read the response. `held` is what it holds until
/// then.
async fn refuse<T>(mut stream: TcpStream, response: &[u8], _held: T) {
    let telling = async {
        stream.write_all(response).await?;
        stream.shutdown().await?;
        let mut scratch = [0; 1024];
        while stream.read(&mut scratch).await? > 0 {}
        Ok::<(), io::Error>(())
    };
    drop(timeout(Duration::from_millis(REFUSAL_MS_MAX), telling).await);
}

/// The next connection; `None` once the port stops.
async fn accept(
    listener: &TcpListener,
    stop: &CancellationToken,
    failures: &Seldom,
) -> Option<TcpStream> {
    loop {
        let accepted = tokio::select! {
            accepted = listener.accept() => accepted,
            () = stop.cancelled() => return None,
        };
        match accepted {
            Ok((stream, _)) => return Some(stream),
            Err(error) if is_of_one_connection(&error) => {}
            Err(error) => {
                if let Some(held_back) = failures.now() {
                    tracing::warn!(%error, held_back, "cannot accept connections");
                }
                sleep(Duration::from_millis(ACCEPT_PAUSE_MS)).await;
            }
        }
    }
}

fn is_of_one_connection(error: &io::Error) -> bool {
    use io::ErrorKind as K;
    matches!(error.kind(), K::ConnectionRefused | K::ConnectionAborted | K::ConnectionReset)
}

/// What serving a connection takes besides the stream.
struct Connection<A> {
    app: A,
    bounds: Bounds,
    lease: Lease,
}

/// Serves a connection that was accepted, with TLS or without.
async fn receive(stream: TcpStream, door: Door, connection: Connection<impl App>) {
    // Otherwise a response in two segments waits for the receiver's delayed ACK.
    drop(stream.set_nodelay(true));
    let app = connection.app.on_connection_from(stream.peer_addr().ok());
    let connection = Connection { app, ..connection };
    let Some(door) = door else { return serve(stream, None, connection).await };
    let (bounds, lease) = (connection.bounds, &connection.lease);
    let patience = bounds.heads.patience();
    match entered(&door, stream, (patience, &lease.crowd), &lease.stop).await {
        None => {}
        Some(Entered::Plain(stream)) => serve(stream, None, connection).await,
        // A box, so that connections without TLS need no memory for it.
        Some(Entered::Secure(stream, identity)) => {
            let app = connection.app.on_secure_connection();
            let connection = Connection { app, ..connection };
            match bounds.heads {
                HeadBounds::Looked(patience) if speaks_http2(&stream) => {
                    let stall = Duration::from_millis(bounds.stall_ms);
                    let limits = http2::Limits { patience, stall };
                    let Connection { app, lease, .. } = connection;
                    Box::pin(http2::serve(stream, app, limits, lease)).await;
                }
                HeadBounds::Looked(_) | HeadBounds::PassedOn(_) => {
                    Box::pin(serve(stream, identity, connection)).await;
                }
            }
        }
        Some(Entered::NotSecure(stream)) => refuse(stream, NOT_SECURE, connection).await,
    }
}

async fn serve<S>(stream: S, identity: Option<Identity>, connection: Connection<impl App>)
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let Connection { app, bounds, lease } = connection;
    let (heads, hyper_ms) = match bounds.heads {
        HeadBounds::Looked(patience) => {
            (Heads::new(stream, app.clone(), patience, lease.crowd.clone()), None)
        }
        HeadBounds::PassedOn(ms) => (Heads::passing_all_on(stream, app.clone()), Some(ms)),
    };
    // Where heads are not looked at here, whoever has not been upgraded makes way.
    let mut stranger = hyper_ms.map(|_| lease.crowd.enter());
    let asked = async {
        match &mut stranger {
            Some(stranger) => stranger.asked().await,
            None => std::future::pending().await,
        }
    };
    let stream = Impatient::new(TokioIo::new(heads), Duration::from_millis(bounds.stall_ms));
    let (stop, for_upgrades) = (lease.stop.clone(), lease.clone());
    let connection = http1::Builder::new()
        .timer(TokioTimer::new())
        // A client that has shut down its write side may still read: even a cut-off body gets a
        // response.
        .half_close(true)
        .header_read_timeout(hyper_ms.map(Duration::from_millis))
        .max_header_size(HEAD_BYTES_MAX)
        .max_buf_size(READ_AHEAD_BYTES_MAX)
        .serve_connection(
            stream,
            service_fn(move |mut request| {
                if request.extensions().get::<OnUpgrade>().is_some() {
                    request.extensions_mut().insert(for_upgrades.clone());
                }
                if let Some(identity) = identity {
                    request.extensions_mut().insert(identity);
                }
                app.clone().answer(request)
            }),
        )
        .with_upgrades();
    let mut connection = std::pin::pin!(connection);
    // `cut` is never cancelled before the port stops: until then, do not poll it on every event.
    let ended = tokio::select! {
        biased; // a request that has arrived by now is read before the connection counts as idle
        ended = connection.as_mut() => Some(ended),
        () = asked => return,
        () = stop.cancelled() => {
            connection.as_mut().graceful_shutdown();
            lease.hold(connection).await
        }
    };
    match ended {
        Some(Ok(())) => {}
        Some(Err(error)) => tracing::debug!(%error, "connection ended"),
        None => tracing::warn!("a request in flight was cut off by the stop"),
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests;
