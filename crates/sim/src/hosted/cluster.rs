//! One run: a cluster of shipping nodes, clients, faults, and what is judged at the end.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use quorate_engine::cluster::bucket_change;
use quorate_engine::ops::entry::{self, ReadOptions};
use quorate_engine::ops::recorder::Recorder;
use quorate_protocol::bucket::Settings;
use quorate_protocol::message::Formation;
use quorate_protocol::name::{Bucket, Key, NodeId};
use quorate_protocol::object::Object;
use quorate_protocol::quorum::Count;
use quorate_protocol::row::Row;
use quorate_protocol::terms::QuorumOptions;
use quorate_protocol::view::context_of;
use quorate_storage::Blocking;
use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tokio::time::sleep;

use crate::hosted::client::Client;
use crate::hosted::machine::Machine;
use crate::hosted::network::Network;
use crate::hosted::record::{held, shown};
use crate::hosted::setup::{Fault, Setup};
use crate::hosted::world::World;
use quorate_oracle::{Read, Sight, a_healed_cluster_serves, converges};

/// How long the healed cluster may take to converge.
const CONVERGES_WITHIN: Duration = Duration::from_secs(900);
/// How often it is checked whether it has.
const LOOK_EVERY: Duration = Duration::from_millis(500);
/// Free bytes of a disk that is not full.
const ROOM_BYTES: u64 = 1 << 40;

/// A cluster and what happens to it.
pub(crate) struct Cluster {
    world: Arc<World>,
    setup: Arc<Setup>,
    network: Arc<Network>,
    machines: Arc<Vec<Arc<Machine>>>,
}

impl Cluster {
    /// Runs one setup to its end.
    pub(crate) async fn run(world: Arc<World>, setup: Setup) {
        let setup = Arc::new(setup);
        let network = Arc::new(Network::new(world.clone(), setup.latency_ms_max));
        let (replace, replaced) = mpsc::unbounded_channel();
        let machine = |number| {
            let config = setup.config(number);
            Arc::new(Machine::new(config, world.clone(), network.clone(), replace.clone()))
        };
        let machines: Arc<Vec<_>> = Arc::new((1..=setup.nodes).map(machine).collect());
        let cluster = Self { world, setup, network, machines };
        let replacing = tokio::spawn(replace_as_asked(
            cluster.world.clone(),
            cluster.machines.clone(),
            replaced,
        ));
        cluster.form().await;
        let mut clients = cluster.start_clients();
        let faults = cluster.suffer();
        tokio::select! {
            biased;
            () = async { while clients.join_next().await.is_some() {} } => {}
            () = faults => {}
        }
        cluster.heal().await;
        cluster.judge().await;
        replacing.abort();
        cluster.machines.iter().for_each(|machine| machine.kill());
    }

    async fn form(&self) {
        self.machines.iter().for_each(|machine| machine.start());
        sleep(Duration::from_millis(1)).await;
        let formation = Formation([7; 16]);
        for process in self.machines.iter().filter_map(|machine| machine.process()) {
            if let Err(error) = process.node.record_formation(formation, false) {
                self.world.note(format_args!("not formed: {error}"));
            }
        }
        sleep(Duration::from_secs(1)).await;
    }

    fn start_clients(&self) -> JoinSet<()> {
        let mut clients = JoinSet::new();
        for number in 0..self.setup.clients {
            let client = Client {
                number,
                world: self.world.clone(),
                setup: self.setup.clone(),
                machines: self.machines.clone(),
                sessions: BTreeMap::new(),
            };
            clients.spawn(client.run(self.setup.requests));
        }
        clients
    }

    /// Faults, one after another, until the clients are done.
    async fn suffer(&self) {
        if self.setup.faults.is_empty() {
            return std::future::pending().await;
        }
        loop {
            sleep(self.world.at_most_ms(self.setup.fault_every_ms)).await;
            self.inject(self.world.pick(&self.setup.faults));
        }
    }

