//! Which faults strike the cluster, and when: drawn from the seed alone, so that a seed determines
//! the schedule whatever the cluster does.
//!
//! Faults are dealt like cards from a shuffled deck: every kind comes up once per deck, however
//! short the storm is. A fault that makes no sense when its turn comes (killing a node that is
//! down) is skipped.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;
use std::time::Duration;

use rand::rngs::Xoshiro256PlusPlus;
use rand::seq::SliceRandom;
use rand::{RngExt, SeedableRng};

use crate::harness::Cluster;
use crate::small_disk::Disk;

/// One fault, or the end of one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Fault {
    /// kill -9.
    Kill(Vec<usize>),
    /// SIGSTOP.
    Pause(usize),
    /// SIGTERM.
    Stop(usize),
    /// No message between the groups, in either direction.
    Cut(Vec<usize>, Vec<usize>),
    /// No message from the first group to the second.
    CutOneWay(Vec<usize>, Vec<usize>),
    /// kill -9, and its disk is empty. All other nodes must be filled then: otherwise the last
    /// copies of acknowledged writes might be on this disk.
    Wipe(usize),
    /// One node that is down comes back: the first one from this number on.
    Restore(usize),
    /// All nodes come back.
    RestoreAll,
    /// No more cuts.
    Heal,
    /// All nodes are up and connected for a while.
    Lull,
    /// A bucket's properties are changed through a node: its n and its W.
    Properties(usize, u16, u16),
    /// A node's clock is off by this many milliseconds, within what working clocks may be.
    Clock(usize, i64),
    /// Syncs of a node's log fail until its process is replaced.
    SyncsFail(usize),
    /// Each sync of a node's log takes at least this many milliseconds.
    SlowSyncs(usize, u64),
    /// The disk of the node with the small disk is full.
    FullDisk,
    /// A node is stopped briefly and its data copied.
    Copy(usize),
    /// kill -9, and its disk is replaced by the copy. Same condition as [`Fault::Wipe`].
    RollBack(usize),
}

/// The bucket whose properties are changed, and its n at the end.
pub(crate) const CHANGED: &str = "storm";
pub(crate) const N: u16 = 3;

#[derive(Clone, Copy)]
enum Card {
    Kill,
    KillSome,
    KillAll,
    Pause,
    Stop,
    Isolate,
    Halve,
    OneWay,
    Wipe,
    Restore,
    Calm,
    Lull,
    Properties,
    Clock,
    SyncsFail,
    SlowSyncs,
    FullDisk,
    Copy,
    RollBack,
}

/// Long enough for hints to be delivered and tombstones reaped before the next faults.
const LULL: Duration = Duration::from_secs(4);

const DECK: [Card; 39] = {
    use Card::{
        Calm, Clock, Copy, FullDisk, Halve, Isolate, Kill, KillAll, KillSome, Lull, OneWay, Pause,
        Properties, Restore, RollBack, SlowSyncs, Stop, SyncsFail, Wipe,
    };
    [
        Kill, Kill, Kill, KillSome, KillAll, Pause, Pause, Pause, Stop, Isolate, Isolate, Halve,
        Halve, OneWay, OneWay, Wipe, Restore, Restore, Restore, Restore, Restore, Restore, Calm,
        Calm, Calm, Calm, Lull, Properties, Properties, Properties, Clock, Clock, SyncsFail,
        SyncsFail, SlowSyncs, FullDisk, Copy, RollBack, Restore,
    ]
};

/// The endless faults of a seed, each with the pause that follows it.
pub(crate) struct Schedule {
    dice: Xoshiro256PlusPlus,
    nodes: usize,
    deck: Vec<Card>,
    /// Faults drawn but not yet returned.
    next: Vec<Fault>,
}

impl Schedule {
    /// The schedule of a seed for this many nodes.
    pub(crate) fn new(seed: u64, nodes: usize) -> Self {
        let dice = Xoshiro256PlusPlus::seed_from_u64(seed);
        Self { dice, nodes, deck: Vec::new(), next: Vec::new() }
    }

    fn node(&mut self) -> usize {
        self.dice.random_range(1..=self.nodes)
    }

    /// Some nodes, at least one and not all, and the others.
    fn sides(&mut self) -> (Vec<usize>, Vec<usize>) {
        let mask: u32 = self.dice.random_range(1..(1 << self.nodes) - 1);
        (1..=self.nodes).partition(|number| mask & (1 << (number - 1)) != 0)
    }

