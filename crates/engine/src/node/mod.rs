//! One node: all its parts, assembled in one place.

pub mod errors;
pub mod record;

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::time::Duration;

use tokio::time::Instant;

use quorate_protocol::bucket::Settings;
use quorate_protocol::context::{ContextKeys, peer_token};
use quorate_protocol::layout::{Layout, Partition};
use quorate_protocol::message::{Formation, Status};
use quorate_protocol::mutation::{Mutation, mutated};
use quorate_protocol::name::{Key, NodeId};
use quorate_protocol::placement::Placement;
use quorate_protocol::received::{Holdings, Holds};
use quorate_protocol::time::{Uptime, WallTime};
use quorate_protocol::tree::Tree;
use quorate_protocol::wire::Header;
use quorate_storage::{Condition, Durability, Options, Recovery, Store};
use tokio_util::sync::CancellationToken;

pub use self::errors::{StartError, Unavailable};
use crate::background::jobs::Jobs;
use crate::background::reopening::Reopening;
use crate::background::throttle::Throttle;
use crate::cluster::buckets::{self, Buckets};
use crate::cluster::generation::{Generation, TWIN_FILE};
use crate::cluster::placement;
use crate::cluster::view::ClusterView;
use crate::cluster::wall_clock::WallClock;
use crate::config::Config;
use crate::host::{Files, Host};
use crate::limits::admission::Admission;
use crate::limits::bounds::Bounds;
use crate::metrics::totals::Metrics;
use crate::ops::explanations::Explanations;
use crate::ops::forwards::Forwards;
use crate::ops::hedge_budget::HedgeBudget;
use crate::ops::idempotency::Idempotency;
use crate::ops::sampler::Sampler;
use crate::peer::fault_hook::Faults;
use crate::peer::peers::Peers;
use crate::repair::anti_entropy::state::AntiEntropy;
use crate::repair::fill_state::FillState;
use crate::repair::hint_marks::Hints;
use crate::repair::last_drop::LastDrop;
use crate::repair::reassigned::Reassigned;
use crate::repair::set_aside::{self, Distrusted};
use crate::repair::unreceived::Unreceived;
use crate::seldom::Seldom;
use crate::tasks::Tasks;

/// This release.
pub const RELEASE: &str = env!("CARGO_PKG_VERSION");

/// A running node.
pub struct Node {
    /// Its name.
    pub me: NodeId,
    /// What it runs on.
    pub host: Host,
    /// Its configuration.
    pub config: Config,
    /// Its data.
    pub store: Arc<Store>,
    /// Signs and verifies clients' contexts.
    pub contexts: ContextKeys,
    /// The properties of buckets.
    pub buckets: Buckets,
    /// The other nodes.
    pub peers: Peers,
    /// Limits what clients may have in flight.
    pub admission: Admission,
    /// Limits on large objects and on concurrent expensive work.
    pub bounds: Bounds,
    /// Counters and gauges.
    pub metrics: Metrics,
    /// Forwarded writes that are not answered yet.
    pub forwards: Forwards,
    /// Traces of requests that were asked for, slow or failed.
    pub explanations: Explanations,
    /// Limits how many messages that this release does not know are logged.
    pub unknown_messages: Seldom,
    /// Chooses the operations whose traces are exported.
    pub sampler: Sampler,
    /// How far the hints kept for others have been delivered.
    pub hints: Hints,
    /// Recently seen idempotency keys.
    pub idempotency: Idempotency,
    /// The hedging budget.
    pub hedges: HedgeBudget,
    /// Which partitions have been received.
    pub filled: FillState,
    /// Keeps filling within its share of a core.
    pub fill_throttle: Throttle,
    /// This node's generation and those of its peers.
    pub generation: Generation,
    /// Partitions that were merged but do not count as received.
    pub unreceived: Unreceived,
    /// Rows that are set aside.
    pub distrusted: Distrusted,
    /// The wall clock.
    pub clock: WallClock,
    /// Anti-entropy with other replicas.
    pub anti_entropy: AntiEntropy,
    /// What reassigning and scrubbing rows has found.
    pub swept: Reassigned,
    /// When this node last dropped something that it held for others.
    pub last_drop: LastDrop,
    /// The state of a failed store.
    pub reopening: Reopening,
    /// Tombstones deleted since the start.
    pub reaped: AtomicU64,
    /// Faults set through the fault hook.
    pub faults: Arc<Faults>,
    /// The header of this node's frames.
    pub header: Header,
    /// The tokens that it accepts in the headers of others' frames.
    pub tokens: Vec<[u8; 16]>,
    /// Client operations, which outlive their clients; awaited on shutdown.
    pub operations: Tasks,
    /// Background jobs; they end when `stop` is cancelled.
    pub background: Tasks,
    /// What these jobs do.
    pub jobs: Jobs,
    /// Cancelled when background jobs and peer traffic must end.
    pub stop: CancellationToken,
    formation: OnceLock<Formation>,
    /// Serialises the recording of a formation: several peers may report it at once.
    forming: Mutex<()>,
    leaving: Leaving,
    started: Instant,
    ticket: AtomicU64,
}

