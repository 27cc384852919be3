//! Commands that follow what changes: `feed`, and `get --wait`.

use std::fs;
use std::thread;
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use super::{Case, Cli, Ran, User};
use crate::common::until;

/// Gives a bucket a feed, and waits until all nodes know of it.
fn feed_on(cli: &Cli, bucket: &str) {
    cli.run(&["bucket", "set", bucket, "--feed", "24h"]).check((&["bucket"], 0, "1d", ""));
    let nodes = [1, 2, 3].map(|node| User::of(cli.dev.addr(node)));
    until("all nodes to have the feed", || {
        nodes.iter().all(|node| node.run(&["feed", bucket, "--from", "now", "--once"]).code == 0)
    });
}

/// The lines of JSON that a command printed.
fn lines(ran: &Ran) -> Vec<Value> {
    assert_eq!(ran.code, 0, "{ran:?}");
    ran.out.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

#[test]
fn a_feed_is_followed_and_goes_on_from_its_file() {
    let cli = Cli::start();
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("carts.cursor");
    let path = file.to_str().unwrap();
    cli.run(&["feed", "carts", "--once"]).check((&["feed"], 2, "", "quorate bucket set"));
    feed_on(&cli, "carts");
    let once = ["feed", "carts", "--once", "--from", "now", "--cursor-file", path];
    assert_eq!(cli.run(&once).out, "", "it begins now");
    let begin = fs::read_to_string(&file).unwrap();
    let steps: &[Case<'_>] = &[
        (&["put", "carts/alice", "2 apples", "--w", "all"], 0, "stored", ""),
        (&["put", "carts/both", "x", "--w", "all"], 0, "stored", ""),
        (&["put", "carts/both", "y", "--blind", "--w", "all"], 0, "stored", ""),
        (&["put", "carts/gone", "x", "--w", "all"], 0, "stored", ""),
        (&["delete", "carts/gone", "--w", "all"], 0, "deleted", ""),
        (&["put", "carts/tab\tkey", "x", "--w", "all"], 0, "stored", ""),
    ];
    for step in steps {
        cli.run(step.0).check(*step);
    }
    let ran = cli.run(&once);
    let mut shown: Vec<&str> = ran.out.lines().collect();
    shown.sort_unstable();
    let wanted = ["alice\t2 apples", "both\t(2 siblings)", "gone\t(deleted)", "tab\\tkey\tx"];
    assert_eq!(shown, wanted, "{ran:?}");
    assert_eq!(cli.run(&once).out, "", "nothing comes twice");
    assert_ne!(fs::read_to_string(&file).unwrap(), begin);

    let from = ["feed", "carts", "--once", "--from", begin.trim(), "--json"];
    let told = lines(&cli.other().run(&from));
    let of = |key: &str| told.iter().find(|line| line["key"] == key).unwrap();
    assert_eq!(
        (&of("alice")["result"], &of("alice")["value"]),
        (&json!("value"), &json!("2 apples"))
    );
    assert_eq!(of("both")["siblings"].as_array().unwrap().len(), 2);
    assert_eq!(
        (&of("gone")["result"], &of("gone")["was_deleted"]),
        (&json!("absent"), &json!(true))
    );
    let last = told.last().unwrap();
    assert!(last["complete"] == true && last["cursor"].is_string(), "{last}");
    let two = cli.run(&["feed", "carts", "--once", "--limit", "2"]);
    assert_eq!(two.out.lines().count(), 2, "{two:?}");
    let cursor = two.err.trim().rsplit(' ').next().unwrap();
    assert_eq!(cli.run(&["feed", "carts", "--once", "--from", cursor]).out.lines().count(), 2);
    let prefix = cli.run(&["feed", "carts", "--once", "--prefix", "ali"]);
    assert_eq!(prefix.out, "alice\t2 apples\n");
}

#[test]
fn what_is_wrong_with_a_feed_is_told_with_what_to_do() {
    let cli = Cli::start();
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("carts.cursor");
    let path = file.to_str().unwrap();
    feed_on(&cli, "carts");
    let follow = ["feed", "carts", "--once", "--from", "now", "--cursor-file", path];
    assert_eq!(cli.run(&follow).code, 0);
    let before = fs::read_to_string(&file).unwrap();
    let steps: &[Case<'_>] = &[
        (&["feed", "carts", "--once", "--from", "x"], 2, "", "cursor"),
        (&["feed", "carts", "--limit", "0"], 2, "", "limit"),
        (&["feed", "a b"], 2, "", "a b"),
        (&["bucket", "set", "carts", "--feed", "5s"], 2, "", "--feed"),
        (&["bucket", "set", "carts", "--feed", "none"], 0, "none", ""),
    ];
    for step in steps {
        cli.run(step.0).check(*step);
    }
    until("the feed to end", || cli.run(&follow).code == 2);
    assert_eq!(cli.run(&["put", "carts/missed", "x", "--w", "all"]).code, 0);
    feed_on(&cli, "carts");
    let expired = cli.run(&follow);
    expired.check((&["feed"], 1, "", "quorate export carts"));
    assert_eq!(fs::read_to_string(&file).unwrap(), before, "to go on is up to the user");
    let cursor = expired.err.lines().next().unwrap().rsplit(' ').next().unwrap();
    fs::write(&file, format!("{cursor}\n")).unwrap();
    assert_eq!(cli.run(&["put", "carts/heard", "x", "--w", "all"]).code, 0);
    assert_eq!(cli.run(&follow).out, "heard\tx\n");
    fs::write(&file, "no cursor").unwrap();
    cli.run(&follow).check((&["feed"], 2, "", "carts.cursor: this is no cursor"));
}

#[test]
fn a_get_waits_for_something_new() {
    let cli = Cli::start();
    let wait = ["get", "b/k", "--wait", "60s"];
    let begun = Instant::now();
    let waits = |act: &[&str]| {
        thread::scope(|scope| {
            let waiting = scope.spawn(|| cli.run(&wait));
            thread::sleep(Duration::from_millis(300));
            assert_eq!(cli.other().run(act).code, 0);
            waiting.join().unwrap()
        })
    };
    assert_eq!(waits(&["put", "b/k", "one"]).out, "one");
    // What this user has seen since is not new; what another writes is.
    let nothing = cli.run(&["get", "b/k", "--wait", "300ms"]);
    nothing.check((&["get"], 7, "", "nothing new under b/k after 300ms"));
    let context = cli.json(&["get", "b/k"], 0)["context"].as_str().unwrap().to_owned();
    assert_eq!(waits(&["put", "b/k", "two", "--context", &context]).out, "two");
    let since = cli.run(&["get", "b/k", "--wait", "60s", "--context", &context]);
    assert_eq!(since.out, "two", "at once: {since:?}");
    waits(&["delete", "b/k"]).check((&wait, 3, "", "was deleted"));
    assert!(begun.elapsed() < Duration::from_secs(30), "{:?}", begun.elapsed());
    for bad in [
        &["get", "b/k", "--wait", "0s"][..],
        &["get", "b/k", "--wait", "1s", "--explain"],
        &["get", "b/k", "--context", &context],
    ] {
        assert_eq!(cli.run(bad).code, 2, "{bad:?}");
    }
}
