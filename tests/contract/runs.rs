//! A running node: signals, a log that cannot be written, few descriptors.

use std::fs::{self, File};
use std::io::pipe;
use std::process::Stdio;

use crate::common::http::{Raw, Request};
use crate::common::{Cluster, Node, until};

/// A number from `/metrics`.
fn metric(node: &Node, name: &str) -> u64 {
    let text = node.get("/metrics").text();
    let line = text.lines().find(|line| line.split(' ').next() == Some(name));
    let line = line.unwrap_or_else(|| panic!("no {name} in {text}"));
    line.rsplit(' ').next().unwrap().parse().unwrap()
}

/// A node that logs a lot, to this destination.
fn talkative(log: impl Into<Stdio>) -> Cluster {
    let mut cluster = Cluster::start_with(1, "test", "[log]\nlevel = \"debug\"\n");
    cluster.nodes[0].stop();
    let mut command = cluster.nodes[0].command("serve");
    command.stderr(log);
    cluster.nodes[0].launch_as(command);
    cluster.wait_until_ready();
    cluster
}

/// It serves whatever happens to its log, counts the lines, and can be stopped.
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
    // A file that cannot be opened changes nothing.
    fs::write(node.config(), config.replace("\"info\"", "\"inof\"")).unwrap();
    node.signal("HUP");
    until("the file to be refused", || node.log_text().contains("stays as it was"));
    node.assert_alive();
    assert!(node.stop().success());
}

/// Restarts a node of a new cluster under limits of open files set by `ulimit`.
fn limited(limits: &str) -> Cluster {
    let mut cluster = Cluster::start_with(1, "test", "[storage]\nmemtable_bytes = 1048576\n");
    cluster.nodes[0].stop();
    let node = &cluster.nodes[0];
    let command = node.limited(&node.command("serve"), limits);
    node.launch_as(command);
    cluster
}

#[test]
fn idle_clients_leave_the_store_its_descriptors() {
    let mut cluster = limited("ulimit -n 900");
    cluster.wait_until_ready();
    let node = &mut cluster.nodes[0];
    assert_eq!(metric(node, "process_max_fds"), 900);
    let to = node.client_addr;
    let mut writer = Raw::connect(to);
    let write = |writer: &mut Raw, key: usize| {
        let value = "v".repeat(64 << 10);
        let head = format!(
            "PUT /kv/b/{key} HTTP/1.1\r\nHost: x\r\nContent-Length: {}\r\n\r\n",
            value.len()
        );
        until("the write to be answered", || {
            writer.send(head.as_bytes());
            writer.send(value.as_bytes());
            match writer.answer_to("PUT") {
                Some(written) if written.status == 204 => return true,
                Some(refused) => assert_eq!(refused.status, 503, "{}", refused.text()),
                None => {}
            }
            // On a slow machine the writer itself may have counted as idle, and the next connection
            // finds no idle one in its place yet.
            *writer = Raw::connect(to);
            false
        });
    };
    write(&mut writer, 0);
    let idle: Vec<Raw> = (0..400).map(|_| Raw::connect(to)).collect();
    for key in 0..200 {
        write(&mut writer, key); // flushes and compacts many times
    }
    let mut metrics = String::new();
    until("the metrics", || {
        writer.send(b"GET /metrics HTTP/1.1\r\nHost: x\r\n\r\n");
        match writer.answer() {
            Some(answer) if answer.status == 200 => {
                metrics = answer.text();
                return true;
            }
            Some(_) | None => writer = Raw::connect(to),
        }
        false
    });
    let open = metrics.lines().find_map(|line| line.strip_prefix("process_open_fds "));
    assert!(open.unwrap().parse::<u64>().unwrap() < 850, "{open:?}");
    // An idle connection makes way for a new one.
    until("a health check to get through", || {
        Request::get("/livez").try_send(to).is_some_and(|answer| answer.status == 200)
    });
    drop(idle);
    node.wait_until_alive();
    assert_eq!(node.get("/kv/b/7").status, 200);
    node.assert_alive();
}

#[test]
fn the_soft_limit_of_open_files_is_raised_and_too_low_a_hard_one_refused() {
    let mut cluster = limited("ulimit -S -n 128; ulimit -H -n 3000");
    cluster.wait_until_ready();
    assert_eq!(metric(&cluster.nodes[0], "process_max_fds"), 3000);
    let cluster = limited("ulimit -n 256");
    let node = &cluster.nodes[0];
    until("the node to give up", || node.ended().is_some());
    assert!(node.log_text().contains("limit of open files is 256"), "{}", node.log_text());
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

/// Clients that keep a connection are told to close it before the node stops, and see no error.
#[test]
fn a_stop_tells_clients_to_go_before_it_hangs_up() {
    let mut cluster = Cluster::start_with(1, "test", "[timeouts]\ndrain_ms = 2000\n");
    let node = &mut cluster.nodes[0];
    let to = node.client_addr;
    let mut raws: Vec<Raw> = (0..4).map(|_| Raw::connect(to)).collect();
    let mut ask = |raw: &mut Raw| {
        raw.send(b"PUT /kv/b/k?w=1 HTTP/1.1\r\nHost: x\r\nContent-Length: 1\r\n\r\nv");
        let answer = raw.answer_to("PUT").unwrap();
        assert_eq!(answer.status, 204, "{}", answer.text());
        answer.header("connection").is_some_and(|value| value == "close")
    };
    assert!(!raws.iter_mut().any(&mut ask));
    node.signal("TERM");
    until("the drain to begin", || node.get("/readyz").status == 503);
    for raw in &mut raws {
        assert!(ask(raw), "told to close");
        assert!(raw.is_closed());
    }
    until("the node to stop", || node.ended().is_some());
    assert!(node.ended().unwrap().success());
    node.forget();
}
