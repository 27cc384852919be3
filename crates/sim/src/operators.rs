//! What operators change while a run goes on: the n of the bucket, and who is a member.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::time::Duration;

use quorate_engine::cluster::bucket_change;
use quorate_engine::membership::lost;
use quorate_engine::tasks::Tasks;
use quorate_protocol::bucket::Settings;
use quorate_protocol::name::{Bucket, NodeId};
use quorate_protocol::record::{ClusterRecord, DiskId, Phase, Reason, RecordMember};
use tokio::sync::oneshot;
use tokio::time::timeout;

use crate::cluster::Cluster;
use crate::follower;
use crate::machine::{Machine, Process};
use crate::run::N;
use crate::setup::Fault;

/// How long an operator waits for a change to be decided.
const PATIENCE: Duration = Duration::from_secs(5);

impl Cluster {
    /// An operator at this machine changes the bucket's n.
    pub(crate) fn change_n(&self, machine: &Machine) {
        if machine.process().is_some() {
            self.set_n(machine, self.world.between(2, 3) as u16);
        }
    }

    /// An operator at this machine sets the bucket's n.
    pub(crate) fn set_n(&self, machine: &Machine, n: u16) {
        let key = self.setup.keys().into_iter().next();
        let bucket = key.and_then(|key| Bucket::parse(key.bucket()).ok());
        let (Some(process), Some(bucket)) = (machine.process(), bucket) else { return };
        self.world.note(format_args!("{} sets n={n}", machine.name));
        let feed_retention_s = (self.setup.followers > 0).then_some(follower::RETENTION_S);
        let settings = Settings { n: Some(n), feed_retention_s, ..Settings::default() };
        process.tasks.spawn(async move {
            drop(bucket_change::set(&process.node, bucket, settings).await);
        });
    }

    /// An operator at this machine changes who is a member, or takes a change back. Now and then another one,
    /// who knows nothing of that, does the same elsewhere, or changes n.
    pub(crate) fn change_layouts(&self, machine: &Machine) {
        let changes_n = self.setup.faults.contains(&Fault::ChangeN);
        if changes_n && self.world.percent(40) {
            self.change_n(&self.any_machine());
        }
        self.change_layout(machine, None);
        if self.world.percent(20) {
            self.change_layout(&self.any_machine(), None);
        }
    }

    fn any_machine(&self) -> Arc<Machine> {
        self.world.pick(&self.machines)
    }

    /// A member is killed, and sworn dead by an operator elsewhere, though it may return. Only once in a run:
    /// what had two copies then has one.
    pub(crate) fn swear(&self, dead: &Machine) {
        let up: Vec<Process> = self
            .machines
            .iter()
            .filter(|machine| machine.name != dead.name)
            .filter_map(|machine| machine.process())
            .collect();
        let is_possible = |process: &Process| {
            let record = process.node.membership.record();
            record.next().is_none() && record.stable().iter().any(|at| at.node == dead.name)
        };
        let up: Vec<Process> = up.into_iter().filter(is_possible).collect();
        if up.is_empty() || self.has_sworn.swap(true, Relaxed) {
            return;
        }
        dead.kill();
        let operator = self.world.pick(&up);
        let at = self.machines.iter().find(|machine| machine.name == operator.node.me);
        at.into_iter().for_each(|at| self.change_layout(at, Some(dead.name)));
    }

    fn change_layout(&self, machine: &Machine, dead: Option<NodeId>) {
        let Some(process) = machine.process() else { return };
        let node = process.node.clone();
        let record = node.membership.record();
        let reason = Reason { by: node.me, at: node.now(), note: String::new() };
        let wanted = match record.phase() {
            Phase::Moving if self.world.percent(30) => record.abort(&BTreeSet::new(), reason),
            Phase::Moving => return,
            Phase::Stable | Phase::Releasing => {
                let next = match dead {
                    Some(dead) => self.members_without(&record, dead),
                    None => self.other_members(&record),
                };
                let Some(next) = next else { return };
                let disk_of = |dead| record.member(dead).map(|member| member.disk);
                let gone: Vec<DiskId> = dead.and_then(disk_of).into_iter().collect();
                record.begin(next, &gone, reason)
            }
        };
        let wanted = match wanted {
            Ok(wanted) => wanted,
            Err(error) => {
                return self.world.note(format_args!("{} may not: {error}", node.me));
            }
        };
        self.world.note(format_args!("{} proposes {wanted:?}", node.me));
        let world = self.world.clone();
        process.tasks.spawn(async move {
            let proposed = node.propose(wanted, PATIENCE).await;
            world.note(format_args!("{}: {proposed:?}", node.me));
        });
    }

    /// The members without a dead one, in whose place another one comes if there is any.
    fn members_without(&self, record: &ClusterRecord, dead: NodeId) -> Option<Vec<RecordMember>> {
        let at = record.stable().iter().position(|member| member.node == dead)?;
        let spare = self.spare(record).filter(|_| self.world.percent(80));
        replaced(record, at, spare.as_ref())
    }

