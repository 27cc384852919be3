//! Tokens on this node: kept in the store, looked up by every request, compared with every peer.
//!
//! How a change gets to all nodes is in `token_change`. A node knows for how long its table can be trusted:
//! a revocation is on a majority of the members before it is acknowledged, so a node that has compared its
//! table with a majority since then knows it. One that has not done so for `auth.stale_ms` accepts no token
//! ([`Tokens::is_fresh`]).

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering::SeqCst};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock};

use quorate_protocol::access::Scope;
use quorate_protocol::mutation::{Mutation, mutated};
use quorate_protocol::name::NodeId;
use quorate_protocol::time::{Uptime, WallTime};
use quorate_protocol::token::{SecretHash, Token, TokenError, TokenId};
use quorate_protocol::token_table::{DEAD_MAX, RECORDS_MAX, TOKENS_MAX, Table};
use quorate_storage::Store;

use crate::limits::pace::Pace;
use crate::node::errors::StartError;
use crate::node::record;

const TABLE_RECORD: &str = "tokens";

/// Forgets all tokens: the store is given to another cluster. Durable on return. Blocks.
///
/// # Errors
/// The store's.
pub fn forget_all(store: &Store) -> Result<(), quorate_storage::Error> {
    record::put(store, TABLE_RECORD, &Table::default())
}

/// A token in use, as requests find it.
#[derive(Debug)]
pub struct InUse {
    /// Its id.
    pub id: TokenId,
    /// What is kept of it.
    pub token: Token,
    /// Its rate limit on this node.
    pub pace: Option<Pace>,
}

/// A token that is to be made.
#[derive(Clone, Debug)]
pub struct Wanted {
    /// Its id.
    pub id: TokenId,
    /// The hash of its secret.
    pub hash: SecretHash,
    /// For people.
    pub name: String,
    /// What it allows.
    pub scopes: Vec<Scope>,
    /// When it ends, if it does.
    pub expires: Option<WallTime>,
    /// How many requests per second each node takes from it, if that is limited.
    pub rate_per_s: Option<u32>,
    /// The token that makes it; `None` if an operator does.
    pub by: Option<TokenId>,
}

/// Why a token was not made or revoked.
#[derive(Debug, thiserror::Error)]
pub enum TokensError {
    /// What is wanted cannot be had.
    #[error(transparent)]
    Wanted(#[from] TokenError),
    /// There is no such token.
    #[error("no such token")]
    Unknown,
    /// Too many tokens are in use.
    #[error("{TOKENS_MAX} tokens are in use, the limit; revoke some that are not needed any more")]
    Full,
    /// Too many are out of use and not forgotten.
    #[error(
        "{RECORDS_MAX} tokens are kept, most of them revoked: these are forgotten, which makes room, once \
         every node has heard of it; is a node down?"
    )]
    Dead,
    /// This node may not know the newest tokens.
    #[error("this node has not compared its tokens with a majority of the nodes lately")]
    Stale,
    /// Too few nodes have it durably.
    #[error("{acks} of {needed} nodes that are needed have it durably")]
    NoQuorum {
        /// How many have it.
        acks: usize,
        /// How many are needed: a majority of the members.
        needed: usize,
    },
    /// The store did not take it.
    #[error("could not store it: {0}")]
    Store(#[from] quorate_storage::Error),
}

/// The table with what requests need of it.
#[derive(Default)]
struct Known {
    table: Table,
    hash: u64,
    in_use: BTreeMap<TokenId, Arc<InUse>>,
}

impl Known {
    fn new(table: Table, before: &BTreeMap<TokenId, Arc<InUse>>) -> Self {
        let token = |(id, token): (TokenId, &Token)| {
            let new = || {
                let pace = token.rate_per_s.map(Pace::new);
                Arc::new(InUse { id, token: token.clone(), pace })
            };
            // With its pace: a change of another token is no rest for this one.
            let known = before.get(&id).filter(|known| known.token == *token);
            (id, known.cloned().unwrap_or_else(new))
        };
        let in_use = table.tokens().map(token).collect();
        Self { hash: table.hash(), table, in_use }
    }
}

