//! What a seed decides in advance: the cluster, its settings, its faults, its clients.

use std::collections::BTreeSet;
use std::sync::{Arc, OnceLock};

use quorate_protocol::bucket::{Conflicts, Properties};
use quorate_protocol::layout::{Layout, Member, Partition};
use quorate_protocol::name::{Key, NodeId};
use quorate_protocol::quorum::Count;
use quorate_protocol::row::Limits;
use quorate_protocol::tree::leaf_of;

use crate::dice::Dice;

/// The most nodes of a simulated cluster.
const NODES_MAX: usize = 7;
/// The most zones of a simulated cluster.
const ZONES_MAX: usize = 3;
/// Partitions of a simulated cluster: few, so that layouts are cheap to compute.
pub(crate) const PARTITIONS: u32 = 16;
/// The bucket that all keys are in.
pub(crate) const BUCKET: &str = "b";
/// The grace of deletes in runs that reap nothing, in milliseconds: the default, 24 h.
const GRACE_MS: u64 = 86_400_000;

/// How likely each fault is: percentages of messages, or weights of faults.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Faults {
    /// Messages lost, in percent.
    pub(crate) loss: u64,
    /// Messages delivered twice, in percent.
    pub(crate) duplication: u64,
    /// Slow messages, in percent: other messages overtake them.
    pub(crate) stragglers: u64,
    /// The usual maximum delay of a message, in milliseconds.
    pub(crate) delay_ms_max: u64,
    /// The mean pause between two faults, in milliseconds.
    pub(crate) every_ms: u64,
    /// Weights of: crash, clean stop, pause, partition, clock jump, disk loss, failed sync, false
    /// suspicion, restoring a copy of a disk, changing the bucket's n.
    pub(crate) weights: [u64; 10],
    /// The longest pause, outage or partition, in milliseconds.
    pub(crate) outage_ms_max: u64,
    /// The longest delay of a straggler, in milliseconds.
    pub(crate) straggler_ms_max: u64,
}

/// Everything that does not change during a run.
pub(crate) struct Setup {
    pub(crate) layout: Arc<Layout>,
    pub(crate) nodes: Vec<NodeId>,
    /// The bucket's initial n, and the bounds of its changes.
    pub(crate) n: u16,
    pub(crate) n_min: u16,
    pub(crate) n_max: u16,
    /// The usual R and W; individual requests may differ.
    pub(crate) r: u16,
    pub(crate) w: u16,
    /// No request asks for less (2 if disks may be lost: then losing one copy breaks no promise).
    pub(crate) w_min: u16,
    /// Whether requests are sloppy by default.
    pub(crate) sloppy: bool,
    /// Whether an acknowledgement waits for a sync; otherwise the log is handed to the operating
    /// system at once, and no crash of the process loses it (docs/design.md, "Durability").
    pub(crate) fsync: bool,
    pub(crate) sync_ms_max: u64,
    pub(crate) conflicts: Conflicts,
    pub(crate) limits: Limits,
    /// The most hint rows a node keeps.
    pub(crate) hints_max: usize,
    pub(crate) keys: Vec<Key>,
    pub(crate) clients: usize,
    pub(crate) requests_per_client: u64,
    /// The longest pause of a client between two requests.
    pub(crate) thinking_ms_max: u64,
    pub(crate) request_timeout_ms: u64,
    pub(crate) replica_timeout_ms: u64,
    pub(crate) hedge_ms: Option<u64>,
    /// How often a node runs one of its background jobs.
    pub(crate) jobs_every_ms: u64,
    /// The most keys or rows in a page of a listing.
    pub(crate) page_max: usize,
    /// The grace of deletes.
    pub(crate) grace_ms: u64,
    /// How clients rotate through the keys in runs that reap tombstones.
    pub(crate) rotation: Option<KeyRotation>,
    pub(crate) faults: Faults,
}

