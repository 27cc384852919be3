//! The cluster record at this node: which one is in force, and how a newer one comes into force.
//!
//! The record is kept in a file of its own in the data directory, synced before anything follows from it. As
//! long as a cluster has only its first record there is none: that record is made from the configured layout,
//! as ever. [`change`] plans and begins what an operator wants, [`voting`] decides the next record,
//! [`moves`] takes the steps of a change that are due, [`joining`] answers nodes that ask to be added,
//! `history` remembers the last records, [`lost`] lets a node go that left and is dead for good.

pub mod change;
pub mod files;
mod history;
pub mod join_proof;
pub mod joining;
pub mod lost;
pub mod moves;
mod refresh;
pub mod voting;
pub mod waiting;

use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock};

use quorate_protocol::layout::{Layout, LayoutHash};
use quorate_protocol::mutation::{Mutation, mutated};
use quorate_protocol::name::NodeId;
use quorate_protocol::placement::{Epoch, Placement};
use quorate_protocol::record::successor::{SuccessorError, check_successor};
use quorate_protocol::record::{ClusterRecord, DiskId, Op, RecordHash, RecordMember};
use quorate_protocol::synod::{self, Acceptor, Ballots};
use quorate_protocol::wire::Header;
use tokio::sync::Semaphore;

use self::files::OwnDisk;
pub use self::history::HISTORY_MAX;
use self::history::History;
use self::join_proof::Challenges;
use self::waiting::WaitingList;
use crate::host::Files;
use crate::node::Node;
use crate::node::errors::StartError;
use crate::peer::epochs::Epochs;
use crate::peer::member::PeerMember;
use crate::seldom::Seldom;

/// The cluster record at this node.
pub struct Membership {
    disk: Mutex<OwnDisk>,
    current: RwLock<Arc<ClusterRecord>>,
    history: History,
    /// The epoch in force, and the newest one shown.
    pub epochs: Arc<Epochs>,
    acceptor: Mutex<Acceptor>,
    ballots: Mutex<Ballots>,
    /// Whether this disk votes: not if it came without what it had voted.
    votes: AtomicBool,
    /// Serialises what replaces the record, and the votes, which both are recorded.
    learning: Mutex<()>,
    /// Whether two records of one epoch were seen.
    has_conflict: AtomicBool,
    /// Limits how many refusals of records are logged.
    refusals: Seldom,
    /// Whether this node is in the record.
    is_member: AtomicBool,
    /// The processes that asked to join.
    pub waiting: WaitingList,
    /// What those have to answer to prove the cluster's key.
    pub challenges: Challenges,
    /// A turn to plan or commit a change, which may take long.
    pub planning: Semaphore,
}

