//! Subscribers that are away for long.

use quorate_protocol::mutation::Mutation;

use super::History;
use super::scene::members::Change;
use super::scene::{Played, Scene};

/// A write is on all three home replicas. Each of them is replaced, so that none of the logs is left in which
/// it was news: what the new ones have received must be in theirs.
pub(super) const HOMES_THAT_ARE_ALL_REPLACED: History = History {
    name: "homes-that-are-all-replaced",
    about: "all home replicas are replaced while a subscriber is away",
    finds: &[(Mutation::FillNotLogged, "strict_reads_see_what_was_acknowledged")],
    settings: |setup| (setup.interval_ms, setup.spares) = (0, 3), // no anti-entropy
    play: |scene| Box::pin(homes_that_are_all_replaced(scene)),
};

async fn homes_that_are_all_replaced(scene: &mut Scene) -> Played {
    let [first, second, third] = scene.homes()?;
    let new = scene.spare()?;
    let mut subscriber = scene.subscriber().await?;
    scene.write(first, 3).await?;
    scene.change(second, Change::Replace(first)).await?;
    scene.until_changed(&[second, new]).await?;
    scene.kill(first)?; // before it hands its rows over, which would be news as well
    for replaced in [second, third] {
        scene.change(new, Change::Replace(replaced)).await?;
        scene.until_changed(&[new]).await?;
        scene.kill(replaced)?;
    }
    scene.until_told(&mut subscriber).await
}
