//! Changes of who is a member.

use std::collections::BTreeSet;
use std::time::Duration;

use quorate_engine::node::Node;
use quorate_protocol::name::NodeId;
use quorate_protocol::record::{ClusterRecord, Reason, RecordMember};
use tokio::task::JoinHandle;
use tokio::time::sleep;

use super::{OffCourse, Played, Scene, off};
use crate::operators::new_member;

/// How long an operator waits for a record to be decided.
const PATIENCE: Duration = Duration::from_secs(5);
/// How often it is looked for what happens within milliseconds.
const GLANCE_EVERY: Duration = Duration::from_millis(1);
/// For how long.
const GLANCES_MAX: usize = 60_000;

/// What an operator wants to change.
#[derive(Clone, Copy, Debug)]
pub(in crate::histories) enum Change<'a> {
    /// These members are removed.
    Remove(&'a [NodeId]),
    /// A machine that is no member yet takes the place of a member, which is sworn dead.
    ReplaceDead(NodeId),
    /// The same for a member that is alive.
    Replace(NodeId),
    /// A member that is dead is removed.
    RemoveDead(NodeId),
    /// A member gets another weight.
    Weigh(NodeId, u16),
}

impl Scene {
    /// The members that are not among these.
    pub(in crate::histories) fn others(&self, than: &[NodeId]) -> Vec<NodeId> {
        let members = self.cluster.machines.iter().filter(|machine| !machine.waits());
        members.map(|machine| machine.name).filter(|name| !than.contains(name)).collect()
    }

    /// A member that neither has anything that another one has, nor would take its place.
    pub(in crate::histories) fn bystander(&self, of: NodeId) -> Result<NodeId, OffCourse> {
        let nodes = self.cluster.nodes();
        let view = nodes.first().ok_or_else(|| off("no node runs"))?.view();
        let mut concerned = BTreeSet::new();
        for partition in view.partitions() {
            let nearest: BTreeSet<NodeId> =
                view.placement().preference_list(partition).iter().take(4).copied().collect();
            if nearest.contains(&of) {
                concerned.extend(nearest);
            }
        }
        let members = self.others(&[]);
        let bystander = members.into_iter().find(|member| !concerned.contains(member));
        bystander.ok_or_else(|| off("all members are concerned"))
    }

    /// The first machine that is no member.
    pub(in crate::histories) fn spare(&self) -> Result<NodeId, OffCourse> {
        let mut machines = self.cluster.machines.iter();
        let spare = machines.find(|machine| machine.waits()).ok_or_else(|| off("none is spare"))?;
        Ok(spare.name)
    }

    /// The epoch in which a node is; 0 if it does not run.
    pub(in crate::histories) fn epoch(&self, at: NodeId) -> u64 {
        self.node(at).map_or(0, |node| node.epoch().number)
    }

    /// An operator at this node begins a change, which is decided.
    pub(in crate::histories) async fn change(&self, at: NodeId, change: Change<'_>) -> Played {
        self.propose(at, change)?.await.map_err(|error| off(error.to_string()))?
    }

    /// An operator at this node begins a change, which may be decided.
    pub(in crate::histories) fn propose(
        &self,
        at: NodeId,
        change: Change<'_>,
    ) -> Result<JoinHandle<Played>, OffCourse> {
        let process = self.machine(at)?.process().ok_or_else(|| off(format!("{at} is down")))?;
        let node = process.node;
        let wanted = self.wanted(&node, change)?;
        self.cluster.world.note(format_args!("{at} proposes {wanted:?}"));
        Ok(tokio::spawn(async move {
            let proposed = node.propose(wanted, PATIENCE).await;
            proposed.map(drop).map_err(|error| off(format!("{at} proposed in vain: {error}")))
        }))
    }

    fn wanted(&self, node: &Node, change: Change<'_>) -> Result<ClusterRecord, OffCourse> {
        let record = node.membership.record();
        let members = record.stable().to_vec();
        let disk_of = |node| record.member(node).map(|member| member.disk);
        let (next, dead) = match change {
            Change::Remove(out) => (without(members, out), None),
            Change::RemoveDead(out) => (without(members, &[out]), disk_of(out)),
            Change::Replace(old) => (self.replaced(members, old)?, None),
            Change::ReplaceDead(old) => (self.replaced(members, old)?, disk_of(old)),
            Change::Weigh(node, weight) => (weighed(members, node, weight), None),
        };
        let reason = Reason { by: node.me, at: node.now(), note: String::new() };
        let gone: Vec<_> = dead.into_iter().collect();
        record.begin(next, &gone, reason).map_err(|error| off(error.to_string()))
    }

    fn replaced(
        &self,
        mut members: Vec<RecordMember>,
        old: NodeId,
    ) -> Result<Vec<RecordMember>, OffCourse> {
        let machine = self.machine(self.spare()?)?;
        let new = new_member(machine).ok_or_else(|| off("a spare machine has no disk"))?;
        for member in members.iter_mut().filter(|member| member.node == old) {
            *member = RecordMember { seat: member.seat, ..new.clone() };
        }
        Ok(members)
    }

    /// Waits for something that may be over within milliseconds.
    pub(in crate::histories) async fn at_once(
        &self,
        what: &str,
        is_so: impl Fn(&Self) -> bool,
    ) -> Played {
        for _ in 0..GLANCES_MAX {
            if is_so(self) {
                return Ok(());
            }
            sleep(GLANCE_EVERY).await;
        }
        Err(off(format!("it never comes that {what}")))
    }

    /// Waits until a change that has begun is over at these nodes: it was decided that the new members
    /// remain.
    pub(in crate::histories) async fn until_changed(&self, nodes: &[NodeId]) -> Played {
        let is_over = |scene: &Self, at: &NodeId| {
            scene.node(*at).is_some_and(|node| node.epoch().number > 2 && is_at_rest(&node))
        };
        let are_over = |scene: &Self| nodes.iter().all(|at| is_over(scene, at));
        self.at_once("the change is over", are_over).await
    }

    /// Whether a node has received all that it must hold by the next layout.
    pub(in crate::histories) fn has_received(&self, at: NodeId) -> bool {
        self.node(at).is_some_and(|node| {
            node.membership.record().next().is_some() && node.filled.move_progress().1 == 0
        })
    }
}

/// Whether the layout does not change at a node.
fn is_at_rest(node: &Node) -> bool {
    node.membership.record().next().is_none()
}

fn without(members: Vec<RecordMember>, out: &[NodeId]) -> Vec<RecordMember> {
    members.into_iter().filter(|member| !out.contains(&member.node)).collect()
}

fn weighed(mut members: Vec<RecordMember>, node: NodeId, weight: u16) -> Vec<RecordMember> {
    members
        .iter_mut()
        .filter(|member| member.node == node)
        .for_each(|member| member.weight = weight);
    members
}
