//! `quorate token`, and commands with a token.

use std::process::{Command, Output};

use serde_json::Value;

use super::ON;
use crate::common::{CLUSTER_ID, Cluster};

/// Runs a command against the first node; `token` is in the environment.
fn run(cluster: &Cluster, token: Option<&str>, args: &[&str]) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_quorate"));
    command.args(args).env("QUORATE_URL", format!("http://{}", cluster.nodes[0].client_addr));
    command.env("XDG_STATE_HOME", &cluster.nodes[0].directory).env_remove("QUORATE_TOKEN");
    command.envs(token.map(|token| ("QUORATE_TOKEN", token))).output().unwrap()
}

fn text(output: &Output) -> String {
    String::from_utf8_lossy(&output.stdout).trim_end().to_owned()
}

#[test]
fn a_token_is_made_used_shown_and_revoked() {
    let cluster = Cluster::start_with(1, CLUSTER_ID, ON);
    let config = cluster.nodes[0].config().display().to_string();
    let denied = run(&cluster, None, &["get", "carts/alice"]);
    assert_eq!(denied.status.code(), Some(8));
    let told = String::from_utf8_lossy(&denied.stderr).into_owned();
    assert!(told.contains("unauthenticated") && told.contains("QUORATE_TOKEN"), "{told}");
    let create = [
        "token",
        "create",
        "shop",
        "--allow",
        "read,write,look",
        "--buckets",
        "carts",
        "--expires-in",
        "1h",
        "--config",
        &config,
    ];
    let created = run(&cluster, None, &create);
    assert!(created.status.success(), "{created:?}");
    let token = text(&created);
    assert!(token.starts_with("qk_") && !token.contains('\n'), "{token}");
    let with = |args: &[&str]| run(&cluster, Some(&token), args);
    assert_eq!(with(&["put", "carts/alice", "2 apples"]).status.code(), Some(0));
    assert_eq!(text(&with(&["get", "carts/alice"])), "2 apples");
    let denied = with(&["delete", "carts/alice", "--json"]);
    let denied: Value = serde_json::from_slice(&denied.stderr).unwrap();
    assert_eq!((&denied["error"]["exit"], &denied["error"]["name"]), (&8.into(), &"denied".into()));
    assert_eq!(denied["error"]["problem"]["action"], "delete");
    let who = text(&with(&["token", "whoami"]));
    assert!(who.contains("shop") && who.contains("read,write,look of carts"), "{who}");
    assert_eq!(with(&["token", "list"]).status.code(), Some(8));
    let by_option = run(&cluster, None, &["get", "carts/alice", "--token", &token]);
    assert_eq!(text(&by_option), "2 apples");
    let listed = run(&cluster, None, &["token", "list", "--json", "--operator", &config]);
    let listed: Value = serde_json::from_slice(&listed.stdout).unwrap();
    let id = listed["tokens"][0]["id"].as_str().unwrap();
    assert!(run(&cluster, None, &["token", "revoke", id, "--config", &config]).status.success());
    assert_eq!(with(&["get", "carts/alice"]).status.code(), Some(8));
    let blind = [
        "token",
        "create",
        "blind",
        "--allow",
        "read,write",
        "--buckets",
        "*",
        "--config",
        &config,
    ];
    let blind = text(&run(&cluster, None, &blind));
    let with = |args: &[&str]| run(&cluster, Some(&blind), args);
    assert_eq!(text(&with(&["get", "carts/alice"])), "2 apples", "it need not look at the cluster");
    assert_eq!(with(&["put", "carts/alice", "3 apples"]).status.code(), Some(0));
    assert_eq!(text(&with(&["get", "carts/alice"])), "3 apples", "nor for what it read before");
    // What only the operator does goes on as before.
    let distrusted = run(&cluster, None, &["distrusted", "list", "--config", &config]);
    assert!(distrusted.status.success(), "{distrusted:?}");
    let ring = run(&cluster, None, &["layout", "show", "--operator", &config]);
    assert!(ring.status.success(), "{ring:?}");
    let none = run(&cluster, None, &["layout", "show", "--operator", "/none.toml"]);
    assert_eq!(none.status.code(), Some(2));
}