    fn inject(&self, fault: Fault) {
        let machine = self.world.pick(&self.machines);
        let after = self.world.at_most_ms(self.setup.fault_ms_max);
        match fault {
            Fault::Kill => machine.kill(),
            Fault::Stop => machine.stop(),
            Fault::Pause => machine.pause(true),
            Fault::Power if self.world.percent(30) => {
                self.machines.iter().for_each(|machine| machine.lose_power());
                let machines = self.machines.clone();
                tokio::spawn(async move {
                    sleep(after).await;
                    machines.iter().for_each(|machine| machine.start());
                });
            }
            Fault::Power => machine.lose_power(),
            Fault::Cut => return self.cut_some(after),
            Fault::Reset => {
                let other = self.world.pick(&self.machines);
                self.network.reset(machine.name, other.name);
            }
            Fault::Slow => {
                self.network.set_latency(self.world.between(0, 300));
                let (network, usual) = (self.network.clone(), self.setup.latency_ms_max);
                tokio::spawn(async move {
                    sleep(after).await;
                    network.set_latency(usual);
                });
            }
            Fault::Sync => machine.disk.fail_next_sync(),
            Fault::Full => machine.disk.set_free_bytes(self.world.between(0, 2 << 20)),
            Fault::ChangeN => return self.change_n(&machine),
            Fault::Wipe | Fault::Copy | Fault::Log => {
                let victim = self.machines[self.setup.victim].clone();
                if fault == Fault::Wipe {
                    victim.wipe();
                } else if fault == Fault::Copy {
                    victim.copy_or_restore();
                } else {
                    victim.damage_log();
                }
                tokio::spawn(async move {
                    sleep(after).await;
                    recover(&victim);
                });
                return;
            }
            Fault::Clock => {
                let ahead_ms = self.world.between(0, 400_000) as i64 - 200_000;
                machine.set_clock_ahead(ahead_ms);
            }
        }
        self.world.note(format_args!("{fault:?} at {}", machine.name));
        tokio::spawn(async move {
            sleep(after).await;
            recover(&machine);
        });
    }

    fn change_n(&self, machine: &Machine) {
        let (Some(process), Some(key)) = (machine.process(), self.setup.keys().into_iter().next())
        else {
            return;
        };
        let Ok(bucket) = Bucket::parse(key.bucket()) else { return };
        let n = self.world.between(2, 3) as u16;
        self.world.note(format_args!("{} sets n={n}", machine.name));
        let settings = Settings { n: Some(n), ..Settings::default() };
        process.tasks.spawn(async move {
            drop(bucket_change::set(&process.node, bucket, settings).await);
        });
    }

    fn cut_some(&self, after: Duration) {
        let mut cuts = BTreeSet::new();
        let names: Vec<NodeId> = self.machines.iter().map(|machine| machine.name).collect();
        let side: BTreeSet<NodeId> =
            names.iter().copied().filter(|_| self.world.percent(40)).collect();
        let one_way = self.world.percent(30);
        for from in &names {
            for to in &names {
                let apart = side.contains(from) != side.contains(to);
                if apart && (!one_way || side.contains(from)) {
                    cuts.insert((*from, *to));
                }
            }
        }
        self.world.note(format_args!("cut {cuts:?}"));
        self.network.cut(cuts);
        let network = self.network.clone();
        tokio::spawn(async move {
            sleep(after).await;
            network.cut(BTreeSet::new());
        });
    }

    /// Ends all faults.
    async fn heal(&self) {
        self.world.note(format_args!("heals"));
        // What is about to recover does so first.
        sleep(Duration::from_millis(self.setup.fault_ms_max)).await;
        self.network.cut(BTreeSet::new());
        self.network.set_latency(self.setup.latency_ms_max);
        self.machines.iter().for_each(recover);
    }

    /// Waits until the cluster has converged, and judges every key.
    async fn judge(&self) {
        let mut left = None;
        for _ in 0..CONVERGES_WITHIN.as_millis() / LOOK_EVERY.as_millis() {
            if self.world.is_broken() {
                return;
            }
            sleep(LOOK_EVERY).await;
            left = self.differs();
            if left.is_none() {
                break;
            }
        }
        self.world.judge(converges(left));
        self.audit().await;
        for key in &self.setup.keys() {
            let replicas = self.replicas(key);
            let replicas = replicas
                .into_iter()
                .map(|(node, object)| (node, object.as_ref().map(held).unwrap_or_default()));
            let replicas: BTreeMap<NodeId, Vec<Sight>> = replicas.collect();
            let verdict = self.world.record().check_final(&key.to_string(), &replicas);
            self.world.judge(verdict);
        }
    }

