//! Real clusters for tests: `quorate dev`, or its nodes as processes of their own.

#![allow(dead_code, clippy::unwrap_used)]

pub(crate) mod wire;

use std::io::{BufRead, BufReader};
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicU16, Ordering::Relaxed};
use std::time::{Duration, Instant};

use quorate_client::Client;

/// How long a cluster may take to start on a busy machine.
const START_WITHIN: Duration = Duration::from_secs(60);

/// A cluster of three nodes, stopped when dropped.
pub(crate) struct Cluster {
    first: u16,
    children: Vec<Option<Child>>,
    dir: tempfile::TempDir,
}

impl Cluster {
    /// Three nodes in one process.
    pub(crate) fn start() -> Self {
        let (first, dir) = (free_port(), tempfile::tempdir().unwrap());
        let child = dev(first, dir.path());
        Self { first, children: vec![Some(child)], dir }
    }

    /// Three nodes, each a process that can be stopped and started.
    pub(crate) async fn apart() -> Self {
        let (first, dir) = (free_port(), tempfile::tempdir().unwrap());
        drop(Stopped(dev(first, dir.path())));
        let mut cluster = Self { first, children: vec![None, None, None], dir };
        for number in 1..=3 {
            cluster.serve(number);
        }
        cluster.ready(&[1, 2, 3]).await;
        cluster
    }

    /// The URL of a node, from 1.
    pub(crate) fn url(&self, number: u16) -> String {
        format!("http://127.0.0.1:{}", self.first + number - 1)
    }

    /// A client that was told of the first node only.
    pub(crate) fn client(&self) -> Client {
        Client::connect([self.url(1)]).unwrap()
    }

    /// Starts a node that does not run.
    pub(crate) fn serve(&mut self, number: usize) {
        let config = self.dir.path().join(format!("n{number}")).join("node.toml");
        let mut command = quorate();
        command.arg("serve").arg("--config").arg(config);
        self.children[number - 1] = Some(command.spawn().unwrap());
    }

    /// Kills a node with SIGKILL.
    pub(crate) fn kill(&mut self, number: usize) {
        drop(self.children[number - 1].take().map(Stopped));
    }

    /// Sends a signal to a node.
    pub(crate) fn signal(&self, number: usize, signal: &str) {
        let pid = self.children[number - 1].as_ref().unwrap().id().to_string();
        assert!(Command::new("kill").args([signal, &pid]).status().unwrap().success());
    }

    /// Waits until these nodes take requests.
    pub(crate) async fn ready(&self, numbers: &[u16]) {
        let client = self.client();
        let begun = Instant::now();
        for number in numbers {
            let admin = client.admin_of(&self.url(*number)).unwrap();
            while !admin.readyz().await.is_ok_and(|health| health.ok) {
                assert!(begun.elapsed() < START_WITHIN, "node {number} does not become ready");
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        }
    }
}

impl Drop for Cluster {
    fn drop(&mut self) {
        for child in self.children.drain(..).flatten() {
            drop(Stopped(child));
        }
    }
}

/// A process that ends when this is dropped.
struct Stopped(Child);

impl Drop for Stopped {
    fn drop(&mut self) {
        drop(self.0.kill());
        drop(self.0.wait());
    }
}

/// Starts `quorate dev`, and waits for what it says once it is ready.
fn dev(first: u16, dir: &Path) -> Child {
    let mut command = quorate();
    command.args(["dev", "--port", &first.to_string(), "--data"]).arg(dir).stdout(Stdio::piped());
    let mut child = command.spawn().unwrap();
    let said = BufReader::new(child.stdout.take().unwrap());
    let is_ready = said.lines().map_while(Result::ok).any(|line| line.contains("/cluster"));
    assert!(is_ready, "quorate dev ended: {:?}", child.wait());
    child
}

fn quorate() -> Command {
    let mut command = Command::new(binary());
    command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
    command
}

/// The node's binary: `QUORATE_BIN`, else that of the workspace.
fn binary() -> PathBuf {
    if let Some(path) = std::env::var_os("QUORATE_BIN") {
        return path.into();
    }
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../..");
    let target =
        std::env::var_os("CARGO_TARGET_DIR").map_or_else(|| root.join("target"), PathBuf::from);
    let path = target.join("release/quorate");
    assert!(
        path.exists(),
        "these tests need a node, and {} is missing: run `cargo build --release --locked`, or set \
         QUORATE_BIN",
        path.display()
    );
    path
}

/// A port that is free, with the two after it and those of the peers, 100 above.
fn free_port() -> u16 {
    static TAKEN: AtomicU16 = AtomicU16::new(0);
    let free = |port: u16| TcpListener::bind(("127.0.0.1", port)).is_ok();
    loop {
        let turn = TAKEN.fetch_add(1, Relaxed);
        let first = 22_000 + turn / 10 * 200 + turn % 10 * 10;
        assert!(first < 32_000, "no free ports");
        if (0..3).all(|more| free(first + more) && free(first + 100 + more)) {
            return first;
        }
    }
}
