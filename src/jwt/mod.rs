//! Tokens of an issuer (JWT, as of OpenID Connect), verified with the issuer's public keys
//! (docs/decisions/0033).
//!
//! Nothing of a token decides how it is verified: the algorithms are configured, the keys come from one file
//! or URL (`source`), each is for the algorithms of its own kind (`keys`), and `jsonwebtoken` verifies the
//! signature by `ring` (`ring_provider`). `claims` says what a token allows, `reload` reads the keys again,
//! `recent` bounds what is remembered of tokens that were verified.

mod claims;
#[cfg(any(test, fuzzing))]
pub(crate) mod fuzzed;
mod keys;
mod recent;
mod rejected;
pub(crate) mod reload;
mod ring_provider;
mod source;

use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock};

use jsonwebtoken::{Algorithm, Header, Validation, decode, decode_header};
use quorate_engine::config::JwtConfig;
use quorate_engine::limits::pace::Pace;
use quorate_protocol::access::Scope;
use quorate_protocol::time::WallTime;
use quorate_protocol::token::TokenId;
use serde_json::{Map, Value};
use tokio::sync::Notify;

use self::keys::{Key, KeySet, NoKey, algorithm};
use self::recent::Recent;
pub(crate) use self::rejected::Rejected;
use self::source::Source;

/// The longest token, in bytes.
const TOKEN_BYTES_MAX: usize = 8 << 10;
/// How many tokens are remembered that were verified.
const TOKENS_MAX: usize = 4096;
/// How many subjects are remembered whose rate is limited.
const SUBJECTS_MAX: usize = 16 << 10;

/// Why there are no tokens of an issuer.
#[derive(Debug, thiserror::Error)]
#[error("jwt.keys: {0}")]
pub struct JwtError(String);

/// The holder of a token of the issuer, as far as the token tells.
pub(crate) struct Subject {
    /// Follows from the issuer and the name: in place of a token's id.
    pub(crate) id: TokenId,
    /// The claim `sub`.
    pub(crate) name: String,
    /// What they may do.
    pub(crate) scopes: Vec<Scope>,
    /// When the token ends, leeway included.
    pub(crate) expires: WallTime,
    /// Their rate limit on this node.
    pub(crate) pace: Option<Arc<Pace>>,
    key: Arc<Key>,
}

impl Subject {
    /// Whether the token would be accepted again: it has not ended, and its key is still the issuer's.
    pub(crate) fn is_good(&self, now: WallTime) -> bool {
        now < self.expires && !self.key.is_retired()
    }
}

impl std::fmt::Debug for Subject {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Subject({:?}, {:?})", self.name, self.scopes)
    }
}

/// Verifies tokens of the configured issuer.
pub(crate) struct Jwt {
    config: JwtConfig,
    algorithms: Vec<Algorithm>,
    source: Source,
    /// `None` until the keys were read for the first time.
    keys: RwLock<Option<Arc<KeySet>>>,
    /// Tokens that were verified, by their hashes: what was not is not remembered, so strangers cannot fill
    /// it.
    verified: Mutex<Recent<[u8; 32], Arc<Subject>>>,
    paces: Mutex<Recent<String, Arc<Pace>>>,
    /// Told when a token names a key that is not among those that are known.
    misses: Notify,
}

impl Jwt {
    /// As configured; `None` if no such tokens are taken. Reads a file with keys. Blocks.
    ///
    /// # Errors
    /// [`JwtError`] if the file cannot be used. What a URL has is fetched later.
    pub(crate) fn load(config: &JwtConfig) -> Result<Option<Arc<Self>>, JwtError> {
        if !config.is_on() {
            return Ok(None);
        }
        ring_provider::install();
        let source = Source::new(config).map_err(JwtError)?;
        let own = Self {
            algorithms: config.algorithms.iter().map(|it| algorithm(*it)).collect(),
            config: config.clone(),
            keys: RwLock::default(),
            verified: Mutex::new(Recent::new(TOKENS_MAX)),
            paces: Mutex::new(Recent::new(SUBJECTS_MAX)),
            misses: Notify::new(),
            source,
        };
        if let Some(text) = own.source.read_file().map_err(JwtError)? {
            own.take(&text).map_err(JwtError)?;
        }
        Ok(Some(Arc::new(own)))
    }

    /// The issuer.
    pub(crate) fn issuer(&self) -> &str {
        &self.config.issuer
    }

    /// Whether this can be a token of an issuer at all, and not one of the cluster's.
    pub(crate) fn is_one(text: &str) -> bool {
        text.bytes().filter(|byte| *byte == b'.').count() == 2
    }

