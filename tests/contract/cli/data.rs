//! Commands on keys.

use std::process::Stdio;

use super::{Case, Cli, User};
use crate::common::Cluster;

#[test]
fn keys_are_written_read_and_deleted_with_remembered_contexts() {
    let cli = Cli::start();
    let steps: &[Case<'_>] = &[
        (&["get", "carts/alice"], 3, "", "never written"),
        (&["put", "carts/alice", "2 apples"], 0, "stored 8 B in carts/alice on 2 nodes", ""),
        (&["get", "carts/alice"], 0, "2 apples", ""),
        (&["put", "carts/alice", "3 apples"], 0, "replacing what you saw", ""),
        (&["get", "carts/alice"], 0, "3 apples", ""),
        (&["put", "carts/alice", "4 apples", "--blind"], 0, "stored", "2 siblings now"),
        (&["get", "carts/alice"], 4, "", "resolve carts/alice --keep"),
        (&["siblings"], 0, "carts/alice", ""),
        (&["siblings", "carts"], 0, "carts/alice", ""),
        (&["siblings", "other"], 0, "no key is in conflict", ""),
        (&["siblings", "carts/alice"], 4, "4 apples", "Keep one"),
        (&["resolve", "carts/alice", "5 apples"], 0, "resolved carts/alice", ""),
        (&["get", "carts/alice"], 0, "5 apples", ""),
        (&["siblings", "carts/alice"], 0, "1 sibling", ""),
        (&["delete", "carts/alice", "--w", "all"], 0, "deleted carts/alice on 3 nodes", ""),
        (&["get", "carts/alice"], 3, "", "was deleted"),
        (&["put", "carts/alice", "6 apples"], 0, "stored", ""),
        (&["get", "carts/alice", "--r", "all", "--strict"], 0, "6 apples", ""),
        (&["keys", "carts"], 0, "alice\n", ""),
        (&["put", "carts/alice", "x", "--if-absent"], 4, "", "condition_failed"),
        (&["siblings", "carts/nobody"], 3, "never written", ""),
    ];
    for step in steps {
        cli.run(step.0).check(*step);
    }
}

#[test]
fn what_cannot_be_is_refused_with_what_to_do() {
    let cli = Cli::start();
    let steps: &[Case<'_>] = &[
        (&["get", "carts"], 2, "", "expected BUCKET/KEY"),
        (&["get", "a b/k"], 2, "", "a b"),
        (&["get", "b/.."], 2, "", "URL"),
        (&["get", "b/k", "--r", "0"], 2, "", "from 1"),
        (&["get", "b/k", "--r", "9"], 2, "", "bad_parameter"),
        (&["get", "b/k", "--timeout-ms", "0"], 2, "", "timeout-ms"),
        (&["put", "b/k", "x", "--meta", "bad"], 2, "", "NAME=TEXT"),
        (&["put", "b/k", "x", "--meta", "a b=1"], 2, "", "a b"),
        (&["put", "b/k", "x", "--context", "A!"], 2, "", "--context"),
        (&["put", "b/k", "x", "--context", "AAAA"], 2, "", "bad_context"),
        (&["put", "b/k", "--file", "/no/such/file"], 2, "", "/no/such/file"),
        (&["put", "b/k", "--file", "/"], 2, "", "directory"),
        (&["put", "b/k", "x", "--idempotency-key", "a b"], 2, "", "idempotency key"),
        (&["resolve", "b/k", "x"], 4, "", "look first"),
        (&["resolve", "b/k", "x", "--blind"], 3, "", "never written"),
        (&["keys", "b", "--limit", "0"], 2, "", "limit"),
        (&["keys", "b", "--cursor", "nonsense"], 2, "", "cursor"),
        (&["explain", "xyz"], 2, "", "hexadecimal"),
        (&["explain"], 2, "", "ID"),
        (&["siblings", "a b"], 2, "", "a b"),
    ];
    for step in steps {
        cli.run(step.0).check(*step);
    }
    cli.run(&["siblings", "b/k"]).check((&["siblings"], 3, "", ""));
    let failure = cli.run(&["get", "b/k", "--json"]);
    let told: serde_json::Value = serde_json::from_str(failure.err.trim()).unwrap();
    assert_eq!((failure.code, &told["error"]["name"]), (3, &"not_found".into()), "{told}");
}

#[test]
fn what_fails_is_explained_too() {
    let mut cluster = Cluster::start(3);
    cluster.nodes[1].kill();
    cluster.nodes[2].kill();
    let user = User::of(cluster.nodes[0].client_addr);
    let quick = ["--explain", "--strict", "--timeout-ms", "600"];
    for (command, exit) in [(&["get", "b/k"][..], 5), (&["put", "b/k", "v"][..], 6)] {
        let ran = user.run(&[command, &quick].concat());
        assert_eq!(ran.code, exit, "{ran:?}");
        assert!(ran.out.contains("not reached") && ran.out.contains("entry node n1"), "{ran:?}");
        assert!(ran.err.contains("quorum"), "{ran:?}");
    }
}

