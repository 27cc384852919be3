//! What all nodes must agree on or remember of each other: bucket properties, generations,
//! placement, time.

pub(crate) mod bucket_change;
pub(crate) mod buckets;
pub(crate) mod generation;
pub(crate) mod hello;
pub(crate) mod placement;
pub(crate) mod wall_clock;
