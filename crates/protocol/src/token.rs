//! Bearer tokens: their texts, what is kept of them, and how one is recognised.
//!
//! * `qk_<id>.<secret>`: a token of the token table ([`crate::token_table`]). The id (16 characters) is no
//!   secret; of the secret (256 random bits) only a hash is kept, which needs no salt and no slow function.
//! * `qo_<expiry>.<mac>`: an operator's, who can read the cluster's key: made where it is needed, kept
//!   nowhere, good for everything for some minutes ([`OperatorKeys`]).

use std::fmt;

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde::{Deserialize, Deserializer, Serialize, Serializer};

use crate::access::{Scope, ScopeError, check};
use crate::bucket_table::Change;
use crate::time::WallTime;

/// The length of an id, in characters.
pub const ID_CHARS: usize = 16;
/// The longest name of a token, in bytes.
pub const NAME_BYTES_MAX: usize = 64;
/// The most bytes that all scopes of a token may need.
pub const SCOPES_BYTES_MAX: usize = 2048;
/// The highest rate that a token may be limited to, in requests per second.
pub const RATE_PER_S_MAX: u32 = 1_000_000;
/// How long an operator's token may be good for, in milliseconds.
pub const OPERATOR_MS_MAX: u64 = 300_000;

const TOKEN_MARK: &str = "qk_";
const OPERATOR_MARK: &str = "qo_";
const SECRET_BYTES: usize = 32;
/// 32 bytes in base64url.
const SECRET_CHARS: usize = 43;

/// Names a token. Drawn once, never used again, no secret.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct TokenId([u8; ID_CHARS]);

impl TokenId {
    const ALPHABET: &[u8; 32] = b"abcdefghijklmnopqrstuvwxyz234567";

    /// The id of 80 random bits, the lowest of `random`.
    pub fn of(random: u128) -> Self {
        let digit = |at: usize| Self::ALPHABET[(random >> (5 * at)) as usize & 31];
        Self(std::array::from_fn(digit))
    }

    /// Parses an id; `None` unless it is 16 characters of `a-z 2-7`.
    pub fn parse(text: &str) -> Option<Self> {
        let id: [u8; ID_CHARS] = text.as_bytes().try_into().ok()?;
        id.iter().all(|b| Self::ALPHABET.contains(b)).then_some(Self(id))
    }

    /// The id as text.
    pub fn as_str(&self) -> &str {
        std::str::from_utf8(&self.0).unwrap_or_default()
    }
}

impl fmt::Display for TokenId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.as_str())
    }
}

impl fmt::Debug for TokenId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl Serialize for TokenId {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(self.as_str())
    }
}

impl<'de> Deserialize<'de> for TokenId {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = <&str>::deserialize(deserializer)?;
        Self::parse(text).ok_or_else(|| serde::de::Error::custom("no token id"))
    }
}

/// The secret of a token. Shown once, by [`Secret::token`], and by nothing else.
#[derive(Clone)]
pub struct Secret([u8; SECRET_BYTES]);

impl Secret {
    /// A secret of random bytes.
    pub fn new(random: [u8; SECRET_BYTES]) -> Self {
        Self(random)
    }

    /// What is kept of it.
    pub fn hash(&self) -> SecretHash {
        SecretHash(blake3::derive_key("quorate 2026-11 api token secret", &self.0))
    }

    /// The text of the token with this secret.
    pub fn token(&self, id: TokenId) -> String {
        format!("{TOKEN_MARK}{id}.{}", URL_SAFE_NO_PAD.encode(self.0))
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a secret")
    }
}

/// The hash of a secret.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct SecretHash([u8; 32]);

impl SecretHash {
    /// Whether it is that of a secret. Takes the same time whatever differs.
    pub fn is_of(&self, secret: &Secret) -> bool {
        blake3::Hash::from_bytes(self.0) == blake3::Hash::from_bytes(secret.hash().0)
    }
}

impl fmt::Debug for SecretHash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a hash")
    }
}

/// What is kept of a token. Nothing of it changes.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Token {
    /// When it was made, and on which node.
    pub created: Change,
    /// The hash of its secret.
    pub hash: SecretHash,
    /// For people: what it is for.
    pub name: String,
    /// What it allows.
    pub scopes: Vec<Scope>,
    /// When it ends, if it does.
    pub expires: Option<WallTime>,
    /// How many requests per second each node takes from it, if that is limited.
    pub rate_per_s: Option<u32>,
    /// The token that made it; `None` if an operator did.
    pub by: Option<TokenId>,
}

/// What is wrong with a token that is to be made, in words for whoever wants it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum TokenError {
    /// Its name.
    #[error("name: 1 to {NAME_BYTES_MAX} bytes without control characters")]
    Name,
    /// Its scopes.
    #[error(transparent)]
    Scopes(#[from] ScopeError),
    /// It has no scope.
    #[error("scopes: at least one")]
    NoScope,
    /// All its scopes together are too long.
    #[error(
        "scopes: their buckets and prefixes are too long, more than {SCOPES_BYTES_MAX} bytes in all"
    )]
    Long,
    /// Its rate.
    #[error("rate_per_s: 1 to {RATE_PER_S_MAX}")]
    Rate,
}

