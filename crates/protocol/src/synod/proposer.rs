//! One try to have a record decided, with as many ballots as it needs.

use std::collections::BTreeSet;

use super::{Answer, Ask, Ballot, Ballots, DiskId, Instance, Request, Response};
use crate::mutation::{Mutation, mutated};
use crate::record::successor::{SuccessorError, check_successor};
use crate::record::{ClusterRecord, RecordHash};

/// What the node must do now.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Effect {
    /// Send a request to disks.
    Ask {
        /// To these, the own one included if it has a vote.
        to: Vec<DiskId>,
        /// The request.
        request: Request,
    },
    /// Send a disk the parent, which it has not learned, and then the request.
    Teach {
        /// To this one.
        to: DiskId,
        /// The parent.
        record: ClusterRecord,
        /// The request that it could not answer.
        request: Request,
    },
    /// Wait for 50 to 500 ms, at random, then call [`Proposer::retry`].
    Retry,
    /// A record is decided: learn it and tell everybody. The try is over.
    Decided {
        /// The record.
        record: ClusterRecord,
        /// Whether it is the one that was wanted; else somebody else's came first.
        is_wanted: bool,
    },
    /// The instance was over: learn this record, and see whether the step is still due. The try is over.
    Outdated {
        /// A record of this epoch or a later one.
        record: ClusterRecord,
    },
    /// A disk knows another parent of this epoch. This cannot happen: the node must stop serving. The try is
    /// over.
    Conflict {
        /// The disk.
        disk: DiskId,
        /// The record that it knows.
        known: RecordHash,
    },
}

