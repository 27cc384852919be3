//! Whether this node, or a peer, came back behind what it had promised (see `protocol::generation`).
//!
//! Every start is recorded before the node says a word, and told to the peers in each greeting. They
//! remember it; one that remembers more than this node brings says so, and this node starts over: under a
//! new incarnation and a greater number, with no partition ready. Rows so old that what was deleted since
//! could come back with them are set aside first ([`crate::repair::distrusted`]).

use std::collections::{BTreeMap, BTreeSet};
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use quorate_protocol::generation::{Remembered, Start, Verdict, judge, may_keep_rows};
use quorate_protocol::name::NodeId;
use quorate_protocol::skew::SKEW_MS_MAX;
use quorate_protocol::stamp::Millis;
use quorate_storage::{Error, Store};
use serde::{Deserialize, Serialize};
use tokio_util::sync::CancellationToken;

use crate::node::errors::StartError;
use crate::node::record;

/// Left in the data directory of a node that has ended beside another one of its name: keeps a supervisor
/// from starting it again.
pub(crate) const TWIN_FILE: &str = "another-process-runs-under-this-name";
const START_RECORD: &str = "start";
const START_OVER_RECORD: &str = "start_over";
const PEERS_RECORD: &str = "starts_of_peers";
const CAME_EMPTY_RECORD: &str = "came_empty";

/// This node's start, and those of its peers.
pub(crate) struct Generation {
    number: u64,
    nonce: u64,
    filled_at: u64,
    alive_at: Option<Millis>,
    keeps_rows: AtomicBool,
    /// Whether it began without the rows it once had, or with none, and has not received all since.
    came_empty: AtomicBool,
    quarter_ms: u64,
    admitted: AtomicBool,
    /// Whether peers had time to say what they make of this start.
    has_waited: AtomicBool,
    durable: Mutex<Durable>,
    memory: Mutex<Memory>,
    remembers_since: Millis,
    is_memory_recorded: AtomicBool,
    /// Starts, by their nonces, that go on from an earlier one that is remembered.
    attested: Mutex<BTreeMap<NodeId, u64>>,
    /// The starts of peers that were heard last in this process, by their nonces, and when.
    heard: Mutex<BTreeMap<NodeId, (u64, Instant)>>,
    /// Since when peers say that another process of this node's name is alive.
    taken: Mutex<Option<Instant>>,
    /// Peers that found nothing wrong with this very start.
    accepted_by: Mutex<BTreeSet<NodeId>>,
    /// Cancelled when this process must end and start over.
    pub(crate) start_over: CancellationToken,
    /// Cancelled when this process must end for good: another one runs under this node's name.
    pub(crate) twin: CancellationToken,
}

/// The last start, as it is recorded.
#[derive(Clone, Copy, Debug, Default, Serialize, Deserialize)]
struct LastStart {
    number: u64,
    filled_at: u64,
}

/// How to start over. Recorded before the process ends.
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
struct StartOver {
    number: u64,
    keeps_rows: bool,
}

/// What is remembered of the peers' starts.
#[derive(Clone, Debug, Serialize, Deserialize)]
struct Memory {
    /// Since when nothing of it was lost, by the wall clock.
    since: Millis,
    peers: BTreeMap<NodeId, Remembered>,
}

/// How far the store said to be durable, apart from records that the node keeps of itself and its peers: if
/// these were told, each node's memory of the others would keep all disks busy for ever.
#[derive(Clone, Copy, Debug, Default)]
struct Durable {
    told: u64,
    own_records: u64,
}