/// What came of the last comparison with a peer.
#[derive(Clone, Copy, Debug)]
struct Compared {
    /// When this node asked.
    at: Uptime,
    /// The hash of the peer's table, if both were equal then.
    equal: Option<u64>,
    /// When both were last equal.
    agreed: Option<Uptime>,
}

/// The tokens of the cluster, as this node knows them.
pub struct Tokens {
    current: RwLock<Arc<Known>>,
    /// Serialises changes, so that `current` is not locked while one is made durable.
    changing: Mutex<()>,
    compared: Mutex<BTreeMap<NodeId, Compared>>,
    /// Until when the table can be trusted, as far as it was last computed: milliseconds of uptime.
    fresh_until: AtomicU64,
    stale_ms: u64,
}

impl Tokens {
    /// Reads the recorded table. It can be trusted for `stale_ms` after each comparison with a majority.
    ///
    /// # Errors
    /// [`StartError`] if it cannot be read.
    pub fn load(store: &Store, stale_ms: u64) -> Result<Self, StartError> {
        let table = record::load(store, TABLE_RECORD)?.unwrap_or_default();
        Ok(Self {
            current: RwLock::new(Arc::new(Known::new(table, &BTreeMap::new()))),
            changing: Mutex::default(),
            compared: Mutex::default(),
            fresh_until: AtomicU64::new(0),
            stale_ms,
        })
    }

    /// A token that was not revoked, as far as this node knows. It may have expired.
    pub fn find(&self, id: TokenId) -> Option<Arc<InUse>> {
        self.read().in_use.get(&id).cloned()
    }

    /// All tokens that were not revoked, in order of their ids.
    pub fn all(&self) -> Vec<Arc<InUse>> {
        self.read().in_use.values().cloned().collect()
    }

    /// How many tokens were not revoked.
    pub fn count(&self) -> usize {
        self.read().in_use.len()
    }

    /// The whole table.
    pub fn table(&self) -> Table {
        self.read().table.clone()
    }

    /// A hash of the table: equal on nodes whose tables are equal.
    pub fn hash(&self) -> u64 {
        self.read().hash
    }

    /// Whether no token was ever made, as far as this node knows.
    pub fn is_new(&self) -> bool {
        self.read().table.is_new()
    }

    /// Whether so many tokens are out of use that they are to be forgotten.
    pub(super) fn has_many_dead(&self, now: WallTime) -> bool {
        let known = self.read();
        known.table.len() >= DEAD_MAX && known.table.dead(now) >= DEAD_MAX
    }

    /// Whether the table can be trusted now: it was compared with the tables of a majority of `members`
    /// (this node among them) within the last `auth.stale_ms`.
    pub fn is_fresh(&self, now: Uptime, members: impl FnOnce() -> Vec<NodeId>) -> bool {
        let is_fresh = now.0 < self.fresh_until.load(SeqCst) || self.look_again(now, &members());
        is_fresh || mutated(Mutation::StaleTokensTrusted)
    }

    fn look_again(&self, now: Uptime, members: &[NodeId]) -> bool {
        let compared = self.compared.lock().unwrap_or_else(PoisonError::into_inner);
        let others = majority(members.len()).saturating_sub(1);
        let heard = |member: &NodeId| compared.get(member).map(|it| it.at);
        let mut times: Vec<Uptime> = members.iter().filter_map(heard).collect();
        times.sort_unstable();
        let until = match others {
            0 => Some(Uptime(now.0.saturating_add(1))), // alone; that may change at any time
            others => times.iter().rev().nth(others - 1).map(|at| at.plus(self.stale_ms)),
        };
        let until = until.unwrap_or_default();
        self.fresh_until.store(until.0, SeqCst);
        now < until
    }

    /// This node's table has all that a peer's had at a time; `equal` is the hash of both, if they were
    /// equal.
    pub(super) fn compared(
        &self,
        peer: NodeId,
        at: Uptime,
        equal: Option<u64>,
        members: &[NodeId],
    ) {
        let mut compared = self.compared.lock().unwrap_or_else(PoisonError::into_inner);
        compared.retain(|peer, _| members.contains(peer));
        let before = compared.get(&peer).and_then(|it| it.agreed);
        let agreed = equal.map(|_| at).or(before);
        compared.insert(peer, Compared { at, equal, agreed });
        drop(compared);
        self.look_again(at, members);
    }

