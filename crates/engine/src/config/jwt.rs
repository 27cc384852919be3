//! The table `[jwt]`: tokens of an issuer, which the node verifies with the issuer's public keys.

use std::path::PathBuf;

use quorate_protocol::access::{self, Scope};
use quorate_protocol::token::RATE_PER_S_MAX;
use serde::Deserialize;

use super::checks::in_range;
use super::sections::section;
use super::{ConfigError, value};

/// The longest text that a setting or a claim may be compared with, in bytes.
const TEXT_BYTES_MAX: usize = 512;
/// The most names of an audience.
const AUDIENCE_MAX: usize = 16;
/// The most grants, and the most scopes of all of them.
const GRANTS_MAX: usize = 64;

section! {
    /// Tokens of an issuer (JWT), such as an OpenID Connect provider.
    JwtConfig {
        /// Where the issuer's keys are, a JWK set: a file, or an https URL. Empty: no such tokens are taken.
        keys: String = String::new(),
        /// The authorities of the URL's host, in PEM; those of the system if empty.
        ca: PathBuf = PathBuf::new(),
        /// How often a URL is asked for the keys, in milliseconds. A file is looked at every few seconds.
        refresh_ms: u64 = 300_000,
        /// The claim `iss` of every token.
        issuer: String = String::new(),
        /// The claim `aud` of every token has one of these.
        audience: Vec<String> = Vec::new(),
        /// How tokens may be signed.
        algorithms: Vec<JwtAlgorithm> = vec![JwtAlgorithm::RS256],
        /// How far the clocks of the issuer and this node may differ, in milliseconds.
        leeway_ms: u64 = 30_000,
        /// The claim with scopes, as a list or as a text that holds one. Empty for none.
        scopes_claim: String = String::new(),
        /// How many requests a second the node takes from each subject; 0 for no limit.
        rate_per_s: u32 = 0,
        /// What values of claims allow.
        grants: Vec<Grant> = Vec::new(),
    }
}

/// Gives scopes to those whose token has a value in a claim.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Grant {
    /// The claim: its name, or a JSON pointer to it, such as `/realm_access/roles`.
    pub claim: String,
    /// The value that it must be, or contain if it is a list.
    pub value: String,
    /// What that allows.
    pub scopes: Vec<Scope>,
}

/// A way to sign tokens of which the node needs only a public key. There is no other.
#[allow(missing_docs, reason = "they are the names of RFC 7518 and RFC 8037")]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
pub enum JwtAlgorithm {
    RS256,
    RS384,
    RS512,
    PS256,
    PS384,
    PS512,
    ES256,
    ES384,
    EdDSA,
}

impl JwtConfig {
    /// Whether such tokens are taken at all.
    pub fn is_on(&self) -> bool {
        !self.keys.is_empty()
    }

    /// Whether the keys are at a URL.
    pub fn is_at_url(&self) -> bool {
        self.keys.contains("://")
    }

    /// Whether all values are valid, alone and with the others. Whether a URL is one is for the host to say.
    ///
    /// # Errors
    /// [`ConfigError`] that names the key.
    pub(super) fn check(&self) -> Result<(), ConfigError> {
        in_range("jwt.refresh_ms", self.refresh_ms, 10_000..=86_400_000)?;
        in_range("jwt.leeway_ms", self.leeway_ms, 0..=300_000)?;
        in_range("jwt.rate_per_s", self.rate_per_s, 0..=RATE_PER_S_MAX)?;
        self.check_grants()?;
        let is_text = |text: &String| text.len() <= TEXT_BYTES_MAX && !text.contains('\0');
        let text = "up to 512 bytes";
        for (key, found) in [("jwt.issuer", &self.issuer), ("jwt.scopes_claim", &self.scopes_claim)]
        {
            if !is_text(found) {
                return Err(value(key, text, format!("{found:?}")));
            }
        }
        let fits = |name: &String| is_text(name) && !name.is_empty();
        if self.audience.len() > AUDIENCE_MAX || !self.audience.iter().all(fits) {
            let allowed = "1 to 16 names, each of 1 to 512 bytes";
            return Err(value("jwt.audience", allowed, format!("{:?}", self.audience)));
        }
        if !self.is_on() {
            return Ok(());
        }
        let missing = |key, reason| Err(ConfigError::Origin { key, reason });
        if self.issuer.is_empty() {
            return missing("jwt.issuer", "it is missing: every token must be of one issuer");
        }
        if self.audience.is_empty() {
            return missing("jwt.audience", "it is missing: tokens for others must not work here");
        }
        if self.algorithms.is_empty() {
            return missing("jwt.algorithms", "it is empty: name those that the issuer uses");
        }
        if self.scopes_claim.is_empty() && self.grants.is_empty() {
            let reason = "nothing says what a token allows: set jwt.scopes_claim or jwt.grants";
            return missing("jwt.keys", reason);
        }
        Ok(())
    }

    fn check_grants(&self) -> Result<(), ConfigError> {
        let wrong = |found: String| {
            let allowed = "up to 64, each with a claim, a value and scopes (up to 64 in all)";
            Err(value("jwt.grants", allowed, found))
        };
        let scopes: usize = self.grants.iter().map(|grant| grant.scopes.len()).sum();
        if self.grants.len() > GRANTS_MAX || scopes > GRANTS_MAX {
            return wrong(format!("{} with {scopes} scopes", self.grants.len()));
        }
        for Grant { claim, value, scopes } in &self.grants {
            let fits = |text: &str| (1..=TEXT_BYTES_MAX).contains(&text.len());
            if !fits(claim) || !fits(value) || scopes.is_empty() {
                return wrong(format!("{claim:?} = {value:?} with {} scopes", scopes.len()));
            }
            if let Err(error) = access::check(scopes) {
                return wrong(format!("{claim:?} = {value:?}: {error}"));
            }
        }
        Ok(())
    }
}
