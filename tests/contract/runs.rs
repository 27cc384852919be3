//! A node that runs: signals, and a log that cannot be written.

use std::fs::{self, File};
use std::io::pipe;
use std::process::Stdio;

use crate::common::http::Request;
use crate::common::{Cluster, Node, until};

/// A number from `/metrics`.
fn metric(node: &Node, name: &str) -> u64 {
    let text = node.get("/metrics").text();
    let line = text.lines().find(|line| line.split(' ').next() == Some(name));
    let line = line.unwrap_or_else(|| panic!("no {name} in {text}"));
    line.rsplit(' ').next().unwrap().parse().unwrap()
}

/// A node that has much to say, and says it there.
fn talkative(log: impl Into<Stdio>) -> Cluster {
    let mut cluster = Cluster::start_with(1, "test", "[log]\nlevel = \"debug\"\n");
    cluster.nodes[0].stop();
    let mut command = cluster.nodes[0].command("serve");
    command.stderr(log);
    cluster.nodes[0].launch_as(command);
    cluster.wait_until_ready();
    cluster
}

/// It serves whatever becomes of its log, counts the lines, and can be stopped.
fn assert_serves_without_log(mut cluster: Cluster) {
    let node = &mut cluster.nodes[0];
    let lost = |node: &Node| metric(node, "quorate_log_lines_lost_total");
    until("log lines to be lost", || {
        for _ in 0..200 {
            assert_eq!(node.send(&Request::put("/kv/b/k?w=1", "v")).status, 204);
            node.send(&Request::delete("/kv/b/k"));
        }
        node.assert_alive();
        lost(node) > 0
    });
    assert!(node.stop().success());
}

#[test]
fn a_full_log_disk_ends_no_node() {
    assert_serves_without_log(talkative(File::options().write(true).open("/dev/full").unwrap()));
}

#[test]
fn a_log_reader_that_goes_away_ends_no_node() {
    let (reader, writer) = pipe().unwrap();
    let cluster = talkative(writer);
    drop(reader);
    assert_serves_without_log(cluster);
}

#[test]
fn a_log_reader_that_stands_still_holds_no_node_up() {
    let (reader, writer) = pipe().unwrap();
    assert_serves_without_log(talkative(writer));
    drop(reader);
}

#[test]
fn a_hangup_reads_the_log_level_again_and_user_signals_mean_nothing() {
    let mut cluster = Cluster::start_with(1, "test", "[log]\nlevel = \"info\"\n");
    let node = &mut cluster.nodes[0];
    node.signal("USR1");
    node.signal("USR2");
    until("the signals to be logged", || {
        node.assert_alive();
        node.log_text().matches("user signal").count() == 2
    });
    let asked = |node: &Node| node.send(&Request::get("/kv/b/k").header("X-Request-Id", "asked"));
    asked(node);
    assert!(!node.log_text().contains("asked"));
    let config = fs::read_to_string(node.config()).unwrap();
    fs::write(node.config(), config.replace("\"info\"", "\"debug\"")).unwrap();
    node.signal("HUP");
    until("the level to change", || {
        asked(node);
        node.log_text().contains("asked")
    });
    // A file that cannot be used changes nothing.
    fs::write(node.config(), config.replace("\"info\"", "\"inof\"")).unwrap();
    node.signal("HUP");
    until("the file to be refused", || node.log_text().contains("stays as it was"));
    node.assert_alive();
    assert!(node.stop().success());
}

#[test]
fn a_key_writes_no_log_lines() {
    let cluster = Cluster::start_with(1, "test", "[log]\nlevel = \"trace\"\n");
    let node = &cluster.nodes[0];
    for key in ["a%0AERROR%20forged", "a%0D%1B%5B31mforged"] {
        node.send(&Request::put(&format!("/kv/b/{key}"), "v"));
        node.get(&format!("/kv/b/{key}"));
    }
    let log = node.log_text();
    assert!(!log.lines().any(|line| line.starts_with("ERROR")), "{log}");
    assert!(!log.contains(['\r', '\x1b']), "{log}");
}
