//! Style rules that the compiler does not check.

#![allow(clippy::unwrap_used)]

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

/// What each package of the workspace may depend on within it: `src -> engine -> storage -> protocol
/// <- sim`, and `src -> cli -> client`.
const DIRECTION: [(&str, &[&str]); 10] = [
    (
        "Cargo.toml",
        &["quorate-cli", "quorate-engine", "quorate-otlp", "quorate-protocol", "quorate-storage"],
    ),
    ("crates/otlp/Cargo.toml", &[]),
    ("crates/engine/Cargo.toml", &["quorate-protocol", "quorate-storage"]),
    ("crates/storage/Cargo.toml", &["quorate-protocol"]),
    ("crates/protocol/Cargo.toml", &[]),
    ("crates/oracle/Cargo.toml", &["quorate-protocol"]),
    (
        "crates/sim/Cargo.toml",
        &["quorate-engine", "quorate-oracle", "quorate-protocol", "quorate-storage"],
    ),
    ("crates/bench/Cargo.toml", &["quorate-client"]),
    ("crates/client/Cargo.toml", &[]),
    ("crates/cli/Cargo.toml", &["quorate-client"]),
];

/// What the pure crate may use: nothing that does I/O, reads clocks or draws random numbers.
const PROTOCOL_MAY_USE: [&str; 8] = [
    "base64",
    "blake3",
    "bytes",
    "consistent_hash",
    "postcard",
    "serde",
    "thiserror",
    "xxhash-rust",
];

#[test]
fn dependencies_point_one_way() {
    for (manifest, allowed) in DIRECTION {
        let found = dependencies(manifest);
        let own: BTreeSet<_> = found.iter().filter(|d| d.starts_with("quorate-")).collect();
        let allowed: BTreeSet<_> = allowed.iter().map(|d| (*d).to_owned()).collect();
        assert!(own.iter().all(|d| allowed.contains(*d)), "{manifest} depends on {own:?}");
    }
}

/// The simulator repeats a run from its seed alone: the engine leaves nothing to chance or to the
/// machine that it does not get from its host.
#[test]
fn the_engine_leaves_nothing_to_the_machine() {
    const FORBIDDEN: [&str; 9] = [
        "std::time::Instant",
        "SystemTime",
        "std::fs",
        "std::net::Tcp",
        "tokio::net",
        "tokio::spawn",
        "spawn_blocking",
        "rand::",
        "std::thread",
    ];
    let are_tests = |file: &PathBuf| file.file_name().is_some_and(|name| name == "tests.rs");
    for file in files_below(Path::new("crates/engine/src")).iter().filter(|file| !are_tests(file)) {
        let text = fs::read_to_string(file).unwrap();
        let shipped = text.split("#[cfg(test)]\n").next().unwrap();
        for word in FORBIDDEN {
            assert!(!shipped.contains(word), "{}: {word}", file.display());
        }
        for (at, _) in shipped.match_indices("select! {") {
            let arms = shipped[at + "select! {".len()..].trim_start();
            assert!(arms.starts_with("biased;"), "{}: a select! at random", file.display());
        }
    }
}

/// What an operation knows of the cluster comes from one view (`cluster::view`), which the API or the
/// peer port takes when it is admitted: nothing in between looks at the layout or at bucket properties
/// again, and no view is taken elsewhere than in these files, so many times.
#[test]
fn an_operation_looks_at_the_cluster_once() {
    const LOOKS: [&str; 5] =
        ["node.layout", "node.buckets", "node.partition(", "config.layout", "config.defaults"];
    const VIEWS: [(&str, usize); 5] = [
        ("ops/feed.rs", 1),
        ("ops/inspect.rs", 1),
        ("ops/listing.rs", 1),
        ("peer_port/batch.rs", 2),
        ("peer_port/receive.rs", 1),
    ];
    let engine = Path::new("crates/engine/src");
    let files = ["ops", "peer_port"].map(|folder| files_below(&engine.join(folder))).concat();
    assert!(files.len() > 20, "the walk found the operations");
    for file in files {
        let text = fs::read_to_string(&file).unwrap();
        let shipped = text.split("#[cfg(test)]\n").next().unwrap();
        // A chain of calls may be broken into lines.
        let shipped: String = shipped.split_whitespace().collect();
        for word in LOOKS {
            assert!(!shipped.contains(word), "{}: {word}", file.display());
        }
        let known = VIEWS.iter().find(|(name, _)| engine.join(name) == file);
        let views = shipped.matches(".view()").count();
        assert_eq!(views, known.map_or(0, |(_, views)| *views), "views in {}", file.display());
    }
}

