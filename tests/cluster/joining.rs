//! A node that joins a running cluster: it waits on its ports until an operator adds it, then fills and
//! serves.

use std::process::Command;
use std::time::Duration;

use crate::harness::{Cluster, Setup, eventually, within};
use crate::http::Node;
use crate::process::Process;

/// A node that asks n1 to be added.
struct Newcomer {
    name: String,
    process: Process,
    http: Node,
    _dir: tempfile::TempDir,
}

impl Newcomer {
    /// The fourth of three nodes.
    fn of(cluster: &Cluster) -> Self {
        Self::numbered(4, cluster)
    }

    fn numbered(number: usize, cluster: &Cluster) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let process = Process::new(dir.path(), number);
        let name = format!("n{number}");
        let text = cluster.configuration(1);
        let (before, _) = text.split_once("[layout]").unwrap();
        let text = before
            .replacen("node = \"n1\"", &format!("node = \"{name}\""), 1)
            .replace(
                &cluster.data_dir(1).display().to_string(),
                &process.data_dir().display().to_string(),
            )
            .replace(&cluster.client_addr(1).to_string(), &process.client_addr.to_string())
            .replace(&cluster.peer_addr(1).to_string(), &process.peer_addr.to_string());
        let join = format!("join = [\"{}\"]\nzone = \"{name}\"\n", cluster.peer_addr(1));
        std::fs::write(process.config(), join + &text).unwrap();
        let base = format!("http://{}", process.client_addr);
        let client = crate::tls::plain_http().build().unwrap();
        Self { name, process, http: Node::new(client, base), _dir: dir }
    }

    /// Waits until its readiness has this status and says this.
    async fn shows(&self, status: u16, words: &str) {
        let name = &self.name;
        within(Duration::from_secs(60), &format!("{name} is at {status}: {words}"), async || {
            let ended = self.process.ended();
            assert!(ended.is_none(), "{name} ended: {ended:?}\n{}", self.process.log_text());
            let answer = self.http.get("/readyz").try_answer().await.ok()?;
            (answer.status == status && answer.text().contains(words)).then_some(())
        })
        .await;
    }
}

const WAITS: &str = "waiting to be added to the cluster: quorate layout commit --add n4";

#[tokio::test(flavor = "multi_thread")]
async fn a_node_that_joins_waits_on_its_ports() {
    let cluster = Cluster::start(Setup::of(3)).await;
    let newcomer = Newcomer::of(&cluster);
    newcomer.process.launch();
    newcomer.shows(503, WAITS).await;
    let alive = newcomer.http.get("/livez").answer().await;
    assert_eq!((alive.status, alive.text().as_str()), (200, "alive\n"));
    let read = newcomer.http.get("/kv/b/k").answer().await;
    assert_eq!(read.status, 503, "{}", read.text());
    let put = newcomer.http.put("/kv/b/k").value("v").answer().await;
    assert_eq!((put.status, put.outcome().as_str()), (503, "not_applied"));
    // Killed, it asks again with the same disk; told to stop, it goes.
    let disk = || std::fs::read(newcomer.process.data_dir().join("disk-id")).unwrap();
    let drawn = disk();
    newcomer.process.kill();
    newcomer.process.launch();
    newcomer.shows(503, WAITS).await;
    assert_eq!(disk(), drawn);
    // Nobody to ask is said, and passes.
    for number in cluster.all() {
        cluster.pause(number);
    }
    newcomer.shows(503, "no address in join answers").await;
    for number in cluster.all() {
        cluster.resume(number);
    }
    let waits_only = async || {
        let answer = newcomer.http.get("/readyz").try_answer().await.ok()?;
        (!answer.text().contains("no address")).then_some(())
    };
    eventually("the members answer again", waits_only).await;
    newcomer.process.signal("TERM");
    let status = eventually("n4 stops", async || newcomer.process.ended()).await;
    assert!(status.success(), "{status}\n{}", newcomer.process.log_text());
}

/// Another node under a member's name is refused, and the member goes on.
#[tokio::test(flavor = "multi_thread")]
async fn a_name_that_is_taken_is_refused_in_words() {
    let cluster = Cluster::start(Setup::of(3)).await;
    let newcomer = Newcomer::of(&cluster);
    let text = std::fs::read_to_string(newcomer.process.config()).unwrap();
    let text = text.replacen("node = \"n4\"", "node = \"n2\"", 1);
    std::fs::write(newcomer.process.config(), text).unwrap();
    newcomer.process.launch();
    newcomer.shows(503, "the name n2 is taken").await;
    cluster.wait_all_up().await;
}

