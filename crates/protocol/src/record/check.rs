//! What every record fulfils, whoever made it: checked before it is used, stored or voted for.

use std::collections::BTreeMap;

use super::{
    ADDRESS_BYTES_MAX, CLUSTER_ID_BYTES_MAX, DiskId, Fields, NOTE_BYTES_MAX, RecordMember, find,
};
use crate::layout::{self, LayoutError, NODES_MAX};
use crate::name::NodeId;

/// Why a record cannot be used.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum RecordError {
    /// It is longer than any record.
    #[error("a record has at most {max} bytes, this one has {bytes}")]
    TooLong {
        /// How long it is.
        bytes: usize,
        /// How long it may be.
        max: usize,
    },
    /// It is of a format that this release does not know.
    #[error("format {0} of a cluster record is not known to this release")]
    Format(u8),
    /// Its bytes are no record.
    #[error("the bytes are no cluster record")]
    Encoding,
    /// The id of the cluster is empty, too long or not printable.
    #[error("the cluster's id must be 1 to 64 printable characters without spaces")]
    ClusterId,
    /// A list of members cannot be a layout.
    #[error("{list}: {error}")]
    Layout {
        /// Which list.
        list: &'static str,
        /// What is wrong with it.
        error: LayoutError,
    },
    /// A list is not ordered by name.
    #[error("{list}: node {node} is not in order")]
    Order {
        /// Which list.
        list: &'static str,
        /// The node that should come earlier.
        node: NodeId,
    },
    /// An address is not a host and a port.
    #[error("node {0}: an address must be host and port, at most 260 characters")]
    Address(NodeId),
    /// A node differs between two lists in what must be the same.
    #[error("node {0} has a different disk, seat or address in stable and next")]
    Differs(NodeId),
    /// Two nodes have the same disk.
    #[error("nodes {0} and {1} have the same disk")]
    SameDisk(NodeId, NodeId),
    /// Two layouts are in force that place everything alike.
    #[error("stable and next are the same")]
    NothingMoves,
    /// A node that left is a member.
    #[error("node {0} is leaving and a member at once")]
    LeavingMember(NodeId),
    /// More nodes would leave at once than a record may list.
    #[error("more than 255 nodes would be leaving: release some of them first")]
    LeavingCount,
    /// The disks sworn gone are not in order.
    #[error("gone: disk {0} is not in order")]
    GoneOrder(DiskId),
    /// A disk is sworn gone that is not stable, or that is in the next layout.
    #[error("gone: disk {0} is not a stable one, or is in the next layout")]
    GoneMember(DiskId),
    /// So many disks are sworn gone that nothing could ever be decided again.
    #[error(
        "{gone} of {stable} stable disks are gone: without a majority no later record can be decided"
    )]
    GoneMajority {
        /// How many are gone.
        gone: usize,
        /// How many are stable.
        stable: usize,
    },
    /// The note is too long or not printable.
    #[error("a note has at most 200 bytes and no control characters")]
    Note,
}

/// What is wrong with a record without members.
pub(super) fn no_members() -> RecordError {
    RecordError::Layout { list: STABLE, error: LayoutError::NodeCount(0) }
}

const STABLE: &str = "stable";
const NEXT: &str = "next";
const LEAVING: &str = "leaving";

/// Checks everything that a record must fulfil by itself.
pub(super) fn check(fields: &Fields) -> Result<(), RecordError> {
    let Fields { cluster_id, partitions, stable, next, leaving, cause, .. } = fields;
    let id_fits = (1..=CLUSTER_ID_BYTES_MAX).contains(&cluster_id.len());
    if !id_fits || !cluster_id.bytes().all(|b| b.is_ascii_graphic()) {
        return Err(RecordError::ClusterId);
    }
    check_layout(STABLE, *partitions, stable)?;
    if let Some(next) = next {
        check_layout(NEXT, *partitions, next)?;
        check_joint(stable, next)?;
    }
    check_leaving(fields)?;
    check_disks(stable, next.as_deref().unwrap_or_default(), leaving)?;
    check_gone(fields)?;
    let note = &cause.reason.note;
    if note.len() > NOTE_BYTES_MAX || note.chars().any(char::is_control) {
        return Err(RecordError::Note);
    }
    Ok(())
}

fn check_layout(
    list: &'static str,
    partitions: u32,
    members: &[RecordMember],
) -> Result<(), RecordError> {
    // First, as a layout of very many members would be copied for nothing.
    check_members(list, members)?;
    let placed: Vec<_> = members.iter().map(RecordMember::placed).collect();
    layout::check(partitions, &placed).map_err(|error| RecordError::Layout { list, error })
}

