//! The queue of finished operations, and the thread that makes spans of them and sends those.
//!
//! Everything that the thread waits for has a limit, and after [`Exporter::close`] all of it together has
//! one. Nobody waits for the thread longer than that: it is left behind.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::Duration;

use reqwest::Url;
use reqwest::header::{CONTENT_TYPE, HeaderValue};
use tokio::sync::{mpsc, watch};
use tokio::time::{Instant, sleep_until, timeout_at};

use crate::json;
use crate::span::Span;

/// The most operations that wait for the thread. What comes then is dropped.
pub const WAITING_MAX: usize = 2048;
/// The most spans that go out at once, and a few more: those of one operation stay together.
const BATCH_SPANS: usize = 512;
/// How long the first span of a batch waits for others.
const BATCH_WITHIN: Duration = Duration::from_secs(1);
/// How long the collector may take to accept a batch.
const SEND_WITHIN: Duration = Duration::from_secs(5);
/// Where collectors take spans, below the endpoint.
const PATH: &str = "v1/traces";

/// Where spans go, and whose they are.
#[derive(Clone, Debug)]
pub struct Target {
    /// The collector's base URL, `http` only, such as `http://127.0.0.1:4318`.
    pub endpoint: String,
    /// `service.name`.
    pub service: &'static str,
    /// `service.instance.id`: the node.
    pub instance: String,
    /// `service.version`.
    pub version: &'static str,
}

