//! What can go wrong, and what the caller should do about it.

use std::path::PathBuf;

use quorate_protocol::object::DecodeError;

/// Why a call on an open store did not do what was asked. Unless a variant says otherwise, nothing
/// changed.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    /// The call would have to wait (disk read, stalled write, another writer on the same row).
    /// Retry with [`crate::Blocking::Allowed`], on a thread that may block.
    #[error("the call would block")]
    WouldBlock,
    /// The hint store is full: the hint must be refused, not acknowledged.
    #[error("the hints kept for other nodes would hold {bytes} bytes, the limit is {max}")]
    HintsFull {
        /// What all hints together would hold, in bytes.
        bytes: u64,
        /// The limit, in bytes.
        max: u64,
    },
    /// The disk is nearly full: calls of this kind are refused until there is space again; reads
    /// still work.
    #[error("the data disk has {free_bytes} bytes free, below the watermark of {min}")]
    DiskLow {
        /// Free bytes at the last check.
        free_bytes: u64,
        /// The watermark for this kind of call, in bytes.
        min: u64,
    },
    /// A sync or a write failed. Unacknowledged writes may or may not be stored. No write and no
    /// acknowledgement succeeds until the store is reopened; reads still work.
    #[error("the store failed and takes no writes until it is reopened: {0}")]
    Failed(String),
    /// Stored bytes cannot be decoded. The replica does not know the row's content: it must not
    /// answer "absent".
    #[error("{what} is damaged: {reason}")]
    Damaged {
        /// Which row or index entry, as text.
        what: String,
        /// What is wrong with it.
        reason: String,
    },
    /// A newer release wrote the row: it is whole, but this release cannot tell what it holds. It is
    /// neither answered for, nor changed, nor dropped.
    #[error("{what} was written by a newer release: {reason}")]
    Newer {
        /// Which row, as text.
        what: String,
        /// What this release does not know.
        reason: String,
    },
    /// Reading failed. A retry may succeed.
    #[error("reading the store failed: {0}")]
    Io(String),
    /// The store was closed.
    #[error("the store is closed")]
    Closed,
}

impl Error {
    /// Why the bytes of a row or object could not be decoded: [`Error::Newer`] if a newer release
    /// wrote them, else [`Error::Damaged`]. `what` names the row.
    pub fn undecodable(what: String, error: DecodeError) -> Self {
        let reason = error.to_string();
        if error.is_newer() { Self::Newer { what, reason } } else { Self::Damaged { what, reason } }
    }

    /// Whether stored bytes cannot be decoded, for whatever reason: the row stays as it is.
    pub fn is_undecodable(&self) -> bool {
        matches!(self, Self::Damaged { .. } | Self::Newer { .. })
    }
}

/// Why a store did not open. Each text names the directory and says what to do.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum OpenError {
    /// The parent of the data directory does not exist. Only the last part of the path is created.
    #[error(
        "data directory {}: its parent does not exist; create it, or correct the path",
        dir.display()
    )]
    NoParent {
        /// The data directory.
        dir: PathBuf,
    },
    /// The directory cannot be created, read or written.
    #[error(
        "data directory {}: {reason}; check that it is a directory this user may write",
        dir.display()
    )]
    Directory {
        /// The data directory.
        dir: PathBuf,
        /// What the operating system or RocksDB said.
        reason: String,
    },
    /// The disk is full. Nothing is lost.
    #[error(
        "data directory {}: its disk is full ({free_bytes} bytes free), and opening it needs some \
         space: {reason}; free space on that disk or enlarge it, then start the node again; \
         nothing is lost", dir.display()
    )]
    DiskFull {
        /// The data directory.
        dir: PathBuf,
        /// Free bytes after the reserve was released.
        free_bytes: u64,
        /// What the operating system or RocksDB said.
        reason: String,
    },
    /// Another process (or another store in this one) has it open.
    #[error(
        "data directory {}: another process has it open; stop that node, or use another directory",
        dir.display()
    )]
    Locked {
        /// The data directory.
        dir: PathBuf,
    },
    /// The directory was made for another node, another cluster or another number of partitions.
    #[error(
        "data directory {}: it belongs to {what} {found:?}, but the configuration says {wanted:?}; \
         use this node's own directory, or correct the configuration", dir.display()
    )]
    OtherIdentity {
        /// The data directory.
        dir: PathBuf,
        /// `node`, `cluster` or `partitions`.
        what: &'static str,
        /// What the directory records.
        found: String,
        /// What the options say.
        wanted: String,
    },
    /// The directory was written by another release, in a format that this one cannot read.
    #[error(
        "data directory {}: its format is {found}, this release reads {wanted}; move it away and \
         start empty, so that the node fills from its peers, or use the other release",
        dir.display()
    )]
    OtherFormat {
        /// The data directory.
        dir: PathBuf,
        /// What the directory records.
        found: String,
        /// What this release reads.
        wanted: &'static str,
    },
    /// The data cannot be read.
    #[error(
        "data directory {}: its data is damaged: {reason}; move it away and start empty, so that \
         the node fills from its peers, or restore a copy", dir.display()
    )]
    Damaged {
        /// The data directory.
        dir: PathBuf,
        /// What is wrong.
        reason: String,
    },
}
