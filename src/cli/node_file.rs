//! What `quorate doctor` learns from a node's configuration: read and checked by the node's own code.

use std::path::Path;

use quorate_cli::NodeFile;

use crate::config::{self, Durability, TlsMode};

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
        client_addr: match config.client_tls.mode {
            TlsMode::Require => format!("https://{}", config.client_addr),
            TlsMode::Off | TlsMode::Accept => config.client_addr.to_string(),
        },
        data_dir: config.data_dir.clone(),
        waits_for_disk: config.durability == Durability::Fsync,
        disk_free_bytes_min: config.storage.disk_free_bytes_min,
        layout_hash,
        peers: others.chain(asked).collect(),
        oddities: config::oddities(&config),
        foreign_variables: config.foreign_variables().to_vec(),
    })
}