/// How far the shutdown has progressed.
#[derive(Default)]
struct Leaving {
    drains: AtomicBool,
    stops: AtomicBool,
}

const FORMATION_RECORD: &str = "formation";

/// The recorded formation, if any; the layout must be the one under which the store was filled.
fn recorded_formation(store: &Store, layout: &Layout) -> Result<OnceLock<Formation>, StartError> {
    let formation = OnceLock::new();
    if let Some(bytes) = store.meta(FORMATION_RECORD)? {
        let id = bytes[..].try_into().map_err(|_| StartError::Record(FORMATION_RECORD))?;
        formation.get_or_init(|| Formation(id));
        placement::check(store, layout)?;
    }
    Ok(formation)
}

impl Node {
    /// Opens the store and starts talking to peers. Nothing listens yet.
    ///
    /// # Errors
    /// [`StartError`], which says what to do.
    pub fn start(config: Config, host: Host) -> Result<Arc<Self>, StartError> {
        let layout = config.layout()?;
        let secrets = config.secrets()?;
        refuse_beside_twin(&*host.files)?;
        let store = Arc::new(open_store(&config, &layout, &host)?);
        let header = header(&config, &layout, &secrets);
        let faults = Arc::new(Faults::default());
        let (background, stop) = (Tasks::new(host.gate.clone()), CancellationToken::new());
        let peers =
            Peers::start(&config, host.wire.clone(), &header, faults.clone(), &background, &stop);
        let formation = recorded_formation(&store, &layout)?;
        buckets::check_default_n(&store, header.default_n, formation.get().is_some())?;
        let (filled, generation) = begin_generation(&config, &layout, &host, &store)?;
        let distrusted = Distrusted::open(&config, &host.dir)?;
        let members: Vec<NodeId> = layout.members().iter().map(|member| member.node).collect();
        let last_drop = LastDrop::new(layout.partitions());
        let placement = Arc::new(Placement::stable(layout));
        Ok(Arc::new(Self {
            buckets: Buckets::load(&store, config.defaults.properties(), placement)?,
            me: config.node,
            contexts: ContextKeys::new(&config.cluster_id, &secrets),
            admission: Admission::new(&config.limits),
            bounds: Bounds::new(config.peers.large_bytes_max, host.threads.cores()),
            metrics: Metrics::new(host.clock.now()),
            forwards: Forwards::new(config.limits.operations_max),
            unknown_messages: Seldom::new(),
            explanations: Explanations::new(config.explain.slow_ms, host.chance.clone()),
            sampler: Sampler::new(&host, config.otlp.sample_percent),
            hints: Hints::new(members.into_iter(), host.chance.draw()),
            idempotency: Idempotency::new(
                config.limits.idempotency_keys_max,
                config.timeouts.idempotency_ms,
            ),
            hedges: HedgeBudget::default(),
            filled,
            // The throttle covers merging, which is half the cost of filling: rows are received
            // before that, and flushed and compacted after it.
            fill_throttle: Throttle::new(config.anti_entropy.fill_percent / 2),
            generation,
            unreceived: Unreceived::default(),
            distrusted,
            clock: WallClock::new(host.clock.clone()),
            anti_entropy: AntiEntropy::new(peers.nodes(), config.anti_entropy.share_percent),
            swept: Reassigned::default(),
            last_drop,
            reopening: Reopening::default(),
            reaped: AtomicU64::new(0),
            tokens: secrets.iter().map(peer_token).collect(),
            operations: Tasks::new(host.gate.clone()),
            jobs: Jobs::new(host.clock.clone()),
            leaving: Leaving::default(),
            started: Instant::now(),
            ticket: AtomicU64::new(host.chance.draw()),
            host,
            config,
            store,
            peers,
            faults,
            header,
            background,
            stop,
            formation,
            forming: Mutex::new(()),
        }))
    }