/// Why a try cannot begin.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ProposeError {
    /// The record may not follow the parent.
    #[error(transparent)]
    Successor(#[from] SuccessorError),
    /// There is no ballot left.
    #[error(transparent)]
    Rounds(#[from] RetryError),
}

/// There are no more rounds.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the rounds of ballots are used up")]
pub struct RetryError;

/// One try to have a record decided.
#[derive(Clone, Debug)]
pub struct Proposer {
    parent: ClusterRecord,
    instance: Instance,
    majority: usize,
    /// The disks that may vote.
    voters: BTreeSet<DiskId>,
    wanted: ClusterRecord,
    ballot: Ballot,
    /// The highest round that any answer named.
    seen: u32,
    /// Whether some disk was asked to accept the wanted record.
    was_sent: bool,
    /// The disks that refused this ballot.
    refused: BTreeSet<DiskId>,
    phase: Phase,
}

#[derive(Clone, Debug)]
enum Phase {
    Preparing {
        promised: BTreeSet<DiskId>,
        /// What was accepted under the greatest ballot, of what they told.
        accepted: Option<(Ballot, ClusterRecord)>,
    },
    Accepting {
        record: ClusterRecord,
        accepted: BTreeSet<DiskId>,
    },
    /// Between two ballots.
    Waiting,
    Over,
}

impl Proposer {
    /// Begins a try to have a record decided after its parent, the newest record known.
    ///
    /// # Errors
    /// [`ProposeError`] if the record may not follow it.
    pub fn start(
        parent: ClusterRecord,
        wanted: ClusterRecord,
        ballots: &mut Ballots,
    ) -> Result<(Self, Vec<Effect>), ProposeError> {
        check_successor(&parent, &wanted)?;
        let instance = Instance { epoch: wanted.epoch(), parent: wanted.parent() };
        let voters = parent.acceptors().into_iter().filter(|disk| parent.may_vote(*disk)).collect();
        let majority = parent.majority();
        let mut proposer = Self {
            parent,
            instance,
            majority,
            voters,
            wanted,
            ballot: ballots.after(0).ok_or(RetryError)?,
            seen: 0,
            was_sent: false,
            refused: BTreeSet::new(),
            phase: Phase::Waiting,
        };
        let effects = proposer.prepare();
        Ok((proposer, effects))
    }

    /// Tries again under a greater ballot: after [`Effect::Retry`], or when answers do not come. Does
    /// nothing once the try is over.
    ///
    /// # Errors
    /// [`RetryError`] if there is none.
    pub fn retry(&mut self, ballots: &mut Ballots) -> Result<Vec<Effect>, RetryError> {
        if self.is_over() {
            return Ok(Vec::new());
        }
        self.ballot = ballots.after(self.seen).ok_or(RetryError)?;
        Ok(self.prepare())
    }

    /// Whether nothing more will come of this try.
    pub fn is_over(&self) -> bool {
        matches!(self.phase, Phase::Over)
    }

    /// Whether the wanted record may be decided, now or later, though this try did not see it: if it is
    /// given up then, its outcome is unknown.
    pub fn is_outcome_unknown(&self) -> bool {
        self.was_sent && !self.is_over()
    }

    fn prepare(&mut self) -> Vec<Effect> {
        self.refused.clear();
        self.phase = Phase::Preparing { promised: BTreeSet::new(), accepted: None };
        vec![self.ask_all(Ask::Prepare)]
    }

    fn ask_all(&self, ask: Ask) -> Effect {
        Effect::Ask { to: self.voters.iter().copied().collect(), request: self.request(ask) }
    }

    fn request(&self, ask: Ask) -> Request {
        Request { instance: self.instance, ballot: self.ballot, ask }
    }

    /// An answer arrived from a disk, whose id the sender has proved or the caller knows. Answers of disks
    /// without a vote, to earlier ballots and to other tries count for nothing.
    pub fn on_response(&mut self, from: DiskId, response: Response) -> Vec<Effect> {
        let Response { instance, ballot, answer } = response;
        if self.is_over() || instance != self.instance {
            return Vec::new();
        }
        let counts = ballot == self.ballot && self.voters.contains(&from);
        match answer {
            Answer::Outdated(record) => self.on_outdated(record),
            Answer::Conflict { known } => {
                self.phase = Phase::Over;
                vec![Effect::Conflict { disk: from, known }]
            }
            Answer::Promise { accepted } if counts => self.on_promise(from, accepted),
            Answer::Accepted if counts => self.on_accepted(from),
            Answer::Refused { promised } if counts => {
                self.seen = self.seen.max(promised.round);
                self.on_refused(from)
            }
            Answer::Rejected if counts => self.on_refused(from),
            Answer::Behind { .. } if counts => self.on_behind(from),
            Answer::Promise { .. } | Answer::Accepted | Answer::Refused { .. } => Vec::new(),
            Answer::Rejected | Answer::Behind { .. } => Vec::new(),
        }
    }

    fn on_outdated(&mut self, record: ClusterRecord) -> Vec<Effect> {
        let fits = match record.epoch() > self.instance.epoch {
            true => record.cluster_id() == self.parent.cluster_id(),
            false => check_successor(&self.parent, &record).is_ok(),
        };
        if !fits {
            return Vec::new();
        }
        self.phase = Phase::Over;
        vec![Effect::Outdated { record }]
    }

    fn on_promise(&mut self, from: DiskId, told: Option<(Ballot, ClusterRecord)>) -> Vec<Effect> {
        let Phase::Preparing { promised, accepted } = &mut self.phase else { return Vec::new() };
        if let Some((ballot, record)) = told {
            // No acceptor accepts such a record: one that says so has no vote to count.
            if check_successor(&self.parent, &record).is_err() {
                return self.on_refused(from);
            }
            if accepted.as_ref().is_none_or(|(greatest, _)| *greatest < ballot) {
                *accepted = Some((ballot, record));
            }
        }
        promised.insert(from);
        if promised.len() < self.majority {
            return Vec::new();
        }
        // What may have been decided under an earlier ballot is decided under this one too.
        let accepted = accepted.take().filter(|_| !mutated(Mutation::TwoRecordsOneEpoch));
        let record = accepted.map_or_else(|| self.wanted.clone(), |(_, record)| record);
        self.was_sent |= record == self.wanted;
        self.refused.clear();
        self.phase = Phase::Accepting { record: record.clone(), accepted: BTreeSet::new() };
        vec![self.ask_all(Ask::Accept(record))]
    }

    fn on_accepted(&mut self, from: DiskId) -> Vec<Effect> {
        let Phase::Accepting { record, accepted } = &mut self.phase else { return Vec::new() };
        accepted.insert(from);
        if accepted.len() < self.majority {
            return Vec::new();
        }
        let is_wanted = *record == self.wanted;
        let record = record.clone();
        self.phase = Phase::Over;
        vec![Effect::Decided { record, is_wanted }]
    }

    /// One of the disks will not vote for this ballot. Without a majority of the others it has failed.
    fn on_refused(&mut self, from: DiskId) -> Vec<Effect> {
        if matches!(self.phase, Phase::Waiting | Phase::Over) {
            return Vec::new();
        }
        self.refused.insert(from);
        if self.voters.len() - self.refused.len() >= self.majority {
            return Vec::new();
        }
        self.phase = Phase::Waiting;
        vec![Effect::Retry]
    }

    fn on_behind(&mut self, from: DiskId) -> Vec<Effect> {
        let ask = match &self.phase {
            Phase::Preparing { .. } => Ask::Prepare,
            Phase::Accepting { record, .. } => Ask::Accept(record.clone()),
            Phase::Waiting | Phase::Over => return Vec::new(),
        };
        let (record, request) = (self.parent.clone(), self.request(ask));
        vec![Effect::Teach { to: from, record, request }]
    }
}