/// From three nodes to four while clients read and write. A crash of the newcomer in between costs nothing.
#[tokio::test(flavor = "multi_thread")]
async fn a_node_that_was_added_fills_and_serves() {
    let cluster = Cluster::start(Setup::synced(3)).await;
    let keys: Vec<String> = (0..200).map(|at| format!("/kv/b/k{at}")).collect();
    for (at, key) in keys.iter().enumerate() {
        let put = cluster.at(1 + at % 3).put(key).value(format!("v{at}")).answer().await;
        assert_eq!(put.status, 204, "{}", put.text());
    }
    let newcomer = Newcomer::of(&cluster);
    newcomer.process.launch();
    newcomer.shows(503, WAITS).await;
    layout(&cluster, &["commit", "--add", "n4", "--yes"]);
    newcomer.process.kill();
    newcomer.process.launch();
    layout(&cluster, &["wait"]);
    newcomer.shows(200, "\"ready\":true").await;
    let shown = cluster.at(1).get("/layout").answer().await.json();
    assert_eq!(shown["waiting"], serde_json::json!([]), "who was added does not ask any more");
    for (at, key) in keys.iter().enumerate() {
        for node in [cluster.at(1), cluster.at(2), cluster.at(3), newcomer.http.clone()] {
            let read = node.get(key).answer().await;
            assert_eq!((read.status, read.text()), (200, format!("v{at}")), "{key}");
        }
    }
    let put = newcomer.http.put("/kv/b/new").value("v").answer().await;
    assert_eq!(put.status, 204, "{}", put.text());
    // The record counts from now on: the configuration need not name anybody.
    newcomer.process.kill();
    let text = std::fs::read_to_string(newcomer.process.config()).unwrap();
    let (_, without_join) = text.split_once('\n').unwrap();
    std::fs::write(newcomer.process.config(), without_join).unwrap();
    newcomer.process.launch();
    newcomer.shows(200, "\"ready\":true").await;
    let read = newcomer.http.get("/kv/b/new?r=all").answer().await;
    assert_eq!(read.text(), "v");
}

/// From one node to three, and to the two that came later: fewer than the n of the keys.
#[tokio::test(flavor = "multi_thread")]
async fn a_cluster_grows_from_fewer_nodes_than_n_and_shrinks_below() {
    let cluster = Cluster::start(Setup::synced(1)).await;
    let keys: Vec<String> = (0..100).map(|at| format!("/kv/b/k{at}")).collect();
    for key in &keys {
        let put = cluster.at(1).put(key).value("old").answer().await;
        assert_eq!(put.status, 204, "{}", put.text());
    }
    let newcomers = [Newcomer::numbered(2, &cluster), Newcomer::numbered(3, &cluster)];
    for newcomer in &newcomers {
        newcomer.process.launch();
        let waits = format!(
            "waiting to be added to the cluster: quorate layout commit --add {}",
            newcomer.name
        );
        newcomer.shows(503, &waits).await;
    }
    layout(&cluster, &["commit", "--add", "n2", "--add", "n3", "--yes"]);
    for key in &keys[..50] {
        let put = cluster.at(1).put(key).value("new").answer().await;
        assert!(matches!(put.status, 204 | 300), "{}: {}", put.status, put.text());
    }
    layout(&cluster, &["wait"]);
    let all = [&cluster.at(1), &newcomers[0].http, &newcomers[1].http];
    for newcomer in &newcomers {
        newcomer.shows(200, "\"ready\":true").await;
    }
    for key in &keys[50..] {
        for node in all {
            let read = node.get(&format!("{key}?r=all&sloppy=false")).answer().await;
            assert_eq!((read.status, read.text().as_str()), (200, "old"), "{key}");
        }
    }
    let shown = cluster.at(1).get("/siblings/b/k99").answer().await.text();
    assert_eq!(shown.matches("\"state\"").count(), 3, "{shown}");
    let put = cluster.at(1).put("/kv/b/all?w=3&sloppy=false").value("v").answer().await;
    assert_eq!(put.status, 204, "{}", put.text());

    layout(&cluster, &["commit", "--remove", "n1", "--accept", "too_few_nodes", "--yes"]);
    layout(&cluster, &["wait"]);
    cluster.kill(1);
    for key in &keys[50..] {
        let read = newcomers[1].http.get(&format!("{key}?r=all")).answer().await;
        assert_eq!((read.status, read.text().as_str()), (200, "old"), "{key}");
    }
    let put = newcomers[0].http.put("/kv/b/two?w=all").value("v").answer().await;
    assert_eq!(put.status, 204, "{}", put.text());
}

