//! What all nodes must agree on or remember of each other: bucket properties, tokens,
//! generations, placement, time.

pub mod bucket_change;
pub mod buckets;
pub mod generation;
pub mod hello;
pub mod moved;
pub mod placement;
pub mod token_change;
pub mod tokens;
pub mod view;
pub mod wall_clock;
