//! Starting a node: what it finds in its data directory and its configuration, put together.

use std::sync::atomic::AtomicU64;
use std::sync::{Arc, Mutex, OnceLock};

use quorate_protocol::context::ContextKeys;
use quorate_protocol::layout::Layout;
use quorate_protocol::message::Formation;
use quorate_protocol::mutation::{Mutation, mutated};
use quorate_protocol::placement::{Epoch, Placement};
use quorate_protocol::proof::PeerKeys;
use quorate_protocol::record::{ClusterRecord, DiskId, RecordMember};
use quorate_protocol::synod::Ballots;
use quorate_protocol::wire::Header;
use quorate_storage::{Durability, Options, Recovery, Store};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::restore::RESTORING_FILE;
use super::{Leaving, Node, StartError};
use crate::background::jobs::Jobs;
use crate::background::reopening::Reopening;
use crate::background::throttle::Throttle;
use crate::backup::state::Backups;
use crate::cluster::buckets::{self, Buckets};
use crate::cluster::generation::{Generation, TWIN_FILE, first_number_in};
use crate::cluster::placement;
use crate::cluster::tokens::Tokens;
use crate::cluster::wall_clock::WallClock;
use crate::config::origin::Origin;
use crate::config::{Config, NodeConfig};
use crate::host::{Files, Host};
use crate::limits::admission::Admission;
use crate::limits::bounds::Bounds;
use crate::membership::join_proof::Challenges;
use crate::membership::{Membership, files, members_of, placement_of};
use crate::metrics::totals::Metrics;
use crate::ops::explanations::Explanations;
use crate::ops::feed_watch::FeedWatch;
use crate::ops::forwards::Forwards;
use crate::ops::hedge_budget::HedgeBudget;
use crate::ops::idempotency::Idempotency;
use crate::ops::sampler::Sampler;
use crate::ops::watches::Watches;
use crate::peer::epochs::Epochs;
use crate::peer::fault_hook::Faults;
use crate::peer::peers::Peers;
use crate::repair::anti_entropy::state::AntiEntropy;
use crate::repair::fill_state::FillState;
use crate::repair::hint_marks::Hints;
use crate::repair::last_drop::LastDrop;
use crate::repair::reassigned::Reassigned;
use crate::repair::restored::Restored;
use crate::repair::set_aside::{self, Distrusted};
use crate::repair::unreceived::Unreceived;
use crate::seldom::Seldom;
use crate::tasks::Tasks;

pub(super) const FORMATION_RECORD: &str = "formation";

/// The recorded formation, if any. Unless it is that of a decided record, the layout must be the one under
/// which the store was filled.
fn recorded_formation(
    store: &Store,
    (layout, default_n): (&Layout, u16),
    is_decided: bool,
) -> Result<OnceLock<Formation>, StartError> {
    let formation = OnceLock::new();
    if let Some(bytes) = store.meta(FORMATION_RECORD)? {
        let id = bytes[..].try_into().map_err(|_| StartError::Record(FORMATION_RECORD))?;
        formation.get_or_init(|| Formation(id));
        if !is_decided {
            placement::check(store, layout)?;
        }
    }
    let n = (default_n, layout.node_count());
    buckets::check_default_n(store, n, formation.get().is_some())?;
    Ok(formation)
}

