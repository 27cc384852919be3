//! What a node needs from the process that hosts it: connections, threads, a clock, chance, files.
//!
//! The server gives it a machine's; a simulator gives it its own, so that the same code runs in both.
//! Time that passes (timeouts, intervals) is tokio's, which a simulator pauses and moves on by itself.

use std::fmt;
use std::future::Future;
use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use quorate_protocol::name::NodeId;
use quorate_protocol::time::WallTime;
use quorate_storage::{DataDir, Error};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::sync::oneshot;

use crate::ops::finished::Finished;
use crate::tasks::Gate;

/// A connection to a peer: bytes in order, both ways.
pub trait Io: AsyncRead + AsyncWrite + Unpin + Send {}

impl<T: AsyncRead + AsyncWrite + Unpin + Send> Io for T {}

/// A connection that is being opened; the error says in words why that failed.
pub type Dialing<'a> = Pin<Box<dyn Future<Output = Result<Box<dyn Io>, String>> + Send + 'a>>;

/// Opens connections to peers. The other end is served by
/// [`crate::peer_port::stream::answer_all`].
pub trait Wire: Send + Sync {
    /// Opens a connection to a peer, which is reached at `addr`, host and port. The caller gives up after
    /// its own time limit.
    fn dial<'a>(&'a self, peer: NodeId, addr: &'a str) -> Dialing<'a>;
}

/// How urgent work is that may block.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Urgency {
    /// A request waits for it.
    Request,
    /// It may take a while, such as scanning rows for a peer that fills, merging what it sent, or
    /// scrubbing: few at a time, at low priority (docs/decisions/0010).
    Background,
}

/// Work that may block.
pub type Work = Box<dyn FnOnce() + Send>;

/// Runs work that may block: system calls on files, RocksDB, long computations.
pub trait Threads: Send + Sync {
    /// Runs the work soon, or drops it if the node is ending.
    fn run(&self, urgency: Urgency, work: Work);

    /// How many cores the process may use; at least 1.
    fn cores(&self) -> usize;

    /// The processor time of the calling thread, as far as it is measured.
    fn processor_time(&self) -> Duration;
}

/// The machine's clock, in milliseconds since 1970. It may be wrong, and it may jump.
pub trait Clock: Send + Sync {
    /// The current time.
    fn now(&self) -> WallTime;
}

/// Chance: numbers for names that no two processes may share. Nothing secret is drawn from it.
pub trait Chance: Send + Sync {
    /// The next random number.
    fn draw(&self) -> u64;

    /// The next two, as bytes.
    fn draw_bytes(&self) -> [u8; 16] {
        let mut bytes = [0; 16];
        bytes[..8].copy_from_slice(&self.draw().to_le_bytes());
        bytes[8..].copy_from_slice(&self.draw().to_le_bytes());
        bytes
    }
}

/// Small files of the node's own in its data directory, besides its store.
pub trait Files: Send + Sync {
    /// The contents of a file.
    ///
    /// # Errors
    /// The system's.
    fn read(&self, name: &str) -> io::Result<Vec<u8>>;

    /// Replaces a file as a whole, durably. Blocks.
    ///
    /// # Errors
    /// The system's; the file is then as before.
    fn replace(&self, name: &str, contents: &[u8]) -> io::Result<()>;

    /// Appends to a file, which is created if necessary. Blocks.
    ///
    /// # Errors
    /// The system's.
    fn append(&self, name: &str, more: &[u8]) -> io::Result<()>;

    /// Where a file is, for messages.
    fn path(&self, name: &str) -> String;
}

/// Takes what was recorded of sampled operations. Must not block: a request may wait for it.
pub trait TraceSink: Send + Sync {
    /// Takes an operation that is over.
    fn take(&self, finished: Finished);

    /// What became of those that it took.
    fn counts(&self) -> TraceCounts;
}

/// What became of sampled operations.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct TraceCounts {
    /// They were exported.
    pub exported: u64,
    /// There was no room for them.
    pub dropped: u64,
    /// They could not be exported.
    pub failed: u64,
}

/// The node's certificates, as its host has loaded them.
pub trait Certificates: Send + Sync {
    /// One for each port that speaks TLS.
    fn list(&self) -> Vec<CertificateState>;
}

/// A certificate that the node shows on one of its ports.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CertificateState {
    /// The port: `client` or `peer`.
    pub port: &'static str,
    /// The end of its validity.
    pub expires: WallTime,
    /// Whether the files that are there now could not be loaded, so that what was there before is used.
    pub reload_failed: bool,
    /// TLS handshakes that failed on this port since the start.
    pub handshakes_failed: u64,
}

/// What a node runs on.
#[derive(Clone)]
pub struct Host {
    /// Connections to peers.
    pub wire: Arc<dyn Wire>,
    /// Threads for work that may block.
    pub threads: Arc<dyn Threads>,
    /// The machine's clock.
    pub clock: Arc<dyn Clock>,
    /// Random numbers.
    pub chance: Arc<dyn Chance>,
    /// Where its store is kept.
    pub dir: DataDir,
    /// Small files.
    pub files: Arc<dyn Files>,
    /// Takes sampled operations; `None` if none are sampled.
    pub traces: Option<Arc<dyn TraceSink>>,
    /// Certificates; `None` where no port speaks TLS.
    pub certificates: Option<Arc<dyn Certificates>>,
    /// Decides when the node's tasks run; `None` where tokio alone does.
    pub gate: Option<Arc<dyn Gate>>,
}

impl Host {
    /// Runs work that may block, and waits for its result.
    ///
    /// # Errors
    /// Those of the work, or [`Error::Closed`] if the node is ending.
    pub async fn run<T: Send + 'static>(
        &self,
        urgency: Urgency,
        work: impl FnOnce() -> Result<T, Error> + Send + 'static,
    ) -> Result<T, Error> {
        let (tell, told) = oneshot::channel();
        self.threads.run(urgency, Box::new(move || drop(tell.send(work()))));
        told.await.unwrap_or(Err(Error::Closed))
    }
}

impl fmt::Debug for Host {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Host")
    }
}
