//! Who makes a request.

use std::sync::Arc;

use quorate_engine::cluster::token_change;
use quorate_engine::cluster::tokens::InUse;
use quorate_engine::limits::pace::Pace;
use quorate_engine::node::Node;
use quorate_protocol::access::{self, Action, Scope, Target};

use super::problem::{Kind, Problem};
use crate::jwt::Subject;

/// Who makes a request.
#[derive(Clone, Debug)]
pub(super) enum Who {
    /// Anyone: nothing is checked.
    Anyone,
    /// A client without a token, which may do this.
    Anonymous(Arc<[Scope]>),
    /// A client with a token of the cluster.
    Token(Arc<InUse>),
    /// A client with a token of the issuer.
    Subject(Arc<Subject>),
    /// A holder of the cluster's key.
    Operator,
}

impl Who {
    /// Whether they may do something.
    pub(super) fn may(&self, action: Action, target: Target<'_>) -> bool {
        match self {
            Self::Anyone | Self::Operator => true,
            Self::Anonymous(scopes) => access::allow(scopes, action, target),
            Self::Token(found) => access::allow(&found.token.scopes, action, target),
            Self::Subject(subject) => access::allow(&subject.scopes, action, target),
        }
    }

    /// What they may do; `None` for everything.
    pub(super) fn scopes(&self) -> Option<&[Scope]> {
        match self {
            Self::Anyone | Self::Operator => None,
            Self::Anonymous(scopes) => Some(scopes),
            Self::Token(found) => Some(&found.token.scopes),
            Self::Subject(subject) => Some(&subject.scopes),
        }
    }

    /// What else a request does to a key, that follows from its parameters.
    ///
    /// # Errors
    /// 403.
    pub(super) fn must(&self, action: Action, bucket: &str, key: &[u8]) -> Result<(), Problem> {
        match self.may(action, Target::Keys { bucket, start: key }) {
            true => Ok(()),
            false => Err(forbidden(action)),
        }
    }

    /// Whether they would still be let in, some time after they were.
    pub(super) fn is_still_known(&self, node: &Node) -> bool {
        match self {
            Self::Anyone | Self::Anonymous(_) | Self::Operator => true,
            Self::Subject(subject) => subject.is_good(node.now()),
            Self::Token(found) => {
                token_change::is_fresh(node)
                    && node.auth.find(found.id).is_some()
                    && !found.token.is_expired(node.now())
            }
        }
    }

    /// How often they may make requests, if that is limited.
    pub(super) fn pace(&self) -> Option<&Pace> {
        match self {
            Self::Anyone | Self::Anonymous(_) | Self::Operator => None,
            Self::Token(found) => found.pace.as_ref(),
            Self::Subject(subject) => subject.pace.as_deref(),
        }
    }

    /// In one word.
    pub(super) fn name(&self) -> &'static str {
        match self {
            Self::Anyone => "anyone",
            Self::Anonymous(_) => "anonymous",
            Self::Token(_) => "token",
            Self::Subject(_) => "subject",
            Self::Operator => "operator",
        }
    }
}

/// 403, which says nothing of what there is.
pub(super) fn forbidden(action: Action) -> Problem {
    let detail = format!("no scope of the token allows {} there", action.name());
    Problem::new(Kind::Forbidden, detail).fact("action", action.name())
}
