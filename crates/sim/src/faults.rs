//! What goes wrong in a run.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use quorate_engine::cluster::bucket_change;
use quorate_protocol::bucket::Settings;
use quorate_protocol::name::{Bucket, NodeId};
use quorate_protocol::record::{ClusterRecord, Phase, Reason, RecordMember};
use tokio::time::sleep;

use crate::cluster::Cluster;
use crate::machine::Machine;
use crate::run::N;
use crate::setup::Fault;

/// How long an operator waits for a change to be decided.
const PATIENCE: Duration = Duration::from_secs(5);

/// Free bytes of a disk that is not full.
const ROOM_BYTES: u64 = 1 << 40;

impl Cluster {
    /// Faults, one after another, until the clients are done.
    pub(crate) async fn suffer(&self) {
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
            Fault::Layout => return self.change_layout(&machine),
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

    /// An operator at this machine changes who is a member, or takes a change back.
    fn change_layout(&self, machine: &Machine) {
        let Some(process) = machine.process() else { return };
        let node = process.node.clone();
        let record = node.membership.record();
        let reason = Reason { by: node.me, at: node.now(), note: String::new() };
        let wanted = match record.phase() {
            Phase::Moving if self.world.percent(30) => record.abort(&BTreeSet::new(), reason),
            Phase::Moving => return,
            Phase::Stable | Phase::Releasing => {
                let Some(next) = self.other_members(&record) else { return };
                record.begin(next, &[], reason)
            }
        };
        let wanted = match wanted {
            Ok(wanted) => wanted,
            Err(error) => {
                return self.world.note(format_args!("{} may not: {error}", node.me));
            }
        };
        self.world.note(format_args!("{} proposes {wanted:?}", node.me));
        let world = self.world.clone();
        process.tasks.spawn(async move {
            let proposed = node.propose(wanted, PATIENCE).await;
            world.note(format_args!("{}: {proposed:?}", node.me));
        });
    }

    /// Other members: one more, one less, one instead of another, or one that weighs more.
    fn other_members(&self, record: &ClusterRecord) -> Option<Vec<RecordMember>> {
        let mut members = record.stable().to_vec();
        let is_spare =
            |machine: &&Arc<Machine>| machine.waits() && record.member(machine.name).is_none();
        let spares: Vec<&Arc<Machine>> = self.machines.iter().filter(is_spare).collect();
        let spare = (!spares.is_empty()).then(|| self.world.pick(&spares));
        let at = self.world.between(0, members.len() as u64 - 1) as usize;
        match (self.world.between(0, 3), spare) {
            (0 | 1, Some(spare)) => members.push(new_member(spare)?),
            (2, Some(spare)) => {
                let seat = members.remove(at).seat;
                members.push(RecordMember { seat, ..new_member(spare)? });
            }
            (3, _) => members[at].weight = self.world.between(1, 3) as u16,
            // No key has fewer home replicas than n.
            _ if members.len() > usize::from(N) => drop(members.remove(at)),
            _ => return None,
        }
        Some(members)
    }

    fn cut_some(&self, after: Duration) {
        let mut cuts = BTreeSet::new();
        let names: Vec<NodeId> = self.machines.iter().map(|machine| machine.name).collect();
        if self.world.percent(40) {
            // One link: the others reach both ends, and take both for up.
            let (one, other) = (self.world.pick(&names), self.world.pick(&names));
            cuts.insert((one, other));
            if self.world.percent(70) {
                cuts.insert((other, one));
            }
            return self.cut(cuts, after);
        }
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
        self.cut(cuts, after);
    }

    fn cut(&self, cuts: BTreeSet<(NodeId, NodeId)>, after: Duration) {
        self.world.note(format_args!("cut {cuts:?}"));
        self.network.cut(cuts);
        let network = self.network.clone();
        tokio::spawn(async move {
            sleep(after).await;
            network.cut(BTreeSet::new());
        });
    }

    /// Ends all faults.
    pub(crate) async fn heal(&self) {
        self.world.note(format_args!("heals"));
        // What is about to recover does so first.
        sleep(Duration::from_millis(self.setup.fault_ms_max)).await;
        self.network.cut(BTreeSet::new());
        self.network.set_latency(self.setup.latency_ms_max);
        self.machines.iter().for_each(recover);
    }
}

/// A machine as a member.
fn new_member(machine: &Machine) -> Option<RecordMember> {
    let node = machine.name;
    Some(RecordMember {
        node,
        disk: machine.disk_id()?,
        seat: node,
        zone: node.to_string(),
        weight: 1,
        peer_addr: format!("{node}:1"),
        client_addr: None,
    })
}

/// Ends what a machine suffers from.
fn recover(machine: &Arc<Machine>) {
    machine.disk.set_free_bytes(ROOM_BYTES);
    machine.disk.forgive_next_sync();
    machine.set_clock_ahead(0);
    machine.pause(false);
    machine.start();
}
