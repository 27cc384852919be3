//! The node's metrics, at `/metrics`, by the conventions of Prometheus: names say what is counted
//! and in which base unit (seconds, bytes), counters end in `_total`, latencies are histograms.
//!
//! * `desc`: what a metric is: name, labels, help, and what it means for an operator;
//! * `requests`, `operations`, `repair`: what is counted as it happens, in atomics without lookups;
//!   `totals` puts them together in the node;
//! * `collect`: everything that `/metrics` shows. What other parts count already (the store, the
//!   peers, admission) is read there when it is asked for, so that no number is kept twice;
//! * `text`: the two formats that Prometheus reads.
//!
//! Every metric is declared once, beside the code that writes it. `docs/metrics.md` is made of the
//! declarations.
//!
//! Labels are bounded: by names of nodes, or by the lists in [`desc::LABELS`]. None carries a key
//! or a bucket.

#![cfg_attr(
    not(test),
    allow(dead_code, reason = "what documents a metric is read by a test alone")
)]

pub(crate) mod collect;
pub(crate) mod counter;
pub(crate) mod desc;
#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod document;
pub(crate) mod operations;
pub(crate) mod repair;
pub(crate) mod requests;
pub(crate) mod text;
pub(crate) mod totals;
