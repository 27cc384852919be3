//! The modules of the node depend on each other in one direction: no circle of more than three, and
//! nothing below imports what is above it. Found by reading `use` statements and paths, as rustc does not
//! check it.

#![allow(clippy::unwrap_used)]

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::Path;

/// The largest circle of modules that is allowed: three that are one thing in three files.
const CIRCLE_MAX: usize = 3;

/// The crates whose modules are looked at.
const ROOTS: [&str; 2] = ["crates/engine/src", "src"];

/// What these folders may not import, as they are below it.
const BELOW: [(&str, &[&str]); 10] = [
    ("http", &["api", "cli", "joining", "peer_port", "server"]),
    ("joining", &["api", "cli", "server"]),
    ("jwt", &["api", "cli", "http", "joining", "peer_port", "server"]),
    ("limits", &["background", "cluster", "node", "ops", "peer", "peer_port", "repair"]),
    ("node", &["peer_port"]),
    ("ops", &["peer_port", "repair"]),
    ("peer", &["background", "ops", "peer_port", "repair"]),
    ("repair", &["peer_port"]),
    ("tls", &["api", "cli", "http", "joining", "peer_port", "server"]),
    ("peer_port", &["api", "cli", "joining", "server"]),
];

type Graph = BTreeMap<String, BTreeSet<String>>;

#[test]
fn no_circle_of_modules_is_large() {
    for root in ROOTS {
        let graph = modules_below(Path::new(root));
        assert!(graph.len() > 50, "the walk found the modules of {root}");
        check_circles(&graph);
    }
}

fn check_circles(graph: &Graph) {
    let reach: BTreeMap<&str, BTreeSet<&str>> =
        graph.keys().map(|module| (module.as_str(), reachable(graph, module))).collect();
    for (module, reached) in &reach {
        let circle: Vec<&str> =
            reached.iter().copied().filter(|other| reach[other].contains(module)).collect();
        assert!(circle.len() <= CIRCLE_MAX, "{module} is in a circle: {circle:?}");
    }
}

#[test]
fn imports_point_down() {
    for (module, imports) in ROOTS.into_iter().flat_map(|root| modules_below(Path::new(root))) {
        let folder = module.split("::").next().unwrap();
        for (below, above) in BELOW.iter().filter(|(below, _)| *below == folder) {
            let up = |import: &&String| above.contains(&import.split("::").next().unwrap());
            let found: Vec<&String> = imports.iter().filter(up).collect();
            assert!(found.is_empty(), "{module} is in {below} and imports {found:?}");
        }
    }
}

/// A circle that is planted is found.
#[test]
fn the_reader_sees_all_forms_of_imports() {
    let text = "use crate::a::{b::{self, C}, d};\nfn f() { crate::e::g(); super::h::i() }\n";
    let known = ["a", "a::b", "a::d", "e", "x::h"].map(str::to_owned).into();
    let found = imports(text, "x::y", &known);
    assert_eq!(found, ["a::b", "a::d", "e", "x::h"].map(str::to_owned).into());
}

fn reachable<'a>(graph: &'a Graph, from: &str) -> BTreeSet<&'a str> {
    let mut reached = BTreeSet::new();
    let mut next: Vec<&str> = graph[from].iter().map(String::as_str).collect();
    while let Some(module) = next.pop() {
        if reached.insert(module) {
            next.extend(graph[module].iter().map(String::as_str));
        }
    }
    reached
}

/// Every module with those it imports, but for what only its tests do.
fn modules_below(root: &Path) -> Graph {
    let mut texts = BTreeMap::new();
    collect(root, "", &mut texts);
    let known: BTreeSet<String> = texts.keys().cloned().collect();
    texts
        .iter()
        .map(|(module, text)| {
            let text = text.split("#[cfg(test)]\n").next().unwrap();
            (module.clone(), imports(text, module, &known))
        })
        .collect()
}

fn collect(dir: &Path, prefix: &str, texts: &mut BTreeMap<String, String>) {
    for entry in fs::read_dir(dir).unwrap() {
        let path = entry.unwrap().path();
        let stem = path.file_stem().unwrap().to_str().unwrap().to_owned();
        if path.is_dir() {
            collect(&path, &format!("{prefix}{stem}::"), texts);
        } else if !["lib", "main", "tests"].contains(&stem.as_str()) {
            let module = match stem.as_str() {
                "mod" => prefix.trim_end_matches("::").to_owned(),
                _ => format!("{prefix}{stem}"),
            };
            texts.insert(module, fs::read_to_string(&path).unwrap());
        }
    }
}

/// The modules that a text names in `use` statements or paths.
fn imports(text: &str, module: &str, known: &BTreeSet<String>) -> BTreeSet<String> {
    let code: String =
        text.lines().map(|line| line.split("//").next().unwrap()).collect::<Vec<_>>().join("\n");
    let mut found = BTreeSet::new();
    for (start, base) in [("crate::", Some("")), ("super::", module.rsplit_once("::").map(|p| p.0))]
    {
        let Some(base) = base else { continue };
        for (at, _) in code.match_indices(start) {
            let before = code[..at].chars().next_back();
            if before.is_some_and(|c| c.is_alphanumeric() || c == '_' || c == ':') {
                continue;
            }
            for path in paths(&code[at + start.len()..]) {
                let full = if base.is_empty() { path } else { format!("{base}::{path}") };
                found.extend(module_of(&full, known));
            }
        }
    }
    found.remove(module);
    found
}

/// The paths that a tree such as `a::{b, c::{self, D}}` names.
fn paths(text: &str) -> Vec<String> {
    let word = |c: char| c.is_alphanumeric() || c == '_';
    let end = text.find(|c: char| !word(c) && c != ':').unwrap_or(text.len());
    let prefix = text[..end].trim_end_matches("::");
    if !text[end..].starts_with('{') || !text[..end].ends_with("::") {
        return vec![prefix.to_owned()];
    }
    let (mut depth, mut from, mut all) = (0, end + 1, Vec::new());
    for (at, c) in text[end..].char_indices().map(|(at, c)| (end + at, c)) {
        match c {
            '{' => depth += 1,
            '}' => depth -= 1,
            _ => {}
        }
        if (c == ',' && depth == 1) || depth == 0 {
            let item = text[from..at].trim();
            if !item.is_empty() {
                all.extend(paths(item).into_iter().map(|rest| format!("{prefix}::{rest}")));
            }
            from = at + 1;
        }
        if depth == 0 {
            break;
        }
    }
    all
}

/// The longest part of a path that is a module.
fn module_of(path: &str, known: &BTreeSet<String>) -> Option<String> {
    let mut path = path.trim_end_matches("::self");
    loop {
        if known.contains(path) {
            return Some(path.to_owned());
        }
        path = path.rsplit_once("::")?.0;
    }
}
