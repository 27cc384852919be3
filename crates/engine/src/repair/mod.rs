//! What makes replicas converge: handoff of hints, anti-entropy, filling, reassigning rows,
//! removing what has expired, reaping.

pub mod anti_entropy;
pub mod build_index;
pub mod delivery;
pub mod distrusted;
pub mod doubtful;
pub mod expirer;
pub mod fill;
pub mod fill_state;
pub mod handoff;
pub mod hint_marks;
pub mod hints;
pub mod last_drop;
pub mod orphans;
pub mod reaper;
pub mod reassign;
pub mod reassigned;
pub mod received;
pub mod restored;
pub mod set_aside;
pub mod trim_feeds;
pub mod unowned;
pub mod unreceived;
