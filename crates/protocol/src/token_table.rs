//! The table of all tokens, and how the tables of all nodes converge.
//!
//! Every node keeps the whole table. A token never changes; all that can happen to it is that it is
//! revoked, which is final: in a merge a revocation wins over everything. So nothing depends on the order
//! in which nodes hear of it.
//!
//! A revocation must outlive the token: a node that has not seen it would bring the token back. Once all
//! nodes have the same table, revoked and expired tokens are folded into one stamp, the table's `floor`
//! ([`Table::fold`]): a token that is missing from a table is dead if it was made at or before the floor of
//! that table. At that point every node knew all of them, and any token made later is newer.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::bucket_table::Change;
use crate::mutation::{Mutation, mutated};
use crate::name::NodeId;
use crate::stamp::Stamp;
use crate::time::WallTime;
use crate::token::{Token, TokenId};

/// The most tokens that may be in use. A node refuses to make one more; from other nodes it takes them.
pub const TOKENS_MAX: usize = 1_000;
/// The most records, of tokens in use and of those that are not yet forgotten.
pub const RECORDS_MAX: usize = 4_000;
/// With so many records of tokens that are out of use these are folded.
pub const DEAD_MAX: usize = 64;
/// A token is forgotten so long after its expiry, in milliseconds: by then it has expired by every clock.
const EXPIRED_MS: u64 = 86_400_000;

/// What became of a token.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Record {
    /// It was made.
    Made(Token),
    /// It was revoked.
    Revoked {
        /// When it was made, and on which node.
        created: Change,
        /// When it was first revoked, and on which node.
        revoked: Change,
    },
}

impl Record {
    /// When the token was made, and on which node.
    pub fn created(&self) -> Change {
        match self {
            Self::Made(token) => token.created,
            Self::Revoked { created, .. } => *created,
        }
    }

    /// Whether the token allows nothing any more, by every clock.
    fn is_dead(&self, now: WallTime) -> bool {
        match self {
            Self::Made(token) => token.expires.is_some_and(|it| it.plus(EXPIRED_MS) <= now),
            Self::Revoked { .. } => true,
        }
    }

    /// What is known of a token by whoever knows both.
    fn join(&self, other: &Self) -> Self {
        match (self, other) {
            (_, Self::Made(_)) if mutated(Mutation::RevokedTokenReturns) => other.clone(),
            (Self::Made(one), Self::Made(other)) => Self::Made(one.max(other).clone()),
            (Self::Revoked { .. }, Self::Made(_)) => self.clone(),
            (Self::Made(_), Self::Revoked { .. }) => other.clone(),
            (
                Self::Revoked { created, revoked },
                Self::Revoked { created: other_created, revoked: other },
            ) => {
                Self::Revoked { created: *created.max(other_created), revoked: *revoked.min(other) }
            }
        }
    }
}

/// All tokens. Tables converge under merge.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Table {
    records: BTreeMap<TokenId, Record>,
    /// A token without a record that was not made after this is dead, and every node has known it.
    floor: Stamp,
}

impl Table {
    /// Merges another node's table, or a part of one. Returns whether anything changed.
    pub fn merge(&mut self, other: &Self) -> bool {
        let mut changed = false;
        let floor = self.floor;
        self.records.retain(|id, record| {
            let is_dead = record.created().stamp <= other.floor && !other.records.contains_key(id);
            changed |= is_dead;
            !is_dead
        });
        for (id, record) in &other.records {
            let next = match self.records.get(id) {
                Some(known) => known.join(record),
                None if record.created().stamp <= floor => continue,
                None => record.clone(),
            };
            if self.records.get(id) != Some(&next) {
                self.records.insert(*id, next);
                changed = true;
            }
        }
        changed |= other.floor > self.floor;
        self.floor = self.floor.max(other.floor);
        changed
    }

    /// When a token is made that is made after all in this table.
    pub fn next(&self, node: NodeId, now: WallTime) -> Change {
        Change { stamp: Stamp::after(self.stamp_max(), now), node }
    }

    /// The part of a table that makes a token.
    pub fn making(id: TokenId, token: Token) -> Self {
        Self { records: [(id, Record::Made(token))].into(), floor: Stamp::default() }
    }

    /// The part of a table that revokes a token of this one; `None` if there is no such token. One that was
    /// revoked before stays as it was revoked.
    pub fn revoking(&self, id: TokenId, revoked: Change) -> Option<Self> {
        let record = match self.records.get(&id)? {
            Record::Made(token) => Record::Revoked { created: token.created, revoked },
            before @ Record::Revoked { .. } => before.clone(),
        };
        Some(Self { records: [(id, record)].into(), floor: Stamp::default() })
    }

    /// Forgets the tokens that are dead. Only valid while the tables of all nodes are equal to this one.
    /// Returns whether anything changed.
    pub fn fold(&mut self, now: WallTime) -> bool {
        let floor = self.stamp_max();
        let before = self.records.len();
        self.records.retain(|_, record| !record.is_dead(now));
        let changed = self.records.len() < before;
        if changed {
            self.floor = floor;
        }
        changed
    }

    /// What is known of a token.
    pub fn record(&self, id: TokenId) -> Option<&Record> {
        self.records.get(&id)
    }

    /// The tokens that were not revoked, in order of their ids. Some may have expired.
    pub fn tokens(&self) -> impl Iterator<Item = (TokenId, &Token)> {
        self.records.iter().filter_map(|(id, record)| match record {
            Record::Made(token) => Some((*id, token)),
            Record::Revoked { .. } => None,
        })
    }

    /// How many tokens are in use.
    pub fn in_use(&self, now: WallTime) -> usize {
        self.tokens().filter(|(_, token)| !token.is_expired(now)).count()
    }

    /// How many records are of dead tokens.
    pub fn dead(&self, now: WallTime) -> usize {
        self.records.values().filter(|record| record.is_dead(now)).count()
    }

    /// How many records there are.
    pub fn len(&self) -> usize {
        self.records.len()
    }

    /// Whether no token was ever made, as far as this table knows.
    pub fn is_new(&self) -> bool {
        self.records.is_empty() && self.floor == Stamp::default()
    }

    /// Whether there is no record.
    pub fn is_empty(&self) -> bool {
        self.records.is_empty()
    }

    /// The greatest stamp at which a token was made.
    fn stamp_max(&self) -> Stamp {
        self.records.values().map(|record| record.created().stamp).fold(self.floor, Stamp::max)
    }

    /// Equal tables have equal hashes.
    ///
    /// # Panics
    /// Never: postcard fails only for sequences of unknown length.
    pub fn hash(&self) -> u64 {
        let bytes = postcard::to_stdvec(self).expect("postcard into a Vec does not fail");
        xxhash_rust::xxh3::xxh3_64(&bytes)
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests;
