//! Exports sampled operations to an OpenTelemetry collector, if `[otlp]` names one.

mod spans;

use std::sync::Arc;
use std::time::Duration;

use quorate_engine::config::Config;
use quorate_engine::host::{TraceCounts, TraceSink};
use quorate_engine::node::RELEASE;
use quorate_engine::ops::finished::Finished;
use quorate_otlp::{Counts, Exporter, StartError, Target};

use self::spans::Origin;

/// The way to the collector. Without one all of this does nothing.
#[derive(Clone, Debug, Default)]
pub(crate) struct Traces(Option<Arc<Export>>);

#[derive(Debug)]
struct Export {
    exporter: Exporter,
    origin: Arc<Origin>,
}

impl Traces {
    /// Starts the exporter's thread, if there is an endpoint.
    ///
    /// # Errors
    /// [`StartError`].
    pub(crate) fn start(config: &Config) -> Result<Self, StartError> {
        let settings = &config.otlp;
        if settings.endpoint.is_empty() {
            return Ok(Self(None));
        }
        let exporter = Exporter::start(&Target {
            endpoint: settings.endpoint.clone(),
            service: "quorate",
            instance: config.node.to_string(),
            version: RELEASE,
        })?;
        let addr = config.advertised_client_addr();
        let addr = addr.as_deref().and_then(|addr| addr.rsplit_once(':')).map_or_else(
            || (config.client_addr.ip().to_string(), config.client_addr.port()),
            |(host, port)| (host.to_owned(), port.parse().unwrap_or_default()),
        );
        let origin = Arc::new(Origin { node: config.node, addr, shows_keys: settings.shows_keys });
        Ok(Self(Some(Arc::new(Export { exporter, origin }))))
    }

    /// For the engine, which samples nothing if there is none.
    pub(crate) fn sink(&self) -> Option<Arc<dyn TraceSink>> {
        self.0.clone().map(|export| export as Arc<dyn TraceSink>)
    }

    /// Sends what waits, for at most `within`. What is sampled later is dropped.
    pub(crate) async fn close(&self, within: Duration) {
        if let Some(export) = &self.0 {
            export.exporter.close(within).await;
        }
    }
}

impl TraceSink for Export {
    fn take(&self, finished: Finished) {
        let origin = Arc::clone(&self.origin);
        self.exporter.offer(move || spans::of(&finished, &origin));
    }

    fn counts(&self) -> TraceCounts {
        let Counts { exported, dropped, failed } = self.exporter.counts();
        TraceCounts { exported, dropped, failed }
    }
}
