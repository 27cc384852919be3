//! A cluster of real `quorate` processes in a temporary directory, and what can be done to it: kill
//! -9, SIGSTOP, SIGTERM, restart, wipe, cut. Nothing outlives the test.
//!
//! Nodes are numbered: node 1 is `n1`. Whatever takes time is polled for, within a bound.

mod faults;

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::ExitStatus;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use quorate_protocol::context::ContextKeys;
use quorate_protocol::layout::{Layout, Member};
use quorate_protocol::name::{Key, NodeId};
use quorate_storage::{Durability, Options, Store};
use tempfile::TempDir;
use tokio::sync::{Semaphore, SemaphorePermit};

use crate::http::Node;
use crate::links;
use crate::process::{Process, Shape};

/// The cluster's id and key, fixed so that the tests can open contexts.
pub(crate) const CLUSTER_ID: &str = "tests";
pub(crate) const KEY: [u8; 32] = [0x5a; 32];
const PARTITIONS: u32 = 64;
/// Many nodes share this machine.
const SMALL_CACHES: &str = "[storage]\nblock_cache_bytes = 8388608\nrow_cache_bytes = 4194304\n\
    memtable_bytes = 8388608\n";
/// Concurrent tests: the nodes share few cores.
static TEST_SLOTS: Semaphore = Semaphore::const_new(1);
/// How long anything may take before a test gives up.
pub(crate) const TIMEOUT: Duration = Duration::from_secs(20);

/// How the nodes of a test are configured.
pub(crate) struct Setup {
    /// How many.
    pub(crate) nodes: usize,
    /// How many more can join later (`members.rs`).
    pub(crate) spares: usize,
    /// `fsync` or `buffered`.
    pub(crate) durability: &'static str,
    /// More settings, as TOML lines.
    pub(crate) settings: &'static str,
    /// More of those under `[storage]`.
    pub(crate) storage: &'static str,
}

impl Setup {
    /// This many nodes with the defaults, except that acknowledgements do not wait for a sync.
    pub(crate) fn of(nodes: usize) -> Self {
        Self { nodes, spares: 0, durability: "buffered", settings: "", storage: "" }
    }

    /// The same with acknowledgements that wait for syncs, as nodes do by default.
    pub(crate) fn synced(nodes: usize) -> Self {
        Self { durability: "fsync", ..Self::of(nodes) }
    }
}

/// The processes.
pub(crate) struct Cluster {
    nodes: Vec<Process>,
    /// The numbers of those that are members, join or leave. The others are spare.
    pub(crate) present: Mutex<BTreeSet<usize>>,
    /// What the cluster was formed with, or what it has become.
    pub(crate) layout: Mutex<Arc<Layout>>,
    http: reqwest::Client,
    _dir: TempDir,
    _turn: SemaphorePermit<'static>,
}

impl Cluster {
    /// Starts nodes, forms the cluster and waits until all are ready and see each other.
    pub(crate) async fn start(setup: Setup) -> Arc<Self> {
        let cluster = Self::start_unformed(setup).await;
        cluster.form();
        cluster.wait_all_up().await;
        cluster
    }

    /// The same, with each node's configuration changed.
    pub(crate) async fn start_edited(
        setup: Setup,
        edit: impl Fn(usize, String) -> String,
    ) -> Arc<Self> {
        let cluster = Self::start_in(setup, |number, directory| {
            let file = directory.join("node.toml");
            let config = std::fs::read_to_string(&file).unwrap();
            std::fs::write(file, edit(number, config)).unwrap();
        })
        .await;
        cluster.form();
        cluster.wait_all_up().await;
        cluster
    }

    /// The same, with all traffic between peers over links of this shape.
    pub(crate) async fn start_linked(setup: Setup, shape: links::Shape) -> Arc<Self> {
        let proxies = Mutex::new(BTreeMap::new());
        Self::start_edited(setup, |_, config| {
            let (before, nodes) = config.split_once("[[layout.nodes]]").unwrap();
            let mut shown = nodes.to_owned();
            for line in nodes.lines().filter(|line| line.starts_with("peer_addr")) {
                let addr = line.split('"').nth(1).unwrap();
                let mut proxies = proxies.lock().unwrap();
                let proxy = *proxies
                    .entry(addr.to_owned())
                    .or_insert_with(|| links::before(addr.parse().unwrap(), shape));
                shown = shown.replace(&format!("\"{addr}\""), &format!("\"{proxy}\""));
            }
            format!("{before}[[layout.nodes]]{shown}")
        })
        .await
    }

