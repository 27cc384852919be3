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
use tokio::time::{Instant, sleep};

use crate::config::Config;
use crate::host::{Chance, Clock, Dialing, Files, Host, Threads, Urgency, Wire, Work};
use crate::node::Node;

/// No connection ever succeeds.
struct NoWire;

impl Wire for NoWire {
    fn dial<'a>(&'a self, peer: NodeId, _addr: &'a str) -> Dialing<'a> {
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

/// The configuration of the node `me` of a cluster of `nodes`, which are reached at `NAME.test:1`.
pub(crate) fn config(dir: &Path, me: &str, nodes: &[&str]) -> Config {
    let member = |name: &&str| {
        let peer_addr = format!("{name}.test:1");
        serde_json::json!({ "name": name, "peer_addr": peer_addr, "zone": name })
    };
    let members: Vec<_> = nodes.iter().map(member).collect();
    let config = serde_json::json!({
        "cluster_id": "test",
        "cluster_keys": ["07".repeat(32)],
        "node": me,
        "data_dir": dir.join("data"),
        "durability": "buffered",
        "layout": { "partitions": 8, "nodes": members },
        "timeouts": { "replica_ms": 200, "probe_ms": 50 },
    });
    serde_json::from_value(config).unwrap()
}

/// The node `me` of a cluster of `nodes`, without a network. Needs a tokio runtime.
pub(crate) fn node(dir: &Path, me: &str, nodes: &[&str]) -> Arc<Node> {
    node_on(dir, me, nodes, Arc::new(NoWire))
}

/// The same on a network.
pub(crate) fn node_on(dir: &Path, me: &str, nodes: &[&str], wire: Arc<dyn Wire>) -> Arc<Node> {
    let still = Arc::new(Still);
    let host = Host {
        wire,
        threads: still.clone(),
        clock: still,
        chance: Arc::new(Counting::default()),
        dir: DataDir::Path(dir.join("data")),
        files: Arc::new(MemoryFiles::default()),
        traces: None,
        certificates: None,
        gate: None,
    };
    Node::start(config(dir, me, nodes), host).unwrap()
}

/// Waits until something holds, for a while.
pub(crate) async fn until(what: &str, holds: impl Fn() -> bool) {
    let deadline = Instant::now() + Duration::from_secs(20);
    while !holds() {
        assert!(Instant::now() < deadline, "{what}");
        sleep(Duration::from_millis(5)).await;
    }
}