    /// For how long this node's table and that of a peer are not known to be equal, in milliseconds: since
    /// they were last found so, else since the start.
    pub fn disagrees_for(&self, peer: NodeId, now: Uptime) -> u64 {
        let compared = self.compared.lock().unwrap_or_else(PoisonError::into_inner);
        let agreed = compared.get(&peer).and_then(|it| it.agreed).unwrap_or_default();
        now.0.saturating_sub(agreed.0)
    }

    /// Merges newer records, durably. Returns whether there were any. Blocks.
    ///
    /// # Errors
    /// The store's; nothing changed then.
    pub(super) fn merge(
        &self,
        store: &Store,
        other: &Table,
    ) -> Result<bool, quorate_storage::Error> {
        let _changing = self.lock();
        self.learn(store, other)
    }

    /// The same for a caller that holds `changing`.
    fn learn(&self, store: &Store, other: &Table) -> Result<bool, quorate_storage::Error> {
        let mut next = self.table();
        let changed = next.merge(other);
        if changed {
            self.keep(store, next)?;
        }
        Ok(changed)
    }

    fn keep(&self, store: &Store, next: Table) -> Result<(), quorate_storage::Error> {
        record::put(store, TABLE_RECORD, &next)?;
        let next = Arc::new(Known::new(next, &self.read().in_use));
        *self.current.write().unwrap_or_else(PoisonError::into_inner) = next;
        Ok(())
    }

    /// Makes a token here, durably, and returns the part of the table to send. Blocks.
    pub(super) fn make(
        &self,
        store: &Store,
        wanted: Wanted,
        (node, now): (NodeId, WallTime),
    ) -> Result<Table, TokensError> {
        let _changing = self.lock();
        let known = self.read();
        let Wanted { id, hash, name, scopes, expires, rate_per_s, by } = wanted;
        let created = known.table.next(node, now);
        let token = Token { created, hash, name, scopes, expires, rate_per_s, by };
        token.check()?;
        if known.table.in_use(now) >= TOKENS_MAX {
            return Err(TokensError::Full);
        }
        if known.table.len() >= RECORDS_MAX {
            return Err(TokensError::Dead);
        }
        let part = Table::making(id, token);
        self.learn(store, &part)?;
        Ok(part)
    }

    /// Revokes a token here, durably, and returns the part of the table to send. Blocks.
    pub(super) fn revoke(
        &self,
        store: &Store,
        id: TokenId,
        (node, now): (NodeId, WallTime),
    ) -> Result<Table, TokensError> {
        let _changing = self.lock();
        let known = self.read();
        let revoked = known.table.next(node, now);
        let part = known.table.revoking(id, revoked).ok_or(TokensError::Unknown)?;
        self.learn(store, &part)?;
        Ok(part)
    }

    /// Forgets tokens that are out of use, if there are many and all `peers` have the same table. Blocks.
    pub(super) fn fold(
        &self,
        store: &Store,
        peers: &[NodeId],
        now: WallTime,
    ) -> Result<(), quorate_storage::Error> {
        let _changing = self.lock();
        let known = self.read();
        if known.table.dead(now) < DEAD_MAX {
            return Ok(());
        }
        let compared = self.compared.lock().unwrap_or_else(PoisonError::into_inner);
        let said = |peer| compared.get(peer).and_then(|it: &Compared| it.equal);
        let is_known_everywhere = peers.iter().all(|peer| said(peer) == Some(known.hash));
        drop(compared);
        let mut next = known.table.clone();
        // A peer that has made a token since it said its hash made it after all in this table.
        if is_known_everywhere && next.fold(now) {
            let forgotten = known.table.len() - next.len();
            self.keep(store, next)?;
            tracing::info!(forgotten, "every node knows that these tokens are out of use");
        }
        Ok(())
    }

    fn lock(&self) -> MutexGuard<'_, ()> {
        self.changing.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn read(&self) -> Arc<Known> {
        self.current.read().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

/// How many are more than half.
pub(super) fn majority(members: usize) -> usize {
    members / 2 + 1
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests;
