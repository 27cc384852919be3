//! Spans, as those who make them see them.

use std::time::SystemTime;

/// What one node did for one operation, or waited for.
#[derive(Clone, Debug, PartialEq)]
pub struct Span {
    /// The trace, not all zeros.
    pub trace: [u8; 16],
    /// This span, not all zeros.
    pub id: [u8; 8],
    /// The span that asked for it; `None` for the first one of a trace.
    pub parent: Option<[u8; 8]>,
    /// Whether it serves or asks.
    pub kind: Kind,
    /// What was done, in few different words: no keys.
    pub name: String,
    /// When it began.
    pub start: SystemTime,
    /// When it ended.
    pub end: SystemTime,
    /// Facts about it.
    pub attributes: Vec<(&'static str, Value)>,
    /// What happened in between, in order.
    pub events: Vec<Event>,
    /// Why it failed; `None` if it did not.
    pub error: Option<String>,
}

/// The part that a span plays.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// It serves a request. Its parent is elsewhere.
    Server,
    /// It asks another node, and waits.
    Client,
}

/// Something that happened at one moment of a span.
#[derive(Clone, Debug, PartialEq)]
pub struct Event {
    /// What.
    pub name: &'static str,
    /// When.
    pub at: SystemTime,
    /// Facts about it.
    pub attributes: Vec<(&'static str, Value)>,
}

/// The value of an attribute.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Value {
    /// A text.
    Text(String),
    /// A number.
    Number(i64),
}

impl From<&str> for Value {
    fn from(text: &str) -> Self {
        Self::Text(text.to_owned())
    }
}

impl From<String> for Value {
    fn from(text: String) -> Self {
        Self::Text(text)
    }
}

impl From<u16> for Value {
    fn from(number: u16) -> Self {
        Self::Number(number.into())
    }
}