    /// A machine that may become a member.
    fn spare(&self, record: &ClusterRecord) -> Option<Arc<Machine>> {
        let spares: Vec<Arc<Machine>> = spares(&self.machines, record).cloned().collect();
        (!spares.is_empty()).then(|| self.world.pick(&spares))
    }

    /// Other members: one more, one less, one instead of another, or one that weighs more.
    fn other_members(&self, record: &ClusterRecord) -> Option<Vec<RecordMember>> {
        let mut members = record.stable().to_vec();
        let spare = self.spare(record);
        let at = self.world.between(0, members.len() as u64 - 1) as usize;
        match (self.world.between(0, 3), spare) {
            (0 | 1, Some(spare)) => members.push(new_member(&spare)?),
            (2, Some(spare)) => {
                let seat = members.remove(at).seat;
                members.push(RecordMember { seat, ..new_member(&spare)? });
            }
            (3, _) => members[at].weight = self.world.between(1, 3) as u16,
            // No key has fewer home replicas than n.
            _ if members.len() > usize::from(N) => drop(members.remove(at)),
            _ => return None,
        }
        Some(members)
    }
}

/// An operator lets those leave that cannot hand over what they hold: a machine that was emptied while it
/// joined has another disk, and the change that had added the old one was given up.
pub(crate) async fn release_lost(machines: &[Arc<Machine>], record: &ClusterRecord) {
    let is_lost = |member: &&RecordMember| {
        let is_its = |machine: &&Arc<Machine>| machine.name == member.node && machine.waits();
        machines.iter().find(is_its).is_some_and(|it| it.disk_id() != Some(member.disk))
    };
    let Some(lost) = record.leaving().iter().find(is_lost) else { return };
    let is_able = |process: &Process| process.node.takes_part() && process.node.me != lost.node;
    let Some(at) = machines.iter().filter_map(|machine| machine.process()).find(is_able) else {
        return;
    };
    let (base, lost, node) = (record.hash(), lost.node, at.node);
    carry_out(&at.tasks, async move {
        drop(lost::release(&node, base, lost, PATIENCE).await); // refused while it is not known to be down
    })
    .await;
}

/// An oath outlives the change that it was sworn for, if that was given up. An operator begins another one,
/// without the dead member, and with a spare machine in its place if there is one.
pub(crate) async fn replace_sworn_dead(machines: &[Arc<Machine>], record: &ClusterRecord) {
    let dead = record.stable().iter().position(|member| record.is_gone(member.disk));
    let (Some(dead), true) = (dead, record.phase() != Phase::Moving) else { return };
    let Some(members) = replaced(record, dead, spares(machines, record).next()) else { return };
    let mut up = machines.iter().filter_map(|machine| machine.process());
    let Some(at) = up.find(|process| process.node.takes_part()) else { return };
    let reason = Reason { by: at.node.me, at: at.node.now(), note: String::new() };
    if let Ok(wanted) = record.begin(members, &[], reason) {
        carry_out(&at.tasks, async move { drop(at.node.propose(wanted, PATIENCE).await) }).await;
    }
}

/// The machines that may become members.
fn spares<'a>(
    machines: &'a [Arc<Machine>],
    record: &'a ClusterRecord,
) -> impl Iterator<Item = &'a Arc<Machine>> {
    machines.iter().filter(|machine| machine.waits() && record.member(machine.name).is_none())
}

/// The members without the one at this place, in whose seat a machine comes if there is one; `None` if there
/// would be fewer than a key has home replicas.
fn replaced(
    record: &ClusterRecord,
    at: usize,
    spare: Option<&Arc<Machine>>,
) -> Option<Vec<RecordMember>> {
    let mut members = record.stable().to_vec();
    let seat = members.remove(at).seat;
    if let Some(new) = spare.and_then(|spare| new_member(spare)) {
        members.push(RecordMember { seat, ..new });
    }
    (members.len() >= usize::from(N)).then_some(members)
}

/// Waits until a node has done what an operator asks for, or is killed or paused meanwhile.
async fn carry_out(tasks: &Tasks, act: impl Future<Output = ()> + Send + 'static) {
    let (answers, answered) = oneshot::channel::<()>();
    tasks.spawn(async move {
        act.await;
        drop(answers);
    });
    drop(timeout(PATIENCE, answered).await);
}

/// A machine as a member.
pub(crate) fn new_member(machine: &Machine) -> Option<RecordMember> {
    let node = machine.name;
    Some(RecordMember {
        node,
        disk: machine.disk_id()?,
        seat: node,
        zone: node.to_string(),
        weight: 1,
        peer_addr: format!("{node}:1"),
        client_addr: None,
    })
}
