//! What goes wrong in a run.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use quorate_engine::cluster::bucket_change;
use quorate_protocol::bucket::Settings;
use quorate_protocol::name::{Bucket, NodeId};
use tokio::time::sleep;

use crate::cluster::Cluster;
use crate::machine::Machine;
use crate::setup::Fault;

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
    machine.set_clock_ahead(0);
    machine.pause(false);
    machine.start();
}