impl Token {
    /// Whether it can be made.
    ///
    /// # Errors
    /// [`TokenError`].
    pub fn check(&self) -> Result<(), TokenError> {
        let has_name = (1..=NAME_BYTES_MAX).contains(&self.name.len());
        if !has_name || self.name.chars().any(char::is_control) {
            return Err(TokenError::Name);
        }
        if self.scopes.is_empty() {
            return Err(TokenError::NoScope);
        }
        check(&self.scopes)?;
        let bytes = |scope: &Scope| {
            let buckets: usize = scope.buckets.iter().map(|it| it.as_str().len()).sum();
            buckets + scope.prefix.as_ref().map_or(0, String::len)
        };
        if self.scopes.iter().map(bytes).sum::<usize>() > SCOPES_BYTES_MAX {
            return Err(TokenError::Long);
        }
        match self.rate_per_s {
            None | Some(1..=RATE_PER_S_MAX) => Ok(()),
            Some(_) => Err(TokenError::Rate),
        }
    }

    /// Whether it has ended.
    pub fn is_expired(&self, now: WallTime) -> bool {
        self.expires.is_some_and(|expires| expires <= now)
    }
}

/// What a client sent as its token. Nothing of it has been verified.
#[derive(Clone, Debug)]
pub enum Bearer {
    /// One of the table.
    Token {
        /// Which.
        id: TokenId,
        /// Its secret.
        secret: Secret,
    },
    /// An operator's.
    Operator(OperatorToken),
}

/// An operator's token.
#[derive(Clone)]
pub struct OperatorToken {
    expires: WallTime,
    mac: [u8; 32],
}

impl fmt::Debug for OperatorToken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an operator's token")
    }
}

impl Bearer {
    /// Parses the text of a token; `None` if it is none.
    pub fn parse(text: &str) -> Option<Self> {
        if let Some(rest) = text.strip_prefix(TOKEN_MARK) {
            let (id, secret) = rest.split_once('.')?;
            let secret = Secret(bytes_of(secret)?);
            return Some(Self::Token { id: TokenId::parse(id)?, secret });
        }
        let (expires, mac) = text.strip_prefix(OPERATOR_MARK)?.split_once('.')?;
        let is_number =
            (1..=16).contains(&expires.len()) && expires.bytes().all(|b| b.is_ascii_digit());
        let expires = WallTime(expires.parse().ok().filter(|_| is_number)?);
        Some(Self::Operator(OperatorToken { expires, mac: bytes_of(mac)? }))
    }
}

/// 32 bytes from exactly their text in base64url.
fn bytes_of(text: &str) -> Option<[u8; 32]> {
    if text.len() != SECRET_CHARS {
        return None;
    }
    let mut bytes = [0; SECRET_BYTES + 1]; // as much as the decoder wants to have
    let decoded = URL_SAFE_NO_PAD.decode_slice(text, &mut bytes).ok()?;
    let (secret, _) = bytes.split_first_chunk::<SECRET_BYTES>()?;
    (decoded == SECRET_BYTES).then_some(*secret)
}

/// Makes and verifies operators' tokens, with keys that are derived from the cluster's.
pub struct OperatorKeys {
    cluster_id: String,
    /// The first signs, all verify.
    keys: Vec<[u8; 32]>,
}

/// Why an operator's token is not accepted.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum OperatorError {
    /// Its time is over, or this clock is ahead of the one where it was made.
    #[error(
        "the operator's token has expired: it is good for a few minutes; if it is new, the clocks of this \
         node and of the machine that made it differ"
    )]
    Expired,
    /// It claims more time than one may have.
    #[error(
        "the operator's token claims to be good for more than 5 minutes from now: the clocks of this node \
         and of the machine that made it differ"
    )]
    TooLong,
    /// It was made with another key or for another cluster.
    #[error("the operator's token was made with another cluster's key, or a retired one")]
    Forged,
}

impl OperatorKeys {
    /// Derives the keys from the cluster's secret keys.
    pub fn new(cluster_id: &str, secrets: &[[u8; 32]]) -> Self {
        let key = |secret: &[u8; 32]| blake3::derive_key("quorate 2026-11 operator token", secret);
        Self { cluster_id: cluster_id.to_owned(), keys: secrets.iter().map(key).collect() }
    }

    /// A token that is good until `expires`; `None` without a key.
    pub fn token(&self, expires: WallTime) -> Option<String> {
        let mac = self.mac(self.keys.first()?, expires);
        Some(format!("{OPERATOR_MARK}{}.{}", expires.0, URL_SAFE_NO_PAD.encode(mac.as_bytes())))
    }

