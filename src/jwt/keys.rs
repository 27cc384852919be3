//! The issuer's public keys: a JWK set (RFC 7517), read within bounds.
//!
//! Each key is for the algorithms of its own kind alone, and of these for those that are configured: which
//! one a token names only chooses among them. Keys that are for something else are passed over.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use jsonwebtoken::{Algorithm, DecodingKey};
use quorate_engine::config::JwtAlgorithm;
use serde::Deserialize;
use serde_json::Value;

/// The longest set, in bytes.
pub(super) const SET_BYTES_MAX: usize = 256 << 10;
/// The most keys of a set.
const KEYS_MAX: usize = 64;
/// The longest name of a key, in bytes.
const KID_BYTES_MAX: usize = 256;
/// The shortest and the longest modulus of RSA, in bytes: 2048 to 8192 bits.
const MODULUS_BYTES: std::ops::RangeInclusive<usize> = 256..=1024;
/// The longest exponent of RSA, in bytes.
const EXPONENT_BYTES_MAX: usize = 4;

/// One key.
pub(super) struct Key {
    kid: Option<String>,
    algorithms: Vec<Algorithm>,
    /// What tells it from others: its kind and its numbers.
    numbers: Vec<u8>,
    pub(super) decoding: DecodingKey,
    /// Whether a newer set is without it: what it has signed is not accepted any more.
    retired: AtomicBool,
}

impl Key {
    /// Whether a newer set is without it.
    pub(super) fn is_retired(&self) -> bool {
        self.retired.load(Relaxed)
    }

    fn is_same(&self, other: &Self) -> bool {
        self.kid == other.kid
            && self.algorithms == other.algorithms
            && self.numbers == other.numbers
    }
}

/// The keys of an issuer.
#[derive(Default)]
pub(super) struct KeySet {
    keys: Vec<Arc<Key>>,
    /// How many entries of the set are for nothing that is configured.
    pub(super) passed_over: usize,
}

/// Why there is no key for a token.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum NoKey {
    /// The set has none of this name.
    Unknown,
    /// The set has one of this name, for other algorithms.
    OtherAlgorithm,
    /// The token names none, and there is more than one that it could be.
    Unnamed,
}

impl KeySet {
    /// Reads a set.
    ///
    /// # Errors
    /// Why it is none, in words. An entry that is for something else is no error.
    pub(super) fn parse(text: &[u8], allowed: &[Algorithm]) -> Result<Self, String> {
        if text.len() > SET_BYTES_MAX {
            return Err(format!("it is longer than {SET_BYTES_MAX} bytes"));
        }
        let set: Set = serde_json::from_slice(text)
            .map_err(|error| format!("it is no JWK set (an object with a list `keys`): {error}"))?;
        if set.keys.len() > KEYS_MAX {
            return Err(format!("it has more than {KEYS_MAX} keys"));
        }
        let (mut keys, mut passed_over) = (Vec::<Arc<Key>>::new(), 0);
        for entry in set.keys {
            let entry = serde_json::from_value::<Entry>(entry).ok();
            let Some(key) = entry.and_then(|entry| entry.key(allowed)) else {
                passed_over += 1;
                continue;
            };
            let is_double = |known: &Arc<Key>| {
                known.kid == key.kid
                    && known.algorithms.iter().any(|it| key.algorithms.contains(it))
            };
            if key.kid.is_some() && keys.iter().any(is_double) {
                return Err(
                    "two of its keys have one kid: tokens do not say which is theirs".to_owned()
                );
            }
            keys.push(Arc::new(key));
        }
        Ok(Self { keys, passed_over })
    }

    /// Takes the place of another set: keys that were in it are the same ones, those that are gone are
    /// retired.
    pub(super) fn replacing(mut self, before: &Self) -> Self {
        for key in &mut self.keys {
            if let Some(known) = before.keys.iter().find(|known| known.is_same(key)) {
                *key = known.clone();
            }
        }
        for known in &before.keys {
            let stays = self.keys.iter().any(|key| Arc::ptr_eq(key, known));
            known.retired.store(!stays, Relaxed);
        }
        self
    }

    /// How many there are.
    pub(super) fn len(&self) -> usize {
        self.keys.len()
    }

    /// The key of a token with this header.
    ///
    /// # Errors
    /// [`NoKey`].
    pub(super) fn find(&self, kid: Option<&str>, alg: Algorithm) -> Result<&Arc<Key>, NoKey> {
        let fits = |key: &&Arc<Key>| key.algorithms.contains(&alg);
        match kid {
            Some(_) => {
                let mut named = self.keys.iter().filter(|key| key.kid.as_deref() == kid).peekable();
                let is_known = named.peek().is_some();
                let other = if is_known { NoKey::OtherAlgorithm } else { NoKey::Unknown };
                named.find(fits).ok_or(other)
            }
            None => {
                let mut fitting = self.keys.iter().filter(fits);
                match (fitting.next(), fitting.next()) {
                    (Some(only), None) => Ok(only),
                    (Some(_), Some(_)) => Err(NoKey::Unnamed),
                    (None, _) => Err(NoKey::Unknown),
                }
            }
        }
    }
}

