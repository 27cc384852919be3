//! Deciding the next cluster record: one single-decree Paxos for each parent.
//!
//! The instance that decides record e+1 is named by its epoch and the hash of record e, and its acceptors
//! are the stable disks of record e, a majority of all of them. At most one record is decided in an
//! instance, so of two operators that change one record one wins, and the other is told. There is no leader
//! and no log: any node may propose, and one that finds a record that may have been decided finishes that.
//!
//! [`Acceptor`] is one disk's vote. [`Proposer`] is one try to have a record decided. Both are told what
//! arrived and say what to send; messages may be lost, repeated and reordered. What may not fail is the
//! disk: an answer leaves only once the state it speaks of is synced, and a disk that lost its state is
//! another disk, with another [`DiskId`], whose vote does not count.
//!
//! Sources: Lamport, "Paxos Made Simple" (SIGACT News 2001); Lamport, Malkhi, Zhou, "Reconfiguring a State
//! Machine" (2010) for a configuration that decides the next one (α = 1).

mod acceptor;
mod proposer;

use serde::{Deserialize, Serialize};

pub use self::acceptor::{Acceptor, LearnError, Learned, Reply, RestoreError, State};
pub use self::proposer::{Effect, ProposeError, Proposer, RetryError};
use crate::name::NodeId;
use crate::record::{ClusterRecord, DiskId, RecordHash};

/// Which record is to be decided.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Instance {
    /// Its epoch.
    pub epoch: u64,
    /// The hash of its parent.
    pub parent: RecordHash,
}

impl Instance {
    /// The instance that decides the child of a record; `None` after the last epoch.
    pub fn after(parent: &ClusterRecord) -> Option<Self> {
        Some(Self { epoch: parent.epoch().checked_add(1)?, parent: parent.hash() })
    }
}

/// The number of a try: no two tries have the same ([`Ballots`]), and they are ordered.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Ballot {
    /// Raised by whoever was refused.
    pub round: u32,
    /// Who proposes.
    pub node: NodeId,
    /// Drawn at random at each start of the node, so that it need not remember its rounds.
    pub nonce: u64,
}

/// The source of a node's ballots: one for each start of the node, used for all instances. A ballot that
/// came twice could carry two records.
#[derive(Clone, Debug)]
pub struct Ballots {
    last: Ballot,
}

impl Ballots {
    /// None was used since this start of the node, whose nonce was drawn for it.
    pub fn new(node: NodeId, nonce: u64) -> Self {
        Self { last: Ballot { round: 0, node, nonce } }
    }

    /// A ballot greater than all before, and of a greater round than `seen`; `None` if there are no more
    /// rounds.
    pub fn after(&mut self, seen: u32) -> Option<Ballot> {
        self.last.round = self.last.round.max(seen).checked_add(1)?;
        Some(self.last)
    }
}

/// What a proposer asks an acceptor.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Request {
    /// In which instance.
    pub instance: Instance,
    /// Under which ballot.
    pub ballot: Ballot,
    /// What.
    pub ask: Ask,
}

/// The two questions.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Ask {
    /// To accept nothing under a lesser ballot any more, and to say what it accepted so far.
    Prepare,
    /// To accept a record.
    Accept(ClusterRecord),
}

/// What an acceptor answers. It repeats what the request named, so that an answer that comes late is not
/// taken for one to a later try.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Response {
    /// The instance of the request.
    pub instance: Instance,
    /// The ballot of the request.
    pub ballot: Ballot,
    /// The answer.
    pub answer: Answer,
}

/// The answers.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Answer {
    /// To `Prepare`: promised.
    Promise {
        /// What this disk accepted last, if it did.
        accepted: Option<(Ballot, ClusterRecord)>,
    },
    /// To `Accept`: accepted.
    Accepted,
    /// A greater ballot was promised.
    Refused {
        /// That one.
        promised: Ballot,
    },
    /// The instance is over: this is the newest record that the acceptor knows.
    Outdated(ClusterRecord),
    /// The acceptor has not learned the parent: send it, and ask again.
    Behind {
        /// The epoch of the newest record that it knows.
        epoch: u64,
    },
    /// The acceptor knows another record of the parent's epoch. This cannot happen: somebody has to look.
    Conflict {
        /// The hash of that record.
        known: RecordHash,
    },
    /// The disk has no vote on this, or the record may not follow its parent.
    Rejected,
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests;
