//! What makes replicas converge: handoff of hints, anti-entropy, filling, reassigning rows,
//! reaping.

pub(crate) mod anti_entropy;
pub(crate) mod delivery;
pub(crate) mod distrusted;
pub(crate) mod doubtful;
pub(crate) mod fill;
pub(crate) mod fill_state;
pub(crate) mod handoff;
pub(crate) mod hint_marks;
pub(crate) mod hints;
pub(crate) mod last_drop;
pub(crate) mod reaper;
pub(crate) mod reassign;
pub(crate) mod reassigned;
pub(crate) mod received;
pub(crate) mod set_aside;
pub(crate) mod unowned;
pub(crate) mod unreceived;
