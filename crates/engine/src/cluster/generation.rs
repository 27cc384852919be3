//! Whether this node, or a peer, came back behind what it had promised (see
//! `protocol::generation`).
//!
//! Every start is recorded before the node sends anything, and sent to the peers in each greeting.
//! They remember it; a peer that remembers more than this node brings says so, and this node starts
//! over: under a new incarnation and a higher number, with no partition ready. If its rows are so
//! old that they could bring back what was deleted since, they are set aside first
//! ([`crate::repair::distrusted`]).

use std::collections::{BTreeMap, BTreeSet};
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::time::Instant;

use quorate_protocol::generation::{Remembered, Start, Verdict, judge, may_keep_rows};
use quorate_protocol::mutation::{Mutation, mutated};
use quorate_protocol::name::NodeId;
use quorate_protocol::skew::SKEW_MS_MAX;
use quorate_protocol::time::WallTime;
use quorate_storage::{Error, Store};
use serde::{Deserialize, Serialize};
use tokio_util::sync::CancellationToken;

use crate::node::errors::StartError;
use crate::node::record;

/// Written to the data directory when a node ends because another process runs under its name:
/// keeps a supervisor from restarting it.
pub const TWIN_FILE: &str = "another-process-runs-under-this-name";
const START_RECORD: &str = "start";
const START_OVER_RECORD: &str = "start_over";
const PEERS_RECORD: &str = "starts_of_peers";
const CAME_EMPTY_RECORD: &str = "came_empty";

/// This node's generation, and those of its peers.
pub struct Generation {
    number: u64,
    nonce: u64,
    filled_at: u64,
    alive_at: Option<WallTime>,
    keeps_rows: AtomicBool,
    /// Whether it started without the rows it once had, or with none, and has not received all of
    /// them since.
    came_empty: AtomicBool,
    quarter_ms: u64,
    admitted: AtomicBool,
    /// Whether peers had time to judge this start.
    has_waited: AtomicBool,
    durable: Mutex<Durable>,
    memory: Mutex<Memory>,
    remembers_since: WallTime,
    is_memory_recorded: AtomicBool,
    /// Starts, by their nonces, that continue an earlier remembered one.
    attested: Mutex<BTreeMap<NodeId, u64>>,
    /// The peers' starts, by their nonces, that were last heard in this process, and when.
    heard: Mutex<BTreeMap<NodeId, (u64, Instant)>>,
    /// Since when peers report that another process of this node's name is alive.
    taken: Mutex<Option<Instant>>,
    /// Peers that have accepted this very start.
    accepted_by: Mutex<BTreeSet<NodeId>>,
    /// Cancelled when this process must end and start over.
    pub start_over: CancellationToken,
    /// Cancelled when this process must end for good: another one runs under this node's name.
    pub twin: CancellationToken,
}

/// The last start, as recorded.
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
    /// Wall-clock time since which none of it has been lost.
    since: WallTime,
    peers: BTreeMap<NodeId, Remembered>,
}

/// The durable sequence number as told to peers, without the records that the node keeps of itself
/// and its peers: counting these, each node's record of the others would cause the next one, and
/// all disks would stay busy.
#[derive(Clone, Copy, Debug, Default)]
struct Durable {
    told: u64,
    own_records: u64,
}

/// The starts of a disk that joins by the record of an epoch are numbered from here on: above those of any
/// earlier disk under its name, which peers remember, as no disk starts so often in one epoch. Else the new
/// one would be told that it is behind, and lose the vote that it was given.
pub fn first_number_in(epoch: u64) -> u64 {
    epoch.saturating_mul(1 << 20)
}

