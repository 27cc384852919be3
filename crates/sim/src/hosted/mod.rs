//! The shipping node in simulated clusters.
//!
//! What runs here is `quorate-engine` and `quorate-storage` as the server runs them, in one thread
//! on tokio's paused clock: `machine` is their host (disk, clock, threads, chance), `network` carries
//! the bytes between them, `life` ends and holds up their tasks. `setup` is what a seed decides, `case`
//! keeps that in a file and makes it smaller, `cluster` is one run, `client` who asks, `record` what the
//! oracle is told.

mod case;
mod client;
mod cluster;
mod life;
mod machine;
mod network;
mod record;
mod setup;
mod world;

use std::sync::Arc;

use tokio::runtime::Builder;

pub use self::case::Case;
use self::cluster::Cluster;
use self::world::World;
use crate::dice::Dice;
use crate::run::Run;
use crate::trace::Trace;
use quorate_oracle::Violation;

/// The replicas of a key.
const N: u16 = 3;

fn run_case(case: &Case, keep_lines: bool) -> Run {
    let runtime = Builder::new_current_thread().enable_time().start_paused(true).build();
    let runtime = match runtime {
        Ok(runtime) => runtime,
        Err(error) => {
            let story = format!("no clock: {error}");
            let violation = Some(Violation { property: "a_run_begins", story });
            return Run { hash: 0, events: 0, violation, lines: Vec::new() };
        }
    };
    runtime.block_on(async {
        let world = Arc::new(World::new(Dice::new(case.seed), Trace::new(keep_lines), N));
        world.note(format_args!("{:?}", case.setup));
        Cluster::run(world.clone(), case.setup.clone()).await;
        world.result()
    })
}
