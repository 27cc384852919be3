//! Injects the faults of a storm into its cluster.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;

use super::faults::{CHANGED, Fault};
use super::operator::{Operator, Order, Step};
use crate::harness::Cluster;
use crate::small_disk::Disk;

/// Injects faults into a cluster and counts them.
pub(crate) struct Injector {
    cluster: Arc<Cluster>,
    /// The first node's disk, if it can be filled.
    small_disk: Option<Disk>,
    /// How many of each kind struck.
    pub(crate) struck: BTreeMap<&'static str, usize>,
    /// Who changes the layout, if it changes.
    pub(crate) operator: Option<Operator>,
    /// How many nodes the faults are drawn for.
    drawn_for: usize,
    /// Which of the nodes that are there stands for the first of those: each in turn.
    turn: usize,
}

impl Injector {
    /// For this cluster, whose layout an operator may change.
    pub(crate) fn new(cluster: Arc<Cluster>, small_disk: Option<Disk>, layouts: bool) -> Self {
        let drawn_for = cluster.all().count();
        let operator = layouts.then(|| Operator::new(cluster.clone()));
        Self { cluster, small_disk, struck: BTreeMap::new(), operator, drawn_for, turn: 0 }
    }

    /// Injects a fault, unless it makes no sense now.
    pub(crate) async fn strike(&mut self, fault: &Fault) {
        let has_struck = if let Fault::Layout(order) = fault {
            self.change_layout(order).await
        } else {
            self.try_strike(&self.translated(fault)).await
        };
        if has_struck {
            *self.struck.entry(fault.kind()).or_default() += 1;
        }
        self.turn += usize::from(self.operator.is_some());
    }

    async fn change_layout(&mut self, order: &Order) -> bool {
        // Whoever dies for good must not have the last copy of anything.
        if order.step != Step::ReplaceDead {
            self.restore_all().await;
        } else if self.may_lose_a_disk().await {
            self.calm().await;
        } else {
            return false;
        }
        match &mut self.operator {
            Some(operator) => operator.carry_out(order).await,
            None => false,
        }
    }

    /// The same fault of nodes that are there now.
    fn translated(&self, fault: &Fault) -> Fault {
        let one = |number: &usize| self.stand_in(*number);
        let all = |numbers: &Vec<usize>| self.stand_ins(numbers);
        match fault {
            Fault::Kill(nodes) if nodes.len() == 1 => Fault::Kill(vec![self.stand_in(nodes[0])]),
            Fault::Kill(nodes) => Fault::Kill(all(nodes)),
            Fault::Cut(these, those) => Fault::Cut(all(these), all(those)),
            Fault::CutOneWay(from, to) => Fault::CutOneWay(all(from), all(to)),
            Fault::Pause(number) => Fault::Pause(one(number)),
            Fault::Stop(number) => Fault::Stop(one(number)),
            Fault::Wipe(number) => Fault::Wipe(one(number)),
            Fault::Properties(number, n, w) => Fault::Properties(one(number), *n, *w),
            Fault::Clock(number, ahead_ms) => Fault::Clock(one(number), *ahead_ms),
            Fault::SyncsFail(number) => Fault::SyncsFail(one(number)),
            Fault::SlowSyncs(number, ms) => Fault::SlowSyncs(one(number), *ms),
            Fault::Copy(number) => Fault::Copy(one(number)),
            Fault::RollBack(number) => Fault::RollBack(one(number)),
            Fault::Restore(_)
            | Fault::RestoreAll
            | Fault::Heal
            | Fault::Lull
            | Fault::FullDisk
            | Fault::Layout(_) => fault.clone(),
        }
    }

    /// The nodes that are there now for some that faults were drawn for.
    fn stand_ins(&self, drawn: &[usize]) -> Vec<usize> {
        let slot_of = |place: usize| (place + self.turn) % self.drawn_for + 1;
        let placed = self.cluster.all().enumerate();
        placed.filter(|(at, _)| drawn.contains(&slot_of(*at))).map(|(_, number)| number).collect()
    }

    fn stand_in(&self, drawn: usize) -> usize {
        let all = self.stand_ins(&[drawn]);
        match all.len() {
            0 => self.cluster.some(drawn + self.turn),
            count => all[self.turn / self.drawn_for % count],
        }
    }

