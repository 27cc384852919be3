//! When a tombstone may be reaped (garbage-collected).
//!
//! A tombstone keeps older copies of its key from coming back, so it may be deleted only when there
//! are none: in no row, no hint and no message in flight. The proof is one round: *every* node of
//! the cluster confirms, from synced state, that it holds nothing for the key but that very object,
//! and has held nothing else for a whole *grace* ([`may_confirm`]). Then nothing older was read
//! anywhere within the last grace; and an object that was read earlier is refused on arrival,
//! because messages say when their object was read and are refused once older than half the grace
//! ([`is_stale`]). The other half is for the proof itself and for clock disagreement of up to a
//! quarter of the grace.
//!
//! Each replica then deletes only if its row still has that version. If a replica misses the
//! delete, anti-entropy brings the tombstone back and it is reaped again; a deleted value never
//! comes back.
//!
//! Riak reaps after a fixed time and lets deleted objects come back (basho/riak_kv, "delete_mode");
//! Cassandra's `gc_grace_seconds` relies on the operator to repair in time. Here time alone is
//! never proof.

use std::collections::BTreeSet;

use crate::mutation::{Mutation, mutated};
use crate::name::{Key, NodeId};
use crate::object::Version;
use crate::time::WallTime;

/// The most tombstones in one round: bounds the message and the work of one confirmation.
pub const ROUND_MAX: usize = 1024;

/// What a node knows of a key when it is asked to confirm.
#[derive(Clone, Copy, Debug)]
pub struct Facts {
    /// Whether it is a home replica of the key.
    pub is_home: bool,
    /// Whether it has received the key's partition.
    pub is_ready: bool,
    /// Version of its home row and since when it has it ([`crate::row::Row::since`]), durable.
    pub row: Option<(Version, WallTime)>,
    /// Whether it keeps a hint of the key, for any node.
    pub is_hinted: bool,
    /// When it last dropped a hint or an unowned row of the key's partition, or started.
    pub quiet_since: WallTime,
}

/// Where a node gathers the facts, while its other jobs deliver and drop hints and hand over rows.
pub trait Evidence {
    /// Why a lookup failed.
    type Error;

    /// Whether it is a home replica of the key, and whether it has received the key's partition.
    ///
    /// # Errors
    /// The lookup failed.
    fn place(&self) -> Result<(bool, bool), Self::Error>;

    /// Its home row, as in [`Facts::row`].
    ///
    /// # Errors
    /// The lookup failed.
    fn row(&self) -> Result<Option<(Version, WallTime)>, Self::Error>;

    /// Whether it keeps a hint of the key.
    ///
    /// # Errors
    /// The lookup failed.
    fn is_hinted(&self) -> Result<bool, Self::Error>;

    /// As [`Facts::quiet_since`].
    fn quiet_since(&self) -> WallTime;
}

impl Facts {
    /// Gathers all facts; the order matters. A job that drops something records the time *before*
    /// it does ([`Facts::quiet_since`]), so that record is read last. Read first, it would miss a
    /// drop that happens before the other lookups: an older object would then be in flight to
    /// another node, absent here and not recorded.
    ///
    /// # Errors
    /// A lookup failed.
    pub fn gather<E: Evidence>(evidence: &E) -> Result<Self, E::Error> {
        let (is_home, is_ready) = evidence.place()?;
        let (row, is_hinted) = (evidence.row()?, evidence.is_hinted()?);
        let quiet_since = evidence.quiet_since();
        Ok(Self { is_home, is_ready, row, is_hinted, quiet_since })
    }
}

/// Whether a node may confirm that it holds nothing but this version and has held nothing else for
/// a whole grace.
pub fn may_confirm(version: Version, facts: &Facts, now: WallTime, grace_ms: u64) -> bool {
    let held_long_enough = |since: WallTime| now.since(since) >= grace_ms;
    let row_fits = match facts.row {
        Some((held, since)) => held == version && held_long_enough(since),
        // A home replica without the tombstone could accept an older object at any time.
        None => !facts.is_home,
    };
    row_fits
        && !facts.is_hinted
        && held_long_enough(facts.quiet_since)
        && (facts.is_ready || !facts.is_home)
}

/// Whether an object that was read at `read_at` by its sender's clock arrives too late to be
/// accepted.
pub fn is_stale(read_at: WallTime, now: WallTime, grace_ms: u64) -> bool {
    now.since(read_at) > grace_ms / 2
}

/// One round: tombstones of one partition, and which of them all nodes so far have confirmed.
#[derive(Clone, Debug)]
pub struct Round {
    tombstones: Vec<(Key, Version)>,
    confirmed: Vec<bool>,
    waiting: BTreeSet<NodeId>,
}

impl Round {
    /// Begins a round that all of `nodes`, the whole cluster, must confirm.
    pub fn new(tombstones: Vec<(Key, Version)>, nodes: impl IntoIterator<Item = NodeId>) -> Self {
        let confirmed = vec![true; tombstones.len()];
        Self { tombstones, confirmed, waiting: nodes.into_iter().collect() }
    }

    /// The tombstones to confirm.
    pub fn tombstones(&self) -> &[(Key, Version)] {
        &self.tombstones
    }