#[test]
fn values_come_from_anywhere_and_go_back_as_they_were() {
    let cli = Cli::start();
    let bytes: Vec<u8> = (0..=255).collect();
    assert_eq!(cli.pipe(&["put", "b/bytes"], &bytes).code, 0);
    let dir = tempfile::tempdir().unwrap();
    let (from, to) = (dir.path().join("a.json"), dir.path().join("out"));
    std::fs::write(&from, "{}").unwrap();
    let (from, to) = (from.to_str().unwrap(), to.to_str().unwrap());
    assert_eq!(cli.run(&["get", "b/bytes", "--output", to]).code, 0);
    assert_eq!(std::fs::read(to).unwrap(), bytes);
    assert_eq!(cli.run(&["put", "b/file", "--file", from, "--meta", "Owner=alice"]).code, 0);
    let shown = cli.json(&["get", "b/file"], 0);
    assert_eq!(
        (&shown["value"], &shown["content_type"]),
        (&"{}".into(), &"application/json".into())
    );
    assert_eq!(shown["meta"]["owner"], "alice");
    let shown = cli.json(&["get", "b/bytes"], 0);
    assert_eq!((&shown["encoding"], &shown["size"]), (&"base64".into(), &256.into()));
    assert_eq!(shown["content_type"], "application/octet-stream");
    let put = cli.json(&["put", "b/bytes", "text"], 0);
    assert_eq!((&put["acks"], &put["siblings"]), (&2.into(), &1.into()));
    assert_eq!(put["context_used"], "remembered");
    assert!(put["context"].is_string() && put["context_age_ms"].is_u64(), "{put}");
    let odd = "b/ü \n#?%/../x";
    assert_eq!(cli.run(&["put", odd, "odd"]).code, 0);
    assert_eq!(cli.run(&["get", odd]).out, "odd");
    assert!(cli.run(&["keys", "b", "--null"]).out.contains("ü \n#?%/../x\0"));
}

#[test]
fn two_writers_conflict_and_one_resolves() {
    let cli = Cli::start();
    let (alice, bob) = (&cli.user, cli.other());
    assert_eq!(alice.run(&["put", "b/k", "start"]).code, 0);
    assert_eq!(bob.run(&["get", "b/k"]).out, "start");
    assert_eq!(alice.run(&["put", "b/k", "by alice"]).code, 0);
    bob.run(&["put", "b/k", "by bob"]).check((
        &["put"],
        0,
        "stored",
        "another write came in between",
    ));
    let conflict = alice.json(&["get", "b/k"], 4);
    let siblings = conflict["siblings"].as_array().unwrap();
    assert_eq!(siblings.len(), 2);
    let of_bob = siblings.iter().find(|it| it["value"] == "by bob").unwrap();
    let dot = of_bob["dot"].as_str().unwrap();
    assert_eq!(alice.run(&["get", "b/k", "--sibling", dot]).out, "by bob");
    let report = alice.json(&["siblings", "b/k"], 4);
    assert_eq!(report["conflict"], true);
    alice.run(&["resolve", "b/k", "--keep", "zz"]).check((&["resolve"], 3, "", "no sibling"));
    let kept = alice.run(&["resolve", "b/k", "--keep", dot]);
    kept.check((&["resolve"], 0, "kept", ""));
    assert_eq!(bob.run(&["get", "b/k"]).out, "by bob");
    // What alice saw is superseded: keeping the other one now is too late.
    assert_eq!(alice.run(&["get", "b/k", "--sibling", dot]).code, 3);
}

#[test]
fn a_closed_pipe_is_no_error_and_listings_go_on() {
    let cli = Cli::start();
    let lines: String = (0..1500)
        .map(|number| {
            format!("{{\"key\":\"key-{number:05}\",\"siblings\":[{{\"value\":\"x\"}}]}}\n")
        })
        .collect();
    let ran = cli.pipe(&["import", "--bucket", "many"], lines.as_bytes());
    ran.check((&["import"], 0, "1500 lines: 1500 new", ""));
    assert_eq!(cli.run(&["keys", "many"]).out.lines().count(), 1500);
    let mut child = cli.user.command(&["keys", "many"]).stdin(Stdio::null()).spawn().unwrap();
    drop(child.stdout.take());
    let ended = child.wait_with_output().unwrap();
    assert!(ended.status.success() && ended.stderr.is_empty(), "{ended:?}");
    let first = cli.run(&["keys", "many", "--limit", "10", "--json"]);
    let last: serde_json::Value = serde_json::from_str(first.out.lines().last().unwrap()).unwrap();
    let cursor = last["cursor"].as_str().unwrap();
    let rest = cli.run(&["keys", "many", "--prefix", "", "--cursor", cursor]);
    assert_eq!(rest.out.lines().count(), 1490);
    assert_eq!(rest.out.lines().next(), Some("key-00010"));
}
