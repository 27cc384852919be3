//! A client follows a cluster whose members change.

use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use quorate_client::testing::binary;
use quorate_client::{Client, Read};
use serde_json::{Value, json};

use crate::common::wire::Stub;
use crate::common::{Cluster, discovered};

/// How long a change may take to be noticed: less than the time between two looks without a reason.
const NOTICED_WITHIN: Duration = Duration::from_secs(25);

/// A node that asks to join, as a process of its own; killed when this is dropped.
struct Joiner {
    child: Child,
    url: String,
}

impl Joiner {
    /// Starts node n4, with the keys of the cluster, beside it.
    fn start(cluster: &Cluster) -> Self {
        let port: u16 = cluster.url(1).rsplit_once(':').unwrap().1.parse().unwrap();
        let (client, peer) = (port + 3, port + 103);
        let dir = cluster.dir().join("n4");
        let of_n1 = std::fs::read_to_string(cluster.dir().join("n1").join("node.toml")).unwrap();
        let own = ["cluster_id", "cluster_keys", "durability"];
        let shared = of_n1.lines().filter(|line| own.iter().any(|name| line.starts_with(name)));
        let text = format!(
            "{}\nnode = \"n4\"\ndata_dir = \"{}\"\nclient_addr = \"127.0.0.1:{client}\"\n\
             peer_addr = \"127.0.0.1:{peer}\"\njoin = [\"127.0.0.1:{}\"]\nzone = \"n4\"\n",
            shared.collect::<Vec<_>>().join("\n"),
            dir.join("data").display(),
            port + 100
        );
        std::fs::create_dir_all(&dir).unwrap();
        let config = dir.join("node.toml");
        std::fs::write(&config, text).unwrap();
        let mut command = Command::new(binary());
        command.arg("serve").arg("--config").arg(config);
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
        let url = format!("http://127.0.0.1:{client}");
        Self { child: command.spawn().unwrap(), url }
    }
}

impl Drop for Joiner {
    fn drop(&mut self) {
        drop(self.child.kill());
        drop(self.child.wait());
    }
}

async fn post(url: &str, path: &str, body: &Value) -> Value {
    let request = plain_http().post(format!("{url}{path}"));
    let sent = request.header("content-type", "application/json").body(body.to_string());
    let text = sent.send().await.unwrap().text().await.unwrap();
    serde_json::from_str(&text).unwrap_or_else(|error| panic!("{path}: {error}: {text}"))
}

/// Plans a change until nothing refuses it, and commits it.
async fn commit(url: &str, changes: &Value) {
    let begun = Instant::now();
    loop {
        let plan = post(url, "/layout/plan", &json!({"changes": changes})).await;
        assert!(begun.elapsed() < Duration::from_secs(60), "{plan}");
        if plan["refusals"].as_array().is_none_or(|refusals| !refusals.is_empty()) {
            tokio::time::sleep(Duration::from_millis(200)).await;
            continue;
        }
        let warnings = plan["warnings"].as_array().unwrap().iter();
        let accept: Vec<_> = warnings.map(|it| it["name"].clone()).collect();
        let (base, result) = (&plan["base"], &plan["result"]);
        let agreed = json!({"base": base, "result": result, "changes": changes, "accept": accept});
        let decided = post(url, "/layout/commit", &agreed).await;
        assert!(decided["epoch"].is_string(), "{decided}");
        return;
    }
}

/// Writes and reads until it is so; every one of them must succeed.
async fn until(client: &Client, what: &str, is_so: impl Fn(&Client, &str) -> bool) {
    let (bucket, begun) = (client.bucket("b"), Instant::now());
    for turn in 0.. {
        let key = format!("{what} {turn}"); // a key of its own each time: blind writes leave siblings
        bucket.put_blind(&key, "x").await.unwrap();
        let read = bucket.get(&key).await.unwrap();
        assert!(matches!(read, Read::Value(_)), "{key}: {read:?}");
        if is_so(client, &read.answered().node) {
            return;
        }
        assert!(begun.elapsed() < NOTICED_WITHIN, "{what}: {:?}", client.known_nodes());
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

#[tokio::test]
async fn nodes_that_join_and_leave_are_followed() {
    let cluster = Cluster::start();
    let joiner = Joiner::start(&cluster);
    let client = cluster.client();
    discovered(&client).await;
    commit(&cluster.url(1), &json!([{"op": "add", "name": "n4"}])).await;
    let url = joiner.url.clone();
    until(&client, "n4 is asked", |_, by| by == url).await;
    commit(&cluster.url(2), &json!([{"op": "remove", "name": "n4"}])).await;
    let is_known = |client: &Client| client.known_nodes().iter().any(|node| node.url == joiner.url);
    until(&client, "n4 is forgotten", |client, _| !is_known(client)).await;
}

#[tokio::test]
async fn a_node_that_was_removed_is_as_good_as_dead() {
    let cluster = Cluster::start();
    let removed = Stub::problem(503, "removed", ",\"outcome\":\"not_applied\"").await;
    // Requests take turns among both: it is asked at the first or second.
    let both = Client::builder().nodes([removed.url.clone(), cluster.url(1)]);
    let client = both.discover(false).route(false).build().unwrap();
    // Long enough for probes, which it answers: with the same problem.
    let end = Instant::now() + Duration::from_secs(4);
    until(&client, "four seconds are over", |_, _| Instant::now() > end).await;
    let asked = removed.asked.load(std::sync::atomic::Ordering::Relaxed);
    assert!((1..=2).contains(&asked), "asked {asked} times");
    let known = client.known_nodes();
    let of = |url: &str| known.iter().find(|node| node.url == url).map(|node| node.up);
    assert_eq!((of(&removed.url), of(&cluster.url(1))), (Some(false), Some(true)), "{known:?}");
}

/// A client that reads no authorities of the system.
fn plain_http() -> reqwest::Client {
    let provider = std::sync::Arc::new(rustls::crypto::ring::default_provider());
    let builder = rustls::ClientConfig::builder_with_provider(provider);
    let builder = builder.with_safe_default_protocol_versions().unwrap();
    let roots = rustls::RootCertStore::empty();
    let config = builder.with_root_certificates(roots).with_no_client_auth();
    reqwest::Client::builder().no_proxy().tls_backend_preconfigured(config).build().unwrap()
}
