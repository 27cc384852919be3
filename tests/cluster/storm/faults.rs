//! Which faults strike the cluster, and when: drawn from the seed alone, so that a seed determines
//! the schedule whatever the cluster does.
//!
//! Faults are dealt like cards from a shuffled deck: every kind comes up once per deck, however
//! short the storm is. A fault that makes no sense when its turn comes (killing a node that is
//! down) is skipped.

use std::time::Duration;

use rand::rngs::Xoshiro256PlusPlus;
use rand::seq::SliceRandom;
use rand::{RngExt, SeedableRng};

use super::operator::{Blow, Order, Step};

/// One fault, or the end of one. Nodes are numbered as they are at the beginning; the injector strikes
/// others in their place once the members have changed.
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
    /// The operator changes the layout.
    Layout(Order),
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
    Layout(Step),
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

/// What is added if the layout changes. Every change begins with all nodes up, so that there are more of the
/// other faults beside them too.
const LAYOUT_DECK: [Card; 18] = {
    use Card::{Kill, Layout, Pause, Restore};
    [
        Layout(Step::Join(1)),
        Layout(Step::Join(1)),
        Layout(Step::Join(2)),
        Layout(Step::JoinInVain),
        Layout(Step::Leave),
        Layout(Step::Leave),
        Layout(Step::Replace),
        Layout(Step::ReplaceDead),
        Layout(Step::Weigh),
        Layout(Step::Rezone),
        Layout(Step::Abort),
        Layout(Step::Abort),
        Kill,
        Kill,
        Kill,
        Pause,
        Restore,
        Restore,
    ]
};

/// The endless faults of a seed, each with the pause that follows it.
pub(crate) struct Schedule {
    dice: Xoshiro256PlusPlus,
    nodes: usize,
    /// Whether the layout changes.
    layouts: bool,
    deck: Vec<Card>,
    /// Faults drawn but not yet returned.
    next: Vec<Fault>,
}

impl Schedule {
    /// The schedule of a seed for this many nodes.
    pub(crate) fn new(seed: u64, nodes: usize, layouts: bool) -> Self {
        let dice = Xoshiro256PlusPlus::seed_from_u64(seed);
        Self { dice, nodes, layouts, deck: Vec::new(), next: Vec::new() }
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
            if self.layouts {
                self.deck.extend(LAYOUT_DECK);
            }
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
            Card::Layout(step) => Fault::Layout(self.order(step)),
        }
    }

    fn order(&mut self, step: Step) -> Order {
        let blow = match self.dice.random_range(0..5) {
            0 => Blow::Coordinator,
            1 => Blow::First,
            2 => Blow::Joiner,
            _ => Blow::None,
        };
        let (draw, after_ms) = (self.dice.random_range(0..60), self.dice.random_range(0..1500));
        Order { step, draw, blow, after_ms }
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
            Self::Layout(order) => order.step.kind(),
        }
    }
}
