//! The quorum numbers and the nodes of one operation, taken together from one snapshot.
//!
//! A bucket's properties and the layout change while requests run. The N, R and W of a request are
//! therefore checked against the bucket in one place, together with the choice of home replicas, by
//! the node that uses both: [`QuorumOptions`] is sent with a forwarded write, [`Terms`] never are. A count
//! that no longer fits is an error for the client, and nothing was written.

use serde::{Deserialize, Serialize};

use crate::bucket::{Conflicts, Properties};
use crate::name::NodeId;
use crate::quorum::{Count, Quorum, QuorumError};
use crate::quorum_sets::QuorumSets;

/// What a request asks of its quorum; a field that is `None` follows the bucket.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct QuorumOptions {
    /// How many home replicas to ask: at most the bucket's n.
    pub n: Option<Count>,
    /// R of a read, W of a write: at most n.
    pub needed: Option<Count>,
    /// Whether fallbacks count.
    pub sloppy: Option<bool>,
}

/// The numbers and nodes of one operation, valid by construction: of each set of home replicas,
/// `1 <= needed <= n <=` its size.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Terms {
    /// The bucket's home replicas of the key, in order of preference, and how many of each set must
    /// answer: R of a read, W of a write. There is one set.
    pub sets: QuorumSets,
    /// The nodes after them, in order of preference.
    pub fallbacks: Vec<NodeId>,
    /// How many of the home replicas of each set are asked.
    pub n: u16,
    /// R of the read that a conditional write or a blind delete needs first. The request does not
    /// set it, so a lowered n caps it.
    pub r: u16,
    /// Whether fallbacks count.
    pub sloppy: bool,
    /// How conflicts are shown to the client.
    pub conflicts: Conflicts,
}

impl Terms {
    /// The terms of a read; `list` is the key's preference list.
    ///
    /// # Errors
    /// [`QuorumError`] if what is asked does not fit the bucket.
    pub fn of_read(
        asked: &QuorumOptions,
        bucket: &Properties,
        list: &[NodeId],
    ) -> Result<Self, QuorumError> {
        Self::new(asked, bucket.r, bucket, list)
    }

    /// The terms of a write; `list` is the key's preference list.
    ///
    /// # Errors
    /// [`QuorumError`] if what is asked does not fit the bucket.
    pub fn of_write(
        asked: &QuorumOptions,
        bucket: &Properties,
        list: &[NodeId],
    ) -> Result<Self, QuorumError> {
        Self::new(asked, bucket.w, bucket, list)
    }

    /// Checks a write's counts in a cluster of `nodes` nodes, so that an invalid request is
    /// rejected before its body arrives.
    ///
    /// # Errors
    /// [`QuorumError`] if what is asked does not fit the bucket.
    pub fn check_write(
        asked: &QuorumOptions,
        bucket: &Properties,
        nodes: usize,
    ) -> Result<(), QuorumError> {
        quorum(asked, bucket.w, bucket, nodes).map(drop)
    }

    fn new(
        asked: &QuorumOptions,
        usual: Count,
        bucket: &Properties,
        list: &[NodeId],
    ) -> Result<Self, QuorumError> {
        let Quorum { n, needed } = quorum(asked, usual, bucket, list.len())?;
        let bucket_n = usize::from(bucket.n).min(list.len());
        let (homes, fallbacks) = list.split_at(bucket_n);
        Ok(Self {
            sets: QuorumSets::one(homes.to_vec(), needed),
            fallbacks: fallbacks.to_vec(),
            n,
            r: bucket.r.of(n).min(n),
            sloppy: asked.sloppy.unwrap_or(bucket.sloppy),
            conflicts: bucket.conflicts,
        })
    }

    /// R of a read, W of a write.
    pub fn needed(&self) -> u16 {
        self.sets.required()
    }

    /// The home replicas that a write asks. A request's `n` narrows each set; `first`, if it is one
    /// of them, is then asked first. Writes that must meet at the first healthy home replica
    /// (conditional and idempotent ones) pass `None`: every node must choose the same.
    pub fn asked_sets(&self, first: Option<NodeId>) -> QuorumSets {
        let mut sets = self.sets.clone();
        if sets.is_wider_than(self.n) {
            // Stable: else in order of preference.
            sets.reorder(|homes| homes.sort_by_key(|home| Some(*home) != first));
            sets.narrow(self.n);
        }
        sets
    }

    /// The same terms for the read that a write needs first: R instead of W.
    pub fn to_read_first(&self) -> Self {
        Self { sets: self.sets.clone().with_needed(self.r), ..self.clone() }
    }
}

fn quorum(
    asked: &QuorumOptions,
    usual: Count,
    bucket: &Properties,
    nodes: usize,
) -> Result<Quorum, QuorumError> {
    let bucket_n = usize::from(bucket.n).min(nodes);
    Quorum::new(bucket_n as u16, asked.n, asked.needed.unwrap_or(usual))
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    fn list(count: usize) -> Vec<NodeId> {
        (1..=count).map(|i| NodeId::parse(&format!("n{i}")).unwrap()).collect()
    }

    fn asked(n: Option<u16>, needed: Option<u16>) -> QuorumOptions {
        let exactly = |count: Option<u16>| count.map(Count::Exactly);
        QuorumOptions { n: exactly(n), needed: exactly(needed), sloppy: None }
    }

    #[test]
    fn unset_counts_follow_the_bucket() {
        let bucket = Properties { n: 3, ..Properties::default() };
        let terms = Terms::of_write(&QuorumOptions::default(), &bucket, &list(5)).unwrap();
        assert_eq!((terms.n, terms.needed(), terms.r), (3, 2, 2));
        assert_eq!((terms.sets.homes(), terms.fallbacks), (&list(3)[..], list(5)[3..].to_vec()));
    }

    #[test]
    fn counts_that_no_longer_fit_the_bucket_are_an_error() {
        let lowered = Properties { n: 1, ..Properties::default() };
        let three = asked(None, Some(3));
        let error = Terms::of_write(&three, &lowered, &list(5)).unwrap_err();
        assert_eq!(error, QuorumError::MoreThanN { needed: 3, n: 1 });
        assert_eq!(Terms::check_write(&three, &lowered, 5), Err(error));
        let error = Terms::of_read(&asked(Some(3), None), &lowered, &list(5)).unwrap_err();
        assert_eq!(error, QuorumError::TooManyReplicas { n: 3, max: 1 });
        let terms = Terms::of_write(&QuorumOptions::default(), &lowered, &list(5)).unwrap();
        assert_eq!((terms.n, terms.needed(), terms.r), (1, 1, 1));
    }

    /// Conditional writes through any node meet at the first home replica, however low their n.
    #[test]
    fn narrowed_writes_that_must_meet_ask_the_same_home_from_everywhere() {
        let bucket = Properties::default();
        let terms = Terms::of_write(&asked(Some(1), None), &bucket, &list(5)).unwrap();
        assert_eq!(terms.asked_sets(None).homes(), list(1));
        let second = list(2)[1];
        assert_eq!(
            terms.asked_sets(Some(second)).homes(),
            [second],
            "no other write to meet: saves a hop"
        );
        let fallback = list(5)[4];
        assert_eq!(terms.asked_sets(Some(fallback)).homes(), list(1));
    }
}