impl Generation {
    /// Records a new start. If the last one ended by starting over, sets aside what must not spread;
    /// [`Generation::starts_over`] is then true, and no partition is ready. `is_filled` says whether the last
    /// start had received all partitions.
    ///
    /// # Errors
    /// [`StartError`] if a record cannot be read or written.
    pub(crate) fn load(
        store: &Store,
        now: Millis,
        grace_ms: u64,
        has_peers: bool,
        is_filled: bool,
    ) -> Result<Self, StartError> {
        let last: LastStart = record::load(store, START_RECORD)?.unwrap_or_default();
        let over: Option<StartOver> = record::load(store, START_OVER_RECORD)?.flatten();
        let alive_at = store.alive_at()?;
        let keeps_rows = alive_at.is_none_or(|at| may_keep_rows(at, now, grace_ms));
        let number = over.map_or(last.number + 1, |over| over.number.max(last.number + 1));
        // The record may have become old with the rows: a copy made before starting over.
        let too_old = over.is_some_and(|over| !(over.keeps_rows && keeps_rows));
        if too_old {
            tracing::warn!(
                "the rows here are older than the grace of deletes: setting them aside until the cluster is \
                 known to hold what they hold, or an operator decides (quorate distrusted)"
            );
            store.set_rows_aside(&format!("start-{number:010}"))?;
        }
        let was_empty = record::load(store, CAME_EMPTY_RECORD)?.unwrap_or(false) && !is_filled;
        let came_empty = too_old || last.number == 0 || was_empty;
        record::put(store, CAME_EMPTY_RECORD, &came_empty)?;
        // A new disk fills too, if there is a cluster to fill it from.
        let fills = over.is_some() || last.number == 0;
        let filled_at = if fills { number } else { last.filled_at };
        record::put(store, START_RECORD, &LastStart { number, filled_at })?;
        let memory: Option<Memory> = record::load(store, PEERS_RECORD)?;
        // Whoever came back behind may have forgotten what it remembered of others, too.
        let memory = match memory.filter(|_| over.is_none()) {
            Some(memory) => memory,
            None => {
                let memory = Memory { since: now, peers: BTreeMap::new() };
                record::put(store, PEERS_RECORD, &memory)?;
                memory
            }
        };
        Ok(Self {
            number,
            nonce: rand::random(),
            filled_at,
            alive_at,
            keeps_rows: AtomicBool::new(keeps_rows),
            came_empty: AtomicBool::new(came_empty),
            quarter_ms: grace_ms / 4,
            admitted: AtomicBool::new(over.is_some() || !has_peers),
            has_waited: AtomicBool::new(false),
            durable: Mutex::default(),
            remembers_since: memory.since,
            memory: Mutex::new(memory),
            is_memory_recorded: AtomicBool::new(true),
            attested: Mutex::default(),
            heard: Mutex::default(),
            taken: Mutex::default(),
            accepted_by: Mutex::default(),
            start_over: CancellationToken::new(),
            twin: CancellationToken::new(),
        })
    }

    /// Whether the last process ended to start over, so that this one must fill. Once it is recorded
    /// that no partition is ready, [`Generation::started_over`] ends it.
    ///
    /// # Errors
    /// [`StartError`] if the record cannot be read.
    pub(crate) fn starts_over(&self, store: &Store) -> Result<bool, StartError> {
        Ok(record::load::<Option<StartOver>>(store, START_OVER_RECORD)?.flatten().is_some())
    }

    /// That no partition is ready was recorded.
    ///
    /// # Errors
    /// The store's.
    pub(crate) fn started_over(&self, store: &Store) -> Result<(), Error> {
        record::put(store, START_OVER_RECORD, &None::<StartOver>)
    }

    /// What this node says of its start.
    pub(crate) fn start(&self, store: &Store) -> Start {
        let durable_at = store.durable_at();
        let mut durable = lock(&self.durable);
        if durable_at > durable.told + durable.own_records {
            *durable = Durable { told: durable_at, own_records: 0 };
        }
        Start {
            number: self.number,
            nonce: self.nonce,
            opened_at: store.opened_at(),
            durable_at: durable.told,
            filled_at: self.filled_at,
        }
    }

    /// A record of the node's own is about to be written: no news to peers.
    pub(crate) fn own_record(&self) {
        lock(&self.durable).own_records += 1;
    }

