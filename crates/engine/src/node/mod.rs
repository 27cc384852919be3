//! One node: all its parts, assembled in one place.

pub mod errors;
pub mod members;
pub mod record;
pub mod recover;
pub mod restore;
mod start;

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::time::Duration;

use tokio::time::Instant;

use quorate_protocol::context::ContextKeys;
use quorate_protocol::layout::Partition;
use quorate_protocol::message::{Formation, Status};
use quorate_protocol::mutation::{Mutation, mutated};
use quorate_protocol::name::{Key, NodeId};
use quorate_protocol::proof::PeerKeys;
use quorate_protocol::received::{Holdings, Holds};
use quorate_protocol::time::{Uptime, WallTime};
use quorate_protocol::tree::Tree;
use quorate_protocol::wire::Header;
use quorate_storage::{Condition, Store};
use tokio_util::sync::CancellationToken;

pub use self::errors::{StartError, Unavailable};
pub use self::start::header;
use crate::background::jobs::Jobs;
use crate::background::reopening::Reopening;
use crate::background::throttle::Throttle;
use crate::backup::state::Backups;
use crate::cluster::buckets::{self, Buckets};
use crate::cluster::generation::Generation;
use crate::cluster::placement;
use crate::cluster::tokens::Tokens;
use crate::cluster::view::ClusterView;
use crate::cluster::wall_clock::WallClock;
use crate::config::Config;
use crate::host::Host;
use crate::limits::admission::Admission;
use crate::limits::bounds::Bounds;
use crate::membership::{Membership, files};
use crate::metrics::totals::Metrics;
use crate::ops::explanations::Explanations;
use crate::ops::feed_watch::FeedWatch;
use crate::ops::forwards::Forwards;
use crate::ops::hedge_budget::HedgeBudget;
use crate::ops::idempotency::Idempotency;
use crate::ops::sampler::Sampler;
use crate::ops::watches::Watches;
use crate::peer::fault_hook::Faults;
use crate::peer::peers::Peers;
use crate::repair::anti_entropy::state::AntiEntropy;
use crate::repair::fill_state::FillState;
use crate::repair::hint_marks::Hints;
use crate::repair::last_drop::LastDrop;
use crate::repair::reassigned::Reassigned;
use crate::repair::restored::Restored;
use crate::repair::set_aside::Distrusted;
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
    /// The tokens of clients.
    pub auth: Tokens,
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
    /// Requests that wait for a change of a key.
    pub watches: Watches,
    /// Requests that wait for a change of a bucket.
    pub feed_watch: FeedWatch,
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
    /// Whether it was restored, and has not compared with all others since.
    pub restored: Restored,
    /// The wall clock.
    pub clock: WallClock,
    /// Anti-entropy with other replicas.
    pub anti_entropy: AntiEntropy,
    /// What reassigning and scrubbing rows has found.
    pub swept: Reassigned,
    /// When this node last dropped something that it held for others.
    pub last_drop: LastDrop,
    /// Its backups.
    pub backups: Backups,
    /// The state of a failed store.
    pub reopening: Reopening,
    /// Tombstones deleted since the start.
    pub reaped: AtomicU64,
    /// Faults set through the fault hook.
    pub faults: Arc<Faults>,
    /// The header of this node's frames, in the epoch of its start: see [`Node::header_to`].
    pub header: Header,
    /// The cluster record.
    pub membership: Membership,
    /// What proves it to its peers, and them to it.
    pub keys: Arc<PeerKeys>,
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
    /// Serialises changes of the members ([`Node::follow_members`]).
    following: Mutex<()>,
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

impl Node {
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
        self.formation().is_some() && self.generation.is_admitted() && self.membership.is_member()
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
        if !self.membership.is_member() {
            return Err(Unavailable::Removed);
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
        let not_stored = |error: std::io::Error| quorate_storage::Error::Io(error.to_string());
        if self.formation().is_some() {
            if !joins && self.formation() == Some(formation) {
                // A peer reported it a moment earlier: the cluster is new, so nothing was missed.
                if !self.filled.is_complete() {
                    self.filled.record_all(&self.store, true)?;
                }
                self.begin_to_vote().map_err(not_stored)?;
            }
            return Ok(());
        }
        if joins && !self.membership.votes() {
            // It may be a member's disk that was wiped, with its votes.
            files::forget_votes(&*self.host.files).map_err(not_stored)?;
        }
        self.filled.record_all(&self.store, !joins)?;
        buckets::record_default_n(&self.store, self.header.default_n)?;
        // First: a formed node always has a record.
        placement::remember(&self.store, self.view().placement().layout())?;
        self.store.put_meta(start::FORMATION_RECORD, &formation.0)?;
        self.formation.get_or_init(|| formation);
        if !joins {
            self.begin_to_vote().map_err(not_stored)?;
        }
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
        let peers = self.peers.all();
        let said = peers.iter().filter_map(|peer| peer.health.word().last().common);
        said.map(|common| common.grace_ms).all(|theirs| theirs == grace_ms)
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