#[test]
fn the_protocol_stays_pure() {
    for dependency in dependencies("crates/protocol/Cargo.toml") {
        assert!(PROTOCOL_MAY_USE.contains(&dependency.as_str()), "protocol uses {dependency}");
    }
}

#[test]
fn only_storage_knows_rocksdb_and_only_one_file_the_ring() {
    for file in sources().into_iter().filter(|file| !file.ends_with("tests/tidy.rs")) {
        let text = fs::read_to_string(&file).unwrap();
        let path = file.display().to_string();
        if text.contains("use rocksdb") || text.contains("rocksdb::") {
            assert!(path.contains("crates/storage/") || path.contains("crates/bench/"), "{path}");
        }
        if text.contains("use consistent_hash") {
            assert!(path.ends_with("protocol/src/layout.rs"), "{path}");
        }
    }
}

#[test]
fn lines_fit_and_nothing_is_left_lying_about() {
    let marks = ["FIX", "TO", "XX"].map(|start| match start {
        "FIX" => "FIXME".to_owned(),
        "TO" => format!("{start}DO"),
        _ => format!("{start}X"),
    });
    for file in sources().into_iter().filter(|file| !file.ends_with("tests/tidy.rs")) {
        let text = fs::read_to_string(&file).unwrap();
        assert!(text.starts_with("//!") || text.starts_with("#!["), "{}: no head", file.display());
        for (number, line) in text.lines().enumerate() {
            let place = format!("{}:{}", file.display(), number + 1);
            assert!(line.chars().count() <= 110, "{place}: a line of over 110 characters");
            for mark in &marks {
                assert!(!line.contains(mark.as_str()), "{place}: {mark}");
            }
        }
    }
}

/// Every setting is documented in `config/node.toml`: what is commented out shows its default, so
/// the file must still load when every comment mark before a setting is removed.
#[test]
fn every_setting_is_documented() {
    let text = fs::read_to_string("config/node.toml").unwrap();
    let shown: String = text
        .lines()
        .map(|line| match line.strip_prefix('#') {
            Some(setting) if !setting.starts_with(' ') => format!("{setting}\n"),
            Some(_) | None => format!("{line}\n"),
        })
        .collect();
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("node.toml");
    // The example's key is refused, so that it is never used in earnest.
    fs::write(&file, shown.replace(&"0".repeat(64), &"07".repeat(32))).unwrap();
    quorate::config::load(&file).unwrap();
    let source: String =
        ["crates/engine/src/config/mod.rs", "crates/engine/src/config/sections.rs"]
            .map(|file| fs::read_to_string(file).unwrap())
            .concat();
    // What serde skips is no setting.
    let lines = source.lines().zip(std::iter::once("").chain(source.lines()));
    let lines = lines.filter(|(_, before)| !before.contains("#[serde(skip)]"));
    let fields = lines.filter_map(|(line, _)| line.trim().strip_prefix("pub "));
    for field in fields.filter_map(|rest| rest.split_once(':').map(|(name, _)| name)) {
        let is_field = field.chars().all(|c| c.is_ascii_lowercase() || c == '_');
        let is_section =
            text.contains(&format!("[{field}]")) || text.contains(&format!(".{field}]]"));
        assert!(
            !is_field || is_section || shown.contains(&format!("{field} =")),
            "{field} is not in config/node.toml"
        );
    }
}

/// A golden script starts with a comment on what should happen.
#[test]
fn golden_scripts_open_with_their_story() {
    for script in files_below(Path::new("crates/protocol/testscripts")) {
        let text = fs::read_to_string(&script).unwrap();
        assert!(text.starts_with('#'), "{}: no first comment", script.display());
    }
}

fn dependencies(manifest: &str) -> Vec<String> {
    let text = fs::read_to_string(manifest).unwrap();
    let section = text.split("\n[dependencies]\n").nth(1).unwrap_or_default();
    let section = section.split("\n[").next().unwrap();
    let name = |line: &str| line.split(['.', ' ', '=']).next().unwrap_or_default().to_owned();
    section.lines().filter(|line| !line.is_empty() && !line.starts_with('#')).map(name).collect()
}

fn sources() -> Vec<PathBuf> {
    let mut files = Vec::new();
    for dir in ["src", "crates", "tests"] {
        files.extend(files_below(Path::new(dir)));
    }
    files.retain(|file| file.extension().is_some_and(|e| e == "rs"));
    assert!(files.len() > 30, "the walk found the sources");
    files
}

fn files_below(dir: &Path) -> Vec<PathBuf> {
    let mut files = Vec::new();
    let Ok(entries) = fs::read_dir(dir) else { return files };
    for entry in entries {
        let path = entry.unwrap().path();
        if path.is_dir() {
            files.extend(files_below(&path));
        } else {
            files.push(path);
        }
    }
    files
}