    /// Since when this node has remembered its peers' starts without a gap, by its wall clock.
    pub(crate) fn remembers_since(&self) -> Millis {
        self.remembers_since
    }

    /// Whether this node may take part: tell others what its rows and hints hold, take writes, confirm
    /// tombstones. Once a peer has found nothing wrong with its start, or none could be reached for a
    /// while ([`Generation::admit_alone`]); until then it could have to start over, and forget.
    pub(crate) fn is_admitted(&self) -> bool {
        self.admitted.load(Relaxed)
    }

    /// Whether this node began without rows of its own and has not received all since: what it holds is what
    /// it was sent.
    pub(crate) fn came_empty(&self) -> bool {
        self.came_empty.load(Relaxed)
    }

    /// Whether the rows here are so old that they are not believed before a peer or an operator has said
    /// something, and no peer has for a while.
    pub(crate) fn waits_with_old_rows(&self) -> bool {
        !self.is_admitted() && self.has_waited.load(Relaxed) && !self.keeps_rows.load(Relaxed)
    }

    /// An operator says that the rows here, few or none, are the truth as far as there is one. Blocks.
    ///
    /// # Errors
    /// The store's; then nothing has changed.
    pub(crate) fn accept_rows(&self, store: &Store, now: Millis) -> Result<(), Error> {
        self.own_record();
        record::put(store, CAME_EMPTY_RECORD, &false)?;
        // They must not seem old again at the next start.
        store.mark_alive(now)?;
        self.came_empty.store(false, Relaxed);
        self.keeps_rows.store(true, Relaxed);
        self.admitted.store(true, Relaxed);
        Ok(())
    }

    /// A peer found nothing wrong with this start.
    pub(crate) fn accepted(&self, peer: NodeId) {
        lock(&self.accepted_by).insert(peer);
        *lock(&self.taken) = None;
    }

    /// Whether a peer has found nothing wrong with this very start. If it says later that this node is
    /// behind, another process has started under its name since, with a copy of its disk or of its
    /// configuration.
    pub(crate) fn was_accepted_by(&self, peer: NodeId) -> bool {
        lock(&self.accepted_by).contains(&peer)
    }

    /// A peer, which has remembered starts since a time, found nothing wrong with this one. It counts
    /// if the peer attests for it, having remembered an earlier start, or can have known better: a quarter
    /// of the grace is left for clocks that disagree, on the careful side if the rows are old. The word of
    /// a peer that is itself behind what this node remembers of it counts nothing: in a cluster that was
    /// restored from backups all remember less than they should.
    pub(crate) fn admit(&self, peer: NodeId, start: Start, remembers_since: Millis, attests: bool) {
        let known = lock(&self.memory).peers.get(&peer).copied();
        if !matches!(judge(known, start, false), Verdict::GoesOn(_)) {
            return;
        }
        let quarter_ms = self.quarter_ms;
        let could_know = |alive_at: Millis| {
            if self.keeps_rows.load(Relaxed) {
                // What clocks disagree by; who cannot know better is not needed for long: see `admit_alone`.
                remembers_since <= alive_at.plus(quarter_ms.min(SKEW_MS_MAX))
            } else {
                remembers_since.plus(quarter_ms) <= alive_at
            }
        };
        if attests || self.alive_at.is_none_or(could_know) {
            self.admitted.store(true, Relaxed);
        }
    }

    /// Whether this node remembered an earlier start of a peer, from which this one goes on.
    pub(crate) fn attests(&self, peer: NodeId, start: Start) -> bool {
        lock(&self.attested).get(&peer) == Some(&start.nonce)
    }

    /// No peer could say. Goes on without, unless the rows are older than the grace: they could be
    /// an old backup's, and must not spread before a peer was asked. Whether it goes on.
    pub(crate) fn admit_alone(&self) -> bool {
        self.has_waited.store(true, Relaxed);
        let may = self.keeps_rows.load(Relaxed) && lock(&self.taken).is_none();
        if may {
            self.admitted.store(true, Relaxed);
        }
        may
    }

