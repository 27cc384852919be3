//! The tables of a configuration file, with their defaults.

use std::path::PathBuf;

use quorate_protocol::access::Scope;
use quorate_protocol::bucket::{Properties, Settings};
use quorate_protocol::handshake::{PROTOCOL_MAX, PROTOCOL_PROVES};
use quorate_protocol::name::NodeId;
use quorate_protocol::skew::SKEW_MS_MAX;
use serde::Deserialize;

/// The settings of `layout`, which `section!` does not define.
pub const OF_LAYOUT: &[&str] = &["version", "partitions"];
/// The same of `defaults`.
pub const OF_DEFAULTS: &[&str] = &["n", "r", "w", "conflicts", "sloppy"];

/// The nodes that a cluster is formed of, the same on all of them.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct LayoutConfig {
    /// The version of this layout; the same on all nodes.
    #[serde(default = "default_layout_version")]
    pub version: u64,
    /// Slices of the key space; fixed for the life of the cluster.
    #[serde(default = "default_partitions")]
    pub partitions: u32,
    /// The nodes.
    pub nodes: Vec<NodeConfig>,
}

/// One node of the layout.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct NodeConfig {
    /// Its name.
    pub name: NodeId,
    /// The address at which peers reach it: host and port.
    pub peer_addr: String,
    /// Failure domain (rack, availability zone).
    #[serde(default = "default_zone")]
    pub zone: String,
    /// Its share of the data, relative to the other nodes.
    #[serde(default = "default_weight")]
    pub weight: u16,
}

/// Default bucket properties. The fields are those of a bucket.
#[derive(Clone, Copy, Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Defaults {
    /// Home replicas of a key.
    pub n: Option<u16>,
    /// Replicas that a read needs.
    pub r: Option<quorate_protocol::quorum::Count>,
    /// Replicas that a write needs.
    pub w: Option<quorate_protocol::quorum::Count>,
    /// What happens to concurrent writes.
    pub conflicts: Option<quorate_protocol::bucket::Conflicts>,
    /// Whether fallback nodes may stand in for home replicas.
    pub sloppy: Option<bool>,
}

impl Defaults {
    /// The complete properties, with built-in values for those not given.
    pub fn properties(&self) -> Properties {
        let Self { n, r, w, conflicts, sloppy } = *self;
        Settings { n, r, w, conflicts, sloppy, expires_in_s: None, feed_retention_s: None }
            .over(&Properties::default())
    }
}

