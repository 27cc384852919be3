//! A cluster of real `quorate` processes in a temporary directory, and all that can be done to it:
//! kill -9, SIGSTOP, SIGTERM, restart, wipe, cut. Nothing outlives the test.
//!
//! Nodes are numbers: node 1 is `n1`. Whatever takes time is waited for by asking again, within a
//! bound.

use std::fs::{self, File};
use std::net::TcpListener;
use std::path::PathBuf;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use quorate_protocol::context::ContextKeys;
use quorate_protocol::layout::{Layout, Member};
use quorate_protocol::name::{Key, NodeId};
use quorate_storage::{Durability, Options, Store};
use tempfile::TempDir;
use tokio::sync::{Semaphore, SemaphorePermit};

use crate::http::Node;

/// The cluster's id and key, known to the tests so that they can open contexts.
const CLUSTER_ID: &str = "tests";
const KEY_BYTE: u8 = 0x5a;
const PARTITIONS: u32 = 64;
/// Tests that run at a time: the nodes share few cores.
static TURNS: Semaphore = Semaphore::const_new(1);
/// How long anything may take before a test gives up.
pub(crate) const PATIENCE: Duration = Duration::from_secs(20);

/// How the nodes of a test are configured.
pub(crate) struct Setup {
    /// How many.
    pub(crate) nodes: usize,
    /// `fsync` or `buffered`.
    pub(crate) durability: &'static str,
    /// More settings, as TOML lines.
    pub(crate) settings: &'static str,
}

impl Setup {
    /// So many nodes with the defaults.
    pub(crate) fn of(nodes: usize) -> Self {
        Self { nodes, durability: "buffered", settings: "" }
    }
}

/// The processes.
pub(crate) struct Cluster {
    nodes: Vec<Process>,
    layout: Layout,
    http: reqwest::Client,
    dir: TempDir,
    _turn: SemaphorePermit<'static>,
}

struct Process {
    client_port: u16,
    peer_port: u16,
    child: Mutex<Option<Child>>,
    paused: AtomicBool,
}

impl Cluster {
    /// Starts nodes, forms the cluster and waits until all are ready and know each other.
    pub(crate) async fn start(setup: Setup) -> Arc<Self> {
        let turn = TURNS.acquire().await.unwrap();
        let process = || Process {
            client_port: free_port(),
            peer_port: free_port(),
            child: Mutex::default(),
            paused: AtomicBool::default(),
        };
        let member =
            |number| Member { node: name_of(number), zone: name_of(number).to_string(), weight: 1 };
        let members = (1..=setup.nodes).map(member).collect();
        let cluster = Arc::new(Self {
            nodes: (0..setup.nodes).map(|_| process()).collect(),
            layout: Layout::new(1, PARTITIONS, members).unwrap(),
            http: reqwest::Client::builder().no_proxy().tcp_nodelay(true).build().unwrap(),
            dir: tempfile::tempdir().unwrap(),
            _turn: turn,
        });
        for number in cluster.all() {
            fs::create_dir(cluster.home(number)).unwrap();
            fs::write(cluster.config(number), cluster.toml(number, &setup)).unwrap();
            cluster.launch(number);
        }
        cluster.form();
        cluster.wait_all_up().await;
        cluster
    }

    /// Forms the cluster.
    pub(crate) fn form(&self) {
        let formed = self.command(1, "form").status().unwrap();
        assert!(formed.success(), "the cluster was not formed");
    }

    fn toml(&self, number: usize, setup: &Setup) -> String {
        let key = format!("{KEY_BYTE:02x}").repeat(32);
        let Process { client_port, peer_port, .. } = &self.nodes[number - 1];
        let data_dir = self.data_dir(number);
        let mut toml = format!(
            "cluster_id = \"{CLUSTER_ID}\"\ncluster_keys = [\"{key}\"]\nnode = \"n{number}\"\n\
             data_dir = {data_dir:?}\nclient_addr = \"127.0.0.1:{client_port}\"\n\
             peer_addr = \"127.0.0.1:{peer_port}\"\nfault_hook = true\ndurability = \"{}\"\n\
             {}\n[storage]\nblock_cache_bytes = 8388608\nmemtable_bytes = 8388608\n\
             [layout]\npartitions = {PARTITIONS}\n",
            setup.durability, setup.settings
        );
        for number in self.all() {
            let port = self.nodes[number - 1].peer_port;
            toml.push_str(&format!(
                "[[layout.nodes]]\nname = \"n{number}\"\nzone = \"n{number}\"\n\
                 peer_addr = \"127.0.0.1:{port}\"\n"
            ));
        }
        toml
    }

    /// All nodes.
    pub(crate) fn all(&self) -> std::ops::RangeInclusive<usize> {
        1..=self.nodes.len()
    }

    /// A node's client port.
    pub(crate) fn at(&self, number: usize) -> Node {
        let base = format!("http://127.0.0.1:{}", self.nodes[number - 1].client_port);
        Node::new(self.http.clone(), base)
    }

