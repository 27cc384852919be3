//! The node's metrics, at `/metrics`, by the conventions of Prometheus: names say what is counted
//! and in which base unit (seconds, bytes), counters end in `_total`, latencies are histograms.
//!
//! What is counted as it happens is in the engine ([`quorate_engine::metrics`]). Here is what
//! `/metrics` shows: what other parts count already (the store, the peers, admission) is read when it
//! is asked for, so that no number is kept twice.
//!
//! Every metric is declared once, beside the code that writes it. `docs/metrics.md` is made of the
//! declarations.
//!
//! Labels are bounded: by names of nodes, or by the lists in
//! [`quorate_engine::metrics::desc::LABELS`]. None carries a key or a bucket.

#![cfg_attr(
    not(test),
    allow(dead_code, reason = "what documents a metric is read by a test alone")
)]

pub(crate) mod collect;
#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod document;
