//! What a seed decides before a run begins.

use std::sync::OnceLock;

use quorate_engine::config::Config;
use quorate_protocol::name::Key;
use quorate_protocol::tree::leaf_of;
use serde::{Deserialize, Serialize};
use serde_json::json;

use crate::dice::Dice;
pub use crate::focus::Focus;
use crate::typed;

/// The kinds of faults. Each run has some of them only: what all together hide, few of them show
/// (Groce et al., "Swarm Testing", ISSTA 2012).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum Fault {
    /// SIGKILL.
    Kill,
    /// SIGTERM.
    Stop,
    /// SIGSTOP for a while.
    Pause,
    /// Power fails, on one machine or on all at once.
    Power,
    /// Nothing gets through between some nodes, in one direction or both.
    Cut,
    /// Connections break.
    Reset,
    /// The network is slow.
    Slow,
    /// A sync fails.
    Sync,
    /// The disk is full for a while.
    Full,
    /// A machine's clock is wrong for a while.
    Clock,
    /// The bucket's n is changed.
    ChangeN,
    /// The victim's disk is replaced by an empty one.
    Wipe,
    /// The victim's disk is copied, or put back as it was copied.
    Copy,
    /// The victim's log is damaged before its end.
    Log,
    /// Nodes join, leave, are replaced or get another weight.
    Layout,
    /// A node is killed, and an operator swears that it is dead. It returns.
    Oath,
    /// A node is cut off for long, while others change the layout.
    Behind,
    /// What requests do on a disk takes long.
    Hang,
}

impl Fault {
    const ALL: [Self; 14] = [
        Self::Kill,
        Self::Stop,
        Self::Pause,
        Self::Power,
        Self::Cut,
        Self::Reset,
        Self::Slow,
        Self::Sync,
        Self::Full,
        Self::Clock,
        Self::ChangeN,
        Self::Wipe,
        Self::Copy,
        Self::Log,
    ];

    /// Whether acknowledged writes may be lost with it, on one machine.
    fn loses_data(self) -> bool {
        matches!(self, Self::Wipe | Self::Copy | Self::Log)
    }

    /// Whether what is on one machine only may be lost with it.
    fn takes_a_copy(self) -> bool {
        self.loses_data() || self == Self::Oath
    }
}

/// The bucket that clients use.
pub(crate) const BUCKET: &str = "bucket";
/// Partitions of every cluster.
const PARTITIONS: u32 = 8;
/// Partitions of a cluster that is measured.
const PARTITIONS_USUAL: u32 = 1024;
/// The most keys of a run.
const KEYS_MAX: usize = 100;
/// The keys of all runs.
static KEYS: OnceLock<Vec<Key>> = OnceLock::new();

/// Keys of which the first two are counted in one leaf of one tree.
fn some_keys() -> Vec<Key> {
    let named = |at: usize| Key::new(BUCKET, format!("k{at}").as_bytes()).ok();
    let mut keys: Vec<Key> = (0..KEYS_MAX).filter_map(named).collect();
    if let Some(first) = keys.first().cloned() {
        let place = |key: &Key| (key.partition(PARTITIONS), leaf_of(key));
        let fellow = (KEYS_MAX..).filter_map(named).find(|key| place(key) == place(&first));
        keys.splice(1..1, fellow);
    }
    keys
}

/// A grace within which no run ends, in milliseconds.
const GRACE_MS: u64 = 24 * 3_600_000;