    /// A node says which tombstones it confirms, in order. An answer of the wrong length confirms
    /// nothing; a repeated one is ignored.
    pub fn on_confirmed(&mut self, node: NodeId, which: &[bool]) {
        if !self.waiting.remove(&node) {
            return;
        }
        if which.len() != self.confirmed.len() {
            return self.confirmed.fill(false);
        }
        for (confirmed, by_node) in self.confirmed.iter_mut().zip(which) {
            *confirmed &= by_node;
        }
    }

    /// Whether every node has answered, or nothing is left to prove.
    pub fn is_over(&self) -> bool {
        self.waiting.is_empty() || self.confirmed.iter().all(|confirmed| !confirmed)
    }

    /// The tombstones that every node confirmed; none before all have answered.
    pub fn proven(&self) -> Vec<(Key, Version)> {
        if !self.waiting.is_empty() && !mutated(Mutation::ReapWithoutFullProof) {
            return Vec::new();
        }
        let both = self.tombstones.iter().zip(&self.confirmed);
        both.filter(|(_, confirmed)| **confirmed).map(|(tombstone, _)| tombstone.clone()).collect()
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use std::cell::Cell;

    use super::*;

    const V: Version = Version([1; 16]);
    const W: Version = Version([2; 16]);
    const GRACE_MS: u64 = 1000;
    const HOME: Facts = Facts {
        is_home: true,
        is_ready: true,
        row: Some((V, WallTime(500))),
        is_hinted: false,
        quiet_since: WallTime(500),
    };

    #[test]
    fn a_node_confirms_only_what_it_has_held_alone_for_a_grace() {
        let other = Facts { is_home: false, row: None, ..HOME };
        let at = |ms, facts: Facts| may_confirm(V, &facts, WallTime(ms), GRACE_MS);
        assert!(at(1500, HOME) && at(1500, other));
        assert!(at(1500, Facts { is_ready: false, ..other }), "it is asked for no reads");
        assert!(at(1500, Facts { is_home: false, ..HOME }), "a row that is to be dropped");
        let refused = [
            ("too young", Facts { row: Some((V, WallTime(501))), ..HOME }),
            ("another version", Facts { row: Some((W, WallTime(0))), ..HOME }),
            ("a home replica without it", Facts { row: None, ..HOME }),
            ("not received", Facts { is_ready: false, ..HOME }),
            ("a hint", Facts { is_hinted: true, ..HOME }),
            ("a hint elsewhere", Facts { is_hinted: true, ..other }),
            ("a hint dropped lately", Facts { quiet_since: WallTime(501), ..other }),
            ("an unowned row of another version", Facts { row: Some((W, WallTime(0))), ..other }),
        ];
        for (why, facts) in refused {
            assert!(!at(1500, facts), "{why}");
        }
    }

    /// A node that drops its hint of the key, recording the time first, before the lookup with this
    /// number.
    struct Dropping {
        looks: Cell<u32>,
        before: u32,
    }

    impl Dropping {
        fn is_dropped(&self) -> bool {
            self.looks.set(self.looks.get() + 1);
            self.looks.get() > self.before
        }
    }

    impl Evidence for Dropping {
        type Error = ();

        fn place(&self) -> Result<(bool, bool), ()> {
            self.is_dropped();
            Ok((true, true))
        }

        fn row(&self) -> Result<Option<(Version, WallTime)>, ()> {
            self.is_dropped();
            Ok(HOME.row)
        }

        fn is_hinted(&self) -> Result<bool, ()> {
            Ok(!self.is_dropped())
        }

        fn quiet_since(&self) -> WallTime {
            if self.is_dropped() { WallTime(1499) } else { HOME.quiet_since }
        }
    }

    #[test]
    fn a_concurrently_dropped_hint_is_seen_or_its_drop_is() {
        for before in 0..6 {
            let facts = Facts::gather(&Dropping { looks: Cell::new(0), before }).unwrap();
            assert!(!may_confirm(V, &facts, WallTime(1500), GRACE_MS), "before lookup {before}");
        }
    }

    #[test]
    fn objects_are_refused_from_half_the_grace_on() {
        assert!(!is_stale(WallTime(1000), WallTime(1500), GRACE_MS));
        assert!(is_stale(WallTime(1000), WallTime(1501), GRACE_MS));
        assert!(
            !is_stale(WallTime(2000), WallTime(1000), GRACE_MS),
            "a sender whose clock is ahead"
        );
    }

    #[test]
    fn only_what_every_node_confirms_is_proven() {
        let nodes = ["n1", "n2", "n3"].map(|name| NodeId::parse(name).unwrap());
        let key = |name: &str| Key::new("b", name.as_bytes()).unwrap();
        let tombstones = vec![(key("a"), V), (key("b"), W), (key("c"), V)];
        let mut round = Round::new(tombstones.clone(), nodes);
        round.on_confirmed(nodes[0], &[true, true, false]);
        round.on_confirmed(nodes[0], &[false, false, false]);
        round.on_confirmed(nodes[1], &[true, false, true]);
        assert!(!round.is_over());
        assert_eq!(round.proven(), []);
        round.on_confirmed(nodes[2], &[true, true, true]);
        assert!(round.is_over());
        assert_eq!(round.proven(), tombstones[..1]);
        let mut short = Round::new(tombstones, nodes);
        short.on_confirmed(nodes[0], &[true]);
        assert!(short.is_over() && short.proven().is_empty());
    }
}
