//! Backups of a node over HTTP: made, shown, fetched as a whole and in parts, deleted; a few at a time.

use serde_json::{Value, json};

use crate::common::http::{Answer, Request};
use crate::common::{Cluster, Node, until};

fn make(node: &Node, name: &str) -> Answer {
    node.send(&Request::json("POST", "/backups", &json!({"name": name}).to_string()))
}

/// Makes a backup and waits until it is whole; returns its manifest.
fn made(node: &Node, name: &str) -> Value {
    let told = make(node, name);
    assert_eq!(told.status, 202, "{}", told.text());
    assert_ne!(told.json()["state"], "copying", "it answers once the copy is made");
    until("the backup to be whole", || node.get("/backups").json()["last"]["state"] == "whole");
    node.get(&format!("/backups/{name}")).json()
}

#[test]
fn a_backup_is_fetched_as_its_manifest_says() {
    let cluster = Cluster::start(1);
    let node = &cluster.nodes[0];
    assert_eq!(node.send(&Request::put("/kv/b/k", vec![7; 100_000])).status, 204);
    let manifest = made(node, "one");
    assert_eq!((&manifest["node"], &manifest["phase"]), (&json!("n1"), &json!("stable")));
    assert!(manifest["began_at"].as_u64() <= manifest["ended_at"].as_u64());
    let files = manifest["files"].as_array().unwrap();
    assert!(files.iter().any(|file| file["name"] == "CURRENT"), "{manifest}");
    for file in files {
        let path = format!("/backups/one/files/{}", file["name"].as_str().unwrap());
        let whole = node.get(&path);
        assert_eq!((whole.status, whole.body.len() as u64), (200, file["bytes"].as_u64().unwrap()));
        assert_eq!(blake3::hash(&whole.body).to_hex().as_str(), file["blake3"], "{path}");
        if whole.body.len() > 9 {
            let part = node.send(&Request::get(&path).header("Range", "bytes=3-7"));
            assert_eq!((part.status, &part.body[..]), (206, &whole.body[3..8]));
            let rest = node.send(&Request::get(&path).header("Range", "bytes=5-"));
            assert_eq!((rest.status, &rest.body[..]), (206, &whole.body[5..]));
        }
    }
    let listed = node.get("/backups").json();
    assert_eq!(listed["backups"][0]["name"], "one", "{listed}");
    assert_eq!(node.send(&Request::delete("/backups/one")).status, 204);
    node.send(&Request::delete("/backups/one")).assert_problem(404, "no_such_backup");
    node.get("/backups/one").assert_problem(404, "no_such_backup");
    node.get("/backups/one/files/CURRENT").assert_problem(404, "no_such_backup");
}

#[test]
fn what_is_wrong_with_a_request_is_named() {
    let cluster = Cluster::start(1);
    let node = &cluster.nodes[0];
    for bad in ["", "{}", "7", r#"{"name":7}"#, r#"{"name":"a","more":1}"#, r#"{"name":"../x"}"#] {
        let told = node.send(&Request::json("POST", "/backups", bad));
        told.assert_problem(400, "bad_body");
    }
    for name in ["A", "a.b", "a/b", "", "hold", &"a".repeat(65)] {
        make(node, name).assert_problem(400, "bad_body");
    }
    made(node, "one");
    for path in ["/backups/A", "/backups/%2e%2e", "/backups/A/files/CURRENT"] {
        node.get(path).assert_problem(400, "bad_path");
    }
    let elsewhere = ["manifest.json", "..%2fmanifest.json", "%2e%2e", "current", "LOCK"];
    for file in elsewhere {
        let path = format!("/backups/one/files/{file}");
        node.get(&path).assert_problem(404, "no_such_backup");
    }
    let path = "/backups/one/files/CURRENT";
    for bad in ["bytes=99999-", "bytes=-1", "lines=1-2", "bytes=0-1,2-3"] {
        node.send(&Request::get(path).header("Range", bad)).assert_problem(400, "bad_header");
    }
    for bad in [r#"{"ms":600001}"#, r#"{"ms":-1}"#, "{}"] {
        node.send(&Request::json("POST", "/backups/hold", bad)).assert_problem(400, "bad_body");
    }
    for ms in [1_000, 0] {
        let body = json!({"ms": ms}).to_string();
        assert_eq!(node.send(&Request::json("POST", "/backups/hold", &body)).status, 204);
    }
    // As many as may be.
    make(node, "one").assert_problem(409, "backup_refused");
    made(node, "two");
    let many = make(node, "three").assert_problem(409, "backup_refused");
    assert!(many.contains("one, two"), "{many}");
}

#[test]
fn backups_survive_a_restart_and_half_ones_do_not() {
    let mut cluster = Cluster::start(1);
    let node = &mut cluster.nodes[0];
    made(node, "one");
    node.stop();
    let backups = node.data_dir().join("backups");
    std::fs::create_dir_all(backups.join("two.making/rocksdb")).unwrap();
    std::fs::create_dir_all(backups.join("three.removed/rocksdb")).unwrap();
    node.start();
    node.wait_until_ready();
    let listed = node.get("/backups").json();
    assert_eq!(
        (&listed["backups"][0]["name"], &listed["backups"][1]),
        (&json!("one"), &Value::Null)
    );
    assert_eq!(std::fs::read_dir(backups).unwrap().count(), 1);
}