    /// A peer tells its start: what this node makes of it, by what it remembers. A start that was heard
    /// within
    /// `alive` counts as alive. May block: a new start is recorded.
    ///
    /// # Errors
    /// The store's, if the start cannot be recorded.
    pub(crate) fn hear(
        &self,
        store: &Store,
        peer: NodeId,
        start: Start,
        alive: Duration,
    ) -> Result<Verdict, Error> {
        let mut memory = lock(&self.memory);
        let known = memory.peers.get(&peer).copied();
        let mut heard = lock(&self.heard);
        let is_alive = known
            .zip(heard.get(&peer).copied())
            .is_some_and(|(known, (nonce, at))| nonce == known.nonce && at.elapsed() < alive);
        let next = match judge(known, start, is_alive) {
            Verdict::GoesOn(next) => next,
            verdict @ (Verdict::Behind(_) | Verdict::Taken) => {
                tracing::error!(%peer, ?start, ?known, ?verdict, "the peer came back behind");
                return Ok(verdict);
            }
        };
        heard.insert(peer, (next.nonce, Instant::now()));
        drop(heard);
        if known.is_some_and(|known| known.number < next.number) {
            lock(&self.attested).insert(peer, next.nonce);
        }
        memory.peers.insert(peer, next);
        if known != Some(next) {
            self.is_memory_recorded.store(false, Relaxed);
        }
        if known.is_none_or(|known| (known.number, known.nonce) != (next.number, next.nonce)) {
            self.own_record();
            record::put(store, PEERS_RECORD, &*memory)?; // under the lock: records stay in order
            self.is_memory_recorded.store(true, Relaxed);
        }
        Ok(Verdict::GoesOn(next))
    }

    /// A peer says that another process of this node's name is alive. Returns for how long peers have said
    /// so.
    pub(crate) fn name_is_taken(&self) -> Duration {
        let mut taken = lock(&self.taken);
        taken.get_or_insert_with(Instant::now).elapsed()
    }

    /// Records how far peers were durable, if that has changed since it was recorded, as rows are
    /// written: [`Store::durable`] says when it is kept. Blocks.
    ///
    /// # Errors
    /// The store's.
    pub(crate) fn remember(&self, store: &Store) -> Result<(), Error> {
        let memory = lock(&self.memory);
        if self.is_memory_recorded.load(Relaxed) {
            return Ok(());
        }
        self.own_record();
        store.write_meta(PEERS_RECORD, &record::encoded(&*memory))?;
        self.is_memory_recorded.store(true, Relaxed);
        Ok(())
    }

    /// A peer remembers more of this node than it brings, it is said at `now` by the wall clock: records
    /// how to start over, and asks for it. Blocks.
    ///
    /// # Errors
    /// The store's, if that cannot be recorded; this node goes on then, and will hear it again.
    pub(crate) fn fall_behind(
        &self,
        store: &Store,
        known: Remembered,
        now: Millis,
    ) -> Result<(), Error> {
        // An answer to what this node said before it started over.
        let is_late = known.number < self.number && self.filled_at == self.number;
        if self.start_over.is_cancelled() || is_late {
            return Ok(());
        }
        let number = known.number.max(self.number) + 1;
        let keeps_rows = self.keeps_rows.load(Relaxed);
        let over = StartOver { number, keeps_rows };
        tracing::error!(
            this = ?self.start(store), ?known, keeps_rows,
            "this node came back behind what its peers remember (an old backup, a copy, a lost disk); \
             it starts over and fills"
        );
        if keeps_rows {
            // Rows that may be kept now must not seem older at the next start, if the last mark is old.
            store.mark_alive(now)?;
        }
        record::put(store, START_OVER_RECORD, &Some(over))?;
        self.start_over.cancel();
        Ok(())
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
