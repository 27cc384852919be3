//! `/metrics`: what it says is what docs/metrics.md lists, in both formats; and the alert rules and
//! the dashboard name nothing else.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::PathBuf;
use std::process::Command;

use crate::common::http::Request;
use crate::common::{Cluster, Node, until};

const OPEN_METRICS: &str = "application/openmetrics-text";

/// The metrics of a node in Prometheus' text format: the name with its labels, and the value.
fn values(node: &Node) -> BTreeMap<String, f64> {
    let text = node.get("/metrics").text();
    let samples = text.lines().filter(|line| !line.starts_with('#'));
    let parsed = samples.map(|line| {
        let (name, value) = line.rsplit_once(' ').unwrap();
        (name.to_owned(), value.parse().unwrap_or_else(|_| panic!("{line}")))
    });
    parsed.collect()
}

/// The names after `# TYPE`, with the type of each.
fn families(text: &str) -> BTreeMap<String, String> {
    let types = text.lines().filter_map(|line| line.strip_prefix("# TYPE "));
    let mut families = BTreeMap::new();
    for (name, kind) in types.map(|line| line.split_once(' ').unwrap()) {
        assert!(families.insert(name.to_owned(), kind.to_owned()).is_none(), "{name} comes twice");
    }
    families
}

/// The metrics of docs/metrics.md.
fn documented() -> BTreeSet<String> {
    let text = fs::read_to_string("docs/metrics.md").unwrap();
    let items = text.lines().filter_map(|line| line.strip_prefix("* **`"));
    items.map(|item| item.split('`').next().unwrap().to_owned()).collect()
}

#[test]
fn what_a_node_says_is_what_is_documented() {
    let cluster = Cluster::start(3);
    let answer = cluster.nodes[0].get("/metrics");
    assert_eq!(answer.header("content-type"), Some("text/plain; version=0.0.4; charset=utf-8"));
    let said: BTreeSet<String> = families(&answer.text()).into_keys().collect();
    let documented = documented();
    let undocumented: Vec<_> = said.difference(&documented).collect();
    let silent: Vec<_> = documented.difference(&said).collect();
    assert!(undocumented.is_empty() && silent.is_empty(), "{undocumented:?} {silent:?}");
    for (name, value) in values(&cluster.nodes[0]) {
        assert!(value.is_finite(), "{name} {value}");
        assert!(value >= 0.0 || name == "quorate_clock_skew_seconds", "{name} {value}");
    }
}

#[test]
fn openmetrics_says_the_same_to_those_who_ask_for_it() {
    let cluster = Cluster::start(1);
    let node = &cluster.nodes[0];
    let ask = |accept: &str| node.send(&Request::get("/metrics").header("Accept", accept));
    let open = ask(&format!("{OPEN_METRICS};version=1.0.0;q=0.6,*/*;q=0.2"));
    assert!(open.header("content-type").unwrap().starts_with(OPEN_METRICS), "{open:?}");
    assert_eq!(open.header("vary"), Some("accept"));
    assert!(open.text().ends_with("\n# EOF\n"));
    let stems = |(name, kind): (String, String)| match kind.as_str() {
        "counter" => name.trim_end_matches("_total").to_owned(),
        _ => name.trim_end_matches("_info").to_owned(),
    };
    let plain: BTreeSet<String> =
        families(&node.get("/metrics").text()).into_iter().map(stems).collect();
    assert_eq!(families(&open.text()).into_keys().collect::<BTreeSet<_>>(), plain);
    node.get("/metrics?x=1").assert_problem(400, "bad_parameter");
}

