//! The configuration: a TOML file, overlaid by `QUORATE_*` environment variables (`environment`).
//!
//! Every setting is documented with unit, default and range in `config/node.toml`. Unknown keys are
//! rejected, and every value is validated here, once, with an error that names the key and the
//! accepted values.

mod environment;

use std::ffi::OsString;
use std::fmt::Display;
use std::net::{IpAddr, SocketAddr};
use std::ops::RangeInclusive;
use std::path::{Path, PathBuf};

use quorate_protocol::bucket::{Properties, Settings};
use quorate_protocol::common::Common;
use quorate_protocol::layout::{Layout, LayoutError, Member};
use quorate_protocol::name::NodeId;
use serde::Deserialize;

use self::environment::{Environment, Setting};

/// Why a configuration is invalid. The text names the file or the key.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// The file cannot be read, has a syntax error, an unknown key or a value of the wrong type.
    #[error("{path}: {reason}")]
    File {
        /// The file.
        path: String,
        /// The reason, with the key where known.
        reason: String,
    },
    /// A value is out of its range.
    #[error("{key} must be {allowed}, not {value}")]
    Value {
        /// The key, with dots.
        key: &'static str,
        /// The accepted values.
        allowed: String,
        /// The value found.
        value: String,
    },
    /// An environment variable is invalid.
    #[error("the environment variable {name}: {reason}")]
    Variable {
        /// The variable.
        name: String,
        /// The reason.
        reason: String,
    },
    /// The nodes of the layout do not form a valid cluster.
    #[error("layout: {0}")]
    Layout(#[from] LayoutError),
}

/// How a key relates to this configuration.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Known {
    /// A setting with a single value.
    Setting,
    /// A setting with a compound value, which only the file can give.
    OnlyInFile,
    /// In one of its tables, but no setting there.
    NoneOfTable(&'static str),
    /// Unknown.
    Foreign,
}

/// When a write counts as durable and is acknowledged.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Durability {
    /// Once it is on disk. Many writes share one sync.
    #[default]
    Fsync,
    /// Once the operating system has it: survives a killed process, not a power cut.
    Buffered,
}

/// The complete configuration of a node.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Config {
    /// The cluster's name; the same on all nodes, and recorded in every data directory.
    pub cluster_id: String,
    /// The cluster's secret keys in hexadecimal. The first one signs; all of them verify.
    pub cluster_keys: Vec<String>,
    /// This node's name in the layout.
    pub node: NodeId,
    /// The data directory.
    pub data_dir: PathBuf,
    /// The address to listen on for clients.
    #[serde(default = "default_client_addr")]
    pub client_addr: SocketAddr,
    /// The address to listen on for peers.
    #[serde(default = "default_peer_addr")]
    pub peer_addr: SocketAddr,
    /// When a write is acknowledged.
    #[serde(default)]
    pub durability: Durability,
    /// Threads that serve requests; 0 for one per core.
    #[serde(default)]
    pub worker_threads: usize,
    /// Whether the peer port accepts injected network faults (for tests).
    #[serde(default)]
    pub fault_hook: bool,
    /// The nodes of the cluster.
    pub layout: LayoutConfig,
    /// Bucket properties where neither the bucket nor the request gives them.
    #[serde(default)]
    pub defaults: Defaults,
    /// Limits.
    #[serde(default)]
    pub limits: Limits,
    /// Timeouts and intervals.
    #[serde(default)]
    pub timeouts: Timeouts,
    /// Background repair.
    #[serde(default)]
    pub anti_entropy: AntiEntropy,
    /// Tombstones.
    #[serde(default)]
    pub deletes: Deletes,
    /// Heartbeats between nodes.
    #[serde(default)]
    pub gossip: GossipConfig,
    /// Connections to peers.
    #[serde(default)]
    pub peers: PeersConfig,
    /// The local store.
    #[serde(default)]
    pub storage: StorageConfig,
    /// Logging.
    #[serde(default)]
    pub log: LogConfig,
    /// Environment variables with our prefix that match no setting. Not a setting itself.
    #[serde(skip)]
    pub(crate) foreign_variables: Vec<String>,
}

