//! Real `quorate` processes for tests: started on ports that were free, with a directory of
//! their own, formed, killed, paused, wiped, and killed at the end whatever happens.
//!
//! Everything is blocking and bounded; waiting is polling for the event, with a limit.

#![allow(dead_code, unreachable_pub, reason = "each test binary uses a part of it")]
#![allow(clippy::unwrap_used)]

pub mod http;

use std::fs::{self, File};
use std::net::{SocketAddr, TcpListener};
use std::path::PathBuf;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::atomic::{AtomicU16, Ordering};
use std::time::{Duration, Instant};

use tempfile::TempDir;

use self::http::{Answer, Request};

/// The longest that a test waits for something that must come.
pub const PATIENCE: Duration = Duration::from_secs(30);
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
pub struct Node {
    pub name: String,
    pub client_addr: SocketAddr,
    pub peer_addr: SocketAddr,
    pub directory: PathBuf,
    child: Option<Child>,
}

impl Cluster {
    /// Starts and forms a cluster of `count` nodes, each in a zone of its own.
    pub fn start(count: usize) -> Self {
        Self::start_with(count, CLUSTER_ID, "")
    }

    /// Likewise with an id, and with more settings: TOML that stands before the tables, or tables.
    pub fn start_with(count: usize, cluster_id: &str, more: &str) -> Self {
        let mut cluster = Self::unformed(count, cluster_id, more);
        cluster.form();
        cluster.wait_until_ready();
        cluster
    }

    /// Starts the nodes, and forms no cluster of them.
    pub fn unformed(count: usize, cluster_id: &str, more: &str) -> Self {
        let directory = TempDir::new().unwrap();
        let ports = free_ports(2 * count);
        let nodes: Vec<Node> = (0..count)
            .map(|i| Node {
                name: format!("n{}", i + 1),
                client_addr: ports[2 * i],
                peer_addr: ports[2 * i + 1],
                directory: directory.path().join(format!("n{}", i + 1)),
                child: None,
            })
            .collect();
        for node in &nodes {
            fs::create_dir_all(&node.directory).unwrap();
            fs::write(node.config(), config(node, &nodes, cluster_id, more)).unwrap();
        }
        let mut cluster = Self { nodes, directory };
        for node in &mut cluster.nodes {
            node.start();
        }
        cluster
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
        for node in &mut self.nodes {
            if node.child.is_some() {
                node.wait_until_ready();
            }
        }
    }

    /// The node of this name.
    pub fn node(&mut self, name: &str) -> &mut Node {
        self.nodes.iter_mut().find(|node| node.name == name).unwrap()
    }

    /// The names of all nodes in the order of preference for a key.
    pub fn preference_list(&self, bucket: &str, key: &str) -> Vec<String> {
        let node = self.nodes.iter().find(|node| node.child.is_some()).unwrap();
        let ring = node.get(&format!("/ring/{bucket}/{key}")).json();
        serde_json::from_value(ring["preference_list"].clone()).unwrap()
    }
}

impl Node {
    /// Starts the process. It may not listen yet when this returns.
    pub fn start(&mut self) {
        assert!(self.child.is_none(), "{} runs already", self.name);
        let log = File::options().create(true).append(true).open(self.log()).unwrap();
        let child = Command::new(env!("CARGO_BIN_EXE_quorate"))
            .args(["serve", "--config"])
            .arg(self.config())
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(log)
            .spawn()
            .unwrap();
        self.child = Some(child);
    }