impl Node {
    /// Opens the store and starts talking to peers. Nothing listens yet.
    ///
    /// # Errors
    /// [`StartError`], which says what to do.
    pub fn start(config: Config, host: Host) -> Result<Arc<Self>, StartError> {
        let (secrets, keys) = cluster_keys(&config)?;
        let (record, is_decided) = record_to_start_with(&config, &*host.files)?;
        let (placement, members) = (Arc::new(placement_of(&record)), members_of(&record));
        let layout = placement.layout();
        let store = Arc::new(open_store(&config, layout, &host)?);
        let header = Header { epoch: placement.epoch(), ..header(&config, layout, &secrets) };
        let (epochs, faults) = (Arc::new(Epochs::new(record.epoch())), Arc::<Faults>::default());
        let (background, stop) = (Tasks::new(host.gate.clone()), CancellationToken::new());
        let peers = Peers::start(
            (&config, &members),
            (host.wire.clone(), host.chance.clone()),
            (&header, keys.clone(), epochs.clone()),
            faults.clone(),
            &background,
            &stop,
        );
        let formation = recorded_formation(&store, (layout, header.default_n), is_decided)?;
        let above = if is_decided { first_number_in(record.epoch()) } else { 0 };
        let (filled, generation) = begin_generation(&config, layout, (&host, above), &store)?;
        let buckets = load_buckets((&config, &host), &store, &filled, &placement)?;
        let membership = membership(&config, &host, (record, epochs), (is_decided, &formation))?;
        Ok(Arc::new(Self {
            auth: Tokens::load(&store, config.auth.stale_ms)?,
            buckets,
            membership,
            me: config.node,
            contexts: ContextKeys::new(&config.cluster_id, &secrets),
            admission: Admission::new(&config.limits),
            bounds: Bounds::new(config.peers.large_bytes_max, host.threads.cores()),
            metrics: Metrics::new(host.clock.now()),
            forwards: Forwards::new(config.limits.operations_max),
            watches: Watches::of(&store),
            feed_watch: FeedWatch::default(),
            unknown_messages: Seldom::new(),
            explanations: Explanations::new(config.explain.slow_ms, host.chance.clone()),
            sampler: Sampler::new(&host, config.otlp.sample_percent),
            hints: Hints::new(members.iter().map(|member| member.node), host.chance.draw()),
            idempotency: idempotency(&config),
            hedges: HedgeBudget::default(),
            filled,
            // The throttle covers merging, which is half the cost of filling: rows are received
            // before that, and flushed and compacted after it.
            fill_throttle: Throttle::new(config.anti_entropy.fill_percent / 2),
            generation,
            unreceived: Unreceived::default(),
            distrusted: Distrusted::open(&config, placement.partitions(), &host.dir)?,
            restored: Restored::load(&store)?,
            clock: WallClock::new(host.clock.clone(), peers.nodes()),
            anti_entropy: AntiEntropy::new(peers.nodes(), config.anti_entropy.share_percent),
            swept: Reassigned::default(),
            last_drop: LastDrop::new(placement.partitions()),
            backups: Backups::new(config.anti_entropy.share_percent),
            reopening: Reopening::default(),
            reaped: AtomicU64::new(0),
            keys,
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
            following: Mutex::new(()),
        }))
    }
}

/// The buckets, for which the store is prepared.
fn load_buckets(
    (config, host): (&Config, &Host),
    store: &Store,
    filled: &FillState,
    placement: &Arc<Placement>,
) -> Result<Buckets, StartError> {
    let buckets = Buckets::load(store, config.defaults.properties(), placement.clone())?;
    buckets.keep_feeds(store, host.clock.now())?; // those of rows that were set aside are gone
    // In case that the record was stored, and no more.
    filled.begin(store, (config.node, placement), buckets.ns())?;
    Ok(buckets)
}

/// The cluster's secrets, and what proves them to peers.
fn cluster_keys(config: &Config) -> Result<(Vec<[u8; 32]>, Arc<PeerKeys>), StartError> {
    let secrets = config.secrets()?;
    let keys = Arc::new(PeerKeys::new(&secrets));
    Ok((secrets, keys))
}

fn idempotency(config: &Config) -> Idempotency {
    Idempotency::new(config.limits.idempotency_keys_max, config.timeouts.idempotency_ms)
}

/// The same as [`record_in_force`], if nothing in the files forbids a start.
fn record_to_start_with(
    config: &Config,
    files: &dyn Files,
) -> Result<(ClusterRecord, bool), StartError> {
    refuse_by_files(files)?;
    record_in_force(config, files)
}

/// The cluster record in force, and whether it was decided: else it is the first one, which the
/// configuration says.
pub(super) fn record_in_force(
    config: &Config,
    files: &dyn Files,
) -> Result<(ClusterRecord, bool), StartError> {
    if let Some(record) = files::load_record(files)? {
        warn_of_other_layout(config, &record);
        return Ok((record, true));
    }
    // Names what is wrong in the words of the configuration.
    let Origin::Layout(layout) = config.origin()? else { return Err(StartError::NotAdded) };
    config.layout()?;
    // A member that drew an id because it had lost its votes knows of these.
    if files::has_disk(files)? && !files::knows_of_votes(files)? {
        return Err(StartError::MadeToJoin);
    }
    let member = |node: &NodeConfig| RecordMember {
        node: node.name,
        disk: DiskId::of_name(&config.cluster_id, node.name),
        seat: node.name,
        zone: node.zone.clone(),
        weight: node.weight,
        peer_addr: node.peer_addr.clone(),
        client_addr: None,
    };
    let members = layout.nodes.iter().map(member).collect();
    let (version, partitions) = (layout.version, layout.partitions);
    let record = ClusterRecord::first(&config.cluster_id, version, partitions, members);
    let invalid = |error: quorate_protocol::record::RecordError| StartError::ClusterRecord {
        path: "the configured layout".to_owned(),
        reason: error.to_string(),
    };
    Ok((record.map_err(invalid)?, false))
}

