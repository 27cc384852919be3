//! Causal contexts as clients carry them: opaque, versioned, authenticated.
//!
//! A context says what a client saw of one key. It is authenticated together with the cluster id
//! and the key, so that a context cannot be forged, truncated, or moved to another key or cluster:
//! an invented clock would make replicas drop siblings that no client has read. It names the key
//! that signed it; nodes verify with every configured key and sign with the first, so keys can be
//! rotated without invalidating contexts.
//!
//! Format: base64url of `version 1 | key id 4 | MAC 16 | postcard(clock, stamp)`.

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use bytes::{BufMut, BytesMut};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use crate::append::append;
use crate::clock::{CLOCK_ENTRIES_MAX, Clock};
use crate::name::Key;
use crate::stamp::Stamp;

/// The longest context accepted, in characters.
pub const CONTEXT_CHARS_MAX: usize = 32 * 1024;

const VERSION: u8 = 1;
const MAC_BYTES: usize = 16;
const HEAD_BYTES: usize = 1 + 4 + MAC_BYTES;
/// The usual size of a token before base64.
const BYTES_ABOUT: usize = 96;

/// What a client saw of one key.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Context {
    /// All writes it saw, or that were superseded by what it saw.
    pub clock: Clock,
    /// The greatest stamp among them.
    pub stamp: Stamp,
}

/// Why a context was rejected. Nothing was changed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ContextError {
    /// Not base64url, truncated or too long.
    #[error("the context is damaged or truncated; send it back exactly as it was given")]
    Damaged,
    /// Made by a release with a different format.
    #[error("the context has version {0}, this release knows 1; read the key again")]
    Version(u8),
    /// Signed by a key that is not configured here: another cluster's, or a retired one.
    #[error("the context was signed by another cluster or a retired key; read the key again")]
    UnknownSigner,
    /// The signature does not match: forged, or issued for another key.
    #[error("the context is forged or belongs to another key; use the one that this key gave")]
    Forged,
}

/// The keys that sign and verify contexts, derived from the cluster's keys.
#[derive(Clone)]
pub struct ContextKeys {
    cluster_id: String,
    /// The first signs, all verify. Never empty.
    signers: Vec<Signer>,
}

#[derive(Clone)]
struct Signer {
    id: [u8; 4],
    mac_key: [u8; 32],
}

impl ContextKeys {
    /// Derives the signing keys from the cluster's secret keys (the first signs).
    ///
    /// # Panics
    /// If `secrets` is empty: the configuration was checked before.
    pub fn new(cluster_id: &str, secrets: &[[u8; 32]]) -> Self {
        assert!(!secrets.is_empty(), "a cluster has at least one key");
        let signer = |secret: &[u8; 32]| {
            let mac_key = blake3::derive_key("quorate 2026-11 client context", secret);
            let id = blake3::derive_key("quorate 2026-11 client context key id", secret);
            Signer { id: [id[0], id[1], id[2], id[3]], mac_key }
        };
        Self { cluster_id: cluster_id.to_owned(), signers: secrets.iter().map(signer).collect() }
    }

    /// The context that a client gets for what it saw of `key`.
    pub fn sign(&self, key: &Key, seen: &Context) -> String {
        self.seal(key.as_bytes(), seen)
    }

    /// A token that says something about a subject, and is good for no other.
    pub(crate) fn seal<T: Serialize>(&self, subject: &[u8], said: &T) -> String {
        let signer = &self.signers[0];
        let mut token = BytesMut::with_capacity(BYTES_ABOUT);
        token.put_u8(VERSION);
        token.put_slice(&signer.id);
        token.put_bytes(0, MAC_BYTES);
        append(said, &mut token);
        let (head, body) = token.split_at_mut(HEAD_BYTES);
        head[5..].copy_from_slice(&self.mac(signer, subject, body).as_bytes()[..MAC_BYTES]);
        URL_SAFE_NO_PAD.encode(token)
    }

    /// Verifies a context that a client sent for `key`.
    ///
    /// # Errors
    /// [`ContextError`] that says what is wrong with it.
    pub fn verify(&self, key: &Key, text: &str) -> Result<Context, ContextError> {
        if text.len() > CONTEXT_CHARS_MAX {
            return Err(ContextError::Damaged);
        }
        let seen: Context = self.open(key.as_bytes(), text)?;
        let sound = seen.clock.is_well_formed() && seen.clock.len() <= 2 * CLOCK_ENTRIES_MAX;
        if sound { Ok(seen) } else { Err(ContextError::Damaged) }
    }

