//! The members that some changes lead to. The order of the changes does not matter.

use std::collections::{BTreeMap, BTreeSet};

use super::{Change, NewNode, PlanError, Replacement};
use crate::name::NodeId;
use crate::record::{ClusterRecord, DiskId, RecordMember};

type Members = BTreeMap<NodeId, RecordMember>;

/// The members after the changes, ordered by name.
pub(super) fn apply(
    base: &ClusterRecord,
    old: &[RecordMember],
    changes: &[Change],
) -> Result<Vec<RecordMember>, PlanError> {
    let mut named = BTreeSet::new();
    for node in changes.iter().flat_map(named_by) {
        if !named.insert(node) {
            return Err(PlanError::NamedTwice(node));
        }
    }
    let mut members: Members = old.iter().map(|member| (member.node, member.clone())).collect();
    let mut added = Vec::new();
    for change in changes {
        match change {
            Change::Add(new) => added.push(new),
            Change::Remove { node } => drop(take(&mut members, *node)?),
            Change::Replace { old, new } => {
                check_name(base, &members, new.node)?;
                let old = take(&mut members, *old)?;
                members.insert(new.node, replacement(old, new));
            }
            Change::Set { node, weight, zone, peer_addr } => {
                let member = members.get_mut(node).ok_or(PlanError::NotMember(*node))?;
                member.weight = weight.unwrap_or(member.weight);
                member.zone = zone.as_ref().unwrap_or(&member.zone).clone();
                member.peer_addr = peer_addr.as_ref().unwrap_or(&member.peer_addr).clone();
            }
        }
    }
    // Last and by name, as which seats are free depends on the others.
    added.sort_by_key(|new| new.node);
    for new in added {
        check_name(base, &members, new.node)?;
        let seat = free_seat(&members, new.node);
        members.insert(new.node, joining(new, seat));
    }
    Ok(members.into_values().collect())
}

fn named_by(change: &Change) -> Vec<NodeId> {
    match change {
        Change::Add(new) => vec![new.node],
        Change::Remove { node } | Change::Set { node, .. } => vec![*node],
        Change::Replace { old, new } => vec![*old, new.node],
    }
}

fn take(members: &mut Members, node: NodeId) -> Result<RecordMember, PlanError> {
    members.remove(&node).ok_or(PlanError::NotMember(node))
}

/// Whether a node may join under this name.
fn check_name(base: &ClusterRecord, members: &Members, node: NodeId) -> Result<(), PlanError> {
    if members.contains_key(&node) {
        return Err(PlanError::AlreadyMember(node));
    }
    match base.leaving().iter().any(|member| member.node == node) {
        true => Err(PlanError::StillLeaving(node)),
        false => Ok(()),
    }
}

/// The seat of a node that joins: its own name, unless a node that once replaced one of that name has it.
/// Then that node's name, if nobody has that, and so on. This ends: every node has one seat, so the names
/// along the way are all different, and the members are finitely many.
fn free_seat(members: &Members, node: NodeId) -> NodeId {
    let mut seat = node;
    while let Some(holder) = members.values().find(|member| member.seat == seat) {
        seat = holder.node;
    }
    seat
}

fn joining(new: &NewNode, seat: NodeId) -> RecordMember {
    let NewNode { node, disk, zone, weight, peer_addr, client_addr } = new.clone();
    RecordMember { node, disk, seat, zone, weight, peer_addr, client_addr }
}

fn replacement(old: RecordMember, new: &Replacement) -> RecordMember {
    let Replacement { node, disk, zone, weight, peer_addr, client_addr } = new.clone();
    RecordMember {
        node,
        disk,
        seat: old.seat,
        zone: zone.unwrap_or(old.zone),
        weight: weight.unwrap_or(old.weight),
        peer_addr,
        client_addr,
    }
}

/// The disks that are sworn gone, with those of the record. None of their nodes may remain.
pub(super) fn gone_disks(
    base: &ClusterRecord,
    members: &[RecordMember],
    gone: &BTreeSet<NodeId>,
) -> Result<Vec<DiskId>, PlanError> {
    let mut disks: BTreeSet<DiskId> = base.gone().iter().copied().collect();
    for node in gone {
        let member = base.stable().iter().find(|member| member.node == *node);
        disks.insert(member.ok_or(PlanError::NotMember(*node))?.disk);
    }
    match members.iter().find(|member| disks.contains(&member.disk)) {
        Some(member) => Err(PlanError::GoneStays(member.node)),
        None => Ok(disks.into_iter().collect()),
    }
}

/// The nodes of these disks.
pub(super) fn gone_nodes(base: &ClusterRecord, gone: &[DiskId]) -> BTreeSet<NodeId> {
    let members = base.stable().iter();
    members.filter(|member| gone.contains(&member.disk)).map(|member| member.node).collect()
}
