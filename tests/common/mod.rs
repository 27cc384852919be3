//! Clusters of real `quorate` processes for blocking tests: started on ports that were free, with
//! directories of their own, formed, and ended with the test, whatever happens.
//!
//! Everything is blocking and bounded; waiting means polling, with a time limit.

#![allow(dead_code, unreachable_pub, reason = "each test binary uses a part of it")]
#![allow(clippy::unwrap_used)]

pub mod http;
pub mod process;

use std::ops::Deref;
use std::process::{Command, ExitStatus};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use quorate_protocol::time::WallTime;
use quorate_protocol::token::OperatorKeys;
use tempfile::TempDir;

use self::http::{Answer, Request};
use self::process::{Process, Shape};

/// The longest that a test waits for an expected event.
pub const TIMEOUT: Duration = Duration::from_secs(30);
/// The cluster id of every test cluster that does not choose another.
pub const CLUSTER_ID: &str = "test";
/// The secret key of every test cluster.
pub const CLUSTER_KEY: [u8; 32] = [7; 32];

/// A running cluster. Its processes end and its files go when it is dropped.
pub struct Cluster {
    pub nodes: Vec<Node>,
    directory: TempDir,
}

/// One node of it, running or not.
pub struct Node(Process);

impl Cluster {
    /// Starts and forms a cluster of `count` nodes, each in a zone of its own.
    pub fn start(count: usize) -> Self {
        Self::start_with(count, CLUSTER_ID, "")
    }

    /// Likewise with an id, and with more settings: TOML keys, then tables.
    pub fn start_with(count: usize, cluster_id: &str, settings: &str) -> Self {
        let mut cluster = Self::unformed(count, cluster_id, settings);
        cluster.form();
        cluster.wait_until_ready();
        cluster
    }

    /// Starts the nodes without forming a cluster.
    pub fn unformed(count: usize, cluster_id: &str, settings: &str) -> Self {
        let directory = TempDir::new().unwrap();
        let node = |number| Node(Process::new(directory.path(), number));
        let nodes: Vec<Node> = (1..=count).map(node).collect();
        let key = CLUSTER_KEY;
        let shape = Shape { cluster_id, key, partitions: None, durability: "buffered", settings };
        for node in &nodes {
            node.configure(&shape, nodes.iter().map(|node| &node.0));
            node.launch();
        }
        Self { nodes, directory }
    }

    /// Runs `quorate form`.
    pub fn form(&mut self) {
        let form = Command::new(env!("CARGO_BIN_EXE_quorate"))
            .args(["form", "--config"])
            .arg(self.nodes[0].config())
            .output()
            .unwrap();
        let told = String::from_utf8_lossy(&form.stderr).into_owned();
        assert!(form.status.success(), "quorate form: {told}");
    }

    /// Waits until every running node takes requests.
    pub fn wait_until_ready(&mut self) {
        for node in self.nodes.iter_mut().filter(|node| node.is_running()) {
            node.wait_until_ready();
        }
    }

    /// The node of this name.
    pub fn node(&mut self, name: &str) -> &mut Node {
        self.nodes.iter_mut().find(|node| node.name == name).unwrap()
    }

    /// The names of all nodes in the order of preference for a key.
    pub fn preference_list(&self, bucket: &str, key: &str) -> Vec<String> {
        let node = self.nodes.iter().find(|node| node.is_running()).unwrap();
        let ring = node.get(&format!("/ring/{bucket}/{key}")).json();
        serde_json::from_value(ring["preference_list"].clone()).unwrap()
    }
}

impl Deref for Node {
    type Target = Process;

    fn deref(&self) -> &Process {
        &self.0
    }
}

impl Node {
    /// Starts the process. It may not listen yet when this returns.
    pub fn start(&mut self) {
        self.launch();
    }

    /// Waits until the node takes requests and has received all its partitions.
    ///
    /// # Panics
    /// With the end of its log, if it ends or takes too long.
    pub fn wait_until_ready(&mut self) {
        let name = self.name.clone();
        until(&format!("{name} to be ready"), || {
            self.assert_alive();
            // A node that starts over may go between the two answers.
            let answer = |path| Request::get(path).try_send(self.client_addr);
            answer("/readyz").is_some_and(|ready| ready.status == 200)
                && answer("/cluster").is_some_and(|cluster| {
                    // One that checks tokens does not tell everyone.
                    cluster.status == 401 || cluster.json()["filled"] == true
                })
        });
    }

    /// Waits until the node answers on its client port, ready or not.
    pub fn wait_until_alive(&mut self) {
        until("the node to answer", || {
            self.assert_alive();
            Request::get("/livez").try_send(self.client_addr).is_some_and(|a| a.status == 200)
        });
    }

    /// Fails if the process has ended.
    pub fn assert_alive(&mut self) {
        if let Some(status) = self.ended() {
            panic!("{} ended with {status}; its log:\n{}", self.name, self.log_text());
        }
    }

    /// `kill -9`, and waits for the end.
    pub fn kill(&mut self) {
        self.0.kill();
    }

    /// `SIGTERM`, and waits for the end.
    pub fn stop(&mut self) -> ExitStatus {
        self.signal("TERM");
        until("the node to stop", || self.ended().is_some());
        let status = self.ended().unwrap();
        self.forget();
        status
    }

    /// A GET on the client port.
    pub fn get(&self, path: &str) -> Answer {
        Request::get(path).send(self.client_addr)
    }

    /// A request on the client port.
    pub fn send(&self, request: &Request) -> Answer {
        request.send(self.client_addr)
    }
}

/// What an operator of a test cluster sends as `Authorization`, with the time from now at which it ends.
pub fn operator_for(cluster_id: &str, ms: i64) -> String {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap();
    let expires = WallTime((now.as_millis() as i64 + ms) as u64);
    format!("Bearer {}", OperatorKeys::new(cluster_id, &[CLUSTER_KEY]).token(expires).unwrap())
}

/// The same, in order.
pub fn operator() -> String {
    operator_for(CLUSTER_ID, 60_000)
}

/// Polls until `event` has happened.
///
/// # Panics
/// If it takes longer than [`TIMEOUT`].
pub fn until(what: &str, mut event: impl FnMut() -> bool) {
    let started = Instant::now();
    while !event() {
        assert!(started.elapsed() < TIMEOUT, "waited {TIMEOUT:?} for {what}");
        std::thread::sleep(Duration::from_millis(10));
    }
}