/// Why nothing can be sent.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// The HTTP client cannot be built.
    #[error("the HTTP client: {0}")]
    Client(#[from] reqwest::Error),
    /// Its TLS, which is not used, cannot be set up.
    #[error("the HTTP client: {0}")]
    Tls(#[from] rustls::Error),
    /// The endpoint is no URL.
    #[error("{0:?} is no URL such as http://127.0.0.1:4318")]
    Endpoint(String),
    /// The thread cannot be started.
    #[error("starting the thread: {0}")]
    Thread(#[from] std::io::Error),
}

/// What became of the operations that were offered.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    /// The collector has their spans.
    pub exported: u64,
    /// There was no room for them in the queue.
    pub dropped: u64,
    /// The collector did not take their spans, or not in time.
    pub failed: u64,
}

#[derive(Debug, Default)]
struct Counters {
    exported: AtomicU64,
    dropped: AtomicU64,
    failed: AtomicU64,
}

/// Makes the spans of one operation, on the exporter's thread.
type Job = Box<dyn FnOnce() -> Vec<Span> + Send>;

/// The sending end of the queue.
#[derive(Debug)]
pub struct Exporter {
    queue: mpsc::Sender<Job>,
    counters: Arc<Counters>,
    /// By when everything must be over, once it is to end.
    end: watch::Sender<Option<Instant>>,
    /// Its other end is dropped with the thread.
    ended: watch::Receiver<()>,
}

impl Exporter {
    /// Starts the thread. Nothing is sent before something is offered, so a collector need not be there.
    ///
    /// # Errors
    /// [`StartError`].
    pub fn start(target: &Target) -> Result<Self, StartError> {
        let sender = Sender::new(target)?;
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        let (queue, jobs) = mpsc::channel(WAITING_MAX);
        let (end, asked_to_end) = watch::channel(None);
        let (running, ended) = watch::channel(());
        let counters = Arc::<Counters>::default();
        let for_thread = Arc::clone(&counters);
        let worker =
            Worker { jobs, sender, counters: for_thread, end: asked_to_end, is_taken: true };
        std::thread::Builder::new().name("otlp".to_owned()).spawn(move || {
            runtime.block_on(worker.run());
            runtime.shutdown_background(); // a look-up of a name cannot be cancelled
            drop(running);
        })?;
        Ok(Self { queue, counters, end, ended })
    }

    /// Hands over an operation that is over; `spans` is called on the exporter's thread. Never waits.
    pub fn offer(&self, spans: impl FnOnce() -> Vec<Span> + Send + 'static) {
        if self.queue.try_send(Box::new(spans)).is_err() {
            self.counters.dropped.fetch_add(1, Relaxed);
        }
    }

    /// What became of what was offered so far.
    pub fn counts(&self) -> Counts {
        let Counters { exported, dropped, failed } = &*self.counters;
        let [exported, dropped, failed] = [exported, dropped, failed].map(|it| it.load(Relaxed));
        Counts { exported, dropped, failed }
    }

    /// Sends what waits, for at most `within`, and ends. What is offered later is dropped.
    pub async fn close(&self, within: Duration) {
        let deadline = Instant::now() + within;
        self.end.send_replace(Some(deadline));
        let mut ended = self.ended.clone();
        // An error says that the thread has ended, which is what is waited for.
        drop(timeout_at(deadline, ended.changed()).await);
    }
}

/// The TLS of a client of plain HTTP alone: it believes in nobody. The default would read the authorities
/// of the system, which there may be none of.
fn nobody() -> Result<rustls::ClientConfig, StartError> {
    let provider = std::sync::Arc::new(rustls::crypto::ring::default_provider());
    let builder = rustls::ClientConfig::builder_with_provider(provider);
    let builder = builder.with_safe_default_protocol_versions().map_err(StartError::Tls)?;
    Ok(builder.with_root_certificates(rustls::RootCertStore::empty()).with_no_client_auth())
}

/// The way to the collector.
struct Sender {
    client: reqwest::Client,
    url: Url,
    target: Target,
}

impl Sender {
    fn new(target: &Target) -> Result<Self, StartError> {
        let client = reqwest::Client::builder()
            .tls_backend_preconfigured(nobody()?)
            .no_proxy()
            .redirect(reqwest::redirect::Policy::none())
            .build()?;
        let url = Url::parse(&format!("{}/{PATH}", target.endpoint.trim_end_matches('/')));
        let url = url.map_err(|_| StartError::Endpoint(target.endpoint.clone()))?;
        Ok(Self { client, url, target: target.clone() })
    }

    /// Sends spans as one request; the caller limits how long that may take.
    ///
    /// # Errors
    /// Why the collector has not taken them, in words.
    async fn send(&self, spans: &[Span]) -> Result<(), String> {
        let body = json::request(&self.target, spans).to_string();
        let json = HeaderValue::from_static("application/json");
        let request = self.client.post(self.url.clone()).header(CONTENT_TYPE, json).body(body);
        let answer = request.send().await.map_err(|error| causes(&error))?;
        let status = answer.status();
        // The body of the answer, which a hostile collector might never end, is of no interest.
        if status.is_success() { Ok(()) } else { Err(format!("it answers {status}")) }
    }
}

/// What went wrong, with its causes: the outermost error alone names only the URL.
fn causes(error: &dyn std::error::Error) -> String {
    let causes = std::iter::successors(Some(error), |error| error.source());
    causes.map(ToString::to_string).collect::<Vec<_>>().join(": ")
}

/// What runs on the thread.
struct Worker {
    jobs: mpsc::Receiver<Job>,
    sender: Sender,
    counters: Arc<Counters>,
    end: watch::Receiver<Option<Instant>>,
    /// Whether the collector took the last batch.
    is_taken: bool,
}

impl Worker {
    async fn run(mut self) {
        while let Some(first) = self.next(None).await {
            let patience = Instant::now() + BATCH_WITHIN;
            let (mut spans, mut operations) = (first(), 1);
            while spans.len() < BATCH_SPANS
                && let Some(next) = self.next(Some(patience)).await
            {
                spans.append(&mut next());
                operations += 1;
            }
            self.send(spans, operations).await;
        }
    }

    /// The next operation; `None` once nothing came until `patience`, or the queue is closed and empty.
    async fn next(&mut self, patience: Option<Instant>) -> Option<Job> {
        let out_of_patience = async || match patience {
            Some(at) => sleep_until(at).await,
            None => std::future::pending().await,
        };
        loop {
            tokio::select! {
                biased;
                job = self.jobs.recv() => return job,
                () = out_of_patience() => return None,
                // What waits is still taken.
                _ = self.end.changed(), if !self.jobs.is_closed() => self.jobs.close(),
            }
        }
    }

    async fn send(&mut self, spans: Vec<Span>, operations: u64) {
        let sent = tokio::select! {
            biased; // at the end nothing is begun that there is no time for
            () = out_of_time(self.end.clone()) => Err("no answer in time".to_owned()),
            sent = self.sender.send(&spans) => sent,
        };
        let is_taken = sent.is_ok();
        let counter = if is_taken { &self.counters.exported } else { &self.counters.failed };
        counter.fetch_add(operations, Relaxed);
        match sent {
            Ok(()) if !self.is_taken => tracing::info!("the collector takes spans again"),
            Err(error) if self.is_taken => {
                tracing::warn!(
                    error,
                    "the collector does not take spans; they are lost until it does"
                );
            }
            Ok(()) | Err(_) => {}
        }
        self.is_taken = is_taken;
    }
}

/// Resolves when a batch has taken too long, or everything has to be over.
async fn out_of_time(mut end: watch::Receiver<Option<Instant>>) {
    let own = Instant::now() + SEND_WITHIN;
    let deadline = async {
        let asked = end.wait_for(Option::is_some).await.ok().and_then(|deadline| *deadline);
        sleep_until(asked.unwrap_or(own)).await;
    };
    tokio::select! {
        () = deadline => {}
        () = sleep_until(own) => {}
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests;