    /// Whose token this is.
    ///
    /// # Errors
    /// [`Rejected`].
    pub(crate) fn verify(&self, text: &str, now: WallTime) -> Result<Arc<Subject>, Rejected> {
        if text.len() > TOKEN_BYTES_MAX {
            return Err(Rejected::TooLong);
        }
        let hash = *blake3::hash(text.as_bytes()).as_bytes();
        let known = lock(&self.verified).get(&hash); // not in the condition, which would hold the lock
        if let Some(known) = known {
            if known.is_good(now) {
                return Ok(known);
            }
            lock(&self.verified).remove(&hash);
        }
        let subject = Arc::new(self.verify_new(text, now)?);
        lock(&self.verified).insert(hash, subject.clone());
        Ok(subject)
    }

    fn verify_new(&self, text: &str, now: WallTime) -> Result<Subject, Rejected> {
        let header = decode_header(text).map_err(|_| Rejected::Malformed)?;
        check_type(&header)?;
        if !self.algorithms.contains(&header.alg) {
            return Err(Rejected::Algorithm);
        }
        let key = self.key(&header)?;
        // Of the claims nothing is checked here, but everything below: by one clock, and more strictly.
        let mut validation = Validation::new(header.alg);
        validation.required_spec_claims.clear();
        validation.validate_exp = false;
        validation.validate_aud = false;
        let decoded = decode::<Map<String, Value>>(text, &key.decoding, &validation);
        let decoded = decoded.map_err(|_| Rejected::Signature)?;
        let said = claims::check(&decoded.claims, &self.config, now)?;
        let pace = self.pace(&said.subject);
        let claims::Said { subject: name, expires, scopes } = said;
        Ok(Subject { id: self.id_of(&name), name, scopes, expires, pace, key })
    }

    /// The key that a token says it is signed with.
    fn key(&self, header: &Header) -> Result<Arc<Key>, Rejected> {
        let known = self.keys.read().unwrap_or_else(PoisonError::into_inner).clone();
        let found = match &known {
            Some(keys) => keys.find(header.kid.as_deref(), header.alg).cloned(),
            None => return Err(Rejected::NoKeysYet),
        };
        found.map_err(|why| match why {
            NoKey::Unknown => {
                self.misses.notify_one();
                Rejected::UnknownKey
            }
            NoKey::OtherAlgorithm => Rejected::OtherAlgorithm,
            NoKey::Unnamed => Rejected::UnnamedKey,
        })
    }

    /// The rate limit of a subject, whichever of its tokens it uses.
    fn pace(&self, subject: &str) -> Option<Arc<Pace>> {
        if self.config.rate_per_s == 0 {
            return None;
        }
        let mut paces = lock(&self.paces);
        if let Some(known) = paces.get(subject) {
            return Some(known);
        }
        let pace = Arc::new(Pace::new(self.config.rate_per_s));
        paces.insert(subject.to_owned(), pace.clone());
        Some(pace)
    }

    fn id_of(&self, subject: &str) -> TokenId {
        let mut hasher = blake3::Hasher::new_derive_key("quorate 2026-11 subject id");
        hasher.update(&(self.config.issuer.len() as u64).to_le_bytes());
        hasher.update(self.config.issuer.as_bytes()).update(subject.as_bytes());
        let mut bits = [0; 16];
        hasher.finalize_xof().fill(&mut bits);
        TokenId::of(u128::from_le_bytes(bits))
    }

    /// Takes a set of keys in place of the one before. Returns how many it has, and how many entries are for
    /// something else.
    ///
    /// # Errors
    /// Why it is none, in words; the one before stays.
    fn take(&self, text: &[u8]) -> Result<(usize, usize), String> {
        let new = KeySet::parse(text, &self.algorithms)?;
        let mut keys = self.keys.write().unwrap_or_else(PoisonError::into_inner);
        let new = new.replacing(keys.as_deref().unwrap_or(&KeySet::default()));
        let counts = (new.len(), new.passed_over);
        *keys = Some(Arc::new(new));
        Ok(counts)
    }

    /// How many keys there are.
    fn keys_len(&self) -> usize {
        let keys = self.keys.read().unwrap_or_else(PoisonError::into_inner);
        keys.as_ref().map_or(0, |keys| keys.len())
    }
}

/// A JWT may be made for something else, such as to log a user out: those say so in `typ` (RFC 8725). What
/// is encrypted, compressed or nested is none of ours.
fn check_type(header: &Header) -> Result<(), Rejected> {
    let typ = header.typ.as_deref().unwrap_or("JWT").to_ascii_lowercase();
    let typ = typ.strip_prefix("application/").unwrap_or(&typ);
    let is_plain = header.enc.is_none() && header.zip.is_none() && header.cty.is_none();
    match is_plain && matches!(typ, "jwt" | "at+jwt") {
        true => Ok(()),
        false => Err(Rejected::OtherType),
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests;