/// One run.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Setup {
    pub(crate) nodes: usize,
    /// Machines that may join them.
    pub(crate) spares: usize,
    /// How many keys clients use.
    pub(crate) keys: usize,
    pub(crate) clients: usize,
    /// Clients of typed values, beside those.
    #[serde(default)]
    pub(crate) typed_clients: usize,
    /// Requests of each client.
    pub(crate) requests: u64,
    pub(crate) thinking_ms_max: u64,
    pub(crate) request_ms: u64,
    pub(crate) latency_ms_max: u64,
    pub(crate) faults: Vec<Fault>,
    /// Time between two faults at most, in milliseconds.
    pub(crate) fault_every_ms: u64,
    /// Whether a write is acknowledged only when it is synced.
    pub(crate) fsync: bool,
    /// The longest that a fault lasts, in milliseconds.
    pub(crate) fault_ms_max: u64,
    /// The least W: with two copies one machine may lose its own.
    pub(crate) w_min: u64,
    /// What most writes and reads ask for.
    pub(crate) w: u64,
    pub(crate) r: u64,
    /// Which machine loses data, if any does.
    pub(crate) victim: usize,
    /// The grace of deletes, if it is so short that tombstones are reaped within the run.
    pub(crate) grace_ms: Option<u64>,
    /// Time between two rounds of anti-entropy, in milliseconds.
    pub(crate) interval_ms: u64,
    /// How many writes in a hundred have a condition.
    pub(crate) conditions_percent: u64,
    /// How many writes in a hundred delete.
    pub(crate) deletes_percent: u64,
    /// How many values in a hundred expire.
    #[serde(default)]
    pub(crate) lifetimes_percent: u64,
    /// Subscribers to the feed of the bucket.
    #[serde(default)]
    pub(crate) followers: usize,
    /// Whether each value has an entry in an index, for which clients ask too.
    #[serde(default)]
    pub(crate) is_indexed: bool,
    /// For how long a value must have expired before it is removed, in milliseconds.
    #[serde(default)]
    pub(crate) expired_age_ms: u64,
    /// Whether all machines crash at once when the cluster has healed.
    pub(crate) crashes_at_end: bool,
    /// Whether nodes have the settings that ship, instead of hasty ones.
    #[serde(default)]
    pub(crate) as_shipped: bool,
}

/// One fault, and some of three others.
fn with_some(fault: Fault, others: [Fault; 3], dice: &mut Dice) -> Vec<Fault> {
    let others = others.into_iter().filter(|_| dice.percent(30));
    [fault].into_iter().chain(others).collect()
}

impl Setup {
    /// Draws one: about `focus`, or, now and then, about any.
    pub(crate) fn draw(dice: &mut Dice, focus: Option<Focus>) -> Self {
        let mut setup = Self::draw_any(dice);
        let by_chance =
            dice.percent(30).then(|| Focus::BY_CHANCE[dice.index(Focus::BY_CHANCE.len())]);
        match focus.or(by_chance) {
            Some(Focus::Copies) => setup.about_copies(dice),
            Some(Focus::Links) => setup.about_links(dice),
            Some(Focus::Counts) => setup.about_counts(dice),
            Some(Focus::Requests) => setup.about_requests(),
            Some(Focus::Layouts) => setup.about_layouts(dice),
            Some(Focus::Types | Focus::Expiry | Focus::Feeds | Focus::Indexes) => {} // drawn below
            None => {}
        }
        if setup.spares == 0 && dice.percent(25) {
            setup.faults.push(Fault::Layout);
            setup.spares = dice.between(1, 2) as usize;
        }
        if setup.spares > 0 {
            setup.add_to_layouts(dice);
        }
        // What can be lost on one machine must be on two.
        setup.w_min = if setup.faults.iter().any(|fault| fault.takes_a_copy()) { 2 } else { 1 };
        setup.w = setup.w.max(setup.w_min);
        if setup.spares > 0 && setup.w_min == 1 && dice.percent(20) {
            setup.begin_small(dice);
        }
        // Drawn last: the other decisions of a seed do not depend on it.
        let has_types = match focus {
            Some(focus) => focus == Focus::Types,
            None => dice.percent(25),
        };
        if has_types {
            setup.typed_clients = dice.between(1, 3) as usize;
        }
        let has_lifetimes = match focus {
            Some(focus) => focus == Focus::Expiry,
            None => dice.percent(25),
        };
        if has_lifetimes {
            setup.let_expire(dice);
        }
        let has_feed = match focus {
            Some(focus) => focus == Focus::Feeds,
            None => dice.percent(25),
        };
        if has_feed {
            setup.followers = dice.between(1, 2) as usize;
        }
        setup.is_indexed = match focus {
            Some(focus) => focus == Focus::Indexes,
            None => dice.percent(25),
        };
        setup
    }