    /// All nodes in the order of preference for a key (`bucket/key`), home replicas first.
    pub(crate) fn preference(&self, key: &str) -> Vec<usize> {
        let (bucket, key) = key.split_once('/').unwrap();
        let key = Key::new(bucket, key.as_bytes()).unwrap();
        let list = self.layout.preference_list(key.partition(PARTITIONS));
        list.iter().map(|node| node.as_str()[1..].parse().unwrap()).collect()
    }

    /// Keys of a bucket whose preference list is as wanted.
    pub(crate) fn keys_where(
        &self,
        bucket: &str,
        count: usize,
        wanted: impl Fn(&[usize]) -> bool,
    ) -> Vec<String> {
        let keys = (0..100 * count).map(|at| format!("{bucket}/k{at}"));
        let keys: Vec<_> = keys.filter(|key| wanted(&self.preference(key))).take(count).collect();
        assert_eq!(keys.len(), count, "keys that live where the test wants them");
        keys
    }

    /// Who keeps what.
    pub(crate) fn layout(&self) -> &Layout {
        &self.layout
    }

    /// Opens the store of a node that does not run.
    pub(crate) fn open_store(&self, number: usize) -> Store {
        assert!(!self.is_running(number), "n{number} runs");
        let options = Options {
            durability: Durability::Buffered,
            block_cache_bytes: 8 << 20,
            disk_free_bytes_min: 0,
            ..Options::new(name_of(number), CLUSTER_ID, PARTITIONS)
        };
        Store::open(&self.data_dir(number), options).unwrap()
    }

    /// Opens the contexts that the cluster gives out.
    pub(crate) fn contexts(&self) -> ContextKeys {
        ContextKeys::new(CLUSTER_ID, &[[KEY_BYTE; 32]])
    }

    fn home(&self, number: usize) -> PathBuf {
        self.dir.path().join(format!("n{number}"))
    }

    fn config(&self, number: usize) -> PathBuf {
        self.home(number).join("node.toml")
    }

    /// Where a node's data lies.
    pub(crate) fn data_dir(&self, number: usize) -> PathBuf {
        self.home(number).join("data")
    }

    /// What a node has logged so far.
    pub(crate) fn log(&self, number: usize) -> String {
        fs::read_to_string(self.home(number).join("log")).unwrap_or_default()
    }

    fn child(&self, number: usize) -> MutexGuard<'_, Option<Child>> {
        self.nodes[number - 1].child.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn command(&self, number: usize, verb: &str) -> Command {
        let log = File::options().create(true).append(true).open(self.home(number).join("log"));
        let log = log.unwrap();
        let mut command = Command::new(env!("CARGO_BIN_EXE_quorate"));
        command.arg(verb).arg("--config").arg(self.config(number));
        command.stdin(Stdio::null()).stdout(log.try_clone().unwrap()).stderr(log);
        for (name, _) in std::env::vars_os() {
            if name.to_string_lossy().starts_with("QUORATE_") {
                command.env_remove(name);
            }
        }
        command
    }

    /// Starts a node's process and does not wait for it.
    pub(crate) fn launch(&self, number: usize) {
        let mut child = self.child(number);
        assert!(child.is_none(), "n{number} runs already");
        *child = Some(self.command(number, "serve").spawn().unwrap());
    }

    /// Whether a node was launched and not ended by the test.
    pub(crate) fn is_running(&self, number: usize) -> bool {
        self.child(number).is_some()
    }

    /// Whether a node's process has ended by itself, and how.
    pub(crate) fn ended(&self, number: usize) -> Option<ExitStatus> {
        self.child(number).as_mut().and_then(|child| child.try_wait().unwrap())
    }

    /// Whether a node runs and answers.
    pub(crate) fn is_awake(&self, number: usize) -> bool {
        self.child(number).is_some() && !self.is_paused(number)
    }

    /// Whether a node was sent SIGSTOP.
    pub(crate) fn is_paused(&self, number: usize) -> bool {
        self.nodes[number - 1].paused.load(Ordering::Relaxed)
    }

    /// kill -9.
    pub(crate) fn kill(&self, number: usize) {
        self.nodes[number - 1].paused.store(false, Ordering::Relaxed);
        if let Some(mut child) = self.child(number).take() {
            child.kill().unwrap();
            child.wait().unwrap();
        }
    }

    /// SIGSTOP: the node goes silent, its connections stay.
    pub(crate) fn pause(&self, number: usize) {
        self.signal(number, "-STOP");
        self.nodes[number - 1].paused.store(true, Ordering::Relaxed);
    }

    /// SIGCONT.
    pub(crate) fn resume(&self, number: usize) {
        self.signal(number, "-CONT");
        self.nodes[number - 1].paused.store(false, Ordering::Relaxed);
    }

    fn signal(&self, number: usize, signal: &str) {
        let child = self.child(number);
        let pid = child.as_ref().unwrap().id().to_string();
        assert!(Command::new("kill").args([signal, &pid]).status().unwrap().success());
    }

