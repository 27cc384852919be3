//! Why a node did not start, and why a running one takes no requests.

use crate::config::ConfigError;

/// The message for rows that are too old to be believed.
pub const OLD_ROWS: &str = "the data here was last in use longer ago than deletes.grace_ms, \
     and no peer can say whether it is an old backup";

/// Why requests are refused.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Unavailable {
    /// The cluster has not been formed yet.
    #[error("the cluster is not formed; run `quorate form` once all nodes are up")]
    NotFormed,
    /// The node is in the cluster's record no more.
    #[error("the node was removed from the cluster; stop it and delete its data directory")]
    Removed,
    /// No peer has yet confirmed this node's generation.
    #[error("the node has just started and is asking its peers whether it missed anything")]
    Asking,
    /// The rows here are too old to be believed, and no peer can judge them.
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
        /// Why it has not been reopened yet, if that is known.
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
    /// The store could not be read.
    #[error("cannot read the node's own records: {0}")]
    Store(#[from] quorate_storage::Error),
    /// One of the node's own records cannot be decoded.
    #[error("the record {0:?} in the data directory is damaged")]
    Record(&'static str),
    /// `defaults.n` differs from the one with which the cluster was formed.
    #[error(
        "defaults.n makes {configured} replicas, but the data here was stored with {recorded}: with another \
         number keys would be looked for on the wrong nodes. Set it back to {recorded}; a bucket's own n can \
         be changed while the cluster runs (PUT /buckets/{{bucket}})"
    )]
    DefaultN {
        /// The recorded one.
        recorded: u16,
        /// The configured one.
        configured: u16,
    },
    /// The node has ended because another process runs under its name.
    #[error(
        "this node ended because another process runs under its name; {file} says more. When only this \
         one is left, delete that file and start it again"
    )]
    Twin {
        /// The note that it left.
        file: String,
    },
    /// What is here is being restored, or that was interrupted.
    #[error(
        "the data directory is being restored, or that was interrupted ({file}): wait for it, or empty the \
         directory and restore it again"
    )]
    Restoring {
        /// The mark of that.
        file: String,
    },
    /// The stored cluster record cannot be used.
    #[error("the cluster record in {path} cannot be used: {reason}")]
    ClusterRecord {
        /// Where it is.
        path: String,
        /// What is wrong with it.
        reason: String,
    },
    /// What this disk has voted cannot be used.
    #[error("what this node has voted on the cluster record cannot be used: {0}")]
    Votes(String),
    /// A set of rows that was set aside cannot be opened.
    #[error("cannot open the rows that were set aside in {path}: {reason}")]
    Distrusted {
        /// The set.
        path: String,
        /// Why it cannot be opened.
        reason: String,
    },
    /// The node waits to be added to a cluster, and was started all the same.
    #[error(
        "the node is in no cluster yet: it asks the members in join until one of them has added it"
    )]
    NotAdded,
    /// The data directory was made to join a cluster, and the configuration has a layout.
    #[error(
        "data_dir was made to join a running cluster, but the configuration has a [layout]: go on with join \
         instead of [layout], or give a node that forms a new cluster an empty data_dir"
    )]
    MadeToJoin,
    /// The configured layout would look for keys on the wrong nodes.
    #[error(
        "the layout was changed: the data directory was filled under {recorded}, the configuration has \
         {configured}: {differences}. Keys would be looked for on the wrong nodes, and rows do not move \
         with a layout yet: give [layout] back what it had. To change the cluster, form a new one with \
         new data directories and copy the keys over (GET /keys/{{bucket}}, GET and PUT /kv)"
    )]
    OtherLayout {
        /// The recorded layout.
        recorded: String,
        /// The configured layout.
        configured: String,
        /// The differences.
        differences: String,
    },
}

/// The outlook for a failed store, in words.
fn remedy(obstacle: Option<&str>) -> String {
    match obstacle {
        Some(why) => format!("it is reopened once that is possible: {why}"),
        None => "it is reopened in a moment".to_owned(),
    }
}