    fn draw(&mut self) -> Fault {
        if self.deck.is_empty() {
            self.deck = DECK.to_vec();
            self.deck.shuffle(&mut self.dice);
        }
        let card = self.deck.pop().unwrap();
        match card {
            Card::Kill => Fault::Kill(vec![self.node()]),
            Card::KillSome => Fault::Kill(self.sides().0),
            Card::KillAll => Fault::Kill((1..=self.nodes).collect()),
            Card::Pause => Fault::Pause(self.node()),
            Card::Stop => Fault::Stop(self.node()),
            Card::Isolate => {
                let alone = self.node();
                Fault::Cut(vec![alone], (1..=self.nodes).filter(|node| *node != alone).collect())
            }
            Card::Halve => {
                let (these, those) = self.sides();
                Fault::Cut(these, those)
            }
            Card::OneWay => {
                let (from, to) = self.sides();
                Fault::CutOneWay(from, to)
            }
            Card::Wipe => Fault::Wipe(self.node()),
            Card::Restore => Fault::Restore(self.node()),
            Card::Calm => {
                self.next.push(Fault::Heal);
                Fault::RestoreAll
            }
            Card::Lull => Fault::Lull,
            Card::Properties => {
                let (node, n) = (self.node(), self.dice.random_range(2..=N));
                Fault::Properties(node, n, self.dice.random_range(2..=n))
            }
            Card::Clock => Fault::Clock(self.node(), self.dice.random_range(-200..=200)),
            Card::SyncsFail => Fault::SyncsFail(self.node()),
            Card::SlowSyncs => Fault::SlowSyncs(self.node(), self.dice.random_range(20..=400)),
            Card::FullDisk => Fault::FullDisk,
            Card::Copy => Fault::Copy(self.node()),
            Card::RollBack => Fault::RollBack(self.node()),
        }
    }
}

impl Iterator for Schedule {
    type Item = (Fault, Duration);

    fn next(&mut self) -> Option<Self::Item> {
        let fault = self.next.pop().unwrap_or_else(|| self.draw());
        // Mostly in quick succession; now and then long enough for suspicions, hints and rounds.
        let longest_ms = if self.dice.random_range(0..8) == 0 { 4_000 } else { 600 };
        let pause = Duration::from_millis(self.dice.random_range(50..longest_ms));
        let pause = if fault == Fault::Lull { LULL } else { pause };
        Some((fault, pause))
    }
}

impl Fault {
    /// The kind of fault, for the table.
    pub(crate) fn kind(&self) -> &'static str {
        match self {
            Self::Kill(nodes) if nodes.len() > 1 => "SIGKILL of several",
            Self::Kill(_) => "SIGKILL",
            Self::Pause(_) => "SIGSTOP",
            Self::Stop(_) => "SIGTERM",
            Self::Cut(these, those) if these.len().min(those.len()) == 1 => "one node cut off",
            Self::Cut(..) => "cut in two",
            Self::CutOneWay(..) => "cut one way",
            Self::Wipe(_) => "disk wiped",
            Self::Restore(_) | Self::RestoreAll => "restored",
            Self::Heal => "healed",
            Self::Lull => "(a lull)",
            Self::Properties(..) => "n and W changed",
            Self::Clock(..) => "clock set wrong",
            Self::SyncsFail(_) => "syncs fail",
            Self::SlowSyncs(..) => "slow syncs",
            Self::FullDisk => "disk full",
            Self::Copy(_) => "disk copied",
            Self::RollBack(_) => "old disk back",
        }
    }
}

/// Injects faults into a cluster and counts them.
pub(crate) struct Injector {
    cluster: Arc<Cluster>,
    /// The first node's disk, if it can be filled.
    small_disk: Option<Disk>,
    /// How many of each kind struck.
    pub(crate) struck: BTreeMap<&'static str, usize>,
}

impl Injector {
    pub(crate) fn new(cluster: Arc<Cluster>, small_disk: Option<Disk>) -> Self {
        Self { cluster, small_disk, struck: BTreeMap::new() }
    }

    /// Injects a fault, unless it makes no sense now.
    pub(crate) async fn strike(&mut self, fault: &Fault) {
        if self.try_strike(fault).await {
            *self.struck.entry(fault.kind()).or_default() += 1;
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
            Fault::Wipe(number) => {
                self.wipe(*number).await;
                true
            }
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
        }
    }

    fn kill(&self, nodes: &[usize]) -> bool {
        let is_running = |number: &&usize| self.cluster.is_running(**number);
        let running: Vec<_> = nodes.iter().filter(is_running).collect();
        running.iter().for_each(|number| self.cluster.kill(**number));
        !running.is_empty()
    }

    async fn wipe(&self, number: usize) {
        self.calm().await;
        self.cluster.kill(number);
        self.cluster.wipe(number);
        self.cluster.launch(number);
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
        let has_copy = self.copy_of(number).exists();
        if has_copy {
            self.calm().await;
            self.cluster.kill(number);
            copy(&self.copy_of(number), &self.cluster.data_dir(number));
            self.cluster.launch(number);
        }
        has_copy
    }

    /// Brings back the first node from here on that is gone.
    fn restore_one(&self, from: usize) -> bool {
        let nodes = self.cluster.all().count();
        let mut turn = (0..nodes).map(|step| 1 + (from - 1 + step) % nodes);
        let gone = turn.find(|number| !self.cluster.is_awake(*number));
        gone.inspect(|number| self.restore(*number)).is_some()
    }

    /// Makes a node's disk fail. Returns whether the node answered.
    async fn set_disk_fault(&self, number: usize, fault: &str) -> bool {
        self.cluster.is_awake(number) && self.cluster.try_disk_fault(number, fault).await
    }

    fn copy_of(&self, number: usize) -> PathBuf {
        self.cluster.data_dir(number).with_file_name("copy")
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
    async fn calm(&self) {
        self.restore_all().await;
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
