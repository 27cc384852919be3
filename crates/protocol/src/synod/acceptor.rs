//! One disk's vote on the next record.

use serde::{Deserialize, Serialize};

use super::{Answer, Ask, Ballot, DiskId, Instance, Request, Response};
use crate::record::successor::{SuccessorError, check_successor};
use crate::record::{ClusterRecord, Op, RecordHash};

/// What an acceptor must not forget: stored and synced before an answer that speaks of it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct State {
    /// The instance it is about.
    pub instance: Instance,
    /// The greatest ballot that was promised.
    pub promised: Option<Ballot>,
    /// What was accepted last, and under which ballot.
    pub accepted: Option<(Ballot, ClusterRecord)>,
}

/// An answer, and when it may leave.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Reply {
    /// What to answer.
    pub response: Response,
    /// Set if it speaks of state that is not known to be durable: store [`Acceptor::state`] and sync, then
    /// call [`Acceptor::synced`] with this number, then answer.
    pub sync_first: Option<u64>,
}

/// Why stored state cannot be taken up.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum RestoreError {
    /// It belongs to a later record than the one that was stored.
    #[error("the vote is about epoch {epoch}, and the newest record known is of epoch {known}")]
    Ahead {
        /// What the vote is about.
        epoch: u64,
        /// The epoch of the record.
        known: u64,
    },
    /// It belongs to another record of the same epoch.
    #[error(
        "the vote is about the child of record {parent}, and the newest record known is {known}"
    )]
    OtherParent {
        /// The record it is about.
        parent: RecordHash,
        /// The record that was stored.
        known: RecordHash,
    },
}

/// What came of a record that was learned.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Learned {
    /// It is the newest now: store it and the state, and adopt it.
    Newest,
    /// It, or a later one, was known.
    Known,
}

/// Why a record is not learned.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum LearnError {
    /// It is no successor of what is known.
    #[error(transparent)]
    Successor(#[from] SuccessorError),
    /// There are two records of one epoch. This cannot happen: the node must stop serving.
    #[error("two records of epoch {epoch}: {known} is known here, {learned} was sent")]
    Conflict {
        /// Their epoch.
        epoch: u64,
        /// The one known here.
        known: RecordHash,
        /// The other.
        learned: RecordHash,
    },
}

/// The vote of one disk. It has one instance at a time: that of the newest record it knows.
#[derive(Clone, Debug)]
pub struct Acceptor {
    disk: DiskId,
    known: ClusterRecord,
    known_hash: RecordHash,
    promised: Option<Ballot>,
    accepted: Option<(Ballot, ClusterRecord)>,
    /// How often what must be durable has changed, and how many of these changes are.
    changes: u64,
    durable: u64,
}

impl Acceptor {
    /// The vote of a disk that knows this record, with the state that was stored on it. State of an older
    /// instance is over.
    ///
    /// # Errors
    /// [`RestoreError`] if the disk holds a vote on a record that it cannot know: it lost something.
    pub fn restore(
        disk: DiskId,
        known: ClusterRecord,
        state: Option<State>,
    ) -> Result<Self, RestoreError> {
        let known_hash = known.hash();
        let next = known.epoch().saturating_add(1);
        let state = state.filter(|state| state.instance.epoch >= next);
        if let Some(State { instance: Instance { epoch, parent }, .. }) = state {
            if epoch > next {
                return Err(RestoreError::Ahead { epoch, known: known.epoch() });
            }
            if parent != known_hash {
                return Err(RestoreError::OtherParent { parent, known: known_hash });
            }
        }
        let (promised, accepted) =
            state.map_or((None, None), |State { promised, accepted, .. }| (promised, accepted));
        Ok(Self { disk, known, known_hash, promised, accepted, changes: 0, durable: 0 })
    }

    /// The newest record that is known.
    pub fn known(&self) -> &ClusterRecord {
        &self.known
    }

    /// What must be stored.
    pub fn state(&self) -> State {
        let epoch = self.known.epoch().saturating_add(1);
        let instance = Instance { epoch, parent: self.known_hash };
        State { instance, promised: self.promised, accepted: self.accepted.clone() }
    }

    /// The state as it was after so many changes is durable.
    pub fn synced(&mut self, changes: u64) {
        self.durable = self.durable.max(changes);
    }