    /// There are fewer nodes than keys have replicas, until others have joined.
    fn begin_small(&mut self, dice: &mut Dice) {
        self.nodes = dice.between(1, 2) as usize;
        self.victim = dice.index(self.nodes);
        self.spares += 1;
    }

    /// Three nodes and a key, where nothing happens by itself.
    pub(crate) fn calm() -> Self {
        Self {
            nodes: 3,
            spares: 0,
            keys: 1,
            clients: 0,
            typed_clients: 0,
            requests: 0,
            thinking_ms_max: 0,
            request_ms: 2_000,
            latency_ms_max: 2,
            faults: Vec::new(),
            fault_every_ms: 0,
            fsync: true,
            fault_ms_max: 0,
            w_min: 1,
            w: 2,
            r: 2,
            victim: 0,
            grace_ms: None,
            interval_ms: 1_000,
            conditions_percent: 0,
            deletes_percent: 0,
            lifetimes_percent: 0,
            followers: 0,
            is_indexed: false,
            expired_age_ms: 0,
            crashes_at_end: true,
            as_shipped: false,
        }
    }

    fn draw_any(dice: &mut Dice) -> Self {
        let fsync = dice.percent(70);
        let mut faults: Vec<Fault> = Fault::ALL.into_iter().filter(|_| dice.percent(40)).collect();
        if !fsync {
            // Durability without syncs survives a killed process, not a power cut.
            faults.retain(|fault| !matches!(fault, Fault::Power | Fault::Sync));
        }
        // A grace is longer than clocks differ.
        let grace_ms = dice.percent(40).then(|| dice.between(1_000, 4_000));
        if grace_ms.is_some() {
            faults.retain(|fault| *fault != Fault::Clock);
        }
        let thinking_ms_max = if dice.percent(75) { 300 } else { 3_000 };
        let nodes = if dice.percent(50) { 3 } else { dice.between(4, 5) as usize };
        Self {
            nodes,
            spares: 0,
            keys: dice.between(1, 5) as usize,
            clients: dice.between(1, 4) as usize,
            typed_clients: 0,
            // Many short runs find more than few long ones, but not all.
            requests: if dice.percent(95) { dice.between(10, 60) } else { 300 },
            thinking_ms_max: dice.between(1, thinking_ms_max),
            request_ms: dice.between(400, 2_000),
            latency_ms_max: dice.between(0, 8),
            faults,
            fault_every_ms: dice.between(200, 4_000),
            fsync,
            // Some keep a node behind for long.
            fault_ms_max: if dice.percent(70) { 5_000 } else { dice.between(50, 30_000) },
            w_min: 1,
            w: dice.between(1, 3),
            r: dice.between(1, 3),
            victim: dice.index(nodes),
            grace_ms,
            interval_ms: [1_000, 1_000, 5_000, 20_000][dice.index(4)],
            conditions_percent: 15,
            deletes_percent: if grace_ms.is_some() { 45 } else { 20 },
            lifetimes_percent: 0,
            followers: 0,
            is_indexed: false,
            expired_age_ms: 0,
            crashes_at_end: dice.percent(50),
            as_shipped: false,
        }
    }

    fn about_copies(&mut self, dice: &mut Dice) {
        self.faults = with_some(Fault::Copy, [Fault::Stop, Fault::Cut, Fault::Kill], dice);
        (self.fault_every_ms, self.fault_ms_max) = (dice.between(500, 6_000), 2_000);
        if dice.percent(70) {
            self.reap_within(1_500, dice);
        }
    }