    /// Waits until the node takes requests and has received all its partitions.
    ///
    /// # Panics
    /// With the end of its log, if it ends or takes too long.
    pub fn wait_until_ready(&mut self) {
        let name = self.name.clone();
        until(&format!("{name} to be ready"), || {
            self.assert_alive();
            let ready = Request::get("/readyz").try_send(self.client_addr);
            ready.is_some_and(|a| a.status == 200) && self.get("/cluster").json()["filled"] == true
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
        let child = self.child.as_mut().unwrap();
        if let Some(status) = child.try_wait().unwrap() {
            panic!("{} ended with {status}; its log:\n{}", self.name, self.log_text());
        }
    }

    /// `kill -9`, and waits for the end.
    pub fn kill(&mut self) {
        let mut child = self.child.take().unwrap();
        child.kill().unwrap();
        child.wait().unwrap();
    }

    /// `SIGTERM`, and waits for the end.
    pub fn stop(&mut self) -> ExitStatus {
        self.signal("TERM");
        let mut child = self.child.take().unwrap();
        let mut status = None;
        until("the node to stop", || {
            status = child.try_wait().unwrap();
            status.is_some()
        });
        status.unwrap()
    }

    /// `SIGSTOP`: the node is there but says nothing.
    pub fn pause(&self) {
        self.signal("STOP");
    }

    /// `SIGCONT`.
    pub fn resume(&self) {
        self.signal("CONT");
    }

    /// Removes the data of a node that does not run.
    pub fn wipe(&self) {
        assert!(self.child.is_none(), "{} runs", self.name);
        fs::remove_dir_all(self.directory.join("data")).unwrap();
    }

    /// Its process id.
    pub fn pid(&self) -> u32 {
        self.child.as_ref().unwrap().id()
    }

    /// A GET on the client port.
    pub fn get(&self, path: &str) -> Answer {
        Request::get(path).send(self.client_addr)
    }

    /// A request on the client port.
    pub fn send(&self, request: &Request) -> Answer {
        request.send(self.client_addr)
    }

    /// Its configuration file.
    pub fn config(&self) -> PathBuf {
        self.directory.join("node.toml")
    }

    /// All it has logged.
    pub fn log_text(&self) -> String {
        fs::read_to_string(self.log()).unwrap_or_default()
    }

    fn log(&self) -> PathBuf {
        self.directory.join("log")
    }

    fn signal(&self, signal: &str) {
        let pid = self.pid().to_string();
        let sent = Command::new("kill").args([&format!("-{signal}"), &pid]).status().unwrap();
        assert!(sent.success(), "kill -{signal} {pid}");
    }
}

impl Drop for Node {
    fn drop(&mut self) {
        if std::thread::panicking() {
            let log = self.log_text();
            let tail: Vec<&str> = log.lines().rev().take(15).collect();
            for line in tail.into_iter().rev() {
                eprintln!("{}: {line}", self.name);
            }
        }
        if let Some(mut child) = self.child.take() {
            drop(child.kill()); // also ends a paused process
            drop(child.wait());
        }
    }
}

/// Polls until `event` has happened.
///
/// # Panics
/// If it takes longer than [`PATIENCE`].
pub fn until(what: &str, mut event: impl FnMut() -> bool) {
    let started = Instant::now();
    while !event() {
        assert!(started.elapsed() < PATIENCE, "waited {PATIENCE:?} for {what}");
        std::thread::sleep(Duration::from_millis(10));
    }
}

/// Ports that were free a moment ago. They lie below the range from which the system takes ports for
/// outgoing connections: one of those could else take a port before its node listens on it.
fn free_ports(count: usize) -> Vec<SocketAddr> {
    static NEXT: AtomicU16 = AtomicU16::new(0);
    let first = 10_000 + (std::process::id() % 100) as u16 * 200;
    let is_free = |addr: &SocketAddr| TcpListener::bind(addr).is_ok();
    std::iter::repeat_with(|| first + NEXT.fetch_add(1, Ordering::Relaxed) % 2000)
        .map(|port| SocketAddr::from(([127, 0, 0, 1], port)))
        .filter(is_free)
        .take(count)
        .collect()
}

fn config(node: &Node, nodes: &[Node], cluster_id: &str, more: &str) -> String {
    let key: String = CLUSTER_KEY.iter().map(|byte| format!("{byte:02x}")).collect();
    let mut text = format!(
        "cluster_id = {cluster_id:?}\ncluster_keys = [{key:?}]\nnode = {:?}\ndata_dir = {:?}\n\
         client_addr = \"{}\"\npeer_addr = \"{}\"\nfault_hook = true\ndurability = \"buffered\"\n\
         {more}\n[layout]\nversion = 1\n",
        node.name,
        node.directory.join("data"),
        node.client_addr,
        node.peer_addr,
    );
    for member in nodes {
        text += &format!(
            "[[layout.nodes]]\nname = {:?}\npeer_addr = \"{}\"\nzone = {:?}\n",
            member.name, member.peer_addr, member.name
        );
    }
    text
}