    /// The wall clock, or the cluster's time if this machine's is clearly wrong: for stamps, never
    /// for waiting.
    pub fn now(&self) -> WallTime {
        self.clock.now()
    }

    /// Milliseconds since the start: for deadlines. Monotonic.
    pub fn uptime(&self) -> Uptime {
        self.uptime_at(Instant::now())
    }

    /// The uptime at an instant.
    pub fn uptime_at(&self, at: Instant) -> Uptime {
        Uptime(at.saturating_duration_since(self.started).as_millis() as u64)
    }

    /// The instant of an uptime.
    pub fn instant(&self, at: Uptime) -> tokio::time::Instant {
        self.started + Duration::from_millis(at.0)
    }

    /// Returns a number that is unique within this process.
    pub fn ticket(&self) -> u64 {
        self.ticket.fetch_add(1, Ordering::Relaxed)
    }

    /// The layout and bucket properties as they are now: what an operation takes once, when it is
    /// admitted, and a background job for each round.
    pub fn view(&self) -> ClusterView {
        self.buckets.view()
    }

    /// The partition of a key: the same in every layout of this cluster.
    pub fn partition(&self, key: &Key) -> Partition {
        self.view().partition(key)
    }

    /// Whether this node is part of a formed cluster and its generation is admitted.
    pub fn takes_part(&self) -> bool {
        self.formation().is_some() && self.generation.is_admitted()
    }

    /// Whether every row is in its tree: false for a while after a bucket's n was changed.
    pub fn trees_fit(&self) -> bool {
        self.buckets.assignment().is_settled()
    }

    /// Whether this node is a home replica of a key and has received what was written before it
    /// became one: only then may it answer for the key. What it has received is judged at this
    /// moment; `view` is that of the operation.
    pub fn is_ready_for(&self, view: &ClusterView, key: &Key) -> bool {
        self.has_received(view, view.partition(key), key.bucket()) && !self.filled.is_doubtful(key)
    }

    /// The same for all keys of a bucket in a partition.
    pub fn is_ready_in(&self, view: &ClusterView, partition: Partition, bucket: &str) -> bool {
        let is_there = |key: &Key| key.bucket() == bucket && view.partition(key) == partition;
        self.has_received(view, partition, bucket) && !self.filled.doubtful().iter().any(is_there)
    }

    fn has_received(&self, view: &ClusterView, partition: Partition, bucket: &str) -> bool {
        // If n was lowered since the view was taken, this node may have dropped its row.
        let n = view.n(bucket).min(self.buckets.trusted_n(bucket));
        let is_filled = self.filled.is_ready(partition) || mutated(Mutation::DiskLossReadyAtOnce);
        is_filled
            && view.is_old_home(self.me, Tree { partition, n })
            && self.generation.is_admitted()
    }

    /// Whether client requests of all kinds are accepted.
    ///
    /// # Errors
    /// [`Unavailable`], which says why not.
    pub fn accepts_requests(&self) -> Result<(), Unavailable> {
        if let Condition::Failed(reason) = self.store.condition() {
            let obstacle = self.reopening.obstacle();
            return Err(Unavailable::Store { reason, obstacle });
        }
        self.accepts_reads()
    }

    /// What this node itself distrusts, in words; `None` if there is nothing.
    pub fn own_doubt(&self) -> Option<String> {
        let (undecided, lost) = (self.unreceived.undecided(), self.unreceived.lost());
        if self.generation.waits_with_old_rows() {
            Some(errors::OLD_ROWS.to_owned())
        } else if undecided > 0 {
            Some(format!(
                "all replicas of {undecided} partitions came back too old to be believed, or without data"
            ))
        } else if lost > 0 {
            Some(format!("all replicas of {lost} partitions lost their data"))
        } else {
            None
        }
    }