    fn about_links(&mut self, dice: &mut Dice) {
        self.faults = with_some(Fault::Cut, [Fault::Pause, Fault::Slow, Fault::Kill], dice);
        (self.fault_every_ms, self.fault_ms_max) = (dice.between(300, 3_000), 8_000);
        self.reap_within(1_500, dice);
    }

    fn about_counts(&mut self, dice: &mut Dice) {
        self.faults = with_some(Fault::ChangeN, [Fault::Pause, Fault::Slow, Fault::Kill], dice);
        (self.fault_every_ms, self.fault_ms_max) = (dice.between(50, 600), 2_000);
    }

    fn about_requests(&mut self) {
        self.faults.clear();
        (self.thinking_ms_max, self.conditions_percent) = (20, 60);
    }

    fn about_layouts(&mut self, dice: &mut Dice) {
        self.faults = with_some(Fault::Layout, [Fault::Pause, Fault::Cut, Fault::Kill], dice);
        (self.fault_every_ms, self.fault_ms_max) = (dice.between(50, 1_500), 2_000);
        self.spares = dice.between(1, 3) as usize;
        self.thinking_ms_max = dice.between(10, 200);
        if dice.percent(40) {
            self.reap_within(1_500, dice);
        }
    }

    /// Some of the faults that matter where the layout changes.
    fn add_to_layouts(&mut self, dice: &mut Dice) {
        // Two copies are not enough if one machine is sworn dead and another one loses its disk.
        let may_swear = !self.faults.iter().any(|fault| fault.loses_data());
        if dice.percent(30) && may_swear {
            self.faults.push(Fault::Oath);
        }
        for fault in [Fault::Behind, Fault::Hang, Fault::ChangeN] {
            if dice.percent(20) && !self.faults.contains(&fault) {
                self.faults.push(fault);
            }
        }
    }

    /// Deletes are reaped within the run, and clients leave time for it.
    fn reap_within(&mut self, grace_ms_max: u64, dice: &mut Dice) {
        self.grace_ms = Some(dice.between(1_000, grace_ms_max));
        self.deletes_percent = 45;
        self.thinking_ms_max = dice.between(200, 1_500);
    }

    /// Some values expire, and clients leave time for it. Clocks are right: they say when a lifetime is over.
    fn let_expire(&mut self, dice: &mut Dice) {
        self.lifetimes_percent = dice.between(20, 80);
        self.expired_age_ms = dice.between(0, 2_000);
        self.thinking_ms_max = self.thinking_ms_max.max(dice.between(100, 1_000));
        self.faults.retain(|fault| *fault != Fault::Clock);
    }

    /// Whether such a cluster can be.
    ///
    /// # Errors
    /// What cannot.
    pub(crate) fn check(&self) -> Result<(), String> {
        let in_range = |name: &str, value: u64, min: u64, max: u64| match value {
            value if (min..=max).contains(&value) => Ok(()),
            value => Err(format!("{name} must be from {min} to {max}, not {value}")),
        };
        in_range("nodes", self.nodes as u64, 1, 9)?;
        in_range("spares", self.spares as u64, 0, 9)?;
        in_range("victim", self.victim as u64, 0, self.nodes as u64 - 1)?;
        in_range("keys", self.keys as u64, 1, KEYS_MAX as u64)?;
        in_range("clients", self.clients as u64, 1, 100)?;
        in_range("typed_clients", self.typed_clients as u64, 0, 100)?;
        in_range("w_min", self.w_min, 1, 3)?;
        in_range("w", self.w, 1, 3)?;
        in_range("r", self.r, 1, 3)?;
        in_range("request_ms", self.request_ms, 1, 60_000)?;
        in_range("followers", self.followers as u64, 0, 100)?;
        in_range("lifetimes_percent", self.lifetimes_percent, 0, 100)?;
        in_range("interval_ms", self.interval_ms, 100, 60_000)?;
        in_range("grace_ms", self.grace_ms.unwrap_or(GRACE_MS), 1_000, GRACE_MS)
    }