    /// Verifies a token of [`ContextKeys::seal`].
    pub(crate) fn open<T: DeserializeOwned>(
        &self,
        subject: &[u8],
        text: &str,
    ) -> Result<T, ContextError> {
        let token = URL_SAFE_NO_PAD.decode(text).map_err(|_| ContextError::Damaged)?;
        let (head, body) = token.split_at_checked(HEAD_BYTES).ok_or(ContextError::Damaged)?;
        if head[0] != VERSION {
            return Err(ContextError::Version(head[0]));
        }
        let signer = self.signers.iter().find(|signer| signer.id == head[1..5]);
        let mac = self.mac(signer.ok_or(ContextError::UnknownSigner)?, subject, body);
        if !equal_in_constant_time(&mac.as_bytes()[..MAC_BYTES], &head[5..]) {
            return Err(ContextError::Forged);
        }
        postcard::from_bytes(body).map_err(|_| ContextError::Damaged)
    }

    fn mac(&self, signer: &Signer, subject: &[u8], body: &[u8]) -> blake3::Hash {
        let mut hasher = blake3::Hasher::new_keyed(&signer.mac_key);
        for part in [self.cluster_id.as_bytes(), subject] {
            hasher.update(&(part.len() as u32).to_le_bytes());
            hasher.update(part);
        }
        hasher.update(body);
        hasher.finalize()
    }
}

/// Whether two secrets are equal, in a time that does not depend on where they differ.
pub fn equal_in_constant_time(a: &[u8], b: &[u8]) -> bool {
    a.len() == b.len() && a.iter().zip(b).fold(0, |diff, (x, y)| diff | (x ^ y)) == 0
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use crate::clock::{Actor, Dot};
    use crate::time::WallTime;

    fn key(name: &str) -> Key {
        Key::new("carts", name.as_bytes()).unwrap()
    }

    fn seen() -> Context {
        let mut clock = Clock::default();
        clock.advance(Dot { actor: Actor(0xfeed_beef), counter: 4 });
        Context { clock, stamp: Stamp::at(WallTime(1_000)) }
    }

    #[test]
    fn a_context_round_trips() {
        let keys = ContextKeys::new("test", &[[7; 32]]);
        let text = keys.sign(&key("a"), &seen());
        assert_eq!(keys.verify(&key("a"), &text), Ok(seen()));
    }

    #[test]
    fn any_changed_or_missing_character_is_refused() {
        let keys = ContextKeys::new("test", &[[7; 32]]);
        let text = keys.sign(&key("a"), &seen());
        for cut in 0..text.len() {
            assert!(keys.verify(&key("a"), &text[..cut]).is_err(), "cut at {cut}");
            let mut changed = text.clone().into_bytes();
            changed[cut] = if changed[cut] == b'A' { b'B' } else { b'A' };
            let changed = String::from_utf8(changed).unwrap();
            assert!(keys.verify(&key("a"), &changed).is_err(), "changed at {cut}");
        }
        assert_eq!(keys.verify(&key("a"), "not base64!"), Err(ContextError::Damaged));
    }

    #[test]
    fn a_context_is_good_for_its_own_key_and_cluster_only() {
        let keys = ContextKeys::new("test", &[[7; 32]]);
        let text = keys.sign(&key("a"), &seen());
        assert_eq!(keys.verify(&key("b"), &text), Err(ContextError::Forged));
        let other_id = ContextKeys::new("prod", &[[7; 32]]);
        assert_eq!(other_id.verify(&key("a"), &text), Err(ContextError::Forged));
        let other_secret = ContextKeys::new("test", &[[8; 32]]);
        assert_eq!(other_secret.verify(&key("a"), &text), Err(ContextError::UnknownSigner));
        let mut newer = URL_SAFE_NO_PAD.decode(&text).unwrap();
        newer[0] = 2;
        let newer = URL_SAFE_NO_PAD.encode(newer);
        assert_eq!(keys.verify(&key("a"), &newer), Err(ContextError::Version(2)));
    }

    #[test]
    fn a_rotation_breaks_nothing() {
        let old = ContextKeys::new("test", &[[7; 32]]);
        let both = ContextKeys::new("test", &[[8; 32], [7; 32]]);
        assert_eq!(both.verify(&key("a"), &old.sign(&key("a"), &seen())), Ok(seen()));
        let fresh = both.sign(&key("a"), &seen());
        assert_eq!(ContextKeys::new("test", &[[8; 32]]).verify(&key("a"), &fresh), Ok(seen()));
    }
}
