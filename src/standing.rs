//! Whether this node, or a peer, came back behind what it had promised (see `protocol::standing`).
//!
//! Every start is recorded before the node says a word, and told to the peers in each greeting. They
//! remember it; one that remembers more than this node brings says so, and this node starts over: under a
//! new incarnation and a greater number, with no partition ready, and without its rows if these are so
//! old that what was deleted since could come back with them.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::sync::{Mutex, MutexGuard, PoisonError};

use quorate_protocol::name::NodeId;
use quorate_protocol::stamp::Millis;
use quorate_protocol::standing::{Remembered, Start, Verdict, judge, may_keep_rows};
use quorate_storage::{Error, Store};
use serde::{Deserialize, Serialize};
use tokio_util::sync::CancellationToken;

use crate::node::StartError;

const START_RECORD: &str = "start";
const START_OVER_RECORD: &str = "start_over";
const PEERS_RECORD: &str = "starts_of_peers";

/// This node's start, and those of its peers.
pub struct Standing {
    number: u64,
    nonce: u64,
    fills: bool,
    keeps_rows: bool,
    cleared: AtomicBool,
    remembered: Mutex<BTreeMap<NodeId, Remembered>>,
    /// Cancelled when this process must end and start over.
    pub start_over: CancellationToken,
}

/// How to start over. Recorded before the process ends.
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
struct StartOver {
    number: u64,
    keeps_rows: bool,
}

impl Standing {
    /// Records a new start. If the last one ended by starting over, drops what must not spread;
    /// [`Standing::fills`] is then true, and no partition is ready.
    ///
    /// # Errors
    /// [`StartError`] if a record cannot be read or written.
    pub fn load(
        store: &Store,
        now: Millis,
        grace_ms: u64,
        has_peers: bool,
    ) -> Result<Self, StartError> {
        let last: u64 = record(store, START_RECORD)?.unwrap_or_default();
        let over: Option<StartOver> = record(store, START_OVER_RECORD)?.flatten();
        let remembered = record(store, PEERS_RECORD)?.unwrap_or_default();
        let alive_at = store.alive_at()?;
        if let Some(StartOver { keeps_rows: false, .. }) = over {
            tracing::warn!("dropping rows that are older than the grace of deletes");
            store.discard_rows()?;
        }
        let number = over.map_or(last + 1, |over| over.number.max(last + 1));
        put(store, START_RECORD, &number)?;
        let keeps_rows = alive_at.is_none_or(|at| may_keep_rows(at, now, grace_ms));
        Ok(Self {
            number,
            nonce: rand::random(),
            fills: over.is_some(),
            keeps_rows,
            cleared: AtomicBool::new(over.is_some() || !has_peers),
            remembered: Mutex::new(remembered),
            start_over: CancellationToken::new(),
        })
    }

    /// Whether this node starts over and must fill. Called once, before anything is served; after
    /// no partition was recorded as ready, [`Standing::started_over`] ends it.
    pub fn fills(&self) -> bool {
        self.fills
    }

    /// That no partition is ready was recorded.
    ///
    /// # Errors
    /// The store's.
    pub fn started_over(&self, store: &Store) -> Result<(), Error> {
        put(store, START_OVER_RECORD, &None::<StartOver>)
    }

    /// What this node says of its start.
    pub fn start(&self, store: &Store) -> Start {
        Start {
            number: self.number,
            nonce: self.nonce,
            opened_at: store.opened_at(),
            durable_at: store.durable_at(),
            fills: self.fills,
        }
    }

    /// The random number of this start.
    pub fn nonce(&self) -> u64 {
        self.nonce
    }

    /// Whether this node may tell others what its rows hold: once a peer has found nothing wrong with its
    /// start, or none could be reached for a while ([`Standing::clear_alone`]).
    pub fn is_cleared(&self) -> bool {
        self.cleared.load(Relaxed)
    }

    /// A peer found nothing wrong with this start.
    pub fn clear(&self) {
        self.cleared.store(true, Relaxed);
    }

    /// No peer could be reached. Goes on without, unless the rows are older than the grace: they could be
    /// an old backup's, and must not spread before a peer was asked. Whether it goes on.
    pub fn clear_alone(&self) -> bool {
        if self.keeps_rows {
            self.clear();
        }
        self.keeps_rows
    }

    /// A peer tells its start. Returns what is remembered of it if it is behind that. May block: a new
    /// start is recorded.
    ///
    /// # Errors
    /// The store's, if the start cannot be recorded.
    pub fn hear(
        &self,
        store: &Store,
        peer: NodeId,
        start: Start,
    ) -> Result<Option<Remembered>, Error> {
        if start.number == 0 {
            return Ok(None);
        }
        let mut remembered = self.lock();
        let known = remembered.get(&peer).copied();
        let next = match judge(known, start) {
            Verdict::Behind(known) => {
                tracing::error!(%peer, ?start, ?known, "the peer came back behind; it will fill");
                return Ok(Some(known));
            }
            Verdict::GoesOn(next) => next,
        };
        remembered.insert(peer, next);
        let is_new =
            known.is_none_or(|known| (known.number, known.nonce) != (next.number, next.nonce));
        if is_new {
            put(store, PEERS_RECORD, &*remembered)?; // under the lock: records stay in order
        }
        Ok(None)
    }

    /// A peer remembers more of this node than it brings: records how to start over, and asks for it.
    /// Blocks.
    ///
    /// # Errors
    /// The store's, if that cannot be recorded; this node goes on then, and will hear it again.
    pub fn fall_behind(&self, store: &Store, known: Remembered) -> Result<(), Error> {
        if self.start_over.is_cancelled() || known.number < self.number && self.fills {
            return Ok(());
        }
        let number = known.number.max(self.number) + 1;
        let over = StartOver { number, keeps_rows: self.keeps_rows };
        tracing::error!(
            this = ?self.start(store), ?known, keeps_rows = self.keeps_rows,
            "this node came back behind what its peers remember (an old backup, a copy, a lost disk); \
             it starts over and fills"
        );
        put(store, START_OVER_RECORD, &Some(over))?;
        self.start_over.cancel();
        Ok(())
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<NodeId, Remembered>> {
        self.remembered.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn record<T: for<'de> Deserialize<'de>>(
    store: &Store,
    name: &'static str,
) -> Result<Option<T>, StartError> {
    let Some(bytes) = store.meta(name)? else { return Ok(None) };
    postcard::from_bytes(&bytes).map(Some).map_err(|_| StartError::Record(name))
}

fn put<T: Serialize>(store: &Store, name: &str, value: &T) -> Result<(), Error> {
    let bytes = postcard::to_stdvec(value).unwrap_or_default(); // writing to a Vec cannot fail
    store.put_meta(name, &bytes)
}
