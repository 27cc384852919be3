//! Why a token of the issuer is not accepted, in words for its sender.

/// Nothing of it repeats what was sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum Rejected {
    /// It is too long.
    #[error("the token is longer than {} bytes", super::TOKEN_BYTES_MAX)]
    TooLong,
    /// It cannot be read.
    #[error(
        "the token is no JWT that this node understands: three parts in base64url, the first two JSON"
    )]
    Malformed,
    /// It is a JWT for something else.
    #[error("the token is of another type than JWT or at+jwt")]
    OtherType,
    /// Its algorithm is not configured.
    #[error("the token is signed in another way than jwt.algorithms allows")]
    Algorithm,
    /// Its key is not in the set.
    #[error("the issuer's keys have none of the token's kid")]
    UnknownKey,
    /// Its key is in the set, for another algorithm.
    #[error("the issuer's key of this kid is not for the token's algorithm")]
    OtherAlgorithm,
    /// It does not say which key it is.
    #[error("the token has no kid, and the issuer more than one key that it could be signed with")]
    UnnamedKey,
    /// The keys were not read yet.
    #[error("this node has not got the issuer's keys yet: ask another one, or try again")]
    NoKeysYet,
    /// Its signature is not that of the key, or it needs something that is not understood (`crit`).
    #[error(
        "the token's signature is not the issuer's, or its header demands what this node does not know"
    )]
    Signature,
    /// It is of another issuer.
    #[error("the token is of another issuer than jwt.issuer")]
    Issuer,
    /// It is for others.
    #[error("the token is for others: aud has none of jwt.audience")]
    Audience,
    /// It has ended.
    #[error("the token has expired")]
    Expired,
    /// It has not begun.
    #[error("the token is not valid yet (nbf)")]
    NotYet,
    /// It lacks a claim, or has one that cannot be read.
    #[error("the token's claim {0} is missing, or not as it must be")]
    Claim(&'static str),
    /// The claim with scopes has none that can be given.
    #[error("the token's claim with scopes (jwt.scopes_claim) holds no valid list of scopes")]
    Scopes,
}
