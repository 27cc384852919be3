//! A machine: a disk that outlives processes, a clock, and at most one process, the shipping node.

use std::sync::atomic::{AtomicBool, AtomicI64, AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use quorate_engine::background;
use quorate_engine::backup::manifest::Manifest;
use quorate_engine::config::{Config, Durability};
use quorate_engine::host::{Clock as _, Host};
use quorate_engine::liveness::advertised::GossipState;
use quorate_engine::liveness::review::Turns;
use quorate_engine::membership;
use quorate_engine::node::restore::Source;
use quorate_engine::node::{Node, RELEASE, StartError};
use quorate_engine::tasks::Tasks;
use quorate_protocol::clock::Dot;
use quorate_protocol::name::{Key, NodeId};
use quorate_protocol::object::Object;
use quorate_protocol::record::{ClusterRecord, DiskId};
use quorate_protocol::time::WallTime;
use quorate_protocol::tree::Tree;
use quorate_storage::{Crash, DataDir, Place, SimulatedDisk};
use tokio::sync::mpsc::UnboundedSender;
use tokio::time::sleep;
use tokio_util::sync::CancellationToken;

use crate::host::{Around, DiskFiles, Hang, MachineClock};
use crate::life::Life;
use crate::network::{Dialer, Network};
use crate::values::decoded;
use crate::world::World;
use quorate_oracle::Violation;

/// A supervisor starts a process again after this time.
const RESTART_AFTER: Duration = Duration::from_millis(500);
/// How often it may fail in a row: some more often than faults can make it fail.
const STARTS_MAX: usize = 20;

/// One machine of the cluster.
pub(crate) struct Machine {
    /// The name of its node.
    pub(crate) name: NodeId,
    /// Its disk.
    pub(crate) disk: SimulatedDisk,
    /// How often it lost data that was durable.
    losses: AtomicU64,
    /// A backup of it.
    copy: Mutex<Option<SimulatedDisk>>,
    files: Arc<DiskFiles>,
    clock: Arc<MachineClock>,
    config: Mutex<Config>,
    world: Arc<World>,
    network: Arc<Network>,
    process: Mutex<Option<Process>>,
    /// Whether it has no part in the cluster yet, or any more.
    waits: AtomicBool,
    /// While set: what is begun on threads that may block goes on when it is cancelled.
    hang: Hang,
    /// Told which machine's process wants to be replaced by a fresh one.
    replace: UnboundedSender<NodeId>,
}

/// A running process.
#[derive(Clone)]
pub(crate) struct Process {
    /// The node.
    pub(crate) node: Arc<Node>,
    /// Its tasks.
    pub(crate) tasks: Tasks,
    life: Arc<Life>,
}

impl Machine {
    /// A machine that was never on.
    pub(crate) fn new(
        config: Config,
        world: Arc<World>,
        network: Arc<Network>,
        replace: UnboundedSender<NodeId>,
    ) -> Self {
        let clock = MachineClock { world: world.clone(), ahead_ms: AtomicI64::new(0) };
        Self {
            name: config.node,
            disk: SimulatedDisk::new(config.node.as_str()),
            losses: AtomicU64::new(0),
            copy: Mutex::new(None),
            files: Arc::default(),
            clock: Arc::new(clock),
            config: Mutex::new(config),
            world,
            network,
            process: Mutex::new(None),
            waits: AtomicBool::new(false),
            hang: Hang::default(),
            replace,
        }
    }

    /// It has no part in the cluster: an empty disk with an id of its own, which may become a member.
    pub(crate) fn retire(&self) {
        self.kill();
        self.disk.wipe();
        self.files.wipe();
        *self.copy.lock().unwrap_or_else(PoisonError::into_inner) = None; // that is of another disk
        self.waits.store(true, Relaxed);
        let id = u128::from(self.world.draw()) << 64 | u128::from(self.world.draw());
        if membership::files::store_disk(&*self.files, DiskId(id)).is_err() {
            self.world.note(format_args!("{} has no disk", self.name));
        }
    }

    /// Whether it has no part in the cluster.
    pub(crate) fn waits(&self) -> bool {
        self.waits.load(Relaxed)
    }

    /// The id of its disk, if it was drawn.
    pub(crate) fn disk_id(&self) -> Option<DiskId> {
        let disk = membership::files::load_disk(&*self.files, "simulated", self.name).ok()?;
        disk.drawn
    }

    /// It becomes a node: a record names it.
    pub(crate) fn join(self: &Arc<Self>, record: &ClusterRecord) {
        if membership::files::store_record(&*self.files, record).is_err() {
            return;
        }
        self.world.note(format_args!("{} joins by {record:?}", self.name));
        self.waits.store(false, Relaxed);
        self.start();
    }

    fn config(&self) -> MutexGuard<'_, Config> {
        self.config.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn lock(&self) -> MutexGuard<'_, Option<Process>> {
        self.process.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The running process, stopped or not.
    pub(crate) fn process(&self) -> Option<Process> {
        self.lock().clone()
    }

    /// Starts a process, if none runs; again, as a supervisor does, if it ends with an error.
    pub(crate) fn start(self: &Arc<Self>) {
        let machine = self.clone();
        tokio::spawn(async move {
            for _ in 0..STARTS_MAX {
                match machine.try_start() {
                    Ok(()) => return,
                    Err(error) => machine.world.note(format_args!("{}: {error}", machine.name)),
                }
                sleep(RESTART_AFTER).await;
            }
            let story = format!("{} does not start", machine.name);
            machine.world.judge(Err(Violation { property: "a_node_starts", story }));
        });
    }

    fn try_start(&self) -> Result<(), StartError> {
        if self.lock().is_some() || self.waits() {
            return Ok(());
        }
        let life = Arc::new(Life::default());
        let tasks = Tasks::new(Some(life.clone()));
        let (world, hang) = (self.world.clone(), self.hang.clone());
        let around = Arc::new(Around { world, tasks: tasks.clone(), hang });
        let dialer = Dialer { me: self.name, network: self.network.clone() };
        let host = Host {
            wire: Arc::new(dialer),
            threads: around.clone(),
            clock: self.clock.clone(),
            chance: around.clone(),
            dir: DataDir::Simulated(self.disk.clone(), around),
            files: self.files.clone(),
            traces: None,
            certificates: None,
            gate: Some(life.clone()),
        };
        let node = Node::start(self.config().clone(), host)?;
        self.world.note(format_args!("{} starts", self.name));
        background::start(&node);
        background::spawn(&node, gossip(node.clone(), self.network.clone()));
        background::spawn(&node, watch(node.clone(), self.replace.clone()));
        self.network.listen(node.clone(), tasks.clone(), life.clone());
        *self.lock() = Some(Process { node, tasks, life });
        self.world.process_began.notify_one();
        Ok(())
    }

    /// SIGKILL. What was not written to the operating system may be gone.
    pub(crate) fn kill(&self) {
        let Some(process) = self.lock().take() else { return };
        self.world.note(format_args!("{} is killed", self.name));
        self.end(&process);
        self.disk.kill(self.world.draw());
    }

    /// The worst that can happen: all that may be lost is, by a power cut or only by a killed process.
    pub(crate) fn crash(&self, by_power: bool) {
        if let Some(process) = self.lock().take() {
            self.end(&process);
        }
        match by_power {
            true => self.disk.lose_power(0),
            false => self.disk.kill(0),
        }
    }

    /// Two numbers that change when data that was durable may be lost: how often it was, and, since a node
    /// that lost some may discard more when it starts again, how often its disk was opened then.
    pub(crate) fn losses(&self) -> (u64, u64) {
        match self.losses.load(Relaxed) {
            0 => (0, 0),
            losses => (losses, self.disk.position().0),
        }
    }

    fn partitions(&self) -> u32 {
        self.config().layout.as_ref().map_or(1, |layout| layout.partitions)
    }

    /// Its own row of a key, as it would be after the worst crash that its durability allows for.
    pub(crate) fn durable_row(&self, key: &Key) -> Option<Object> {
        let partition = key.partition(self.partitions());
        self.surviving(Place::Home(Tree { partition, n: 0 }), key)
    }

    /// Whether it holds a write of a key durably, in its own row or in a hint.
    pub(crate) fn holds(&self, key: &Key, dot: Dot, targets: &[NodeId]) -> bool {
        let hints = targets.iter().filter_map(|target| self.surviving(Place::Hint(*target), key));
        self.durable_row(key).into_iter().chain(hints).any(|object| object.clock.covers(dot))
    }

    fn surviving(&self, place: Place, key: &Key) -> Option<Object> {
        let crash = match self.config().durability {
            Durability::Fsync => Crash::PowerCut,
            Durability::Buffered => Crash::Kill,
        };
        self.disk.surviving_row(crash, place, key).and_then(decoded)
    }

    /// Power fails: what was not synced may be gone.
    pub(crate) fn lose_power(&self) {
        if let Some(process) = self.lock().take() {
            self.end(&process);
        }
        self.world.note(format_args!("{} loses power", self.name));
        self.disk.lose_power(self.world.draw());
    }

    /// SIGTERM: what is in flight is not waited for, but the store is closed cleanly.
    pub(crate) fn stop(&self) {
        let Some(process) = self.lock().take() else { return };
        self.world.note(format_args!("{} stops", self.name));
        process.node.begin_stop();
        let closed = process.node.store.close();
        self.end(&process);
        if closed.is_err() {
            self.disk.kill(self.world.draw());
        }
    }

    fn end(&self, process: &Process) {
        process.life.kill();
        self.network.close(self.name);
    }

    /// A new disk.
    pub(crate) fn wipe(&self) {
        if self.waits() {
            return;
        }
        self.kill();
        self.lost("is wiped");
        self.disk.wipe();
        self.files.wipe();
    }

    /// Copies the disk, or puts the last copy back.
    pub(crate) fn copy_or_restore(&self) {
        if self.waits() {
            return;
        }
        let mut copy = self.copy.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(copy) = copy.take() {
            self.put_back(&copy);
        } else {
            // A clean stop leaves a proof of it, which a copy must not be believed.
            if self.world.percent(50) {
                self.stop();
            }
            *copy = Some(self.copy_disk());
        }
    }

    /// A backup of its disk, as it is at this moment.
    pub(crate) fn copy_disk(&self) -> SimulatedDisk {
        self.world.note(format_args!("{} is copied", self.name));
        self.files.back_up();
        self.disk.copy()
    }

    /// Kills its process, and puts a backup of its disk back.
    pub(crate) fn put_back(&self, copy: &SimulatedDisk) {
        self.kill();
        self.lost("comes back as it was copied");
        self.disk.restore(copy);
        self.files.restore_if_gone();
    }

    /// Its disk is lost, and a backup of that restored on an empty one, as a node of a new cluster.
    ///
    /// # Errors
    /// There is no such backup, or it is not restored.
    pub(crate) fn found(&self, backup: &str, cluster_id: &str) -> Result<(), String> {
        self.kill();
        self.world.note(format_args!("{} is restored from the backup {backup}", self.name));
        let world = self.world.clone();
        let around = Around { world, tasks: Tasks::new(None), hang: self.hang.clone() };
        let dir = DataDir::Simulated(self.disk.clone(), Arc::new(around));
        let manifest = dir.backup_manifest(backup).map_err(|error| error.to_string())?;
        let manifest = Manifest::parse(&manifest).map_err(|error| error.to_string())?;
        let copy = self.disk.backup(backup).ok_or("there is no such backup")?;
        self.disk.restore(&copy);
        self.files.wipe();
        let mut config = self.config();
        config.cluster_id = cluster_id.to_owned();
        let source = Source::of(&manifest, u128::from(manifest.epoch), WallTime(manifest.began_at));
        let founded = source.and_then(|source| {
            source.found(&config, (&*self.files, &dir), (true, self.clock.now()))
        });
        founded.map(drop).map_err(|error| error.to_string())
    }

    /// Damages the log before its end.
    pub(crate) fn damage_log(&self) {
        self.kill();
        if self.disk.damage_log(self.world.draw()) {
            self.lost("has a damaged log");
        }
    }

    fn lost(&self, how: &str) {
        self.losses.fetch_add(1, Relaxed);
        self.world.note(format_args!("{} {how}", self.name));
        self.world.record().lost_disk();
    }

    /// SIGSTOP, or SIGCONT.
    pub(crate) fn pause(&self, is_paused: bool) {
        if let Some(process) = &*self.lock() {
            let what = if is_paused { "is paused" } else { "goes on" };
            self.world.note(format_args!("{} {what}", self.name));
            process.life.stop(is_paused);
        }
    }

    /// The next merge of a row waits for the disk. All that requests begin from now on does not come back
    /// from the disk, as long as this is so; what has begun then, not before `on` is cancelled.
    pub(crate) fn hang(&self, on: Option<CancellationToken>) {
        if on.is_some() {
            self.disk.block_next_write();
        }
        *self.hang.lock().unwrap_or_else(PoisonError::into_inner) = on;
    }

    /// Sets its clock.
    pub(crate) fn set_clock_ahead(&self, ms: i64) {
        self.clock.ahead_ms.store(ms, Relaxed);
    }
}

/// Waits until the node asks for a fresh process.
async fn watch(node: Arc<Node>, replace: UnboundedSender<NodeId>) {
    tokio::select! {
        biased;
        () = node.generation.start_over.cancelled() => {}
        () = node.reopening.now.cancelled() => {}
    }
    let _ = replace.send(node.me); // the run is over if nobody listens
}

/// Stands in for gossip: state spreads from node to node unless the network is cut.
async fn gossip(node: Arc<Node>, network: Arc<Network>) {
    let mut turns = Turns::new(&node);
    loop {
        let now = turns.next(&node).await;
        for peer in network.reachable_from(node.me) {
            if let Some(health) = node.peers.health(peer.me) {
                let epoch = peer.epoch();
                let layout = (epoch.number, epoch.hash.0);
                let news = GossipState {
                    layout: Some(layout),
                    buckets_hash: Some(peer.buckets.hash()),
                    ready: Some(peer.filled.is_complete()),
                    writable: Some(peer.is_writable()),
                    release: Some(RELEASE.to_owned()),
                    cannot_reach_me: peer.peers.down().contains(&node.me),
                };
                if peer.buckets.hash() != node.buckets.hash() {
                    health.greet_now();
                }
                health.gossiped(news, now);
            }
        }
        node.peers.review(now);
    }
}