    /// Starts nodes without forming a cluster.
    pub(crate) async fn start_unformed(setup: Setup) -> Arc<Self> {
        Self::start_in(setup, |_, _| ()).await
    }

    /// Likewise, after `prepare` has prepared the directory of each node.
    pub(crate) async fn start_in(
        setup: Setup,
        prepare: impl Fn(usize, &std::path::Path),
    ) -> Arc<Self> {
        let turn = TEST_SLOTS.acquire().await.unwrap();
        let member = |number| Member::new(name_of(number), name_of(number).to_string(), 1);
        let members = (1..=setup.nodes).map(member).collect();
        let dir = tempfile::tempdir().unwrap();
        let cluster = Arc::new(Self {
            nodes: (1..=setup.nodes + setup.spares)
                .map(|number| Process::new(dir.path(), number))
                .collect(),
            present: Mutex::new((1..=setup.nodes).collect()),
            layout: Mutex::new(Arc::new(Layout::new(1, PARTITIONS, members).unwrap())),
            http: client(),
            _dir: dir,
            _turn: turn,
        });
        let settings = format!("{}\n{SMALL_CACHES}{}", setup.settings, setup.storage);
        let shape = Shape {
            cluster_id: CLUSTER_ID,
            key: KEY,
            partitions: Some(PARTITIONS),
            durability: setup.durability,
            settings: &settings,
        };
        for (number, process) in (1..).zip(&cluster.nodes) {
            process.configure(&shape, cluster.nodes.iter().take(setup.nodes));
            if number <= setup.nodes {
                prepare(number, &process.directory);
                process.launch();
            }
        }
        cluster
    }

    /// A second process under a node's name, with its own ports and a directory below `parent`; not
    /// launched yet.
    pub(crate) fn twin(&self, number: usize, parent: &Path) -> Process {
        let twin = Process::new(parent, number);
        let shape = Shape {
            cluster_id: CLUSTER_ID,
            key: KEY,
            partitions: Some(PARTITIONS),
            durability: "buffered",
            settings: SMALL_CACHES,
        };
        let others = self.nodes.iter().enumerate();
        let others = others.map(|(at, node)| if at + 1 == number { &twin } else { node });
        twin.configure(&shape, others);
        twin
    }

    /// A node's configuration.
    pub(crate) fn configuration(&self, number: usize) -> String {
        std::fs::read_to_string(self.process(number).config()).unwrap()
    }

    /// The id of the cluster in a node's configuration: that of all tests, unless it was restored.
    fn cluster_id(&self, number: usize) -> String {
        let text = self.configuration(number);
        let line = text.lines().find_map(|line| line.strip_prefix("cluster_id = \""));
        line.unwrap().trim_end_matches('"').to_owned()
    }

    /// Replaces the configuration of a node that does not run.
    pub(crate) fn configure(&self, number: usize, text: &str) {
        assert!(!self.is_running(number), "n{number} runs");
        std::fs::write(self.process(number).config(), text).unwrap();
    }

    /// Whether a node has ended by itself, and how.
    pub(crate) fn ended(&self, number: usize) -> Option<ExitStatus> {
        self.process(number).ended()
    }

    /// Lets go of the process of a node that has ended by itself.
    pub(crate) fn forget(&self, number: usize) {
        self.process(number).forget();
    }

    /// Forms the cluster.
    pub(crate) fn form(&self) {
        let formed = self.process(1).command("form").status().unwrap();
        assert!(formed.success(), "the cluster was not formed");
    }

    /// How many processes there can be, with those that are spare.
    pub(crate) fn process_count(&self) -> usize {
        self.nodes.len()
    }

    /// A process, spare or not.
    pub(crate) fn process(&self, number: usize) -> &Process {
        &self.nodes[number - 1]
    }

    /// All nodes, but for those that are spare.
    pub(crate) fn all(&self) -> std::vec::IntoIter<usize> {
        let present = self.present.lock().unwrap_or_else(PoisonError::into_inner);
        present.iter().copied().collect::<Vec<_>>().into_iter()
    }