/// Clients write to one key at a time, delete it, and leave it alone until its tombstone is reaped.
#[derive(Clone, Copy, Debug)]
pub(crate) struct KeyRotation {
    /// How long a key is in use, in milliseconds.
    pub(crate) period_ms: u64,
}

impl Setup {
    /// Draws a setup from the seed.
    pub(crate) fn draw(dice: &mut Dice) -> Self {
        let nodes = dice.between(3, NODES_MAX as u64) as usize;
        let zones = dice.between(1, ZONES_MAX as u64) as usize;
        let layout = layout(nodes, zones);
        let n = *dice.pick(&[1, 2, 3, 3, 3, 3, 3, 4, 5]);
        let n = n.min(nodes as u64) as u16;
        let mut faults = Faults::draw(dice);
        let (n_min, n_max) = if dice.percent(25) && n > 1 && nodes > 3 {
            (n, dice.between(n.into(), nodes as u64) as u16)
        } else {
            (n, n)
        };
        if n_min == n_max {
            faults.weights[9] = 0;
        }
        if n == 1 {
            faults.weights[5] = 0; // losing the only copy breaks no promise
            faults.weights[8] = 0;
        }
        let (r, w, w_min) = quorums(n_min, n_max, &faults, dice);
        let mut setup = Self {
            nodes: layout.members().iter().map(|m| m.node).collect(),
            layout,
            n: *dice.pick(&[n_min, n_max]),
            n_min,
            n_max,
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
            keys: keys(dice),
            clients: dice.between(2, 5) as usize,
            requests_per_client: dice.between(15, 45),
            thinking_ms_max: *dice.pick(&[5, 40, 150, 300]),
            request_timeout_ms: dice.between(200, 800),
            replica_timeout_ms: dice.between(30, 200),
            hedge_ms: dice.percent(70).then(|| dice.between(5, 60)),
            jobs_every_ms: *dice.pick(&[10, 40, 150]),
            page_max: dice.between(1, 4) as usize,
            grace_ms: GRACE_MS,
            rotation: None,
            faults,
        };
        if dice.percent(35) {
            setup.reap(dice);
        }
        setup
    }

    /// Makes this a run that reaps tombstones: a short grace, and enough time.
    fn reap(&mut self, dice: &mut Dice) {
        let grace_ms = dice.between(2000, 6000);
        self.grace_ms = grace_ms;
        self.rotation = Some(KeyRotation { period_ms: dice.between(grace_ms, 2 * grace_ms) });
        // A key is left alone only while clients write to others.
        while self.keys.len() < 3 {
            let more = keys(dice);
            self.keys.extend(more);
            self.keys.sort_unstable();
            self.keys.dedup();
        }
        let requests = self.requests_per_client * dice.between(1, 2);
        self.requests_per_client = requests;
        self.thinking_ms_max = 2 * grace_ms * dice.between(8, 14) / requests;
        self.jobs_every_ms = grace_ms / dice.between(8, 16);
        // A node that starts must be quiet for a grace before anything is reaped.
        for start in [0, 1, 6] {
            self.faults.weights[start] = self.faults.weights[start].min(1);
        }
        self.faults.every_ms = dice.between(grace_ms / 4, 2 * grace_ms);
        self.faults.outage_ms_max = *dice.pick(&[grace_ms, 2 * grace_ms, 4 * grace_ms]);
        self.faults.straggler_ms_max = *dice.pick(&[grace_ms / 4, 2 * grace_ms, 4 * grace_ms]);
        self.faults.weights[2] += dice.between(0, 3);
        self.faults.weights[3] += dice.between(0, 3);
        // Otherwise no round of the reaper ever hears from every node.
        self.faults.stragglers = self.faults.stragglers.min(5);
        self.faults.loss = self.faults.loss.min(3);
    }

    /// The bucket's properties with `n` replicas.
    pub(crate) fn properties(&self, n: u16) -> Properties {
        let (r, w) = (Count::Exactly(self.r.min(n)), Count::Exactly(self.w.min(n)));
        Properties { n, r, w, conflicts: self.conflicts, sloppy: self.sloppy }
    }