    /// SIGTERM: waits until the process ended by itself, and tells how and how long that took.
    pub(crate) async fn terminate(&self, number: usize) -> (ExitStatus, Duration) {
        self.signal(number, "-TERM");
        let begun = Instant::now();
        let ended = async || self.child(number).as_mut().unwrap().try_wait().unwrap();
        let status = eventually("the node stops", ended).await;
        *self.child(number) = None;
        (status, begun.elapsed())
    }

    /// Starts a node again and waits until it takes requests.
    pub(crate) async fn restart(&self, number: usize) {
        self.launch(number);
        self.wait_ready(number).await;
    }

    /// Empties the data directory of a node that does not run.
    pub(crate) fn wipe(&self, number: usize) {
        assert!(self.child(number).is_none(), "n{number} still runs");
        fs::remove_dir_all(self.data_dir(number)).unwrap();
    }

    /// Waits until a node takes requests.
    pub(crate) async fn wait_ready(&self, number: usize) {
        eventually(&format!("n{number} is ready"), async || {
            let ended = self.ended(number);
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

    /// Waits until a node sees so many others in a state.
    pub(crate) async fn wait_sees(&self, number: usize, state: &str, count: usize) {
        eventually(&format!("n{number} sees {count} nodes {state}"), async || {
            let answer = self.at(number).get("/cluster").try_answer().await.ok()?;
            let cluster = answer.json();
            let nodes = cluster["nodes"].as_array().unwrap();
            (nodes.iter().filter(|node| node["state"] == state).count() == count).then_some(())
        })
        .await;
    }

    /// Cuts two groups of nodes off from each other; nodes in neither hear everybody. Every cut
    /// replaces the last one of the same nodes.
    pub(crate) async fn cut(&self, these: &[usize], those: &[usize]) {
        for (ours, theirs) in [(these, those), (those, these)] {
            for number in ours {
                self.set_cuts(*number, theirs, theirs).await;
            }
        }
    }

    /// Loses what the one group sends to the other.
    pub(crate) async fn cut_one_way(&self, from: &[usize], to: &[usize]) {
        for number in from {
            self.set_cuts(*number, &[], to).await;
        }
        for number in to {
            self.set_cuts(*number, from, &[]).await;
        }
    }

    /// Ends all cuts. A node that does not run has forgotten its own.
    pub(crate) async fn heal(&self) {
        for number in self.all() {
            self.set_cuts(number, &[], &[]).await;
        }
    }

    /// A node that is not awake is passed over: the other end of a cut is told too, and that is
    /// enough.
    async fn set_cuts(&self, number: usize, cut_in: &[usize], cut_out: &[usize]) {
        if !self.is_awake(number) {
            return;
        }
        let names =
            |nodes: &[usize]| -> Vec<NodeId> { nodes.iter().copied().map(name_of).collect() };
        let cuts = serde_json::json!({"cut_in": names(cut_in), "cut_out": names(cut_out)});
        let port = self.nodes[number - 1].peer_port;
        let hook = Node::new(self.http.clone(), format!("http://127.0.0.1:{port}"));
        // A node that was just launched may not listen yet.
        let obeys = async || hook.put("/fault").value(cuts.to_string()).try_answer().await.ok();
        let answer = eventually(&format!("n{number} is cut"), obeys).await;
        assert_eq!(answer.status, 204, "{}", answer.text());
    }
}

impl Drop for Cluster {
    fn drop(&mut self) {
        for number in self.all() {
            self.kill(number);
        }
        if std::thread::panicking() {
            for number in self.all() {
                let log = self.log(number);
                let lines: Vec<&str> = log.lines().collect();
                let tail = lines[lines.len().saturating_sub(25)..].join("\n");
                eprintln!("--- n{number}\n{tail}");
            }
        }
    }
}

/// The name of a node.
pub(crate) fn name_of(number: usize) -> NodeId {
    NodeId::parse(&format!("n{number}")).unwrap()
}

/// Asks again and again until there is something.
pub(crate) async fn eventually<T>(what: &str, mut ask: impl AsyncFnMut() -> Option<T>) -> T {
    let deadline = Instant::now() + PATIENCE;
    loop {
        if let Some(found) = ask().await {
            return found;
        }
        assert!(Instant::now() < deadline, "waited in vain until {what}");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

/// A port below those that the system gives to outgoing connections: a node that is down for a
/// while must find its port free when it comes back.
fn free_port() -> u16 {
    static NEXT: AtomicU32 = AtomicU32::new(0);
    const RANGE: std::ops::Range<u32> = 12_000..32_000;
    loop {
        let step = NEXT.fetch_add(1, Ordering::Relaxed);
        let port = RANGE.start + (std::process::id() * 101 + step) % RANGE.len() as u32;
        if TcpListener::bind(("127.0.0.1", port as u16)).is_ok() {
            return port as u16;
        }
    }
}
