//! Commands on index entries.

use serde_json::{Value, json};

use super::{Case, Cli, User};
use crate::common::Cluster;

#[test]
fn keys_are_found_by_their_entries() {
    let cli = Cli::start();
    let all = "--w=all";
    let steps: &[Case<'_>] = &[
        (
            &["put", "users/ada", "a", all, "--index", "email_s=b,1@x", "--index", "age_i=36"],
            0,
            "",
            "",
        ),
        (&["put", "users/bob", "b", all, "--index", "age_i=-7", "--index", "age_i=36"], 0, "", ""),
        (&["put", "users/cem", "c", all, "--index", "email_s=ü@x"], 0, "stored", ""),
        (&["index", "users", "email_s", "--eq", "b,1@x"], 0, "b,1@x  users/ada", ""),
        (&["index", "users", "email_s", "--from", "c"], 0, "users/cem", ""),
        (&["index", "users", "email_s", "--eq", "nobody"], 0, "no key has such an entry", ""),
        (&["index", "users", "nobody_i"], 0, "no key has such an entry", ""),
        (&["index", "users", "age_i", "--to", "-7"], 0, "users/bob", ""),
        (&["index", "users", "age_i", "--limit", "1"], 0, "users/bob", "--cursor"),
        (&["put", "users/x", "x", "--index", "age=7"], 2, "", "_i"),
        (&["put", "users/x", "x", "--index", "age_i"], 2, "", "NAME=VALUE"),
        (&["put", "users/x", "x", "--index", "age_i=old"], 2, "", "integers"),
        (&["index", "users", "age"], 2, "", "_i"),
        (&["index", "users", "age_i", "--eq", "old"], 2, "", "integers"),
        (&["index", "users", "age_i", "--eq", "1", "--from", "1"], 2, "", "--from"),
        (&["index", "users", "age_i", "--from", "2", "--to", "1"], 2, "", "bad_parameter"),
        (&["index", "users", "age_i", "--cursor", "nonsense"], 2, "", "cursor"),
        (&["index", "a b", "age_i"], 2, "", "a b"),
    ];
    for step in steps {
        cli.run(step.0).check(*step);
    }
    assert_eq!(cli.run(&["index", "users", "age_i", "--from=36", "--null"]).out, "ada\0bob\0");
    let lines = cli.run(&["index", "users", "age_i", "--json"]).out;
    let lines: Vec<Value> = lines.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    let [.., last] = &lines[..] else { panic!("there is no last line") };
    assert_eq!(
        last,
        &json!({"bucket": "users", "index": "age_i", "cursor": null, "complete": true})
    );
    let found = lines.iter().map(|line| (line["value"].as_i64(), line["key"].as_str()));
    let found: Vec<_> = found.take(lines.len() - 1).collect();
    assert_eq!(found, [(Some(-7), Some("bob")), (Some(36), Some("ada")), (Some(36), Some("bob"))]);

    // A put leaves none of the entries before, and a delete none at all.
    cli.run(&["put", "users/ada", "a", all]);
    cli.run(&["delete", "users/bob", all]);
    cli.run(&["index", "users", "age_i"]).check((&["index"], 0, "no key", ""));
}

#[test]
fn entries_are_shown_and_kept() {
    let (cli, other) = (Cli::start(), Cli::start());
    cli.run(&["put", "users/ada", "one", "--index", "age_i=36", "--index", "age_i=7"]);
    let index = json!({"age_i": [7, 36]});
    assert_eq!(cli.json(&["get", "users/ada"], 0)["index"], index);
    cli.run(&["siblings", "users/ada"]).check((&["siblings"], 0, "age_i=7 age_i=36", ""));
    assert_eq!(cli.json(&["siblings", "users/ada"], 0)["siblings"][0]["index"], index);
    cli.run(&["put", "users/none", "x"]);
    assert!(cli.json(&["get", "users/none"], 0).get("index").is_none());

    cli.run(&["put", "users/ada", "two", "--blind", "--index", "name_s=ada"]);
    cli.run(&["get", "users/ada"]).check((&["get"], 4, "", "name_s=ada"));
    let both = cli.json(&["get", "users/ada"], 4);
    let two = both["siblings"].as_array().unwrap().iter().find(|it| it["value"] == "two").unwrap();
    let dot = two["dot"].as_str().unwrap();

    // Both siblings with their entries go to another cluster.
    let lines = cli.run(&["export", "users"]).out;
    let ran = other.pipe(&["import", "--json"], lines.as_bytes());
    assert_eq!(ran.code, 0, "{ran:?}");
    let mut there: Vec<String> = other.json(&["get", "users/ada"], 4)["siblings"]
        .as_array()
        .unwrap()
        .iter()
        .map(|it| it["index"].to_string())
        .collect();
    there.sort();
    assert_eq!(there, [index.to_string(), json!({"name_s": ["ada"]}).to_string()]);
    let again = other.pipe(&["import", "--json"], lines.as_bytes());
    let again: Value = serde_json::from_str(&again.out).unwrap();
    assert_eq!(again["same"], 2, "{again}");
    let old = br#"{"bucket": "users", "key": "old", "siblings": [{"value": "x"}]}"#;
    assert_eq!(other.pipe(&["import"], old).code, 0, "a line of an older release");

    cli.run(&["resolve", "users/ada", "--keep", dot]).check((&["resolve"], 0, "kept", ""));
    assert_eq!(cli.json(&["get", "users/ada"], 0)["index"], json!({"name_s": ["ada"]}));
    let line =
        br#"{"op": "put", "bucket": "users", "key": "b", "value": "", "index": {"age_i": 7}}"#;
    assert_eq!(cli.pipe(&["batch"], line).code, 0);
    let read = cli.pipe(&["batch"], br#"{"op": "get", "bucket": "users", "key": "b"}"#).out;
    let read: Value = serde_json::from_str(read.trim()).unwrap();
    assert_eq!(read["index"], json!({"age_i": [7]}));
}

#[test]
fn what_may_be_missing_is_told() {
    let mut cluster = Cluster::start(3);
    let user = User::of(cluster.nodes[0].client_addr);
    let put = ["put", "users/ada", "x", "--w", "all", "--index", "age_i=36"];
    assert_eq!(user.run(&put).code, 0);
    cluster.nodes[1].kill();
    user.run(&["index", "users", "age_i"]).check((&["index"], 0, "users/ada", ""));
    cluster.nodes[2].kill();
    user.run(&["index", "users", "age_i"]).check((&["index"], 5, "", "may be missing"));
    let told = user.run(&["index", "users", "age_i", "--json"]);
    let last: Value = serde_json::from_str(told.out.lines().last().unwrap()).unwrap();
    assert_eq!((told.code, &last["complete"]), (5, &json!(false)), "{told:?}");
}
