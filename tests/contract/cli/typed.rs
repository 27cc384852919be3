//! Commands on values that merge by themselves.

use serde_json::json;

use super::{Case, Cli};

#[test]
fn typed_values_are_read_and_changed() {
    let cli = Cli::start();
    let steps: &[Case<'_>] = &[
        (&["bucket", "set", "visits", "--type", "counter"], 0, "counter", ""),
        (&["bucket", "set", "visits", "--n", "2"], 0, "counter", ""),
        (&["bucket", "list"], 0, "visits        counter  2", ""),
        (&["typed", "get", "visits/home"], 0, "0\n", "nothing is stored"),
        (&["typed", "increment", "visits/home"], 0, "changed visits/home on 2 nodes; now 1", ""),
        (&["typed", "increment", "visits/home", "-5"], 0, "now -4", ""),
        (&["typed", "increment", "visits/home", "--at-most-once"], 0, "now -3", ""),
        (&["typed", "get", "visits/home"], 0, "-3\n", ""),
        (&["bucket", "set", "carts", "--type", "set"], 0, "its type", ""),
        (&["typed", "add", "carts/alice", "book", "pen"], 0, "now 2 elements", ""),
        (
            &["typed", "remove", "carts/alice", "pen", "--w", "all"],
            0,
            "on 3 nodes; now 1 element",
            "",
        ),
        (&["typed", "get", "carts/alice", "--r", "all"], 0, "book\n", ""),
        (&["siblings", "carts/alice"], 0, "1 part", ""),
        (&["bucket", "set", "flags", "--type", "flag"], 0, "flag", ""),
        (&["typed", "enable", "flags/dark"], 0, "now true", ""),
        (&["typed", "disable", "flags/dark"], 0, "now false", ""),
        (&["bucket", "set", "titles", "--type", "register_lww"], 0, "register_lww", ""),
        (&["typed", "assign", "titles/home", "Welcome"], 0, "now \"Welcome\"", ""),
        (&["typed", "get", "titles/home"], 0, "Welcome", ""),
        (&["bucket", "set", "seen", "--type", "hll"], 0, "hll", ""),
        (&["typed", "add", "seen/today", "a", "b", "a"], 0, "now about 2", ""),
        (&["typed", "get", "seen/today"], 0, "2\n", ""),
        (&["bucket", "set", "users", "--type", "map"], 0, "map", ""),
        (
            &["typed", "update", "users/ann", "--assign", "name=Ann", "--add", "roles=ops"],
            0,
            "2 fields",
            "",
        ),
        (
            &["typed", "update", "users/ann", "--remove-from", "roles=ops", "--enable", "on"],
            0,
            "2 fields",
            "",
        ),
        (&["typed", "get", "users/ann"], 0, "name   register_lww  Ann", ""),
        (&["typed", "delete", "users/ann"], 0, "deleted users/ann on 2 nodes", ""),
        (&["bucket", "reset", "visits"], 0, "counter", ""),
    ];
    for step in steps {
        cli.run(step.0).check(*step);
    }
    let shown = cli.json(&["typed", "get", "carts/alice"], 0);
    assert_eq!((&shown["type"], &shown["value"]), (&json!("set"), &json!(["book"])));
    assert_eq!((&shown["bucket"], &shown["exists"]), (&json!("carts"), &json!(true)));
    let context = shown["context"].as_str().unwrap();
    let added = cli.json(&["typed", "add", "carts/alice", "book"], 0);
    assert_eq!((&added["acks"], &added["value"]), (&json!(2), &json!(["book"])));
    let removed = cli.json(&["typed", "remove", "carts/alice", "book", "--context", context], 0);
    assert_eq!(
        removed["value"],
        json!(["book"]),
        "it was added again, which the context does not cover"
    );
    let order = ["typed", "increment", "visits/home", "5", "--idempotency-key", "order-17"];
    for _ in 0..2 {
        assert_eq!(cli.json(&order, 0)["value"], json!(2));
    }
}

#[test]
fn what_a_type_does_not_have_is_refused() {
    let cli = Cli::start();
    assert_eq!(cli.run(&["bucket", "set", "sets", "--type", "set"]).code, 0);
    assert_eq!(cli.run(&["put", "plain/k", "v", "--w", "all"]).code, 0);
    let steps: &[Case<'_>] = &[
        (&["typed", "increment", "sets/k"], 2, "", "bucket get sets"),
        (&["typed", "get", "plain/k"], 2, "", "wrong_type"),
        (&["get", "sets/k"], 2, "", "quorate typed"),
        (&["put", "sets/k", "v"], 2, "", "wrong_type"),
        (&["export", "sets"], 0, "", ""),
        (&["typed", "add", "sets/k", "x"], 0, "now 1 element", ""),
        (&["export", "sets"], 2, "", "quorate backup"),
        (&["bucket", "set", "plain", "--type", "set"], 2, "", "bucket_not_empty"),
        (&["bucket", "set", "sets", "--type", "counter"], 2, "", "wrong_type"),
        (&["bucket", "set", "sets", "--type", "heap"], 2, "", "register_lww"),
        (&["bucket", "set", "sets", "--type", "set", "--conflicts", "lww"], 2, "", "--conflicts"),
        (&["typed", "remove", "sets/k", "x", "--context", "A!"], 2, "", "--context"),
        (&["typed", "remove", "sets/k", "x", "--context", "AAAA"], 2, "", "typed get sets/k"),
        (&["typed", "remove", "sets/none", "x"], 0, "", ""),
        (&["typed", "increment", "sets/k", "1.5"], 2, "", "1.5"),
        (&["typed", "update", "sets/k"], 2, "", "nothing to change"),
        (&["typed", "update", "sets/k", "--enable", "a", "--disable", "a"], 2, "", "twice"),
        (&["typed", "update", "sets/k", "--assign", "a"], 2, "", "FIELD=TEXT"),
        (&["typed", "get", "sets"], 2, "", "BUCKET/KEY"),
    ];
    for step in steps {
        cli.run(step.0).check(*step);
    }
}
