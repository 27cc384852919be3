//! The cluster record: who is a member, numbered by its *epoch*. It replaces the configured layout once
//! layouts change while the cluster runs.
//!
//! Each record names its parent by hash, and at most one child of a record is ever decided
//! ([`crate::synod`]), by a majority of the parent's stable disks. So records form a chain, and a change of
//! the layout is some steps along it ([`successor`]): *begin* makes the record joint (`stable` and `next`),
//! *finish* or *abort* ends that, *release* lets a node go that has nothing left to hand over. This is a
//! reconfigurable state machine whose configuration decides exactly the next one (α = 1). Only *recover* is
//! not decided: it is what an operator writes on every disk that is left once no majority is.
//!
//! A member is a disk, not a name: a node that comes back with an empty disk is not the one that voted or
//! acknowledged. A record is valid by construction: [`ClusterRecord::first`], the steps and
//! [`ClusterRecord::decode`] all check it.
//!
//! Source: Lamport, Malkhi, Zhou, "Reconfiguring a State Machine" (SIGACT News 2010), with α = 1.

mod check;
mod codec;
mod recover;
pub mod successor;

use std::collections::BTreeSet;
use std::fmt;
use std::sync::Arc;

use serde::{Deserialize, Serialize};

pub use self::check::RecordError;
pub use self::codec::RECORD_BYTES_MAX;
use crate::layout::{Layout, Member};
use crate::name::NodeId;
use crate::time::WallTime;

/// The longest address, in bytes.
pub const ADDRESS_BYTES_MAX: usize = 260;
/// The longest note on a step, in bytes.
pub const NOTE_BYTES_MAX: usize = 200;
/// The longest id of a cluster, in bytes.
pub const CLUSTER_ID_BYTES_MAX: usize = 64;

/// Identifies one data directory, drawn at random when it is made.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct DiskId(#[serde(with = "postcard::fixint::le")] pub u128);

impl DiskId {
    /// The id of a store that was made before stores had one: the same on every node, as all compute the
    /// first record.
    pub fn of_name(cluster_id: &str, node: NodeId) -> Self {
        let mut hasher = xxhash_rust::xxh3::Xxh3::new();
        for text in [cluster_id, node.as_str()] {
            hasher.update(&(text.len() as u64).to_le_bytes());
            hasher.update(text.as_bytes());
        }
        Self(hasher.digest128())
    }
}

impl fmt::Display for DiskId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:032x}", self.0)
    }
}

impl fmt::Debug for DiskId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{self}")
    }
}

/// The hash of a record's encoding, addresses and cause included.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct RecordHash(#[serde(with = "postcard::fixint::le")] pub u128);

impl RecordHash {
    /// The parent of a first record.
    pub const NONE: Self = Self(0);
}

impl fmt::Display for RecordHash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:032x}", self.0)
    }
}

impl fmt::Debug for RecordHash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{self}")
    }
}

/// One node as a record knows it.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct RecordMember {
    /// Its name.
    pub node: NodeId,
    /// Its disk. Only this one votes, acknowledges and serves under the name.
    pub disk: DiskId,
    /// Where it is on the ring ([`Member::seat`]).
    pub seat: NodeId,
    /// Its zone ([`Member::zone`]).
    pub zone: String,
    /// Its share of the data ([`Member::weight`]).
    pub weight: u16,
    /// Where peers reach it: host and port.
    pub peer_addr: String,
    /// Where clients reach it, if that is known.
    pub client_addr: Option<String>,
}

impl RecordMember {
    /// What of it decides placement.
    pub fn placed(&self) -> Member {
        let Self { node, seat, zone, weight, .. } = self;
        Member { node: *node, seat: *seat, zone: zone.clone(), weight: *weight }
    }
}

/// Which step a record is ([`successor`]).
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub enum Op {
    /// The first record of a cluster.
    Form,
    /// A change begins: two layouts are in force.
    Begin,
    /// It ends: the new layout remains.
    Finish,
    /// It is given up: the old layout remains.
    Abort,
    /// A node that left has handed everything over.
    Release,
    /// A member has a new disk.
    Refresh,
    /// Members have other addresses.
    Readdress,
    /// The cluster goes on without members, after a majority of them was lost. Never decided by votes.
    Recover,
}

