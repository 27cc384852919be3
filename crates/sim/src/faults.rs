//! What goes wrong in a run.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use quorate_protocol::name::NodeId;
use tokio::time::sleep;
use tokio_util::sync::CancellationToken;

use crate::cluster::Cluster;
use crate::machine::Machine;
use crate::setup::Fault;

/// How much longer than other faults one lasts that keeps a node behind.
const BEHIND_TIMES: u32 = 8;

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
            Fault::Layout => return self.change_layouts(&machine),
            Fault::Oath => self.swear(&machine),
            Fault::Behind => return self.leave_behind(&machine, after),
            Fault::Hang => {
                let hanging = CancellationToken::new();
                machine.hang(Some(hanging.clone()));
                let machine = machine.clone();
                tokio::spawn(async move {
                    sleep(after / 4).await;
                    machine.hang(None);
                    hanging.cancel();
                });
            }
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

    /// A node is cut off for long, and the layout changes meanwhile.
    fn leave_behind(&self, behind: &Arc<Machine>, after: Duration) {
        let names = self.machines.iter().map(|machine| machine.name);
        let others = names.filter(|name| *name != behind.name);
        let cuts = others.flat_map(|other| [(other, behind.name), (behind.name, other)]).collect();
        self.cut(cuts, after * BEHIND_TIMES);
        let others = self.machines.iter().filter(|machine| machine.name != behind.name);
        let others: Vec<Arc<Machine>> = others.cloned().collect();
        let operator = self.world.pick(&others);
        self.change_layouts(&operator);
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

/// Ends what a machine suffers from.
fn recover(machine: &Arc<Machine>) {
    machine.disk.set_free_bytes(ROOM_BYTES);
    machine.disk.forgive_next_sync();
    machine.set_clock_ahead(0);
    machine.pause(false);
    machine.start();
}
