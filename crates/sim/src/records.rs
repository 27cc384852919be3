//! Watches the cluster records of all nodes while a run goes on: what must hold of them at any time.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};

use quorate_engine::membership::placement_of;
use quorate_engine::node::Node;
use quorate_oracle::{Verdict, Violation};
use quorate_protocol::layout::Partition;
use quorate_protocol::placement::Placement;
use quorate_protocol::record::{ClusterRecord, Op};

use crate::machine::Machine;
use crate::run::N;

/// The records that were seen, by epoch.
#[derive(Default)]
pub(crate) struct Records(Mutex<BTreeMap<u64, Arc<ClusterRecord>>>);

impl Records {
    /// Looks at the records that all running nodes know.
    ///
    /// # Errors
    /// Two of them are of one epoch, or a change has ended before its new home replicas were ready.
    pub(crate) fn look(&self, machines: &[Arc<Machine>]) -> Verdict {
        let mut seen = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        for process in machines.iter().filter_map(|machine| machine.process()) {
            let node = process.node;
            if seen.last_key_value().is_some_and(|(epoch, newest)| {
                *epoch == node.epoch().number && newest.hash() == node.membership.record().hash()
            }) {
                continue;
            }
            for record in node.record_history() {
                one_record_of_each_epoch(&node, seen.get(&record.epoch()), &record)?;
                if seen.insert(record.epoch(), record.clone()).is_some() {
                    continue;
                }
                if let Some(parent) = seen.get(&(record.epoch() - 1)).filter(|_| is_finish(&record))
                {
                    new_homes_were_ready(&placement_of(parent), record.epoch(), machines)?;
                }
            }
        }
        Ok(())
    }
}

fn is_finish(record: &ClusterRecord) -> bool {
    record.cause().op == Op::Finish
}

/// *No two records of one epoch are ever in force anywhere.*
fn one_record_of_each_epoch(
    node: &Node,
    known: Option<&Arc<ClusterRecord>>,
    record: &ClusterRecord,
) -> Verdict {
    match known.filter(|known| known.hash() != record.hash()) {
        None => Ok(()),
        Some(known) => {
            let story = format!("{} follows {record:?}, and another node {known:?}", node.me);
            Err(Violation { property: "one_record_of_each_epoch", story })
        }
    }
}

/// *When a change ends every new home replica has received what it must hold.* One that was replaced by a
/// later change, or that may have lost data, tells nothing.
fn new_homes_were_ready(joint: &Placement, ended: u64, machines: &[Arc<Machine>]) -> Verdict {
    let all = || (0..joint.partitions()).map(|p| Partition(p as u16));
    for machine in machines.iter().filter(|machine| machine.losses() == (0, 0)) {
        let Some(process) = machine.process() else { continue };
        let node = process.node;
        if node.epoch().number > ended {
            continue;
        }
        let lacks = |p: &Partition| joint.is_new_home(node.me, *p, N) && !node.filled.is_ready(*p);
        if let Some(partition) = all().find(lacks) {
            let story = format!(
                "the change ended in epoch {ended}, and {} had not received partition {}",
                node.me, partition.0
            );
            return Err(Violation { property: "a_change_ends_when_all_is_received", story });
        }
    }
    Ok(())
}