/// The algorithm with this name.
pub(super) fn algorithm(configured: JwtAlgorithm) -> Algorithm {
    match configured {
        JwtAlgorithm::RS256 => Algorithm::RS256,
        JwtAlgorithm::RS384 => Algorithm::RS384,
        JwtAlgorithm::RS512 => Algorithm::RS512,
        JwtAlgorithm::PS256 => Algorithm::PS256,
        JwtAlgorithm::PS384 => Algorithm::PS384,
        JwtAlgorithm::PS512 => Algorithm::PS512,
        JwtAlgorithm::ES256 => Algorithm::ES256,
        JwtAlgorithm::ES384 => Algorithm::ES384,
        JwtAlgorithm::EdDSA => Algorithm::EdDSA,
    }
}

/// As it is sent. Each entry is read for itself: sets have kinds of keys that are not known here.
#[derive(Deserialize)]
struct Set {
    keys: Vec<Value>,
}

#[derive(Deserialize)]
struct Entry {
    kty: String,
    kid: Option<String>,
    #[serde(rename = "use")]
    used_for: Option<String>,
    key_ops: Option<Vec<String>>,
    alg: Option<String>,
    crv: Option<String>,
    n: Option<String>,
    e: Option<String>,
    x: Option<String>,
    y: Option<String>,
}

impl Entry {
    /// The key; `None` if it verifies nothing that is allowed here.
    fn key(self, allowed: &[Algorithm]) -> Option<Key> {
        let is_for_signatures = self.used_for.as_deref().is_none_or(|it| it == "sig")
            && self.key_ops.as_ref().is_none_or(|ops| ops.iter().any(|it| it == "verify"));
        let has_name = self.kid.as_ref().is_none_or(|kid| kid.len() <= KID_BYTES_MAX);
        if !is_for_signatures || !has_name {
            return None;
        }
        let (of_kind, decoding, numbers) = self.numbers()?;
        let is_named = |it: &Algorithm| {
            self.alg.as_ref().is_none_or(|alg| alg.parse::<Algorithm>().is_ok_and(|alg| alg == *it))
        };
        let is_allowed = |it: &Algorithm| of_kind.contains(it) && is_named(it);
        let algorithms: Vec<Algorithm> = allowed.iter().copied().filter(is_allowed).collect();
        let retired = AtomicBool::new(false);
        let Self { kid, .. } = self;
        (!algorithms.is_empty()).then_some(Key { kid, algorithms, numbers, decoding, retired })
    }

    /// The algorithms of its kind, and its numbers.
    fn numbers(&self) -> Option<(&'static [Algorithm], DecodingKey, Vec<u8>)> {
        const OF_RSA: [Algorithm; 6] = [
            Algorithm::RS256,
            Algorithm::RS384,
            Algorithm::RS512,
            Algorithm::PS256,
            Algorithm::PS384,
            Algorithm::PS512,
        ];
        match (self.kty.as_str(), self.crv.as_deref()) {
            ("RSA", _) => {
                let (n, e) = (number(self.n.as_deref()?)?, number(self.e.as_deref()?)?);
                let fits = MODULUS_BYTES.contains(&n.len()) && e.len() <= EXPONENT_BYTES_MAX;
                let key = DecodingKey::from_rsa_raw_components(&n, &e);
                fits.then(|| (&OF_RSA[..], key, [n, e].concat()))
            }
            ("EC", Some("P-256")) => {
                let point = self.point(32)?;
                Some((&[Algorithm::ES256], DecodingKey::from_ec_der(&point), point))
            }
            ("EC", Some("P-384")) => {
                let point = self.point(48)?;
                Some((&[Algorithm::ES384], DecodingKey::from_ec_der(&point), point))
            }
            ("OKP", Some("Ed25519")) => {
                let x = bytes(self.x.as_deref()?)?;
                (x.len() == 32).then(|| {
                    let algorithms: &[Algorithm] = &[Algorithm::EdDSA];
                    (algorithms, DecodingKey::from_ed_der(&x), x)
                })
            }
            _ => None, // symmetric keys are among them
        }
    }

    /// An uncompressed point.
    fn point(&self, length: usize) -> Option<Vec<u8>> {
        let (x, y) = (bytes(self.x.as_deref()?)?, bytes(self.y.as_deref()?)?);
        (x.len() == length && y.len() == length).then(|| [&[4][..], &x, &y].concat())
    }
}

fn bytes(text: &str) -> Option<Vec<u8>> {
    URL_SAFE_NO_PAD.decode(text).ok()
}

/// A number without leading zeros, which some issuers send.
fn number(text: &str) -> Option<Vec<u8>> {
    let bytes = bytes(text)?;
    let zeros = bytes.iter().take_while(|byte| **byte == 0).count();
    (zeros < bytes.len()).then(|| bytes[zeros..].to_vec())
}
