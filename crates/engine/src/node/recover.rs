//! Recovers one disk of a cluster that has lost a majority of its disks: the node is stopped, and an operator
//! has the same done on every disk that is left. Nothing is asked of other nodes.
//!
//! [`look`] says what it comes to, [`Found::carry_out`] does it. Interrupted, it is done again: the record
//! comes last, and before it is there a node does not start with what belongs to it.

use std::collections::BTreeSet;
use std::sync::Arc;

use quorate_protocol::layout::Partition;
use quorate_protocol::name::NodeId;
use quorate_protocol::placement::Placement;
use quorate_protocol::record::successor::SuccessorError;
use quorate_protocol::record::{ClusterRecord, Op, RecordError, RecordHash, Standing};
use quorate_protocol::synod::{Acceptor, RestoreError};
use quorate_storage::{DataDir, OpenError, Options, Store};

use super::errors::StartError;
use super::start::{FORMATION_RECORD, record_in_force};
use crate::cluster::buckets::Buckets;
use crate::cluster::generation::Generation;
use crate::config::Config;
use crate::host::Files;
use crate::membership::{files, placement_of};
use crate::repair::fill_state::FillState;

/// What an operator wants of this disk.
#[derive(Clone, Debug)]
pub struct Wanted {
    /// The nodes whose disks are lost.
    pub without: BTreeSet<NodeId>,
    /// The newest record of all disks that are left, if that is another one's: its file there.
    pub newest: Option<Vec<u8>>,
    /// The hash that the same came to on another disk.
    pub expect: Option<RecordHash>,
    /// Go on though a majority of the disks is left.
    pub force: bool,
}

/// Why a disk is not recovered. Nothing has changed, unless it is of the store or the files.
#[derive(Debug, thiserror::Error)]
pub enum RecoverError {
    /// The disk cannot be read.
    #[error(transparent)]
    Start(#[from] StartError),
    /// The store cannot be opened, or the node runs.
    #[error(transparent)]
    Open(#[from] OpenError),
    /// The store failed.
    #[error("the store: {0}")]
    Store(#[from] quorate_storage::Error),
    /// A file cannot be written.
    #[error("the data directory: {0}")]
    Files(#[from] std::io::Error),
    /// There is no node of a cluster here.
    #[error(
        "the data directory holds no node of a formed cluster: nothing is left here to recover"
    )]
    NothingHere,
    /// This node is one of those that are lost.
    #[error("{0} is the node of this disk: leave it out of --without, or recover the others only")]
    WithoutThis(NodeId),
    /// The disk is not a member's.
    #[error(
        "this disk ({disk}) is not a member's by the record of epoch {epoch}: it holds nothing that counts; \
         delete its data directory, and have the node join the recovered cluster"
    )]
    NoMember {
        /// Its id.
        disk: String,
        /// The epoch of the record.
        epoch: u64,
    },
    /// The given record is none.
    #[error("--record: {0}")]
    Record(#[from] RecordError),
    /// The given record does not belong here.
    #[error(
        "--record: epoch {given} ({given_hash}), but this disk knows epoch {here} ({here_hash}): give the \
         newest record of all disks that are left, of this cluster"
    )]
    OtherRecord {
        /// The epoch of the given one.
        given: u64,
        /// Its hash.
        given_hash: RecordHash,
        /// The epoch of the one here.
        here: u64,
        /// Its hash.
        here_hash: RecordHash,
    },
    /// The step cannot be taken.
    #[error(transparent)]
    Step(#[from] SuccessorError),
    /// The others can go on without this.
    #[error(
        "{left} of {of} voting disks are left, which is a majority: start those nodes, and remove the lost \
         ones (quorate layout commit --remove NODE --gone NODE), which loses less"
    )]
    MajorityLeft {
        /// How many are left.
        left: usize,
        /// Of how many.
        of: usize,
    },
    /// It came to something else elsewhere.
    #[error(
        "this comes to record {here} of epoch {epoch}, not to {expected}: the disks that are left know \
         different records, or other nodes were named. Compare the epochs; give the newest record with \
         --record, and the same --without everywhere. From a first record, [layout] must be the same too, \
         addresses included"
    )]
    NotExpected {
        /// The hash here.
        here: RecordHash,
        /// The epoch of the record.
        epoch: u64,
        /// The expected one.
        expected: RecordHash,
    },
    /// The votes cannot begin anew.
    #[error("the votes: {0}")]
    Votes(#[from] RestoreError),
}

/// What a recovery comes to on this disk. The store is held until it is dropped: no node can start with it.
pub struct Found {
    config: Config,
    store: Store,
    /// The record that is known so far.
    pub known: ClusterRecord,
    /// The record that the cluster goes on with.
    pub record: ClusterRecord,
    /// Whether it is in force here already.
    pub is_done: bool,
    /// Whether this disk has voted for a record that was perhaps decided, and that nobody will hear of now.
    pub overrides: Option<RecordHash>,
    /// How many partitions there are.
    pub partitions: u32,
    /// Those of them of which no home replica is left, by the default n.
    pub lost_partitions: usize,
}