impl Op {
    /// Its name.
    pub fn name(self) -> &'static str {
        match self {
            Self::Form => "form",
            Self::Begin => "begin",
            Self::Finish => "finish",
            Self::Abort => "abort",
            Self::Release => "release",
            Self::Refresh => "refresh",
            Self::Readdress => "readdress",
            Self::Recover => "recover",
        }
    }
}

/// Who proposed a record, when, and what was said about it. Nothing is decided by it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Reason {
    /// The node that proposed it.
    pub by: NodeId,
    /// When, by its clock.
    pub at: WallTime,
    /// A remark, at most [`NOTE_BYTES_MAX`] bytes.
    pub note: String,
}

/// Why there is this record.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Cause {
    /// Which step it is.
    pub op: Op,
    /// Who proposed it, and when.
    pub reason: Reason,
}

/// Where a cluster is between two layouts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Phase {
    /// One layout is in force, and nobody is leaving.
    Stable,
    /// Two layouts are in force.
    Moving,
    /// One layout is in force, and nodes that left still hand over what they hold.
    Releasing,
}

/// What a disk is under a record.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Standing {
    /// In the stable layout, and not in a next one.
    Stable,
    /// In both layouts.
    StableAndNext,
    /// In the next layout only.
    Joining,
    /// In the stable layout, but sworn gone: refused if it calls.
    Gone,
    /// Has left, and may hand over what it holds; nothing else.
    Leaving,
    /// The name is a member's, whose disk is another one.
    OtherDisk {
        /// The member's disk.
        known: DiskId,
    },
    /// The name is in no list.
    Stranger,
}

/// One record of the chain, valid by construction. Cheap to clone.
#[derive(Clone, PartialEq, Eq)]
pub struct ClusterRecord {
    fields: Arc<Fields>,
}

/// What a record says. Lists are ordered by name, `gone` by id.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
struct Fields {
    cluster_id: String,
    epoch: u64,
    parent: RecordHash,
    partitions: u32,
    stable: Vec<RecordMember>,
    next: Option<Vec<RecordMember>>,
    gone: Vec<DiskId>,
    leaving: Vec<RecordMember>,
    cause: Cause,
}

impl ClusterRecord {
    /// The first record of a cluster. Equal arguments give equal records, so that nodes with the same
    /// configuration agree on it without a word: its cause is the first member's, at time 0.
    ///
    /// # Errors
    /// [`RecordError`] that names what is wrong.
    pub fn first(
        cluster_id: &str,
        epoch: u64,
        partitions: u32,
        mut members: Vec<RecordMember>,
    ) -> Result<Self, RecordError> {
        members.sort();
        let Some(first) = members.first() else { return Err(check::no_members()) };
        let reason = Reason { by: first.node, at: WallTime(0), note: String::new() };
        Self::checked(Fields {
            cluster_id: cluster_id.to_owned(),
            epoch,
            parent: RecordHash::NONE,
            partitions,
            stable: members,
            next: None,
            gone: Vec::new(),
            leaving: Vec::new(),
            cause: Cause { op: Op::Form, reason },
        })
    }

    fn checked(fields: Fields) -> Result<Self, RecordError> {
        check::check(&fields)?;
        Ok(Self { fields: Arc::new(fields) })
    }

    /// The cluster's id.
    pub fn cluster_id(&self) -> &str {
        &self.fields.cluster_id
    }

    /// The number of the record, one more than its parent's.
    pub fn epoch(&self) -> u64 {
        self.fields.epoch
    }

    /// The hash of the record before it; [`RecordHash::NONE`] for a first one.
    pub fn parent(&self) -> RecordHash {
        self.fields.parent
    }

    /// How many partitions there are. It never changes.
    pub fn partitions(&self) -> u32 {
        self.fields.partitions
    }

    /// The members of the layout in force, or of the old one of two, ordered by name.
    pub fn stable(&self) -> &[RecordMember] {
        &self.fields.stable
    }

    /// The members of the new layout while two are in force, ordered by name.
    pub fn next(&self) -> Option<&[RecordMember]> {
        self.fields.next.as_deref()
    }