/// A node that left is released by itself, and says so for good.
#[tokio::test(flavor = "multi_thread")]
async fn a_node_that_left_serves_nothing_any_more() {
    let cluster = Cluster::start(Setup::of(3)).await;
    let newcomer = Newcomer::of(&cluster);
    newcomer.process.launch();
    newcomer.shows(503, WAITS).await;
    let metrics = newcomer.http.get("/metrics").answer().await;
    assert!(metrics.text().contains("\nquorate_ready 0\n"), "{}", metrics.text());
    layout(&cluster, &["commit", "--add", "n4", "--yes"]);
    layout(&cluster, &["wait"]);
    newcomer.shows(200, "\"ready\":true").await;
    assert_eq!(steps(&cluster, 1).await, ["finish", "begin", "form"]);

    layout(&cluster, &["commit", "--remove", "n4", "--yes"]);
    layout(&cluster, &["wait"]);
    let shown = cluster.at(1).get("/layout").answer().await.json();
    let leaving = &shown["leaving"][0];
    assert_eq!((&leaving["name"], &leaving["released"]), (&"n4".into(), &true.into()), "{shown}");
    for _ in 0..2 {
        newcomer.shows(503, "urn:quorate:problem:removed").await;
        let read = newcomer.http.get("/kv/b/k").answer().await;
        assert_eq!(read.status, 503, "{}", read.text());
        let write = newcomer.http.put("/kv/b/k").value("v").answer().await;
        assert_eq!((write.status, &*write.outcome()), (503, "not_applied"), "{}", write.text());
        let ring = newcomer.http.get("/ring").answer().await;
        assert!(ring.text().contains("stop it and delete its data directory"), "{}", ring.text());
        for path in ["/layout", "/livez", "/metrics"] {
            assert_eq!(newcomer.http.get(path).answer().await.status, 200, "{path}");
        }
        newcomer.process.kill();
        newcomer.process.launch();
    }
    // What was decided is remembered by a node that was started again.
    cluster.kill(2);
    cluster.restart(2).await;
    let all = ["release", "finish", "begin", "finish", "begin", "form"];
    assert_eq!(steps(&cluster, 2).await, all);
}

/// One that was given up before it had started as a member is let go by hand, and is told.
#[tokio::test(flavor = "multi_thread")]
async fn a_dead_node_that_leaves_is_let_go_by_hand() {
    let cluster = Cluster::start(Setup::of(3)).await;
    let newcomer = Newcomer::of(&cluster);
    newcomer.process.launch();
    eventually("n1 knows that n4 waits", async || {
        let shown = cluster.at(1).get("/layout").try_answer().await.ok()?.json();
        (shown["waiting"][0]["name"] == "n4").then_some(())
    })
    .await;
    newcomer.process.kill();
    layout(&cluster, &["commit", "--add", "n4", "--yes"]);
    let early = refused(&cluster, &["release", "n4", "--lost", "--yes"]);
    assert!(early.contains("n4 is not leaving"), "{early}");
    layout(&cluster, &["abort", "--yes"]);
    let shown = cluster.at(1).get("/layout").answer().await.json();
    assert_eq!((&shown["phase"], &shown["leaving"][0]["rows"]), (&"releasing".into(), &().into()));
    newcomer.process.launch();
    newcomer.shows(503, "n4 is not wanted any more").await;
    layout(&cluster, &["release", "n4", "--lost", "--yes"]);
    layout(&cluster, &["wait", "--timeout", "10"]);
    layout(&cluster, &["release", "n4", "--lost", "--yes"]);
    assert_eq!(steps(&cluster, 1).await, ["release", "abort", "begin", "form"]);
    newcomer.shows(503, "n4 is not wanted any more").await;
    let log = newcomer.process.log_text();
    assert!(log.contains("cannot join") && log.contains("not wanted any more"), "{log}");
    newcomer.process.kill();
    newcomer.process.wipe();
    newcomer.process.launch();
    newcomer.shows(503, WAITS).await;
}

/// The steps that a node remembers, newest first.
async fn steps(cluster: &Cluster, number: usize) -> Vec<String> {
    let history = cluster.at(number).get("/layout/history").answer().await.json();
    let steps = history.as_array().unwrap().iter();
    steps.map(|it| it["cause"]["op"].as_str().unwrap().to_owned()).collect()
}

/// What `quorate layout` says when it does nothing.
fn refused(cluster: &Cluster, arguments: &[&str]) -> String {
    let mut command = Command::new(env!("CARGO_BIN_EXE_quorate"));
    let url = format!("http://{}", cluster.client_addr(1));
    let done = command.arg("layout").args(arguments).args(["--url", &url]).output().unwrap();
    assert!(!done.status.success(), "quorate layout {arguments:?}");
    String::from_utf8_lossy(&done.stderr).into_owned()
}

/// Runs `quorate layout` with these arguments.
fn layout(cluster: &Cluster, arguments: &[&str]) {
    let mut command = Command::new(env!("CARGO_BIN_EXE_quorate"));
    let url = format!("http://{}", cluster.client_addr(1));
    let done = command.arg("layout").args(arguments).args(["--url", &url]).output().unwrap();
    let told = String::from_utf8_lossy(&done.stderr).into_owned();
    assert!(done.status.success(), "quorate layout {arguments:?}: {told}");
}
