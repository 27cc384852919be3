//! A node's lifecycle: start, listen, wait for a signal, stop gracefully.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use quorate_engine::background;
use quorate_engine::background::registry::{CERTIFICATES, GOSSIP, ISSUER_KEYS, launch};
use quorate_engine::node::Node;
pub use quorate_engine::node::errors::StartError;
use tokio::net::TcpListener;
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::Notify;
use tokio::task::JoinHandle;
use tokio::time::{Instant, sleep_until};
use tokio_util::sync::CancellationToken;

use crate::api::{Access, Api};
use crate::audit::Audit;
pub use crate::audit::AuditError;
use crate::config::Config;
use crate::gossip;
use crate::host;
use crate::http::descriptors;
pub use crate::http::descriptors::TooFew;
use crate::http::port::{self, App, Bounds, Stop};
pub use crate::joining::JoinError;
use crate::joining::{self, Joined};
pub use crate::jwt::JwtError;
use crate::jwt::{self, Jwt};
use crate::otlp::Traces;
pub use crate::peer_port::dial::DialerError;
use crate::peer_port::listener;
use crate::service_manager::Reports;
pub use crate::tls::TlsError;
use crate::tls::door::Door;
use crate::tls::{Tls, reload};

/// Part of the shutdown time reserved for the last steps, in which peers get the results they wait
/// for and the store is closed. As a divisor, and at most in milliseconds.
const LAST_STEPS: u32 = 5;
const LAST_STEPS_MS_MAX: u64 = 2_000;
/// How long the stop may take for traces that are not exported yet, in milliseconds.
const EXPORT_MS_MAX: u64 = 2_000;
/// How long the stop may take for lines of the audit log that are not written yet, in milliseconds.
const AUDIT_MS_MAX: u64 = 1_000;
/// The most of the shutdown time that draining may take, as a divisor.
const DRAIN: u32 = 4;

