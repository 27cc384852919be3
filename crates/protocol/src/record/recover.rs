//! The step that no vote decides: a cluster goes on without the disks that it lost, when no majority of them
//! is left. An operator takes it on every disk that is left, each by itself, so equal records must come of it
//! everywhere.

use std::collections::BTreeSet;

use super::successor::SuccessorError;
use super::{ClusterRecord, NOTE_BYTES_MAX, Op, Reason, RecordMember};
use crate::name::NodeId;

impl ClusterRecord {
    /// The record by which the cluster goes on without these nodes, and without those sworn gone. A change
    /// that was under way is given up: nodes that were joining hand over what they took. Equal on all disks
    /// that know this record.
    ///
    /// # Errors
    /// [`SuccessorError`]: nobody is lost, or who is lost is no member, or no member is left.
    pub fn recover(&self, lost: &BTreeSet<NodeId>) -> Result<Self, SuccessorError> {
        let is_left = |member: &&RecordMember| !self.is_lost(member, lost);
        let first = self.stable().iter().find(is_left);
        let by = first.map_or(self.fields.cause.reason.by, |member| member.node);
        let names: Vec<&str> = lost.iter().map(NodeId::as_str).collect();
        let mut note = format!("without {}", names.join(" "));
        note.truncate(NOTE_BYTES_MAX); // names are ASCII
        let at = self.fields.cause.reason.at;
        self.recover_because(lost, Reason { by, at, note })
    }

    /// The same, for a reason that is given.
    pub(super) fn recover_because(
        &self,
        lost: &BTreeSet<NodeId>,
        reason: Reason,
    ) -> Result<Self, SuccessorError> {
        if let Some(other) = lost.iter().find(|node| self.member(**node).is_none()) {
            return Err(SuccessorError::NotMember(*other));
        }
        if lost.is_empty() {
            return Err(SuccessorError::NothingChanges);
        }
        let mut fields = self.child(Op::Recover, reason)?;
        let joiners: Vec<RecordMember> = self.joiners().cloned().collect();
        fields.next = None;
        fields.leaving.extend(joiners);
        fields.leaving.sort();
        fields.stable.retain(|member| !self.is_lost(member, lost));
        fields.leaving.retain(|member| !self.is_lost(member, lost));
        fields.gone = Vec::new();
        Ok(Self::checked(fields)?)
    }

    fn is_lost(&self, member: &RecordMember, lost: &BTreeSet<NodeId>) -> bool {
        lost.contains(&member.node) || self.fields.gone.contains(&member.disk)
    }

    /// How many disks that vote are left without these nodes.
    pub fn voters_without(&self, lost: &BTreeSet<NodeId>) -> usize {
        self.stable().iter().filter(|member| !self.is_lost(member, lost)).count()
    }
}
