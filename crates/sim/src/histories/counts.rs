//! Changes of a bucket's n.

use std::time::Duration;

use quorate_protocol::mutation::Mutation;

use super::History;
use super::scene::{Played, Scene};

/// How long bytes take to another node, in milliseconds. A row waits to be dropped for twice as long: for a
/// question and its answer.
const LATENCY_MS: u64 = 40;
/// How often a node looks for rows that it does not own, in milliseconds.
const LOOK_EVERY_MS: u64 = 500;

/// n is lowered, so that a node offers its row to the other home replicas, and raised again before they have
/// answered: that is done at every moment between two looks for such rows.
pub(super) const A_ROW_THAT_IS_OWNED_AGAIN: History = History {
    name: "a-row-that-is-owned-again",
    about: "n is raised again while a node waits to drop a row that it did not own",
    finds: &[(Mutation::DroppedThoughOwned, "what_is_dropped_is_held")],
    settings: |setup| setup.interval_ms = 60_000,
    play: |scene| Box::pin(a_row_that_is_owned_again(scene)),
};

async fn a_row_that_is_owned_again(scene: &mut Scene) -> Played {
    let [first, _, last] = scene.homes()?;
    scene.set_latency(LATENCY_MS);
    for after_ms in (0..LOOK_EVERY_MS).step_by(LATENCY_MS as usize) {
        scene.write(first, 3).await?;
        scene.set_n(last, 2).await?;
        scene.pass(Duration::from_millis(after_ms)).await;
        scene.set_n(last, 3).await?;
        scene.must_keep(last, Duration::from_millis(3 * LATENCY_MS)).await?;
        scene.pass(Duration::from_millis(LOOK_EVERY_MS)).await; // so that it is filled
    }
    Ok(())
}
