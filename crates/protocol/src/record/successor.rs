//! The steps from one record to the next: constructors, and the check that every node makes of a record
//! before it votes for it, learns it or adopts it.
//!
//! | step | allowed | what becomes of the record |
//! | --- | --- | --- |
//! | begin | not joint | `next` is the new layout; more disks may be sworn gone |
//! | finish | joint | `stable` is the new layout; who is not in it leaves, unless it is gone |
//! | abort | joint | `next` is dropped; who was only in it leaves, unless it is lost |
//! | release | a node leaves | it does not any more |
//! | refresh | always | a member has a new, empty disk, in every list |
//! | readdress | always | members have other addresses, in every list |
//! | recover | on every disk that is left | `stable` without the lost disks; a change is given up |
//!
//! A node that joined in vain leaves as one that was removed does: in the joint epoch it may have
//! acknowledged writes as a fallback, and still has to hand them over. An oath that a disk is gone outlives
//! an abort: deletes may have been collected in the meantime without asking it. It ends when the disk's node
//! is removed or has a new disk.
//!
//! [`check_successor`] takes the step again that a record says it is, and compares: so nothing but these
//! steps is ever adopted.

use std::collections::{BTreeMap, BTreeSet};

use super::{
    Cause, ClusterRecord, DiskId, Fields, Op, Reason, RecordError, RecordHash, RecordMember, find,
};
use crate::name::NodeId;

/// Where a node is reached.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Addresses {
    /// By its peers: host and port.
    pub peer_addr: String,
    /// By clients, if that is known.
    pub client_addr: Option<String>,
}

/// Why a record may not follow another.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SuccessorError {
    /// The record would not be valid.
    #[error(transparent)]
    Invalid(#[from] RecordError),
    /// It is of another cluster.
    #[error("the record is of another cluster")]
    Cluster,
    /// It changes the number of partitions.
    #[error("the number of partitions is {parent} and cannot become {child}")]
    Partitions {
        /// Those of the parent.
        parent: u32,
        /// Those of the child.
        child: u32,
    },
    /// Its epoch is not the parent's plus one.
    #[error("epoch {child} does not follow epoch {parent}")]
    Epoch {
        /// That of the parent.
        parent: u64,
        /// That of the child.
        child: u64,
    },
    /// It is a child of another record.
    #[error("the record's parent is {named}, not {parent}")]
    Parent {
        /// The hash of the parent.
        parent: RecordHash,
        /// What the child names.
        named: RecordHash,
    },
    /// A first record follows nothing.
    #[error("a first record does not follow another")]
    First,
    /// A change is under way.
    #[error("the layout is changing: finish or abort that first")]
    Moving,
    /// No change is under way.
    #[error("no change of the layout is under way")]
    NotMoving,
    /// The step would change nothing.
    #[error("nothing would change")]
    NothingChanges,
    /// A disk that was sworn gone would be a member again.
    #[error(
        "disk {0} was sworn gone, which cannot be taken back: remove its node or give it a new disk"
    )]
    Oath(DiskId),
    /// The node is not leaving.
    #[error("node {0} is not leaving")]
    NotLeaving(NodeId),
    /// The node is not in the lists that the step is about.
    #[error("node {0} is not a member")]
    NotMember(NodeId),
    /// A disk is in the record already.
    #[error("disk {0} is known already: a refreshed node has a new one")]
    KnownDisk(DiskId),
    /// The node was sworn gone, and its successor may be filling.
    #[error("node {0} was sworn gone: it can have a new disk once the layout no longer changes")]
    GoneNode(NodeId),
    /// The record is not what the step that it names makes of its parent.
    #[error("the record is not what {} makes of its parent", .0.name())]
    NotTheStep(Op),
}

/// Checks that a record may follow another.
///
/// # Errors
/// [`SuccessorError`] that names what is wrong.
pub fn check_successor(
    parent: &ClusterRecord,
    child: &ClusterRecord,
) -> Result<(), SuccessorError> {
    let (old, new) = (&parent.fields, &child.fields);
    if old.cluster_id != new.cluster_id {
        return Err(SuccessorError::Cluster);
    }
    if old.partitions != new.partitions {
        let (parent, child) = (old.partitions, new.partitions);
        return Err(SuccessorError::Partitions { parent, child });
    }
    if old.epoch.checked_add(1) != Some(new.epoch) {
        return Err(SuccessorError::Epoch { parent: old.epoch, child: new.epoch });
    }
    let parent_hash = parent.hash();
    if parent_hash != new.parent {
        return Err(SuccessorError::Parent { parent: parent_hash, named: new.parent });
    }
    match step_again(&parent.reached_as(child), child)? == *child {
        true => Ok(()),
        false => Err(SuccessorError::NotTheStep(new.cause.op)),
    }
}

