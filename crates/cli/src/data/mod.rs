//! Commands on keys: `get`, `put`, `delete`, `keys`, `index`, `feed`, `siblings`, `resolve`, `typed`,
//! `batch`.

pub(crate) mod batch;
pub(crate) mod delete;
pub(crate) mod entries;
pub(crate) mod feed;
pub(crate) mod get;
pub(crate) mod index;
pub(crate) mod keys;
pub(crate) mod put;
pub(crate) mod read;
pub(crate) mod resolve;
pub(crate) mod siblings;
pub(crate) mod typed;
pub(crate) mod value;
pub(crate) mod written;

use quorate_client::{Count, Options};

/// The quorum of a read.
#[derive(Clone, Debug, clap::Args)]
pub(crate) struct OfRead {
    /// How many replicas must answer: a number, one, quorum or all
    #[arg(long, value_name = "COUNT")]
    r: Option<Count>,
    /// How many replicas to ask, at most the bucket's n
    #[arg(long, value_name = "COUNT")]
    n: Option<Count>,
    /// Count home replicas only (sloppy=false)
    #[arg(long)]
    strict: bool,
}

/// The quorum of a write.
#[derive(Clone, Debug, clap::Args)]
pub(crate) struct OfWrite {
    /// How many replicas must hold it: a number, one, quorum or all
    #[arg(long, value_name = "COUNT")]
    w: Option<Count>,
    /// How many replicas to write to, at most the bucket's n
    #[arg(long, value_name = "COUNT")]
    n: Option<Count>,
    /// Count home replicas only (sloppy=false)
    #[arg(long)]
    strict: bool,
}

impl OfRead {
    fn options(&self, timeout_ms: Option<u64>, explain: bool) -> Options {
        let Self { r, n, strict } = *self;
        Options {
            n,
            needed: r,
            sloppy: strict.then_some(false),
            timeout_ms,
            explain,
            deadline: None,
        }
    }
}

impl OfWrite {
    fn options(&self, timeout_ms: Option<u64>, explain: bool) -> Options {
        let Self { w, n, strict } = *self;
        Options {
            n,
            needed: w,
            sloppy: strict.then_some(false),
            timeout_ms,
            explain,
            deadline: None,
        }
    }
}