impl Generation {
    /// Records a new start. If the last one ended by starting over, rows too old to be believed are
    /// set aside; [`Generation::starts_over`] is then true, and no partition is ready. `is_filled`:
    /// whether the last start had received all partitions. The first start of a store has a number above
    /// `above`.
    ///
    /// # Errors
    /// [`StartError`] if a record cannot be read or written.
    pub fn load(
        store: &Store,
        (now, nonce): (WallTime, u64),
        grace_ms: u64,
        (has_peers, is_filled): (bool, bool),
        above: u64,
    ) -> Result<Self, StartError> {
        let last: LastStart = record::load(store, START_RECORD)?.unwrap_or_default();
        let is_first = last.number == 0;
        let over: Option<StartOver> = record::load(store, START_OVER_RECORD)?.flatten();
        let alive_at = store.alive_at()?;
        let keeps_rows = alive_at.is_none_or(|at| may_keep_rows(at, now, grace_ms));
        let next = if is_first { above.saturating_add(1) } else { last.number + 1 };
        let number = over.map_or(next, |over| over.number.max(next));
        // The record may be as old as the rows: a copy made before starting over.
        let too_old = over.is_some_and(|over| !(over.keeps_rows && keeps_rows));
        if too_old {
            tracing::warn!(
                "the rows here are older than the grace of deletes: setting them aside until the cluster is \
                 known to hold what they hold, or an operator decides (quorate distrusted)"
            );
            store.set_rows_aside(&format!("start-{number:010}"))?;
        }
        let was_empty = record::load(store, CAME_EMPTY_RECORD)?.unwrap_or(false) && !is_filled;
        let came_empty = too_old || is_first || was_empty;
        record::put(store, CAME_EMPTY_RECORD, &came_empty)?;
        // A new disk fills too, if there is a cluster to fill it from.
        let fills = over.is_some() || is_first;
        let filled_at = if fills { number } else { last.filled_at };
        record::put(store, START_RECORD, &LastStart { number, filled_at })?;
        let memory: Option<Memory> = record::load(store, PEERS_RECORD)?;
        // A node that came back behind may also have lost part of what it remembered of its peers.
        let memory = memory.filter(|_| !mutated(Mutation::PeersForgotten));
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
            nonce,
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

    /// The store is a copy of an earlier time, and it is known to be: the next start begins over, whether a
    /// peer would notice or not. Rows that are too old by then are set aside. Durable on return. Blocks.
    ///
    /// # Errors
    /// [`StartError`] if a record cannot be read or written.
    pub fn begin_over(store: &Store) -> Result<(), StartError> {
        let last: LastStart = record::load(store, START_RECORD)?.unwrap_or_default();
        let over = StartOver { number: last.number + 1, keeps_rows: true };
        Ok(record::put(store, START_OVER_RECORD, &Some(over))?)
    }

    /// The store is of another cluster from now on, in which it has not started yet, and which knows
    /// nothing of it: its next start is the first one of a disk that joins in this epoch. `is_filled`:
    /// whether it holds all partitions. `now` is wall-clock time. Durable on return. Blocks.
    ///
    /// # Errors
    /// The store's.
    pub fn begin_anew(
        store: &Store,
        epoch: u64,
        now: WallTime,
        is_filled: bool,
    ) -> Result<(), Error> {
        let number = first_number_in(epoch);
        record::put(store, START_RECORD, &LastStart { number, filled_at: number })?;
        record::put(store, START_OVER_RECORD, &None::<StartOver>)?;
        record::put(store, CAME_EMPTY_RECORD, &!is_filled)?;
        record::put(store, PEERS_RECORD, &Memory { since: now, peers: BTreeMap::new() })?;
        store.mark_alive(now)?;
        store.sync()
    }

    /// Whether the last process ended to start over, so that this one must fill. Ends with
    /// [`Generation::started_over`], once it is recorded that no partition is ready.
    /// # Errors
    /// [`StartError`] if the record cannot be read.
    pub fn starts_over(&self, store: &Store) -> Result<bool, StartError> {
        Ok(record::load::<Option<StartOver>>(store, START_OVER_RECORD)?.flatten().is_some())
    }

    /// It was recorded that no partition is ready.
    ///
    /// # Errors
    /// The store's.
    pub fn started_over(&self, store: &Store) -> Result<(), Error> {
        record::put(store, START_OVER_RECORD, &None::<StartOver>)
    }

    /// The start that this node sends to its peers.
    pub fn start(&self, store: &Store) -> Start {
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

    /// Writes a record of the node's own: it does not count as progress to peers. One that is refused
    /// counts as nothing. A full disk refuses them again and again, and each would hide a later change
    /// of a row or a hint: peers would then not notice that a disk has lost those changes.
    ///
    /// # Errors
    /// That of `write`.
    pub fn own_record(&self, write: impl FnOnce() -> Result<(), Error>) -> Result<(), Error> {
        // Before it is written: it may be durable, and told to peers, as soon as it is.
        lock(&self.durable).own_records += 1;
        let written = write();
        if written.is_err() {
            let mut durable = lock(&self.durable);
            // Peers may have been told of progress since, which begins the count anew.
            durable.own_records = durable.own_records.saturating_sub(1);
        }
        written
    }

    /// Since when this node has remembered its peers' starts without a gap, by its wall clock.
    pub fn remembers_since(&self) -> WallTime {
        self.remembers_since
    }

    /// Whether this node is admitted: may tell others what its rows and hints hold, take writes,
    /// and confirm tombstones. True once a peer has accepted its start, or none could be reached
    /// for a while ([`Generation::admit_alone`]); until then it may have to start over, and discard
    /// what it took.
    pub fn is_admitted(&self) -> bool {
        self.admitted.load(Relaxed)
    }

    /// The node that starts next with this store holds nothing of the partitions that it lacks. Blocks.
    ///
    /// # Errors
    /// The store's.
    pub fn record_came_empty(store: &Store) -> Result<(), Error> {
        record::put(store, CAME_EMPTY_RECORD, &true)
    }

    /// Whether this node began without rows of its own and has not received all of them since: all
    /// that it holds was sent by others.
    pub fn came_empty(&self) -> bool {
        self.came_empty.load(Relaxed)
    }

    /// Whether the rows here are too old to be believed until a peer or an operator confirms them,
    /// and no peer has done so for a while.
    pub fn waits_with_old_rows(&self) -> bool {
        !self.is_admitted() && self.has_waited.load(Relaxed) && !self.keeps_rows.load(Relaxed)
    }

    /// An operator accepts the rows here, few or none, as the truth. Blocks.
    ///
    /// # Errors
    /// The store's; then nothing has changed.
    pub fn accept_rows(&self, store: &Store, now: WallTime) -> Result<(), Error> {
        self.own_record(|| record::put(store, CAME_EMPTY_RECORD, &false))?;
        // They must not count as old again at the next start.
        store.mark_alive(now)?;
        self.came_empty.store(false, Relaxed);
        self.keeps_rows.store(true, Relaxed);
        self.admitted.store(true, Relaxed);
        Ok(())
    }

    /// A peer accepted this start.
    pub fn accepted(&self, peer: NodeId) {
        lock(&self.accepted_by).insert(peer);
        *lock(&self.taken) = None;
    }

    /// Whether a peer has accepted this very start. If it later says that this node is behind,
    /// another process has since started under this node's name, with a copy of its disk or of its
    /// configuration.
    pub fn was_accepted_by(&self, peer: NodeId) -> bool {
        lock(&self.accepted_by).contains(&peer)
    }

    /// A peer that has remembered starts since `remembers_since` accepted this one. That admits
    /// this node if the peer attests for it (it remembered an earlier start), or has remembered for
    /// long enough to know of one. Clock differences of up to a quarter of the grace are allowed
    /// for: in the node's favour if its rows are young, against it if they are old. The verdict of
    /// a peer that is itself behind what this node remembers of it does not count: in a cluster
    /// restored from backups all nodes remember less than they should.
    pub fn admit(&self, peer: NodeId, start: Start, remembers_since: WallTime, attests: bool) {
        let known = lock(&self.memory).peers.get(&peer).copied();
        if !matches!(judge(known, start, false), Verdict::GoesOn(_)) {
            return;
        }
        let quarter_ms = self.quarter_ms;
        let could_know = |alive_at: WallTime| {
            if self.keeps_rows.load(Relaxed) {
                // Tolerates clock skew. A peer that cannot know better does not hold this node up
                // for long: see `admit_alone`.
                remembers_since <= alive_at.plus(quarter_ms.min(SKEW_MS_MAX))
            } else {
                remembers_since.plus(quarter_ms) <= alive_at
            }
        };
        if attests || self.alive_at.is_none_or(could_know) {
            self.admitted.store(true, Relaxed);
        }
    }

    /// Whether this node remembered an earlier start of a peer that this one continues.
    pub fn attests(&self, peer: NodeId, start: Start) -> bool {
        lock(&self.attested).get(&peer) == Some(&start.nonce)
    }

    /// No peer could judge this start. Admits this node all the same, unless its rows are older
    /// than the grace: they could be those of an old backup, and must not spread before a peer was
    /// asked. Returns whether it is admitted.
    pub fn admit_alone(&self) -> bool {
        self.has_waited.store(true, Relaxed);
        let may = self.keeps_rows.load(Relaxed) && lock(&self.taken).is_none();
        if may {
            self.admitted.store(true, Relaxed);
        }
        may
    }

    /// A peer reports its start: judges it by what this node remembers. A start heard within
    /// `alive` counts as alive. May block: a new start is recorded.
    ///
    /// # Errors
    /// The store's, if the start cannot be recorded.
    pub fn hear(
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
            // Under the lock: records stay in order.
            self.own_record(|| record::put(store, PEERS_RECORD, &*memory))?;
            self.is_memory_recorded.store(true, Relaxed);
        }
        Ok(Verdict::GoesOn(next))
    }

    /// A peer says that another process of this node's name is alive. Returns for how long peers
    /// have said so.
    pub fn name_is_taken(&self) -> Duration {
        let mut taken = lock(&self.taken);
        taken.get_or_insert_with(Instant::now).elapsed()
    }

    /// Records how far peers were durable, if that has changed since the last record. Written like
    /// a row: [`Store::durable`] says when it is durable. Blocks.
    ///
    /// # Errors
    /// The store's.
    pub fn remember(&self, store: &Store) -> Result<(), Error> {
        let memory = lock(&self.memory);
        if self.is_memory_recorded.load(Relaxed) {
            return Ok(());
        }
        self.own_record(|| store.write_meta(PEERS_RECORD, &record::encoded(&*memory)))?;
        self.is_memory_recorded.store(true, Relaxed);
        Ok(())
    }

    /// A peer remembers more of this node than it brings. Records how to start over and requests
    /// it; `now` is wall-clock time. `backed_up_at`: how old the rows are in truth, if they were restored.
    /// Blocks.
    ///
    /// # Errors
    /// The store's, if that cannot be recorded; this node then goes on, and the peer will tell it
    /// again.
    pub fn fall_behind(
        &self,
        store: &Store,
        known: Remembered,
        now: WallTime,
        backed_up_at: Option<WallTime>,
    ) -> Result<(), Error> {
        // A late answer to what this node said before it started over.
        let is_late = known.number < self.number && self.filled_at == self.number;
        if self.start_over.is_cancelled() || is_late {
            return Ok(());
        }
        let number = known.number.max(self.number) + 1;
        let is_young = |at| may_keep_rows(at, now, self.quarter_ms.saturating_mul(4));
        let keeps_rows = self.keeps_rows.load(Relaxed) && backed_up_at.is_none_or(is_young);
        let over = StartOver { number, keeps_rows };
        tracing::error!(
            this = ?self.start(store), ?known, keeps_rows,
            "this node came back behind what its peers remember (an old backup, a copy, a lost disk); \
             it starts over and fills"
        );
        if keeps_rows {
            // If the last mark is old, rows that may be kept now must not seem too old at the next
            // start.
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

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use crate::testing;

    #[tokio::test]
    async fn own_records_are_no_progress_and_hide_none() {
        let dir = tempfile::tempdir().unwrap();
        let node = testing::node(dir.path(), "n1", &["n1", "n2", "n3"]);
        let (generation, store) = (&node.generation, &node.store);
        store.sync().unwrap();
        let told = || generation.start(store).durable_at;
        let before = told();
        generation.own_record(|| record::put(store, "of_its_own", &1)).unwrap();
        assert_eq!(told(), before, "or the nodes would record each other without end");
        for _ in 0..9 {
            let full = || Err(Error::DiskLow { free_bytes: 0, min: 1 });
            generation.own_record(full).unwrap_err();
        }
        assert_eq!(told(), before);
        record::put(store, "of_clients", &1).unwrap();
        assert_eq!(told(), store.durable_at(), "what was refused hides no change");
        assert!(told() > before);
    }
}