    /// One of all nodes, whatever the draw.
    pub(crate) fn some(&self, draw: usize) -> usize {
        let all = self.all();
        all.as_slice()[draw % all.len()]
    }

    /// A node's client port.
    pub(crate) fn at(&self, number: usize) -> Node {
        let base = format!("http://{}", self.process(number).client_addr);
        Node::new(self.http.clone(), base)
    }

    /// All nodes in the order of preference for a key (`bucket/key`), home replicas first.
    pub(crate) fn preference(&self, key: &str) -> Vec<usize> {
        let (bucket, key) = key.split_once('/').unwrap();
        let key = Key::new(bucket, key.as_bytes()).unwrap();
        let layout = self.layout();
        let list = layout.preference_list(key.partition(PARTITIONS));
        list.iter().map(|node| node.as_str()[1..].parse().unwrap()).collect()
    }

    /// Keys of a bucket whose preference list satisfies a condition.
    pub(crate) fn keys_where(
        &self,
        bucket: &str,
        count: usize,
        wanted: impl Fn(&[usize]) -> bool,
    ) -> Vec<String> {
        let keys = (0..100 * count).map(|at| format!("{bucket}/k{at}"));
        let keys: Vec<_> = keys.filter(|key| wanted(&self.preference(key))).take(count).collect();
        assert_eq!(keys.len(), count, "keys placed where the test needs them");
        keys
    }