/// Looks at the data directory of a node that is stopped. Writes nothing. Blocks.
///
/// # Errors
/// [`RecoverError`], which says what to do.
pub fn look(
    config: &Config,
    (files, dir): (&dyn Files, &DataDir),
    wanted: &Wanted,
) -> Result<Found, RecoverError> {
    let me = config.node;
    if wanted.without.contains(&me) {
        return Err(RecoverError::WithoutThis(me));
    }
    let here = record_in_force(config, files)?.0;
    let store = open(config, &here, dir)?;
    if store.meta(FORMATION_RECORD)?.is_none() {
        return Err(RecoverError::NothingHere);
    }
    let known = newest(here, wanted.newest.as_deref())?;
    let disk = files::load_member_disk(files, &known, me)?.id;
    match known.standing(me, disk) {
        Standing::Stable | Standing::StableAndNext | Standing::Joining | Standing::Leaving => {}
        Standing::Gone | Standing::OtherDisk { .. } | Standing::Stranger => {
            return Err(RecoverError::NoMember { disk: disk.to_string(), epoch: known.epoch() });
        }
    }
    let is_done = known.cause().op == Op::Recover
        && wanted.without.iter().all(|lost| known.member(*lost).is_none());
    let record = match is_done {
        true => known.clone(),
        false => known.recover(&wanted.without)?,
    };
    check(wanted, &known, &record, is_done)?;
    let votes = files::load_votes(files)?.filter(|votes| votes.instance.epoch > known.epoch());
    let accepted = votes.and_then(|votes| votes.accepted).map(|(_, record)| record.hash());
    Ok(Found {
        partitions: known.partitions(),
        lost_partitions: without_home(&known, &record, config.defaults.properties().n),
        overrides: accepted.filter(|_| !is_done),
        config: config.clone(),
        store,
        known,
        record,
        is_done,
    })
}

fn open(config: &Config, known: &ClusterRecord, dir: &DataDir) -> Result<Store, OpenError> {
    Store::open_in(dir, Options::new(config.node, &config.cluster_id, known.partitions()))
}

/// The record here, or the newer one that is given.
fn newest(here: ClusterRecord, given: Option<&[u8]>) -> Result<ClusterRecord, RecoverError> {
    let Some(given) = given else { return Ok(here) };
    let given = ClusterRecord::decode(given)?;
    let is_of_same =
        given.cluster_id() == here.cluster_id() && given.partitions() == here.partitions();
    let is_newer = given.epoch() > here.epoch() || given.hash() == here.hash();
    match is_of_same && is_newer {
        true => Ok(given),
        false => Err(RecoverError::OtherRecord {
            given: given.epoch(),
            given_hash: given.hash(),
            here: here.epoch(),
            here_hash: here.hash(),
        }),
    }
}

fn check(
    wanted: &Wanted,
    known: &ClusterRecord,
    record: &ClusterRecord,
    is_done: bool,
) -> Result<(), RecoverError> {
    let (here, epoch) = (record.hash(), record.epoch());
    if let Some(expected) = wanted.expect.filter(|expected| *expected != here) {
        return Err(RecoverError::NotExpected { here, epoch, expected });
    }
    let (left, of) = (known.voters_without(&wanted.without), known.stable().len());
    match left >= known.majority() && !wanted.force && !is_done {
        true => Err(RecoverError::MajorityLeft { left, of }),
        false => Ok(()),
    }
}

/// How many partitions have no home replica among those that are left.
fn without_home(known: &ClusterRecord, record: &ClusterRecord, n: u16) -> usize {
    let (layout, left) = (known.stable_layout(), record.stable());
    let is_left = |home: &NodeId| left.iter().any(|member| member.node == *home);
    let all = (0..known.partitions()).map(|p| Partition(p as u16));
    all.filter(|p| !layout.homes(*p, n).iter().any(is_left)).count()
}

impl Found {
    /// Has the cluster go on with [`Found::record`], as far as this disk is concerned. Durable on return.
    /// Blocks.
    ///
    /// # Errors
    /// [`RecoverError`]: it may be done in part, and has to be done again.
    pub fn carry_out(self, files: &dyn Files) -> Result<(), RecoverError> {
        let Self { config, record, .. } = &self;
        let before = Arc::new(placement_of(&record_in_force(config, files)?.0));
        let after = placement_of(record);
        self.forget_new_homes(before, &after)?;
        if !self.is_done {
            // Nobody has voted after this record: who forgot what it voted before has forgotten nothing.
            let disk = files::load_member_disk(files, record, config.node)?.id;
            files::store_votes(files, &Acceptor::restore(disk, record.clone(), None)?.state())?;
            files::store_record(files, record)?;
        }
        self.store.close()?;
        Ok(())
    }

    /// Where this node becomes a home replica it has not received what was written.
    fn forget_new_homes(
        &self,
        before: Arc<Placement>,
        after: &Placement,
    ) -> Result<(), RecoverError> {
        let Self { config, store, .. } = self;
        let known = Buckets::load(store, config.defaults.properties(), before.clone())?;
        let filled = FillState::load(store, after.partitions())?;
        let homes = (&*before, after);
        if filled.forget_new_homes(store, config.node, homes, &known.ns())? > 0 {
            // What no disk holds is lost then, and an operator has to accept that: it is not just empty.
            Generation::record_came_empty(store)?;
        }
        Ok(())
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests;
