//! A node's life: start, listen, wait for the signal, stop gracefully.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use tokio::net::TcpListener;
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio_util::sync::CancellationToken;

use crate::api::Api;
use crate::config::Config;
use crate::node::{Node, StartError};
use crate::serve::{self, Bounds};
use crate::{background, peer_port};

/// Why a node ended otherwise than by a signal.
#[derive(Debug, thiserror::Error)]
pub enum ServeError {
    /// It did not start.
    #[error(transparent)]
    Start(#[from] StartError),
    /// A port cannot be listened on.
    #[error("{key} {addr}: {source}; is another process using the port?")]
    Listen {
        /// The setting.
        key: &'static str,
        /// The address.
        addr: SocketAddr,
        /// What the operating system said.
        source: io::Error,
    },
    /// Signals cannot be handled.
    #[error("signal handlers: {0}")]
    Signals(io::Error),
    /// The store did not close cleanly; the next start recovers.
    #[error("closing the store: {0}")]
    Close(quorate_storage::Error),
}

/// How a node ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ended {
    /// By a signal, cleanly.
    Stopped,
    /// It came back behind what its peers remember and has recorded so, or its store failed: it must be
    /// started again. The store was left as after a crash: the next start is a new incarnation.
    StartOver,
    /// Another process runs under its name; it must not be started again by itself.
    BesideTwin,
}

/// Runs a node until SIGTERM or SIGINT, or until it has to start over. `reload` is called at SIGHUP.
///
/// # Errors
/// [`ServeError`] that says what to do.
pub async fn serve(
    config: Config,
    reload: impl Fn() + Send + 'static,
) -> Result<Ended, ServeError> {
    let client_listener = listen("client_addr", config.client_addr).await?;
    let peer_listener = listen("peer_addr", config.peer_addr).await?;
    let signals = Signals::handle(reload).map_err(ServeError::Signals)?;
    let node = tokio::task::spawn_blocking(|| Node::start(config))
        .await
        .unwrap_or_else(|panic| std::panic::resume_unwind(panic.into_panic()))?;
    background::start(&node);
    let (client_stop, peer_stop) = (CancellationToken::new(), CancellationToken::new());
    let clients = tokio::spawn(serve::run(
        client_listener,
        Api::new(node.clone()),
        Bounds::for_clients(&node.config),
        client_stop.clone(),
    ));
    let peers = tokio::spawn(serve::run(
        peer_listener,
        peer_port::app(node.clone()),
        Bounds::for_peers(&node.config),
        peer_stop.clone(),
    ));
    tracing::info!(
        node = %node.me,
        client_addr = %node.config.client_addr,
        peer_addr = %node.config.peer_addr,
        formed = node.formation().is_some(),
        "listening"
    );
    let ended = tokio::select! {
        () = signals.stop.cancelled() => Ended::Stopped,
        () = node.standing.start_over.cancelled() => Ended::StartOver,
        () = node.standing.twin.cancelled() => Ended::BesideTwin,
        () = node.reopening.now.cancelled() => Ended::StartOver,
    };
    tracing::info!(?ended, "stopping");
    stop(&node, client_stop, clients, peer_stop, peers).await;
    if ended == Ended::Stopped {
        close(&node).await?;
    }
    Ok(ended)
}

/// Finishes what was accepted, within a bound: first clients, then operations that outlive them, then
/// peers, then the store.
async fn stop(
    node: &Arc<Node>,
    client_stop: CancellationToken,
    clients: tokio::task::JoinHandle<()>,
    peer_stop: CancellationToken,
    peers: tokio::task::JoinHandle<()>,
) {
    let bound = Duration::from_millis(node.config.timeouts.shutdown_ms);
    node.begin_stop();
    client_stop.cancel();
    drop(clients.await);
    node.operations.close();
    if tokio::time::timeout(bound, node.operations.wait()).await.is_err() {
        tracing::warn!("some operations did not finish in time");
    }
    node.stop.cancel();
    node.background.close();
    peer_stop.cancel();
    drop(peers.await);
    if tokio::time::timeout(bound, node.background.wait()).await.is_err() {
        tracing::warn!("some background jobs did not finish in time");
    }
}

async fn close(node: &Arc<Node>) -> Result<(), ServeError> {
    let store = node.store.clone();
    let closed = tokio::task::spawn_blocking(move || store.close()).await;
    match closed.unwrap_or(Err(quorate_storage::Error::Closed)) {
        Ok(()) => {
            tracing::info!("stopped");
            Ok(())
        }
        Err(error) => Err(ServeError::Close(error)),
    }
}

async fn listen(key: &'static str, addr: SocketAddr) -> Result<TcpListener, ServeError> {
    TcpListener::bind(addr).await.map_err(|source| ServeError::Listen { key, addr, source })
}

/// What signals ask for.
struct Signals {
    /// To stop.
    stop: CancellationToken,
}

impl Signals {
    /// From now on no signal that can be handled ends the process by itself.
    fn handle(reload: impl Fn() + Send + 'static) -> io::Result<Self> {
        let mut terminate = signal(SignalKind::terminate())?;
        let mut interrupt = signal(SignalKind::interrupt())?;
        let mut hangup = signal(SignalKind::hangup())?;
        let mut user = [signal(SignalKind::user_defined1())?, signal(SignalKind::user_defined2())?];
        let stop = CancellationToken::new();
        let signals = Self { stop: stop.clone() };
        tokio::spawn(async move {
            let [user1, user2] = &mut user;
            loop {
                tokio::select! {
                    () = either(&mut terminate, &mut interrupt) => stop.cancel(),
                    _ = hangup.recv() => reload(),
                    () = either(user1, user2) => tracing::info!("a user signal means nothing here"),
                }
            }
        });
        Ok(signals)
    }
}

async fn either(one: &mut Signal, other: &mut Signal) {
    tokio::select! {
        _ = one.recv() => {}
        _ = other.recv() => {}
    }
}