/// The top-level settings, and those of the tables that `section!` does not define.
const ALONE: &[&str] = &[
    "cluster_id",
    "cluster_keys",
    "node",
    "data_dir",
    "client_addr",
    "peer_addr",
    "durability",
    "worker_threads",
    "fault_hook",
];
const OF_LAYOUT: &[&str] = &["version", "partitions"];
const OF_DEFAULTS: &[&str] = &["n", "r", "w", "conflicts", "sloppy"];

/// Looks up a dotted key.
pub(crate) fn known(key: &str) -> Known {
    let tables = [
        ("layout", OF_LAYOUT),
        ("defaults", OF_DEFAULTS),
        ("limits", Limits::SETTINGS),
        ("timeouts", Timeouts::SETTINGS),
        ("anti_entropy", AntiEntropy::SETTINGS),
        ("deletes", Deletes::SETTINGS),
        ("gossip", GossipConfig::SETTINGS),
        ("peers", PeersConfig::SETTINGS),
        ("storage", StorageConfig::SETTINGS),
        ("log", LogConfig::SETTINGS),
    ];
    let Some((table, name)) = key.split_once('.') else {
        return if ALONE.contains(&key) { Known::Setting } else { Known::Foreign };
    };
    match tables.into_iter().find(|(known, _)| *known == table) {
        None => Known::Foreign,
        Some((_, settings)) if settings.contains(&name) => Known::Setting,
        Some(("layout", _)) if name == "nodes" => Known::OnlyInFile,
        Some((table, _)) => Known::NoneOfTable(table),
    }
}

/// The nodes of the cluster, the same on all of them.
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
    n: Option<u16>,
    r: Option<quorate_protocol::quorum::Count>,
    w: Option<quorate_protocol::quorum::Count>,
    conflicts: Option<quorate_protocol::bucket::Conflicts>,
    sloppy: Option<bool>,
}

impl Defaults {
    /// The complete properties, with built-in values for those not given.
    pub fn properties(&self) -> Properties {
        let Self { n, r, w, conflicts, sloppy } = *self;
        Settings { n, r, w, conflicts, sloppy }.over(&Properties::default(), u16::MAX)
    }
}

