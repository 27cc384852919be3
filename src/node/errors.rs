//! Why a node did not start, and why one that runs takes no requests.

use crate::config::ConfigError;

/// What is said of rows that are too old to be believed.
pub(crate) const OLD_ROWS: &str = "the data here was last in use longer ago than deletes.grace_ms, \
     and no peer can say whether it is an old backup";

/// Why requests cannot be taken.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum Unavailable {
    /// The cluster was not formed yet.
    #[error("the cluster is not formed; run `quorate form` once all nodes are up")]
    NotFormed,
    /// No peer has yet said whether this node came back behind.
    #[error("the node has just started and asks its peers whether it missed anything")]
    Asking,
    /// The rows here are too old to be believed, and no peer can say what they are worth.
    #[error("{}", OLD_ROWS)]
    OldRows,
    /// The node is stopping.
    #[error("the node is stopping")]
    Stopping,
    /// The store failed.
    #[error(
        "the store failed and takes no writes, reads are still served: {reason}; {}",
        remedy(obstacle.as_deref())
    )]
    Store {
        /// Why.
        reason: String,
        /// Why it was not opened again yet, if that is known.
        obstacle: Option<String>,
    },
}

/// Why a node did not start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// The configuration is wrong.
    #[error(transparent)]
    Config(#[from] ConfigError),
    /// The store did not open.
    #[error(transparent)]
    Open(#[from] quorate_storage::OpenError),
    /// The store did not answer.
    #[error("reading the node's own records: {0}")]
    Store(#[from] quorate_storage::Error),
    /// A record of the node's own cannot be read.
    #[error("the record {0:?} in the data directory is damaged")]
    Record(&'static str),
    /// `defaults.n` is not what the cluster was formed with.
    #[error(
        "defaults.n makes {configured} replicas, but the data here was stored with {recorded}: with another \
         number keys would be looked for where they are not. Set it back to {recorded}; a bucket's own n can \
         be changed while the cluster runs (PUT /buckets/{{bucket}})"
    )]
    DefaultN {
        /// By the record.
        recorded: u16,
        /// By the configuration.
        configured: u16,
    },
    /// The node has ended beside another process of its name.
    #[error(
        "this node ended because another process runs under its name; {file} says more. When only this \
         one is left, delete that file and start it again"
    )]
    Twin {
        /// The note it left.
        file: String,
    },
    /// A set of rows that was set aside cannot be opened.
    #[error("rows that were set aside in {path}: {reason}")]
    Distrusted {
        /// The set.
        path: String,
        /// Why not.
        reason: String,
    },
    /// The configured layout would have keys looked for where they are not.
    #[error(
        "the layout was changed: the data directory was filled under {recorded}, the configuration has \
         {configured}: {differences}. Keys would be looked for where they are not, and rows do not move \
         with a layout yet: give [layout] back what it had. To change the cluster, form a new one with \
         new data directories and copy the keys over (GET /keys/{{bucket}}, GET and PUT /kv)"
    )]
    OtherLayout {
        /// What was recorded.
        recorded: String,
        /// What is configured.
        configured: String,
        /// What of it differs.
        differences: String,
    },
    /// A peer's address is no host and port.
    #[error("layout.nodes.peer_addr {0:?} is no host and port")]
    PeerAddr(String),
    /// Threads for background work could not be made.
    #[error("threads for background work: {0}")]
    Threads(std::io::Error),
    /// The HTTP client for peers could not be made.
    #[error("the HTTP client for peers: {0}")]
    Client(#[from] reqwest::Error),
}

/// What becomes of a failed store, in words.
fn remedy(obstacle: Option<&str>) -> String {
    match obstacle {
        Some(why) => format!("it is opened again once it can be: {why}"),
        None => "it is opened again in a moment".to_owned(),
    }
}
