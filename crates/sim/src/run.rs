//! One run, from its case to its result.

use std::sync::Arc;

use quorate_oracle::Violation;
use quorate_protocol::mutation::Mutation;
use tokio::runtime::Builder;

use crate::case::Case;
use crate::cluster::Cluster;
use crate::dice::Dice;
use crate::trace::Trace;
use crate::world::World;

/// The replicas of a key.
pub(crate) const N: u16 = 3;

/// The result of a run.
pub struct Run {
    /// The hash of all events: equal for equal cases.
    pub hash: u64,
    /// The first broken promise.
    pub violation: Option<Violation>,
    /// How many events there were.
    pub events: u64,
    /// The events, if they were asked for.
    pub lines: Vec<String>,
}

pub(crate) fn run_case(case: &Case, mutation: Option<Mutation>, keep_lines: bool) -> Run {
    run_in_world(case.seed, mutation, keep_lines, async |world| {
        world.note(format_args!("{:?}", case.setup));
        Cluster::run(world, case.setup.clone()).await;
    })
}

/// Runs `course` in a world of its own, with a clock of its own, that stands still while anything can
/// run.
pub(crate) fn run_in_world(
    seed: u64,
    mutation: Option<Mutation>,
    keep_lines: bool,
    course: impl AsyncFnOnce(Arc<World>),
) -> Run {
    let runtime = Builder::new_current_thread().enable_time().start_paused(true).build();
    let runtime = match runtime {
        Ok(runtime) => runtime,
        Err(error) => return Run::impossible(format!("no clock: {error}")),
    };
    if !switch_on(mutation) {
        return Run::impossible("mutations are not compiled in".to_owned());
    }
    runtime.block_on(async {
        let world = Arc::new(World::new(Dice::new(seed), Trace::new(keep_lines), N));
        course(world.clone()).await;
        world.result()
    })
}

impl Run {
    fn impossible(story: String) -> Self {
        let violation = Some(Violation { property: "a_run_begins", story });
        Self { hash: 0, events: 0, violation, lines: Vec::new() }
    }
}

/// Switches a mutation on for this thread, which runs one case at a time. Returns whether it can be.
#[cfg(feature = "mutations")]
fn switch_on(mutation: Option<Mutation>) -> bool {
    quorate_protocol::mutation::mutate(mutation);
    true
}

#[cfg(not(feature = "mutations"))]
fn switch_on(mutation: Option<Mutation>) -> bool {
    mutation.is_none()
}
