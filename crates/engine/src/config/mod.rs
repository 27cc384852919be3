//! A node's settings. Where they come from is the host's affair.
//!
//! Every setting is documented with unit, default and range in `config/node.toml`. Unknown keys are
//! rejected, and every value is validated here, once, with an error that names the key and the
//! accepted values.

pub mod checks;
mod jwt;
pub mod origin;
pub mod sections;

use std::fmt::Display;
use std::net::SocketAddr;
use std::path::PathBuf;

use quorate_protocol::cluster_settings::ClusterSettings;
use quorate_protocol::handshake::Versions;
use quorate_protocol::hex::unhex;
use quorate_protocol::layout::LayoutError;
use quorate_protocol::name::NodeId;
use serde::Deserialize;

pub use self::jwt::*;
pub use self::sections::*;
use self::sections::{default_weight, default_zone};

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
    /// A setting is missing, or stands beside one that excludes it.
    #[error("{key}: {reason}")]
    Origin {
        /// The key.
        key: &'static str,
        /// What to do.
        reason: &'static str,
    },
    /// The nodes of the layout do not form a valid cluster.
    #[error("layout: {0}")]
    Layout(#[from] LayoutError),
}

/// How a key relates to this configuration.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Known {
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
    /// This node's name in the cluster.
    pub node: NodeId,
    /// The data directory.
    pub data_dir: PathBuf,
    /// The address to listen on for clients.
    #[serde(default = "default_client_addr")]
    pub client_addr: SocketAddr,
    /// The address at which clients reach this node, host and port, if it is not `client_addr`.
    #[serde(default)]
    pub client_addr_advertised: Option<String>,
    /// The address to listen on for peers.
    #[serde(default = "default_peer_addr")]
    pub peer_addr: SocketAddr,
    /// The address at which peers reach a node that joins, host and port, if it is not `peer_addr`.
    #[serde(default)]
    pub peer_addr_advertised: Option<String>,
    /// The peer addresses of members of the cluster that this node wants to join; none if the layout
    /// names its nodes.
    #[serde(default)]
    pub join: Vec<String>,
    /// The failure domain of a node that joins.
    #[serde(default = "default_zone")]
    pub zone: String,
    /// The share of the data of a node that joins, relative to the other nodes.
    #[serde(default = "default_weight")]
    pub weight: u16,
    /// When a write is acknowledged.
    #[serde(default)]
    pub durability: Durability,
    /// Threads that serve requests; 0 for one per core.
    #[serde(default)]
    pub worker_threads: usize,
    /// Whether the peer port accepts injected network faults (for tests).
    #[serde(default)]
    pub fault_hook: bool,
    /// The nodes of a cluster that is formed.
    #[serde(default)]
    pub layout: Option<LayoutConfig>,
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
    /// TLS on the client port.
    #[serde(default)]
    pub client_tls: TlsConfig,
    /// TLS between nodes.
    #[serde(default)]
    pub peer_tls: TlsConfig,
    /// The local store.
    #[serde(default)]
    pub storage: StorageConfig,
    /// Traces of requests.
    #[serde(default)]
    pub explain: ExplainConfig,
    /// Traces for a collector.
    #[serde(default)]
    pub otlp: OtlpConfig,
    /// Who may do what.
    #[serde(default)]
    pub auth: AuthConfig,
    /// Tokens of an issuer.
    #[serde(default)]
    pub jwt: JwtConfig,
    /// The record of who did what.
    #[serde(default)]
    pub audit: AuditConfig,
    /// Logging.
    #[serde(default)]
    pub log: LogConfig,
    /// Environment variables with our prefix that match no setting. Not a setting itself.
    #[serde(skip)]
    pub foreign_variables: Vec<String>,
}

/// The top-level settings, and those of the tables that `section!` does not define.
pub const ALONE: &[&str] = &[
    "cluster_id",
    "cluster_keys",
    "node",
    "data_dir",
    "client_addr",
    "client_addr_advertised",
    "peer_addr",
    "peer_addr_advertised",
    "join",
    "zone",
    "weight",
    "durability",
    "worker_threads",
    "fault_hook",
];

