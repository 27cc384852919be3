//! Commands on the cluster.

use std::net::SocketAddr;

use serde_json::json;

use super::{Case, Cli, User};
use crate::common::Cluster;

#[test]
fn a_healthy_cluster_is_shown_and_changed() {
    let cli = Cli::start();
    let steps: &[Case<'_>] = &[
        (&["wait", "ready", "--timeout", "30"], 0, "ready after", ""),
        (&["status"], 0, "nothing needs attention", ""),
        (&["ring"], 0, "64 partitions, 3 copies", ""),
        (&["locate", "carts/a b"], 0, "carts/a b: partition", ""),
        (&["hints"], 0, "no hints are kept", ""),
        (&["anti-entropy", "run"], 0, "all replicas are equal", ""),
        (&["anti-entropy", "run", "--partition", "63"], 0, "all replicas are equal", ""),
        (&["anti-entropy", "run", "--partition", "64"], 5, "", "from 0 to 63"),
        (&["anti-entropy"], 0, "0 partitions still to fill", ""),
        (&["jobs"], 0, "anti_entropy", ""),
        (&["jobs", "scrub", "--troubled"], 0, "no such jobs", ""),
        (&["bucket", "list"], 0, "(all others)", ""),
        (&["bucket", "set", "carts", "--n", "2", "--w", "all"], 0, "this bucket", ""),
        (&["bucket", "set", "carts", "--conflicts", "lww"], 0, "lww", ""),
        (&["bucket", "set", "carts"], 2, "", "--n"),
        (&["bucket", "set", "carts", "--n", "9"], 2, "", "bad_body"),
        (&["bucket", "set", "a b", "--n", "1"], 2, "", "a b"),
        (&["bucket", "get", "carts"], 0, "all", ""),
        (&["bucket", "list"], 0, "carts", ""),
        (&["bucket", "reset", "carts"], 0, "the defaults", ""),
        (&["bucket", "get", "carts"], 0, "quorum", ""),
        (&["wait", "no-hints", "--timeout", "30"], 0, "no-hints after", ""),
        (&["wait", "converged", "--timeout", "60"], 0, "converged after", ""),
        (&["wait", "dinner"], 2, "", "converged"),
        (&["healthcheck"], 0, "", ""),
        (&["healthcheck", "--ready"], 0, "", ""),
        (&["doctor"], 0, "0 wrong", ""),
        (&["doctor", "--config", "/no/such/file"], 1, "wrong", ""),
        (&["top", "--count", "1"], 0, "gets/s", ""),
        (&["top", "--count", "0"], 2, "", "count"),
        (&["locate", "carts"], 2, "", "BUCKET/KEY"),
    ];
    for step in steps {
        cli.run(step.0).check(*step);
    }
}

#[test]
fn programs_get_stable_keys() {
    let cli = Cli::start();
    let has = |args: &[&str], keys: &[&str]| {
        let told = cli.json(args, 0);
        for key in keys {
            assert!(told.pointer(key).is_some(), "{args:?}: no {key} in {told}");
        }
    };
    has(&["status"], &["/cluster_id", "/layout/hash", "/healthy", "/attention", "/nodes/2/url"]);
    let of_node =
        ["state", "ready", "writable", "filled", "release", "seen_up_by", "keys", "hint_keys"];
    has(&["status"], &of_node.map(|key| format!("/nodes/0/{key}")).each_ref().map(String::as_str));
    has(&["ring"], &["/version", "/partitions", "/nodes/0/of_fair_share"]);
    has(&["locate", "b/k"], &["/partition", "/home_replicas/2", "/nodes/0/role", "/nodes/0/url"]);
    has(&["hints"], &["/nodes/2/targets", "/keys", "/unreachable"]);
    has(&["anti-entropy"], &["/nodes/0/rounds", "/unreachable"]);
    has(&["anti-entropy", "run"], &["/complete", "/keys_repaired", "/nodes/0/rounds/0/peer"]);
    has(&["jobs"], &["/nodes/2/jobs/0/job", "/nodes/2/jobs/0/runs", "/unreachable"]);
    has(&["bucket", "list"], &["/buckets", "/defaults/n"]);
    has(&["bucket", "get", "b"], &["/bucket", "/properties/n", "/set"]);
    has(&["wait", "ready"], &["/done", "/condition", "/waited_ms", "/missing"]);
    has(&["top", "--count", "1"], &["/seconds", "/nodes/0/gets_per_s", "/nodes/0/put_p99_us"]);
    has(&["doctor"], &["/ok", "/findings/0/check", "/findings/0/level", "/findings/0/what"]);
    has(&["healthcheck"], &["/healthy", "/why"]);
    assert_eq!(cli.json(&["status"], 0)["nodes"][0]["state"], "up");
    assert_eq!(cli.json(&["bucket", "set", "b", "--n", "1"], 0)["set"], json!({"n": 1}));
}

