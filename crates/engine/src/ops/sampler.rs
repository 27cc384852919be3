//! Which operations are sampled for a collector, and the way there (docs/decisions/0024-sampled-traces.md).
//!
//! A client that records a trace of its own decides; of the other operations a share is sampled. Where
//! nothing is exported, one branch for each request is all that there is.

use std::sync::Arc;

use quorate_protocol::trace_context::{TraceContext, TraceParent};

use crate::host::{Chance, Host, TraceCounts, TraceSink};
use crate::ops::finished::Sample;

/// Chooses operations. Off if the host exports nothing.
pub struct Sampler(Option<Sampling>);

struct Sampling {
    sink: Arc<dyn TraceSink>,
    chance: Arc<dyn Chance>,
    /// Of 2^64 operations without a trace of their own, so many are sampled.
    share: u64,
}

impl Sampler {
    /// Samples `percent` of the operations whose client does not decide, if the host exports any.
    pub fn new(host: &Host, percent: f64) -> Self {
        let share = (percent / 100.0 * u64::MAX as f64) as u64;
        let sampling = |sink: &Arc<dyn TraceSink>| {
            let (sink, chance) = (Arc::clone(sink), Arc::clone(&host.chance));
            Sampling { sink, chance, share }
        };
        Self(host.traces.as_ref().map(sampling))
    }

    /// Whether to sample a client's operation. `traceparent` is what the client says of a trace.
    pub fn choose(&self, traceparent: impl FnOnce() -> Option<TraceParent>) -> Option<Sample> {
        let sampling = self.0.as_ref()?;
        match traceparent() {
            Some(given) => given.is_sampled.then(|| sampling.below(given.context))?,
            None if sampling.chance.draw() <= sampling.share => {
                let [first, second] = [(); 2].map(|()| sampling.chance.draw());
                let trace = u128::from(first) << 64 | u128::from(second);
                let context = TraceContext::new(trace.to_be_bytes(), sampling.span())?;
                Some(Sample { context, parent: None })
            }
            None => None,
        }
    }

    /// What another node asks for, sampled because that node's operation is.
    pub(crate) fn follow(&self, by: TraceContext) -> Option<Sample> {
        self.0.as_ref()?.below(by)
    }

    /// What became of what was sampled.
    pub fn counts(&self) -> TraceCounts {
        self.0.as_ref().map(|sampling| sampling.sink.counts()).unwrap_or_default()
    }

    /// Where it goes; `None` if nothing is sampled.
    pub(crate) fn sink(&self) -> Option<&Arc<dyn TraceSink>> {
        self.0.as_ref().map(|sampling| &sampling.sink)
    }
}

impl Sampling {
    fn below(&self, parent: TraceContext) -> Option<Sample> {
        let context = TraceContext::new(parent.trace(), self.span())?;
        Some(Sample { context, parent: Some(parent.span()) })
    }

    fn span(&self) -> [u8; 8] {
        self.chance.draw().max(1).to_be_bytes()
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests;