/// Why a record was not learned. Nothing has changed.
#[derive(Debug, thiserror::Error)]
pub enum LearnError {
    /// It is of another cluster.
    #[error("the record is of another cluster")]
    Foreign,
    /// It may not follow the record here.
    #[error("the record may not follow the one here: {0}")]
    Successor(#[from] SuccessorError),
    /// There are two records of one epoch, which cannot happen unless a disk lost its votes.
    #[error("there are two cluster records of epoch {epoch}: {here} here, and {other}")]
    Conflict {
        /// Their epoch.
        epoch: u64,
        /// That of the record here.
        here: RecordHash,
        /// That of the other.
        other: RecordHash,
    },
    /// The cluster goes on without nodes that were lost, and this one is still stopped at the record before.
    #[error(
        "the cluster was recovered by an operator (record {hash} of epoch {epoch}): do the same here, with \
         this node stopped: quorate layout recover --config FILE --without ... --expect {hash}"
    )]
    Recovered {
        /// The epoch of the record.
        epoch: u64,
        /// The record.
        hash: RecordHash,
    },
    /// It could not be recorded.
    #[error("the record cannot be stored: {0}")]
    Files(#[from] std::io::Error),
    /// What follows from it could not be recorded.
    #[error(transparent)]
    Store(#[from] quorate_storage::Error),
}

/// What identifies a record, with this stable layout, in every frame. The first record has the version and
/// hash of its layout: nodes of releases that know no record compare those.
fn epoch_of(record: &ClusterRecord, stable: &Layout) -> Epoch {
    let hash = match record.parent() == RecordHash::NONE {
        true => stable.hash(),
        false => LayoutHash(record.hash().0 as u64),
    };
    Epoch { number: record.epoch(), hash }
}

/// The placement by a record. Computes it.
pub fn placement_of(record: &ClusterRecord) -> Placement {
    let leaving = record.leaving().iter().map(|member| member.node).collect();
    let is_gone = |member: &&RecordMember| record.is_gone(member.disk);
    let gone = record.stable().iter().filter(is_gone).map(|member| member.node).collect();
    let (stable, next) = (record.stable_layout(), record.next_layout());
    Placement::new(epoch_of(record, &stable), stable, next, leaving).without(gone)
}

/// The nodes of a record, with the addresses by which they are reached.
pub fn members_of(record: &ClusterRecord) -> Vec<PeerMember> {
    let lists = [record.stable(), record.next().unwrap_or_default(), record.leaving()];
    let member = |node: NodeId| {
        let member = record.member(node)?;
        let (addr, zone) = (member.peer_addr.clone(), member.zone.clone());
        let is_sworn_dead = record.is_gone(member.disk) && !mutated(Mutation::SwornDeadHeard);
        Some(PeerMember { node, addr, zone, is_sworn_dead })
    };
    let mut names: Vec<NodeId> = lists.into_iter().flatten().map(|member| member.node).collect();
    names.sort();
    names.dedup();
    names.into_iter().filter_map(member).collect()
}

impl Membership {
    /// This node's part, with the record in force and what its disk has voted.
    ///
    /// # Errors
    /// [`StartError`] if the votes belong to another record.
    pub fn new(
        (disk, ballots): (OwnDisk, Ballots),
        (record, epochs): (ClusterRecord, Arc<Epochs>),
        votes: Option<synod::State>,
        challenges: Challenges,
    ) -> Result<Self, StartError> {
        let has_votes = votes.is_some();
        let acceptor = Acceptor::restore(disk.id, record.clone(), votes)
            .map_err(|error| StartError::Votes(error.to_string()))?;
        let record = Arc::new(record);
        Ok(Self {
            disk: Mutex::new(disk),
            history: History::new(record.clone()),
            epochs,
            current: RwLock::new(record),
            acceptor: Mutex::new(acceptor),
            ballots: Mutex::new(ballots),
            votes: AtomicBool::new(has_votes),
            learning: Mutex::new(()),
            has_conflict: AtomicBool::new(false),
            refusals: Seldom::new(),
            is_member: AtomicBool::new(true),
            waiting: WaitingList::default(),
            challenges,
            planning: Semaphore::new(1),
        })
    }

    /// The record in force.
    pub fn record(&self) -> Arc<ClusterRecord> {
        self.current.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// This node's disk.
    pub fn disk(&self) -> DiskId {
        lock(&self.disk).id
    }

    /// Whether this disk votes. One that came without what it had voted does not, until it is another one by
    /// the record (`membership/refresh.rs`).
    pub fn votes(&self) -> bool {
        self.votes.load(Relaxed)
    }

    /// What this disk has voted on the next record.
    pub fn voted(&self) -> synod::State {
        lock(&self.acceptor).state()
    }

    /// Whether this node is in the record in force, and not sworn dead: else it has nothing to say.
    pub fn is_member(&self) -> bool {
        self.is_member.load(Relaxed)
    }

    /// Sees whether this node is a member by a record. Once it is none it never is again.
    pub(crate) fn judge(&self, me: NodeId, record: &ClusterRecord) {
        let is_in = record.member(me).is_some() || mutated(Mutation::RemovedDiskReturns);
        // An empty disk may have the name of the one that was meant, and waits to be known by its own id.
        let is_gone = self.votes() && record.is_gone(self.disk());
        let is_dead = is_gone && !mutated(Mutation::SwornDeadHeard);
        if !is_in || is_dead {
            self.turn_away(if is_dead { "was sworn dead" } else { "was removed from the cluster" });
        }
    }

    fn turn_away(&self, why: &str) {
        if self.is_member.swap(false, Relaxed) {
            tracing::error!(
                "this node {why} and serves nothing any more: stop it and delete its data directory"
            );
        }
    }

    /// Gives this disk a vote once the record names the id that was drawn for it: under that it has never had
    /// one that it could have forgotten. Blocks.
    ///
    /// # Errors
    /// The system's.
    pub(crate) fn vote_if_new(&self, me: NodeId, files: &dyn Files) -> std::io::Result<()> {
        let OwnDisk { id, drawn } = *lock(&self.disk);
        let Some(drawn) = drawn else { return Ok(()) };
        let is_named = self.record().member(me).is_some_and(|member| member.disk == drawn);
        if !is_named || (self.votes() && id == drawn) {
            return Ok(());
        }
        self.vote_as(drawn);
        self.give_vote(files)
    }

    /// From now on this disk votes under this id, under which it has not voted.
    pub(crate) fn vote_as(&self, id: DiskId) {
        let mut disk = lock(&self.disk);
        if disk.id == id {
            return;
        }
        disk.id = id;
        if let Ok(acceptor) = Acceptor::restore(id, (*self.record()).clone(), None) {
            *lock(&self.acceptor) = acceptor;
        }
    }

    /// Gives this disk a vote. Blocks.
    pub(crate) fn give_vote(&self, files: &dyn Files) -> std::io::Result<()> {
        files::store_votes(files, &lock(&self.acceptor).state())?;
        self.votes.store(true, Relaxed);
        Ok(())
    }

    /// Whether two records of one epoch were seen.
    pub fn has_conflict(&self) -> bool {
        self.has_conflict.load(Relaxed)
    }
}

impl Node {
    /// The epoch in force.
    pub fn epoch(&self) -> Epoch {
        self.buckets.epoch()
    }

    /// Whether nothing that began in an earlier epoch is still under way here.
    pub fn is_drained(&self) -> bool {
        self.buckets.is_drained()
    }

    /// The last records, oldest first; the one in force is the last. Blocks the first time: until those are
    /// read that were kept.
    pub fn record_history(&self) -> Vec<Arc<ClusterRecord>> {
        self.membership.history.all(&*self.host.files)
    }

    /// The header of a frame to another node.
    pub fn header_to(&self, to: NodeId) -> Header {
        Header { to, epoch: self.epoch(), ..self.header.clone() }
    }

    /// Takes over a decided record, if it is newer than the one in force. Returns whether it is. Blocks. A
    /// node that was removed takes over none: the record that says so is kept, so that no later one, in
    /// which its name may be another's, makes it a member again.
    ///
    /// # Errors
    /// [`LearnError`]; nothing has changed then, or what has is done again at the next start.
    pub fn learn(self: &Arc<Self>, record: &ClusterRecord) -> Result<bool, LearnError> {
        let membership = &self.membership;
        let _one_at_a_time = lock(&membership.learning);
        let before = membership.record();
        if !membership.is_member() || !self.may_follow(&before, record)? {
            return Ok(false);
        }
        files::store_record(&*self.host.files, record)?;
        membership.judge(self.me, record);
        let (next, placement) = (Arc::new(record.clone()), Arc::new(placement_of(record)));
        // Before the record is in force: what this node becomes a home replica of is not ready then.
        let (old, ns) = (self.view(), self.buckets.ns());
        self.filled.forget_new_homes(&self.store, self.me, (old.placement(), &placement), &ns)?;
        self.filled.begin(&self.store, (self.me, &placement), ns)?;
        lock(&membership.acceptor).learn(record).map_err(|_| LearnError::Foreign)?;
        self.buckets.place(placement.clone());
        // A bucket's n that was learned since did not know of this record.
        self.filled.extend(&self.store, (self.me, &placement), &self.buckets.ns())?;
        *membership.current.write().unwrap_or_else(PoisonError::into_inner) = next.clone();
        self.peers.set_epoch(self.epoch());
        self.follow_members(&members_of(record));
        membership.vote_if_new(self.me, &*self.host.files)?;
        membership.history.add(&*self.host.files, next);
        membership.epochs.set(record.epoch());
        tracing::info!(?record, "a new cluster record is in force");
        Ok(true)
    }

    /// Whether a record is newer than the one here.
    fn may_follow(&self, here: &ClusterRecord, record: &ClusterRecord) -> Result<bool, LearnError> {
        if record.cluster_id() != here.cluster_id() || record.partitions() != here.partitions() {
            return Err(LearnError::Foreign);
        }
        let (epoch, at) = (here.epoch(), record.epoch());
        if at == epoch && record.hash() != here.hash() {
            // Two first records are two configurations, which is reported as such.
            if here.parent() != RecordHash::NONE && record.parent() != RecordHash::NONE {
                self.membership.has_conflict.store(true, Relaxed);
            }
            return Err(LearnError::Conflict { epoch, here: here.hash(), other: record.hash() });
        }
        if at <= epoch || record.parent() == RecordHash::NONE {
            return Ok(false);
        }
        if at == epoch + 1 {
            check_successor(here, record)?;
        }
        // What goes with it is not done while the node runs.
        if record.cause().op == Op::Recover && record.member(self.me).is_some() {
            return Err(LearnError::Recovered { epoch: at, hash: record.hash() });
        }
        Ok(true)
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