macro_rules! section {
    ($(#[$doc:meta])* $name:ident { $($(#[$field_doc:meta])* $field:ident: $type:ty = $default:expr,)* }) => {
        $(#[$doc])*
        #[derive(Clone, Debug, Deserialize)]
        #[serde(deny_unknown_fields, default)]
        pub struct $name { $($(#[$field_doc])* pub $field: $type,)* }
        impl $name {
            const SETTINGS: &'static [&'static str] = &[$(stringify!($field),)*];
        }
        impl Default for $name {
            fn default() -> Self {
                Self { $($field: $default,)* }
            }
        }
    };
}

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

impl Config {
    /// The settings that must be equal on all nodes.
    pub fn common(&self) -> Common {
        Common {
            grace_ms: self.deletes.grace_ms,
            defaults: self.defaults.properties(),
            value_bytes_max: self.limits.value_bytes_max as u64,
            object_bytes_max: self.limits.object_bytes_max as u64,
            siblings_max: self.limits.siblings_max as u64,
        }
    }

    /// Reads a file, overlays the environment and validates every value.
    ///
    /// # Errors
    /// [`ConfigError`] that names the file, the variable or the key, and the accepted values.
    pub fn load(path: &Path) -> Result<Self, ConfigError> {
        Self::load_with(path, std::env::vars_os())
    }

    /// Likewise, with the given environment.
    ///
    /// # Errors
    /// [`ConfigError`].
    pub fn load_with(
        path: &Path,
        variables: impl IntoIterator<Item = (OsString, OsString)>,
    ) -> Result<Self, ConfigError> {
        let environment = Environment::of(variables, known)?;
        let all = |_: &Setting| true;
        let mut config = build(path, &environment, all).map_err(|error| {
            let reason = error.to_string();
            // Blame the variable without which the configuration is valid, or which the error text
            // names.
            let is_to_blame = |setting: &&Setting| {
                let others = |other: &Setting| other.key != setting.key;
                reason.contains(&format!("`{}`", setting.key))
                    || build(path, &environment, others).is_ok()
            };
            match environment.settings.iter().find(is_to_blame) {
                Some(setting) => ConfigError::Variable { name: setting.variable.clone(), reason },
                None => ConfigError::File { path: path.display().to_string(), reason },
            }
        })?;
        config.foreign_variables = environment.foreign.clone();
        let Err(error) = config.check() else { return Ok(config) };
        let variable = match &error {
            ConfigError::Value { key, .. } => environment.variable(key),
            ConfigError::File { .. } | ConfigError::Variable { .. } | ConfigError::Layout(_) => {
                None
            }
        };
        Err(match variable {
            Some(name) => {
                ConfigError::Variable { name: name.to_owned(), reason: error.to_string() }
            }
            None => error,
        })
    }

    /// Environment variables with our prefix that match no setting.
    pub fn foreign_variables(&self) -> &[String] {
        &self.foreign_variables
    }

    /// Suspicious settings, as seen from this machine. The node may still run with them, as
    /// addresses can be translated in between and directories created later; but most often it is a
    /// mistake.
    pub fn oddities(&self) -> Vec<String> {
        let mut odd = Vec::new();
        let own = self.layout.nodes.iter().find(|node| node.name == self.node);
        if let Some(own) = own.filter(|own| !is_reached_at(self.peer_addr, &own.peer_addr)) {
            odd.push(format!(
                "peer_addr is {}, but the layout sends the peers of {} to {}",
                self.peer_addr, self.node, own.peer_addr
            ));
        }
        let parent = match self.data_dir.parent() {
            Some(parent) if parent.as_os_str().is_empty() => Path::new("."),
            Some(parent) => parent,
            None => &self.data_dir,
        };
        if !self.data_dir.is_dir() && !parent.is_dir() {
            let shown = self.data_dir.display();
            odd.push(format!("data_dir {shown}: {} is not a directory", parent.display()));
        }
        odd
    }

    /// The layout's placement.
    ///
    /// # Errors
    /// [`ConfigError::Layout`] that names the invalid node or number.
    pub fn layout(&self) -> Result<Layout, ConfigError> {
        let member = |node: &NodeConfig| Member {
            node: node.name,
            zone: node.zone.clone(),
            weight: node.weight,
        };
        let members = self.layout.nodes.iter().map(member).collect();
        Ok(Layout::new(self.layout.version, self.layout.partitions, members)?)
    }

    /// The cluster's keys as bytes.
    ///
    /// # Errors
    /// [`ConfigError::Value`] unless there is at least one, each of 64 hexadecimal digits.
    pub fn secrets(&self) -> Result<Vec<[u8; 32]>, ConfigError> {
        let allowed = "one or more keys of 64 hexadecimal digits (`quorate keygen` prints one)";
        let wrong = |found| value("cluster_keys", allowed, found);
        if self.cluster_keys.is_empty() {
            return Err(wrong("none"));
        }
        let key = |text: &String| match parse_key(text) {
            Some(key) if key == [0; 32] => {
                Err(wrong("the all-zero key of the example, which is public"))
            }
            Some(key) => Ok(key),
            None => Err(wrong("a malformed key")),
        };
        self.cluster_keys.iter().map(key).collect()
    }

    fn check(&self) -> Result<(), ConfigError> {
        let id_fits = !self.cluster_id.is_empty() && self.cluster_id.len() <= 64;
        if !id_fits || !self.cluster_id.bytes().all(|b| b.is_ascii_graphic()) {
            let allowed = "1 to 64 visible ASCII characters";
            return Err(value("cluster_id", allowed, &self.cluster_id));
        }
        self.secrets()?;
        let layout = self.layout()?;
        if !layout.contains(self.node) {
            return Err(value("node", "the name of a node in layout.nodes", self.node));
        }
        self.check_addresses()?;
        crate::log::filter(&self.log.level).map_err(|error| ConfigError::Value {
            key: "log.level",
            allowed: "levels, such as info or info,quorate=debug".to_owned(),
            value: format!("{:?}: {error}", self.log.level),
        })?;
        let quorums = Settings { r: self.defaults.r, w: self.defaults.w, ..Settings::default() };
        let properties = self.defaults.properties();
        if !(1..=255).contains(&self.defaults.n.unwrap_or(properties.n)) {
            return Err(value("defaults.n", "from 1 to 255", self.defaults.n.unwrap_or(0)));
        }
        quorums.check(&properties, u16::MAX).map_err(|error| ConfigError::Value {
            key: "defaults",
            allowed: "such that 1 <= r, w <= n".to_owned(),
            value: error.to_string(),
        })?;
        self.check_ranges()
    }

    fn check_addresses(&self) -> Result<(), ConfigError> {
        let mut seen: Vec<String> = Vec::new();
        for node in &self.layout.nodes {
            let wrong = |allowed| value("layout.nodes.peer_addr", allowed, &node.peer_addr);
            let port = node.peer_addr.rsplit_once(':').map(|(_, port)| port.parse::<u16>());
            if !matches!(port, Some(Ok(1..))) {
                return Err(wrong("a host and a port, such as 127.0.0.1:7501"));
            }
            let addr = node.peer_addr.to_ascii_lowercase();
            if seen.contains(&addr) {
                return Err(wrong("unique to one node"));
            }
            seen.push(addr);
        }
        let (client, peer) = (self.client_addr, self.peer_addr);
        let same_host =
            client.ip() == peer.ip() || client.ip().is_unspecified() || peer.ip().is_unspecified();
        if client.port() != 0 && client.port() == peer.port() && same_host {
            return Err(value("client_addr", "different from peer_addr", client));
        }
        Ok(())
    }

    fn check_ranges(&self) -> Result<(), ConfigError> {
        const HOUR_MS: u64 = 3_600_000;
        const GIB: usize = 1 << 30;
        let Self { limits: l, timeouts: t, peers: p, storage: s, .. } = self;
        in_range("worker_threads", self.worker_threads, 0..=1024)?;
        in_range("limits.value_bytes_max", l.value_bytes_max, 1..=256 << 20)?;
        in_range("limits.siblings_max", l.siblings_max, 1..=10_000)?;
        in_range("limits.object_bytes_max", l.object_bytes_max, l.value_bytes_max..=GIB)?;
        in_range("limits.operations_max", l.operations_max, 1..=1 << 20)?;
        in_range(
            "limits.operation_bytes_max",
            l.operation_bytes_max,
            l.value_bytes_max..=64 * GIB,
        )?;
        in_range("limits.connections_max", l.connections_max, 1..=1 << 20)?;
        in_range("limits.hint_bytes_max", l.hint_bytes_max, 0..=1 << 50)?;
        in_range("limits.hint_alarm_ms", l.hint_alarm_ms, 100..=720 * HOUR_MS)?;
        in_range("limits.idempotency_keys_max", l.idempotency_keys_max, 0..=10_000_000)?;
        in_range("timeouts.request_ms_max", t.request_ms_max, 1..=HOUR_MS)?;
        in_range("timeouts.request_ms", t.request_ms, 1..=t.request_ms_max)?;
        in_range("timeouts.replica_ms", t.replica_ms, 10..=60_000)?;
        in_range("timeouts.header_ms", t.header_ms, 100..=HOUR_MS)?;
        in_range("timeouts.idle_ms", t.idle_ms, 100..=24 * HOUR_MS)?;
        in_range("timeouts.body_ms", t.body_ms, 100..=HOUR_MS)?;
        in_range("timeouts.shutdown_ms", t.shutdown_ms, 100..=HOUR_MS)?;
        in_range("timeouts.drain_ms", t.drain_ms, 0..=HOUR_MS)?;
        in_range("timeouts.idempotency_ms", t.idempotency_ms, 0..=24 * HOUR_MS)?;
        in_range("timeouts.probe_ms", t.probe_ms, 50..=60_000)?;
        let (a, d) = (&self.anti_entropy, &self.deletes);
        in_range("anti_entropy.interval_ms", a.interval_ms, 0..=24 * HOUR_MS)?;
        in_range("anti_entropy.share_percent", a.share_percent, 1..=100)?;
        in_range("anti_entropy.fill_percent", a.fill_percent, 1..=100)?;
        in_range("anti_entropy.scrub_ms", a.scrub_ms, 0..=720 * HOUR_MS)?;
        in_range("deletes.grace_ms", d.grace_ms, 1000..=720 * HOUR_MS)?;
        in_range("deletes.reap_ms", d.reap_ms, 100..=24 * HOUR_MS)?;
        in_range("gossip.interval_ms", self.gossip.interval_ms, 20..=10_000)?;
        in_range("gossip.phi", self.gossip.phi, 1.0..=100.0)?;
        in_range("peers.lanes", p.lanes, 1..=64)?;
        in_range("peers.queue_messages_max", p.queue_messages_max, 1..=1 << 20)?;
        in_range("peers.queue_bytes_max", p.queue_bytes_max, 1 << 20..=4 * GIB)?;
        in_range("peers.batch_messages_max", p.batch_messages_max, 1..=4096)?;
        in_range("peers.batch_bytes_max", p.batch_bytes_max, 4096..=64 << 20)?;
        in_range("peers.large_bytes_max", p.large_bytes_max, 1 << 20..=64 * GIB)?;
        in_range("storage.block_cache_bytes", s.block_cache_bytes, 1 << 20..=1024 * GIB)?;
        in_range("storage.row_cache_bytes", s.row_cache_bytes, 0..=1024 * GIB)?;
        in_range("storage.memtable_bytes", s.memtable_bytes, 1 << 20..=16 * GIB)?;
        let background = s.background_bytes_per_s;
        if background != 0 {
            in_range("storage.background_bytes_per_s", background, 8 << 20..=1 << 40)?;
        }
        in_range("storage.disk_free_bytes_min", s.disk_free_bytes_min, 0..=1 << 50)
    }
}

/// Builds the configuration from the file and the environment settings that `which` selects.
fn build(
    path: &Path,
    environment: &Environment,
    which: impl Fn(&Setting) -> bool,
) -> Result<Config, config::ConfigError> {
    let file = config::File::from(path).format(config::FileFormat::Toml);
    let mut builder = config::Config::builder().add_source(file);
    for setting in environment.settings.iter().filter(|setting| which(setting)) {
        // As text: each setting parses it by its own type.
        builder = match setting.key.as_str() {
            "cluster_keys" => {
                let keys: Vec<&str> = setting.text.split(',').map(str::trim).collect();
                builder.set_override(&setting.key, keys)?
            }
            key => builder.set_override(key, setting.text.as_str())?,
        };
    }
    builder.build()?.try_deserialize()
}

/// Whether a listener at `own` can be reached at `shown`, host and port, as far as can be told
/// without DNS.
fn is_reached_at(own: SocketAddr, shown: &str) -> bool {
    let Some((host, port)) = shown.rsplit_once(':') else { return false };
    let host = host.trim_start_matches('[').trim_end_matches(']').parse::<IpAddr>();
    let same_host = own.ip().is_unspecified() || host.is_ok_and(|host| host == own.ip());
    let is_name = !shown.starts_with('[')
        && shown.rsplit_once(':').is_some_and(|(host, _)| host.parse::<IpAddr>().is_err());
    port.parse() == Ok(own.port()) && (is_name || same_host)
}

fn in_range<T: PartialOrd + Display>(
    key: &'static str,
    found: T,
    range: RangeInclusive<T>,
) -> Result<(), ConfigError> {
    if range.contains(&found) {
        return Ok(());
    }
    Err(value(key, &format!("from {} to {}", range.start(), range.end()), found))
}

fn value(key: &'static str, allowed: &str, found: impl Display) -> ConfigError {
    ConfigError::Value { key, allowed: allowed.to_owned(), value: found.to_string() }
}

fn parse_key(hex: &str) -> Option<[u8; 32]> {
    if hex.len() != 64 || !hex.is_ascii() {
        return None;
    }
    let mut key = [0; 32];
    for (byte, digits) in key.iter_mut().zip(hex.as_bytes().chunks_exact(2)) {
        *byte = u8::from_str_radix(std::str::from_utf8(digits).ok()?, 16).ok()?;
    }
    hex.bytes().all(|b| b.is_ascii_hexdigit()).then_some(key)
}

fn default_client_addr() -> SocketAddr {
    SocketAddr::from(([127, 0, 0, 1], 7401))
}

fn default_peer_addr() -> SocketAddr {
    SocketAddr::from(([127, 0, 0, 1], 7501))
}

fn default_layout_version() -> u64 {
    1
}

fn default_partitions() -> u32 {
    1024
}

fn default_zone() -> String {
    "default".to_owned()
}

fn default_weight() -> u16 {
    1
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests;
