//! The shipping node in simulated clusters.
//!
//! What runs here is `quorate-engine` and `quorate-storage` as the server runs them, in one thread
//! on tokio's paused clock: `machine` is their host (disk, clock, threads, chance), `network` carries
//! the bytes between them, `life` ends and holds up their tasks. `setup` is what a seed decides,
//! `cluster` one run, `client` who asks, `record` what the oracle is told.

mod client;
mod cluster;
mod life;
mod machine;
mod network;
mod record;
mod setup;
mod world;

use std::sync::Arc;

use crate::dice::Dice;
use crate::oracle::Violation;
use crate::trace::Trace;
use cluster::Cluster;
use setup::Setup;
use world::World;

/// The replicas of a key.
const N: u16 = 3;

/// How a run ended.
#[derive(Debug)]
pub struct Run {
    /// The first broken promise.
    pub violation: Option<Violation>,
    /// The hash of all that happened: equal for equal seeds.
    pub hash: u64,
    /// Acknowledged writes.
    pub acked: u64,
    /// Every event, if the trace was kept.
    pub lines: Vec<String>,
}

/// Runs one seed.
///
/// # Errors
/// The system's, if it gives no resources for the clock.
pub fn run(seed: u64, keep_trace: bool) -> std::io::Result<Run> {
    let runtime =
        tokio::runtime::Builder::new_current_thread().enable_time().start_paused(true).build()?;
    Ok(runtime.block_on(async {
        let mut dice = Dice::new(seed);
        let setup = Setup::draw(&mut dice);
        let world = Arc::new(World::new(dice, Trace::new(keep_trace), N));
        world.note(format_args!("{setup:?}"));
        Cluster::run(world.clone(), setup).await;
        let acked = world.record().acked;
        let (violation, hash, lines) = world.result();
        Run { violation, hash, acked, lines }
    }))
}
