//! One seed: what is run, and how it ends.

use crate::cluster;
use crate::hosted::Case;
use crate::mutations::Mutation;
use quorate_oracle::Violation;

/// The result of a seed.
pub struct Run {
    /// The hash of all events: equal for equal seeds.
    pub hash: u64,
    /// The first broken promise.
    pub violation: Option<Violation>,
    /// How many events there were.
    pub events: u64,
    /// The events, if they were asked for.
    pub lines: Vec<String>,
}

/// What nodes a cluster is made of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Nodes {
    /// The node as it ships ([`crate::hosted`]).
    Shipping,
    /// The simulator's own reading of it, with a deliberate bug, if any ([`crate::cluster`]).
    Mirror(Option<Mutation>),
}

/// Runs a seed. `keep_lines` keeps the trace.
pub fn run(seed: u64, nodes: Nodes, keep_lines: bool) -> Run {
    match nodes {
        Nodes::Shipping => Case::draw(seed).run(keep_lines),
        Nodes::Mirror(mutation) => cluster::run(seed, mutation, keep_lines),
    }
}
