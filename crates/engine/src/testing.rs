//! A node for unit tests, on a directory and without peers that answer.

use std::collections::BTreeMap;
use std::io;
use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use quorate_protocol::name::NodeId;
use quorate_protocol::time::WallTime;
use quorate_storage::DataDir;

use crate::host::{Chance, Clock, Dialing, Files, Host, Threads, Urgency, Wire, Work};
use crate::node::Node;

/// No connection ever succeeds.
struct NoWire;

impl Wire for NoWire {
    fn dial(&self, peer: NodeId) -> Dialing<'_> {
        Box::pin(async move { Err(format!("{peer} is not there")) })
    }
}

/// Work runs at once, and time stands still.
struct Still;

impl Threads for Still {
    fn run(&self, _urgency: Urgency, work: Work) {
        work();
    }

    fn cores(&self) -> usize {
        1
    }

    fn processor_time(&self) -> Duration {
        Duration::ZERO
    }
}

impl Clock for Still {
    fn now(&self) -> WallTime {
        WallTime(1_000_000)
    }
}

/// Chance that repeats nothing.
#[derive(Default)]
pub(crate) struct Counting(AtomicU64);

impl Chance for Counting {
    fn draw(&self) -> u64 {
        self.0.fetch_add(1, Ordering::Relaxed)
    }
}

/// Files in memory.
#[derive(Default)]
pub(crate) struct MemoryFiles(Mutex<BTreeMap<String, Vec<u8>>>);

impl Files for MemoryFiles {
    fn read(&self, name: &str) -> io::Result<Vec<u8>> {
        self.0.lock().unwrap().get(name).cloned().ok_or(io::ErrorKind::NotFound.into())
    }

    fn replace(&self, name: &str, contents: &[u8]) -> io::Result<()> {
        self.0.lock().unwrap().insert(name.to_owned(), contents.to_owned());
        Ok(())
    }

    fn append(&self, name: &str, more: &[u8]) -> io::Result<()> {
        self.0.lock().unwrap().entry(name.to_owned()).or_default().extend_from_slice(more);
        Ok(())
    }

    fn path(&self, name: &str) -> String {
        name.to_owned()
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
    let still = Arc::new(Still);
    let host = Host {
        wire: Arc::new(NoWire),
        threads: still.clone(),
        clock: still,
        chance: Arc::new(Counting::default()),
        dir: DataDir::Path(dir.join("data")),
        files: Arc::new(MemoryFiles::default()),
        traces: None,
        gate: None,
    };
    Node::start(config, host).unwrap()
}
