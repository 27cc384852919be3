//! What commands learn from a node's configuration: read and checked by the node's own code.

use std::path::Path;
use std::sync::Arc;

use quorate_cli::{NodeFile, Operator};
use quorate_engine::host::Clock as _;
use quorate_protocol::token::{OPERATOR_MS_MAX, OperatorKeys};

use crate::config::{self, Config, Durability, TlsMode};
use crate::host::MachineClock;

/// How much the clock of a node may be behind this machine's for it to accept what is signed here, in
/// milliseconds.
const CLOCK_BEHIND_MS: u64 = 60_000;

/// An operator: who can read a node's configuration has the cluster's key, and can sign.
///
/// # Errors
/// What is wrong with the configuration; the text names the file, the variable or the key.
pub fn sign(path: &Path) -> Result<Operator, String> {
    let config = config::load(path).map_err(|error| error.to_string())?;
    let client_addr = client_addr(&config);
    let client_addr = client_addr.replace("0.0.0.0:", "127.0.0.1:").replace("[::]:", "[::1]:");
    let keys = operator_keys(&config)?;
    signed_now(&keys)?;
    Ok(Operator { client_addr, sign: Arc::new(move || signed_now(&keys).ok()) })
}

/// A token that is good for everything in the cluster, for some minutes.
///
/// # Errors
/// What is wrong with the cluster's keys.
pub(super) fn operator_token(config: &Config) -> Result<String, String> {
    signed_now(&operator_keys(config)?)
}

fn operator_keys(config: &Config) -> Result<OperatorKeys, String> {
    let secrets = config.secrets().map_err(|error| error.to_string())?;
    Ok(OperatorKeys::new(&config.cluster_id, &secrets))
}

fn signed_now(keys: &OperatorKeys) -> Result<String, String> {
    let expires = MachineClock.now().plus(OPERATOR_MS_MAX - CLOCK_BEHIND_MS);
    keys.token(expires).ok_or_else(|| "cluster_keys: none".to_owned())
}

/// Where clients on this machine ask the node, as an address or a URL.
fn client_addr(config: &Config) -> String {
    match config.client_tls.mode {
        TlsMode::Require => format!("https://{}", config.client_addr),
        TlsMode::Off | TlsMode::Accept => config.client_addr.to_string(),
    }
}

/// Reads and checks a configuration.
///
/// # Errors
/// What is wrong with it; the text names the file, the variable or the key.
pub fn load(path: &Path) -> Result<NodeFile, String> {
    let config = config::load(path).map_err(|error| error.to_string())?;
    let layout_hash = match config.layout {
        Some(_) => config.layout().map_err(|error| error.to_string())?.hash().to_string(),
        None => String::new(),
    };
    let others = config.layout_nodes().iter().filter(|node| node.name != config.node);
    let others = others.map(|node| (node.name.to_string(), node.peer_addr.clone()));
    let asked = config.join.iter().map(|addr| ("a member".to_owned(), addr.clone()));
    Ok(NodeFile {
        node: config.node.to_string(),
        cluster_id: config.cluster_id.clone(),
        client_addr: client_addr(&config),
        data_dir: config.data_dir.clone(),
        waits_for_disk: config.durability == Durability::Fsync,
        disk_free_bytes_min: config.storage.disk_free_bytes_min,
        layout_hash,
        peers: others.chain(asked).collect(),
        oddities: config::oddities(&config),
        foreign_variables: config.foreign_variables().to_vec(),
    })
}
