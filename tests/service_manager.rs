//! What a service manager is told (`Type=notify`): through a real socket, by real processes.

#![allow(clippy::unwrap_used, reason = "a test must fail on anything unexpected")]

mod common;

use std::os::unix::net::UnixDatagram;
use std::time::Instant;

use crate::common::http::Request;
use crate::common::{Cluster, TIMEOUT, until};

/// The socket of a service manager, with all that it was told.
struct Manager {
    socket: UnixDatagram,
    told: Vec<String>,
}

impl Manager {
    /// Starts the only node of a cluster under a service manager.
    fn start(cluster: &mut Cluster) -> Self {
        let node = &mut cluster.nodes[0];
        node.kill();
        let path = node.directory.join("notify");
        let socket = UnixDatagram::bind(&path).unwrap();
        socket.set_read_timeout(Some(TIMEOUT)).unwrap();
        let mut command = node.command("serve");
        command.env("NOTIFY_SOCKET", &path);
        node.launch_as(command);
        Self { socket, told: Vec::new() }
    }

    /// Waits for a report that holds these words. Returns it.
    fn hear(&mut self, words: &str) -> String {
        let started = Instant::now();
        let mut buffer = [0; 4096];
        while started.elapsed() < TIMEOUT {
            let Ok(length) = self.socket.recv(&mut buffer) else { break };
            self.told.push(String::from_utf8(buffer[..length].to_vec()).unwrap());
            let last = self.told.last().unwrap();
            if last.contains(words) {
                return last.clone();
            }
        }
        panic!("waited for {words:?}, heard {:?}", self.told);
    }

    /// How many of the reports so far hold these words.
    fn heard(&self, words: &str) -> usize {
        self.told.iter().filter(|told| told.contains(words)).count()
    }
}

#[test]
fn a_node_that_waits_for_form_has_started_and_says_so() {
    let mut cluster = Cluster::unformed(1, "test", "");
    let mut manager = Manager::start(&mut cluster);
    let first = manager.hear("READY=1");
    assert!(first.contains("quorate form"), "{first}");
    assert_eq!(cluster.nodes[0].get("/readyz").status, 503);
    assert!(manager.told[0].contains("opening the store"), "{:?}", manager.told);
    cluster.form();
    manager.hear("STATUS=ready");
    assert_eq!(cluster.nodes[0].get("/readyz").status, 200);
    assert!(cluster.nodes[0].stop().success());
    manager.hear("STOPPING=1");
    assert_eq!(manager.heard("READY=1"), 1, "{:?}", manager.told);
}

#[test]
fn a_node_that_starts_over_stays_the_same_service() {
    let mut cluster = Cluster::unformed(1, "test", "");
    cluster.form();
    let node = &cluster.nodes[0];
    let text = std::fs::read_to_string(node.config()).unwrap();
    std::fs::write(node.config(), text.replace("buffered", "fsync")).unwrap();
    let mut manager = Manager::start(&mut cluster);
    manager.hear("STATUS=ready");
    let node = &cluster.nodes[0];
    let pid = node.pid();
    let fail = Request::json("PUT", "/fault/disk", r#"{"syncs_fail": true}"#).send(node.peer_addr);
    assert_eq!(fail.status, 204, "{}", fail.text());
    until("a write to fail", || {
        let put = Request::put("/kv/b/k", "v").try_send(node.client_addr);
        put.is_none_or(|answer| answer.status != 204)
    });
    manager.hear("STATUS=starting over");
    manager.hear("STATUS=ready");
    assert_eq!(manager.heard("READY=1"), 2, "{:?}", manager.told);
    assert_eq!((node.pid(), manager.heard("STOPPING=1")), (pid, 0), "{:?}", manager.told);
    assert!(cluster.nodes[0].stop().success());
    manager.hear("STOPPING=1");
}

#[test]
fn a_service_manager_that_is_gone_does_no_harm() {
    let mut cluster = Cluster::unformed(1, "test", "");
    let node = &mut cluster.nodes[0];
    node.kill();
    let mut command = node.command("serve");
    command.env("NOTIFY_SOCKET", node.directory.join("nobody"));
    node.launch_as(command);
    cluster.form();
    cluster.wait_until_ready();
    assert!(cluster.nodes[0].stop().success());
}