/// Why a node ended with an error.
#[derive(Debug, thiserror::Error)]
pub enum ServeError {
    /// The node did not start.
    #[error(transparent)]
    Start(#[from] StartError),
    /// A certificate, a key or an authority cannot be used.
    #[error(transparent)]
    Tls(#[from] TlsError),
    /// No peer can be dialled.
    #[error(transparent)]
    Dialer(#[from] DialerError),
    /// Threads for background work could not be started.
    #[error("cannot start threads for background work: {0}")]
    Threads(io::Error),
    /// The keys of the issuer of tokens cannot be used.
    #[error(transparent)]
    Jwt(#[from] JwtError),
    /// A port could not be bound.
    #[error("{key} {addr}: {source}; is another process using the port?")]
    Listen {
        /// The setting.
        key: &'static str,
        /// The address.
        addr: SocketAddr,
        /// The error of the operating system.
        source: io::Error,
    },
    /// Signal handlers could not be installed.
    #[error("signal handlers: {0}")]
    Signals(io::Error),
    /// The node cannot join the cluster.
    #[error(transparent)]
    Join(#[from] JoinError),
    /// The limit of open files is too low.
    #[error(transparent)]
    Descriptors(#[from] TooFew),
    /// Traces cannot be exported.
    #[error("otlp.endpoint: {0}")]
    Otlp(#[from] quorate_otlp::StartError),
    /// There is no audit log.
    #[error(transparent)]
    Audit(#[from] AuditError),
    /// The store did not close cleanly; the next start recovers.
    #[error("closing the store: {0}")]
    Close(quorate_storage::Error),
}

/// How a node ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ended {
    /// By a signal, cleanly.
    Stopped,
    /// Its generation is behind what its peers remember, and it has recorded that; or its store
    /// failed. It must be restarted. The store was left as after a crash: the next start is a new
    /// incarnation.
    StartOver,
    /// Another process runs under its name; this one must not be restarted automatically.
    BesideTwin,
}

/// Requests to a node that runs. Clones are of the same requests.
#[derive(Clone, Debug, Default)]
pub struct StopRequests {
    /// Cancelled to stop.
    pub stop: CancellationToken,
    /// Cancelled to stop without further waiting.
    pub hurry: CancellationToken,
    /// Told when files that may have changed shall be read at once.
    pub reread: Arc<Notify>,
}

/// Runs a node until SIGTERM or SIGINT, or until it has to restart. A second such signal ends all
/// waits, but the stop still runs its steps in order. `reload` is called on SIGHUP.
///
/// # Errors
/// [`ServeError`] that says what to do.
pub async fn serve(
    config: Config,
    reload: impl Fn() + Send + 'static,
) -> Result<Ended, ServeError> {
    let requests = handle_signals(reload).map_err(ServeError::Signals)?;
    run_reporting(config, requests, Reports::ToServiceManager).await
}

/// Runs a node until it is asked to stop, or until it has to restart.
///
/// # Errors
/// [`ServeError`] that says what to do.
pub async fn run(config: Config, requests: StopRequests) -> Result<Ended, ServeError> {
    run_reporting(config, requests, Reports::None).await
}

async fn run_reporting(
    config: Config,
    requests: StopRequests,
    reports: Reports,
) -> Result<Ended, ServeError> {
    let tls = Tls::load(&config)?;
    let jwt = Jwt::load(&config.jwt)?;
    let client_listener = listen("client_addr", config.client_addr).await?;
    let peer_listener = listen("peer_addr", config.peer_addr).await?;
    let mut joined = None;
    if joining::is_due(&config)? {
        reports.waiting(&joining::waits_for(config.node)).await;
        joined = joining::join(&config, &tls, (&client_listener, &peer_listener), &requests.stop)
            .await?;
        if joined.is_none() {
            return Ok(Ended::Stopped);
        }
    }
    let nodes = host::nodes(&config)?;
    let connections_max = client_connections(&config, nodes)?;
    reports.opening().await;
    let traces = Traces::start(&config)?;
    let secrets = config.secrets().map_err(StartError::from)?;
    let audit = Audit::open(&config.audit, &secrets[0])?;
    let (to, with) = (traces.clone(), tls.clone());
    let node = tokio::task::spawn_blocking(move || start(config, (&to, &with), joined))
        .await
        .unwrap_or_else(|panic| std::panic::resume_unwind(panic.into_panic()))?;
    start_jobs(&node, &tls, jwt.clone(), &requests.reread);
    let bounds = Bounds::for_clients(&node.config, connections_max);
    let access = Arc::new(Access::new(&node.config, &secrets, jwt, audit.clone()));
    let entrance = (client_listener, tls.client.clone());
    let clients = Port::open(entrance, Api::new(node.clone(), access), bounds);
    let bounds = Bounds::for_peers(&node.config, nodes);
    let peers = Port::open((peer_listener, tls.peer), listener::app(node.clone()), bounds);
    tracing::info!(
        node = %node.me,
        client_addr = %node.config.client_addr,
        peer_addr = %node.config.peer_addr,
        formed = node.formation().is_some(),
        "listening"
    );
    node.background.spawn(reports.watch(node.clone()));
    node.background.spawn(reopen(audit.clone(), requests.reread.clone(), node.stop.clone()));
    let ended = tokio::select! {
        () = requests.stop.cancelled() => Ended::Stopped,
        () = node.generation.start_over.cancelled() => Ended::StartOver,
        () = node.generation.twin.cancelled() => Ended::BesideTwin,
        () = node.reopening.now.cancelled() => Ended::StartOver,
    };
    tracing::info!(?ended, "stopping");
    match ended {
        Ended::Stopped => reports.stopping("stopping").await,
        Ended::StartOver => reports.starting_over().await,
        Ended::BesideTwin => reports.stopping("another process runs under this node's name").await,
    }
    stop(&node, &requests.hurry, ended, clients, peers).await;
    let exported = export_rest(&node.config, &traces, &requests.hurry);
    if ended == Ended::Stopped {
        tokio::join!(close(&node), exported).0?;
    } else {
        exported.await;
    }
    flush(audit).await;
    if requests.stop.is_cancelled() {
        // Asked to stop while it was about to restart: the request must not be lost with the process.
        return Ok(Ended::Stopped);
    }
    Ok(ended)
}

/// Starts all that goes on in the background, and looks at files again when it is `asked` to.
fn start_jobs(node: &Arc<Node>, tls: &Tls, jwt: Option<Arc<Jwt>>, asked: &Arc<Notify>) {
    background::start(node);
    launch(node, GOSSIP, None, |job| gossip::run(node.clone(), job));
    if !tls.is_off() {
        launch(node, CERTIFICATES, None, |job| reload::run(tls.clone(), asked.clone(), job));
    }
    if let Some(jwt) = jwt {
        let of_job = node.clone();
        launch(node, ISSUER_KEYS, None, |job| jwt::reload::run(jwt, of_job, asked.clone(), job));
    }
}

/// Starts a node. One that has just joined a cluster begins with nothing of what that holds. Blocks.
fn start(
    config: Config,
    (traces, tls): (&Traces, &Tls),
    joined: Option<Joined>,
) -> Result<Arc<Node>, ServeError> {
    let node = host::start_with(config, traces, tls)?;
    if let Some(Joined { formation }) = joined {
        // Should this not be reached, its peers tell it at the next start.
        node.record_formation(formation, true).map_err(StartError::Store)?;
    }
    Ok(node)
}

/// How many client connections to allow, so that the store never runs out of descriptors.
fn client_connections(config: &Config, nodes: usize) -> Result<usize, TooFew> {
    let limit = descriptors::raise_limit();
    let clients = descriptors::client_connections(config, nodes, limit)?;
    if clients < config.limits.connections_max {
        let wanted = config.limits.connections_max;
        tracing::warn!(
            limit,
            clients,
            wanted,
            "the limit of open files allows fewer client connections"
        );
    } else {
        tracing::info!(limit, clients, "limits of open files and client connections");
    }
    Ok(clients)
}

/// One listening port.
struct Port {
    stop: Stop,
    ended: JoinHandle<()>,
}

impl Port {
    fn open(entrance: (TcpListener, Door), app: impl App, bounds: Bounds) -> Self {
        let stop = Stop::default();
        Self { ended: tokio::spawn(port::run(entrance, app, bounds, stop.clone())), stop }
    }

    /// Finishes requests in flight, and cuts off those that remain at `time_is_up`.
    async fn close(mut self, time_is_up: impl Future<Output = ()>) {
        self.stop.begun.cancel();
        tokio::select! {
            _ = &mut self.ended => return,
            () = time_is_up => self.stop.cut.cancel(),
        }
        drop(self.ended.await);
    }
}

/// Stops within `timeouts.shutdown_ms` in all: first clients are drained and their requests
/// answered, then operations that outlive them finish, then peers, then the store.
async fn stop(
    node: &Arc<Node>,
    hurry: &CancellationToken,
    ended: Ended,
    clients: Port,
    peers: Port,
) {
    let all = Duration::from_millis(node.config.timeouts.shutdown_ms);
    let begun = Instant::now();
    let last_steps = (all / LAST_STEPS).min(Duration::from_millis(LAST_STEPS_MS_MAX));
    let until = |deadline: Instant| async move {
        tokio::select! {
            () = sleep_until(deadline) => {}
            () = hurry.cancelled() => {}
        }
    };
    node.begin_drain();
    if ended == Ended::Stopped {
        let drain = Duration::from_millis(node.config.timeouts.drain_ms).min(all / DRAIN);
        tokio::select! {
            () = until(begun + drain) => {}
            () = clients.stop.all_gone() => {}
        }
    }
    let for_clients = begun + all - last_steps;
    clients.close(until(for_clients)).await;
    node.begin_stop();
    node.operations.close();
    tokio::select! {
        () = node.operations.wait() => {}
        () = until(for_clients) => tracing::warn!("some operations did not finish in time"),
    }
    node.stop.cancel();
    node.background.close();
    let deadline = begun + all;
    peers.close(until(deadline)).await;
    tokio::select! {
        () = node.background.wait() => {}
        () = until(deadline) => tracing::warn!("some background jobs did not finish in time"),
    }
}

/// Sends the traces that wait, while the store is being closed.
async fn export_rest(config: &Config, traces: &Traces, hurry: &CancellationToken) {
    let last_steps = Duration::from_millis(config.timeouts.shutdown_ms) / LAST_STEPS;
    tokio::select! {
        () = traces.close(last_steps.min(Duration::from_millis(EXPORT_MS_MAX))) => {}
        () = hurry.cancelled() => {}
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

/// Installs handlers, so that no signal that can be handled kills the process. SIGTERM and SIGINT
/// request a stop, a second one that it hurries; `reload` is called on SIGHUP.
///
/// # Errors
/// The system's, if handlers cannot be installed.
pub fn handle_signals(reload: impl Fn() + Send + 'static) -> io::Result<StopRequests> {
    let mut terminate = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    let mut hangup = signal(SignalKind::hangup())?;
    let mut user = [signal(SignalKind::user_defined1())?, signal(SignalKind::user_defined2())?];
    let requests = StopRequests::default();
    let StopRequests { stop, hurry, reread } = requests.clone();
    tokio::spawn(async move {
        let [user1, user2] = &mut user;
        while !hurry.is_cancelled() {
            tokio::select! {
                () = either(&mut terminate, &mut interrupt) => match stop.is_cancelled() {
                    false => stop.cancel(),
                    true => hurry.cancel(),
                },
                _ = hangup.recv() => {
                    reload();
                    reread.notify_waiters();
                }
                () = either(user1, user2) => tracing::info!("ignored a user signal"),
            }
        }
    });
    Ok(requests)
}

/// Writes what the audit log still has to write, if that does not take too long.
async fn flush(audit: Option<Audit>) {
    let Some(audit) = audit else { return };
    let flushed = move || audit.flush(Duration::from_millis(AUDIT_MS_MAX));
    drop(tokio::task::spawn_blocking(flushed).await);
}

/// Opens the file of the audit log again whenever it is `asked` to, so that it can be moved away and
/// replaced.
async fn reopen(audit: Option<Audit>, asked: Arc<Notify>, stop: CancellationToken) {
    let Some(audit) = audit else { return };
    loop {
        tokio::select! {
            () = asked.notified() => audit.reopen(),
            () = stop.cancelled() => return,
        }
    }
}

async fn either(one: &mut Signal, other: &mut Signal) {
    tokio::select! {
        _ = one.recv() => {}
        _ = other.recv() => {}
    }
}
