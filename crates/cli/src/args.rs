//! Arguments that many commands have.

use std::path::PathBuf;
use std::str::FromStr;

/// The longest bucket name, in bytes.
const BUCKET_BYTES_MAX: usize = 128;
/// The longest key, in bytes.
pub(crate) const KEY_BYTES_MAX: usize = 1024;

/// Which cluster to ask, and how to print.
#[derive(Clone, Debug, Default, clap::Args)]
pub(crate) struct Common {
    /// Nodes to ask, separated by commas; the next one is asked if one does not answer
    /// [env: QUORATE_URL] [default: http://127.0.0.1:7401]
    #[arg(long, global = true, value_name = "URL", help_heading = "Connection and output")]
    pub(crate) url: Option<String>,
    /// For https://: a file with the authorities to believe, in PEM, instead of the system's
    /// [env: QUORATE_CA]
    #[arg(long, global = true, value_name = "FILE", help_heading = "Connection and output")]
    pub(crate) ca: Option<PathBuf>,
    /// For https://: a certificate to show, in PEM, for nodes that ask for one [env: QUORATE_CERT]
    #[arg(long, global = true, value_name = "FILE", help_heading = "Connection and output")]
    pub(crate) cert: Option<PathBuf>,
    /// The private key of --cert, in PEM [env: QUORATE_KEY]
    #[arg(long, global = true, value_name = "FILE", help_heading = "Connection and output")]
    pub(crate) key: Option<PathBuf>,
    /// Print JSON for programs; errors are JSON too, on standard error
    #[arg(long, global = true, help_heading = "Connection and output")]
    pub(crate) json: bool,
    /// The token that says who you are; better in the environment, where others do not see it
    /// [env: QUORATE_TOKEN]
    #[arg(long, global = true, value_name = "TOKEN", help_heading = "Connection and output")]
    pub(crate) token: Option<Secret>,
    /// Ask as the operator: a node's configuration, with whose cluster key the command signs. Its node is
    /// asked unless --url says otherwise
    #[arg(long, global = true, value_name = "FILE", help_heading = "Connection and output")]
    pub(crate) operator: Option<PathBuf>,
    /// How long one request may take, in milliseconds [default: 10000]
    #[arg(long, global = true, value_name = "MS", help_heading = "Connection and output",
          value_parser = clap::value_parser!(u64).range(1..=3_600_000))]
    pub(crate) timeout_ms: Option<u64>,
}

/// A secret, which debug output does not show.
#[derive(Clone, PartialEq, Eq)]
pub(crate) struct Secret(pub(crate) String);

impl FromStr for Secret {
    type Err = std::convert::Infallible;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        Ok(Self(text.to_owned()))
    }
}

impl std::fmt::Debug for Secret {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("a secret")
    }
}

/// `BUCKET/KEY`. The key is all that follows the first slash.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Name {
    pub(crate) bucket: String,
    pub(crate) key: String,
}

impl FromStr for Name {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let (bucket, key) =
            text.split_once('/').ok_or("expected BUCKET/KEY, such as carts/alice")?;
        check_key(key)?;
        Ok(Self { bucket: bucket_name(bucket)?, key: key.to_owned() })
    }
}

impl std::fmt::Display for Name {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}/{}", self.bucket, crate::out::safe(&self.key))
    }
}

/// A bucket's name, checked.
pub(crate) fn bucket_name(text: &str) -> Result<String, String> {
    let fits = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'_' | b'-');
    if (1..=BUCKET_BYTES_MAX).contains(&text.len())
        && text.bytes().all(fits)
        && !matches!(text, "." | "..")
    {
        return Ok(text.to_owned());
    }
    Err(format!(
        "the bucket {:?} is not 1 to {BUCKET_BYTES_MAX} characters of A-Z a-z 0-9 . _ - (and not . or ..)",
        crate::out::short(text, 40)
    ))
}

/// Checks a key.
pub(crate) fn check_key(key: &str) -> Result<(), String> {
    match key {
        "" => Err("the key is empty: expected BUCKET/KEY, such as carts/alice".to_owned()),
        "." | ".." => Err("the keys \".\" and \"..\" cannot be written in a URL".to_owned()),
        _ if key.len() > KEY_BYTES_MAX => {
            Err(format!("the key has {} bytes; at most {KEY_BYTES_MAX} are allowed", key.len()))
        }
        _ if key.contains('\0') => Err("the key holds a NUL byte".to_owned()),
        _ => Ok(()),
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn a_key_is_all_that_follows_the_bucket() {
        let name: Name = "carts/a b/../ü%".parse().unwrap();
        assert_eq!((name.bucket.as_str(), name.key.as_str()), ("carts", "a b/../ü%"));
    }

    #[test]
    fn a_token_does_not_show() {
        let token: Secret = "sesame".parse().unwrap();
        assert!(token.0 == "sesame" && !format!("{token:?}").contains("sesame"));
    }

    #[test]
    fn bad_names_are_refused_before_anything_is_sent() {
        let long = format!("b/{}", "k".repeat(1025));
        for bad in ["", "carts", "carts/", "/k", "a b/k", "b/..", "b/.", "b/a\0", "../k", &long] {
            assert!(bad.parse::<Name>().is_err(), "{bad}");
        }
    }
}
