//! A node of a cluster that was restored from a backup, until it has compared with every other node once.
//!
//! The copies of a backup were made one after the other: a delete may be in one and not in another. Until
//! every pair of nodes has compared, no tombstone is confirmed here, so that nothing is reaped anywhere.
//! Reaping asks every home replica for the same version anyway; this is the second lock on the same door.
//!
//! So long the rows here are as old as the backup, whenever the node starts: in their own cluster nothing can
//! have been reaped meanwhile. But a copy that is restored once more, into a cluster that has gone on, is
//! behind, and must be judged by its true age.

use std::collections::BTreeSet;
use std::sync::{Mutex, MutexGuard, PoisonError};

use quorate_protocol::name::NodeId;
use quorate_protocol::time::WallTime;
use quorate_storage::{Error, Store};
use serde::{Deserialize, Serialize};

use crate::node::errors::StartError;
use crate::node::record;

const RESTORED_RECORD: &str = "restored";

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
struct Recorded {
    backed_up_at: WallTime,
    /// The nodes that it has compared with.
    compared: BTreeSet<NodeId>,
}

/// Whether this node was restored, and with whom it has still to compare.
pub struct Restored(Mutex<Option<Recorded>>);

impl Restored {
    /// What is recorded.
    ///
    /// # Errors
    /// [`StartError`] if the record cannot be read.
    pub fn load(store: &Store) -> Result<Self, StartError> {
        Ok(Self(Mutex::new(record::load::<Option<Recorded>>(store, RESTORED_RECORD)?.flatten())))
    }

    /// The store was filled from a backup that was made then. Durable on return. Blocks.
    ///
    /// # Errors
    /// The store's.
    pub fn begin(store: &Store, backed_up_at: WallTime) -> Result<(), Error> {
        let recorded = Recorded { backed_up_at, compared: BTreeSet::new() };
        record::put(store, RESTORED_RECORD, &Some(recorded))
    }

    /// When the backup was made that this node holds, as long as it has not compared with every other node.
    pub fn backed_up_at(&self) -> Option<WallTime> {
        self.lock().as_ref().map(|recorded| recorded.backed_up_at)
    }

    /// Whether there is nothing to wait for: it was not restored, or has compared with all of these.
    pub fn is_settled(&self, mut peers: impl Iterator<Item = NodeId>) -> bool {
        match &*self.lock() {
            Some(recorded) => peers.all(|peer| recorded.compared.contains(&peer)),
            None => true,
        }
    }

    /// Everything that this node and a peer both hold was compared, and is equal now, as far as this node
    /// begins the comparison. Once that is so of all `peers`, it is over. Blocks.
    ///
    /// # Errors
    /// The store's; it is then as before.
    pub fn compared(
        &self,
        store: &Store,
        peer: NodeId,
        mut peers: impl Iterator<Item = NodeId>,
    ) -> Result<(), Error> {
        let mut now = self.lock();
        let Some(recorded) = &*now else { return Ok(()) };
        let mut next = recorded.clone();
        next.compared.insert(peer);
        let next = Some(next).filter(|next| !peers.all(|peer| next.compared.contains(&peer)));
        if *now != next {
            record::put(store, RESTORED_RECORD, &next)?;
            if next.is_none() {
                tracing::info!("this node has compared with all others since it was restored");
            }
            *now = next;
        }
        Ok(())
    }

    fn lock(&self) -> MutexGuard<'_, Option<Recorded>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use quorate_storage::Options;

    use super::*;

    #[test]
    fn it_is_over_once_all_have_compared() {
        let dir = tempfile::tempdir().unwrap();
        let [n1, n2, n3] = ["n1", "n2", "n3"].map(|name| NodeId::parse(name).unwrap());
        let store = Store::open(dir.path(), Options::new(n1, "test", 8)).unwrap();
        let peers = || [n2, n3].into_iter();
        assert!(Restored::load(&store).unwrap().is_settled(peers()));
        Restored::begin(&store, WallTime(7)).unwrap();
        let loaded = || Restored::load(&store).unwrap();
        assert_eq!(
            (loaded().backed_up_at(), loaded().is_settled(peers())),
            (Some(WallTime(7)), false)
        );
        loaded().compared(&store, n3, peers()).unwrap();
        loaded().compared(&store, n3, peers()).unwrap();
        assert!(!loaded().is_settled(peers()));
        assert!(loaded().is_settled([n3].into_iter()), "n2 is no member any more");
        loaded().compared(&store, n2, peers()).unwrap();
        assert_eq!((loaded().backed_up_at(), loaded().is_settled(peers())), (None, true));
        loaded().compared(&store, n2, peers()).unwrap();
    }
}
