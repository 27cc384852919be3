//! What a seed decides before anything happens: the cluster, its settings, its faults, its clients.

use std::sync::{Arc, OnceLock};

use quorate_protocol::bucket::Conflicts;
use quorate_protocol::layout::{Layout, Member};
use quorate_protocol::name::{Key, NodeId};
use quorate_protocol::row::Limits;

use crate::dice::Dice;

/// The most nodes of a simulated cluster.
const NODES_MAX: usize = 7;
/// The most zones of a simulated cluster.
const ZONES_MAX: usize = 3;
/// Partitions of a simulated cluster: few, so that layouts are cheap.
const PARTITIONS: u32 = 16;

/// How likely each thing is that can go wrong. Percentages of messages, or weights of faults.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Faults {
    /// Messages lost, in percent.
    pub(crate) loss: u64,
    /// Messages delivered twice, in percent.
    pub(crate) duplication: u64,
    /// Messages that take long, in percent: they overtake nothing and are overtaken.
    pub(crate) stragglers: u64,
    /// The usual delay of a message, at most, in milliseconds.
    pub(crate) delay_ms_max: u64,
    /// The mean pause between two faults, in milliseconds.
    pub(crate) every_ms: u64,
    /// Weights of: crash, clean stop, pause, partition, clock jump, disk loss, failed sync, false
    /// suspicion.
    pub(crate) weights: [u64; 8],
}

/// Everything that does not change during a run.
pub(crate) struct Setup {
    pub(crate) layout: Arc<Layout>,
    pub(crate) nodes: Vec<NodeId>,
    /// N of every bucket.
    pub(crate) n: u16,
    /// The usual R and W; single requests may differ.
    pub(crate) r: u16,
    pub(crate) w: u16,
    /// No request asks for less (2 when disks may be lost: one copy may then be lost rightly).
    pub(crate) w_min: u16,
    /// Whether requests are sloppy unless they say otherwise.
    pub(crate) sloppy: bool,
    /// Whether an acknowledgement waits for a sync; else the log is with the operating system at
    /// once, and no crash loses it (section 8: `buffered` survives a killed process).
    pub(crate) fsync: bool,
    pub(crate) sync_ms_max: u64,
    pub(crate) conflicts: Conflicts,
    pub(crate) limits: Limits,
    /// The most hint rows a node keeps.
    pub(crate) hints_max: usize,
    pub(crate) keys: Vec<Key>,
    pub(crate) clients: usize,
    pub(crate) requests_per_client: u64,
    /// The longest that a client thinks between two requests.
    pub(crate) thinking_ms_max: u64,
    pub(crate) request_timeout_ms: u64,
    pub(crate) replica_timeout_ms: u64,
    pub(crate) hedge_ms: Option<u64>,
    pub(crate) handoff_every_ms: u64,
    pub(crate) faults: Faults,
}

impl Setup {
    /// Draws a setup.
    pub(crate) fn draw(dice: &mut Dice) -> Self {
        let nodes = dice.between(3, NODES_MAX as u64) as usize;
        let zones = dice.between(1, ZONES_MAX as u64) as usize;
        let layout = layout(nodes, zones);
        let n = *dice.pick(&[1, 2, 3, 3, 3, 3, 3, 4, 5]);
        let n = n.min(nodes as u64) as u16;
        let quorum = n / 2 + 1;
        let mut faults = Faults::draw(dice);
        if n == 1 {
            faults.weights[5] = 0; // the only copy would be lost, and rightly
        }
        let loses_disks = faults.weights[5] > 0;
        let w_min = if loses_disks { 2 } else { 1 };
        let any = |dice: &mut Dice, min: u16| dice.between(min.into(), n.into()) as u16;
        let (r, w) = match dice.between(0, 9) {
            0..=3 => (quorum, quorum.max(w_min)),
            4..=8 => {
                let w = any(dice, w_min);
                (n + 1 - w, w) // just enough to overlap
            }
            _ => (any(dice, 1), any(dice, w_min)),
        };
        let keys = dice.between(1, 3);
        let key = |i| Key::new("b", format!("k{i}").as_bytes()).ok();
        Self {
            nodes: layout.members().iter().map(|m| m.node).collect(),
            layout,
            n,
            r,
            w,
            w_min,
            sloppy: dice.percent(60),
            fsync: dice.percent(80),
            sync_ms_max: *dice.pick(&[2, 10, 40, 100]),
            conflicts: if dice.percent(20) { Conflicts::Lww } else { Conflicts::Siblings },
            limits: Limits {
                siblings_max: dice.between(2, 12) as usize,
                object_bytes_max: dice.between(100, 2000) as usize,
            },
            hints_max: dice.between(1, 6) as usize,
            keys: (0..keys).filter_map(key).collect(),
            clients: dice.between(2, 5) as usize,
            requests_per_client: dice.between(15, 45),
            thinking_ms_max: *dice.pick(&[5, 40, 150]),
            request_timeout_ms: dice.between(200, 800),
            replica_timeout_ms: dice.between(30, 200),
            hedge_ms: dice.percent(70).then(|| dice.between(5, 60)),
            handoff_every_ms: *dice.pick(&[10, 40, 150]),
            faults,
        }
    }

    /// The nodes of a key in order of preference: home replicas, then fallbacks.
    pub(crate) fn preference_list(&self, key: &Key) -> (&[NodeId], &[NodeId]) {
        let partition = key.partition(self.layout.partitions());
        self.layout.preference_list(partition).split_at(usize::from(self.n))
    }

    /// Whether the node is a home replica of the key.
    pub(crate) fn is_home(&self, node: NodeId, key: &Key) -> bool {
        self.preference_list(key).0.contains(&node)
    }
}

impl Faults {
    fn draw(dice: &mut Dice) -> Self {
        let mut weight = |likely: u64, weight: u64| if dice.percent(likely) { weight } else { 0 };
        let weights = [
            weight(75, 4),
            weight(40, 2),
            weight(40, 2),
            weight(70, 5),
            weight(40, 2),
            weight(45, 5),
            weight(30, 2),
            weight(50, 3),
        ];
        let calm = dice.percent(20);
        Self {
            loss: if calm { 0 } else { dice.between(0, 12) },
            duplication: if calm { 0 } else { dice.between(0, 10) },
            stragglers: *dice.pick(&[0, 5, 15, 40]),
            delay_ms_max: dice.between(1, 15),
            every_ms: dice.between(20, 300),
            weights,
        }
    }
}

/// Layouts are the same in every run that has as many nodes and zones, and cost more than a run
/// does.
fn layout(nodes: usize, zones: usize) -> Arc<Layout> {
    static LAYOUTS: [[OnceLock<Arc<Layout>>; ZONES_MAX + 1]; NODES_MAX + 1] =
        [const { [const { OnceLock::new() }; ZONES_MAX + 1] }; NODES_MAX + 1];
    let member = |i: usize| {
        let node = NodeId::parse(&format!("n{}", i + 1)).ok()?;
        Some(Member { node, zone: format!("z{}", i % zones + 1), weight: 1 })
    };
    let make = || match Layout::new(1, PARTITIONS, (0..nodes).filter_map(member).collect()) {
        Ok(layout) => Arc::new(layout),
        Err(error) => unreachable!("a layout of {nodes} good names: {error}"),
    };
    Arc::clone(LAYOUTS[nodes][zones].get_or_init(make))
}
