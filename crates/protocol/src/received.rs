//! When a home replica that lacked a partition may answer for it again.
//!
//! It has merged what the other home replicas hold; that is complete only if one of them had it
//! all. If all home replicas lost their disks, they agree on an empty partition, but answering
//! "never written" would be wrong: the data is lost. If all of them came back too old to be trusted
//! (a cluster restored from its backups), they have set their rows aside, and the data is there.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::layout::Partition;
use crate::name::NodeId;
use crate::object::Object;

/// What a home replica holds of a partition, apart from writes received since it started.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Holds {
    /// All of it: it has received the partition, or never lacked it.
    All,
    /// The rows of its own disk: it came back behind, but its rows are young enough to be trusted;
    /// or its operator accepted them.
    Rows,
    /// Rows that are set aside until their value is known.
    Aside,
    /// Nothing.
    Nothing,
}

/// What a node holds of all partitions, as it reports it to its peers.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Holdings {
    /// A bit for each partition that it has not received; empty if there is none.
    lacks: Vec<u8>,
    /// What it holds of those partitions.
    instead: Holds,
}

impl Default for Holdings {
    fn default() -> Self {
        Self { lacks: Vec::new(), instead: Holds::Nothing }
    }
}

impl Holdings {
    /// The holdings of a node that lacks `lacking` of `count` partitions.
    pub fn new(lacking: &[Partition], count: u32, instead: Holds) -> Self {
        let mut lacks = Vec::new();
        if !lacking.is_empty() {
            lacks.resize((count as usize).div_ceil(8), 0);
        }
        for partition in lacking {
            let at = usize::from(partition.0);
            if let Some(byte) = lacks.get_mut(at / 8) {
                *byte |= 1 << (at % 8);
            }
        }
        Self { lacks, instead }
    }

    /// What the node holds of a partition. One beyond the bitmap counts as lacking.
    pub fn of(&self, partition: Partition) -> Holds {
        let at = usize::from(partition.0);
        let lacks = !self.lacks.is_empty()
            && self.lacks.get(at / 8).is_none_or(|byte| byte & (1 << (at % 8)) != 0);
        if lacks { self.instead } else { Holds::All }
    }
}

/// What to do about a partition after it was merged with all other home replicas.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Received {
    /// It is received.
    Yes,
    /// Rows that are set aside come first: an operator decides about them.
    Undecided,
    /// No home replica has the data: an operator must accept the loss, or bring a disk back.
    Lost,
}

/// Whether what a home replica holds of a key makes a set-aside row redundant: its clock covers the
/// row's clock.
pub fn covers(held: &Object, aside: &Object) -> bool {
    held.clock.covers_all(&aside.clock)
}

/// The verdict on a partition that `me`, which holds `mine`, has merged with all other home
/// replicas. `reported`: what the peers said after the merge, since one that lost its disk in the
/// meantime says so. `None` if a home replica has not reported: ask again.
pub fn judge(
    (me, mine): (NodeId, &Holdings),
    partition: Partition,
    homes: &[NodeId],
    reported: &BTreeMap<NodeId, Holdings>,
) -> Option<Received> {
    if !homes.contains(&me) {
        return Some(Received::Yes); // there is nothing to receive
    }
    let others = homes.iter().filter(|home| **home != me);
    let others = others.map(|home| Some(reported.get(home)?.of(partition)));
    Some(received(mine.of(partition), others.collect::<Option<Vec<Holds>>>()?))
}

/// Decides by what this node and the other home replicas hold.
fn received(mine: Holds, others: impl IntoIterator<Item = Holds>) -> Received {
    let (mut all, mut rows, mut aside) = (false, false, false);
    for holds in others.into_iter().chain([mine]) {
        all |= holds == Holds::All;
        rows |= holds == Holds::Rows;
        aside |= holds == Holds::Aside;
    }
    match (all, aside, rows) {
        (true, _, _) => Received::Yes,
        (false, true, _) => Received::Undecided,
        (false, false, true) => Received::Yes,
        (false, false, false) => Received::Lost,
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::Holds::{All, Aside, Nothing, Rows};
    use super::*;

    #[test]
    fn holdings_say_what_is_held_of_each_partition() {
        let holdings = Holdings::new(&[Partition(0), Partition(9)], 16, Aside);
        let of = |p| holdings.of(Partition(p));
        assert_eq!([of(0), of(1), of(9), of(15), of(99)], [Aside, All, Aside, All, Aside]);
        assert_eq!(Holdings::default().of(Partition(7)), All);
        assert_eq!(Holdings::new(&[], 16, Nothing), Holdings::default());
    }

    #[test]
    fn one_complete_replica_is_enough() {
        assert_eq!(received(Nothing, [Nothing, All]), Received::Yes);
        assert_eq!(
            received(Aside, [Aside, All]),
            Received::Yes,
            "an old backup among healthy replicas"
        );
        assert_eq!(
            received(Rows, [Nothing, Nothing]),
            Received::Yes,
            "its own rows are what is left"
        );
        assert_eq!(received(Nothing, [Rows, Rows]), Received::Yes, "all lost power");
    }

    #[test]
    fn every_home_replica_must_have_reported() {
        let [me, n2, n3] = ["n1", "n2", "n3"].map(|name| NodeId::parse(name).unwrap());
        let lacking = Holdings::new(&[Partition(3)], 16, Nothing);
        let verdict = |homes: &[NodeId], reported: &[NodeId]| {
            let reported = reported.iter().map(|peer| (*peer, Holdings::default())).collect();
            judge((me, &lacking), Partition(3), homes, &reported)
        };
        assert_eq!(verdict(&[me, n2, n3], &[n2]), None);
        assert_eq!(verdict(&[me, n2, n3], &[n2, n3]), Some(Received::Yes));
        assert_eq!(verdict(&[n2, n3], &[]), Some(Received::Yes), "nothing to receive");
        assert_eq!(verdict(&[me], &[n2, n3]), Some(Received::Lost), "n2 and n3 are no homes of it");
    }

    #[test]
    fn without_a_complete_replica_an_operator_decides() {
        assert_eq!(received(Nothing, [Nothing, Nothing]), Received::Lost);
        assert_eq!(received(Nothing, []), Received::Lost, "the only replica");
        assert_eq!(received(Aside, [Rows, Aside]), Received::Undecided, "not all are back yet");
        assert_eq!(received(Nothing, [Aside, Nothing]), Received::Undecided);
    }
}