    /// Whether read requests are accepted: a failed store still serves reads.
    ///
    /// # Errors
    /// [`Unavailable`], which says why not.
    pub fn accepts_reads(&self) -> Result<(), Unavailable> {
        if self.is_stopping() {
            return Err(Unavailable::Stopping);
        }
        if self.formation().is_none() {
            return Err(Unavailable::NotFormed);
        }
        if !self.generation.is_admitted() {
            let is_old = self.generation.waits_with_old_rows();
            return Err(if is_old { Unavailable::OldRows } else { Unavailable::Asking });
        }
        Ok(())
    }

    /// Whether the store takes writes.
    pub fn is_writable(&self) -> bool {
        matches!(self.store.condition(), Condition::Healthy)
    }

    /// Whether the store takes deletes: they need little room, and free some.
    pub fn takes_deletes(&self) -> bool {
        match self.store.condition() {
            Condition::Healthy => true,
            Condition::DiskLow { takes_deletes, .. } => takes_deletes,
            Condition::Failed(_) => false,
        }
    }

    /// Starts draining: clients are still served but told to leave; no more work is accepted from
    /// peers.
    pub fn begin_drain(&self) {
        self.leaving.drains.store(true, Ordering::Relaxed);
    }

    /// Whether this node is draining.
    pub fn is_draining(&self) -> bool {
        self.leaving.drains.load(Ordering::Relaxed)
    }

    /// Refuses new requests from now on.
    pub fn begin_stop(&self) {
        self.leaving.stops.store(true, Ordering::Relaxed);
    }

    /// Whether the node refuses new requests because it is stopping.
    pub fn is_stopping(&self) -> bool {
        self.leaving.stops.load(Ordering::Relaxed)
    }

    /// The cluster's formation, if this node has recorded it.
    pub fn formation(&self) -> Option<Formation> {
        self.formation.get().copied()
    }

    /// Records the cluster's formation, unless one is recorded already. A node that *joins* a
    /// cluster formed by others may have missed writes: its partitions are not ready until they are
    /// filled.
    ///
    /// # Errors
    /// The store's, if the record cannot be made durable.
    pub fn record_formation(
        &self,
        formation: Formation,
        joins: bool,
    ) -> Result<(), quorate_storage::Error> {
        let _one_at_a_time = self.forming.lock().unwrap_or_else(PoisonError::into_inner);
        if self.formation().is_some() {
            if !joins && self.formation() == Some(formation) && !self.filled.is_complete() {
                // A peer reported it a moment earlier: the cluster is new, so nothing was missed.
                self.filled.record_all(&self.store, true)?;
            }
            return Ok(());
        }
        self.filled.record_all(&self.store, !joins)?;
        buckets::record_default_n(&self.store, self.header.default_n)?;
        // First: a formed node always has a record.
        placement::remember(&self.store, self.view().placement().layout())?;
        self.store.put_meta(FORMATION_RECORD, &formation.0)?;
        self.formation.get_or_init(|| formation);
        tracing::info!(joins, "cluster formation recorded");
        Ok(())
    }

    /// What this node holds of each partition.
    pub fn holdings(&self) -> Holdings {
        let instead = match (self.generation.came_empty(), self.distrusted.is_empty()) {
            (false, _) => Holds::Rows,
            (true, false) => Holds::Aside,
            (true, true) => Holds::Nothing,
        };
        Holdings::new(&self.filled.missing(), self.view().placement().partitions(), instead)
    }

    /// Whether every peer heard so far has this node's `deletes.grace_ms`. While one differs
    /// nothing may be reaped: each proof assumes that all are the same.
    pub fn graces_agree(&self) -> bool {
        let grace_ms = self.config.deletes.grace_ms;
        let healths = self.peers.nodes().filter_map(|peer| self.peers.health(peer));
        healths
            .filter_map(|health| health.word().last().common)
            .all(|common| common.grace_ms == grace_ms)
    }

