//! One run: a cluster of shipping nodes, clients, faults, and what is judged at the end.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use quorate_engine::node::Node;
use quorate_protocol::message::Formation;
use quorate_protocol::name::NodeId;
use quorate_protocol::record::{ClusterRecord, Standing};
use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tokio::time::sleep;

use crate::client::Client;
use crate::follower::Follower;
use crate::machine::Machine;
use crate::monitor::Monitor;
use crate::network::Network;
use crate::operators;
use crate::setup::Setup;
use crate::typed::{TypedClient, TypedRecord};
use crate::world::World;

/// A cluster and what happens to it.
pub(crate) struct Cluster {
    pub(crate) world: Arc<World>,
    pub(crate) setup: Arc<Setup>,
    pub(crate) network: Arc<Network>,
    pub(crate) machines: Arc<Vec<Arc<Machine>>>,
    pub(crate) monitor: Arc<Monitor>,
    pub(crate) typed: Arc<TypedRecord>,
    /// Whether a member was sworn dead.
    pub(crate) has_sworn: AtomicBool,
    /// The supervisor of the machines, and the monitor's looks.
    attendants: JoinSet<()>,
}

impl Cluster {
    /// Runs one setup to its end.
    pub(crate) async fn run(world: Arc<World>, setup: Setup) {
        let cluster = Self::start(world, setup).await;
        let (mut clients, is_over) = (cluster.start_clients(), Arc::<AtomicBool>::default());
        let followers = cluster.start_followers(&is_over);
        let faults = cluster.suffer();
        tokio::select! {
            biased;
            () = async { while clients.join_next().await.is_some() {} } => {}
            () = faults => {}
        }
        cluster.heal().await;
        cluster.judge().await;
        is_over.store(true, Ordering::SeqCst);
        cluster.finish(followers).await;
        cluster.end();
    }

    /// A cluster that is formed and watched, with nodes that are up.
    pub(crate) async fn start(world: Arc<World>, setup: Setup) -> Self {
        let setup = Arc::new(setup);
        let network = Arc::new(Network::new(world.clone(), setup.latency_ms_max));
        let (replace, replaced) = mpsc::unbounded_channel();
        let machine = |number| {
            let config = setup.config(number);
            Arc::new(Machine::new(config, world.clone(), network.clone(), replace.clone()))
        };
        let machines: Arc<Vec<_>> =
            Arc::new((1..=setup.nodes + setup.spares).map(machine).collect());
        machines.iter().skip(setup.nodes).for_each(|spare| spare.retire());
        let monitor = Arc::new(Monitor::new(world.clone(), setup.clone(), machines.clone()));
        let mut attendants = JoinSet::new();
        attendants.spawn(replace_as_asked(world.clone(), machines.clone(), replaced));
        attendants.spawn(monitor.clone().run());
        if setup.spares > 0 {
            attendants.spawn(admit_and_retire(machines.clone()));
        }
        let has_sworn = AtomicBool::new(false);
        let typed = Arc::default();
        let cluster =
            Self { world, setup, network, machines, monitor, typed, has_sworn, attendants };
        cluster.form().await;
        cluster
    }

    /// Ends all that runs.
    pub(crate) fn end(mut self) {
        self.attendants.abort_all();
        self.machines.iter().for_each(|machine| machine.kill());
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
            clients.spawn(self.client(number).run(self.setup.requests));
        }
        for number in 0..self.setup.typed_clients {
            let (client, record) = (self.client(number), self.typed.clone());
            let typed = TypedClient { client, record, seen: BTreeMap::new() };
            clients.spawn(typed.run(self.setup.requests));
        }
        clients
    }

    fn start_followers(&self, is_over: &Arc<AtomicBool>) -> JoinSet<Option<Follower>> {
        let mut followers = JoinSet::new();
        for number in 0..self.setup.followers {
            let follower = Follower::new(self.client(number), is_over.clone());
            followers.spawn(async { follower?.run().await });
        }
        followers
    }

    /// Once nothing changes any more, every subscriber is told what there is.
    async fn finish(&self, mut followers: JoinSet<Option<Follower>>) {
        if followers.is_empty() || self.world.is_broken() {
            return followers.abort_all();
        }
        self.converge().await;
        let left = self.left();
        while let Some(follower) = followers.join_next().await {
            if let Ok(Some(follower)) = follower
                && !self.world.record().has_losses()
            {
                follower.finish(&left).await;
            }
        }
    }

    fn client(&self, number: usize) -> Client {
        Client {
            number,
            world: self.world.clone(),
            setup: self.setup.clone(),
            machines: self.machines.clone(),
            entry: None,
            monitor: self.monitor.clone(),
            sessions: BTreeMap::new(),
        }
    }

    /// A client that asks once the faults are over. It never loses patience.
    pub(crate) fn auditor(&self) -> Client {
        self.client(self.setup.clients)
    }

    /// The nodes that run.
    pub(crate) fn nodes(&self) -> Vec<Arc<Node>> {
        let running = self.machines.iter().filter_map(|machine| machine.process());
        running.map(|process| process.node).collect()
    }
}

/// Starts machines that have become members, and empties those that are none any more: they may become
/// members again, with another disk. Leaving disks that are gone are let go, and members sworn dead replaced.
async fn admit_and_retire(machines: Arc<Vec<Arc<Machine>>>) {
    let mut newest: Option<Arc<ClusterRecord>> = None;
    loop {
        sleep(Duration::from_millis(200)).await;
        let processes = machines.iter().filter_map(|machine| machine.process());
        let records = processes.map(|process| process.node.membership.record());
        // An operator does not forget what a node knew that is down now.
        newest = records.chain(newest).max_by_key(|record| record.epoch());
        let Some(newest) = &newest else { continue };
        machines.iter().for_each(|machine| admit_or_retire(machine, newest));
        operators::release_lost(&machines, newest).await;
        operators::replace_sworn_dead(&machines, newest).await;
    }
}

/// Does what is due for one machine by the newest record.
fn admit_or_retire(machine: &Arc<Machine>, newest: &ClusterRecord) {
    if machine.waits() {
        let known = newest.member(machine.name).map(|known| known.disk);
        if known.is_some() && known == machine.disk_id() {
            machine.join(newest);
        }
        return;
    }
    let Some(process) = machine.process() else { return };
    if process.node.membership.is_member() {
        return;
    }
    match newest.standing(machine.name, process.node.membership.disk()) {
        Standing::Stranger => machine.retire(),
        // It was added again, lost its disk, and asked a peer first that had missed the addition. Emptied
        // once more it is the member that the newest record names, like any other that has lost its disk.
        Standing::OtherDisk { .. } => {
            machine.wipe();
            machine.start();
        }
        // It is wrong: the cluster waits for it, which is found.
        Standing::Stable
        | Standing::StableAndNext
        | Standing::Joining
        | Standing::Leaving
        | Standing::Gone => {}
    }
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
