//! How a client's request ended.

/// How a request ended.
#[derive(Clone, Debug)]
pub(crate) struct Ended {
    /// The HTTP status.
    pub(crate) status: u16,
    /// The name of the problem, if it was one.
    pub(crate) problem: Option<&'static str>,
    /// What a failed write left behind.
    pub(crate) outcome: Option<String>,
    /// From arrival to answer, in microseconds.
    pub(crate) took_us: u64,
}
