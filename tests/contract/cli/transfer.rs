//! `load`, `verify`, `export`, `import`.

use std::fs;

use super::Cli;

#[test]
fn a_directory_is_loaded_and_read_back_from_other_nodes() {
    let cli = Cli::start();
    let dir = tempfile::tempdir().unwrap();
    let root = dir.path().join("tree");
    fs::create_dir_all(root.join("sub dir")).unwrap();
    for (name, text) in [("a.txt", "a"), ("sub dir/ü#?.json", "{}"), ("empty", "")] {
        fs::write(root.join(name), text).unwrap();
    }
    std::os::unix::fs::symlink("/", root.join("link")).unwrap();
    let path = root.to_str().unwrap();
    let ran = cli.run(&["load", path, "--verify", "--bucket", "docs"]);
    ran.check((&["load"], 0, "stored: 3 of 3 files", ""));
    ran.check((&["load"], 0, "verified: 3 of 3 files", ""));
    ran.check((&["load"], 0, "skipped: 1 (symlink)", ""));
    assert_eq!(cli.json(&["get", "docs/sub dir/ü#?.json"], 0)["content_type"], "application/json");
    // A second load resolves the siblings that it makes.
    let again = cli.json(&["load", path, "--bucket", "docs"], 0);
    assert_eq!((&again["stored"]["files"], &again["failures"]), (&3.into(), &0.into()));
    assert_eq!(cli.json(&["siblings", "docs"], 0)["keys"], serde_json::json!([]));
    assert_eq!(cli.run(&["verify", path, "--bucket", "docs"]).code, 0);
    fs::write(root.join("a.txt"), "b").unwrap();
    fs::write(root.join("new"), "n").unwrap();
    let told = cli.json(&["verify", path, "--bucket", "docs"], 1);
    assert_eq!(
        (&told["differences"], &told["verified"]["files"]),
        (&2.into(), &2.into()),
        "{told}"
    );
    cli.run(&["load", "/no/such/dir"]).check((&["load"], 2, "", "/no/such/dir"));
    cli.run(&["load", path, "--bucket", "a b"]).check((&["load"], 2, "", "a b"));
}

#[test]
fn an_export_brings_everything_to_another_cluster() {
    let (from, to) = (Cli::start(), Cli::start());
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("b.jsonl");
    let file = path.to_str().unwrap();
    from.pipe(&["put", "b/bytes", "--meta", "a=1"], &[0, 255]);
    from.run(&["put", "b/text", "one"]);
    from.run(&["put", "b/both", "left"]);
    from.run(&["put", "b/both", "right", "--blind"]);
    from.run(&["put", "b/gone", "x"]);
    from.run(&["delete", "b/gone"]);
    let told = from.json(&["export", "b", "--output", file], 0);
    assert_eq!((&told["keys"], &told["in_conflict"]), (&3.into(), &1.into()), "{told}");
    assert_eq!(from.run(&["export", "b"]).out, fs::read_to_string(&path).unwrap());
    from.run(&["export", "b", "--output", file]).check((&["export"], 2, "", "new file"));

    let counted = |ran: &serde_json::Value| {
        ["new", "same", "replaced", "conflicted", "skipped"].map(|name| ran[name].as_u64().unwrap())
    };
    assert_eq!(counted(&to.json(&["import", file, "--dry-run"], 0)), [3, 0, 0, 0, 0]);
    assert_eq!(to.json(&["siblings"], 0)["keys"], serde_json::json!([]), "nothing was written");
    assert_eq!(counted(&to.json(&["import", file], 0)), [3, 0, 0, 0, 0]);
    let values = |cli: &Cli| {
        let both = cli.json(&["get", "b/both"], 4);
        let mut values: Vec<String> =
            both["siblings"].as_array().unwrap().iter().map(|it| it["value"].to_string()).collect();
        values.sort();
        values
    };
    assert_eq!(values(&to), values(&from));
    let bytes = to.json(&["get", "b/bytes"], 0);
    assert_eq!((&bytes["value"], &bytes["meta"]["a"]), (&"AP8=".into(), &"1".into()));
    assert_eq!(counted(&to.json(&["import", file], 0)), [0, 3, 0, 0, 0]);

    // What was changed there since is kept, unless it may be replaced.
    to.run(&["get", "b/text"]);
    to.run(&["put", "b/text", "two"]);
    assert_eq!(counted(&to.json(&["import", file, "--on-conflict", "skip"], 0)), [0, 2, 0, 0, 1]);
    assert_eq!(counted(&to.json(&["import", file], 4)), [0, 2, 0, 1, 0]);
    assert_eq!(to.json(&["get", "b/text"], 4)["siblings"].as_array().unwrap().len(), 2);
    assert_eq!(counted(&to.json(&["import", file, "--from-line", "3"], 0)), [0, 1, 0, 0, 0]);

    // Where the export's contexts are good, an edited export replaces what it saw.
    let edited = fs::read_to_string(&path).unwrap().replace("\"one\"", "\"edited\"");
    let ran = from.pipe(&["import", "--json"], edited.as_bytes());
    assert_eq!(counted(&serde_json::from_str(&ran.out).unwrap()), [0, 2, 1, 0, 0], "{ran:?}");
    assert_eq!(from.run(&["get", "b/text"]).out, "edited");
}

#[test]
fn a_bad_import_writes_nothing_and_says_where() {
    let cli = Cli::start();
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("bad.jsonl");
    let good = "{\"bucket\":\"b\",\"key\":\"k\",\"siblings\":[{\"value\":\"x\"}]}";
    let file = path.to_str().unwrap();
    for (bad, word) in [
        ("{", "line 2: no JSON"),
        ("", "line 2: no JSON"),
        ("{\"bucket\":\"b\",\"key\":\"k\",\"siblings\":[{\"value\":7}]}", "line 2: value"),
        (
            "{\"bucket\":\"..\",\"key\":\"k\",\"siblings\":[{\"value\":\"7\"}]}",
            "line 2: the bucket",
        ),
        ("{\"bucket\":\"b\",\"key\":\"k\",\"vaule\":7}", "line 2: \"vaule\""),
    ] {
        fs::write(&path, format!("{good}\n{bad}\n{good}\n")).unwrap();
        let ran = cli.run(&["import", file]);
        ran.check((&["import", bad], 2, "", word));
        assert!(ran.err.contains("nothing was written"), "{ran:?}");
    }
    assert_eq!(cli.run(&["get", "b/k"]).code, 3);
    // What comes through a pipe cannot be checked first: the lines before the bad one are done.
    let piped = cli.pipe(&["import"], format!("{good}\n{{\n{good}\n").as_bytes());
    assert!(piped.code == 2 && piped.err.contains("--from-line 2"), "{piped:?}");
    assert_eq!(cli.run(&["get", "b/k"]).out, "x");
    cli.run(&["import", "/no/such/file"]).check((&["import"], 2, "", "/no/such/file"));
    cli.run(&["import", file, "--on-conflict", "x"]).check((&["import"], 2, "", "on-conflict"));
}