    /// Answers a request.
    pub fn answer(&mut self, request: &Request) -> Reply {
        let Request { instance, ballot, .. } = *request;
        let answer = match self.answer_outside(instance) {
            Some(outside) => outside,
            None => match &request.ask {
                Ask::Prepare => self.prepare(ballot),
                Ask::Accept(record) => self.accept(ballot, record),
            },
        };
        let speaks_of_state = match answer {
            Answer::Promise { .. } | Answer::Accepted | Answer::Refused { .. } => true,
            Answer::Outdated(_) | Answer::Behind { .. } => false,
            Answer::Conflict { .. } | Answer::Rejected => false,
        };
        let sync_first = (speaks_of_state && self.durable < self.changes).then_some(self.changes);
        Reply { response: Response { instance, ballot, answer }, sync_first }
    }

    /// The answer to a request that this disk cannot vote on.
    fn answer_outside(&self, instance: Instance) -> Option<Answer> {
        let epoch = self.known.epoch();
        if instance.epoch <= epoch {
            return Some(Answer::Outdated(self.known.clone()));
        }
        if instance.epoch - epoch > 1 {
            return Some(Answer::Behind { epoch });
        }
        if instance.parent != self.known_hash {
            return Some(Answer::Conflict { known: self.known_hash });
        }
        (!self.known.may_vote(self.disk)).then_some(Answer::Rejected)
    }

    fn prepare(&mut self, ballot: Ballot) -> Answer {
        if let Some(promised) = self.promised.filter(|promised| *promised > ballot) {
            return Answer::Refused { promised };
        }
        self.promise(ballot);
        Answer::Promise { accepted: self.accepted.clone() }
    }

    fn accept(&mut self, ballot: Ballot, record: &ClusterRecord) -> Answer {
        if let Some(promised) = self.promised.filter(|promised| *promised > ballot) {
            return Answer::Refused { promised };
        }
        // A recovery is for when there is nobody to vote.
        let is_voted_on = record.cause().op != Op::Recover;
        if !is_voted_on || check_successor(&self.known, record).is_err() {
            return Answer::Rejected;
        }
        match &self.accepted {
            Some((before, other)) if *before == ballot => match other == record {
                true => Answer::Accepted,
                // Two records under one ballot: the proposer is broken, and has had its answer.
                false => Answer::Rejected,
            },
            Some(_) | None => {
                self.promise(ballot);
                self.accepted = Some((ballot, record.clone()));
                self.changes += 1;
                Answer::Accepted
            }
        }
    }

    fn promise(&mut self, ballot: Ballot) {
        if self.promised != Some(ballot) {
            self.promised = Some(ballot);
            self.changes += 1;
        }
    }

    /// Learns a decided record. Newer ones replace the known one, and the vote on that one's child is over;
    /// records in between may be skipped. The state need not be synced for its own sake: lost, it is that of
    /// an older instance.
    ///
    /// # Errors
    /// [`LearnError`] if it cannot be one.
    pub fn learn(&mut self, record: &ClusterRecord) -> Result<Learned, LearnError> {
        let (known, epoch) = (self.known.epoch(), record.epoch());
        if epoch < known {
            return Ok(Learned::Known);
        }
        let learned = record.hash();
        let conflict = |epoch, known, learned| Err(LearnError::Conflict { epoch, known, learned });
        if epoch == known {
            return match learned == self.known_hash {
                true => Ok(Learned::Known),
                false => conflict(epoch, self.known_hash, learned),
            };
        }
        if epoch - known == 1 {
            if record.parent() != self.known_hash {
                return conflict(known, self.known_hash, record.parent());
            }
            check_successor(&self.known, record)?;
        }
        if record.cluster_id() != self.known.cluster_id() {
            return Err(SuccessorError::Cluster.into());
        }
        if record.partitions() != self.known.partitions() {
            let (parent, child) = (self.known.partitions(), record.partitions());
            return Err(SuccessorError::Partitions { parent, child }.into());
        }
        (self.known, self.known_hash) = (record.clone(), learned);
        (self.promised, self.accepted) = (None, None);
        self.changes += 1;
        Ok(Learned::Newest)
    }
}
