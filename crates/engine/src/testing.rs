//! A node for unit tests, on a directory and without peers that answer.

use std::path::Path;
use std::sync::Arc;

use quorate_protocol::name::NodeId;

use crate::host::{Dialing, Host, Wire};
use crate::node::Node;

/// No connection ever succeeds.
struct NoWire;

impl Wire for NoWire {
    fn dial(&self, peer: NodeId) -> Dialing<'_> {
        Box::pin(async move { Err(format!("{peer} is not there")) })
    }
}

/// The node `me` of a cluster of `nodes`. Needs a tokio runtime.
pub(crate) fn node(dir: &Path, me: &str, nodes: &[&str]) -> Arc<Node> {
    let members: Vec<_> = nodes
        .iter()
        .enumerate()
        .map(|(at, name)| {
            let peer_addr = format!("127.0.0.1:{}", at + 2);
            serde_json::json!({ "name": name, "peer_addr": peer_addr, "zone": name })
        })
        .collect();
    let config = serde_json::json!({
        "cluster_id": "test",
        "cluster_keys": ["07".repeat(32)],
        "node": me,
        "data_dir": dir.join("data"),
        "durability": "buffered",
        "layout": { "partitions": 8, "nodes": members },
    });
    let config = serde_json::from_value(config).unwrap();
    Node::start(config, Host { wire: Arc::new(NoWire) }).unwrap()
}