    /// The preference list of a key, if its bucket has `n` replicas: home replicas, then fallbacks.
    pub(crate) fn preference_list(&self, key: &Key, n: u16) -> (&[NodeId], &[NodeId]) {
        self.all_preferred(key).split_at(usize::from(n))
    }

    /// All nodes in order of preference for a key.
    pub(crate) fn all_preferred(&self, key: &Key) -> &[NodeId] {
        self.layout.preference_list(key.partition(self.layout.partitions()))
    }

    /// The partitions that the keys are in.
    pub(crate) fn partitions(&self) -> impl Iterator<Item = Partition> + use<> {
        let partitions = self.keys.iter().map(|key| key.partition(PARTITIONS));
        partitions.collect::<BTreeSet<_>>().into_iter()
    }

    /// How often a node records how far its peers were durable, in milliseconds: as rarely as the
    /// real one ever does. Where nothing is reaped, always: a copy of a disk that is newer than the
    /// records of all its peers, which lose power at the same time, is not covered
    /// (docs/decisions/0008).
    pub(crate) fn remember_ms(&self) -> u64 {
        if self.reaps() { self.grace_ms / 8 } else { 0 }
    }

    /// Whether this run reaps tombstones.
    pub(crate) fn reaps(&self) -> bool {
        self.rotation.is_some()
    }
}

/// R, W, and the lowest W of any request.
fn quorums(n_min: u16, n_max: u16, faults: &Faults, dice: &mut Dice) -> (u16, u16, u16) {
    let quorum = n_min / 2 + 1;
    let loses_disks = faults.weights[5] + faults.weights[8] > 0;
    let w_min = if loses_disks { 2 } else { 1 };
    let any = |dice: &mut Dice, min: u16| dice.between(min.into(), n_min.into()) as u16;
    let (r, w) = match dice.between(0, 9) {
        0..=3 => (quorum, quorum.max(w_min)),
        4..=8 => {
            let w = any(dice, w_min);
            ((n_max + 1 - w).min(n_min), w) // just enough to overlap, if n allows
        }
        _ => (any(dice, 1), any(dice, w_min)),
    };
    (r, w, w_min)
}

/// One to three keys, often sharing a leaf of their Merkle tree.
fn keys(dice: &mut Dice) -> Vec<Key> {
    let count = dice.between(1, 3) as usize;
    if dice.percent(50) {
        return same_leaf_keys()[..count].to_vec();
    }
    let key = |i| Key::new(BUCKET, format!("k{i}").as_bytes()).ok();
    (0..count).filter_map(key).collect()
}

/// Keys of one partition and one leaf.
fn same_leaf_keys() -> &'static [Key] {
    static KEYS: OnceLock<Vec<Key>> = OnceLock::new();
    KEYS.get_or_init(|| {
        let key = |i| Key::new(BUCKET, format!("t{i}").as_bytes()).ok();
        let place = |key: &Key| (key.partition(PARTITIONS), leaf_of(key));
        let all = || (0..100_000).filter_map(key);
        let first = all().next().map(|first| place(&first));
        all().filter(|key| Some(place(key)) == first).take(3).collect()
    })
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
            weight(60, 6),
            weight(100, 2),
        ];
        let calm = dice.percent(20);
        Self {
            loss: if calm { 0 } else { dice.between(0, 12) },
            duplication: if calm { 0 } else { dice.between(0, 10) },
            stragglers: *dice.pick(&[0, 5, 15, 40]),
            delay_ms_max: dice.between(1, 15),
            every_ms: dice.between(20, 300),
            weights,
            outage_ms_max: 900,
            straggler_ms_max: 900,
        }
    }
}

/// Runs with the same numbers of nodes and zones share a layout: computing one costs more than a
/// run.
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
