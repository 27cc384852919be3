//! Real clusters for tests: `quorate dev`, or its nodes as processes of their own.

#![allow(dead_code, clippy::unwrap_used)] // two test programs share this, and each uses a part

pub(crate) mod wire;

use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use quorate_client::Client;
use quorate_client::testing::{DevCluster, binary};

/// How long a cluster may take to start on a busy machine.
const START_WITHIN: Duration = Duration::from_secs(60);

/// A cluster in one process.
pub(crate) struct Cluster(DevCluster);

impl Cluster {
    pub(crate) fn start() -> Self {
        Self(DevCluster::start().unwrap())
    }

    /// The URL of a node, from 1.
    pub(crate) fn url(&self, number: usize) -> String {
        self.0.urls()[number - 1].clone()
    }

    /// Where its nodes keep configurations and data.
    pub(crate) fn dir(&self) -> &Path {
        self.0.dir()
    }

    /// A client that was told of the first node only.
    pub(crate) fn client(&self) -> Client {
        self.0.client().unwrap()
    }
}

/// Lets a client find all three nodes: right after the start one may not have heard of another yet.
pub(crate) async fn discovered(client: &Client) {
    let begun = Instant::now();
    loop {
        client.discover().await.unwrap();
        if client.known_nodes().iter().filter(|node| node.name.is_some()).count() == 3 {
            return;
        }
        assert!(begun.elapsed() < START_WITHIN, "{:?}", client.known_nodes());
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

/// A cluster whose nodes are processes that can be stopped and started.
pub(crate) struct Apart {
    formed: DevCluster,
    children: [Option<Child>; 3],
}

impl Apart {
    pub(crate) async fn start() -> Self {
        let mut formed = DevCluster::start().unwrap();
        formed.stop();
        let mut cluster = Self { formed, children: [None, None, None] };
        for number in 1..=3 {
            cluster.serve(number);
        }
        cluster.ready(&[1, 2, 3]).await;
        cluster
    }

    /// The URLs of its nodes.
    pub(crate) fn urls(&self) -> [String; 3] {
        self.formed.urls()
    }

    /// Starts a node, from 1, that does not run.
    pub(crate) fn serve(&mut self, number: usize) {
        let config = self.formed.dir().join(format!("n{number}")).join("node.toml");
        let mut command = Command::new(binary());
        command.arg("serve").arg("--config").arg(config);
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
        self.children[number - 1] = Some(command.spawn().unwrap());
    }

    /// Kills a node with SIGKILL.
    pub(crate) fn kill(&mut self, number: usize) {
        if let Some(mut child) = self.children[number - 1].take() {
            child.kill().unwrap();
            child.wait().unwrap();
        }
    }

    /// Sends a signal to a node.
    pub(crate) fn signal(&self, number: usize, signal: &str) {
        let pid = self.children[number - 1].as_ref().unwrap().id().to_string();
        assert!(Command::new("kill").args([signal, &pid]).status().unwrap().success());
    }

    /// Waits until these nodes take requests.
    pub(crate) async fn ready(&self, numbers: &[usize]) {
        let client = Client::connect(self.urls()).unwrap();
        let begun = Instant::now();
        for number in numbers {
            let admin = client.admin_of(&self.urls()[number - 1]).unwrap();
            while !admin.readyz().await.is_ok_and(|health| health.ok) {
                assert!(begun.elapsed() < START_WITHIN, "node {number} does not become ready");
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        }
    }
}

impl Drop for Apart {
    fn drop(&mut self) {
        for number in 1..=3 {
            self.kill(number);
        }
    }
}
