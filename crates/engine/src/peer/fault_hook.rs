//! The fault hook: blocks this node's peer traffic, skews its clock or makes its disk fail, without
//! root, for tests and demonstrations.
//!
//! It exists only if the configuration enables it. A cut is silence, as in a real partition:
//! messages to a cut peer time out, messages from it are never answered.

use std::collections::BTreeSet;
use std::sync::{PoisonError, RwLock};

use quorate_protocol::name::NodeId;
use serde::{Deserialize, Serialize};

/// Which peers are cut off.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Cuts {
    /// Peers whose messages are discarded.
    pub cut_in: BTreeSet<NodeId>,
    /// Peers to which messages are not sent.
    pub cut_out: BTreeSet<NodeId>,
    /// Simulated clock skew: how far this machine's clock is ahead, in milliseconds.
    pub clock_ahead_ms: i64,
}

/// Simulated disk faults.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct DiskFault {
    /// Syncs fail.
    pub syncs_fail: bool,
    /// The shortest time a sync takes, in milliseconds.
    pub sync_ms: u64,
    /// How long each read takes at the least, in milliseconds.
    pub read_ms: u64,
}

/// The cuts in force.
#[derive(Debug, Default)]
pub struct Faults(RwLock<Cuts>);

impl Faults {
    /// The cuts in force.
    pub fn get(&self) -> Cuts {
        self.0.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Replaces the cuts.
    pub fn set(&self, cuts: Cuts) {
        *self.0.write().unwrap_or_else(PoisonError::into_inner) = cuts;
    }

    /// Whether messages from `peer` are discarded.
    pub fn cuts_in(&self, peer: NodeId) -> bool {
        self.0.read().unwrap_or_else(PoisonError::into_inner).cut_in.contains(&peer)
    }

    /// Whether messages to `peer` are not sent.
    pub fn cuts_out(&self, peer: NodeId) -> bool {
        self.0.read().unwrap_or_else(PoisonError::into_inner).cut_out.contains(&peer)
    }
}
