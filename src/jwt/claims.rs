//! What a token says, once its signature is verified: for whom it is, from when to when, and what it allows.

use quorate_engine::config::{Grant, JwtConfig};
use quorate_protocol::access::{self, Scope};
use quorate_protocol::time::WallTime;
use serde::Deserialize as _;
use serde_json::{Map, Value};

use super::rejected::Rejected;

/// The longest name of a subject, in bytes.
const SUBJECT_BYTES_MAX: usize = 256;
/// The latest time that is counted with, in seconds since 1970: any later one is as good.
const SECONDS_MAX: f64 = 1e11;

/// What follows from the claims.
#[derive(Debug, PartialEq)]
pub(super) struct Said {
    /// `sub`.
    pub(super) subject: String,
    /// `exp` with the leeway.
    pub(super) expires: WallTime,
    /// What they may do.
    pub(super) scopes: Vec<Scope>,
}

/// Checks the claims of a token.
///
/// # Errors
/// [`Rejected`].
pub(super) fn check(
    claims: &Map<String, Value>,
    config: &JwtConfig,
    now: WallTime,
) -> Result<Said, Rejected> {
    if claims.get("iss").and_then(Value::as_str) != Some(&config.issuer) {
        return Err(Rejected::Issuer);
    }
    if !is_for_us(claims.get("aud"), &config.audience) {
        return Err(Rejected::Audience);
    }
    let expires = time(claims.get("exp")).ok_or(Rejected::Claim("exp"))?.plus(config.leeway_ms);
    if expires <= now {
        return Err(Rejected::Expired);
    }
    if let Some(begins) = claims.get("nbf") {
        let begins = time(Some(begins)).ok_or(Rejected::Claim("nbf"))?;
        if begins > now.plus(config.leeway_ms) {
            return Err(Rejected::NotYet);
        }
    }
    let subject = claims.get("sub").and_then(Value::as_str).ok_or(Rejected::Claim("sub"))?;
    let fits = (1..=SUBJECT_BYTES_MAX).contains(&subject.len());
    if !fits || subject.chars().any(char::is_control) {
        return Err(Rejected::Claim("sub"));
    }
    Ok(Said { subject: subject.to_owned(), expires, scopes: scopes(claims, config)? })
}

/// Whether `aud`, a text or a list of them, names one of ours.
fn is_for_us(aud: Option<&Value>, ours: &[String]) -> bool {
    let is_ours = |name: &Value| name.as_str().is_some_and(|name| ours.iter().any(|it| it == name));
    match aud {
        Some(Value::Array(names)) => names.iter().any(is_ours),
        Some(name) => is_ours(name),
        None => false,
    }
}

/// A `NumericDate`: seconds since 1970, perhaps with a fraction.
fn time(claim: Option<&Value>) -> Option<WallTime> {
    let seconds = claim?.as_f64().filter(|it| it.is_finite() && *it >= 0.0)?;
    Some(WallTime((seconds.min(SECONDS_MAX) * 1000.0) as u64))
}

/// What the claims allow: the scopes in one of them, and those of the grants that fit.
fn scopes(claims: &Map<String, Value>, config: &JwtConfig) -> Result<Vec<Scope>, Rejected> {
    let mut scopes = match named(claims, &config.scopes_claim) {
        Some(found) => scopes_in(found)?,
        None => Vec::new(),
    };
    for Grant { claim, value, scopes: given } in &config.grants {
        if named(claims, claim).is_some_and(|found| has(found, value, claim == "scope")) {
            scopes.extend(given.iter().cloned());
        }
    }
    Ok(scopes)
}

/// A claim by its name or a JSON pointer.
fn named<'a>(claims: &'a Map<String, Value>, name: &str) -> Option<&'a Value> {
    let Some(path) = name.strip_prefix('/') else { return claims.get(name) };
    let unescape = |part: &str| part.replace("~1", "/").replace("~0", "~");
    let mut parts = path.split('/').map(unescape);
    let first = claims.get(&parts.next()?)?;
    parts.try_fold(first, |at, part| at.as_object()?.get(&part))
}

/// Scopes as a list, or as a text that holds one.
fn scopes_in(found: &Value) -> Result<Vec<Scope>, Rejected> {
    let parsed = match found {
        Value::String(text) => serde_json::from_str::<Vec<Scope>>(text),
        Value::Null => return Ok(Vec::new()),
        Value::Array(_) | Value::Bool(_) | Value::Number(_) | Value::Object(_) => {
            Vec::<Scope>::deserialize(found)
        }
    };
    let scopes = parsed.map_err(|_| Rejected::Scopes)?;
    access::check(&scopes).map_err(|_| Rejected::Scopes)?;
    Ok(scopes)
}

/// Whether a claim is a value, or a list that has it. The claim `scope` is a list in one text (RFC 8693).
fn has(found: &Value, value: &str, is_scope: bool) -> bool {
    match found {
        Value::String(text) if is_scope => text.split(' ').any(|word| word == value),
        Value::String(text) => text == value,
        Value::Array(items) => items.iter().any(|item| item.as_str() == Some(value)),
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::Object(_) => false,
    }
}
