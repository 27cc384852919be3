//! What a node counts of requests that were not let in.

use crate::metrics::counter::Counter;
use crate::metrics::desc::{Desc, Section};
use crate::metrics::text::Writer;

const REFUSED: Desc = Desc::counter(
    "quorate_auth_refused_total",
    "Requests refused for who made them, by reason",
)
.by(&["reason"])
.means(
    "`unknown` and `forged` in numbers are somebody who guesses, or a client whose token was \
             revoked; `stale` means that this node has not reached a majority of the others for \
             `auth.stale_ms`.",
);
const TOKENS: Desc = Desc::gauge("quorate_tokens", "Tokens that were made and not revoked");
const FRESH: Desc = Desc::gauge(
    "quorate_tokens_fresh",
    "Whether the node knows the tokens well enough to accept any: 1 or 0",
)
.means(
    "0 beside `auth.mode = \"on\"`: requests with tokens are refused until a majority can be reached.",
);
const DROPPED: Desc = Desc::counter(
    "quorate_audit_dropped_total",
    "Lines of the audit log that were dropped: too many at once, or they could not be written",
)
.means("The audit log has gaps: its disk is full or slow, or somebody floods the node.");

/// The metrics written here.
pub const SECTION: Section = Section {
    title: "Access",
    about: "Who may do what ([operations.md](operations.md)).",
    metrics: &[REFUSED, TOKENS, FRESH, DROPPED],
};

/// Why a request was refused for who made it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reason {
    /// It has no token, and needs one.
    Missing,
    /// What it has is no token.
    Malformed,
    /// There is no such token, or it was revoked, or its secret is another.
    Unknown,
    /// Its token has expired.
    Expired,
    /// It has an operator's token that is none.
    Forged,
    /// Its token does not allow it.
    Forbidden,
    /// Its token is used too often.
    Rate,
    /// The node may not know that its token was revoked.
    Stale,
    /// A page of another site made a browser send it.
    CrossSite,
}

impl Reason {
    const ALL: [Self; 9] = [
        Self::Missing,
        Self::Malformed,
        Self::Unknown,
        Self::Expired,
        Self::Forged,
        Self::Forbidden,
        Self::Rate,
        Self::Stale,
        Self::CrossSite,
    ];

    fn name(self) -> &'static str {
        match self {
            Self::Missing => "missing",
            Self::Malformed => "malformed",
            Self::Unknown => "unknown",
            Self::Expired => "expired",
            Self::Forged => "forged",
            Self::Forbidden => "forbidden",
            Self::Rate => "rate",
            Self::Stale => "stale",
            Self::CrossSite => "cross_site",
        }
    }
}

/// What was not let in.
#[derive(Debug, Default)]
pub struct Auth {
    refused: [Counter; Reason::ALL.len()],
    /// Lines of the audit log that were dropped.
    pub audit_dropped: Counter,
}

impl Auth {
    /// A request was refused.
    pub fn refused(&self, why: Reason) {
        if let Some(at) = Reason::ALL.iter().position(|it| *it == why) {
            self.refused[at].add(1);
        }
    }

    /// Writes them, beside how many tokens there are and whether they are trusted.
    pub fn write(&self, out: &mut Writer, tokens: usize, is_fresh: bool) {
        let mut refused = out.metric(&REFUSED);
        for (reason, count) in Reason::ALL.iter().zip(&self.refused) {
            refused.value(&[reason.name()], count.get());
        }
        out.one(&TOKENS, tokens);
        out.one(&FRESH, u8::from(is_fresh));
        out.one(&DROPPED, self.audit_dropped.get());
    }
}