    /// The keys that clients use.
    pub(crate) fn keys(&self) -> Vec<Key> {
        KEYS.get_or_init(some_keys).iter().take(self.keys).cloned().collect()
    }

    /// The keys of typed values that clients use.
    pub(crate) fn typed_keys(&self) -> Vec<Key> {
        if self.typed_clients > 0 { typed::all_keys() } else { Vec::new() }
    }

    /// Setups with a little less in them, those with much less first.
    pub(crate) fn smaller(&self) -> Vec<Self> {
        let mut smaller = Vec::new();
        let mut add = |change: &dyn Fn(&mut Self)| {
            let mut setup = self.clone();
            change(&mut setup);
            if setup != *self {
                smaller.push(setup);
            }
        };
        add(&|setup| setup.requests = (setup.requests / 2).max(1));
        add(&|setup| setup.clients = (setup.clients / 2).max(1));
        for fault in &self.faults {
            add(&|setup| setup.faults.retain(|other| other != fault));
        }
        add(&|setup| setup.spares = setup.spares.min(1));
        add(&|setup| setup.keys = 1);
        add(&|setup| setup.typed_clients /= 2);
        add(&|setup| setup.followers /= 2);
        add(&|setup| (setup.nodes, setup.victim) = (setup.nodes.min(3), setup.victim.min(2)));
        add(&|setup| setup.clients = (setup.clients - 1).max(1));
        add(&|setup| setup.requests = (setup.requests - 1).max(1));
        add(&|setup| setup.latency_ms_max = 0);
        add(&|setup| setup.crashes_at_end = false);
        add(&|setup| setup.grace_ms = None);
        add(&|setup| setup.lifetimes_percent = 0);
        add(&|setup| setup.is_indexed = false);
        smaller
    }

    /// The configuration of a node, which counts from 1.
    ///
    /// # Panics
    /// If it is not valid: the simulator is wrong then.
    pub(crate) fn config(&self, number: usize) -> Config {
        let name = |number: usize| format!("n{number}");
        let grace_ms = self.grace_ms.unwrap_or(GRACE_MS);
        let expire_ms = if self.lifetimes_percent > 0 { 500 } else { GRACE_MS };
        let members: Vec<_> = (1..=self.nodes)
            .map(|at| json!({ "name": name(at), "peer_addr": format!("{}:1", name(at)), "zone": name(at) }))
            .collect();
        let mut config = json!({
            "cluster_id": "simulated",
            "cluster_keys": ["2a".repeat(32)],
            "node": name(number),
            "data_dir": name(number),
            "durability": if self.fsync { "fsync" } else { "buffered" },
            "layout": { "partitions": PARTITIONS, "nodes": members },
            "timeouts": {
                "request_ms": self.request_ms,
                "replica_ms": 200,
                "probe_ms": 250,
            },
            "anti_entropy": { "interval_ms": self.interval_ms },
            "deletes": { "grace_ms": grace_ms, "reap_ms": grace_ms / 4,
                "expire_ms": expire_ms, "expired_age_ms": self.expired_age_ms },
            "storage": { "row_cache_bytes": 65_536, "disk_free_bytes_min": 1_048_576 },
        });
        if self.as_shipped
            && let Some(settings) = config.as_object_mut()
        {
            for hasty in ["timeouts", "anti_entropy", "deletes"] {
                settings.remove(hasty);
            }
            config["layout"]["partitions"] = json!(PARTITIONS_USUAL);
        }
        match serde_json::from_value::<Config>(config) {
            Ok(config) => config,
            Err(error) => panic!("the simulator's configuration: {error}"),
        }
    }
}