    /// *A healed cluster takes every request* (promise 5), through any node.
    async fn audit(&self) {
        for process in self.machines.iter().filter_map(|machine| machine.process()) {
            for key in &self.setup.keys() {
                let node = &process.node;
                let begun = self.world.record().tick();
                let needed = Some(Count::Exactly(2));
                let asked = QuorumOptions { n: None, needed, sloppy: Some(false) };
                let view = node.view();
                let Ok(terms) = view.read_terms(key, &asked) else { continue };
                let options = ReadOptions { view, terms, timeout_ms: 5_000 };
                let read = entry::read(node, key, options, Recorder::off()).await.0;
                let verdict = match &read {
                    Ok(object) => {
                        let (seen, context) = (shown(object), context_of(object));
                        let read = Read { begun, r: 2, strict: true };
                        let name = key.to_string();
                        self.world.record().check_read(&name, &read, &seen, &context.clock)
                    }
                    Err(why) => a_healed_cluster_serves(false, &format!("{}: {why:?}", node.me)),
                };
                self.world.judge(verdict);
            }
        }
    }

    /// What keeps the cluster from having converged.
    fn differs(&self) -> Option<String> {
        for machine in self.machines.iter() {
            let Some(process) = machine.process() else {
                return Some(format!("{} is down", machine.name));
            };
            let node = process.node;
            if let Err(why) = node.accepts_requests() {
                return Some(format!("{}: {why}", machine.name));
            }
            if !node.buckets.assignment().is_settled() {
                return Some(format!("{} moves rows", machine.name));
            }
            if !node.distrusted.is_empty() {
                return Some(format!("{} distrusts rows", machine.name));
            }
            if !node.filled.is_complete() {
                return Some(format!("{} is not filled", machine.name));
            }
            match node.store.hint_targets() {
                Ok(targets) if targets.is_empty() => {}
                Ok(targets) => return Some(format!("{} keeps hints: {targets:?}", machine.name)),
                Err(error) => return Some(format!("{}: {error}", machine.name)),
            }
        }
        for key in &self.setup.keys() {
            let replicas = self.replicas(key);
            let first = replicas.values().next();
            if replicas.values().any(|object| Some(object) != first) {
                return Some(format!("{key} differs: {replicas:?}"));
            }
        }
        None
    }

    /// What each home replica holds of a key.
    fn replicas(&self, key: &Key) -> BTreeMap<NodeId, Option<Object>> {
        let mut replicas = BTreeMap::new();
        for node in self.machines.iter().filter_map(|m| m.process()).map(|p| p.node) {
            let view = node.view();
            let homes = view.homes(key);
            if homes.contains(&node.me) {
                let row = node.store.read(view.home(key), key, Blocking::Allowed).ok().flatten();
                let object = row.and_then(|row| Row::decode(row).ok()).map(|row| row.object);
                replicas.insert(node.me, object);
            }
        }
        replicas
    }
}

/// Ends what a machine suffers from.
fn recover(machine: &Arc<Machine>) {
    machine.disk.set_free_bytes(ROOM_BYTES);
    machine.set_clock_ahead(0);
    machine.pause(false);
    machine.start();
}

/// Replaces processes that ask for it, as a supervisor does.
async fn replace_as_asked(
    world: Arc<World>,
    machines: Arc<Vec<Arc<Machine>>>,
    mut asked: mpsc::UnboundedReceiver<NodeId>,
) {
    while let Some(name) = asked.recv().await {
        let Some(machine) = machines.iter().find(|machine| machine.name == name) else { continue };
        world.note(format_args!("{name} is replaced by a fresh process"));
        machine.kill();
        sleep(world.at_most_ms(300)).await;
        machine.start();
    }
}
