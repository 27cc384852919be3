//! Tokens: one that was revoked is never taken again, by a node that knows or by one that was away.

use std::time::Duration;

use quorate_protocol::mutation::Mutation;
use quorate_protocol::name::NodeId;

use super::History;
use super::scene::{OffCourse, Played, Scene};

/// The property that these histories judge.
const STAYS_REVOKED: &str = "a_revoked_token_stays_revoked";

/// A node that hears of a revocation exchanges tables with one that has missed it.
pub(super) const A_REVOCATION_THAT_ONE_MISSED: History = History {
    name: "a-revocation-that-one-missed",
    about: "a token is revoked while a node is down, which comes back with it",
    finds: &[(Mutation::RevokedTokenReturns, STAYS_REVOKED)],
    settings: |_| {},
    play: |scene| Box::pin(a_revocation_that_one_missed(scene)),
};

async fn a_revocation_that_one_missed(scene: &mut Scene) -> Played {
    let [first, second, away] = scene.homes()?;
    let token = made_for_all(scene, first).await?;
    scene.kill(away)?;
    scene.revoke_token(first, token).await?;
    for node in [first, second] {
        scene.must_not_take(STAYS_REVOKED, node, token);
    }
    scene.start(away).await?;
    scene.must_not_take(STAYS_REVOKED, away, token);
    scene.pass(Duration::from_secs(20)).await;
    for node in [first, second, away] {
        scene.must_not_take(STAYS_REVOKED, node, token);
    }
    Ok(())
}

/// A node that is cut off cannot hear of a revocation, and knows that.
pub(super) const A_REVOCATION_UNHEARD: History = History {
    name: "a-revocation-unheard",
    about: "a token is revoked while a node is cut off, and clients still reach that node",
    finds: &[(Mutation::StaleTokensTrusted, STAYS_REVOKED)],
    settings: |_| {},
    play: |scene| Box::pin(a_revocation_unheard(scene)),
};

async fn a_revocation_unheard(scene: &mut Scene) -> Played {
    let [first, second, alone] = scene.homes()?;
    let token = made_for_all(scene, first).await?;
    scene.cut_off(alone);
    scene.revoke_token(second, token).await?;
    scene.pass(Duration::from_secs(61)).await; // auth.stale_ms, and what was on its way
    scene.must_not_take(STAYS_REVOKED, alone, token);
    scene.mend();
    scene.pass(Duration::from_secs(20)).await;
    for node in [first, second, alone] {
        scene.must_not_take(STAYS_REVOKED, node, token);
    }
    Ok(())
}

/// A token that all nodes take.
async fn made_for_all(scene: &mut Scene, at: NodeId) -> Result<super::scene::TokenId, OffCourse> {
    let token = scene.make_token(at).await?;
    for node in scene.homes()? {
        scene.until("all take a new token", |scene| scene.takes_token(node, token)).await?;
    }
    Ok(token)
}
