//! Tokens of an issuer, and its keys, of any bytes: `crate::fuzzed` says who calls this.

use std::sync::LazyLock;

use jsonwebtoken::{Algorithm, decode_header};
use quorate_engine::config::{Grant, JwtConfig};
use quorate_protocol::access;
use quorate_protocol::time::WallTime;
use serde_json::{Map, Value, json};

use super::keys::KeySet;
use super::{check_type, claims, ring_provider};

const NOW: WallTime = WallTime(1_800_000_000_000);
const ALGORITHMS: [Algorithm; 4] =
    [Algorithm::RS256, Algorithm::PS512, Algorithm::ES256, Algorithm::EdDSA];

static CONFIG: LazyLock<JwtConfig> = LazyLock::new(|| {
    ring_provider::install();
    let scopes = json!([{"actions": ["read"], "buckets": ["b"]}]);
    JwtConfig {
        issuer: "i".to_owned(),
        audience: vec!["a".to_owned()],
        scopes_claim: "/r/s".to_owned(),
        grants: vec![Grant {
            claim: "scope".to_owned(),
            value: "w".to_owned(),
            scopes: serde_json::from_value(scopes).unwrap_or_default(),
        }],
        leeway_ms: 1_000,
        ..JwtConfig::default()
    }
});

/// A set of keys, the claims of a token as they are once its signature is verified, and a whole token.
///
/// # Panics
/// If claims give more than they say, or a key is found for an algorithm that is not configured.
pub fn issuers(bytes: &[u8]) {
    let config = &*CONFIG;
    if let Ok(keys) = KeySet::parse(bytes, &ALGORITHMS) {
        assert!(keys.find(None, Algorithm::HS256).is_err(), "no such algorithm is configured");
        let again = KeySet::parse(bytes, &ALGORITHMS).map(|again| again.replacing(&keys).len());
        assert_eq!(again, Ok(keys.len()));
    }
    if let Ok(claims) = serde_json::from_slice::<Map<String, Value>>(bytes)
        && let Ok(said) = claims::check(&claims, config, NOW)
    {
        assert!(said.expires > NOW && !said.subject.is_empty());
        assert_eq!(access::check(&said.scopes), Ok(()));
    }
    if let Ok(text) = std::str::from_utf8(bytes)
        && let Ok(header) = decode_header(text)
    {
        let _ = check_type(&header);
    }
}