    /// The layout of the cluster.
    pub(crate) fn layout(&self) -> Arc<Layout> {
        self.layout.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Opens the store of a node that does not run.
    pub(crate) fn open_store(&self, number: usize) -> Store {
        assert!(!self.is_running(number), "n{number} runs");
        let options = Options {
            durability: Durability::Buffered,
            block_cache_bytes: 8 << 20,
            disk_free_bytes_min: 0,
            ..Options::new(name_of(number), &self.cluster_id(number), PARTITIONS)
        };
        Store::open(&self.data_dir(number), options).unwrap()
    }

    /// Keys to open the contexts that the cluster gives out.
    pub(crate) fn contexts(&self) -> ContextKeys {
        ContextKeys::new(CLUSTER_ID, &[KEY])
    }

    /// The address for a node's peers.
    pub(crate) fn peer_addr(&self, number: usize) -> SocketAddr {
        self.process(number).peer_addr
    }

    /// The address for a node's clients.
    pub(crate) fn client_addr(&self, number: usize) -> SocketAddr {
        self.process(number).client_addr
    }

    /// How much memory a node has, in MiB.
    pub(crate) fn resident_mib(&self, number: usize) -> u64 {
        self.usage(number).map_or(0, |(mib, _)| mib)
    }

    /// How much memory a node has, in MiB, and how many files are open; `None` if it does not run.
    pub(crate) fn usage(&self, number: usize) -> Option<(u64, usize)> {
        self.process(number).usage()
    }

    /// Limits the open files of a node, from its next launch on.
    pub(crate) fn limit_descriptors(&self, number: usize, max: u32) {
        self.process(number).limit_descriptors(max);
    }

    /// A node's data directory.
    pub(crate) fn data_dir(&self, number: usize) -> PathBuf {
        self.process(number).data_dir()
    }

    /// The path of a node's configuration.
    pub(crate) fn config(&self, number: usize) -> PathBuf {
        self.process(number).config()
    }

    /// What a node has logged so far.
    pub(crate) fn log(&self, number: usize) -> String {
        self.process(number).log_text()
    }

    /// Starts a node's process and does not wait for it.
    pub(crate) fn launch(&self, number: usize) {
        self.process(number).launch();
    }

    /// Starts a node's process from the binary of another release.
    pub(crate) fn launch_binary(&self, number: usize, binary: &Path) {
        let process = self.process(number);
        process.launch_as(process.command_of(binary, "serve"));
    }

    /// Whether a node was launched and not ended by the test.
    pub(crate) fn is_running(&self, number: usize) -> bool {
        self.process(number).is_running()
    }

    /// Whether a node runs and is not paused.
    pub(crate) fn is_awake(&self, number: usize) -> bool {
        self.is_running(number) && !self.is_paused(number)
    }

    /// Whether a node was sent SIGSTOP.
    pub(crate) fn is_paused(&self, number: usize) -> bool {
        self.process(number).is_paused()
    }

    /// kill -9.
    pub(crate) fn kill(&self, number: usize) {
        self.process(number).kill();
    }

    /// SIGSTOP: the node goes silent, its connections stay.
    pub(crate) fn pause(&self, number: usize) {
        self.process(number).pause();
    }

    /// SIGCONT.
    pub(crate) fn resume(&self, number: usize) {
        self.process(number).resume();
    }

    /// Sends a signal.
    pub(crate) fn signal(&self, number: usize, signal: &str) {
        self.process(number).signal(signal);
    }

    /// SIGTERM: waits until the process has ended by itself; returns its status and how long it
    /// took.
    pub(crate) async fn terminate(&self, number: usize) -> (ExitStatus, Duration) {
        let process = self.process(number);
        process.signal("TERM");
        let begun = Instant::now();
        let status = eventually("the node stops", async || process.ended()).await;
        process.forget();
        (status, begun.elapsed())
    }

    /// Starts a node again and waits until it takes requests.
    pub(crate) async fn restart(&self, number: usize) {
        self.launch(number);
        self.wait_ready(number).await;
    }

    /// Empties the data directory of a node that does not run.
    pub(crate) fn wipe(&self, number: usize) {
        self.process(number).wipe();
    }

    /// Waits until a node takes requests.
    pub(crate) async fn wait_ready(&self, number: usize) {
        eventually(&format!("n{number} is ready"), async || {
            let ended = self.process(number).ended();
            assert!(ended.is_none(), "n{number} ended: {ended:?}\n{}", self.log(number));
            let answer = self.at(number).get("/readyz").try_answer().await;
            answer.ok().filter(|answer| answer.status == 200)
        })
        .await;
    }

    /// Waits until every node is ready and sees every other one up.
    pub(crate) async fn wait_all_up(&self) {
        for number in self.all() {
            self.wait_ready(number).await;
            self.wait_sees(number, "up", self.all().count() - 1).await;
        }
    }

    /// Waits until a node sees this many others in a state.
    pub(crate) async fn wait_sees(&self, number: usize, state: &str, count: usize) {
        eventually(&format!("n{number} sees {count} nodes {state}"), async || {
            let answer = self.at(number).get("/cluster").try_answer().await.ok()?;
            let cluster = answer.json();
            let nodes = cluster["nodes"].as_array().unwrap();
            (nodes.iter().filter(|node| node["state"] == state).count() == count).then_some(())
        })
        .await;
    }

    /// The id of a node's process.
    pub(crate) fn pid(&self, number: usize) -> u32 {
        self.process(number).pid()
    }
}

/// A client that keeps an idle connection for less long than a node drains (`timeouts.drain_ms`): it
/// never writes on one that the node closes at that moment, where neither could tell what happened.
fn client() -> reqwest::Client {
    let builder = crate::tls::plain_http().tcp_nodelay(true);
    builder.pool_idle_timeout(Duration::from_millis(300)).build().unwrap()
}

/// The name of a node.
pub(crate) fn name_of(number: usize) -> NodeId {
    NodeId::parse(&format!("n{number}")).unwrap()
}

/// Launches a node that cannot start, and returns its log.
pub(crate) async fn log_of_failed_start(cluster: &Cluster, number: usize) -> String {
    let before = cluster.log(number).len();
    cluster.launch(number);
    let status = eventually("the node ends", async || cluster.ended(number)).await;
    assert!(!status.success(), "{status}");
    cluster.forget(number);
    cluster.log(number)[before..].to_owned()
}

/// Polls until there is a result.
pub(crate) async fn eventually<T>(what: &str, ask: impl AsyncFnMut() -> Option<T>) -> T {
    within(TIMEOUT, what, ask).await
}

/// Likewise, with another timeout.
pub(crate) async fn within<T>(
    timeout: Duration,
    what: &str,
    mut ask: impl AsyncFnMut() -> Option<T>,
) -> T {
    let deadline = Instant::now() + timeout;
    loop {
        if let Some(found) = ask().await {
            return found;
        }
        assert!(Instant::now() < deadline, "timed out waiting until {what}");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}