    /// What this node reports of itself to its peers.
    pub fn status(&self) -> Status {
        Status {
            formation: self.formation(),
            ready: self.filled.is_complete(),
            holdings: self.holdings(),
            writable: self.is_writable(),
            buckets_hash: self.buckets.hash(),
            release: RELEASE.to_owned(),
            start: self.generation.start(&self.store),
            common: self.config.common(),
            remembers_since: self.generation.remembers_since(),
            clock: self.clock.machine(),
            waits: self.own_doubt().is_some(),
            attests: false,
            frame_bytes_max: crate::peer::framed::frame_bytes_max(&self.config) as u64,
            client_addr: self.config.advertised_client_addr().unwrap_or_default(),
            hint_bytes: Some(self.store.hint_bytes()),
        }
    }
}

/// Begins the generation of this start: with the rows that are here, or over.
fn begin_generation(
    config: &Config,
    layout: &Layout,
    host: &Host,
    store: &Store,
) -> Result<(FillState, Generation), StartError> {
    let filled = FillState::load(store, layout.partitions())?;
    let by = (host.clock.now(), host.chance.draw());
    let (grace_ms, has_peers) = (config.deletes.grace_ms, layout.node_count() > 1);
    let generation = Generation::load(store, by, grace_ms, has_peers, filled.is_complete())?;
    if generation.starts_over(store)? {
        filled.record_all(store, false)?;
        set_aside::forget_decision(store)?;
        generation.started_over(store)?;
    }
    if let Recovery::CutShort(what) = store.recovery() {
        // Acknowledged writes may be lost: come back as a node that must fill.
        tracing::error!(what, "the log was damaged before its end; filling from the peers");
        filled.record_all(store, false)?;
    }
    Ok((filled, generation))
}

/// Refuses to start if the node has ended because of another process of its name, so that a
/// supervisor does not restart it.
fn refuse_beside_twin(files: &dyn Files) -> Result<(), StartError> {
    if files.read(TWIN_FILE).is_ok() {
        return Err(StartError::Twin { file: files.path(TWIN_FILE) });
    }
    Ok(())
}

/// The header of a node's frames (the receiver is filled in for each peer).
pub fn header(config: &Config, layout: &Layout, secrets: &[[u8; 32]]) -> Header {
    let defaults = config.defaults.properties();
    Header {
        default_n: Settings::default().over(&defaults, layout.node_count()).n,
        cluster_id: config.cluster_id.clone(),
        token: peer_token(&secrets[0]),
        from: config.node,
        to: config.node,
        layout_version: layout.version(),
        layout_hash: layout.hash(),
        partitions: layout.partitions(),
    }
}

/// The largest difference between the memtables of nodes, as a percentage of one.
const STAGGER_PERCENT: u64 = 25;

/// The memtable size of the node at this place in the layout. Replicas take about the same writes:
/// with equal memtables all of them would flush at the same moment, and a quorum can hide only one
/// slow replica (docs/decisions/0012).
fn staggered(memtable_bytes: usize, place: usize) -> usize {
    // Fractional parts of multiples of the golden ratio are well spread, for any number of nodes.
    let fraction_percent = place as u64 * 6_180 / 100 % 100;
    let less = memtable_bytes as u64 / 100 * fraction_percent * STAGGER_PERCENT / 100;
    memtable_bytes - less as usize
}

fn open_store(
    config: &Config,
    layout: &Layout,
    host: &Host,
) -> Result<Store, quorate_storage::OpenError> {
    let durability = match config.durability {
        crate::config::Durability::Fsync => Durability::Fsync,
        crate::config::Durability::Buffered => Durability::Buffered,
    };
    let place = layout.members().iter().position(|member| member.node == config.node);
    let place = place.unwrap_or_default();
    let options = Options {
        durability,
        block_cache_bytes: config.storage.block_cache_bytes,
        row_cache_bytes: config.storage.row_cache_bytes,
        memtable_bytes: staggered(config.storage.memtable_bytes, place),
        background_bytes_per_s: config.storage.background_bytes_per_s,
        disk_free_bytes_min: config.storage.disk_free_bytes_min,
        hint_bytes_max: config.limits.hint_bytes_max,
        ..Options::new(config.node, &config.cluster_id, layout.partitions())
    };
    Store::open_in(&host.dir, options)
}
