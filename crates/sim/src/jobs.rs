//! The background jobs of a simulated node: handoff, anti-entropy, greetings, filling, sweeping,
//! reaping. `background/mod.rs` in the engine.

use quorate_protocol::name::NodeId;

use crate::node::Node;
use crate::world::World;

/// Steps in which a node at rest scans all its rows.
const SWEEPS_MAX: usize = 10;

impl Node {
    /// Runs some of its jobs, while faults happen.
    pub(crate) fn run_jobs(&mut self, world: &mut World) {
        let peer = *world.dice.pick(&world.setup.nodes.clone());
        if world.setup.reaps() || world.dice.percent(5) {
            self.mark_alive(world);
        }
        // Relative to the grace, still less often than the real one.
        let often = if world.setup.reaps() { 50 } else { 3 };
        let seldom = if world.setup.reaps() { 40 } else { 15 };
        if !self.is_admitted() {
            self.admit_alone(world);
        }
        if !self.is_admitted() || world.dice.percent(often) {
            self.greet_all(world);
        }
        self.fill(world);
        self.check_aside(world);
        if world.dice.percent(50) {
            self.hand_off(world);
        }
        if world.dice.percent(seldom) && peer != self.id {
            self.compare_roots(peer, world);
        }
        if world.setup.n_min < world.setup.n_max {
            self.reassign(world);
            self.hand_over(world);
        }
        if world.setup.reaps() && world.dice.percent(60) {
            self.begin_reaping(world);
        }
    }

    /// Runs all of its jobs once, in a cluster without faults.
    pub(crate) fn run_all_jobs(&mut self, world: &mut World) {
        let me = self.id;
        let peers: Vec<NodeId> = world.setup.nodes.clone();
        self.greet_all(world);
        self.fill(world);
        self.check_aside(world);
        self.hand_off(world);
        for _ in 0..SWEEPS_MAX {
            self.reassign(world);
        }
        self.hand_over(world);
        for peer in peers.into_iter().filter(|peer| *peer != me) {
            self.compare_roots(peer, world);
        }
    }
}
