//! HTTP/2 on a connection whose two ends have agreed on it (ALPN), within the limits that HTTP/1.1 has.
//!
//! Requests reach the app as those of HTTP/1.1 do: with a `Host`, and a target that is a path. What could
//! mean another key than the client wrote is refused ([`targets`]), who takes nothing of a response is cut
//! off ([`pace`]), and a connection without requests is idle
//! (docs/decisions/0034-http2-within-the-same-limits.md).

mod pace;
mod targets;

use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use axum::http::header::HOST;
use axum::http::{HeaderValue, Uri};
use hyper::Request;
use hyper::body::Incoming;
use hyper::rt::Executor;
use hyper::server::conn::http2;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::sync::watch;
use tokio::time::timeout;

use self::pace::{Pace, Paced};
use self::targets::Fragments;
use super::framing::{HEAD_BYTES_MAX, HeadError};
use super::heads::Patience;
use super::idle::Crowd;
use super::impatient::Impatient;
use super::port::{App, Lease};

/// The most requests in flight on one connection: what RFC 9113 (6.5.2) recommends as the least.
const STREAMS_MAX: u32 = 100;
/// What a client may send before it is read, in bytes: as much as HTTP/1.1 reads ahead.
const WINDOW_BYTES: u32 = 256 << 10;
/// What may wait to be sent of each response, in bytes.
const SEND_BYTES_MAX: usize = 64 << 10;
/// How long a connection that is no longer wanted may take to hear of it.
const GOODBYE: Duration = Duration::from_secs(1);

/// The limits of a connection.
#[derive(Clone, Copy)]
pub(super) struct Limits {
    /// On idle connections and on the first head.
    pub(super) patience: Patience,
    /// How long a client may take nothing of a response.
    pub(super) stall: Duration,
}

/// Serves a connection until it ends, is idle for too long, or the port stops.
pub(super) async fn serve<S>(stream: S, app: impl App, limits: Limits, lease: Lease)
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let fragments = Fragments::default();
    let stream = TokioIo::new(targets::watched(stream, fragments.clone()));
    let (open, streams) = watch::channel(0);
    let spawner = Spawner { open: Arc::new(open), lease: lease.clone(), stall: limits.stall };
    let app = {
        let fragments = fragments.clone();
        service_fn(move |request| answer(app.clone(), request, fragments.clone()))
    };
    let connection = http2::Builder::new(spawner)
        .timer(TokioTimer::new())
        .max_concurrent_streams(STREAMS_MAX)
        .initial_stream_window_size(WINDOW_BYTES)
        .initial_connection_window_size(WINDOW_BYTES)
        .max_header_list_size(HEAD_BYTES_MAX as u32)
        .max_send_buf_size(SEND_BYTES_MAX)
        .keep_alive_interval(limits.stall)
        .keep_alive_timeout(limits.stall)
        .serve_connection(Impatient::new(stream, limits.stall), app);
    let mut connection = std::pin::pin!(connection);
    let ended = tokio::select! {
        biased; // a request that has arrived by now is read before the connection counts as idle
        ended = connection.as_mut() => Some(ended),
        () = idle_for_too_long(streams, limits.patience, &lease.crowd) => {
            connection.as_mut().graceful_shutdown();
            timeout(GOODBYE, connection).await.ok()
        }
        () = async { tokio::select! {
            () = fragments.found() => {}
            () = lease.stop.cancelled() => {}
        } } => {
            connection.as_mut().graceful_shutdown();
            lease.hold(connection).await
        }
    };
    if let Some(Err(error)) = ended {
        tracing::debug!(%error, "connection ended");
    }
}

/// Answers a request as if it had come over HTTP/1.1.
async fn answer(
    app: impl App,
    mut request: Request<Incoming>,
    fragments: Fragments,
) -> Result<axum::response::Response<Paced>, Infallible> {
    if fragments.are_found() {
        return Ok(Paced::of(app.refusal(HeadError::Target(targets::FRAGMENT.to_owned()))));
    }
    let parts = request.uri().clone().into_parts();
    if let Some(authority) = parts.authority
        && let Ok(host) = HeaderValue::from_str(authority.as_str())
    {
        request.headers_mut().insert(HOST, host);
    }
    *request.uri_mut() = parts.path_and_query.map_or_else(Uri::default, Uri::from);
    app.answer(request).await.map(Paced::of)
}

/// Waits until there was no request for too long, or an idle connection must make way and this is the one.
async fn idle_for_too_long(
    mut streams: watch::Receiver<usize>,
    Patience { head_ms, idle_ms }: Patience,
    crowd: &Arc<Crowd>,
) {
    let mut patience = Duration::from_millis(head_ms);
    loop {
        // The sender is in the connection, which outlives this.
        let Ok(_) = streams.wait_for(|open| *open == 0).await else { return };
        tokio::select! {
            _ = streams.changed() => {}
            () = crowd.wait(patience) => return,
        }
        patience = Duration::from_millis(idle_ms);
    }
}

/// Runs the requests of one connection, each as a task of its own that the port waits for.
#[derive(Clone)]
struct Spawner {
    /// How many run.
    open: Arc<watch::Sender<usize>>,
    lease: Lease,
    stall: Duration,
}

impl<F: Future<Output = ()> + Send + 'static> Executor<F> for Spawner {
    fn execute(&self, work: F) {
        let pace = Arc::new(Pace::default());
        // In memory of its own: each of the futures around it would take twice its size.
        let work = self.lease.clone().hold(pace::along(pace.clone(), Box::pin(work)));
        let open = Open::new(self.open.clone());
        let stall = self.stall;
        tokio::spawn(async move {
            let _open = open;
            tokio::select! {
                _ = work => {}
                () = pace.stalled_for(stall) => {
                    tracing::debug!("a client takes nothing of a response: it is cut off");
                }
            }
        });
    }
}

/// A request in flight.
struct Open(Arc<watch::Sender<usize>>);

impl Open {
    fn new(all: Arc<watch::Sender<usize>>) -> Self {
        all.send_modify(|open| *open += 1);
        Self(all)
    }
}

impl Drop for Open {
    fn drop(&mut self) {
        self.0.send_modify(|open| *open -= 1);
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests;