/// Tells the operator of a configured layout that is not in force.
fn warn_of_other_layout(config: &Config, record: &ClusterRecord) {
    let configured = |node: &NodeConfig| (node.name, node.zone.clone(), node.weight);
    let mut configured: Vec<_> = config.layout_nodes().iter().map(configured).collect();
    configured.sort();
    let recorded = |member: &RecordMember| (member.node, member.zone.clone(), member.weight);
    let recorded: Vec<_> = record.stable().iter().map(recorded).collect();
    if config.layout.is_some() && configured != recorded {
        tracing::warn!(
            ?record,
            "the configured [layout] is not in force: the cluster has changed since it was formed, and the \
             record of that in the data directory counts (quorate layout show); [layout] can be removed"
        );
    }
}

/// This node's part in deciding the next record.
fn membership(
    config: &Config,
    host: &Host,
    (record, epochs): (ClusterRecord, Arc<Epochs>),
    (is_decided, formation): (bool, &OnceLock<Formation>),
) -> Result<Membership, StartError> {
    let disk = files::load_member_disk(&*host.files, &record, config.node)?;
    let votes = files::load_votes(&*host.files)?;
    // A store that was filled before there were votes has forgotten none.
    let has_formed = formation.get().is_some();
    let is_of_before = has_formed && !is_decided && !files::knows_of_votes(&*host.files)?;
    let is_of_before = is_of_before || mutated(Mutation::WipedAcceptorVotes);
    let ballots = Ballots::new(config.node, host.chance.draw());
    let challenges = Challenges::new(config.node, &*host.chance);
    let membership = Membership::new((disk, ballots), (record, epochs), votes, challenges)?;
    let stored = match is_of_before {
        true => membership.give_vote(&*host.files),
        false => membership.vote_if_new(config.node, &*host.files),
    };
    stored.map_err(|error| StartError::Votes(error.to_string()))?;
    membership.judge(config.node, &membership.record());
    Ok(membership)
}

/// Begins the generation of this start: with the rows that are here, or over. If it is the first one, its
/// number is above `above`.
fn begin_generation(
    config: &Config,
    layout: &Layout,
    (host, above): (&Host, u64),
    store: &Store,
) -> Result<(FillState, Generation), StartError> {
    if Restored::load(store)?.backed_up_at().is_some() {
        // Nothing can have been reaped since (`crate::repair::restored`).
        store.mark_alive(host.clock.now())?;
    }
    let filled = FillState::load(store, layout.partitions())?;
    let by = (host.clock.now(), host.chance.draw());
    let (grace_ms, has_peers) = (config.deletes.grace_ms, layout.node_count() > 1);
    let peers_and_rows = (has_peers, filled.is_complete());
    let generation = Generation::load(store, by, grace_ms, peers_and_rows, above)?;
    if generation.starts_over(store)? {
        filled.record_all(store, false)?;
        let forgotten = files::forget_votes(&*host.files);
        forgotten.map_err(|error| StartError::Votes(error.to_string()))?;
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
/// supervisor does not restart it, and with what a restore has not finished.
fn refuse_by_files(files: &dyn Files) -> Result<(), StartError> {
    if files.read(TWIN_FILE).is_ok() {
        return Err(StartError::Twin { file: files.path(TWIN_FILE) });
    }
    if files.read(RESTORING_FILE).is_ok() {
        return Err(StartError::Restoring { file: files.path(RESTORING_FILE) });
    }
    Ok(())
}

/// The header of a node's frames (the receiver is filled in for each peer).
pub fn header(config: &Config, layout: &Layout, secrets: &[[u8; 32]]) -> Header {
    Header {
        default_n: config.defaults.properties().n,
        cluster_id: config.cluster_id.clone(),
        token: PeerKeys::new(secrets).token(),
        from: config.node,
        to: config.node,
        epoch: Epoch { number: layout.version(), hash: layout.hash() },
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
    let store = Store::open_in(&host.dir, options)?;
    if let Err(error) = host.dir.remove_unfinished_backups() {
        tracing::warn!(%error, "what is left of an unfinished backup could not be removed");
    }
    Ok(store)
}