impl ClusterRecord {
    /// A first record with the addresses that its child has: the proposer's configuration may name others.
    /// Not where addresses are what changes.
    fn reached_as(&self, child: &Self) -> Self {
        let mut fields = (*self.fields).clone();
        let is_first = self.fields.parent == RecordHash::NONE;
        let takes_over = is_first && child.fields.cause.op != Op::Readdress;
        for member in fields.stable.iter_mut().filter(|_| takes_over) {
            if let Some(known) = find(&child.fields.stable, member.node) {
                Addresses::of(known).set(member);
            }
        }
        Self { fields: fields.into() }
    }
}

/// What the step that a child names makes of its parent, with the child's choices.
fn step_again(
    parent: &ClusterRecord,
    child: &ClusterRecord,
) -> Result<ClusterRecord, SuccessorError> {
    let Cause { op, reason } = child.fields.cause.clone();
    let other = SuccessorError::NotTheStep(op);
    match op {
        Op::Form => Err(SuccessorError::First),
        Op::Begin => {
            let next = child.fields.next.clone().ok_or(other)?;
            parent.begin(next, &child.fields.gone, reason)
        }
        Op::Finish => parent.finish(reason),
        Op::Abort => {
            let joiners = parent.joiners().map(|member| member.node);
            let lost = joiners.filter(|node| find(&child.fields.leaving, *node).is_none());
            parent.abort(&lost.collect(), reason)
        }
        Op::Release => {
            let stays = |node| find(&child.fields.leaving, node).is_some();
            let released = parent.fields.leaving.iter().find(|member| !stays(member.node));
            parent.release(released.ok_or(other)?.node, reason)
        }
        Op::Refresh => {
            let disk_of = |node| child.member(node).map(|member| member.disk);
            let mut members = parent.members();
            let changed = members.find(|member| disk_of(member.node) != Some(member.disk));
            let node = changed.ok_or(other.clone())?.node;
            parent.refresh(node, disk_of(node).ok_or(other)?, reason)
        }
        Op::Readdress => {
            let known = |node| child.member(node).map(Addresses::of);
            let all = parent.members().chain(&parent.fields.leaving);
            let addresses = all.filter_map(|member| Some((member.node, known(member.node)?)));
            parent.readdress(&addresses.collect(), reason)
        }
        Op::Recover => {
            let all = parent.members().chain(&parent.fields.leaving).map(|member| member.node);
            parent.recover_because(
                &all.filter(|node| child.member(*node).is_none()).collect(),
                reason,
            )
        }
    }
}

impl Addresses {
    /// Those of a member.
    pub fn of(member: &RecordMember) -> Self {
        let RecordMember { peer_addr, client_addr, .. } = member;
        Self { peer_addr: peer_addr.clone(), client_addr: client_addr.clone() }
    }

    fn set(&self, member: &mut RecordMember) {
        member.peer_addr = self.peer_addr.clone();
        member.client_addr = self.client_addr.clone();
    }
}

impl ClusterRecord {
    /// Begins a change to these members. `gone` are stable disks that are sworn dead from now on; those
    /// sworn before remain so. Members keep their disks; where `next` has another address for one, that
    /// counts at once.
    ///
    /// # Errors
    /// [`SuccessorError`] that names what is wrong.
    pub fn begin(
        &self,
        mut next: Vec<RecordMember>,
        gone: &[DiskId],
        reason: Reason,
    ) -> Result<Self, SuccessorError> {
        if self.fields.next.is_some() {
            return Err(SuccessorError::Moving);
        }
        next.sort();
        let gone: BTreeSet<DiskId> = gone.iter().chain(&self.fields.gone).copied().collect();
        let member = next.iter().find(|member| self.fields.gone.contains(&member.disk));
        if let Some(member) = member {
            return Err(SuccessorError::Oath(member.disk));
        }
        let mut fields = self.child(Op::Begin, reason)?;
        for member in &mut fields.stable {
            if let Some(new) = find(&next, member.node) {
                Addresses::of(new).set(member);
            }
        }
        fields.gone = gone.into_iter().collect();
        fields.next = Some(next);
        Ok(Self::checked(fields)?)
    }

    /// Ends a change: the new layout remains. Due once every home replica of it has everything.
    ///
    /// # Errors
    /// [`SuccessorError::NotMoving`].
    pub fn finish(&self, reason: Reason) -> Result<Self, SuccessorError> {
        let mut fields = self.child(Op::Finish, reason)?;
        let next = fields.next.take().ok_or(SuccessorError::NotMoving)?;
        let left = self.stable().iter().filter(|member| {
            find(&next, member.node).is_none() && !self.fields.gone.contains(&member.disk)
        });
        fields.leaving.extend(left.cloned());
        fields.leaving.sort();
        fields.stable = next;
        fields.gone = Vec::new();
        Ok(Self::checked(fields)?)
    }