    /// Verifies one.
    ///
    /// # Errors
    /// [`OperatorError`].
    pub fn verify(&self, token: &OperatorToken, now: WallTime) -> Result<(), OperatorError> {
        let sent = blake3::Hash::from_bytes(token.mac);
        // All of them are tried: the time does not tell which one it was.
        let good = self.keys.iter().filter(|key| self.mac(key, token.expires) == sent).count();
        if good == 0 {
            Err(OperatorError::Forged)
        } else if token.expires <= now {
            Err(OperatorError::Expired)
        } else if token.expires.0 > now.0.saturating_add(OPERATOR_MS_MAX) {
            Err(OperatorError::TooLong)
        } else {
            Ok(())
        }
    }

    fn mac(&self, key: &[u8; 32], expires: WallTime) -> blake3::Hash {
        let mut hasher = blake3::Hasher::new_keyed(key);
        hasher.update(&expires.0.to_le_bytes());
        hasher.update(self.cluster_id.as_bytes());
        hasher.finalize()
    }
}

impl fmt::Debug for OperatorKeys {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("keys")
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    const ID: &str = "abcdefghijklmn27";

    fn secret() -> Secret {
        Secret::new([0x5a; 32])
    }

    #[test]
    fn a_token_is_read_exactly_as_it_was_given() {
        let id = TokenId::parse(ID).unwrap();
        let text = secret().token(id);
        assert_eq!(text.len(), 3 + ID_CHARS + 1 + SECRET_CHARS);
        let Some(Bearer::Token { id: read, secret: other }) = Bearer::parse(&text) else {
            panic!("{text}")
        };
        assert!(read == id && secret().hash().is_of(&other));
        assert!(!Secret::new([0x5b; 32]).hash().is_of(&other));
        for cut in 0..text.len() {
            assert!(Bearer::parse(&text[..cut]).is_none(), "cut at {cut}");
        }
        for bad in [
            format!("{text}="),
            format!("{text}a"),
            format!(" {text}"),
            text.to_uppercase(),
            text.replace('.', ":"),
            text.replace("qk_", "qx_"),
            // The last character has bits that no byte takes.
            format!("{}{}", &text[..text.len() - 1], "b"),
            "qk_.".to_owned(),
            String::new(),
        ] {
            assert!(Bearer::parse(&bad).is_none(), "{bad}");
        }
    }

    #[test]
    fn no_secret_shows() {
        let (id, keys) = (TokenId::of(7), OperatorKeys::new("c", &[[7; 32]]));
        let text = keys.token(WallTime(1)).unwrap();
        let shown = format!(
            "{:?} {:?} {:?} {keys:?}",
            secret(),
            Bearer::parse(&secret().token(id)).unwrap(),
            Bearer::parse(&text).unwrap()
        );
        let hidden = ["90", "5a", "Wlpa", text.split_once('.').unwrap().1];
        assert!(hidden.iter().all(|it| !shown.contains(it)), "{shown}");
    }

    #[test]
    fn an_operators_token_is_good_for_one_cluster_and_some_minutes() {
        let old = [[7; 32], [8; 32]];
        let keys = OperatorKeys::new("c", &old);
        let now = WallTime(1_000_000_000);
        let made = |keys: &OperatorKeys, ms| {
            let text = keys.token(WallTime(now.0 + ms)).unwrap();
            match Bearer::parse(&text).unwrap() {
                Bearer::Operator(token) => token,
                Bearer::Token { .. } => panic!("{text}"),
            }
        };
        let token = made(&keys, 1000);
        assert_eq!(keys.verify(&token, now), Ok(()));
        assert_eq!(keys.verify(&token, WallTime(now.0 + 1000)), Err(OperatorError::Expired));
        assert_eq!(
            keys.verify(&made(&keys, OPERATOR_MS_MAX + 1), now),
            Err(OperatorError::TooLong)
        );
        let rotated = OperatorKeys::new("c", &[[9; 32], [7; 32]]);
        assert_eq!(rotated.verify(&token, now), Ok(()), "a key that is on its way out");
        for other in [OperatorKeys::new("d", &old), OperatorKeys::new("c", &[[9; 32]])] {
            assert_eq!(other.verify(&token, now), Err(OperatorError::Forged));
        }
        let longer = OperatorToken { expires: WallTime(token.expires.0 + 1), ..token };
        assert_eq!(keys.verify(&longer, now), Err(OperatorError::Forged));
    }

    #[test]
    fn ids_are_drawn_from_all_bits() {
        assert_eq!(TokenId::of(0).as_str(), "a".repeat(16));
        assert_eq!(TokenId::of(u128::MAX).as_str(), "7".repeat(16));
        assert_ne!(TokenId::of(1 << 79), TokenId::of(0));
        assert_eq!(TokenId::parse(ID).unwrap().to_string(), ID);
        assert!(TokenId::parse("ABCDEFGHIJKLMN27").is_none() && TokenId::parse("abc").is_none());
    }
}