#[test]
fn a_dead_node_shows_and_exit_codes_tell_what_failed() {
    let mut cluster = Cluster::start(3);
    let user = User::of(cluster.nodes[0].client_addr);
    let config = cluster.nodes[0].config();
    let doctor = user.run(&["doctor", "--config", config.to_str().unwrap(), "--json"]);
    let told: serde_json::Value = serde_json::from_str(&doctor.out).unwrap();
    let levels: Vec<&str> = told["findings"]
        .as_array()
        .unwrap()
        .iter()
        .map(|it| it["level"].as_str().unwrap())
        .collect();
    assert!(!levels.contains(&"wrong"), "{told}");
    for check in ["disk sync", "disk space", "peer ports"] {
        assert!(
            told["findings"].as_array().unwrap().iter().any(|it| it["check"] == check),
            "{check}"
        );
    }
    assert_eq!(user.run(&["put", "b/k", "x", "--w", "all"]).code, 0);
    cluster.nodes[2].kill();
    crate::common::until("the others to see it down", || {
        let told = user.json(&["locate", "b/k"], 0);
        told["nodes"].as_array().unwrap().iter().any(|node| node["state"] == "down")
    });
    let steps: &[Case<'_>] = &[
        (&["status"], 1, "n3 does not answer here", ""),
        (&["doctor"], 1, "n3 does not answer", ""),
        (&["wait", "ready", "--timeout", "1"], 7, "", "n3"),
        (&["get", "b/k", "--r", "all", "--strict"], 5, "", "no_read_quorum"),
        (&["put", "b/k", "y", "--w", "all", "--strict"], 6, "", "--idempotency-key"),
        (&["hints"], 5, "", "n3 did not answer"),
        (&["anti-entropy", "run"], 5, "not everything could be compared", "n3"),
        (&["get", "b/k"], 0, "", ""),
        (&["keys", "b"], 0, "k\n", ""),
    ];
    for step in steps {
        user.run(step.0).check(*step);
    }
    let told = user.json(&["status"], 1);
    assert_eq!(
        (&told["nodes"][2]["state"], &told["healthy"]),
        (&"down".into(), &false.into()),
        "{told}"
    );
    let told = user.json(&["wait", "no-hints", "--timeout", "0"], 7);
    assert_eq!(told["done"], false);
    cluster.nodes[2].start();
    user.run(&["wait", "ready", "--timeout", "30"]).check((&["wait"], 0, "ready", ""));
    user.run(&["wait", "converged", "--timeout", "60"]).check((&["wait"], 0, "converged", ""));
    assert_eq!(user.run(&["status"]).code, 0);
}

#[test]
fn any_of_several_addresses_will_do() {
    let cli = Cli::start();
    let dead = SocketAddr::from(([127, 0, 0, 1], 1));
    let both = format!("http://{dead},{}", cli.user.url);
    let nobody = User::of(dead);
    assert_eq!(nobody.run(&["put", "b/k", "x", "--url", &both]).code, 0);
    assert_eq!(nobody.run(&["status", "--url", &both]).code, 0);
    nobody.run(&["status"]).check((&["status"], 5, "", "QUORATE_URL"));
    assert_eq!(nobody.run(&["healthcheck"]).code, 1);
    assert_eq!(nobody.run(&["get", "b/k", "--url", &cli.user.url]).out, "x");
}