    async fn try_strike(&self, fault: &Fault) -> bool {
        let cluster = &self.cluster;
        match fault {
            Fault::Kill(nodes) => self.kill(nodes),
            Fault::Pause(number) => {
                let awake = cluster.is_awake(*number);
                if awake {
                    cluster.pause(*number);
                }
                awake
            }
            Fault::Stop(number) => {
                let awake = cluster.is_awake(*number);
                if awake {
                    cluster.terminate(*number).await;
                }
                awake
            }
            Fault::Cut(these, those) => {
                cluster.cut(these, those).await;
                true
            }
            Fault::CutOneWay(from, to) => {
                cluster.cut_one_way(from, to).await;
                true
            }
            Fault::Wipe(number) => self.wipe(*number).await,
            Fault::Restore(from) => self.restore_one(*from),
            Fault::RestoreAll => {
                let gone: Vec<_> = cluster.all().filter(|n| !cluster.is_awake(*n)).collect();
                gone.iter().for_each(|number| self.restore(*number));
                !gone.is_empty()
            }
            Fault::Heal => {
                cluster.heal().await;
                self.repair_disks().await;
                true
            }
            Fault::Lull => {
                self.restore_all().await;
                true
            }
            Fault::Properties(number, n, w) => self.set_properties(*number, *n, *w).await,
            Fault::Clock(number, ahead_ms) => {
                let awake = cluster.is_awake(*number);
                if awake {
                    cluster.set_clock(*number, *ahead_ms).await;
                }
                awake
            }
            Fault::SyncsFail(number) => {
                self.set_disk_fault(*number, r#"{"syncs_fail": true}"#).await
            }
            Fault::SlowSyncs(number, ms) => {
                self.set_disk_fault(*number, &format!("{{\"sync_ms\": {ms}}}")).await
            }
            Fault::FullDisk => {
                self.small_disk.iter().for_each(Disk::fill);
                self.small_disk.is_some()
            }
            Fault::Copy(number) => self.copy_disk(*number),
            Fault::RollBack(number) => self.roll_back(*number).await,
            Fault::Layout(_) => false, // not a fault of this kind
        }
    }

    fn kill(&self, nodes: &[usize]) -> bool {
        let is_running = |number: &&usize| self.cluster.is_running(**number);
        let running: Vec<_> = nodes.iter().filter(is_running).collect();
        running.iter().for_each(|number| self.cluster.kill(**number));
        !running.is_empty()
    }

    /// Whether a disk may be lost once all is calm: not if a node is missing for good already.
    async fn may_lose_a_disk(&self) -> bool {
        match &self.operator {
            Some(operator) => !operator.misses_a_node().await,
            None => true,
        }
    }

    async fn wipe(&self, number: usize) -> bool {
        // Nobody but an operator brings back a node that was added and has lost its disk.
        if self.cluster.has_joined(number) || !self.may_lose_a_disk().await {
            return false;
        }
        self.calm().await;
        if !self.cluster.all().any(|at| at == number) {
            return false; // it has left meanwhile
        }
        self.cluster.kill(number);
        self.cluster.wipe(number);
        self.cluster.launch(number);
        true
    }

    fn copy_disk(&self, number: usize) -> bool {
        let awake = self.cluster.is_awake(number);
        if awake {
            self.cluster.kill(number);
            copy(&self.cluster.data_dir(number), &self.copy_of(number));
            self.cluster.launch(number);
        }
        awake
    }

    async fn roll_back(&self, number: usize) -> bool {
        let has_copy = self.copy_of(number).exists() && self.may_lose_a_disk().await;
        if has_copy {
            self.calm().await;
            if !self.cluster.all().any(|at| at == number) {
                return false; // it has left meanwhile
            }
            self.cluster.kill(number);
            copy(&self.copy_of(number), &self.cluster.data_dir(number));
            self.cluster.launch(number);
        }
        has_copy
    }

    /// Brings back the first node from here on that is gone.
    fn restore_one(&self, from: usize) -> bool {
        let nodes = self.cluster.all().count();
        let mut turn = (0..nodes).map(|step| self.cluster.some(from - 1 + step));
        let gone = turn.find(|number| !self.cluster.is_awake(*number));
        gone.inspect(|number| self.restore(*number)).is_some()
    }

    /// Makes a node's disk fail. Returns whether the node answered.
    async fn set_disk_fault(&self, number: usize, fault: &str) -> bool {
        self.cluster.is_awake(number) && self.cluster.try_disk_fault(number, fault).await
    }

    fn copy_of(&self, number: usize) -> PathBuf {
        self.cluster.copy_dir(number)
    }

    /// Disks work again. A node whose store failed opens it again by itself, but waits longer each time
    /// within an hour: it is restarted, as an operator would.
    async fn repair_disks(&self) {
        self.small_disk.iter().for_each(Disk::empty);
        for number in self.cluster.all() {
            if !self.set_disk_fault(number, "{}").await {
                continue;
            }
            let ready = self.cluster.at(number).get("/readyz").try_answer().await;
            if ready.is_ok_and(|answer| answer.text().contains("the store failed")) {
                self.cluster.kill(number);
                self.cluster.launch(number);
            }
        }
    }

    /// Returns whether the node accepted them.
    pub(crate) async fn set_properties(&self, number: usize, n: u16, w: u16) -> bool {
        if !self.cluster.is_awake(number) {
            return false;
        }
        let properties = format!("{{\"n\": {n}, \"w\": {w}}}");
        let put = self.cluster.at(number).put(&format!("/buckets/{CHANGED}")).value(properties);
        put.try_answer().await.is_ok_and(|answer| answer.status == 200)
    }

    fn restore(&self, number: usize) {
        if self.cluster.is_paused(number) {
            self.cluster.resume(number);
        } else {
            self.cluster.launch(number);
        }
    }

    /// All nodes come back, and all cuts end.
    pub(crate) async fn restore_all(&self) {
        let gone: Vec<_> = self.cluster.all().filter(|n| !self.cluster.is_awake(*n)).collect();
        gone.iter().for_each(|number| self.restore(*number));
        self.cluster.heal().await;
        self.repair_disks().await;
    }

    /// Ends all faults and waits until every node has everything that was acknowledged so far.
    pub(crate) async fn calm(&self) {
        self.restore_all().await;
        if let Some(operator) = &self.operator {
            operator.wait_settled().await;
        }
        self.cluster.wait_all_up().await;
        self.cluster.wait_whole().await;
    }
}

/// Replaces the contents of a directory by those of another.
fn copy(from: &Path, to: &Path) {
    std::fs::create_dir_all(to).unwrap();
    let script = "find \"$1\" -mindepth 1 -delete && cp -a \"$0\"/. \"$1\"";
    let copied = Command::new("sh").arg("-c").arg(script).args([from, to]).status().unwrap();
    assert!(copied.success(), "{} cannot be copied to {}", from.display(), to.display());
}