    /// Gives a change up: the old layout remains. Nodes that were only in the new one leave, and hand over
    /// what they hold, except those that are `lost` with it.
    ///
    /// # Errors
    /// [`SuccessorError`] if no change is under way, or a lost node is not one that was joining.
    pub fn abort(&self, lost: &BTreeSet<NodeId>, reason: Reason) -> Result<Self, SuccessorError> {
        let mut fields = self.child(Op::Abort, reason)?;
        fields.next.take().ok_or(SuccessorError::NotMoving)?;
        let joiners: Vec<&RecordMember> = self.joiners().collect();
        if let Some(other) = lost.iter().find(|node| joiners.iter().all(|m| m.node != **node)) {
            return Err(SuccessorError::NotMember(*other));
        }
        let left = joiners.into_iter().filter(|member| !lost.contains(&member.node));
        fields.leaving.extend(left.cloned());
        fields.leaving.sort();
        Ok(Self::checked(fields)?)
    }

    /// Lets a node go that left: due once it holds nothing that others lack, or is lost.
    ///
    /// # Errors
    /// [`SuccessorError::NotLeaving`].
    pub fn release(&self, node: NodeId, reason: Reason) -> Result<Self, SuccessorError> {
        let mut fields = self.child(Op::Release, reason)?;
        fields.leaving.retain(|member| member.node != node);
        match fields.leaving.len() < self.fields.leaving.len() {
            true => Ok(Self::checked(fields)?),
            false => Err(SuccessorError::NotLeaving(node)),
        }
    }

    /// Gives a member a new, empty disk. It keeps its place in every list. The old disk is no member from
    /// then on, so this is decided without it.
    ///
    /// # Errors
    /// [`SuccessorError`] that names what is wrong.
    pub fn refresh(
        &self,
        node: NodeId,
        disk: DiskId,
        reason: Reason,
    ) -> Result<Self, SuccessorError> {
        let known = self.members().chain(self.leaving());
        if known.into_iter().any(|member| member.disk == disk) {
            return Err(SuccessorError::KnownDisk(disk));
        }
        let mut fields = self.child(Op::Refresh, reason)?;
        let old = self.members().find(|member| member.node == node);
        let old = old.ok_or(SuccessorError::NotMember(node))?.disk;
        if fields.gone.contains(&old) && fields.next.is_some() {
            return Err(SuccessorError::GoneNode(node));
        }
        fields.gone.retain(|gone| *gone != old);
        let next = fields.next.iter_mut().flatten();
        for member in fields.stable.iter_mut().chain(next).filter(|member| member.node == node) {
            member.disk = disk;
        }
        Ok(Self::checked(fields)?)
    }

    /// Changes addresses of members or of leaving nodes. No key moves, so there is nothing to wait for.
    ///
    /// # Errors
    /// [`SuccessorError`] that names what is wrong.
    pub fn readdress(
        &self,
        addresses: &BTreeMap<NodeId, Addresses>,
        reason: Reason,
    ) -> Result<Self, SuccessorError> {
        if let Some(other) = addresses.keys().find(|node| self.member(**node).is_none()) {
            return Err(SuccessorError::NotMember(*other));
        }
        let mut fields = self.child(Op::Readdress, reason)?;
        let Fields { stable, next, leaving, .. } = &mut fields;
        for member in stable.iter_mut().chain(next.iter_mut().flatten()).chain(leaving) {
            if let Some(new) = addresses.get(&member.node) {
                new.set(member);
            }
        }
        let lists =
            |fields: &Fields| (fields.stable.clone(), fields.next.clone(), fields.leaving.clone());
        match lists(&fields) == lists(&self.fields) {
            true => Err(SuccessorError::NothingChanges),
            false => Ok(Self::checked(fields)?),
        }
    }

    /// This record again, as the start of its child.
    pub(super) fn child(&self, op: Op, reason: Reason) -> Result<Fields, SuccessorError> {
        let parent = self.fields.epoch;
        let child = parent.checked_add(1).ok_or(SuccessorError::Epoch { parent, child: parent })?;
        let cause = Cause { op, reason };
        Ok(Fields { epoch: child, parent: self.hash(), cause, ..Fields::clone(&self.fields) })
    }

    /// The members of both lists; one that is in both comes twice.
    fn members(&self) -> impl Iterator<Item = &RecordMember> {
        self.stable().iter().chain(self.next().unwrap_or_default())
    }

    /// The nodes that are only in the next layout.
    pub(super) fn joiners(&self) -> impl Iterator<Item = &RecordMember> {
        let next = self.next().unwrap_or_default().iter();
        next.filter(|member| find(self.stable(), member.node).is_none())
    }
}
