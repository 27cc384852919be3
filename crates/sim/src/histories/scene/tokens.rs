//! What is done with tokens in a history.

use quorate_engine::cluster::token_change;
use quorate_engine::cluster::tokens::Wanted;
use quorate_oracle::Violation;
use quorate_protocol::access::Scope;
use quorate_protocol::name::NodeId;
use quorate_protocol::token::{Secret, TokenId};

use super::{OffCourse, Played, Scene, off};

impl Scene {
    /// Makes a token, which a majority has.
    pub(in super::super) async fn make_token(&self, at: NodeId) -> Result<TokenId, OffCourse> {
        let node = self.node(at).ok_or_else(|| off(format!("{at} does not run")))?;
        let id = TokenId::of(7);
        let wanted = Wanted {
            id,
            hash: Secret::new([7; 32]).hash(),
            name: "t".to_owned(),
            scopes: vec![Scope::everything()],
            expires: None,
            rate_per_s: None,
            by: None,
        };
        let made = token_change::make(&node, wanted).await;
        made.map(|()| id).map_err(|error| off(format!("a token at {at}: {error}")))
    }

    /// Revokes a token; a majority knows of it.
    pub(in super::super) async fn revoke_token(&self, at: NodeId, token: TokenId) -> Played {
        let node = self.node(at).ok_or_else(|| off(format!("{at} does not run")))?;
        self.cluster.world.note(format_args!("revoke {token} at {at}"));
        let revoked = token_change::revoke(&node, token).await;
        revoked.map_err(|error| off(format!("the token is not revoked at {at}: {error}")))
    }

    /// Whether a node takes requests with a token.
    pub(in super::super) fn takes_token(&self, at: NodeId, token: TokenId) -> bool {
        self.node(at)
            .is_some_and(|node| token_change::is_fresh(&node) && node.auth.find(token).is_some())
    }

    /// *A revoked token stays revoked*: a node must take no request with it.
    pub(in super::super) fn must_not_take(
        &self,
        property: &'static str,
        at: NodeId,
        token: TokenId,
    ) {
        if self.takes_token(at, token) {
            let story = format!("{at} takes the token {token}, which was revoked");
            self.cluster.world.judge(Err(Violation { property, story }));
        }
    }
}
