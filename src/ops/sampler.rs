//! Which operations are sampled for the collector of `[otlp]`, and the way to it
//! (docs/decisions/0024-sampled-traces.md).
//!
//! A client that records a trace of its own decides; of the other operations a share is sampled. Without
//! an endpoint there is nothing here but one branch for each request.

use std::sync::Arc;
use std::time::Duration;

use quorate_otlp::{Counts, Exporter, Span, StartError, Target};
use quorate_protocol::name::NodeId;
use quorate_protocol::trace_context::{TraceContext, TraceParent};

use crate::config::Config;

/// Chooses operations. Off if no endpoint is configured.
pub(crate) struct Sampler(Option<Arc<Sink>>);

/// Where the spans of sampled operations go.
#[derive(Debug)]
pub(crate) struct Sink {
    exporter: Exporter,
    origin: Arc<Origin>,
    /// Of 2^64 operations without a trace of their own, so many are sampled.
    chance: u64,
}

/// The node that the spans are of.
#[derive(Debug)]
pub(crate) struct Origin {
    /// Its name.
    pub(crate) node: NodeId,
    /// Where clients reach it: host and port.
    pub(crate) addr: (String, u16),
    /// Whether spans name keys.
    pub(crate) shows_keys: bool,
}

/// A client's operation that was chosen.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Sample {
    /// The trace, and the span of the operation in it.
    pub(crate) context: TraceContext,
    /// The client's span, if it has one.
    pub(crate) parent: Option<[u8; 8]>,
}

impl Sampler {
    /// Starts the exporter, if there is an endpoint.
    ///
    /// # Errors
    /// [`StartError`] if the endpoint is none, or the exporter's thread does not start.
    pub(crate) fn start(config: &Config, release: &'static str) -> Result<Self, StartError> {
        let settings = &config.otlp;
        if settings.endpoint.is_empty() {
            return Ok(Self(None));
        }
        let exporter = Exporter::start(&Target {
            endpoint: settings.endpoint.clone(),
            service: "quorate",
            instance: config.node.to_string(),
            version: release,
        })?;
        let addr = config.advertised_client_addr();
        let addr = addr.as_deref().and_then(|addr| addr.rsplit_once(':')).map_or_else(
            || (config.client_addr.ip().to_string(), config.client_addr.port()),
            |(host, port)| (host.to_owned(), port.parse().unwrap_or_default()),
        );
        let origin = Arc::new(Origin { node: config.node, addr, shows_keys: settings.shows_keys });
        let chance = (settings.sample_percent / 100.0 * u64::MAX as f64) as u64;
        Ok(Self(Some(Arc::new(Sink { exporter, origin, chance }))))
    }

    /// Whether to sample an operation. `traceparent` is what its client says of a trace.
    pub(crate) fn choose(
        &self,
        traceparent: impl FnOnce() -> Option<TraceParent>,
    ) -> Option<Sample> {
        let sink = self.0.as_ref()?;
        let (trace, parent) = match traceparent() {
            Some(given) if given.is_sampled => (given.context.trace(), Some(given.context.span())),
            Some(_) => return None,
            None if rand::random::<u64>() <= sink.chance => (rand::random(), None),
            None => return None,
        };
        Some(Sample { context: TraceContext::new(trace, rand::random())?, parent })
    }

    /// What another node asks for, sampled because that node's operation is.
    pub(crate) fn follow(&self, by: TraceContext) -> Option<Sample> {
        self.0.as_ref()?;
        let context = TraceContext::new(by.trace(), rand::random())?;
        Some(Sample { context, parent: Some(by.span()) })
    }

    /// Where the spans go; `None` if nothing is sampled.
    pub(crate) fn sink(&self) -> Option<&Arc<Sink>> {
        self.0.as_ref()
    }

    /// What became of sampled operations.
    pub(crate) fn counts(&self) -> Counts {
        self.0.as_ref().map(|sink| sink.exporter.counts()).unwrap_or_default()
    }

    /// Sends what waits, for at most `within`. What is sampled later is dropped.
    pub(crate) async fn close(&self, within: Duration) {
        if let Some(sink) = &self.0 {
            sink.exporter.close(within).await;
        }
    }
}

impl Sink {
    /// Hands over an operation that is over; `spans` is called on another thread. Never waits.
    pub(crate) fn offer(&self, spans: impl FnOnce(&Origin) -> Vec<Span> + Send + 'static) {
        let origin = Arc::clone(&self.origin);
        self.exporter.offer(move || spans(&origin));
    }
}
