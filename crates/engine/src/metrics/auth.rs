//! What a node counts of requests that were not let in.

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

use quorate_protocol::name::NodeId;

use crate::metrics::counter::Counter;
use crate::metrics::desc::{Desc, Section};
use crate::metrics::text::Writer;

const REFUSED: Desc = Desc::counter(
    "quorate_auth_refused_total",
    "Requests refused for who made them, by reason",
)
.by(&["reason"])
.means(
    "`unknown` and `forged` in numbers are somebody who guesses, or a client whose token was revoked; \
     `plain` is a token that came without TLS and was overheard, perhaps; `stale` means that this node \
     has not reached a majority of the others for `auth.stale_ms`.",
);
const TOKENS: Desc = Desc::gauge("quorate_tokens", "Tokens that were made and not revoked");
const FRESH: Desc = Desc::gauge(
    "quorate_tokens_fresh",
    "Whether the node knows the tokens well enough to accept any: 1 or 0",
)
.means(
    "0 beside `auth.mode = \"on\"`: requests with tokens are refused until a majority can be reached.",
);
const DISAGREES: Desc = Desc::gauge(
    "quorate_tokens_disagree_seconds",
    "Time for which the tokens of this node and of a peer are not known to be equal, while they are compared",
)
.by(&["peer"])
.means("About a second. If it grows while the peer is up, one of the two cannot store what the other knows.");
const JWT_KEYS: Desc = Desc::gauge(
    "quorate_jwt_keys",
    "Keys of the issuer that the node verifies tokens with, if it takes such tokens (`[jwt]`)",
)
.means("0: no token of the issuer is accepted. The log says why.");
const JWT_READ_FAILED: Desc = Desc::gauge(
    "quorate_jwt_keys_read_failed",
    "1 while the issuer's keys cannot be read again (`jwt.keys`)",
)
.means("The node goes on with those that it read before; one that the issuer withdrew is accepted so long.");
const DROPPED: Desc = Desc::counter(
    "quorate_audit_dropped_total",
    "Lines of the audit log that were dropped: too many at once, or they could not be written",
)
.means("The audit log has gaps: its disk is full or slow, or somebody floods the node.");

/// The metrics written here.
pub const SECTION: Section = Section {
    title: "Access",
    about: "Who may do what ([operations.md](operations.md)).",
    metrics: &[REFUSED, TOKENS, FRESH, DISAGREES, JWT_KEYS, JWT_READ_FAILED, DROPPED],
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
    /// Its token came in clear text from another machine.
    Plain,
    /// Its token is of an issuer, and is not accepted.
    Jwt,
}

impl Reason {
    const ALL: [Self; 11] = [
        Self::Missing,
        Self::Malformed,
        Self::Unknown,
        Self::Expired,
        Self::Forged,
        Self::Forbidden,
        Self::Rate,
        Self::Stale,
        Self::CrossSite,
        Self::Plain,
        Self::Jwt,
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
            Self::Plain => "plain",
            Self::Jwt => "jwt",
        }
    }
}

/// What was not let in.
#[derive(Debug, Default)]
pub struct Auth {
    refused: [Counter; Reason::ALL.len()],
    /// Lines of the audit log that were dropped.
    pub audit_dropped: Counter,
    /// The keys of the issuer.
    pub issuer_keys: IssuerKeys,
}

/// What is known of the keys of an issuer (`[jwt]`).
#[derive(Debug, Default)]
pub struct IssuerKeys {
    /// 0 while no such tokens are taken; else one more than there are keys.
    count: AtomicU64,
    failed: AtomicU64,
}

impl IssuerKeys {
    /// There are so many keys, and they could be read lately or not.
    pub fn show(&self, count: usize, failed: bool) {
        self.count.store((count as u64).saturating_add(1), Relaxed);
        self.failed.store(u64::from(failed), Relaxed);
    }
}

impl Auth {
    /// A request was refused.
    pub fn refused(&self, why: Reason) {
        if let Some(at) = Reason::ALL.iter().position(|it| *it == why) {
            self.refused[at].add(1);
        }
    }

    /// Writes them, beside how many tokens there are and whether they are trusted, and for how long in
    /// milliseconds they are not known to be those of each peer.
    pub fn write(
        &self,
        out: &mut Writer,
        (tokens, is_fresh): (usize, bool),
        disagreements: &[(NodeId, u64)],
    ) {
        let mut refused = out.metric(&REFUSED);
        for (reason, count) in Reason::ALL.iter().zip(&self.refused) {
            refused.value(&[reason.name()], count.get());
        }
        out.one(&TOKENS, tokens);
        out.one(&FRESH, u8::from(is_fresh));
        let mut disagrees = out.metric(&DISAGREES);
        for (peer, ms) in disagreements {
            disagrees.value(&[peer.as_str()], *ms as f64 / 1000.0);
        }
        let count = self.issuer_keys.count.load(Relaxed).checked_sub(1);
        let mut keys = out.metric(&JWT_KEYS);
        count.iter().for_each(|count| keys.value(&[], count));
        let mut failed = out.metric(&JWT_READ_FAILED);
        count.iter().for_each(|_| failed.value(&[], self.issuer_keys.failed.load(Relaxed)));
        out.one(&DROPPED, self.audit_dropped.get());
    }
}