#[test]
fn reads_writes_and_conflicts_are_counted_where_they_happen() {
    let cluster = Cluster::start(3);
    let node = &cluster.nodes[0];
    for value in ["1", "2"] {
        assert_eq!(node.send(&Request::put("/kv/b/k?w=3", value)).status, 204);
    }
    assert_eq!(node.get("/kv/b/k").status, 300);
    assert_eq!(node.get("/kv/b/never").status, 404);
    node.get("/kv/b").assert_problem(400, "bad_path");
    let is = |name: &str, wanted: f64| {
        let found = values(node).get(name).copied();
        assert_eq!(found, Some(wanted), "{name}");
    };
    is(r#"quorate_requests_total{operation="put",result="ok"}"#, 2.0);
    is(r#"quorate_requests_total{operation="get",result="siblings"}"#, 1.0);
    is(r#"quorate_requests_total{operation="get",result="not_found"}"#, 1.0);
    is(r#"quorate_requests_total{operation="get",result="client_error"}"#, 1.0);
    is(r#"quorate_request_duration_seconds_count{operation="get"}"#, 3.0);
    // With three nodes every node is a home replica: it coordinates its own writes.
    is(r#"quorate_phase_duration_seconds_count{phase="mint"}"#, 2.0);
    is(r#"quorate_phase_duration_seconds_count{phase="quorum_write"}"#, 2.0);
    is(r#"quorate_write_acks_total{role="home"}"#, 6.0);
    is(r#"quorate_write_acks_total{role="fallback"}"#, 0.0);
    is("quorate_write_conflicts_total", 1.0);
    is("quorate_read_siblings_bucket{le=\"1\"}", 0.0);
    is("quorate_read_siblings_bucket{le=\"2\"}", 1.0);
    is("quorate_read_siblings_sum", 2.0);
    is("quorate_conflict_keys", 1.0);
    let wrong = Request::put("/kv/b/k", "3").header("If-Match", "\"no\"");
    node.send(&wrong).assert_problem(412, "condition_failed");
    is(r#"quorate_requests_total{operation="put",result="precondition_failed"}"#, 1.0);
    until("the coordinator's copies to be durable", || {
        values(node)[r#"quorate_phase_duration_seconds_count{phase="sync"}"#] >= 2.0
    });
    assert!(values(node)[r#"quorate_phase_duration_seconds_count{phase="local_write"}"#] >= 2.0);
    assert!(values(node)[r#"quorate_peer_bytes_total{peer="n2",direction="sent"}"#] > 0.0);
    assert!(values(node)[r#"quorate_peer_round_trip_seconds_count{peer="n3"}"#] > 0.0);
}

#[test]
fn hints_and_what_they_wait_for_show() {
    let mut cluster = Cluster::start(4);
    let list = cluster.preference_list("b", "k");
    cluster.node(&list[2]).kill();
    let entry = &cluster.nodes.iter().find(|node| node.name == list[0]).unwrap();
    until("the write to be acknowledged by a fallback", || {
        entry.send(&Request::put("/kv/b/k?w=3", "v")).status == 204
    });
    let acks = values(entry)[r#"quorate_write_acks_total{role="fallback"}"#];
    assert!(acks >= 1.0, "{acks}");
    let fallback = cluster.nodes.iter().find(|node| node.name == list[3]).unwrap();
    let of_target = |name: &str| values(fallback)[&format!("{name}{{target=\"{}\"}}", list[2])];
    assert_eq!(of_target("quorate_hints"), 1.0);
    assert!(of_target("quorate_hints_bytes") > 0.0);
    assert_eq!(values(fallback)["quorate_hints_queued_total"], 1.0);
    let down = format!("quorate_peer_up{{peer=\"{}\"}}", list[2]);
    until("the dead node to be down", || values(fallback)[&down] == 0.0);
    assert_eq!(values(fallback)[r#"quorate_reaping_blocked{reason="node_down"}"#], 1.0);
    cluster.node(&list[2]).start();
    let fallback = cluster.nodes.iter().find(|node| node.name == list[3]).unwrap();
    until("the hint to be delivered", || values(fallback)["quorate_hints_delivered_total"] >= 1.0);
    until("it to be gone", || {
        values(fallback)[&format!("quorate_hints{{target=\"{}\"}}", list[2])] == 0.0
    });
}

#[test]
fn a_full_hint_store_and_the_age_of_the_last_comparison_show() {
    let settings = "[limits]\nhint_bytes_max = 0\n[anti_entropy]\ninterval_ms = 500\n";
    let mut cluster = Cluster::start_with(4, "test", settings);
    let list = cluster.preference_list("b", "k");
    let compared = format!("quorate_anti_entropy_age_seconds{{peer=\"{}\"}}", list[1]);
    let entry = cluster.nodes.iter().find(|node| node.name == list[0]).unwrap();
    assert_eq!(values(entry)["quorate_anti_entropy_interval_seconds"], 0.5);
    let rounds = r#"quorate_anti_entropy_rounds_total{result="complete"}"#;
    until("some comparisons", || values(entry)[rounds] >= 6.0);
    let started = values(entry)["process_start_time_seconds"];
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap();
    let age = values(entry)[&compared];
    assert!(age < now.as_secs_f64() - started, "{age} is as long as the node runs");
    cluster.node(&list[2]).kill();
    let entry = cluster.nodes.iter().find(|node| node.name == list[0]).unwrap();
    let fallback = cluster.nodes.iter().find(|node| node.name == list[3]).unwrap();
    until("a hint to be refused", || {
        assert_eq!(entry.send(&Request::put("/kv/b/k?w=2", "v")).status, 204);
        values(fallback)["quorate_hints_refused_total"] >= 1.0
    });
    assert_eq!(values(fallback)["quorate_hints_queued_total"], 0.0);
}

/// Every word of a text that looks like a metric of ours, without the suffixes of histograms.
fn named(text: &str) -> BTreeSet<String> {
    let words = text.split(|c: char| !c.is_ascii_lowercase() && c != '_');
    let ours = words.filter(|word| word.starts_with("quorate_") || word.starts_with("process_"));
    let stem = |word: &str| {
        let suffix = ["_bucket", "_count", "_sum"].iter().find_map(|end| word.strip_suffix(end));
        suffix.unwrap_or(word).to_owned()
    };
    ours.map(stem).collect()
}

#[test]
fn alerts_and_dashboard_name_only_what_there_is() {
    let documented = documented();
    for file in ["config/prometheus/alerts.yaml", "config/grafana/quorate.json"] {
        let named = named(&fs::read_to_string(file).unwrap());
        let unknown: Vec<_> = named.difference(&documented).collect();
        assert!(named.len() > 10 && unknown.is_empty(), "{file} names {unknown:?}");
    }
}

/// Each alert has a runbook: a section of its own, named by the alert.
#[test]
fn every_alert_names_its_section() {
    let text = fs::read_to_string("config/prometheus/alerts.yaml").unwrap();
    let mut lines = text.lines().map(str::trim);
    let mut alerts = 0;
    while let Some(line) = lines.next() {
        let Some(alert) = line.strip_prefix("- alert: ") else { continue };
        let kebab = |c: char| match c {
            'A'..='Z' => format!("-{}", c.to_ascii_lowercase()),
            _ => c.to_string(),
        };
        let anchor: String = alert.chars().map(kebab).collect();
        let runbook = lines.find_map(|line| line.strip_prefix("runbook: ")).unwrap();
        assert_eq!(runbook, format!("docs/operations.md#{}", anchor.trim_start_matches('-')));
        alerts += 1;
    }
    assert!(alerts > 20, "{alerts}");
}

/// promtool, if it is installed: named by `PROMTOOL`, or on the path.
fn promtool() -> Option<PathBuf> {
    let found = std::env::var_os("PROMTOOL").map(PathBuf::from);
    let found = found.unwrap_or_else(|| PathBuf::from("promtool"));
    let runs = Command::new(&found).arg("--version").output().is_ok_and(|run| run.status.success());
    runs.then_some(found)
}

/// Where promtool is installed it finds nothing wrong with names, rules and the rules' tests.
#[test]
fn promtool_agrees() {
    let Some(promtool) = promtool() else { return };
    let assert_passes = |command: &mut Command| {
        let run = command.output().unwrap();
        let told = [run.stdout, run.stderr].concat();
        let told = String::from_utf8_lossy(&told);
        assert!(run.status.success(), "{command:?}: {told}");
        told.into_owned()
    };
    let run = || Command::new(&promtool);
    assert_passes(run().args(["check", "rules", "config/prometheus/alerts.yaml"]));
    assert_passes(run().args(["test", "rules", "config/prometheus/alerts_test.yaml"]));
    let cluster = Cluster::start(3);
    let file = tempfile::NamedTempFile::new().unwrap();
    fs::write(file.path(), cluster.nodes[0].get("/metrics").body).unwrap();
    let told = assert_passes(run().args(["check", "metrics"]).stdin(file.reopen().unwrap()));
    assert_eq!(told.trim(), "");
}