macro_rules! section {
    ($(#[$doc:meta])* $name:ident { $($(#[$field_doc:meta])* $field:ident: $type:ty = $default:expr,)* }) => {
        $(#[$doc])*
        #[derive(Clone, Debug, Deserialize)]
        #[serde(deny_unknown_fields, default)]
        pub struct $name { $($(#[$field_doc])* pub $field: $type,)* }
        impl $name {
            /// The names of the settings in this table.
            pub const SETTINGS: &'static [&'static str] = &[$(stringify!($field),)*];
        }
        impl Default for $name {
            fn default() -> Self {
                Self { $($field: $default,)* }
            }
        }
    };
}
pub(super) use section;

section! {
    /// Limits. A request past one is refused at once, never queued without bound.
    Limits {
        /// The largest value, in bytes.
        value_bytes_max: usize = 8 << 20,
        /// The most siblings a client write may leave.
        siblings_max: usize = 100,
        /// The most bytes that all siblings of a key may have after a client write.
        object_bytes_max: usize = 64 << 20,
        /// Concurrent client operations.
        operations_max: usize = 4096,
        /// Most entries that the logs of all feeds have together: about 100 bytes each.
        feed_entries_max: u64 = 10_000_000,
        /// Bytes of values in flight.
        operation_bytes_max: usize = 256 << 20,
        /// Concurrent client connections.
        connections_max: usize = 10_000,
        /// Bytes of hints kept for other nodes.
        hint_bytes_max: u64 = 4 << 30,
        /// Milliseconds after which an undelivered hint raises an alarm.
        hint_alarm_ms: u64 = 3_600_000,
        /// Idempotency keys remembered.
        idempotency_keys_max: usize = 100_000,
    }
}

section! {
    /// Timeouts and intervals, in milliseconds.
    Timeouts {
        /// Timeout of a request that gives none.
        request_ms: u64 = 5_000,
        /// The longest timeout that a request may ask for.
        request_ms_max: u64 = 60_000,
        /// How long a replica may stay silent before another one is asked.
        replica_ms: u64 = 500,
        /// How long a client may take to send a request's head.
        header_ms: u64 = 10_000,
        /// How long a client connection may be idle between requests.
        idle_ms: u64 = 120_000,
        /// How long a client may take to send a request's body.
        body_ms: u64 = 30_000,
        /// Time limit of a graceful shutdown.
        shutdown_ms: u64 = 10_000,
        /// The part of it during which clients are still served normally, but told to disconnect.
        drain_ms: u64 = 1_000,
        /// How long an idempotency key is remembered.
        idempotency_ms: u64 = 600_000,
        /// How often an unreachable peer is probed.
        probe_ms: u64 = 250,
    }
}

section! {
    /// Background repair of replicas.
    AntiEntropy {
        /// How often the trees are compared with each peer, in milliseconds; 0 turns it off.
        interval_ms: u64 = 10_000,
        /// The share of a core for comparison, repair and handoff, in percent; less on a busy
        /// machine.
        share_percent: u64 = 50,
        /// The share of a core for fills and incoming hints, in percent; less on a busy machine.
        fill_percent: u64 = 50,
        /// How often the trees are recomputed from the rows, in milliseconds; 0 turns it off.
        scrub_ms: u64 = 86_400_000,
    }
}

section! {
    /// Reaping of tombstones.
    Deletes {
        /// How long every node must have held nothing but a tombstone before it is reaped, in
        /// milliseconds. Equal on all nodes; their clocks may differ by a quarter of it.
        grace_ms: u64 = 86_400_000,
        /// How often a node looks for tombstones to reap, in milliseconds.
        reap_ms: u64 = 60_000,
        /// How often a node looks for values that have expired, to remove them, in milliseconds.
        expire_ms: u64 = 10_000,
        /// For how long a value must have expired before it is removed, in milliseconds: twice what clocks
        /// may differ.
        expired_age_ms: u64 = 2 * SKEW_MS_MAX,
    }
}

section! {
    /// Heartbeats between nodes.
    GossipConfig {
        /// Whether nodes gossip, over UDP on the peer port's number. Requests reveal down peers
        /// either way.
        enabled: bool = true,
        /// How often a node gossips, in milliseconds.
        interval_ms: u64 = 200,
        /// Suspicion threshold, in usual intervals of silence: past it a node is contacted only
        /// after all unsuspected ones.
        phi: f64 = 8.0,
    }
}

section! {
    /// TLS on one of the ports. Whoever holds the certificates of a node names it: `quorate ca` makes them.
    TlsConfig {
        /// Whether the port speaks TLS.
        mode: TlsMode = TlsMode::Off,
        /// The certificate chain, the node's own first, in PEM; empty for none.
        cert: PathBuf = PathBuf::new(),
        /// The private key of the certificate, in PEM; empty for none.
        key: PathBuf = PathBuf::new(),
        /// The authorities whose certificates the other end may have, in PEM.
        ca: Vec<PathBuf> = Vec::new(),
    }
}

/// Whether a port speaks TLS. A running cluster moves from one mode to the next node by node.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum TlsMode {
    /// It does not.
    #[default]
    Off,
    /// It speaks TLS with those who do, and plain text with others.
    Accept,
    /// It speaks nothing else.
    Require,
}

impl TlsMode {
    /// Its name in the configuration.
    pub fn name(self) -> &'static str {
        match self {
            Self::Off => "off",
            Self::Accept => "accept",
            Self::Require => "require",
        }
    }
}

section! {
    /// Connections to peers.
    PeersConfig {
        /// Batches in flight to each peer, for reads and for writes each.
        lanes: usize = 3,
        /// Messages pending for each peer and kind; past it the caller gets "busy".
        queue_messages_max: usize = 8192,
        /// Bytes pending for each peer and kind.
        queue_bytes_max: usize = 64 << 20,
        /// Messages in one batch.
        batch_messages_max: usize = 256,
        /// Bytes in one batch (a single larger message is still sent).
        batch_bytes_max: usize = 1 << 20,
        /// Bytes of large messages from peers, and of large answers to them, in flight; more than
        /// that waits.
        large_bytes_max: usize = 128 << 20,
        /// The highest version of the peer protocol that the node speaks: lower than the release's own
        /// until all nodes run a release that speaks it.
        protocol_max: u16 = PROTOCOL_MAX,
        /// The lowest version that it speaks; none above `protocol_max`. Below the first one in which
        /// peers prove the cluster's key for each stream a listener could pass for a peer, so it is set lower
        /// only while nodes of an earlier release are upgraded.
        protocol_min: u16 = PROTOCOL_PROVES,
    }
}

section! {
    /// The local store.
    StorageConfig {
        /// Block cache, in bytes.
        block_cache_bytes: usize = 256 << 20,
        /// Cache of recently used whole rows, in bytes; 0 for none.
        row_cache_bytes: usize = 128 << 20,
        /// Memtable size before a flush, in bytes. Up to a quarter less, by the node's index, so
        /// that nodes do not flush together.
        memtable_bytes: usize = 64 << 20,
        /// Write rate limit of flushes and compactions, in bytes per second; 0 for none.
        background_bytes_per_s: u64 = 256 << 20,
        /// Free space below which the node accepts no writes but deletes, in bytes.
        disk_free_bytes_min: u64 = 256 << 20,
    }
}

section! {
    /// Traces of requests.
    ExplainConfig {
        /// The trace of an operation that takes as long is kept, in milliseconds.
        slow_ms: u64 = 100,
    }
}

section! {
    /// Traces for an OpenTelemetry collector.
    OtlpConfig {
        /// The collector's base URL; empty for none.
        endpoint: String = String::new(),
        /// How many of the requests that bring no trace of their own are traced, in percent.
        sample_percent: f64 = 1.0,
        /// Whether spans name the key.
        shows_keys: bool = false,
    }
}

section! {
    /// Who may do what.
    AuthConfig {
        /// `off`: everyone who reaches the client port may do everything. `on`: tokens are checked.
        mode: AuthMode = AuthMode::Off,
        /// What requests without a token may do, beside what is open to all.
        anonymous: Vec<Scope> = Vec::new(),
        /// How long tokens are accepted after they were last compared with those of a majority of the
        /// nodes, in milliseconds.
        stale_ms: u64 = 60_000,
        /// Whether tokens are taken that come in clear text from another machine: only where something else
        /// encrypts what is between.
        allow_plain: bool = false,
    }
}

/// Whether tokens are checked.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum AuthMode {
    /// They are not.
    Off,
    /// They are.
    On,
}

section! {
    /// The record of who did what.
    AuditConfig {
        /// Where it goes: `off`, `stderr`, or the path of a file.
        to: String = "off".to_owned(),
        /// Whether requests for data are in it, beside those of administrators and those refused.
        data: bool = false,
        /// Whether it names keys, not only their hashes.
        keys: bool = false,
    }
}

section! {
    /// Logging.
    LogConfig {
        /// `text` or `json`.
        format: LogFormat = LogFormat::Text,
        /// Log levels, in the syntax of tracing's env filter.
        level: String = "info".to_owned(),
    }
}

/// Format of log lines.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum LogFormat {
    /// Human-readable.
    Text,
    /// One JSON object per line.
    Json,
}

fn default_layout_version() -> u64 {
    1
}

fn default_partitions() -> u32 {
    1024
}

pub(super) fn default_zone() -> String {
    "default".to_owned()
}

pub(super) fn default_weight() -> u16 {
    1
}
