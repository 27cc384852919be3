//! Sends spans to an OpenTelemetry collector (OTLP over HTTP, JSON), and never holds up who made them.
//!
//! [`Exporter::offer`] is all that a request pays: one push into a bounded queue. Making the spans, encoding
//! and sending them happens on a thread of its own, with limits on how long it may take, also at the end. A
//! collector that is down, slow or hangs costs spans, which are counted, and nothing else.
//!
//! Reading order: [`span`] is what is sent, [`exporter`] when, and `json` in which form.

#![forbid(unsafe_code)]

pub mod exporter;
mod json;
pub mod span;

pub use crate::exporter::{Counts, Exporter, StartError, Target};
pub use crate::span::{Event, Kind, Span, Value};