/// Looks up a dotted key.
pub fn known(key: &str) -> Known {
    let tables = [
        ("layout", OF_LAYOUT),
        ("defaults", OF_DEFAULTS),
        ("limits", Limits::SETTINGS),
        ("timeouts", Timeouts::SETTINGS),
        ("anti_entropy", AntiEntropy::SETTINGS),
        ("deletes", Deletes::SETTINGS),
        ("gossip", GossipConfig::SETTINGS),
        ("peers", PeersConfig::SETTINGS),
        ("client_tls", TlsConfig::SETTINGS),
        ("peer_tls", TlsConfig::SETTINGS),
        ("storage", StorageConfig::SETTINGS),
        ("explain", ExplainConfig::SETTINGS),
        ("otlp", OtlpConfig::SETTINGS),
        ("auth", AuthConfig::SETTINGS),
        ("jwt", JwtConfig::SETTINGS),
        ("audit", AuditConfig::SETTINGS),
        ("log", LogConfig::SETTINGS),
    ];
    let Some((table, name)) = key.split_once('.') else {
        return if ALONE.contains(&key) { Known::Setting } else { Known::Foreign };
    };
    match tables.into_iter().find(|(known, _)| *known == table) {
        None => Known::Foreign,
        Some(("layout", _)) if name == "nodes" => Known::OnlyInFile,
        Some(("auth", _)) if name == "anonymous" => Known::OnlyInFile,
        Some(("jwt", _)) if name == "grants" => Known::OnlyInFile,
        Some((_, settings)) if settings.contains(&name) => Known::Setting,
        Some((table, _)) => Known::NoneOfTable(table),
    }
}

impl Config {
    /// The versions of the peer protocol that the node speaks.
    pub fn versions(&self) -> Versions {
        Versions::between(self.peers.protocol_min, self.peers.protocol_max)
    }

    /// The settings that must be equal on all nodes.
    pub fn common(&self) -> ClusterSettings {
        ClusterSettings {
            grace_ms: self.deletes.grace_ms,
            defaults: self.defaults.properties(),
            value_bytes_max: self.limits.value_bytes_max as u64,
            object_bytes_max: self.limits.object_bytes_max as u64,
            siblings_max: self.limits.siblings_max as u64,
        }
    }

    /// The address at which clients reach this node, host and port: as configured, or where it
    /// listens. A node that listens on all interfaces is reached at the host at which peers reach it.
    /// `None` if the system chooses the port.
    pub fn advertised_client_addr(&self) -> Option<String> {
        if let Some(addr) = &self.client_addr_advertised {
            return Some(addr.clone());
        }
        let (ip, port) = (self.client_addr.ip(), self.client_addr.port());
        if port == 0 {
            return None;
        }
        if !ip.is_unspecified() {
            return Some(self.client_addr.to_string());
        }
        let own = self.layout_nodes().iter().find(|node| node.name == self.node);
        let own = own.map(|own| &own.peer_addr).or(self.peer_addr_advertised.as_ref())?;
        let (host, _) = own.rsplit_once(':')?;
        Some(format!("{host}:{port}"))
    }

    /// Environment variables with our prefix that match no setting.
    pub fn foreign_variables(&self) -> &[String] {
        &self.foreign_variables
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
        let key = |text: &String| match unhex(text) {
            Some(key) if key == [0; 32] => {
                Err(wrong("the all-zero key of the example, which is public"))
            }
            Some(key) => Ok(key),
            None => Err(wrong("a malformed key")),
        };
        self.cluster_keys.iter().map(key).collect()
    }
}

fn value(key: &'static str, allowed: &str, found: impl Display) -> ConfigError {
    ConfigError::Value { key, allowed: allowed.to_owned(), value: found.to_string() }
}

fn default_client_addr() -> SocketAddr {
    SocketAddr::from(([127, 0, 0, 1], 7401))
}

fn default_peer_addr() -> SocketAddr {
    SocketAddr::from(([127, 0, 0, 1], 7501))
}
