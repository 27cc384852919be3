//! The audit log, and that secrets are nowhere.

use std::fs;

use serde_json::{Value, json};

use super::{ON, get, made, token, with};
use crate::common::http::Request;
use crate::common::{CLUSTER_ID, Cluster, operator, until};

fn lines(cluster: &Cluster) -> Vec<Value> {
    let text = fs::read_to_string(cluster.nodes[0].directory.join("audit.log")).unwrap();
    text.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

/// A node with an audit log in its directory.
fn start(settings: &str) -> Cluster {
    let mut cluster = Cluster::unformed(1, CLUSTER_ID, "");
    let node = &mut cluster.nodes[0];
    node.kill();
    let to = node.directory.join("audit.log");
    let config = fs::read_to_string(node.config()).unwrap();
    let settings = format!("\n{ON}\n[audit]\nto = {to:?}\n{settings}\n[layout]");
    fs::write(node.config(), config.replacen("\n[layout]", &settings, 1)).unwrap();
    node.launch();
    cluster.form();
    cluster.wait_until_ready();
    cluster
}

#[test]
fn administration_and_refusals_are_told_without_keys() {
    let cluster = start("[log]\nlevel = \"trace\"");
    let node = &cluster.nodes[0];
    let made =
        made(node, "shop", &json!([{"actions": ["write"], "buckets": ["carts"]}]), &json!({}));
    let shop = format!("Bearer {}", made["token"].as_str().unwrap());
    assert_eq!(with(node, &shop, Request::put("/kv/carts/private-key", "v")).status, 204);
    let refused = Request::get("/kv/carts/private-key").header("X-Request-Id", "seven");
    with(node, &shop, refused).assert_problem(403, "forbidden");
    get(node, "Bearer qk_nonsense", "/cluster").assert_problem(401, "unauthenticated");
    until("all is written", || {
        lines(&cluster).iter().any(|line| line["status"] == 401 && line["who"] == "unknown")
    });
    let all = lines(&cluster);
    let find = |route: &str, outcome: &str| {
        let is_it = |line: &&Value| line["route"] == route && line["outcome"] == outcome;
        all.iter().find(is_it).unwrap_or_else(|| panic!("{route} {outcome}: {all:?}"))
    };
    let making = find("/auth/tokens", "ok");
    assert_eq!((&making["who"], &making["action"]), (&json!("operator"), &json!("admin:auth")));
    assert!(
        making["peer"].as_str().unwrap().starts_with("127.0.0.1:") && making["time_ms"].is_u64()
    );
    let refused = find("/kv/{bucket}/{key}", "forbidden");
    assert_eq!((&refused["token"], &refused["bucket"]), (&made["id"], &json!("carts")));
    assert_eq!((&refused["request_id"], &refused["status"]), (&json!("seven"), &json!(403)));
    assert_eq!(refused["key_hash"].as_str().unwrap().len(), 32);
    let writes = all.iter().filter(|line| line["action"] == "write").count();
    assert_eq!(writes, 0, "data is not in it");
    // No secret, and no key of a client, is anywhere.
    let text = serde_json::to_string(&all).unwrap();
    assert!(!text.contains("private-key"));
    let (_, secret) = shop.split_once('.').unwrap();
    let operator = operator();
    let (_, mac) = operator.split_once('.').unwrap();
    let metrics = get(node, &operator, "/metrics").text();
    for (what, text) in [("audit", text), ("log", node.log_text()), ("metrics", metrics)] {
        assert!(!text.contains(secret) && !text.contains(mac), "a secret is in the {what}");
    }
}

#[test]
fn data_and_keys_are_in_it_if_that_is_wanted() {
    let cluster = start("data = true\nkeys = true");
    let node = &cluster.nodes[0];
    let shop = token(node, &json!([{"actions": ["write", "list"], "buckets": ["carts"]}]));
    assert_eq!(with(node, &shop, Request::put("/kv/carts/a%0Ab", "v")).status, 204);
    assert_eq!(get(node, &shop, "/keys/carts").status, 200);
    until("all is written", || lines(&cluster).iter().any(|line| line["action"] == "list"));
    let all = lines(&cluster);
    let write = all.iter().find(|line| line["action"] == "write").unwrap();
    assert_eq!((&write["key"], &write["outcome"]), (&json!("a\nb"), &json!("ok")));
    // The file can be moved away.
    let (file, old) = (node.directory.join("audit.log"), node.directory.join("audit.old"));
    fs::rename(&file, &old).unwrap();
    node.signal("HUP");
    until("the file is made again", || {
        assert_eq!(get(node, &shop, "/keys/carts").status, 200);
        file.exists()
    });
}