/// Order, names and addresses of a list.
fn check_members(list: &'static str, members: &[RecordMember]) -> Result<(), RecordError> {
    let wrong = |error| Err(RecordError::Layout { list, error });
    if members.len() > NODES_MAX {
        return wrong(LayoutError::NodeCount(members.len()));
    }
    for pair in members.windows(2) {
        if pair[0].node == pair[1].node {
            return wrong(LayoutError::DuplicateNode(pair[0].node));
        }
        if pair[0].node > pair[1].node {
            return Err(RecordError::Order { list, node: pair[1].node });
        }
    }
    let has_address = |member: &&RecordMember| {
        is_address(&member.peer_addr) && member.client_addr.as_deref().is_none_or(is_address)
    };
    match members.iter().find(|member| !has_address(member)) {
        Some(member) => Err(RecordError::Address(member.node)),
        None => Ok(()),
    }
}

fn is_address(addr: &str) -> bool {
    let Some((host, port)) = addr.rsplit_once(':') else { return false };
    let fits = !host.is_empty() && addr.len() <= ADDRESS_BYTES_MAX;
    fits && host.bytes().all(|b| b.is_ascii_graphic()) && matches!(port.parse::<u16>(), Ok(1..))
}

/// Whether two lists may be in force together.
fn check_joint(stable: &[RecordMember], next: &[RecordMember]) -> Result<(), RecordError> {
    for old in stable {
        let Some(new) = find(next, old.node) else { continue };
        let is_same = (old.disk, old.seat) == (new.disk, new.seat)
            && (&old.peer_addr, &old.client_addr) == (&new.peer_addr, &new.client_addr);
        if !is_same {
            return Err(RecordError::Differs(old.node));
        }
    }
    match stable.iter().map(RecordMember::placed).eq(next.iter().map(RecordMember::placed)) {
        true => Err(RecordError::NothingMoves),
        false => Ok(()),
    }
}

/// The nodes that left: they are no members, and there is room for those that will leave when the change
/// ends, either way.
fn check_leaving(fields: &Fields) -> Result<(), RecordError> {
    let Fields { stable, next, leaving, .. } = fields;
    check_members(LEAVING, leaving)?;
    for member in leaving {
        // A seat may be that of a member that came in its place.
        layout::check(1, &[member.placed()])
            .map_err(|error| RecordError::Layout { list: LEAVING, error })?;
        let next = next.as_deref().unwrap_or_default();
        if find(stable, member.node).is_some() || find(next, member.node).is_some() {
            return Err(RecordError::LeavingMember(member.node));
        }
    }
    let Some(next) = next else { return Ok(()) };
    let only_in = |list: &[RecordMember], other: &[RecordMember]| {
        list.iter().filter(|member| find(other, member.node).is_none()).count()
    };
    match leaving.len() + only_in(stable, next).max(only_in(next, stable)) {
        0..=NODES_MAX => Ok(()),
        _ => Err(RecordError::LeavingCount),
    }
}

/// No disk has two names.
fn check_disks(
    stable: &[RecordMember],
    next: &[RecordMember],
    leaving: &[RecordMember],
) -> Result<(), RecordError> {
    let mut names: BTreeMap<DiskId, NodeId> = BTreeMap::new();
    for member in stable.iter().chain(next).chain(leaving) {
        let known = names.insert(member.disk, member.node);
        if let Some(other) = known.filter(|other| *other != member.node) {
            return Err(RecordError::SameDisk(other, member.node));
        }
    }
    Ok(())
}

fn check_gone(fields: &Fields) -> Result<(), RecordError> {
    let Fields { stable, next, gone, .. } = fields;
    if let Some(pair) = gone.windows(2).find(|pair| pair[0] >= pair[1]) {
        return Err(RecordError::GoneOrder(pair[1]));
    }
    let holds = |list: &[RecordMember], disk: &DiskId| list.iter().any(|m| m.disk == *disk);
    let next = next.as_deref().unwrap_or_default();
    if let Some(disk) = gone.iter().find(|disk| !holds(stable, disk) || holds(next, disk)) {
        return Err(RecordError::GoneMember(*disk));
    }
    match gone.len() * 2 < stable.len() {
        true => Ok(()),
        false => Err(RecordError::GoneMajority { gone: gone.len(), stable: stable.len() }),
    }
}