    /// The stable disks that are sworn dead, ordered. A majority is still counted of all stable disks.
    pub fn gone(&self) -> &[DiskId] {
        &self.fields.gone
    }

    /// The nodes that left and still hand over what they hold, ordered by name.
    pub fn leaving(&self) -> &[RecordMember] {
        &self.fields.leaving
    }

    /// Why there is this record.
    pub fn cause(&self) -> &Cause {
        &self.fields.cause
    }

    /// Where the cluster is between two layouts.
    pub fn phase(&self) -> Phase {
        match (&self.fields.next, self.fields.leaving.is_empty()) {
            (Some(_), _) => Phase::Moving,
            (None, false) => Phase::Releasing,
            (None, true) => Phase::Stable,
        }
    }

    /// The placement by the stable members. Computes it.
    pub fn stable_layout(&self) -> Layout {
        self.layout_of(&self.fields.stable)
    }

    /// The placement by the next members, if there are any. Computes it.
    pub fn next_layout(&self) -> Option<Layout> {
        self.next().map(|next| self.layout_of(next))
    }

    fn layout_of(&self, members: &[RecordMember]) -> Layout {
        let placed = members.iter().map(RecordMember::placed).collect();
        Layout::of_valid(self.fields.epoch, self.fields.partitions, placed)
    }

    /// The disks that decide the next record: a majority of them. Those sworn gone are included.
    pub fn acceptors(&self) -> BTreeSet<DiskId> {
        self.fields.stable.iter().map(|member| member.disk).collect()
    }

    /// How many of the acceptors are a majority.
    pub fn majority(&self) -> usize {
        self.fields.stable.len() / 2 + 1
    }

    /// Whether a disk may vote on the next record: it is an acceptor, and not sworn gone.
    pub fn may_vote(&self, disk: DiskId) -> bool {
        self.fields.stable.iter().any(|member| member.disk == disk) && !self.is_gone(disk)
    }

    /// Whether a disk is sworn dead.
    pub fn is_gone(&self, disk: DiskId) -> bool {
        self.fields.gone.binary_search(&disk).is_ok()
    }

    /// A node of any list, as the next layout knows it if it is in that.
    pub fn member(&self, node: NodeId) -> Option<&RecordMember> {
        let lists = [self.next().unwrap_or_default(), self.stable(), self.leaving()];
        lists.into_iter().find_map(|list| find(list, node))
    }

    /// Whether a disk is in any list, under any name.
    pub fn has_disk(&self, disk: DiskId) -> bool {
        let lists = [self.next().unwrap_or_default(), self.stable(), self.leaving()];
        lists.into_iter().flatten().any(|member| member.disk == disk)
    }

    /// What a disk is that calls itself by this name.
    pub fn standing(&self, node: NodeId, disk: DiskId) -> Standing {
        let known = match self.member(node) {
            None => return Standing::Stranger,
            Some(member) => member.disk,
        };
        if known != disk {
            return Standing::OtherDisk { known };
        }
        let is_next = self.next().is_some_and(|next| find(next, node).is_some());
        match (find(self.stable(), node).is_some(), is_next) {
            (true, _) if self.is_gone(disk) => Standing::Gone,
            (true, true) => Standing::StableAndNext,
            (true, false) => Standing::Stable,
            (false, true) => Standing::Joining,
            (false, false) => Standing::Leaving,
        }
    }
}

/// A node of a list that is ordered by name.
fn find(list: &[RecordMember], node: NodeId) -> Option<&RecordMember> {
    list.binary_search_by_key(&node, |member| member.node).ok().map(|at| &list[at])
}

impl fmt::Debug for ClusterRecord {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Fields { epoch, stable, next, leaving, cause, .. } = &*self.fields;
        let names = |list: &[RecordMember]| {
            let names: Vec<String> = list.iter().map(|member| member.node.to_string()).collect();
            names.join(" ")
        };
        write!(f, "record {epoch} ({}, {}: {}", self.hash(), cause.op.name(), names(stable))?;
        if let Some(next) = next {
            write!(f, "; next: {}", names(next))?;
        }
        if !leaving.is_empty() {
            write!(f, "; leaving: {}", names(leaving))?;
        }
        f.write_str(")")
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
pub(crate) mod tests;
